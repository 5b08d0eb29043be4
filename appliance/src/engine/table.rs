//! The rows of tokens, read from the bundle's table where it lies: a row is copied, nothing is computed, and only pages that are read take memory.
#![expect(clippy::disallowed_methods, reason = "the bundle's own file")]

use std::fs::File;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use mmlnb_models::bundle::{self, Bundle};

use super::EngineError;

/// `[rows, width]`, mapped.
pub(super) struct Table {
    map: Mmap,
    element: Element,
    width: usize,
}

/// What the numbers are.
#[derive(Clone, Copy)]
enum Element {
    F32,
    F16,
    Bf16,
}

impl Table {
    /// Maps the table of a describer whose language model has so many `rows` of `width`.
    pub fn open(bundle: &Bundle, table: &bundle::Table, rows: usize, width: usize) -> Result<Table, EngineError> {
        let file = bundle.path(&table.file);
        let refuse = |problem: String| {
            EngineError::Bundle(format!("the table of tokens {} {problem}; export the bundle again", file.display()))
        };
        let (element, bytes) = match table.dtype.as_str() {
            "f32" => (Element::F32, 4),
            "f16" => (Element::F16, 2),
            "bf16" => (Element::Bf16, 2),
            other => return Err(refuse(format!("is said to hold {other}, which this version does not read"))),
        };
        let open = File::open(&file).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        // SAFETY: the mapping is private and only read; a bundle's files are not changed while it is served, as for ONNX Runtime's own mappings.
        let map = unsafe { Mmap::map(&open) }.map_err(|error| refuse(format!("cannot be mapped: {error}")))?;
        let expected = rows * width * bytes;
        if map.len() != expected {
            return Err(refuse(format!("has {} bytes, but {rows} rows of {width} numbers have {expected}", map.len())));
        }
        Ok(Table { map, element, width })
    }

    /// Numbers of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The rows of these tokens, one after the other.
    ///
    /// # Panics
    /// If an id has no row: the tokenizer was checked against the table.
    pub fn rows(&self, ids: &[i64]) -> Vec<f32> {
        let mut rows = vec![0.0; ids.len() * self.width];
        for (id, row) in ids.iter().zip(rows.chunks_exact_mut(self.width)) {
            let first = usize::try_from(*id).expect("ids are not negative") * self.width;
            let place = first..first + self.width;
            // A mapping begins at a page, so its numbers are aligned.
            match self.element {
                Element::F32 => row.copy_from_slice(&bytemuck::cast_slice::<u8, f32>(&self.map)[place]),
                Element::F16 => bytemuck::cast_slice::<u8, f16>(&self.map)[place].convert_to_f32_slice(row),
                Element::Bf16 => bytemuck::cast_slice::<u8, bf16>(&self.map)[place].convert_to_f32_slice(row),
            }
        }
        rows
    }
}
