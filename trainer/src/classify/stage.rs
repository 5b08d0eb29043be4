//! The stage from data to a measured classifier.

use super::{
    assess::{PartMeasures, measures, predictions},
    calibrate::{Calibrated, Found, calibrate},
    corpus::{Corpus, Known, Opinion, judge},
    descriptions::{CACHE, Described, described, describers, source},
    folder::{self, Extras},
    known_answers,
    network::Network,
    pictures::{Pictures, read},
    recipe::{Descriptions, NullImage, Recipe, StainNormalisation},
    roles::{RoleCounts, Roles},
    start::{Start, tokenizer},
    texts::{Cut, Written},
    train::{Best, Choice, Training, train},
};
use crate::{
    data::{
        self, ClassOrder, Needs, Overlap, Part, Row, Split, SplitBy, SplitOptions, Summary, Table, TextLimit, TrainingData,
        check_overlap, salt_of, training_data,
    },
    diagnostics::{cut_texts, generic_texts},
    error::TrainError,
    generate::Source,
    report,
    run::{Decided, Kind, Opened, RunFolder, predictions::Prediction},
    start::{TORCH_VERSION, set_threads},
    threads,
};
use mmlnb_models::{
    config::ClassifierConfig,
    cost,
    prepare::{bert_tokenizer::SPECIAL_TOKENS, decode::Rgb8Image, stain},
    weights::{Checkpoint, Naming},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{
    fs,
    num::NonZeroU16,
    path::{Path, PathBuf},
};
use tch::{Device, Tensor};

/// Training images from which the target of a stain normalisation is found.
const STAIN_SAMPLES: usize = 200;

/// Said wherever a describer's training data are not known.
const UNKNOWN: &str = "unknown: what the describer of the texts was tuned on; images that are reported here may be among it";

/// How the data are split.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// By the column `split`, else by patient into three parts.
    #[default]
    Usual,
    /// As the paper's code: a random fifth of all patches chooses and is reported.
    Paper,
    /// One fold of several is reported.
    Fold {
        /// From 0.
        number: usize,
        /// 3 or more.
        of: usize,
    },
    /// One site is reported.
    LeaveOut(String),
}

/// What to train, on what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The CSV file.
    pub data: PathBuf,
    /// The image folder.
    pub images: PathBuf,
    /// The run's folder.
    pub output: PathBuf,
    /// Name of the recipe, for readers.
    pub recipe_name: String,
    /// The recipe with everything that was changed in it.
    pub recipe: Recipe,
    /// A run of `describe`, an adapter's folder or a checkpoint.
    pub describer: Option<PathBuf>,
    /// The checkpoint beside which the describer's adapter was trained.
    pub base: Option<PathBuf>,
    /// From the lowest to the highest.
    pub class_order: Option<Vec<String>>,
    /// How the data are split.
    pub protocol: Protocol,
    /// Another seed, another split.
    pub split_seed: u64,
    /// Whether the describer may have been tuned on images that are reported.
    pub allow_overlap: bool,
    /// Where to compute.
    pub device: Device,
    /// Go on with a run that was stopped.
    pub resume: bool,
    /// Check the data, print the plan, and stop.
    pub dry_run: bool,
}

/// `measures.json`: everything measured on the best epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunMeasures {
    /// What was trained and measured on.
    pub data: Summary,
    /// The best epoch and why it is the best.
    pub best: Best,
    /// `macro_f1` or, for the paper's protocol, `weighted_f1` on the reported part.
    pub chosen_by: String,
    /// The rows that chose the epoch, that calibrated, and that are reported.
    #[serde(default)]
    pub roles: RoleCounts,
    /// The validation part: with a test part the rows that chose the epoch and those that calibrated; without one the reported rows alone.
    pub validation: PartMeasures,
    /// The test part, where there is one.
    pub test: Option<PartMeasures>,
    /// How temperature and thresholds were found.
    pub calibration: Calibrated,
    /// Texts that are longer than the encoder reads, of all parts.
    pub cut: Option<Cut>,
    /// What a reader has to know.
    pub warnings: Vec<String>,
}

