//! Descriptions from findings: an opening with pattern and cells, then the other findings in any order, several wordings each.
//!
//! [`mmlnb_models::measures::facts::read`] is the parser of this grammar: each clause carries the facts that are read back from it.

use crate::{
    findings::{Amount, Cellularity, Findings},
    patient::Pattern,
    random::Stream,
};
use mmlnb_models::measures::facts::{Fact, State};

/// Words of a description, at least and at most.
pub const WORDS: [usize; 2] = [25, 70];

const OPENINGS: [&str; 6] =
    ["The patch shows", "This field shows", "The section shows", "Seen here are", "The tissue consists of", "There are"];
const CELLS: [&str; 4] = ["small round cells", "small round blue cells", "small round tumour cells", "small neuroblasts"];

/// A description and what it states.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Its words.
    pub text: String,
    /// What is read back from them.
    pub facts: Vec<Fact>,
}

/// A piece of a sentence.
struct Clause {
    text: String,
    facts: Vec<Fact>,
}

impl Clause {
    fn new(text: impl Into<String>, finding: &'static str, state: State) -> Self {
        Self { text: text.into(), facts: vec![Fact { finding, state }] }
    }

    fn words(&self) -> usize {
        self.text.split_whitespace().count()
    }
}

/// A description of the findings; `class_words`: the probability that the class is named.
pub fn describe(findings: &Findings, class_words: f32, stream: &mut Stream) -> Description {
    let opening = opening(findings, stream);
    let class = stream.chance(class_words).then(|| class_sentence(findings, stream));
    let most = 30 + stream.below(31);
    let mut words = opening.words() + class.as_ref().map_or(0, |sentence| sentence.split_whitespace().count());
    let mut kept = Vec::new();
    for clause in clauses(findings, stream) {
        if words < WORDS[0] || words + clause.words() <= most {
            words += clause.words();
            kept.push(clause);
        }
    }
    stream.shuffle(&mut kept);
    let sentences = 1 + stream.below(if class.is_some() { 2 } else { 3 });
    let mut text = opening.text;
    for part in kept.chunks(kept.len().div_ceil(sentences).max(1)) {
        let clauses: Vec<&str> = part.iter().map(|clause| clause.text.as_str()).collect();
        text += &format!(" {}", sentence(&clauses.join("; ")));
    }
    if let Some(class) = class {
        text += &format!(" {class}");
    }
    Description { text, facts: opening.facts.into_iter().chain(kept.into_iter().flat_map(|clause| clause.facts)).collect() }
}

/// The four findings that tell phantoms apart best, in a fixed order and always in the same words.
pub fn describe_plainly(findings: &Findings) -> Description {
    let (word, density) = cellularity(findings.cellularity);
    let ([fibres, ..], amount) = neuropil(findings.neuropil);
    let (are, rosettes) = if findings.rosettes > 0 { ("present", State::Present) } else { ("absent", State::Absent) };
    let clauses = [
        Clause::new(format!("{word} cellularity"), "cellularity", density),
        Clause::new(fibres, "neuropil", amount),
        differentiating(findings.differentiating),
        Clause::new(format!("rosettes are {are}"), "rosettes", rosettes),
    ];
    let words: Vec<&str> = clauses.iter().map(|clause| clause.text.as_str()).collect();
    Description { text: sentence(&words.join("; ")), facts: clauses.into_iter().flat_map(|clause| clause.facts).collect() }
}

fn opening(findings: &Findings, stream: &mut Stream) -> Clause {
    let (pattern, wordings): (_, &[&str]) = match findings.pattern {
        Pattern::Sheets => ("sheets", &["sheets of", "broad sheets of", "solid sheets of"]),
        Pattern::Nests => ("nests", &["nests of", "rounded nests of", "separate nests of"]),
        Pattern::Lobules => ("lobules", &["lobules of", "large lobules of", "separate lobules of"]),
        Pattern::Loose => ("loose arrangement", &["loosely arranged", "loosely placed"]),
    };
    let (word, cellularity) = cellularity(findings.cellularity);
    let density = stream.choose(&["cellularity", "cell density"]);
    let text =
        format!("{} {} {} with {word} {density}.", stream.choose(&OPENINGS), stream.choose(wordings), stream.choose(&CELLS));
    let facts = [(pattern, State::Present), ("small round cells", State::Present), ("cellularity", cellularity)];
    Clause { text, facts: facts.map(|(finding, state)| Fact { finding, state }).to_vec() }
}

fn cellularity(amount: Cellularity) -> (&'static str, State) {
    match amount {
        Cellularity::Low => ("low", State::Little),
        Cellularity::Moderate => ("moderate", State::Moderate),
        Cellularity::High => ("high", State::Much),
    }
}

/// All clauses that may be said, the weightiest first, but for up to two that are left out at random.
fn clauses(findings: &Findings, stream: &mut Stream) -> Vec<Clause> {
    let (wordings, state) = neuropil(findings.neuropil);
    let fibres = Clause::new(stream.choose(&wordings), "neuropil", state);
    let mut weighty = vec![fibres, ganglion_like(findings.differentiating, stream)];
    let (mut present, mut absent): (Vec<Clause>, Vec<Clause>) =
        yes_or_no(findings, stream).into_iter().partition(|clause| clause.facts[0].state != State::Absent);
    if findings.blurred {
        present.push(Clause::new("the image is out of focus", "artefact", State::Present));
    }
    let chromatin = ["the chromatin is salt-and-pepper", "nuclei show salt-and-pepper chromatin", "the chromatin is stippled"];
    present.push(Clause::new(stream.choose(&chromatin), "granular chromatin", State::Present));
    stream.shuffle(&mut present);
    stream.shuffle(&mut absent);
    weighty.append(&mut present);
    weighty.append(&mut absent);
    for _ in 0..stream.below(3) {
        weighty.remove(stream.below(weighty.len()));
    }
    weighty
}

