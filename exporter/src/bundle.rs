//! Writing a bundle: graphs, tokenizers, model card and manifest, made beside the target and renamed when whole.

use crate::{
    classifier::{ClassifierInput, damaged_record},
    error::ExportError,
    export::{GraphInfo, Step, export_decided, weight_bytes},
    few_bits::{Calibration, Convolutions, FewBits, Kept, check_calibration},
    lower::{cache_head_size, lower_deciding, lower_portable, not_portable},
    model_card::model_card,
    policy::Policy,
    source::{Network, Sizes, Source},
    write::{Made, PRODUCER},
};
use mmlnb_models::{
    bundle::{
        self, CLASSIFIER, DESCRIBER, FORMAT, KNOWN_ANSWERS, KnownAnswer, MANIFEST, Manifest, NOVELTY, Precision, Provenance,
    },
    config::QwenConfig,
    exchange, hash,
    prepare::{chat::check_template, qwen_image::QwenImageProcessor, qwen_tokenizer::QwenTokenizer, settings::Settings},
    provenance::{TRAINING_DATA, TrainingData},
    record::Record,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Files of a checkpoint that make its folder in the bundle readable without weights; absent ones are left out.
const DESCRIBER_FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.json",
    "chat_template.jinja",
];
/// The same of a classifier.
const CLASSIFIER_FILES: [&str; 5] = ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", NOVELTY];

/// What a bundle is made from.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The folder to be written.
    pub output: PathBuf,
    /// A Qwen2.5-VL checkpoint, for the describer.
    pub vlm: Option<PathBuf>,
    /// An adapter to merge into it.
    pub adapter: Option<PathBuf>,
    /// Accept an adapter that lacks modules that its configuration names.
    pub allow_partial: bool,
    /// A classifier's folder.
    pub classifier: Option<PathBuf>,
    /// Prompt and generation settings.
    pub settings: Option<PathBuf>,
    /// Type of products and their weights.
    pub precision: Precision,
    /// Operators of the ONNX standard alone.
    pub portable: bool,
    /// Statistics of the describer, for weights in few bits.
    pub calibration: Option<PathBuf>,
    /// Width and height of the describer's images, multiples of 28.
    pub image_size: Option<[i64; 2]>,
}

/// The describer's half, opened and checked.
pub(crate) struct DescriberInput {
    pub source: Source,
    pub config: QwenConfig,
    pub settings: Settings,
    record: Option<Record>,
    image_size: Option<[i64; 2]>,
    calibration: Option<Calibration>,
    /// What it has seen, as far as it says.
    trained_on: Option<TrainingData>,
}

