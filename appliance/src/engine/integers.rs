//! Whether this processor multiplies few bits rightly: small products over the whole range of the codes, compared with whole-number arithmetic at each
//! start.
//!
//! ONNX Runtime takes another kernel for each class of processors, and one of them saturates in silence where codes are too large for it
//! (docs/exporter.md, `int8`). What it gives must not depend on the machine, so this one is asked before it serves.

use mmlnb_models::bundle::Precision;
use ort::editor::{Graph, Model, Node, Opset};
use ort::memory::Allocator;
use ort::operator::Attribute;
use ort::session::Session;
use ort::value::{Outlet, Shape, SymbolicDimensions, Tensor, TensorElementType, ValueType};

use super::EngineError;
use super::runtime::Runtime;

/// Numbers of a sum: each partial sum of them is a whole number that f32 holds.
const INPUTS: usize = 512;
const OUTPUTS: usize = 16;
/// Rows of a product: one, a pair and many have kernels of their own.
const ROWS: [usize; 4] = [1, 2, 5, 40];
/// Weights that share a scale in MatMulNBits.
const BLOCK: usize = 128;
/// Of a convolution's results, a power of two so that a sum's share of it is exact; the largest sum is within a byte.
const STEP: f32 = 32768.0;
const MICROSOFT: &str = "com.microsoft";

/// The operators that a bundle in few bits is multiplied with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Product {
    /// MatMulIntegerToFloat: unsigned codes of activations with signed ones of 7 bits.
    Channels,
    /// MatMulNBits with so many bits, on activations in 8.
    Blocks(usize),
    /// QLinearConv: unsigned bytes with signed codes of 7 bits, into bytes.
    Convolution,
}

/// Multiplies codes of the whole range, with the operators of a bundle at `precision`, and compares.
///
/// # Errors
/// A product is wrong, or cannot be computed.
pub(super) fn check(runtime: &Runtime, precision: Precision) -> Result<(), EngineError> {
    let products: &[Product] = match precision {
        Precision::F32 | Precision::F16 | Precision::Bf16 => &[],
        Precision::Int8 => &[Product::Channels, Product::Convolution],
        Precision::Int4 | Precision::Int4Int8 => {
            &[Product::Channels, Product::Convolution, Product::Blocks(4), Product::Blocks(8)]
        }
    };
    for product in products {
        let failed = |error: ort::Error| runtime.error("products of whole numbers cannot be checked", &error);
        let mut session = product.session(runtime).map_err(failed)?;
        for rows in ROWS {
            let found = product.run(&mut session, rows).map_err(failed)?;
            product.compare(rows, &found)?;
        }
    }
    Ok(())
}

/// The activation of a row at a place, -127 to 127: the first row is all at the end of the range, so is the second by magnitude, and every block of
/// the others holds 127, by which its scale becomes 1.
fn activation(row: usize, input: usize) -> i32 {
    match row % 3 {
        0 => 127,
        1 if input.is_multiple_of(2) => 127,
        1 => -127,
        _ if input.is_multiple_of(BLOCK) => 127,
        _ => ((row * 7 + input * 13) % 255) as i32 - 127,
    }
}

