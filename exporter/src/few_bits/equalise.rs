//! Factors that make channels alike before they are rounded (SmoothQuant, arXiv 2211.10438; AWQ, arXiv 2306.00978).
//!
//! A channel of activations a hundred times as large as the others makes the step of all codes of its token, or its block, a hundred times coarser. It is divided
//! where it is made and multiplied in the columns of the layers that read it, which changes nothing in exact arithmetic: a norm's gain, the rows of
//! `up` before the product with the gate, the rows of `v` before attention, whose shares multiply every channel alike.
//!
//! Of some strengths the one is taken that promises the least error of the layers' outputs: that of their rounded weights, and that of their rounded inputs. What
//! goes through the cache is divided alike at every precision, for prompts and steps may share it.

use super::some_rows;
use crate::{
    error::ExportError,
    numbers::{Factors, Numbers},
    policy::{BLOCK, Storage},
    quantise::cost,
};
use mmlnb_models::{
    graph::{AttentionKind, Graph, Node, Op, Value, Weight},
    statistics::{Channels, Statistics, module},
    weights::Weights,
};
use std::collections::HashMap;

/// Rows of a matrix on which a strength is tried.
const ROWS: usize = 32;
/// How much of a channel's size goes from the activations into the weights.
const STRENGTHS: [f32; 8] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
/// The largest factor, and the reciprocal of the smallest.
const FARTHEST: f32 = 1024.0;
/// A token's largest number in a channel is about so many times the channel's root mean square.
const PEAK: f32 = 3.0;

/// A value that linear layers alone read, and that can be divided where it is made.
struct Place<'g> {
    /// Their matrices.
    readers: Vec<&'g Weight>,
    /// The factor of each channel, by number: channels that are made by one row share one.
    factor_of: Vec<usize>,
    /// Keys of the tensors whose rows make it: a norm's gain, or a matrix and its bias.
    makers: Vec<&'g str>,
    /// The first of those rows.
    first: usize,
    /// Whether it goes through a cache.
    cached: bool,
}

/// How many matrices [`factors`] looks at.
pub(super) fn matrices(graph: &Graph) -> u64 {
    places(graph).iter().map(|place| place.readers.len() as u64).sum()
}

/// The factors of a network's tensors. `tell` hears how many more matrices were looked at.
pub(super) fn factors(
    graph: &Graph,
    weights: &Weights<'_>,
    storage: Storage,
    statistics: &Statistics,
    tell: &dyn Fn(u64),
) -> Result<Factors, ExportError> {
    let mut factors = Factors::default();
    // From the last layer to the first: what rows were divided by is known when the columns of their matrix are looked at.
    for place in places(graph).iter().rev() {
        divide(place, weights, storage, statistics, &mut factors)?;
        tell(place.readers.len() as u64);
    }
    Ok(factors)
}

/// Adds the factors of a place, if there are any that are better than 1.
fn divide(
    place: &Place<'_>,
    weights: &Weights<'_>,
    storage: Storage,
    statistics: &Statistics,
    factors: &mut Factors,
) -> Result<(), ExportError> {
    let Some(channels) = place.readers.first().and_then(|weight| statistics.layers.get(module(weight))) else { return Ok(()) };
    let numbers = Numbers { weights, factors };
    let rows =
        place.readers.iter().map(|weight| Ok(some_rows(&numbers, weight, ROWS)?.0)).collect::<Result<Vec<_>, ExportError>>()?;
    let storages = if place.cached { vec![Storage::Channels, Storage::Blocks { bits: 4 }] } else { vec![storage] };
    let Some(chosen) = chosen(place, channels, &rows, &storages) else { return Ok(()) };
    for key in place.readers.iter().flat_map(|weight| weight.keys()) {
        factors.columns.insert(key.to_string(), place.factor_of.iter().map(|number| chosen[*number]).collect());
    }
    for key in &place.makers {
        let count = weights.shape(&Weight::Key(key.to_string()))?[0];
        let divided = factors.rows.entry(key.to_string()).or_insert_with(|| vec![1.0; count]);
        divided[place.first..].iter_mut().zip(&chosen).for_each(|(row, factor)| *row /= factor);
    }
    Ok(())
}

