//! Operators of the ONNX standard alone, in the place of ONNX Runtime's own ones, for graphs that other runtimes are to load.
//!
//! All of them are in operator set 21: runtimes learn later sets slowly, and norms written out are recognised and fused again by ONNX Runtime and OpenVINO.
//! Names and shapes of inputs and outputs are those of the other form, the cache's too.

use super::{Lowering, cache_head_size};
use crate::nodes::{Attribute, Elem};
use mmlnb_models::graph::{AttentionKind, Node, Weight};

/// In the place of the score of a pair that does not see each other; finite, so that a row which sees nothing gives no NaN.
const UNSEEN: f32 = -1e30;

/// What is done to scores `[batch, heads, queries, keys]`; names of ONNX values.
enum Limit {
    /// All keys are seen.
    None,
    /// Keys that are seen, of a shape that spreads over the scores.
    Seen(String),
    /// Added to the scores.
    Bias(String),
}

/// Where a call's tokens stand in the cache, for all layers; names of ONNX values.
struct Places {
    /// `[batch, kv heads, tokens, 3]`: row, head and place of each new key.
    new: String,
    /// `[1]`: places in use.
    total: String,
    /// `[batch, 1, group * tokens, total]`: the places that each token sees, repeated for the query heads that share a key head.
    seen: String,
}

