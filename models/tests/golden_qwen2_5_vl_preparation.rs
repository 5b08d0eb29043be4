//! Everything between image, text and the describer's tensors, against the reference data of both small checkpoints.

mod golden_files;

use std::path::Path;

use golden_files::{Tensors, distance, family, integer, integers, json, list, picture, text};
use mmlnb_models::config::QwenConfig;
use mmlnb_models::prepare::positions::{expand_images, text_positions, vision_positions};
use mmlnb_models::prepare::qwen_image::{QwenImageProcessor, smart_resize};
use mmlnb_models::prepare::qwen_tokenizer::QwenTokenizer;
use mmlnb_models::prepare::resize::resize;
use mmlnb_models::prepare::rotary::rotary_table;
use mmlnb_models::prepare::sampling::{Sampler, probabilities};
use mmlnb_models::prepare::settings::{GenerationSettings, PROMPT, Settings};
use mmlnb_models::prepare::{chat, decode};
use serde_json::Value;

/// Makes one test a family of each check.
macro_rules! both {
    ($($check:ident: $first:ident $second:ident;)*) => {$(
        #[test]
        fn $first() {
            if let Some(folder) = family("qwen2_5_vl") { $check(&folder); }
        }
        #[test]
        fn $second() {
            if let Some(folder) = family("qwen2_5_vl_b") { $check(&folder); }
        }
    )*};
}

both! {
    images: golden_qwen2_5_vl_images golden_qwen2_5_vl_b_images;
    prompts: golden_qwen2_5_vl_prompts golden_qwen2_5_vl_b_prompts;
    rotary: golden_qwen2_5_vl_rotary_tables golden_qwen2_5_vl_b_rotary_tables;
    tokenizer: golden_qwen2_5_vl_tokenizer golden_qwen2_5_vl_b_tokenizer;
    greedy: golden_qwen2_5_vl_greedy_choices golden_qwen2_5_vl_b_greedy_choices;
    sampling: golden_qwen2_5_vl_sampling golden_qwen2_5_vl_b_sampling;
    sizes: golden_qwen2_5_vl_smart_resize golden_qwen2_5_vl_b_smart_resize;
    styles: golden_qwen2_5_vl_config_styles golden_qwen2_5_vl_b_config_styles;
}

fn processor(folder: &Path) -> (QwenConfig, QwenImageProcessor) {
    let config = QwenConfig::from_dir(folder).unwrap();
    let processor = QwenImageProcessor::from_dir(folder, &config.vision).unwrap();
    (config, processor)
}

fn images(folder: &Path) {
    let (config, processor) = processor(folder);
    let cases = json(&folder.join("cases.json"));
    let tolerance = cases["tolerance"]["pixel_values"].as_f64().unwrap() as f32;
    for image in list(&cases, "images") {
        let expected = Tensors::read(folder.join(text(image, "tensors")));
        let source = picture(&folder.join(text(image, "file")));
        let size = processor.resized(source.width as i64, source.height as i64).unwrap();
        assert_eq!(size, (integer(image, "resized_width"), integer(image, "resized_height")));
        let resized = resize(&source, size.0 as usize, size.1 as usize, mmlnb_models::config::Resample::Bicubic);
        assert!(resized.pixels == expected.u8("resized_rgb").1, "{image}: resized pixels differ");

        let patches = processor.patches(&source).unwrap();
        assert_eq!(patches.grid.to_vec(), expected.i64("image_grid_thw").1);
        let values = &patches.pixel_values;
        if expected.has("pixel_values") {
            let (shape, all) = expected.f32("pixel_values");
            assert_eq!(shape[0] as i64, patches.grid.iter().product::<i64>());
            assert!(distance(values, &all) <= tolerance);
        } else {
            let (first, last) = (expected.f32("pixel_values_first").1, expected.f32("pixel_values_last").1);
            assert!(distance(&values[..first.len()], &first) <= tolerance);
            assert!(distance(&values[values.len() - last.len()..], &last) <= tolerance);
        }
        let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
        let wanted = image["pixel_values_sum"].as_f64().unwrap();
        assert!((sum - wanted).abs() <= f64::from(tolerance) * values.len() as f64, "{sum} instead of {wanted}");

        let positions = vision_positions(&[patches.grid], &config.vision);
        assert_eq!(positions.patch_positions.as_flattened(), expected.i64("patch_positions_hw").1);
        assert_eq!(positions.window_index, expected.i64("window_index").1);
        assert_eq!(positions.cu_window_seqlens, expected.i64("cu_window_seqlens").1);
        assert_eq!(positions.cu_seqlens, expected.i64("cu_seqlens").1);
    }
}

