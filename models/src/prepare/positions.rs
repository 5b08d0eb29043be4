//! Where patches and tokens stand: patch positions, attention windows, multimodal rotary positions.

use super::qwen_image::blocks;
use crate::config::{QwenConfig, VisionConfig};

/// Everything that the vision tower needs beside the pixels, over all images of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionPositions {
    /// Row and column of every patch in its image, in the order of the pixel values.
    pub patch_positions: Vec<[i64; 2]>,
    /// The merged cells (merge x merge patches) in window order.
    pub window_index: Vec<i64>,
    /// Patches up to the end of each window, from 0.
    pub cu_window_seqlens: Vec<i64>,
    /// Patches up to the end of each image, from 0.
    pub cu_seqlens: Vec<i64>,
}

/// Positions of a prompt's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPositions {
    /// Temporal, row and column position of every token.
    pub ids: [Vec<i64>; 3],
    /// Largest position + 1 - number of tokens: the token after `n` tokens stands at `n + delta` in all three.
    pub delta: i64,
}

/// Image tokens that do not fit the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// A run of image tokens has another length than its image.
    #[error("image {image} has {expected} tokens, but the prompt has a run of {found}")]
    Run {
        /// Which image, from 0.
        image: usize,
        /// Tokens of the image.
        expected: i64,
        /// Tokens of the run.
        found: i64,
    },
    /// More or fewer runs than images.
    #[error("the prompt has places for {found} images, but {expected} are given")]
    Count {
        /// Images given.
        expected: usize,
        /// Runs or placeholders found.
        found: usize,
    },
}

/// Patch positions and windows for images of these grids (frames, patch rows, patch columns).
pub fn vision_positions(grids: &[[i64; 3]], config: &VisionConfig) -> VisionPositions {
    let merge = config.merge as usize;
    let window = config.window / config.patch / config.merge;
    let mut positions = VisionPositions {
        patch_positions: Vec::new(),
        window_index: Vec::new(),
        cu_window_seqlens: vec![0],
        cu_seqlens: vec![0],
    };
    for &[frames, rows, columns] in grids {
        for _ in 0..frames {
            let first_cell = positions.window_index.len() as i64;
            let hw = blocks(rows as usize, columns as usize, merge).map(|[row, column]| [row as i64, column as i64]);
            positions.patch_positions.extend(hw);
            positions.cu_seqlens.push(positions.patch_positions.len() as i64);
            let cells = (rows / config.merge, columns / config.merge);
            for (top, left) in corners(cells, window) {
                for row in top..(top + window).min(cells.0) {
                    let columns = left..(left + window).min(cells.1);
                    positions.window_index.extend(columns.map(|column| first_cell + row * cells.1 + column));
                }
                let patches = positions.window_index.len() as i64 * config.merge * config.merge;
                positions.cu_window_seqlens.push(patches);
            }
        }
    }
    positions
}

fn corners(cells: (i64, i64), window: i64) -> impl Iterator<Item = (i64, i64)> {
    let step = window as usize;
    (0..cells.0).step_by(step).flat_map(move |top| (0..cells.1).step_by(step).map(move |left| (top, left)))
}

/// Tokens that an image of this grid becomes.
pub fn image_tokens(grid: [i64; 3], merge: i64) -> i64 {
    grid.iter().product::<i64>() / (merge * merge)
}

/// Multiplies each `image_token` of a rendered prompt to the number of tokens of its image.
pub fn expand_images(ids: &[i64], grids: &[[i64; 3]], config: &QwenConfig) -> Result<Vec<i64>, PositionError> {
    let found = ids.iter().filter(|&&id| id == config.image_token).count();
    if found != grids.len() {
        return Err(PositionError::Count { expected: grids.len(), found });
    }
    let mut counts = grids.iter().map(|&grid| image_tokens(grid, config.vision.merge) as usize);
    let times = |id: i64| if id == config.image_token { counts.next().unwrap_or(0) } else { 1 };
    let repeats: Vec<usize> = ids.iter().copied().map(times).collect();
    Ok(ids.iter().zip(repeats).flat_map(|(&id, times)| std::iter::repeat_n(id, times)).collect())
}

/// Text counts on in all three positions; an image at `p` has `p`, `p + row`, `p + column` of the merged grid, and text
/// goes on at `p + max(rows, columns)`.
pub fn text_positions(ids: &[i64], grids: &[[i64; 3]], config: &QwenConfig) -> Result<TextPositions, PositionError> {
    let mut positions: [Vec<i64>; 3] = Default::default();
    let (mut next, mut image, mut at) = (0, 0, 0);
    while at < ids.len() {
        if ids[at] != config.image_token {
            positions.iter_mut().for_each(|axis| axis.push(next));
            next += 1;
            at += 1;
            continue;
        }
        let run = ids[at..].iter().take_while(|&&id| id == config.image_token).count();
        let Some(&grid) = grids.get(image) else {
            return Err(PositionError::Count { expected: grids.len(), found: image + 1 });
        };
        let expected = image_tokens(grid, config.vision.merge);
        if run as i64 != expected {
            return Err(PositionError::Run { image, expected, found: run as i64 });
        }
        let (rows, columns) = (grid[1] / config.vision.merge, grid[2] / config.vision.merge);
        for cell in 0..expected {
            let place = [cell / (rows * columns), cell / columns % rows, cell % columns];
            positions.iter_mut().zip(place).for_each(|(axis, offset)| axis.push(next + offset));
        }
        next += rows.max(columns).max(grid[0]);
        image += 1;
        at += run;
    }
    if image != grids.len() {
        return Err(PositionError::Count { expected: grids.len(), found: image });
    }
    Ok(TextPositions { ids: positions, delta: next - ids.len() as i64 })
}
