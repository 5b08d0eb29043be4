//! Adapters of golden/lora against PEFT: merged matrices and the list of weights that merging changes.

mod golden_files;

use golden_files::Tensors;
use mmlnb_models::{
    config::QwenConfig,
    graph::{Graph, Weight},
    networks,
    weights::{Adapter, Checkpoint, Naming, Weights},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// All networks of a describer, adapted.
fn adapted_graphs(base: &Path, adapter: &Adapter) -> Vec<Graph> {
    let config = QwenConfig::from_dir(base).unwrap();
    let plain = [networks::vision(&config.vision), networks::decoder(&config.text, true)];
    let linears: BTreeSet<&str> =
        plain.iter().flat_map(|graph| graph.parameters()).filter_map(|p| p.key.strip_suffix(".weight")).collect();
    assert!(adapter.modules().iter().all(|module| linears.contains(module.as_str())));
    plain.iter().map(|graph| graph.adapt(&|module| adapter.adaption(module), &[]).unwrap()).collect()
}

fn all_weights(graphs: &[Graph]) -> Vec<Weight> {
    graphs.iter().flat_map(|g| &g.nodes).flat_map(|node| node.op.weights()).cloned().collect()
}

#[test]
fn golden_lora_merged_matrices_equal_pefts() {
    let Some(folder) = golden_files::family("lora") else { return };
    let cases = golden_files::json(&folder.join("cases.json"));
    let base = folder.join("..").join(golden_files::text(&cases, "base"));
    let checkpoint = Checkpoint::open(&base, Naming::Qwen).unwrap();
    let tolerance = cases["tolerance"]["merged_weights"].as_f64().unwrap();
    for case in golden_files::list(&cases, "cases") {
        let name = golden_files::text(case, "name");
        let adapter = Adapter::open(&folder.join(golden_files::text(case, "adapter"))).unwrap();
        let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
        let graphs = adapted_graphs(&base, &adapter);
        let expected = Tensors::read(folder.join(golden_files::text(case, "tensors")));
        let mut compared = 0;
        for weight in all_weights(&graphs) {
            let key = format!("merged.{}", weight.keys()[0]);
            if !expected.has(&key) {
                continue;
            }
            let (shape, values) = expected.f32(&key);
            assert_eq!(weights.shape(&weight).unwrap(), shape);
            let worst = f64::from(golden_files::distance(&weights.all(&weight).unwrap(), &values));
            assert!(worst <= tolerance, "{name}: {weight} differs by {worst}, at most {tolerance} is right");
            compared += 1;
        }
        let merged = expected.names().iter().filter(|name| name.starts_with("merged.")).count();
        assert!(compared == merged && merged > 0, "{name}: {compared} of {merged} merged tensors were compared");
    }
}

#[test]
fn golden_lora_just_the_listed_weights_change() {
    let Some(folder) = golden_files::family("lora") else { return };
    let cases = golden_files::json(&folder.join("cases.json"));
    let base = folder.join("..").join(golden_files::text(&cases, "base"));
    let checkpoint = Checkpoint::open(&base, Naming::Qwen).unwrap();
    for case in golden_files::list(&cases, "cases") {
        let adapter = Adapter::open(&folder.join(golden_files::text(case, "adapter"))).unwrap();
        let weights = Weights::with_adapter(&checkpoint, &adapter).unwrap();
        let graphs = adapted_graphs(&base, &adapter);
        let references: Vec<&Graph> = graphs.iter().collect();
        assert_eq!(adapter.verify_changes(&weights, &references).unwrap(), Vec::<String>::new());
        assert_eq!(adapter.absent(&checkpoint), Vec::<String>::new());
        let plain = Weights::new(&checkpoint);
        let key = |weight: &Weight| weight.keys()[0].to_string();
        let changes = |w: &Weight| weights.all(w).unwrap() != plain.all(&Weight::Key(key(w))).unwrap();
        let changed: BTreeSet<String> = all_weights(&graphs).iter().filter(|w| changes(w)).map(key).collect();
        let listed = case["changed_weights"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_string());
        assert_eq!(changed, listed.collect::<BTreeSet<String>>(), "{}", case["name"]);
    }
}

#[test]
fn golden_lora_both_key_styles_are_one_adapter() {
    let Some(folder) = golden_files::family("lora") else { return };
    let cases = golden_files::json(&folder.join("cases.json"));
    let pair = golden_files::list(&cases, "same_adapter_with_old_names");
    let [later, old] = [0, 1].map(|i| Adapter::open(&folder.join(pair[i].as_str().unwrap())).unwrap());
    assert_eq!(later.modules(), old.modules());
    for module in later.modules() {
        assert_eq!(later.tensors(module), old.tensors(module));
        assert_eq!(later.adaption(module), old.adaption(module));
    }
}

#[test]
fn golden_lora_written_adapters_equal_pefts() {
    let Some(folder) = golden_files::family("lora") else { return };
    let cases = golden_files::json(&folder.join("cases.json"));
    let written = tempfile::tempdir().unwrap();
    for case in golden_files::list(&cases, "cases") {
        let original = folder.join(golden_files::text(case, "adapter"));
        let adapter = Adapter::open(&original).unwrap();
        let tensors: BTreeMap<_, _> = adapter.modules().iter().map(|m| (m.clone(), adapter.tensors(m).unwrap())).collect();
        Adapter::write(written.path(), adapter.config(), adapter.style(), &tensors).unwrap();
        let [ours, pefts] = [written.path(), &original].map(|f| Tensors::read(f.join("adapter_model.safetensors")));
        assert_eq!(ours.names().into_iter().collect::<BTreeSet<_>>(), pefts.names().into_iter().collect::<BTreeSet<_>>());
        assert!(ours.names().iter().all(|name| ours.f32(name) == pefts.f32(name)));
        let [ours, pefts] = [written.path(), &original].map(|f| golden_files::json(&f.join("adapter_config.json")));
        for (key, value) in ours.as_object().unwrap() {
            assert_eq!(value, &pefts[key], "{}: {key}", original.display());
        }
        assert_eq!(Adapter::open(written.path()).unwrap().config(), adapter.config());
    }
}
