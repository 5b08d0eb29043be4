//! Which instructions there are.

use crate::lanes::{self, LANES, Lanes};

/// A class of processors, by what their kernels use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Processor {
    /// AVX-512 with dot products of bytes (VNNI): servers since 2019, Zen 4.
    Avx512,
    /// AVX2: all since 2015.
    Avx2,
    /// No instructions beyond those of the platform.
    Plain,
}

impl Processor {
    /// All classes, the best first.
    pub const ALL: [Processor; 3] = [Processor::Avx512, Processor::Avx2, Processor::Plain];

    /// The best class of this machine.
    pub fn here() -> Processor {
        Processor::ALL.into_iter().find(|class| class.is_here()).unwrap_or(Processor::Plain)
    }

    /// Whether this machine runs this class's kernels.
    pub fn is_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            match self {
                Processor::Avx512 => {
                    avx2 && is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512dq")
                        && is_x86_feature_detected!("avx512vl")
                        && is_x86_feature_detected!("avx512vnni")
                }
                Processor::Avx2 => avx2,
                Processor::Plain => true,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Processor::Plain
        }
    }
}

/// What is compiled for the instructions of each class: `run` and all that it calls must be inlined.
pub(crate) trait Work {
    /// # Safety
    /// The processor must have the instructions of the lanes' class.
    unsafe fn run<L: Lanes>(self);
}

impl Processor {
    /// Runs `work` with the instructions of this class.
    pub(crate) fn run(self, work: impl Work) {
        assert!(self.is_here(), "a class's kernels run on its processors alone");
        match self {
            // SAFETY: the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Processor::Avx512 => unsafe { avx512(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Processor::Avx2 => unsafe { avx2(work) },
            // SAFETY: these lanes need no instructions of a class.
            _ => unsafe { work.run::<[f32; LANES]>() },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
fn avx512(work: impl Work) {
    // SAFETY: the instructions are this function's.
    unsafe { work.run::<lanes::Avx512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(work: impl Work) {
    // SAFETY: the instructions are this function's.
    unsafe { work.run::<lanes::Avx2>() }
}
