//! `cargo xtask gpu`: what is to be done on the first machine with an NVIDIA GPU, in order; its table goes into docs/gpu.md.
//!
//! A step that fails is written down and the next one is taken: a first contact shall show all that is wrong. Everything that the steps print is kept
//! below `target/gpu`.

use crate::{
    appliance::{finish, program, say},
    checkout,
    checkpoint::{ClassifierOptions, DescriberOptions, Shape, write_classifier, write_describer},
    setup,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What is tried.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The describer whose bundles and steps of training are measured
    #[arg(long, value_enum, default_value = "0.5b")]
    shape: Shape,
    /// Take the wheels from this folder and do not use the network
    #[arg(long, value_name = "DIR")]
    offline_dir: Option<PathBuf>,
}

/// NVIDIA's program, which comes with the driver.
const SMI: &str = "nvidia-smi";
/// ONNX Runtime's CUDA build, as `setup --gpu` brings it.
const RUNTIME: &str = "native/site/onnxruntime_gpu/capi/libonnxruntime.so.1.28.0";
/// The page, and what its table stands between.
const PAGE: &str = "docs/gpu.md";
const MARKS: [&str; 2] = ["<!-- table of cargo xtask gpu -->", "<!-- end of the table -->"];
/// Images described together.
const IMAGES: usize = 4;
/// Images that are trained on: five steps an epoch.
const TRAINED: usize = 20;

/// One row of the table.
struct Row {
    step: &'static str,
    result: Result<String>,
    seconds: f64,
}

/// Where the steps work.
struct Bench {
    folder: PathBuf,
    shape: Shape,
}

type Step = fn(&Bench) -> Result<String>;

const STEPS: [(&str, Step); 9] = [
    ("golden tests of the exported graphs", golden_graphs),
    ("golden tests of the trainer's networks", golden_networks),
    ("bundles in f32, f16 and bf16", bundles),
    ("greedy tokens in f16 against the processor's in f32", |bench| tokens(bench, "f16")),
    ("greedy tokens in bf16 against the processor's in f32", |bench| tokens(bench, "bf16")),
    ("images together against each alone", slots),
    ("times at 1 and 4 slots, memory of the card", times),
    ("a describer in f32 is left to the processor", refused),
    ("steps of training a describer", training),
];

/// Runs all steps and writes the table.
pub fn run(options: &Options) -> Result<()> {
    let card = card(SMI)?;
    say(&format!("GPU: {card}"));
    setup::run(&setup::Options { gpu: true, offline_dir: options.offline_dir.clone(), ..Default::default() })?;
    say("building");
    finish(Command::new(env!("CARGO")).args(["build", "--workspace"]).current_dir(checkout()))?;
    let bench = Bench { folder: checkout().join("target/gpu"), shape: options.shape };
    fs::create_dir_all(&bench.folder)?;
    let mut rows = Vec::new();
    for (step, run) in STEPS {
        say(step);
        let started = Instant::now();
        let result = run(&bench);
        say(&told(&result));
        rows.push(Row { step, result, seconds: started.elapsed().as_secs_f64() });
    }
    let page = checkout().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| format!("{} cannot be read", page.display()))?;
    fs::write(&page, with_table(&text, &table(&card, &rows))?)?;
    say(&format!("{} has the table; what the steps printed lies in {}", page.display(), bench.folder.display()));
    let failed = rows.iter().filter(|row| row.result.is_err()).count();
    ensure!(failed == 0, "{failed} of {} steps failed", rows.len());
    Ok(())
}

