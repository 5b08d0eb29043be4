//! The trainings, the bundle and its qualification, each with the commands that a user types.

use super::{
    data::{Data, SIDE, table},
    kept::{Kept, Made, empty},
    sizes::Sizes,
};
use crate::{
    appliance::{finish, program, say},
    checkout,
    checkpoint::{ClassifierOptions, DescriberOptions, Shape, write_classifier, write_describer},
};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Longest description in tokens.
const LONGEST: usize = 40;

/// At most this share of the accepted answers may be wrong: the promise that qualification makes and the demo checks.
pub const RISK: f64 = 0.15;

/// What came of it.
pub struct Trained {
    /// The classifier's run.
    pub classifier: PathBuf,
    /// The qualified bundle.
    pub bundle: Made,
}

/// Builds the programs.
pub fn build() -> Result<()> {
    say("building trainer, exporter and appliance");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--bin", "mmlnb-train", "--bin", "mmlnb-export", "--bin", "mmlnb-appliance"]);
    finish(build.current_dir(checkout()))
}

/// Trains both stages, exports and qualifies.
pub fn run(kept: &Kept, sizes: &Sizes, data: &Data) -> Result<Trained> {
    let first = first(kept, sizes, data)?;
    let base = first.path.join("best");
    let tuned = tune(kept, sizes, data, &first)?;
    let classifier = classify(kept, sizes, data, &tuned)?;
    let settings = format!("max_new_tokens = {LONGEST}\n");
    let bundle =
        kept.step("bundle", &[&settings, &RISK.to_string()], &[&first, &tuned, &classifier, &data.qualifying], |part| {
            empty(part)?;
            let file = part.with_extension("toml");
            fs::write(&file, &settings)?;
            let bundle = part.join("bundle");
            let mut export = program("mmlnb-export");
            export
                .arg("bundle")
                .arg("--output")
                .arg(&bundle)
                .arg("--vlm")
                .arg(&base)
                .arg("--adapter")
                .arg(tuned.path.join("best"));
            export.arg("--classifier").arg(classifier.path.join("best")).arg("--settings").arg(&file);
            finish(&mut export)?;
            let mut qualify = program("mmlnb-appliance");
            qualify.arg("qualify").arg(&bundle).arg("--data").arg(table(&data.qualifying)).arg("--images").arg(data.images());
            qualify.arg("--run").arg(&classifier.path).arg("--risk").arg(RISK.to_string());
            finish(&mut qualify)
        })?;
    Ok(Trained { classifier: classifier.path, bundle })
}

/// A describer of random weights learns from nothing: all of its weights are trained.
fn first(kept: &Kept, sizes: &Sizes, data: &Data) -> Result<Made> {
    let recipe = format!(
        "method = \"full\"\nbase_dtype = \"f32\"\nvision_blocks = true\nmerger = true\nrecompute = false\nlearning_rate = 1e-3\nwarmup = 0.05\nweight_decay = 0.01\n\
         epochs = {}\nbatch_size = 8\naccumulation = 1\nimage_size = [{SIDE}, {SIDE}]\nfractions = [0.98, 0.02, 0.0]\nvalidation_texts = 24\n\
         max_new_tokens = {LONGEST}\n",
        sizes.first_epochs
    );
    let start = kept.step("untrained", &["demo shape"], &[&data.corpus], |part| {
        empty(part)?;
        let corpus = Some(data.corpus_file());
        write_describer(&DescriberOptions { shape: Shape::Demo, output: part.into(), seed: 0, corpus })
    })?;
    kept.step("first-describer", &[&recipe], &[&start, &data.first], |part| {
        describe(&recipe, data, &data.first, &start.path, part)
    })
}

/// It is tuned on other patients by adapters, as a hospital tunes a large one.
fn tune(kept: &Kept, sizes: &Sizes, data: &Data, first: &Made) -> Result<Made> {
    let recipe = format!(
        "method = \"lora\"\nrecompute = false\nrank = 16\nalpha = 32\ndropout = 0.0\nlearning_rate = 1e-3\nepochs = {}\nbatch_size = 8\naccumulation = 1\n\
         image_size = [{SIDE}, {SIDE}]\nvalidation_texts = 24\nmax_new_tokens = {LONGEST}\n",
        sizes.tuning_epochs
    );
    let base = first.path.join("best");
    kept.step("tuned-describer", &[&recipe], &[first, &data.tuning], |part| describe(&recipe, data, &data.tuning, &base, part))
}

fn describe(recipe: &str, data: &Data, part: &Made, base: &Path, run: &Path) -> Result<()> {
    let mut command = program("mmlnb-train");
    command.arg("describe").arg("--data").arg(table(part)).arg("--images").arg(data.images()).arg("--base").arg(base);
    training(&mut command, recipe, run)
}

/// The curriculum on images and the tuned describer's texts.
fn classify(kept: &Kept, sizes: &Sizes, data: &Data, tuned: &Made) -> Result<Made> {
    let start =
        kept.step("untrained-classifier", &["16,32,48,64,64", "with a record of what it has seen"], &[&data.corpus], |part| {
            empty(part)?;
            let classes = ["UD", "PD", "D"].map(String::from).to_vec();
            let image_size = vec![SIDE as usize; 2];
            let corpus = Some(data.corpus_file());
            write_classifier(&ClassifierOptions { classes, image_size, corpus, ..ClassifierOptions::small(part.into()) })
        })?;
    let recipe = format!(
        "start = {:?}\nepochs = {}\nlearning_rate = 1e-3\nbatch_size = 16\nflips = true\nrotations = true\naccepted_error = {RISK}\n",
        start.path, sizes.classifier_epochs
    );
    kept.step("classifier", &[&recipe], &[tuned, &start, &data.tuning], |part| {
        let mut command = program("mmlnb-train");
        command.arg("classify").arg("--data").arg(table(&data.tuning)).arg("--images").arg(data.images());
        command.arg("--describer").arg(&tuned.path);
        training(&mut command, &recipe, part)
    })
}

/// Goes on with what an interrupted demo left.
fn training(command: &mut Command, recipe: &str, run: &Path) -> Result<()> {
    let file = run.with_extension("toml");
    fs::write(&file, recipe).with_context(|| format!("{} cannot be written", file.display()))?;
    finish(command.arg("--config").arg(&file).arg("--output").arg(run).arg("--resume"))
}
