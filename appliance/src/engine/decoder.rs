//! The language model on a cache of slots: a prompt is read into one slot in pieces, a step adds one token to each of the first slots, or a token and a
//! draft of those behind it to the first one.

use mmlnb_models::bundle;
use mmlnb_models::prepare::rotary::RotaryTable;
use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, Tensor, TensorElementType};

use super::cache::{self, Cache};

/// The decoder's session with its cache, its angles and its bindings.
pub(super) struct Decoder {
    // Bindings point into the cache and the logits: they are declared, and so dropped, first.
    prompts: Vec<IoBinding>,
    /// For each number of rows.
    steps: Vec<IoBinding>,
    /// For a token and a draft of one more, of two more and so on.
    drafts: Vec<IoBinding>,
    /// `[rows, vocabulary]` of the largest call; smaller ones write into its first rows.
    logits: DynTensor,
    sessions: Sessions,
    cache: Cache,
    angles: Angles,
    room: Room,
}

/// The graphs of one language model, on one cache.
pub(super) struct Sessions {
    /// One token after the other.
    pub steps: Session,
    /// Whole prompts; absent: `steps` reads them too.
    pub prompts: Option<Session>,
}

impl Sessions {
    fn prompts(&mut self) -> &mut Session {
        self.prompts.as_mut().unwrap_or(&mut self.steps)
    }
}

/// Rotary angles of all slots: row `slot * tokens + index` belongs to the token `index` of a slot.
struct Angles {
    cos: Tensor<f32>,
    sin: Tensor<f32>,
    width: usize,
    /// The graph rotates outside of its attention, so it needs no other rows than those of a call: on a GPU all others would be copied for nothing.
    by_call: bool,
}

/// Sizes of a decoder in service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Requests that are decoded together.
    pub slots: usize,
    /// Tokens of a slot, prompt and description.
    pub tokens: usize,
    /// Width of the logits.
    pub vocabulary: usize,
    /// Most tokens of a draft; none: nothing is drafted.
    pub draft: usize,
}

impl Room {
    /// Most rows of logits of one call.
    pub fn rows(&self) -> usize {
        self.slots.max(1 + self.draft)
    }
}

impl Decoder {
    /// Allocates cache and angles and binds them once for every slot and every number of rows.
    pub fn new(mut sessions: Sessions, shape: &bundle::Decoder, room: Room, cuda: bool) -> ort::Result<Decoder> {
        let mut cache = Cache::new(&sessions.steps, shape, room.slots, room.tokens, cuda)?;
        let angles = Angles::new(room.slots * room.tokens, shape.head_size as usize / 2, shape.cache_dtype != "f32")?;
        let size = [room.rows() as i64, room.vocabulary as i64];
        let mut logits = DynTensor::new(&Allocator::default(), TensorElementType::Float32, size)?;
        let mut bound = |session: &Session, first: usize, rows: usize, wanted: usize| -> ort::Result<IoBinding> {
            let binding = session.create_binding()?;
            // SAFETY: `Decoder` owns bindings, cache and logits together, drops the bindings first and runs none after that.
            unsafe {
                cache.bind(&binding, first, rows)?;
                cache::bind_rows(&binding, c"logits", &mut logits, wanted)?;
            }
            Ok(binding)
        };
        let prompts = (0..room.slots).map(|slot| bound(sessions.prompts(), slot, 1, 1)).collect::<ort::Result<_>>()?;
        let steps = (1..=room.slots).map(|rows| bound(&sessions.steps, 0, rows, rows)).collect::<ort::Result<_>>()?;
        let drafts = (1..=room.draft).map(|draft| bound(&sessions.steps, 0, 1, 1 + draft)).collect::<ort::Result<_>>()?;
        Ok(Decoder { prompts, steps, drafts, logits, sessions, cache, angles, room })
    }

    /// Takes down the angles of a request's tokens, those of its prompt and those that may follow, the first one at the slot's token `from`.
    pub fn place(&mut self, slot: usize, from: usize, angles: &RotaryTable) {
        self.angles.write(slot * self.room.tokens + from, angles);
    }

