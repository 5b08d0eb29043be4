//! Attention of new tokens on a cache of keys and values (ONNX Runtime's GroupQueryAttention).
//!
//! `y = softmax(scale q k^T) v`, each token seeing those of its row up to itself; neighbouring query heads share a head of the cache. Each number is made
//! by the same sums in the same order, whatever else is computed beside it: scores in 16 lanes, which are then added up, results key after key.

use crate::lanes::{LANES, Lanes};
use crate::processor::Work;
use crate::{Processor, ROUND, Workers, each_part};

/// Query heads that pass the values together.
const TOGETHER: usize = 4;
/// Numbers of a result that pass the cache together.
const WIDE: usize = 2;

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

/// Angles by which queries and keys are turned, and which row of them belongs to each token.
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
    /// Absent: queries and keys are turned already.
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

/// Writes the new tokens' keys and values into the cache, each `[rows, kv heads, room, head]`, and their attention into `seen` `[rows, tokens, heads, head]`.
///
/// # Errors
/// Sizes do not fit each other, or a token does not fit the cache or has no angles.
pub fn attend(
    processor: Processor,
    sizes: &Sizes,
    tokens: &Tokens,
    [keys, values]: [&mut [f32]; 2],
    seen: &mut [f32],
    workers: &dyn Workers,
) -> Result<(), Misfit> {
    check(sizes, tokens, [keys.len(), values.len()], seen.len())?;
    processor.run(Remember { sizes, tokens, cache: [&mut *keys, &mut *values] });
    let (keys, values) = (&*keys, &*values);
    let group = sizes.heads / sizes.kv_heads;
    let few = sizes.rows * sizes.tokens * sizes.kv_heads * group.div_ceil(TOGETHER) < workers.count();
    let together = if few { 1 } else { TOGETHER };
    let groups = seen.chunks_mut(group * sizes.head).enumerate();
    let mut queries = groups.flat_map(|(place, seen)| {
        let (token, first) = (place / sizes.kv_heads, place % sizes.kv_heads * group);
        let some = seen.chunks_mut(together * sizes.head).enumerate();
        some.map(move |(index, seen)| Queries { token, first: first + index * together, seen })
    });
    let count = sizes.rows * sizes.tokens * sizes.kv_heads * group.div_ceil(together);
    // Of a step each part is as large as the others; of a prompt the last tokens see the most.
    let each = if sizes.tokens == 1 { 1 } else { count.div_ceil(8 * workers.count()).max(1) };
    let parts = std::iter::from_fn(|| Some(queries.by_ref().take(each).collect::<Vec<_>>()).filter(|part| !part.is_empty()));
    each_part(parts.collect(), workers, |queries| processor.run(Look { sizes, tokens, cache: [keys, values], queries }));
    Ok(())
}

fn check(sizes: &Sizes, tokens: &Tokens, cache: [usize; 2], seen: usize) -> Result<(), Misfit> {
    let Sizes { rows, tokens: count, heads, kv_heads, head, room } = *sizes;
    let demand = |fits: bool, what| if fits { Ok(()) } else { Err(Misfit(what)) };
    demand(kv_heads > 0 && heads.is_multiple_of(kv_heads), "each head of the cache serves as many heads of queries")?;
    demand(head > 0 && head.is_multiple_of(LANES), "a head is a multiple of 16 numbers wide")?;
    demand(seen == rows * count * heads * head, "the result has a place for each head of each token")?;
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

/// Turns `numbers` into `turned`: the first half of a head with the second.
#[inline(always)]
fn turn(angles: Option<Angles>, token: usize, numbers: &[f32], turned: &mut [f32]) {
    let Some(Angles { cos, sin, places }) = angles else { return turned.copy_from_slice(numbers) };
    let half = numbers.len() / 2;
    let row = places[token] as usize * half;
    let (cos, sin) = (&cos[row..row + half], &sin[row..row + half]);
    let (first, second) = numbers.split_at(half);
    let (turned_first, turned_second) = turned.split_at_mut(half);
    for index in 0..half {
        turned_first[index] = first[index] * cos[index] - second[index] * sin[index];
        turned_second[index] = second[index] * cos[index] + first[index] * sin[index];
    }
}

/// Writes the new keys and values.
struct Remember<'a> {
    sizes: &'a Sizes,
    tokens: &'a Tokens<'a>,
    cache: [&'a mut [f32]; 2],
}

impl Work for Remember<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Remember { sizes, tokens, cache: [keys, values] } = self;
        for (row, before) in tokens.before.iter().enumerate() {
            for token in 0..sizes.tokens {
                let source = row * sizes.tokens + token;
                for head in 0..sizes.kv_heads {
                    let place = ((row * sizes.kv_heads + head) * sizes.room + before + token) * sizes.head;
                    let place = place..place + sizes.head;
                    turn(tokens.angles, source, tokens.heads[1].of(source, head, sizes.head), &mut keys[place.clone()]);
                    values[place].copy_from_slice(tokens.heads[2].of(source, head, sizes.head));
                }
            }
        }
    }
}

/// Queries of one token that share a head of the cache, at most [`TOGETHER`].
struct Queries<'a> {
    /// Of all `[rows, tokens]`.
    token: usize,
    /// The first head.
    first: usize,
    /// `[heads, head]`
    seen: &'a mut [f32],
}

