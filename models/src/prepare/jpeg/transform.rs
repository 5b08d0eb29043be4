//! The inverse cosine transform: libjpeg's accurate integer one, eight columns at a time.

type Lanes = [i32; 8];

const CONST_BITS: u32 = 13;
const PASS1_BITS: u32 = 2;
const FIX_0_298631336: i32 = 2446;
const FIX_0_390180644: i32 = 3196;
const FIX_0_541196100: i32 = 4433;
const FIX_0_765366865: i32 = 6270;
const FIX_0_899976223: i32 = 7373;
const FIX_1_175875602: i32 = 9633;
const FIX_1_501321110: i32 = 12299;
const FIX_1_847759065: i32 = 15137;
const FIX_1_961570560: i32 = 16069;
const FIX_2_053119869: i32 = 16819;
const FIX_2_562915447: i32 = 20995;
const FIX_3_072711026: i32 = 25172;

/// Eight rows of eight samples of a block, into `plane` from `at` on.
///
/// `coefficients` and `steps` are in natural order. Values that no encoder writes wrap around instead of overflowing.
pub fn inverse(coefficients: &[i16; 64], steps: &[u16; 64], plane: &mut [u8], at: usize, stride: usize) {
    if coefficients[1..].iter().all(|&value| value == 0) {
        let level = (i32::from(coefficients[0]).wrapping_mul(i32::from(steps[0]))).wrapping_add(4) >> 3;
        let sample = (level + 128).clamp(0, 255) as u8;
        for row in 0..8 {
            plane[at + row * stride..][..8].fill(sample);
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // Sound: the processor has the instructions, which was asked just now.
        return unsafe { inverse_avx2(coefficients, steps, plane, at, stride) };
    }
    inverse_anywhere(coefficients, steps, plane, at, stride);
}

/// The same code, for processors with eight lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn inverse_avx2(coefficients: &[i16; 64], steps: &[u16; 64], plane: &mut [u8], at: usize, stride: usize) {
    inverse_anywhere(coefficients, steps, plane, at, stride);
}

#[inline(always)]
fn inverse_anywhere(coefficients: &[i16; 64], steps: &[u16; 64], plane: &mut [u8], at: usize, stride: usize) {
    let mut rows = [[0; 8]; 8];
    for (index, row) in rows.iter_mut().enumerate() {
        for (column, value) in row.iter_mut().enumerate() {
            let place = index * 8 + column;
            *value = i32::from(coefficients[place]).wrapping_mul(i32::from(steps[place]));
        }
    }
    let columns = transposed(&pass(&rows, CONST_BITS - PASS1_BITS));
    let rows = transposed(&pass(&columns, CONST_BITS + PASS1_BITS + 3));
    for (index, row) in rows.iter().enumerate() {
        let line = &mut plane[at + index * stride..][..8];
        for (sample, value) in line.iter_mut().zip(row) {
            *sample = value.wrapping_add(128).clamp(0, 255) as u8;
        }
    }
}

#[inline(always)]
fn transposed(rows: &[Lanes; 8]) -> [Lanes; 8] {
    let mut out = [[0; 8]; 8];
    for (y, row) in rows.iter().enumerate() {
        for (x, &value) in row.iter().enumerate() {
            out[x][y] = value;
        }
    }
    out
}

#[inline(always)]
fn add(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|lane| a[lane].wrapping_add(b[lane]))
}

#[inline(always)]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|lane| a[lane].wrapping_sub(b[lane]))
}

#[inline(always)]
fn times(a: Lanes, factor: i32) -> Lanes {
    std::array::from_fn(|lane| a[lane].wrapping_mul(factor))
}

#[inline(always)]
fn descaled(a: Lanes, bits: u32) -> Lanes {
    std::array::from_fn(|lane| a[lane].wrapping_add(1 << (bits - 1)) >> bits)
}

/// One dimension (Loeffler, Ligtenberg, Moschytz), as jidctint.c has it.
#[inline(always)]
fn pass(rows: &[Lanes; 8], bits: u32) -> [Lanes; 8] {
    let shared = times(add(rows[2], rows[6]), FIX_0_541196100);
    let even_2 = sub(shared, times(rows[6], FIX_1_847759065));
    let even_3 = add(shared, times(rows[2], FIX_0_765366865));
    let even_0 = times(add(rows[0], rows[4]), 1 << CONST_BITS);
    let even_1 = times(sub(rows[0], rows[4]), 1 << CONST_BITS);
    let even = [add(even_0, even_3), add(even_1, even_2), sub(even_1, even_2), sub(even_0, even_3)];

    let [odd_0, odd_1, odd_2, odd_3] = [rows[7], rows[5], rows[3], rows[1]];
    let (z1, z2, z3, z4) = (add(odd_0, odd_3), add(odd_1, odd_2), add(odd_0, odd_2), add(odd_1, odd_3));
    let z5 = times(add(z3, z4), FIX_1_175875602);
    let (z1, z2) = (times(z1, -FIX_0_899976223), times(z2, -FIX_2_562915447));
    let z3 = add(times(z3, -FIX_1_961570560), z5);
    let z4 = add(times(z4, -FIX_0_390180644), z5);
    let odd = [
        add(times(odd_3, FIX_1_501321110), add(z1, z4)),
        add(times(odd_2, FIX_3_072711026), add(z2, z3)),
        add(times(odd_1, FIX_2_053119869), add(z2, z4)),
        add(times(odd_0, FIX_0_298631336), add(z1, z3)),
    ];
    let mut out = [[0; 8]; 8];
    for index in 0..4 {
        out[index] = descaled(add(even[index], odd[index]), bits);
        out[7 - index] = descaled(sub(even[index], odd[index]), bits);
    }
    out
}