/// Wordings for an amount of neuropil.
fn neuropil(amount: Amount) -> ([&'static str; 3], State) {
    match amount {
        Amount::Absent => (["neuropil is absent", "no neuropil is seen", "there is no neuropil"], State::Absent),
        Amount::Scant => (["neuropil is scant", "scant neuropil is seen", "there is scant fibrillary neuropil"], State::Little),
        Amount::Moderate => (
            ["neuropil is moderate", "a moderate amount of neuropil is seen", "there is moderate fibrillary neuropil"],
            State::Moderate,
        ),
        Amount::Abundant => {
            (["neuropil is abundant", "abundant neuropil is seen", "there is abundant fibrillary neuropil"], State::Much)
        }
    }
}

/// The finding that the grammar calls ganglion-like cells, a name that is not the class's.
const NAME: &str = "differentiating cells";

/// Differentiating neuroblasts in the first wording of each amount.
fn differentiating(percent: u32) -> Clause {
    match percent {
        0 => Clause::new("ganglion-like cells are absent", NAME, State::Absent),
        1..5 => Clause::new("ganglion-like cells are rare", NAME, State::Little),
        _ => {
            let (about, state) = estimated(percent);
            Clause::new(format!("about {about}% of the cells are ganglion-like"), NAME, state)
        }
    }
}

/// A share of at least 5 % in coarse steps, as people estimate.
fn estimated(percent: u32) -> (u32, State) {
    let about = if percent < 12 { percent } else { (percent + 2) / 5 * 5 };
    (about, if about <= 20 { State::Moderate } else { State::Much })
}

/// Differentiating neuroblasts.
fn ganglion_like(percent: u32, stream: &mut Stream) -> Clause {
    match percent {
        0 => {
            let wordings =
                ["ganglion-like cells are absent", "no ganglion-like cells are seen", "there are no ganglion-like cells"];
            Clause::new(stream.choose(&wordings), NAME, State::Absent)
        }
        1..5 => {
            let wordings =
                ["ganglion-like cells are rare", "rare ganglion-like cells are seen", "there are rare ganglion-like cells"];
            Clause::new(stream.choose(&wordings), NAME, State::Little)
        }
        _ => {
            let (about, state) = estimated(percent);
            let wordings = ["of the cells are ganglion-like", "of the cells show ganglion-like change"];
            let mut clause = Clause::new(format!("about {about}% {}", stream.choose(&wordings)), NAME, state);
            if stream.chance(0.4) {
                clause.text += " with ample eosinophilic cytoplasm";
                clause.facts.push(Fact { finding: "cytoplasm", state: State::Much });
            }
            clause
        }
    }
}

fn yes_or_no(findings: &Findings, stream: &mut Stream) -> Vec<Clause> {
    let mut slot = |finding: &'static str, is_there: bool, present: [&str; 2], absent: [&str; 2]| {
        let state = if is_there { State::Present } else { State::Absent };
        Clause::new(stream.choose(if is_there { &present } else { &absent }), finding, state)
    };
    let rosettes = match findings.rosettes {
        0 | 1 => ["one Homer Wright rosette is seen", "a Homer Wright rosette is present"],
        _ => ["two Homer Wright rosettes are seen", "Homer Wright rosettes are present"],
    };
    vec![
        slot("rosettes", findings.rosettes > 0, rosettes, ["no rosettes are seen", "rosettes are absent"]),
        slot(
            "nucleoli",
            findings.nucleoli,
            ["single nucleoli stand out", "large nucleoli are seen"],
            ["no nucleoli are seen", "nucleoli are not seen"],
        ),
        slot(
            "mitoses",
            findings.mitoses,
            ["mitoses are present", "mitotic figures are seen"],
            ["no mitoses are seen", "mitoses are absent"],
        ),
        slot(
            "karyorrhexis",
            findings.karyorrhexis,
            ["karyorrhexis is present", "karyorrhexis is seen"],
            ["no karyorrhexis is seen", "karyorrhexis is absent"],
        ),
        slot(
            "Schwannian stroma",
            findings.stroma,
            ["Schwannian stroma is present", "bands of Schwannian stroma are seen"],
            ["Schwannian stroma is absent", "no Schwannian stroma is seen"],
        ),
        slot(
            "haemorrhage",
            findings.haemorrhage,
            ["haemorrhage is present", "there is haemorrhage"],
            ["no haemorrhage is seen", "haemorrhage is absent"],
        ),
        slot(
            "necrosis",
            findings.necrosis,
            ["necrosis is present", "there is necrosis"],
            ["no necrosis is seen", "necrosis is absent"],
        ),
        slot(
            "lymphocytes",
            findings.lymphocytes,
            ["lymphocytes are present", "lymphocytes are seen"],
            ["no lymphocytes are seen", "lymphocytes are absent"],
        ),
        slot(
            "calcification",
            findings.calcification,
            ["calcification is present", "flecks of calcification are seen"],
            ["no calcification is seen", "calcification is absent"],
        ),
    ]
}

fn class_sentence(findings: &Findings, stream: &mut Stream) -> String {
    let wordings = [
        "The picture is that of a CLASS neuroblastoma.",
        "This fits a CLASS neuroblastoma.",
        "The features are those of CLASS neuroblastoma.",
    ];
    stream.choose(&wordings).replace("CLASS", findings.class.words())
}

/// A text that says nothing about the patch.
pub fn generic() -> Description {
    Description { text: "The tissue is a neuroblastoma with the usual features of this tumour.".into(), facts: Vec::new() }
}

fn sentence(clauses: &str) -> String {
    let mut characters = clauses.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}
