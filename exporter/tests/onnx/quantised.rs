//! Weights in few bits: the products that ONNX Runtime makes of them are those of whole-number arithmetic, on this processor as on every other, and
//! networks stay near the reference.

use crate::{
    describer::Describer,
    golden_files::{Tensors, family, integers, json, list, text},
    golden_qwen2_5_vl::{generate, image_embeds, position_lists},
    random::{numbers, write_checkpoint},
    session::{Given, Onnx},
};
use mmlnb_exporter::{
    BLOCK, Convolutions, FewBits, Network, OnnxGraph, Sizes, Source, Storage, lower, lower_deciding, lower_portable,
    nodes::{Attribute, Content, Elem, Form, Initialiser, OnnxNode, Port},
};
use mmlnb_models::{
    activations::{Activations, Layer},
    bundle::Precision,
    config::BertConfig,
    graph::{Builder, Dim, Graph, Kind, Op, Parameter, Weight},
    networks,
    weights::{Checkpoint, Naming, Weights},
};

const INPUTS: usize = 300;
const OUTPUTS: usize = 24;

/// One linear layer in a block of an encoder.
fn layer() -> Graph {
    let b = Builder::new();
    let x = b.input("x", Kind::Float, [Dim::named("rows"), Dim::from(INPUTS as i64)]);
    b.output("y", b.block("block".to_string(), || x.linear("layer", OUTPUTS as i64, true)));
    b.finish()
}

/// A checkpoint of that layer; even outputs have all weights at the end of the range, which saturates where 16 bits are too few.
fn checkpoint(matrix: &[f32], bias: &[f32]) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), &layer(), |p| if p.shape.len() == 2 { matrix.to_vec() } else { bias.to_vec() });
    let checkpoint = Checkpoint::open(folder.path(), Naming::Bert).unwrap();
    (folder, checkpoint)
}

fn full_range() -> Vec<f32> {
    let mut matrix = numbers(11, OUTPUTS * INPUTS);
    for (row, weights) in matrix.chunks_exact_mut(INPUTS).enumerate().filter(|(row, _)| row % 2 == 0) {
        weights.fill(if row % 4 == 0 { 0.9 } else { -0.9 });
    }
    matrix
}

/// Activations: the first row is all at the end of the range, one is zero.
fn activations(rows: usize) -> Vec<f32> {
    let mut x = numbers(12, rows * INPUTS);
    x[..INPUTS].fill(3.0);
    if rows > 1 {
        x[INPUTS..2 * INPUTS].fill(0.0);
    }
    x
}

/// The numbers nearest to `values / step`.
fn codes(values: &[f32], step: f32) -> Vec<i64> {
    values.iter().map(|value| if step == 0.0 { 0 } else { (value / step).round_ties_even() as i64 }).collect()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0f32, |most, value| most.max(value.abs()))
}

#[test]
fn channels_are_multiplied_in_exact_whole_numbers() {
    check_processor();
    let (matrix, bias) = (full_range(), numbers(13, OUTPUTS));
    let (_folder, checkpoint) = checkpoint(&matrix, &bias);
    let mut onnx = Onnx::of(&layer(), &Weights::new(&checkpoint), Precision::Int8);
    for rows in [1, 2, 16, 300] {
        let x = activations(rows);
        let found = onnx.run(vec![("x", Given::f32(&[rows, INPUTS], x.clone()))]).remove("y").unwrap().1;
        for (row, x) in x.chunks_exact(INPUTS).enumerate() {
            let step = largest(x) / 127.0;
            let x = codes(x, step);
            for (output, weights) in matrix.chunks_exact(INPUTS).enumerate() {
                let scale = largest(weights) / 63.0;
                let whole: i64 = x.iter().zip(codes(weights, scale)).map(|(x, w)| x * w).sum();
                let expected = whole as f64 * f64::from(step) * f64::from(scale) + f64::from(bias[output]);
                let off = (f64::from(found[row * OUTPUTS + output]) - expected).abs();
                // One code of an activation may round to its neighbour.
                let allowed = 1e-5 * (1.0 + expected.abs()) + 2.0 * f64::from(step * scale) * 127.0;
                assert!(off <= allowed, "row {row} of {rows}, output {output}: {off} off {expected}");
            }
        }
    }
}

