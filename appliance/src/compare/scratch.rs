//! The reference's logits while the other bundle is asked: a file without a name, which is gone with this process whatever happens.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Exit, Failure};

/// Most bytes of one round of images.
const MOST: u64 = 16 << 30;
/// The same in a folder that is memory, which the plans of both bundles do not count.
const MOST_IN_MEMORY: u64 = 1 << 30;
/// File systems whose files are memory (statfs(2)): tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Room for the logits of a round of images, in f32 as the networks gave them, so that equal ones have a divergence of exactly 0.
pub struct Scratch {
    file: File,
    folder: PathBuf,
    shape: Shape,
}

/// What an image may need: `tokens` rows of `vocabulary` logits.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Width of the logits.
    pub vocabulary: usize,
    /// Tokens of the longest text.
    pub tokens: usize,
}

/// The part of one image; what a short text leaves free of it takes no room on the disk.
#[derive(Clone)]
pub struct Region {
    scratch: Arc<Scratch>,
    image: usize,
}

impl Shape {
    fn row(self) -> u64 {
        (self.vocabulary * size_of::<f32>()) as u64
    }

    /// How many images of this shape one round may have: they take at most half of what is free in `folder`, and at most 16 GiB, in memory 1 GiB.
    ///
    /// # Errors
    /// The folder cannot be used, or has no room for a single image.
    pub fn images(self, folder: &Path) -> Result<usize, Failure> {
        let system = rustix::fs::statfs(folder).map_err(|error| refused(folder, &error.into()))?;
        let most = if IN_MEMORY.contains(&(system.f_type as u64)) { MOST_IN_MEMORY } else { MOST };
        let room = most.min(system.f_bavail.saturating_mul(system.f_bsize as u64) / 2);
        let one = self.row() * self.tokens as u64;
        if one > room {
            let [one, room] = [one, room].map(|bytes| bytes.div_ceil(1 << 20));
            let what = format!("the reference's logits for one image may take {one} MiB, but there is room for {room} MiB");
            return Err(Failure::new(
                Exit::Usage,
                what,
                folder.display().to_string(),
                "name a folder with more room with --scratch",
            ));
        }
        Ok((room / one) as usize)
    }
}

impl Scratch {
    /// A file in `folder` for images of this shape.
    ///
    /// # Errors
    /// It cannot be made there.
    pub fn create(folder: &Path, shape: Shape) -> Result<Arc<Scratch>, Failure> {
        let path = folder.join(format!(".mmlnb-compare-{}", std::process::id()));
        let mut options = File::options();
        let file =
            options.read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(|error| refused(folder, &error))?;
        std::fs::remove_file(&path).map_err(|error| refused(folder, &error))?;
        Ok(Arc::new(Scratch { file, folder: folder.to_owned(), shape }))
    }

    /// The part of an image, by its place in the round.
    pub fn region(self: &Arc<Self>, image: usize) -> Region {
        Region { scratch: self.clone(), image }
    }
}

impl Region {
    /// Keeps the logits of a token.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn keep(&self, token: usize, logits: &[f32]) -> Result<(), Failure> {
        let written = self.scratch.file.write_all_at(bytemuck::cast_slice(logits), self.place(token));
        written.map_err(|error| Failure::io("the reference's logits cannot be kept", &self.scratch.folder, &error))
    }

    /// Reads them back.
    ///
    /// # Errors
    /// They were not kept, or the disk fails.
    pub fn recall(&self, token: usize) -> Result<Vec<f32>, Failure> {
        let mut logits = vec![0.0_f32; self.scratch.shape.vocabulary];
        let read = self.scratch.file.read_exact_at(bytemuck::cast_slice_mut(&mut logits), self.place(token));
        read.map_err(|error| Failure::io("the reference's logits cannot be read back", &self.scratch.folder, &error))?;
        Ok(logits)
    }

    fn place(&self, token: usize) -> u64 {
        let Shape { tokens, .. } = self.scratch.shape;
        assert!(token < tokens, "a text is no longer than the bundle's settings allow");
        (self.image * tokens + token) as u64 * self.scratch.shape.row()
    }
}

fn refused(folder: &Path, error: &std::io::Error) -> Failure {
    let place = folder.display().to_string();
    let exit = if error.kind() == std::io::ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Usage };
    Failure::new(
        exit,
        format!("no file can be made for the reference's logits: {error}"),
        place,
        "name another folder with --scratch",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_come_back_to_the_bit_and_the_folder_shows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(folder.path(), Shape { vocabulary: 3, tokens: 2 }).unwrap();
        let rows = [[1.5, -0.0, f32::MIN_POSITIVE], [f32::MAX, 0.1, -7.0], [4.0, 5.0, 6.0]];
        let places = [(5, 1), (0, 0), (2, 1)];
        for ((image, token), row) in places.into_iter().zip(&rows) {
            scratch.region(image).keep(token, row).unwrap();
        }
        let bits = |row: &[f32]| row.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
        for ((image, token), row) in places.into_iter().zip(&rows) {
            assert_eq!(bits(&scratch.region(image).recall(token).unwrap()), bits(row));
        }
        assert!(scratch.region(6).recall(0).is_err(), "what was never kept");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_round_is_bounded_and_a_folder_without_room_or_absent_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Path::new("/dev/shm");
        let in_memory = Shape { vocabulary: 1 << 20, tokens: 1 << 6 }.images(memory).unwrap_or(0);
        assert!(in_memory <= 4, "{in_memory} images of 256 MiB in memory");
        let few = Shape { vocabulary: 1 << 20, tokens: 1 << 8 }.images(folder.path()).unwrap_or(0);
        assert!(few <= 16, "{few} images of 1 GiB");
        let failure = Shape { vocabulary: 1 << 24, tokens: 1 << 10 }.images(folder.path()).unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.to_string().contains("--scratch"), "{failure}");
        assert!(Shape { vocabulary: 8, tokens: 8 }.images(&folder.path().join("absent")).is_err());
    }
}
