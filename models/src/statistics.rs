//! Statistics of what goes into a describer's linear layers, gathered on a user's own images (`mmlnb-train calibrate`) and used where weights are brought
//! to few bits (`mmlnb-export --calibration`).
//!
//! Two numbers for each input channel: the largest magnitude, which decides how coarse a token's codes are (SmoothQuant, arXiv 2211.10438), and the
//! mean square, by which an error of the channel's weights counts in the output (AWQ, arXiv 2306.00978). Matrices of channels by channels (GPTQ's
//! Hessians) would be 1.4 GB for one layer of a 7B model.

use crate::{
    graph::{Graph, Op, Value, Weight},
    hash,
    record::RecordError,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::Path};

/// The numbers: `MODULE.largest` and `MODULE.mean_square`, f32 `[inputs]` each, MODULE being the matrix's key without `.weight`.
pub const TENSORS: &str = "statistics.safetensors";
/// Where they come from.
pub const CALIBRATION: &str = "calibration.json";
/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;

const LARGEST: &str = ".largest";
const MEAN_SQUARE: &str = ".mean_square";

/// Of one layer's inputs, a number for each channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Channels {
    /// Largest magnitude.
    pub largest: Vec<f32>,
    /// Mean of the squares.
    pub mean_square: Vec<f32>,
}

/// Where statistics come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gathered {
    /// [`FORMAT`].
    pub format: u32,
    /// Program and version.
    pub producer: String,
    /// SHA-256 of the checkpoint's weights.
    pub checkpoint_sha256: String,
    /// SHA-256 of the adapter that was merged into it.
    pub adapter_sha256: Option<String>,
    /// SHA-256 of the table, images included.
    pub data_sha256: String,
    /// Rows of the table that were read, an image each.
    pub rows: usize,
    /// Those of them whose description the describer wrote itself.
    pub written: usize,
    /// Tokens that the language model read.
    pub tokens: usize,
    /// SHA-256 of [`TENSORS`].
    pub statistics_sha256: String,
}

/// Statistics of all layers of a describer.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Where they come from.
    pub gathered: Gathered,
    /// By module.
    pub layers: BTreeMap<String, Channels>,
    sha256: String,
}

/// The name under which a linear layer's statistics stand: its matrix's key without `.weight`, that of a stack's first matrix.
pub fn module(weight: &Weight) -> &str {
    let keys = weight.keys();
    let key = keys.first().copied().unwrap_or_default();
    key.strip_suffix(".weight").unwrap_or(key)
}

/// A network's linear layers: module, the value that goes in, and its width.
pub fn linear_layers(graph: &Graph) -> impl Iterator<Item = (&str, Value, usize)> {
    graph.nodes.iter().filter_map(|node| {
        let Op::Linear { weight, .. } = &node.op else { return None };
        let width = graph.type_of(node.inputs[0]).dims.last()?.known()?;
        Some((module(weight), node.inputs[0], width as usize))
    })
}

impl Statistics {
    /// Writes both files into a folder; `gathered.statistics_sha256` is filled in.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(layers: &BTreeMap<String, Channels>, gathered: Gathered, folder: &Path) -> Result<(), RecordError> {
        let failed = |name: &str| {
            let file = folder.join(name);
            move |problem: String| RecordError { file, problem }
        };
        let view = |name: String, values: &[f32]| -> (String, Vec<usize>, Vec<u8>) {
            (name, vec![values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect())
        };
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = layers
            .iter()
            .flat_map(|(module, channels)| {
                [
                    view(format!("{module}{LARGEST}"), &channels.largest),
                    view(format!("{module}{MEAN_SQUARE}"), &channels.mean_square),
                ]
            })
            .collect();
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, shape, bytes)| TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view)))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(TENSORS)(error.to_string()))?;
        let bytes = safetensors::serialize(views, None).map_err(|error| failed(TENSORS)(error.to_string()))?;
        fs::write(folder.join(TENSORS), &bytes).map_err(|error| failed(TENSORS)(error.to_string()))?;
        let gathered = Gathered { statistics_sha256: hash::sha256_hex(&bytes), ..gathered };
        let mut text = serde_json::to_vec_pretty(&gathered).map_err(|error| failed(CALIBRATION)(error.to_string()))?;
        text.push(b'\n');
        fs::write(folder.join(CALIBRATION), text).map_err(|error| failed(CALIBRATION)(error.to_string()))
    }

    /// Reads a folder.
    ///
    /// # Errors
    /// Files that are absent, damaged or changed, another format, numbers that are no statistics.
    pub fn read(folder: &Path) -> Result<Statistics, RecordError> {
        let failed = |name: &str, problem: String| RecordError { file: folder.join(name), problem };
        let bytes_of = |name: &str| {
            let missing = "give the folder that mmlnb-train calibrate wrote";
            fs::read(folder.join(name)).map_err(|error| failed(name, format!("{error}; {missing}")))
        };
        let record = bytes_of(CALIBRATION)?;
        let wrong = |problem: String| failed(CALIBRATION, problem);
        let value: serde_json::Value =
            serde_json::from_slice(&record).map_err(|error| wrong(format!("not valid JSON: {error}")))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => return Err(wrong(format!("format {format}, but this version reads {FORMAT}; calibrate anew"))),
            None => return Err(wrong("has no `format`; it is no record of mmlnb-train calibrate".into())),
        }
        let gathered: Gathered = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
        let bytes = bytes_of(TENSORS)?;
        if hash::sha256_hex(&bytes) != gathered.statistics_sha256 {
            return Err(failed(TENSORS, format!("is not the file that {CALIBRATION} was written with; calibrate anew")));
        }
        let layers = layers(&bytes).map_err(|problem| failed(TENSORS, problem))?;
        Ok(Statistics { gathered, layers, sha256: hash::sha256_hex(&record) })
    }

    /// SHA-256 of the record, which holds that of the numbers.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What does not fit the linear layers of these networks: layers that are missing, surplus or of another width; empty when all fit.
    pub fn problems<'g>(&self, networks: impl IntoIterator<Item = &'g Graph>) -> Vec<String> {
        let expected: BTreeMap<&str, usize> =
            networks.into_iter().flat_map(linear_layers).map(|(module, _, width)| (module, width)).collect();
        let missing = expected.keys().filter(|module| !self.layers.contains_key(**module));
        let missing = missing.map(|module| format!("missing: {module}"));
        let other = self.layers.iter().filter_map(|(module, channels)| match expected.get(module.as_str()) {
            None => Some(format!("surplus: {module}")),
            Some(width) if *width != channels.largest.len() => {
                Some(format!("{module}: {} channels, expected {width}", channels.largest.len()))
            }
            Some(_) => None,
        });
        missing.chain(other).collect()
    }
}