/// All places of a network, in the order of their first readers.
fn places(graph: &Graph) -> Vec<Place<'_>> {
    let mut users: HashMap<Value, Vec<&Node>> = HashMap::new();
    let mut keys: HashMap<&str, usize> = HashMap::new();
    let mut order = Vec::new();
    for node in &graph.nodes {
        for value in &node.inputs {
            let known = users.entry(*value).or_default();
            if known.is_empty() && matches!(node.op, Op::Linear { .. }) {
                order.push(*value);
            }
            known.push(node);
        }
        node.op.weights().into_iter().flat_map(Weight::keys).for_each(|key| *keys.entry(key).or_default() += 1);
    }
    let outputs: Vec<Value> = graph.outputs.iter().map(|(_, value)| *value).collect();
    let only = |value: Value, count: usize| !outputs.contains(&value) && users.get(&value).is_some_and(|all| all.len() == count);
    let place = |value: Value| {
        let readers: Option<Vec<&Weight>> = users[&value].iter().map(|node| reader(node)).collect();
        let readers = readers?;
        if !only(value, readers.len()) {
            return None;
        }
        let place = made(graph, value, readers, &|value| only(value, 1))?;
        let one_use = |key: &&str| keys.get(*key) == Some(&1);
        let read = place.readers.iter().flat_map(|weight| weight.keys()).all(|key| one_use(&key));
        (read && place.makers.iter().all(one_use)).then_some(place)
    };
    order.into_iter().filter_map(place).collect()
}

fn reader(node: &Node) -> Option<&Weight> {
    let Op::Linear { weight, .. } = &node.op else { return None };
    Some(weight)
}

/// How a value is made, if its channels can be divided there; `once`: whether a value has one user.
fn made<'g>(graph: &'g Graph, value: Value, readers: Vec<&'g Weight>, once: &dyn Fn(Value) -> bool) -> Option<Place<'g>> {
    let maker = &graph.nodes[value.node as usize];
    let width = graph.type_of(value).dims.last()?.known()? as usize;
    let whole = || (0..width).collect();
    let gain_of = |node: &'g Node| {
        let Op::RmsNorm { weight: Weight::Key(gain), .. } = &node.op else { return None };
        Some(gain.as_str())
    };
    if let Some(gain) = gain_of(maker) {
        return Some(Place { readers, factor_of: whole(), makers: vec![gain], first: 0, cached: false });
    }
    if let Op::MergeRows { group } = &maker.op {
        let gain = gain_of(&graph.nodes[maker.inputs[0].node as usize])?;
        let own = width / *group as usize;
        let factor_of = (0..width).map(|channel| channel % own).collect();
        return once(maker.inputs[0]).then(|| Place { readers, factor_of, makers: vec![gain], first: 0, cached: false });
    }
    if let Op::SwiGlu = &maker.op {
        let (makers, first) = rows_of(graph, maker.inputs[1], once)?;
        return Some(Place { readers, factor_of: whole(), makers, first, cached: false });
    }
    if let (Op::Attention { heads, kv_heads, kind, .. }, 0) = (&maker.op, value.slot) {
        let (makers, first) = rows_of(graph, maker.inputs[2], once)?;
        let (head, shared) = (width / *heads as usize, (heads / kv_heads) as usize);
        let factor_of = (0..width).map(|channel| channel / head / shared * head + channel % head).collect();
        return Some(Place { readers, factor_of, makers, first, cached: *kind == AttentionKind::Cached });
    }
    None
}

