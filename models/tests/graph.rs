//! Laws of the graph itself: sizes, fusions that fire and keep types, adapters by module, exposing.

use mmlnb_models::{
    config::{BertConfig, TextConfig, VisionConfig},
    graph::{Adaption, AttentionKind, Builder, Dim, Graph, Kind, Op},
    networks,
};
use proptest::prelude::*;

fn text() -> TextConfig {
    TextConfig {
        hidden: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_size: 4,
        inner: 24,
        vocabulary: 40,
        eps: 1e-6,
        rope_theta: 1e4,
        mrope_section: vec![1, 1],
        tied: true,
    }
}

fn count(graph: &Graph, of: impl Fn(&Op) -> bool) -> usize {
    graph.nodes.iter().filter(|n| of(&n.op)).count()
}

proptest! {
    #[test]
    fn a_size_means_the_same_however_it_was_written(a in 0i64..50, b in 0i64..50, k in 1i64..5, c in 0i64..20) {
        let (x, y) = (Dim::named("x"), Dim::named("y"));
        let sizes = |name: &str| match name { "x" => Some(a), "y" => Some(b), _ => None };
        prop_assert_eq!(x.plus(&y).unwrap(), y.plus(&x).unwrap());
        let nested = x.over(k).plus(&Dim::from(c)).unwrap().over(2);
        prop_assert_eq!(nested.evaluate(&sizes), Some((a / k + c) / 2));
        prop_assert_eq!(&x.times(k).unwrap().over(k), &x);
        let there_and_back = x.plus(&y).unwrap().plus(&y.times(-1).unwrap()).unwrap();
        prop_assert_eq!(there_and_back, x);
    }
}

#[test]
fn every_residual_of_a_decoder_meets_its_norm() {
    let plain = networks::decoder(&text(), true);
    let fused = plain.fuse_residual_norms();
    // Two norms a layer and the last one: the first takes no sum, the last takes rows that were picked from a sum.
    assert_eq!(count(&plain, |op| matches!(op, Op::RmsNorm { .. })), 5);
    assert_eq!(count(&fused, |op| matches!(op, Op::AddRmsNorm { .. })), 3);
    assert_eq!(count(&fused, |op| matches!(op, Op::RmsNorm { .. })), 2);
    assert_eq!(count(&fused, |op| *op == Op::Add), 1);
    assert_eq!(fused.parameters(), plain.parameters());
}

#[test]
fn linears_of_one_input_become_one_product() {
    let fused = networks::decoder(&text(), true).fuse_residual_norms().stack_linears();
    let text = fused.to_string();
    assert_eq!(text.matches("Linear[stack(").count(), 4, "qkv and gate-up in two layers:\n{text}");
    // o_proj, down_proj in two layers and the head stay alone.
    assert_eq!(count(&fused, |op| matches!(op, Op::Linear { .. })), 4 + 4 + 1);
    assert_eq!(count(&fused, |op| matches!(op, Op::Split { .. })), 4);
}

#[test]
fn fusing_keeps_outputs_and_their_types() {
    let bert = BertConfig {
        vocabulary: 30,
        hidden: 8,
        layers: 2,
        heads: 2,
        inner: 12,
        positions: 10,
        types: 2,
        eps: 1e-12,
        dropout: 0.1,
        attention_dropout: 0.1,
        max_length: None,
    };
    for graph in [networks::bert(&bert, "text"), networks::decoder(&text(), false), networks::vision(&vision())] {
        let fused = graph.fuse_residual_norms().stack_linears();
        let types = |g: &Graph| g.outputs.iter().map(|(n, v)| (n.clone(), g.type_of(*v).clone())).collect::<Vec<_>>();
        assert_eq!(types(&fused), types(&graph));
        let inputs = |g: &Graph| g.inputs().map(|(n, _, t)| (n.to_string(), t.clone())).collect::<Vec<_>>();
        assert_eq!(inputs(&fused), inputs(&graph));
        for (i, node) in fused.nodes.iter().enumerate() {
            assert!(node.inputs.iter().all(|v| (v.node as usize) < i), "{} comes before its input", node.name);
        }
    }
}

fn vision() -> VisionConfig {
    VisionConfig {
        hidden: 8,
        depth: 2,
        heads: 2,
        inner: 12,
        output: 16,
        patch: 14,
        merge: 2,
        temporal: 2,
        window: 56,
        channels: 3,
        full_attention: vec![1],
        eps: 1e-6,
        rope_theta: 1e4,
    }
}

#[test]
fn only_chosen_blocks_of_the_vision_tower_see_everything() {
    let graph = networks::vision(&vision());
    let kinds: Vec<AttentionKind> = graph
        .nodes
        .iter()
        .filter_map(|n| match n.op {
            Op::Attention { kind, .. } => Some(kind),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, [AttentionKind::Segments, AttentionKind::Full]);
}

#[test]
fn an_adapter_reaches_the_modules_it_names_and_no_others() {
    let graph = networks::decoder(&text(), false);
    let module = "model.layers.1.self_attn.q_proj".to_string();
    let adaption = |m: &str| (m == module).then_some(Adaption { rank: 3, scale: 0.5, magnitude: false });
    let adapted = graph.adapt(&adaption, std::slice::from_ref(&module)).unwrap();
    assert_eq!(adapted.to_string().matches("lora(").count(), 1);
    let wrong = graph.adapt(&adaption, &[module.clone(), "model.layers.9.mlp.up_proj".into()]).unwrap_err();
    assert_eq!(wrong.0, ["model.layers.9.mlp.up_proj"]);
}

#[test]
fn intermediates_are_exposed_by_name() {
    let graph = networks::decoder(&text(), false);
    let exposed = graph.expose(&["model.norm"]).unwrap();
    assert_eq!(exposed.outputs.last().unwrap().0, "model.norm");
    assert_eq!(graph.expose(&["model.norm", "model.nowhere"]).unwrap_err(), ["model.nowhere"]);
}

#[test]
fn a_tied_head_is_one_parameter() {
    let keys = |g: &Graph| g.parameters().iter().map(|p| p.key.clone()).collect::<Vec<_>>();
    assert!(keys(&networks::decoder(&text(), true)).contains(&"model.embed_tokens.weight".to_string()));
    assert!(
        !keys(&networks::decoder(&TextConfig { tied: false, ..text() }, true)).contains(&"model.embed_tokens.weight".to_string())
    );
}

#[test]
#[should_panic(expected = "differ")]
fn adding_what_does_not_fit_is_a_bug_in_the_network() {
    let b = Builder::new();
    let x = b.input("x", Kind::Float, [Dim::from(2)]);
    let y = b.input("y", Kind::Float, [Dim::from(3)]);
    let _ = x + y;
}
