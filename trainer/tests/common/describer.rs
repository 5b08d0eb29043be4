//! Qwen2.5-VL's three networks together, as a describer uses them.

use mmlnb_models::{
    config::QwenConfig,
    graph::Graph,
    networks,
    prepare::{
        positions::{VisionPositions, vision_positions},
        rotary::rotary_table,
    },
    weights::Weights,
};
use mmlnb_trainer::torch::{Plan, PlanOptions};
use tch::{Device, IndexOp, Kind, Tensor};

/// The three plans and their sizes.
pub struct Describer {
    pub config: QwenConfig,
    pub vision: Plan,
    pub embedding: Plan,
    pub decoder: Plan,
}

/// A prompt: embeddings `[1, tokens, hidden]`, and for each of its tokens the three positions.
pub struct Prompt {
    pub embeds: Tensor,
    pub positions: [Vec<i64>; 3],
    pub delta: i64,
}

/// Sequences on one cache, all rows of one cache length.
pub struct Sequences {
    /// Tokens of each row so far.
    pub lengths: Vec<i64>,
    deltas: Vec<i64>,
    /// Rotary positions: rows of the table are `row * room + token`.
    table: (Tensor, Tensor),
    room: i64,
    cache: Vec<(Tensor, Tensor)>,
}

/// A describer's graphs: vision, embedding and decoder, the adapter of `weights` beside them.
pub fn graphs(config: &QwenConfig, weights: &Weights<'_>, cached: bool) -> [Graph; 3] {
    let plain = [networks::vision(&config.vision), networks::embedding(&config.text), networks::decoder(&config.text, cached)];
    plain.map(|graph| match weights.adapter() {
        Some(adapter) => graph.adapt(&|module| adapter.adaption(module), &[]).unwrap(),
        None => graph,
    })
}

impl Describer {
    /// The checkpoint must hold just the tensors of the three networks.
    pub fn new(config: &QwenConfig, weights: &Weights<'_>, options: &PlanOptions, cached: bool) -> Describer {
        let graphs = graphs(config, weights, cached);
        weights.checkpoint().check_all(graphs.iter().map(Graph::parameters)).unwrap_or_else(|error| panic!("{error}"));
        let [vision, embedding, decoder] = graphs.map(|g| Plan::new(&g, weights, options).unwrap_or_else(|e| panic!("{e}")));
        Describer { config: config.clone(), vision, embedding, decoder }
    }

    /// Image tokens `[patches / 4, hidden]` of one image.
    pub fn image_embeds(&self, pixels: &Tensor, grid: [i64; 3]) -> Tensor {
        let outputs = self.vision.forward(&vision_inputs(&self.config, pixels, grid)).unwrap_or_else(|e| panic!("{e}"));
        outputs.get("image_embeds").unwrap().shallow_clone()
    }

    /// Embeddings of the ids `[rows, tokens]`, image tokens replaced by `images` in order.
    pub fn embeds(&self, ids: &Tensor, images: &[Tensor]) -> Tensor {
        let outputs = self.embedding.forward(&[("input_ids", ids)]).unwrap_or_else(|e| panic!("{e}"));
        let embeds = outputs.get("inputs_embeds").unwrap();
        if images.is_empty() {
            return embeds.shallow_clone();
        }
        let places = ids.flatten(0, -1).eq(self.config.image_token).nonzero().squeeze_dim(1);
        let images = Tensor::cat(images, 0);
        assert_eq!(places.size()[0], images.size()[0], "image tokens in the prompt and rows of the images");
        let rows = embeds.reshape([-1, self.config.text.hidden]);
        rows.index_copy(0, &places.to_device(embeds.device()), &images).reshape(embeds.size())
    }

    /// Logits `[tokens, vocabulary]` of the prompt, all in one run without a cache; `rows` picks tokens.
    pub fn logits(&self, prompt: &Prompt, rows: &[i64]) -> Tensor {
        let tokens = prompt.positions[0].len() as i64;
        let (cos, sin) = self.table(&prompt.positions);
        let inputs = [
            ("inputs_embeds", prompt.embeds.shallow_clone()),
            ("position_ids", Tensor::arange(tokens, (Kind::Int64, Device::Cpu)).unsqueeze(0)),
            ("cos", cos),
            ("sin", sin),
            ("logits_rows", Tensor::from_slice(rows)),
        ];
        self.decoder.forward(&inputs).unwrap_or_else(|e| panic!("{e}")).get("logits").unwrap().shallow_clone()
    }

    /// Rotary tables `[tokens, head / 2]`.
    pub fn table(&self, positions: &[Vec<i64>; 3]) -> (Tensor, Tensor) {
        let table = rotary_table(positions, &self.config.text);
        let shaped = |values: &[f32]| Tensor::from_slice(values).reshape([-1, self.config.text.head_size / 2]);
        (shaped(&table.cos), shaped(&table.sin))
    }

    /// Runs a prompt into a new cache with room for `steps` more tokens: logits `[1, vocabulary]` of its last token.
    pub fn prefill(&self, prompt: &Prompt, steps: i64) -> (Sequences, Tensor) {
        let tokens = prompt.positions[0].len() as i64;
        let room = tokens + steps;
        let mut positions = prompt.positions.clone();
        positions.iter_mut().for_each(|axis| axis.extend((tokens..room).map(|n| n + prompt.delta)));
        let text = &self.config.text;
        let empty = || Tensor::zeros([1, text.kv_heads, room, text.head_size], (Kind::Float, Device::Cpu));
        let cache = (0..text.layers).map(|_| (empty(), empty())).collect();
        let mut sequences =
            Sequences { lengths: vec![0], deltas: vec![prompt.delta], table: self.table(&positions), room, cache };
        let logits = self.extend(&mut sequences, &prompt.embeds);
        (sequences, logits)
    }

