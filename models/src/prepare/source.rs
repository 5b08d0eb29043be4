//! Bounded reads at given places of a file or of bytes in memory.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes that are read at once where fewer are asked for: walks over headers ask for a few at a time.
const WINDOW: usize = 16 << 10;

/// A seekable source with its length.
pub struct Source<'a, S> {
    inner: &'a mut S,
    /// Bytes.
    pub length: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a, S: Read + Seek> Source<'a, S> {
    /// Measures the source.
    pub fn new(inner: &'a mut S) -> io::Result<Self> {
        let length = inner.seek(SeekFrom::End(0))?;
        Ok(Source { inner, length, window: Vec::new(), window_at: 0 })
    }

    /// `count` bytes from `offset`, fewer where the source ends.
    pub fn up_to(&mut self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        if count <= WINDOW / 4 {
            let rest = self.at_least(offset, count)?;
            return Ok(rest[..rest.len().min(count)].to_vec());
        }
        self.read(offset, count)
    }

    /// Exactly `N` bytes from `offset`, or nothing where the source ends before.
    pub fn array<const N: usize>(&mut self, offset: u64) -> io::Result<Option<[u8; N]>> {
        let rest = self.at_least(offset, N)?;
        Ok(rest.first_chunk::<N>().copied())
    }

    /// Some bytes from `offset` on; none where the source ends.
    pub fn window(&mut self, offset: u64) -> io::Result<&[u8]> {
        let end = self.window_at + self.window.len() as u64;
        if !(self.window_at..end).contains(&offset) {
            return self.moved(offset);
        }
        Ok(&self.window[(offset - self.window_at) as usize..])
    }

    /// As [`Source::window`], and `count` bytes at least where the source has them.
    fn at_least(&mut self, offset: u64, count: usize) -> io::Result<&[u8]> {
        if self.window(offset)?.len() < count {
            return self.moved(offset);
        }
        self.window(offset)
    }

    fn moved(&mut self, offset: u64) -> io::Result<&[u8]> {
        self.window = self.read(offset, WINDOW)?;
        self.window_at = offset;
        Ok(&self.window)
    }

    fn read(&mut self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        let count = self.length.saturating_sub(offset).min(count as u64);
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::with_capacity(count as usize);
        self.inner.seek(SeekFrom::Start(offset))?;
        self.inner.by_ref().take(count).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// The text of a regular file. Anything else is refused before it is opened: a pipe would keep the reader waiting.
pub fn text(file: &Path) -> io::Result<String> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    fs::read_to_string(file)
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, plain) = (dir.path().join("pipe"), dir.path().join("plain"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::fs::write(&plain, "a text").unwrap();
        assert_eq!(text(&plain).unwrap(), "a text");
        for other in [pipe.as_path(), dir.path()] {
            assert!(text(other).unwrap_err().to_string().contains("regular"), "{}", other.display());
        }
    }
}
