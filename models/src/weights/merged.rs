//! A checkpoint with an adapter merged into it, written with the base's own files, names, order and types.

use super::{
    Adapter, Checkpoint, DType, WeightError, Weights,
    keys::hub_key,
    mapped::{Entry, Mapped},
    stored::non_finite,
};
use crate::graph::Weight;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// Bytes of a matrix in f32 that are worked on at a time.
const BLOCK: usize = 32 << 20;

/// Writes the base's weight files into `folder`, an existing one: adapted matrices merged in f32 and rounded once to the base's type, everything
/// else byte for byte. Memory does not grow with the model. `progress` gets the bytes done and the bytes in all.
///
/// # Errors
/// An adapter that does not fit the base, files that cannot be written, and NaN or an infinity in any tensor, read or merged: what was written until
/// then is of no use.
pub fn write_merged(
    base: &Checkpoint,
    adapter: &Adapter,
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), WeightError> {
    let weights = Weights::with_adapter(base, adapter)?;
    rewrite(base, folder, progress, &mut |entry, output, count| match adapted(adapter, entry) {
        None => Ok(false),
        Some((weight, dtype)) => {
            for block in weights.blocks(&weight, BLOCK)? {
                count(output(&encoded(entry, dtype, &block?)?)?);
            }
            Ok(true)
        }
    })
}

/// Whether every merged matrix is finite in the base's type; nothing is written. Exact numbers are computed only where rank, scale and the sizes of A and
/// B let a sum leave the type, so that this costs little for an adapter as trainings make them.
///
/// # Errors
/// An adapter that does not fit the base; [`WeightError::Overflow`] with the tensor's name.
pub fn check_merged(base: &Checkpoint, adapter: &Adapter) -> Result<(), WeightError> {
    let weights = Weights::with_adapter(base, adapter)?;
    for entry in base.files().iter().flat_map(|file| &file.entries) {
        let Some((weight, dtype)) = adapted(adapter, entry) else { continue };
        if can_leave(adapter, &weight, dtype) {
            for block in weights.blocks(&weight, BLOCK)? {
                encoded(entry, dtype, &block?)?;
            }
        }
    }
    Ok(())
}

/// Whether what an adapter adds, or the length that DoRA gives a row, may reach half of the largest number of a type.
fn can_leave(adapter: &Adapter, weight: &Weight, dtype: DType) -> bool {
    let Weight::Adapted { module, scale_bits, .. } = weight else { return false };
    let (Some(a), Some(b)) = (adapter.a(module), adapter.b(module)) else { return true };
    let largest = |values: &[f32]| values.iter().fold(0.0_f64, |most, value| most.max(f64::from(value.abs())));
    let of_a: Vec<f64> = (0..a.rows()).map(|row| largest(&a.decode(row..row + 1))).collect();
    let row_of_b = |row: &[f32]| row.iter().zip(&of_a).map(|(b, a)| f64::from(b.abs()) * a).sum::<f64>();
    let product = b.decode(0..b.rows()).chunks_exact(a.rows()).map(row_of_b).fold(0.0, f64::max);
    let added = f64::from_bits(*scale_bits).abs() * product;
    let length = adapter.magnitude(module).map_or(0.0, |lengths| largest(&lengths.decode(0..lengths.rows())));
    added.max(length) >= dtype.largest() / 2.0 || !added.is_finite()
}

/// Writes the base's weight files into `folder`, an existing one: tensors of which `changed` gives new numbers by the hub's key rounded once to the
/// base's type, everything else byte for byte.
///
/// # Errors
/// New numbers that are fewer or more than the tensor has, NaN or an infinity, files that cannot be written, and what `changed` returns.
pub fn write_changed(
    base: &Checkpoint,
    folder: &Path,
    changed: Changed<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), WeightError> {
    rewrite(base, folder, progress, &mut |entry, output, count| {
        let key = hub_key(&entry.name);
        let (Some(dtype), Some(values)) = (DType::from_name(&entry.dtype), changed(&key)?) else { return Ok(false) };
        if values.len() != entry.shape.iter().product::<usize>() {
            let problem = format!("{} numbers for a tensor of shape {:?}", values.len(), entry.shape);
            return Err(WeightError::Evaluation { weight: key, problem });
        }
        for block in values.chunks(BLOCK / 4) {
            count(output(&encoded(entry, dtype, block)?)?);
        }
        Ok(true)
    })
}

