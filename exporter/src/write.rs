//! Writing a graph: weights streamed by rows into one file beside it, both under temporary names until they are whole.

use crate::{
    error::ExportError,
    few_bits::FewBits,
    nodes::{Attribute, Content, Elem, Form, Initialiser, Kernel, KernelPart, OnnxGraph, OnnxNode, Port},
    numbers::Numbers,
    onnx::{
        AttributeProto, AttributeType, DataLocation, Dimension, GraphProto, IR_VERSION, MICROSOFT, ModelProto, NodeProto,
        OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    },
    policy::Storage,
    quantise::{self, Coded, CodedKernel},
};
use mmlnb_models::{
    graph::{Dim, Weight},
    weights::{DType, WeightError, Weights},
};
use prost::Message;
use std::{
    cell::RefCell,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Name of this program in the files that it writes.
pub const PRODUCER: &str = "mmlnb-export";
/// Tensors above this many bytes lie in the external file, tables whatever their size.
const INLINE_BYTES: u64 = 64 << 10;
/// External tensors begin at multiples of this, so that they can be mapped.
const ALIGNMENT: u64 = 4096;
/// Weights are read in blocks of about this many bytes of f32.
const BLOCK_BYTES: usize = 64 << 20;

/// Writes `DIR/NAME.onnx` and, if a tensor is large, `DIR/NAME.onnx.data`. `progress` hears how many bytes of weights were just written.
pub(crate) fn write(
    graph: &OnnxGraph,
    (weights, few): (&Weights<'_>, &FewBits),
    metadata: &[(&str, String)],
    dir: &Path,
    progress: &dyn Fn(u64),
) -> Result<PathBuf, ExportError> {
    let file = dir.join(format!("{}.onnx", graph.name));
    let location = format!("{}.onnx.data", graph.name);
    refuse_foreign(&file)?;
    let made = Made::folder(dir)?;
    let (offsets, length) = places(&graph.initialisers);
    let mut data = None;
    if length > 0 {
        let part = Part::create(dir, &location)?;
        part.file.set_len(length).map_err(ExportError::io("write", &part.path))?;
        data = Some(part);
    }
    let source = Source::new(weights, few, BLOCK_BYTES);
    let mut tensors = Vec::new();
    for (initialiser, offset) in graph.initialisers.iter().zip(&offsets) {
        let mut tensor = described(initialiser);
        match (offset, &data) {
            (Some(offset), Some(part)) => {
                source.write_rows(initialiser, progress, &mut |at, bytes| {
                    part.file.write_all_at(bytes, offset + at).map_err(ExportError::io("write", &part.path))
                })?;
                tensor.data_location = Some(DataLocation::External.into());
                tensor.external_data = external(&location, *offset, initialiser.byte_len());
            }
            _ => tensor.raw_data = Some(source.whole(initialiser, progress)?),
        }
        tensors.push(tensor);
    }
    let mut model = Part::create(dir, &format!("{}.onnx", graph.name))?;
    let bytes = message(graph, tensors, metadata).encode_to_vec();
    model.file.write_all(&bytes).map_err(ExportError::io("write", &model.path))?;
    // The old graph goes first: at no time does a graph stand beside weights of another.
    if file.exists() {
        fs::remove_file(&file).map_err(ExportError::io("remove", &file))?;
    }
    data.map(|part| part.finish(&dir.join(&location))).transpose()?;
    model.finish(&file)?;
    made.keep();
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(ExportError::io("write", dir))?;
    Ok(file)
}

/// A file of this name that another program wrote is not overwritten.
fn refuse_foreign(file: &Path) -> Result<(), ExportError> {
    if !file.exists() {
        return Ok(());
    }
    if written_here(file)? {
        return Ok(());
    }
    let problem = format!("exists and was not written by {PRODUCER}; move it away or choose another --output");
    Err(ExportError::Occupied { path: file.to_path_buf(), problem })
}

/// Whether a file is a graph that this program wrote.
pub(crate) fn written_here(file: &Path) -> Result<bool, ExportError> {
    if !file.exists() {
        return Ok(false);
    }
    let bytes = fs::read(file).map_err(ExportError::io("read", file))?;
    Ok(ModelProto::decode(bytes.as_slice()).is_ok_and(|model| model.producer_name.as_deref() == Some(PRODUCER)))
}

/// A file under a temporary name; deleted unless finished.
struct Part {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Part {
    fn create(dir: &Path, name: &str) -> Result<Part, ExportError> {
        let path = dir.join(format!(".{name}.part"));
        let file = File::create(&path).map_err(ExportError::io("create", &path))?;
        Ok(Part { path, file, finished: false })
    }

    fn finish(mut self, target: &Path) -> Result<(), ExportError> {
        self.file.sync_all().map_err(ExportError::io("write", &self.path))?;
        fs::rename(&self.path, target).map_err(ExportError::io("rename", &self.path))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // The error that brought us here is the one to tell; a part that stays is hidden and overwritten next time.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Folders that were made for an output; those that are still empty go again unless they are kept.
pub(crate) struct Made {
    /// The innermost first.
    folders: Vec<PathBuf>,
}

impl Made {
    /// Makes a folder, with those around it that are absent.
    pub(crate) fn folder(dir: &Path) -> Result<Made, ExportError> {
        let absent = dir.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let made = Made { folders: absent.map(Path::to_path_buf).collect() };
        fs::create_dir_all(dir).map_err(ExportError::io("create", dir))?;
        Ok(made)
    }

    /// Leaves them in their place.
    pub(crate) fn keep(mut self) {
        self.folders.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // A folder that somebody else has put something into is not empty and stays.
        self.folders.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// Offset of every tensor that lies outside, and the length of the file.
fn places(initialisers: &[Initialiser]) -> (Vec<Option<u64>>, u64) {
    let mut end = 0u64;
    let offsets = initialisers.iter().map(|initialiser| {
        let bytes = initialiser.byte_len();
        (bytes > INLINE_BYTES || matches!(initialiser.content, Content::Table(_))).then(|| {
            let offset = end.next_multiple_of(ALIGNMENT);
            end = offset + bytes;
            offset
        })
    });
    (offsets.collect(), end)
}

type Sink<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), ExportError>;

/// What initialisers are made of.
struct Source<'s> {
    numbers: Numbers<'s>,
    few: &'s FewBits,
    /// Weights are read in blocks of about so many bytes of f32.
    block_bytes: usize,
    /// What is left of the matrix whose codes were written last: it comes next.
    left: RefCell<Option<(Weight, Storage, Left)>>,
}

/// What belongs to a matrix's codes.
#[derive(Clone, Default)]
struct Left {
    scales: Vec<f32>,
    /// Of each output's weights; only of those with one scale.
    sums: Vec<f32>,
}

impl Left {
    fn add(&mut self, storage: Storage, Coded { codes, scales }: &Coded) {
        if storage == Storage::Channels {
            let rows = codes.chunks_exact(codes.len() / scales.len());
            let sum = |(row, scale): (&[u8], &f32)| scale * row.iter().map(|code| i64::from(*code as i8)).sum::<i64>() as f32;
            self.sums.extend(rows.zip(scales).map(sum));
        }
        self.scales.extend(scales);
    }
}

impl<'s> Source<'s> {
    fn new(weights: &'s Weights<'s>, few: &'s FewBits, block_bytes: usize) -> Source<'s> {
        Source { numbers: Numbers { weights, factors: few.factors() }, few, block_bytes, left: RefCell::default() }
    }

    /// Gives an initialiser's bytes, with their offsets, block by block.
    fn write_rows(&self, initialiser: &Initialiser, progress: &dyn Fn(u64), sink: Sink<'_>) -> Result<(), ExportError> {
        let (size, numbers) = (initialiser.elem.size() as u64, &self.numbers);
        match &initialiser.content {
            Content::Bytes(bytes) => sink(0, bytes),
            Content::Rows(weight) | Content::Table(weight) => {
                let mut at = 0;
                for block in numbers.blocks(weight, self.block_bytes)? {
                    let bytes = stored(initialiser, weight, numbers.weights, &block?)?;
                    sink(at, &bytes)?;
                    at += bytes.len() as u64;
                    progress(bytes.len() as u64);
                }
                Ok(())
            }
            Content::Transposed(weight) => {
                let (inputs, outputs) = (initialiser.dims[0] as usize, initialiser.dims[1] as u64);
                let mut columns = Columns { outputs, size, first: 0 };
                for block in numbers.blocks(weight, self.block_bytes)? {
                    let bytes = stored(initialiser, weight, numbers.weights, &transposed(&block?, inputs))?;
                    columns.write(&bytes, inputs, sink)?;
                    progress(bytes.len() as u64);
                }
                Ok(())
            }
            Content::Quantised { weight, storage, form: Form::Codes } => {
                let width = numbers.weights.shape(weight)?[1..].iter().product();
                let mut columns = Columns { outputs: initialiser.dims[initialiser.dims.len() - 1] as u64, size, first: 0 };
                let (mut at, mut left) = (0, Left::default());
                self.each_coded(initialiser, weight, *storage, &mut |coded| {
                    match storage {
                        Storage::Channels => columns.write(&transposed(&coded.codes, width), width, sink)?,
                        Storage::Blocks { .. } | Storage::Float => sink(at, &coded.codes)?,
                    }
                    at += coded.codes.len() as u64;
                    progress(coded.codes.len() as u64);
                    left.add(*storage, &coded);
                    Ok(())
                })?;
                self.left.replace(Some((weight.clone(), *storage, left)));
                Ok(())
            }
            Content::Quantised { weight, storage, form: form @ (Form::Scales | Form::Sums) } => {
                let Left { scales, sums } = self.left_of(initialiser, weight, *storage)?;
                let values = if *form == Form::Scales { scales } else { sums };
                progress(4 * values.len() as u64);
                sink(0, &DType::F32.encode(&values))
            }
            Content::Kernel { kernel, part } => {
                let CodedKernel { codes, scales, biases } = self.coded_kernel(kernel)?;
                let bytes = match part {
                    KernelPart::Codes => codes,
                    KernelPart::Scales => DType::F32.encode(&scales),
                    KernelPart::BiasScales => {
                        DType::F32.encode(&scales.iter().map(|scale| kernel.step * scale).collect::<Vec<_>>())
                    }
                    KernelPart::Biases => biases.iter().flat_map(|bias| bias.to_le_bytes()).collect(),
                };
                progress(bytes.len() as u64);
                sink(0, &bytes)
            }
        }
    }

    /// A convolution in whole numbers. The kernels of a network are small enough (9 MB in VGG16) to be read at once, and for each part again.
    fn coded_kernel(&self, Kernel { weight, bias, step }: &Kernel) -> Result<CodedKernel, ExportError> {
        let all = |weight: &Weight| -> Result<Vec<f32>, ExportError> {
            let values = self.numbers.rows(weight, 0..self.numbers.weights.shape(weight)?[0])?;
            check_finite(weight, self.numbers.weights, &values)?;
            Ok(values)
        };
        let outputs = self.numbers.weights.shape(weight)?[0];
        let biases = bias.as_ref().map_or(Ok(vec![0.0; outputs]), all)?;
        Ok(quantise::kernel(&all(weight)?, &biases, self.few.means(weight), *step))
    }

    /// What belongs to the codes of a matrix; where they were not written just before, they are made again.
    fn left_of(&self, initialiser: &Initialiser, weight: &Weight, storage: Storage) -> Result<Left, ExportError> {
        if let Some((of, at, left)) = &*self.left.borrow()
            && (of, *at) == (weight, storage)
        {
            return Ok(left.clone());
        }
        let mut left = Left::default();
        self.each_coded(initialiser, weight, storage, &mut |coded| {
            left.add(storage, &coded);
            Ok(())
        })?;
        Ok(left)
    }

    /// A matrix in few bits, rows by rows.
    fn each_coded(
        &self,
        initialiser: &Initialiser,
        weight: &Weight,
        storage: Storage,
        work: &mut dyn FnMut(Coded) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let weights = self.numbers.weights;
        let width = weights.shape(weight)?[1..].iter().product();
        for block in self.numbers.blocks(weight, self.block_bytes)? {
            let block = block?;
            check_finite(weight, weights, &block)?;
            let coded = quantise::coded(storage, &block, width, self.few.importance(weight));
            work(coded.ok_or_else(|| not_a_number_of(initialiser, weight))?)?;
        }
        Ok(())
    }

    fn whole(&self, initialiser: &Initialiser, progress: &dyn Fn(u64)) -> Result<Vec<u8>, ExportError> {
        let mut whole = vec![0; initialiser.byte_len() as usize];
        self.write_rows(initialiser, progress, &mut |at, bytes| {
            whole[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        Ok(whole)
    }
}

/// Writes the columns of a transposed matrix, as many at a time as its rows are read.
struct Columns {
    /// Columns of the whole matrix.
    outputs: u64,
    /// Bytes of a number.
    size: u64,
    /// The next column.
    first: u64,
}

impl Columns {
    /// Further columns, given as `inputs` runs.
    fn write(&mut self, bytes: &[u8], inputs: usize, sink: Sink<'_>) -> Result<(), ExportError> {
        let run = bytes.len() / inputs;
        for (input, run) in bytes.chunks_exact(run).enumerate() {
            sink((input as u64 * self.outputs + self.first) * self.size, run)?;
        }
        self.first += run as u64 / self.size;
        Ok(())
    }
}

/// Rows of `width` numbers -> `width` rows. In squares of 32, which stay in the first-level cache.
fn transposed<T: Copy + Default>(rows: &[T], width: usize) -> Vec<T> {
    const SIDE: usize = 32;
    let count = rows.len() / width;
    let mut columns = vec![T::default(); rows.len()];
    for y in (0..count).step_by(SIDE) {
        for x in (0..width).step_by(SIDE) {
            for row in y..(y + SIDE).min(count) {
                for column in x..(x + SIDE).min(width) {
                    columns[column * count + row] = rows[row * width + column];
                }
            }
        }
    }
    columns
}

/// The numbers as the initialiser stores them; what it cannot hold is refused.
fn stored(initialiser: &Initialiser, weight: &Weight, weights: &Weights<'_>, values: &[f32]) -> Result<Vec<u8>, ExportError> {
    check_finite(weight, weights, values)?;
    if let Some(value) = values.iter().find(|value| overflows(initialiser.elem, **value)) {
        let weight = too_large(initialiser.elem, weight, weights);
        return Err(ExportError::Overflow { into: initialiser.elem.name(), weight, value: *value });
    }
    match initialiser.elem {
        Elem::F32 => Ok(DType::F32.encode(values)),
        Elem::F16 => Ok(DType::F16.encode(values)),
        Elem::Bf16 => Ok(DType::BF16.encode(values)),
        Elem::I64 | Elem::I32 | Elem::Bool | Elem::U8 | Elem::I8 => Err(not_a_number_of(initialiser, weight)),
    }
}

fn not_a_number_of(initialiser: &Initialiser, weight: &Weight) -> ExportError {
    let problem = format!("the parameter {weight} was asked for as {}", initialiser.elem.name());
    ExportError::Malformed { graph: initialiser.name.clone(), problems: vec![problem] }
}

fn check_finite(weight: &Weight, weights: &Weights<'_>, values: &[f32]) -> Result<(), ExportError> {
    let spoilt_one = values.iter().fold(false, |any, value| any | !value.is_finite());
    if spoilt_one { Err(spoilt(weight, weights)) } else { Ok(()) }
}

/// Why a weight has numbers that are none: a tensor of the checkpoint, or what merging made of finite ones.
fn spoilt(weight: &Weight, weights: &Weights<'_>) -> ExportError {
    weights.not_finite(weight).map_or_else(
        || {
            let problem =
                "base and adapter together give numbers that are not finite; the adapter is damaged or belongs to another base";
            WeightError::Evaluation { weight: weight.name(), problem: problem.into() }.into()
        },
        ExportError::from,
    )
}

/// Whether a number lies beyond the largest of its type.
fn overflows(elem: Elem, value: f32) -> bool {
    match elem {
        Elem::F16 => half::f16::from_f32(value).is_infinite(),
        Elem::Bf16 => half::bf16::from_f32(value).is_infinite(),
        Elem::F32 | Elem::I64 | Elem::I32 | Elem::Bool | Elem::U8 | Elem::I8 => false,
    }
}

/// The tensors of a weight that hold numbers beyond their type; all of the weight's where only merging gives such numbers.
fn too_large(elem: Elem, weight: &Weight, weights: &Weights<'_>) -> String {
    let beyond = |key: &&str| {
        let all = weights.all(&Weight::Key(key.to_string()));
        all.is_ok_and(|values| values.iter().any(|value| overflows(elem, *value)))
    };
    let keys: Vec<&str> = weight.keys().into_iter().filter(beyond).collect();
    if keys.is_empty() { weight.name() } else { keys.join(", ") }
}

fn described(initialiser: &Initialiser) -> TensorProto {
    TensorProto {
        dims: initialiser.dims.clone(),
        data_type: Some(initialiser.elem.code()),
        name: Some(initialiser.name.clone()),
        ..TensorProto::default()
    }
}

fn external(location: &str, offset: u64, length: u64) -> Vec<StringStringEntryProto> {
    [("location", location.to_string()), ("offset", offset.to_string()), ("length", length.to_string())].map(entry).to_vec()
}

fn entry((key, value): (&str, String)) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_string()), value: Some(value) }
}

fn message(graph: &OnnxGraph, initializer: Vec<TensorProto>, metadata: &[(&str, String)]) -> ModelProto {
    let microsoft = graph.nodes.iter().any(|node| node.domain() == Some(MICROSOFT));
    let domains = [("", graph.opset())].into_iter().chain(microsoft.then_some((MICROSOFT, 1)));
    let opset = |(domain, version): (&str, i64)| OperatorSetIdProto { domain: Some(domain.to_string()), version: Some(version) };
    ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some(PRODUCER.to_string()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_string()),
        graph: Some(GraphProto {
            node: graph.nodes.iter().map(node).collect(),
            name: Some(graph.name.clone()),
            initializer,
            input: graph.inputs.iter().map(port).collect(),
            output: graph.outputs.iter().map(port).collect(),
        }),
        opset_import: domains.map(opset).collect(),
        metadata_props: metadata.iter().cloned().map(entry).collect(),
    }
}

fn node(node: &OnnxNode) -> NodeProto {
    NodeProto {
        input: node.inputs.clone(),
        output: node.outputs.clone(),
        name: node.outputs.first().cloned(),
        op_type: Some(node.op.to_string()),
        attribute: node.attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        domain: node.domain().map(str::to_string),
    }
}

fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.to_string()), ..AttributeProto::default() };
    let kind = match value {
        Attribute::Int(value) => {
            proto.i = Some(*value);
            AttributeType::Int
        }
        Attribute::Float(value) => {
            proto.f = Some(*value);
            AttributeType::Float
        }
        Attribute::Ints(values) => {
            proto.ints = values.clone();
            AttributeType::Ints
        }
    };
    proto.r#type = Some(kind.into());
    proto
}

fn port(port: &Port) -> ValueInfoProto {
    let dim = |dim: &Dim| match dim.known() {
        Some(value) => Dimension { dim_value: Some(value), dim_param: None },
        None => Dimension { dim_value: None, dim_param: Some(dim.to_string()) },
    };
    let shape = TensorShapeProto { dim: port.dims.iter().map(dim).collect() };
    let tensor = TensorTypeProto { elem_type: Some(port.elem.code()), shape: Some(shape) };
    ValueInfoProto { name: Some(port.name.clone()), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmlnb_models::weights::{Checkpoint, Naming};
    use std::cell::Cell;

    /// However the rows are cut into blocks, also in the midst of a stack's parts, the bytes are the same.
    #[test]
    fn blocks_of_rows_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let values =
            |seed: usize, count: usize| (0..count).map(|i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
        let bytes = |values: Vec<f32>| DType::F32.encode(&values);
        let [a, b] = [bytes(values(1, 5 * 150)), bytes(values(2, 3 * 150))];
        let view = |rows, bytes| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![rows, 150], bytes).unwrap();
        let file = folder.path().join("model.safetensors");
        safetensors::serialize_to_file([("a.weight", view(5, &a)), ("b.weight", view(3, &b))], None, &file).unwrap();
        let checkpoint = Checkpoint::open(folder.path(), Naming::Bert).unwrap();
        let weights = Weights::new(&checkpoint);
        let weight = || Weight::Stack(["a.weight", "b.weight"].map(|key| Weight::Key(key.into())).to_vec());
        let few = |storage, form| Content::Quantised { weight: weight(), storage, form };
        let (channels, blocks) = (Storage::Channels, Storage::Blocks { bits: 4 });
        for (elem, dims, content) in [
            (Elem::F32, vec![8, 150], Content::Rows(weight())),
            (Elem::F16, vec![150, 8], Content::Transposed(weight())),
            (Elem::Bf16, vec![8, 150], Content::Rows(weight())),
            (Elem::I8, vec![150, 8], few(channels, Form::Codes)),
            (Elem::F32, vec![8], few(channels, Form::Scales)),
            (Elem::U8, vec![8, 2, 64], few(blocks, Form::Codes)),
            (Elem::F32, vec![8, 2], few(blocks, Form::Scales)),
        ] {
            let initialiser = Initialiser { name: "x".into(), elem, dims, content };
            let few = FewBits::default();
            let at_once = Source::new(&weights, &few, BLOCK_BYTES).whole(&initialiser, &|_| ()).unwrap();
            for rows in [1, 3] {
                let written = Cell::new(0);
                let source = Source::new(&weights, &few, rows * 4 * 150);
                let pieces = source.whole(&initialiser, &|bytes| written.set(written.get() + bytes)).unwrap();
                assert!(pieces == at_once, "{initialiser:?} in blocks of {rows} rows");
                if let Content::Quantised { weight, storage, form: Form::Codes } = &initialiser.content {
                    let left = source.left.take().unwrap().2;
                    for (form, kept) in [(Form::Scales, left.scales), (Form::Sums, left.sums)] {
                        let content = Content::Quantised { weight: weight.clone(), storage: *storage, form };
                        let alone = Initialiser { name: "s".into(), elem: Elem::F32, dims: vec![kept.len() as i64], content };
                        let alone = Source::new(&weights, &few, BLOCK_BYTES).whole(&alone, &|_| ()).unwrap();
                        assert!(DType::F32.encode(&kept) == alone, "{form:?} that codes leave behind");
                    }
                }
                assert_eq!(written.get(), initialiser.byte_len(), "progress tells all bytes");
            }
        }
    }
}
