//! The three networks of a describer that writes: image to rows, tokens to rows, rows on a cache to logits.

use super::{prompt::Prompt, sequences::Sequences};
use crate::{
    error::TrainError,
    torch::{Plan, PlanOptions},
};
use mmlnb_models::{config::QwenConfig, graph::Graph, networks, prepare::rotary::rotary_table, weights::Weights};
use tch::{Device, Kind, Tensor};

/// The describer's three graphs, the adapter of `weights` beside their layers; `cached`: the language model on a key-value cache.
pub fn graphs(config: &QwenConfig, weights: &Weights<'_>, cached: bool) -> [Graph; 3] {
    let plain = [networks::vision(&config.vision), networks::embedding(&config.text), networks::decoder(&config.text, cached)];
    plain.map(|graph| match weights.adapter() {
        // No module is expected here, so none can be missing.
        Some(adapter) => graph
            .adapt(&|module| adapter.adaption(module), &[])
            .expect("adapting fails only for modules that are expected and not found"),
        None => graph,
    })
}

/// The networks, bound to their weights.
#[derive(Debug)]
pub(super) struct Networks {
    config: QwenConfig,
    /// Absent where every prompt brings its image's rows.
    vision: Option<Plan>,
    embedding: Plan,
    decoder: Plan,
    device: Device,
    kind: Kind,
}

impl Networks {
    /// Binds the networks; what `others` hold is shared with them.
    pub fn new(
        config: &QwenConfig,
        weights: &Weights<'_>,
        options: &PlanOptions,
        others: &[&Plan],
        with_vision: bool,
    ) -> Result<Networks, TrainError> {
        let [vision, embedding, decoder] = graphs(config, weights, true);
        let vision = if with_vision { Some(Plan::sharing(&vision, weights, options, others)?) } else { None };
        let embedding = Plan::sharing(&embedding, weights, options, others)?;
        // Tied embeddings are one tensor.
        let both: Vec<&Plan> = others.iter().copied().chain([&embedding]).collect();
        let decoder = Plan::sharing(&decoder, weights, options, &both)?;
        Ok(Networks { config: config.clone(), vision, embedding, decoder, device: options.device, kind: options.kind })
    }

    /// Logits `[tokens, vocabulary]` at every token of a prompt.
    pub fn all_logits(&self, prompt: &Prompt) -> Result<Tensor, TrainError> {
        let tokens = prompt.ids.len() as i64;
        let embeds = self.prompt_rows(&[prompt], &Tensor::f_from_slice(&prompt.ids)?.f_unsqueeze(0)?)?;
        let mut sequences = self.empty(vec![tokens], vec![prompt.positions.delta], tokens)?;
        self.decode(&mut sequences, &embeds, &prompt.positions.ids, &(0..tokens).collect::<Vec<_>>())
    }

    /// Reads prompts into caches with room for `answer` more tokens each: the sequences, and the logits `[prompts, vocabulary]` after the last
    /// tokens. Prompts may differ in length: shorter ones are filled up at the right, and what stands there is overwritten by the answer.
    pub fn prefill(&self, prompts: &[&Prompt], answer: i64) -> Result<(Sequences, Tensor), TrainError> {
        let lengths: Vec<i64> = prompts.iter().map(|prompt| prompt.ids.len() as i64).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let rows = prompts.len() as i64;
        let mut ids = Vec::with_capacity((rows * longest) as usize);
        let mut positions: [Vec<i64>; 3] = Default::default();
        for prompt in prompts {
            let filling = longest as usize - prompt.ids.len();
            ids.extend(prompt.ids.iter().copied().chain(std::iter::repeat_n(prompt.ids[0], filling)));
            for (all, own) in positions.iter_mut().zip(&prompt.positions.ids) {
                all.extend(own.iter().copied().chain(std::iter::repeat_n(0, filling)));
            }
        }
        let embeds = self.prompt_rows(prompts, &Tensor::f_from_slice(&ids)?.f_reshape([rows, longest])?)?;
        let deltas = prompts.iter().map(|prompt| prompt.positions.delta).collect();
        let mut sequences = self.empty(vec![longest; prompts.len()], deltas, longest + answer)?;
        let last: Vec<i64> = lengths.iter().enumerate().map(|(row, length)| row as i64 * longest + length - 1).collect();
        let logits = self.decode(&mut sequences, &embeds, &positions, &last)?;
        sequences.lengths = lengths;
        Ok((sequences, logits))
    }

    /// One more token in each row: logits `[rows, vocabulary]`.
    pub fn step(&self, sequences: &mut Sequences, tokens: &[i64]) -> Result<Tensor, TrainError> {
        let outputs = self.embedding.forward(&[("input_ids", Tensor::f_from_slice(tokens)?.f_unsqueeze(1)?)])?;
        let at: Vec<i64> = sequences.lengths.iter().zip(&sequences.deltas).map(|(length, delta)| length + delta).collect();
        sequences.lengths.iter_mut().for_each(|length| *length += 1);
        let rows: Vec<i64> = (0..tokens.len() as i64).collect();
        self.decode(sequences, outputs.get("inputs_embeds")?, &[at.clone(), at.clone(), at], &rows)
    }

