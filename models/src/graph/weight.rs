//! Where a parameter comes from.

use std::fmt;

/// A parameter as an expression over checkpoint keys, evaluated lazily and by rows (see [`crate::weights`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Weight {
    /// The tensor under this key.
    Key(String),
    /// The tensor under this key as a matrix `[first size, all others]`: a convolution whose patches do not overlap.
    Matrix(String),
    /// A linear layer's matrix with a LoRA adapter: `W + scale * B A`, with `magnitude` (DoRA) each row brought to the stored length.
    Adapted {
        /// The matrix beside which the adapter stands.
        base: Box<Weight>,
        /// The module's path in the checkpoint, without `.weight`.
        module: String,
        /// Rank of this module's adapter.
        rank: i64,
        /// `alpha / rank`, or `alpha / sqrt(rank)` with rsLoRA; kept as bits so that weights compare and hash.
        scale_bits: u64,
        /// DoRA.
        magnitude: bool,
    },
    /// The rows of several matrices (or vectors), one below the other.
    Stack(Vec<Weight>),
}

impl Weight {
    /// The checkpoint keys in it, in order.
    pub fn keys(&self) -> Vec<&str> {
        match self {
            Weight::Key(key) | Weight::Matrix(key) => vec![key],
            Weight::Adapted { base, .. } => base.keys(),
            Weight::Stack(parts) => parts.iter().flat_map(Weight::keys).collect(),
        }
    }

    /// A name that is unique in a graph: the key, or all keys of a stack.
    pub fn name(&self) -> String {
        match self {
            Weight::Key(key) | Weight::Matrix(key) => key.clone(),
            Weight::Adapted { base, .. } => base.name(),
            Weight::Stack(parts) => stacked_name(&parts.iter().map(Weight::name).collect::<Vec<_>>()),
        }
    }
}

/// `a.q.weight`, `a.k.weight` -> `a.{q,k}.weight`.
fn stacked_name(names: &[String]) -> String {
    let split: Option<Vec<(&str, &str, &str)>> = names
        .iter()
        .map(|name| {
            let (module, suffix) = name.rsplit_once('.')?;
            let (scope, own) = module.rsplit_once('.')?;
            Some((scope, own, suffix))
        })
        .collect();
    match split {
        Some(parts) if parts.iter().all(|p| p.0 == parts[0].0 && p.2 == parts[0].2) => {
            let own: Vec<&str> = parts.iter().map(|p| p.1).collect();
            format!("{}.{{{}}}.{}", parts[0].0, own.join(","), parts[0].2)
        }
        _ => names.join("|"),
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Weight::Key(key) => write!(f, "{key}"),
            Weight::Matrix(key) => write!(f, "matrix({key})"),
            Weight::Adapted { base, rank, scale_bits, magnitude, .. } => {
                let kind = if *magnitude { "dora" } else { "lora" };
                write!(f, "{kind}({base}, rank {rank}, scale {})", f64::from_bits(*scale_bits))
            }
            Weight::Stack(parts) => {
                write!(f, "stack({})", parts.iter().map(Weight::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}
