//! Whether this processor multiplies few bits rightly: [`mmlnb_models::integers`] at each start.

use mmlnb_models::bundle::Precision;
use mmlnb_models::integers::{INPUTS, OUTPUTS, Product, activation};
use ort::session::Session;
use ort::value::Tensor;

use super::EngineError;
use super::runtime::Runtime;

/// The graph of all products, as the exporter writes it (`exporter/tests/onnx/integers.rs`).
const GRAPH: &[u8] = include_bytes!("integers.onnx");
/// Rows of a call: kernels take several at once, and have others for those that are left over.
const ROWS: [usize; 4] = [1, 2, 5, 40];

/// Has codes of the whole range multiplied, where a bundle at `precision` does so, and compares.
///
/// # Errors
/// A product is wrong, or cannot be computed.
pub(super) fn check(runtime: &Runtime, precision: Precision) -> Result<(), EngineError> {
    if !precision.few_bits() {
        return Ok(());
    }
    let failed = |error: ort::Error| runtime.error("products of whole numbers cannot be checked", &error);
    let mut session = runtime.with_own_kernels().and_then(|mut builder| builder.commit_from_memory(GRAPH)).map_err(failed)?;
    for rows in ROWS {
        let found = products(&mut session, rows).map_err(failed)?;
        Product::ALL.iter().zip(&found).try_for_each(|(product, found)| compare(*product, rows, found))?;
    }
    Ok(())
}

/// The products of so many rows of activations, `[rows, OUTPUTS]` each.
fn products(session: &mut Session, rows: usize) -> ort::Result<Vec<Vec<f32>>> {
    let numbers = || (0..rows * INPUTS).map(|place| activation(place / INPUTS, place % INPUTS));
    let codes: Vec<u8> = numbers().map(|number| (number + 128) as u8).collect();
    let outputs = session.run(ort::inputs! {
        "codes" => Tensor::from_array(([rows, INPUTS], codes.clone()))?,
        "pixels" => Tensor::from_array(([rows, INPUTS, 1, 1], codes))?,
        "numbers" => Tensor::from_array(([rows, INPUTS], numbers().map(|number| number as f32).collect::<Vec<_>>()))?,
    })?;
    let of = |product: &Product| {
        let found = &outputs[product.name()];
        match product {
            Product::Channels | Product::Blocks(_) => Ok(found.try_extract_tensor::<f32>()?.1.to_vec()),
            Product::Convolution => Ok(found.try_extract_tensor::<u8>()?.1.iter().map(|byte| f32::from(*byte)).collect()),
        }
    };
    Product::ALL.iter().map(of).collect()
}

/// Each number must be the whole one that it stands for.
fn compare(product: Product, rows: usize, found: &[f32]) -> Result<(), EngineError> {
    for (row, output) in (0..rows).flat_map(|row| (0..OUTPUTS).map(move |output| (row, output))) {
        let expected = product.expected(row, output);
        let found = found.get(row * OUTPUTS + output).copied().unwrap_or(f32::NAN);
        let right = (found - expected).abs() <= product.allowed();
        if !right {
            return Err(EngineError::Bundle(format!(
                "this processor multiplies few bits wrongly, with this ONNX Runtime or our own kernels ({}: {found} instead of {expected}): \
                 a description would be another one here; export the bundle with --precision f32 for this machine",
                product.name()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::EngineOptions;
    use super::*;

    /// Runs on an emulated processor too: `qemu-x86_64 -cpu Haswell` with this test's name.
    #[test]
    fn this_processor_multiplies_whole_numbers() {
        let precision = Precision::Int4Int8;
        check(&Runtime::open(&EngineOptions::default(), precision).unwrap(), precision).unwrap();
    }

    #[test]
    fn a_sum_that_saturates_is_found() {
        for product in Product::ALL {
            let right: Vec<f32> = (0..2 * OUTPUTS).map(|place| product.expected(place / OUTPUTS, place % OUTPUTS)).collect();
            compare(product, 2, &right).unwrap();
            let most = if product == Product::Convolution { 127.0 } else { 32767.0 };
            let saturated: Vec<f32> = right.iter().map(|sum| sum.clamp(-most, most)).collect();
            let told = compare(product, 2, &saturated).unwrap_err().to_string();
            assert!(told.contains(&format!("{most} instead of")), "{told}");
            assert!(compare(product, 2, &[]).is_err(), "nothing is no answer");
        }
    }
}
