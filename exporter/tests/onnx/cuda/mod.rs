//! What ONNX Runtime would do with the graphs on a GPU, without one: which kernels there are, which nodes stay on the processor, what is copied.

mod kernels;
mod placement;

use crate::random::{bert_config, text_config, vision_config};
use kernels::{Kernels, elements, types_of};
use mmlnb_exporter::{OnnxGraph, lower, nodes::Attribute};
use mmlnb_models::{
    bundle::Precision,
    config::{BertConfig, ClassifierConfig, Fusion, ImageEncoder, ImageInput, Resample, SwinConfig, Vgg16Config},
    graph::Graph,
    networks,
};
use placement::{Placement, placement};

/// Two stages with shifted windows; the second map is padded.
fn swin() -> Graph {
    let config = SwinConfig { embed: 4, depths: vec![2, 2], heads: vec![1, 2], window: 3, patch: 4, mlp_ratio: 2.0, eps: 1e-5 };
    let size = |name: &str| ["height", "width"].contains(&name).then_some(48);
    networks::swin(&config, "").at_sizes(&size)
}

fn vgg16() -> Graph {
    networks::vgg16(&Vgg16Config { channels: vec![4, 4, 4, 4, 4] }, "")
}

fn bert() -> Graph {
    networks::bert(&BertConfig { layers: 2, ..bert_config() }, "")
}

/// Fusion and heads of every kind of classifier.
fn heads() -> Vec<Graph> {
    let input = ImageInput { width: 32, height: 32, resample: Resample::Bilinear, mean: [0.5; 3], std: [0.5; 3], stain: None };
    let image = Some((ImageEncoder::Vgg16(Vgg16Config { channels: vec![4; 5] }), input));
    let full = ClassifierConfig {
        classes: ["a", "b", "c"].map(String::from).to_vec(),
        image: image.clone(),
        text: Some(bert_config()),
        fusion: Fusion::Prmf,
        confidence_hidden: None,
        image_head: true,
        dropout: 0.3,
    };
    let kinds = [
        full.clone(),
        ClassifierConfig { confidence_hidden: Some(8), image_head: false, ..full.clone() },
        ClassifierConfig { fusion: Fusion::Concat, ..full.clone() },
        ClassifierConfig { fusion: Fusion::Fixed(0.4), ..full.clone() },
        ClassifierConfig { text: None, ..full.clone() },
        ClassifierConfig { image: None, image_head: false, ..full },
    ];
    kinds.iter().map(networks::heads).collect()
}

/// A decoder with so many layers; its heads are padded unless they are a multiple of 16.
fn decoder(head: i64, layers: i64) -> Graph {
    networks::decoder(&text_config(head, 1, 2, layers), true)
}

/// The precisions that GPUs run.
const HALF: [Precision; 2] = [Precision::F16, Precision::Bf16];

fn lowered(graph: &Graph, name: &str, precision: Precision) -> OnnxGraph {
    lower(graph, name, precision).unwrap()
}

/// Every network, as bundles for GPUs hold it.
fn all() -> Vec<OnnxGraph> {
    let mut graphs = vec![
        ("vision", networks::vision(&vision_config(3, &[2]))),
        ("embedding", networks::embedding(&text_config(16, 1, 2, 1))),
        ("decoder", decoder(16, 2)),
        ("decoder with padded heads", decoder(12, 2)),
        ("bert", bert()),
        ("vgg16", vgg16()),
        ("swin", swin()),
    ];
    graphs.extend(heads().into_iter().map(|heads| ("prmf", heads)));
    HALF.iter().flat_map(|precision| graphs.iter().map(|(name, graph)| lowered(graph, name, *precision))).collect()
}

/// An operator without a kernel runs on the processor, and all that goes in and out is copied at each run: ten times slower, without an error.
#[test]
fn every_operator_has_a_kernel_on_the_gpu() {
    let kernels = Kernels::read();
    let mut without = Vec::new();
    for graph in all() {
        let elems = elements(&graph);
        for node in &graph.nodes {
            let [inputs, outputs] = types_of(node, &elems);
            if kernels.find(node, graph.opset(), &inputs, &outputs).is_none() {
                without.push(format!("{}: {} of {inputs:?} at operator set {}", graph.name, node.op, graph.opset()));
            }
        }
    }
    assert!(without.is_empty(), "{without:#?}");
}

