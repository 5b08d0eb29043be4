//! Linear layers and convolutions whose weights are stored in few bits.

use super::{Lowering, Storage};
use crate::{
    nodes::{Attribute, Content, Elem, Form, Kernel, KernelPart},
    policy::BLOCK,
    quantise::ZERO8,
};
use mmlnb_models::graph::{Node, Value, Weight};

/// Least largest activation of a token, so that a row of zeros gives zeros and no NaN.
const LEAST: f32 = 1e-12;
/// MatMulNBits multiplies with activations of 8 bits a row and block.
const ACCURACY: i64 = 4;

impl Lowering<'_> {
    /// `y = (u - 128) w^T * scale * m + bias`: activations of 8 bits with a scale `m / 127` for each token, products in whole numbers, see
    /// [`crate::quantise`]. The rows of a batch do not see each other.
    pub(super) fn channel_linear(&mut self, node: &Node, weight: &Weight, bias: Option<&Weight>) {
        let [codes, most] = self.tokens_in_8_bits(node.inputs[0]);
        let matrix = self.quantised(weight, Storage::Channels, Form::Codes);
        let scales = self.quantised(weight, Storage::Channels, Form::Scales);
        let (one, zero) = (self.emit.float(1.0 / 127.0), self.emit.byte(ZERO8));
        let product = self.integer_product([&codes, &matrix, &zero], [&one, &scales]);
        match bias {
            None => self.last(node, "Mul", &[&product, &most], vec![], Elem::F32),
            Some(bias) => {
                let bias = self.parameter(bias, Elem::F32);
                let scaled = self.emit.op("Mul", &[&product, &most]);
                self.last(node, "Add", &[&scaled, &bias], vec![], Elem::F32);
            }
        }
    }

    /// `(codes - zero) matrix * step * scales`, the product in whole numbers.
    pub(super) fn integer_product(&mut self, [codes, matrix, zero]: [&str; 3], [step, scales]: [&str; 2]) -> String {
        match self.portable() {
            true => self.portable_integer_product([codes, matrix, zero], [step, scales]),
            false => self.emit.op("MatMulIntegerToFloat", &[codes, matrix, step, scales, zero]),
        }
    }

    /// The codes of a value's tokens, and each token's largest magnitude `[.., 1]`; one for all who multiply it.
    fn tokens_in_8_bits(&mut self, value: Value) -> [String; 2] {
        let x = self.want(value, Elem::F32);
        let made = self.share(&format!("{x} in 8 bits"), |emit| {
            let (axis, least) = (emit.ints(&[-1]), emit.float(LEAST));
            let (step, zero) = (emit.float(1.0 / 127.0), emit.byte(ZERO8));
            let size = emit.op("Abs", &[&x]);
            let most = emit.op_with("ReduceMax", &[&size, &axis], vec![("keepdims", Attribute::Int(1))]);
            let most = emit.op("Max", &[&most, &least]);
            let share = emit.op("Div", &[&x, &most]);
            let codes = emit.op("QuantizeLinear", &[&share, &step, &zero]);
            vec![codes, most]
        });
        [made[0].clone(), made[1].clone()]
    }

    /// ONNX Runtime's product with weights in blocks.
    pub(super) fn block_linear(&mut self, node: &Node, weight: &Weight, bias: Option<&Weight>, bits: i64) {
        let x = self.want(node.inputs[0], Elem::F32);
        let storage = Storage::Blocks { bits };
        let (codes, scales) = (self.quantised(weight, storage, Form::Codes), self.quantised(weight, storage, Form::Scales));
        let shape = self.shape(weight);
        let mut inputs = vec![x, codes, scales];
        if let Some(bias) = bias {
            inputs.extend([String::new(), String::new(), self.parameter(bias, Elem::F32)]);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let settings = [("K", shape[1]), ("N", shape[0]), ("bits", bits), ("block_size", BLOCK), ("accuracy_level", ACCURACY)];
        let attributes = settings.map(|(name, value)| (name, Attribute::Int(value))).to_vec();
        self.last(node, "MatMulNBits", &inputs, attributes, Elem::F32);
    }

    /// Kernel and bias of a convolution on codes of one `step`, each as codes with what they are multiplied with: the form in which ONNX says that
    /// `codes out = round((sum of x w + b) * step in * scale / step out)` is to be made in whole numbers, x from 0 to 255, w from -63 to 63. ONNX Runtime makes one
    /// operator (QLinearConv) of it; others that do not still compute the same network.
    pub(super) fn kernel_in_codes(&mut self, weight: &Weight, bias: Option<&Weight>, step: f32) -> Vec<String> {
        let shape = self.shape(weight);
        let kernel = Kernel { weight: weight.clone(), bias: bias.cloned(), step };
        let mut decoded = |[codes, scales]: [KernelPart; 2], elem: Elem, dims: &[i64]| {
            let mut part = |part: KernelPart, elem: Elem, dims: &[i64]| {
                let content = Content::Kernel { kernel: kernel.clone(), part };
                self.emit.content(&format!("{}/{}", weight.name(), part.name()), elem, dims.to_vec(), content)
            };
            let (codes, scales) = (part(codes, elem, dims), part(scales, Elem::F32, &dims[..1]));
            self.emit.op_with("DequantizeLinear", &[&codes, &scales], vec![("axis", Attribute::Int(0))])
        };
        let weights = decoded([KernelPart::Codes, KernelPart::Scales], Elem::I8, &shape);
        let biases = bias.map(|_| decoded([KernelPart::Biases, KernelPart::BiasScales], Elem::I32, &shape[..1]));
        std::iter::once(weights).chain(biases).collect()
    }

    /// The codes of a ReLU's results: negative numbers are cut to the lowest code, which is zero's, so that no other operator is needed.
    pub(super) fn relu_into_codes(&mut self, node: &Node, step: f32) {
        let x = self.want(node.inputs[0], Elem::F32);
        let (size, zero) = (self.emit.float(step), self.emit.byte(0));
        self.last(node, "QuantizeLinear", &[&x, &size, &zero], vec![], Elem::U8);
        self.mark(step);
    }

    /// Says what one step of the codes is worth that the node being lowered gives.
    pub(super) fn mark(&mut self, step: f32) {
        let name = self.tensors[&self.slot(0)].name.clone();
        self.steps.insert(name, step);
    }

    /// Codes, scales or sums of a matrix as an initialiser.
    pub(super) fn quantised(&mut self, weight: &Weight, storage: Storage, form: Form) -> String {
        let shape = self.shape(weight);
        let (outputs, inputs) = (shape[0], shape[1]);
        let blocks = (inputs + BLOCK - 1) / BLOCK;
        let (elem, dims) = match (storage, form) {
            (Storage::Channels, Form::Codes) => (Elem::I8, vec![inputs, outputs]),
            (Storage::Channels, Form::Scales) | (_, Form::Sums) => (Elem::F32, vec![outputs]),
            (Storage::Blocks { bits }, Form::Codes) => (Elem::U8, vec![outputs, blocks, BLOCK * bits / 8]),
            (Storage::Blocks { .. }, Form::Scales) => (Elem::F32, vec![outputs, blocks]),
            (Storage::Float, _) => unreachable!("floats have neither codes nor scales"),
        };
        let content = Content::Quantised { weight: weight.clone(), storage, form };
        self.emit.content(&format!("{}/{}", weight.name(), form.name()), elem, dims, content)
    }
}
