//! Attention of new tokens on a cache of keys and values (ONNX Runtime's GroupQueryAttention).
//!
//! `y = softmax(scale q k^T) v`, each token seeing those of its row up to itself; neighbouring query heads share a head of the cache. Each number is made
//! by the same sums in the same order, whatever else is computed beside it: scores in 16 lanes, which are then added up, results key after key.

use crate::lanes::{LANES, Lanes};
use crate::processor::Work;
use crate::{Processor, ROUND, Workers, each_part};

/// Numbers of the cache that stay near the processor while all heads of a token pass: half of a first-level cache.
const NEAR: usize = 4096;

/// Sizes of one call.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Rows of the batch.
    pub rows: usize,
    /// New tokens of each row.
    pub tokens: usize,
    /// Heads of the queries, a multiple of those of the cache.
    pub heads: usize,
    /// Heads of the cache.
    pub kv_heads: usize,
    /// Numbers of a head, a multiple of 16.
    pub head: usize,
    /// Tokens that a row of the cache has room for.
    pub room: usize,
}

/// New tokens' numbers: `width` of each token, of which `heads` begin at `first`.
#[derive(Clone, Copy)]
pub struct Heads<'n> {
    /// `[rows, tokens, width]`
    pub numbers: &'n [f32],
    /// Of a token.
    pub width: usize,
    /// Where the first head begins.
    pub first: usize,
}

/// Angles by which queries and keys are rotated, and which row of them belongs to each token.
#[derive(Clone, Copy)]
pub struct Angles<'n> {
    /// `[places, head / 2]`
    pub cos: &'n [f32],
    /// `[places, head / 2]`
    pub sin: &'n [f32],
    /// `[rows, tokens]`
    pub places: &'n [i64],
}

/// The new tokens of a call.
pub struct Tokens<'n> {
    /// Queries, keys, values.
    pub heads: [Heads<'n>; 3],
    /// Absent: queries and keys are rotated already.
    pub angles: Option<Angles<'n>>,
    /// Tokens that each row has in the cache, `[rows]`.
    pub before: &'n [usize],
    /// Of the scores.
    pub scale: f32,
}

/// What a call cannot be made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Misfit(&'static str);

impl std::fmt::Display for Misfit {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        text.write_str(self.0)
    }
}

/// Writes the new tokens' keys and values into the cache, each `[rows, kv heads, room, head]`, and their attention into `output` `[rows, tokens, heads, head]`.
///
/// # Errors
/// Sizes do not fit each other, or a token does not fit the cache or has no angles.
pub fn attend(
    processor: Processor,
    sizes: &Sizes,
    tokens: &Tokens,
    [keys, values]: [&mut [f32]; 2],
    output: &mut [f32],
    workers: &dyn Workers,
) -> Result<(), Misfit> {
    check(sizes, tokens, [keys.len(), values.len()], output.len())?;
    processor.run(Store { sizes, tokens, cache: [&mut *keys, &mut *values] });
    let (keys, values) = (&*keys, &*values);
    let (group, places) = (sizes.heads / sizes.kv_heads, sizes.rows * sizes.tokens * sizes.kv_heads);
    let together = group.div_ceil(workers.count().div_ceil(places.max(1))).max(1);
    let groups = output.chunks_mut(group * sizes.head).enumerate();
    let mut queries = groups.flat_map(|(place, output)| {
        let (token, first) = (place / sizes.kv_heads, place % sizes.kv_heads * group);
        let some = output.chunks_mut(together * sizes.head).enumerate();
        some.map(move |(index, output)| Queries { token, first: first + index * together, output })
    });
    let count = places * group.div_ceil(together);
    // A step has few parts, each given out alone; a prompt has eight a thread, because its last tokens see the most.
    let each = if sizes.tokens == 1 { 1 } else { count.div_ceil(8 * workers.count()).max(1) };
    let parts = std::iter::from_fn(|| Some(queries.by_ref().take(each).collect::<Vec<_>>()).filter(|part| !part.is_empty()));
    each_part(parts.collect(), workers, |queries| processor.run(Attend { sizes, tokens, cache: [keys, values], queries }));
    Ok(())
}

