//! Strips and tiles: where each lies in the file and in the image.

use super::tiff_directory::Directory;

/// How the pixels of one page are cut up.
pub struct Layout<'a> {
    directory: &'a Directory,
    /// Bytes of the file.
    file: u64,
    /// Pixels a row of a chunk.
    pub width: usize,
    /// Rows of a chunk; the last strip may have fewer.
    pub height: usize,
    across: usize,
    down: usize,
    /// Planes that are stored apart.
    pub planes: usize,
    /// Channels in each of them.
    pub channels: usize,
    bits: usize,
    /// Offsets in order, where lengths are missing and the data is compressed.
    ordered: Vec<u64>,
}

/// Which bytes of an uncompressed chunk belong to the image: the first `used` of every `stride`, `lines` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Bytes from one line to the next.
    pub stride: u64,
    /// Bytes of a line that belong to the image; the rest is padding.
    pub used: u64,
    /// Lines that belong to the image.
    pub lines: u64,
}

/// Where a chunk stands in the image.
pub struct Place {
    /// Which plane.
    pub plane: usize,
    /// First column and row.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Rows that are stored, for tiles also those beyond the image.
    pub rows: usize,
}

impl<'a> Layout<'a> {
    /// The text says what is wrong.
    pub fn of(directory: &'a Directory, file: u64) -> Result<Layout<'a>, &'static str> {
        let side = |value: u64| usize::try_from(value).ok().filter(|&side| (1..=1 << 24).contains(&side));
        let (width, height) = (side(directory.width), side(directory.height));
        let (Some(width), Some(height)) = (width, height) else { return Err("it has no size") };
        let channels = usize::try_from(directory.channels).unwrap_or(0);
        let bits = directory.bits.first().map_or(1, |&bits| bits as usize);
        if !(1..=64).contains(&channels) || !(1..=64).contains(&bits) {
            return Err("it has no samples");
        }
        let (chunk_width, chunk_height) = match directory.tile {
            Some((wide, high)) => match (side(wide), side(high)) {
                (Some(wide), Some(high)) if wide <= 1 << 16 && high <= 1 << 16 => (wide, high),
                _ => return Err("its tiles have no size"),
            },
            None => (width, side(directory.rows_per_strip).unwrap_or(height).min(height)),
        };
        let planes = if directory.planar == 2 { channels } else { 1 };
        let (across, down) = (width.div_ceil(chunk_width), height.div_ceil(chunk_height));
        let mut ordered = Vec::new();
        if directory.lengths.len() < directory.offsets.len() && directory.compression != 1 {
            ordered = directory.offsets.clone();
            ordered.sort_unstable();
        }
        let layout = Layout {
            directory,
            file,
            width: chunk_width,
            height: chunk_height,
            across,
            down,
            planes,
            channels: channels / planes,
            bits,
            ordered,
        };
        if across.saturating_mul(down).saturating_mul(planes) > directory.offsets.len() {
            return Err("strips or tiles are missing");
        }
        Ok(layout)
    }

    /// Number of chunks.
    pub fn count(&self) -> usize {
        self.across * self.down * self.planes
    }

    /// Where a chunk stands in the image.
    pub fn chunk(&self, index: usize) -> Place {
        let (plane, index) = (index / (self.across * self.down), index % (self.across * self.down));
        let (left, top) = (index % self.across * self.width, index / self.across * self.height);
        let rows =
            if self.directory.tile.is_some() { self.height } else { self.height.min(self.directory.height as usize - top) };
        Place { plane, left, top, rows }
    }

    /// Bytes of `rows` rows of a chunk without compression.
    pub fn bytes(&self, rows: usize) -> usize {
        if self.is_subsampled() {
            let [across, down] = self.subsampling();
            return self.width.div_ceil(across) * rows.div_ceil(down) * (across * down + 2);
        }
        (self.width * self.channels * self.bits).div_ceil(8) * rows
    }

    /// Which bytes of a chunk without compression belong to the image.
    pub fn inside(&self, index: usize) -> Inside {
        let place = self.chunk(index);
        let columns = self.width.min((self.directory.width as usize).saturating_sub(place.left));
        let rows = place.rows.min((self.directory.height as usize).saturating_sub(place.top));
        let (stride, used, lines) = if self.is_subsampled() {
            let [across, down] = self.subsampling();
            let units = |pixels: usize| pixels.div_ceil(across) * (across * down + 2);
            (units(self.width), units(columns), rows.div_ceil(down))
        } else {
            let bytes = |pixels: usize| (pixels * self.channels * self.bits).div_ceil(8);
            (bytes(self.width), bytes(columns), rows)
        };
        Inside { stride: stride as u64, used: used as u64, lines: lines as u64 }
    }

    /// Luminance and chrominance of different resolution, outside JPEG.
    pub fn is_subsampled(&self) -> bool {
        self.directory.photometric == 6 && self.directory.compression != 7 && self.planes == 1 && self.subsampling() != [1, 1]
    }

    /// Pixels for one pair of chrominance samples, across and down.
    pub fn subsampling(&self) -> [usize; 2] {
        let factor = |at: usize| self.directory.subsampling.get(at).map_or(2, |&factor| (factor as usize).clamp(1, 4));
        [factor(0), factor(1)]
    }

    /// Offset and length of a chunk in the file. Lengths that are missing (or that the data, uncompressed, contradicts) are
    /// worked out as libtiff does: from the size of the pixels, or up to the next chunk or the end of the file.
    pub fn place(&self, index: usize) -> (u64, u64) {
        let Some(&offset) = self.directory.offsets.get(index) else { return (0, 0) };
        let stated = self.directory.lengths.get(index).copied();
        if self.directory.compression == 1 && index < self.count() {
            let needed = self.bytes(self.chunk(index).rows) as u64;
            return match stated {
                Some(stated) if self.count() > 1 || stated > needed && offset.saturating_add(stated) <= self.file => {
                    (offset, stated)
                }
                _ => (offset, needed),
            };
        }
        let next = || self.ordered.get(self.ordered.partition_point(|&other| other <= offset)).copied().unwrap_or(self.file);
        (offset, stated.unwrap_or_else(|| next().saturating_sub(offset)))
    }
}
