//! Stage 2: the classifier and its curriculum (MMLNB, arXiv 2503.12927).

mod network;
mod schedule;
mod step;

pub use network::{Batch, Images, Mode, Network, Texts, TrainingPass};
pub use schedule::{Curriculum, Frozen, LambdaSchedule};
pub use step::{StepOptions, StepResult, train_step};
