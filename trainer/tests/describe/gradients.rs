//! Laws of a step.

use crate::{
    bench::{Bench, quick},
    shared::compare::close_to_largest,
};
use mmlnb_models::weights::{Adapter, Weights};
use mmlnb_trainer::{
    data::Part,
    describe::{self, Batch, Describer, Image, Item, Method, Recipe, Templates, Trained, image_embeds},
    optimiser::{Optimiser, OptimiserOptions},
    torch::{Plan, PlanOptions, Randomness},
};
use tch::{Device, Kind, Tensor};

fn optimiser() -> Optimiser {
    Optimiser::new(OptimiserOptions { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, decoupled: true })
}

/// A describer whose adapter does something: B is not zero.
fn with_describer<R>(recipe: &Recipe, kind: Kind, with_vision: bool, f: impl FnOnce(&Bench, &Describer) -> R) -> R {
    let bench = Bench::new(5, recipe);
    let folder = tempfile::tempdir().unwrap();
    let trained = describe::trained(recipe);
    let adapter = trained.adapters.then(|| {
        describe::write_start(folder.path(), recipe, &bench.prompter.config, &bench.base).unwrap();
        Adapter::open(folder.path()).unwrap()
    });
    let weights = match &adapter {
        Some(adapter) => Weights::with_adapter(&bench.base, adapter).unwrap(),
        None => Weights::new(&bench.base),
    };
    let place = (Device::Cpu, kind);
    let describer = Describer::new(&bench.prompter.config, &weights, place, trained, recipe.dropout, with_vision).unwrap();
    let _constant = tch::no_grad_guard();
    for (number, leaf) in describer.trained_leaves().iter().enumerate().filter(|(_, leaf)| leaf.name.ends_with("lora_B")) {
        let size = leaf.tensor.size();
        let values = (Tensor::arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu)) + number as f64).sin() * 0.05;
        leaf.tensor.shallow_clone().copy_(&values.reshape(&size));
    }
    drop(_constant);
    f(&bench, &describer)
}

fn batch(bench: &Bench, recipe: &Recipe, items: &[Item]) -> Batch {
    let pad = Templates::new(&bench.prompter, recipe).unwrap().pad();
    let images = describe::Images::Pixels;
    let samples = items.iter().map(|item| (item.sample.clone(), images.of(item, &bench.prompter).unwrap())).collect();
    Batch::new(samples, pad, &bench.prompter.config).unwrap()
}

fn gradients(describer: &Describer, window: &[Batch]) -> Vec<(String, Tensor)> {
    describe::step(describer, &mut optimiser(), window, (0.0, 0.0), (1, 0)).unwrap();
    describer.trained_leaves().iter().map(|leaf| (leaf.name.clone(), leaf.tensor.grad().copy())).collect()
}

#[test]
fn accumulating_four_times_one_equals_one_time_four() {
    let recipe = Recipe { dropout: 0.0, ..quick() };
    with_describer(&recipe, Kind::Float, true, |bench, describer| {
        let items = bench.items(&recipe, Part::Train);
        let together = gradients(describer, &[batch(bench, &recipe, &items)]);
        let single: Vec<Batch> = items.iter().map(|item| batch(bench, &recipe, std::slice::from_ref(item))).collect();
        assert!(single.windows(2).any(|pair| pair[0].targets.len() != pair[1].targets.len()), "answers of several lengths");
        for ((name, found), (_, expected)) in gradients(describer, &single).iter().zip(&together) {
            let off = (found - expected).abs().max().double_value(&[]);
            assert!(off <= 1e-6, "{name}: off by {off:.2e}");
        }
    });
}

/// A window of 65,536 tokens lessens a token's share of the gradient by as much, and must not lose it.
#[test]
fn gradients_times_tokens_do_not_depend_on_the_window() {
    let recipe = Recipe { dropout: 0.0, ..quick() };
    for kind in [Kind::Float, Kind::BFloat16] {
        with_describer(&recipe, kind, true, |bench, describer| {
            let batch = batch(bench, &recipe, &bench.items(&recipe, Part::Train));
            let times_tokens = |tokens: usize| -> Vec<Tensor> {
                describer.trained_leaves().iter().for_each(|leaf| leaf.tensor.shallow_clone().zero_grad());
                describer.learn(&batch, tokens, Randomness { seed: 1, step: 0 }).unwrap();
                describer.trained_leaves().iter().map(|leaf| leaf.tensor.grad() * tokens as f64).collect()
            };
            let (one, many) = (times_tokens(1), times_tokens(65_536));
            for ((leaf, one), many) in describer.trained_leaves().iter().zip(&one).zip(&many) {
                close_to_largest(many, one, 1e-5, &leaf.name);
            }
        });
    }
}

#[test]
fn keeping_all_leaves_gradients_as_computing_again_does() {
    for method in [Method::Lora, Method::Dora, Method::Full] {
        let found = [true, false].map(|recompute| {
            let recipe = Recipe { method, recompute, dropout: 0.1, vision_blocks: true, merger: true, ..quick() };
            with_describer(&recipe, Kind::Float, true, |bench, describer| {
                gradients(describer, &[batch(bench, &recipe, &bench.items(&recipe, Part::Train))])
            })
        });
        let [again, kept] = found;
        assert_eq!(again.len(), kept.len());
        for ((name, again), (_, kept)) in again.iter().zip(&kept) {
            let off = (again - kept).abs().max().double_value(&[]);
            assert!(off <= 1e-6, "{method:?} {name}: off by {off:.2e}");
        }
    }
}

