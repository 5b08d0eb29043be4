//! Small trainings with the built trainer: phantoms, the small golden checkpoints, and recipes that finish in seconds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{binaries, binary, command, golden, run, sha256_hex};

/// A stage of MMLNB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The describer is tuned.
    Describe,
    /// The classifier is trained.
    Classify,
}

/// `images/`, `data.csv` and `truth.jsonl` of a few phantoms, drawn once for each build of the trainer.
///
/// # Panics
/// When the trainer fails.
pub fn phantoms() -> PathBuf {
    let folder = binaries::build_folder().join("end-to-end");
    fs::create_dir_all(&folder).expect("the build folder is writable");
    let lock = File::create(folder.join("phantoms-lock")).expect("the build folder is writable");
    lock.lock().expect("a local file can be locked");
    let trainer = fs::read(binary("mmlnb-train")).expect("the trainer was found and can be read");
    let output = folder.join(format!("phantoms-{}", &sha256_hex(&trainer)[..12]));
    if !output.join("data.csv").is_file() {
        let mut draw = command(&binary("mmlnb-train"));
        draw.arg("phantom").arg("--output").arg(&output);
        run(draw.args(["--patients", "15", "--patches", "2", "--size", "64", "--seed", "5"])).expect(0);
    }
    output
}

/// One stage on data and settings that a test may change, in a temporary folder.
pub struct Training {
    stage: Stage,
    root: TempDir,
    settings: BTreeMap<String, String>,
}

impl Training {
    /// With short settings, `epochs` of them.
    #[track_caller]
    pub fn new(stage: Stage, epochs: u32) -> Training {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let phantoms = phantoms();
        fs::copy(phantoms.join("data.csv"), root.path().join("data.csv")).expect("the folder is writable");
        std::os::unix::fs::symlink(phantoms.join("images"), root.path().join("images")).expect("the folder is writable");
        let mut training = Training { stage, root, settings: BTreeMap::new() };
        training.set("epochs", &epochs.to_string());
        match stage {
            Stage::Classify => {
                training.set("start", &format!("{:?}", golden("curriculum/checkpoint").display().to_string()));
                training.set("batch_size", "4");
            }
            Stage::Describe => {
                training.set("rank", "2");
                training.set("batch_size", "2");
                training.set("accumulation", "2");
                training.set("image_size", "[56, 56]");
                training.set("base_dtype", "\"f32\"");
                training.set("validation_texts", "2");
                training.set("max_new_tokens", "6");
            }
        }
        training
    }

    /// Sets a key of the file that `--config` names, in TOML.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.into(), value.into());
        let text: String = self.settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        fs::write(self.path("settings.toml"), text).expect("the temporary folder is writable");
    }

    /// A path below the temporary folder; `data.csv` and `images` are the data.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The stage's command, with its output in `run`.
    pub fn command(&self, run: &str) -> Command {
        let mut command = command(&binary("mmlnb-train"));
        match self.stage {
            Stage::Classify => drop(command.arg("classify")),
            Stage::Describe => drop(command.arg("describe").arg("--base").arg(golden("qwen2_5_vl"))),
        }
        command.arg("--data").arg(self.path("data.csv")).arg("--images").arg(self.path("images"));
        command.arg("--output").arg(self.path(run)).arg("--config").arg(self.path("settings.toml"));
        // Small tensors: a second thread of libtorch only waits.
        command.env("OMP_NUM_THREADS", "1");
        command
    }

    /// Starts the command with its words thrown away.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self, run: &str, resume: bool) -> Child {
        let mut command = self.command(run);
        command.args(resume.then_some("--resume"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the trainer starts")
    }

    /// Lines of `metrics.jsonl`; none when there is no such file yet.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Every weight file of a run's `best` and `last`, with its hash.
    ///
    /// # Panics
    /// When one of the two has none.
    #[track_caller]
    pub fn weights(&self, run: &str) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for part in ["best", "last"] {
            let folder = self.path(run).join(part);
            let listing = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let before = found.len();
            for path in listing.map(|entry| entry.expect("the folder can be listed").path()) {
                if path.extension().is_some_and(|extension| extension == "safetensors") {
                    let bytes = fs::read(&path).expect("a listed file can be read");
                    found.insert(
                        format!("{part}/{}", path.file_name().expect("a file has a name").to_string_lossy()),
                        sha256_hex(&bytes),
                    );
                }
            }
            assert!(found.len() > before, "{} holds no weights", folder.display());
        }
        found
    }
}

/// Sends a signal to a child.
///
/// # Panics
/// When it is no child of this process any more.
pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("the trainer is our child");
}

/// Losses of the steps, by step: the part of `metrics.jsonl` that does not depend on the clock.
///
/// # Panics
/// When a step has no loss.
#[track_caller]
pub fn losses(metrics: &[Value]) -> Vec<(u64, f64)> {
    let steps = metrics.iter().filter(|line| line["kind"] == "step");
    steps
        .map(|line| (line["step"].as_u64().expect("a step has its number"), line["loss"].as_f64().expect("a step has a loss")))
        .collect()
}

/// The folder of the running program's documents and rooms.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the room lies in the checkout")
}
