//! The model that the authors of MMLNB released (github HovChen/MMLNB), as a classifier's folder.
//!
//! Differences to the paper that the folder carries: a confidence network of two layers, the classes in the order PD, D, UD, no image head. The file's
//! confidence network reads [T; I], ours [I; T]: the columns of its first layer change places.

use super::{
    state_dict::StateDict,
    written::{Imported, Named, write_safetensors},
};
use crate::{error::StudyError, run::files::not_an_input};
use mmlnb_models::{
    config::{CLASSIFIER_MODEL_TYPE, ClassifierConfig},
    graph::Graph,
    json, networks,
    prepare::bert_tokenizer::BertTokenizer,
    weights::{Checkpoint, Naming},
};
use serde_json::{Value, json};
use std::{borrow::Cow, fs, path::Path};

const CLASSES: [&str; 3] = ["PD", "D", "UD"];
/// The released code's longest text in tokens.
const MAX_LENGTH: i64 = 128;
/// The released code's image side in pixels.
const SIDE: i64 = 224;
const CONFIDENCE: &str = "fusion_module.confidence_net.0.weight";
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "vocab.txt"];

pub(super) fn is_released(state: &StateDict) -> bool {
    state.shapes().any(|(name, _)| name == CONFIDENCE)
}

/// Writes the folder beside the target and renames it when it is whole and fits the network.
pub(super) fn write(state: &StateDict, output: &Path, text: &Path) -> Result<Imported, StudyError> {
    let config = config(state, text)?;
    let tensors = tensors(state, &config)?;
    let partial = output.with_extension("partial");
    not_an_input(&partial, &[("--text", text), ("the import", state.file())])?;
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(StudyError::io("remove", &partial))?;
    }
    fs::create_dir_all(&partial).map_err(StudyError::io("create", &partial))?;
    let written = fill(&partial, &config, &tensors, text).and_then(|()| check(&partial, state));
    if let Err(error) = written {
        fs::remove_dir_all(&partial).map_err(StudyError::io("remove", &partial))?;
        return Err(error);
    }
    fs::rename(&partial, output).map_err(StudyError::io("rename", &partial))?;
    let what = format!("the released MMLNB model as a classifier of {}, without an image head", CLASSES.join(", "));
    Ok(Imported { path: output.to_path_buf(), what, tensors: tensors.len() })
}

