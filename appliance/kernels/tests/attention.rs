//! Attention on a cache: right, and the same to the bit on every class of processors, however a prompt is cut and whatever stands beside it.

use mmlnb_kernels::attention::{Angles, Heads, Misfit, Sizes, Tokens, attend};
use mmlnb_kernels::{Processor, Spawned, Workers};
use proptest::prelude::*;

/// Wide heads pass the cache in several pieces.
const ROOM: usize = 131;

/// Rows of tokens that are new, on rows that have some.
#[derive(Clone, Debug)]
struct Case {
    sizes: Sizes,
    before: Vec<usize>,
    /// `[rows, tokens, heads + 2 kv heads, head]`
    numbers: Vec<f32>,
    /// Keys, values.
    cache: [Vec<f32>; 2],
    turns: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..=3, 1usize..=7, 1usize..=9, 1usize..=2, 1usize..=5, any::<bool>());
    sizes.prop_flat_map(|(rows, tokens, group, kv_heads, head, turns)| {
        let sizes = Sizes { rows, tokens, heads: group * kv_heads, kv_heads, head: 16 * head, room: ROOM };
        let count = rows * tokens * (sizes.heads + 2 * kv_heads) * sizes.head;
        let side = || prop::collection::vec(-2.0f32..2.0, rows * kv_heads * ROOM * sizes.head);
        let before = prop::collection::vec(0..=ROOM - tokens, rows);
        let numbers = prop::collection::vec(-2.0f32..2.0, count);
        (before, numbers, side(), side()).prop_map(move |(before, numbers, keys, values)| Case {
            sizes,
            before,
            numbers,
            cache: [keys, values],
            turns,
        })
    })
}

fn angle(row: usize, token: usize, index: usize) -> f32 {
    (row * 100 + token) as f32 / (1.0 + index as f32)
}

impl Case {
    fn width(&self) -> usize {
        (self.sizes.heads + 2 * self.sizes.kv_heads) * self.sizes.head
    }

    /// What is seen, and the cache afterwards, of `tokens` of all rows from `from` on.
    fn seen(
        &self,
        cache: &[Vec<f32>; 2],
        from: usize,
        tokens: usize,
        processor: Processor,
        workers: &dyn Workers,
    ) -> (Vec<f32>, [Vec<f32>; 2]) {
        let sizes = Sizes { tokens, ..self.sizes };
        let row = self.sizes.tokens * self.width();
        let part = from * self.width()..(from + tokens) * self.width();
        let numbers: Vec<f32> = self.numbers.chunks_exact(row).flat_map(|row| row[part.clone()].to_vec()).collect();
        let before: Vec<usize> = self.before.iter().map(|before| before + from).collect();
        let places: Vec<i64> = (0..sizes.rows)
            .flat_map(|row| (0..tokens).map(move |token| (row * ROOM + token) as i64))
            .zip(before.iter().flat_map(|before| vec![*before as i64; tokens]))
            .map(|(place, before)| place + before)
            .collect();
        let half = sizes.head / 2;
        let table = |of: fn(f32) -> f32| -> Vec<f32> {
            let places =
                (0..sizes.rows * ROOM).flat_map(|place| (0..half).map(move |index| angle(place / ROOM, place % ROOM, index)));
            places.map(of).collect()
        };
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let heads = |first: usize| Heads { numbers: &numbers, width: self.width(), first: first * sizes.head };
        let tokens_of = Tokens {
            heads: [heads(0), heads(sizes.heads), heads(sizes.heads + sizes.kv_heads)],
            angles: self.turns.then_some(Angles { cos: &cos, sin: &sin, places: &places }),
            before: &before,
            scale: 0.3,
        };
        let [mut keys, mut values] = cache.clone();
        let mut seen = vec![f32::NAN; sizes.rows * tokens * sizes.heads * sizes.head];
        attend(processor, &sizes, &tokens_of, [&mut keys, &mut values], &mut seen, workers).unwrap();
        (seen, [keys, values])
    }

    fn whole(&self, processor: Processor, workers: &dyn Workers) -> (Vec<f32>, [Vec<f32>; 2]) {
        self.seen(&self.cache, 0, self.sizes.tokens, processor, workers)
    }

