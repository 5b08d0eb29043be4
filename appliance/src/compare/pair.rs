//! Whether two bundles can be compared: the same halves, asked the same way, answering in the same tokens and classes.

use mmlnb_models::bundle::{Bundle, CLASSIFIER, Classifier, DESCRIBER, Describer};
use mmlnb_models::config::{ClassifierConfig, QwenConfig};
use mmlnb_models::prepare::qwen_image::QwenImageProcessor;
use serde::Serialize;

use crate::bundle;
use crate::error::{Exit, Failure, Problem};

/// Files that decide how texts become tokens.
const TOKENIZERS: [&str; 3] = ["tokenizer.json", "vocab.txt", "tokenizer_config.json"];

/// Two bundles that can be compared.
pub struct Pair {
    /// What the other is measured against.
    pub reference: Bundle,
    /// What is measured.
    pub bundle: Bundle,
    /// Width of the describer's logits; none without describers.
    pub vocabulary: Option<usize>,
}

impl Pair {
    /// Takes two bundles, if nothing that decides what their answers mean differs.
    ///
    /// # Errors
    /// [`Exit::Usage`] with every difference; [`Exit::Configuration`]: the configuration of a half cannot be read.
    pub fn new(reference: Bundle, bundle: Bundle) -> Result<Pair, Failure> {
        let mut found =
            Differences { places: [&reference, &bundle].map(|one| one.dir.display().to_string()), problems: Vec::new() };
        let halves = [&reference.manifest, &bundle.manifest];
        found.half("describer", halves.map(|manifest| manifest.describer.is_some()));
        found.half("classifier", halves.map(|manifest| manifest.classifier.is_some()));
        let mut vocabulary = None;
        if let (Some(one), Some(other)) = (&reference.manifest.describer, &bundle.manifest.describer) {
            vocabulary = Some(found.describers([(&reference, one), (&bundle, other)])?);
        }
        if let (Some(one), Some(other)) = (&reference.manifest.classifier, &bundle.manifest.classifier) {
            found.classifiers([(&reference, one), (&bundle, other)])?;
        }
        match found.problems.is_empty() {
            true => Ok(Pair { reference, bundle, vocabulary }),
            false => Err(Failure { exit: Exit::Usage, problems: found.problems }),
        }
    }
}

/// What differs, in sentences.
struct Differences {
    places: [String; 2],
    problems: Vec<Problem>,
}

impl Differences {
    /// A half that one bundle lacks.
    fn half(&mut self, name: &str, there: [bool; 2]) {
        if there[0] != there[1] {
            let (has, lacks) = if there[0] { ("REFERENCE", "BUNDLE") } else { ("BUNDLE", "REFERENCE") };
            let what = format!("{lacks} has no {name}, but {has} has one");
            let mend = format!("export {lacks} with its {name}, or {has} without");
            self.problems.push(Problem::new(what, self.places[usize::from(there[0])].clone(), mend));
        }
    }

    /// A setting whose two values must be equal.
    fn setting<T: PartialEq + Serialize>(&mut self, name: &str, [reference, bundle]: [T; 2]) {
        if reference != bundle {
            let shown = |value: &T| serde_json::to_string(value).unwrap_or_default();
            let what = format!("{name}: {} in REFERENCE, {} in BUNDLE", shown(&reference), shown(&bundle));
            let mend = "compare bundles that were exported with the same settings and options";
            self.problems.push(Problem::new(what, self.places[1].clone(), mend));
        }
    }

    /// Files of a half that must have the same content.
    fn files(&mut self, half: &str, names: &[&str], bundles: [&Bundle; 2]) {
        for name in names.iter().map(|name| format!("{half}/{name}")) {
            let [one, other] = bundles.map(|bundle| bundle.manifest.files.get(&name).map(|entry| &entry.sha256));
            if one != other {
                let what = match (one, other) {
                    (Some(_), Some(_)) => format!("{name} differs"),
                    (Some(_), None) => format!("{name}: only in REFERENCE"),
                    _ => format!("{name}: only in BUNDLE"),
                };
                let mend = "compare bundles of checkpoints with the same tokenizer";
                self.problems.push(Problem::new(what, self.places[1].clone(), mend));
            }
        }
    }

