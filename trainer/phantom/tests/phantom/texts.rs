//! The grammar against the facts lexicon, which is its parser.

use super::plan;
use mmlnb_models::measures::facts::{Fact, read};
use mmlnb_phantom::{
    grammar::{self, WORDS},
    plan::{Plan, Spoiling, Texts},
    sets::Set,
    truth::Truth,
};
use proptest::prelude::*;

/// The truths of some patches with the number of patient and patch.
fn truths(plan: &Plan) -> Vec<(Truth, u64, u32)> {
    let scanners = plan.scanners();
    let mut truths = Vec::new();
    for planned in plan.draw_patients() {
        let patient = planned.patient;
        for patch in 0..patient.patches {
            let drawn = plan.draw_patch(&patient, &scanners[patient.scanner], patch);
            truths.extend(drawn.truth.map(|truth| (truth, patient.number, patch)));
        }
    }
    truths
}

fn sorted(facts: &[Fact]) -> Vec<(&'static str, mmlnb_models::measures::facts::State)> {
    let mut facts: Vec<_> = facts.iter().map(|fact| (fact.finding, fact.state)).collect();
    facts.sort();
    facts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn the_lexicon_reads_back_what_the_grammar_says(
        seed in any::<u64>(),
        set in prop::sample::select(vec![Set::Easy, Set::Standard, Set::Hard, Set::Ood]),
        plain in any::<bool>(),
        class_words in 0.0f32..=1.0,
        wrong in 0.0f32..=1.0,
    ) {
        let plan = Plan { size: 16, um_per_px: 7.0, texts: Texts { plain, class_words, wrong, ..Texts::default() }, ..plan(set, seed, 12) };
        for (truth, patient, patch) in truths(&plan) {
            let (description, _) = plan.describe(&truth, patient, patch);
            prop_assert_eq!(sorted(&read(&description.text)), sorted(&description.facts), "{}", description.text);
            let words = description.text.split_whitespace().count();
            let sentences = description.text.matches('.').count();
            let (usual_words, usual_sentences) = if plain { (10..=20, 1..=1) } else { (WORDS[0]..=WORDS[1], 2..=4) };
            prop_assert!(usual_words.contains(&words), "{} words: {}", words, description.text);
            prop_assert!(usual_sentences.contains(&sentences), "{}", description.text);
        }
    }
}

#[test]
fn a_generic_text_states_nothing() {
    let generic = grammar::generic();
    assert_eq!(read(&generic.text), generic.facts);
    assert!(generic.facts.is_empty());
}

#[test]
fn texts_are_spoiled_as_often_as_asked() {
    let spoiled = |texts: Texts| {
        let plan = Plan { size: 16, um_per_px: 7.0, texts, ..plan(Set::Easy, 5, 60) };
        let all: Vec<Spoiling> =
            truths(&plan).iter().map(|(truth, patient, patch)| plan.describe(truth, *patient, *patch).1).collect();
        all.iter().filter(|spoiling| **spoiling != Spoiling::None).count() as f32 / all.len() as f32
    };
    for one in [
        |share| Texts { generic: share, ..Texts::default() },
        |share| Texts { truncated: share, ..Texts::default() },
        |share| Texts { wrong: share, ..Texts::default() },
    ] {
        assert_eq!(spoiled(one(0.0)), 0.0);
        assert!((0.2..0.4).contains(&spoiled(one(0.3))), "{}", spoiled(one(0.3)));
        assert_eq!(spoiled(one(1.0)), 1.0);
    }
}

#[test]
fn the_class_is_named_in_as_many_texts_as_asked() {
    let named = |share: f32| {
        let plan = Plan {
            size: 16,
            um_per_px: 7.0,
            texts: Texts { class_words: share, ..Texts::default() },
            ..plan(Set::Standard, 1, 60)
        };
        let texts: Vec<String> =
            truths(&plan).iter().map(|(truth, patient, patch)| plan.describe(truth, *patient, *patch).0.text).collect();
        texts.iter().filter(|text| text.contains("differentiated") || text.contains("differentiating")).count() as f32
            / texts.len() as f32
    };
    assert_eq!(named(0.0), 0.0);
    assert!((0.1..0.3).contains(&named(0.2)), "{}", named(0.2));
    assert_eq!(named(1.0), 1.0);
}
