//! The plan of memory against what a process really takes, and what it says of a run that cannot fit.

use crate::bench::quick;
use mmlnb_models::{
    config::{QwenConfig, TextConfig, VisionConfig},
    cost,
    graph::Parameter,
    networks,
    weights::{Adapter, Checkpoint, Naming, Weights},
};
use mmlnb_trainer::{
    describe::{
        self, Batch, Describer, Image, Method, Recipe, Sample, UNLABELLED,
        memory::{self, Load},
    },
    error::TrainError,
    optimiser::{Optimiser, OptimiserOptions},
};
use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
};
use tch::{Device, Kind, Tensor};

fn sizes(hidden: i64, layers: i64, vocabulary: i64) -> QwenConfig {
    let text = TextConfig {
        hidden,
        layers,
        heads: hidden / 32,
        kv_heads: hidden / 64,
        head_size: 32,
        inner: 4 * hidden,
        vocabulary,
        eps: 1e-6,
        rope_theta: 1e6,
        mrope_section: vec![4, 6, 6],
        tied: false,
    };
    let vision = VisionConfig {
        hidden: 32,
        depth: 1,
        heads: 2,
        inner: 32,
        output: hidden,
        patch: 14,
        merge: 2,
        temporal: 2,
        window: 112,
        channels: 3,
        full_attention: vec![0],
        eps: 1e-6,
        rope_theta: 1e4,
    };
    QwenConfig { text, vision, image_token: 5, video_token: 6, vision_start: 7, vision_end: 8, dtype: "float32".into() }
}

/// The published 7B.
fn seven() -> QwenConfig {
    let mut config = sizes(3584, 28, 152_064);
    config.text =
        TextConfig { heads: 28, kv_heads: 4, head_size: 128, inner: 18_944, mrope_section: vec![16, 24, 24], ..config.text };
    config.vision =
        VisionConfig { hidden: 1280, depth: 32, heads: 16, inner: 3420, full_attention: vec![7, 15, 23, 31], ..config.vision };
    config
}

#[test]
fn seven_billion_fit_into_24_gb() {
    let recipe = Recipe { rank: 64, batch_size: 4, image_size: Some([252, 252]), ..Recipe::default() };
    let load = Load { rows: 4, tokens: 420, answers: 4 * 300, patches: 324 };
    let plan = memory::plan(&recipe, &seven(), (Device::Cuda(0), Kind::BFloat16), load).unwrap();
    let bytes = plan.peak();
    assert!(bytes < 24_000_000_000, "{}", plan.lines().join("\n"));
    assert!(bytes > 18_000_000_000, "weights and adapter alone are more: {}", plan.lines().join("\n"));
    assert!(plan.resident.iter().any(|(name, _)| name.contains("161480704 numbers")), "{:?}", plan.resident);
}

#[test]
fn what_cannot_fit_is_refused_with_the_setting_that_helps() {
    let recipe = Recipe { rank: 64, batch_size: 16, ..Recipe::default() };
    let load = Load { rows: 16, tokens: 1500, answers: 16 * 300, patches: 324 };
    let place = (Device::Cuda(0), Kind::BFloat16);
    let error = memory::check(&recipe, &seven(), place, load, 24 << 30).unwrap_err();
    assert!(matches!(error, TrainError::Memory(_)));
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("`batch_size = "), "{error}");
    let wide = memory::check(&recipe, &seven(), (Device::Cpu, Kind::Float), Load { rows: 1, ..load }, 24 << 30).unwrap_err();
    assert!(wide.to_string().contains("base_dtype = \"bf16\""), "{wide}");
}

/// Width, layers, words, type, method, dropout; rows, tokens, answers a row; whether blocks are computed again.
type Case = (i64, i64, i64, Kind, Method, f64, [i64; 3], bool);

/// The cases that are measured.
const CASES: [Case; 6] = [
    (384, 6, 2000, Kind::Float, Method::Lora, 0.0, [2, 300, 100], true),
    (256, 4, 30_000, Kind::Float, Method::Full, 0.0, [2, 300, 150], true),
    (384, 4, 2000, Kind::Float, Method::Dora, 0.1, [2, 300, 100], true),
    (384, 6, 2000, Kind::Float, Method::Lora, 0.0, [2, 300, 100], false),
    (256, 4, 2000, Kind::Float, Method::Full, 0.0, [2, 300, 100], false),
    (384, 4, 2000, Kind::BFloat16, Method::Lora, 0.1, [2, 300, 100], true),
];
const CHILD: &str = "MMLNB_MEMORY_CASE";

fn recipe(method: Method, dropout: f64, recompute: bool) -> Recipe {
    Recipe { method, dropout, recompute, rank: 16, ..quick() }
}

#[test]
fn the_plan_is_within_15_percent_of_what_a_process_takes() {
    if let Ok(case) = std::env::var(CHILD) {
        return measured(case.parse().unwrap());
    }
    for (number, (hidden, layers, words, kind, method, dropout, [rows, tokens, answers], recompute)) in
        CASES.into_iter().enumerate()
    {
        let load = Load { rows, tokens, answers: rows * answers, patches: 4 };
        let plan =
            memory::plan(&recipe(method, dropout, recompute), &sizes(hidden, layers, words), (Device::Cpu, kind), load).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::the_plan_is_within_15_percent_of_what_a_process_takes", "--nocapture"])
            .env(CHILD, number.to_string())
            // Freed memory goes back at once, so that what is counted is what is used.
            .env("MALLOC_MMAP_THRESHOLD_", "65536")
            .env("MALLOC_TRIM_THRESHOLD_", "65536")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.split_once("measured ").map(|(_, bytes)| bytes.trim()));
        let bytes: f64 = line.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr))).parse().unwrap();
        let ratio = plan.peak() as f64 / bytes;
        println!("case {number}: planned {} of {bytes} bytes, {ratio:.3}\n{}", plan.peak(), plan.lines().join("\n"));
        assert!(
            (0.85..=1.15).contains(&ratio),
            "case {number}: planned {ratio:.3} of the {bytes} bytes measured:\n{}",
            plan.lines().join("\n")
        );
    }
}

