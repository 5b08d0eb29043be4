//! Stage 1: a Qwen2.5-VL describer is tuned on images and their descriptions (LoRA, arXiv 2106.09685; rsLoRA, arXiv 2312.03732; DoRA, arXiv
//! 2402.09353).

mod adapter;
mod checkpoint;
mod describer;
mod examples;
mod images;
mod items;
mod known_answers;
mod loader;
pub mod memory;
mod order;
mod recipe;
mod sample;
mod save;
mod schedule;
mod setting;
mod step;
mod train;
mod validate;

pub use adapter::{check_targets, write_start};
pub use describer::{Describer, Trained, graphs, image_embeds};
pub use images::Images;
pub use items::{Item, Templates};
pub use order::windows;
pub use recipe::{AdapterKeys, BaseDtype, EndToken, Method, Recipe, Targets};
pub use sample::{Batch, Image, Sample, UNLABELLED};
pub use schedule::{Schedule, Shape};
pub use setting::Training;
pub use step::{Stepped, step, without_gradient};
pub use train::{Outcome, base_kind, trained};