/// The same where codes count from each token's least number, as behind layer norms.
#[test]
fn channels_with_an_offset_are_multiplied_in_exact_whole_numbers() {
    check_processor();
    let graph = {
        let b = Builder::new();
        let x = b.input("x", Kind::Float, [Dim::named("rows"), Dim::from(INPUTS as i64)]);
        b.output("y", b.block("block".to_string(), || x.linear("layer", OUTPUTS as i64, true)));
        b.output("norm", x.layer_norm("norm", 1e-6));
        b.finish()
    };
    let (matrix, bias) = (full_range(), numbers(13, OUTPUTS));
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), &graph, |p| match p.key.as_str() {
        "block.layer.weight" => matrix.clone(),
        "block.layer.bias" => bias.clone(),
        _ => vec![1.0; INPUTS],
    });
    let checkpoint = Checkpoint::open(folder.path(), Naming::Bert).unwrap();
    let mut onnx = Onnx::of(&graph, &Weights::new(&checkpoint), Precision::Int8);
    for rows in [1, 2, 16, 300] {
        let mut x: Vec<f32> = activations(rows).iter().map(|value| value + 0.7).collect();
        // All codes of the first row but one are at the end of the range.
        x[0] = -1.0;
        let found = onnx.run(vec![("x", Given::f32(&[rows, INPUTS], x.clone()))]).remove("y").unwrap().1;
        for (row, x) in x.chunks_exact(INPUTS).enumerate() {
            let least = x.iter().fold(f32::INFINITY, |least, value| least.min(*value));
            let step = x.iter().fold(0.0f32, |most, value| most.max(value - least)) / 255.0;
            let x = codes(&x.iter().map(|value| value - least).collect::<Vec<_>>(), step);
            for (output, weights) in matrix.chunks_exact(INPUTS).enumerate() {
                let scale = largest(weights) / 63.0;
                let weights = codes(weights, scale);
                let whole: i64 = x.iter().zip(&weights).map(|(x, w)| x * w).sum();
                let sum = f64::from(least) * weights.iter().sum::<i64>() as f64 * f64::from(scale);
                let expected = whole as f64 * f64::from(step) * f64::from(scale) + sum + f64::from(bias[output]);
                let off = (f64::from(found[row * OUTPUTS + output]) - expected).abs();
                // One code of an activation may round to its neighbour.
                let allowed = 1e-5 * (1.0 + expected.abs() + sum.abs()) + 2.0 * f64::from(step * scale) * 127.0;
                assert!(off <= allowed, "row {row} of {rows}, output {output}: {off} off {expected}");
            }
        }
    }
}

/// One product of MatMulNBits.
fn product(bits: i64) -> OnnxGraph {
    let (inputs, outputs) = (INPUTS as i64, OUTPUTS as i64);
    let blocks = (inputs + BLOCK - 1) / BLOCK;
    let part = |form: Form, elem: Elem, dims: Vec<i64>| {
        let content =
            Content::Quantised { weight: Weight::Key("block.layer.weight".into()), storage: Storage::Blocks { bits }, form };
        Initialiser { name: form.name().into(), elem, dims, content }
    };
    let port = |name: &str, width| Port { name: name.into(), elem: Elem::F32, dims: vec![Dim::named("rows"), Dim::from(width)] };
    let settings = [("K", inputs), ("N", outputs), ("bits", bits), ("block_size", BLOCK), ("accuracy_level", 4)];
    OnnxGraph {
        name: "product".into(),
        inputs: vec![port("x", inputs)],
        outputs: vec![port("y", outputs)],
        nodes: vec![OnnxNode {
            op: "MatMulNBits",
            inputs: vec!["x".into(), "codes".into(), "scales".into()],
            outputs: vec!["y".into()],
            attributes: settings.map(|(name, value)| (name, Attribute::Int(value))).to_vec(),
        }],
        initialisers: vec![
            part(Form::Codes, Elem::U8, vec![outputs, blocks, BLOCK * bits / 8]),
            part(Form::Scales, Elem::F32, vec![outputs, blocks]),
        ],
        parameters: 0,
    }
}

/// Per block: the scale that gives the farthest number the lowest code, and the codes.
fn block_codes(block: &[f32], lowest: f32) -> (f32, Vec<i64>) {
    let farthest = block.iter().fold(0.0f32, |far, value| if value.abs() > far.abs() { *value } else { far });
    let scale = farthest / lowest;
    let clamped = codes(block, scale).into_iter().map(|code| code.clamp(lowest as i64, -lowest as i64 - 1)).collect();
    (scale, clamped)
}

