//! The frame: size, components, and the planes and coefficients that scans fill.

use super::transform;
use super::{Bounds, JpegError};

/// One colour component.
pub struct Component {
    pub id: u8,
    /// Sampling factors.
    pub across: usize,
    pub down: usize,
    /// Which quantisation table it names.
    pub quantiser: usize,
    /// Samples that belong to the image.
    pub width: usize,
    pub height: usize,
    /// Blocks a row, whole MCUs.
    pub blocks: usize,
    /// The table's steps as they were at its first scan.
    pub steps: Option<[u16; 64]>,
    /// Samples, `blocks * 8` a row.
    pub plane: Vec<u8>,
    /// Coefficients in natural order; empty in sequential files, whose blocks are transformed at once.
    pub coefficients: Vec<[i16; 64]>,
    /// Bits that each coefficient (in zigzag order) still lacks; none: no scan has it yet.
    pub lacking: [Option<u8>; 64],
}

impl Component {
    /// Samples a row of the plane.
    pub fn stride(&self) -> usize {
        self.blocks * 8
    }
}

/// The image's frame.
pub struct Frame {
    pub width: usize,
    pub height: usize,
    pub progressive: bool,
    pub components: Vec<Component>,
    /// Largest sampling factors.
    pub most_across: usize,
    pub most_down: usize,
    /// MCUs of interleaved scans.
    pub mcus_wide: usize,
    pub mcus_high: usize,
    /// Scans that were begun.
    pub scans: usize,
}

impl Frame {
    pub fn parse(marker: u8, data: &[u8], bounds: &Bounds) -> Result<Frame, JpegError> {
        let broken = || JpegError::Damaged("its frame header is broken".to_string());
        let (head, rest) = data.split_first_chunk::<6>().ok_or_else(broken)?;
        let height = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let width = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let count = usize::from(head[5]);
        if height == 0 {
            return Err(JpegError::Unsupported("a JPEG whose height stands behind its picture data".to_string()));
        }
        if width == 0 || rest.len() != count * 3 {
            return Err(broken());
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(JpegError::Unsupported(format!("a JPEG of {count} components")));
        }
        if width > bounds.width || height > bounds.height {
            return Err(JpegError::TooLarge);
        }
        let factors: Vec<(usize, usize)> =
            rest.chunks_exact(3).map(|one| (usize::from(one[1] >> 4), usize::from(one[1] & 15))).collect();
        if factors.iter().any(|&(across, down)| !(1..=4).contains(&across) || !(1..=4).contains(&down)) {
            return Err(broken());
        }
        let most = |factors: &mut dyn Iterator<Item = usize>| factors.max().unwrap_or(1);
        let (most_across, most_down) = (most(&mut factors.iter().map(|one| one.0)), most(&mut factors.iter().map(|one| one.1)));
        let (mcus_wide, mcus_high) = (width.div_ceil(8 * most_across), height.div_ceil(8 * most_down));
        let progressive = marker == 0xc2;
        let blocks: usize = factors.iter().map(|&(across, down)| across * down * mcus_wide * mcus_high).sum();
        let bytes = blocks as u64 * if progressive { 192 } else { 64 } + (width * height * (count + 3)) as u64;
        if bytes > bounds.alloc {
            return Err(JpegError::TooLarge);
        }
        let mut components = Vec::new();
        for (one, (across, down)) in rest.chunks_exact(3).zip(factors) {
            if one[2] > 3 || components.iter().any(|other: &Component| other.id == one[0]) {
                return Err(broken());
            }
            let (wide, high) = (across * mcus_wide, down * mcus_high);
            components.push(Component {
                id: one[0],
                across,
                down,
                quantiser: usize::from(one[2]),
                width: (width * across).div_ceil(most_across),
                height: (height * down).div_ceil(most_down),
                blocks: wide,
                steps: None,
                plane: vec![128; wide * high * 64],
                coefficients: if progressive { vec![[0; 64]; wide * high] } else { Vec::new() },
                lacking: [None; 64],
            });
        }
        Ok(Frame { width, height, progressive, components, most_across, most_down, mcus_wide, mcus_high, scans: 0 })
    }

    /// What no scan has brought.
    pub fn missing(&self) -> Option<String> {
        let all = || self.components.iter().flat_map(|component| component.lacking);
        if all().any(|bits| bits.is_none()) {
            return Some("scans are missing: part of the picture data never came".to_string());
        }
        all().any(|bits| bits != Some(0)).then(|| "its last scans are missing: the picture is not at full precision".to_string())
    }

    /// Coefficients of a progressive file to samples.
    pub fn transform(&mut self) {
        for component in &mut self.components {
            let (Some(steps), stride) = (component.steps, component.stride()) else { continue };
            for (index, block) in component.coefficients.iter().enumerate() {
                let (row, column) = (index / component.blocks, index % component.blocks);
                transform::inverse(block, &steps, &mut component.plane, row * 8 * stride + column * 8, stride);
            }
        }
    }
}
