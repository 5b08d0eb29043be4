//! What a graph or bundle holds, for people and for programs.

use crate::{
    error::ExportError,
    onnx::{DataLocation, ModelProto, TensorProto, ValueInfoProto},
};
use mmlnb_models::{
    bundle::{Bundle, BundleError, FileEntry, MANIFEST, Port, Qualification, Standings},
    hash,
};
use prost::Message;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Component, Path},
};

/// One ONNX graph.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct GraphReport {
    /// `graph`.
    pub kind: &'static str,
    /// The file.
    pub path: String,
    /// Its metadata: producer, version, network, precision, source_sha256, ..
    pub metadata: BTreeMap<String, String>,
    /// Inputs in order.
    pub inputs: Vec<Port>,
    /// Outputs in order.
    pub outputs: Vec<Port>,
    /// How often each operator type occurs; types outside of the standard carry their domain.
    pub operators: BTreeMap<String, usize>,
    /// Elements of the checkpoint tensors used; of a graph by another program: elements of all its constants.
    pub parameters: u64,
    /// The file itself and its external data.
    pub files: BTreeMap<String, FileEntry>,
}

/// A bundle: its manifest, without the file list, and its graphs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BundleReport {
    /// `bundle`.
    pub kind: &'static str,
    /// The folder.
    pub path: String,
    /// SHA-256 of the manifest.
    pub bundle_sha256: String,
    /// SHA-256 of the qualification, if there is one.
    pub qualification_sha256: Option<String>,
    /// Who signed both, as the signatures say; nobody checks them here.
    pub trust: Standings,
    /// The manifest as it stands in the file.
    pub manifest: serde_json::Value,
    /// The qualification, if there is one.
    pub qualification: Option<Qualification>,
    /// Its graphs; with `--json` each on a line of its own.
    #[serde(skip)]
    pub graphs: Vec<GraphReport>,
}

/// What a path holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Report {
    /// An `.onnx` file.
    Graph(GraphReport),
    /// A bundle's folder.
    Bundle(Box<BundleReport>),
}

/// Reads an `.onnx` file or a bundle, whose hashes are all checked.
///
/// # Errors
/// A path that is neither, a damaged file; [`ExportError::Altered`] for a bundle that is not as it was written.
pub fn inspect(path: &Path) -> Result<Report, ExportError> {
    let about = fs::metadata(path).map_err(ExportError::io("read", path))?;
    if !about.is_dir() {
        return graph(path).map(Report::Graph);
    }
    let file = path.join(MANIFEST);
    let bundle = Bundle::open(path).map_err(|error| match error {
        BundleError::Io { file: missing, source } if missing == file => {
            ExportError::Bundle(BundleError::Io { file: missing, source })
        }
        altered => ExportError::Altered(altered),
    })?;
    let bytes = fs::read(&file).map_err(ExportError::io("read", &file))?;
    let manifest = serde_json::from_slice(&bytes)
        .map_err(|problem| ExportError::Checkpoint { path: file.clone(), problem: problem.to_string() })?;
    let graphs = bundle.manifest.graphs().iter().map(|g| graph(&bundle.path(&g.file))).collect::<Result<_, _>>()?;
    let path = path.display().to_string();
    Ok(Report::Bundle(Box::new(BundleReport {
        kind: "bundle",
        path,
        qualification_sha256: bundle.qualification_sha256().map(str::to_string),
        trust: bundle.standings(),
        bundle_sha256: bundle.sha256,
        manifest,
        qualification: bundle.qualification.map(|qualified| qualified.found),
        graphs,
    })))
}

fn graph(path: &Path) -> Result<GraphReport, ExportError> {
    let bytes = fs::read(path).map_err(ExportError::io("read", path))?;
    let not_onnx = |problem: String| ExportError::NotOnnx { path: path.to_path_buf(), problem };
    let model = ModelProto::decode(bytes.as_slice()).map_err(|error| not_onnx(error.to_string()))?;
    let graph = model.graph.ok_or_else(|| not_onnx("it has no graph".into()))?;
    let metadata: BTreeMap<String, String> =
        model.metadata_props.into_iter().map(|entry| (entry.key.unwrap_or_default(), entry.value.unwrap_or_default())).collect();
    let mut operators = BTreeMap::new();
    for node in &graph.node {
        let op = node.op_type.clone().unwrap_or_default();
        let name = match node.domain.as_deref() {
            None | Some("") => op,
            Some(domain) => format!("{domain}.{op}"),
        };
        *operators.entry(name).or_insert(0) += 1;
    }
    let counted = metadata.get("parameters").and_then(|count| count.parse().ok());
    let elements = match counted {
        Some(_) => Some(0),
        None => graph.initializer.iter().try_fold(0_u64, |sum, tensor| sum.checked_add(elements(tensor)?)),
    };
    let elements = elements.ok_or_else(|| not_onnx("a tensor has impossible dimensions".into()))?;
    Ok(GraphReport {
        kind: "graph",
        path: path.display().to_string(),
        parameters: counted.unwrap_or(elements),
        metadata,
        inputs: graph.input.iter().map(port).collect(),
        outputs: graph.output.iter().map(port).collect(),
        operators,
        files: files(path, &graph.initializer)?,
    })
}

