//! The cost reading: known totals of the real models, operations and memory of networks small enough to count by hand.

use mmlnb_models::{
    config::{SwinConfig, TextConfig, VisionConfig},
    cost::{self, CostError},
    graph::{Adaption, Builder, Dim, Graph, Kind, Op},
    networks,
    weights::DType,
};

fn text_7b() -> TextConfig {
    TextConfig {
        hidden: 3584,
        layers: 28,
        heads: 28,
        kv_heads: 4,
        head_size: 128,
        inner: 18944,
        vocabulary: 152_064,
        eps: 1e-6,
        rope_theta: 1e6,
        mrope_section: vec![16, 24, 24],
        tied: false,
    }
}

fn vision_7b() -> VisionConfig {
    VisionConfig {
        hidden: 1280,
        depth: 32,
        heads: 16,
        inner: 3420,
        output: 3584,
        patch: 14,
        temporal: 2,
        merge: 2,
        window: 112,
        channels: 3,
        full_attention: vec![7, 15, 23, 31],
        eps: 1e-6,
        rope_theta: 1e4,
    }
}

fn adapted(graph: &Graph, names: &[&str]) -> Graph {
    let adaption = |module: &str| {
        let named = names.iter().any(|name| module.ends_with(&format!(".{name}")));
        named.then_some(Adaption { rank: 64, scale: 0.25, magnitude: false })
    };
    graph.adapt(&adaption, &[]).unwrap()
}

#[test]
fn qwen2_5_vl_7b_has_its_published_parameters() {
    let (vision, embedding, decoder) =
        (networks::vision(&vision_7b()), networks::embedding(&text_7b()), networks::decoder(&text_7b(), true));
    assert_eq!(cost::parameters(&[&vision]), 676_550_144);
    assert_eq!(cost::parameters(&[&embedding]), 544_997_376);
    assert_eq!(cost::parameters(&[&decoder]), 6_525_621_760 + 544_997_376);
    assert_eq!(cost::parameters(&[&vision, &embedding, &decoder]), 8_292_166_656);
    assert_eq!(cost::weight_bytes(&[&vision, &embedding, &decoder], DType::BF16), 2 * 8_292_166_656);
    let tied = TextConfig { tied: true, ..text_7b() };
    let graphs = [networks::embedding(&tied), networks::decoder(&tied, true)];
    assert_eq!(cost::parameters(&[&graphs[0], &graphs[1]]), 6_525_621_760 + 544_997_376, "a tied matrix counts once");
}

#[test]
fn adapters_of_rank_64_have_their_known_parameters() {
    let mlp = ["gate_proj", "up_proj", "down_proj"];
    let language = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let decoder = adapted(&networks::decoder(&text_7b(), true), &language);
    let vision = networks::vision(&vision_7b());
    assert_eq!(cost::adapter_parameters(&[&decoder]), 161_480_704);
    assert_eq!(cost::adapter_parameters(&[&decoder, &adapted(&vision, &mlp)]), 190_357_504);
    let more = ["gate_proj", "up_proj", "down_proj", "qkv", "attn.proj"];
    assert_eq!(cost::adapter_parameters(&[&decoder, &adapted(&vision, &more)]), 206_086_144);
    assert_eq!(cost::adapter_parameters(&[&decoder.stack_linears()]), 161_480_704, "stacking changes no adapter");
    assert_eq!(cost::parameters(&[&decoder]), cost::parameters(&[&networks::decoder(&text_7b(), true)]));
}

/// `relu(x W1 + b) W2` and `x` beside it: 4 -> 8 -> 2.
fn small() -> Graph {
    let b = Builder::new();
    let x = b.input("x", Kind::Float, [Dim::named("batch"), Dim::from(4)]);
    b.output("y", x.linear("first", 8, true).apply(Op::Relu).linear("second", 2, false));
    b.finish()
}

#[test]
fn work_and_memory_of_two_layers() {
    let found = cost::cost(&small(), &|name| (name == "batch").then_some(10), DType::F32).unwrap();
    assert_eq!(found.flops, (2 * 10 * 4 * 8 + 10 * 8 + 2 * 10 * 8 * 2) as f64);
    // At the ReLU: x, its input and its result.
    assert_eq!(found.peak_bytes, 4 * 10 * (4 + 8 + 8));
    assert_eq!(found.peak_node, "relu");
    let half = cost::cost(&small(), &|_| Some(10), DType::F16).unwrap();
    assert_eq!((half.peak_bytes * 2, half.flops), (found.peak_bytes, found.flops));
}

