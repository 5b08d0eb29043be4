//! Laws of evaluating weights: any cut into rows gives the same numbers, stacks are their parts, merging is `W + scale * B A`.

use half::{bf16, f16};
use mmlnb_models::{
    graph::Weight,
    weights::{Adapter, AdapterConfig, AdapterTensors, Checkpoint, DType, KeyStyle, Naming, Targets, Weights},
};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use std::{collections::BTreeMap, collections::HashMap, fs, path::Path};
use tempfile::TempDir;

const Q: &str = "model.layers.0.self_attn.q_proj.weight";
const K: &str = "model.layers.0.self_attn.k_proj.weight";
const V: &str = "model.layers.0.self_attn.v_proj.weight";
const KERNEL: &str = "visual.patch_embed.proj.weight";

/// A number from -1 to 1 that depends on two others.
fn number(seed: u64, index: usize) -> f32 {
    let mixed = (seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed >> 40) as f32 / (1 << 23) as f32) - 1.0
}

fn numbers(seed: u64, count: usize) -> Vec<f32> {
    (0..count).map(|i| number(seed, i)).collect()
}

/// A describer's checkpoint in one type: q and k of `rows` and 3 rows, v in f32, a kernel.
fn write_base(folder: &Path, rows: usize, inputs: usize, dtype: DType) {
    let like = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
    };
    let tensors = [
        (Q, like, vec![rows, inputs], dtype.encode(&numbers(1, rows * inputs))),
        (K, like, vec![3, inputs], dtype.encode(&numbers(2, 3 * inputs))),
        (V, Dtype::F32, vec![3, inputs], DType::F32.encode(&numbers(3, 3 * inputs))),
        (KERNEL, like, vec![4, 3, 2, 2], dtype.encode(&numbers(4, 48))),
        // An odd number of bytes before the others would leave them unaligned.
        ("rotary_emb.inv_freq", Dtype::U8, vec![3], vec![0; 3]),
    ];
    let views = tensors.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let bytes = safetensors::serialize(views, None::<HashMap<String, String>>).unwrap();
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

fn config(rank: usize, dora: bool) -> AdapterConfig {
    AdapterConfig {
        rank: rank as i64,
        alpha: 3.0,
        dropout: 0.0,
        rslora: false,
        dora,
        targets: Targets::Names(vec!["q_proj".into()]),
        exclude: None,
        layers: None,
        rank_pattern: vec![],
        alpha_pattern: vec![],
        base_model: None,
    }
}

fn write_adapter(folder: &Path, rows: usize, inputs: usize, rank: usize, dora: bool) {
    let magnitude = dora.then(|| numbers(7, rows).iter().map(|v| v + 2.0).collect());
    let tensors =
        AdapterTensors { rank, inputs, outputs: rows, a: numbers(5, rank * inputs), b: numbers(6, rows * rank), magnitude };
    let module = Q.trim_end_matches(".weight").to_string();
    Adapter::write(folder, &config(rank, dora), KeyStyle::Later, &BTreeMap::from([(module, tensors)])).unwrap();
}

fn key(key: &str) -> Weight {
    Weight::Key(key.into())
}

fn adapted(adapter: &Adapter) -> Weight {
    let module = Q.trim_end_matches(".weight");
    let adaption = adapter.adaption(module).unwrap();
    Weight::Adapted {
        base: Box::new(key(Q)),
        module: module.into(),
        rank: adaption.rank,
        scale_bits: adaption.scale.to_bits(),
        magnitude: adaption.magnitude,
    }
}

/// What the merged matrix is, in f64.
fn reference(base: &[f32], t: &AdapterTensors, scale: f64) -> Vec<f64> {
    let mut merged = Vec::new();
    for o in 0..t.outputs {
        let delta =
            |i: usize| (0..t.rank).map(|r| f64::from(t.b[o * t.rank + r]) * f64::from(t.a[r * t.inputs + i])).sum::<f64>();
        let row: Vec<f64> = (0..t.inputs).map(|i| f64::from(base[o * t.inputs + i]) + scale * delta(i)).collect();
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        let factor = t.magnitude.as_ref().map_or(1.0, |m| f64::from(m[o]) / norm);
        merged.extend(row.iter().map(|v| v * factor));
    }
    merged
}

struct Case {
    folder: TempDir,
}

impl Case {
    fn new(rows: usize, inputs: usize, rank: usize, dtype: DType, dora: bool) -> Case {
        let folder = tempfile::tempdir().unwrap();
        write_base(folder.path(), rows, inputs, dtype);
        write_adapter(&folder.path().join("adapter"), rows, inputs, rank, dora);
        Case { folder }
    }

