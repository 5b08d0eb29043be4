//! PRMF, the Progressive Robust Multi-Modal Fusion block, and the heads (MMLNB, arXiv 2503.12927, section on PRMF).
//!
//! `alpha = sigmoid(W_conf [I; T] + b)`, `I' = W_proj I + b`, `F = alpha T + (1 - alpha) I'`, `logits = W_cls relu(F) + b`.
//! Deviation: the image head is a linear layer on I (the released code takes a softmax over the features themselves, a bug).

use crate::{
    config::ClassifierConfig,
    graph::{Builder, Dim, Graph, Kind, Op, X},
};

/// `image_features` `[batch, features]`, `text_features` `[batch, hidden]` -> `logits`, `image_logits` (with an image head) `[batch, classes]`,
/// `alpha_text` `[batch, 1]`, `fused_features` F and `projected_features` I' `[batch, hidden]`, and `logits_without_text`, the logits at alpha = 0.
///
/// # Panics
/// If the classifier lacks one of its two encoders: then there is nothing to fuse.
pub fn prmf(config: &ClassifierConfig) -> Graph {
    let (encoder, _) = config.image.as_ref().expect("fusion needs an image encoder");
    let hidden = config.text.as_ref().expect("fusion needs a text encoder").hidden;
    let classes = config.classes.len() as i64;
    let b = Builder::new();
    let image = b.input("image_features", Kind::Float, [Dim::named("batch"), Dim::from(encoder.features())]);
    let text = b.input("text_features", Kind::Float, [Dim::named("batch"), Dim::from(hidden)]);
    let (alpha, projected) = b.scope("prmf", || (confidence(&b, config, image, text), image.linear("projection", hidden, true)));
    let fused = b.blend(alpha, text, projected);
    let active = fused.apply(Op::Relu);
    let dropped = if config.dropout > 0.0 { active.apply(Op::Dropout { p: config.dropout }) } else { active };
    let logits = dropped.linear("classifier", classes, true);
    b.output("logits", logits);
    if config.image_head {
        b.output("image_logits", image.linear("image_head", classes, true));
    }
    b.output("alpha_text", alpha);
    b.output("fused_features", fused);
    b.output("projected_features", projected);
    b.output("logits_without_text", projected.apply(Op::Relu).linear("classifier", classes, true));
    b.finish()
}

/// An image-only classifier's head: `image_features` -> `logits`.
///
/// # Panics
/// If the classifier has no image encoder.
pub fn image_classifier(config: &ClassifierConfig) -> Graph {
    let (encoder, _) = config.image.as_ref().expect("an image-only classifier has an image encoder");
    let b = Builder::new();
    let image = b.input("image_features", Kind::Float, [Dim::named("batch"), Dim::from(encoder.features())]);
    b.output("logits", image.linear("image_head", config.classes.len() as i64, true));
    b.finish()
}

fn confidence<'g>(b: &'g Builder, config: &ClassifierConfig, image: X<'g>, text: X<'g>) -> X<'g> {
    let both = b.concat(&[image, text], 1);
    let score = match config.confidence_hidden {
        None => both.linear("confidence", 1, true),
        Some(inner) => both.linear("confidence.0", inner, true).apply(Op::Relu).linear("confidence.2", 1, true),
    };
    score.apply(Op::Sigmoid)
}
