//! The data of the stage, checked and split, and all that is made of them before the first step.

use super::{
    corpus::Corpus,
    descriptions::{CACHE, Described, described, describers, source, tuned_on},
    options::Options,
    pictures::{Pictures, read},
    recipe::{Descriptions, NullImage, StainNormalisation},
    start::{Start, tokenizer},
    texts::Written,
};
use crate::{
    data::{
        self, ClassOrder, Needs, Overlap, Part, Roles, Row, Split, Summary, Table, TextLimit, TrainingData, Who, check_overlap,
        seen_rows,
    },
    diagnostics::{SideFacts, TextFacts, cut_texts, generic_texts},
    error::TrainError,
    generate::Source,
    run::{Decided, RunFolder},
    start::{TORCH_VERSION, device_kind},
    threads,
};
use mmlnb_models::{
    config::ClassifierConfig,
    cost,
    prepare::{bert_tokenizer::SPECIAL_TOKENS, decode::Rgb8Image, stain},
};
use std::{
    num::NonZeroU16,
    path::{Path, PathBuf},
};

/// Training images from which the target of a stain normalisation is found.
const STAIN_SAMPLES: usize = 200;

/// The data of a stage, checked and split.
pub(super) struct Given {
    pub table: Table,
    pub split: Split,
    pub roles: Roles,
    pub kind: Descriptions,
    pub source: Option<Source>,
    pub overlap: Overlap,
    start_overlap: Overlap,
    /// What the weights of `start` had seen.
    pub before: Option<TrainingData>,
    pub summary: Summary,
    pub start: Start,
}

impl Given {
    pub fn new(options: &Options) -> Result<Given, TrainError> {
        let recipe = &options.recipe;
        let (kind, source) = source(recipe, options.describer.as_deref(), options.base.as_deref(), options.device)?;
        let order = options.class_order.as_deref().map_or(ClassOrder::FromData, ClassOrder::Ordinal);
        let written = recipe.reads_texts() && matches!(kind, Descriptions::Csv | Descriptions::Mixed);
        let needs = Needs { description: written, class: true, order, text: None, control: &SPECIAL_TOKENS };
        let table = data::load(&options.data, &options.images, &needs)?;
        let split = data::split(&table, &options.protocol.split(&table, options.split_seed))?;
        for (part, what) in [(Part::Train, "train on"), (Part::Validation, "choose the best epoch by")] {
            if split.rows(part).is_empty() {
                return Err(TrainError::Asked(format!("the part {part} has no rows: there is nothing to {what}")));
            }
        }
        let roles = Roles::new(&table, &split, recipe.seed)?;
        let overlap = {
            let seen = describers(kind, recipe, source.as_ref(), &table)?;
            check_overlap(&table, &split, Who::Describer, &seen, options.allow_overlap)?
        };
        let before = recipe.start.as_deref().map(TrainingData::read).transpose()?;
        // A start was trained: one without a record has seen what nobody knows, and so has what is made of it.
        let before = before.map(|data| data.unwrap_or_else(TrainingData::unknown));
        let known: Vec<Option<TrainingData>> = before.iter().cloned().map(Some).collect();
        let start_overlap = check_overlap(&table, &split, Who::Start, &known, options.allow_overlap)?;
        let start = Start::new(recipe, &table.classes)?;
        let summary = summary(&table, &split, &start, written)?;
        let given = Given { table, split, roles, kind, source, overlap, start_overlap, before, summary, start };
        given.provenance_warnings().iter().for_each(|warning| eprintln!("WARNING: {warning}"));
        Ok(given)
    }

    /// What a reader has to know of those whose texts or weights are taken over.
    pub fn provenance_warnings(&self) -> Vec<String> {
        let of = |who: &str, overlap: &Overlap| match overlap {
            Overlap::None => None,
            Overlap::Unknown => {
                Some(format!("unknown: what {who} was trained on; images that are reported here may be among it"))
            }
            Overlap::Allowed { rows } => {
                Some(format!("{who} was trained on images (or patients) that are reported here: {rows} rows"))
            }
        };
        let both = [
            of("the describer of the texts", &self.overlap),
            of("the classifier that this training starts from", &self.start_overlap),
        ];
        both.into_iter().flatten().collect()
    }

