//! What a trained describer's folder says of its training: a file beside the weights, read wherever the describer is used.

use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The file's name in an adapter's or a checkpoint's folder.
pub const RECORD: &str = "describer.json";

/// What using a describer needs to know of its training.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Width and height that every image had; `None`: smart_resize within the checkpoint's limits.
    pub image_size: Option<[i64; 2]>,
    /// The question put after the image; `None`: training had no question in it.
    pub prompt: Option<String>,
    /// SHA-256 of the data set (rows and images), lower-case hex.
    pub data_sha256: String,
}

/// A record that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct RecordError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub problem: String,
}

impl Record {
    /// The record in a folder; `None` when there is none: the describer was trained elsewhere.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn read(folder: &Path) -> Result<Option<Record>, RecordError> {
        let file = folder.join(RECORD);
        let failed = |problem: String| RecordError { file: file.clone(), problem };
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Writes it into a folder.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), RecordError> {
        let file = folder.join(RECORD);
        let failed = |problem: String| RecordError { file: file.clone(), problem };
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| failed(error.to_string()))?;
        bytes.push(b'\n');
        fs::write(&file, bytes).map_err(|error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
        let record = Record { image_size: Some([252, 252]), prompt: None, data_sha256: "ab".into() };
        record.write(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), Some(record));
        fs::write(folder.path().join(RECORD), "{\"image_size\": 7}").unwrap();
        assert!(Record::read(folder.path()).unwrap_err().to_string().contains(RECORD));
    }
}
