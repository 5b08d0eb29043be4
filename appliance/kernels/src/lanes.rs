//! Sixteen numbers at once, with the instructions of each class of processors.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// How many there are.
pub(crate) const LANES: usize = 16;

/// Sixteen numbers. Every operation gives the same numbers in every class.
///
/// # Safety
/// All functions need a processor with the class's instructions.
pub(crate) trait Lanes: Copy {
    /// Whether there are registers for sixteen sums beside what is added.
    const MANY: bool;

    unsafe fn all(number: f32) -> Self;
    unsafe fn load(numbers: &[f32; LANES]) -> Self;
    unsafe fn store(self, place: &mut [f32; LANES]);
    /// `self * factor + other`, rounded once.
    unsafe fn times_plus(self, factor: Self, other: Self) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
    /// The larger of each two; where one is no number, `other`.
    unsafe fn max(self, other: Self) -> Self;
    /// The sum of all lanes of each: of lanes 8 apart first, then 4, then neighbours.
    unsafe fn sums(four: [Self; 4]) -> [f32; 4];
    /// The [sums](Lanes::sums) of sixteen.
    #[inline(always)]
    unsafe fn sixteen_sums(sixteen: [[Self; 4]; 4]) -> [[f32; 4]; 4] {
        // SAFETY: the caller's.
        sixteen.map(|four| unsafe { Self::sums(four) })
    }
}

/// For every processor.
impl Lanes for [f32; LANES] {
    const MANY: bool = false;

    unsafe fn all(number: f32) -> Self {
        [number; LANES]
    }

    unsafe fn load(numbers: &[f32; LANES]) -> Self {
        *numbers
    }

    unsafe fn store(self, place: &mut [f32; LANES]) {
        *place = self;
    }

    unsafe fn times_plus(self, factor: Self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane].mul_add(factor[lane], other[lane]))
    }

    unsafe fn plus(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }

    unsafe fn max(self, other: Self) -> Self {
        std::array::from_fn(|lane| if self[lane] > other[lane] { self[lane] } else { other[lane] })
    }

    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        four.map(|lanes| {
            let eight: [f32; 8] = std::array::from_fn(|lane| lanes[lane] + lanes[lane + 8]);
            let four: [f32; 4] = std::array::from_fn(|lane| eight[lane] + eight[lane + 4]);
            (four[0] + four[1]) + (four[2] + four[3])
        })
    }
}

/// Two registers of AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2([__m256; 2]);

// SAFETY of all blocks: the caller has a processor with AVX2 and FMA; pointers are to arrays of the size that is read or written.
#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    const MANY: bool = false;

    #[inline(always)]
    unsafe fn all(number: f32) -> Self {
        unsafe { Avx2([_mm256_set1_ps(number); 2]) }
    }

    #[inline(always)]
    unsafe fn load(numbers: &[f32; LANES]) -> Self {
        unsafe { Avx2([_mm256_loadu_ps(numbers.as_ptr()), _mm256_loadu_ps(numbers.as_ptr().add(8))]) }
    }

    #[inline(always)]
    unsafe fn store(self, place: &mut [f32; LANES]) {
        unsafe {
            _mm256_storeu_ps(place.as_mut_ptr(), self.0[0]);
            _mm256_storeu_ps(place.as_mut_ptr().add(8), self.0[1]);
        }
    }

    #[inline(always)]
    unsafe fn times_plus(self, Avx2(factor): Self, Avx2(other): Self) -> Self {
        unsafe { Avx2([_mm256_fmadd_ps(self.0[0], factor[0], other[0]), _mm256_fmadd_ps(self.0[1], factor[1], other[1])]) }
    }

    #[inline(always)]
    unsafe fn plus(self, Avx2(other): Self) -> Self {
        unsafe { Avx2([_mm256_add_ps(self.0[0], other[0]), _mm256_add_ps(self.0[1], other[1])]) }
    }

    #[inline(always)]
    unsafe fn max(self, Avx2(other): Self) -> Self {
        unsafe { Avx2([_mm256_max_ps(self.0[0], other[0]), _mm256_max_ps(self.0[1], other[1])]) }
    }

    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        unsafe {
            across(eights([
                _mm256_add_ps(a.0[0], a.0[1]),
                _mm256_add_ps(b.0[0], b.0[1]),
                _mm256_add_ps(c.0[0], c.0[1]),
                _mm256_add_ps(d.0[0], d.0[1]),
            ]))
        }
    }
}

