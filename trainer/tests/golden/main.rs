//! The tch reading against reference data, driven by the data's own case files.

#[path = "../common/mod.rs"]
mod shared;

mod curriculum;
mod files;
mod generate;
mod images;
mod import;
mod lora;
mod lora_training;
mod merge;
#[path = "../../../models/tests/golden_files/minilm.rs"]
mod minilm;
mod prmf;
mod qwen;
mod texts;
