//! A graph cut into runs of equal block.

use super::run::{Run, Slots};
use mmlnb_models::graph::{Graph, Op};
use std::ops::Range;

/// A graph's runs: those that are computed again, and the rest.
#[derive(Debug)]
pub(super) struct Partition {
    /// Blocks, in order.
    pub runs: Vec<Run>,
    /// What comes after the last block.
    pub tail: Run,
}

impl Partition {
    pub fn new(graph: &Graph, slots: &Slots) -> Partition {
        let end = graph.nodes.iter().rposition(|node| node.region.is_some()).map_or(0, |last| last + 1);
        let runs = stretches(graph, end).into_iter().map(|range| Run::new(graph, slots, range));
        let runs = runs.filter(|run| !run.steps.is_empty()).collect();
        Partition { runs, tail: Run::new(graph, slots, end..graph.nodes.len()) }
    }
}

/// Neighbouring nodes of one block; inputs go with any.
fn stretches(graph: &Graph, end: usize) -> Vec<Range<usize>> {
    let mut stretches: Vec<(Option<u32>, Range<usize>)> = Vec::new();
    for (i, node) in graph.nodes[..end].iter().enumerate() {
        match stretches.last_mut() {
            Some((region, range)) if *region == node.region || matches!(node.op, Op::Input(_)) => range.end = i + 1,
            Some(_) | None => stretches.push((node.region, i..i + 1)),
        }
    }
    stretches.into_iter().map(|(_, range)| range).collect()
}
