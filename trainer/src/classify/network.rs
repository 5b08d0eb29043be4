//! A classifier as up to three plans: image encoder, text encoder, and what fuses them.

use super::schedule::Frozen;
use crate::{
    error::TrainError,
    torch::{Leaf, Outputs, Pass, Plan, PlanOptions, Randomness, TorchError, Trainable, Watch, first_line},
};
use mmlnb_models::{
    config::{ClassifierConfig, Fusion},
    graph::Graph,
    networks,
    weights::{Checkpoint, Weights},
};
use tch::{Device, Tensor};

/// A classifier whose tensors are all its own.
#[derive(Debug)]
pub struct Network {
    config: ClassifierConfig,
    image: Option<Plan>,
    text: Option<Plan>,
    heads: Plan,
}

/// The images of a batch.
#[derive(Debug)]
pub enum Images {
    /// `[batch, 3, height, width]`, normalised.
    Pixels(Tensor),
    /// `[batch, features]`, the encoder's output on them.
    Features(Tensor),
}

/// The texts of a batch.
#[derive(Debug)]
pub enum Texts {
    /// Ids and mask, `[batch, tokens]`.
    Tokens(Tensor, Tensor),
    /// `[batch, hidden]`, the encoder's output on them.
    Features(Tensor),
}

/// What a network reads.
#[derive(Debug)]
pub struct Batch {
    /// Absent in a text-only classifier.
    pub images: Option<Images>,
    /// Absent in an image-only classifier.
    pub texts: Option<Texts>,
    /// `[batch]`, numbers of the classes.
    pub labels: Tensor,
}

/// A training pass whose gradients are still to come.
#[must_use = "gradients reach the weights in `backward`"]
pub struct TrainingPass<'n> {
    encoders: Vec<Pass<'n>>,
    heads: Pass<'n>,
}

/// How a training pass treats what does not learn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mode {
    /// Encoders that do not learn.
    pub frozen: Frozen,
    /// Whether they drop numbers all the same, as PyTorch's train mode does.
    pub frozen_drop: bool,
    /// Key of the dropout masks.
    pub randomness: Randomness,
}

impl Network {
    /// Binds a classifier's networks to the tensors of a checkpoint, which must be exactly theirs. Blocks are kept, not computed again, unless `recompute`.
    ///
    /// # Errors
    /// Tensors that are missing, surplus or of other shapes.
    pub fn new(
        config: &ClassifierConfig,
        checkpoint: &Checkpoint,
        device: Device,
        recompute: bool,
    ) -> Result<Network, TrainError> {
        let whole = |graph: Graph| if recompute { graph } else { graph.in_one_block(None) };
        let image = config.image.as_ref().map(|(encoder, _)| whole(networks::image_encoder(encoder, "image")));
        let text = config.text.as_ref().map(|text| whole(networks::bert(text, "text")));
        let heads = networks::heads(config);
        checkpoint.check_all(image.iter().chain(&text).chain([&heads]).map(Graph::parameters))?;
        let options = PlanOptions { trainable: Trainable::All, ..PlanOptions::inference(device) };
        let weights = Weights::new(checkpoint);
        let plan = |graph: &Graph| Plan::new(graph, &weights, &options);
        Ok(Network {
            config: config.clone(),
            image: image.as_ref().map(plan).transpose()?,
            text: text.as_ref().map(plan).transpose()?,
            heads: plan(&heads)?,
        })
    }

