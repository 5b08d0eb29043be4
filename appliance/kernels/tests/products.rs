//! Products in few bits: right, and the same to the bit on every class of processors, with any number of threads and rows.

use mmlnb_kernels::products::{Bits, Weights, multiply};
use mmlnb_kernels::{BLOCK, Processor, Rows, Spawned, Workers};
use proptest::prelude::*;

/// A product of random sizes and numbers.
#[derive(Clone, Debug)]
struct Case {
    bits: Bits,
    rows: usize,
    inputs: usize,
    outputs: usize,
    numbers: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    bias: Option<Vec<f32>>,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..=9, 1usize..=400, 1usize..=150, any::<bool>(), any::<bool>());
    sizes.prop_flat_map(|(rows, inputs, outputs, four, with_bias)| {
        let bits = if four { Bits::Four } else { Bits::Eight };
        let blocks = outputs * inputs.div_ceil(BLOCK);
        let numbers = prop::collection::vec(-3.0f32..3.0, rows * inputs);
        let codes = prop::collection::vec(any::<u8>(), blocks * bits.bytes());
        let scales = prop::collection::vec(-0.1f32..0.1, blocks);
        let bias = prop::collection::vec(-9.0f32..9.0, outputs);
        (numbers, codes, scales, bias).prop_map(move |(numbers, codes, scales, bias)| {
            let bias = with_bias.then_some(bias);
            Case { bits, rows, inputs, outputs, numbers, codes, scales, bias }
        })
    })
}

impl Case {
    fn product(&self, processor: Processor, workers: &dyn Workers) -> Vec<f32> {
        self.product_of(&self.numbers, processor, workers)
    }

    fn product_of(&self, numbers: &[f32], processor: Processor, workers: &dyn Workers) -> Vec<f32> {
        let weights = Weights::new(self.bits, &self.codes, &self.scales, self.outputs, self.inputs, workers).unwrap();
        let mut rows = Rows::default();
        rows.take(processor, numbers, self.inputs, workers);
        let mut product = vec![f32::NAN; rows.count() * self.outputs];
        multiply(processor, &rows, &weights, self.bias.as_deref(), &mut product, workers);
        product
    }

    fn weight(&self, output: usize, input: usize) -> f64 {
        let block = output * self.inputs.div_ceil(BLOCK) + input / BLOCK;
        let codes = &self.codes[block * self.bits.bytes()..];
        let code = match self.bits {
            Bits::Four => i32::from(codes[input % BLOCK / 2] >> (input % 2 * 4) & 15) - 8,
            Bits::Eight => i32::from(codes[input % BLOCK]) - 128,
        };
        f64::from(code) * f64::from(self.scales[block])
    }

    /// The exact product of what the numbers become in 8 bits, and the sum of magnitudes that it is a sum of.
    fn expected(&self, row: usize, output: usize) -> [f64; 2] {
        let numbers = &self.numbers[row * self.inputs..(row + 1) * self.inputs];
        let mut sums = [0.0; 2];
        for (block, numbers) in numbers.chunks(BLOCK).enumerate() {
            let most = numbers.iter().fold(0.0f32, |most, number| most.max(number.abs()));
            for (index, number) in numbers.iter().enumerate() {
                let code = if most > 0.0 { (number * (127.0 / most)).round_ties_even() } else { 0.0 };
                let term = f64::from(code) * f64::from(most) / 127.0 * self.weight(output, block * BLOCK + index);
                sums = [sums[0] + term, sums[1] + term.abs()];
            }
        }
        let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[output]));
        [sums[0] + bias, sums[1] + bias.abs()]
    }
}

fn here() -> impl Iterator<Item = Processor> {
    Processor::ALL.into_iter().filter(|class| class.is_here())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn products_are_right(case in cases()) {
        let found = case.product(Processor::here(), &Spawned(1));
        for (place, found) in found.iter().enumerate() {
            let [expected, size] = case.expected(place / case.outputs, place % case.outputs);
            prop_assert!((f64::from(*found) - expected).abs() <= 1e-6 * size + 1e-9, "{found}, expected {expected} at {place}");
        }
    }

    #[test]
    fn neither_processor_nor_threads_nor_company_change_a_bit(case in cases()) {
        let bits = |numbers: Vec<f32>| numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let plain = bits(case.product(Processor::Plain, &Spawned(1)));
        for class in here() {
            prop_assert!(bits(case.product(class, &Spawned(1))) == plain, "{class:?} gives other numbers");
            prop_assert!(bits(case.product(class, &Spawned(3))) == plain, "{class:?} with three threads gives other numbers");
            for row in 0..case.rows {
                let alone = case.product_of(&case.numbers[row * case.inputs..(row + 1) * case.inputs], class, &Spawned(1));
                prop_assert!(bits(alone) == plain[row * case.outputs..(row + 1) * case.outputs], "{class:?}: row {row} alone is another");
            }
        }
    }
}

