//! An encoder's state dict to a `.safetensors` file, checked against the network before it gets its name.

use super::{
    state_dict::StateDict,
    written::{Imported, Named, write_safetensors},
};
use crate::error::StudyError;
use mmlnb_models::{
    config::{BertConfig, SwinConfig, Vgg16Config},
    graph::Graph,
    networks,
    weights::{Checkpoint, Naming},
};
use std::path::Path;

/// Writes the tensors under their own names.
pub(super) fn write(state: &StateDict, output: &Path) -> Result<Imported, StudyError> {
    let naming = naming(state)?;
    let tensors: Vec<Named<'_>> = state
        .shapes()
        .filter_map(|(name, _)| state.tensor(name).map(|(dtype, shape, bytes)| (name.to_string(), dtype, shape, bytes)))
        .collect();
    let partial = output.with_extension("partial");
    write_safetensors(&tensors, &partial)?;
    let checked =
        Checkpoint::open(&partial, naming).map_err(StudyError::from).and_then(|checkpoint| check(&checkpoint, naming, state));
    let what = match checked {
        Ok(what) => what,
        Err(error) => {
            std::fs::remove_file(&partial).map_err(StudyError::io("remove", &partial))?;
            return Err(error);
        }
    };
    std::fs::rename(&partial, output).map_err(StudyError::io("rename", &partial))?;
    Ok(Imported { path: output.to_path_buf(), what, tensors: tensors.len() })
}

fn naming(state: &StateDict) -> Result<Naming, StudyError> {
    let has = |name: &str| state.shapes().any(|(known, _)| known == name);
    let named = |ending: &str| state.shapes().any(|(known, _)| known.ends_with(ending));
    if has("features.28.weight") {
        Ok(Naming::Vgg16)
    } else if has("features.0.0.weight") || named("embeddings.patch_embeddings.projection.weight") {
        Ok(Naming::Swin)
    } else if named("embeddings.word_embeddings.weight") {
        Ok(Naming::Bert)
    } else {
        let names: Vec<&str> = state.shapes().take(4).map(|(name, _)| name).collect();
        Err(StudyError::File {
            path: state.file().to_path_buf(),
            problem: format!(
                "it is the state dict of an unknown network (its tensors begin with {}); known are torchvision's VGG16 and Swin, \
                 BERT, and the released MMLNB model",
                names.join(", ")
            ),
        })
    }
}

/// Whether these are the network's tensors, in sizes that the tensors themselves give.
fn check(checkpoint: &Checkpoint, naming: Naming, state: &StateDict) -> Result<String, StudyError> {
    let unfit = |problem: &str| StudyError::File { path: state.file().to_path_buf(), problem: problem.to_string() };
    let (graph, what) = match naming {
        Naming::Vgg16 => {
            let config = vgg16_config(checkpoint).ok_or_else(|| unfit("it lacks convolutions of VGG16"))?;
            (networks::vgg16(&config, ""), format!("VGG16 of the widths {:?}", config.channels))
        }
        Naming::Swin => {
            let config = swin_config(checkpoint).ok_or_else(|| unfit("it lacks blocks of Swin"))?;
            (networks::swin(&config, ""), format!("Swin of the width {} and depths {:?}", config.embed, config.depths))
        }
        Naming::Bert => {
            let config = bert_config(checkpoint).ok_or_else(|| unfit("it lacks embeddings or layers of BERT"))?;
            (networks::bert(&config, ""), format!("BERT of the width {} and {} layers", config.hidden, config.layers))
        }
        Naming::Qwen | Naming::Classifier => return Err(unfit("it is no encoder")),
    };
    checkpoint.check_all([&graph].map(Graph::parameters)).map_err(|error| unfit(&error.to_string()))?;
    Ok(what)
}

fn size(checkpoint: &Checkpoint, key: &str, axis: usize) -> Option<i64> {
    checkpoint.tensor(key)?.shape.get(axis).map(|size| *size as i64)
}

/// How many of `prefix.N.suffix` there are, from 0 on.
fn count(checkpoint: &Checkpoint, key: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|n| checkpoint.tensor(&key(*n)).is_some()).count()
}

pub(super) fn vgg16_config(checkpoint: &Checkpoint) -> Option<Vgg16Config> {
    let channels = [0, 5, 10, 17, 24].map(|n| size(checkpoint, &format!("features.{n}.weight"), 0));
    Some(Vgg16Config { channels: channels.into_iter().collect::<Option<Vec<i64>>>()? })
}

fn swin_config(checkpoint: &Checkpoint) -> Option<SwinConfig> {
    let stages = count(checkpoint, |stage| format!("features.{}.0.norm1.weight", 2 * stage + 1));
    let scope = |stage: usize, block: usize| format!("features.{}.{block}", 2 * stage + 1);
    let table = |stage: usize| format!("{}.attn.relative_position_bias_table", scope(stage, 0));
    let heads = (0..stages).map(|stage| size(checkpoint, &table(stage), 1)).collect::<Option<Vec<i64>>>()?;
    let depths =
        (0..stages).map(|stage| count(checkpoint, |block| format!("{}.norm1.weight", scope(stage, block))) as i64).collect();
    let embed = size(checkpoint, "features.0.0.weight", 0)?;
    // A table of offsets from -(window - 1) to window - 1 in two directions.
    let offsets = (size(checkpoint, &table(0), 0)? as f64).sqrt() as i64;
    let inner = size(checkpoint, &format!("{}.mlp.0.weight", scope(0, 0)), 0)?;
    Some(SwinConfig {
        embed,
        depths,
        heads,
        window: (offsets + 1) / 2,
        patch: size(checkpoint, "features.0.0.weight", 2)?,
        mlp_ratio: inner as f64 / embed as f64,
        eps: 1e-5,
    })
}

fn bert_config(checkpoint: &Checkpoint) -> Option<BertConfig> {
    let embedding = |name: &str, axis| size(checkpoint, &format!("embeddings.{name}_embeddings.weight"), axis);
    Some(BertConfig {
        vocabulary: embedding("word", 0)?,
        hidden: embedding("word", 1)?,
        layers: count(checkpoint, |n| format!("encoder.layer.{n}.attention.self.query.weight")) as i64,
        // Not to be seen in the tensors; the check of names and sizes does not depend on it.
        heads: 1,
        inner: size(checkpoint, "encoder.layer.0.intermediate.dense.weight", 0)?,
        positions: embedding("position", 0)?,
        types: embedding("token_type", 0)?,
        eps: 1e-12,
        dropout: 0.0,
        attention_dropout: 0.0,
        max_length: None,
    })
}
