//! What identifies one state of one file on disk.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use rustix::fs::Stat;

/// One state of one file: where it lies, how long it is, when it was written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970; compared for equality only.
    pub mtime_ns: i64,
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Stamp {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime_ns: metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec()),
        }
    }
}

impl From<&Stat> for Stamp {
    fn from(found: &Stat) -> Self {
        Stamp {
            dev: found.st_dev,
            ino: found.st_ino,
            size: found.st_size as u64,
            mtime_ns: found.st_mtime.wrapping_mul(1_000_000_000).wrapping_add(found.st_mtime_nsec as i64),
        }
    }
}
