//! What the file system says about a bundle's files: whether one was written, replaced or moved since they were looked at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::BundleError;

/// Device, inode, size and the times of the last change of content and of anything else. The last one cannot be set by those who may write.
type Stamp = (u64, u64, u64, [i64; 4]);

/// The files of a bundle with all folders that hold them, as they were.
#[derive(Clone, Debug)]
pub struct Stamps(BTreeMap<PathBuf, Stamp>);

impl Stamps {
    /// Looks at the files `names` of the bundle in `dir`.
    pub fn take<'a>(dir: &Path, names: impl Iterator<Item = &'a String>) -> Result<Stamps, BundleError> {
        let mut stamps = BTreeMap::from([(dir.to_path_buf(), stamp(dir)?)]);
        for name in names {
            // Among the ancestors of a relative path is the empty one, which is the bundle's own folder.
            for path in Path::new(name).ancestors().filter(|path| !path.as_os_str().is_empty()) {
                if let Entry::Vacant(new) = stamps.entry(dir.join(path)) {
                    let found = stamp(new.key())?;
                    new.insert(found);
                }
            }
        }
        Ok(Stamps(stamps))
    }

    /// Looks again.
    ///
    /// # Errors
    /// The first file or folder that is not as it was.
    pub fn check(&self) -> Result<(), BundleError> {
        for (path, before) in &self.0 {
            if stamp(path)? != *before {
                return Err(BundleError::Touched { file: path.clone() });
            }
        }
        Ok(())
    }
}

fn stamp(path: &Path) -> Result<Stamp, BundleError> {
    let found = std::fs::metadata(path).map_err(|source| BundleError::Io { file: path.to_path_buf(), source })?;
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    Ok((found.dev(), found.ino(), found.size(), times))
}