/// A register of AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

// SAFETY of all blocks: the caller has a processor with AVX-512 F; pointers are to arrays of the size that is read or written.
#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    const MANY: bool = true;

    #[inline(always)]
    unsafe fn all(number: f32) -> Self {
        unsafe { Avx512(_mm512_set1_ps(number)) }
    }

    #[inline(always)]
    unsafe fn load(numbers: &[f32; LANES]) -> Self {
        unsafe { Avx512(_mm512_loadu_ps(numbers.as_ptr())) }
    }

    #[inline(always)]
    unsafe fn store(self, place: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(place.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    unsafe fn times_plus(self, factor: Self, other: Self) -> Self {
        unsafe { Avx512(_mm512_fmadd_ps(self.0, factor.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        unsafe { across(eights([halves(a.0), halves(b.0), halves(c.0), halves(d.0)])) }
    }

    #[inline(always)]
    unsafe fn sixteen_sums(sixteen: [[Self; 4]; 4]) -> [[f32; 4]; 4] {
        let [a, b, c, d] = sixteen;
        unsafe {
            // Each line of 128 bits has the four sums of lanes 4 apart of one of the sixteen.
            let [a, b, c, d] = [quarters(a), quarters(b), quarters(c), quarters(d)];
            let sums = neighbours(neighbours(a, b), neighbours(c, d));
            // In line `i` stand the sums of those of a, b, c and d that came `i`th.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let mut places = [[0.0; 4]; 4];
            _mm512_storeu_ps(places.as_flattened_mut().as_mut_ptr(), _mm512_permutexvar_ps(order, sums));
            places
        }
    }
}

/// # Safety
/// The processor must have AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn halves(lanes: __m512) -> __m256 {
    // SAFETY: the caller's.
    unsafe {
        let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(lanes)));
        _mm256_add_ps(_mm512_castps512_ps256(lanes), upper)
    }
}

/// The sums of lanes 8 and then 4 apart of each, four numbers each.
///
/// # Safety
/// The processor must have AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn quarters([a, b, c, d]: [Avx512; 4]) -> __m512 {
    // SAFETY: the caller's.
    unsafe {
        let eights = |a: __m512, b: __m512| {
            _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
        };
        let (ab, cd) = (eights(a.0, b.0), eights(c.0, d.0));
        _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd), _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd))
    }
}

/// In each line of 128 bits the sums of neighbours, first of `a`, then of `b`.
///
/// # Safety
/// The processor must have AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn neighbours(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b)) }
}

/// # Safety
/// The processor must have AVX.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn eights([a, b, c, d]: [__m256; 4]) -> [__m128; 4] {
    // SAFETY: the caller's.
    unsafe {
        [
            _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a)),
            _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b)),
            _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps::<1>(c)),
            _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps::<1>(d)),
        ]
    }
}

/// `(lane 0 + lane 1) + (lane 2 + lane 3)` of each.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn across([a, b, c, d]: [__m128; 4]) -> [f32; 4] {
    // SAFETY: these instructions are the platform's; four numbers have room for four.
    unsafe {
        let (ab, ab2) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (cd, cd2) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        let first = _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
        let second = _mm_add_ps(_mm_movelh_ps(ab2, cd2), _mm_movehl_ps(cd2, ab2));
        let mut sums = [0.0; 4];
        _mm_storeu_ps(sums.as_mut_ptr(), _mm_add_ps(first, second));
        sums
    }
}