/// Name, driver and memory of the first card, by the driver's program.
fn card(smi: &str) -> Result<String> {
    let nothing = "no NVIDIA GPU answers, nothing was done";
    let asked = Command::new(smi).args(["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]).output();
    let output = match asked {
        Err(error) => bail!("{nothing}: {smi} cannot be started ({error}); install NVIDIA's driver, branch 580 or later"),
        Ok(output) => output,
    };
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next().map(str::trim) {
        Some(line) if output.status.success() && !line.is_empty() => Ok(line.to_string()),
        _ => bail!("{nothing}: {smi} says: {}", [text.trim(), String::from_utf8_lossy(&output.stderr).trim()].join(" ").trim()),
    }
}

fn told(result: &Result<String>) -> String {
    match result {
        Ok(text) => text.clone(),
        Err(error) => format!("FAILED: {error:#}"),
    }
}

fn table(card: &str, rows: &[Row]) -> String {
    let mut table = format!("{card}\n\n| step | result | s |\n|---|---|---|\n");
    for Row { step, result, seconds } in rows {
        table += &format!("| {step} | {} | {seconds:.0} |\n", told(result).replace(['\n', '|'], " "));
    }
    table
}

/// The page with this table in the place of the one before.
fn with_table(page: &str, table: &str) -> Result<String> {
    let [begin, end] = MARKS;
    let (before, rest) = page.split_once(begin).with_context(|| format!("{PAGE} has no line {begin}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("{PAGE} has no line {end}"))?;
    Ok(format!("{before}{begin}\n{table}{end}{after}"))
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A command whose outputs go into a file of the bench's folder.
    fn logged(&self, command: &mut Command, name: &str) -> Result<()> {
        let log = self.path(&format!("{name}.log"));
        let file = File::create(&log)?;
        let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status();
        let status = status.with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        ensure!(status.success(), "see {} ({status})", log.display());
        Ok(())
    }

    /// Images that are no two alike.
    fn draw(&self, count: usize) -> Result<Vec<PathBuf>> {
        let image = |number: usize| {
            let file = self.path(&format!("{number}.png"));
            let blue = |x: u32, y: u32| (x * y * (number as u32 + 1) % 256) as u8;
            let pixel = |x: u32, y: u32| image::Rgb([(x * 7 % 256) as u8, (y * 5 % 256) as u8, blue(x, y)]);
            image::RgbImage::from_fn(252, 252, pixel).save(&file)?;
            Ok(file)
        };
        (0..count).map(image).collect()
    }

    /// Describes images with a bundle: an object each, and what was printed beside.
    fn describe(&self, precision: &str, provider: &str, slots: usize, images: &[PathBuf]) -> Result<(Vec<Value>, String)> {
        let mut command = program("mmlnb-appliance");
        command.args(["describe", "--json", "--provider", provider, "--slots", &slots.to_string()]);
        command.arg("--bundle").arg(self.path(precision)).args(images).env("MMLNB_ORT_LIB", checkout().join(RUNTIME));
        let output = command.output().context("mmlnb-appliance cannot be started")?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        fs::write(self.path(&format!("describe-{precision}-{provider}-{slots}.log")), format!("{out}\n{err}"))?;
        ensure!(output.status.success(), "{}", err.trim());
        let objects = out.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        ensure!(objects.len() == images.len(), "{} answers for {} images", objects.len(), images.len());
        Ok((objects, err.into_owned()))
    }
}

fn on_cuda(package: &str, tests: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--package", package, "--test", tests, "golden"]).current_dir(checkout());
    // Products of 10 bits of mantissa do not keep the bounds of f32.
    command.envs([("MMLNB_DEVICE", "cuda"), ("NVIDIA_TF32_OVERRIDE", "0")]).env("MMLNB_ORT_LIB", checkout().join(RUNTIME));
    command
}

fn golden_graphs(bench: &Bench) -> Result<String> {
    bench.logged(&mut on_cuda("mmlnb-exporter", "onnx"), "golden-graphs").map(|()| "passed".into())
}

fn golden_networks(bench: &Bench) -> Result<String> {
    bench.logged(&mut on_cuda("mmlnb-trainer", "golden"), "golden-networks").map(|()| "passed".into())
}

fn bundles(bench: &Bench) -> Result<String> {
    let (base, classifier) = (bench.path("base"), bench.path("classifier"));
    if !base.join("config.json").exists() {
        write_describer(&DescriberOptions { shape: bench.shape, output: base.clone(), seed: 0, corpus: None })?;
    }
    if !classifier.join("config.json").exists() {
        write_classifier(&ClassifierOptions::small(classifier.clone()))?;
    }
    let settings = bench.path("settings.toml");
    fs::write(&settings, "max_new_tokens = 64\ndo_sample = false\nrepetition_penalty = 1.0\n")?;
    for precision in ["f32", "f16", "bf16"] {
        let mut export = program("mmlnb-export");
        export.args(["bundle", "--precision", precision, "--image-size", "252x252", "--output"]).arg(bench.path(precision));
        export.arg("--vlm").arg(&base).arg("--classifier").arg(&classifier).arg("--settings").arg(&settings);
        bench.logged(&mut export, &format!("export-{precision}"))?;
    }
    Ok("written".into())
}

/// The text of an answer, made on the provider that is wanted.
fn text_on<'v>(answer: &'v Value, provider: &str) -> Result<&'v str> {
    ensure!(answer["provider"] == provider, "it ran on {}", answer["provider"]);
    answer["description"].as_str().context("an answer has a description")
}

fn tokens(bench: &Bench, precision: &str) -> Result<String> {
    let images = bench.draw(IMAGES)?;
    let (expected, _) = bench.describe("f32", "cpu", 1, &images)?;
    let (found, _) = bench.describe(precision, "cuda", 1, &images)?;
    let mut equal = 0;
    let mut shares = Vec::new();
    for (expected, found) in expected.iter().zip(&found) {
        let (expected, found) = (text_on(expected, "cpu")?, text_on(found, "cuda")?);
        let alike = expected.chars().zip(found.chars()).take_while(|(a, b)| a == b).count();
        equal += usize::from(expected == found);
        shares.push(100 * alike / expected.chars().count().max(1));
    }
    Ok(format!("{equal} of {IMAGES} texts equal; equal from the start on: {shares:?} %"))
}

/// Slots see each other's angles or caches where a kernel is wrong; a request that ends first moves another.
fn slots(bench: &Bench) -> Result<String> {
    let images = bench.draw(IMAGES)?;
    let (together, heard) = bench.describe("f16", "cuda", IMAGES, &images)?;
    for (image, together) in images.iter().zip(&together) {
        let (alone, _) = bench.describe("f16", "cuda", 1, std::slice::from_ref(image))?;
        let (alone, together) = (text_on(&alone[0], "cuda")?, text_on(together, "cuda")?);
        ensure!(alone == together, "{}: alone `{alone}`, with others `{together}`", image.display());
    }
    let partly = heard.lines().filter(|line| line.contains("graph_partly_on_processor")).count();
    Ok(format!("equal; {partly} warnings of nodes on the processor (vision's one is known)"))
}

fn times(bench: &Bench) -> Result<String> {
    let images = bench.draw(IMAGES)?;
    let mut told = Vec::new();
    for slots in [1, IMAGES] {
        let (answers, peak) = with_peak(|| bench.describe("f16", "cuda", slots, &images).map(|(answers, _)| answers))?;
        // The first image of a process pays for kernels that are loaded when they first run.
        let last = answers.last().context("there is an answer")?;
        text_on(last, "cuda")?;
        let part = |name: &str| last["elapsed_ms"][name].as_f64().unwrap_or(f64::NAN);
        let each = part("decode") / last["description_tokens"].as_f64().unwrap_or(f64::NAN);
        let figures = [part("vision"), part("prefill"), each].map(|ms| format!("{ms:.1}"));
        told.push(format!(
            "{slots} slots: vision {} ms, prompt {} ms, step {} ms, card {peak} MiB",
            figures[0], figures[1], figures[2]
        ));
    }
    Ok(told.join("; "))
}

fn refused(bench: &Bench) -> Result<String> {
    let (answers, _) = bench.describe("f32", "cuda", 1, &bench.draw(IMAGES)?[..1])?;
    text_on(&answers[0], "cpu").map(|_| "as it must be".into())
}

fn training(bench: &Bench) -> Result<String> {
    let run = bench.path("run");
    let mut csv = String::from("file_name,description,split\n");
    for number in 0..bench.draw(TRAINED + 1)?.len() {
        let part = if number == TRAINED { "validation" } else { "train" };
        csv += &format!("{number}.png,small round cells number {number} lie in sheets with scant neuropil and rosettes,{part}\n");
    }
    fs::write(bench.path("data.csv"), csv)?;
    let settings = "rank = 64\nepochs = 4\nbatch_size = 4\naccumulation = 1\nsave_steps = 0\nvalidation_texts = 0\nimage_size = [252, 252]\n";
    fs::write(bench.path("describe.toml"), settings)?;
    if run.exists() {
        fs::remove_dir_all(&run)?;
    }
    let mut command = program("mmlnb-train");
    command.args(["describe", "--device", "cuda", "--data"]).arg(bench.path("data.csv")).arg("--images").arg(&bench.folder);
    command.arg("--base").arg(bench.path("base")).arg("--output").arg(&run).arg("--config").arg(bench.path("describe.toml"));
    let ((), peak) = with_peak(|| bench.logged(&mut command, "training"))?;
    let text = fs::read_to_string(run.join("metrics.jsonl"))?;
    let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let rates = lines.iter().filter(|line| line["kind"] == "step").skip(1).filter_map(|line| line["tokens_per_second"].as_f64());
    let mut rates: Vec<f64> = rates.collect();
    ensure!(!rates.is_empty(), "{} has no steps", run.display());
    rates.sort_by(f64::total_cmp);
    Ok(format!("median {:.0} tokens/s, card {peak} MiB", rates[rates.len() / 2]))
}

/// What `work` gives, and the most memory of the card that was in use meanwhile, in MiB.
fn with_peak<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let (peak, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let watcher = thread::spawn({
        let (peak, ended) = (peak.clone(), ended.clone());
        move || {
            while !ended.load(Ordering::Relaxed) {
                peak.fetch_max(in_use().unwrap_or(0), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(100));
            }
        }
    });
    let done = work();
    ended.store(true, Ordering::Relaxed);
    watcher.join().ok().context("the watcher of the card's memory ended early")?;
    Ok((done?, peak.load(Ordering::Relaxed)))
}

fn in_use() -> Option<u64> {
    let output = Command::new(SMI).args(["--query-gpu=memory.used", "--format=csv,noheader,nounits"]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn without_a_gpu_it_says_so_plainly() {
        let error = card("/absent/nvidia-smi").unwrap_err().to_string();
        assert!(error.starts_with("no NVIDIA GPU answers, nothing was done: ") && error.contains("driver"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let smi = folder.path().join("smi");
        let says = |script: &str| {
            fs::write(&smi, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&smi, fs::Permissions::from_mode(0o755)).unwrap();
            card(&smi.to_string_lossy())
        };
        let error = says("echo 'No devices were found'; exit 6").unwrap_err().to_string();
        assert!(error.ends_with("says: No devices were found"), "{error}");
        assert_eq!(says("echo 'NVIDIA X, 580.1, 24564 MiB'").unwrap(), "NVIDIA X, 580.1, 24564 MiB");
    }

    #[test]
    fn the_page_gets_the_table_in_the_place_of_the_one_before() {
        let page = fs::read_to_string(checkout().join(PAGE)).unwrap();
        let row = |result| Row { step: "a step", result, seconds: 2.4 };
        let first = table("a card", &[row(Ok("fine".into())), row(Err(anyhow::anyhow!("a | b")))]);
        assert!(first.ends_with("| a step | fine | 2 |\n| a step | FAILED: a   b | 2 |\n"), "{first}");
        let once = with_table(&page, &first).unwrap();
        assert!(once.contains(&first));
        let second = table("another card", &[]);
        let twice = with_table(&once, &second).unwrap();
        assert!(twice.contains(&second) && !twice.contains(&first));
        assert_eq!(with_table(&twice, &first).unwrap(), once);
        assert!(with_table("a page without marks", &first).is_err());
    }
}