/// The tensors whose rows make a value that has one user, and the first row: a linear layer, or a part of what one makes.
fn rows_of<'g>(graph: &'g Graph, value: Value, once: &dyn Fn(Value) -> bool) -> Option<(Vec<&'g str>, usize)> {
    if !once(value) {
        return None;
    }
    let node = &graph.nodes[value.node as usize];
    if let Op::Linear { weight: weight @ (Weight::Key(_) | Weight::Adapted { .. }), bias, .. } = &node.op {
        return Some((weight.keys().into_iter().chain(bias.iter().flat_map(Weight::keys)).collect(), 0));
    }
    let Op::Split { axis, sizes } = &node.op else { return None };
    let (makers, first) = rows_of(graph, node.inputs[0], once)?;
    let before = sizes[..usize::from(value.slot)].iter().sum::<i64>() as usize;
    (*axis + 1 == graph.type_of(value).dims.len()).then_some((makers, first + before))
}

/// The factors that promise the least error; `None`: none is better than 1 for all.
fn chosen(place: &Place<'_>, channels: &Channels, rows: &[Vec<f32>], storages: &[Storage]) -> Option<Vec<f32>> {
    let width = place.factor_of.len();
    let free = place.factor_of.iter().max()? + 1;
    let peaks: Vec<f32> =
        channels.largest.iter().zip(&channels.mean_square).map(|(largest, square)| largest.min(PEAK * square.sqrt())).collect();
    let shared = |values: &dyn Fn(usize) -> f32| {
        let mut most = vec![0.0f32; free];
        (0..width).for_each(|channel| {
            let place = &mut most[place.factor_of[channel]];
            *place = place.max(values(channel));
        });
        most
    };
    let mut columns = vec![0.0f32; width];
    for row in rows.iter().flat_map(|rows| rows.chunks_exact(width)) {
        columns.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(value.abs()));
    }
    let (active, heavy) = (shared(&|channel| peaks[channel]), shared(&|channel| columns[channel]));
    let promised = |factors: &[f32]| -> f64 {
        let all: Vec<f32> = place.factor_of.iter().map(|number| factors[*number]).collect();
        storages.iter().map(|storage| error(*storage, rows, channels, &peaks, &all)).sum()
    };
    let (mut best, mut least) = (None, promised(&vec![1.0; free]));
    let smooth =
        STRENGTHS.map(|strength| alike(&active, |number| active[number].powf(strength) / heavy[number].powf(1.0 - strength)));
    let aware = STRENGTHS.map(|strength| alike(&active, |number| active[number].powf(strength)));
    for candidate in smooth.into_iter().chain(aware) {
        let error = promised(&candidate);
        if error < least {
            (best, least) = (Some(candidate), error);
        }
    }
    best
}

/// Factors whose geometric mean is 1; 1 for channels that are never active or never read.
fn alike(active: &[f32], factor: impl Fn(usize) -> f32) -> Vec<f32> {
    let raw: Vec<f32> = (0..active.len()).map(factor).collect();
    let usable = |value: f32| value.is_finite() && value > 0.0;
    let (mut sum, mut count) = (0.0f64, 0.0f64);
    raw.iter().filter(|value| usable(**value)).for_each(|value| {
        sum += f64::from(value.ln());
        count += 1.0;
    });
    let mean = (sum / count.max(1.0)).exp() as f32;
    raw.iter().map(|value| if usable(*value) { (value / mean).clamp(1.0 / FARTHEST, FARTHEST) } else { 1.0 }).collect()
}

