//! A Debian package from a tree of files, written by `dpkg-deb`: the same files at the same time give the same bytes.

use crate::appliance::finish;
use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

/// A package's files, staged in a folder.
pub struct Tree {
    path: PathBuf,
    /// Seconds since 1970 that every file is dated.
    epoch: u64,
}

impl Tree {
    /// An empty one.
    pub fn new(path: PathBuf, epoch: u64) -> Result<Tree> {
        let tree = Tree { path, epoch };
        tree.folder(&tree.path)?;
        Ok(tree)
    }

    /// Makes a folder and those above it, readable by all whatever the umask.
    fn folder(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        for folder in folder.ancestors().take_while(|above| above.starts_with(&self.path)) {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// Writes a file.
    pub fn write(&self, to: &str, bytes: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let to = self.path.join(to);
        self.folder(to.parent().context("a file lies in a folder")?)?;
        fs::write(&to, bytes).with_context(|| format!("{} cannot be written", to.display()))?;
        Ok(fs::set_permissions(&to, fs::Permissions::from_mode(mode))?)
    }

    /// Writes a compressed file, without name or time in its header.
    pub fn write_gz(&self, to: &str, text: &str) -> Result<()> {
        let mut gz = GzBuilder::new().write(Vec::new(), Compression::best());
        gz.write_all(text.as_bytes())?;
        self.write(to, gz.finish()?, 0o644)
    }

    /// Copies a file.
    pub fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        self.write(to, fs::read(from).with_context(|| format!("{} cannot be read", from.display()))?, mode)
    }

    /// The files below a folder by their paths in the tree, in order.
    fn files(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut found = Vec::new();
        let mut waiting = vec![self.path.clone()];
        while let Some(folder) = waiting.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    waiting.push(path);
                } else {
                    let name = path.strip_prefix(&self.path).context("a found file lies in the tree")?;
                    let name = name.to_str().context("a package's file has a name in UTF-8")?;
                    found.push((name.to_owned(), path));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Adds DEBIAN/control with the installed size, the checksums and the list of configuration files, and builds the package.
    pub fn build(&self, control: &str, package: &Path) -> Result<()> {
        let files: Vec<(String, PathBuf)> = self.files()?.into_iter().filter(|(name, _)| !name.starts_with("DEBIAN/")).collect();
        let bytes = files.iter().map(|(_, path)| Ok(fs::metadata(path)?.len())).sum::<Result<u64>>()?;
        let conffiles = files.iter().filter(|(name, _)| name.starts_with("etc/"));
        self.write("DEBIAN/conffiles", conffiles.map(|(name, _)| format!("/{name}\n")).collect::<String>(), 0o644)?;
        self.write("DEBIAN/md5sums", self.md5sums(&files)?, 0o644)?;
        self.write("DEBIAN/control", format!("{control}Installed-Size: {}\n", bytes.div_ceil(1024)), 0o644)?;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.epoch);
        for (_, path) in self.files()? {
            for path in path.ancestors().take_while(|path| path.starts_with(&self.path)) {
                File::open(path)?.set_modified(time).with_context(|| format!("{} cannot be dated", path.display()))?;
            }
        }
        // One thread: the blocks of xz, and so the bytes, depend on how many there are.
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.args(["--root-owner-group", "-Zxz", "--threads-max=1", "--build"]).arg(&self.path).arg(package);
        finish(dpkg.env("SOURCE_DATE_EPOCH", self.epoch.to_string()).stdout(Stdio::null()))
    }

    /// dpkg's own list of checksums is what `md5sum` prints, which belongs to every Debian.
    fn md5sums(&self, files: &[(String, PathBuf)]) -> Result<Vec<u8>> {
        let mut md5sum = Command::new("md5sum");
        md5sum.current_dir(&self.path).arg("--").args(files.iter().map(|(name, _)| name));
        let output = md5sum.output().context("md5sum cannot be started")?;
        ensure!(output.status.success(), "md5sum failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }
}

/// The newest version of the C library that a program or library asks for, as (2, minor).
pub fn newest_glibc(bytes: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"GLIBC_2.";
    let ends = bytes.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).map(|(at, _)| at + NAME.len());
    let number = |start: usize| {
        let digits: String = bytes[start..].iter().map(|byte| char::from(*byte)).take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    ends.filter_map(number).max()
}