/// The data of a stage, checked and split.
struct Given {
    table: Table,
    split: Split,
    roles: Roles,
    kind: Descriptions,
    source: Option<Source>,
    overlap: Overlap,
    summary: Summary,
    start: Start,
}

/// Trains a classifier and measures it; nothing when only checked, or when the run was finished before.
///
/// # Errors
/// Everything that is wrong with data and settings, before anything is loaded; [`TrainError::Interrupted`] after a signal.
pub fn run(options: &Options) -> Result<Option<RunMeasures>, TrainError> {
    let given = Given::new(options)?;
    eprint!("{}", given.summary);
    let threads = given.threads(options)?;
    given.plan(options, threads);
    if options.dry_run {
        return Ok(None);
    }
    let (mut folder, state) = match RunFolder::open(&options.output, &given.decided(options, threads)?, options.resume)? {
        Opened::Finished => return Ok(None),
        Opened::Fresh(folder) => (folder, None),
        Opened::Resumed(folder, state) => (folder, Some(state)),
    };
    set_threads(threads);
    let texts = given.texts(options, folder.path())?;
    let (config, stain_left) = given.config(options)?;
    let corpus = given.corpus(options, &config, texts.as_ref())?;
    let network = begin(&given.start, &config, folder.path(), options)?;
    let before = options.recipe.start.as_deref().map(TrainingData::read).transpose()?.flatten();
    let trained = training_data(&given.table, &given.split, salt_of(folder.path())?, before);
    let extras = Extras { recipe: recipe_json(&options.recipe)?, training_data: trained.clone(), ..Extras::default() };
    let tokenizer = given.start.tokenizer.as_deref();
    let save = |folder: &Path, tensors: &[(String, Tensor)]| folder::write(folder, &config, tensors, tokenizer, &extras);
    let train_rows = given.split.rows(Part::Train);
    let training = Training {
        recipe: &options.recipe,
        network: &network,
        corpus: &corpus,
        train: &train_rows,
        watched: &given.roles.chosen,
        choice: if given.split.reported_is_validation { Choice::WeightedF1 } else { Choice::MacroF1 },
        ordinal: given.table.ordinal,
        save: &save,
    };
    if state.is_none() {
        given.diagnose_texts(&mut folder, &corpus, texts.as_ref())?;
    }
    let best = train(&training, &mut folder, state)?;
    let (given, config, corpus, network, trained) = (&given, &config, &corpus, &network, &trained);
    let finished = Finished { options, given, config, corpus, network, texts: texts.as_ref(), trained };
    finished.measure(folder, best, stain_left).map(Some)
}

impl Given {
    fn new(options: &Options) -> Result<Given, TrainError> {
        let recipe = &options.recipe;
        let (kind, source) = source(recipe, options.describer.as_deref(), options.base.as_deref(), options.device)?;
        let order = options.class_order.as_deref().map_or(ClassOrder::FromData, ClassOrder::Ordinal);
        let written = recipe.reads_texts() && matches!(kind, Descriptions::Csv | Descriptions::Mixed);
        let needs = Needs { description: written, class: true, order, text: None, control: &SPECIAL_TOKENS };
        let table = data::load(&options.data, &options.images, &needs)?;
        let split = data::split(&table, &split_options(&table, options))?;
        for (part, what) in [(Part::Train, "train on"), (Part::Validation, "choose the best epoch by")] {
            if split.rows(part).is_empty() {
                return Err(TrainError::Asked(format!("the part {part} has no rows: there is nothing to {what}")));
            }
        }
        let roles = Roles::new(&table, &split, recipe.seed)?;
        let overlap = check_overlap(&table, &split, &describers(kind, recipe, source.as_ref(), &table)?, options.allow_overlap)?;
        if overlap == Overlap::Unknown {
            eprintln!("WARNING: {UNKNOWN}");
        }
        let start = Start::new(recipe, &table.classes)?;
        let summary = summary(&table, &split, &start, written)?;
        Ok(Given { table, split, roles, kind, source, overlap, summary, start })
    }

    /// How many threads libtorch gets.
    fn threads(&self, options: &Options) -> Result<NonZeroU16, TrainError> {
        let describer = self.source.as_ref().map(Source::prompter).transpose()?;
        let describing = describer.map_or(0.0, |prompter| threads::of_describer(&prompter.config));
        let resumed = options.resume.then_some(options.output.as_path());
        threads::chosen(options.recipe.threads, resumed, threads::of_classifier(&self.start.config).max(describing))
    }

