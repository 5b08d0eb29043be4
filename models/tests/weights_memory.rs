//! Streaming a weight by blocks needs the memory of a block, however large the weight is.
#![cfg(target_os = "linux")]

use mmlnb_models::{
    graph::Weight,
    weights::{Adapter, AdapterConfig, AdapterTensors, Checkpoint, KeyStyle, Naming, Targets, Weights},
};
use std::{collections::BTreeMap, fs, io::Write};

const MIB: usize = 1 << 20;
const MODULE: &str = "model.layers.0.mlp.up_proj";

/// Anonymous memory of this process in bytes.
fn anonymous() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn a_large_matrix_is_streamed_in_the_memory_of_a_block() {
    let (rows, inputs) = (16 * 1024, 4096);
    let folder = tempfile::tempdir().unwrap();
    let header =
        format!(r#"{{"{MODULE}.weight":{{"dtype":"BF16","shape":[{rows},{inputs}],"data_offsets":[0,{}]}}}}"#, 2 * rows * inputs);
    let mut file = fs::File::create(folder.path().join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + 2 * rows * inputs) as u64).unwrap();
    let config = AdapterConfig {
        rank: 1,
        alpha: 1.0,
        dropout: 0.0,
        rslora: false,
        dora: false,
        targets: Targets::AllLinear,
        exclude: None,
        layers: None,
        rank_pattern: vec![],
        alpha_pattern: vec![],
        base_model: None,
    };
    let tensors = AdapterTensors { rank: 1, inputs, outputs: rows, a: vec![2.0; inputs], b: vec![0.5; rows], magnitude: None };
    Adapter::write(folder.path(), &config, KeyStyle::Later, &BTreeMap::from([(MODULE.to_string(), tensors)])).unwrap();
    let checkpoint = Checkpoint::open(&folder.path().join("model.safetensors"), Naming::Qwen).unwrap();
    let adapter = Adapter::open(folder.path()).unwrap();
    let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
    let base = Weight::Key(format!("{MODULE}.weight"));
    let scale_bits = adapter.adaption(MODULE).unwrap().scale.to_bits();
    let adapted = Weight::Adapted { base: Box::new(base.clone()), module: MODULE.into(), rank: 1, scale_bits, magnitude: false };
    let before = anonymous();
    let mut most = 0;
    for (weight, value) in [(base, 0.0), (adapted, 1.0)] {
        let mut count = 0;
        for block in weights.blocks(&weight, 8 * MIB).unwrap() {
            let block = block.unwrap();
            assert!(block.iter().all(|found| *found == value));
            count += block.len();
            most = most.max(anonymous());
        }
        assert_eq!(count, rows * inputs);
    }
    let grown = most.saturating_sub(before);
    assert!(grown < 48 * MIB, "anonymous memory grew by {} MiB while 256 MiB were streamed", grown / MIB);
}
