//! The text of small graphs: what the lowering makes, to be read and to be compared. `UPDATE_SNAPSHOTS=1 cargo test` writes them anew.

use crate::random::{bert_config, text_config, vision_config};
use mmlnb_exporter::{lower, nodes::OnnxGraph};
use mmlnb_models::{
    bundle::Precision,
    config::{BertConfig, SwinConfig},
    networks,
};
use std::path::Path;

fn compare(name: &str, graph: &OnnxGraph) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx/snapshots").join(format!("{name}.txt"));
    let text = graph.to_string();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let differs = text.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(text == expected, "{name} differs from its snapshot, first at (found, expected): {differs:#?}");
}

#[test]
fn decoder_on_a_cache() {
    let graph = networks::decoder(&text_config(16, 1, 2, 1), true);
    let lowered = lower(&graph, "decoder", Precision::F32).unwrap();
    let count = |op: &str| lowered.nodes.iter().filter(|node| node.op == op).count();
    // Rotation happens inside of the attention; the first norm and the last one stand alone, the other has its residual.
    let counts =
        [count("GroupQueryAttention"), count("RotaryEmbedding"), count("SkipSimplifiedLayerNormalization"), count("MatMul")];
    assert_eq!(counts, [1, 0, 1, 5]);
    compare("decoder_f32", &lowered);
    compare("decoder_f16", &lower(&graph, "decoder", Precision::F16).unwrap());
    compare("decoder_int8", &lower(&graph, "decoder", Precision::Int8).unwrap());
    compare("decoder_int4", &lower(&graph, "decoder", Precision::Int4).unwrap());
    let padded = networks::decoder(&text_config(12, 1, 2, 1), true);
    compare("decoder_f32_padded_heads", &lower(&padded, "decoder", Precision::F32).unwrap());
}

#[test]
fn bert() {
    let config = BertConfig { layers: 1, ..bert_config() };
    compare("bert_f32", &lower(&networks::bert(&config, ""), "bert", Precision::F32).unwrap());
    compare("bert_int8", &lower(&networks::bert(&config, ""), "bert", Precision::Int8).unwrap());
}

#[test]
fn vision() {
    compare("vision_f32", &lower(&networks::vision(&vision_config(2, &[1])), "vision", Precision::F32).unwrap());
}

#[test]
fn swin() {
    let config = SwinConfig { embed: 4, depths: vec![2, 1], heads: vec![1, 2], window: 3, patch: 4, mlp_ratio: 2.0, eps: 1e-5 };
    let graph = networks::swin(&config, "");
    compare("swin_f32", &lower(&graph, "swin", Precision::F32).unwrap());
    let of_one_size = graph.at_sizes(&|name| ["height", "width"].contains(&name).then_some(28));
    compare("swin_f32_of_one_size", &lower(&of_one_size, "swin", Precision::F32).unwrap());
}
