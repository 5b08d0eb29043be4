//! From an assessment to what a report says: class, confidence, verdict and flags. Pure.

use mmlnb_models::bundle::Calibration;
pub use mmlnb_models::verdict::leading;
use mmlnb_models::verdict::{self, Decision, Evidence, Text};

use crate::assess::appearance::Appearance;
use crate::engine::{Assessment, Classification, Description, Provider, StopReason};
use crate::ledger::{Classified, Described, NewReport};

/// Slower than this the report is flagged `slow`, in milliseconds.
const SLOW: f64 = 120_000.0;

/// What decides a verdict besides the assessment.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The bundle's calibration; none: nothing is assessed.
    pub calibration: Option<Calibration>,
    /// A top probability below this is flagged.
    pub indeterminate_below: f64,
    /// The device.
    pub provider: Provider,
}

/// The report of an assessment, or nothing when the classifier gave no numbers.
pub fn report(assessment: &Assessment, appearance: &Appearance, more_ms: &[(&str, f64)], rules: &Rules) -> Option<NewReport> {
    let found = assessment.classification.as_ref()?;
    let classified = classified(found);
    let described = assessment.description.as_ref().map(|text| described(text, assessment.classification.as_ref()));
    let top = leading(&classified.probabilities)?;
    let leading_class = classified.classes[top].clone();
    let confidence = classified.probabilities[top].clamp(0.0, 1.0);
    let evidence = evidence(assessment, &classified, appearance);
    let (decision, reasons) = verdict::verdict(&evidence, rules.calibration.as_ref());
    let elapsed_ms = elapsed(more_ms, assessment);
    let flags = flags(found, &classified, described.as_ref(), confidence, appearance, &elapsed_ms, rules);
    Some(NewReport {
        class: (decision != Decision::Abstain).then(|| leading_class.clone()),
        verdict: decision.name().to_owned(),
        verdict_reasons: reasons.iter().map(|reason| reason.code().to_owned()).collect(),
        leading_class,
        confidence,
        classified,
        described,
        flags,
        temperature: Some(f64::from(rules.calibration.as_ref().map_or(1.0, |calibration| calibration.temperature as f32))),
        provider: rules.provider.name.to_owned(),
        provider_note: rules.provider.note.clone(),
        elapsed_ms,
    })
}

/// What speaks for and against the answer; a text counts only where the classifier read it.
fn evidence<'a>(assessment: &'a Assessment, classified: &'a Classified, appearance: &Appearance) -> Evidence<'a> {
    let found = assessment.classification.as_ref();
    let read = found.is_some_and(|found| found.description_tokens_read.is_some());
    let text = assessment.description.as_ref().filter(|_| read);
    Evidence {
        probabilities: &classified.probabilities,
        image_leading: classified.image_only.as_deref().and_then(leading),
        novelty: found.and_then(|found| found.novelty),
        colours: Some(appearance.colours),
        tissue_share: Some(appearance.tissue),
        image_size: Some(appearance.size),
        microns_per_pixel: appearance.microns_per_pixel,
        blank_tail: appearance.blank_tail,
        damaged: appearance.damaged,
        text: text.map(|text| Text { words: &text.text, finished: text.stop_reason == StopReason::EndToken }),
    }
}

/// Stages and their milliseconds, to a tenth.
pub fn elapsed(more_ms: &[(&str, f64)], assessment: &Assessment) -> Vec<(String, f64)> {
    let all = more_ms.iter().copied().chain(assessment.elapsed.iter().copied());
    all.map(|(stage, ms)| (stage.to_owned(), (ms * 10.0).round() / 10.0)).collect()
}

fn classified(from: &Classification) -> Classified {
    let wide = |values: &Vec<f32>| values.iter().map(|value| f64::from(*value)).collect();
    Classified {
        classes: from.classes.clone(),
        probabilities: from.probabilities.clone(),
        logits: wide(&from.logits),
        image_only: from.image_probabilities.clone(),
        image_logits: from.image_logits.as_ref().map(wide),
        logits_without_text: from.logits_without_text.as_ref().map(wide),
        alpha_text: from.alpha_text.map(|alpha| f64::from(alpha).clamp(0.0, 1.0)),
    }
}

