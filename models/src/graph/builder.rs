//! How networks are written: chains over [`X`], scopes that make checkpoint keys.

use super::{AttentionKind, Dim, Graph, Kind, Node, Op, Parameter, Type, Value, Weight, infer};
use std::{cell::RefCell, collections::HashMap, fmt::Display, ops::Add, panic::Location, sync::Arc};

/// Collects the nodes of one network.
#[derive(Default)]
pub struct Builder {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    nodes: Vec<Node>,
    outputs: Vec<(String, Value)>,
    parameters: Vec<Parameter>,
    known: HashMap<String, usize>,
    names: HashMap<String, u32>,
    scope: Vec<String>,
    region: Option<u32>,
    regions: u32,
}

/// A value of a graph that is being built. Copied freely.
#[derive(Clone, Copy)]
pub struct X<'g> {
    b: &'g Builder,
    v: Value,
}

impl Builder {
    /// An empty network.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// A tensor that the caller gives.
    #[track_caller]
    pub fn input(&self, name: &str, kind: Kind, dims: impl IntoIterator<Item = Dim>) -> X<'_> {
        let t = Type { kind, dims: dims.into_iter().collect() };
        let v = self.push(Op::Input(name.into()), &[], vec![t], Some(name.to_string()), Location::caller());
        X { b: self, v }
    }

    /// Prefixes checkpoint keys and node names with `name.`.
    pub fn scope<R>(&self, name: impl Display, f: impl FnOnce() -> R) -> R {
        self.state.borrow_mut().scope.push(name.to_string());
        let result = f();
        self.state.borrow_mut().scope.pop();
        result
    }

    /// A scope that is also a block which training recomputes.
    pub fn block<R>(&self, name: impl Display, f: impl FnOnce() -> R) -> R {
        let outer = {
            let mut state = self.state.borrow_mut();
            let number = state.regions;
            state.regions += 1;
            state.region.replace(number)
        };
        assert!(outer.is_none(), "blocks do not nest");
        let result = self.scope(name, f);
        self.state.borrow_mut().region = outer;
        result
    }

    /// Names a result.
    pub fn output(&self, name: &str, x: X<'_>) {
        self.state.borrow_mut().outputs.push((name.into(), x.v));
    }

    /// The network; results that nothing uses are swept away.
    pub fn finish(self) -> Graph {
        let state = self.state.into_inner();
        Graph { nodes: state.nodes, outputs: state.outputs, parameters: state.parameters }.swept()
    }

    /// Joins values along an axis.
    #[track_caller]
    pub fn concat<'g>(&'g self, parts: &[X<'g>], axis: usize) -> X<'g> {
        let values: Vec<Value> = parts.iter().map(|x| x.v).collect();
        X { b: self, v: self.node(Op::Concat { axis }, &values, None, Location::caller()) }
    }

    /// `weight * a + (1 - weight) * b` for a weight `[batch, 1]`.
    #[track_caller]
    pub fn blend<'g>(&'g self, weight: X<'g>, a: X<'g>, b: X<'g>) -> X<'g> {
        X { b: self, v: self.node(Op::Blend, &[weight.v, a.v, b.v], None, Location::caller()) }
    }

    /// `share * a + (1 - share) * b` for a fixed share.
    #[track_caller]
    pub fn mix<'g>(&'g self, share: f64, a: X<'g>, b: X<'g>) -> X<'g> {
        X { b: self, v: self.node(Op::Mix { share }, &[a.v, b.v], None, Location::caller()) }
    }

    fn path(&self, name: &str) -> String {
        let state = self.state.borrow();
        let mut parts: Vec<&str> = state.scope.iter().map(String::as_str).collect();
        parts.push(name);
        parts.retain(|p| !p.is_empty());
        parts.join(".")
    }

    /// The weight under `scope.name`, which the checkpoint must hold in this shape.
    #[track_caller]
    fn weight(&self, name: &str, shape: &[i64]) -> Weight {
        let key = self.path(name);
        let mut state = self.state.borrow_mut();
        let parameter = Parameter { key: key.clone(), shape: shape.to_vec() };
        match state.known.get(&key) {
            Some(&i) => assert_eq!(state.parameters[i], parameter, "one key, two shapes"),
            None => {
                let i = state.parameters.len();
                state.known.insert(key.clone(), i);
                state.parameters.push(parameter);
            }
        }
        Weight::Key(key)
    }

    fn node(&self, op: Op, inputs: &[Value], name: Option<&str>, at: &'static Location<'static>) -> Value {
        let types = {
            let state = self.state.borrow();
            let types: Vec<&Type> = inputs.iter().map(|v| &state.nodes[v.node as usize].types[v.slot as usize]).collect();
            infer(&op, &types).unwrap_or_else(|what| {
                let given: Vec<String> = types.iter().map(|t| t.to_string()).collect();
                panic!("{at}: in `{}`, {op} of {}: {what}", state.scope.join("."), given.join(" and "))
            })
        };
        self.push(op, inputs, types, name.map(|n| self.path(n)), at)
    }

    fn push(&self, op: Op, inputs: &[Value], types: Vec<Type>, name: Option<String>, at: &'static Location<'static>) -> Value {
        let base = name.unwrap_or_else(|| self.path(&op.title().to_lowercase()));
        let mut state = self.state.borrow_mut();
        let count = state.names.entry(base.clone()).or_insert(0);
        *count += 1;
        let name = if *count == 1 { base } else { format!("{base}_{count}") };
        let region = state.region;
        state.nodes.push(Node { op, inputs: inputs.to_vec(), types, name: Arc::from(name), region, at });
        Value { node: state.nodes.len() as u32 - 1, slot: 0 }
    }
}

