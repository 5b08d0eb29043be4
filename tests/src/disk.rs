//! A disk of a size that a test chooses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file system in memory, unmounted at the end.
pub struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// A mounted one; none where mounting is not allowed.
    ///
    /// # Panics
    /// When no folder can be made.
    pub fn mount(megabytes: usize) -> Option<Tmpfs> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "mmlnb-test"]).arg(folder.path());
        let done = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        done.then_some(Tmpfs(folder))
    }

    /// Fills the disk but for about this many bytes.
    ///
    /// # Panics
    /// On I/O errors.
    pub fn fill(&self, but: u64) {
        let free = rustix::fs::statvfs(self.0.path()).expect("a mounted folder");
        let bytes = (free.f_bavail * free.f_frsize).saturating_sub(but);
        fs::write(self.filler(), vec![0; bytes as usize]).expect("there is as much room as was said");
    }

    /// Takes away what [`Tmpfs::fill`] wrote.
    ///
    /// # Panics
    /// When the disk was not filled.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("the filler is there");
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}
