//! Weights in few bits, laid out for the kernels.

use crate::{BLOCK, Workers, each_part};

/// Outputs whose weights lie together.
pub(super) const GROUP: usize = 16;
/// Neighbours in a row that an instruction adds up.
pub(super) const FOUR: usize = 4;

/// Bits of a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bits {
    /// Two codes a byte, the lower half first; 8 stands for zero.
    Four,
    /// 128 stands for zero.
    Eight,
}

impl Bits {
    /// The code of zero.
    pub(super) fn zero(self) -> i32 {
        match self {
            Bits::Four => 8,
            Bits::Eight => 128,
        }
    }

    /// Bytes of a block of one output.
    pub const fn bytes(self) -> usize {
        match self {
            Bits::Four => BLOCK / 2,
            Bits::Eight => BLOCK,
        }
    }
}

/// A matrix of weights in blocks, laid out for the kernels: of sixteen outputs and a block first the first four inputs of each output, then the next four.
/// With 4 bits the lower halves of the bytes are four inputs, the upper ones the next four.
pub struct Weights {
    pub(super) bits: Bits,
    /// `[groups, blocks, bytes of a block / 4, GROUP, 4]`
    codes: Vec<Codes>,
    /// `[groups, blocks, GROUP]`
    scales: Vec<[f32; GROUP]>,
    pub(super) outputs: usize,
    pub(super) blocks: usize,
}

/// Four bytes of each output of a group.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Codes(pub(super) [u8; GROUP * FOUR]);

impl Weights {
    /// From what MatMulNBits stores: `codes` `[outputs, blocks, bytes of a block]` with their `scales` `[outputs, blocks]`; `None` if the sizes do not fit.
    pub fn new(
        bits: Bits,
        codes: &[u8],
        scales: &[f32],
        outputs: usize,
        inputs: usize,
        workers: &dyn Workers,
    ) -> Option<Weights> {
        let blocks = inputs.div_ceil(BLOCK);
        let row = blocks * bits.bytes();
        let sizes = outputs.checked_mul(blocks).zip(outputs.checked_mul(row));
        if outputs == 0 || blocks == 0 || sizes != Some((scales.len(), codes.len())) {
            return None;
        }
        let groups = outputs.div_ceil(GROUP);
        let lines = row / FOUR;
        let mut laid = Vec::with_capacity(groups * lines);
        in_large_pages(laid.spare_capacity_mut());
        // What stands in outputs beyond the last one is multiplied and left.
        laid.resize(groups * lines, Codes([0; GROUP * FOUR]));
        let mut laid_scales = vec![[0.0; GROUP]; groups * blocks];
        let groups_of_a_part = groups.div_ceil(workers.count()).max(1);
        let stored = codes.chunks(groups_of_a_part * GROUP * row).zip(scales.chunks(groups_of_a_part * GROUP * blocks));
        let places = laid.chunks_mut(groups_of_a_part * lines).zip(laid_scales.chunks_mut(groups_of_a_part * blocks));
        each_part(stored.zip(places).collect(), workers, |((codes, scales), (laid, laid_scales))| {
            for (output, (codes, scales)) in codes.chunks_exact(row).zip(scales.chunks_exact(blocks)).enumerate() {
                let (group, lane) = (output / GROUP, output % GROUP);
                lay(bits, codes, &mut laid[group * lines..(group + 1) * lines], lane);
                let places = &mut laid_scales[group * blocks..(group + 1) * blocks];
                places.iter_mut().zip(scales).for_each(|(place, scale)| place[lane] = *scale);
            }
        });
        Some(Weights { bits, codes: laid, scales: laid_scales, outputs, blocks })
    }

    /// The lines and scales of a group.
    pub(super) fn group(&self, group: usize) -> (&[Codes], &[[f32; GROUP]]) {
        let lines = self.blocks * self.bits.bytes() / FOUR;
        (&self.codes[group * lines..(group + 1) * lines], &self.scales[group * self.blocks..(group + 1) * self.blocks])
    }
}

/// Lays the codes of an output into its lane of its group's lines.
fn lay(bits: Bits, codes: &[u8], lines: &mut [Codes], lane: usize) {
    for (line, four) in lines.iter_mut().zip(codes.as_chunks::<FOUR>().0) {
        let apart = match (bits, *four) {
            (Bits::Eight, four) => four,
            (Bits::Four, [a, b, c, d]) => [a & 15 | c << 4, a >> 4 | c & 240, b & 15 | d << 4, b >> 4 | d & 240],
        };
        line.0[lane * FOUR..][..FOUR].copy_from_slice(&apart);
    }
}

/// Asks for large pages: weights are read from end to end at every step, and small ones cost a look-up each.
fn in_large_pages(memory: &mut [std::mem::MaybeUninit<Codes>]) {
    const PAGE: usize = 4096;
    const LARGE: usize = 2 << 20;
    let whole = memory.as_mut_ptr_range();
    let first = whole.start.wrapping_byte_add(whole.start.align_offset(PAGE) * size_of::<Codes>());
    let bytes = (whole.end as usize).saturating_sub(first as usize) / PAGE * PAGE;
    if bytes >= LARGE {
        // SAFETY: the pages lie within the memory, and the advice changes nothing that can be read from it. Where it is not taken, small pages stay.
        let _ = unsafe { rustix::mm::madvise(first.cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
    }
}
