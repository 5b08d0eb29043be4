//! PRMF, the Progressive Robust Multi-Modal Fusion block, and the heads (MMLNB, arXiv 2503.12927, section on PRMF).
//!
//! `alpha = sigmoid(W_conf [I; T] + b)`, `I' = W_proj I + b`, `F = alpha T + (1 - alpha) I'`, `logits = W_cls relu(F) + b`.
//! Deviation: the image head is a linear layer on I (the released code takes a softmax over the features themselves, a bug).
//! For ablations alpha may be a fixed number, F may be `[I; T]`, and either encoder may be absent.

use crate::{
    config::{ClassifierConfig, Fusion},
    graph::{Builder, Dim, Graph, Kind, Op, X},
};

/// What stands behind a classifier's encoders: [`prmf`], [`image_classifier`] or [`text_classifier`].
pub fn heads(config: &ClassifierConfig) -> Graph {
    match (&config.image, &config.text) {
        (Some(_), Some(_)) => prmf(config),
        (Some(_), None) => image_classifier(config),
        (None, _) => text_classifier(config),
    }
}

/// `image_features` `[batch, features]`, `text_features` `[batch, hidden]` -> `logits`, `image_logits` (with an image head) `[batch, classes]` and
/// `fused_features` F. With PRMF also `alpha_text` `[batch, 1]`; unless F is `[I; T]` also `projected_features` I' `[batch, hidden]` and
/// `logits_without_text`, the logits at alpha = 0.
///
/// # Panics
/// If the classifier lacks one of its two encoders: then there is nothing to fuse.
pub fn prmf(config: &ClassifierConfig) -> Graph {
    let hidden = config.text.as_ref().expect("fusion needs a text encoder").hidden;
    let b = Builder::new();
    let image = image_features(&b, config);
    let text = text_features(&b, config);
    let classes = config.classes.len() as i64;
    let projected = (config.fusion != Fusion::Concat).then(|| b.scope("prmf", || image.linear("projection", hidden, true)));
    let alpha = (config.fusion == Fusion::Prmf).then(|| b.scope("prmf", || confidence(&b, config, image, text)));
    let fused = match (config.fusion, alpha, projected) {
        (Fusion::Prmf, Some(alpha), Some(projected)) => b.blend(alpha, text, projected),
        (Fusion::Fixed(alpha), _, Some(projected)) => b.mix(alpha, text, projected),
        _ => b.concat(&[image, text], 1),
    };
    let active = if projected.is_some() { fused.apply(Op::Relu) } else { fused };
    b.output("logits", dropped(active, config.dropout).linear("classifier", classes, true));
    if config.image_head {
        b.output("image_logits", image.linear("image_head", classes, true));
    }
    alpha.inspect(|alpha| b.output("alpha_text", *alpha));
    b.output("fused_features", fused);
    if let Some(projected) = projected {
        b.output("projected_features", projected);
        b.output("logits_without_text", projected.apply(Op::Relu).linear("classifier", classes, true));
    }
    b.finish()
}

/// An image-only classifier's head: `image_features` -> `logits`.
///
/// # Panics
/// If the classifier has no image encoder.
pub fn image_classifier(config: &ClassifierConfig) -> Graph {
    let b = Builder::new();
    b.output("logits", image_features(&b, config).linear("image_head", config.classes.len() as i64, true));
    b.finish()
}

/// A text-only classifier's head: `text_features` -> dropout -> `logits`.
///
/// # Panics
/// If the classifier has no text encoder.
pub fn text_classifier(config: &ClassifierConfig) -> Graph {
    let b = Builder::new();
    let text = dropped(text_features(&b, config), config.dropout);
    b.output("logits", text.linear("classifier", config.classes.len() as i64, true));
    b.finish()
}

fn image_features<'g>(b: &'g Builder, config: &ClassifierConfig) -> X<'g> {
    let (encoder, _) = config.image.as_ref().expect("this head needs an image encoder");
    b.input("image_features", Kind::Float, [Dim::named("batch"), Dim::from(encoder.features())])
}

fn text_features<'g>(b: &'g Builder, config: &ClassifierConfig) -> X<'g> {
    let hidden = config.text.as_ref().expect("this head needs a text encoder").hidden;
    b.input("text_features", Kind::Float, [Dim::named("batch"), Dim::from(hidden)])
}

fn dropped(x: X<'_>, p: f64) -> X<'_> {
    if p > 0.0 { x.apply(Op::Dropout { p }) } else { x }
}

fn confidence<'g>(b: &'g Builder, config: &ClassifierConfig, image: X<'g>, text: X<'g>) -> X<'g> {
    let both = b.concat(&[image, text], 1);
    let score = match config.confidence_hidden {
        None => both.linear("confidence", 1, true),
        Some(inner) => both.linear("confidence.0", inner, true).apply(Op::Relu).linear("confidence.2", 1, true),
    };
    score.apply(Op::Sigmoid)
}
