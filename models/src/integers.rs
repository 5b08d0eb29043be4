//! Products of few bits over the whole range of the codes, small enough to be known in whole numbers.
//!
//! ONNX Runtime takes another kernel for each class of processors, and one of them saturates in silence where codes are too large for it
//! (docs/exporter.md, `int8`). A bundle's answers must not depend on the machine, so a processor is asked for these products before it serves: the
//! exporter writes them as one graph, the appliance has it computed and compares.

/// Numbers of a sum: each partial sum of them is a whole number that f32 holds.
pub const INPUTS: usize = 512;
/// Sums of a row.
pub const OUTPUTS: usize = 16;
/// Weights that share a scale where a product has blocks.
pub const BLOCK: usize = 128;
/// Of a convolution's bytes, a power of two so that a sum's share of it is exact; the largest sum is within a byte.
pub const STEP: f32 = 32768.0;

/// How bundles in few bits multiply. All scales are 1, but for the bytes of a convolution.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Product {
    /// Unsigned codes of activations, 128 standing for 0, with signed ones of 7 bits.
    Channels,
    /// Unsigned bytes with signed codes of 7 bits, into bytes of [`STEP`].
    Convolution,
    /// Numbers, brought to 8 bits a block, with so many bits.
    Blocks(usize),
}

impl Product {
    /// All of them.
    pub const ALL: [Product; 4] = [Product::Channels, Product::Convolution, Product::Blocks(4), Product::Blocks(8)];

    /// The name of its result in the graph.
    pub fn name(self) -> &'static str {
        match self {
            Product::Channels => "channels",
            Product::Convolution => "convolution",
            Product::Blocks(4) => "blocks of 4 bits",
            Product::Blocks(_) => "blocks of 8 bits",
        }
    }

    /// The least and the largest weight.
    pub fn range(self) -> [i32; 2] {
        match self {
            Product::Channels | Product::Convolution => [-63, 63],
            Product::Blocks(bits) => [-(1 << (bits - 1)), (1 << (bits - 1)) - 1],
        }
    }

    /// A weight: of each two outputs one has all of them at an end of the range.
    pub fn weight(self, output: usize, input: usize) -> i32 {
        let [least, largest] = self.range();
        match output % 4 {
            0 => least,
            2 => largest,
            _ => (output as i32 * 31 + input as i32 * 17) % (largest - least + 1) + least,
        }
    }

    /// What the product of a row of activations with the weights of an output is.
    pub fn expected(self, row: usize, output: usize) -> f32 {
        let sum =
            |shift: i32| -> i32 { (0..INPUTS).map(|input| (activation(row, input) + shift) * self.weight(output, input)).sum() };
        match self {
            Product::Channels | Product::Blocks(_) => sum(0) as f32,
            Product::Convolution => (sum(128) as f32 / STEP).round_ties_even().clamp(0.0, 255.0),
        }
    }

    /// How far a result may be off: the last bit of a scale, but nothing where it is a byte.
    pub fn allowed(self) -> f32 {
        match self {
            Product::Channels | Product::Blocks(_) => 1.0,
            Product::Convolution => 0.0,
        }
    }
}

/// The activation of a row at a place, -127 to 127: the first row is all at the end of the range, so is the second by magnitude, and every block of
/// the others holds 127, by which its scale becomes 1.
pub fn activation(row: usize, input: usize) -> i32 {
    match row % 3 {
        0 => 127,
        1 if input.is_multiple_of(2) => 127,
        1 => -127,
        _ if input.is_multiple_of(BLOCK) => 127,
        _ => ((row * 7 + input * 13) % 255) as i32 - 127,
    }
}
