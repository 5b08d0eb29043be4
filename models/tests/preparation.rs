//! Sampling, resizing, positions, chat template, settings: rules that hold for any input.

use std::fs;

use mmlnb_models::config::{QwenConfig, Resample};
use mmlnb_models::prepare::chat::{ChatError, TEMPLATE, check_template, render};
use mmlnb_models::prepare::decode::Rgb8Image;
use mmlnb_models::prepare::positions::{PositionError, expand_images, text_positions, vision_positions};
use mmlnb_models::prepare::qwen_image::smart_resize;
use mmlnb_models::prepare::resize::resize;
use mmlnb_models::prepare::sampling::{LogitsError, Sampler, probabilities};
use mmlnb_models::prepare::settings::{GenerationSettings, PROMPT, Settings, SettingsError};
use proptest::prelude::*;
use serde_json::json;

fn sampled() -> GenerationSettings {
    GenerationSettings {
        max_new_tokens: 16,
        do_sample: true,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        seed: 7,
        end_tokens: vec![0],
    }
}

fn config() -> QwenConfig {
    let value = json!({
        "model_type": "qwen2_5_vl", "hidden_size": 64, "intermediate_size": 112, "num_attention_heads": 4,
        "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "vocab_size": 640,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "torch_dtype": "float32",
        "tie_word_embeddings": false, "image_token_id": 100, "video_token_id": 101, "vision_start_token_id": 102,
        "vision_end_token_id": 103,
        "vision_config": {
            "depth": 4, "hidden_size": 32, "intermediate_size": 52, "num_heads": 2, "window_size": 112, "in_chans": 3,
            "fullatt_block_indexes": [1, 3], "out_hidden_size": 64, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    });
    QwenConfig::from_json("config.json".as_ref(), &value).unwrap()
}

#[test]
fn a_draw_depends_on_seed_image_and_step_alone() {
    let logits: Vec<f32> = (0..50).map(|id| (id as f32 * 0.7).sin()).collect();
    let draw = |seed: u64, image: u8| -> Vec<i64> {
        let settings = GenerationSettings { seed, ..sampled() };
        let mut sampler = Sampler::new(&settings, [image; 32], &[]);
        (0..20).map(|_| sampler.next(&logits).unwrap().id).collect()
    };
    assert_eq!(draw(1, 1), draw(1, 1));
    assert_ne!(draw(1, 1), draw(2, 1));
    assert_ne!(draw(1, 1), draw(1, 2));
    let mut other = draw(1, 1);
    other.dedup();
    assert!(other.len() > 10, "steps differ: {other:?}");
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [0.0_f32, 1.0, 2.0, -1.0];
    let expected = probabilities(&logits, &[], &sampled()).unwrap();
    let mut counts = [0.0_f32; 4];
    for image in 0..4000_u32 {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&image.to_le_bytes());
        counts[Sampler::new(&sampled(), hash, &[]).next(&logits).unwrap().id as usize] += 1.0 / 4000.0;
    }
    for (share, expected) in counts.iter().zip(expected) {
        assert!((share - expected).abs() < 0.03, "{counts:?}");
    }
}

#[test]
fn greedy_takes_the_first_of_the_largest_and_gives_its_raw_probability() {
    let settings = GenerationSettings { do_sample: false, repetition_penalty: 2.0, ..sampled() };
    let mut sampler = Sampler::new(&settings, [0; 32], &[3]);
    let choice = sampler.next(&[1.0, 2.0, 2.0, 3.0]).unwrap();
    assert_eq!(choice.id, 1, "the penalty halves token 3");
    let total: f64 = [1.0_f64, 2.0, 2.0, 3.0].iter().map(|logit| logit.exp()).sum();
    assert!((choice.logprob - (2.0_f64.exp() / total).ln()).abs() < 1e-9);
    assert_eq!(sampler.next(&[1.0, 2.0, 2.0, 3.0]).unwrap().id, 2, "now token 1 is penalised too");
    let cold = GenerationSettings { temperature: 1e-6, ..sampled() };
    assert_eq!(Sampler::new(&cold, [0; 32], &[]).next(&[1.0, 1.5, 1.2]).unwrap().id, 1);
}