    /// Its sizes and classes.
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// All tensors: image encoder, text encoder, fusion and heads.
    pub fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.image.iter().chain(&self.text).chain([&self.heads]).flat_map(|plan| plan.leaves())
    }

    /// Encoders named here get no gradient from now on; everything else does.
    pub fn freeze(&self, frozen: Frozen) {
        let plans = [(&self.image, frozen.image), (&self.text, frozen.text)];
        for (plan, frozen) in plans.into_iter().filter_map(|(plan, frozen)| Some((plan.as_ref()?, frozen))) {
            plan.leaves().iter().for_each(|leaf| drop(leaf.tensor.set_requires_grad(!frozen)));
        }
    }

    /// `[batch, features]` of normalised pixels, without gradients and dropout.
    ///
    /// # Errors
    /// What libtorch refuses; a classifier without an image encoder.
    pub fn image_features(&self, pixels: &Tensor) -> Result<Tensor, TorchError> {
        let plan = self.image.as_ref().ok_or_else(|| absent("image_features"))?;
        Ok(plan.forward(&[("pixel_values", pixels)])?.get("image_features")?.shallow_clone())
    }

    /// Runs the image encoder as [`Network::image_features`]; `watch` is shown what goes into each of its nodes.
    ///
    /// # Errors
    /// As there, and those of `watch`.
    pub fn watch_images(&self, pixels: &Tensor, watch: &mut Watch<'_>) -> Result<(), TorchError> {
        let plan = self.image.as_ref().ok_or_else(|| absent("image_features"))?;
        plan.forward_watched(&[("pixel_values", pixels)], watch).map(drop)
    }

    /// `[batch, hidden]` of ids and mask, without gradients and dropout.
    ///
    /// # Errors
    /// What libtorch refuses; a classifier without a text encoder.
    pub fn text_features(&self, ids: &Tensor, mask: &Tensor) -> Result<Tensor, TorchError> {
        let plan = self.text.as_ref().ok_or_else(|| absent("text_features"))?;
        Ok(plan.forward(&[("input_ids", ids), ("attention_mask", mask)])?.get("text_features")?.shallow_clone())
    }

    /// Everything behind the encoders, without gradients and dropout.
    ///
    /// # Errors
    /// Features that the classifier reads and that are not given, and what libtorch refuses.
    pub fn judge(&self, image: Option<&Tensor>, text: Option<&Tensor>) -> Result<Outputs, TorchError> {
        let inputs = [("image_features", image), ("text_features", text)];
        let given: Vec<(&str, &Tensor)> = inputs.into_iter().filter_map(|(name, x)| Some((name, x?))).collect();
        self.heads.forward(&given)
    }

    /// The logits at alpha = 1, `[batch, classes]`: what the classifier says of the text alone. `None` where it cannot be asked so.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn text_logits(&self, text: &Tensor) -> Result<Option<Tensor>, TorchError> {
        let fuses = self.config.image.is_some() && self.config.fusion != Fusion::Concat;
        let leaf = |name: &str| self.heads.leaves().iter().find(|leaf| leaf.name == name).map(|leaf| &leaf.tensor);
        let (Some(weight), Some(bias), true) = (leaf("classifier.weight"), leaf("classifier.bias"), fuses) else {
            return Ok(None);
        };
        let _constant = tch::no_grad_guard();
        let logits = text.f_relu().and_then(|x| x.f_linear(weight, Some(bias)));
        logits.map(Some).map_err(|error| TorchError::Loading { weight: "classifier".into(), problem: first_line(&error) })
    }

    /// Runs for training. Encoders that [`Network::freeze`] froze get no gradient, even in a mode that says otherwise.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn forward_for_training(&self, batch: &Batch, mode: Mode) -> Result<TrainingPass<'_>, TorchError> {
        let mut encoders = Vec::new();
        let mut given: Vec<(&str, Tensor)> = Vec::new();
        if let (Some(plan), Some(images)) = (&self.image, &batch.images) {
            given.push(match images {
                Images::Features(features) => ("image_features", features.shallow_clone()),
                Images::Pixels(pixels) => {
                    let still = mode.frozen.image && !mode.frozen_drop;
                    (
                        "image_features",
                        encode(plan, &[("pixel_values", pixels)], "image_features", (still, mode.key(1)), &mut encoders)?,
                    )
                }
            });
        }
        if let (Some(plan), Some(texts)) = (&self.text, &batch.texts) {
            given.push(match texts {
                Texts::Features(features) => ("text_features", features.shallow_clone()),
                Texts::Tokens(ids, mask) => {
                    let still = mode.frozen.text && !mode.frozen_drop;
                    let inputs = [("input_ids", ids), ("attention_mask", mask)];
                    ("text_features", encode(plan, &inputs, "text_features", (still, mode.key(2)), &mut encoders)?)
                }
            });
        }
        let heads = self.heads.forward_for_training(&given, mode.key(3))?;
        Ok(TrainingPass { encoders, heads })
    }
}

impl Mode {
    /// The three plans must not share their masks.
    fn key(self, plan: u64) -> Randomness {
        Randomness { seed: self.randomness.seed.wrapping_mul(4).wrapping_add(plan), ..self.randomness }
    }
}

impl TrainingPass<'_> {
    /// The results of fusion and heads; they carry gradients.
    pub fn outputs(&self) -> &Outputs {
        self.heads.outputs()
    }

    /// Sends a loss's gradient to everything that learns.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn backward(self, loss: &Tensor) -> Result<(), TorchError> {
        self.heads.backward(loss)?;
        self.encoders.into_iter().try_for_each(Pass::propagate)
    }
}

/// Features of an encoder; without dropout and gradients if it stands `still`, else its pass waits in `passes`.
fn encode<'n>(
    plan: &'n Plan,
    inputs: &[(&str, &Tensor)],
    output: &str,
    (still, randomness): (bool, Randomness),
    passes: &mut Vec<Pass<'n>>,
) -> Result<Tensor, TorchError> {
    if still {
        return Ok(plan.forward(inputs)?.get(output)?.shallow_clone());
    }
    let pass = plan.forward_for_training(inputs, randomness)?;
    let features = pass.outputs().get(output)?.shallow_clone();
    passes.push(pass);
    Ok(features)
}

fn absent(output: &str) -> TorchError {
    TorchError::Output { name: output.into(), known: "none of its kind: the classifier has no such encoder".into() }
}