#[test]
fn blocks_are_multiplied_in_exact_whole_numbers() {
    for (bits, lowest) in [(4, -8.0), (8, -128.0)] {
        let (matrix, bias) = (full_range(), vec![0.0; OUTPUTS]);
        let (_folder, checkpoint) = checkpoint(&matrix, &bias);
        let mut onnx = Onnx::of_lowered(&product(bits), &Weights::new(&checkpoint), Precision::Int4);
        for rows in [1, 2, 16, 40] {
            let x = activations(rows);
            let found = onnx.run(vec![("x", Given::f32(&[rows, INPUTS], x.clone()))]).remove("y").unwrap().1;
            for (row, x) in x.chunks_exact(INPUTS).enumerate() {
                for (output, weights) in matrix.chunks_exact(INPUTS).enumerate() {
                    let (mut expected, mut allowed) = (0.0, 1e-5);
                    for (x, weights) in x.chunks(BLOCK as usize).zip(weights.chunks(BLOCK as usize)) {
                        let step = largest(x) / 127.0;
                        let (scale, weights) = block_codes(weights, lowest);
                        let whole: i64 = codes(x, step).iter().zip(weights).map(|(x, w)| x * w).sum();
                        expected += whole as f64 * f64::from(step) * f64::from(scale);
                        allowed += 2.0 * f64::from((step * scale * lowest).abs());
                    }
                    let off = (f64::from(found[row * OUTPUTS + output]) - expected).abs();
                    assert!(off <= allowed, "{bits} bits, row {row} of {rows}, output {output}: {off} off {expected}");
                }
            }
        }
    }
}

/// Two convolutions with ReLUs, the second in whole numbers, and a pool.
fn convolutions() -> Graph {
    let b = Builder::new();
    let dims = [Dim::named("batch"), Dim::from(3), Dim::named("height"), Dim::named("width")];
    let x = b.input("x", Kind::Float, dims);
    let x = x.conv2d("a", CHANNELS as i64, 1, 1, 0).apply(Op::Relu).conv2d("b", OUTPUTS as i64, 3, 1, 1).apply(Op::Relu);
    b.output("y", x.apply(Op::MaxPool2d));
    b.finish()
}

/// Channels that go into the second convolution: of 3 x 3 weights each, so that 288 products are added up.
const CHANNELS: usize = 32;

/// A folder with the graph's weights, and the largest activations of its ReLUs, whose means are nothing.
fn with_activations(
    graph: &Graph,
    largest: &[(&str, f32)],
    values: impl Fn(&Parameter) -> Vec<f32>,
) -> (tempfile::TempDir, Activations) {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), graph, values);
    let weights = Checkpoint::open(folder.path(), Naming::Bert).unwrap().sha256().unwrap().to_string();
    let layers =
        largest.iter().map(|(module, value)| (module.to_string(), Layer { largest: *value, means: vec![0.0; CHANNELS] }));
    (folder, Activations::new("test".into(), weights, "data".into(), 1, layers.collect()))
}