/// What the table says no to: it is no table that serves everything.
#[test]
fn what_has_no_kernel_is_told() {
    let kernels = Kernels::read();
    let graph = lowered(&vgg16(), "vgg16", Precision::F16);
    let elems = elements(&graph);
    let pool = graph.nodes.iter().find(|node| node.op == "MaxPool").unwrap();
    let [inputs, outputs] = types_of(pool, &elems);
    let served = |opset| kernels.find(pool, opset, &inputs, &outputs).is_some();
    assert_eq!([21, 22, 23].map(served), [true, false, false], "MaxPool ends with operator set 21");
    let graph = lower(&decoder(16, 1), "decoder", Precision::F32).unwrap();
    let elems = elements(&graph);
    let attention = graph.nodes.iter().find(|node| node.op == "GroupQueryAttention").unwrap();
    let [inputs, outputs] = types_of(attention, &elems);
    assert!(kernels.find(attention, graph.opset(), &inputs, &outputs).is_none(), "attention on a cache has no f32 kernel");
}

#[test]
fn only_vision_counts_on_the_processor() {
    let kernels = Kernels::read();
    for graph in all() {
        // The length of the longest window: one number down, one size up, per image.
        let expected = match graph.name.as_str() {
            "vision" => Placement { on_cpu: 3, down: 1, up: 1 },
            _ => Placement { on_cpu: 0, down: 0, up: 0 },
        };
        assert_eq!(placement(&graph, &kernels), expected, "{}", graph.name);
    }
}

/// Each costs a launch, which at small sizes takes longer than the layer's work.
#[test]
fn a_layer_has_few_casts() {
    let casts = |graph: &OnnxGraph| graph.nodes.iter().filter(|node| node.op == "Cast").count();
    // In f16, into and out of attention and of the layers behind it, between which the stream stays f32; in bf16 the stream is bf16.
    for (precision, expected) in HALF.into_iter().zip([4, 0]) {
        let [one, two] = [1, 2].map(|layers| casts(&lowered(&decoder(16, layers), "decoder", precision)));
        assert_eq!(two - one, expected, "casts of a decoder's layer in {precision}");
    }
    let bert = |layers| networks::bert(&BertConfig { layers, ..bert_config() }, "");
    let [one, two] = [1, 2].map(|layers| casts(&lowered(&bert(layers), "bert", Precision::F16)));
    assert_eq!(two - one, 4, "casts of a BERT's layer");
}

/// On CUDA, attention on a cache that rotates itself takes slot 0's angles for every slot, and drops the rotation of prompts in later slots, without
/// an error. And ONNX Runtime would fuse a rotation that stands right behind a product into just that.
#[test]
fn rotation_stays_outside_of_attention() {
    for (head, precision) in [(12, Precision::F16), (16, Precision::F16), (12, Precision::Bf16), (16, Precision::Bf16)] {
        let graph = lowered(&decoder(head, 2), "decoder", precision);
        let attentions: Vec<_> = graph.nodes.iter().filter(|node| node.op == "GroupQueryAttention").collect();
        assert_eq!(attentions.len(), 2);
        for attention in attentions {
            assert!(attention.attributes.contains(&("do_rotary", Attribute::Int(0))), "{attention:?}");
        }
        let rotations: Vec<_> = graph.nodes.iter().filter(|node| node.op == "RotaryEmbedding").collect();
        assert_eq!(rotations.len(), 4);
        for rotation in rotations {
            let before = graph.nodes.iter().find(|node| node.outputs.contains(&rotation.inputs[0])).unwrap();
            assert!(!["MatMul", "MatMulNBits"].contains(&before.op), "{rotation:?} is right behind {before:?}");
        }
    }
}
