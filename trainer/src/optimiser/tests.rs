use super::{Optimiser, OptimiserOptions};
use crate::torch::Leaf;
use tch::{Kind, Tensor};

/// libtorch's operators in f64 are the other way to the same numbers.
#[test]
fn one_pass_equals_libtorchs_operators() {
    crate::start::start().unwrap();
    tch::manual_seed(5);
    let start = Tensor::randn([600_000], (Kind::Float, tch::Device::Cpu));
    for (weight_decay, decoupled) in [(0.0, false), (0.1, false), (0.1, true)] {
        let options = OptimiserOptions { betas: (0.9, 0.999), eps: 1e-8, weight_decay, decoupled };
        let leaf = |kind| Leaf { name: "w".into(), tensor: start.to_kind(kind).copy().set_requires_grad(true) };
        let (single, double) = (leaf(Kind::Float), leaf(Kind::Double));
        let mut optimisers = [Optimiser::new(options), Optimiser::new(options)];
        for step in 1..=5 {
            for (leaf, optimiser) in [&single, &double].into_iter().zip(&mut optimisers) {
                leaf.tensor.shallow_clone().zero_grad();
                (leaf.tensor.sin() * f64::from(step)).sum(leaf.tensor.kind()).backward();
                optimiser.step([leaf], 1e-2).unwrap();
            }
        }
        let off = (single.tensor.to_kind(Kind::Double) - &double.tensor).abs().max().double_value(&[]);
        assert!(off < 1e-5, "decay {weight_decay}, decoupled {decoupled}: off by {off}");
        assert!((double.tensor - start.to_kind(Kind::Double)).abs().max().double_value(&[]) > 1e-2, "the weights have moved");
    }
}