/// Pixels 0 and 1 are copied with gains by the first convolution, so that the codes which go into the second are known: one image has all of them at the end of
/// the range, the other has any. Even outputs have all weights at the end of theirs.
#[test]
fn convolutions_are_made_in_exact_whole_numbers() {
    check_processor();
    const SIDE: usize = 6;
    let (steps, graph) = ([0.02f32, 16.0], convolutions());
    let matrix: Vec<f32> = numbers(21, OUTPUTS * CHANNELS * 9);
    let row = |output: usize| -> Vec<f32> {
        match output % 4 {
            0 => vec![0.9; CHANNELS * 9],
            2 => vec![-0.9; CHANNELS * 9],
            _ => matrix[output * CHANNELS * 9..][..CHANNELS * 9].to_vec(),
        }
    };
    let bias = numbers(22, OUTPUTS).iter().map(|value| 3000.0 * value).collect::<Vec<f32>>();
    let gain = |channel: usize, pixel: usize| if pixel == channel % 3 { 1.0f32 } else { 0.0 };
    let tops = [("a", 255.0 * steps[0]), ("b", 255.0 * steps[1])];
    let (folder, activations) = with_activations(&graph, &tops, |p| match p.key.as_str() {
        "a.weight" => (0..CHANNELS * 3).map(|index| gain(index / 3, index % 3)).collect(),
        "b.weight" => (0..OUTPUTS).flat_map(row).collect(),
        "b.bias" => bias.clone(),
        _ => vec![0.0; CHANNELS],
    });
    let checkpoint = Checkpoint::open(folder.path(), Naming::Bert).unwrap();
    let few = FewBits::default().with_convolutions(Convolutions::Codes(activations));
    for (portable, lowered) in [
        (false, lower_deciding(&graph, "graph", Precision::Int8, &few).unwrap()),
        (true, lower_portable(&graph, "graph", Precision::Int8, &few).unwrap()),
    ] {
        let operators: Vec<&str> = lowered.nodes.iter().map(|node| node.op).collect();
        assert_eq!(
            operators,
            [
                "Conv",
                "QuantizeLinear",
                "DequantizeLinear",
                "DequantizeLinear",
                "DequantizeLinear",
                "Conv",
                "QuantizeLinear",
                "MaxPool",
                "DequantizeLinear"
            ],
            "portable: {portable}"
        );
        let mut onnx = Onnx::of_decided(&lowered, &Weights::new(&checkpoint), &few, Precision::Int8);
        // Beyond the range, below zero, and anything.
        let any = numbers(23, 3 * SIDE * SIDE).into_iter().map(|value| 3.0 + 3.0 * value);
        let pixels: Vec<f32> = vec![9.0; 3 * SIDE * SIDE].into_iter().chain(any).chain(vec![-1.0; 3 * SIDE * SIDE]).collect();
        let found = onnx.run(vec![("x", Given::f32(&[3, 3, SIDE, SIDE], pixels.clone()))]).remove("y").unwrap().1;
        let codes: Vec<i64> = pixels.iter().map(|value| ((value / steps[0]).round_ties_even() as i64).clamp(0, 255)).collect();
        let sum = |image: usize, output: usize, y: usize, x: usize| -> i64 {
            let row = row(output);
            let scale = largest(&row) / 63.0;
            let weights = self::codes(&row, scale);
            let mut sum = (f64::from(bias[output]) / f64::from(steps[0]) / f64::from(scale)).round_ties_even() as i64;
            for (index, weight) in weights.iter().enumerate() {
                let (channel, dy, dx) = (index / 9, index % 9 / 3, index % 3);
                let (Some(y), Some(x)) = ((y + dy).checked_sub(1), (x + dx).checked_sub(1)) else { continue };
                if y < SIDE && x < SIDE {
                    sum += weight * codes[((image * 3 + channel % 3) * SIDE + y) * SIDE + x];
                }
            }
            sum
        };
        let half = SIDE / 2;
        for (place, found) in found.iter().enumerate() {
            let (image, output, y, x) =
                (place / (OUTPUTS * half * half), place / (half * half) % OUTPUTS, place / half % half, place % half);
            let scale = f64::from(largest(&row(output)) / 63.0) * f64::from(steps[0]) / f64::from(steps[1]);
            let most =
                [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(dy, dx)| sum(image, output, 2 * y + dy, 2 * x + dx)).into_iter().max();
            let exact = (most.unwrap() as f64 * scale).clamp(0.0, 255.0);
            let off = (f64::from(*found) / f64::from(steps[1]) - exact).abs();
            assert!(off <= 0.5 + 1e-4, "portable: {portable}, image {image}, output {output}: {off} codes off {exact}");
        }
        let alone = onnx.run(vec![("x", Given::f32(&[1, 3, SIDE, SIDE], pixels[3 * SIDE * SIDE..][..3 * SIDE * SIDE].to_vec()))]);
        assert!(alone["y"].1 == found[OUTPUTS * half * half..][..OUTPUTS * half * half], "no image sees another");
    }
}

/// Set for the tests below where they run on an emulated processor.
const EMULATED: &str = "MMLNB_TEST_EMULATED";

/// An emulated processor has the instructions that are to be tested, and not those of the processor at hand.
fn check_processor() {
    #[cfg(target_arch = "x86_64")]
    if std::env::var_os(EMULATED).is_some() {
        assert!(is_x86_feature_detected!("avx2") && !is_x86_feature_detected!("avx512vnni"), "not AVX2 alone");
    }
}

