//! Puts a qualification beside a bundle's manifest: at every moment the old or the new bundle lies there, whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mmlnb_models::bundle::{Bundle, FileEntry, MANIFEST, MANIFEST_SIGNATURE, Manifest, Qualification};
use mmlnb_models::exchange;
use mmlnb_models::hash::sha256_hex;

use super::card;
use crate::failpoint;

/// The maker's page for people.
const CARD: &str = "MODEL_CARD.md";

/// The hashes of what lies there now.
pub struct Written {
    /// Of the manifest.
    pub bundle_sha256: String,
    /// Of the qualification.
    pub qualification_sha256: String,
}

/// Writes the bundle with the qualification `found` and its `files` beside the old one, unchanged files as links to the same content, and exchanges the
/// two folders. Another `manifest` than the bundle's takes the place of that one and its signature, and an old section leaves the model card.
///
/// # Errors
/// I/O; the old bundle is then still in its place.
pub fn replace(
    bundle: &Bundle,
    mut manifest: Manifest,
    mut found: Qualification,
    files: &[(String, Vec<u8>)],
) -> io::Result<Written> {
    let part = beside(&bundle.dir, "qualified")?;
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(&part)?;
    let same = manifest == bundle.manifest;
    if !same {
        let text = card::without_section(&fs::read_to_string(bundle.path(CARD))?);
        manifest.files.insert(CARD.to_owned(), write(&part, CARD, text.as_bytes())?);
    }
    for name in manifest.files.keys().filter(|name| same || *name != CARD) {
        link(&bundle.path(name), &place(&part, name)?)?;
    }
    for (name, bytes) in files {
        found.files.insert(name.clone(), write(&part, name, bytes)?);
    }
    failpoint::pass("qualify.linked")?;
    if same {
        let beside = [MANIFEST, MANIFEST_SIGNATURE].into_iter().filter(|name| bundle.path(name).exists());
        beside.into_iter().try_for_each(|name| link(&bundle.path(name), &part.join(name)))?;
        found.bundle_sha256.clone_from(&bundle.sha256);
    } else {
        found.bundle_sha256 = manifest.write(&part).map_err(io::Error::other)?;
    }
    let qualification_sha256 = found.write(&part, &manifest).map_err(io::Error::other)?;
    failpoint::pass("qualify.exchange")?;
    exchange::put_in_place(&part, &fs::canonicalize(&bundle.dir)?)?;
    failpoint::pass("qualify.exchanged")?;
    fs::remove_dir_all(&part)?;
    Ok(Written { bundle_sha256: found.bundle_sha256, qualification_sha256 })
}

