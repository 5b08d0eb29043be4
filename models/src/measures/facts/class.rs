//! Whether a text fits a class of neuroblastic tumours, by the rule of the international classification (Shimada).

use super::{Fact, State, read};
use fancy_regex::Regex;
use std::sync::LazyLock;

/// The three classes that the rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Undifferentiated,
    PoorlyDifferentiated,
    Differentiating,
}

/// Wordings that name a class, with the class they name. `differentiating cells` names none: they are a finding.
static NAMED: LazyLock<[(Grade, Regex); 3]> = LazyLock::new(|| {
    let tumour = r"(?:\s+(?:type|subtype|category|class|tumou?r|neuroblastoma|neuroblastic\s+tumou?r))";
    let written = |pattern: String| Regex::new(&pattern).expect("the patterns are constants that the tests compile");
    [
        (
            Grade::Undifferentiated,
            written(format!(r"(?i)\bUD\b|\bundifferentiated(?:{tumour}|(?!\s+(?:neuroblasts?|cells?)\b))")),
        ),
        (Grade::PoorlyDifferentiated, written(format!(r"(?i)\bPD\b|\bpoorly[\s-]+differentiated{tumour}?"))),
        (
            Grade::Differentiating,
            written(format!(r"(?i)\bdifferentiating{tumour}|\bneuroblastoma,\s+differentiating\b|\bclass\s+D\b")),
        ),
    ]
});

/// The rule for the names of a data set's classes.
#[derive(Clone, Debug)]
pub struct ClassRule {
    grades: Vec<Grade>,
}

impl ClassRule {
    /// The rule when every name is one of UD, PD and D or written out; else nothing, since the rule says nothing about other classes.
    pub fn of(classes: &[String]) -> Option<Self> {
        classes.iter().map(|name| grade(name)).collect::<Option<_>>().map(|grades| ClassRule { grades })
    }

    /// What in the text cannot be true of this class: UD has neither neuropil nor differentiating cells, PD has neuropil and less than 5 %
    /// differentiating cells, D has 5 % or more; or the text names another class.
    pub fn contradiction(&self, text: &str, class: usize) -> Option<String> {
        let grade = *self.grades.get(class)?;
        let named = NAMED.iter().find(|(other, pattern)| *other != grade && pattern.is_match(text).unwrap_or(false));
        if let Some((other, _)) = named {
            return Some(format!("names {}", words_for(*other)));
        }
        let facts = read(text);
        let said = |finding: &str, states: &[State]| {
            facts.iter().any(|Fact { finding: name, state }| *name == finding && states.contains(state))
        };
        let there = [State::Present, State::Little, State::Moderate, State::Much];
        let problem = match grade {
            Grade::Undifferentiated if said("neuropil", &there) => "states neuropil",
            Grade::Undifferentiated if said("differentiating cells", &there) => "states differentiating cells",
            Grade::PoorlyDifferentiated if said("neuropil", &[State::Absent]) => "denies neuropil",
            Grade::PoorlyDifferentiated if said("differentiating cells", &[State::Moderate, State::Much]) => {
                "states many differentiating cells"
            }
            Grade::Differentiating if said("differentiating cells", &[State::Absent]) => "denies differentiating cells",
            _ => return None,
        };
        Some(problem.to_string())
    }

    /// Share of texts that contradict their class.
    pub fn contradiction_rate<T: AsRef<str>>(&self, texts: &[T], classes: &[usize]) -> Option<f64> {
        let wrong =
            texts.iter().zip(classes).filter(|(text, class)| self.contradiction(text.as_ref(), **class).is_some()).count();
        (!texts.is_empty()).then(|| wrong as f64 / texts.len() as f64)
    }
}

fn grade(name: &str) -> Option<Grade> {
    match name.trim().to_lowercase().replace('-', " ").as_str() {
        "ud" | "undifferentiated" => Some(Grade::Undifferentiated),
        "pd" | "poorly differentiated" => Some(Grade::PoorlyDifferentiated),
        "d" | "differentiating" | "differentiated" => Some(Grade::Differentiating),
        _ => None,
    }
}

fn words_for(grade: Grade) -> &'static str {
    match grade {
        Grade::Undifferentiated => "undifferentiated",
        Grade::PoorlyDifferentiated => "poorly differentiated",
        Grade::Differentiating => "differentiating",
    }
}

/// The text with every wording that names a class replaced by `[class]`, so that a text encoder cannot copy the label. `names` are the data's
/// own names, masked as written; a written-out grade (`differentiating`) is masked only where it names the class, not in `differentiating cells`.
pub fn mask_class_words(text: &str, names: &[String]) -> String {
    let mut masked = text.to_string();
    for (_, pattern) in NAMED.iter() {
        masked = pattern.replace_all(&masked, "[class]").into_owned();
    }
    for name in names.iter().filter(|name| name.len() <= 2 || grade(name).is_none()) {
        let case = if name.len() <= 2 { "" } else { "(?i)" };
        if let Ok(pattern) = Regex::new(&format!(r"{case}\b{}\b", fancy_regex::escape(name))) {
            masked = pattern.replace_all(&masked, "[class]").into_owned();
        }
    }
    masked
}
