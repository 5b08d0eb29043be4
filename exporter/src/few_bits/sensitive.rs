//! The mixed policy of 4 bits: matrices whose outputs suffer most from 4 bits have 8, chosen by measured error.
//!
//! A matrix's error is that of its output relative to the output's size, the root of `sum E[x^2] (w - w4)^2 / sum E[x^2] w^2` over some of its rows; without
//! statistics every input counts alike. Matrices whose error is half as large again as the median's stay at 8 bits, the largest error first, as long as not
//! more than a tenth of all weights in blocks has 8 bits. 8 bits take twice the memory and, for one row, three times the time.

use super::some_rows;
use crate::{error::ExportError, numbers::Numbers, policy::Storage, quantise::cost};
use mmlnb_models::graph::{Graph, Op, Weight};
use std::fmt;

/// Rows of a matrix at which it is looked.
const ROWS: usize = 128;
/// Least error relative to the median's.
const OUTSTANDING: f64 = 1.5;
/// Most of the weights that have 8 bits.
const BUDGET: f64 = 0.1;

/// A matrix that stays at 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The matrix, as the graph names it.
    pub name: String,
    /// Error of its output at 4 bits, relative to the output's size.
    pub error: f64,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:.1} % at 4 bits)", self.name, 100.0 * self.error)
    }
}

/// How many matrices [`kept`] looks at.
pub(super) fn matrices(graph: &Graph) -> u64 {
    graph.nodes.iter().filter(|node| matches!(node.op, Op::Linear { .. })).count() as u64
}

/// The matrices of a network in 4 bits that stay at 8, by error. `tell` hears how many more were looked at.
pub(super) fn kept<'i>(
    graph: &Graph,
    numbers: &Numbers<'_>,
    importance: &dyn Fn(&Weight) -> Option<&'i [f32]>,
    tell: &dyn Fn(u64),
) -> Result<Vec<Kept>, ExportError> {
    let mut measured = Vec::new();
    for node in &graph.nodes {
        let Op::Linear { weight, .. } = &node.op else { continue };
        let (rows, width) = some_rows(numbers, weight, ROWS)?;
        let [error, size] = cost(Storage::Blocks { bits: 4 }, &rows, width, importance(weight));
        let error = if size > 0.0 { (error / size).sqrt() } else { 0.0 };
        let weights = numbers.weights.shape(weight)?.iter().product::<usize>();
        measured.push((Kept { name: weight.name(), error }, weights));
        tell(1);
    }
    Ok(chosen(measured))
}

/// Those above the limit, the largest error first, as far as the budget goes. Of equal errors the first in the network goes first.
fn chosen(mut measured: Vec<(Kept, usize)>) -> Vec<Kept> {
    measured.sort_by(|(a, _), (b, _)| b.error.total_cmp(&a.error));
    let all: usize = measured.iter().map(|(_, weights)| weights).sum();
    let limit = OUTSTANDING * measured.get(measured.len() / 2).map_or(0.0, |(median, _)| median.error);
    let mut left = (BUDGET * all as f64) as usize;
    let mut chosen = Vec::new();
    for (one, weights) in measured.into_iter().filter(|(one, _)| one.error > limit) {
        if weights <= left {
            left -= weights;
            chosen.push(one);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_out_is_kept_within_the_budget() {
        let measured = |errors: &[(f64, usize)]| {
            let one =
                |(number, (error, weights)): (usize, &(f64, usize))| (Kept { name: number.to_string(), error: *error }, *weights);
            let names: Vec<String> =
                chosen(errors.iter().enumerate().map(one).collect()).into_iter().map(|one| one.name).collect();
            names.join(" ")
        };
        assert_eq!(measured(&[]), "");
        assert_eq!(measured(&[(0.1, 100), (0.11, 100), (0.12, 100)]), "", "none stands out");
        let many = [(0.1, 100), (0.3, 40), (0.1, 500), (0.4, 90), (0.1, 500), (0.2, 30), (0.1, 1)];
        assert_eq!(measured(&many), "3 5", "a tenth of 1261: the second largest does not fit any more, the third does");
    }
}