fn grids_of(case: &Value, cases: &Value) -> Vec<[i64; 3]> {
    let grid = |image: i64| integers(&cases["images"][image as usize], "grid_thw").try_into().unwrap();
    integers(case, "images").into_iter().map(grid).collect()
}

fn prompts(folder: &Path) {
    let config = QwenConfig::from_dir(folder).unwrap();
    let tokenizer = QwenTokenizer::from_dir(folder).unwrap();
    chat::check_template(folder).unwrap();
    let cases = json(&folder.join("cases.json"));
    for case in list(&cases, "cases") {
        let grids = grids_of(case, &cases);
        let rendered = chat::render(case["system"].as_str(), grids.len(), text(case, "text"));
        assert_eq!(rendered, text(case, "rendered"));
        let expected = Tensors::read(folder.join(text(case, "tensors")));
        let ids = expand_images(&tokenizer.encode(&rendered).unwrap(), &grids, &config).unwrap();
        assert_eq!(ids, expected.i64("input_ids").1, "{case}");
        let positions = text_positions(&ids, &grids, &config).unwrap();
        assert_eq!(positions.ids.concat(), expected.i64("position_ids").1, "{case}");
        assert_eq!(vec![positions.delta], expected.i64("rope_deltas").1, "{case}");
        if !grids.is_empty() {
            let windows = vision_positions(&grids, &config.vision);
            assert_eq!(windows.window_index, expected.i64("window_index").1);
            assert_eq!(windows.cu_window_seqlens, expected.i64("cu_window_seqlens").1);
            assert_eq!(windows.cu_seqlens, expected.i64("cu_seqlens").1);
        }
    }
    let uses_prompt = list(&cases, "cases").iter().any(|case| text(case, "text") == PROMPT);
    assert!(uses_prompt, "no case has the product's prompt");
}

fn rotary(folder: &Path) {
    let config = QwenConfig::from_dir(folder).unwrap();
    let cases = json(&folder.join("cases.json"));
    let mut compared = 0;
    for case in list(&cases, "cases").iter().filter(|case| case["intermediates"].is_string()) {
        let expected = Tensors::read(folder.join(text(case, "intermediates")));
        let ids = Tensors::read(folder.join(text(case, "tensors"))).i64("input_ids").1;
        let positions = text_positions(&ids, &grids_of(case, &cases), &config).unwrap();
        let table = rotary_table(&positions.ids, &config.text);
        let head = config.text.head_size as usize;
        for (name, half) in [("text.rope.cos", &table.cos), ("text.rope.sin", &table.sin)] {
            let whole: Vec<f32> = half.chunks_exact(head / 2).flat_map(|row| [row, row].concat()).collect();
            assert!(distance(&whole, &expected.f32(name).1) <= 1e-6, "{name}");
        }
        compared += 1;
    }
    assert!(compared > 0, "no case names intermediates");
}

fn tokenizer(folder: &Path) {
    let tokenizer = QwenTokenizer::from_dir(folder).unwrap();
    let cases = json(&folder.join("tokenizer_cases.json"));
    for case in cases.as_array().unwrap() {
        let ids = tokenizer.encode(text(case, "text")).unwrap();
        assert_eq!(ids, integers(case, "ids"), "{case}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text(case, "decoded"), "{case}");
        let without = tokenizer.decode(&ids, true).unwrap();
        assert_eq!(without, text(case, "decoded_without_special"), "{case}");
        let mut stream = tokenizer.stream();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        streamed += &stream.finish().unwrap();
        assert_eq!(streamed, without, "{case}");
    }
    for case in list(&json(&folder.join("cases.json")), "cases") {
        for run in list(case, "runs") {
            let ids = integers(run, "token_ids");
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text(run, "text_with_special_tokens"));
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text(run, "text"));
        }
    }
}

fn settings(penalty: f64) -> GenerationSettings {
    GenerationSettings {
        max_new_tokens: 256,
        do_sample: false,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: penalty,
        seed: 0,
        end_tokens: vec![0],
    }
}