/// The attention of some queries.
struct Look<'a> {
    sizes: &'a Sizes,
    tokens: &'a Tokens<'a>,
    cache: [&'a [f32]; 2],
    queries: Vec<Queries<'a>>,
}

impl Work for Look<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Look { sizes, tokens, cache, queries } = self;
        let head = sizes.head;
        let (mut turned, mut scores) = (vec![0.0; TOGETHER * head], Vec::new());
        for Queries { token, first, seen } in queries {
            let turned = &mut turned[..seen.len()];
            for (index, query) in turned.chunks_exact_mut(head).enumerate() {
                turn(tokens.angles, token, tokens.heads[0].of(token, first + index, head), query);
                query.iter_mut().for_each(|number| *number *= tokens.scale);
            }
            let row = token / sizes.tokens;
            let visible = tokens.before[row] + token % sizes.tokens + 1;
            let kv_head = first / (sizes.heads / sizes.kv_heads);
            let slab = (row * sizes.kv_heads + kv_head) * sizes.room * head;
            let [keys, values] = cache.map(|side| &side[slab..slab + visible * head]);
            scores.resize(TOGETHER * visible.next_multiple_of(LANES), 0.0);
            // SAFETY: the caller's.
            unsafe {
                match turned.len() / head {
                    4 => heads::<L, 4>(turned, keys, values, &mut scores, seen, head),
                    3 => heads::<L, 3>(turned, keys, values, &mut scores, seen, head),
                    2 => heads::<L, 2>(turned, keys, values, &mut scores, seen, head),
                    _ => heads::<L, 1>(turned, keys, values, &mut scores, seen, head),
                }
            }
        }
    }
}

/// Some heads' attention `[heads, head]`, in the room of `scores`.
///
/// # Safety
/// The processor must have the instructions of the lanes' class.
#[inline(always)]
unsafe fn heads<L: Lanes, const HEADS: usize>(
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    scores: &mut [f32],
    seen: &mut [f32],
    head: usize,
) {
    let width = (keys.len() / head).next_multiple_of(LANES);
    let scores = &mut scores[..HEADS * width];
    let mut shares = [0.0f32; HEADS];
    // SAFETY: the caller's.
    unsafe {
        for ((query, scores), share) in queries.chunks_exact(head).zip(scores.chunks_exact_mut(width)).zip(&mut shares) {
            score::<L>(query, keys, scores);
            *share = 1.0 / exponentials::<L>(scores);
        }
        let mut at = 0;
        while at + WIDE * LANES <= head {
            mix::<L, HEADS, WIDE>(scores, values, shares, seen, head, at);
            at += WIDE * LANES;
        }
        while at < head {
            mix::<L, HEADS, 1>(scores, values, shares, seen, head, at);
            at += LANES;
        }
    }
}

/// The scores of all keys; those behind the last one are the least.
///
/// # Safety
/// The processor must have the instructions of the lanes' class.
#[inline(always)]
unsafe fn score<L: Lanes>(query: &[f32], keys: &[f32], scores: &mut [f32]) {
    let head = query.len();
    let query = query.as_chunks::<LANES>().0;
    let count = keys.len() / head;
    for (place, found) in scores.as_chunks_mut::<4>().0.iter_mut().take(count.div_ceil(4)).enumerate() {
        let mut four = [&keys[..head]; 4];
        for (index, key) in four.iter_mut().enumerate() {
            *key = &keys[(4 * place + index).min(count - 1) * head..][..head];
        }
        // SAFETY: the caller's.
        unsafe {
            let mut products = [L::all(0.0); 4];
            for (part, query) in query.iter().enumerate() {
                let query = L::load(query);
                for index in 0..4 {
                    let key = L::load(&four[index].as_chunks::<LANES>().0[part]);
                    products[index] = query.times_plus(key, products[index]);
                }
            }
            *found = L::sums(products);
        }
    }
    scores[count..].fill(f32::NEG_INFINITY);
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

/// Adds the values up, each by its share: the numbers `at` and behind of each head.
///
/// # Safety
/// The processor must have the instructions of the lanes' class.
#[inline(always)]
unsafe fn mix<L: Lanes, const HEADS: usize, const PARTS: usize>(
    scores: &[f32],
    values: &[f32],
    shares: [f32; HEADS],
    seen: &mut [f32],
    head: usize,
    at: usize,
) {
    let width = scores.len() / HEADS;
    // SAFETY: the caller's.
    unsafe {
        let mut totals = [[L::all(0.0); PARTS]; HEADS];
        for (place, value) in values.chunks_exact(head).enumerate() {
            let parts = value[at..].as_chunks::<LANES>().0;
            let mut value = [L::all(0.0); PARTS];
            for part in 0..PARTS {
                value[part] = L::load(&parts[part]);
            }
            for index in 0..HEADS {
                let share = L::all(scores[index * width + place]);
                for part in 0..PARTS {
                    totals[index][part] = share.times_plus(value[part], totals[index][part]);
                }
            }
        }
        for index in 0..HEADS {
            let places = seen[index * head + at..].as_chunks_mut::<LANES>().0;
            for part in 0..PARTS {
                totals[index][part].times(L::all(shares[index])).store(&mut places[part]);
            }
        }
    }
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
