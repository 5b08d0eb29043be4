//! The other sides: scripts in `xtask/peers`, each run by the first Python given that has what it needs.

use super::{
    Options, Sample,
    figure::Part,
    make::Made,
    process::{self, Ended},
};
use crate::checkout;
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A side that is not ours.
#[derive(Debug)]
pub struct Peer {
    pub name: &'static str,
    pub part: Part,
    script: &'static str,
    words: &'static [&'static str],
    /// Modules of Python.
    needs: &'static [&'static str],
    /// What is converted before it can run, by name; peers of one name share it.
    converts: Option<&'static str>,
}

const TRANSFORMERS: &[&str] = &["torch", "transformers", "numpy"];
const IMAGES: &[&str] = &["torch", "transformers", "numpy", "PIL"];
const GENAI: &[&str] = &["onnxruntime_genai", "onnx_ir", "torch", "transformers", "numpy"];
const OPENVINO: &[&str] = &["openvino", "optimum.intel", "nncf", "numpy"];
const LLAMA: &[&str] = &["llama_cpp", "gguf", "torch", "safetensors", "numpy"];

const fn peer(
    name: &'static str,
    part: Part,
    script: &'static str,
    words: &'static [&'static str],
    needs: &'static [&'static str],
    converts: Option<&'static str>,
) -> Peer {
    Peer { name, part, script, words, needs, converts }
}

/// All of them.
pub const PEERS: [Peer; 14] = [
    peer("onnxruntime-genai int4", Part::Decode, "decode_genai.py", &[], GENAI, Some("genai")),
    peer(
        "onnxruntime-genai int4, last logits",
        Part::Decode,
        "decode_genai.py",
        &["--options", "prune_lm_head=true"],
        GENAI,
        Some("genai-pruned"),
    ),
    peer("openvino int4", Part::Decode, "decode_openvino.py", &[], OPENVINO, Some("openvino")),
    peer(
        "openvino-genai int4",
        Part::Decode,
        "decode_openvino.py",
        &["--pipeline"],
        &["openvino_genai", "openvino", "optimum.intel", "nncf", "numpy"],
        Some("openvino"),
    ),
    peer("llama.cpp q4_0", Part::Decode, "decode_llamacpp.py", &["--type", "q4_0"], LLAMA, Some("q4_0")),
    peer("llama.cpp q8_0", Part::Decode, "decode_llamacpp.py", &["--type", "q8_0"], LLAMA, Some("q8_0")),
    peer("transformers bf16", Part::Decode, "decode_transformers.py", &["--dtype", "bf16"], TRANSFORMERS, None),
    peer("transformers f32", Part::Decode, "decode_transformers.py", &["--dtype", "f32"], TRANSFORMERS, None),
    peer("transformers bf16", Part::Pipeline, "pipeline.py", &["--dtype", "bf16"], IMAGES, None),
    peer("transformers f32", Part::Pipeline, "pipeline.py", &["--dtype", "f32"], IMAGES, None),
    peer("PyTorch eager bf16", Part::Classifier, "classifier.py", &["--dtype", "bf16"], IMAGES, None),
    peer("PyTorch eager f32", Part::Classifier, "classifier.py", &["--dtype", "f32"], IMAGES, None),
    peer("Pillow + transformers", Part::Preparation, "images.py", &[], IMAGES, None),
    peer("onnxruntime-genai's builder", Part::Export, "decode_genai.py", &["--convert"], GENAI, None),
];

impl Peer {
    /// The Python that can run it, or what is missing.
    pub fn python<'o>(&self, options: &'o Options) -> Result<&'o Path, String> {
        let has = |python: &&PathBuf| {
            let mut command = Command::new(python);
            command.args(["-c", "import importlib.util as u, sys; [u.find_spec(n) or sys.exit(1) for n in sys.argv[1:]]"]);
            command.args(self.needs).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        options.python.iter().find(has).map(PathBuf::as_path).ok_or_else(|| format!("no --python has {}", self.needs.join(", ")))
    }

    /// Makes what it reads, once.
    ///
    /// # Errors
    /// The script fails.
    pub fn convert(&self, python: &Path, options: &Options, made: &Made) -> Result<()> {
        let Some(name) = self.converts else { return Ok(()) };
        let work = made.path("peers");
        let done = work.join(format!("{name}.done"));
        if done.exists() {
            return Ok(());
        }
        fs::create_dir_all(&work)?;
        crate::appliance::say(&format!("converting the checkpoint for {}", self.name));
        process::run(self.command(python, options, made, &work).arg("--convert"), &made.log(name))?;
        fs::write(&done, []).with_context(|| format!("{} cannot be written", done.display()))
    }

    /// Measures it once.
    ///
    /// # Errors
    /// The script fails or says nothing.
    pub fn measure(&self, python: &Path, options: &Options, made: &Made) -> Result<Vec<Sample>> {
        let fresh = made.path("peers-export");
        let exports = self.part == Part::Export;
        if exports {
            fs::remove_dir_all(&fresh).ok();
            fs::create_dir_all(&fresh)?;
        }
        let work = if exports { fresh } else { made.path("peers") };
        let ended = process::run(&mut self.command(python, options, made, &work), &made.log(self.name))?;
        if let Some(version) = ended.lines.iter().find_map(|(_, line)| line["version"].as_str()) {
            println!("  {version}");
        }
        let samples = if exports { export(&ended) } else { told(&ended) };
        ensure!(!samples.is_empty(), "{} told no figure", self.script);
        Ok(samples)
    }

    fn command(&self, python: &Path, options: &Options, made: &Made, work: &Path) -> Command {
        let mut command = Command::new(python);
        let with_images = matches!(self.part, Part::Pipeline | Part::Classifier | Part::Preparation);
        let checkpoint = if with_images { made.path("describer") } else { made.path("text") };
        command.arg(checkout().join("xtask/peers").join(self.script)).args(self.words);
        command.arg("--checkpoint").arg(checkpoint).arg("--work").arg(work);
        let tokens = if self.part == Part::Pipeline { options.description } else { options.tokens };
        let rows: Vec<String> = options.rows.iter().map(usize::to_string).collect();
        command.args(["--threads", &options.threads.to_string(), "--tokens", &tokens.to_string(), "--rows", &rows.join(",")]);
        command.args(["--prompt", &made.prompt_tokens.to_string()]);
        if with_images {
            command.arg("--images").arg(made.path("images"));
        }
        if self.part == Part::Pipeline {
            command.arg("--question").arg(super::make::question());
        }
        let threads = options.threads.to_string();
        for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
            command.env(variable, &threads);
        }
        command.env("HF_HUB_OFFLINE", "1").env("ORT_DISABLE_TELEMETRY", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

fn told(ended: &Ended) -> Vec<Sample> {
    let sample = |value: &serde_json::Value| {
        Some(Sample {
            figure: value["figure"].as_str()?.to_owned(),
            value: value["value"].as_f64()?,
            waited: value["waited"].as_f64(),
        })
    };
    ended.lines.iter().filter_map(|(_, value)| sample(value)).collect()
}

/// Seconds and memory of a process that exports.
pub fn export(ended: &Ended) -> Vec<Sample> {
    let sample = |figure: &str, value| Sample { figure: figure.to_owned(), value, waited: ended.waited };
    vec![sample("export", ended.seconds), sample("export memory", ended.peak_bytes as f64 / (1u64 << 30) as f64)]
}
