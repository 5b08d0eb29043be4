//! Puts a changed manifest, card and known answers in the place of a bundle: at every moment the old or the new bundle lies there, whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mmlnb_models::bundle::{Bundle, FileEntry, Manifest};
use mmlnb_models::exchange;
use mmlnb_models::hash::sha256_hex;

use crate::failpoint;

/// Writes the new bundle beside the old one, unchanged files as links to the same content, and exchanges the two folders. Returns the new `bundle_sha256`.
///
/// `changed` are the new or changed files by their paths in the bundle; files below `dropped` that are not among them go.
///
/// # Errors
/// I/O; the old bundle is then still in its place.
pub fn replace(bundle: &Bundle, mut manifest: Manifest, changed: &[(String, Vec<u8>)], dropped: &str) -> io::Result<String> {
    let part = beside(&bundle.dir, "qualified")?;
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(&part)?;
    manifest.files.retain(|name, _| !name.starts_with(dropped) && !changed.iter().any(|(other, _)| other == name));
    for name in manifest.files.keys() {
        link(&bundle.path(name), &place(&part, name)?)?;
    }
    for (name, bytes) in changed {
        let mut file = File::create(place(&part, name)?)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        manifest.files.insert(name.clone(), FileEntry { size: bytes.len() as u64, sha256: sha256_hex(bytes) });
    }
    failpoint::pass("qualify.linked")?;
    let sha256 = manifest.write(&part).map_err(io::Error::other)?;
    failpoint::pass("qualify.exchange")?;
    exchange::put_in_place(&part, &fs::canonicalize(&bundle.dir)?)?;
    failpoint::pass("qualify.exchanged")?;
    fs::remove_dir_all(&part)?;
    Ok(sha256)
}

/// `.NAME.SUFFIX` in the folder that holds the bundle, wherever a link to it lies.
pub fn beside(dir: &Path, suffix: &str) -> io::Result<PathBuf> {
    exchange::beside(&fs::canonicalize(dir)?, suffix)
}

/// The path of a file with the folders above it made.
fn place(part: &Path, name: &str) -> io::Result<PathBuf> {
    let path = part.join(name);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    Ok(path)
}

/// A second name for a file's content; a copy where the file system has no such thing.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmlnb_models::bundle::{Classifier, FORMAT, Graph, Precision, Provenance, list_files};

    fn bundle(dir: &Path) -> Bundle {
        fs::create_dir_all(dir.join("known_answers")).unwrap();
        for (name, bytes) in [("prmf.onnx", "graph"), ("MODEL_CARD.md", "old card"), ("known_answers/qualified-1.png", "one")] {
            fs::write(dir.join(name), bytes).unwrap();
        }
        let graph = Graph { file: "prmf.onnx".into(), inputs: vec![], outputs: vec![], parameters: 1 };
        let classes = ["A", "B"].map(String::from).to_vec();
        let classifier =
            Classifier { classes, image_size: None, max_length: None, image: None, text: None, prmf: graph, calibration: None };
        let manifest = Manifest {
            format: FORMAT,
            producer: "test".into(),
            precision: Precision::F32,
            portable: false,
            describer: None,
            classifier: Some(classifier),
            provenance: Provenance::default(),
            known_answers: vec![],
            qualification: None,
            files: list_files(dir).unwrap(),
        };
        manifest.write(dir).unwrap();
        Bundle::open(dir).unwrap()
    }

    #[test]
    fn the_new_bundle_is_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("bundle");
        let old = bundle(&dir);
        let mut manifest = old.manifest.clone();
        manifest.qualification = Some(serde_json::json!({"items": 3}));
        let changed =
            [("MODEL_CARD.md".to_owned(), b"new card".to_vec()), ("known_answers/qualified-2.png".to_owned(), b"two".to_vec())];
        let sha256 = replace(&old, manifest, &changed, "known_answers/qualified-").unwrap();
        let new = Bundle::open(&dir).unwrap();
        assert_eq!(new.sha256, sha256);
        assert_eq!(fs::read_to_string(dir.join("MODEL_CARD.md")).unwrap(), "new card");
        assert!(!new.manifest.files.contains_key("known_answers/qualified-1.png"));
        assert!(!dir.join("known_answers/qualified-1.png").exists() && dir.join("known_answers/qualified-2.png").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
