//! Statistics of what goes into every linear layer of a describer, on a user's own images and prompts: [`mmlnb_models::statistics`].
//!
//! Each example is read as it is served: question and image, then the description, token after token. Where the table has none, the describer writes
//! it first, by the likeliest tokens.

use crate::{
    describe::{Batch, Describer, Image, Sample, Trained, UNLABELLED, graphs},
    error::TrainError,
    generate::{Generator, Picture, Prompt, Prompter, computed_in},
    run::{Progress, stop_requested},
    torch::{Adapters, PlanOptions, Trainable},
};
use mmlnb_models::{
    graph::{Graph, Node, Op},
    hash,
    prepare::decode::{Limits, decode},
    statistics::{Channels, linear_layers, module},
    weights::Weights,
};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
};
use tch::{Device, Kind, TchError, Tensor};

/// An image, and what is said of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Example {
    /// The file.
    pub image: PathBuf,
    /// SHA-256 of that file, lower-case hex.
    pub sha256: String,
    /// The expert's words; `None`: the describer's own.
    pub description: Option<String>,
}

/// What was gathered.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    /// By module.
    pub layers: BTreeMap<String, Channels>,
    /// Tokens that the language model read.
    pub tokens: usize,
}

/// Runs the describer of `weights` on examples, `batch` of them together where it writes.
///
/// # Errors
/// Images that cannot be read or were changed, activations that are no numbers, what libtorch refuses, a wish to stop.
pub fn calibrate(
    prompter: &Prompter,
    weights: &Weights<'_>,
    examples: &[Example],
    device: Device,
    batch: usize,
) -> Result<Found, TrainError> {
    let frozen = Trained { adapters: false, language: false, vision_blocks: false, merger: false, recompute: true };
    let kind = computed_in(weights.checkpoint(), device);
    let describer = Describer::new(&prompter.config, weights, (device, kind), frozen, 0.0, true)?;
    let answers = answers(prompter, weights, &describer, examples, batch)?;
    let mut sums = Sums::new(&graphs(&prompter.config, weights));
    let mut progress = Progress::new("calibrate", examples.len() as u64, 0);
    let mut tokens = 0;
    for (example, answer) in examples.iter().zip(answers) {
        if stop_requested() {
            return Err(TrainError::Interrupted);
        }
        let read = answered(prompter, example, &answer)?;
        tokens += read.tokens;
        describer.watched(&read, &mut |node, inputs| sums.see(node, inputs))?;
        progress.advance(1, &[("tokens", read.tokens as f64)]);
    }
    progress.end();
    Ok(Found { layers: sums.layers()?, tokens })
}

/// Token ids of each example's description, not more than the describer would write.
fn answers(
    prompter: &Prompter,
    weights: &Weights<'_>,
    describer: &Describer,
    examples: &[Example],
    batch: usize,
) -> Result<Vec<Vec<i64>>, TrainError> {
    let end = prompter.settings.generation.end_tokens.first().copied();
    let mut answers = Vec::with_capacity(examples.len());
    for example in examples {
        let mut ids = match &example.description {
            Some(text) => prompter.tokenizer().encode(text.trim()).map_err(|error| TrainError::Failed(error.to_string()))?,
            None => Vec::new(),
        };
        ids.extend(end);
        ids.truncate(prompter.settings.generation.max_new_tokens);
        answers.push(ids);
    }
    let open: Vec<usize> = (0..examples.len()).filter(|number| examples[*number].description.is_none()).collect();
    if open.is_empty() {
        return Ok(answers);
    }
    let mut greedy = prompter.clone();
    greedy.settings.generation.do_sample = false;
    let options = PlanOptions {
        device: describer.device(),
        kind: describer.kind(),
        trainable: Trainable::Nothing,
        adapters: Adapters::Live,
        adapter_dropout: 0.0,
    };
    let generator = Generator::sharing(greedy, weights, &options, &describer.plans().collect::<Vec<_>>())?.with_batch(batch);
    let mut progress = Progress::new("describe", open.len() as u64, 0);
    for numbers in open.chunks(batch.max(1)) {
        if stop_requested() {
            return Err(TrainError::Interrupted);
        }
        let prompts = numbers.iter().map(|number| prepared(prompter, &examples[*number])).collect::<Result<Vec<_>, _>>()?;
        generator.describe(prompts, |number, description| {
            answers[numbers[number]] = description.token_ids;
            progress.advance(1, &[]);
            Ok(())
        })?;
    }
    progress.end();
    Ok(answers)
}