fn check(sizes: &Sizes, tokens: &Tokens, cache: [usize; 2], output: usize) -> Result<(), Misfit> {
    let Sizes { rows, tokens: count, heads, kv_heads, head, room } = *sizes;
    let demand = |fits: bool, what| if fits { Ok(()) } else { Err(Misfit(what)) };
    demand(kv_heads > 0 && heads.is_multiple_of(kv_heads), "each head of the cache serves as many heads of queries")?;
    demand(head > 0 && head.is_multiple_of(LANES), "a head is a multiple of 16 numbers wide")?;
    demand(output == rows * count * heads * head, "the result has a place for each head of each token")?;
    demand(cache.iter().all(|side| *side == rows * kv_heads * room * head), "the cache has its room for each row")?;
    demand(tokens.before.len() == rows, "each row has its length")?;
    demand(tokens.before.iter().all(|before| before + count <= room), "the tokens fit into the cache")?;
    for (heads_of, count_of) in tokens.heads.iter().zip([heads, kv_heads, kv_heads]) {
        demand(heads_of.numbers.len() == rows * count * heads_of.width, "each token has its numbers")?;
        demand(heads_of.first + count_of * head <= heads_of.width, "a token has all its heads")?;
    }
    if let Some(Angles { cos, sin, places }) = tokens.angles {
        let most = cos.len() / (head / 2);
        demand(cos.len() == sin.len() && places.len() == rows * count, "each token has its angles")?;
        demand(places.iter().all(|place| (0..most as i64).contains(place)), "each token's angles are there")?;
    }
    Ok(())
}

impl<'n> Heads<'n> {
    #[inline(always)]
    fn of(&self, token: usize, head: usize, width: usize) -> &'n [f32] {
        &self.numbers[token * self.width + self.first + head * width..][..width]
    }
}

/// Rotates `numbers` into `rotated`: the first half of a head with the second.
#[inline(always)]
fn rotate(angles: Option<Angles>, token: usize, numbers: &[f32], rotated: &mut [f32]) {
    let Some(Angles { cos, sin, places }) = angles else { return rotated.copy_from_slice(numbers) };
    let half = numbers.len() / 2;
    let row = places[token] as usize * half;
    let (cos, sin) = (&cos[row..row + half], &sin[row..row + half]);
    let (first, second) = numbers.split_at(half);
    let (rotated_first, rotated_second) = rotated.split_at_mut(half);
    for index in 0..half {
        rotated_first[index] = first[index] * cos[index] - second[index] * sin[index];
        rotated_second[index] = second[index] * cos[index] + first[index] * sin[index];
    }
}

/// Writes the new keys and values.
struct Store<'a> {
    sizes: &'a Sizes,
    tokens: &'a Tokens<'a>,
    cache: [&'a mut [f32]; 2],
}

impl Work for Store<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Store { sizes, tokens, cache: [keys, values] } = self;
        for (row, before) in tokens.before.iter().enumerate() {
            for token in 0..sizes.tokens {
                let source = row * sizes.tokens + token;
                for head in 0..sizes.kv_heads {
                    let place = ((row * sizes.kv_heads + head) * sizes.room + before + token) * sizes.head;
                    let place = place..place + sizes.head;
                    rotate(tokens.angles, source, tokens.heads[1].of(source, head, sizes.head), &mut keys[place.clone()]);
                    values[place].copy_from_slice(tokens.heads[2].of(source, head, sizes.head));
                }
            }
        }
    }
}

/// Queries of one token that share a head of the cache.
struct Queries<'a> {
    /// Of all `[rows, tokens]`.
    token: usize,
    /// The first head.
    first: usize,
    /// `[heads, head]`
    output: &'a mut [f32],
}

/// The attention of some queries.
struct Attend<'a> {
    sizes: &'a Sizes,
    tokens: &'a Tokens<'a>,
    cache: [&'a [f32]; 2],
    queries: Vec<Queries<'a>>,
}

impl Work for Attend<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Attend { sizes, tokens, cache, queries } = self;
        let head = sizes.head;
        let (mut rotated, mut scores, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        for Queries { token, first, output } in queries {
            rotated.resize(output.len(), 0.0);
            for (index, query) in rotated.chunks_exact_mut(head).enumerate() {
                rotate(tokens.angles, token, tokens.heads[0].of(token, first + index, head), query);
                query.iter_mut().for_each(|number| *number *= tokens.scale);
            }
            let row = token / sizes.tokens;
            let visible = tokens.before[row] + token % sizes.tokens + 1;
            let kv_head = first / (sizes.heads / sizes.kv_heads);
            let slab = (row * sizes.kv_heads + kv_head) * sizes.room * head;
            let [keys, values] = cache.map(|side| &side[slab..slab + visible * head]);
            let width = visible.next_multiple_of(LANES);
            scores.resize(output.len() / head * width, 0.0);
            // SAFETY: the caller's.
            unsafe {
                score::<L>(&rotated, keys, &mut scores, head);
                share::<L>(&mut scores, width, &mut shares);
                weigh::<L>(&scores, width, &shares, values, output, head);
            }
        }
    }
}

