//! A graph of ONNX operators as plain data, between the network and the file.

use crate::{
    error::ExportError,
    onnx::{MICROSOFT, OPSET},
    policy::Storage,
};
use mmlnb_models::graph::{Dim, Weight};
use std::{collections::HashSet, fmt};

/// Type of a tensor's elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Elem {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// True or false.
    Bool,
    /// A byte.
    U8,
    /// A signed byte.
    I8,
}

impl Elem {
    /// Its number in onnx.proto's `TensorProto.DataType`.
    pub fn code(self) -> i32 {
        match self {
            Elem::F32 => 1,
            Elem::U8 => 2,
            Elem::I8 => 3,
            Elem::I32 => 6,
            Elem::I64 => 7,
            Elem::Bool => 9,
            Elem::F16 => 10,
            Elem::Bf16 => 16,
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Elem::Bool | Elem::U8 | Elem::I8 => 1,
            Elem::F16 | Elem::Bf16 => 2,
            Elem::F32 | Elem::I32 => 4,
            Elem::I64 => 8,
        }
    }

    /// f32, f16, bf16, i64, i32, bool, u8 or i8.
    pub fn name(self) -> &'static str {
        match self {
            Elem::F32 => "f32",
            Elem::F16 => "f16",
            Elem::Bf16 => "bf16",
            Elem::I64 => "i64",
            Elem::I32 => "i32",
            Elem::Bool => "bool",
            Elem::U8 => "u8",
            Elem::I8 => "i8",
        }
    }
}

/// An input or output of a graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub elem: Elem,
    /// Its sizes; names are free.
    pub dims: Vec<Dim>,
}

/// The value of an attribute.
#[derive(Clone, PartialEq, Debug)]
pub enum Attribute {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f32),
    /// Whole numbers.
    Ints(Vec<i64>),
}

/// One operator.
#[derive(Clone, PartialEq, Debug)]
pub struct OnnxNode {
    /// Its type, one of [`OPERATORS`].
    pub op: &'static str,
    /// Names of its inputs; empty for one that is left out.
    pub inputs: Vec<String>,
    /// Names of its outputs; empty for one that is not wanted.
    pub outputs: Vec<String>,
    /// Its settings.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// A weight or constant.
#[derive(Clone, PartialEq, Debug)]
pub struct Initialiser {
    /// The checkpoint's key, or a name of the lowering's own.
    pub name: String,
    /// Type as stored.
    pub elem: Elem,
    /// Sizes as stored.
    pub dims: Vec<i64>,
    /// Where its numbers come from.
    pub content: Content,
}

impl Initialiser {
    /// Bytes as stored.
    pub fn byte_len(&self) -> u64 {
        self.dims.iter().product::<i64>() as u64 * self.elem.size() as u64
    }
}

/// Where an initialiser's numbers come from.
#[derive(Clone, PartialEq, Debug)]
pub enum Content {
    /// Little-endian bytes.
    Bytes(Vec<u8>),
    /// A parameter, as the checkpoint holds it.
    Rows(Weight),
    /// As `Rows`, of whatever size outside of the graph's file: whoever looks rows up can read them there without the graph.
    Table(Weight),
    /// A matrix parameter `[outputs, inputs]`, stored `[inputs, outputs]`.
    Transposed(Weight),
    /// A matrix parameter `[outputs, inputs]` in few bits.
    Quantised {
        /// The matrix.
        weight: Weight,
        /// How it is stored.
        storage: Storage,
        /// Which of its parts this is.
        form: Form,
    },
    /// A convolution's kernel in 7 bits.
    Kernel {
        /// The kernel.
        kernel: Kernel,
        /// Which of its parts this is.
        part: KernelPart,
    },
}

/// A convolution that is made in whole numbers.
#[derive(Clone, PartialEq, Debug)]
pub struct Kernel {
    /// `[outputs, inputs, side, side]`.
    pub weight: Weight,
    /// `[outputs]`.
    pub bias: Option<Weight>,
    /// What one step of the codes is worth that go in.
    pub step: f32,
}

/// The parts of a convolution in whole numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelPart {
    /// The kernel's weights, in its shape.
    Codes,
    /// What those of an output are multiplied with.
    Scales,
    /// Biases as whole numbers, in steps of an output's products.
    Biases,
    /// What those steps are worth.
    BiasScales,
}