fn fill(folder: &Path, config: &Value, tensors: &[Named<'_>], text: &Path) -> Result<(), StudyError> {
    write_safetensors(tensors, &folder.join("model.safetensors"))?;
    let file = folder.join("config.json");
    let mut written = serde_json::to_vec_pretty(config).map_err(|error| StudyError::Failed(error.to_string()))?;
    written.push(b'\n');
    fs::write(&file, written).map_err(StudyError::io("write", &file))?;
    for name in TOKENIZER_FILES.iter().filter(|name| text.join(name).exists()) {
        fs::copy(text.join(name), folder.join(name)).map_err(StudyError::io("copy", &text.join(name)))?;
    }
    Ok(())
}

/// Whether the folder opens as a classifier with just these tensors.
fn check(folder: &Path, state: &StateDict) -> Result<(), StudyError> {
    let unfit = |problem: String| StudyError::File { path: state.file().to_path_buf(), problem };
    let config = ClassifierConfig::from_dir(folder)?;
    let (Some((encoder, _)), Some(bert)) = (&config.image, &config.text) else {
        return Err(unfit("it lacks one of the two encoders".into()));
    };
    let graphs = [networks::image_encoder(encoder, "image"), networks::bert(bert, "text"), networks::prmf(&config)];
    let checkpoint = Checkpoint::open(folder, Naming::Classifier)?;
    checkpoint.check_all(graphs.iter().map(Graph::parameters)).map_err(|error| unfit(error.to_string()))?;
    BertTokenizer::from_dir(folder)
        .and_then(|tokenizer| tokenizer.within(bert.vocabulary))
        .map_err(|error| StudyError::Asked(format!("the tokenizer of --text cannot be used: {error}")))?;
    Ok(())
}

fn config(state: &StateDict, text: &Path) -> Result<Value, StudyError> {
    let unfit = |problem: String| StudyError::File { path: state.file().to_path_buf(), problem };
    let shape = |name: &str| {
        let found = state.shapes().find(|(known, _)| *known == name).map(|(_, shape)| shape.to_vec());
        found.ok_or_else(|| unfit(format!("it lacks {name}")))
    };
    let channels = [0, 5, 10, 17, 24]
        .iter()
        .map(|n| Ok(shape(&format!("image_model.{n}.weight"))?[0]))
        .collect::<Result<Vec<_>, StudyError>>()?;
    let classes = shape("classifier.2.weight")?[0];
    if classes != CLASSES.len() {
        return Err(unfit(format!("it has {classes} classes, the released model has {}", CLASSES.join(", "))));
    }
    let positions = shape("text_model.embeddings.position_embeddings.weight")?[0] as i64;
    let bert = bert(text, MAX_LENGTH.min(positions))?;
    Ok(json!({
        "model_type": CLASSIFIER_MODEL_TYPE,
        "classes": CLASSES,
        "image_encoder": {
            "architecture": "vgg16",
            "channels": channels,
            "feature_size": channels[4],
            "image_size": [SIDE, SIDE],
            "resample": "bilinear",
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        "text_encoder": bert,
        "confidence_hidden": shape(CONFIDENCE)?[0],
        "image_head": false,
    }))
}

/// BERT's settings: of a checkpoint, or of a classifier's folder, which also says how long a text may be.
fn bert(text: &Path, max_length: i64) -> Result<Value, StudyError> {
    let mut config = json::read(&text.join("config.json"))?;
    let mut bert = match config.get_mut("text_encoder") {
        Some(section) => section.take(),
        None => config,
    };
    if let Some(settings) = bert.as_object_mut() {
        settings.entry("max_length").or_insert(json!(max_length));
    }
    Ok(bert)
}

/// The tensors under our names.
fn tensors<'s>(state: &'s StateDict, config: &Value) -> Result<Vec<Named<'s>>, StudyError> {
    let features = config["image_encoder"]["feature_size"].as_u64().unwrap_or(0) as usize;
    let mut all = Vec::new();
    let mut unknown = Vec::new();
    for (name, _) in state.shapes() {
        let (Some(key), Some((dtype, shape, bytes))) = (our_key(name), state.tensor(name)) else {
            unknown.push(name);
            continue;
        };
        let bytes = if name == CONFIDENCE { image_first(&bytes, &shape, features) } else { Some(bytes) };
        let bytes = bytes.ok_or_else(|| StudyError::File {
            path: state.file().to_path_buf(),
            problem: format!("{name} is {shape:?} and cannot read {features} image features beside a text"),
        })?;
        all.push((key, dtype, shape, bytes));
    }
    if unknown.is_empty() {
        return Ok(all);
    }
    let problem = format!("these tensors are not part of the released model: {}", unknown.join(", "));
    Err(StudyError::File { path: state.file().to_path_buf(), problem })
}

fn our_key(name: &str) -> Option<String> {
    let renamed = [
        ("text_model.", "text."),
        ("image_model.", "image.features."),
        ("fusion_module.confidence_net.", "prmf.confidence."),
        ("fusion_module.res_fusion.", "prmf.projection."),
        ("classifier.2.", "classifier."),
    ];
    renamed.iter().find_map(|(theirs, ours)| name.strip_prefix(theirs).map(|rest| format!("{ours}{rest}")))
}

/// Rows [T; I] of a matrix to rows [I; T].
fn image_first(bytes: &[u8], shape: &[usize], features: usize) -> Option<Cow<'static, [u8]>> {
    let &[rows, columns] = shape else { return None };
    let text = columns.checked_sub(features).filter(|text| *text > 0 && rows > 0)?;
    let width = bytes.len() / rows / columns;
    let swapped = bytes.chunks_exact(columns * width).flat_map(|row| {
        let (text, image) = row.split_at(text * width);
        [image, text].concat()
    });
    Some(Cow::Owned(swapped.collect()))
}
