//! The ONNX reading: each operator of the paper becomes a few ONNX operators.
//!
//! Every value carries its actual element type; [`Lowering::want`] puts a cast where a consumer needs another one. How weights are stored says
//! [`Policy`]. With f16, products, convolutions, rotation, attention and activations are stored and computed in f16; norms, rotary tables and the
//! residual stream stay f32. Where a processor lacks an f16 kernel, ONNX Runtime puts the casts around it. With bf16, which is for GPUs, the norms and
//! the stream are bf16 too: their kernels compute in f32 inside, and bf16 has its range.

mod attention;
mod cached;
mod emit;
mod genai;
mod layers;
mod offset;
mod portable;
mod quantised;
mod rows;
mod swin;

use crate::{
    error::ExportError,
    few_bits::FewBits,
    nodes::{Attribute, Elem, OnnxGraph, Port},
    onnx::MICROSOFT,
    policy::{Policy, Storage},
};
pub use cached::cache_head_size;
use emit::Emitter;
pub use genai::{Genai, lower_genai};
use mmlnb_models::{
    bundle::Precision,
    graph::{AttentionKind, Dim, Graph, Kind, Node, Op, Value, Weight},
};
use std::collections::{HashMap, HashSet};

/// The ONNX reading of a network, fused first: residual and norm, and linear layers of one input inside of blocks.
///
/// # Errors
/// [`ExportError::Unsupported`] for an operator in a form that none of the networks has.
pub fn lower(graph: &Graph, name: &str, precision: Precision) -> Result<OnnxGraph, ExportError> {
    lower_deciding(graph, name, precision, &FewBits::default())
}

/// As [`lower()`], with what was decided of its weights.
///
/// # Errors
/// As [`lower()`].
pub fn lower_deciding(graph: &Graph, name: &str, precision: Precision, few: &FewBits) -> Result<OnnxGraph, ExportError> {
    let policy = Policy::new(precision, graph).deciding(few);
    read(&fused(graph, precision), name, policy, Form::Runtime)
}

/// A network as it is lowered: residual and norm one operator, linear layers of one input inside of blocks one product.
pub(crate) fn fused(graph: &Graph, precision: Precision) -> Graph {
    stacked(&graph.fuse_residual_norms(), precision)
}

fn stacked(graph: &Graph, precision: Precision) -> Graph {
    let blocks = graph.nodes.iter().any(|node| node.region.is_some());
    let least = Policy::new(precision, graph).stacked_from();
    if blocks { graph.stack_linears_of(least) } else { graph.clone() }
}

/// The reading with operators of the ONNX standard alone, none of ONNX Runtime's own, for other runtimes; the same inputs and outputs.
///
/// # Errors
/// As [`lower()`], and for precisions whose products have no form in the standard.
pub fn lower_portable(graph: &Graph, name: &str, precision: Precision, few: &FewBits) -> Result<OnnxGraph, ExportError> {
    if let Some(problem) = not_portable(precision) {
        return Err(ExportError::Asked(problem));
    }
    read(&stacked(graph, precision), name, Policy::new(precision, graph).deciding(few), Form::Portable)
}

/// Why a precision has no portable form, if it has none.
pub fn not_portable(precision: Precision) -> Option<String> {
    match precision {
        Precision::F32 | Precision::F16 | Precision::Int8 => None,
        Precision::Bf16 => {
            Some("--portable is for f32, f16 and int8: few runtimes have products of bf16; give another --precision".to_string())
        }
        Precision::Int4 | Precision::Int4Int8 => Some(format!(
            "--portable is for f32, f16 and int8: the products of {precision} are an operator of ONNX Runtime's own; leave --portable out, or give another --precision"
        )),
    }
}

/// The ONNX reading of a network without fusing its operators first.
///
/// # Errors
/// As [`lower`].
pub fn lower_as_is(graph: &Graph, name: &str, precision: Precision) -> Result<OnnxGraph, ExportError> {
    read(graph, name, Policy::new(precision, graph), Form::Runtime)
}

/// What a graph is written for.
#[derive(Clone, Copy)]
enum Form<'a> {
    /// ONNX Runtime, whose own operators are faster.
    Runtime,
    /// Any runtime: operators of the ONNX standard alone.
    Portable,
    /// onnxruntime-genai, which binds other inputs and outputs.
    Genai(Genai<'a>),
}

