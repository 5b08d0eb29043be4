//! The regularised incomplete beta function, and what comes from it: Clopper-Pearson's quantiles, the binomial's tail.

/// Lanczos' coefficients for g = 7.
const LANCZOS: [f64; 9] = [
    0.999_999_999_999_809_9,
    676.520_368_121_885_1,
    -1_259.139_216_722_402_8,
    771.323_428_777_653_1,
    -176.615_029_162_140_6,
    12.507_343_278_686_905,
    -0.138_571_095_265_720_12,
    9.984_369_578_019_572e-6,
    1.505_632_735_149_311_6e-7,
];

/// I_x(a, b) for a, b > 0 and x in 0..=1: the share of a beta distribution below x.
pub(super) fn regularised(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    // The fraction converges quickly on this side of the mean.
    if x < (a + 1.0) / (a + b + 2.0) { front * fraction(x, a, b) / a } else { 1.0 - front * fraction(1.0 - x, b, a) / b }
}

/// The x with I_x(a, b) = p, by bisection.
pub(super) fn quantile(p: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while high - low > f64::EPSILON * high {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if regularised(middle, a, b) < p { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// P(X <= k) for X ~ Bin(n, 1/2).
pub(super) fn half_binomial_tail(k: u64, n: u64) -> f64 {
    if k >= n { 1.0 } else { regularised(0.5, (n - k) as f64, k as f64 + 1.0) }
}

fn ln_gamma(x: f64) -> f64 {
    if x < 0.5 {
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let series = LANCZOS.iter().enumerate().skip(1).fold(LANCZOS[0], |sum, (k, value)| sum + value / (x + k as f64));
    let base = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * base.ln() - base + series.ln()
}

/// The continued fraction of the incomplete beta function by Lentz' method.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
    let mut result = d;
    for step in 1..10_000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            change = d * c;
            result *= change;
        }
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-10 * expected.abs().max(1.0), "{found} instead of {expected}");
    }

    /// Values of SciPy 1.17 (`scipy.special.betainc`, `betaincinv`).
    #[test]
    fn values_of_scipy() {
        close(regularised(0.3, 2.0, 5.0), 0.579825);
        close(regularised(0.999, 0.5, 0.5), 0.979_864_958_366_623_5);
        close(regularised(0.02, 30.5, 700.25), 1.540_392_421_099_019_2e-4);
        close(quantile(0.95, 4.0, 97.0), 0.075_710_793_749_830_04);
        close(quantile(1.0 - 0.05 / 30.0, 1.0, 61.0), 0.099_556_355_938_656_7);
        close(half_binomial_tail(2, 11), 67.0 / 2048.0);
        close(half_binomial_tail(5, 5), 1.0);
    }

    #[test]
    fn a_quantile_undoes_the_distribution() {
        for (a, b) in [(0.5, 0.5), (1.0, 61.0), (4.0, 97.0), (250.0, 3.5), (1e4, 2e4)] {
            for p in [1e-6, 0.01, 0.5, 0.95, 1.0 - 1e-6] {
                close(regularised(quantile(p, a, b), a, b), p);
            }
        }
    }
}
