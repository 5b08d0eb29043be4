//! Bounded reads at given places of a file or of bytes in memory.

use std::io::{self, Read, Seek, SeekFrom};

/// A seekable source with its length.
pub struct Source<'a, S> {
    inner: &'a mut S,
    /// Bytes.
    pub length: u64,
}

impl<'a, S: Read + Seek> Source<'a, S> {
    /// Measures the source.
    pub fn new(inner: &'a mut S) -> io::Result<Self> {
        let length = inner.seek(SeekFrom::End(0))?;
        Ok(Source { inner, length })
    }

    /// `count` bytes from `offset`, fewer where the source ends.
    pub fn up_to(&mut self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        let count = self.length.saturating_sub(offset).min(count as u64);
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::with_capacity(count as usize);
        self.inner.seek(SeekFrom::Start(offset))?;
        self.inner.by_ref().take(count).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Exactly `N` bytes from `offset`, or nothing where the source ends before.
    pub fn array<const N: usize>(&mut self, offset: u64) -> io::Result<Option<[u8; N]>> {
        Ok(self.up_to(offset, N)?.try_into().ok())
    }
}