impl KernelPart {
    /// codes, scales, biases or bias_scales.
    pub fn name(self) -> &'static str {
        match self {
            KernelPart::Codes => "codes",
            KernelPart::Scales => "scales",
            KernelPart::Biases => "biases",
            KernelPart::BiasScales => "bias_scales",
        }
    }
}

/// The parts of a matrix in few bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The numbers themselves.
    Codes,
    /// What they are multiplied with.
    Scales,
    /// Sums of each output's weights, as codes and scale have them.
    Sums,
}

impl Form {
    /// codes, scales or sums.
    pub fn name(self) -> &'static str {
        match self {
            Form::Codes => "codes",
            Form::Scales => "scales",
            Form::Sums => "sums",
        }
    }
}

/// A graph of ONNX operators.
#[derive(Clone, PartialEq, Debug)]
pub struct OnnxGraph {
    /// The network's name.
    pub name: String,
    /// Inputs, in the network's order.
    pub inputs: Vec<Port>,
    /// Outputs, in the network's order.
    pub outputs: Vec<Port>,
    /// Operators, each after its inputs.
    pub nodes: Vec<OnnxNode>,
    /// Weights and constants, in order of first use.
    pub initialisers: Vec<Initialiser>,
    /// Elements of the checkpoint tensors used.
    pub parameters: u64,
}

/// Every operator type that is written: name, domain, first operator set with the form that is used.
pub const OPERATORS: &[(&str, &str, i64)] = &[
    ("Abs", "", 13),
    ("Add", "", 14),
    ("And", "", 7),
    ("Attention", "", 23),
    ("Cast", "", 19),
    ("Concat", "", 13),
    ("Conv", "", 11),
    ("Cos", "", 7),
    ("CumSum", "", 14),
    ("DequantizeLinear", "", 21),
    ("Div", "", 14),
    ("Equal", "", 19),
    ("Expand", "", 13),
    ("Gather", "", 13),
    ("Gelu", "", 20),
    ("GreaterOrEqual", "", 16),
    ("GroupQueryAttention", MICROSOFT, 1),
    ("Identity", "", 19),
    ("LayerNormalization", "", 17),
    ("Less", "", 13),
    ("MatMul", "", 13),
    ("MatMulInteger", "", 10),
    ("MatMulIntegerToFloat", MICROSOFT, 1),
    ("MatMulNBits", MICROSOFT, 1),
    ("Max", "", 13),
    ("MaxPool", "", 12),
    ("Min", "", 13),
    ("Mod", "", 13),
    ("Mul", "", 14),
    ("MultiHeadAttention", MICROSOFT, 1),
    ("Neg", "", 13),
    ("Pad", "", 21),
    ("Pow", "", 15),
    ("QuantizeLinear", "", 21),
    ("QuickGelu", MICROSOFT, 1),
    ("RMSNormalization", "", 23),
    ("Range", "", 11),
    ("ReduceMax", "", 20),
    ("ReduceMean", "", 18),
    ("ReduceMin", "", 20),
    ("ReduceSum", "", 13),
    ("Relu", "", 14),
    ("Reshape", "", 21),
    ("RotaryEmbedding", MICROSOFT, 1),
    ("ScatterND", "", 18),
    ("Shape", "", 21),
    ("Sigmoid", "", 13),
    ("Sin", "", 7),
    ("SkipLayerNormalization", MICROSOFT, 1),
    ("SkipSimplifiedLayerNormalization", MICROSOFT, 1),
    ("Slice", "", 13),
    ("Softmax", "", 13),
    ("Split", "", 18),
    ("Sqrt", "", 13),
    ("Squeeze", "", 21),
    ("Sub", "", 14),
    ("Tanh", "", 13),
    ("Transpose", "", 21),
    ("Unsqueeze", "", 21),
    ("Where", "", 16),
];

impl OnnxNode {
    /// The domain of its type; `None` for a type that is not in [`OPERATORS`].
    pub fn domain(&self) -> Option<&'static str> {
        OPERATORS.iter().find(|(name, ..)| *name == self.op).map(|(_, domain, _)| *domain)
    }
}