    /// Reads further tokens of a prompt, their rows `embeds` `[tokens, hidden]`, into a slot that holds `from` tokens; their angles are placed. Gives
    /// the logits after the last one.
    pub fn read(&mut self, slot: usize, from: usize, embeds: &[f32], hidden: usize) -> ort::Result<&[f32]> {
        let tokens = embeds.len() / hidden;
        let embeds = Tensor::from_array(([1, tokens, hidden], embeds.to_vec()))?;
        let first = slot * self.room.tokens + from;
        let call =
            Call { places: (first..first + tokens).collect(), rows: vec![tokens as i64 - 1], lengths: vec![from + tokens] };
        call.run(self.sessions.prompts(), &mut self.prompts[slot], &embeds.upcast(), &self.angles)?;
        self.first_logits(1)
    }

    /// Adds one token, its row of `embeds` `[rows, hidden]`, to each of the first slots, whose `lengths` count the tokens before it. Gives the logits
    /// `[rows, vocabulary]`.
    pub fn step(&mut self, embeds: Vec<f32>, lengths: &[usize]) -> ort::Result<&[f32]> {
        let rows = lengths.len();
        let embeds = Tensor::from_array(([rows, 1, embeds.len() / rows], embeds))?;
        let places = lengths.iter().enumerate().map(|(slot, length)| slot * self.room.tokens + length).collect();
        let call = Call { places, rows: (0..rows as i64).collect(), lengths: lengths.iter().map(|length| length + 1).collect() };
        call.run(&mut self.sessions.steps, &mut self.steps[rows - 1], &embeds.upcast(), &self.angles)?;
        self.first_logits(rows)
    }

    /// Adds a token and a draft of those behind it, their rows `embeds` `[1 + draft, hidden]`, to the first slot, which holds `length` tokens. Gives the
    /// logits after each `[1 + draft, vocabulary]`. What is not kept lies behind the slot's tokens until others take its place: drafts are for our own
    /// attention, which reads nothing there.
    pub fn read_draft(&mut self, length: usize, embeds: Vec<f32>, draft: usize) -> ort::Result<&[f32]> {
        let tokens = 1 + draft;
        let embeds = Tensor::from_array(([1, tokens, embeds.len() / tokens], embeds))?;
        let rows = (0..tokens as i64).collect();
        let call = Call { places: (length..length + tokens).collect(), rows, lengths: vec![length + tokens] };
        call.run(&mut self.sessions.steps, &mut self.drafts[draft - 1], &embeds.upcast(), &self.angles)?;
        self.first_logits(tokens)
    }

    fn first_logits(&self, rows: usize) -> ort::Result<&[f32]> {
        Ok(&self.logits.try_extract_tensor::<f32>()?.1[..rows * self.room.vocabulary])
    }

    /// Moves a request of `length` tokens into another slot.
    pub fn relocate(&mut self, from: usize, to: usize, length: usize) -> ort::Result<()> {
        let tokens = self.room.tokens;
        self.angles.copy(from * tokens, to * tokens, tokens);
        self.cache.copy(from, to, length)
    }

    /// Forgets a slot's tokens from `from` on. What stands there behind another request's own tokens may be read and is then multiplied by zero: it
    /// must be numbers.
    pub fn clear(&mut self, slot: usize, from: usize) -> ort::Result<()> {
        self.cache.clear(slot, from)
    }
}

/// The small inputs of one call.
struct Call {
    /// Row of the angles for each token.
    places: Vec<usize>,
    /// Tokens whose logits are wanted.
    rows: Vec<i64>,
    /// Tokens of each slot after the call.
    lengths: Vec<usize>,
}

impl Call {
    fn run(self, session: &mut Session, binding: &mut IoBinding, embeds: &DynTensor, angles: &Angles) -> ort::Result<()> {
        let batch = self.lengths.len();
        let longest = self.lengths.iter().copied().max().unwrap_or(0) as i32;
        let last = self.lengths.iter().map(|length| *length as i32 - 1).collect::<Vec<_>>();
        binding.bind_input("inputs_embeds", embeds)?;
        let tokens = self.places.len();
        let positions = if angles.by_call {
            let [cos, sin] = angles.rows(&self.places)?;
            binding.bind_input("cos", &cos)?;
            binding.bind_input("sin", &sin)?;
            (0..tokens as i64).collect()
        } else {
            binding.bind_input("cos", &angles.cos)?;
            binding.bind_input("sin", &angles.sin)?;
            self.places.iter().map(|place| *place as i64).collect::<Vec<_>>()
        };
        binding.bind_input("position_ids", &Tensor::from_array(([batch, tokens / batch], positions))?)?;
        binding.bind_input("logits_rows", &Tensor::from_array(([self.rows.len()], self.rows))?)?;
        binding.bind_input("seqlens_k", &Tensor::from_array(([batch], last))?)?;
        binding.bind_input("total_sequence_length", &Tensor::from_array(((), vec![longest]))?)?;
        session.run_binding(binding).map(|_| ())
    }
}

