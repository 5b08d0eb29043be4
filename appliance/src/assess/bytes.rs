//! A file's bytes, read once: what is hashed is what is parsed, whatever happens to the file meanwhile.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sha2::{Digest, Sha256};

use crate::progress;

const PIECE: usize = 256 << 10;

/// Sealed bytes in memory, which another process may read but nobody may change, and their identity.
pub struct Bytes {
    memory: File,
    /// How many.
    pub size: u64,
    /// SHA-256 of them.
    pub sha256: [u8; 32],
}

impl Bytes {
    /// Reads at most `most` bytes and hashes them, with a sign of life for each piece.
    ///
    /// # Errors
    /// The source, or no memory.
    pub fn read(source: &mut impl Read, most: u64) -> io::Result<Bytes> {
        let mut memory = File::from(memfd_create(c"patch", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        let (mut hash, mut piece, mut size) = (Sha256::new(), vec![0; PIECE], 0u64);
        while size < most {
            let room = PIECE.min(usize::try_from(most - size).unwrap_or(PIECE));
            let count = match source.read(&mut piece[..room]) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hash.update(&piece[..count]);
            memory.write_all(&piece[..count])?;
            size += count as u64;
            progress::beat();
        }
        fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Bytes { memory, size, sha256: hash.finalize().into() })
    }
}

impl AsFd for Bytes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_hashed_counted_and_sealed() {
        let mut bytes = Bytes::read(&mut &b"abcdef"[..], 3).unwrap();
        assert_eq!((bytes.size, &bytes.sha256[..4]), (3, &[0xba, 0x78, 0x16, 0xbf][..]));
        assert!(bytes.memory.write_all(b"x").is_err());
    }
}
