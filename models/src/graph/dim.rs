//! Sizes of tensors: numbers, names, and what shape rules make of them.

use std::fmt;

/// One size of a tensor: `floor((sum of factor * name + constant) / divisor)`.
///
/// The form is canonical, so that `past + tokens` written two ways compares equal. Sums of two floored sizes have no such form;
/// shape rules that would need one give a fresh name instead.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Dim {
    terms: Vec<(&'static str, i64)>,
    constant: i64,
    divisor: i64,
}

impl Dim {
    /// A size that is known only when the graph runs.
    pub fn named(name: &'static str) -> Dim {
        Dim { terms: vec![(name, 1)], constant: 0, divisor: 1 }
    }

    /// The number, if no name is in it.
    pub fn known(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// The name, if the size is just that name.
    pub fn name(&self) -> Option<&'static str> {
        match self.terms.as_slice() {
            [(name, 1)] if self.constant == 0 && self.divisor == 1 => Some(name),
            _ => None,
        }
    }

    /// The size with each name replaced by its number; `None` when a name has none.
    pub fn evaluate(&self, size: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        let mut sum = self.constant;
        for (name, factor) in &self.terms {
            sum += factor * size(name)?;
        }
        Some(sum.div_euclid(self.divisor))
    }

    /// Sum; `None` when both sides are floored quotients.
    pub fn plus(&self, other: &Dim) -> Option<Dim> {
        let (a, b) = if self.divisor == 1 { (other, self) } else { (self, other) };
        if b.divisor != 1 {
            return None;
        }
        let scaled = b.terms.iter().map(|(name, factor)| (*name, factor * a.divisor));
        Some(Dim::canonical(a.terms.iter().copied().chain(scaled), a.constant + b.constant * a.divisor, a.divisor))
    }

    /// Product with a number; `None` when a floored quotient would have to be multiplied.
    pub fn times(&self, factor: i64) -> Option<Dim> {
        (self.divisor == 1 || factor == 1)
            .then(|| Dim::canonical(self.terms.iter().map(|(n, f)| (*n, f * factor)), self.constant * factor, self.divisor))
    }

    /// `floor(self / divisor)`.
    pub fn over(&self, divisor: i64) -> Dim {
        assert!(divisor > 0, "a size is divided by a positive number, not by {divisor}");
        Dim::canonical(self.terms.iter().copied(), self.constant, self.divisor * divisor)
    }

    fn canonical(terms: impl Iterator<Item = (&'static str, i64)>, constant: i64, divisor: i64) -> Dim {
        let mut sorted: Vec<(&'static str, i64)> = Vec::new();
        for (name, factor) in terms {
            match sorted.iter_mut().find(|(n, _)| *n == name) {
                Some((_, f)) => *f += factor,
                None => sorted.push((name, factor)),
            }
        }
        sorted.retain(|(_, factor)| *factor != 0);
        sorted.sort();
        if sorted.is_empty() {
            return Dim::from(constant.div_euclid(divisor));
        }
        let common = sorted.iter().fold(gcd(constant, divisor), |g, (_, f)| gcd(g, *f));
        for (_, factor) in &mut sorted {
            *factor /= common;
        }
        Dim { terms: sorted, constant: constant / common, divisor: divisor / common }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

impl From<i64> for Dim {
    fn from(size: i64) -> Dim {
        Dim { terms: Vec::new(), constant: size, divisor: 1 }
    }
}

impl From<&'static str> for Dim {
    fn from(name: &'static str) -> Dim {
        Dim::named(name)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> =
            self.terms.iter().map(|(n, k)| if *k == 1 { n.to_string() } else { format!("{k}*{n}") }).collect();
        if self.constant != 0 || parts.is_empty() {
            parts.push(self.constant.to_string());
        }
        match (self.divisor, parts.len()) {
            (1, _) => write!(f, "{}", parts.join("+")),
            (d, 1) => write!(f, "{}/{d}", parts[0]),
            (d, _) => write!(f, "({})/{d}", parts.join("+")),
        }
    }
}