impl Angles {
    fn new(rows: usize, width: usize, by_call: bool) -> ort::Result<Angles> {
        let table = || Tensor::<f32>::new(&Allocator::default(), [rows as i64, width as i64]);
        Ok(Angles { cos: table()?, sin: table()?, width, by_call })
    }

    fn write(&mut self, row: usize, table: &RotaryTable) {
        let start = row * self.width;
        for (target, values) in [(&mut self.cos, &table.cos), (&mut self.sin, &table.sin)] {
            target.extract_tensor_mut().1[start..start + values.len()].copy_from_slice(values);
        }
    }

    /// These rows alone.
    fn rows(&self, places: &[usize]) -> ort::Result<[Tensor<f32>; 2]> {
        let of = |table: &Tensor<f32>| {
            let (_, values) = table.extract_tensor();
            let rows = places.iter().flat_map(|place| &values[place * self.width..(place + 1) * self.width]);
            Tensor::from_array(([places.len(), self.width], rows.copied().collect::<Vec<f32>>()))
        };
        Ok([of(&self.cos)?, of(&self.sin)?])
    }

    fn copy(&mut self, from: usize, to: usize, rows: usize) {
        for table in [&mut self.cos, &mut self.sin] {
            table.extract_tensor_mut().1.copy_within(from * self.width..(from + rows) * self.width, to * self.width);
        }
    }
}

#[cfg(test)]
mod tests {
    use mmlnb_exporter::{Recipe, export_bundle};
    use mmlnb_models::bundle::{Bundle, DESCRIBER, Precision};
    use mmlnb_models::config::{QwenConfig, TextConfig};
    use mmlnb_models::prepare::rotary::rotary_table;

    use super::super::{EngineOptions, runtime::Runtime};
    use super::*;

    const ROOM: usize = 48;
    const SLOTS: usize = 2;