/// A prompt: more rows than a kernel keeps near, shared out among threads, in room that was used for another product before.
#[test]
fn a_prompts_rows_are_those_of_steps() {
    let (rows, inputs, outputs) = (300, 512, 330);
    let number = |place: usize| ((place * 7919) % 2003) as f32 / 700.0 - 1.4;
    let case = Case {
        bits: Bits::Four,
        rows,
        inputs,
        outputs,
        numbers: (0..rows * inputs).map(number).collect(),
        codes: (0..outputs * inputs / 2).map(|place| (place * 31 % 256) as u8).collect(),
        scales: (0..outputs * 4).map(|place| number(place) / 9.0).collect(),
        bias: Some((0..outputs).map(number).collect()),
    };
    let weights = Weights::new(case.bits, &case.codes, &case.scales, outputs, inputs, &Spawned(3)).unwrap();
    for class in here().filter(|class| *class != Processor::Plain) {
        let mut taken = Rows::default();
        taken.take(class, &vec![f32::NAN; 40 * 700], 700, &Spawned(1));
        taken.take(class, &case.numbers, inputs, &Spawned(3));
        let mut whole = vec![f32::NAN; rows * outputs];
        multiply(class, &taken, &weights, case.bias.as_deref(), &mut whole, &Spawned(3));
        for (row, (numbers, whole)) in case.numbers.chunks_exact(inputs).zip(whole.chunks_exact(outputs)).enumerate() {
            taken.take(class, numbers, inputs, &Spawned(1));
            let mut alone = vec![f32::NAN; outputs];
            multiply(class, &taken, &weights, case.bias.as_deref(), &mut alone, &Spawned(1));
            assert!(alone == whole, "{class:?}: row {row}");
        }
        for place in [0, 129 * outputs + 7, rows * outputs - 1] {
            let [expected, size] = case.expected(place / outputs, place % outputs);
            assert!((f64::from(whole[place]) - expected).abs() <= 1e-6 * size, "{class:?}: {place}");
        }
    }
}

/// Where sums in 16 bits would be too large, whole numbers come out exactly.
#[test]
fn the_ends_of_the_ranges_are_exact() {
    let (inputs, outputs) = (1024, 33);
    for (bits, ends) in [(Bits::Four, [0u8, 0xff]), (Bits::Eight, [0, 255])] {
        for end in ends {
            let blocks = outputs * inputs / BLOCK;
            let case = Case {
                bits,
                rows: 3,
                inputs,
                outputs,
                numbers: [127.0f32, -127.0, 127.0].into_iter().flat_map(|number| vec![number; inputs]).collect(),
                codes: vec![end; blocks * bits.bytes()],
                scales: vec![1.0; blocks],
                bias: None,
            };
            for class in here() {
                for (place, found) in case.product(class, &Spawned(1)).into_iter().enumerate() {
                    assert_eq!(f64::from(found), case.expected(place / outputs, place % outputs)[0], "{class:?} {bits:?} {end}");
                }
            }
        }
    }
}

/// What is no number must not be rounded to one.
#[test]
fn what_is_no_number_stays_none_and_stays_in_its_row() {
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut numbers = vec![1.0; 5 * 300];
        numbers[2 * 300 + 299] = strange;
        let case = Case {
            bits: Bits::Four,
            rows: 5,
            inputs: 300,
            outputs: 40,
            numbers,
            codes: vec![0x79; 40 * 3 * 64],
            scales: vec![0.5; 40 * 3],
            bias: None,
        };
        for class in here() {
            for (row, found) in case.product(class, &Spawned(1)).chunks_exact(40).enumerate() {
                assert!(found.iter().all(|number| number.is_nan() == (row == 2)), "{class:?}, {strange}: row {row}");
            }
        }
    }
}

/// Zeros, the smallest and the largest numbers, and nothing at all.
#[test]
fn numbers_at_the_ends_of_f32_are_no_traps() {
    let case = |numbers: Vec<f32>| Case {
        bits: Bits::Four,
        rows: numbers.len() / 130,
        inputs: 130,
        outputs: 17,
        numbers,
        codes: vec![0x9a; 17 * 2 * 64],
        scales: vec![0.25; 17 * 2],
        bias: None,
    };
    for class in here() {
        assert!(case(vec![]).product(class, &Spawned(2)).is_empty());
        for zero in [0.0f32, -0.0, f32::from_bits(1), f32::MIN_POSITIVE] {
            assert!(case(vec![zero; 130]).product(class, &Spawned(1)).iter().all(|number| *number == 0.0), "{class:?} {zero}");
        }
        // 130 inputs, of which each even one has the weight 0.5 and each odd one 0.25.
        let large = case(vec![1e36; 130]).product(class, &Spawned(1));
        assert!(large.iter().all(|number| (number / 1e36 - 130.0 * 0.375).abs() < 1e-3), "{class:?} {large:?}");
        assert!(case(vec![f32::MAX; 130]).product(class, &Spawned(1)).iter().all(|number| !number.is_finite()), "{class:?}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let new = |codes: usize, scales: usize, outputs| {
        Weights::new(Bits::Four, &vec![0; codes], &vec![0.0; scales], outputs, 130, &Spawned(1))
    };
    assert!(new(3 * 2 * 64, 3 * 2, 3).is_some());
    assert!(new(3 * 2 * 64 - 1, 3 * 2, 3).is_none());
    assert!(new(3 * 2 * 64, 3 * 2 + 1, 3).is_none());
    assert!(new(0, 0, 0).is_none());
}
