//! Attention on a key-value cache: ONNX Runtime's GroupQueryAttention.
//!
//! Its kernels want heads whose halves are multiples of 8: other heads are padded with zeros here, and so is the cache. In f32 the rotary embedding
//! happens inside, on one packed q, k, v. In f16 and bf16, which GPUs run too, it stays outside: inside, ONNX Runtime's CUDA kernels take the angles of
//! the first slot for every slot of a step, and leave a prompt unrotated whose rows of the table lie beyond the cache's capacity, both silently.

use super::{Elem, Form, Lowering};
use crate::nodes::Attribute;
use mmlnb_models::graph::{AttentionKind, Dim, Graph, Node, Op, Value};
use std::collections::HashSet;

/// What an input of the graph is to the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Keys or values of the tokens before.
    Past,
    /// Valid lengths.
    Length,
}

/// Width of a head in the cache: each half a multiple of 8.
pub fn cache_head_size(head: i64) -> i64 {
    2 * half(head)
}

fn half(head: i64) -> i64 {
    (head / 2 + 7) / 8 * 8
}

/// What a graph's input is to its cache.
pub(super) fn role(graph: &Graph, input: Value) -> Option<Role> {
    let cached = graph.nodes.iter().filter(|node| is_cached(&node.op));
    cached
        .flat_map(|node| node.inputs[3..].iter().zip([Role::Past, Role::Past, Role::Length, Role::Length]))
        .find_map(|(v, role)| (*v == input).then_some(role))
}

/// Whether a value is the cache after the call.
pub(super) fn is_present(graph: &Graph, value: Value) -> bool {
    value.slot > 0 && is_cached(&graph.nodes[value.node as usize].op)
}

fn is_cached(op: &Op) -> bool {
    matches!(op, Op::Attention { kind: AttentionKind::Cached, .. })
}

/// q, k and v as one value, still to be rotated.
struct Packed {
    qkv: Value,
    table: [Value; 2],
    positions: Value,
    /// The two rotations and the split that need not happen.
    nodes: [u32; 3],
}

/// The form that one packed operator computes: q and k of one split, rotated alike, and v of the same split.
fn packed(graph: &Graph, attention: &Node) -> Option<Packed> {
    let rotation = |value: Value| {
        let Node { op: Op::Rotary { .. }, inputs, .. } = &graph.nodes[value.node as usize] else { return None };
        (inputs.len() == 4).then_some(inputs.as_slice())
    };
    let (q, k) = (rotation(attention.inputs[0])?, rotation(attention.inputs[1])?);
    let split = q[0].node;
    let Op::Split { sizes, .. } = &graph.nodes[split as usize].op else { return None };
    let parts = [q[0], k[0], attention.inputs[2]];
    let whole = sizes.len() == 3 && (0..3).all(|i| parts[i] == Value { node: split, slot: i as u8 });
    (whole && q[1..] == k[1..]).then(|| Packed {
        qkv: graph.nodes[split as usize].inputs[0],
        table: [q[1], q[2]],
        positions: q[3],
        nodes: [attention.inputs[0].node, attention.inputs[1].node, split],
    })
}

/// Nodes that need not be lowered because packed attentions do their work and nobody else uses them.
pub(super) fn absorbed(graph: &Graph, compute: Elem) -> HashSet<u32> {
    let uses = graph.uses();
    let mut absorbed = HashSet::new();
    if compute != Elem::F32 {
        return absorbed;
    }
    let attentions = graph.nodes.iter().filter(|node| is_cached(&node.op));
    for Packed { nodes: [q, k, split], .. } in attentions.filter_map(|node| packed(graph, node)) {
        let mine: Vec<u32> = [q, k].into_iter().filter(|node| uses[*node as usize] == 1).collect();
        if mine.len() == 2 && uses[split as usize] == 3 {
            absorbed.insert(split);
        }
        absorbed.extend(mine);
    }
    absorbed
}