    fn number(&self, row: usize, token: usize, head: usize) -> Vec<f64> {
        let first = (row * self.sizes.tokens + token) * self.width() + head * self.sizes.head;
        self.numbers[first..first + self.sizes.head].iter().map(|number| f64::from(*number)).collect()
    }

    fn turned(&self, row: usize, token: usize, head: usize) -> Vec<f64> {
        let numbers = self.number(row, token, head);
        let half = numbers.len() / 2;
        let turned = |index: usize| {
            let angle = angle(row, self.before[row] + token, index % half);
            let (cos, sin) = (f64::from(angle.cos()), f64::from(angle.sin()));
            let other = numbers[(index + half) % (2 * half)];
            numbers[index] * cos + if index < half { -other } else { other } * sin
        };
        if self.turns { (0..2 * half).map(turned).collect() } else { numbers }
    }

    /// What one query sees, by the definition.
    fn expected(&self, row: usize, token: usize, head: usize) -> Vec<f64> {
        let Sizes { heads, kv_heads, head: width, .. } = self.sizes;
        let kv_head = head / (heads / kv_heads);
        let side = |side: usize, place: usize| -> Vec<f64> {
            match place.checked_sub(self.before[row]) {
                Some(new) if side == 0 => self.turned(row, new, heads + kv_head),
                Some(new) => self.number(row, new, heads + kv_heads + kv_head),
                None => {
                    let first = ((row * kv_heads + kv_head) * ROOM + place) * width;
                    self.cache[side][first..first + width].iter().map(|number| f64::from(*number)).collect()
                }
            }
        };
        let query = self.turned(row, token, head);
        let visible = self.before[row] + token + 1;
        let score = |place| 0.3f32 as f64 * query.iter().zip(side(0, place)).map(|(q, k)| q * k).sum::<f64>();
        let scores: Vec<f64> = (0..visible).map(score).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        let total: f64 = powers.iter().sum();
        let mut seen = vec![0.0; width];
        for (place, power) in powers.iter().enumerate() {
            seen.iter_mut().zip(side(1, place)).for_each(|(seen, value)| *seen += power / total * value);
        }
        seen
    }
}