impl Product {
    /// The operator's name.
    fn operator(self) -> &'static str {
        match self {
            Product::Channels => "MatMulIntegerToFloat",
            Product::Blocks(_) => "MatMulNBits",
            Product::Convolution => "QLinearConv",
        }
    }

    /// Shape of its activations or its results for so many rows (-1: any) of `width`: a convolution's image is a single pixel.
    fn shape(self, rows: i64, width: usize) -> Vec<i64> {
        match self {
            Product::Channels | Product::Blocks(_) => vec![rows, width as i64],
            Product::Convolution => vec![rows, width as i64, 1, 1],
        }
    }

    /// The least and the largest weight.
    fn range(self) -> [i32; 2] {
        match self {
            Product::Channels | Product::Convolution => [-63, 63],
            Product::Blocks(bits) => [-(1 << (bits - 1)), (1 << (bits - 1)) - 1],
        }
    }

    /// A weight: of each two outputs one has all of them at an end of the range.
    fn weight(self, output: usize, input: usize) -> i32 {
        let [least, largest] = self.range();
        match output % 4 {
            0 => least,
            2 => largest,
            _ => (output as i32 * 31 + input as i32 * 17) % (largest - least + 1) + least,
        }
    }

    /// A session of this one product, prepared as a bundle's weights are.
    fn session(self, runtime: &Runtime) -> ort::Result<Session> {
        let mut graph = Graph::new()?;
        let (bytes, floats) = (TensorElementType::Uint8, TensorElementType::Float32);
        let (of_x, of_y, domain) = match self {
            Product::Channels => (bytes, floats, MICROSOFT),
            Product::Blocks(_) => (floats, floats, MICROSOFT),
            Product::Convolution => (bytes, bytes, ""),
        };
        graph.set_inputs([outlet("x", of_x, self.shape(-1, INPUTS))])?;
        graph.set_outputs([outlet("y", of_y, self.shape(-1, OUTPUTS))])?;
        let inputs = self.weights(&mut graph)?;
        graph.add_node(Node::new(self.operator(), domain, "product", inputs, ["y"], self.attributes()?)?)?;
        let mut model = Model::new([Opset::new("", 21)?, Opset::new(MICROSOFT, 1)?])?;
        model.set_graph(graph)?;
        model.into_session(&runtime.builder()?)
    }

    /// Puts codes and scales, all 1, into a graph; the operator's inputs.
    fn weights(self, graph: &mut Graph) -> ort::Result<Vec<&'static str>> {
        match self {
            Product::Channels => {
                graph.add_initializer("one", filled::<f32>(&[], |_| 1.0)?, false)?;
                graph.add_initializer("scales", filled::<f32>(&[OUTPUTS], |_| 1.0)?, false)?;
                graph.add_initializer("zero", filled::<u8>(&[], |_| 128)?, false)?;
                let codes = filled::<i8>(&[INPUTS, OUTPUTS], |place| self.weight(place % OUTPUTS, place / OUTPUTS) as i8)?;
                graph.add_initializer("codes", codes, false)?;
                Ok(vec!["x", "codes", "one", "scales", "zero"])
            }
            Product::Convolution => {
                graph.add_initializer("one", filled::<f32>(&[], |_| 1.0)?, false)?;
                graph.add_initializer("step", filled::<f32>(&[], |_| STEP)?, false)?;
                graph.add_initializer("zero", filled::<u8>(&[], |_| 0)?, false)?;
                graph.add_initializer("scales", filled::<f32>(&[OUTPUTS], |_| 1.0)?, false)?;
                graph.add_initializer("zeros", filled::<i8>(&[OUTPUTS], |_| 0)?, false)?;
                let codes = |place: usize| self.weight(place / INPUTS, place % INPUTS) as i8;
                graph.add_initializer("codes", filled::<i8>(&[OUTPUTS, INPUTS, 1, 1], codes)?, false)?;
                Ok(vec!["x", "one", "zero", "codes", "scales", "zeros", "step", "zero"])
            }
            Product::Blocks(bits) => {
                let (blocks, per_byte) = (INPUTS / BLOCK, 8 / bits);
                let least = self.range()[0];
                let byte = |place: usize| {
                    let (output, first) = (place * per_byte / INPUTS, place * per_byte % INPUTS);
                    let code = |part: usize| (self.weight(output, first + part) - least) << (part * bits);
                    (0..per_byte).map(code).sum::<i32>() as u8
                };
                graph.add_initializer("codes", filled::<u8>(&[OUTPUTS, blocks, BLOCK * bits / 8], byte)?, false)?;
                graph.add_initializer("scales", filled::<f32>(&[OUTPUTS, blocks], |_| 1.0)?, false)?;
                Ok(vec!["x", "codes", "scales"])
            }
        }
    }

    fn attributes(self) -> ort::Result<Vec<Attribute>> {
        let Product::Blocks(bits) = self else { return Ok(Vec::new()) };
        let settings = [("K", INPUTS), ("N", OUTPUTS), ("bits", bits), ("block_size", BLOCK), ("accuracy_level", 4)];
        settings.into_iter().map(|(name, value)| Attribute::new(name, value as i64)).collect()
    }

    /// The product of so many rows of activations, `[rows, OUTPUTS]`.
    fn run(self, session: &mut Session, rows: usize) -> ort::Result<Vec<f32>> {
        let place = |place: usize| activation(place / INPUTS, place % INPUTS);
        let shape: Vec<usize> = self.shape(rows as i64, INPUTS).into_iter().map(|size| size as usize).collect();
        let x = match self {
            Product::Channels | Product::Convolution => filled::<u8>(&shape, |at| (place(at) + 128) as u8)?.upcast(),
            Product::Blocks(_) => filled::<f32>(&shape, |at| place(at) as f32)?.upcast(),
        };
        let outputs = session.run(ort::inputs! { "x" => x })?;
        match self {
            Product::Channels | Product::Blocks(_) => Ok(outputs["y"].try_extract_tensor::<f32>()?.1.to_vec()),
            Product::Convolution => Ok(outputs["y"].try_extract_tensor::<u8>()?.1.iter().map(|byte| f32::from(*byte)).collect()),
        }
    }

    /// What a row's product with the weights of an output is, in whole numbers.
    fn expected(self, row: usize, output: usize) -> f32 {
        let sum =
            |shift: i32| -> i32 { (0..INPUTS).map(|input| (activation(row, input) + shift) * self.weight(output, input)).sum() };
        match self {
            Product::Channels | Product::Blocks(_) => sum(0) as f32,
            Product::Convolution => (sum(128) as f32 / STEP).round_ties_even().clamp(0.0, 255.0),
        }
    }

    /// How far a result may be off: the last bit of a scale, but nothing where it is a byte.
    fn allowed(self) -> f32 {
        match self {
            Product::Channels | Product::Blocks(_) => 1.0,
            Product::Convolution => 0.0,
        }
    }

    /// Each number must be the whole one that it stands for.
    fn compare(self, rows: usize, found: &[f32]) -> Result<(), EngineError> {
        for row in 0..rows {
            for output in 0..OUTPUTS {
                let expected = self.expected(row, output);
                let found = found.get(row * OUTPUTS + output).copied().unwrap_or(f32::NAN);
                if (found - expected).abs() <= self.allowed() {
                    continue;
                }
                return Err(EngineError::Bundle(format!(
                    "this processor multiplies few bits wrongly with this ONNX Runtime ({} gave {found} instead of {expected}): \
                     a description would be another one here; export the bundle with --precision f32 for this machine",
                    self.operator()
                )));
            }
        }
        Ok(())
    }
}

