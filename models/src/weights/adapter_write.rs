//! Writing PEFT's adapter folder.

use super::{
    Adapter, AdapterConfig, AdapterTensors, KeyStyle, WeightError,
    adapter::{A, B, CONFIG, MAGNITUDE, PREFIX, TENSORS},
    adapter_targets::Selector,
};
use safetensors::{Dtype, tensor::TensorView};
use std::{collections::BTreeMap, collections::HashMap, fs, io, path::Path};

impl Adapter {
    /// Writes an adapter as PEFT 0.21 does: the tensors in f32 by module (the hub's paths), under the names of `style`. Each file appears whole or not
    /// at all.
    ///
    /// # Errors
    /// A module that `target_modules` does not name in this style, tensors that do not have their sizes, a folder that cannot be written.
    pub fn write(
        folder: &Path,
        config: &AdapterConfig,
        style: KeyStyle,
        tensors: &BTreeMap<String, AdapterTensors>,
    ) -> Result<(), WeightError> {
        let unusable = |problems| WeightError::Adapter { path: folder.to_path_buf(), problems };
        let selector = Selector::new(config).map_err(unusable)?;
        let wrong = |(module, t): (&String, &AdapterTensors)| {
            problem(&selector, config.dora, &style.path(module), t).map(|problem| format!("{module}: {problem}"))
        };
        let problems: Vec<String> = tensors.iter().filter_map(wrong).collect();
        if !problems.is_empty() {
            return Err(unusable(problems));
        }
        let mut views = Vec::new();
        for (module, t) in tensors {
            let path = style.path(module);
            views.push(view(format!("{PREFIX}{path}{A}"), vec![t.rank, t.inputs], &t.a));
            views.push(view(format!("{PREFIX}{path}{B}"), vec![t.outputs, t.rank], &t.b));
            views.extend(t.magnitude.iter().map(|m| view(format!("{PREFIX}{path}{MAGNITUDE}"), vec![t.outputs], m)));
        }
        fs::create_dir_all(folder).map_err(|source| WeightError::Unwritable { path: folder.to_path_buf(), source })?;
        replace(&folder.join(TENSORS), |partial| {
            let format = HashMap::from([("format".to_string(), "pt".to_string())]);
            safetensors::serialize_to_file(views, Some(format), partial).map_err(io::Error::other)
        })?;
        replace(&folder.join(CONFIG), |partial| {
            let mut text = serde_json::to_string_pretty(&config.to_json())?;
            text.push('\n');
            fs::write(partial, text)
        })
    }
}

fn problem(selector: &Selector, dora: bool, path: &str, t: &AdapterTensors) -> Option<String> {
    let (rank, _) = selector.rank_and_scale(path);
    let lengths = (t.a.len(), t.b.len(), t.magnitude.as_ref().map(Vec::len));
    if !selector.targets(path) {
        return Some(format!("`target_modules` does not name {path}"));
    }
    if t.rank as i64 != rank {
        return Some(format!("it has the rank {}, the settings say {rank}", t.rank));
    }
    let expected = (t.rank * t.inputs, t.outputs * t.rank, dora.then_some(t.outputs));
    (lengths != expected).then(|| format!("A, B and magnitude have {lengths:?} numbers, expected {expected:?}"))
}

fn view(key: String, shape: Vec<usize>, values: &[f32]) -> (String, TensorView<'_>) {
    let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values));
    (key, view.expect("the sizes were compared with the numbers before"))
}

/// Writes beside the target and renames.
fn replace(target: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), WeightError> {
    let partial = target.with_extension("partial");
    let written = write(&partial).and_then(|()| fs::File::open(&partial)?.sync_all()).and_then(|()| fs::rename(&partial, target));
    written.map_err(|source| WeightError::Unwritable { path: target.to_path_buf(), source })
}
