//! How large the activations of a classifier's image encoder become, recorded when a training ends or by `mmlnb-train calibrate --classifier`, and used where
//! its convolutions are brought to 8 bits (`mmlnb-export`).
//!
//! Of each convolution that a ReLU alone reads, on images prepared as they are served: the largest of the ReLU's results, which says what one step of their
//! codes is worth (the same for all images, so that no image of a batch sees another), and the mean of what goes into the convolution, by which the shift
//! is taken back that rounded weights give its results (Nagel et al., arXiv 1906.04721).

use crate::{
    graph::{Dim, Graph, Op, Value},
    record::RecordError,
    statistics::module,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};

/// The file's name in a classifier's folder.
pub const ACTIVATIONS: &str = "activations.json";
/// The format that this version writes and reads.
const FORMAT: u32 = 1;
/// What to do about a file that cannot be used.
const MEND: &str = "write it anew: mmlnb-train calibrate --classifier";

/// The largest activations of an image encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activations {
    format: u32,
    /// Program and version.
    pub producer: String,
    /// SHA-256 of the weights that they are of.
    pub weights_sha256: String,
    /// SHA-256 of the table, images included.
    pub data_sha256: String,
    /// Images that were looked at.
    pub images: usize,
    /// By the convolution's module.
    pub layers: BTreeMap<String, Layer>,
}

/// What was seen of one convolution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The largest result of the ReLU behind it.
    pub largest: f32,
    /// Mean of what goes in, one for each channel.
    pub means: Vec<f32>,
}

/// The convolutions of a network that a ReLU alone reads: module, and what goes into the ReLU.
pub fn rectified(graph: &Graph) -> impl Iterator<Item = (&str, Value)> {
    let read_by = |value: Value| graph.nodes.iter().filter(move |node| node.inputs.contains(&value));
    let is_output = |value: Value| graph.outputs.iter().any(|(_, output)| *output == value);
    graph.nodes.iter().enumerate().filter_map(move |(number, node)| {
        let Op::Conv2d { weight, .. } = &node.op else { return None };
        let made = Value { node: number as u32, slot: 0 };
        let rectified = read_by(made).all(|reader| reader.op == Op::Relu) && read_by(made).count() == 1;
        (rectified && !is_output(made)).then(|| (module(weight), made))
    })
}

impl Activations {
    /// Largest activations of these weights, of so many images of these data.
    pub fn new(
        producer: String,
        weights_sha256: String,
        data_sha256: String,
        images: usize,
        layers: BTreeMap<String, Layer>,
    ) -> Activations {
        Activations { format: FORMAT, producer, weights_sha256, data_sha256, images, layers }
    }

    /// The file of a folder; `None` when there is none.
    ///
    /// # Errors
    /// A file that cannot be read, another format, unknown keys, numbers that are no sizes.
    pub fn read(folder: &Path) -> Result<Option<Activations>, RecordError> {
        let file = folder.join(ACTIVATIONS);
        let failed = |problem: String| RecordError { file: file.clone(), problem: format!("{problem}; {MEND}") };
        let bytes = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| failed(error.to_string()))?,
        };
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| failed(format!("not valid JSON: {error}")))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => return Err(failed(format!("format {format}, but this version reads {FORMAT}"))),
            None => return Err(failed("has no `format`".into())),
        }
        let read: Activations = serde_json::from_value(value).map_err(|error| failed(error.to_string()))?;
        for (module, Layer { largest, means }) in &read.layers {
            if !(largest.is_finite() && *largest >= 0.0) {
                return Err(failed(format!("the largest activation of `{module}` is {largest}, which is no size")));
            }
            if let Some(mean) = means.iter().find(|mean| !mean.is_finite()) {
                return Err(failed(format!("a mean of `{module}` is {mean}, which is no number")));
            }
        }
        if read.images == 0 { Err(failed("no image was looked at".into())) } else { Ok(Some(read)) }
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("texts and finite numbers have a form in JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Refuses numbers of other weights, or of other convolutions than this network's; `folder` is where they were read.
    ///
    /// # Errors
    /// All that does not fit.
    pub fn check(&self, graph: &Graph, weights_sha256: &str, folder: &Path) -> Result<(), RecordError> {
        let mut problems = Vec::new();
        if self.weights_sha256 != weights_sha256 {
            problems.push(format!("it is of weights of SHA-256 {}, those beside it have {weights_sha256}", self.weights_sha256));
        }
        let expected: BTreeMap<&str, usize> = rectified(graph).map(|(module, made)| (module, channels(graph, made))).collect();
        let missing = expected.keys().filter(|module| !self.layers.contains_key(**module));
        problems.extend(missing.map(|module| format!("missing: {module}")));
        problems.extend(self.layers.iter().filter_map(|(module, layer)| match expected.get(module.as_str()) {
            None => Some(format!("surplus: {module}")),
            Some(channels) if *channels != layer.means.len() => {
                Some(format!("{module}: {} channels, expected {channels}", layer.means.len()))
            }
            Some(_) => None,
        }));
        match problems.is_empty() {
            true => Ok(()),
            false => Err(RecordError { file: folder.join(ACTIVATIONS), problem: format!("{}; {MEND}", problems.join("; ")) }),
        }
    }
}