/// Writes a bundle; returns `bundle_sha256`. An older bundle in its place is replaced when the new one is whole.
///
/// # Errors
/// All that is wrong with the inputs, before anything is written; then whatever stops the writing.
pub fn export_bundle(recipe: &Recipe, progress: &dyn Fn(Step<'_>)) -> Result<String, ExportError> {
    let (describer, classifier) = opened(recipe)?;
    let part = Part::create(&recipe.output)?;
    let mut manifest = Manifest {
        format: FORMAT,
        producer: format!("{PRODUCER} {}", env!("CARGO_PKG_VERSION")),
        precision: recipe.precision,
        portable: recipe.portable,
        describer: None,
        classifier: None,
        provenance: Provenance::default(),
        known_answers: Vec::new(),
        qualification: None,
        files: Default::default(),
    };
    let mut kept = Vec::new();
    if let Some(input) = &describer {
        input.source.told_partial().iter().for_each(|warning| progress(Step::Warning(warning)));
        let (written, matrices) = write_describer(input, recipe, &part.path, progress)?;
        manifest.describer = Some(written);
        kept = matrices;
        manifest.provenance.calibration = recipe
            .calibration
            .as_deref()
            .zip(input.calibration.as_ref())
            .map(|(dir, found)| bundle::Source { name: folder_name(dir), sha256: found.statistics.sha256().to_string() });
        manifest.provenance.checkpoint = Some(provenance(&input.source, &DESCRIBER_FILES)?);
        manifest.provenance.data.extend(input.record.iter().map(|record| record.data_sha256.clone()));
        if let Some(adapter) = input.source.adapter() {
            manifest.provenance.adapter =
                Some(bundle::Source { name: folder_name(adapter.path()), sha256: adapter.sha256()?.to_string() });
        }
        let trained = input.source.adapter().map_or(input.source.dir(), |adapter| adapter.path());
        write_trained_on(input.trained_on.as_ref(), &part.path.join(DESCRIBER))?;
        manifest.known_answers.extend(known_answers(trained, "describer", recipe.precision, &part.path)?);
    }
    if let Some(input) = &classifier {
        let warning = input.convolutions.warning().map(|warning| format!("image encoder: {warning}"));
        warning.iter().for_each(|warning| progress(Step::Warning(warning)));
        manifest.classifier = Some(write_classifier(input, recipe, &part.path, progress)?);
        manifest.provenance.classifier = Some(provenance(&input.source, &CLASSIFIER_FILES)?);
        manifest.provenance.data.extend(input.data_sha256.clone());
        manifest.known_answers.extend(known_answers(input.source.dir(), "classifier", recipe.precision, &part.path)?);
    }
    let card = part.path.join("MODEL_CARD.md");
    fs::write(&card, model_card(&manifest, &kept, classifier.as_ref())).map_err(ExportError::io("write", &card))?;
    manifest.files = bundle::list_files(&part.path)?;
    let sha256 = manifest.write(&part.path)?;
    part.finish(&recipe.output)?;
    Ok(sha256)
}

/// Opens everything, and says everything that is wrong at once.
fn opened(recipe: &Recipe) -> Result<(Option<DescriberInput>, Option<ClassifierInput>), ExportError> {
    let mut problems = Vec::new();
    let mut asked = |problem: &str| problems.push(ExportError::Asked(problem.to_string()));
    if recipe.vlm.is_none() && recipe.classifier.is_none() {
        asked("give --vlm, --classifier or both: a bundle holds at least one of them");
    }
    if recipe.vlm.is_none() {
        let without = [
            (recipe.adapter.is_some(), "--adapter"),
            (recipe.allow_partial, "--allow-partial"),
            (recipe.settings.is_some(), "--settings"),
            (recipe.calibration.is_some(), "--calibration"),
            (recipe.image_size.is_some(), "--image-size"),
        ];
        without
            .iter()
            .filter(|(given, _)| *given)
            .for_each(|(_, name)| asked(&format!("{name} is for the describer; give --vlm too")));
    }
    not_portable(recipe.precision).filter(|_| recipe.portable).iter().for_each(|problem| asked(problem));
    if recipe.calibration.is_some() {
        problems.extend(check_calibration(recipe.precision).err());
    }
    problems.extend(occupied(&recipe.output, is_bundle, "bundle of mmlnb-export").err());
    let mut keep = |result: Result<(), ExportError>| problems.extend(result.err());
    let mut describer = None;
    if let Some(dir) = &recipe.vlm {
        keep(check_template(dir).map_err(|error| ExportError::Asked(error.to_string())));
        keep(open_describer(dir, recipe).map(|input| describer = Some(input)));
    }
    let mut classifier = None;
    if let Some(dir) = &recipe.classifier {
        keep(ClassifierInput::open(dir, recipe.precision).map(|input| classifier = Some(input)));
    }
    ExportError::all(problems).map(|()| (describer, classifier))
}

pub(crate) fn open_describer(dir: &Path, recipe: &Recipe) -> Result<DescriberInput, ExportError> {
    let source = Source::open_allowing(dir, recipe.adapter.as_deref(), recipe.allow_partial)?;
    let Sizes::Qwen(config) = source.sizes().clone() else {
        return Err(ExportError::Asked(format!("--vlm is for a Qwen2.5-VL checkpoint, but {} is none", dir.display())));
    };
    let unfit = |problem: String| ExportError::Checkpoint { path: dir.to_path_buf(), problem };
    let processor = QwenImageProcessor::from_dir(dir, &config.vision)?;
    let record_of = |folder: &Path| Record::read(folder).map_err(|error| unfit(error.to_string()));
    let record =
        recipe.adapter.as_deref().map(record_of).transpose()?.flatten().map_or_else(|| record_of(dir), |own| Ok(Some(own)))?;
    let trained_on = TrainingData::of_describer(dir, recipe.adapter.as_deref()).map_err(|error| damaged_record(&error))?;
    let image_size = recipe.image_size.or(record.as_ref().and_then(|record| record.image_size));
    if let Some([width, height]) = image_size {
        processor.with_size(width, height).map_err(|error| unfit(error.to_string()))?;
    }
    let tokenizer = QwenTokenizer::from_dir(dir).and_then(|tokenizer| tokenizer.within(config.text.vocabulary));
    let tokenizer = tokenizer.map_err(|error| unfit(error.to_string()))?;
    let names =
        [("<|image_pad|>", config.image_token), ("<|vision_start|>", config.vision_start), ("<|vision_end|>", config.vision_end)];
    for (name, expected) in names {
        match tokenizer.id(name) {
            Some(id) if id == expected => {}
            found => return Err(unfit(format!("the tokenizer's id of {name} is {found:?}, config.json says {expected}"))),
        }
    }
    let settings = Settings::resolve_trained(recipe.settings.as_deref(), dir, record.as_ref(), |token| tokenizer.id(token));
    let settings = settings.map_err(|error| ExportError::Asked(error.to_string()))?;
    let calibration = recipe.calibration.as_deref().map(|folder| Calibration::open(folder, &source)).transpose()?;
    Ok(DescriberInput { source, config, settings, record, image_size, calibration, trained_on })
}

fn write_describer(
    input: &DescriberInput,
    recipe: &Recipe,
    part: &Path,
    progress: &dyn Fn(Step<'_>),
) -> Result<(bundle::Describer, Vec<Kept>), ExportError> {
    let DescriberInput { source, config, settings, image_size, calibration, .. } = input;
    let dir = part.join(DESCRIBER);
    let mut kept = Vec::new();
    let mut write_as = |network: Network, name: &str, precision: Precision| {
        let statistics = calibration.as_ref().map(|calibration| &calibration.statistics);
        let few = FewBits::decide_telling(&source.graph(network)?, &source.weights()?, precision, statistics, (name, progress))?;
        kept.extend_from_slice(few.kept());
        let calibrated = statistics.map(|statistics| statistics.sha256());
        write_graph(source, network, Form { name, precision, portable: recipe.portable, few: &few, calibrated }, &dir, progress)
    };
    let mut write = |network: Network| write_as(network, network.name(), recipe.precision);
    let vision = write(Network::Vision)?.described(&format!("{DESCRIBER}/vision.onnx"));
    let embedding = write(Network::Embedding)?.described(&format!("{DESCRIBER}/embedding.onnx"));
    let mut decoder = |name: &str, precision: Precision| -> Result<bundle::Graph, ExportError> {
        Ok(write_as(Network::Decoder, name, precision)?.described(&format!("{DESCRIBER}/{name}.onnx")))
    };
    let (graph, prompts) = match recipe.precision {
        Precision::Int4Int8 => (decoder("decoder", Precision::Int4)?, Some(decoder("prompts", Precision::Int8)?)),
        one => (decoder("decoder", one)?, None),
    };
    let cache = graph.inputs.iter().find(|port| port.name == "past.0.key");
    let cache_dtype = cache.map_or_else(String::new, |port| port.dtype.clone());
    copy(source.dir(), &dir, &DESCRIBER_FILES)?;
    let text = &config.text;
    let describer = bundle::Describer {
        prompt: settings.prompt.clone(),
        system: settings.system.clone(),
        generation: settings.generation.clone(),
        image_size: *image_size,
        vision,
        embedding,
        table: bundle::Table {
            file: format!("{DESCRIBER}/embedding.onnx.data"),
            dtype: Policy::new(recipe.precision, &source.graph(Network::Embedding)?).table().name().to_string(),
        },
        decoder: bundle::Decoder {
            graph,
            prompts,
            layers: text.layers,
            kv_heads: text.kv_heads,
            head_size: text.head_size,
            cache_head_size: cache_head_size(text.head_size),
            cache_dtype,
        },
    };
    Ok((describer, kept))
}

fn write_classifier(
    input: &ClassifierInput,
    recipe: &Recipe,
    part: &Path,
    progress: &dyn Fn(Step<'_>),
) -> Result<bundle::Classifier, ExportError> {
    let ClassifierInput { source, config, calibration, convolutions, trained_on, .. } = input;
    let dir = part.join(CLASSIFIER);
    let (mut image, mut text, mut prmf) = (None, None, None);
    for network in source.networks() {
        let none = Convolutions::None;
        let (name, place, convolutions) = match network {
            Network::Vgg16 | Network::Swin => ("image", &mut image, convolutions),
            Network::Bert => ("bert", &mut text, &none),
            Network::Prmf => ("prmf", &mut prmf, &none),
            Network::Vision | Network::Embedding | Network::Decoder => continue,
        };
        let (graph, weights) = (source.graph(network)?, source.weights()?);
        let few = FewBits::decide_telling(&graph, &weights, recipe.precision, None, (name, progress))?;
        let few = few.with_convolutions(convolutions.clone());
        let form = Form { name, precision: recipe.precision, portable: recipe.portable, few: &few, calibrated: None };
        *place = Some(write_graph(source, network, form, &dir, progress)?.described(&format!("{CLASSIFIER}/{name}.onnx")));
    }
    copy(source.dir(), &dir, &CLASSIFIER_FILES)?;
    write_trained_on(trained_on.as_ref(), &dir)?;
    let prmf = prmf.ok_or_else(|| ExportError::Asked(format!("{} holds no fusion and no heads", source.dir().display())))?;
    Ok(bundle::Classifier {
        classes: config.classes.clone(),
        image_size: config.image.as_ref().map(|(_, input)| [input.width, input.height]),
        max_length: config.text.as_ref().map(|text| text.longest_text()),
        image,
        text,
        prmf,
        calibration: calibration.clone(),
    })
}

/// What a graph is called and how it is read.
#[derive(Clone, Copy)]
struct Form<'a> {
    name: &'a str,
    precision: Precision,
    portable: bool,
    /// What was decided of its matrices.
    few: &'a FewBits,
    /// Hash of the statistics by which that was decided.
    calibrated: Option<&'a str>,
}

fn write_graph(
    source: &Source,
    network: Network,
    Form { name, precision, portable, few, calibrated }: Form<'_>,
    dir: &Path,
    progress: &dyn Fn(Step<'_>),
) -> Result<GraphInfo, ExportError> {
    let graph = source.graph(network)?;
    let lowered =
        if portable { lower_portable(&graph, name, precision, few)? } else { lower_deciding(&graph, name, precision, few)? };
    progress(Step::Begin { name, bytes: weight_bytes(&lowered) });
    let wrote = |bytes| progress(Step::Wrote(bytes));
    let metadata: Vec<(&str, String)> = calibrated.map(|sha256| ("calibration_sha256", sha256.to_string())).into_iter().collect();
    let info = export_decided(&lowered, (&source.weights()?, few), precision, dir, &metadata, &wrote);
    progress(Step::End);
    info
}

/// The known answers of a folder, with their images copied into the bundle under names of their own.
fn known_answers(from: &Path, half: &str, precision: Precision, part: &Path) -> Result<Vec<KnownAnswer>, ExportError> {
    let answers = KnownAnswer::read_all(from)?.into_iter();
    let mut answers: Vec<KnownAnswer> = answers.filter_map(|answer| answer.from_f32(precision)).collect();
    for answer in &mut answers {
        let (source, name) = (from.join(KNOWN_ANSWERS).join(&answer.image), format!("{KNOWN_ANSWERS}/{half}-{}", answer.image));
        let target = part.join(&name);
        fs::create_dir_all(part.join(KNOWN_ANSWERS)).map_err(ExportError::io("create", &target))?;
        fs::copy(&source, &target).map_err(ExportError::io("copy", &source))?;
        answer.image = name;
    }
    Ok(answers)
}

fn write_trained_on(data: Option<&TrainingData>, to: &Path) -> Result<(), ExportError> {
    let file = to.join(TRAINING_DATA);
    data.map_or(Ok(()), |data| fs::write(&file, data.to_bytes()).map_err(ExportError::io("write", &file)))
}

pub(crate) fn copy(from: &Path, to: &Path, names: &[&str]) -> Result<(), ExportError> {
    for name in names {
        let file = from.join(name);
        if file.is_file() {
            let bytes = fs::read(&file).map_err(ExportError::io("read", &file))?;
            fs::write(to.join(name), bytes).map_err(ExportError::io("write", &to.join(name)))?;
        }
    }
    Ok(())
}

/// Name and hash of a folder: over the hash of its weights and the names and hashes of the files that go into the bundle.
fn provenance(source: &Source, names: &[&str]) -> Result<bundle::Source, ExportError> {
    let mut lines = format!("weights {}\n", source.checkpoint().sha256()?);
    for name in names {
        let file = source.dir().join(name);
        if file.is_file() {
            let (_, sha256) = hash::sha256_file(&file).map_err(ExportError::io("read", &file))?;
            lines += &format!("{name} {sha256}\n");
        }
    }
    Ok(bundle::Source { name: folder_name(source.dir()), sha256: hash::sha256_hex(lines.as_bytes()) })
}

fn folder_name(dir: &Path) -> String {
    let full = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    full.file_name().map_or_else(|| full.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Whether a folder is a bundle of this program.
fn is_bundle(folder: &Path) -> Result<bool, ExportError> {
    let manifest =
        fs::read(folder.join(MANIFEST)).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    Ok(manifest.is_some_and(|m| m.get("producer").and_then(|p| p.as_str()).is_some_and(|p| p.starts_with(PRODUCER))))
}

/// Refuses a target that is neither absent, nor empty, nor `ours`, which is called `what`.
pub(crate) fn occupied(output: &Path, ours: fn(&Path) -> Result<bool, ExportError>, what: &str) -> Result<(), ExportError> {
    let refuse = |problem: String| Err(ExportError::Occupied { path: output.to_path_buf(), problem });
    if !output.exists() {
        return Ok(());
    }
    if !output.is_dir() {
        return refuse("is a file; give a folder as --output".to_string());
    }
    let empty = fs::read_dir(output).map_err(ExportError::io("read", output))?.next().is_none();
    if empty || ours(output)? { Ok(()) } else { refuse(format!("is not empty and no {what}; choose another --output")) }
}

/// The folder under a hidden name beside its target; removed unless finished.
pub(crate) struct Part {
    pub path: PathBuf,
    finished: bool,
    /// Folders around it; let go of after it.
    around: Option<Made>,
}

impl Part {
    pub fn create(output: &Path) -> Result<Part, ExportError> {
        let path = exchange::beside(output, "part").map_err(ExportError::io("read", output))?;
        if path.exists() {
            fs::remove_dir_all(&path).map_err(ExportError::io("remove", &path))?;
        }
        let around = path.parent().map(Made::folder).transpose()?;
        fs::create_dir(&path).map_err(ExportError::io("create", &path))?;
        Ok(Part { path, finished: false, around })
    }

    pub fn finish(mut self, output: &Path) -> Result<(), ExportError> {
        exchange::put_in_place(&self.path, output).map_err(ExportError::io("rename", &self.path))?;
        self.finished = true;
        self.around.take().into_iter().for_each(Made::keep);
        // The bundle that lay there before.
        if self.path.exists() {
            fs::remove_dir_all(&self.path).map_err(ExportError::io("remove", &self.path))?;
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // The error that brought us here is the one to tell; what stays is hidden and removed next time.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}
