//! Rotary embedding, and attention without a cache.

use super::Lowering;
use crate::nodes::{Attribute, Elem};
use mmlnb_models::graph::{Dim, Node, Value};

/// Added to a pair that does not see each other; far below any score, and finite, so that nothing becomes NaN.
const UNSEEN: f32 = -1e9;

impl Lowering<'_> {
    /// `head / 4` angles of the row, then as many of the column.
    pub(super) fn axial_angles(&mut self, node: &Node, head: i64, theta: f64) {
        let quarter = head / 4;
        let frequencies: Vec<f32> = (0..quarter).map(|j| theta.powf(-4.0 * j as f64 / head as f64) as f32).collect();
        let positions = self.want(node.inputs[0], Elem::F32);
        let frequencies = self.emit.floats(&[1, 1, quarter], &frequencies);
        let positions = self.unsqueeze(&positions, 2);
        let angles = self.emit.op("Mul", &[&positions, &frequencies]);
        let angles = self.reshape(&angles, &[-1, head / 2]);
        for (slot, op) in [(0, "Cos"), (1, "Sin")] {
            let name = self.emit.named(op, &[&angles], vec![], &format!("{}/{}", node.name, op.to_lowercase()));
            self.give(slot, name, Elem::F32);
        }
    }

    pub(super) fn rotary(&mut self, node: &Node) {
        let [x, cos, sin] = [0, 1, 2].map(|i| self.f32(node, i));
        match node.inputs.get(3) {
            Some(positions) => {
                let positions = self.want(*positions, Elem::I64);
                self.last(node, "RotaryEmbedding", &[&x, &positions, &cos, &sin], vec![], Elem::F32);
            }
            None => {
                let positions = self.row_numbers(&cos);
                let (x, flat) = self.batched(x, self.dims(node.inputs[0]).len());
                let rotated = self.emit.op("RotaryEmbedding", &[&x, &positions, &cos, &sin]);
                self.unbatched(node, &rotated, flat);
            }
        }
    }

    /// `[1, rows]` row numbers of a table.
    fn row_numbers(&mut self, table: &str) -> String {
        let what = format!("row numbers of {table}");
        if let Some(made) = self.shared.get(&what) {
            return made[0].clone();
        }
        let rows = self.size(table, 0);
        let numbers = self.range(&rows);
        let numbers = self.unsqueeze(&numbers, 0);
        self.shared.insert(what, vec![numbers.clone()]);
        numbers
    }

    /// `[tokens, width]` as a batch of one.
    fn batched(&mut self, x: String, rank: usize) -> (String, bool) {
        if rank == 2 { (self.unsqueeze(&x, 0), true) } else { (x, false) }
    }

    fn unbatched(&mut self, node: &Node, x: &str, flat: bool) {
        let axes = self.emit.ints(&[0]);
        match flat {
            true => self.last(node, "Squeeze", &[x, &axes], vec![], Elem::F32),
            false => self.last(node, "Identity", &[x], vec![], Elem::F32),
        }
    }

    /// `softmax(q k^T / sqrt(head)) v` with a mask of keys if there is one. In f32: the CPU has no f16 kernel.
    pub(super) fn full_attention(&mut self, node: &Node, heads: i64) {
        let mask = node.inputs.get(3).map(|mask| self.want(*mask, Elem::I32)).unwrap_or_default();
        self.multi_head(node, heads, &mask, "");
    }

    pub(super) fn segment_attention(&mut self, node: &Node, heads: i64) {
        let bias = self.segment_bias(node.inputs[0], node.inputs[3]);
        self.multi_head(node, heads, "", &bias);
    }

    fn multi_head(&mut self, node: &Node, heads: i64, mask: &str, bias: &str) {
        let rank = self.dims(node.inputs[0]).len();
        let [q, k, v] = [0, 1, 2].map(|i| {
            let x = self.f32(node, i);
            self.batched(x, rank).0
        });
        let mut inputs = vec![q.as_str(), &k, &v, "", mask, bias];
        while inputs.last() == Some(&"") {
            inputs.pop();
        }
        let attributes = vec![("num_heads", Attribute::Int(heads))];
        if rank == 2 {
            let seen = self.emit.op_with("MultiHeadAttention", &inputs, attributes);
            self.unbatched(node, &seen, true);
        } else {
            self.last(node, "MultiHeadAttention", &inputs, attributes, Elem::F32);
        }
    }

    /// `[1, 1, positions, positions]`: 0 within a segment, far below any score between two; one for all layers.
    fn segment_bias(&mut self, q: Value, bounds: Value) -> String {
        let bounds = self.want(bounds, Elem::I64);
        let what = format!("segments of {bounds}");
        if let Some(made) = self.shared.get(&what) {
            return made[0].clone();
        }
        let q = self.want(q, Elem::F32);
        let rows = self.size(&q, 0);
        let positions = self.range(&rows);
        let positions = self.unsqueeze(&positions, 1);
        let bounds = self.unsqueeze(&bounds, 0);
        let begun = self.emit.op("GreaterOrEqual", &[&positions, &bounds]);
        let begun = self.emit.op_with("Cast", &[&begun], vec![("to", Attribute::Int(Elem::I64.code().into()))]);
        let axis = self.emit.ints(&[1]);
        let segment = self.emit.op_with("ReduceSum", &[&begun, &axis], vec![("keepdims", Attribute::Int(0))]);
        let (row, column) = (self.unsqueeze(&segment, 1), self.unsqueeze(&segment, 0));
        let same = self.emit.op("Equal", &[&row, &column]);
        let (zero, unseen) = (self.emit.float(0.0), self.emit.float(UNSEEN));
        let bias = self.emit.op("Where", &[&same, &zero, &unseen]);
        let axes = self.emit.ints(&[0, 1]);
        let bias = self.emit.op("Unsqueeze", &[&bias, &axes]);
        self.shared.insert(what, vec![bias.clone()]);
        bias
    }

    pub(super) fn causal_attention(&mut self, node: &Node, heads: i64, kv_heads: i64) {
        let rank = self.dims(node.inputs[0]).len();
        let [q, k, v] = [0, 1, 2].map(|i| {
            let x = self.f32(node, i);
            self.batched(x, rank).0
        });
        let number = |name, value| (name, Attribute::Int(value));
        let attributes = vec![number("is_causal", 1), number("q_num_heads", heads), number("kv_num_heads", kv_heads)];
        let seen = self.emit.op_with("Attention", &[&q, &k, &v], attributes);
        self.unbatched(node, &seen, rank == 2);
    }

    pub(super) fn known(dim: &Dim) -> i64 {
        dim.known().expect("shape rules let only known sizes through here")
    }
}
