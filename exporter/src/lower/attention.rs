//! Rotary embedding, and attention without a cache.

use super::Lowering;
use crate::nodes::{Attribute, Elem};
use mmlnb_models::graph::{Dim, Node, Value};

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

    /// In the type of what is rotated; the angles are cast once for all layers.
    pub(super) fn rotary(&mut self, node: &Node) {
        let elem = self.tensors[&node.inputs[0]].elem;
        let [x, cos, sin] = [0, 1, 2].map(|i| self.want(node.inputs[i], elem));
        match node.inputs.get(3) {
            Some(positions) => {
                let positions = self.want(*positions, Elem::I64);
                self.last(node, "RotaryEmbedding", &[&x, &positions, &cos, &sin], vec![], elem);
            }
            None => {
                let positions = self.row_numbers(&cos);
                let (x, flat) = self.batched(x, self.dims(node.inputs[0]).len());
                let rotated = self.emit.op("RotaryEmbedding", &[&x, &positions, &cos, &sin]);
                self.unbatched(node, &rotated, flat, elem);
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

    fn unbatched(&mut self, node: &Node, x: &str, flat: bool, elem: Elem) {
        let axes = self.emit.ints(&[0]);
        match flat {
            true => self.last(node, "Squeeze", &[x, &axes], vec![], elem),
            false => self.last(node, "Identity", &[x], vec![], elem),
        }
    }

    /// Query, key and value in the query's type.
    fn query_key_value(&mut self, node: &Node) -> ([String; 3], Elem) {
        let elem = self.tensors[&node.inputs[0]].elem;
        ([0, 1, 2].map(|i| self.want(node.inputs[i], elem)), elem)
    }

    /// `softmax(q k^T / sqrt(head)) v` with a mask of keys if there is one.
    pub(super) fn full_attention(&mut self, node: &Node, heads: i64) {
        let mask = node.inputs.get(3).map(|mask| self.want(*mask, Elem::I32)).unwrap_or_default();
        self.multi_head(node, heads, &mask);
    }

    /// Each segment as a row of a batch, padded to the longest: linear in the positions, where a mask of pairs would be quadratic.
    pub(super) fn segment_attention(&mut self, node: &Node, heads: i64) {
        let [place, back, lengths] = self.segment_places(node.inputs[0], node.inputs[3]);
        let (parts, elem) = self.query_key_value(node);
        let [q, k, v] = parts.map(|x| self.emit.op("Gather", &[&x, &place]));
        let attributes = vec![("num_heads", Attribute::Int(heads))];
        let seen = self.emit.op_with("MultiHeadAttention", &[&q, &k, &v, "", &lengths], attributes);
        let seen = self.reshape(&seen, &[-1, Self::known(self.dims(node.inputs[0]).last().expect("a row has a width"))]);
        self.last(node, "Gather", &[&seen, &back], vec![], elem);
    }

    fn multi_head(&mut self, node: &Node, heads: i64, mask: &str) {
        let rank = self.dims(node.inputs[0]).len();
        let (parts, elem) = self.query_key_value(node);
        let [q, k, v] = parts.map(|x| self.batched(x, rank).0);
        let mut inputs = vec![q.as_str(), &k, &v, "", mask];
        while inputs.last() == Some(&"") {
            inputs.pop();
        }
        let attributes = vec![("num_heads", Attribute::Int(heads))];
        if rank == 2 {
            let seen = self.emit.op_with("MultiHeadAttention", &inputs, attributes);
            self.unbatched(node, &seen, true, elem);
        } else {
            self.last(node, "MultiHeadAttention", &inputs, attributes, elem);
        }
    }

    /// For all layers with these bounds: the position in each place of `[segments, longest]`, the place of each position, and the segments' lengths.
    pub(super) fn segment_places(&mut self, q: Value, bounds: Value) -> [String; 3] {
        let bounds = self.want(bounds, Elem::I64);
        let what = format!("segments of {bounds}");
        if let Some(made) = self.shared.get(&what) {
            return std::array::from_fn(|i| made[i].clone());
        }
        let axis = self.emit.ints(&[0]);
        let [first, second, before_last, end] = [0, 1, -1, i64::MAX].map(|i| self.emit.ints(&[i]));
        let starts = self.emit.op("Slice", &[&bounds, &first, &before_last, &axis]);
        let ends = self.emit.op("Slice", &[&bounds, &second, &end, &axis]);
        let lengths = self.emit.op("Sub", &[&ends, &starts]);
        let longest = self.emit.op_with("ReduceMax", &[&lengths], vec![("keepdims", Attribute::Int(0))]);

        let q = self.tensors[&q].name.clone();
        let rows = self.size(&q, 0);
        let one = self.emit.int(1);
        let last = self.emit.op("Sub", &[&rows, &one]);
        let (column, start) = (self.range(&longest), self.unsqueeze(&starts, 1));
        let place = self.emit.op("Add", &[&start, &column]);
        // Padding repeats the last position; its keys lie beyond the segment's length and its results are not taken back.
        let place = self.emit.op("Min", &[&place, &last]);

        let positions = self.range(&rows);
        let segment = self.segment_of(&positions, &bounds);
        let begun = self.emit.op("Gather", &[&starts, &segment]);
        let (row, within) = (self.emit.op("Mul", &[&segment, &longest]), self.emit.op("Sub", &[&positions, &begun]));
        let back = self.emit.op("Add", &[&row, &within]);
        let lengths = self.cast(&lengths, Elem::I32);
        let made = [place, back, lengths];
        self.shared.insert(what, made.to_vec());
        made
    }

    /// The number of the segment in which each position lies.
    fn segment_of(&mut self, positions: &str, bounds: &str) -> String {
        let (position, bound) = (self.unsqueeze(positions, 1), self.unsqueeze(bounds, 0));
        let begun = self.emit.op("GreaterOrEqual", &[&position, &bound]);
        let begun = self.cast(&begun, Elem::I64);
        let axis = self.emit.ints(&[1]);
        let count = self.emit.op_with("ReduceSum", &[&begun, &axis], vec![("keepdims", Attribute::Int(0))]);
        let one = self.emit.int(1);
        self.emit.op("Sub", &[&count, &one])
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
        self.unbatched(node, &seen, rank == 2, Elem::F32);
    }

    pub(super) fn known(dim: &Dim) -> i64 {
        dim.known().expect("shape rules let only known sizes through here")
    }
}
