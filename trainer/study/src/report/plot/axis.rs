//! Round numbers for axes.

/// What an axis shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Its name, with the unit if it has one.
    pub label: String,
    /// From and to; `None`: what the data need.
    pub range: Option<(f64, f64)>,
}

impl Axis {
    /// An axis as long as the data need.
    pub fn free(label: &str) -> Axis {
        Axis { label: label.into(), range: None }
    }

    /// An axis from `from` to `to`.
    pub fn fixed(label: &str, from: f64, to: f64) -> Axis {
        Axis { label: label.into(), range: Some((from, to)) }
    }
}

/// A scale from data to a figure's units.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Data at the ends.
    pub range: (f64, f64),
    /// Units at the ends.
    pub units: (f64, f64),
    /// Where numbers stand.
    pub ticks: Vec<f64>,
    step: f64,
}

impl Scale {
    /// Over `values` if the axis is free, with about `count` numbers on it.
    pub fn new(axis: &Axis, values: impl Iterator<Item = f64>, units: (f64, f64), count: f64) -> Scale {
        let (low, high) = axis.range.unwrap_or_else(|| span(values));
        let step = round_step((high - low) / count);
        let range = match axis.range {
            Some(range) => range,
            None => ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step),
        };
        let first = (range.0 / step - 1e-9).ceil() as i64;
        let last = (range.1 / step + 1e-9).floor() as i64;
        Scale { range, units, ticks: (first..=last).map(|tick| tick as f64 * step).collect(), step }
    }

    /// Units of a value, kept inside the ends.
    pub fn at(&self, value: f64) -> f64 {
        let share = ((value - self.range.0) / (self.range.1 - self.range.0)).clamp(0.0, 1.0);
        self.units.0 + share * (self.units.1 - self.units.0)
    }

    /// A tick's number, with as many digits as the step needs.
    pub fn name(&self, tick: f64) -> String {
        let tick = if tick.abs() < self.step / 2.0 { 0.0 } else { tick };
        if self.step < 1e-4 {
            return format!("{tick:.0e}");
        }
        let digits = (-(self.step * 1.000_001).log10().floor()).max(0.0) as usize;
        format!("{tick:.digits$}").replace('-', "\u{2212}")
    }
}

/// The least and largest finite value; around a single value, some room; without values, 0 to 1.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    match (low.is_finite(), high - low > 1e-12 * high.abs().max(1e-300)) {
        (false, _) => (0.0, 1.0),
        (true, true) => (low, high),
        (true, false) => (low - 0.5 * low.abs().max(1.0), high + 0.5 * high.abs().max(1.0)),
    }
}

/// The next of 1, 2, 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999).unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis, values: &[f64]) -> Vec<String> {
        let scale = Scale::new(axis, values.iter().copied(), (0.0, 100.0), 5.0);
        scale.ticks.iter().map(|tick| scale.name(*tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_data() {
        assert_eq!(names(&Axis::free(""), &[0.13, 1.07]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]);
        assert_eq!(names(&Axis::free(""), &[0.0, 149.0]), ["0", "50", "100", "150"]);
        assert_eq!(names(&Axis::fixed("", 0.0, 1.0), &[]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(names(&Axis::free(""), &[-0.04, 0.02]), ["\u{2212}0.04", "\u{2212}0.02", "0.00", "0.02"]);
        assert_eq!(names(&Axis::free(""), &[0.0, 1e-4]), ["0e0", "2e-5", "4e-5", "6e-5", "8e-5", "1e-4"]);
    }

    #[test]
    fn odd_data_still_give_a_scale() {
        for values in [&[][..], &[f64::NAN], &[3.0], &[0.0, 0.0], &[f64::INFINITY, 1.0]] {
            let scale = Scale::new(&Axis::free(""), values.iter().copied(), (0.0, 100.0), 5.0);
            assert!(scale.range.0 < scale.range.1 && scale.ticks.len() >= 2 && scale.ticks.len() < 20, "{values:?}: {scale:?}");
        }
        assert_eq!(Scale::new(&Axis::fixed("", 0.0, 1.0), std::iter::empty(), (100.0, 0.0), 5.0).at(2.0), 0.0, "kept inside");
    }
}