/// New numbers of the tensor with this key, if it has any.
type Changed<'c> = &'c mut dyn FnMut(&str) -> Result<Option<Vec<f32>>, WeightError>;

/// Writes an entry's bytes and counts them, or says that they stay.
type Put<'p> = &'p mut dyn FnMut(&Entry, Output<'_>, &mut dyn FnMut(usize)) -> Result<bool, WeightError>;

/// Writes bytes and gives their number back.
type Output<'o> = &'o mut dyn FnMut(&[u8]) -> Result<usize, WeightError>;

/// Every file with its header; `put` writes an entry's bytes, or says that they stay.
fn rewrite(base: &Checkpoint, folder: &Path, progress: &mut dyn FnMut(u64, u64), put: Put<'_>) -> Result<(), WeightError> {
    let total: u64 = base.files().iter().map(Mapped::size).sum();
    let mut done = 0;
    for file in base.files() {
        let name = file
            .path
            .file_name()
            .ok_or_else(|| WeightError::Folder { path: file.path.clone(), problem: "it has no name".into() })?;
        let target = folder.join(name);
        let unwritable = |source| WeightError::Unwritable { path: target.clone(), source };
        let mut output = BufWriter::with_capacity(1 << 20, File::create(&target).map_err(unwritable)?);
        let mut count = |bytes: usize| {
            done += bytes as u64;
            progress(done, total);
        };
        // Names, types, sizes and places stay as they are.
        output.write_all(file.header()).map_err(unwritable)?;
        count(file.header().len());
        for entry in &file.entries {
            // The pages are copied or merged next: looked through here, they come from the disk once.
            file.not_finite(entry).map_or(Ok(()), Err)?;
            let mut write = |bytes: &[u8]| output.write_all(bytes).map(|()| bytes.len()).map_err(unwritable);
            if !put(entry, &mut write, &mut count)? {
                copy(file.bytes(entry), &mut output, &mut count).map_err(unwritable)?;
            }
        }
        let written = output.into_inner().map_err(|error| unwritable(error.into_error()))?;
        written.sync_all().map_err(unwritable)?;
    }
    Ok(())
}

/// Numbers in the base's type; what that type cannot hold is refused.
fn encoded(entry: &Entry, dtype: DType, values: &[f32]) -> Result<Vec<u8>, WeightError> {
    let bytes = dtype.encode(values);
    match non_finite(dtype, &bytes) {
        None => Ok(bytes),
        Some((_, value)) => Err(WeightError::Overflow { weight: entry.name.clone(), value, dtype }),
    }
}

/// The merged matrix that takes an entry's place, and its type.
fn adapted(adapter: &Adapter, entry: &Entry) -> Option<(Weight, DType)> {
    let key = hub_key(&entry.name);
    let module = key.strip_suffix(".weight")?;
    let adaption = adapter.adaption(module)?;
    let weight = Weight::Adapted {
        base: Box::new(Weight::Key(key.clone())),
        module: module.to_string(),
        rank: adaption.rank,
        scale_bits: adaption.scale.to_bits(),
        magnitude: adaption.magnitude,
    };
    Some((weight, DType::from_name(&entry.dtype)?))
}

fn copy(bytes: &[u8], output: &mut impl Write, count: &mut impl FnMut(usize)) -> io::Result<()> {
    for piece in bytes.chunks(BLOCK) {
        output.write_all(piece)?;
        count(piece.len());
    }
    Ok(())
}
