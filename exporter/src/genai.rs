//! Writing a folder for onnxruntime-genai (0.18): a describer's graphs with the ends that it binds to, its settings and the tokenizer.
//!
//! ```text
//! genai_config.json  processor_config.json  prompt.txt  tokenizer.json  tokenizer_config.json  chat_template.json (or .jinja)
//! vision.onnx  embedding.onnx  decoder.onnx, each with .data where weights are large
//! ```

use crate::{
    bundle::{DescriberInput, Part, Recipe, copy, occupied, open_describer},
    error::ExportError,
    export::{Step, export_decided, weight_bytes},
    few_bits::FewBits,
    lower::{Genai, cache_head_size, lower_genai},
    source::{Network, Source},
    write::written_here,
};
use mmlnb_models::{
    bundle::Precision,
    json,
    prepare::{
        chat::{self, check_template},
        positions::image_tokens,
        qwen_image::QwenImageProcessor,
        qwen_tokenizer::QwenTokenizer,
    },
};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Settings of the folder; its name is fixed.
const SETTINGS: &str = "genai_config.json";
/// How it prepares images; named in [`SETTINGS`].
const PROCESSOR: &str = "processor_config.json";
/// The question of the product, rendered: what is to be given with the image.
const PROMPT: &str = "prompt.txt";
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "chat_template.json", "chat_template.jinja"];
const TOKENIZER_SETTINGS: &str = "tokenizer_config.json";
/// The tokenizer's name by which onnxruntime-genai knows what to do.
const TOKENIZER_CLASS: &str = "Qwen2Tokenizer";
/// Stands for no token where the checkpoint names none.
const PAD: &str = "<|endoftext|>";

