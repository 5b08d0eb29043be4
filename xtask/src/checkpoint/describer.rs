//! A Qwen2.5-VL checkpoint with random weights, in the hub's layout.

use super::{
    Fill, Tensor, make_folder,
    random::{self, Type},
    tokenizer::{QwenTokenizer, corpus},
    write_json,
};
use anyhow::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What `cargo xtask checkpoint` writes.
#[derive(Debug, clap::Args)]
pub struct DescriberOptions {
    /// The sizes: tiny and demo (1 million parameters), those of a 0.5B text model, or those of the real 3B and 7B
    #[arg(long, value_enum)]
    pub shape: Shape,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Another seed gives other weights
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Let the tokenizer learn the words of this text too
    #[arg(long, value_name = "FILE")]
    pub corpus: Option<PathBuf>,
}

/// A checkpoint's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// For tests.
    Tiny,
    /// Small enough to learn from nothing in minutes on two cores.
    Demo,
    /// 24 layers, hidden 896, the vision tower of the real ones.
    #[value(name = "0.5b")]
    Half,
    /// Qwen2.5-VL-3B.
    #[value(name = "3b")]
    Three,
    /// Qwen2.5-VL-7B.
    #[value(name = "7b")]
    Seven,
}

/// Sizes of both halves. Heads of the text model have `hidden / heads` channels.
#[derive(Debug, Clone, PartialEq)]
struct Sizes {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    intermediate: usize,
    mrope_section: [usize; 3],
    max_positions: usize,
    vocabulary: usize,
    tied: bool,
    deviation: f32,
    vision: VisionSizes,
}

#[derive(Debug, Clone, PartialEq)]
struct VisionSizes {
    hidden: usize,
    depth: usize,
    heads: usize,
    intermediate: usize,
    full_attention: Vec<usize>,
}

/// Ordinary tokens of the real vocabulary, before the added ones.
const REAL_TOKENS: usize = 151_643;

/// Writes the checkpoint: configuration, tokenizer, chat template and weights in bf16.
pub fn write_describer(options: &DescriberOptions) -> Result<()> {
    let folder = &options.output;
    make_folder(folder)?;
    let invented = !matches!(options.shape, Shape::Tiny | Shape::Demo);
    let tokenizer = QwenTokenizer::learn(&corpus(options.corpus.as_deref())?, invented.then_some(REAL_TOKENS));
    let sizes = sizes(options.shape, tokenizer.len());
    tokenizer.write(folder)?;
    write_configuration(folder, &sizes, &tokenizer)?;
    random::write(folder, &tensors(&sizes), Type::Bf16, options.seed)?;
    eprintln!("{} holds a Qwen2.5-VL checkpoint of random weights", folder.display());
    Ok(())
}

fn sizes(shape: Shape, tokens: usize) -> Sizes {
    let real_vision = VisionSizes { hidden: 1280, depth: 32, heads: 16, intermediate: 3420, full_attention: vec![7, 15, 23, 31] };
    let real = Sizes {
        hidden: 2048,
        layers: 36,
        heads: 16,
        kv_heads: 2,
        intermediate: 11_008,
        mrope_section: [16, 24, 24],
        max_positions: 128_000,
        vocabulary: 151_936,
        tied: true,
        deviation: 0.02,
        vision: real_vision,
    };
    match shape {
        Shape::Three => real,
        Shape::Half => {
            Sizes { hidden: 896, layers: 24, heads: 14, kv_heads: 2, intermediate: 4864, mrope_section: [8, 12, 12], ..real }
        }
        Shape::Seven => Sizes {
            hidden: 3584,
            layers: 28,
            heads: 28,
            kv_heads: 4,
            intermediate: 18_944,
            vocabulary: 152_064,
            tied: false,
            ..real
        },
        Shape::Tiny => Sizes {
            hidden: 128,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            intermediate: 320,
            mrope_section: [4, 6, 6],
            max_positions: 8192,
            vocabulary: tokens.next_multiple_of(64),
            tied: false,
            // Wide enough for the layers to matter beside the residual stream: the words then differ from image to image.
            deviation: 0.12,
            vision: VisionSizes { hidden: 64, depth: 4, heads: 4, intermediate: 112, full_attention: vec![1, 3] },
        },
        Shape::Demo => Sizes {
            layers: 3,
            deviation: 0.05,
            vision: VisionSizes { hidden: 96, depth: 3, heads: 4, intermediate: 192, full_attention: vec![0, 1, 2] },
            ..self::sizes(Shape::Tiny, tokens)
        },
    }
}