/// Channels that go into the convolution which makes this value.
fn channels(graph: &Graph, made: Value) -> usize {
    let given = graph.nodes[made.node as usize].inputs[0];
    graph.type_of(given).dims.get(1).and_then(Dim::known).map_or(0, |count| count as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Vgg16Config, networks::vgg16};

    fn graph() -> Graph {
        vgg16(&Vgg16Config { channels: vec![1, 2, 3, 4, 5] }, "image")
    }

    fn activations() -> Activations {
        let graph = graph();
        let layers = rectified(&graph).map(|(module, value)| {
            let layer = Layer { largest: 0.1 + value.node as f32, means: vec![-0.7; channels(&graph, value)] };
            (module.to_string(), layer)
        });
        Activations::new("test".into(), "aa".into(), "bb".into(), 3, layers.collect())
    }

    #[test]
    fn every_convolution_of_vgg16_stands_before_a_relu() {
        let modules: Vec<String> = rectified(&graph()).map(|(module, _)| module.to_string()).collect();
        let indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
        assert_eq!(modules, indices.map(|index| format!("image.features.{index}")));
        let mut exposed = graph();
        let (_, first) = rectified(&graph()).next().map(|(module, value)| (module.to_string(), value)).unwrap();
        exposed.outputs.push(("signed".into(), first));
        assert_eq!(rectified(&exposed).count(), 12, "what is read elsewhere keeps its signs");
    }

    #[test]
    fn what_is_written_is_read_and_what_does_not_fit_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Activations::read(folder.path()).unwrap(), None);
        fs::write(folder.path().join(ACTIVATIONS), activations().to_bytes()).unwrap();
        let mut read = Activations::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, activations());
        read.check(&graph(), "aa", folder.path()).unwrap();
        let last = read.layers.remove("image.features.28").unwrap();
        read.layers.insert("image.features.29".into(), last);
        read.layers.get_mut("image.features.2").unwrap().means.push(1.0);
        let told = read.check(&graph(), "cc", folder.path()).unwrap_err().to_string();
        for part in
            [ACTIVATIONS, "SHA-256 aa", "missing: image.features.28", "surplus: image.features.29", "calibrate --classifier"]
        {
            assert!(told.contains(part), "{part} in {told}");
        }
    }

    #[test]
    fn what_is_no_record_of_sizes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |change: &dyn Fn(&mut serde_json::Value), part: &str| {
            let mut value = serde_json::to_value(activations()).unwrap();
            change(&mut value);
            let text = value.to_string().replace("\"huge\"", "1e39");
            fs::write(folder.path().join(ACTIVATIONS), text).unwrap();
            let told = Activations::read(folder.path()).unwrap_err().to_string();
            assert!(told.contains(part) && told.contains("calibrate --classifier"), "{part} in {told}");
        };
        refused(&|value| value["format"] = 2.into(), "format 2");
        refused(&|value| drop(value.as_object_mut().unwrap().remove("format")), "no `format`");
        refused(&|value| value["more"] = 2.into(), "more");
        refused(&|value| value["images"] = 0.into(), "no image");
        refused(&|value| value["layers"]["image.features.0"]["largest"] = (-1.0).into(), "`image.features.0` is -1");
        refused(&|value| value["layers"]["image.features.0"]["largest"] = "huge".into(), "`image.features.0` is inf");
        refused(&|value| value["layers"]["image.features.0"]["largest"] = serde_json::Value::Null, "null");
        refused(&|value| value["layers"]["image.features.0"]["means"][1] = "huge".into(), "a mean of `image.features.0` is inf");
        refused(&|value| value["layers"]["image.features.0"]["least"] = 1.into(), "least");
        fs::write(folder.path().join(ACTIVATIONS), "{").unwrap();
        assert!(Activations::read(folder.path()).unwrap_err().to_string().contains("not valid JSON"));
    }
}
