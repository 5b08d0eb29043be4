//! Linear layers whose activations have 8 bits from each token's least number to its largest.
//!
//! Behind a layer norm or GELU the numbers of a token lie unevenly around zero, and codes that reach as far above it as below waste a part of their range: a real
//! BERT's pooler has a cosine of 0.9973 to 0.9978 to f32's instead of 0.9949 to 0.9965.

use super::{Lowering, Storage};
use crate::nodes::{Attribute, Elem, Form};
use mmlnb_models::graph::{Node, Value, Weight};

/// Least range of a token's numbers, so that equal ones give no NaN.
const LEAST: f32 = 1e-12;
/// Codes above zero.
const STEPS: f32 = 255.0;

impl Lowering<'_> {
    /// `y = u w^T * scale * range / 255 + least * sum of w + bias`: codes u from 0 to 255 count from a token's least number. Their products with weights of 7
    /// bits are exact on every processor, as those around zero are.
    pub(super) fn offset_linear(&mut self, node: &Node, weight: &Weight, bias: Option<&Weight>) {
        let [codes, range, least] = self.tokens_from_their_least(node.inputs[0]);
        let part = |lowering: &mut Self, form| lowering.quantised(weight, Storage::Channels, form);
        let (matrix, scales, sums) = (part(self, Form::Codes), part(self, Form::Scales), part(self, Form::Sums));
        let (step, zero) = (self.emit.float(1.0 / STEPS), self.emit.byte(0));
        let product = self.integer_product([&codes, &matrix, &zero], [&step, &scales]);
        let scaled = self.emit.op("Mul", &[&product, &range]);
        let mut shift = self.emit.op("Mul", &[&least, &sums]);
        if let Some(bias) = bias {
            let bias = self.parameter(bias, Elem::F32);
            shift = self.emit.op("Add", &[&shift, &bias]);
        }
        self.last(node, "Add", &[&scaled, &shift], vec![], Elem::F32);
    }

    /// The codes of a value's tokens, each token's range and its least number, `[.., 1]` both; one for all who multiply it.
    fn tokens_from_their_least(&mut self, value: Value) -> [String; 3] {
        let x = self.want(value, Elem::F32);
        let made = self.share(&format!("{x} in 8 bits from its least"), |emit| {
            let (axis, narrowest) = (emit.ints(&[-1]), emit.float(LEAST));
            let (step, zero) = (emit.float(1.0 / STEPS), emit.byte(0));
            let keeping = || vec![("keepdims", Attribute::Int(1))];
            let least = emit.op_with("ReduceMin", &[&x, &axis], keeping());
            let most = emit.op_with("ReduceMax", &[&x, &axis], keeping());
            let range = emit.op("Sub", &[&most, &least]);
            let range = emit.op("Max", &[&range, &narrowest]);
            let above = emit.op("Sub", &[&x, &least]);
            let share = emit.op("Div", &[&above, &range]);
            let codes = emit.op("QuantizeLinear", &[&share, &step, &zero]);
            vec![codes, range, least]
        });
        [made[0].clone(), made[1].clone(), made[2].clone()]
    }
}
