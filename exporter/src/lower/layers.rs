//! Layers with weights, norms and activations.

use super::{Lowering, Storage};
use crate::nodes::{Attribute, Content, Elem};
use mmlnb_models::graph::{Node, Op, Weight};

impl Lowering<'_> {
    pub(super) fn embedding(&mut self, node: &Node, table: &Weight) {
        let elem = self.policy.table();
        let dims = self.shape(table);
        let table = self.emit.content(&table.name(), elem, dims, Content::Table(table.clone()));
        let ids = self.want(node.inputs[0], Elem::I64);
        self.last(node, "Gather", &[&table, &ids], vec![], elem);
    }

    pub(super) fn add_positions(&mut self, node: &Node, table: &Weight) {
        let table = self.parameter(table, Elem::F32);
        let x = self.f32(node, 0);
        let tokens = self.emit.op_with("Shape", &[&x], vec![("start", Attribute::Int(1)), ("end", Attribute::Int(2))]);
        let (from, axis) = (self.emit.ints(&[0]), self.emit.ints(&[0]));
        let rows = self.emit.op("Slice", &[&table, &from, &tokens, &axis]);
        self.last(node, "Add", &[&x, &rows], vec![], Elem::F32);
    }

    pub(super) fn add_row(&mut self, node: &Node, table: &Weight, row: i64) {
        let table = self.parameter(table, Elem::F32);
        let row = self.emit.int(row);
        let row = self.emit.op("Gather", &[&table, &row]);
        let x = self.f32(node, 0);
        self.last(node, "Add", &[&x, &row], vec![], Elem::F32);
    }

    pub(super) fn linear(&mut self, node: &Node, weight: &Weight, bias: Option<&Weight>) {
        match self.policy.storage(weight) {
            Storage::Float => self.float_linear(node, weight, bias),
            Storage::Channels if self.policy.offset() => self.offset_linear(node, weight, bias),
            Storage::Channels => self.channel_linear(node, weight, bias),
            Storage::Blocks { bits } => self.block_linear(node, weight, bias, bits),
        }
    }

    fn float_linear(&mut self, node: &Node, weight: &Weight, bias: Option<&Weight>) {
        let elem = self.compute();
        let x = self.want(node.inputs[0], elem);
        let weight = self.transposed(weight, elem);
        match bias {
            None => self.last(node, "MatMul", &[&x, &weight], vec![], elem),
            Some(bias) => {
                let bias = self.parameter(bias, elem);
                let product = self.emit.op("MatMul", &[&x, &weight]);
                self.last(node, "Add", &[&product, &bias], vec![], elem);
            }
        }
    }

    pub(super) fn conv2d(&mut self, node: &Node, weight: &Weight, bias: Option<&Weight>, [kernel, stride, pad]: [i64; 3]) {
        let elem = self.compute();
        let codes = self.steps.get(&self.tensors[&node.inputs[0]].name).copied();
        let mut inputs = vec![self.want(node.inputs[0], elem)];
        match codes {
            Some(step) => inputs.extend(self.kernel_in_codes(weight, bias, step)),
            None => {
                inputs.push(self.parameter(weight, elem));
                inputs.extend(bias.map(|bias| self.parameter(bias, elem)));
            }
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let sides = |name, value| (name, Attribute::Ints(vec![value; 2]));
        let attributes = vec![sides("kernel_shape", kernel), sides("strides", stride), ("pads", Attribute::Ints(vec![pad; 4]))];
        self.last(node, "Conv", &inputs, attributes, elem);
    }

    /// With codes for its results where it is known what their step is worth.
    pub(super) fn relu(&mut self, node: &Node) {
        let step = match &self.graph.nodes[node.inputs[0].node as usize].op {
            Op::Conv2d { weight, .. } => self.policy.step(weight),
            _ => None,
        };
        match step {
            Some(step) => self.relu_into_codes(node, step),
            None => self.keeping_type(node, "Relu"),
        }
    }

    /// Order is all that matters, so codes stay what they are.
    pub(super) fn max_pool(&mut self, node: &Node) {
        let super::Tensor { name, elem } = self.tensors[&node.inputs[0]].clone();
        let two = || Attribute::Ints(vec![2, 2]);
        self.last(node, "MaxPool", &[&name], vec![("kernel_shape", two()), ("strides", two())], elem);
        if let Some(step) = self.steps.get(&name).copied() {
            self.mark(step);
        }
    }

    pub(super) fn mean(&mut self, node: &Node, axes: &[usize]) {
        let x = self.f32(node, 0);
        let axes: Vec<i64> = axes.iter().map(|axis| *axis as i64).collect();
        let axes = self.emit.ints(&axes);
        self.last(node, "ReduceMean", &[&x, &axes], vec![("keepdims", Attribute::Int(0))], Elem::F32);
    }

    pub(super) fn layer_norm(&mut self, node: &Node, weight: &Weight, bias: &Weight, eps: f64) {
        let x = self.want(node.inputs[0], self.stream());
        self.norm(node, "LayerNormalization", &x, &[weight, bias], eps);
    }

    pub(super) fn rms_norm(&mut self, node: &Node, weight: &Weight, eps: f64) {
        let x = self.want(node.inputs[0], self.stream());
        // On CUDA a scale in f16 would make the result f16 without a cast; processors have no kernel for that pair.
        self.norm(node, "RMSNormalization", &x, &[weight], eps);
    }

    /// A sum of the residual stream.
    pub(super) fn add(&mut self, node: &Node) {
        let elem = self.stream();
        let [x, y] = [0, 1].map(|i| self.want(node.inputs[i], elem));
        self.last(node, "Add", &[&x, &y], vec![], elem);
    }

    pub(super) fn add_layer_norm(&mut self, node: &Node, weight: &Weight, bias: &Weight, eps: f64) {
        self.add_norm(node, ["SkipLayerNormalization", "LayerNormalization"], &[weight, bias], eps);
    }

    pub(super) fn add_rms_norm(&mut self, node: &Node, weight: &Weight, eps: f64) {
        self.add_norm(node, ["SkipSimplifiedLayerNormalization", "RMSNormalization"], &[weight], eps);
    }

    /// Slot 0: the norm of the sum; slot 1: the sum. The fused operators take two or three axes; a map has four.
    fn add_norm(&mut self, node: &Node, [fused, plain]: [&'static str; 2], weights: &[&Weight], eps: f64) {
        let elem = self.stream();
        let [x, y] = [0, 1].map(|i| self.want(node.inputs[i], elem));
        let sum = self.emit.unique(&format!("{}/sum", node.name));
        self.give(1, sum.clone(), elem);
        if self.dims(node.inputs[0]).len() > 3 {
            self.emit.node("Add", &[&x, &y], vec![], vec![sum.clone()]);
            return self.norm(node, plain, &sum, weights, eps);
        }
        let mut inputs = vec![x, y];
        inputs.extend(weights.iter().map(|weight| self.parameter(weight, elem)));
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let norm = self.emit.unique(&node.name);
        let outputs = vec![norm.clone(), String::new(), String::new(), sum];
        self.emit.node(fused, &inputs, vec![("epsilon", Attribute::Float(eps as f32))], outputs);
        self.give(0, norm, elem);
    }

    fn norm(&mut self, node: &Node, op: &'static str, x: &str, weights: &[&Weight], eps: f64) {
        let elem = self.stream();
        let weights: Vec<String> = weights.iter().map(|weight| self.parameter(weight, elem)).collect();
        let inputs: Vec<&str> = std::iter::once(x).chain(weights.iter().map(String::as_str)).collect();
        let attributes = vec![("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(eps as f32))];
        self.last(node, op, &inputs, attributes, elem);
    }

    /// An operator of one input in whatever type it comes.
    pub(super) fn keeping_type(&mut self, node: &Node, op: &'static str) {
        let super::Tensor { name, elem } = self.tensors[&node.inputs[0]].clone();
        self.last(node, op, &[&name], vec![], elem);
    }

    /// An operator on all inputs in f32.
    pub(super) fn in_f32(&mut self, node: &Node, op: &'static str, attributes: Vec<(&'static str, Attribute)>) {
        let inputs: Vec<String> = (0..node.inputs.len()).map(|i| self.f32(node, i)).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.last(node, op, &inputs, attributes, Elem::F32);
    }

    /// QuickGelu with alpha 1 is SiLU.
    pub(super) fn swiglu(&mut self, node: &Node) {
        let elem = self.tensors[&node.inputs[0]].elem;
        let (gate, up) = (self.want(node.inputs[0], elem), self.want(node.inputs[1], elem));
        let gate = self.emit.op_with("QuickGelu", &[&gate], vec![("alpha", Attribute::Float(1.0))]);
        self.last(node, "Mul", &[&gate, &up], vec![], elem);
    }

    pub(super) fn blend(&mut self, node: &Node) {
        let [weight, a, b] = [0, 1, 2].map(|i| self.f32(node, i));
        let one = self.emit.float(1.0);
        let rest = self.emit.op("Sub", &[&one, &weight]);
        let (a, b) = (self.emit.op("Mul", &[&weight, &a]), self.emit.op("Mul", &[&rest, &b]));
        self.last(node, "Add", &[&a, &b], vec![], Elem::F32);
    }

    pub(super) fn mix(&mut self, node: &Node, share: f64) {
        let [a, b] = [0, 1].map(|i| self.f32(node, i));
        let shares = [share, 1.0 - share].map(|share| self.emit.float(share as f32));
        let (a, b) = (self.emit.op("Mul", &[&shares[0], &a]), self.emit.op("Mul", &[&shares[1], &b]));
        self.last(node, "Add", &[&a, &b], vec![], Elem::F32);
    }

    /// Dropout does nothing outside of training.
    pub(super) fn same(&mut self, node: &Node) {
        let tensor = self.tensors[&node.inputs[0]].clone();
        self.tensors.insert(self.slot(0), tensor);
    }
}