impl Lowering<'_> {
    pub(super) fn cached_attention(&mut self, node: &Node, heads: i64, kv_heads: i64) {
        let head = self.width(node.inputs[0]) / heads;
        let elem = self.compute();
        let inside = elem == Elem::F32 && matches!(self.form, Form::Runtime);
        let packed = inside.then(|| packed(self.graph, node)).flatten();
        let rotates = packed.is_some();
        let [q, k, v] = match &packed {
            Some(Packed { qkv, .. }) => [self.packed_heads(*qkv, heads, kv_heads, head), String::new(), String::new()],
            None => self.single_heads(node, heads, kv_heads, head, elem),
        };
        let [past_key, past_value] = [3, 4].map(|i| self.want(node.inputs[i], elem));
        let [last, total] = [5, 6].map(|i| self.want(node.inputs[i], Elem::I32));
        let mut inputs = vec![q, k, v, past_key, past_value, last, total];
        if let Some(Packed { table, positions, .. }) = packed {
            inputs.extend(table.map(|side| self.padded_angles(side, head)));
            inputs.push(self.want(positions, Elem::I64));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let attributes = vec![
            ("num_heads", Attribute::Int(heads)),
            ("kv_num_heads", Attribute::Int(kv_heads)),
            ("do_rotary", Attribute::Int(rotates.into())),
            ("scale", Attribute::Float(1.0 / (head as f32).sqrt())),
        ];
        let outputs = ["", "/key", "/value"].map(|part| self.emit.unique(&format!("{}{part}", node.name)));
        self.emit.node("GroupQueryAttention", &inputs, attributes, outputs.to_vec());
        let [seen, key, value] = outputs;
        let seen = self.cut_heads(seen, heads, head);
        [seen, key, value].into_iter().enumerate().for_each(|(slot, name)| self.give(slot as u8, name, elem));
    }

    pub(super) fn pad_cache(&self, dims: &mut [Dim]) {
        let last = dims.last_mut().expect("a cache has four axes");
        *last = Dim::from(cache_head_size(Self::known(last)));
    }

    /// `[batch, tokens, (heads + 2 kv heads) * head]` with every head padded: q and k by halves, so that rotation pairs the same numbers.
    fn packed_heads(&mut self, qkv: Value, heads: i64, kv_heads: i64, head: i64) -> String {
        let qkv = self.want(qkv, Elem::F32);
        let size = cache_head_size(head);
        if size == head {
            return qkv;
        }
        let sizes = self.emit.ints(&[(heads + kv_heads) * head, kv_heads * head]);
        let parts = ["qk", "v"].map(|part| self.emit.unique(&format!("{}/{part}", self.emit.scope.clone())));
        self.emit.node("Split", &[&qkv, &sizes], vec![("axis", Attribute::Int(-1))], parts.to_vec());
        let [qk, v] = parts;
        let qk = self.pad_parts(&qk, 2 * (heads + kv_heads), head / 2, size / 2, Elem::F32);
        let v = self.pad_parts(&v, kv_heads, head, size, Elem::F32);
        self.emit.op_with("Concat", &[&qk, &v], vec![("axis", Attribute::Int(-1))])
    }

    /// q, k and v, already rotated, in the same layout.
    pub(super) fn single_heads(&mut self, node: &Node, heads: i64, kv_heads: i64, head: i64, elem: Elem) -> [String; 3] {
        let [q, k, v] = [0, 1, 2].map(|i| self.want(node.inputs[i], elem));
        let size = cache_head_size(head);
        let [q, k] = [(q, heads), (k, kv_heads)].map(|(x, count)| self.pad_parts(&x, 2 * count, head / 2, size / 2, elem));
        [q, k, self.pad_parts(&v, kv_heads, head, size, elem)]
    }

    /// The last axis as `count` parts of `size`, each padded with zeros.
    fn pad_parts(&mut self, x: &str, count: i64, size: i64, padded: i64, elem: Elem) -> String {
        if size == padded {
            return x.to_string();
        }
        let parts = self.reshape(x, &[0, 0, count, size]);
        let pads = self.emit.ints(&[0, 0, 0, 0, 0, 0, 0, padded - size]);
        let parts = match elem {
            Elem::Bf16 => {
                // Pad has no kernel for bf16.
                let (parts, zero) = (self.cast(&parts, Elem::F32), self.emit.zero(Elem::F32));
                let parts = self.emit.op("Pad", &[&parts, &pads, &zero]);
                self.cast(&parts, elem)
            }
            _ => {
                let zero = self.emit.zero(elem);
                self.emit.op("Pad", &[&parts, &pads, &zero])
            }
        };
        self.reshape(&parts, &[0, 0, count * padded])
    }

    /// Undoes the padding of a result.
    pub(super) fn cut_heads(&mut self, x: String, heads: i64, head: i64) -> String {
        let size = cache_head_size(head);
        if size == head {
            return x;
        }
        let parts = self.reshape(&x, &[0, 0, heads, size]);
        let [from, to, axis] = [0, head, 3].map(|value| self.emit.ints(&[value]));
        let parts = self.emit.op("Slice", &[&parts, &from, &to, &axis]);
        self.reshape(&parts, &[0, 0, heads * head])
    }

    /// A table of angles as wide as half a padded head; one for all layers.
    fn padded_angles(&mut self, table: Value, head: i64) -> String {
        let table = self.want(table, Elem::F32);
        let missing = half(head) - head / 2;
        if missing == 0 {
            return table;
        }
        let padded = self.share(&format!("{table} for padded heads"), |emit| {
            let (pads, zero) = (emit.ints(&[0, 0, 0, missing]), emit.zero(Elem::F32));
            vec![emit.named("Pad", &[&table, &pads, &zero], vec![], &format!("{table}/padded"))]
        });
        padded[0].clone()
    }
}
