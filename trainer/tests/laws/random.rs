//! Random sizes, tensors, networks and checkpoints. Everything follows from a seed.

use mmlnb_models::{
    config::{
        BertConfig, ClassifierConfig, Fusion, ImageEncoder, ImageInput, QwenConfig, Resample, SwinConfig, TextConfig,
        Vgg16Config, VisionConfig,
    },
    graph::{Adaption, Graph, Parameter},
    weights::{Adapter, AdapterConfig, AdapterTensors, Checkpoint, KeyStyle, Naming, Targets},
};
use std::collections::BTreeMap;
use tch::Tensor;
use tempfile::TempDir;

/// Runs a law on this many seeds, MMLNB_LAWS times as many where that is set; the failing one is the last that was printed.
pub fn for_seeds(count: u64, law: impl Fn(&mut Draw)) {
    let times = std::env::var("MMLNB_LAWS").map_or(1, |times| times.parse().expect("MMLNB_LAWS is a whole number"));
    for seed in 0..count * times {
        println!("seed {seed}");
        law(&mut Draw::new(seed));
    }
}

/// A random stream (SplitMix64).
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number in `low..=high`.
    pub fn size(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.size(0, choices.len() as i64 - 1) as usize]
    }

    /// Standard normal numbers (Box and Muller).
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        let mut uniform = || ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        (0..count).map(|_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32).collect()
    }

    pub fn tensor(&mut self, shape: &[i64]) -> Tensor {
        Tensor::from_slice(&self.normal(shape.iter().product::<i64>() as usize)).reshape(shape)
    }

    pub fn ids(&mut self, shape: &[i64], below: i64) -> Tensor {
        let count = shape.iter().product::<i64>();
        let ids: Vec<i64> = (0..count).map(|_| self.size(0, below - 1)).collect();
        Tensor::from_slice(&ids).reshape(shape)
    }

    /// A checkpoint with just these parameters.
    pub fn checkpoint(&mut self, graphs: &[&Graph], naming: Naming) -> (TempDir, Checkpoint) {
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        for Parameter { key, shape } in graphs.iter().flat_map(|graph| graph.parameters()) {
            if !tensors.contains_key(key) {
                let noise = self.tensor(shape);
                let tensor = match shape.as_slice() {
                    [_] if key.ends_with(".weight") => noise * 0.1 + 1.0,
                    [_] => noise * 0.1,
                    [_, rest @ ..] if key.contains("embed") || key.contains("table") => {
                        noise * if rest.len() == 1 { 1.0 } else { 0.1 }
                    }
                    [_, rest @ ..] => noise / (rest.iter().product::<i64>() as f64).sqrt(),
                    [] => noise,
                };
                tensors.insert(key.clone(), tensor);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        Tensor::write_safetensors(&tensors.iter().collect::<Vec<_>>(), &file).unwrap();
        let checkpoint = Checkpoint::open(&file, naming).unwrap_or_else(|error| panic!("{error}"));
        (folder, checkpoint)
    }

    /// An adapter beside every linear layer whose path ends in one of `names`.
    pub fn adapter(&mut self, graphs: &[&Graph], names: &[&str], dora: bool, base: &Checkpoint) -> (TempDir, Adapter) {
        let config = AdapterConfig {
            rank: self.size(1, 5),
            alpha: self.size(2, 9) as f64,
            dropout: 0.0,
            rslora: self.pick(&[false, true]),
            dora,
            targets: Targets::Names(names.iter().map(|name| name.to_string()).collect()),
            exclude: None,
            layers: None,
            rank_pattern: vec![],
            alpha_pattern: vec![],
            base_model: None,
        };
        let parameters = graphs.iter().flat_map(|graph| graph.parameters());
        let linear = parameters.filter(|p| p.shape.len() == 2).filter_map(|p| Some((p.key.strip_suffix(".weight")?, &p.shape)));
        let named = linear.filter(|(module, _)| names.contains(&module.rsplit('.').next().unwrap_or_default()));
        let tensors: BTreeMap<String, AdapterTensors> = named
            .map(|(module, shape)| {
                let [outputs, inputs, rank] = [shape[0], shape[1], config.rank].map(|size| size as usize);
                let scaled = |values: Vec<f32>, by: f32| values.into_iter().map(|v| v * by).collect::<Vec<f32>>();
                let a = scaled(self.normal(rank * inputs), 1.0 / (inputs as f32).sqrt());
                let b = scaled(self.normal(outputs * rank), 0.2);
                let magnitude = dora.then(|| {
                    let stored = base.tensor(&format!("{module}.weight")).unwrap();
                    let rows = stored.decode(0..outputs);
                    let lengths = rows.chunks(inputs).map(|row| row.iter().map(|v| v * v).sum::<f32>().sqrt());
                    lengths.zip(self.normal(outputs)).map(|(length, noise)| length * (1.0 + 0.1 * noise)).collect()
                });
                (module.to_string(), AdapterTensors { rank, inputs, outputs, a, b, magnitude })
            })
            .collect();
        assert!(!tensors.is_empty(), "no linear layer is named {names:?}");
        let folder = tempfile::tempdir().unwrap();
        Adapter::write(folder.path(), &config, KeyStyle::Later, &tensors).unwrap_or_else(|error| panic!("{error}"));
        let adapter = Adapter::open(folder.path()).unwrap_or_else(|error| panic!("{error}"));
        (folder, adapter)
    }

    pub fn vgg16(&mut self) -> Vgg16Config {
        Vgg16Config { channels: (0..5).map(|_| self.size(2, 9)).collect() }
    }

    pub fn swin(&mut self) -> SwinConfig {
        let stages = self.size(1, 3) as usize;
        SwinConfig {
            embed: 4 * self.size(1, 3),
            depths: (0..stages).map(|_| self.size(1, 2)).collect(),
            heads: (0..stages).map(|_| self.pick(&[1, 2, 4])).collect(),
            window: self.size(2, 7),
            patch: self.pick(&[2, 4]),
            mlp_ratio: self.pick(&[2.0, 4.0]),
            eps: 1e-5,
        }
    }

    pub fn bert(&mut self) -> BertConfig {
        let heads = self.size(1, 4);
        BertConfig {
            vocabulary: self.size(20, 60),
            hidden: heads * 4 * self.size(1, 5),
            layers: self.size(1, 3),
            heads,
            inner: self.size(5, 70),
            positions: 40,
            types: 2,
            eps: 1e-12,
            dropout: 0.1,
            attention_dropout: 0.0,
            max_length: None,
        }
    }

    pub fn classifier(&mut self) -> ClassifierConfig {
        let input =
            ImageInput { width: 64, height: 64, resample: Resample::Bilinear, mean: [0.5; 3], std: [0.2; 3], stain: None };
        ClassifierConfig {
            classes: (0..self.size(2, 5)).map(|n| n.to_string()).collect(),
            image: Some((ImageEncoder::Vgg16(self.vgg16()), input)),
            text: Some(self.bert()),
            fusion: self.pick(&[Fusion::Prmf, Fusion::Prmf, Fusion::Concat, Fusion::Fixed(0.3)]),
            confidence_hidden: self.pick(&[None, Some(7)]),
            image_head: self.pick(&[true, false]),
            dropout: 0.3,
        }
    }

    pub fn qwen(&mut self) -> QwenConfig {
        let half = self.size(3, 8);
        let kv_heads = self.size(1, 2);
        let (section, rows) = (self.size(1, half - 2), self.size(1, half - 2).min(half - 2));
        let first = section.min(half - 1 - rows).max(1);
        let hidden = 4 * self.size(4, 12);
        let text = TextConfig {
            hidden,
            layers: self.size(1, 3),
            heads: kv_heads * self.size(1, 3),
            kv_heads,
            head_size: 2 * half,
            inner: self.size(8, 70),
            vocabulary: self.size(30, 90),
            eps: 1e-6,
            rope_theta: self.pick(&[1e4, 1e6]),
            mrope_section: vec![first, rows, half - first - rows],
            tied: self.pick(&[true, false]),
        };
        let heads = self.size(1, 3);
        let depth = self.size(1, 3);
        let vision = VisionConfig {
            hidden: heads * self.pick(&[4, 8, 12, 16]),
            depth,
            heads,
            inner: self.size(8, 60),
            output: hidden,
            patch: 14,
            merge: 2,
            temporal: 2,
            window: self.pick(&[56, 112]),
            channels: 3,
            full_attention: vec![self.size(0, depth - 1)],
            eps: 1e-6,
            rope_theta: 1e4,
        };
        QwenConfig { text, vision, image_token: 5, video_token: 6, vision_start: 7, vision_end: 8, dtype: "float32".into() }
    }
}

/// What `adapter` does, as `Graph::adapt` wants it.
pub fn adapted(graph: &Graph, adapter: &Adapter) -> Graph {
    let adaption = |module: &str| -> Option<Adaption> { adapter.adaption(module) };
    graph.adapt(&adaption, &[]).unwrap()
}