const LOADING: &str = "MMLNB_MEMORY_LOADING";

/// Neither copies that were made on the way nor the pages of the mapped checkpoint stay beside the weights, whatever type they are stored in.
#[test]
fn loaded_weights_are_in_memory_once() {
    let config = sizes(512, 10, 20_000);
    if let Ok(file) = std::env::var(LOADING) {
        return loaded(&config, Path::new(&file));
    }
    for kind in [Kind::BFloat16, Kind::Float] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = random(&config, folder.path(), kind);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::loaded_weights_are_in_memory_once", "--nocapture"])
            .env(LOADING, checkpoint.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{kind:?}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
        text.lines().filter(|line| line.contains("of weights")).for_each(|line| println!("{kind:?}: {line}"));
    }
}

/// Loads a describer that computes in f32 in this process.
fn loaded(config: &QwenConfig, file: &Path) {
    let checkpoint = Checkpoint::open(file, Naming::Qwen).unwrap();
    let weights = Weights::new(&checkpoint);
    let bytes = 4 * cost::parameters(&describe::graphs(config, &weights).iter().collect::<Vec<_>>());
    let frozen = describe::Trained { adapters: false, language: false, vision_blocks: false, merger: false, recompute: true };
    let most = most_growth(&["RssAnon:", "RssFile:"], || {
        checkpoint.check_finite().unwrap();
        let _describer = Describer::new(config, &weights, (Device::Cpu, Kind::Float), frozen, 0.0, true).unwrap();
    });
    println!("{most} bytes for {bytes} of weights");
    // Beside the weights: the tensor that is being copied, as it is stored, and libtorch's own pages. With the whole checkpoint it would be more than twice as much.
    assert!(most < bytes / 4 * 7, "{most} bytes for {bytes} of weights");
}

/// By how many bytes this process's memory of these kinds grew at most during `work`.
fn most_growth(kinds: &[&str], work: impl FnOnce()) -> i64 {
    let now = || kinds.iter().map(|kind| resident(kind)).sum::<i64>();
    let (before, most, done) = (now(), AtomicI64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(now(), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
    most.into_inner() - before
}

/// Memory of this process of one kind in bytes.
fn resident(kind: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(kind)).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<i64>().unwrap() * 1024
}

/// Two steps in this process; prints by how much its memory grew at most.
fn measured(case: usize) {
    let (hidden, layers, words, kind, method, dropout, [rows, tokens, answers], recompute) = CASES[case];
    let config = sizes(hidden, layers, words);
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = random(&config, folder.path(), kind);
    let recipe = recipe(method, dropout, recompute);
    let trained = describe::trained(&recipe);
    tch::set_num_threads(1);
    // What libtorch takes for itself comes with its first product.
    let small = Tensor::ones([64, 64], (kind, Device::Cpu));
    let _ = small.matmul(&small).double_value(&[0, 0]);
    let adapter = trained.adapters.then(|| {
        describe::write_start(&folder.path().join("start"), &recipe, &config, &checkpoint).unwrap();
        Adapter::open(&folder.path().join("start")).unwrap()
    });
    let weights = match &adapter {
        Some(adapter) => Weights::with_adapter(&checkpoint, adapter).unwrap(),
        None => Weights::new(&checkpoint),
    };
    let most = most_growth(&["RssAnon:"], || {
        let describer = Describer::new(&config, &weights, (Device::Cpu, kind), trained, dropout, false).unwrap();
        let mut optimiser =
            Optimiser::new(OptimiserOptions { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, decoupled: true });
        for step in 0..2 {
            let batch = batch(&config, kind, [rows, tokens, answers]);
            describe::step(&describer, &mut optimiser, &[batch], (1e-4, 1.0), (1, step)).unwrap();
        }
    });
    println!("measured {most}");
}

fn random(config: &QwenConfig, folder: &Path, kind: Kind) -> Checkpoint {
    let graphs = [networks::vision(&config.vision), networks::embedding(&config.text), networks::decoder(&config.text, false)];
    let mut tensors: BTreeMap<&str, Tensor> = BTreeMap::new();
    for Parameter { key, shape } in graphs.iter().flat_map(|graph| graph.parameters()) {
        tensors.insert(key, (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.02).to_kind(kind));
    }
    let file = folder.join("model.safetensors");
    Tensor::write_safetensors(&tensors.into_iter().collect::<Vec<_>>(), &file).unwrap();
    Checkpoint::open(&file, Naming::Qwen).unwrap()
}

fn batch(config: &QwenConfig, kind: Kind, [rows, tokens, answers]: [i64; 3]) -> Batch {
    let ids: Vec<i64> = (0..tokens).map(|at| if at == 3 { config.image_token } else { 10 + at % 900 }).collect();
    let labels = ids.iter().enumerate().map(|(at, id)| if at as i64 >= tokens - answers { *id } else { UNLABELLED }).collect();
    let sample = Sample { ids, labels, grid: [1, 2, 2] };
    let image = || Image::Embeds(Tensor::ones([1, config.text.hidden], (kind, Device::Cpu)));
    Batch::new((0..rows).map(|_| (sample.clone(), image())).collect(), 0, config).unwrap()
}
