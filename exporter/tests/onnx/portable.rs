//! Operators of the standard alone: what is written names no other, and computes what the other form does. The reference data are in the golden tests.

use crate::{
    describer::{Batch, Language, Prompt},
    golden_files::family,
    random::{numbers, text_config, write_random},
    session::{Onnx, assert_near},
};
use mmlnb_exporter::{FewBits, Network, Source, export_lowered, lower_portable, not_portable, onnx::ModelProto};
use mmlnb_models::{
    bundle::Precision,
    networks,
    weights::{Checkpoint, Naming, Weights},
};
use proptest::prelude::*;
use prost::Message;
use std::{fs, path::PathBuf};

const PORTABLE: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Int8];

/// Every network of every folder of reference data.
fn sources() -> Vec<(Source, Network)> {
    let folder = |name: &str, sub: &str| family(name).map(|folder| folder.join(sub));
    let folders: Vec<PathBuf> = [
        folder("qwen2_5_vl", ""),
        folder("qwen2_5_vl_b", ""),
        folder("vgg16", ""),
        folder("swin", ""),
        folder("bert", ""),
        folder("curriculum", "checkpoint"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let networks = |dir: PathBuf| {
        let networks = Source::open(&dir, None).unwrap().networks();
        networks.into_iter().map(move |network| (Source::open(&dir, None).unwrap(), network))
    };
    folders.into_iter().flat_map(networks).collect()
}

#[test]
fn golden_qwen2_5_vl_and_all_others_name_no_operators_of_onnx_runtime() {
    let folder = tempfile::tempdir().unwrap();
    for (source, network) in sources() {
        for precision in PORTABLE {
            let lowered =
                lower_portable(&source.graph(network).unwrap(), network.name(), precision, &FewBits::default()).unwrap();
            let written = export_lowered(&lowered, &source.weights().unwrap(), precision, folder.path(), &[], &|_| ()).unwrap();
            let model = ModelProto::decode(fs::read(&written.file).unwrap().as_slice()).unwrap();
            let domains: Vec<&str> = model.opset_import.iter().map(|set| set.domain.as_deref().unwrap()).collect();
            assert_eq!(domains, [""], "{} at {precision}", network.name());
            for node in &model.graph.unwrap().node {
                assert_eq!(node.domain.as_deref(), Some(""), "{node:?}");
                let since = mmlnb_exporter::nodes::OPERATORS.iter().find(|(name, ..)| Some(*name) == node.op_type.as_deref());
                let (.., since) = since.unwrap_or_else(|| panic!("{node:?}"));
                assert!(*since <= 21, "{node:?} is of operator set {since}");
            }
        }
    }
}

#[test]
fn four_bits_have_no_portable_form() {
    for precision in [Precision::Int4, Precision::Int4Int8] {
        let problem = not_portable(precision).unwrap();
        let graph = networks::decoder(&text_config(16, 1, 2, 1), true);
        assert_eq!(lower_portable(&graph, "decoder", precision, &FewBits::default()).unwrap_err().to_string(), problem);
        assert!(problem.contains("--precision"), "{problem}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// Prompts and steps of rows of different lengths on one cache: as with ONNX Runtime's own operators.
    #[test]
    fn a_portable_decoder_is_the_other_one(
        head in prop::sample::select(vec![4i64, 12, 16, 32]),
        (kv, shared, layers) in (1i64..3, 1i64..4, 1i64..3),
        lengths in prop::collection::vec(1usize..12, 1..4),
        seed in any::<u64>(),
    ) {
        let config = text_config(head, kv, shared, layers);
        let graph = networks::decoder(&config, true);
        let folder = tempfile::tempdir().unwrap();
        write_random(folder.path(), &graph, seed);
        let checkpoint = Checkpoint::open(folder.path(), Naming::Qwen).unwrap();
        let weights = Weights::new(&checkpoint);
        for (precision, allowed) in PORTABLE.into_iter().zip([1e-5, 0.02, 0.05]) {
            let [own, portable] = [Onnx::of, Onnx::portable].map(|read| {
                let mut language = Language::new(config.clone(), read(&graph, &weights, precision), precision);
                let (mut rows, mut logits) = (Vec::new(), Vec::new());
                for (row, length) in lengths.iter().enumerate() {
                    let embeds = numbers(seed ^ row as u64, length * config.hidden as usize);
                    let positions = std::array::from_fn(|_| (0..*length as i64).collect());
                    let (batch, results) = language.prefill(&Prompt { embeds, positions, delta: 0 }, 16, &[*length as i64 - 1]);
                    rows.push(batch);
                    logits.push(results["logits"].1.clone());
                }
                let mut batch = Batch::joined(&rows);
                for step in 0..3 {
                    let embeds = numbers(seed.wrapping_add(step), lengths.len() * config.hidden as usize);
                    logits.extend(language.step(&mut batch, embeds));
                }
                logits.concat()
            });
            assert_near(&format!("at {precision}"), &portable, &own, allowed);
        }
    }
}