fn write_configuration(folder: &Path, sizes: &Sizes, tokenizer: &QwenTokenizer) -> Result<()> {
    write_json(folder, "config.json", &config(sizes, tokenizer))?;
    let (end, text_end) = (tokenizer.id("<|im_end|>"), tokenizer.id("<|endoftext|>"));
    let generation = json!({
        "bos_token_id": text_end, "pad_token_id": text_end, "do_sample": true, "eos_token_id": [end, text_end],
        "repetition_penalty": 1.05, "temperature": 0.000_001, "transformers_version": "4.49.0",
    });
    write_json(folder, "generation_config.json", &generation)?;
    let preprocessor = json!({
        "min_pixels": 3136, "max_pixels": 12_845_056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.481_454_66, 0.457_827_5, 0.408_210_73], "image_std": [0.268_629_54, 0.261_302_58, 0.275_777_11],
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
    });
    write_json(folder, "preprocessor_config.json", &preprocessor)
}

fn config(sizes: &Sizes, tokenizer: &QwenTokenizer) -> Value {
    let vision = &sizes.vision;
    let vision_config = json!({
        "depth": vision.depth, "hidden_act": "silu", "hidden_size": vision.hidden, "intermediate_size": vision.intermediate,
        "num_heads": vision.heads, "in_chans": 3, "out_hidden_size": sizes.hidden, "patch_size": 14, "spatial_merge_size": 2,
        "spatial_patch_size": 14, "window_size": 112, "fullatt_block_indexes": vision.full_attention, "tokens_per_second": 2,
        "temporal_patch_size": 2,
    });
    json!({
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0,
        "bos_token_id": tokenizer.id("<|endoftext|>"), "eos_token_id": tokenizer.id("<|im_end|>"),
        "vision_start_token_id": tokenizer.id("<|vision_start|>"), "vision_end_token_id": tokenizer.id("<|vision_end|>"),
        "vision_token_id": tokenizer.id("<|vision_pad|>"), "image_token_id": tokenizer.id("<|image_pad|>"),
        "video_token_id": tokenizer.id("<|video_pad|>"),
        "hidden_act": "silu", "hidden_size": sizes.hidden, "initializer_range": 0.02, "intermediate_size": sizes.intermediate,
        "max_position_embeddings": sizes.max_positions, "max_window_layers": sizes.layers, "model_type": "qwen2_5_vl",
        "num_attention_heads": sizes.heads, "num_hidden_layers": sizes.layers, "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "sliding_window": 32_768, "tie_word_embeddings": sizes.tied,
        "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "use_cache": true, "use_sliding_window": false,
        "vision_config": vision_config,
        "rope_scaling": {"type": "mrope", "mrope_section": sizes.mrope_section},
        "vocab_size": sizes.vocabulary,
    })
}

/// All tensors under the hub's keys.
fn tensors(sizes: &Sizes) -> Vec<Tensor> {
    let mut list = List { tensors: Vec::new(), deviation: sizes.deviation };
    vision_tensors(&sizes.vision, sizes.hidden, &mut list);
    let head_size = sizes.hidden / sizes.heads;
    let kv = sizes.kv_heads * head_size;
    list.weight("model.embed_tokens.weight", [sizes.vocabulary, sizes.hidden]);
    for layer in 0..sizes.layers {
        let at = format!("model.layers.{layer}");
        list.norm(format!("{at}.input_layernorm.weight"), sizes.hidden);
        list.linear(format!("{at}.self_attn.q_proj"), sizes.hidden, sizes.hidden);
        list.linear(format!("{at}.self_attn.k_proj"), kv, sizes.hidden);
        list.linear(format!("{at}.self_attn.v_proj"), kv, sizes.hidden);
        list.weight(format!("{at}.self_attn.o_proj.weight"), [sizes.hidden, sizes.hidden]);
        list.norm(format!("{at}.post_attention_layernorm.weight"), sizes.hidden);
        list.weight(format!("{at}.mlp.gate_proj.weight"), [sizes.intermediate, sizes.hidden]);
        list.weight(format!("{at}.mlp.up_proj.weight"), [sizes.intermediate, sizes.hidden]);
        list.weight(format!("{at}.mlp.down_proj.weight"), [sizes.hidden, sizes.intermediate]);
    }
    list.norm("model.norm.weight", sizes.hidden);
    if !sizes.tied {
        list.weight("lm_head.weight", [sizes.vocabulary, sizes.hidden]);
    }
    list.tensors
}

