//! Intermediate results, each in a folder whose name holds the hash of everything that decides it: a second demo makes only what changed.

use crate::{appliance::say, checkout};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

/// The folder of results.
pub struct Kept {
    folder: PathBuf,
}

/// One result.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its folder.
    pub path: PathBuf,
    /// Hash of what decided it, for the results that come of it.
    pub key: String,
}

impl Kept {
    /// `demo/kept` in the checkout.
    pub fn open() -> Result<Self> {
        let folder = checkout().join("demo/kept");
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(Self { folder })
    }

    /// The result of this name from these settings and earlier results. `make` gets a folder that may hold what an interrupted demo left.
    pub fn step(&self, name: &str, settings: &[&str], from: &[&Made], make: impl FnOnce(&Path) -> Result<()>) -> Result<Made> {
        let keys = from.iter().map(|made| made.key.as_str());
        let key = key([name, env!("CARGO_PKG_VERSION")].into_iter().chain(settings.iter().copied()).chain(keys));
        let path = self.folder.join(format!("{name}-{}", &key[..12]));
        if path.exists() {
            say(&format!("{name}: as made before"));
            return Ok(Made { path, key });
        }
        say(name);
        let started = Instant::now();
        let part = self.folder.join(format!("{name}-{}.part", &key[..12]));
        make(&part)?;
        fs::rename(&part, &path).with_context(|| format!("{} cannot be renamed", part.display()))?;
        eprintln!("{name}: {:.0} s", started.elapsed().as_secs_f64());
        Ok(Made { path, key })
    }
}

/// SHA-256 over the pieces, each with its length.
fn key<'a>(pieces: impl Iterator<Item = &'a str>) -> String {
    let mut digest = Sha256::new();
    for piece in pieces {
        digest.update((piece.len() as u64).to_le_bytes());
        digest.update(piece);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An empty folder, whatever was there.
pub fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_and_its_place_decide() {
        let keys = [["a", "b"], ["ab", ""], ["b", "a"]].map(|pieces| key(pieces.into_iter()));
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
    }

    #[test]
    fn a_result_is_made_once_and_again_when_an_earlier_one_differs() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept { folder: folder.path().into() };
        let mut made = 0;
        let mut step = |settings: &str, from: &[&Made]| {
            kept.step("x", &[settings], from, |part| {
                made += 1;
                empty(part)
            })
            .unwrap()
        };
        let first = step("1", &[]);
        assert_eq!(step("1", &[]).path, first.path);
        let other = step("2", &[]);
        let later = step("1", &[&first]);
        assert_ne!(step("1", &[&other]).path, later.path);
        assert_eq!(made, 4);
    }
}
