//! What is made once and kept below `target/bench-serve`: checkpoints of random weights, bundles, images.

use super::Options;
use crate::{
    appliance::{finish, program, program_path, say},
    checkout,
    checkpoint::{ClassifierOptions, DescriberOptions, Shape, write_classifier, write_describer},
};
use anyhow::{Context, Result, ensure};
use mmlnb_models::hash::sha256_hex;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Both sides of the image that the describer sees: 81 image tokens.
const SIDE: u32 = 252;
/// Both sides of the files: they are resized, as real patches are.
const FILE_SIDE: u32 = 448;
/// Words of the question: with the tokenizer of `cargo xtask checkpoint` they fill the prompt to about 300 tokens.
const WORDS: usize = 157;
/// Tokens of a description where rows write together: the last of sixteen joins after more than two hundred.
const MOST_TOKENS: usize = 448;

/// The folder and what was found in it.
pub struct Made {
    folder: PathBuf,
    /// Tokens of a prompt, image included.
    pub prompt_tokens: usize,
}

impl Made {
    /// Makes what is not there yet.
    pub fn make(options: &Options) -> Result<Made> {
        let mut made = Made { folder: checkout().join("target/bench-serve"), prompt_tokens: 0 };
        fs::create_dir_all(&made.folder)?;
        made.once("describer", "", |output| {
            write_describer(&DescriberOptions { shape: Shape::Half, output: output.to_owned(), seed: 0, corpus: None })
        })?;
        made.images(options.images)?;
        made.once("classifier", "with activations", |output| {
            write_classifier(&ClassifierOptions::full(output.to_owned()))?;
            made.calibrate(output)
        })?;
        made.bundle(MOST_TOKENS)?;
        made.bundle(options.description)?;
        made.prompt_tokens = made.count_prompt()?;
        Ok(made)
    }

    /// A file or folder below it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a process's messages go.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path(&format!("{}.log", name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-")))
    }

    /// The bundle whose rows write together.
    pub fn rows_bundle(&self) -> PathBuf {
        self.path(&format!("bundle-{MOST_TOKENS}"))
    }

    /// The bundle whose descriptions have so many tokens.
    pub fn pipeline_bundle(&self, options: &Options) -> PathBuf {
        self.path(&format!("bundle-{}", options.description))
    }

    /// The images, in order.
    pub fn image_files(&self) -> Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.path("images"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.sort();
        Ok(files)
    }

    /// Something in a folder of its own, made anew where what it is made from has changed; a folder without its mark was not finished.
    fn once(&self, name: &str, from: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (folder, done) = (self.path(name), self.path(&format!("{name}.done")));
        if fs::read_to_string(&done).is_ok_and(|known| known == from) {
            return Ok(());
        }
        fs::remove_file(&done).ok();
        fs::remove_dir_all(&folder).ok();
        say(&format!("making {name}"));
        make(&folder)?;
        fs::write(&done, from).with_context(|| format!("{} cannot be written", done.display()))
    }

    fn bundle(&self, tokens: usize) -> Result<()> {
        let text = format!("max_new_tokens = {tokens}\nprompt = \"{}\"\n", question());
        let exporter = sha256_hex(&fs::read(program_path("mmlnb-export"))?);
        self.once(&format!("bundle-{tokens}"), &format!("{text}{exporter}"), |output| {
            let settings = self.path("settings.toml");
            fs::write(&settings, &text)?;
            let mut export = program("mmlnb-export");
            export.arg("bundle").arg("--output").arg(output).arg("--vlm").arg(self.path("describer"));
            export.arg("--classifier").arg(self.path("classifier")).arg("--settings").arg(&settings);
            finish(export.args(["--precision", "int4+int8", "--image-size", &format!("{SIDE}x{SIDE}")]).stdout(Stdio::null()))
        })
    }

    /// Records what goes through the classifier's convolutions, as a training does at its end.
    fn calibrate(&self, classifier: &Path) -> Result<()> {
        let table = self.path("images.csv");
        let names = self.image_files()?.into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        fs::write(&table, names.fold("file_name\n".to_owned(), |text, name| text + &name + "\n"))?;
        let mut calibrate = program("mmlnb-train");
        calibrate.arg("calibrate").arg("--classifier").arg(classifier).arg("--data").arg(&table);
        finish(calibrate.arg("--images").arg(self.path("images")).args(["--device", "cpu"]).stdout(Stdio::null()))
    }

    /// Different images, a pixel apart.
    fn images(&self, count: usize) -> Result<()> {
        let folder = self.path("images");
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder)?;
        for number in 0..count {
            let pixel = |x: u32, y: u32| {
                let (dx, dy) = ((x % 32) as i32 - 16, (y % 32) as i32 - 16);
                let tissue = if dx * dx + dy * dy < 90 { [90, 60, 140] } else { [230, (180 + dx) as u8, 210] };
                image::Rgb(if x + y == 0 { [number as u8, 0, 0] } else { tissue })
            };
            image::RgbImage::from_fn(FILE_SIDE, FILE_SIDE, pixel).save(folder.join(format!("{number:03}.png")))?;
        }
        Ok(())
    }

    /// The language model alone, for peers without a vision tower.
    pub fn text_checkpoint(&self, python: &Path) -> Result<()> {
        self.once("text", "", |output| {
            let script = checkout().join("xtask/peers/text_checkpoint.py");
            finish(Command::new(python).arg(script).arg(self.path("describer")).arg(output))
        })
    }

    fn count_prompt(&self) -> Result<usize> {
        let mut bench = program("mmlnb-appliance");
        bench.arg("bench").arg("--bundle").arg(self.rows_bundle()).args(["--provider", "cpu", "--json"]);
        bench.args(["--rows", "1", "--slots", "1", "--runs", "1", "--tokens", "9"]);
        let ended = super::process::run(&mut bench, &self.log("prompt"))?;
        let tokens = ended.lines.first().and_then(|(_, found)| found["describer"]["prompt_tokens"].as_u64());
        let tokens = tokens.context("the program told no prompt_tokens")? as usize;
        ensure!((250..=350).contains(&tokens), "the prompt has {tokens} tokens, not about 300");
        Ok(tokens)
    }
}

/// What is asked about every image.
pub fn question() -> String {
    let words = ["small", "round", "cells", "lie", "in", "sheets", "with", "scant", "neuropil", "and", "rosettes", "here"];
    (0..WORDS).map(|n| words[n % words.len()]).collect::<Vec<_>>().join(" ")
}
