//! The classifier: one thread owns the image encoder, the text encoder and the fusion, and takes all images that wait in one batch.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use mmlnb_models::bundle::{self, Bundle, CLASSIFIER, NOVELTY};
use mmlnb_models::config::{ClassifierConfig, Fusion, ImageEncoder, ImageInput};
use mmlnb_models::measures::classes::softmax;
use mmlnb_models::measures::novelty::Neighbours;
use mmlnb_models::prepare::bert_tokenizer::{BertText, BertTokenizer};
use mmlnb_models::prepare::classifier_image;
use mmlnb_models::prepare::decode::Rgb8Image;
use ort::session::Session;
use ort::value::Tensor;

use super::memory::{self, Plan};
use super::runtime::Runtime;
use super::{Classification, EngineError, EngineOptions, Mode, Request, Trace};
use crate::clock::milliseconds;

/// Most images of one batch, and no more than are described together.
const BATCH: usize = 8;

/// The classifier's front: prepares image and text on the caller's thread and hands them to the thread behind.
pub(super) struct Classifier {
    classes: Vec<String>,
    input: Option<ImageInput>,
    text: Option<(BertTokenizer, usize)>,
    temperature: f64,
    fixed_alpha: Option<f32>,
    neighbours: Option<Neighbours>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// The classifier's opinion, and how long its parts took in milliseconds.
pub(super) struct Classified {
    pub classification: Classification,
    pub elapsed: Vec<(&'static str, f64)>,
    pub trace: Option<Trace>,
}

/// One image and its text on their way through the thread.
struct Job {
    pixels: Option<Vec<f32>>,
    text: Option<BertText>,
    request: Request,
    reply: Sender<Result<Outputs, EngineError>>,
}

/// One row of every output, by the names of the graphs.
type Outputs = Vec<(&'static str, Vec<f32>)>;

/// What the fusion may put out; the first is required.
const FUSION: [&str; 6] = ["logits", "image_logits", "alpha_text", "fused_features", "projected_features", "logits_without_text"];

/// How a classifier is laid out; known before anything is loaded.
pub(super) struct Layout {
    config: ClassifierConfig,
    text: Option<(BertTokenizer, usize)>,
    neighbours: Option<Neighbours>,
    /// Most images of one batch.
    batch: usize,
}

impl Layout {
    /// Reads the classifier's configuration, its tokenizer, and the features of training images if the calibration needs them.
    pub fn new(bundle: &Bundle, options: &EngineOptions) -> Result<Layout, EngineError> {
        let folder = bundle.path(CLASSIFIER);
        let config = ClassifierConfig::from_dir(&folder).map_err(refused)?;
        let text = match &config.text {
            Some(text) => {
                let tokenizer = BertTokenizer::from_dir(&folder).and_then(|tokenizer| tokenizer.within(text.vocabulary));
                Some((tokenizer.map_err(refused)?, text.longest_text() as usize))
            }
            None => None,
        };
        let limit = bundle.calibration().and_then(|calibration| calibration.novelty.as_ref());
        let neighbours =
            limit.map(|limit| Neighbours::read(&folder.join(NOVELTY), limit.neighbours)).transpose().map_err(refused)?;
        Ok(Layout { config, text, neighbours, batch: options.slots.clamp(1, BATCH) })
    }

    /// The memory that this classifier takes: weights, and the widest activations of a batch three times.
    pub fn plan(&self, bundle: &Bundle, part: &bundle::Classifier) -> Plan {
        let image = self.config.image.as_ref().map_or(0, |(encoder, input)| {
            let pixels = input.width * input.height;
            3 * match encoder {
                ImageEncoder::Vgg16(config) => config.channels[0] * pixels,
                ImageEncoder::Swin(config) => 8 * config.embed * pixels / (config.patch * config.patch),
            }
        });
        let text = self.config.text.as_ref().map_or(0, |text| {
            let length = text.longest_text();
            length * (8 * text.hidden + 2 * text.inner) + text.heads * length * length
        });
        let graphs = part.image.iter().chain(&part.text).chain(std::iter::once(&part.prmf));
        Plan { weights: memory::weights(bundle, graphs), cache: 0, work: 4 * self.batch as u64 * (image + text) as u64 }
    }

    /// Loads the graphs and starts the thread.
    pub fn start(self, bundle: &Bundle, part: &bundle::Classifier, runtime: &Runtime) -> Result<Classifier, EngineError> {
        let Layout { config, text, neighbours, batch } = self;
        let load = |graph: &bundle::Graph| runtime.load(&bundle.path(&graph.file));
        if part.image.is_some() != config.image.is_some() || part.text.is_some() != config.text.is_some() {
            return Err(refused("its manifest names other encoders than its config.json"));
        }
        let input = config.image.as_ref().map(|(_, input)| input.clone());
        let mut worker = Worker {
            runtime: runtime.clone(),
            size: input.as_ref().map_or([0, 0], |input| [input.height as usize, input.width as usize]),
            image: part.image.as_ref().map(load).transpose()?,
            text: part.text.as_ref().map(load).transpose()?,
            fusion: load(&part.prmf)?,
            batch,
        };
        worker.warm_up(text.as_ref())?;
        let (jobs, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("classifier".to_string())
            .spawn(move || worker.serve(&queue))
            .map_err(|error| EngineError::Internal(format!("cannot start the classifier's thread: {error}")))?;
        let temperature = bundle.calibration().map_or(1.0, |calibration| calibration.temperature);
        let fixed_alpha = match config.fusion {
            Fusion::Fixed(alpha) => Some(alpha as f32),
            Fusion::Prmf | Fusion::Concat => None,
        };
        let classes = config.classes;
        Ok(Classifier { classes, input, text, temperature, fixed_alpha, neighbours, jobs: Some(jobs), thread: Some(thread) })
    }
}

impl Classifier {
    /// Classifies one image with its text; blocks.
    pub fn classify(&self, image: &Rgb8Image, text: Option<&str>, request: &Request) -> Result<Classified, EngineError> {
        let started = Instant::now();
        let prepared = self.input.as_ref().map(|input| classifier_image::prepare(image, input));
        let stain_left = prepared.as_ref().is_some_and(|prepared| prepared.stain_left);
        let pixels = prepared.map(|prepared| prepared.pixel_values);
        let text = match (&self.text, text) {
            (None, _) => None,
            (Some((tokenizer, longest)), Some(text)) => {
                let read = tokenizer.encode_padded(text, *longest);
                Some(read.map_err(|error| EngineError::Image(format!("the description cannot be read: {error}")))?)
            }
            (Some(_), None) => {
                return Err(EngineError::Image("this classifier reads a description, but none was given".to_string()));
            }
        };
        let preparation = milliseconds(started);
        let started = Instant::now();
        let outputs = self.ask(pixels.clone(), text.clone(), request)?;
        let elapsed = vec![("prepare", preparation), ("classify", milliseconds(started))];
        let classification = Classification { stain_left, ..self.opinion(&outputs, text.as_ref())? };
        let trace = request.trace.then(|| {
            let pixels = self.input.as_ref().zip(pixels.as_deref());
            trace(&outputs, &classification, pixels, text.as_ref())
        });
        Ok(Classified { classification, elapsed, trace })
    }

    fn ask(&self, pixels: Option<Vec<f32>>, text: Option<BertText>, request: &Request) -> Result<Outputs, EngineError> {
        let (reply, answer) = channel();
        let job = Job { pixels, text, request: request.clone(), reply };
        let gone = || EngineError::Internal("the classifier's thread has ended; restart the program".to_string());
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    fn opinion(&self, outputs: &Outputs, text: Option<&BertText>) -> Result<Classification, EngineError> {
        let find = |name: &str| outputs.iter().find(|(known, _)| *known == name).map(|(_, values)| values.clone());
        let logits = find("logits").ok_or_else(|| refused("the fusion has no output logits"))?;
        let image_logits = find("image_logits");
        let numbers = logits.iter().chain(image_logits.iter().flatten()).all(|value| value.is_finite());
        if !numbers || logits.len() != self.classes.len() {
            return Err(EngineError::Numbers(format!(
                "the classifier gave {logits:?} for {} classes; the weights are damaged, or the precision is too low for this model",
                self.classes.len()
            )));
        }
        // The features before the head: fused ones, or those of the only encoder.
        let features = find("fused_features").or(find("image_features")).or(find("text_features"));
        Ok(Classification {
            classes: self.classes.clone(),
            probabilities: softmax(&wide(&logits), self.temperature),
            image_probabilities: image_logits.as_ref().map(|logits| softmax(&wide(logits), 1.0)),
            logits,
            image_logits,
            novelty: self
                .neighbours
                .as_ref()
                .zip(features)
                .map(|(neighbours, features)| self.distance(neighbours, &features))
                .transpose()?,
            stain_left: false,
            alpha_text: find("alpha_text").map(|values| values[0]).or(self.fixed_alpha),
            logits_without_text: find("logits_without_text"),
            description_tokens_read: text.map(|text| text.tokens_read.saturating_sub(2)),
            description_read_until: text.map(|text| text.bytes_read),
        })
    }
}

impl Classifier {
    fn distance(&self, neighbours: &Neighbours, features: &[f32]) -> Result<f64, EngineError> {
        if features.len() != neighbours.hidden() {
            return Err(refused(format!(
                "{NOVELTY} holds features of {} numbers, its graphs give {}",
                neighbours.hidden(),
                features.len()
            )));
        }
        Ok(neighbours.score(features))
    }
}

impl Drop for Classifier {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already answered its callers by hanging up.
            let _ = thread.join();
        }
    }
}

/// The thread's state.
struct Worker {
    runtime: Runtime,
    /// Height and width of the images.
    size: [usize; 2],
    image: Option<Session>,
    text: Option<Session>,
    fusion: Session,
    /// Most images of one batch.
    batch: usize,
}

impl Worker {
    /// Runs the largest batch once: the first patch does not wait for it, a bundle that cannot run is found at the start, and so is the want
    /// of memory, which a session takes when it first needs it and then keeps.
    fn warm_up(&mut self, text: Option<&(BertTokenizer, usize)>) -> Result<(), EngineError> {
        let [height, width] = self.size;
        let text = text.map(|(tokenizer, longest)| tokenizer.encode_padded("warm-up", *longest)).transpose().map_err(refused)?;
        let job = || {
            let pixels = self.image.is_some().then(|| vec![0.0; 3 * height * width]);
            Job { pixels, text: text.clone(), request: Request::new(Mode::Classify), reply: channel().0 }
        };
        let batch: Vec<Job> = (0..self.batch).map(|_| job()).collect();
        self.run(&batch).map(|_| ()).map_err(|error| self.runtime.error("the classifier failed", &error))
    }

    /// Serves until nobody can send any more; takes what waits, and never waits for more.
    fn serve(mut self, queue: &Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            batch.extend(queue.try_iter().take(self.batch - 1));
            let (batch, cancelled): (Vec<Job>, Vec<Job>) = batch.into_iter().partition(|job| !job.request.is_cancelled());
            cancelled.iter().for_each(|job| reply(job, Err(EngineError::Cancelled)));
            if batch.is_empty() {
                continue;
            }
            match self.run(&batch) {
                Ok(rows) => batch.iter().zip(rows).for_each(|(job, row)| reply(job, Ok(row))),
                Err(error) => {
                    let error = self.runtime.error("the classifier failed", &error);
                    batch.iter().for_each(|job| reply(job, Err(error.clone())));
                }
            }
        }
    }

    fn run(&mut self, batch: &[Job]) -> ort::Result<Vec<Outputs>> {
        let mut rows: Vec<Outputs> = vec![Vec::new(); batch.len()];
        let mut inputs: Vec<(&str, Tensor<f32>)> = Vec::new();
        for (name, features) in [("image_features", self.images(batch)?), ("text_features", self.texts(batch)?)] {
            let Some(features) = features else { continue };
            deal(&mut rows, name, &features);
            inputs.push((name, Tensor::from_array(([batch.len(), features.len() / batch.len()], features))?));
        }
        let outputs = self.fusion.run(inputs)?;
        for name in FUSION {
            if let Some(values) = outputs.get(name) {
                deal(&mut rows, name, values.try_extract_tensor::<f32>()?.1);
            }
        }
        Ok(rows)
    }

    /// `[batch, features]`, if the classifier reads images.
    fn images(&mut self, batch: &[Job]) -> ort::Result<Option<Vec<f32>>> {
        let Some(session) = &mut self.image else { return Ok(None) };
        let [height, width] = self.size;
        let pixels: Vec<f32> = batch.iter().flat_map(|job| job.pixels.iter().flatten().copied()).collect();
        let pixels = Tensor::from_array(([batch.len(), 3, height, width], pixels))?;
        let outputs = session.run(ort::inputs! { "pixel_values" => pixels })?;
        Ok(Some(outputs["image_features"].try_extract_tensor::<f32>()?.1.to_vec()))
    }

    /// `[batch, hidden]`, if the classifier reads texts.
    fn texts(&mut self, batch: &[Job]) -> ort::Result<Option<Vec<f32>>> {
        let Some(session) = &mut self.text else { return Ok(None) };
        let texts: Vec<&BertText> = batch.iter().filter_map(|job| job.text.as_ref()).collect();
        let shape = [texts.len(), texts.first().map_or(0, |text| text.ids.len())];
        let ids = texts.iter().flat_map(|text| text.ids.iter().copied()).collect::<Vec<i64>>();
        let mask = texts.iter().flat_map(|text| text.mask.iter().copied()).collect::<Vec<i64>>();
        let outputs = session.run(ort::inputs! {
            "input_ids" => Tensor::from_array((shape, ids))?,
            "attention_mask" => Tensor::from_array((shape, mask))?,
        })?;
        Ok(Some(outputs["text_features"].try_extract_tensor::<f32>()?.1.to_vec()))
    }
}

/// Gives every row its part of a batch's values.
fn deal(rows: &mut [Outputs], name: &'static str, values: &[f32]) {
    let width = values.len() / rows.len();
    rows.iter_mut().zip(values.chunks_exact(width)).for_each(|(row, part)| row.push((name, part.to_vec())));
}

/// Sends an outcome; a caller that no longer waits is no error.
fn reply(job: &Job, outcome: Result<Outputs, EngineError>) {
    (job.request.beat)();
    let _ = job.reply.send(outcome);
}

/// The tensors of `--trace`.
fn trace(outputs: &Outputs, opinion: &Classification, pixels: Option<(&ImageInput, &[f32])>, text: Option<&BertText>) -> Trace {
    let mut trace = Trace::default();
    if let Some((input, pixels)) = pixels {
        trace.put_f32("classifier_pixel_values", &[1, 3, input.height as usize, input.width as usize], pixels);
    }
    if let Some(text) = text {
        trace.put_i64("text_input_ids", &[1, text.ids.len()], &text.ids);
        trace.put_i64("text_attention_mask", &[1, text.mask.len()], &text.mask);
    }
    for (name, values) in outputs.iter().filter(|(name, _)| *name != "logits_without_text") {
        trace.put_f32(name, &[1, values.len()], values);
    }
    let probabilities =
        [("probabilities", Some(&opinion.probabilities)), ("image_probabilities", opinion.image_probabilities.as_ref())];
    for (name, values) in probabilities.into_iter().filter_map(|(name, values)| Some((name, values?))) {
        let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        trace.put_f32(name, &[1, values.len()], &values);
    }
    trace
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn refused(error: impl std::fmt::Display) -> EngineError {
    EngineError::Bundle(format!("the classifier of the bundle cannot be used: {error}; export the bundle again"))
}
