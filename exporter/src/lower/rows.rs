//! Moving rows: cutting, picking, ordering.

use super::{Lowering, Tensor};
use crate::nodes::{Attribute, Elem};
use mmlnb_models::graph::Node;

impl Lowering<'_> {
    pub(super) fn split(&mut self, node: &Node, axis: usize, sizes: &[i64]) {
        let Tensor { name, elem } = self.tensors[&node.inputs[0]].clone();
        let lengths = self.emit.ints(sizes);
        let outputs: Vec<String> = (0..sizes.len()).map(|i| self.emit.unique(&format!("{}/{i}", node.name))).collect();
        self.emit.node("Split", &[&name, &lengths], vec![("axis", Attribute::Int(axis as i64))], outputs.clone());
        outputs.into_iter().enumerate().for_each(|(i, output)| self.give(i as u8, output, elem));
    }

    pub(super) fn first_token(&mut self, node: &Node) {
        let Tensor { name, elem } = self.tensors[&node.inputs[0]].clone();
        let first = self.emit.int(0);
        self.last(node, "Gather", &[&name, &first], vec![("axis", Attribute::Int(1))], elem);
    }

    pub(super) fn take_rows(&mut self, node: &Node) {
        let width = self.width(node.inputs[0]);
        let Tensor { name, elem } = self.tensors[&node.inputs[0]].clone();
        let rows = self.want(node.inputs[1], Elem::I64);
        let flat = self.reshape(&name, &[-1, width]);
        self.last(node, "Gather", &[&flat, &rows], vec![], elem);
    }

    pub(super) fn permute_groups(&mut self, node: &Node, group: i64) {
        let width = self.width(node.inputs[0]);
        let Tensor { name, elem } = self.tensors[&node.inputs[0]].clone();
        let order = self.want(node.inputs[1], Elem::I64);
        let groups = self.reshape(&name, &[-1, group * width]);
        let ordered = self.emit.op("Gather", &[&groups, &order]);
        let shape = self.emit.ints(&[-1, width]);
        self.last(node, "Reshape", &[&ordered, &shape], vec![], elem);
    }

    /// `result[order[i]] = x[i]`; the order is a permutation, so every row is written.
    pub(super) fn unpermute(&mut self, node: &Node) {
        let Tensor { name, elem } = self.tensors[&node.inputs[0]].clone();
        let order = self.want(node.inputs[1], Elem::I64);
        let rows = self.unsqueeze(&order, 1);
        self.last(node, "ScatterND", &[&name, &rows, &name], vec![], elem);
    }

    pub(super) fn merge_rows(&mut self, node: &Node, group: i64) {
        let width = self.width(node.inputs[0]);
        let Tensor { name, elem } = self.tensors[&node.inputs[0]].clone();
        let shape = self.emit.ints(&[-1, group * width]);
        self.last(node, "Reshape", &[&name, &shape], vec![], elem);
    }

    pub(super) fn channels_last(&mut self, node: &Node) {
        let Tensor { name, elem } = self.tensors[&node.inputs[0]].clone();
        self.last(node, "Transpose", &[&name], vec![("perm", Attribute::Ints(vec![0, 2, 3, 1]))], elem);
    }

    pub(super) fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.emit.ints(shape);
        self.emit.op("Reshape", &[x, &shape])
    }

    pub(super) fn unsqueeze(&mut self, x: &str, axis: i64) -> String {
        let axes = self.emit.ints(&[axis]);
        self.emit.op("Unsqueeze", &[x, &axes])
    }

    /// `start, start + 1, ..` up to but without `end`, both one i64 without axes.
    pub(super) fn range(&mut self, end: &str) -> String {
        let (from, step) = (self.emit.int(0), self.emit.int(1));
        self.emit.op("Range", &[&from, end, &step])
    }

    /// One size of a tensor, as an i64 without axes.
    pub(super) fn size(&mut self, x: &str, axis: i64) -> String {
        let sizes = self.emit.op_with("Shape", &[x], vec![("start", Attribute::Int(axis)), ("end", Attribute::Int(axis + 1))]);
        let axes = self.emit.ints(&[0]);
        self.emit.op("Squeeze", &[&sizes, &axes])
    }
}
