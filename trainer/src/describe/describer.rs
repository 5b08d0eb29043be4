//! The describer while it is trained: vision tower, embedding, language model and head as plans that share their tensors.

use super::sample::{Batch, Image, Sample, UNLABELLED};
use crate::{
    error::TrainError,
    torch::{Adapters, Leaf, Pass, Plan, PlanOptions, Randomness, Trainable, Watch},
};
use mmlnb_models::{
    config::QwenConfig,
    graph::Graph,
    networks,
    prepare::{
        positions::{VisionPositions, vision_positions},
        rotary::rotary_table,
    },
    weights::Weights,
};
use std::collections::BTreeSet;
use tch::{Device, Kind, Reduction, TchError, Tensor};

/// Positions whose logits are in memory at one time.
pub(super) const CHUNK: i64 = 256;

/// What is trained, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trained {
    /// An adapter's tensors, or else the base's own.
    pub adapters: bool,
    /// The language model with embedding and head.
    pub language: bool,
    /// The vision tower's blocks, for full tuning with its patch embedding.
    pub vision_blocks: bool,
    /// The merger between both.
    pub merger: bool,
    /// Whether blocks are computed again for their gradients, instead of being kept.
    pub recompute: bool,
}

impl Trained {
    /// Whether the vision tower stays as it is.
    pub fn vision_is_frozen(self) -> bool {
        !self.vision_blocks && !self.merger
    }
}

/// Plans of one describer.
#[derive(Debug)]
pub struct Describer {
    /// Its sizes.
    pub config: QwenConfig,
    /// Absent when it is frozen and its results are given.
    pub vision: Option<Plan>,
    /// Tokens to rows.
    pub embedding: Plan,
    /// All layers of the language model, with states of asked rows.
    pub decoder: Plan,
    /// States to logits.
    pub head: Plan,
    device: Device,
    kind: Kind,
}

/// A describer's graphs with the adapter of `weights` beside them: vision tower, embedding, layers, head.
pub fn graphs(config: &QwenConfig, weights: &Weights<'_>) -> [Graph; 4] {
    let text = &config.text;
    let plain =
        [networks::vision(&config.vision), networks::embedding(text), networks::decoder_states(text), networks::head(text)];
    plain.map(|graph| match weights.adapter() {
        None => graph,
        // No module is expected here, so none can be missing.
        Some(adapter) => graph
            .adapt(&|module| adapter.adaption(module), &[])
            .expect("adapting fails only for modules that are expected and not found"),
    })
}

impl Describer {
    /// Loads what is needed; `with_vision`: the tower too, which training without images in `pixels` does not need.
    ///
    /// # Errors
    /// Weights that do not fit the networks or cannot be loaded.
    pub fn new(
        config: &QwenConfig,
        weights: &Weights<'_>,
        (device, kind): (Device, Kind),
        trained: Trained,
        adapter_dropout: f64,
        with_vision: bool,
    ) -> Result<Describer, TrainError> {
        let whole = |graph: Graph| if trained.recompute { graph } else { graph.in_one_block(None) };
        let [vision, embedding, decoder, head] = graphs(config, weights).map(whole);
        let options = |part_is_trained: bool| {
            let trainable = match (trained.adapters, part_is_trained) {
                (true, _) => Trainable::Adapters,
                (false, true) => Trainable::All,
                (false, false) => Trainable::Nothing,
            };
            PlanOptions { device, kind, trainable, adapters: Adapters::Live, adapter_dropout }
        };
        let language = options(trained.language);
        let embedding = Plan::new(&embedding, weights, &language)?;
        let decoder = Plan::new(&decoder, weights, &language)?;
        let head = Plan::sharing(&head, weights, &language, &[&embedding])?;
        let vision = match with_vision {
            true => Some(Plan::new(&vision, weights, &options(!trained.vision_is_frozen()))?),
            false => None,
        };
        if let Some(vision) = vision.as_ref().filter(|_| !trained.adapters) {
            let is_merger = |leaf: &Leaf| leaf.name.starts_with("visual.merger.");
            let frozen = |leaf: &&Leaf| if is_merger(leaf) { !trained.merger } else { !trained.vision_blocks };
            vision.leaves().iter().filter(frozen).for_each(|leaf| drop(leaf.tensor.set_requires_grad(false)));
        }
        Ok(Describer { config: config.clone(), vision, embedding, decoder, head, device, kind })
    }