fn vision_tensors(vision: &VisionSizes, output: usize, list: &mut List) {
    let (hidden, inner) = (vision.hidden, vision.intermediate);
    list.weight("visual.patch_embed.proj.weight", [hidden, 3, 2, 14, 14]);
    for block in 0..vision.depth {
        let at = format!("visual.blocks.{block}");
        list.norm(format!("{at}.norm1.weight"), hidden);
        list.linear(format!("{at}.attn.qkv"), 3 * hidden, hidden);
        list.linear(format!("{at}.attn.proj"), hidden, hidden);
        list.norm(format!("{at}.norm2.weight"), hidden);
        list.linear(format!("{at}.mlp.gate_proj"), inner, hidden);
        list.linear(format!("{at}.mlp.up_proj"), inner, hidden);
        list.linear(format!("{at}.mlp.down_proj"), hidden, inner);
    }
    list.norm("visual.merger.ln_q.weight", hidden);
    list.linear("visual.merger.mlp.0", 4 * hidden, 4 * hidden);
    list.linear("visual.merger.mlp.2", output, 4 * hidden);
}

struct List {
    tensors: Vec<Tensor>,
    deviation: f32,
}

impl List {
    fn weight(&mut self, key: impl Into<String>, shape: impl Into<Vec<usize>>) {
        self.tensors.push(Tensor::new(key, shape, Fill::Normal(self.deviation)));
    }

    fn linear(&mut self, key: impl Into<String>, output: usize, input: usize) {
        let key = key.into();
        self.weight(format!("{key}.weight"), [output, input]);
        self.weight(format!("{key}.bias"), [output]);
    }

    fn norm(&mut self, key: impl Into<String>, width: usize) {
        self.tensors.push(Tensor::new(key, [width], Fill::Constant(1.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(shape: Shape) -> u64 {
        tensors(&sizes(shape, 2000)).iter().map(Tensor::elements).sum()
    }

    #[test]
    fn real_shapes_have_the_published_numbers_of_parameters() {
        assert_eq!(parameters(Shape::Three), 3_754_622_976);
        assert_eq!(parameters(Shape::Seven), 8_292_166_656);
    }

    #[test]
    fn rope_sections_fill_half_a_head() {
        for shape in [Shape::Tiny, Shape::Demo, Shape::Half, Shape::Three, Shape::Seven] {
            let sizes = sizes(shape, 2000);
            assert_eq!(sizes.mrope_section.iter().sum::<usize>() * 2 * sizes.heads, sizes.hidden, "{shape:?}");
        }
    }

    #[test]
    fn a_tiny_checkpoint_is_whole_and_repeatable() {
        let [one, two] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        for folder in [&one, &two] {
            write_describer(&DescriberOptions { shape: Shape::Tiny, output: folder.path().into(), seed: 3, corpus: None })
                .unwrap();
        }
        let read = |folder: &tempfile::TempDir, name: &str| std::fs::read(folder.path().join(name)).unwrap();
        for name in [
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "tokenizer.json",
            "chat_template.json",
            "model.safetensors",
        ] {
            assert_eq!(read(&one, name), read(&two, name), "{name}");
        }
        let config: Value = serde_json::from_slice(&read(&one, "config.json")).unwrap();
        let tokenizer: Value = serde_json::from_slice(&read(&one, "tokenizer.json")).unwrap();
        let pad = tokenizer["added_tokens"].as_array().unwrap().iter().find(|token| token["content"] == "<|image_pad|>").unwrap();
        assert_eq!(pad["id"], config["image_token_id"]);
        assert!(config["vocab_size"].as_u64() >= pad["id"].as_u64());
    }
}