    /// What will be done, in a few lines.
    fn plan(&self, options: &Options, threads: NonZeroU16) {
        let Options { recipe, recipe_name, .. } = options;
        let curriculum = recipe.curriculum();
        let steps = self.split.rows(Part::Train).len().div_ceil(recipe.batch_size);
        let graphs = self.start.graphs();
        let parameters = cost::parameters(&graphs.iter().collect::<Vec<_>>());
        eprintln!(
            "recipe {recipe_name}: {} epochs of {steps} steps, {parameters} parameters; threads of libtorch: {threads}",
            recipe.epochs
        );
        for stage in 1..=3 {
            let epochs: Vec<usize> = (0..curriculum.epochs).filter(|epoch| curriculum.stage(*epoch) == stage).collect();
            if let (Some(first), Some(last)) = (epochs.first(), epochs.last()) {
                let what = ["text encoder frozen", "all parts learn", "both encoders frozen"][stage - 1];
                eprintln!(
                    "  epochs {} to {}: {what}, lambda {:.2} to {:.2}",
                    first + 1,
                    last + 1,
                    curriculum.lambda(*first),
                    curriculum.lambda(*last)
                );
            }
        }
        if let Some(source) = &self.source {
            let adapter = source.adapter.as_ref().map_or(String::new(), |adapter| format!(" with {}", adapter.display()));
            eprintln!("descriptions by {}{adapter}", source.base.display());
        }
    }

    /// All that decides the result.
    fn decided(&self, options: &Options, threads: NonZeroU16) -> Result<Decided, TrainError> {
        let mut recipe = options.recipe.decided()?;
        let mut paths = toml::Table::new();
        for key in ["start", "image_weights", "text_weights"] {
            recipe.remove(key).map(|path| paths.insert(key.into(), path));
        }
        recipe.insert("name".into(), options.recipe_name.clone().into());
        recipe.insert("threads".into(), i64::from(threads.get()).into());
        let path = |path: &Path| toml::Value::from(path.to_string_lossy().into_owned());
        paths.insert("data".into(), path(&options.data));
        paths.insert("images".into(), path(&options.images));
        let mut base = self.start.hashes()?;
        if let Some(source) = &self.source {
            base.insert("describer_sha256".into(), source.sha256(&source.prompter()?)?.into());
            paths.insert("base".into(), path(&source.base));
            source.adapter.as_ref().map(|adapter| paths.insert("adapter".into(), path(adapter)));
        }
        let count = |part: Part| self.split.rows(part).len() as i64;
        let data = toml::Table::from_iter([
            ("sha256".to_string(), self.table.sha256().into()),
            ("split_sha256".to_string(), mmlnb_models::hash::sha256_hex(format!("{:?}", self.split.parts).as_bytes()).into()),
            ("classes".to_string(), self.table.classes.clone().into()),
            ("ordinal".to_string(), self.table.ordinal.into()),
            ("protocol".to_string(), protocol_name(&options.protocol, &self.table).into()),
            ("by_patient".to_string(), self.split.by_patient.into()),
            ("describer_overlap".to_string(), matches!(self.overlap, Overlap::Allowed { .. }).into()),
            ("descriptions".to_string(), toml::Value::try_from(self.kind).unwrap_or_else(|_| "csv".into())),
            ("train".to_string(), count(Part::Train).into()),
            ("validation".to_string(), count(Part::Validation).into()),
            ("test".to_string(), count(Part::Test).into()),
            ("chosen_by".to_string(), (self.roles.chosen.len() as i64).into()),
            ("calibrated_on".to_string(), (self.roles.fitted.len() as i64).into()),
        ]);
        let seeds = [("training", options.recipe.seed as i64), ("split", options.split_seed as i64)];
        let versions = [("mmlnb", env!("CARGO_PKG_VERSION")), ("libtorch", TORCH_VERSION)];
        let decided = Decided::default()
            .with("recipe", recipe)?
            .with("data", data)?
            .with("base", base)?
            .with("seeds", toml::Table::from_iter(seeds.map(|(name, seed)| (name.to_string(), seed.into()))))?
            .with("versions", toml::Table::from_iter(versions.map(|(name, version)| (name.to_string(), version.into()))))?
            .with("paths", paths)?;
        Ok(decided)
    }