    /// What is copied to a card in a step must not grow with the slots' room, and must say the same as the whole table.
    #[test]
    fn the_angles_of_a_call_say_what_the_whole_table_says() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = bundle(folder.path(), Precision::F16);
        let logits = |by_call: bool| -> Vec<f32> {
            let mut decoder = decoder(&bundle, true);
            assert!(decoder.angles.by_call, "in f16 the graph rotates outside of its attention");
            decoder.angles.by_call = by_call;
            logits(&mut decoder, &bundle)
        };
        let [own, whole] = [true, false].map(logits);
        assert!(own.iter().all(|logit| logit.is_finite()) && own == whole, "to the bit");
        let decoder = decoder(&bundle, true);
        let rows = decoder.angles.rows(&[3, ROOM + 4]).unwrap();
        let numbers: usize = rows.iter().map(|side| side.extract_tensor().1.len()).sum();
        assert_eq!(numbers, 2 * SLOTS * text(&bundle).head_size as usize / 2, "one row a token and side");
    }

    /// Our own kernels compute what ONNX Runtime's do, whose sums have another order.
    #[test]
    fn own_kernels_give_what_onnx_runtimes_give() {
        for precision in [Precision::F32, Precision::Int8, Precision::Int4, Precision::Int4Int8] {
            let folder = tempfile::tempdir().unwrap();
            let bundle = bundle(folder.path(), precision);
            let [own, others] = [true, false].map(|own| logits(&mut decoder(&bundle, own), &bundle));
            let size = others.iter().fold(0.0f32, |size, logit| size.max(logit.abs()));
            let off = own.iter().zip(&others).fold(0.0f32, |off, (own, other)| off.max((own - other).abs()));
            assert!(off <= 1e-5 * size, "{precision:?}: {off} of {size}");
            assert!(own != others, "{precision:?}: our kernels did not run");
        }
    }

    /// Whatever a draft foresaw rightly or wrongly, the logits are those of one token after the other, to the bit.
    #[test]
    fn drafts_give_the_logits_of_steps() {
        for precision in [Precision::Int8, Precision::Int4, Precision::Int4Int8] {
            let folder = tempfile::tempdir().unwrap();
            let bundle = bundle(folder.path(), precision);
            let hidden = text(&bundle).hidden as usize;
            let rows = |tokens: &[usize]| tokens.iter().flat_map(|token| row(hidden, *token)).collect::<Vec<f32>>();
            let begun = || {
                let mut decoder = decoder(&bundle, true);
                logits(&mut decoder, &bundle);
                decoder
            };
            let mut steps = begun();
            let mut expected = Vec::new();
            for (length, token) in [1, 2, 3, 4, 5].into_iter().enumerate() {
                expected.push(steps.step(rows(&[token]), &[10 + length]).unwrap().to_vec());
            }
            let mut drafts = begun();
            let mut found: Vec<Vec<f32>> = Vec::new();
            // The second token was foreseen wrongly, the next two rightly, and of the last draft nothing is asked.
            for (length, read, kept) in [(10, &[1, 9, 8, 7][..], 1), (11, &[2, 3, 4], 3), (14, &[5, 9], 1)] {
                let logits = drafts.read_draft(length, rows(read), read.len() - 1).unwrap();
                found.extend(logits.chunks_exact(logits.len() / read.len()).take(kept).map(<[f32]>::to_vec));
            }
            assert!(found == expected, "{precision:?}");
        }
    }

    fn bundle(folder: &std::path::Path, precision: Precision) -> Bundle {
        let output = folder.join("bundle");
        let recipe = Recipe {
            output: output.clone(),
            vlm: Some(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/qwen2_5_vl")),
            adapter: None,
            allow_partial: false,
            classifier: None,
            settings: None,
            precision,
            portable: false,
            calibration: None,
            image_size: None,
        };
        export_bundle(&recipe, &|_| ()).unwrap();
        Bundle::open(&output).unwrap()
    }

    fn text(bundle: &Bundle) -> TextConfig {
        QwenConfig::from_dir(&bundle.path(DESCRIBER)).unwrap().text
    }

    /// With our own kernels or with ONNX Runtime's.
    fn decoder(bundle: &Bundle, own: bool) -> Decoder {
        let part = &bundle.manifest.describer.as_ref().unwrap().decoder;
        let runtime = Runtime::open(&EngineOptions::default(), bundle.manifest.precision).unwrap();
        let load = |graph: &bundle::Graph| {
            let file = bundle.path(&graph.file);
            if own { runtime.load_decoder(&file, false) } else { runtime.load(&file) }.unwrap()
        };
        let sessions = Sessions { steps: load(&part.graph), prompts: part.prompts.as_ref().map(load) };
        let vocabulary = text(bundle).vocabulary as usize;
        Decoder::new(sessions, part, Room { slots: SLOTS, tokens: ROOM, vocabulary, draft: 3 }, false).unwrap()
    }

    /// A token's row.
    fn row(hidden: usize, seed: usize) -> impl Iterator<Item = f32> {
        (0..hidden).map(move |place| ((place * 31 + seed * 17) % 23) as f32 / 23.0 - 0.5)
    }

    /// Of two prompts, and of a step of both.
    fn logits(decoder: &mut Decoder, bundle: &Bundle) -> Vec<f32> {
        let text = text(bundle);
        let hidden = text.hidden as usize;
        let places: Vec<i64> = (0..ROOM as i64).collect();
        // A token's row and column differ, so that no slot's angles are those of its places.
        for slot in 0..SLOTS {
            let shifted: Vec<i64> = places.iter().map(|place| place + 3 * slot as i64).collect();
            decoder.place(slot, 0, &rotary_table(&[places.clone(), shifted, places.clone()], &text));
        }
        let mut all = Vec::new();
        let lengths = [9, 5];
        for (slot, length) in lengths.into_iter().enumerate() {
            let prompt: Vec<f32> = (0..length).flat_map(|token| row(hidden, slot * 100 + token)).collect();
            all.extend_from_slice(decoder.read(slot, 0, &prompt, hidden).unwrap());
        }
        all.extend_from_slice(decoder.step((0..SLOTS).flat_map(|slot| row(hidden, 7 + slot)).collect(), &lengths).unwrap());
        all
    }
}
