//! A real BERT (all-MiniLM-L6-v2), whose weights come in a Python package of their own.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use mmlnb_models::hash::sha256_file;
use serde_json::Value;

/// The package's wheel: where MMLNB_MINILM says, beside the case file, or where the set-up keeps wheels.
fn wheel(dir: &Path, name: &str) -> Option<PathBuf> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../native/cache").join(name);
    let named = std::env::var_os("MMLNB_MINILM").map(PathBuf::from);
    let found = named.into_iter().chain([dir.join(name), kept]).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: the wheel {name} is absent; name it in MMLNB_MINILM");
    }
    found
}

/// The weights that `cases.json` in `dir` tells of, unpacked into a folder that goes with them; `None`, and said, where the package is absent.
pub fn weights(dir: &Path, cases: &Value) -> Option<(tempfile::TempDir, PathBuf)> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_else(|| panic!("no text `{key}`")).to_owned();
    let wheel = wheel(dir, &text(cases, "wheel"))?;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let mut archive = zip::ZipArchive::new(File::open(&wheel).unwrap()).unwrap();
    let member = format!("{}model.safetensors", text(cases, "folder_in_wheel"));
    std::io::copy(&mut archive.by_name(&member).unwrap(), &mut File::create(&file).unwrap()).unwrap();
    let (_, hash) = sha256_file(&file).unwrap();
    assert_eq!(hash, text(&cases["sha256"], "model.safetensors"), "{} holds other weights", wheel.display());
    Some((folder, file))
}
