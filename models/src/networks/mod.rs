//! What every network is, once, for training and serving.
//!
//! Each function returns a [`Graph`]; its input and output names are the ones that the exported files carry.

mod bert;
mod decoder;
mod prmf;
mod swin;
mod vgg16;
mod vision;

pub use bert::bert;
pub use decoder::{decoder, decoder_states, embedding, head};
pub use prmf::{heads, image_classifier, prmf, text_classifier};
pub use swin::swin;
pub use vgg16::vgg16;
pub use vision::vision;

use crate::{
    config::ImageEncoder,
    graph::{Builder, Graph},
};

/// The image encoder of a classifier; `prefix` goes before its checkpoint keys (`image` in a classifier, nothing in a file of its own).
pub fn image_encoder(encoder: &ImageEncoder, prefix: &str) -> Graph {
    match encoder {
        ImageEncoder::Vgg16(config) => vgg16(config, prefix),
        ImageEncoder::Swin(config) => swin(config, prefix),
    }
}

/// A network whose checkpoint keys all begin with `prefix.` (an empty prefix: as they are).
fn prefixed(prefix: &str, network: impl FnOnce(&Builder)) -> Graph {
    let b = Builder::new();
    b.scope(prefix, || network(&b));
    b.finish()
}