#[test]
fn broken_logits_are_errors() {
    let mut sampler = Sampler::new(&sampled(), [0; 32], &[]);
    assert_eq!(sampler.next(&[1.0, f32::NAN]), Err(LogitsError::NotANumber(1)));
    assert_eq!(sampler.next(&[f32::INFINITY, 0.0]), Err(LogitsError::NotANumber(0)));
    assert_eq!(sampler.next(&[f32::NEG_INFINITY; 3]), Err(LogitsError::AllImpossible));
    assert_eq!(sampler.next(&[]), Err(LogitsError::AllImpossible));
    assert_eq!(sampler.next(&[f32::NEG_INFINITY, 0.0]).unwrap().id, 1);
}

#[test]
fn a_given_way_is_followed_whatever_the_logits_are_and_its_raw_probabilities_are_told() {
    let mut sampler = Sampler::new(&sampled(), [0; 32], &[]).following([2, 0].into());
    let logits = [1.0_f32, 3.0, -2.0];
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    for id in [2, 0] {
        let choice = sampler.next(&logits).unwrap();
        let expected = (f64::from(logits[id as usize]).exp() / total).ln();
        assert!(choice.id == id && (choice.logprob - expected).abs() < 1e-9, "{choice:?}");
    }
    assert_eq!(sampler.next(&logits), Err(LogitsError::NothingToFollow(2)));
    for beyond in [3, -1] {
        let mut lost = Sampler::new(&sampled(), [0; 32], &[]).following([beyond].into());
        assert_eq!(lost.next(&logits), Err(LogitsError::NothingToFollow(0)), "{beyond}");
    }
    let mut broken = Sampler::new(&sampled(), [0; 32], &[]).following([0].into());
    assert_eq!(broken.next(&[1.0, f32::NAN]), Err(LogitsError::NotANumber(1)));
}

#[test]
fn image_tokens_must_fit_the_images() {
    let config = config();
    let grids = [[1, 4, 6]];
    let ids = expand_images(&[1, 100, 2], &grids, &config).unwrap();
    assert_eq!(ids, [1, 100, 100, 100, 100, 100, 100, 2]);
    let positions = text_positions(&ids, &grids, &config).unwrap();
    assert_eq!(positions.ids[1], [0, 1, 1, 1, 2, 2, 2, 4]);
    assert_eq!(positions.ids[2], [0, 1, 2, 3, 1, 2, 3, 4]);
    assert_eq!(positions.delta, 5 - 8);
    assert_eq!(expand_images(&[1, 2], &grids, &config), Err(PositionError::Count { expected: 1, found: 0 }));
    let short = text_positions(&ids[..4], &grids, &config);
    assert_eq!(short, Err(PositionError::Run { image: 0, expected: 6, found: 3 }));
    assert_eq!(text_positions(&ids, &[], &config), Err(PositionError::Count { expected: 0, found: 1 }));
}

#[test]
fn line_ends_of_a_template_make_no_difference_and_a_text_only_one_is_told() {
    for (from, to) in [("\n", "\r\n"), ("\n", "\r"), ("\n", "\n")] {
        let folder = tempfile::tempdir().unwrap();
        let other = TEMPLATE.replace(from, to);
        for file in [other.clone(), format!("{other}{to}")] {
            fs::write(folder.path().join("chat_template.jinja"), &file).unwrap();
            check_template(folder.path()).unwrap_or_else(|error| panic!("{to:?}: {error}"));
        }
        fs::write(folder.path().join("chat_template.json"), json!({ "chat_template": other }).to_string()).unwrap();
        check_template(folder.path()).unwrap_or_else(|error| panic!("{to:?}: {error}"));
    }
    let text_only = "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- endif %}{%- for message in messages %}{{ message.content }}{%- endfor %}";
    for name in ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"] {
        let folder = tempfile::tempdir().unwrap();
        let json = json!({ "chat_template": text_only }).to_string();
        fs::write(folder.path().join(name), if name.ends_with("jinja") { text_only } else { &json }).unwrap();
        let error = check_template(folder.path()).unwrap_err();
        assert!(matches!(error, ChatError::TextOnly { .. }), "{name}: {error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("text-only") && text.contains("copy that file"), "{text}");
    }
}