#[test]
fn an_adapter_counts_as_a_branch() {
    let plain = cost::cost(&small(), &|_| Some(10), DType::F32).unwrap();
    let graph = small()
        .adapt(&|m| (m == "first").then_some(Adaption { rank: 3, scale: 1.0, magnitude: false }), &["first".into()])
        .unwrap();
    let with = cost::cost(&graph, &|_| Some(10), DType::F32).unwrap();
    assert_eq!(with.flops - plain.flops, (2 * 10 * 3 * (4 + 8)) as f64);
}

#[test]
fn parts_of_a_split_share_memory() {
    let b = Builder::new();
    let x = b.input("x", Kind::Float, [Dim::named("batch"), Dim::from(4)]);
    let [left, right] = x.linear("wide", 8, false).split([4, 4]);
    b.output("y", left + right);
    let found = cost::cost(&b.finish(), &|_| Some(1), DType::F32).unwrap();
    assert_eq!(found.peak_bytes, 4 * (4 + 8 + 4));
}

#[test]
fn a_cache_is_changed_in_place() {
    let text = TextConfig { layers: 2, hidden: 8, heads: 2, kv_heads: 1, head_size: 4, inner: 8, vocabulary: 16, ..text_7b() };
    let at = |length: i64| {
        let sizes = move |name: &str| Some(if name == "length" { length } else { 1 });
        cost::cost(&networks::decoder(&text, true), &sizes, DType::F32).unwrap()
    };
    let (short, long) = (at(10), at(110));
    // Two layers, keys and values, one head of 4 numbers a position.
    assert_eq!(long.peak_bytes - short.peak_bytes, 2 * 2 * 100 * 4 * 4);
    assert_eq!(long.flops - short.flops, (2 * 4 * 8 * 100) as f64);
}

#[test]
fn a_forward_of_the_7b_takes_two_operations_a_parameter_and_token() {
    let sizes = |name: &str| Some(if name == "batch" || name == "rows" { 1 } else { 420 });
    let found = cost::cost(&networks::decoder(&text_7b(), false), &sizes, DType::BF16).unwrap();
    let linear = 2.0 * 420.0 * 6_525_621_760.0;
    assert!(found.flops > linear && found.flops < linear * 1.03, "{:e} against {linear:e}", found.flops);
}

#[test]
fn missing_and_contradictory_sizes_are_errors() {
    let unknown = cost::cost(&small(), &|_| None, DType::F32).unwrap_err();
    assert_eq!(unknown, CostError::UnknownSize { input: "x".into(), dim: "batch".into() });
    let b = Builder::new();
    let map = |name: &'static str| b.input(name, Kind::Float, [Dim::from(1), Dim::named(name), Dim::from(7), Dim::from(2)]);
    let ((one, _), (other, _)) = (map("small").windows(7, 0), map("large").windows(7, 0));
    b.output("y", one + other);
    let graph = b.finish();
    let contradiction = cost::cost(&graph, &|name| Some(if name == "small" { 7 } else { 8 }), DType::F32).unwrap_err();
    assert!(matches!(&contradiction, CostError::Contradiction { node, .. } if node == "add"), "{contradiction}");
    assert!(cost::cost(&graph, &|name| Some(if name == "small" { 6 } else { 7 }), DType::F32).is_ok());
}

#[test]
fn swins_windows_are_counted_from_the_maps_sizes() {
    let config = SwinConfig { embed: 6, depths: vec![2], heads: vec![1], patch: 4, window: 7, mlp_ratio: 4.0, eps: 1e-5 };
    let graph = networks::swin(&config, "");
    let at = |height: i64, width: i64| {
        let size = move |name: &str| match name {
            "batch" => Some(2),
            "height" => Some(height),
            "width" => Some(width),
            _ => None,
        };
        cost::cost(&graph, &size, DType::F32).unwrap()
    };
    // 28 x 28 cells are 4 x 4 windows, 29 x 28 are 5 x 4.
    let (even, odd) = (at(112, 112), at(116, 112));
    let window = 4.0 * 49.0 * 49.0 * 6.0 + 2.0 * 49.0 * 6.0 * (18.0 + 6.0);
    let cells = 2.0 * 28.0 * (2.0 * 48.0 * 6.0 + 8.0 * 6.0);
    assert!(odd.flops - even.flops > 2.0 * 2.0 * 4.0 * window + cells, "{} {}", odd.flops, even.flops);
    assert!(odd.peak_bytes > even.peak_bytes);
}