    /// The plans that are loaded.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.vision.iter().chain([&self.embedding, &self.decoder, &self.head])
    }

    /// Every tensor that is trained, once.
    pub fn trained_leaves(&self) -> Vec<&Leaf> {
        let mut known = BTreeSet::new();
        let leaves = self.plans().flat_map(|plan| plan.leaves()).filter(|leaf| leaf.tensor.requires_grad());
        leaves.filter(|leaf| known.insert(leaf.name.as_str())).collect()
    }

    /// Adds the gradient of the batch's negative log-likelihood divided by `tokens` to every trained tensor; returns the sum of the negative
    /// log-likelihood. `tokens`: labelled tokens of the whole window that makes one step, so that each token counts alike.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn learn(&self, batch: &Batch, tokens: usize, randomness: Randomness) -> Result<f64, TrainError> {
        let passes = self.vision_passes(batch, randomness)?;
        let embedding = self.embedding.forward_for_training(&[("input_ids", &self.ids(batch))], randomness)?;
        let images = self.image_rows(batch, &passes)?;
        let embeds = self.with_images(embedding.outputs().get("inputs_embeds")?, batch, &images)?;
        drop(images);
        let pass = self.decoder.forward_for_training(&self.decoder_inputs(batch, embeds)?, randomness)?;
        let states = pass.outputs().get("states")?.shallow_clone();
        let leaf = states.detach().set_requires_grad(states.requires_grad());
        let mut sum = Tensor::zeros([1], (Kind::Double, self.device));
        for (part, targets) in self.chunks(&leaf, batch) {
            let pass = self.head.forward_for_training(&[("states", &part)], randomness)?;
            let nll = summed_nll(pass.outputs().get("logits")?, &targets)?;
            sum += nll.detach().to_kind(Kind::Double);
            pass.backward(&(nll / tokens as f64))?;
        }
        if leaf.grad().defined() {
            pass.backward(&(&states * leaf.grad()).sum(Kind::Float))?;
            embedding.propagate()?;
            passes.into_iter().try_for_each(|pass| pass.propagate())?;
        }
        Ok(sum.double_value(&[0]))
    }

    /// Sum of the negative log-likelihood of each labelled token, without dropout and without gradients.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn nll(&self, batch: &Batch) -> Result<f64, TrainError> {
        let _inference = tch::no_grad_guard();
        let states = self.states(batch)?;
        let mut sum = 0.0;
        for (part, targets) in self.chunks(&states, batch) {
            let logits = self.head.forward(&[("states", &part)])?;
            sum += summed_nll(logits.get("logits")?, &targets)?.double_value(&[]);
        }
        Ok(sum)
    }

    /// Logits of the token after a sequence, without dropout and without gradients.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn next_logits(&self, sample: &Sample, image: &Image) -> Result<Vec<f32>, TrainError> {
        let batch = Batch::ending(sample, image, &self.config).map_err(|error| TrainError::Failed(error.to_string()))?;
        let states = self.states(&batch)?;
        let logits = self.head.forward(&[("states", &states)])?;
        Ok(Vec::<f32>::try_from(&logits.get("logits")?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_flatten(0, -1)?)?)
    }

    /// Runs on a batch whose images come as pixels, for inference; `watch` is shown what goes into each node of vision tower, layers and head, which
    /// sees the states of the places alone.
    ///
    /// # Errors
    /// What libtorch refuses, and those of `watch`.
    pub fn watched(&self, batch: &Batch, watch: &mut Watch<'_>) -> Result<(), TrainError> {
        let mut images = Vec::with_capacity(batch.images.len());
        for (image, grid) in &batch.images {
            let (Image::Pixels(pixels), Some(vision)) = (image, &self.vision) else { return Err(not_loaded()) };
            let outputs = vision.forward_watched(&vision_inputs(&self.config, pixels, *grid), watch)?;
            images.push(outputs.get("image_embeds")?.shallow_clone());
        }
        let embeds = self.embedding.forward(&[("input_ids", &self.ids(batch))])?;
        let embeds = self.with_images(embeds.get("inputs_embeds")?, batch, &images)?;
        let outputs = self.decoder.forward_watched(&self.decoder_inputs(batch, embeds)?, watch)?;
        let states = outputs.get("states")?;
        for (part, _) in self.chunks(states, batch) {
            self.head.forward_watched(&[("states", &part)], watch)?;
        }
        Ok(())
    }

    /// The type in which it computes.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// States `[places, hidden]` from which the batch's labelled tokens are predicted, without dropout and without gradients.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn states(&self, batch: &Batch) -> Result<Tensor, TrainError> {
        let images = self.image_rows(batch, &[])?;
        let embeds = self.embedding.forward(&[("input_ids", &self.ids(batch))])?;
        let embeds = self.with_images(embeds.get("inputs_embeds")?, batch, &images)?;
        let outputs = self.decoder.forward(&self.decoder_inputs(batch, embeds)?)?;
        Ok(outputs.get("states")?.shallow_clone())
    }

    fn ids(&self, batch: &Batch) -> Tensor {
        Tensor::from_slice(&batch.ids).reshape([batch.rows as i64, batch.tokens as i64])
    }

    /// The vision tower on every image that comes as pixels.
    fn vision_passes(&self, batch: &Batch, randomness: Randomness) -> Result<Vec<Pass<'_>>, TrainError> {
        let pixels = batch.images.iter().filter_map(|(image, grid)| match image {
            Image::Pixels(pixels) => Some((pixels, *grid)),
            Image::Embeds(_) => None,
        });
        let vision = self.vision.as_ref();
        let pass = |(number, (pixels, grid)): (usize, (&Tensor, _))| {
            let vision = vision.ok_or_else(not_loaded)?;
            let own = randomness.of_pass(number as u64);
            Ok(vision.forward_for_training(&vision_inputs(&self.config, pixels, grid), own)?)
        };
        pixels.enumerate().map(pass).collect()
    }

    /// Rows of every image, in order; `passes` belong to those that come as pixels, without passes the tower runs for inference.
    fn image_rows(&self, batch: &Batch, passes: &[Pass<'_>]) -> Result<Vec<Tensor>, TrainError> {
        let mut passes = passes.iter();
        let mut rows = Vec::with_capacity(batch.images.len());
        for (image, grid) in &batch.images {
            rows.push(match (image, &self.vision) {
                (Image::Embeds(embeds), _) => embeds.to_device(self.device),
                (Image::Pixels(pixels), Some(vision)) => match passes.next() {
                    Some(pass) => pass.outputs().get("image_embeds")?.shallow_clone(),
                    None => image_embeds(&self.config, vision, pixels, *grid)?,
                },
                (Image::Pixels(_), None) => return Err(not_loaded()),
            });
        }
        Ok(rows)
    }

    /// Embeddings `[rows, tokens, hidden]` with the images' rows in their places.
    fn with_images(&self, embeds: &Tensor, batch: &Batch, images: &[Tensor]) -> Result<Tensor, TchError> {
        let places = batch.ids.iter().enumerate().filter(|(_, id)| **id == self.config.image_token);
        let places: Vec<i64> = places.map(|(at, _)| at as i64).collect();
        let places = Tensor::from_slice(&places).f_to_device(self.device)?;
        let images = Tensor::f_cat(images, 0)?.f_to_kind(embeds.kind())?;
        embeds.f_reshape([-1, self.config.text.hidden])?.f_index_copy(0, &places, &images)?.f_reshape(embeds.size())
    }

    fn decoder_inputs(&self, batch: &Batch, embeds: Tensor) -> Result<[(&'static str, Tensor); 5], TrainError> {
        let (rows, tokens) = (batch.rows as i64, batch.tokens as i64);
        let table = rotary_table(&batch.positions, &self.config.text);
        let shaped = |values: &[f32]| Tensor::f_from_slice(values)?.f_reshape([-1, self.config.text.head_size / 2]);
        Ok([
            ("inputs_embeds", embeds),
            ("position_ids", Tensor::arange(rows * tokens, (Kind::Int64, Device::Cpu)).reshape([rows, tokens])),
            ("cos", shaped(&table.cos)?),
            ("sin", shaped(&table.sin)?),
            ("logits_rows", Tensor::from_slice(&batch.places)),
        ])
    }

    /// States and targets in pieces whose logits fit into memory.
    fn chunks<'t>(&self, states: &'t Tensor, batch: &'t Batch) -> impl Iterator<Item = (Tensor, Tensor)> + use<'t> {
        let (rows, device) = (states.size()[0], self.device);
        (0..rows).step_by(CHUNK as usize).map(move |start| {
            let count = CHUNK.min(rows - start);
            let targets = &batch.targets[start as usize..(start + count) as usize];
            (states.narrow(0, start, count), Tensor::from_slice(targets).to_device(device))
        })
    }
}

/// Rows `[tokens, hidden]` of one image of `grid`, without gradients.
///
/// # Errors
/// What libtorch refuses.
pub fn image_embeds(config: &QwenConfig, vision: &Plan, pixels: &Tensor, grid: [i64; 3]) -> Result<Tensor, TrainError> {
    let outputs = vision.forward(&vision_inputs(config, pixels, grid))?;
    Ok(outputs.get("image_embeds")?.shallow_clone())
}

fn vision_inputs(config: &QwenConfig, pixels: &Tensor, grid: [i64; 3]) -> [(&'static str, Tensor); 4] {
    let VisionPositions { patch_positions, window_index, cu_window_seqlens, .. } = vision_positions(&[grid], &config.vision);
    [
        ("pixel_values", pixels.shallow_clone()),
        ("patch_positions_hw", Tensor::from_slice(patch_positions.as_flattened()).reshape([-1, 2])),
        ("window_index", Tensor::from_slice(&window_index)),
        ("cu_window_seqlens", Tensor::from_slice(&cu_window_seqlens)),
    ]
}

/// In f32 whatever the logits are.
fn summed_nll(logits: &Tensor, targets: &Tensor) -> Result<Tensor, TchError> {
    logits.f_to_kind(Kind::Float)?.f_cross_entropy_loss(targets, None::<Tensor>, Reduction::Sum, UNLABELLED, 0.0)
}

pub(super) fn not_loaded() -> TrainError {
    TrainError::Failed("an image came as pixels, but the describer was loaded without its vision tower".into())
}