/// The describer's part of a report.
pub fn described(text: &Description, classification: Option<&Classification>) -> Described {
    Described {
        text: text.text.clone(),
        tokens: text.tokens as i64,
        tokens_read: classification.and_then(|found| found.description_tokens_read).map(|tokens| tokens as i64),
        read_until: classification.and_then(|found| found.description_read_until).map(|bytes| bytes as i64),
        mean_token_logprob: text.mean_token_logprob,
        stop_reason: text.stop_reason.name().to_owned(),
    }
}

fn flags(
    found: &Classification,
    classified: &Classified,
    described: Option<&Described>,
    confidence: f64,
    appearance: &Appearance,
    elapsed_ms: &[(String, f64)],
    rules: &Rules,
) -> Vec<String> {
    let image_top = classified.image_only.as_deref().and_then(leading);
    let cut = described.is_some_and(|text| text.stop_reason == StopReason::MaxTokens.name());
    let unread = described.is_some_and(|text| text.read_until.is_some_and(|end| (end as usize) < text.text.trim_end().len()));
    let known = rules.calibration.as_ref().map_or(&[][..], |calibration| &calibration.generic_texts);
    let generic = described.is_some_and(|text| verdict::generic(&text.text, known));
    let total: f64 = elapsed_ms.iter().filter(|(stage, _)| stage != "queue").map(|(_, ms)| ms).sum();
    let holding = [
        (image_top.is_some() && image_top != leading(&classified.probabilities), "disagree"),
        (confidence < rules.indeterminate_below, "low_probability"),
        (cut, "description_cut"),
        (unread, "description_partly_read"),
        (generic, "description_generic"),
        (found.stain_left, "stain_left"),
        (rules.provider.note.is_some(), "fallback_cpu"),
        (total > SLOW, "slow"),
    ];
    let holding = holding.iter().filter(|(holds, _)| *holds).map(|(_, flag)| *flag);
    holding.chain(appearance.flags()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmlnb_models::bundle::NoveltyLimit;

    fn assessment(probabilities: [f64; 3], image: Option<[f64; 3]>) -> Assessment {
        Assessment {
            description: Some(Description {
                text: "Small round cells.".into(),
                tokens: 5,
                mean_token_logprob: -0.5,
                stop_reason: StopReason::MaxTokens,
            }),
            classification: Some(Classification {
                classes: ["UD", "PD", "D"].map(String::from).to_vec(),
                logits: probabilities.map(|value| value.ln() as f32).to_vec(),
                probabilities: probabilities.to_vec(),
                image_logits: None,
                image_probabilities: image.map(|image| image.to_vec()),
                novelty: None,
                stain_left: false,
                alpha_text: Some(0.4),
                logits_without_text: None,
                description_tokens_read: Some(3),
                description_read_until: Some(11),
            }),
            elapsed: vec![("decode", 10.0)],
            accepted: 0,
            trace: None,
        }
    }

    fn rules(calibration: Option<Calibration>) -> Rules {
        Rules { calibration, indeterminate_below: 0.5, provider: Provider { name: "cpu", note: None } }
    }

    const PLAIN: Appearance = Appearance {
        size: [224, 224],
        microns_per_pixel: None,
        background: 0.1,
        tissue: 0.9,
        sharpness: 100.0,
        colours: [0.0; 7],
        trailing_bytes: false,
        phantom: false,
        blank_tail: false,
        damaged: false,
    };

    #[test]
    fn without_calibration_nothing_is_assessed_but_the_class_stands() {
        let report = report(&assessment([0.1, 0.7, 0.2], None), &PLAIN, &[], &rules(None)).unwrap();
        assert_eq!((report.verdict.as_str(), report.class.as_deref()), ("not_assessed", Some("PD")));
        assert!((report.confidence - 0.7).abs() < 1e-6);
        assert_eq!(report.flags, ["description_cut", "description_partly_read"]);
    }

    #[test]
    fn calibration_accepts_or_abstains() {
        let at = |threshold| Some(Calibration { threshold, ..Calibration::default() });
        let mut ended = assessment([0.1, 0.7, 0.2], None);
        ended.description.iter_mut().for_each(|text| text.stop_reason = StopReason::EndToken);
        let verdict = |threshold| report(&ended, &PLAIN, &[], &rules(at(threshold))).unwrap();
        assert_eq!(verdict(Some(0.6)).verdict, "accepted");
        let abstained = verdict(Some(0.8));
        assert_eq!((abstained.verdict.as_str(), abstained.class), ("abstain", None));
        assert_eq!(abstained.leading_class, "PD");
        assert_eq!(abstained.verdict_reasons, ["low_confidence"]);
        assert_eq!(verdict(None).verdict_reasons, ["no_threshold"]);
    }

    #[test]
    fn a_distance_beyond_the_limit_and_a_generic_text_abstain() {
        let novelty = NoveltyLimit { threshold: 0.5, false_alarm: 0.05, neighbours: 10 };
        let generic_texts = vec!["Small round cells.".to_string()];
        let calibration = Calibration { threshold: Some(0.6), novelty: Some(novelty), generic_texts, ..Calibration::default() };
        let mut far = assessment([0.1, 0.7, 0.2], None);
        far.classification.iter_mut().for_each(|found| (found.novelty, found.stain_left) = (Some(0.6), true));
        let told = report(&far, &PLAIN, &[], &rules(Some(calibration))).unwrap();
        assert_eq!(told.verdict_reasons, ["far_from_training", "description_unfinished", "description_generic"]);
        assert!(["description_generic", "stain_left"].iter().all(|flag| told.flags.iter().any(|found| found == flag)));
    }

    #[test]
    fn what_the_image_and_the_text_are_like_counts() {
        let rules = rules(Some(Calibration { threshold: Some(0.6), ..Calibration::default() }));
        let blank = Appearance { tissue: 0.0, ..PLAIN };
        let report = report(&assessment([0.1, 0.7, 0.2], Some([0.8, 0.1, 0.1])), &blank, &[], &rules).unwrap();
        assert_eq!(report.verdict_reasons, ["image_disagrees", "no_tissue", "description_unfinished"]);
    }

    #[test]
    fn an_image_with_an_unwritten_end_or_damage_is_never_accepted() {
        let rules = rules(Some(Calibration { threshold: Some(0.6), ..Calibration::default() }));
        let mut sure = assessment([0.0, 1.0, 0.0], None);
        sure.description.iter_mut().for_each(|text| text.stop_reason = StopReason::EndToken);
        assert_eq!(report(&sure, &PLAIN, &[], &rules).unwrap().verdict, "accepted");
        let blank = Appearance { blank_tail: true, ..PLAIN };
        let damaged = Appearance { damaged: true, ..PLAIN };
        for (appearance, reason, flag) in [(blank, "image_unfinished", "blank_tail"), (damaged, "image_damaged", "damaged")] {
            let told = report(&sure, &appearance, &[], &rules).unwrap();
            assert_eq!((told.verdict.as_str(), told.verdict_reasons), ("abstain", vec![reason.to_owned()]));
            assert!(told.flags.iter().any(|found| found == flag), "{:?}", told.flags);
        }
    }

    #[test]
    fn disagreement_low_probability_and_fallback_are_flagged() {
        let mut rules = rules(None);
        rules.provider.note = Some("no GPU".into());
        let report = report(&assessment([0.3, 0.4, 0.3], Some([0.1, 0.2, 0.7])), &PLAIN, &[], &rules).unwrap();
        for flag in ["disagree", "low_probability", "fallback_cpu"] {
            assert!(report.flags.iter().any(|found| found == flag), "{flag}");
        }
    }

    #[test]
    fn no_numbers_no_report() {
        assert!(report(&assessment([f64::NAN, 0.4, 0.3], None), &PLAIN, &[], &rules(None)).is_none());
    }
}
