//! What texts say: findings, denials, amounts, classes; and how sets of texts behave.

use mmlnb_models::measures::facts::{self, Agreement, ClassRule, State, mask_class_words, read};
use mmlnb_models::measures::generated::{self, Generated, repetition};
use mmlnb_models::measures::{MeasureError, texts};

/// Facts as `finding:state`, in alphabetical order.
fn said(text: &str) -> Vec<String> {
    let mut said: Vec<String> =
        read(text).iter().map(|fact| format!("{}:{:?}", fact.finding, fact.state).to_lowercase()).collect();
    said.sort();
    said
}

fn names(classes: [&str; 3]) -> Vec<String> {
    classes.map(str::to_string).to_vec()
}

#[test]
fn facts_are_read_with_denial_and_amount() {
    let cases: &[(&str, &[&str])] = &[
        (
            "No necrosis, haemorrhage or calcification is seen.",
            &["calcification:absent", "haemorrhage:absent", "necrosis:absent"],
        ),
        (
            "There is no necrosis, hemorrhage, or calcification.",
            &["calcification:absent", "haemorrhage:absent", "necrosis:absent"],
        ),
        ("No necrosis is seen, and abundant neuropil is present.", &["necrosis:absent", "neuropil:much"]),
        ("The tumour shows no rosettes, and the neuropil is abundant.", &["neuropil:much", "rosettes:absent"]),
        ("Neither neuropil nor ganglion cells can be seen.", &["differentiating cells:absent", "neuropil:absent"]),
        ("No ganglion cells are seen, and there's no neuropil.", &["differentiating cells:absent", "neuropil:absent"]),
        ("Necrosis isn't present; mitoses are rare.", &["mitoses:little", "necrosis:absent"]),
        ("Neuropil is absent and nests are seen.", &["nests:present", "neuropil:absent"]),
        ("Absent neuropil.", &["neuropil:absent"]),
        ("Absence of neuropil, lack of rosettes.", &["neuropil:absent", "rosettes:absent"]),
        ("Homer-Wright rosettes cannot be identified.", &["rosettes:absent"]),
        ("Rosettes: none. Neuropil: scant.", &["neuropil:little", "rosettes:absent"]),
        ("Cells without neuropil, but with rosettes.", &["neuropil:absent", "rosettes:present"]),
        ("Small cells do not show nucleoli.", &["nucleoli:absent", "small round cells:present"]),
        ("The field is free of mitoses.", &["mitoses:absent"]),
        (
            "Sheets of small, round, blue cells lie in a fibrillary background.",
            &["neuropil:present", "sheets:present", "small round cells:present"],
        ),
        (
            "About 8% of the cells show ganglion-like change, with large pale nuclei.",
            &["differentiating cells:moderate", "vesicular nuclei:present"],
        ),
        ("Fewer than 5 % differentiating neuroblasts.", &["differentiating cells:little"]),
        ("More than 5 percent differentiating cells.", &["differentiating cells:moderate"]),
        ("No more than 3 % of ganglion cells.", &["differentiating cells:little"]),
        ("Differentiating cells make up 10-15 per cent.", &["differentiating cells:moderate"]),
        (
            "Scant cytoplasm, salt-and-pepper chromatin, inconspicuous nucleoli.",
            &["cytoplasm:little", "granular chromatin:present", "nucleoli:little"],
        ),
        ("Neuropil is not abundant.", &["neuropil:little"]),
        ("The differentiating neuroblastoma is Schwannian stroma-poor.", &["schwannian stroma:little"]),
        ("Moderately cellular; densely packed in places.", &["cellularity:moderate"]),
        ("", &[]),
        ("Nothing that a lexicon of findings would know.", &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(said(text), *expected, "{text}");
    }
}

#[test]
fn facts_of_a_text_agree_with_themselves() {
    let text = "Sheets of small round cells with scant neuropil. No necrosis. Rosettes are numerous.";
    let measures = facts::measure(&[text], &[text]).unwrap();
    assert_eq!((measures.precision, measures.recall, measures.f1), (Some(1.0), Some(1.0), Some(1.0)));
    assert_eq!(measures.stated, measures.per_finding.iter().map(|row| row.stated).sum::<u64>());
    assert!(measures.stated >= 5 && measures.self_contradicting == 0.0);
}

#[test]
fn facts_count_what_is_wrong() {
    let reference = "Abundant neuropil, no necrosis, rosettes.";
    let text = "Scant neuropil, no necrosis, haemorrhage is marked.";
    let measures = facts::measure(&[text], &[reference]).unwrap();
    // Neuropil's amount differs; necrosis is denied by both and so is no haemorrhage; the rosettes are missing.
    assert_eq!((measures.stated, measures.expected), (3, 3));
    assert_eq!((measures.precision, measures.recall), (Some(1.0 / 3.0), Some(1.0 / 3.0)));
    let row = |name: &str| measures.per_finding.iter().find(|row| row.finding == name).unwrap();
    assert_eq!((row("neuropil").f1, row("necrosis").f1, row("rosettes").precision), (Some(0.0), Some(1.0), None));
    let nothing = facts::measure(&["Pretty."], &["Nice."]).unwrap();
    assert_eq!((nothing.precision, nothing.recall, nothing.f1), (None, None, None));
    assert_eq!(
        facts::measure(&["one"], &["one", "two"]).unwrap_err().to_string(),
        "1 texts against 2 references; each item needs one of both"
    );
    assert_eq!(texts::measure::<&str, &str>(&[], &[]).unwrap_err(), MeasureError::Empty);
}

#[test]
fn a_finding_denied_and_stated_contradicts_itself() {
    let text = "Neuropil is absent. Abundant neuropil surrounds the cells.";
    assert_eq!(said(text), ["neuropil:absent", "neuropil:much"]);
    assert_eq!(facts::measure(&[text], &["Abundant neuropil."]).unwrap().self_contradicting, 1.0);
    let agreement = Agreement::of(&read(text), &read("Abundant neuropil."));
    assert_eq!((agreement.right, agreement.stated, agreement.found, agreement.expected), (1, 2, 1, 1));
    assert_eq!(State::Absent, read("No neuropil.")[0].state);
}

#[test]
fn texts_that_contradict_their_class() {
    let rule = ClassRule::of(&names(["UD", "PD", "D"])).unwrap();
    let wrong = |text: &str, class: usize| rule.contradiction(text, class);
    assert_eq!(wrong("Abundant neuropil.", 0).as_deref(), Some("states neuropil"));
    assert_eq!(wrong("No neuropil, small round cells.", 0), None);
    assert_eq!(wrong("No neuropil.", 1).as_deref(), Some("denies neuropil"));
    assert_eq!(
        wrong("About 10% of cells are ganglion cells in neuropil.", 1).as_deref(),
        Some("states many differentiating cells")
    );
    assert_eq!(wrong("About 3% of cells are ganglion cells in neuropil.", 1), None);
    assert_eq!(wrong("No ganglion cells.", 2).as_deref(), Some("denies differentiating cells"));
    assert_eq!(wrong("A poorly differentiated neuroblastoma.", 2).as_deref(), Some("names poorly differentiated"));
    assert_eq!(wrong("A poorly differentiated neuroblastoma.", 1), None);
    assert_eq!(wrong("Differentiating cells are numerous.", 2), None);
    assert_eq!(rule.contradiction_rate(&["Abundant neuropil.", "No neuropil."], &[0, 0]), Some(0.5));
    assert!(ClassRule::of(&names(["benign", "malignant", "D"])).is_none());
    let written = ClassRule::of(&names(["Differentiating", "poorly-differentiated", "Undifferentiated"])).unwrap();
    assert_eq!(written.contradiction("Abundant neuropil.", 2).as_deref(), Some("states neuropil"));
}

#[test]
fn class_words_are_masked_and_findings_stay() {
    let mask = |text: &str| mask_class_words(text, &names(["UD", "PD", "D"]));
    assert_eq!(mask("A poorly differentiated neuroblastoma (PD)."), "A [class] ([class]).");
    assert_eq!(mask("Differentiating neuroblastoma with differentiating cells."), "[class] with differentiating cells.");
    assert_eq!(mask("Undifferentiated tumour; undifferentiated cells."), "[class]; undifferentiated cells.");
    assert_eq!(mask("Class D. A disc of neuropil."), "[class]. A disc of neuropil.");
    let other = mask_class_words("A benign lesion, Benign.", &["benign".to_string(), "malignant".to_string()]);
    assert_eq!(other, "A [class] lesion, [class].");
    let spelled = mask_class_words("differentiating cells", &["Differentiating".to_string()]);
    assert_eq!(spelled, "differentiating cells");
}

#[test]
fn generated_texts_are_counted() {
    let text =
        |text: &'static str, stopped, cut| Generated { text, tokens: Some(10), stopped: Some(stopped), tokens_cut: Some(cut) };
    let all = [text("a b c d e", true, 0), text("a b c d e", true, 4), text("x y z w x y z w", false, 0), text("one", true, 0)];
    let found = generated::measure(&all).unwrap();
    assert_eq!((found.texts, found.distinct, found.commonest), (4, 0.75, 0.5));
    assert_eq!(found.commonest_text, "a b c d e");
    assert_eq!((found.stopped, found.cut, found.tokens_cut, found.tokens), (Some(0.75), Some(0.25), Some(4.0), Some(10.0)));
    assert_eq!(repetition("x y z w x y z w"), Some(0.2));
    assert_eq!(repetition("x y z"), None);
    assert!((found.repetition.unwrap() - 0.2 / 3.0).abs() < 1e-12);
    let bare = generated::measure(&[Generated { text: "a", ..Generated::default() }]).unwrap();
    assert_eq!((bare.stopped, bare.tokens, bare.cut, bare.repetition), (None, None, None, None));
    assert_eq!(generated::measure(&[]).unwrap_err(), MeasureError::Empty);
}

/// Numbers of sacrebleu 2.6.0 and rouge_score 0.1.2.
#[test]
fn two_texts_have_the_known_overlap() {
    let references = [
        "Sheets of small round cells lie in a fibrillary background.",
        "About 8% of the cells show ganglion-like change, with large pale nuclei.",
    ];
    let candidates = [
        "Sheets of small blue round cells lie in fibrillary background.",
        "About 8% of cells show ganglion-like change and pale nuclei.",
    ];
    let close =
        |found: f64, expected: f64, tolerance: f64| assert!((found - expected).abs() < tolerance, "{found} not {expected}");
    let found = texts::measure(&candidates, &references).unwrap();
    close(found.bleu, 42.41, 0.005);
    close(texts::sentence_bleu(candidates[0], references[0]).score, 43.361_891, 1e-6);
    close(texts::sentence_bleu(candidates[1], references[1]).score, 40.629_637, 1e-6);
    close(found.chrf, 78.309_273, 1e-6);
    close(found.chrf_plus_plus, 77.086_957, 1e-6);
    close(found.rouge1, 0.866_667, 1e-6);
    close(found.rouge2, 0.651_515, 1e-6);
    close(found.rouge_l, 0.866_667, 1e-6);
}