    fn open(&self) -> (Checkpoint, Adapter) {
        let checkpoint = Checkpoint::open(self.folder.path(), Naming::Qwen).unwrap();
        (checkpoint, Adapter::open(&self.folder.path().join("adapter")).unwrap())
    }
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_cut_into_rows_gives_the_same_numbers(
        rows in 1usize..9, inputs in 1usize..40, rank in 1usize..10, dtype in dtypes(), dora: bool, from in 0usize..20, to in 0usize..20, bytes in 0usize..900
    ) {
        let case = Case::new(rows, inputs, rank, dtype, dora);
        let (checkpoint, adapter) = case.open();
        let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
        let stack = Weight::Stack(vec![key(K), adapted(&adapter), key(V)]);
        for weight in [key(Q), Weight::Matrix(KERNEL.into()), key(KERNEL), adapted(&adapter), stack] {
            let shape = weights.shape(&weight).unwrap();
            let (all, width) = (weights.all(&weight).unwrap(), shape[1..].iter().product::<usize>());
            prop_assert_eq!(all.len(), shape[0] * width);
            let (a, b) = (from % (shape[0] + 1), to % (shape[0] + 1));
            let (a, b) = (a.min(b), a.max(b));
            prop_assert_eq!(&weights.rows(&weight, a..b).unwrap(), &all[a * width..b * width]);
            let blocks: Vec<Vec<f32>> = weights.blocks(&weight, bytes).unwrap().map(Result::unwrap).collect();
            prop_assert!(blocks.iter().all(|block| block.len() * 4 <= bytes.max(width * 4)));
            prop_assert_eq!(blocks.concat(), all);
            prop_assert!(weights.rows(&weight, 0..shape[0] + 1).is_err());
        }
    }

    #[test]
    fn a_stack_is_its_parts(rows in 1usize..9, inputs in 1usize..20, dtype in dtypes()) {
        let case = Case::new(rows, inputs, 1, dtype, false);
        let (checkpoint, _) = case.open();
        let weights = Weights::new(&checkpoint);
        let parts = [key(K), key(Q), key(V)];
        let stack = Weight::Stack(parts.to_vec());
        let together: Vec<f32> = parts.iter().flat_map(|part| weights.all(part).unwrap()).collect();
        prop_assert_eq!(weights.shape(&stack).unwrap(), vec![rows + 6, inputs]);
        prop_assert_eq!(weights.all(&stack).unwrap(), together);
        prop_assert!(weights.shape(&Weight::Stack(vec![key(K), key(KERNEL)])).is_err());
        // Bytes can be copied when all parts have one type.
        prop_assert_eq!(weights.stored(&stack).is_some(), dtype == DType::F32);
        let same = Weight::Stack(vec![key(K), key(Q)]);
        let stored = weights.stored(&same).unwrap();
        prop_assert_eq!(stored.decode(0..stored.rows()), weights.all(&same).unwrap());
    }

    #[test]
    fn merging_is_the_formula(rows in 1usize..6, inputs in 1usize..30, rank in 1usize..10, dtype in dtypes(), dora: bool) {
        let case = Case::new(rows, inputs, rank, dtype, dora);
        let (checkpoint, adapter) = case.open();
        let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
        let t = adapter.tensors(Q.trim_end_matches(".weight")).unwrap();
        let expected = reference(&weights.all(&key(Q)).unwrap(), &t, 3.0 / rank as f64);
        let merged = weights.all(&adapted(&adapter)).unwrap();
        let largest = expected.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        for (found, expected) in merged.iter().zip(&expected) {
            prop_assert!((f64::from(*found) - expected).abs() <= 1e-5 * largest, "{} {}", found, expected);
        }
        prop_assert!(Weights::new(&checkpoint).all(&adapted(&adapter)).is_err(), "without the adapter there is nothing to merge");
    }

    #[test]
    fn half_types_are_read_exactly_and_written_to_the_nearest(bits in prop::collection::vec(any::<u16>(), 1..50)) {
        for dtype in [DType::F16, DType::BF16] {
            let exact = |bits: u16| if dtype == DType::F16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() };
            // One number at least: a tensor without any is refused.
            let values: Vec<f32> = bits.iter().map(|b| exact(*b)).filter(|v| v.is_finite()).chain([0.5]).collect();
            let folder = tempfile::tempdir().unwrap();
            let name = if dtype == DType::F16 { Dtype::F16 } else { Dtype::BF16 };
            let data = dtype.encode(&values);
            let view = [("a", TensorView::new(name, vec![values.len()], &data).unwrap())];
            fs::write(folder.path().join("model.safetensors"), safetensors::serialize(view, None::<HashMap<String, String>>).unwrap()).unwrap();
            let checkpoint = Checkpoint::open(folder.path(), Naming::Bert).unwrap();
            prop_assert_eq!(Weights::new(&checkpoint).all(&key("a")).unwrap(), values);
        }
    }
}

#[test]
fn a_matrix_large_enough_for_several_threads_is_merged_alike() {
    let (rows, inputs, rank) = (600, 2100, 8);
    let case = Case::new(rows, inputs, rank, DType::BF16, true);
    let (checkpoint, adapter) = case.open();
    let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
    let weight = adapted(&adapter);
    let all = weights.all(&weight).unwrap();
    for row in [0, 1, 299, 300, 599] {
        assert_eq!(weights.rows(&weight, row..row + 1).unwrap(), all[row * inputs..(row + 1) * inputs]);
    }
    let t = adapter.tensors(Q.trim_end_matches(".weight")).unwrap();
    let expected = reference(&weights.all(&key(Q)).unwrap(), &t, 3.0 / rank as f64);
    assert!(all.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6));
}

#[test]
fn keys_that_are_absent_are_named() {
    let case = Case::new(2, 2, 1, DType::F32, false);
    let (checkpoint, _) = case.open();
    let text = Weights::new(&checkpoint).all(&key("model.nowhere.weight")).unwrap_err().to_string();
    assert!(text.contains("model.nowhere.weight") && text.contains("no such tensor"), "{text}");
}