    /// The texts of all rows, where texts are read.
    fn texts(&self, options: &Options, run: &Path) -> Result<Option<Described>, TrainError> {
        if !options.recipe.reads_texts() {
            return Ok(None);
        }
        let by = (self.kind, self.source.as_ref());
        described(&self.table, &self.split.parts, &options.recipe, by, &run.join(CACHE)).map(Some)
    }

    /// The classifier's sizes, with the target of a stain normalisation; and how many of the sampled images could not tell their stains.
    fn config(&self, options: &Options) -> Result<(ClassifierConfig, Option<String>), TrainError> {
        let mut config = self.start.config.clone();
        let Some((_, input)) = &mut config.image else { return Ok((config, None)) };
        input.stain = None;
        if options.recipe.stain_normalisation == StainNormalisation::None {
            return Ok((config, None));
        }
        let rows = self.split.rows(Part::Train);
        let step = rows.len().div_ceil(STAIN_SAMPLES).max(1);
        let sampled: Vec<Rgb8Image> = rows
            .iter()
            .step_by(step)
            .map(|row| Ok(read(&self.table.image(&self.table.rows[*row]))?.0))
            .collect::<Result<_, TrainError>>()?;
        let target = match options.recipe.stain_normalisation {
            StainNormalisation::Reinhard => stain::StainNormalisation::reinhard(&sampled),
            StainNormalisation::Macenko | StainNormalisation::None => stain::StainNormalisation::macenko(&sampled),
        };
        let failed = || {
            TrainError::Asked(
                "stain_normalisation: no training image shows two stains that can be told apart; set it to \"none\"".into(),
            )
        };
        input.stain = Some(target.ok_or_else(failed)?);
        Ok((config, Some(format!("stain target from {} training images", sampled.len()))))
    }

    /// Says what is wrong with the texts before a step is made.
    fn diagnose_texts(&self, run: &mut RunFolder, corpus: &Corpus, texts: Option<&Described>) -> Result<(), TrainError> {
        let (Some(texts), Some(written), Some(text)) = (texts, &corpus.written, &self.start.config.text) else { return Ok(()) };
        let cut = written.cut();
        let found =
            [generic_texts(texts.served.iter().map(String::as_str)), cut_texts(cut.texts, cut.of, text.longest_text() as usize)];
        found.iter().flatten().try_for_each(|found| run.diagnose(0, 0, found.code, &found.message, found.remedy))
    }

    fn corpus(&self, options: &Options, config: &ClassifierConfig, texts: Option<&Described>) -> Result<Corpus, TrainError> {
        let recipe = &options.recipe;
        let files: Vec<PathBuf> = self.table.rows.iter().map(|row| self.table.image(row)).collect();
        let blank = recipe.null_image == NullImage::Blank;
        let pictures = config.image.as_ref().map(|(_, input)| Pictures::new(files, input, blank));
        let written = match (texts, &config.text, &self.start.tokenizer) {
            (Some(texts), Some(text), Some(folder)) => {
                let other = texts.other.as_ref().map(|other| (other.as_slice(), recipe.mixed_share));
                Some(Written::new(&texts.served, other, &tokenizer(folder, text)?, text.longest_text() as usize, recipe.seed)?)
            }
            _ => None,
        };
        let labels = self.table.rows.iter().map(|row| row.class.unwrap_or(0)).collect();
        Ok(Corpus { pictures, written, labels, batch: recipe.batch_size, device: options.device })
    }
}

fn split_options(table: &Table, options: &Options) -> SplitOptions {
    let usual = SplitOptions::usual(table, options.split_seed);
    let by = match &options.protocol {
        Protocol::Usual => return usual,
        Protocol::Paper => SplitBy::Paper,
        Protocol::Fold { number, of } => SplitBy::Fold { number: *number, of: *of },
        Protocol::LeaveOut(site) => SplitBy::LeaveOut(site.clone()),
    };
    SplitOptions { by, ..usual }
}

