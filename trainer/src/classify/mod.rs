//! Stage 2: the classifier and its curriculum (MMLNB, arXiv 2503.12927).

mod activations;
mod assess;
mod calibrate;
mod corpus;
mod descriptions;
mod evaluate;
mod finished;
mod folder;
mod given;
mod known_answers;
mod network;
mod options;
mod order;
mod pictures;
mod prefetch;
mod recipe;
mod schedule;
mod stage;
mod start;
mod step;
mod texts;
mod train;

pub use activations::{IMAGES, Recorder};
pub use assess::{Accepted, PartMeasures};
pub use calibrate::Calibrated;
pub use corpus::Opinion;
pub use descriptions::check_options;
pub use evaluate::{Evaluation, evaluate};
pub use finished::RunMeasures;
pub use folder::NOVELTY;
pub use network::{Batch, Images, Mode, Network, Texts, TrainingPass};
pub use options::{Options, Protocol};
pub use recipe::{
    ClassWeights, Descriptions, EncoderKind, FrozenMode, FusionKind, Init, Inputs, NullImage, NullText, OptimizerKind, Recipe,
    Sampling, StainNormalisation, recipe_names,
};
pub use schedule::{Curriculum, Frozen, LambdaSchedule};
pub use stage::run;
pub use start::Start;
pub use step::{StepOptions, StepResult, train_step};
pub use texts::Cut;
pub use train::Best;