/// Writes the folder; an older one in its place is replaced when the new one is whole. Of `recipe` a describer and its image size are needed.
///
/// # Errors
/// All that is wrong with the inputs, before anything is written; then whatever stops the writing.
pub fn export_genai(recipe: &Recipe, progress: &dyn Fn(Step<'_>)) -> Result<(), ExportError> {
    let (Some(dir), Some(size)) = (&recipe.vlm, recipe.image_size) else {
        return Err(ExportError::Asked("give --vlm and --image-size: onnxruntime-genai gets graphs for one size".into()));
    };
    let input = opened(dir, recipe)?;
    let vision = &input.config.vision;
    let grid = [1, size[1] / vision.patch, size[0] / vision.patch];
    let files = files(dir, &input, size, grid)?;
    input.source.told_partial().iter().for_each(|warning| progress(Step::Warning(warning)));
    let part = Part::create(&recipe.output)?;
    let graphs = [
        (Network::Vision, Genai::Vision { config: vision, grid }),
        (Network::Embedding, Genai::Embedding { image_token: input.config.image_token }),
        (Network::Decoder, Genai::Decoder(&input.config.text)),
    ];
    for (network, form) in graphs {
        write_graph(&input.source, network, form, recipe.precision, &part.path, progress)?;
    }
    for (name, text) in files {
        let file = part.path.join(name);
        fs::write(&file, text).map_err(ExportError::io("write", &file))?;
    }
    copy(dir, &part.path, &TOKENIZER_FILES)?;
    part.finish(&recipe.output)
}

/// What stands beside the graphs, by name.
fn files(dir: &Path, input: &DescriberInput, size: [i64; 2], grid: [i64; 3]) -> Result<[(&'static str, String); 4], ExportError> {
    let vision = &input.config.vision;
    let unfit = |problem: String| ExportError::Checkpoint { path: dir.to_path_buf(), problem };
    let prompt = chat::render(input.settings.system.as_deref(), 1, &input.settings.prompt);
    let tokenizer = QwenTokenizer::from_dir(dir).map_err(|error| unfit(error.to_string()))?;
    let ids = tokenizer.encode(&prompt).map_err(|error| unfit(error.to_string()))?;
    let published = published(dir)?;
    let pad = published.id("pad_token_id").or_else(|| tokenizer.id(PAD)).ok_or_else(|| {
        unfit(format!("neither generation_config.json nor config.json names a pad_token_id, and the tokenizer has no {PAD}"))
    })?;
    if ids.contains(&pad) {
        return Err(unfit(format!("the prompt holds the pad token {pad}, which onnxruntime-genai would not read")));
    }
    // The prompt has one image token, which becomes as many as the image has.
    let tokens = ids.len() as i64 - 1 + image_tokens(grid, vision.merge);
    let processor = QwenImageProcessor::from_dir(dir, vision)?;
    let pretty = |value: Value| format!("{value:#}\n");
    Ok([
        (SETTINGS, pretty(settings(input, &published, pad, tokens))),
        (PROCESSOR, pretty(transforms(&processor, size))),
        (TOKENIZER_SETTINGS, pretty(tokenizer_settings(dir)?)),
        (PROMPT, prompt),
    ])
}

/// Opens the checkpoint, and says everything that is wrong at once.
fn opened(dir: &Path, recipe: &Recipe) -> Result<DescriberInput, ExportError> {
    let target = occupied(&recipe.output, is_folder_for_genai, "folder of `mmlnb-export genai`");
    let template = check_template(dir).map_err(|error| ExportError::Asked(error.to_string()));
    let mut problems: Vec<ExportError> = target.err().into_iter().chain(template.err()).collect();
    match open_describer(dir, recipe) {
        Ok(input) => ExportError::all(problems).map(|()| input),
        Err(unfit) if problems.is_empty() => Err(unfit),
        Err(unfit) => {
            problems.push(unfit);
            Err(ExportError::Several(problems))
        }
    }
}

/// Whether a folder is such a one of this program.
fn is_folder_for_genai(folder: &Path) -> Result<bool, ExportError> {
    Ok(folder.join(SETTINGS).is_file() && written_here(&folder.join("decoder.onnx"))?)
}

fn write_graph(
    source: &Source,
    network: Network,
    form: Genai<'_>,
    precision: Precision,
    dir: &Path,
    progress: &dyn Fn(Step<'_>),
) -> Result<(), ExportError> {
    let name = network.name();
    let (graph, weights) = (source.graph(network)?, source.weights()?);
    let few = FewBits::decide_telling(&graph, &weights, precision, None, (name, progress))?;
    let lowered = lower_genai(&graph, name, precision, &few, form)?;
    progress(Step::Begin { name, bytes: weight_bytes(&lowered) });
    let metadata = [("interface", "onnxruntime-genai".to_string())];
    let written = export_decided(&lowered, (&weights, &few), precision, dir, &metadata, &|bytes| progress(Step::Wrote(bytes)));
    progress(Step::End);
    written.map(drop)
}

/// Numbers of the checkpoint that the networks do not need.
struct Published {
    config: Value,
    generation: Value,
}

fn published(dir: &Path) -> Result<Published, ExportError> {
    let generation = dir.join("generation_config.json");
    let generation = if generation.is_file() { json::read(&generation)? } else { Value::Null };
    Ok(Published { config: json::read(&dir.join("config.json"))?, generation })
}

impl Published {
    /// A token's id, where one is named.
    fn id(&self, key: &str) -> Option<i64> {
        [&self.generation, &self.config, &self.config["text_config"]].iter().find_map(|part| part[key].as_i64())
    }

    /// Most tokens that the language model was made for.
    fn context(&self) -> Option<i64> {
        [&self.config["text_config"], &self.config].iter().find_map(|part| part["max_position_embeddings"].as_i64())
    }
}

/// `genai_config.json`; `tokens`: of the product's prompt with its image.
fn settings(input: &DescriberInput, published: &Published, pad: i64, tokens: i64) -> Value {
    let (text, vision, generation) = (&input.config.text, &input.config.vision, &input.settings.generation);
    let longest = tokens + generation.max_new_tokens as i64;
    let per_second = published.config["vision_config"]["tokens_per_second"].as_f64().unwrap_or(2.0);
    json!({
        "model": {
            "type": "qwen2_5_vl",
            "vocab_size": text.vocabulary,
            "context_length": published.context().unwrap_or(longest).max(longest),
            "bos_token_id": published.id("bos_token_id").unwrap_or(pad),
            "eos_token_id": generation.end_tokens,
            "pad_token_id": pad,
            "image_token_id": input.config.image_token,
            "video_token_id": input.config.video_token,
            "vision_start_token_id": input.config.vision_start,
            "decoder": {
                "session_options": session(),
                "filename": "decoder.onnx",
                "hidden_size": text.hidden,
                "num_attention_heads": text.heads,
                "num_hidden_layers": text.layers,
                "num_key_value_heads": text.kv_heads,
                "head_size": cache_head_size(text.head_size),
                "inputs": {
                    "inputs_embeds": "inputs_embeds",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
            "embedding": {
                "session_options": session(),
                "filename": "embedding.onnx",
                "inputs": { "input_ids": "input_ids", "image_features": "image_features" },
                "outputs": { "inputs_embeds": "inputs_embeds" },
            },
            "vision": {
                "session_options": session(),
                "filename": "vision.onnx",
                "config_filename": PROCESSOR,
                "spatial_merge_size": vision.merge,
                "tokens_per_second": per_second,
                "patch_size": vision.patch,
                "window_size": vision.window,
                "inputs": { "pixel_values": "pixel_values", "image_grid_thw": "image_grid_thw" },
                "outputs": { "image_features": "image_features" },
            },
        },
        "search": {
            "do_sample": false,
            "max_length": longest,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": false,
            "repetition_penalty": generation.repetition_penalty,
        },
    })
}

fn session() -> Value {
    json!({ "log_id": "onnxruntime-genai", "provider_options": [] })
}

/// `processor_config.json`: every image at one size, aspect ignored, as the appliance brings it there (Pillow's bicubic).
fn transforms(processor: &QwenImageProcessor, [width, height]: [i64; 2]) -> Value {
    let step = |name: &str, kind: &str, attrs: Value| json!({ "operation": { "name": name, "type": kind, "attrs": attrs } });
    let resize = json!({ "width": width, "height": height, "keep_aspect_ratio": 0, "smart_resize": 0, "interpolation": "CUBIC" });
    let normalize = json!({ "mean": processor.mean, "std": processor.std, "qwen2_5_vl": 1 });
    let cut = json!({
        "patch_size": processor.patch,
        "temporal_patch_size": processor.temporal,
        "merge_size": processor.merge,
    });
    json!({
        "processor": {
            "name": "qwen2_5_image_processor",
            "transforms": [
                step("decode_image", "DecodeImage", json!({ "color_space": "RGB" })),
                step("convert_to_rgb", "ConvertRGB", json!({})),
                step("resize", "Resize", resize),
                step("rescale", "Rescale", json!({ "rescale_factor": 1.0 / 255.0 })),
                step("normalize", "Normalize", normalize),
                step("patch_image", "PatchImage", cut),
            ],
        },
    })
}

/// The checkpoint's `tokenizer_config.json`, with the class that onnxruntime-genai looks for.
fn tokenizer_settings(dir: &Path) -> Result<Value, ExportError> {
    let file = dir.join(TOKENIZER_SETTINGS);
    let mut settings = if file.is_file() { json::read(&file)? } else { json!({}) };
    match settings.as_object_mut() {
        Some(settings) => drop(settings.insert("tokenizer_class".into(), TOKENIZER_CLASS.into())),
        None => return Err(ExportError::Checkpoint { path: file, problem: "is no JSON object".into() }),
    }
    Ok(settings)
}