/// How many of the cache's tokens pass all heads together; keys pass four at a time.
fn near(head: usize) -> usize {
    (NEAR / head).max(4) / 4 * 4
}

/// The scores of some heads' queries `[heads, head]` with all keys `[tokens, head]`: `[heads, tokens rounded up]`; those behind the last key are the least.
///
/// # Safety
/// The processor must have the instructions of the lanes' class.
#[inline(always)]
unsafe fn score<L: Lanes>(queries: &[f32], keys: &[f32], scores: &mut [f32], head: usize) {
    let width = (keys.len() / head).next_multiple_of(LANES);
    for (block, keys) in keys.chunks(near(head) * head).enumerate() {
        let together = if L::MANY { 4 } else { 1 };
        let heads = queries.chunks(together * head).zip(scores.chunks_mut(together * width));
        for (queries, scores) in heads {
            let scores = &mut scores[block * near(head)..];
            // SAFETY: the caller's.
            unsafe {
                match queries.len() / head {
                    4 => score_heads::<L, 4>(queries, keys, scores, width, head),
                    3 => score_heads::<L, 3>(queries, keys, scores, width, head),
                    2 => score_heads::<L, 2>(queries, keys, scores, width, head),
                    _ => score_heads::<L, 1>(queries, keys, scores, width, head),
                }
            }
        }
    }
    scores.chunks_exact_mut(width).for_each(|scores| scores[keys.len() / head..].fill(f32::NEG_INFINITY));
}

/// The scores of a few heads, four keys at a time; a head's lie `width` behind those of the head before.
///
/// # Safety
/// The processor must have the instructions of the lanes' class.
#[inline(always)]
unsafe fn score_heads<L: Lanes, const HEADS: usize>(
    queries: &[f32],
    keys: &[f32],
    scores: &mut [f32],
    width: usize,
    head: usize,
) {
    let queries: [&[[f32; LANES]]; HEADS] = std::array::from_fn(|index| queries[index * head..][..head].as_chunks().0);
    let count = keys.len() / head;
    for first in (0..count).step_by(4) {
        let four: [&[[f32; LANES]]; 4] =
            std::array::from_fn(|index| keys[(first + index).min(count - 1) * head..][..head].as_chunks().0);
        // SAFETY: the caller's.
        unsafe {
            let mut products = [[L::all(0.0); 4]; 4];
            for part in 0..head / LANES {
                let mut key = [L::all(0.0); 4];
                for index in 0..4 {
                    key[index] = L::load(&four[index][part]);
                }
                for of_head in 0..HEADS {
                    let query = L::load(&queries[of_head][part]);
                    for index in 0..4 {
                        products[of_head][index] = query.times_plus(key[index], products[of_head][index]);
                    }
                }
            }
            let mut place = |of_head: usize, sums: [f32; 4]| scores[of_head * width + first..][..4].copy_from_slice(&sums);
            if HEADS == 1 {
                place(0, L::sums(products[0]));
            } else {
                let sums = L::sixteen_sums(products);
                (0..HEADS).for_each(|of_head| place(of_head, sums[of_head]));
            }
        }
    }
}

/// Replaces the scores of each head `[heads, width]` by their exponentials, and puts one over their sum into `shares`.
///
/// # Safety
/// The processor must have the instructions of the lanes' class.
#[inline(always)]
unsafe fn share<L: Lanes>(scores: &mut [f32], width: usize, shares: &mut Vec<f32>) {
    shares.clear();
    // A loop and no closure: what is handed to a function of the library is not compiled for the class.
    for scores in scores.chunks_exact_mut(width) {
        // SAFETY: the caller's.
        shares.push(1.0 / unsafe { exponentials::<L>(scores) });
    }
}

/// Adds the values up `[tokens, head]` for some heads `[heads, head]`, each by its exponential `[heads, width]`, and gives each head its share.
///
/// # Safety
/// The processor must have the instructions of the lanes' class.
#[inline(always)]
unsafe fn weigh<L: Lanes>(scores: &[f32], width: usize, shares: &[f32], values: &[f32], output: &mut [f32], head: usize) {
    output.fill(0.0);
    for (block, values) in values.chunks(near(head) * head).enumerate() {
        for (scores, output) in scores.chunks(4 * width).zip(output.chunks_mut(4 * head)) {
            let scores = &scores[block * near(head)..];
            // SAFETY: the caller's.
            unsafe {
                match output.len() / head {
                    4 => weigh_heads::<L, 4>(scores, width, values, output, head),
                    3 => weigh_heads::<L, 3>(scores, width, values, output, head),
                    2 => weigh_heads::<L, 2>(scores, width, values, output, head),
                    _ => weigh_heads::<L, 1>(scores, width, values, output, head),
                }
            }
        }
    }
    for (output, share) in output.chunks_exact_mut(head).zip(shares) {
        output.iter_mut().for_each(|number| *number *= share);
    }
}