fn write(part: &Path, name: &str, bytes: &[u8]) -> io::Result<FileEntry> {
    let mut file = File::create(place(part, name)?)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(FileEntry { size: bytes.len() as u64, sha256: sha256_hex(bytes) })
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
    use crate::qualify::answers::OURS;
    use crate::qualify::upgrade::upgraded;
    use mmlnb_models::bundle::{
        BundleError, Calibration, Classifier, FORMAT, Graph, KnownAnswer, Precision, Provenance, list_files,
    };
    use serde_json::json;

    const OLD_CARD: &str = "# Card\n\n## Qualification\n\nold figures\n";

    fn bundle(dir: &Path, format: u32) -> Bundle {
        fs::create_dir_all(dir.join("known_answers")).unwrap();
        fs::create_dir_all(dir.join("classifier")).unwrap();
        let files = [("classifier/prmf.onnx", "graph"), (CARD, OLD_CARD), ("classifier/config.json", r#"{"calibration": null}"#)];
        files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
        let mut known_answers = Vec::new();
        if format == 1 {
            fs::write(dir.join("known_answers/qualified-1.png"), "one").unwrap();
            known_answers.push(answer("known_answers/qualified-1.png"));
        }
        let prmf = Graph { file: "classifier/prmf.onnx".into(), inputs: vec![], outputs: vec![], parameters: 1 };
        let classes = ["A", "B"].map(String::from).to_vec();
        let calibration = (format == 1).then(|| Calibration { threshold: Some(0.5), ..Calibration::default() });
        let classifier = Classifier { classes, image_size: None, max_length: None, image: None, text: None, prmf, calibration };
        let manifest = Manifest {
            format,
            producer: "test".into(),
            precision: Precision::F32,
            portable: false,
            describer: None,
            classifier: Some(classifier),
            provenance: Provenance::default(),
            known_answers,
            qualification: (format == 1).then(|| json!({"items": 3})),
            files: list_files(dir).unwrap(),
        };
        manifest.write(dir).unwrap();
        Bundle::open(dir).unwrap()
    }

    fn answer(image: &str) -> KnownAnswer {
        KnownAnswer { image: image.into(), describer: None, classifier: None }
    }

    /// Qualifies with a known answer on an image called `name`.
    fn qualify(old: &Bundle, name: &str) -> Written {
        let image = format!("{OURS}{name}.png");
        let found = Qualification {
            format: FORMAT,
            bundle_sha256: String::new(),
            calibration: Some(Calibration { threshold: Some(0.9), ..Calibration::default() }),
            known_answers: vec![answer(&image)],
            measured: json!({"items": 4}),
            files: Default::default(),
        };
        let files = [("QUALIFICATION.md".to_owned(), b"figures".to_vec()), (image, name.as_bytes().to_vec())];
        replace(old, upgraded(old).unwrap(), found, &files).unwrap()
    }

    #[test]
    fn the_manifest_and_its_signature_stay_and_a_new_qualification_takes_the_olds_place() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("bundle");
        let old = bundle(&dir, FORMAT);
        let signature = "untrusted comment: x\n\
            RUT0Q569mEC+D2B1iJ27h6OmKAsPARq03GlgeUZ1Sb4Wqv/C2BgM6jjVsH6iv0TP2GmPDcsLmROGSzpts+Y9GWDB1iJRSJLQtwM=\n\
            trusted comment: y\n\
            CAWuEoXAAL5LR23EIJafY+TQJF1wEmsUTJuJywUbA4dMb0S5pVFW05AYFanWOwR/2T8ELZkbSqpApzhY3z6cBw==\n";
        fs::write(dir.join("manifest.json.minisig"), signature).unwrap();
        let first = qualify(&old, "1");
        fs::write(dir.join("qualification.json.minisig"), signature).unwrap();
        let opened = Bundle::open(&dir).unwrap();
        assert_eq!((&opened.sha256, opened.qualification_sha256()), (&old.sha256, Some(first.qualification_sha256.as_str())));
        assert_eq!(opened.calibration().unwrap().threshold, Some(0.9));
        let second = qualify(&opened, "2");
        let opened = Bundle::open(&dir).unwrap();
        assert_eq!((second.bundle_sha256, opened.manifest), (old.sha256, old.manifest));
        assert_ne!(second.qualification_sha256, first.qualification_sha256);
        assert!(dir.join("manifest.json.minisig").exists(), "the maker's signature stays");
        assert!(!dir.join("qualification.json.minisig").exists(), "the old qualification's goes with it");
        assert!(!dir.join("known_answers/qualified-1.png").exists() && dir.join("known_answers/qualified-2.png").exists());
        assert_eq!(fs::read_to_string(dir.join(CARD)).unwrap(), OLD_CARD, "the maker's card stays");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_bundle_of_format_1_is_read_and_comes_to_the_present_format_when_it_is_qualified() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("bundle");
        let old = bundle(&dir, 1);
        assert_eq!((old.calibration().unwrap().threshold, old.known_answers().count()), (Some(0.5), 1));
        assert_eq!(old.qualification_sha256(), None);
        let written = qualify(&old, "2");
        let new = Bundle::open(&dir).unwrap();
        assert!(new.sha256 == written.bundle_sha256 && new.sha256 != old.sha256);
        assert_eq!((new.manifest.format, &new.manifest.qualification), (FORMAT, &None));
        assert_eq!(new.manifest.classifier.as_ref().unwrap().calibration, None, "as the trainer left it");
        assert_eq!(new.known_answers().map(|answer| answer.image.as_str()).collect::<Vec<_>>(), [format!("{OURS}2.png")]);
        assert_eq!(fs::read_to_string(dir.join(CARD)).unwrap(), "# Card\n");
        let old = bundle(&folder.path().join("older"), 1);
        fs::copy(dir.join("qualification.json"), old.dir.join("qualification.json")).unwrap();
        assert!(matches!(Bundle::open(&old.dir), Err(BundleError::Unlisted { .. })), "format 1 has none beside its manifest");
    }
}