impl Lowering<'_> {
    /// `x / sqrt(mean(x^2) + eps) * weight`.
    pub(super) fn portable_rms_norm(&mut self, node: &Node, weight: &Weight, eps: f64) {
        let x = self.f32(node, 0);
        let weight = self.parameter(weight, Elem::F32);
        let (two, eps, axis) = (self.emit.float(2.0), self.emit.float(eps as f32), self.emit.ints(&[-1]));
        let squares = self.emit.op("Pow", &[&x, &two]);
        let mean = self.emit.op_with("ReduceMean", &[&squares, &axis], vec![("keepdims", Attribute::Int(1))]);
        let mean = self.emit.op("Add", &[&mean, &eps]);
        let size = self.emit.op("Sqrt", &[&mean]);
        let normed = self.emit.op("Div", &[&x, &size]);
        self.last(node, "Mul", &[&normed, &weight], vec![], Elem::F32);
    }

    pub(super) fn portable_swiglu(&mut self, node: &Node) {
        let elem = self.tensors[&node.inputs[0]].elem;
        let (gate, up) = (self.want(node.inputs[0], elem), self.want(node.inputs[1], elem));
        let open = self.emit.op("Sigmoid", &[&gate]);
        let gate = self.emit.op("Mul", &[&gate, &open]);
        self.last(node, "Mul", &[&gate, &up], vec![], elem);
    }

    /// `x * cos + turned(x) * sin`, halves of each head exchanged in `turned`, the first half's sines negative.
    pub(super) fn portable_rotary(&mut self, node: &Node, heads: i64) {
        let x = self.f32(node, 0);
        let head = self.width(node.inputs[0]) / heads;
        let [cos, sin] = self.rotation(node);
        let kept = vec![0; self.dims(node.inputs[0]).len() - 1];
        let x = self.reshape(&x, &[kept.as_slice(), &[heads, head]].concat());
        let sizes = self.emit.ints(&[head / 2; 2]);
        let halves = ["first", "second"].map(|half| self.emit.unique(&format!("{}/{half}", node.name)));
        self.emit.node("Split", &[&x, &sizes], vec![("axis", Attribute::Int(-1))], halves.to_vec());
        let turned = self.joined(&[&halves[1], &halves[0]]);
        let (straight, turned) = (self.emit.op("Mul", &[&x, &cos]), self.emit.op("Mul", &[&turned, &sin]));
        let rotated = self.emit.op("Add", &[&straight, &turned]);
        let shape = self.emit.ints(&[kept.as_slice(), &[heads * head]].concat());
        self.last(node, "Reshape", &[&rotated, &shape], vec![], Elem::F32);
    }

    /// Cosines and sines of every token for both halves of a head, `[.., tokens, 1, head]`.
    fn rotation(&mut self, node: &Node) -> [String; 2] {
        let [cos, sin] = [1, 2].map(|index| self.f32(node, index));
        let positions = node.inputs.get(3).map(|positions| self.want(*positions, Elem::I64));
        let what = format!("rotation by {cos}, {sin} at {positions:?}");
        if let Some(made) = self.shared.get(&what) {
            return std::array::from_fn(|side| made[side].clone());
        }
        let [cos, sin] = [cos, sin].map(|table| match &positions {
            Some(positions) => self.emit.op("Gather", &[&table, positions]),
            None => table,
        });
        let negative = self.emit.op("Neg", &[&sin]);
        let sides = [self.joined(&[&cos, &cos]), self.joined(&[&negative, &sin])].map(|side| self.unsqueeze(&side, -2));
        self.shared.insert(what, sides.to_vec());
        sides
    }

    pub(super) fn portable_attention(&mut self, node: &Node, heads: i64, kv_heads: i64, kind: AttentionKind) {
        match kind {
            AttentionKind::Cached => self.portable_cached_attention(node, heads, kv_heads),
            // Already an operator of the standard, though of a later set.
            AttentionKind::Causal => self.causal_attention(node, heads, kv_heads),
            AttentionKind::Full => {
                let inputs = [0, 1, 2].map(|index| self.f32(node, index));
                let limit = node.inputs.get(3).map_or(Limit::None, |mask| {
                    let mask = self.want(*mask, Elem::Bool);
                    let keys = self.emit.ints(&[1, 2]);
                    Limit::Seen(self.emit.op("Unsqueeze", &[&mask, &keys]))
                });
                self.attend(node, &inputs, heads, limit, self.dims(node.inputs[0]).len() == 2);
            }
            AttentionKind::Segments => {
                let [place, back, lengths] = self.segment_places(node.inputs[0], node.inputs[3]);
                let inputs = [0, 1, 2].map(|index| {
                    let x = self.f32(node, index);
                    self.emit.op("Gather", &[&x, &place])
                });
                let seen = self.within_segments(&place, &lengths);
                let width = self.width(node.inputs[0]);
                let attended = self.attended(&inputs, heads, width / heads, Limit::Seen(seen), false);
                let rows = self.reshape(&attended, &[-1, width]);
                self.last(node, "Gather", &[&rows, &back], vec![], Elem::F32);
            }
        }
    }

    /// Swin's attention with its bias, `[windows, heads, side^2, side^2]` or one for all windows.
    pub(super) fn portable_window_attention(&mut self, node: &Node, heads: i64, side: i64, table: &Weight) {
        let inputs = [0, 1, 2].map(|index| self.f32(node, index));
        let bias = self.window_bias(node, [heads, side], table, Elem::F32);
        self.attend(node, &inputs, heads, Limit::Bias(bias), false);
    }

    /// Keys `[segments, 1, 1, longest]` that are no padding; one for all layers with these bounds.
    fn within_segments(&mut self, place: &str, lengths: &str) -> String {
        let what = format!("keys within segments of {lengths}");
        if let Some(made) = self.shared.get(&what) {
            return made[0].clone();
        }
        let longest = self.size(place, 1);
        let places = self.range(&longest);
        let lengths = self.cast(lengths, Elem::I64);
        let axes = self.emit.ints(&[1, 2, 3]);
        let lengths = self.emit.op("Unsqueeze", &[&lengths, &axes]);
        let seen = self.emit.op("Less", &[&places, &lengths]);
        self.shared.insert(what, vec![seen.clone()]);
        seen
    }

    fn attend(&mut self, node: &Node, inputs: &[String; 3], heads: i64, limit: Limit, flat: bool) {
        let width = self.width(node.inputs[0]);
        let seen = self.attended(inputs, heads, width / heads, limit, flat);
        let shape = if flat { self.emit.ints(&[-1, width]) } else { self.emit.ints(&[0, 0, width]) };
        self.last(node, "Reshape", &[&seen, &shape], vec![], Elem::F32);
    }

    /// `softmax(q k^T / sqrt(head)) v` of `[batch, positions, heads * head]`, or of `[positions, heads * head]` when `flat`, as `[batch, positions, heads, head]`.
    fn attended(&mut self, [q, k, v]: &[String; 3], heads: i64, head: i64, limit: Limit, flat: bool) -> String {
        let shape = if flat { [1, -1, heads, head] } else { [0, 0, heads, head] };
        let [q, k, v] = [(q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3])].map(|(x, order)| {
            let parts = self.reshape(x, &shape);
            self.transpose(&parts, order)
        });
        let q = self.scaled(&q, head, Elem::F32);
        let scores = self.emit.op("MatMul", &[&q, &k]);
        let scores = match limit {
            Limit::None => scores,
            Limit::Bias(bias) => self.emit.op("Add", &[&scores, &bias]),
            Limit::Seen(seen) => self.hidden(&scores, &seen),
        };
        let shares = self.emit.op_with("Softmax", &[&scores], vec![("axis", Attribute::Int(-1))]);
        let seen = self.emit.op("MatMul", &[&shares, &v]);
        self.transpose(&seen, [0, 2, 1, 3])
    }

    /// The cache with the new keys and values in their places, and attention to the places in use. ScatterND takes its result's memory for its input's,
    /// so the cache can be written in place.
    fn portable_cached_attention(&mut self, node: &Node, heads: i64, kv_heads: i64) {
        let head = self.width(node.inputs[0]) / heads;
        let (elem, size) = (self.compute(), cache_head_size(head));
        let [q, k, v] = self.single_heads(node, heads, kv_heads, head, elem);
        let Places { new, total, seen } = self.cache_places(node, &q, heads, kv_heads);
        let [key, value] = [(k, 3, "key"), (v, 4, "value")].map(|(x, past, side)| {
            let past = self.want(node.inputs[past], elem);
            let parts = self.reshape(&x, &[0, 0, kv_heads, size]);
            let parts = self.transpose(&parts, [0, 2, 1, 3]);
            self.emit.named("ScatterND", &[&past, &new, &parts], vec![], &format!("{}/{side}", node.name))
        });
        let (from, axis) = (self.emit.ints(&[0]), self.emit.ints(&[2]));
        let [keys, values] = [&key, &value].map(|side| self.emit.op("Slice", &[side, &from, &total, &axis]));
        let keys = self.transpose(&keys, [0, 1, 3, 2]);
        let q = self.scaled(&q, head, elem);
        let q = self.reshape(&q, &[0, 0, heads, size]);
        let q = self.transpose(&q, [0, 2, 1, 3]);
        // The query heads that share a key head as further rows of it.
        let q = self.reshape(&q, &[0, kv_heads, -1, size]);
        let scores = self.emit.op("MatMul", &[&q, &keys]);
        let scores = self.in_type(scores, elem, Elem::F32);
        let scores = self.hidden(&scores, &seen);
        let shares = self.emit.op_with("Softmax", &[&scores], vec![("axis", Attribute::Int(-1))]);
        let shares = self.in_type(shares, Elem::F32, elem);
        let attended = self.emit.op("MatMul", &[&shares, &values]);
        let attended = self.reshape(&attended, &[0, heads, -1, size]);
        let attended = self.transpose(&attended, [0, 2, 1, 3]);
        let attended = self.reshape(&attended, &[0, 0, heads * size]);
        let attended = self.cut_heads(attended, heads, head);
        [attended, key, value].into_iter().enumerate().for_each(|(slot, name)| self.give(slot as u8, name, elem));
    }

    /// Token `t` of a call of `tokens` stands at `last + 1 - tokens + t` of its row and sees what stands up to there.
    fn cache_places(&mut self, node: &Node, q: &str, heads: i64, kv_heads: i64) -> Places {
        let [last, total] = [5, 6].map(|index| self.want(node.inputs[index], Elem::I64));
        let what = format!("places in a cache up to {last}, {total} for {heads} heads on {kv_heads}");
        if let Some([new, total, seen]) = self.shared.get(&what).map(Vec::as_slice) {
            return Places { new: new.clone(), total: total.clone(), seen: seen.clone() };
        }
        let (rows, tokens) = (self.size(q, 0), self.size(q, 1));
        let ends = self.unsqueeze(&last, 1);
        let (one, numbers) = (self.emit.int(1), self.range(&tokens));
        let back = self.emit.op("Sub", &[&tokens, &one]);
        let back = self.emit.op("Sub", &[&numbers, &back]);
        let at = self.emit.op("Add", &[&ends, &back]);

        let sizes = [&rows, &tokens].map(|size| self.unsqueeze(size, 0));
        let (heads_each, single) = (self.emit.ints(&[kv_heads]), self.emit.ints(&[1]));
        let grid = self.emit.op_with("Concat", &[&sizes[0], &heads_each, &sizes[1], &single], vec![("axis", Attribute::Int(0))]);
        let row = self.range(&rows);
        let head = self.emit.ints(&(0..kv_heads).collect::<Vec<_>>());
        let parts = [(row, vec![1, 2, 3]), (head, vec![0, 2, 3]), (at.clone(), vec![1, 3])].map(|(part, axes)| {
            let axes = self.emit.ints(&axes);
            let part = self.emit.op("Unsqueeze", &[&part, &axes]);
            self.emit.op("Expand", &[&part, &grid])
        });
        let new = self.joined(&[&parts[0], &parts[1], &parts[2]]);

        let group = self.emit.ints(&[1, heads / kv_heads, 1]);
        let limits = self.unsqueeze(&at, 1);
        let limits = self.emit.op("Expand", &[&limits, &group]);
        let limits = self.reshape(&limits, &[0, 1, -1, 1]);
        let places = self.range(&total);
        let seen = self.emit.op("GreaterOrEqual", &[&limits, &places]);
        let total = self.unsqueeze(&total, 0);
        self.shared.insert(what, vec![new.clone(), total.clone(), seen.clone()]);
        Places { new, total, seen }
    }

    /// `(codes - zero) matrix * step * scales`, summed in whole numbers.
    pub(super) fn portable_integer_product(&mut self, inputs: [&str; 3], [step, scales]: [&str; 2]) -> String {
        let sums = self.emit.op("MatMulInteger", &inputs);
        let sums = self.cast(&sums, Elem::F32);
        let scales = self.emit.op("Mul", &[step, scales]);
        self.emit.op("Mul", &[&sums, &scales])
    }

    /// Queries times `1 / sqrt(head)`: before the product, whose result then stays small enough for f16.
    fn scaled(&mut self, q: &str, head: i64, elem: Elem) -> String {
        let scale = self.emit.float(1.0 / (head as f32).sqrt());
        let scale = self.in_type(scale, Elem::F32, elem);
        self.emit.op("Mul", &[q, &scale])
    }

    fn hidden(&mut self, scores: &str, seen: &str) -> String {
        let unseen = self.emit.float(UNSEEN);
        self.emit.op("Where", &[seen, scores, &unseen])
    }

    fn in_type(&mut self, x: String, from: Elem, to: Elem) -> String {
        if from == to { x } else { self.cast(&x, to) }
    }

    fn transpose(&mut self, x: &str, order: [i64; 4]) -> String {
        self.emit.op_with("Transpose", &[x], vec![("perm", Attribute::Ints(order.to_vec()))])
    }

    /// Along the last axis.
    fn joined(&mut self, parts: &[&str]) -> String {
        self.emit.op_with("Concat", parts, vec![("axis", Attribute::Int(-1))])
    }
}
