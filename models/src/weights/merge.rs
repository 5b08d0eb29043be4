//! `W + scale * B A`, in f32 and by rows; with DoRA each row brought to its stored length.

use super::{Adapter, WeightError};
use std::ops::Range;

/// Numbers of A's columns worked on at a time: with rank 64 they stay in the second-level cache.
const COLUMNS: usize = 1024;

/// Below this many multiplications one thread is faster.
const SMALL: usize = 1 << 22;

/// Changes `values`, the rows `range` of the base's matrix, into those of the merged matrix.
///
/// The length of a row (DoRA) depends on that row alone, so that any cut into rows gives the same numbers.
pub(super) fn merge(
    adapter: &Adapter,
    module: &str,
    scale: f64,
    range: Range<usize>,
    values: &mut [f32],
) -> Result<(), WeightError> {
    let failed = |problem: String| WeightError::Evaluation { weight: format!("{module}.weight"), problem };
    let (Some(a), Some(b)) = (adapter.a(module), adapter.b(module)) else {
        return Err(failed(format!("the adapter {} has no tensors for it", adapter.path().display())));
    };
    let (rank, inputs) = (a.rows(), a.row_len());
    if values.len() != range.len() * inputs || range.end > b.rows() {
        return Err(failed(format!("the adapter is for [{}, {inputs}], the base has other sizes", b.rows())));
    }
    let a = a.decode(0..rank);
    let b = b.decode(range.clone());
    in_parallel(values, &b, inputs, rank, |rows, b| add_product(rows, &a, b, inputs, rank, scale as f32));
    if let Some(magnitude) = adapter.magnitude(module) {
        let lengths = magnitude.decode(range.clone());
        for (i, (row, length)) in values.chunks_exact_mut(inputs).zip(lengths).enumerate() {
            let norm = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
            if norm == 0.0 {
                return Err(failed(format!("row {} has length 0, DoRA cannot bring it to {length}", range.start + i)));
            }
            let factor = length / norm as f32;
            row.iter_mut().for_each(|v| *v *= factor);
        }
    }
    Ok(())
}

/// Shares rows and their part of B between threads.
fn in_parallel(values: &mut [f32], b: &[f32], inputs: usize, rank: usize, work: impl Fn(&mut [f32], &[f32]) + Sync) {
    let rows = b.len() / rank;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if threads == 1 || rows * rank * inputs < SMALL {
        return work(values, b);
    }
    let each = rows.div_ceil(threads);
    std::thread::scope(|scope| {
        for (values, b) in values.chunks_mut(each * inputs).zip(b.chunks(each * rank)) {
            scope.spawn(|| work(values, b));
        }
    });
}

/// `rows += scale * b a`.
fn add_product(rows: &mut [f32], a: &[f32], b: &[f32], inputs: usize, rank: usize, scale: f32) {
    let mut product = [0.0f32; COLUMNS];
    for start in (0..inputs).step_by(COLUMNS) {
        let columns = start..(start + COLUMNS).min(inputs);
        let product = &mut product[..columns.len()];
        for (row, factors) in rows.chunks_exact_mut(inputs).zip(b.chunks_exact(rank)) {
            product.fill(0.0);
            for (factors, a) in factors.chunks(4).zip(a.chunks(4 * inputs)) {
                add_rows(product, factors, |r| &a[r * inputs..][columns.clone()]);
            }
            row[columns.clone()].iter_mut().zip(&*product).for_each(|(w, p)| *w += scale * p);
        }
    }
}

/// `product += sum of factor r * row r`: four rows at a time, which halves the traffic of `product` and doubles the speed, or up to three.
fn add_rows<'a>(product: &mut [f32], factors: &[f32], row: impl Fn(usize) -> &'a [f32]) {
    if let [f0, f1, f2, f3] = factors {
        for ((((p, a0), a1), a2), a3) in product.iter_mut().zip(row(0)).zip(row(1)).zip(row(2)).zip(row(3)) {
            *p += (f0 * a0 + f1 * a1) + (f2 * a2 + f3 * a3);
        }
        return;
    }
    for (r, factor) in factors.iter().enumerate() {
        product.iter_mut().zip(row(r)).for_each(|(p, a)| *p += factor * a);
    }
}
