//! Descriptions that were made already, one line each in a file that only grows, so that a kill at any moment loses one line at most.

use super::Generated;
use crate::error::TrainError;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// The descriptions of one describer (checkpoint, adapter, settings) in a file that may hold those of others too.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    file: File,
    describer: String,
    known: HashMap<String, Generated>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    /// Hash of everything but the image that decides the description.
    describer: String,
    /// SHA-256 of the image file.
    image: String,
    #[serde(flatten)]
    description: Generated,
}

impl Cache {
    /// Opens or creates the file; a last line that a kill has cut is taken away.
    ///
    /// # Errors
    /// A file that another process is writing, that cannot be read or that is damaged before its last line.
    pub fn open(path: &Path, describer: &str) -> Result<Cache, TrainError> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(TrainError::io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(TrainError::Asked(format!(
                    "{}: another process is writing it; wait until it has ended",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(TrainError::io("lock", path)(error)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(TrainError::io("read", path))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(TrainError::io("write", path))?;
        let mut known = HashMap::new();
        for (number, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line).map_err(|error| {
                TrainError::file(
                    path.to_path_buf(),
                    format!("line {} is damaged ({error}); remove the file to begin anew", number + 1),
                )
            })?;
            if line.describer == describer {
                known.insert(line.image, line.description);
            }
        }
        Ok(Cache { path: path.to_path_buf(), file, describer: describer.to_string(), known })
    }

    /// The description of an image by the SHA-256 of its file.
    pub fn get(&self, image: &str) -> Option<&Generated> {
        self.known.get(image)
    }

    /// Adds a description.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn add(&mut self, image: &str, description: Generated) -> Result<(), TrainError> {
        let line = Line { describer: self.describer.clone(), image: image.to_string(), description };
        let mut text = serde_json::to_vec(&line).map_err(|error| TrainError::Failed(error.to_string()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(TrainError::io("write", &self.path))?;
        self.known.insert(line.image, line.description);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::StopReason;
    use std::fs;

    fn generated(text: &str) -> Generated {
        Generated { text: text.into(), token_ids: vec![3, 1], stop_reason: StopReason::MaxTokens, mean_logprob: -0.1 }
    }

    #[test]
    fn a_cut_last_line_is_made_again_and_others_describers_lines_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.jsonl");
        let mut cache = Cache::open(&path, "one").unwrap();
        cache.add("a", generated("first")).unwrap();
        cache.add("b", generated("second")).unwrap();
        assert!(Cache::open(&path, "one").unwrap_err().to_string().contains("another process"));
        drop(cache);
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut cache = Cache::open(&path, "one").unwrap();
            let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!((cache.get("a").is_some(), cache.get("b").is_some()), (lines > 0, lines > 1), "cut at {cut}");
            cache.add("b", generated("again")).unwrap();
            drop(cache);
            let cache = Cache::open(&path, "one").unwrap();
            assert_eq!(cache.get("b"), Some(&generated("again")), "cut at {cut}");
        }
        assert_eq!(Cache::open(&path, "other").unwrap().get("a"), None);
        fs::write(&path, "{}\n").unwrap();
        assert!(Cache::open(&path, "one").unwrap_err().to_string().contains("line 1 is damaged"));
    }
}