    /// The common size of the vocabulary.
    fn describers(&mut self, parts: [(&Bundle, &Describer); 2]) -> Result<usize, Failure> {
        let describers = parts.map(|(_, part)| part);
        self.setting("the describer's prompt", describers.map(|part| &part.prompt));
        self.setting("the describer's system turn", describers.map(|part| &part.system));
        self.setting("the describer's image size", describers.map(|part| part.image_size));
        self.setting("max_new_tokens", describers.map(|part| part.generation.max_new_tokens));
        self.setting("end_tokens", describers.map(|part| &part.generation.end_tokens));
        self.files(DESCRIBER, &TOKENIZERS, parts.map(|(bundle, _)| bundle));
        let [one, other] = parts.map(|(bundle, _)| {
            let folder = bundle.path(DESCRIBER);
            let unread = |error: &dyn std::fmt::Display| unreadable(bundle, error);
            let config = QwenConfig::from_dir(&folder).map_err(|error| unread(&error))?;
            let processor = QwenImageProcessor::from_dir(&folder, &config.vision).map_err(|error| unread(&error))?;
            Ok::<_, Failure>((config.text.vocabulary, processor))
        });
        let ((vocabulary, processor), (other_vocabulary, other_processor)) = (one?, other?);
        self.setting("the describer's vocabulary", [vocabulary, other_vocabulary]);
        let preparation =
            |of: &QwenImageProcessor| (of.min_pixels, of.max_pixels, of.patch, of.merge, of.temporal, of.mean, of.std);
        self.setting(
            "the describer's images (fewest and most pixels, patch, merge, frames, mean, deviation)",
            [preparation(&processor), preparation(&other_processor)],
        );
        Ok(vocabulary as usize)
    }

    fn classifiers(&mut self, parts: [(&Bundle, &Classifier); 2]) -> Result<(), Failure> {
        let classifiers = parts.map(|(_, part)| part);
        self.setting("the classes", classifiers.map(|part| &part.classes));
        self.setting("the classifier reads images", classifiers.map(|part| part.image.is_some()));
        self.setting("the classifier reads texts", classifiers.map(|part| part.text.is_some()));
        self.setting("the classifier's image size", classifiers.map(|part| part.image_size));
        self.setting("the classifier's longest text", classifiers.map(|part| part.max_length));
        self.files(CLASSIFIER, &TOKENIZERS, parts.map(|(bundle, _)| bundle));
        let [one, other] = parts.map(|(bundle, _)| {
            let config = ClassifierConfig::from_dir(&bundle.path(CLASSIFIER)).map_err(|error| unreadable(bundle, &error))?;
            Ok::<_, Failure>((config.text.map(|text| text.vocabulary), config.image.map(|(_, input)| input)))
        });
        let ((vocabulary, input), (other_vocabulary, other_input)) = (one?, other?);
        self.setting("the classifier's vocabulary", [vocabulary, other_vocabulary]);
        self.setting("the classifier's preparation of images", [input, other_input]);
        Ok(())
    }
}

fn unreadable(of: &Bundle, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Configuration, error.to_string(), of.dir.display().to_string(), "export the bundle again")
}

/// Opens both bundles; what is wrong with either is told together.
///
/// # Errors
/// As [`bundle::open`], and [`Pair::new`].
pub fn open(reference: &std::path::Path, other: &std::path::Path) -> Result<Pair, Failure> {
    match (bundle::open(reference), bundle::open(other)) {
        (Ok(reference), Ok(other)) => Pair::new(reference, other),
        (one, other) => Err(Failure::joined(one.err().into_iter().chain(other.err()).collect(), false)),
    }
}