fn bits((seen, [keys, values]): &(Vec<f32>, [Vec<f32>; 2])) -> Vec<u32> {
    seen.iter().chain(keys).chain(values).map(|number| number.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn attention_is_right(case in cases()) {
        let (seen, _) = case.whole(Processor::here(), &Spawned(1));
        let Sizes { tokens, heads, head, .. } = case.sizes;
        for (place, found) in seen.chunks_exact(head).enumerate() {
            let expected = case.expected(place / heads / tokens, place / heads % tokens, place % heads);
            for (found, expected) in found.iter().zip(expected) {
                prop_assert!((f64::from(*found) - expected).abs() < 2e-5, "{found}, expected {expected} in {place}");
            }
        }
    }

    #[test]
    fn neither_processor_nor_threads_change_a_bit(case in cases()) {
        let plain = bits(&case.whole(Processor::Plain, &Spawned(1)));
        for class in Processor::ALL.into_iter().filter(|class| class.is_here()) {
            prop_assert!(bits(&case.whole(class, &Spawned(1))) == plain, "{class:?} gives other numbers");
            prop_assert!(bits(&case.whole(class, &Spawned(3))) == plain, "{class:?} with three threads gives other numbers");
        }
    }

    #[test]
    fn a_prompt_gives_the_same_however_it_is_cut(case in cases(), cut in 0usize..7) {
        let cut = cut % case.sizes.tokens;
        let whole = case.whole(Processor::here(), &Spawned(1));
        let (first, cache) = case.seen(&case.cache, 0, cut, Processor::here(), &Spawned(1));
        let (second, cache) = case.seen(&cache, cut, case.sizes.tokens - cut, Processor::here(), &Spawned(1));
        let width = case.sizes.heads * case.sizes.head;
        let rows = first.chunks(cut.max(1) * width).map(<[f32]>::to_vec).chain(std::iter::repeat(vec![]));
        let joined: Vec<f32> = rows
            .zip(second.chunks((case.sizes.tokens - cut) * width))
            .flat_map(|(first, second)| [first, second.to_vec()].concat())
            .collect();
        prop_assert!(bits(&(joined, cache)) == bits(&whole));
    }

    /// What stands behind a row's tokens, or in another row, is not even looked at.
    #[test]
    fn nothing_else_in_the_cache_counts(case in cases()) {
        let Sizes { rows, tokens, heads, kv_heads, head, .. } = case.sizes;
        let (seen, _) = case.whole(Processor::here(), &Spawned(1));
        let mut other = case.clone();
        let mine = |place: usize| {
            let (row, token) = (place / kv_heads / ROOM / head, place / head % ROOM);
            row == 0 && token < case.before[0]
        };
        for side in &mut other.cache {
            side.iter_mut().enumerate().filter(|(place, _)| !mine(*place)).for_each(|(_, number)| *number = f32::NAN);
        }
        let (again, _) = other.whole(Processor::here(), &Spawned(1));
        let row = tokens * heads * head;
        prop_assert!(seen[..row].iter().zip(&again[..row]).all(|(one, other)| one.to_bits() == other.to_bits()));
        for (index, before) in case.before.iter().enumerate().take(rows).skip(1) {
            prop_assert!(*before == 0 || again[index * row..][..row].iter().any(|number| number.is_nan()), "the cache is read");
        }
    }
}

/// What is no number shows in what its row sees, and in no other row.
#[test]
fn what_is_no_number_stays_none_and_stays_in_its_row() {
    let sizes = Sizes { rows: 3, tokens: 2, heads: 4, kv_heads: 2, head: 16, room: ROOM };
    let count = 3 * 2 * 8 * 16;
    let side = vec![0.25; 3 * 2 * ROOM * 16];
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        // A query, a key, a value of the second row's first token.
        for head in [0, 4, 6] {
            let mut numbers = vec![0.5; count];
            numbers[(2 * 8 + head) * 16] = strange;
            let case = Case { sizes, before: vec![3, 5, 0], numbers, cache: [side.clone(), side.clone()], turns: false };
            for class in Processor::ALL.into_iter().filter(|class| class.is_here()) {
                let (seen, _) = case.whole(class, &Spawned(1));
                let strange_rows: Vec<bool> =
                    seen.chunks_exact(2 * 4 * 16).map(|row| row.iter().any(|number| !number.is_finite())).collect();
                // The score of a key that is infinitely far away is none.
                let hidden = strange == f32::NEG_INFINITY && head == 4;
                assert_eq!(strange_rows, [false, !hidden, false], "{class:?} {strange} in head {head}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let sizes = Sizes { rows: 1, tokens: 2, heads: 4, kv_heads: 2, head: 16, room: 8 };
    let tried = |sizes: Sizes, before: usize, places: [i64; 2], cache: usize| -> Result<(), Misfit> {
        let numbers = vec![0.5; 2 * 8 * 16];
        let heads = |first: usize| Heads { numbers: &numbers, width: 8 * 16, first: first * 16 };
        let table = vec![1.0; 5 * 8];
        let tokens = Tokens {
            heads: [heads(0), heads(4), heads(6)],
            angles: Some(Angles { cos: &table, sin: &table, places: &places }),
            before: &[before],
            scale: 1.0,
        };
        let (mut keys, mut values, mut seen) = (vec![0.0; cache], vec![0.0; cache], vec![0.0; 2 * 4 * 16]);
        attend(Processor::here(), &sizes, &tokens, [&mut keys, &mut values], &mut seen, &Spawned(1))
    };
    let room = 2 * 8 * 16;
    assert_eq!(tried(sizes, 6, [0, 4], room), Ok(()));
    assert!(tried(sizes, 7, [0, 4], room).is_err(), "no room for the second token");
    assert!(tried(sizes, 6, [0, 5], room).is_err(), "no angles at 5");
    assert!(tried(sizes, 6, [-1, 4], room).is_err());
    assert!(tried(sizes, 6, [0, 4], room - 1).is_err());
    assert!(tried(Sizes { head: 8, ..sizes }, 6, [0, 4], room).is_err());
    assert!(tried(Sizes { heads: 5, ..sizes }, 6, [0, 4], room).is_err());
    assert!(tried(Sizes { kv_heads: 0, ..sizes }, 6, [0, 4], room).is_err());
}
