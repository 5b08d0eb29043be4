//! The exported graphs in ONNX Runtime: against the reference data, and laws on random sizes.

mod calibrated;
mod cuda;
mod describer;
mod genai;
mod golden_bert;
mod golden_curriculum;
#[path = "../../../models/tests/golden_files/mod.rs"]
mod golden_files;
mod golden_lora;
mod golden_prmf;
mod golden_qwen2_5_vl;
mod golden_swin;
mod golden_vgg16;
mod integers;
mod laws;
#[path = "../../../models/tests/golden_files/minilm.rs"]
mod minilm;
mod portable;
mod quantised;
mod random;
mod session;
mod snapshots;