/// The stored logits are those of the run without penalty, so only this run can be replayed step by step.
fn greedy(folder: &Path) {
    for case in list(&json(&folder.join("cases.json")), "cases") {
        let expected = Tensors::read(folder.join(text(case, "tensors")));
        let (shape, logits) = expected.f32("penalty_1.0.logits");
        let mut sampler = Sampler::new(&settings(1.0), [0; 32], &expected.i64("input_ids").1);
        let rows = logits.chunks_exact(shape[1]);
        let chosen: Vec<i64> = rows.map(|row| sampler.next(row).unwrap().id).collect();
        assert_eq!(chosen, expected.i64("penalty_1.0.token_ids").1);
        for run in list(case, "runs") {
            let penalty = run["repetition_penalty"].as_f64().unwrap();
            let mut sampler = Sampler::new(&settings(penalty), [0; 32], &expected.i64("input_ids").1);
            assert_eq!(sampler.next(&logits[..shape[1]]).unwrap().id, integers(run, "token_ids")[0], "{penalty}");
        }
    }
}

fn sampling(folder: &Path) {
    let cases = json(&folder.join("sampling.json"));
    let tensors = Tensors::read(folder.join("sampling.safetensors"));
    let tolerance = cases["tolerance_absolute"].as_f64().unwrap() as f32;
    for case in list(&cases, "cases") {
        let index = integer(case, "index");
        let number = |key: &str, default: f64| case[key].as_f64().unwrap_or(default);
        let settings = GenerationSettings {
            do_sample: true,
            temperature: number("temperature", 1.0),
            top_k: case["top_k"].as_u64().unwrap_or(0) as usize,
            top_p: number("top_p", 1.0),
            ..settings(number("repetition_penalty", 1.0))
        };
        let logits = tensors.f32(&format!("{index}.logits")).1;
        let previous = tensors.i64(&format!("{index}.previous_ids")).1;
        let found = probabilities(&logits, &previous, &settings).unwrap();
        let expected = tensors.f32(&format!("{index}.probabilities")).1;
        assert!(distance(&found, &expected) <= tolerance, "{case}");
        let kept = found.iter().filter(|&&share| share > 0.0).count();
        assert_eq!(kept as i64, integer(case, "kept"), "{case}");
    }
}

fn sizes(folder: &Path) {
    let table = json(&folder.join("smart_resize.json"));
    let factor = integer(&table, "factor");
    for row in list(&table, "rows") {
        let limits = (integer(row, "min_pixels"), integer(row, "max_pixels"));
        let size = smart_resize(integer(row, "height"), integer(row, "width"), factor, limits.0, limits.1).unwrap();
        assert_eq!(size, (integer(row, "resized_height"), integer(row, "resized_width")), "{row}");
    }
    for row in list(&table, "refused") {
        let (height, width) = (integer(row, "height"), integer(row, "width"));
        assert!(smart_resize(height, width, factor, 3136, 12_845_056).is_err(), "{row}");
    }
}

/// The newer folder, where there is one, says the same; the settings come from generation_config.json.
fn styles(folder: &Path) {
    let tokenizer = QwenTokenizer::from_dir(folder).unwrap();
    let published = json(&folder.join("generation_config.json"));
    let resolved = Settings::resolve(None, folder, |token| tokenizer.id(token)).unwrap();
    assert_eq!(resolved.generation.end_tokens, integers(&published, "eos_token_id"));
    assert_eq!(Some(resolved.generation.repetition_penalty), published["repetition_penalty"].as_f64());
    assert!(!resolved.generation.do_sample, "greedy whatever generation_config.json says");
    assert_eq!((resolved.prompt.as_str(), resolved.generation.max_new_tokens), (PROMPT, 256));

    let newer = folder.join("new_style");
    if newer.is_dir() {
        assert_eq!(processor(&newer), processor(folder));
        chat::check_template(&newer).unwrap();
        let other = QwenTokenizer::from_dir(&newer).unwrap();
        assert_eq!(other.encode(PROMPT).unwrap(), tokenizer.encode(PROMPT).unwrap());
    }
    let raw: decode::Rgb8Image = picture(&folder.join("images/0.png"));
    assert_eq!(raw.pixels.len(), raw.width * raw.height * 3);
}
