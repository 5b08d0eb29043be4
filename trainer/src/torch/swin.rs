//! Swin's windows (arXiv 2103.14030), as torchvision makes them.

use super::{
    surroundings::{last, on},
    widen::factor,
};
use tch::{Device, Kind, TchError, Tensor};

/// Added where two cells of a rolled map are no neighbours.
const UNSEEN: f64 = -100.0;

/// One axis of a map that is cut into windows.
struct Axis {
    windows: i64,
    padded: i64,
    shift: i64,
}

impl Axis {
    fn new(size: i64, side: i64, shift: i64) -> Axis {
        let windows = (size + side - 1) / side;
        let padded = windows * side;
        Axis { windows, padded, shift: if padded > side { shift } else { 0 } }
    }

    /// After rolling, the stretches that were neighbours before.
    fn regions(&self, side: i64) -> Vec<i64> {
        let region = |i: i64| match self.shift {
            0 => 0,
            shift => i64::from(i >= self.padded - side) + i64::from(i >= self.padded - shift),
        };
        (0..self.padded).map(region).collect()
    }
}

fn axes(map: &Tensor, side: i64, shift: i64) -> Result<[Axis; 2], TchError> {
    let (_, height, width, _) = map.size4()?;
    Ok([Axis::new(height, side, shift), Axis::new(width, side, shift)])
}

/// Windows `[batch * windows, side^2, channels]` and the mask `[windows, side^2, side^2]`.
pub(super) fn windows(map: &Tensor, side: i64, shift: i64) -> Result<Vec<Tensor>, TchError> {
    let (batch, height, width, channels) = map.size4()?;
    let [rows, columns] = axes(map, side, shift)?;
    let padded = map.f_pad([0, 0, 0, columns.padded - width, 0, rows.padded - height], "constant", 0.0)?;
    let rolled = padded.f_roll([-rows.shift, -columns.shift], [1, 2])?;
    let cut = rolled.f_reshape([batch, rows.windows, side, columns.windows, side, channels])?;
    let windows = cut.f_permute([0, 1, 3, 2, 4, 5])?.f_reshape([-1, side * side, channels])?;
    Ok(vec![windows, mask(&rows, &columns, side, map.device())?])
}

fn mask(rows: &Axis, columns: &Axis, side: i64, device: Device) -> Result<Tensor, TchError> {
    let across = on(&columns.regions(side), device)?.f_unsqueeze(0)?;
    let down = on(&rows.regions(side), device)?.f_unsqueeze(1)?;
    let regions = down.f_mul_scalar(3)?.f_add(&across)?.f_reshape([rows.windows, side, columns.windows, side])?;
    let regions = regions.f_permute([0, 2, 1, 3])?.f_reshape([-1, side * side])?;
    regions.f_unsqueeze(2)?.f_eq_tensor(&regions.f_unsqueeze(1)?)
}

/// Windows back into a map of the sizes of `like`.
pub(super) fn unwindow(windows: &Tensor, like: &Tensor, side: i64, shift: i64) -> Result<Tensor, TchError> {
    let (batch, height, width, _) = like.size4()?;
    let [rows, columns] = axes(like, side, shift)?;
    let channels = last(windows);
    let cut = windows.f_reshape([batch, rows.windows, columns.windows, side, side, channels])?;
    let map = cut.f_permute([0, 1, 3, 2, 4, 5])?.f_reshape([batch, rows.padded, columns.padded, channels])?;
    map.f_roll([rows.shift, columns.shift], [1, 2])?.f_narrow(1, 0, height)?.f_narrow(2, 0, width)
}

/// Attention within windows, with a learned bias for each relative position.
pub(super) fn window_attention(
    [q, k, v]: [&Tensor; 3],
    mask: &Tensor,
    table: &Tensor,
    heads: i64,
    side: i64,
) -> Result<Tensor, TchError> {
    let (windows, cells, width) = q.size3()?;
    let each = mask.size()[0];
    let split = |x: &Tensor| factor(x)?.f_reshape([windows / each, each, cells, heads, width / heads])?.f_transpose(2, 3);
    let scale = 1.0 / ((width / heads) as f64).sqrt();
    let scores = split(q)?.f_mul_scalar(scale)?.f_matmul(&split(k)?.f_transpose(-2, -1)?)?.f_to_kind(Kind::Float)?;
    let bias = table.f_index_select(0, &relative_positions(side, table.device())?)?;
    let bias = bias.f_to_kind(Kind::Float)?.f_reshape([cells, cells, heads])?.f_permute([2, 0, 1])?;
    let unseen = mask.f_logical_not()?.f_to_kind(Kind::Float)?.f_mul_scalar(UNSEEN)?.f_unsqueeze(1)?;
    let shares = scores.f_add(&bias)?.f_add(&unseen)?.f_softmax(-1, Kind::Float)?;
    let values = split(v)?;
    shares.f_to_kind(values.kind())?.f_matmul(&values)?.f_transpose(2, 3)?.f_reshape([windows, cells, width])?.f_to_kind(v.kind())
}

/// Row of the bias table for each pair of cells.
fn relative_positions(side: i64, device: Device) -> Result<Tensor, TchError> {
    let cells: Vec<(i64, i64)> = (0..side).flat_map(|y| (0..side).map(move |x| (y, x))).collect();
    let row = |(y, x): (i64, i64), (v, u): (i64, i64)| (y - v + side - 1) * (2 * side - 1) + x - u + side - 1;
    let rows: Vec<i64> = cells.iter().flat_map(|a| cells.iter().map(move |b| row(*a, *b))).collect();
    on(&rows, device)
}

/// Four neighbours become one cell; odd sides are zero-padded.
pub(super) fn merge_patches(map: &Tensor) -> Result<Tensor, TchError> {
    let (_, height, width, _) = map.size4()?;
    let padded = map.f_pad([0, 0, 0, width % 2, 0, height % 2], "constant", 0.0)?;
    let neighbour = |row: i64, column: i64| padded.f_slice(1, row, None, 2)?.f_slice(2, column, None, 2);
    Tensor::f_cat(&[neighbour(0, 0)?, neighbour(1, 0)?, neighbour(0, 1)?, neighbour(1, 1)?], -1)
}
