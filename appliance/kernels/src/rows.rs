//! Activations in 8 bits.

use crate::lanes::Lanes;
use crate::processor::Work;
use crate::{BLOCK, Processor, ROUND, Workers, each_part};

/// Numbers below this many are not worth a second thread.
const FEW: usize = 1 << 16;

/// Rows of numbers in codes of 8 bits, each block of a row with its scale: `x = scale * code`, codes from -127 to 127.
#[derive(Default)]
pub struct Rows {
    blocks: Vec<Block>,
    /// Blocks of a row.
    each: usize,
}

/// A block of a row.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Block {
    pub codes: [i8; BLOCK],
    pub sum: i32,
    pub scale: f32,
}

impl Block {
    const ZERO: Block = Block { codes: [0; BLOCK], sum: 0, scale: 0.0 };
}

impl Rows {
    /// Takes rows of so many numbers. A number that is none makes its block's scale one that is none.
    pub fn take(&mut self, processor: Processor, numbers: &[f32], inputs: usize, workers: &dyn Workers) {
        assert!(inputs > 0 && numbers.len().is_multiple_of(inputs), "whole rows");
        self.each = inputs.div_ceil(BLOCK);
        let count = numbers.len() / inputs;
        self.blocks.resize(count * self.each, Block::ZERO);
        let parts = if numbers.len() < FEW { 1 } else { workers.count() };
        let rows = count.div_ceil(parts).max(1);
        let parts = numbers.chunks(rows * inputs).zip(self.blocks.chunks_mut(rows * self.each)).collect();
        each_part(parts, workers, |(numbers, blocks)| processor.run(Fill { numbers, inputs, blocks }));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.blocks.len() / self.each.max(1)
    }

    /// Blocks of a row.
    pub fn blocks(&self) -> usize {
        self.each
    }

    /// The blocks of a row.
    pub(crate) fn row(&self, row: usize) -> &[Block] {
        &self.blocks[row * self.each..(row + 1) * self.each]
    }
}

/// Brings rows to 8 bits.
struct Fill<'a> {
    numbers: &'a [f32],
    inputs: usize,
    blocks: &'a mut [Block],
}

impl Work for Fill<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let mut blocks = self.blocks.iter_mut();
        for row in self.numbers.chunks_exact(self.inputs) {
            let (whole, rest) = row.as_chunks::<BLOCK>();
            whole.iter().zip(&mut blocks).for_each(|(numbers, block)| fill(block, numbers));
            if !rest.is_empty()
                && let Some(block) = blocks.next()
            {
                let mut numbers = [0.0; BLOCK];
                numbers[..rest.len()].copy_from_slice(rest);
                fill(block, &numbers);
            }
        }
    }
}

/// Brings a block of numbers to 8 bits.
#[inline(always)]
fn fill(block: &mut Block, numbers: &[f32; BLOCK]) {
    // As whole numbers, magnitudes keep their order, and what is no number is the largest.
    let most = f32::from_bits(numbers.iter().fold(0u32, |most, number| most.max(number.to_bits() & !(1 << 31))));
    let back = 127.0 / most;
    // Numbers so small that the reciprocal is none (below 4e-37) become zeros.
    let back = if back.is_finite() { back } else { 0.0 };
    let mut sum = 0;
    for (code, number) in block.codes.iter_mut().zip(numbers) {
        let whole = (number * back + ROUND).to_bits() as i8;
        *code = whole;
        sum += i32::from(whole);
    }
    block.sum = sum;
    block.scale = most / 127.0;
}