#[test]
fn the_template_and_its_rendering() {
    let folder = tempfile::tempdir().unwrap();
    check_template(folder.path()).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), format!("{TEMPLATE}\n")).unwrap();
    check_template(folder.path()).unwrap();
    let text_only = "{%- if tools %}{{- '<|im_start|>system' }}{%- endif %}";
    let tokenizer_config = folder.path().join("tokenizer_config.json");
    fs::write(&tokenizer_config, json!({ "chat_template": text_only }).to_string()).unwrap();
    check_template(folder.path()).expect("beside a template for images the text-only one is never used");
    let named = json!([{ "name": "default", "template": TEMPLATE }]);
    fs::write(&tokenizer_config, json!({ "chat_template": named }).to_string()).unwrap();
    check_template(folder.path()).unwrap();

    let other = TEMPLATE.replace("You are a helpful assistant.", "You are a pathologist.");
    fs::write(&tokenizer_config, json!({ "chat_template": other }).to_string()).unwrap();
    let error = check_template(folder.path()).unwrap_err();
    assert!(matches!(error, ChatError::Different { .. }));
    let message = error.to_string();
    assert!(message.contains("helpful") && message.contains("pathologist"), "{message}");

    assert_eq!(
        render(None, 1, "What?"),
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n\
         <|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n<|im_start|>assistant\n"
    );
}

fn id_of(token: &str) -> Option<i64> {
    ["<|im_end|>", "<|endoftext|>"].iter().position(|one| *one == token).map(|at| at as i64)
}

#[test]
fn settings_fill_in_what_the_file_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let defaults = Settings::resolve(None, folder.path(), id_of).unwrap();
    assert_eq!(defaults.prompt, PROMPT);
    assert_eq!(defaults.generation.repetition_penalty, 1.05);
    assert_eq!(defaults.generation.end_tokens, [0, 1]);

    fs::write(folder.path().join("generation_config.json"), r#"{"repetition_penalty": 1.2, "eos_token_id": 9}"#).unwrap();
    let file = folder.path().join("settings.toml");
    fs::write(&file, "prompt = \"Describe.\"\nmax_new_tokens = 32\ndo_sample = true\ntop_k = 50\n").unwrap();
    let given = Settings::resolve(Some(&file), folder.path(), id_of).unwrap();
    assert_eq!((given.prompt.as_str(), given.generation.max_new_tokens), ("Describe.", 32));
    assert_eq!((given.generation.repetition_penalty, given.generation.end_tokens), (1.2, vec![9]));
    assert!(given.generation.do_sample && given.generation.top_k == 50);
}

#[test]
fn settings_that_make_no_sense_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    let wrong = [
        "max_tokens = 3",
        "max_new_tokens = 0",
        "top_p = 0.0",
        "temperature = -1.0",
        "repetition_penalty = 0.0",
        "temperature = nan",
        "prompt = \"\"",
        "end_tokens = [\"no such token\"]",
        "end_tokens = []",
    ];
    for text in wrong {
        fs::write(&file, text).unwrap();
        let error = Settings::resolve(Some(&file), folder.path(), id_of).expect_err(text);
        assert!(error.to_string().contains("settings.toml"), "{error}");
    }
    let missing = Settings::resolve(Some(&folder.path().join("absent.toml")), folder.path(), id_of);
    assert!(matches!(missing, Err(SettingsError::Unreadable { .. })));
}

#[test]
fn config_errors_name_file_and_key() {
    let value = json!({ "model_type": "qwen2_5_vl", "vision_config": {}, "hidden_size": "many" });
    let error = QwenConfig::from_json("some/config.json".as_ref(), &value).unwrap_err().to_string();
    assert!(error.contains("some/config.json") && error.contains("hidden_size"), "{error}");
}

