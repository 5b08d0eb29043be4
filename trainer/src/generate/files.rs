//! Descriptions of image files: each image once, whatever was made before taken from the cache, images prepared beside the networks' work.

use super::{BATCH, Cache, Generated, Generator, Picture, Prompt, Prompter};
use crate::{
    error::TrainError,
    run::{Decided, Progress},
};
use mmlnb_models::{
    hash,
    prepare::decode::{Limits, decode},
    weights::{Adapter, Checkpoint, Naming},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
};
use tch::Device;

/// A describer, and how it is asked.
#[derive(Clone, Debug)]
pub struct Source {
    /// The Qwen2.5-VL checkpoint.
    pub base: PathBuf,
    /// The adapter that is merged into it.
    pub adapter: Option<PathBuf>,
    /// Accept an adapter that lacks modules that its configuration names.
    pub allow_partial: bool,
    /// The folder whose record of training says how it is asked; `None`: the adapter's, without one the checkpoint's.
    pub asked_as: Option<PathBuf>,
    /// A file of prompt and generation settings.
    pub settings: Option<PathBuf>,
    /// Width and height that every image gets.
    pub image_size: Option<[i64; 2]>,
    /// Where it computes.
    pub device: Device,
    /// Images that are described together.
    pub batch: usize,
}

impl Source {
    /// A checkpoint, with or without an adapter, asked as it was trained.
    pub fn new(base: &Path, adapter: Option<&Path>, device: Device) -> Source {
        Source {
            base: base.into(),
            adapter: adapter.map(Path::to_path_buf),
            allow_partial: false,
            asked_as: None,
            settings: None,
            image_size: None,
            device,
            batch: BATCH,
        }
    }

    /// What a folder holds: a run of `describe` (its best epoch), an adapter or a whole checkpoint. `base` is the checkpoint beside an adapter; without
    /// it the one that the adapter's run or its configuration names.
    ///
    /// # Errors
    /// A folder that is none of these, an adapter whose base is not to be found.
    pub fn of(folder: &Path, base: Option<&Path>, device: Device) -> Result<Source, TrainError> {
        let best = folder.join("best");
        let folder = if best.is_dir() { best.as_path() } else { folder };
        if !folder.join("adapter_config.json").is_file() {
            if folder.join("config.json").is_file() {
                return Ok(Source::new(folder, None, device));
            }
            let problem = format!("{} holds neither an adapter nor a checkpoint, nor a run with one in `best`", folder.display());
            return Err(TrainError::Asked(problem));
        }
        let named = Adapter::open(folder)?.config().base_model.clone().map(PathBuf::from);
        let named = [base_of_run(folder)?, named].into_iter().flatten().find(|base| base.is_dir());
        let base = base.map(Path::to_path_buf).or(named);
        let base = base
            .ok_or_else(|| TrainError::Asked(format!("{} is an adapter; give its checkpoint with --base", folder.display())))?;
        Ok(Source::new(&base, Some(folder), device))
    }

    /// Whether a folder, or the best epoch of a run of `describe`, is a checkpoint and no adapter: it needs no base.
    pub fn is_whole(folder: &Path) -> bool {
        let holds = |name: &str| [folder.join("best"), folder.to_path_buf()].iter().any(|folder| folder.join(name).is_file());
        holds("config.json") && !holds("adapter_config.json")
    }

    /// The adapter, if there is one.
    fn opened_adapter(&self) -> Result<Option<Adapter>, TrainError> {
        let adapter = self.adapter.as_deref().map(Adapter::open).transpose()?;
        Ok(adapter.map(|adapter| adapter.allowing_partial(self.allow_partial)))
    }

    /// Looks through the weights before anything is kept; warns of an adapter that is accepted though it is not whole.
    fn check(&self) -> Result<(), TrainError> {
        let checkpoint = Checkpoint::open(&self.base, Naming::Qwen)?;
        if let Some(adapter) = self.opened_adapter()? {
            adapter.check(&checkpoint)?;
            adapter.told_partial(&checkpoint).iter().for_each(|warning| eprintln!("warning: {warning}"));
        }
        Ok(checkpoint.check_finite()?)
    }

    /// Configuration, tokenizer and settings.
    ///
    /// # Errors
    /// Those of [`Prompter::open`].
    pub fn prompter(&self) -> Result<Prompter, TrainError> {
        let record = self.asked_as.as_deref().or(self.adapter.as_deref());
        Prompter::open(&self.base, record, self.settings.as_deref(), self.image_size)
    }

    /// Hash of everything but the image that decides a description: weights, question, settings, image size, kind of device.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn sha256(&self, prompter: &Prompter) -> Result<String, TrainError> {
        let checkpoint = Checkpoint::open(&self.base, Naming::Qwen)?;
        let adapter = self.opened_adapter()?;
        let identity = serde_json::json!({
            "checkpoint": checkpoint.sha256()?,
            "adapter": adapter.as_ref().map(Adapter::sha256).transpose()?,
            "prompt": prompter.settings.prompt,
            "system": prompter.settings.system,
            "generation": prompter.settings.generation,
            "image": format!("{:?}", prompter.processor),
            "cpu": self.device == Device::Cpu,
        });
        Ok(hash::sha256_hex(identity.to_string().as_bytes()))
    }
}