/// Values of a tensor; none where no memory could hold them.
fn elements(tensor: &TensorProto) -> Option<u64> {
    tensor.dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(u64::try_from(*dim).ok()?))
}

/// The graph's file and every file that its tensors name: regular files beside or below it.
fn files(path: &Path, tensors: &[TensorProto]) -> Result<BTreeMap<String, FileEntry>, ExportError> {
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let own = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_string();
    let outside = tensors.iter().filter(|t| t.data_location == Some(DataLocation::External.into()));
    let locations = outside.flat_map(|t| &t.external_data).filter(|entry| entry.key.as_deref() == Some("location"));
    let names: BTreeSet<String> = locations.filter_map(|entry| entry.value.clone()).chain([own]).collect();
    let entry = |name: String| {
        let file = folder.join(&name);
        let plain = Path::new(&name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !plain || file.metadata().is_ok_and(|found| !found.is_file()) {
            let problem = format!("it keeps tensors in `{name}`, which is no file beside or below it");
            return Err(ExportError::NotOnnx { path: path.to_path_buf(), problem });
        }
        let (size, sha256) = hash::sha256_file(&file).map_err(ExportError::io("read", &file))?;
        Ok((name, FileEntry { size, sha256 }))
    };
    names.into_iter().map(entry).collect()
}

fn port(value: &ValueInfoProto) -> Port {
    let tensor = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let dims = tensor.and_then(|t| t.shape.as_ref()).map(|shape| shape.dim.as_slice()).unwrap_or_default();
    let dim = |d: &crate::onnx::Dimension| match (&d.dim_value, &d.dim_param) {
        (Some(value), _) => value.to_string(),
        (None, Some(name)) => name.clone(),
        (None, None) => "?".to_string(),
    };
    let dtype = match tensor.and_then(|t| t.elem_type) {
        Some(1) => "f32",
        Some(6) => "i32",
        Some(7) => "i64",
        Some(9) => "bool",
        Some(10) => "f16",
        Some(11) => "f64",
        Some(16) => "bf16",
        _ => "other",
    };
    Port { name: value.name.clone().unwrap_or_default(), dtype: dtype.to_string(), shape: dims.iter().map(dim).collect() }
}

impl fmt::Display for GraphReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.path)?;
        writeln!(f, "  parameters  {}", self.parameters)?;
        for (title, ports) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            writeln!(f, "  {title}")?;
            ports.iter().try_for_each(|p| writeln!(f, "    {} {}[{}]", p.name, p.dtype, p.shape.join(", ")))?;
        }
        writeln!(f, "  operators")?;
        self.operators.iter().try_for_each(|(name, count)| writeln!(f, "    {count:5} {name}"))?;
        writeln!(f, "  metadata")?;
        self.metadata.iter().try_for_each(|(key, value)| writeln!(f, "    {key} {value}"))?;
        writeln!(f, "  files")?;
        self.files.iter().try_for_each(|(name, file)| writeln!(f, "    {} {} bytes {name}", file.sha256, file.size))
    }
}

impl fmt::Display for BundleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n  bundle_sha256  {}, {}", self.path, self.bundle_sha256, self.trust.bundle)?;
        if let (Some(sha256), Some(standing)) = (&self.qualification_sha256, &self.trust.qualification) {
            writeln!(f, "  qualification_sha256  {sha256}, {standing}")?;
        }
        for (key, value) in self.manifest.as_object().into_iter().flatten() {
            match key.as_str() {
                "describer" | "classifier" => writeln!(f, "  {key}  {}", if value.is_null() { "absent" } else { "present" })?,
                "files" => writeln!(
                    f,
                    "  files  {}, all with the size and hash of the manifest",
                    value.as_object().map_or(0, |m| m.len())
                )?,
                _ => writeln!(f, "  {key}  {value}")?,
            }
        }
        self.graphs.iter().try_for_each(|graph| write!(f, "\n{graph}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Graph(graph) => write!(f, "{graph}"),
            Report::Bundle(bundle) => write!(f, "{bundle}"),
        }
    }
}

impl Report {
    /// A JSON object for the bundle, if it is one, and one for each graph.
    pub fn json_lines(&self) -> Vec<String> {
        let graph = |graph: &GraphReport| serde_json::json!(graph).to_string();
        match self {
            Report::Graph(report) => vec![graph(report)],
            Report::Bundle(bundle) => {
                std::iter::once(serde_json::json!(bundle).to_string()).chain(bundle.graphs.iter().map(graph)).collect()
            }
        }
    }
}