fn read(graph: &Graph, name: &str, policy: Policy, form: Form<'_>) -> Result<OnnxGraph, ExportError> {
    let mut lowering = Lowering {
        graph,
        form,
        emit: Emitter::default(),
        tensors: HashMap::new(),
        shared: HashMap::new(),
        steps: HashMap::new(),
        absorbed: match form {
            Form::Runtime => cached::absorbed(graph, policy.compute()),
            Form::Portable | Form::Genai(_) => HashSet::new(),
        },
        policy,
        node: 0,
    };
    for (index, node) in graph.nodes.iter().enumerate() {
        if !lowering.absorbed.contains(&(index as u32)) {
            lowering.node = index as u32;
            lowering.emit.scope = node.name.to_string();
            lowering.lower(node)?;
        }
    }
    if let Form::Genai(part) = form {
        lowering.genai_results(part);
    }
    let outputs = lowering.outputs();
    let parameters = graph.parameters().iter().map(|p| p.shape.iter().product::<i64>() as u64).sum();
    let Emitter { inputs, nodes, initialisers, .. } = lowering.emit;
    let lowered = OnnxGraph { name: name.into(), inputs, outputs, nodes, initialisers, parameters };
    lowered.check()?;
    match lowered.nodes.iter().find(|node| matches!(form, Form::Portable) && node.domain() == Some(MICROSOFT)) {
        Some(node) => {
            let problems = vec![format!("{} is no operator of the standard", node.op)];
            Err(ExportError::Malformed { graph: lowered.name, problems })
        }
        None => Ok(lowered),
    }
}

/// A value of the network in the ONNX graph.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Tensor {
    name: String,
    elem: Elem,
}

struct Lowering<'g> {
    graph: &'g Graph,
    policy: Policy,
    form: Form<'g>,
    emit: Emitter,
    tensors: HashMap<Value, Tensor>,
    /// What several nodes use, by a description of it: casts, padded tables, window indices.
    shared: HashMap<String, Vec<String>>,
    /// Values in codes of 8 bits from zero up, by name, with what one step is worth.
    steps: HashMap<String, f32>,
    /// Nodes that a fused attention takes over.
    absorbed: HashSet<u32>,
    /// The node that is being lowered.
    node: u32,
}