fn protocol_name(protocol: &Protocol, table: &Table) -> String {
    match protocol {
        Protocol::Usual if table.rows.iter().any(|row| row.split.is_some()) => "column".into(),
        Protocol::Usual => "default".into(),
        Protocol::Paper => "paper".into(),
        Protocol::Fold { number, of } => format!("fold {} of {of}", number + 1),
        Protocol::LeaveOut(site) => format!("leave-out {site}"),
    }
}

fn summary(table: &Table, split: &Split, start: &Start, written: bool) -> Result<Summary, TrainError> {
    let (Some(folder), Some(text), true) = (&start.tokenizer, &start.config.text, written) else {
        return Ok(Summary::of(table, split, None));
    };
    let tokenizer = tokenizer(folder, text)?;
    let tokens = |row: &Row| {
        let words = row.description.as_deref().unwrap_or("");
        tokenizer.encode(words, usize::MAX).map_or(0, |text| text.tokens_untruncated)
    };
    Ok(Summary::of(table, split, Some(TextLimit { tokens: &tokens, most: text.longest_text() as usize, cut: true })))
}

/// The network with the tensors that training begins with; a resumed run puts its own in their place.
fn begin(start: &Start, config: &ClassifierConfig, run: &Path, options: &Options) -> Result<Network, TrainError> {
    // By this name a run's folder removes what a killed process left.
    let folder = run.join(".start.new");
    fs::create_dir_all(&folder).map_err(TrainError::io("create", &folder))?;
    let drawn = start.write(&folder)?;
    if !drawn.is_empty() {
        eprintln!("note: these begin at random, the start's do not fit: {}", drawn.join(", "));
    }
    let network = {
        let checkpoint = Checkpoint::open(&folder, Naming::Classifier)?;
        Network::new(config, &checkpoint, options.device, options.recipe.recompute)?
    };
    fs::remove_dir_all(&folder).map_err(TrainError::io("remove", &folder))?;
    Ok(network)
}

fn recipe_json(recipe: &Recipe) -> Result<Map<String, Value>, TrainError> {
    let decided = recipe.decided()?;
    let json = serde_json::to_value(decided).map_err(|error| TrainError::Failed(error.to_string()))?;
    Ok(json.as_object().cloned().unwrap_or_default())
}

/// A trained network with everything that its measures need.
struct Finished<'f> {
    options: &'f Options,
    given: &'f Given,
    config: &'f ClassifierConfig,
    corpus: &'f Corpus,
    network: &'f Network,
    texts: Option<&'f Described>,
    trained: &'f TrainingData,
}