/// The expected squared error of the outputs of some rows, summed: weights rounded as they will be, and inputs rounded to 8 bits a token (with blocks, a token and
/// block). A number far below half a step is lost, which costs its square.
fn error(storage: Storage, rows: &[Vec<f32>], channels: &Channels, peaks: &[f32], factors: &[f32]) -> f64 {
    let width = factors.len();
    let squares: Vec<f32> = channels.mean_square.iter().zip(factors).map(|(square, factor)| square / factor / factor).collect();
    let each = if storage == Storage::Channels { width } else { BLOCK as usize };
    let mut rounded = Vec::with_capacity(width);
    for start in (0..width).step_by(each) {
        let block = start..(start + each).min(width);
        let peak = block.clone().fold(0.0f32, |most, channel| most.max(peaks[channel] / factors[channel]));
        let step = peak / 127.0;
        rounded.extend(block.map(|channel| f64::from((step * step / 12.0).min(squares[channel]))));
    }
    let mut sum = 0.0;
    for rows in rows {
        let scaled: Vec<f32> = rows.iter().zip(factors.iter().cycle()).map(|(value, factor)| value * factor).collect();
        sum += cost(storage, &scaled, width, Some(&squares))[0];
        let inputs = scaled.iter().zip(rounded.iter().cycle());
        sum += inputs.map(|(value, rounded)| f64::from(*value) * f64::from(*value) * rounded).sum::<f64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmlnb_models::{
        config::{TextConfig, VisionConfig},
        networks,
    };

    fn text() -> TextConfig {
        TextConfig {
            hidden: 32,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_size: 8,
            inner: 48,
            vocabulary: 50,
            eps: 1e-6,
            rope_theta: 1e4,
            mrope_section: vec![4, 0, 0],
            tied: true,
        }
    }

    fn told(graph: &Graph) -> Vec<String> {
        let line = |place: &Place<'_>| {
            let readers: Vec<&str> = place.readers.iter().map(|weight| module(weight)).collect();
            format!("{} <- {} from {}", readers.join(" "), place.makers.join(" "), place.first)
        };
        places(graph).iter().map(line).collect()
    }

    #[test]
    fn places_are_where_dividing_is_exact() {
        let decoder = networks::decoder(&text(), true);
        let found = told(&decoder);
        assert_eq!(found.len(), 9, "{found:#?}");
        let layer = "model.layers.0.";
        for expected in [
            "self_attn.q_proj {l}self_attn.k_proj {l}self_attn.v_proj <- {l}input_layernorm.weight from 0",
            "self_attn.o_proj <- {l}self_attn.v_proj.weight {l}self_attn.v_proj.bias from 0",
            "mlp.gate_proj {l}mlp.up_proj <- {l}post_attention_layernorm.weight from 0",
            "mlp.down_proj <- {l}mlp.up_proj.weight from 0",
        ] {
            let expected = format!("{layer}{}", expected.replace("{l}", layer));
            assert!(found.contains(&expected), "{expected} is not in {found:#?}");
        }
        assert!(found.contains(&"model.embed_tokens <- model.norm.weight from 0".to_string()), "{found:#?}");
        // Heads 0 and 1 read the first head of v, 2 and 3 the second.
        let places = places(&decoder);
        let seen = places.iter().find(|place| module(place.readers[0]).ends_with("o_proj")).unwrap();
        assert_eq!(seen.factor_of[..18].to_vec(), (0..8).chain(0..8).chain(8..10).collect::<Vec<_>>());
        assert!(seen.cached);
    }

    #[test]
    fn a_vision_tower_divides_the_third_part_of_qkv_and_ties_merged_cells() {
        let config = VisionConfig {
            depth: 1,
            hidden: 32,
            heads: 2,
            inner: 20,
            output: 12,
            patch: 2,
            temporal: 1,
            channels: 3,
            merge: 2,
            window: 8,
            full_attention: vec![],
            eps: 1e-6,
            rope_theta: 1e4,
        };
        let graph = networks::vision(&config);
        let found = told(&graph);
        for expected in [
            "visual.blocks.0.attn.qkv <- visual.blocks.0.norm1.weight from 0",
            "visual.blocks.0.attn.proj <- visual.blocks.0.attn.qkv.weight visual.blocks.0.attn.qkv.bias from 64",
            "visual.blocks.0.mlp.down_proj <- visual.blocks.0.mlp.up_proj.weight visual.blocks.0.mlp.up_proj.bias from 0",
            "visual.merger.mlp.0 <- visual.merger.ln_q.weight from 0",
        ] {
            assert!(found.contains(&expected.to_string()), "{expected} is not in {found:#?}");
        }
        assert!(!found.iter().any(|line| line.starts_with("visual.merger.mlp.2") || line.starts_with("visual.patch_embed")));
        let places = places(&graph);
        let merged = places.iter().find(|place| module(place.readers[0]) == "visual.merger.mlp.0").unwrap();
        assert_eq!((merged.factor_of.len(), merged.factor_of[33]), (128, 1));
    }
}