impl OnnxGraph {
    /// The operator set of the domain "" in which the graph is written: the lowest that has all its operators, from [`OPSET`] on.
    ///
    /// ONNX Runtime's kernels without an upper bound serve only the very set in which an operator last changed. On CUDA, MaxPool has none that serves
    /// set 22 or a later one, so what does not need a later set is not written in it.
    pub fn opset(&self) -> i64 {
        let needed = self.nodes.iter().filter_map(|node| OPERATORS.iter().find(|(name, ..)| *name == node.op));
        needed.filter(|(_, domain, _)| domain.is_empty()).map(|(.., since)| *since).fold(OPSET, i64::max)
    }

    /// Refuses a graph that is not well formed: a name given twice, an input that nothing before it makes, an operator type that is not in
    /// [`OPERATORS`].
    ///
    /// # Errors
    /// All that is wrong, one sentence each: a bug of the lowering.
    pub fn check(&self) -> Result<(), ExportError> {
        let mut problems = Vec::new();
        let mut made = HashSet::new();
        let given = self.inputs.iter().map(|p| &p.name).chain(self.initialisers.iter().map(|i| &i.name));
        problems.extend(given.filter(|name| !made.insert(name.as_str())).map(|name| format!("`{name}` exists twice")));
        for node in &self.nodes {
            if node.domain().is_none() {
                problems.push(format!("operator type {} is not known", node.op));
            }
            let unmade = node.inputs.iter().filter(|name| !name.is_empty() && !made.contains(name.as_str()));
            problems.extend(unmade.map(|name| format!("{} takes `{name}`, which nothing before it makes", node.op)));
            let doubled = node.outputs.iter().filter(|name| !name.is_empty() && !made.insert(name.as_str()));
            problems.extend(doubled.map(|name| format!("`{name}` exists twice")));
        }
        let unmade = self.outputs.iter().filter(|port| !made.contains(port.name.as_str()));
        problems.extend(unmade.map(|port| format!("nothing makes the output `{}`", port.name)));
        if problems.is_empty() { Ok(()) } else { Err(ExportError::Malformed { graph: self.name.clone(), problems }) }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(Dim::to_string).collect();
        write!(f, "{} {}[{}]", self.name, self.elem.name(), dims.join(", "))
    }
}

impl fmt::Display for OnnxGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inputs.iter().try_for_each(|port| writeln!(f, "in   {port}"))?;
        for Initialiser { name, elem, dims, content } in &self.initialisers {
            let from = match content {
                Content::Bytes(bytes) => constant(*elem, bytes),
                Content::Rows(weight) | Content::Table(weight) => weight.to_string(),
                Content::Transposed(weight) => format!("transposed {weight}"),
                Content::Quantised { weight, storage, form } => format!("{} of {weight} in {storage:?}", form.name()),
                Content::Kernel { kernel, part } => format!("{} of {} at steps of {}", part.name(), kernel.weight, kernel.step),
            };
            writeln!(f, "init {name} {}{dims:?} = {from}", elem.name())?;
        }
        for node in &self.nodes {
            let attributes: Vec<String> = node.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let attributes = if attributes.is_empty() { String::new() } else { format!("[{}]", attributes.join(", ")) };
            writeln!(f, "     {} = {}{attributes}({})", node.outputs.join(", "), node.op, node.inputs.join(", "))?;
        }
        self.outputs.iter().try_for_each(|port| writeln!(f, "out  {port}"))
    }
}

/// The numbers of a small constant, the length of a large one.
fn constant(elem: Elem, bytes: &[u8]) -> String {
    let words = bytes.chunks_exact(elem.size());
    if words.len() > 8 {
        return format!("{} numbers", words.len());
    }
    let numbers = words.map(|word| match (elem, word) {
        (Elem::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).to_string(),
        (Elem::I64, &[a, b, c, d, e, f, g, h]) => i64::from_le_bytes([a, b, c, d, e, f, g, h]).to_string(),
        (_, bytes) => format!("{bytes:?}"),
    });
    numbers.collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attribute::Int(value) => write!(f, "{value}"),
            Attribute::Float(value) => write!(f, "{value}"),
            Attribute::Ints(values) => write!(f, "{values:?}"),
        }
    }
}