    /// How many threads libtorch gets.
    pub fn threads(&self, options: &Options) -> Result<NonZeroU16, TrainError> {
        let describer = self.source.as_ref().map(Source::prompter).transpose()?;
        let describing = describer.map_or(0.0, |prompter| threads::of_describer(&prompter.config));
        let resumed = options.resume.then_some(options.output.as_path());
        threads::chosen(options.recipe.threads, resumed, threads::of_classifier(&self.start.config).max(describing))
    }

    /// What will be done, in a few lines.
    pub fn plan(&self, options: &Options, threads: NonZeroU16) {
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
    pub fn decided(&self, options: &Options, threads: NonZeroU16) -> Result<Decided, TrainError> {
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
            ("protocol".to_string(), options.protocol.name(&self.table).into()),
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
            .with("device", toml::Table::from_iter([("kind".to_string(), device_kind(options.device).into())]))?
            .with("seeds", toml::Table::from_iter(seeds.map(|(name, seed)| (name.to_string(), seed.into()))))?
            .with("versions", toml::Table::from_iter(versions.map(|(name, version)| (name.to_string(), version.into()))))?
            .with("paths", paths)?;
        Ok(decided)
    }

    /// The texts of all rows, where texts are read.
    pub fn texts(&self, options: &Options, run: &Path) -> Result<Option<Described>, TrainError> {
        if !options.recipe.reads_texts() {
            return Ok(None);
        }
        let by = (self.kind, self.source.as_ref());
        described(&self.table, &self.split.parts, &options.recipe, by, &run.join(CACHE)).map(Some)
    }

    /// The classifier's sizes, with the target of a stain normalisation; and how many of the sampled images could not tell their stains.
    pub fn config(&self, options: &Options) -> Result<(ClassifierConfig, Option<String>), TrainError> {
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
    pub fn diagnose_texts(&self, run: &mut RunFolder, corpus: &Corpus, texts: Option<&Described>) -> Result<(), TrainError> {
        let (Some(texts), Some(written), Some(text)) = (texts, &corpus.written, &self.start.config.text) else { return Ok(()) };
        let cut = written.cut();
        let found =
            [generic_texts(texts.served.iter().map(String::as_str)), cut_texts(cut.texts, cut.of, text.longest_text() as usize)];
        let facts = self.text_facts(texts)?.and_then(|facts| facts.diagnostic());
        found.iter().flatten().chain(&facts).try_for_each(|found| run.diagnose(0, 0, found.code, &found.message, found.remedy))
    }

    /// How right the describer's texts are on both sides of the split; nothing where the texts are the table's own, or nobody wrote any to compare with.
    pub fn text_facts(&self, texts: &Described) -> Result<Option<TextFacts>, TrainError> {
        // Shuffled texts are nobody's about these images.
        let (Some(source), Some(_)) = (&self.source, &texts.finished) else { return Ok(None) };
        let side = |rows: &[usize]| {
            let pairs =
                rows.iter().filter_map(|row| Some((texts.served[*row].as_str(), self.table.rows[*row].description.as_deref()?)));
            let (ours, experts): (Vec<&str>, Vec<&str>) = pairs.unzip();
            SideFacts::of(&ours, &experts).map_err(|error| TrainError::Failed(error.to_string()))
        };
        let train = self.split.rows(Part::Train);
        let others: Vec<usize> = [Part::Validation, Part::Test].into_iter().flat_map(|part| self.split.rows(part)).collect();
        let (Some(trained), Some(others)) = (side(&train)?, side(&others)?) else { return Ok(None) };
        let tuned = tuned_on(source)?.map(|data| {
            let seen = seen_rows(&self.table, &data);
            train.iter().filter(|row| seen[**row].is_some()).count()
        });
        Ok(Some(TextFacts { trained, others, tuned }))
    }

    pub fn corpus(&self, options: &Options, config: &ClassifierConfig, texts: Option<&Described>) -> Result<Corpus, TrainError> {
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