#[test]
fn every_tensor_that_is_meant_to_learn_has_a_gradient() {
    let parts = [(true, false, false), (true, true, true), (false, true, false), (false, false, true)];
    for (language, vision_blocks, merger) in parts {
        for method in [Method::Lora, Method::Dora, Method::Full] {
            let recipe = Recipe { method, language, vision_blocks, merger, ..quick() };
            with_describer(&recipe, Kind::Float, true, |bench, describer| {
                let items = bench.items(&recipe, Part::Train);
                gradients(describer, &[batch(bench, &recipe, &items[..2])]);
                assert!(!describer.trained_leaves().is_empty());
                assert_eq!(describe::without_gradient(describer), Vec::<String>::new(), "{recipe:?}");
                let of = |prefix: &str| describer.trained_leaves().iter().any(|leaf| leaf.name.starts_with(prefix));
                let found = (of("model.layers"), of("visual.blocks"), of("visual.merger"));
                assert_eq!(found, (language, vision_blocks, merger), "{method:?}");
            });
        }
    }
}

#[test]
fn rows_of_a_frozen_vision_tower_do_as_well_as_pixels() {
    let recipe = quick();
    with_describer(&recipe, Kind::Float, true, |bench, describer| {
        let items = bench.items(&recipe, Part::Train);
        let from_pixels = describer.nll(&batch(bench, &recipe, &items)).unwrap();
        let mut known = batch(bench, &recipe, &items);
        for (image, grid) in &mut known.images {
            let Image::Pixels(pixels) = &*image else { panic!("these are pixels") };
            let rows = image_embeds(&bench.prompter.config, describer.vision.as_ref().unwrap(), pixels, *grid).unwrap();
            *image = Image::Embeds(rows);
        }
        assert_eq!(from_pixels, describer.nll(&known).unwrap());
    });
}

#[test]
fn logits_in_pieces_give_the_loss_of_all_at_once() {
    let recipe = Recipe { dropout: 0.0, ..quick() };
    with_describer(&recipe, Kind::Float, true, |bench, describer| {
        let mut items = bench.items(&recipe, Part::Train);
        let templates = Templates::new(&bench.prompter, &recipe).unwrap();
        items[0].sample = templates.sample(50, 40, &"cells in neuropil, ".repeat(140)).unwrap();
        let batch = batch(bench, &recipe, &items[..1]);
        assert!(batch.targets.len() > 512, "{} answer tokens make three pieces", batch.targets.len());
        let in_pieces = describer.nll(&batch).unwrap();
        let learnt = describer.learn(&batch, 1, Randomness { seed: 0, step: 0 }).unwrap();
        let weights = Weights::new(&bench.base);
        let graph = mmlnb_models::networks::head(&bench.prompter.config.text);
        let head = Plan::new(&graph, &weights, &PlanOptions::inference(Device::Cpu)).unwrap();
        let states = describer.states(&batch).unwrap();
        let logits = head.forward(&[("states", &states)]).unwrap().get("logits").unwrap().shallow_clone();
        let targets = Tensor::from_slice(&batch.targets);
        let whole = logits.log_softmax(-1, Kind::Double).gather(1, &targets.unsqueeze(1), false).sum(Kind::Double);
        let whole = -whole.double_value(&[]);
        assert!((in_pieces - whole).abs() < 1e-6 * whole, "{in_pieces} against {whole}");
        assert!((learnt - whole).abs() < 1e-6 * whole, "{learnt} against {whole}");
    });
}

#[test]
fn full_tuning_in_sixteen_bits_keeps_the_trained_weights_in_f32() {
    let recipe = Recipe { method: Method::Full, ..quick() };
    with_describer(&recipe, Kind::BFloat16, true, |bench, describer| {
        let items = bench.items(&recipe, Part::Train);
        let narrow = gradients(describer, &[batch(bench, &recipe, &items[..2])]);
        assert!(describer.trained_leaves().iter().all(|leaf| leaf.tensor.kind() == Kind::Float));
        let wide = with_describer(&recipe, Kind::Float, true, |_, describer| {
            gradients(describer, &[batch(bench, &recipe, &items[..2])])
        });
        let largest = |t: &Tensor| t.abs().max().double_value(&[]);
        let most = wide.iter().map(|(_, gradient)| largest(gradient)).fold(0.0, f64::max);
        for ((name, found), (_, expected)) in narrow.iter().zip(&wide).filter(|(_, (_, e))| largest(e) > 0.2 * most) {
            close_to_largest(found, expected, 0.2, name);
        }
    });
}

#[test]
fn dropout_follows_from_the_seed_and_the_number_of_the_micro_batch() {
    let recipe = Recipe { dropout: 0.5, ..quick() };
    with_describer(&recipe, Kind::Float, true, |bench, describer| {
        let items = bench.items(&recipe, Part::Train);
        let run = |seed, first| {
            let window = [batch(bench, &recipe, &items[..2])];
            describe::step(describer, &mut optimiser(), &window, (0.0, 1.0), (seed, first)).unwrap()
        };
        assert_eq!(run(1, 0), run(1, 0));
        assert_ne!(run(1, 0).loss, run(1, 1).loss);
        assert_ne!(run(1, 0).loss, run(2, 0).loss);
    });
}

#[test]
fn trained_parts_decide_whether_the_vision_tower_is_frozen() {
    let part = |vision_blocks, merger| Trained { adapters: true, language: true, vision_blocks, merger, recompute: true };
    assert!(part(false, false).vision_is_frozen());
    assert!(!part(true, false).vision_is_frozen() && !part(false, true).vision_is_frozen());
}
