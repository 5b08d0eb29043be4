//! Stage 1: a Qwen2.5-VL describer is tuned on images and their descriptions (facts of the method: LoRA, arXiv 2106.09685; rsLoRA, arXiv
//! 2312.03732; DoRA, arXiv 2402.09353).

mod describer;
mod sample;
mod schedule;
mod step;

pub use describer::{Describer, Trained, graphs, image_embeds};
pub use sample::{Batch, Image, Sample, UNLABELLED};
pub use schedule::{Schedule, Shape};
pub use step::{Stepped, step, without_gradient};