#[allow(clippy::should_implement_trait)]
impl<'g> X<'g> {
    /// The builder that it belongs to.
    pub fn builder(self) -> &'g Builder {
        self.b
    }

    fn width(self) -> i64 {
        let state = self.b.state.borrow();
        let t = &state.nodes[self.v.node as usize].types[self.v.slot as usize];
        t.dims.last().and_then(Dim::known).expect("a layer with weights needs a known width")
    }

    fn channels(self) -> i64 {
        let state = self.b.state.borrow();
        state.nodes[self.v.node as usize].types[self.v.slot as usize].dims[1].known().expect("a convolution needs known channels")
    }

    fn with(self, op: Op, others: &[X<'g>], name: Option<&str>, at: &'static Location<'static>) -> X<'g> {
        let inputs: Vec<Value> = std::iter::once(self.v).chain(others.iter().map(|x| x.v)).collect();
        X { b: self.b, v: self.b.node(op, &inputs, name, at) }
    }

    fn slot(self, slot: u8) -> X<'g> {
        X { b: self.b, v: Value { node: self.v.node, slot } }
    }

    /// Rows `name` `[rows, width]` by these numbers.
    #[track_caller]
    pub fn embedding(self, name: &str, rows: i64, width: i64) -> X<'g> {
        let table = self.b.weight(name, &[rows, width]);
        self.with(Op::Embedding { table, width }, &[], Some(name.trim_end_matches(".weight")), Location::caller())
    }

    /// Adds learned positions `name` `[rows, width]`.
    #[track_caller]
    pub fn add_positions(self, name: &str, rows: i64) -> X<'g> {
        let table = self.b.weight(name, &[rows, self.width()]);
        self.with(Op::AddPositions { table }, &[], None, Location::caller())
    }

    /// Adds row `row` of `name` `[rows, width]`.
    #[track_caller]
    pub fn add_row(self, name: &str, rows: i64, row: i64) -> X<'g> {
        let table = self.b.weight(name, &[rows, self.width()]);
        self.with(Op::AddRow { table, row }, &[], None, Location::caller())
    }

    /// `x W^T + b` with `name.weight` `[outputs, width]` and `name.bias`.
    #[track_caller]
    pub fn linear(self, name: &str, outputs: i64, bias: bool) -> X<'g> {
        let weight = self.b.weight(&format!("{name}.weight"), &[outputs, self.width()]);
        let bias = bias.then(|| self.b.weight(&format!("{name}.bias"), &[outputs]));
        self.with(Op::Linear { weight, bias, outputs }, &[], Some(name), Location::caller())
    }

    /// A linear layer whose matrix is stored under the full key `name` (a tied head).
    #[track_caller]
    pub fn linear_by(self, name: &str, outputs: i64) -> X<'g> {
        let weight = self.b.weight(name, &[outputs, self.width()]);
        self.with(Op::Linear { weight, bias: None, outputs }, &[], Some(name.trim_end_matches(".weight")), Location::caller())
    }

    /// Patches, already flattened, times a convolution's kernel `name.weight` of this shape, whose first size is that of the result.
    #[track_caller]
    pub fn patch_embed(self, name: &str, kernel: &[i64]) -> X<'g> {
        assert_eq!(kernel[1..].iter().product::<i64>(), self.width(), "the patches do not have the kernel's size");
        let Weight::Key(key) = self.b.weight(&format!("{name}.weight"), kernel) else { unreachable!("weight() makes keys") };
        let op = Op::Linear { weight: Weight::Matrix(key), bias: None, outputs: kernel[0] };
        self.with(op, &[], Some(name), Location::caller())
    }

    /// A square convolution with bias.
    #[track_caller]
    pub fn conv2d(self, name: &str, outputs: i64, kernel: i64, stride: i64, pad: i64) -> X<'g> {
        let weight = self.b.weight(&format!("{name}.weight"), &[outputs, self.channels(), kernel, kernel]);
        let bias = Some(self.b.weight(&format!("{name}.bias"), &[outputs]));
        self.with(Op::Conv2d { weight, bias, outputs, kernel, stride, pad }, &[], Some(name), Location::caller())
    }

    /// Layer norm with `name.weight` and `name.bias`.
    #[track_caller]
    pub fn layer_norm(self, name: &str, eps: f64) -> X<'g> {
        let weight = self.b.weight(&format!("{name}.weight"), &[self.width()]);
        let bias = self.b.weight(&format!("{name}.bias"), &[self.width()]);
        self.with(Op::LayerNorm { weight, bias, eps }, &[], Some(name), Location::caller())
    }

    /// RMS norm with `name.weight`.
    #[track_caller]
    pub fn rms_norm(self, name: &str, eps: f64) -> X<'g> {
        let weight = self.b.weight(&format!("{name}.weight"), &[self.width()]);
        self.with(Op::RmsNorm { weight, eps }, &[], Some(name), Location::caller())
    }

    /// Rotates halves of each head; `positions` are rows of the table.
    #[track_caller]
    pub fn rotary(self, heads: i64, (cos, sin): (X<'g>, X<'g>), positions: Option<X<'g>>) -> X<'g> {
        let others: Vec<X<'g>> = [cos, sin].into_iter().chain(positions).collect();
        self.with(Op::Rotary { heads }, &others, None, Location::caller())
    }

    /// Cos and sin of the angles of `[positions, 2]` rows and columns.
    #[track_caller]
    pub fn axial_angles(self, head: i64, theta: f64) -> (X<'g>, X<'g>) {
        let cos = self.with(Op::AxialAngles { head, theta }, &[], None, Location::caller());
        (cos, cos.slot(1))
    }

    /// Attention of this query; `extra` as [`AttentionKind`] says.
    #[track_caller]
    pub fn attention(self, k: X<'g>, v: X<'g>, heads: i64, kv_heads: i64, kind: AttentionKind, extra: &[X<'g>]) -> X<'g> {
        let others: Vec<X<'g>> = [k, v].iter().chain(extra).copied().collect();
        self.with(Op::Attention { heads, kv_heads, kind, dropout: 0.0 }, &others, None, Location::caller())
    }

    /// Attention of every token to the tokens that `mask` shows, with dropout on the keys' shares.
    #[track_caller]
    pub fn masked_attention(self, k: X<'g>, v: X<'g>, mask: X<'g>, heads: i64, dropout: f64) -> X<'g> {
        let op = Op::Attention { heads, kv_heads: heads, kind: AttentionKind::Full, dropout };
        self.with(op, &[k, v, mask], None, Location::caller())
    }

    /// Attention on a cache: result, present key, present value.
    #[track_caller]
    pub fn cached_attention(self, k: X<'g>, v: X<'g>, heads: i64, kv_heads: i64, cache: [X<'g>; 4]) -> [X<'g>; 3] {
        let x = self.attention(k, v, heads, kv_heads, AttentionKind::Cached, &cache);
        [x, x.slot(1), x.slot(2)]
    }

    /// Swin's attention with the bias table `name`.
    #[track_caller]
    pub fn window_attention(self, k: X<'g>, v: X<'g>, mask: X<'g>, name: &str, heads: i64, side: i64) -> X<'g> {
        let table = self.b.weight(name, &[(2 * side - 1) * (2 * side - 1), heads]);
        self.with(Op::WindowAttention { heads, side, table }, &[k, v, mask], None, Location::caller())
    }

    /// Swin's windows and their mask.
    #[track_caller]
    pub fn windows(self, side: i64, shift: i64) -> (X<'g>, X<'g>) {
        let x = self.with(Op::Windows { side, shift }, &[], None, Location::caller());
        (x, x.slot(1))
    }

    /// Undoes `windows` of the map `like`.
    #[track_caller]
    pub fn unwindow(self, like: X<'g>, side: i64, shift: i64) -> X<'g> {
        self.with(Op::Unwindow { side, shift }, &[like], None, Location::caller())
    }

    /// Cuts the last axis.
    #[track_caller]
    pub fn split<const N: usize>(self, sizes: [i64; N]) -> [X<'g>; N] {
        let axis = self.b.state.borrow().nodes[self.v.node as usize].types[self.v.slot as usize].dims.len() - 1;
        let x = self.with(Op::Split { axis, sizes: sizes.to_vec() }, &[], None, Location::caller());
        std::array::from_fn(|i| x.slot(i as u8))
    }

    /// Groups of rows in the order that `order` gives.
    #[track_caller]
    pub fn permute_groups(self, order: X<'g>, group: i64) -> X<'g> {
        self.with(Op::PermuteGroups { group }, &[order], None, Location::caller())
    }

    /// Undoes `permute_groups` with groups of one.
    #[track_caller]
    pub fn unpermute(self, order: X<'g>) -> X<'g> {
        self.with(Op::Unpermute, &[order], None, Location::caller())
    }

    /// The rows of these numbers, counted through batch and tokens.
    #[track_caller]
    pub fn take_rows(self, rows: X<'g>) -> X<'g> {
        self.with(Op::TakeRows, &[rows], None, Location::caller())
    }

    /// `silu(self) * up`.
    #[track_caller]
    pub fn swiglu(self, up: X<'g>) -> X<'g> {
        self.with(Op::SwiGlu, &[up], None, Location::caller())
    }

    /// Any operator that takes this value alone and no weights.
    #[track_caller]
    pub fn apply(self, op: Op) -> X<'g> {
        self.with(op, &[], None, Location::caller())
    }
}

impl<'g> Add for X<'g> {
    type Output = X<'g>;

    #[track_caller]
    fn add(self, other: X<'g>) -> X<'g> {
        self.with(Op::Add, &[other], None, Location::caller())
    }
}