fn layers(bytes: &[u8]) -> Result<BTreeMap<String, Channels>, String> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut layers: BTreeMap<String, Channels> = BTreeMap::new();
    for (name, view) in tensors.iter() {
        if view.dtype() != Dtype::F32 || view.shape().len() != 1 {
            return Err(format!("the tensor `{name}` is no list of f32"));
        }
        let values: Vec<f32> =
            view.data().chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
        if let Some(value) = values.iter().find(|value| !(value.is_finite() && **value >= 0.0)) {
            return Err(format!("the tensor `{name}` holds {value}, which is no size"));
        }
        match (name.strip_suffix(LARGEST), name.strip_suffix(MEAN_SQUARE)) {
            (Some(module), _) => layers.entry(module.to_string()).or_default().largest = values,
            (_, Some(module)) => layers.entry(module.to_string()).or_default().mean_square = values,
            (None, None) => return Err(format!("the tensor `{name}` is none of `MODULE{LARGEST}` and `MODULE{MEAN_SQUARE}`")),
        }
    }
    match layers.iter().find(|(_, channels)| channels.largest.len() != channels.mean_square.len()) {
        Some((module, _)) => Err(format!("`{module}{LARGEST}` and `{module}{MEAN_SQUARE}` are not both there in one length")),
        None => Ok(layers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Dim, Kind};

    fn gathered() -> Gathered {
        Gathered {
            format: FORMAT,
            producer: "test".into(),
            checkpoint_sha256: "aa".into(),
            adapter_sha256: None,
            data_sha256: "bb".into(),
            rows: 2,
            written: 1,
            tokens: 7,
            statistics_sha256: String::new(),
        }
    }

    fn channels(values: &[f32]) -> Channels {
        Channels { largest: values.to_vec(), mean_square: values.iter().map(|value| value / 2.0).collect() }
    }

    #[test]
    fn what_is_written_is_read_and_what_was_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layers = BTreeMap::from([("a.b".to_string(), channels(&[1.0, 2.0])), ("c".to_string(), channels(&[0.0]))]);
        Statistics::write(&layers, gathered(), folder.path()).unwrap();
        let read = Statistics::read(folder.path()).unwrap();
        assert_eq!((&read.layers, read.gathered.rows), (&layers, 2));
        let refused = |part: &str| {
            let told = Statistics::read(folder.path()).unwrap_err().to_string();
            assert!(told.contains(part), "{told}");
        };
        let file = folder.path().join(TENSORS);
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        refused("calibrate anew");
        let wrong = BTreeMap::from([("a".to_string(), channels(&[f32::NAN]))]);
        Statistics::write(&wrong, gathered(), folder.path()).unwrap();
        refused("NaN");
        Statistics::write(&layers, Gathered { format: 9, ..gathered() }, folder.path()).unwrap();
        refused("format 9");
        fs::remove_file(folder.path().join(CALIBRATION)).unwrap();
        refused("mmlnb-train calibrate");
    }

    #[test]
    fn layers_that_do_not_fit_are_listed() {
        let b = Builder::new();
        let x = b.input("x", Kind::Float, [Dim::named("rows"), Dim::from(3)]);
        b.output("y", x.linear("one", 2, false).linear("two", 2, true));
        let graph = b.finish();
        let layers = ["one", "three"].map(|name| (name.to_string(), channels(&[1.0, 2.0])));
        let statistics = Statistics { gathered: gathered(), layers: BTreeMap::from(layers), sha256: String::new() };
        assert_eq!(statistics.problems([&graph]), ["missing: two", "one: 2 channels, expected 3", "surplus: three"]);
    }
}
