//! MMLNB exporter: the ONNX reading of networks, files and bundles.
//!
//! A network ([`mmlnb_models::graph::Graph`]) is lowered to a few ONNX operators a node ([`lower()`]), checked, and written with its weights
//! streamed from the mapped checkpoint ([`export_graph`]).

mod bundle;
mod classifier;
mod error;
mod export;
mod few_bits;
mod genai;
mod inspect;
mod lower;
mod model_card;
pub mod nodes;
mod numbers;
pub mod onnx;
mod policy;
mod quantise;
mod sign;
mod source;
mod write;

pub use bundle::{Recipe, export_bundle};
pub use error::ExportError;
pub use export::{GraphInfo, Step, export_decided, export_graph, export_lowered, weight_bytes};
pub use few_bits::{Calibration, Convolutions, FewBits, Kept, check_calibration};
pub use genai::export_genai;
pub use inspect::{BundleReport, GraphReport, Report, inspect};
pub use lower::{Genai, cache_head_size, lower, lower_as_is, lower_deciding, lower_genai, lower_portable, not_portable};
pub use nodes::OnnxGraph;
pub use policy::{BLOCK, Storage};
pub use sign::{KeyPairMade, Signing, keygen, sign, verify};
pub use source::{Network, Sizes, Source};
pub use write::PRODUCER;
