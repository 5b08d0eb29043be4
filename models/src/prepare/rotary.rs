//! Rotary tables of the language model, half the head wide, in f32 as transformers computes them.

use crate::config::TextConfig;

/// Cosines and sines, each `[tokens, head_size / 2]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryTable {
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
}

/// theta^(-2j/d) for j < d/2.
pub fn frequencies(config: &TextConfig) -> Vec<f32> {
    let head = config.head_size as f32;
    let power = |index: i64| config.rope_theta.powf(f64::from(2.0 * index as f32 / head)) as f32;
    (0..config.head_size / 2).map(|index| 1.0 / power(index)).collect()
}

/// The rows for tokens at these temporal, row and column positions; each frequency takes the position of its section.
///
/// Panics when the three lists differ in length.
pub fn rotary_table(positions: &[Vec<i64>; 3], config: &TextConfig) -> RotaryTable {
    let [times, rows, columns] = positions;
    assert!(times.len() == rows.len() && rows.len() == columns.len(), "three positions a token");
    let frequencies = frequencies(config);
    let axes: Vec<usize> =
        config.mrope_section.iter().enumerate().flat_map(|(axis, &count)| std::iter::repeat_n(axis, count as usize)).collect();
    let mut table = RotaryTable { cos: Vec::new(), sin: Vec::new() };
    for ((&time, &row), &column) in times.iter().zip(rows).zip(columns) {
        let place = [time, row, column];
        for (&axis, &frequency) in axes.iter().zip(&frequencies) {
            let angle = place[axis] as f32 * frequency;
            table.cos.push(angle.cos());
            table.sin.push(angle.sin());
        }
    }
    table
}