impl Lowering<'_> {
    fn lower(&mut self, node: &Node) -> Result<(), ExportError> {
        match &node.op {
            Op::Input(name) => self.input(name, node),
            Op::Embedding { table, .. } => self.embedding(node, table),
            Op::AddPositions { table } => self.add_positions(node, table),
            Op::AddRow { table, row } => self.add_row(node, table, *row),
            Op::Linear { weight, bias, .. } => self.linear(node, weight, bias.as_ref()),
            Op::Conv2d { weight, bias, kernel, stride, pad, .. } => {
                self.conv2d(node, weight, bias.as_ref(), [*kernel, *stride, *pad])
            }
            Op::MaxPool2d => self.max_pool(node),
            Op::Mean { axes } => self.mean(node, axes),
            Op::LayerNorm { weight, bias, eps } => self.layer_norm(node, weight, bias, *eps),
            Op::RmsNorm { weight, eps } if self.portable() => self.portable_rms_norm(node, weight, *eps),
            Op::RmsNorm { weight, eps } => self.rms_norm(node, weight, *eps),
            Op::AddLayerNorm { weight, bias, eps } => self.add_layer_norm(node, weight, bias, *eps),
            Op::AddRmsNorm { weight, eps } => self.add_rms_norm(node, weight, *eps),
            Op::Relu => self.relu(node),
            Op::Gelu => self.keeping_type(node, "Gelu"),
            Op::Tanh => self.keeping_type(node, "Tanh"),
            Op::Sigmoid => self.in_f32(node, "Sigmoid", vec![]),
            Op::SwiGlu if self.portable() => self.portable_swiglu(node),
            Op::SwiGlu => self.swiglu(node),
            Op::Add => self.add(node),
            Op::Blend => self.blend(node),
            Op::Mix { share } => self.mix(node, *share),
            Op::Dropout { .. } => self.same(node),
            Op::Concat { axis } => self.in_f32(node, "Concat", vec![("axis", Attribute::Int(*axis as i64))]),
            Op::Split { axis, sizes } => self.split(node, *axis, sizes),
            Op::FirstToken => self.first_token(node),
            Op::TakeRows => self.take_rows(node),
            Op::PermuteGroups { group } => self.permute_groups(node, *group),
            Op::Unpermute => self.unpermute(node),
            Op::MergeRows { group } => self.merge_rows(node, *group),
            Op::AxialAngles { head, theta } => self.axial_angles(node, *head, *theta),
            Op::Rotary { heads } if self.portable() => self.portable_rotary(node, *heads),
            Op::Rotary { .. } => self.rotary(node),
            Op::Attention { heads, kv_heads, kind, .. } => return self.attention(node, *heads, *kv_heads, *kind),
            Op::WindowAttention { heads, side, table } if self.portable() => {
                self.portable_window_attention(node, *heads, *side, table)
            }
            Op::WindowAttention { heads, side, table } => self.window_attention(node, *heads, *side, table),
            Op::ChannelsLast => self.channels_last(node),
            Op::Windows { side, shift } => self.windows(node, *side, *shift),
            Op::Unwindow { side, shift } => self.unwindow(node, *side, *shift),
            Op::MergePatches => self.merge_patches(node),
        }
        Ok(())
    }

    /// Declares an input; integers are i64 but for the lengths of a cache, floats f32 but for an f16 cache, whose heads are padded.
    fn input(&mut self, name: &str, node: &Node) {
        let own = self.slot(0);
        if let Form::Genai(part) = self.form
            && let Some(made) = self.genai_input(name, node, part)
        {
            self.tensors.insert(own, made);
            return;
        }
        let mut dims = node.types[0].dims.clone();
        let elem = match (node.types[0].kind, cached::role(self.graph, own)) {
            (Kind::Bool, _) => Elem::Bool,
            (Kind::Int, Some(cached::Role::Length)) => Elem::I32,
            (Kind::Int, _) => Elem::I64,
            (Kind::Float, Some(cached::Role::Past)) => {
                self.pad_cache(&mut dims);
                self.compute()
            }
            (Kind::Float, _) => Elem::F32,
        };
        self.emit.inputs.push(Port { name: name.into(), elem, dims });
        self.tensors.insert(own, Tensor { name: name.into(), elem });
    }

    /// Names the results, cast to f32 where they are in f16 and no cache.
    fn outputs(&mut self) -> Vec<Port> {
        let mut ports = Vec::new();
        let mut taken: Vec<String> = self.emit.inputs.iter().map(|port| port.name.clone()).collect();
        for (name, value) in &self.graph.outputs {
            self.emit.scope = name.clone();
            let t = self.graph.type_of(*value).clone();
            let mut dims = t.dims;
            let elem = match (t.kind, cached::is_present(self.graph, *value)) {
                (Kind::Float, true) => {
                    self.pad_cache(&mut dims);
                    self.compute()
                }
                (Kind::Float, false) => Elem::F32,
                (Kind::Int | Kind::Bool, _) => self.tensors[value].elem,
            };
            let made = self.want(*value, elem);
            if made != *name {
                match taken.contains(&made) {
                    true => self.emit.node("Identity", &[&made], vec![], vec![name.clone()]),
                    false => self.rename(&made, name),
                }
            }
            taken.push(name.clone());
            ports.push(Port { name: name.clone(), elem, dims });
        }
        ports
    }

    fn rename(&mut self, old: &str, new: &str) {
        let names = self.emit.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().chain(&mut node.outputs));
        names.filter(|name| *name == old).for_each(|name| *name = new.to_string());
        let tensors = self.tensors.values_mut().map(|tensor| &mut tensor.name);
        tensors.chain(self.shared.values_mut().flatten()).filter(|name| *name == old).for_each(|name| *name = new.to_string());
    }

    fn portable(&self) -> bool {
        matches!(self.form, Form::Portable)
    }

    /// The type of products.
    fn compute(&self) -> Elem {
        self.policy.compute()
    }

    /// The type of norms and of the residual stream.
    fn stream(&self) -> Elem {
        self.policy.stream()
    }

    /// A result of the node that is being lowered.
    fn slot(&self, slot: u8) -> Value {
        Value { node: self.node, slot }
    }

    /// A value in this type; one cast serves all who want it. Codes become the numbers that they stand for.
    fn want(&mut self, value: Value, elem: Elem) -> String {
        let Tensor { name, elem: own } = self.tensors[&value].clone();
        if own == elem {
            return name;
        }
        let step = self.steps.get(&name).copied();
        let cast = self.share(&format!("{name} as {}", elem.name()), |emit| {
            let cast = format!("{name}/{}", elem.name());
            let Some(step) = step else {
                return vec![emit.named("Cast", &[&name], vec![("to", Attribute::Int(elem.code().into()))], &cast)];
            };
            let (step, zero) = (emit.float(step), emit.byte(0));
            vec![emit.named("DequantizeLinear", &[&name, &step, &zero], vec![], &cast)]
        });
        cast[0].clone()
    }

    /// A cast of what is no value of the network's own.
    fn cast(&mut self, x: &str, elem: Elem) -> String {
        self.emit.op_with("Cast", &[x], vec![("to", Attribute::Int(elem.code().into()))])
    }

    /// Input `index` of a node in f32.
    fn f32(&mut self, node: &Node, index: usize) -> String {
        self.want(node.inputs[index], Elem::F32)
    }

    /// What is made once and used by all who describe it alike.
    fn share(&mut self, what: &str, make: impl FnOnce(&mut Emitter) -> Vec<String>) -> Vec<String> {
        if let Some(made) = self.shared.get(what) {
            return made.clone();
        }
        let made = make(&mut self.emit);
        self.shared.insert(what.to_string(), made.clone());
        made
    }

    /// Declares a result under its name.
    fn give(&mut self, slot: u8, name: String, elem: Elem) {
        self.tensors.insert(self.slot(slot), Tensor { name, elem });
    }

    /// The last operator of a node: its result carries the node's name.
    fn last(&mut self, node: &Node, op: &'static str, inputs: &[&str], attributes: Vec<(&'static str, Attribute)>, elem: Elem) {
        let name = self.emit.named(op, inputs, attributes, &node.name);
        self.give(0, name, elem);
    }

    /// A parameter as an initialiser.
    fn parameter(&mut self, weight: &Weight, elem: Elem) -> String {
        let dims = self.shape(weight);
        self.emit.parameter(weight, elem, dims, false)
    }

    /// A matrix parameter as an initialiser, transposed.
    fn transposed(&mut self, weight: &Weight, elem: Elem) -> String {
        let dims = self.shape(weight).into_iter().rev().collect();
        self.emit.parameter(weight, elem, dims, true)
    }

    fn shape(&self, weight: &Weight) -> Vec<i64> {
        match weight {
            Weight::Key(key) => {
                let parameter = self.graph.parameters().iter().find(|p| p.key == *key);
                parameter.expect("a graph lists the parameters of its nodes").shape.clone()
            }
            Weight::Matrix(key) => {
                let shape = self.shape(&Weight::Key(key.clone()));
                vec![shape[0], shape[1..].iter().product()]
            }
            Weight::Adapted { base, .. } => self.shape(base),
            Weight::Stack(parts) => {
                let mut shape = self.shape(&parts[0]);
                shape[0] = parts.iter().map(|part| self.shape(part)[0]).sum();
                shape
            }
        }
    }

    fn dims(&self, value: Value) -> &[Dim] {
        &self.graph.type_of(value).dims
    }

    fn width(&self, value: Value) -> i64 {
        self.dims(value).last().and_then(Dim::known).expect("shape rules let only values of known width through")
    }

    fn attention(&mut self, node: &Node, heads: i64, kv_heads: i64, kind: AttentionKind) -> Result<(), ExportError> {
        match kind {
            AttentionKind::Full | AttentionKind::Segments if heads != kv_heads => {
                let problem = format!("{kind:?} attention with {heads} heads on {kv_heads} key heads");
                return Err(ExportError::Unsupported { node: node.name.to_string(), problem });
            }
            _ if self.portable() => self.portable_attention(node, heads, kv_heads, kind),
            AttentionKind::Cached => self.cached_attention(node, heads, kv_heads),
            AttentionKind::Causal => self.causal_attention(node, heads, kv_heads),
            AttentionKind::Full => self.full_attention(node, heads),
            AttentionKind::Segments => self.segment_attention(node, heads),
        }
        Ok(())
    }
}
