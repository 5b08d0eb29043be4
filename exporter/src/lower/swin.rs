//! Swin's windows: rows of the map are picked by computed indices, made once for all maps of one size. Where height and width are known, the indices
//! depend on constants alone and ONNX Runtime computes them while it loads the graph.

use super::{Lowering, Tensor};
use crate::nodes::{Attribute, Elem};
use mmlnb_models::graph::{Node, Op, Value, Weight};

/// Added to pairs of a shifted window that were no neighbours, as torchvision does.
const APART: f32 = -100.0;

/// How a map is cut into shifted windows; names of ONNX values.
struct Cut {
    /// `[windows * side^2]`: for every cell of every window its row in the map `[height * width]`, or `height * width` where padding is.
    cells: String,
    /// `[height * width]`: for every row of the map its cell.
    rows: String,
    /// `[windows, 1, side^2, side^2]`: 0 or -100.
    apart: String,
}

/// One axis of a map; names of ONNX values, i64 without axes unless said otherwise.
struct Axis {
    size: String,
    padded: String,
    /// The shift, 0 where one window covers the axis.
    shift: String,
    /// 1 where the axis is shifted, else 0.
    shifted: String,
}

impl Lowering<'_> {
    pub(super) fn windows(&mut self, node: &Node, side: i64, shift: i64) {
        let channels = self.width(node.inputs[0]);
        let x = self.f32(node, 0);
        let Cut { cells, .. } = self.cut(node.inputs[0], side, shift);
        let mut rows = self.reshape_rows(node.inputs[0], &x, channels);
        if self.sides(node.inputs[0]).is_none_or(|sides| sides.iter().any(|size| size % side != 0)) {
            let (pads, zero) = (self.emit.ints(&[0, 0, 0, 0, 1, 0]), self.emit.zero(Elem::F32));
            rows = self.emit.op("Pad", &[&rows, &pads, &zero]);
        }
        let picked = self.emit.op_with("Gather", &[&rows, &cells], vec![("axis", Attribute::Int(1))]);
        let shape = self.emit.ints(&[-1, side * side, channels]);
        self.last(node, "Reshape", &[&picked, &shape], vec![], Elem::F32);
    }

    pub(super) fn unwindow(&mut self, node: &Node, side: i64, shift: i64) {
        let channels = self.width(node.inputs[0]);
        let Tensor { name: windows, elem } = self.tensors[&node.inputs[0]].clone();
        let Cut { rows, .. } = self.cut(node.inputs[1], side, shift);
        let axis = vec![("axis", Attribute::Int(1))];
        let (cells, shape) = match self.sides(node.inputs[1]) {
            Some([height, width]) => {
                let padded = [height, width].map(|size| (size + side - 1) / side * side);
                let cells = self.reshape(&windows, &[-1, padded[0] * padded[1], channels]);
                (cells, self.emit.ints(&[-1, height, width, channels]))
            }
            None => {
                let like = self.f32(node, 1);
                let (batch, rest) = (self.shape_of(&like, 0, 1), self.emit.ints(&[-1, channels]));
                let shape = self.concat(&[&batch, &rest]);
                let cells = self.emit.op("Reshape", &[&windows, &shape]);
                let (sizes, width) = (self.shape_of(&like, 0, 3), self.emit.ints(&[channels]));
                (cells, self.concat(&[&sizes, &width]))
            }
        };
        let picked = self.emit.op_with("Gather", &[&cells, &rows], axis);
        self.last(node, "Reshape", &[&picked, &shape], vec![], elem);
    }

    /// MultiHeadAttention with the learned bias by relative position and, in shifted windows, the mask.
    pub(super) fn window_attention(&mut self, node: &Node, heads: i64, side: i64, table: &Weight) {
        let elem = self.tensors[&node.inputs[0]].elem;
        let [q, k, v] = [0, 1, 2].map(|i| self.want(node.inputs[i], elem));
        let bias = self.window_bias(node, [heads, side], table, elem);
        let attributes = vec![("num_heads", Attribute::Int(heads))];
        self.last(node, "MultiHeadAttention", &[&q, &k, &v, "", "", &bias], attributes, elem);
    }

    /// What is added to the scores: the learned bias and, in shifted windows, the mask; `[windows, heads, side^2, side^2]`, or one for all windows.
    pub(super) fn window_bias(&mut self, node: &Node, [heads, side]: [i64; 2], table: &Weight, elem: Elem) -> String {
        let bias = self.relative_bias(heads, side, table, elem);
        match self.graph.nodes[node.inputs[3].node as usize] {
            Node { op: Op::Windows { side, shift }, ref inputs, .. } if shift > 0 => {
                let Cut { apart, .. } = self.cut(inputs[0], side, shift);
                self.masked_bias(inputs[0], &bias, &apart, [heads, side], elem)
            }
            _ => bias,
        }
    }

    /// `[1, heads, side^2, side^2]`.
    fn relative_bias(&mut self, heads: i64, side: i64, table: &Weight, elem: Elem) -> String {
        let table = self.parameter(table, elem);
        let cells = (0..side * side).map(|cell| (cell / side, cell % side));
        let pairs = cells
            .clone()
            .flat_map(|(y, x)| cells.clone().map(move |(v, u)| (y - v + side - 1) * (2 * side - 1) + x - u + side - 1));
        let pairs = self.emit.ints(&pairs.collect::<Vec<i64>>());
        let rows = self.emit.op("Gather", &[&table, &pairs]);
        let square = self.reshape(&rows, &[1, side * side, side * side, heads]);
        self.emit.op_with("Transpose", &[&square], vec![("perm", Attribute::Ints(vec![0, 3, 1, 2]))])
    }

    /// The bias of every window of the whole batch, `[batch * windows, heads, side^2, side^2]`. One number of each image of the map gives the batch as
    /// the shape that one image's biases are repeated to.
    fn masked_bias(&mut self, map: Value, bias: &str, apart: &str, [heads, side]: [i64; 2], elem: Elem) -> String {
        let apart = match elem {
            Elem::F32 => apart.to_string(),
            _ => self.share(&format!("{apart} as {}", elem.name()), |emit| {
                vec![emit.op_with("Cast", &[apart], vec![("to", Attribute::Int(elem.code().into()))])]
            })[0]
                .clone(),
        };
        let each = self.emit.op("Add", &[bias, &apart]);
        let each = self.reshape(&each, &[-1, heads, side * side * side * side]);
        let map = self.tensors[&map].name.clone();
        let (from, to, axes) = (self.emit.ints(&[0, 0, 0]), self.emit.ints(&[1, 1, 1]), self.emit.ints(&[1, 2, 3]));
        let corner = self.emit.op("Slice", &[&map, &from, &to, &axes]);
        let batch = self.emit.op("Shape", &[&corner]);
        let repeated = self.emit.op("Expand", &[&each, &batch]);
        self.reshape(&repeated, &[-1, heads, side * side, side * side])
    }

    /// `[batch, height, width, channels]` -> `[batch, height * width, channels]`.
    fn reshape_rows(&mut self, map: Value, x: &str, channels: i64) -> String {
        if let Some([height, width]) = self.sides(map) {
            return self.reshape(x, &[-1, height * width, channels]);
        }
        let (batch, rest) = (self.shape_of(x, 0, 1), self.emit.ints(&[-1, channels]));
        let shape = self.concat(&[&batch, &rest]);
        self.emit.op("Reshape", &[x, &shape])
    }

    /// Height and width of a map, where they are known before the graph runs.
    fn sides(&self, map: Value) -> Option<[i64; 2]> {
        let dims = self.dims(map);
        Some([dims[1].known()?, dims[2].known()?])
    }

    fn shape_of(&mut self, x: &str, start: i64, end: i64) -> String {
        self.emit.op_with("Shape", &[x], vec![("start", Attribute::Int(start)), ("end", Attribute::Int(end))])
    }

    fn concat(&mut self, parts: &[&str]) -> String {
        self.emit.op_with("Concat", parts, vec![("axis", Attribute::Int(0))])
    }

    /// The cut of all maps of this height and width.
    fn cut(&mut self, map: Value, side: i64, shift: i64) -> Cut {
        let dims = self.dims(map);
        let what = format!("windows of {} x {}, side {side}, shift {shift}", dims[1], dims[2]);
        if let Some([cells, rows, apart]) = self.shared.get(&what).map(Vec::as_slice) {
            return Cut { cells: cells.clone(), rows: rows.clone(), apart: apart.clone() };
        }
        let [height, width] = [1, 2].map(|axis| self.axis(map, axis, side, shift));
        let cells = self.cells(&height, &width, side);
        let rows = self.rows(&height, &width, side);
        let apart = if shift > 0 { self.apart(&height, &width, side, shift) } else { String::new() };
        self.shared.insert(what, vec![cells.clone(), rows.clone(), apart.clone()]);
        Cut { cells, rows, apart }
    }

    fn axis(&mut self, map: Value, axis: usize, side: i64, shift: i64) -> Axis {
        let size = match self.dims(map)[axis].known() {
            Some(size) => self.emit.int(size),
            None => {
                let map = self.tensors[&map].name.clone();
                self.size(&map, axis as i64)
            }
        };
        let [grown, side_value, shift] = [side - 1, side, shift].map(|value| self.emit.int(value));
        let padded = self.emit.op("Add", &[&size, &grown]);
        let padded = self.emit.op("Div", &[&padded, &side_value]);
        let padded = self.emit.op("Mul", &[&padded, &side_value]);
        let shifted = self.emit.op("Less", &[&side_value, &padded]);
        let shifted = self.cast(&shifted, Elem::I64);
        let shift = self.emit.op("Mul", &[&shifted, &shift]);
        Axis { size, padded, shift, shifted }
    }

    fn cells(&mut self, height: &Axis, width: &Axis, side: i64) -> String {
        let [y, x] = [height, width].map(|axis| {
            let places = self.range(&axis.padded);
            let from = self.emit.op("Add", &[&places, &axis.shift]);
            self.emit.op("Mod", &[&from, &axis.padded])
        });
        let [y_inside, x_inside] = [(&y, height), (&x, width)].map(|(places, axis)| self.emit.op("Less", &[places, &axis.size]));
        let rows = self.emit.op("Mul", &[&y, &width.size]);
        let [rows, y_inside] = [rows, y_inside].map(|value| self.unsqueeze(&value, 1));
        let picked = self.emit.op("Add", &[&rows, &x]);
        let inside = self.emit.op("And", &[&y_inside, &x_inside]);
        let padding = self.emit.op("Mul", &[&height.size, &width.size]);
        let picked = self.emit.op("Where", &[&inside, &picked, &padding]);
        let cells = self.by_window(&picked, &width.padded, side);
        self.reshape(&cells, &[-1])
    }

    /// `[padded height, padded width]` -> `[windows, side^2]`.
    fn by_window(&mut self, map: &str, padded_width: &str, side: i64) -> String {
        let side_value = self.emit.int(side);
        let across = self.emit.op("Div", &[padded_width, &side_value]);
        let across = self.unsqueeze(&across, 0);
        let (front, back) = (self.emit.ints(&[-1, side]), self.emit.ints(&[side]));
        let shape = self.concat(&[&front, &across, &back]);
        let split = self.emit.op("Reshape", &[map, &shape]);
        let windows = self.emit.op_with("Transpose", &[&split], vec![("perm", Attribute::Ints(vec![0, 2, 1, 3]))]);
        self.reshape(&windows, &[-1, side * side])
    }

    fn rows(&mut self, height: &Axis, width: &Axis, side: i64) -> String {
        let (side_value, area) = (self.emit.int(side), self.emit.int(side * side));
        let [y, x] = [height, width].map(|axis| {
            let places = self.range(&axis.size);
            let rolled = self.emit.op("Sub", &[&places, &axis.shift]);
            self.emit.op("Mod", &[&rolled, &axis.padded])
        });
        let [window_y, window_x] = [&y, &x].map(|places| self.emit.op("Div", &[places, &side_value]));
        let [cell_y, cell_x] = [&y, &x].map(|places| self.emit.op("Mod", &[places, &side_value]));
        let across = self.emit.op("Mul", &[&width.padded, &side_value]);
        let down = self.emit.op("Mul", &[&window_y, &across]);
        let cell_down = self.emit.op("Mul", &[&cell_y, &side_value]);
        let down = self.emit.op("Add", &[&down, &cell_down]);
        let right = self.emit.op("Mul", &[&window_x, &area]);
        let right = self.emit.op("Add", &[&right, &cell_x]);
        let down = self.unsqueeze(&down, 1);
        let rows = self.emit.op("Add", &[&down, &right]);
        self.reshape(&rows, &[-1])
    }

    /// Regions of a rolled map that do not see each other: before the last window, up to the shift, after it, on each axis that is shifted.
    fn apart(&mut self, height: &Axis, width: &Axis, side: i64, shift: i64) -> String {
        let [y, x] = [height, width].map(|axis| {
            let places = self.range(&axis.padded);
            let [last, rolled] = [side, shift].map(|back| {
                let back = self.emit.int(back);
                let from = self.emit.op("Sub", &[&axis.padded, &back]);
                let reached = self.emit.op("GreaterOrEqual", &[&places, &from]);
                self.cast(&reached, Elem::I64)
            });
            let region = self.emit.op("Add", &[&last, &rolled]);
            self.emit.op("Mul", &[&region, &axis.shifted])
        });
        let three = self.emit.int(3);
        let y = self.emit.op("Mul", &[&y, &three]);
        let y = self.unsqueeze(&y, 1);
        let regions = self.emit.op("Add", &[&y, &x]);
        let regions = self.by_window(&regions, &width.padded, side);
        let (row, column) = (self.unsqueeze(&regions, 2), self.unsqueeze(&regions, 1));
        let together = self.emit.op("Equal", &[&row, &column]);
        let (zero, apart) = (self.emit.float(0.0), self.emit.float(APART));
        let apart = self.emit.op("Where", &[&together, &zero, &apart]);
        self.unsqueeze(&apart, 1)
    }

    /// Neighbours (0,0), (1,0), (0,1), (1,1) side by side; odd sides are padded with zeros.
    pub(super) fn merge_patches(&mut self, node: &Node) {
        let Tensor { name, elem } = self.tensors[&node.inputs[0]].clone();
        let axes = self.emit.ints(&[1, 2]);
        let pads = match self.sides(node.inputs[0]) {
            Some([height, width]) if height % 2 == 0 && width % 2 == 0 => None,
            Some([height, width]) => Some(self.emit.ints(&[0, 0, height % 2, width % 2])),
            None => {
                let (sizes, two) = (self.shape_of(&name, 1, 3), self.emit.int(2));
                let odd = self.emit.op("Mod", &[&sizes, &two]);
                let front = self.emit.ints(&[0, 0]);
                Some(self.concat(&[&front, &odd]))
            }
        };
        let even = match pads {
            Some(pads) => {
                let zero = self.emit.zero(elem);
                self.emit.op("Pad", &[&name, &pads, &zero, &axes])
            }
            None => name,
        };
        let (ends, steps) = (self.emit.ints(&[i64::MAX, i64::MAX]), self.emit.ints(&[2, 2]));
        let parts = [[0, 0], [1, 0], [0, 1], [1, 1]].map(|starts| {
            let starts = self.emit.ints(&starts);
            self.emit.op("Slice", &[&even, &starts, &ends, &axes, &steps])
        });
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.last(node, "Concat", &parts, vec![("axis", Attribute::Int(3))], elem);
    }
}