/// The base that a run of `describe` names, if the folder is one of its adapters.
fn base_of_run(adapter: &Path) -> Result<Option<PathBuf>, TrainError> {
    let Some(run) = adapter.parent().filter(|run| run.join("run.toml").is_file()) else { return Ok(None) };
    let base =
        Decided::read(run)?.0.get("paths").and_then(|paths| paths.get("base")).and_then(|base| base.as_str()).map(PathBuf::from);
    Ok(base)
}

/// Describes image files; `cache` is the file of what was made before and of what is made now. In the files' order: the description, or why that
/// image has none.
///
/// # Errors
/// A describer that cannot be used, or whose weights hold NaN or an infinity. A file that cannot be read or is no image is no error here.
pub fn describe_files(source: &Source, files: &[PathBuf], cache: &Path) -> Result<Vec<Result<Generated, String>>, TrainError> {
    let prompter = source.prompter()?;
    source.check()?;
    let mut cache = Cache::open(cache, &source.sha256(&prompter)?)?;
    let hashes: Vec<Result<String, String>> =
        files.iter().map(|file| hash::sha256_file(file).map(|(_, hash)| hash).map_err(|error| error.to_string())).collect();
    let mut open: BTreeMap<usize, (&str, &Path)> = BTreeMap::new();
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (number, (file, hash)) in files.iter().zip(&hashes).enumerate() {
        if let Ok(hash) = hash
            && cache.get(hash).is_none()
            && first.insert(hash, number).is_none()
        {
            open.insert(number, (hash, file));
        }
    }
    let failures = if open.is_empty() {
        HashMap::new()
    } else {
        let known = files.len() - open.len();
        describe_open(source, prompter, &open.into_values().collect::<Vec<_>>(), known, &mut cache)?
    };
    let of_file = |hash: Result<String, String>| {
        let hash = hash?;
        match (cache.get(&hash), failures.get(&hash)) {
            (Some(description), _) => Ok(description.clone()),
            (None, Some(problem)) => Err(problem.clone()),
            (None, None) => Err("it was left out".to_string()),
        }
    };
    Ok(hashes.into_iter().map(of_file).collect())
}

/// Describes images by hash and file into the cache; why some have no description.
fn describe_open(
    source: &Source,
    prompter: Prompter,
    open: &[(&str, &Path)],
    known: usize,
    cache: &mut Cache,
) -> Result<HashMap<String, String>, TrainError> {
    let adapter = source.opened_adapter()?;
    let generator = Generator::with_adapter(prompter, &source.base, adapter.as_ref(), source.device)?.with_batch(source.batch);
    let prompter = generator.prompter().clone();
    let (sender, receiver) = sync_channel::<(usize, Result<Prompt, String>)>(2 * source.batch);
    let progress = RefCell::new(Progress::new("describe", (open.len() + known) as u64, known as u64));
    let failures = RefCell::new(HashMap::new());
    let order = RefCell::new(Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (number, (hash, file)) in open.iter().enumerate() {
                // Hung up: the networks failed, and that is what the user is told.
                if sender.send((number, prepared(&prompter, hash, file))).is_err() {
                    return;
                }
            }
        });
        let prompts = receiver.into_iter().filter_map(|(number, prompt)| match prompt {
            Ok(prompt) => {
                order.borrow_mut().push(number);
                Some(prompt)
            }
            Err(problem) => {
                failures.borrow_mut().insert(open[number].0.to_string(), problem);
                progress.borrow_mut().advance(1, &[]);
                None
            }
        });
        generator.describe(prompts, |prompt, description| {
            let tokens = description.token_ids.len() as f64;
            cache.add(open[order.borrow()[prompt]].0, description)?;
            progress.borrow_mut().advance(1, &[("tokens", tokens)]);
            Ok(())
        })
    })?;
    progress.into_inner().end();
    Ok(failures.into_inner())
}

/// An image file as a prompt.
fn prepared(prompter: &Prompter, hash: &str, file: &Path) -> Result<Prompt, String> {
    let bytes = fs::read(file).map_err(|error| error.to_string())?;
    if hash::sha256_hex(&bytes) != hash {
        return Err("the file was changed while it was being described".into());
    }
    let rgb = decode(&bytes, &Limits::default()).map_err(|error| error.to_string())?;
    prompter.prepare(&Picture { sha256: seed(hash), rgb }).map_err(|error| error.to_string())
}

/// The bytes of a SHA-256 in hex.
fn seed(hash: &str) -> [u8; 32] {
    std::array::from_fn(|n| u8::from_str_radix(&hash[2 * n..2 * n + 2], 16).expect("a SHA-256 in hex has 64 digits"))
}