/// One example as a batch of one, whose places are those from which the answer's tokens are predicted.
fn answered(prompter: &Prompter, example: &Example, answer: &[i64]) -> Result<Batch, TrainError> {
    let Prompt { patches, mut ids, .. } = prepared(prompter, example)?;
    let mut labels = vec![UNLABELLED; ids.len()];
    ids.extend(answer);
    labels.extend(answer);
    let count: i64 = patches.grid.iter().product();
    let pixels = Tensor::f_from_slice(&patches.pixel_values)?.f_reshape([count, -1])?;
    let sample = Sample { ids, labels, grid: patches.grid };
    let batch = Batch::new(vec![(sample, Image::Pixels(pixels))], 0, &prompter.config);
    batch.map_err(|error| TrainError::file(&example.image, error))
}

fn prepared(prompter: &Prompter, example: &Example) -> Result<Prompt, TrainError> {
    let bytes = fs::read(&example.image).map_err(TrainError::io("read", &example.image))?;
    let wrong = |problem: String| TrainError::file(&example.image, problem);
    if hash::sha256_hex(&bytes) != example.sha256 {
        return Err(wrong("the file was changed while it was being read; start again".into()));
    }
    let rgb = decode(&bytes, &Limits::default()).map_err(|error| wrong(error.to_string()))?;
    prompter.prepare(&Picture { sha256: [0; 32], rgb }).map_err(|error| wrong(error.to_string()))
}

/// Sums over all that went into the layers so far.
struct Sums {
    /// For each module the first one that has the same input, which is summed for all of them.
    first: BTreeMap<String, String>,
    sums: HashMap<String, Sum>,
}

struct Sum {
    /// f32 `[inputs]`.
    largest: Tensor,
    /// f64 `[inputs]`.
    squares: Tensor,
    rows: i64,
}

impl Sums {
    fn new(networks: &[Graph]) -> Sums {
        let mut first = BTreeMap::new();
        for graph in networks {
            let mut known = HashMap::new();
            for (module, input, _) in linear_layers(graph) {
                first.insert(module.to_string(), known.entry(input).or_insert(module).to_string());
            }
        }
        Sums { first, sums: HashMap::new() }
    }

    fn see(&mut self, node: &Node, inputs: &[&Tensor]) -> Result<(), TchError> {
        let Op::Linear { weight, .. } = &node.op else { return Ok(()) };
        let name = module(weight);
        if self.first.get(name).is_none_or(|first| first != name) {
            return Ok(());
        }
        let x = inputs[0].f_to_kind(Kind::Float)?;
        let x = x.f_reshape([-1, x.size().last().copied().unwrap_or(1)])?;
        let largest = x.f_abs()?.f_amax([0].as_slice(), false)?;
        let squares = x.f_square()?.f_sum_dim_intlist([0].as_slice(), false, Kind::Double)?;
        let sum = match self.sums.remove(name) {
            None => Sum { largest, squares, rows: x.size()[0] },
            Some(sum) => Sum {
                largest: sum.largest.f_maximum(&largest)?,
                squares: sum.squares.f_add(&squares)?,
                rows: sum.rows + x.size()[0],
            },
        };
        self.sums.insert(name.to_string(), sum);
        Ok(())
    }

    fn layers(&self) -> Result<BTreeMap<String, Channels>, TrainError> {
        let mut layers = BTreeMap::new();
        for (module, first) in &self.first {
            let unseen = || TrainError::Failed(format!("nothing went through the layer {module}"));
            let Sum { largest, squares, rows } = self.sums.get(first).ok_or_else(unseen)?;
            let largest = Vec::<f32>::try_from(largest.f_to_device(Device::Cpu)?)?;
            let squares = Vec::<f64>::try_from(squares.f_to_device(Device::Cpu)?)?;
            let mean_square: Vec<f32> = squares.iter().map(|sum| (sum / *rows as f64) as f32).collect();
            if largest.iter().chain(&mean_square).any(|value| !value.is_finite()) {
                return Err(TrainError::Failed(format!(
                    "what goes into the layer {module} is not finite: the weights are damaged, or the adapter belongs to another base"
                )));
            }
            layers.insert(module.clone(), Channels { largest, mean_square });
        }
        Ok(layers)
    }
}