impl Finished<'_> {
    /// Calibrates, measures, and writes all of it.
    fn measure(&self, mut run: RunFolder, best: Best, note: Option<String>) -> Result<RunMeasures, TrainError> {
        let Given { table, split, .. } = self.given;
        let recipe = &self.options.recipe;
        let judged = |rows: &[usize]| judge(self.network, self.corpus, rows, &Known::nothing());
        let Roles { fitted, reported, .. } = &self.given.roles;
        let trained = split.rows(Part::Train);
        let (fitted_said, trained_said) = (judged(fitted)?, judged(&trained)?);
        let mut found = calibrate(recipe, table, self.corpus, self.texts, (fitted, &fitted_said), (&trained, &trained_said))?;
        found.calibration.patient_split = Some(split.by_patient);
        found.calibration.protocol = Some(protocol_name(&self.options.protocol, table));
        found.calibration.describer_overlap = matches!(self.given.overlap, Overlap::Allowed { .. });
        found.calibration.describer_unknown = self.given.overlap == Overlap::Unknown;
        let test = split.rows(Part::Test);
        let validation = if test.is_empty() { reported.clone() } else { split.rows(Part::Validation) };
        let rows: Vec<(usize, Part)> =
            validation.iter().map(|row| (*row, Part::Validation)).chain(test.iter().map(|row| (*row, Part::Test))).collect();
        let said: Vec<Opinion> = judged(&validation)?.into_iter().chain(judged(&test)?).collect();
        let items = predictions(table, self.corpus, self.texts, &rows, &said, found.judge())?;
        let measured = self.measures(best, &found, &items, &rows, note)?;
        self.write(&mut run, &found, &measured, &items, (&rows, &said))?;
        report::write(run.path(), &self.options.images)?;
        run.finish()?;
        Ok(measured)
    }

    fn measures(
        &self,
        best: Best,
        found: &Found,
        items: &[Prediction],
        rows: &[(usize, Part)],
        note: Option<String>,
    ) -> Result<RunMeasures, TrainError> {
        let of = |part: Part| -> Result<Option<PartMeasures>, TrainError> {
            let items: Vec<Prediction> = items.iter().filter(|item| item.part == part).cloned().collect();
            if items.is_empty() {
                return Ok(None);
            }
            let rows = rows.iter().filter(|(_, other)| *other == part).map(|(row, _)| *row);
            let cut: Vec<Option<usize>> = rows.map(|row| self.corpus.written.as_ref().map(|written| written.lost(row))).collect();
            measures(&self.given.table, &items, found.calibration.temperature, &cut, self.options.recipe.seed)
                .map(Some)
                .map_err(|error| TrainError::Failed(format!("the part {part} cannot be measured: {error}")))
        };
        let mut warnings = self.given.summary.warnings.clone();
        warnings.extend(note);
        warnings.extend(self.given.roles.shared.clone());
        warnings.extend(match self.given.overlap {
            Overlap::None => None,
            Overlap::Unknown => Some(UNKNOWN.to_string()),
            Overlap::Allowed { .. } => Some("the describer was tuned on images that are reported here".to_string()),
        });
        warnings.extend(found.report.temperature.warning.clone());
        warnings.extend(found.report.abstention.reason.clone());
        warnings.extend(found.report.missing_limits.iter().cloned());
        let by_paper = self.given.split.reported_is_validation;
        Ok(RunMeasures {
            data: self.given.summary.clone(),
            best,
            chosen_by: if by_paper { "weighted_f1 on the reported part" } else { "macro_f1" }.into(),
            roles: self.given.roles.counts(),
            validation: of(Part::Validation)?.ok_or_else(|| TrainError::Failed("the validation part is empty".into()))?,
            test: of(Part::Test)?,
            calibration: found.report.clone(),
            cut: self.corpus.written.as_ref().map(Written::cut),
            warnings,
        })
    }

    fn write(
        &self,
        run: &mut RunFolder,
        found: &Found,
        measured: &RunMeasures,
        items: &[Prediction],
        (rows, said): (&[(usize, Part)], &[Opinion]),
    ) -> Result<(), TrainError> {
        let table = &self.given.table;
        let reported = measured.test.as_ref().unwrap_or(&measured.validation);
        let short = json!({
            "part": if measured.test.is_some() { Part::Test } else { Part::Validation },
            "estimates": reported.estimates,
            "accepted": reported.accepted,
        });
        let extras = Extras {
            recipe: recipe_json(&self.options.recipe)?,
            calibration: Some(found.calibration.clone()),
            measures: Some(short),
            data_sha256: Some(table.sha256()),
            neighbours: found.calibration.novelty.as_ref().map(|_| found.neighbours.clone()),
            training_data: self.trained.clone(),
        };
        let tensors: Vec<(String, Tensor)> =
            self.network.leaves().map(|leaf| (leaf.name.clone(), leaf.tensor.detach())).collect();
        let tokenizer = self.given.start.tokenizer.as_deref();
        let answers = known_answers::record(table, self.texts, rows, said)?;
        run.replace("best", |folder| {
            folder::write(folder, self.config, &tensors, tokenizer, &extras)?;
            known_answers::write(folder, &answers)
        })?;
        let path = run.path().to_path_buf();
        crate::run::predictions::write(&path, items)?;
        let numbers: Vec<(&str, f64)> =
            reported.classes.numbers().into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        if measured.test.is_some() {
            run.log(Kind::Test, 0, measured.best.epoch as u64, &numbers)?;
        }
        let text = serde_json::to_string_pretty(measured).map_err(|error| TrainError::Failed(error.to_string()))?;
        run.write("measures.json", (text + "\n").as_bytes())
    }
}
