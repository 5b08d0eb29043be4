//! The stage from data to a measured classifier.

use super::{
    finished::{Finished, RunMeasures},
    folder::{self, Extras},
    given::Given,
    network::Network,
    options::Options,
    start::Start,
    train::{Choice, Training, train},
};
use crate::{
    data::{Part, salt_of, training_data},
    error::TrainError,
    run::{Opened, RunFolder},
    start::set_threads,
};
use mmlnb_models::{
    config::ClassifierConfig,
    weights::{Checkpoint, Naming},
};
use std::{fs, path::Path};
use tch::Tensor;

/// Trains a classifier and measures it; nothing when only checked, or when the run was finished before.
///
/// # Errors
/// Everything that is wrong with data and settings, before anything is loaded; [`TrainError::Interrupted`] after a signal.
pub fn run(options: &Options) -> Result<Option<RunMeasures>, TrainError> {
    let given = Given::new(options)?;
    let options = &Options { recipe: options.recipe.settled(&given.start.config)?, ..options.clone() };
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
    let trained = training_data(&given.table, &given.split, salt_of(folder.path())?, given.before.clone());
    let extras = Extras { recipe: options.recipe.as_json()?, training_data: trained.clone(), ..Extras::default() };
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