fn outlet(name: &str, ty: TensorElementType, shape: Vec<i64>) -> Outlet {
    let dimension_symbols = SymbolicDimensions::empty(shape.len());
    Outlet::new(name, ValueType::Tensor { ty, shape: Shape::new(shape), dimension_symbols })
}

/// A tensor in ONNX Runtime's memory with a number for each place.
fn filled<T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Clone>(
    shape: &[usize],
    number: impl Fn(usize) -> T,
) -> ort::Result<Tensor<T>> {
    let mut tensor = Tensor::<T>::new(&Allocator::default(), shape.iter().map(|size| *size as i64).collect::<Vec<_>>())?;
    tensor.extract_tensor_mut().1.iter_mut().enumerate().for_each(|(place, value)| *value = number(place));
    Ok(tensor)
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
        for product in [Product::Channels, Product::Convolution, Product::Blocks(4), Product::Blocks(8)] {
            let right: Vec<f32> = (0..2 * OUTPUTS).map(|place| product.expected(place / OUTPUTS, place % OUTPUTS)).collect();
            product.compare(2, &right).unwrap();
            let most = if product == Product::Convolution { 127.0 } else { 32767.0 };
            let saturated: Vec<f32> = right.iter().map(|sum| sum.clamp(-most, most)).collect();
            let told = product.compare(2, &saturated).unwrap_err().to_string();
            assert!(told.contains(&format!("{most} instead of")), "{told}");
            assert!(product.compare(2, &[]).is_err(), "nothing is no answer");
        }
    }
}