/// The tests before on an emulated processor of AVX2, whose instructions saturate where those of the processor at hand may not.
#[test]
fn products_are_exact_where_whole_dot_products_are_no_instruction() {
    let emulator = std::process::Command::new("qemu-x86_64")
        .args(["-cpu", "Haswell"])
        .arg(std::env::current_exe().unwrap())
        .args(["quantised::channels", "quantised::convolutions", "quantised::blocks"])
        .env(EMULATED, "1")
        .output();
    let output = match emulator {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return eprintln!("skipped: qemu-x86_64 is absent (Debian's package qemu-user)");
        }
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("4 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Every precision of few bits, the least cosine of the first logits to the reference's, and how far one may lie off, relative to the largest. The networks of the reference data are small and
/// random, which is the worst case of few bits: their weights use the whole range evenly, and errors do not average out.
const FEW_BITS: [(Precision, f64, f32); 2] = [(Precision::Int8, 0.995, 0.1), (Precision::Int4, 0.8, 0.7)];

pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn first_logits_stay_near(name: &str, checkpoint: &str) {
    let Some(folder) = family(name) else { return };
    let source = Source::open(&folder.join(checkpoint), None).unwrap();
    let Sizes::Qwen(config) = source.sizes().clone() else { panic!("a Qwen2.5-VL") };
    let cases = json(&folder.join("cases.json"));
    for (precision, least, farthest) in FEW_BITS {
        let mut describer = Describer::new(&source, config.clone(), precision);
        let (mut worst, mut nearest) = (0.0f32, 1.0f64);
        for case in list(&cases, "cases") {
            let tensors = Tensors::read(folder.join(text(case, "tensors")));
            let ids = tensors.i64("input_ids").1;
            let rows: Vec<f32> = integers(case, "images")
                .iter()
                .flat_map(|n| image_embeds(&folder, &cases["images"][*n as usize], &mut describer))
                .collect();
            let embeds = describer.embeds(&ids, &rows);
            let delta = tensors.i64("rope_deltas").1[0];
            let prompt =
                crate::describer::Prompt { embeds, positions: position_lists(&tensors, "position_ids", 0, 0..ids.len()), delta };
            let (_, logits) = generate(&mut describer, &ids, &prompt, 1.0, 1);
            let expected = tensors.f32("prefill_logits").1;
            worst = worst.max(crate::golden_files::distance(&logits, &expected) / largest(&expected));
            nearest = nearest.min(cosine(&logits, &expected));
        }
        println!("{name} {precision}: {worst} of the largest logit, cosine {nearest}");
        assert!(nearest >= least && worst <= farthest, "{name} at {precision}: cosine {nearest}, {worst} of the largest logit");
    }
}

#[test]
fn golden_qwen2_5_vl_in_few_bits() {
    first_logits_stay_near("qwen2_5_vl", "");
}

#[test]
fn golden_qwen2_5_vl_b_in_few_bits() {
    first_logits_stay_near("qwen2_5_vl_b", "");
}

#[test]
fn what_is_no_transformer_and_what_is_looked_up_stays_in_floats() {
    let b = Builder::new();
    let x = b.input("x", Kind::Float, [Dim::named("rows"), Dim::from(8)]);
    b.output("y", x.linear("layer", 4, true));
    let lowered = lower(&b.finish(), "small", Precision::Int4).unwrap();
    assert!(lowered.nodes.iter().any(|node| node.op == "MatMul"), "{lowered}");
    let Some(folder) = family("qwen2_5_vl") else { return };
    let source = Source::open(&folder, None).unwrap();
    let table = lower(&source.graph(Network::Embedding).unwrap(), "embedding", Precision::Int8).unwrap();
    assert_eq!(table.initialisers[0].elem, Elem::F16);
    assert_eq!(table.outputs[0].elem, Elem::F32);
}

/// Real weights, whose activations have outliers.
#[test]
fn golden_minilm_at_int8() {
    let Some(folder) = family("minilm") else { return };
    let cases = json(&folder.join("cases.json"));
    let Some((_kept, file)) = crate::minilm::weights(&folder, &cases) else { return };
    let config = BertConfig::from_json(&folder.join("cases.json"), &cases["config"]).unwrap();
    let checkpoint = Checkpoint::open(&file, Naming::Bert).unwrap();
    let expected = Tensors::read(folder.join("expected.safetensors"));
    let inputs = ["input_ids", "attention_mask"].map(|name| {
        let (shape, values) = expected.i64(name);
        (name, Given::i64(&shape, values))
    });
    let mut onnx = Onnx::of(&networks::bert(&config, ""), &Weights::new(&checkpoint), Precision::Int8);
    let found = onnx.run(inputs.to_vec()).remove("text_features").unwrap().1;
    let width = config.hidden as usize;
    for (found, expected) in found.chunks_exact(width).zip(expected.f32("pooler_output").1.chunks_exact(width)) {
        let cosine = cosine(found, expected);
        println!("pooler at int8: cosine {cosine}");
        assert!(cosine >= 0.997, "{cosine}");
    }
}