/// Adds some values to what a few heads have.
///
/// # Safety
/// The processor must have the instructions of the lanes' class.
#[inline(always)]
unsafe fn weigh_heads<L: Lanes, const HEADS: usize>(
    scores: &[f32],
    width: usize,
    values: &[f32],
    output: &mut [f32],
    head: usize,
) {
    let parts = head / LANES;
    let mut part = 0;
    // SAFETY: the caller's.
    unsafe {
        // A head alone has registers for four sums in every class.
        while (L::MANY || HEADS == 1) && part + 4 <= parts {
            weigh_parts::<L, HEADS, 4>(scores, width, values, output, head, part);
            part += 4;
        }
        while part < parts {
            weigh_parts::<L, HEADS, 1>(scores, width, values, output, head, part);
            part += 1;
        }
    }
}

/// As [`weigh_heads`], for so many numbers of each head from `part` on, 16 a part.
///
/// # Safety
/// The processor must have the instructions of the lanes' class.
#[inline(always)]
unsafe fn weigh_parts<L: Lanes, const HEADS: usize, const PARTS: usize>(
    scores: &[f32],
    width: usize,
    values: &[f32],
    output: &mut [f32],
    head: usize,
    first: usize,
) {
    let (values, output) = (values.as_chunks::<LANES>().0, output.as_chunks_mut::<LANES>().0);
    let parts = head / LANES;
    let scores: [&[f32]; HEADS] = std::array::from_fn(|index| &scores[index * width..][..values.len() / parts]);
    // SAFETY: the caller's.
    unsafe {
        let mut totals = [[L::all(0.0); PARTS]; HEADS];
        for index in 0..HEADS {
            for part in 0..PARTS {
                totals[index][part] = L::load(&output[index * parts + first + part]);
            }
        }
        for (place, value) in values.chunks_exact(parts).enumerate() {
            let mut lanes = [L::all(0.0); PARTS];
            for part in 0..PARTS {
                lanes[part] = L::load(&value[first + part]);
            }
            for index in 0..HEADS {
                let share = L::all(scores[index][place]);
                for part in 0..PARTS {
                    totals[index][part] = share.times_plus(lanes[part], totals[index][part]);
                }
            }
        }
        for index in 0..HEADS {
            for part in 0..PARTS {
                totals[index][part].store(&mut output[index * parts + first + part]);
            }
        }
    }
}

/// Replaces scores by their exponentials relative to the largest; gives their sum.
///
/// # Safety
/// The processor must have the instructions of the lanes' class.
#[inline(always)]
unsafe fn exponentials<L: Lanes>(scores: &mut [f32]) -> f32 {
    let lines = scores.as_chunks_mut::<LANES>().0;
    // SAFETY: the caller's.
    unsafe {
        let mut most = L::all(f32::NEG_INFINITY);
        for line in lines.iter() {
            most = L::load(line).max(most);
        }
        let mut each = [0.0; LANES];
        most.store(&mut each);
        let most = each.into_iter().fold(f32::NEG_INFINITY, |most, number| if number > most { number } else { most });
        for score in lines.as_flattened_mut() {
            *score = exponential(*score - most);
        }
        let mut total = L::all(0.0);
        for line in lines.iter() {
            total = total.plus(L::load(line));
        }
        L::sums([total; 4])[0]
    }
}

/// `e^x` for x up to 0, within 2 units in the last place; below e^-87, about the least normal number, it is 0 (Cephes, expf.c).
#[inline(always)]
fn exponential(x: f32) -> f32 {
    const LEAST: f32 = -87.0;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = whole.mul_add(-1.428_606_8e-6, whole.mul_add(-0.693_145_75, x));
    let mut series = 1.987_569_1e-4f32;
    for factor in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        series = series.mul_add(rest, factor);
    }
    let fraction = (rest * rest).mul_add(series, rest + 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < LEAST { 0.0 } else { fraction * power }
}

#[cfg(test)]
mod tests {
    use super::exponential;

    #[test]
    fn exponentials_are_those_of_the_library() {
        for step in 0..870_000u32 {
            let x = -(step as f32) * 1e-4;
            let exact = f64::from(x).exp();
            assert!((f64::from(exponential(x)) - exact).abs() <= 2.5e-7 * exact, "e^{x}");
        }
        assert_eq!([0.0, -88.0, f32::NEG_INFINITY].map(exponential), [1.0, 0.0, 0.0]);
        assert!(exponential(f32::NAN).is_nan());
    }
}