proptest! {
    #[test]
    fn an_even_image_stays_even(
        width in 1..40_usize, height in 1..40_usize, to_width in 1..60_usize, to_height in 1..60_usize, colour in any::<[u8; 3]>(),
    ) {
        let image = Rgb8Image { width, height, pixels: colour.repeat(width * height) };
        for filter in [Resample::Bilinear, Resample::Bicubic] {
            let resized = resize(&image, to_width, to_height, filter);
            prop_assert_eq!((resized.width, resized.height), (to_width, to_height));
            prop_assert_eq!(&resized.pixels, &colour.repeat(to_width * to_height));
        }
    }

    #[test]
    fn a_mirrored_image_gives_the_mirrored_result(width in 2..30_usize, to in 1..50_usize, seed in any::<u8>()) {
        let pixels: Vec<u8> = (0..width * 3).map(|at| (at as u8).wrapping_mul(91).wrapping_add(seed)).collect();
        let mirror = |pixels: &[u8]| -> Vec<u8> { pixels.chunks_exact(3).rev().flatten().copied().collect() };
        let image = Rgb8Image { width, height: 1, pixels: pixels.clone() };
        let turned = Rgb8Image { width, height: 1, pixels: mirror(&pixels) };
        let (one, other) = (resize(&image, to, 1, Resample::Bicubic), resize(&turned, to, 1, Resample::Bicubic));
        let most = one.pixels.iter().zip(mirror(&other.pixels)).map(|(a, b)| a.abs_diff(b)).max();
        prop_assert!(most <= Some(1));
    }

    #[test]
    fn smart_resize_keeps_its_promises(height in 1..6000_i64, width in 1..6000_i64, most_tokens in 16..2000_i64) {
        let most = most_tokens * 784;
        let result = smart_resize(height, width, 28, 3136, most);
        if height.max(width) > 200 * height.min(width) {
            prop_assert!(result.is_err());
        } else {
            let (high, wide) = result.unwrap();
            prop_assert!(high % 28 == 0 && wide % 28 == 0 && high >= 28 && wide >= 28);
            prop_assert!(high * wide <= most || high.min(wide) == 28, "{high} x {wide}");
            prop_assert!(high * wide >= 3136, "{high} x {wide}");
        }
    }

    #[test]
    fn windows_hold_every_cell_once(sizes in prop::collection::vec((1..12_i64, 1..12_i64), 1..4)) {
        let config = config();
        let grids: Vec<[i64; 3]> = sizes.iter().map(|(rows, columns)| [1, rows * 2, columns * 2]).collect();
        let positions = vision_positions(&grids, &config.vision);
        let patches: i64 = grids.iter().map(|grid| grid[1] * grid[2]).sum();
        let mut cells = positions.window_index.clone();
        cells.sort_unstable();
        prop_assert_eq!(cells, (0..patches / 4).collect::<Vec<_>>());
        prop_assert_eq!(positions.cu_window_seqlens.last(), Some(&patches));
        prop_assert_eq!(positions.cu_seqlens.last(), Some(&patches));
        prop_assert!(positions.cu_window_seqlens.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= 64));
        prop_assert!(positions.cu_seqlens.iter().all(|end| positions.cu_window_seqlens.contains(end)));
    }

    #[test]
    fn kept_probabilities_sum_to_one(
        logits in prop::collection::vec(-20.0..20.0_f32, 1..80),
        top_k in 0..90_usize, top_p in 0.01..1.0_f64, temperature in 0.01..3.0_f64,
    ) {
        let settings = GenerationSettings { top_k, top_p, temperature, ..sampled() };
        let shares = probabilities(&logits, &[0, 1, -5, 1000], &settings).unwrap();
        let sum: f32 = shares.iter().sum();
        prop_assert!((sum - 1.0).abs() < 1e-4);
        let id = Sampler::new(&settings, [3; 32], &[0, 1]).next(&logits).unwrap().id as usize;
        prop_assert!(shares[id] > 0.0, "a token was drawn that was cut away");
    }
}