    /// One more token in each row: logits `[rows, vocabulary]`.
    pub fn step(&self, sequences: &mut Sequences, tokens: &[i64]) -> Tensor {
        let embeds = self.embeds(&Tensor::from_slice(tokens).unsqueeze(1), &[]);
        self.extend(sequences, &embeds)
    }

    /// Appends the same number of tokens to each row: logits of each row's last.
    pub fn extend(&self, sequences: &mut Sequences, embeds: &Tensor) -> Tensor {
        let (rows, tokens) = (embeds.size()[0], embeds.size()[1]);
        let start = Tensor::from_slice(&sequences.lengths).unsqueeze(1);
        let first_rows = Tensor::arange(rows, (Kind::Int64, Device::Cpu)).unsqueeze(1) * sequences.room;
        let place = start + first_rows + Tensor::arange(tokens, (Kind::Int64, Device::Cpu));
        sequences.lengths.iter_mut().for_each(|length| *length += tokens);
        let last: Vec<i64> = sequences.lengths.iter().map(|length| length - 1).collect();
        let total = *sequences.lengths.iter().max().unwrap();
        let mut inputs = vec![
            ("inputs_embeds".to_string(), embeds.shallow_clone()),
            ("position_ids".to_string(), place),
            ("cos".to_string(), sequences.table.0.shallow_clone()),
            ("sin".to_string(), sequences.table.1.shallow_clone()),
            ("logits_rows".to_string(), Tensor::arange(rows, (Kind::Int64, Device::Cpu)) * tokens + tokens - 1),
            ("seqlens_k".to_string(), Tensor::from_slice(&last)),
            ("total_sequence_length".to_string(), Tensor::from(total)),
        ];
        for (n, (key, value)) in sequences.cache.iter().enumerate() {
            inputs.push((format!("past.{n}.key"), key.shallow_clone()));
            inputs.push((format!("past.{n}.value"), value.shallow_clone()));
        }
        let outputs = self.decoder.forward(&inputs).unwrap_or_else(|e| panic!("{e}"));
        for (n, cache) in sequences.cache.iter_mut().enumerate() {
            let present = |part: &str| outputs.get(&format!("present.{n}.{part}")).unwrap().shallow_clone();
            *cache = (present("key"), present("value"));
        }
        outputs.get("logits").unwrap().shallow_clone()
    }
}

impl Sequences {
    /// Gives the one sequence these positions instead of those that count on after its prompt.
    pub fn positioned(&mut self, describer: &Describer, positions: &[Vec<i64>; 3]) {
        assert_eq!((self.lengths.len(), positions[0].len() as i64), (1, self.room), "one sequence, a position for each place");
        self.table = describer.table(positions);
    }

    /// Several caches as rows of one, the room that of the largest.
    pub fn together(parts: Vec<Sequences>) -> Sequences {
        let room = parts.iter().map(|p| p.room).max().unwrap();
        let rows: i64 = parts.iter().map(|p| p.lengths.len() as i64).sum();
        assert_eq!(rows, parts.len() as i64, "each part is one sequence");
        // Rows of a table beyond a sequence's own room are never read.
        let grown = |x: &Tensor, axis: i64, own: i64| {
            let mut size = x.size();
            size[axis as usize] = room - own;
            Tensor::cat(&[x.shallow_clone(), Tensor::zeros(size, (x.kind(), x.device()))], axis)
        };
        let all = |part: &dyn Fn(&Sequences) -> Tensor| Tensor::cat(&parts.iter().map(part).collect::<Vec<_>>(), 0);
        let table = (all(&|p| grown(&p.table.0, 0, p.room)), all(&|p| grown(&p.table.1, 0, p.room)));
        let layers = parts[0].cache.len();
        let cache =
            (0..layers).map(|n| (all(&|p| grown(&p.cache[n].0, 2, p.room)), all(&|p| grown(&p.cache[n].1, 2, p.room)))).collect();
        Sequences {
            lengths: parts.iter().flat_map(|p| p.lengths.clone()).collect(),
            deltas: parts.iter().flat_map(|p| p.deltas.clone()).collect(),
            table,
            room,
            cache,
        }
    }
}

/// What the vision tower takes for one image.
pub fn vision_inputs(config: &QwenConfig, pixels: &Tensor, grid: [i64; 3]) -> [(&'static str, Tensor); 4] {
    let VisionPositions { patch_positions, window_index, cu_window_seqlens, .. } = vision_positions(&[grid], &config.vision);
    [
        ("pixel_values", pixels.shallow_clone()),
        ("patch_positions_hw", Tensor::from_slice(patch_positions.as_flattened()).reshape([-1, 2])),
        ("window_index", Tensor::from_slice(&window_index)),
        ("cu_window_seqlens", Tensor::from_slice(&cu_window_seqlens)),
    ]
}

/// Position ids `[3, 1, tokens]` as three lists.
pub fn three_lists(position_ids: &Tensor) -> [Vec<i64>; 3] {
    [0, 1, 2].map(|axis| Vec::<i64>::try_from(position_ids.i((axis, 0))).unwrap())
}