    /// Sequences of these lengths after the next call, with nothing in their caches yet.
    fn empty(&self, lengths: Vec<i64>, deltas: Vec<i64>, room: i64) -> Result<Sequences, TrainError> {
        let text = &self.config.text;
        let shape = [lengths.len() as i64, text.kv_heads, room, text.head_size];
        let zeros = || Tensor::f_zeros(shape, (self.kind, self.device));
        let cache = (0..text.layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<Vec<_>, tch::TchError>>()?;
        Ok(Sequences { lengths, deltas, room, cache })
    }

    /// Rows `[prompts, tokens, hidden]` of the prompts, those of image tokens from the vision tower.
    fn prompt_rows(&self, prompts: &[&Prompt], ids: &Tensor) -> Result<Tensor, TrainError> {
        let outputs = self.embedding.forward(&[("input_ids", ids)])?;
        let embeds = outputs.get("inputs_embeds")?;
        let images = prompts.iter().map(|prompt| self.image(prompt)).collect::<Result<Vec<Tensor>, TrainError>>()?;
        let places = ids.f_flatten(0, -1)?.f_eq(self.config.image_token)?.f_nonzero()?.f_squeeze_dim(1)?;
        let images = Tensor::f_cat(&images, 0)?.f_to_kind(embeds.kind())?;
        let flat = embeds.f_reshape([-1, self.config.text.hidden])?;
        Ok(flat.f_index_copy(0, &places.f_to_device(self.device)?, &images)?.f_reshape(embeds.size())?)
    }

    /// Image tokens `[patches / 4, hidden]`.
    fn image(&self, prompt: &Prompt) -> Result<Tensor, TrainError> {
        if let Some(rows) = &prompt.rows {
            return Ok(Tensor::f_from_slice(rows)?.f_reshape([-1, self.config.text.hidden])?.f_to_device(self.device)?);
        }
        let patches = prompt.vision.patch_positions.len() as i64;
        let missing = || TrainError::Failed("an image came as pixels, but the describer writes without its vision tower".into());
        let outputs = self.vision.as_ref().ok_or_else(missing)?.forward(&[
            ("pixel_values", Tensor::f_from_slice(&prompt.patches.pixel_values)?.f_reshape([patches, -1])?.f_to_kind(self.kind)?),
            ("patch_positions_hw", Tensor::f_from_slice(prompt.vision.patch_positions.as_flattened())?.f_reshape([-1, 2])?),
            ("window_index", Tensor::f_from_slice(&prompt.vision.window_index)?),
            ("cu_window_seqlens", Tensor::f_from_slice(&prompt.vision.cu_window_seqlens)?),
        ])?;
        Ok(outputs.get("image_embeds")?.shallow_clone())
    }

    /// Runs the language model on `embeds` `[rows, tokens, hidden]`, whose tokens stand at `positions`; `wanted` tokens' logits, counted through rows and
    /// tokens. `sequences.lengths` already count the new tokens.
    fn decode(
        &self,
        sequences: &mut Sequences,
        embeds: &Tensor,
        positions: &[Vec<i64>; 3],
        wanted: &[i64],
    ) -> Result<Tensor, TrainError> {
        let (rows, tokens) = (embeds.size()[0], embeds.size()[1]);
        let table = rotary_table(positions, &self.config.text);
        let half = self.config.text.head_size / 2;
        let last: Vec<i64> = sequences.lengths.iter().map(|length| length - 1).collect();
        let total = sequences.lengths.iter().copied().max().unwrap_or(0);
        let mut inputs = vec![
            ("inputs_embeds".to_string(), embeds.shallow_clone()),
            ("position_ids".to_string(), Tensor::f_arange(rows * tokens, (Kind::Int64, Device::Cpu))?.f_reshape([rows, tokens])?),
            ("cos".to_string(), Tensor::f_from_slice(&table.cos)?.f_reshape([-1, half])?),
            ("sin".to_string(), Tensor::f_from_slice(&table.sin)?.f_reshape([-1, half])?),
            ("logits_rows".to_string(), Tensor::f_from_slice(wanted)?),
            ("seqlens_k".to_string(), Tensor::f_from_slice(&last)?),
            ("total_sequence_length".to_string(), Tensor::from(total)),
        ];
        for (n, (key, value)) in std::mem::take(&mut sequences.cache).into_iter().enumerate() {
            inputs.push((format!("past.{n}.key"), key));
            inputs.push((format!("past.{n}.value"), value));
        }
        let outputs = self.decoder.forward(&inputs)?;
        for n in 0..self.config.text.layers {
            let present = |part: &str| outputs.get(&format!("present.{n}.{part}")).map(Tensor::shallow_clone);
            sequences.cache.push((present("key")?, present("value")?));
        }
        Ok(outputs.get("logits")?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?)
    }
}
