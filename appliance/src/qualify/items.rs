//! What the bundle says about each image; kept in a file beside the bundle until the qualification is done, so that it can be continued.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::rows::Row;
use crate::assess::appearance::Appearance;
use crate::assess::each::each;
use crate::assess::pipeline;
use crate::assess::reader::{Reader, Settings};
use crate::engine::{Engine, EngineError, Mode, Request, StopReason};
use crate::error::{Exit, Failure};
use crate::verdict::leading;

/// What the bundle says about one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// SHA-256 of the image file, hex.
    pub sha256: String,
    /// What the image looks like.
    pub appearance: Appearance,
    /// Before the temperature; none of a bundle that only describes.
    pub logits: Option<Vec<f64>>,
    /// Of the image alone.
    pub image_logits: Option<Vec<f64>>,
    /// Weight of the text.
    pub alpha_text: Option<f64>,
    /// Distance to the training data.
    pub novelty: Option<f64>,
    /// The describer's text.
    pub text: Option<Written>,
}

/// A text that the describer wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Its words.
    pub words: String,
    /// Its tokens.
    pub tokens: usize,
    /// Whether the model ended it.
    pub finished: bool,
    /// Whether the classifier read all of it; none of one that reads no texts.
    pub read_whole: Option<bool>,
}

impl Item {
    /// The class that leads in the image's own opinion.
    pub fn image_leading(&self) -> Option<usize> {
        self.image_logits.as_deref().and_then(leading)
    }
}

/// The file of answers, and those that it has.
pub struct Store {
    path: PathBuf,
    known: BTreeMap<String, Item>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Head {
    bundle_sha256: String,
    provider: String,
    version: String,
    /// Over the texts that the file gives the classifier to read, where the bundle writes none: another text is another answer.
    #[serde(default)]
    texts_sha256: Option<String>,
}

impl Store {
    /// Opens the file of a bundle; one that was written for another bundle, device or version, or other texts, is begun anew.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn open(path: PathBuf, bundle_sha256: &str, provider: &str, texts_sha256: Option<String>) -> Result<Store, Failure> {
        let head = Head {
            bundle_sha256: bundle_sha256.to_owned(),
            provider: provider.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            texts_sha256,
        };
        let io = |error: std::io::Error| Failure::io("the answers so far cannot be kept", &path, &error);
        let known = match File::open(&path) {
            Ok(file) => kept(BufReader::new(file), &head),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(error)),
        };
        let known = known.unwrap_or_default();
        let store = Store { path: path.clone(), known };
        store.write_anew(&head).map_err(io)?;
        Ok(store)
    }

    /// A line that was cut by a kill is gone after it; the answers so far stay until all of them are written.
    fn write_anew(&self, head: &Head) -> std::io::Result<()> {
        let part = self.path.with_added_extension("part");
        let mut file = BufWriter::new(File::create(&part)?);
        let lines = std::iter::once(serde_json::to_string(head)).chain(self.known.values().map(serde_json::to_string));
        for line in lines {
            writeln!(file, "{}", line?)?;
        }
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&part, &self.path)
    }

    fn keep(&mut self, item: Item) -> Result<(), Failure> {
        let io = |error: std::io::Error| Failure::io("an answer cannot be kept", &self.path, &error);
        let line = serde_json::to_string(&item).map_err(|error| io(error.into()))?;
        let mut file = OpenOptions::new().append(true).open(&self.path).map_err(io)?;
        writeln!(file, "{line}").map_err(io)?;
        self.known.insert(item.sha256.clone(), item);
        Ok(())
    }

    /// Ends with the file removed.
    pub fn remove(self) {
        // What stays is begun anew next time: its bundle is another one by then.
        drop(std::fs::remove_file(&self.path));
    }
}

/// The items of a file with this head; a line that was cut ends it.
fn kept(file: impl BufRead, head: &Head) -> Option<BTreeMap<String, Item>> {
    let mut lines = file.lines();
    let first: Head = serde_json::from_str(&lines.next()?.ok()?).ok()?;
    let items = lines.map_while(|line| serde_json::from_str::<Item>(&line.ok()?).ok());
    (first == *head).then(|| items.map(|item| (item.sha256.clone(), item)).collect())
}

/// The answers of all rows in their order, and the rows that could not be assessed with the reason.
///
/// # Errors
/// The engine failed, or answers cannot be kept.
pub fn assess(
    engine: &Engine,
    mode: Mode,
    rows: &[Row],
    reading: &Settings,
    store: &mut Store,
) -> Result<(Vec<Option<Item>>, Vec<String>), Failure> {
    let waiting: Vec<&Row> = rows.iter().filter(|row| !store.known.contains_key(&row.sha256)).collect();
    if waiting.len() < rows.len() {
        eprintln!(
            "{} of {} images are answered already, from a qualification that was stopped",
            rows.len() - waiting.len(),
            rows.len()
        );
    }
    let mut failed = Vec::new();
    let ask = |row: &&Row, reader: &mut Reader| one(engine, mode, row, reader);
    each("", &waiting, engine.slots() + 1, reading, ask, |at, answer| match answer {
        Ok(item) => store.keep(item),
        Err(failure) if failure.exit == Exit::Usage => {
            failed.push(format!("line {}: {}", waiting[at].line, failure.problems[0].what));
            Ok(())
        }
        Err(failure) => Err(failure),
    })?;
    failed.sort();
    Ok((rows.iter().map(|row| store.known.get(&row.sha256).cloned()).collect(), failed))
}

fn one(engine: &Engine, mode: Mode, row: &Row, reader: &mut Reader) -> Result<Item, Failure> {
    let patch = pipeline::open(reader, &row.path)?;
    if patch.sha256 != hash(&row.sha256) {
        return Err(Failure::new(Exit::Usage, format!("{} changed while it was read", row.path.display()), "", ""));
    }
    let given = (mode == Mode::Classify).then(|| row.description.clone()).flatten();
    let request = Request { description: given, ..Request::new(mode) };
    let assessment = engine.assess(patch.image(), &request).map_err(|error| match error {
        EngineError::Image(message) | EngineError::Numbers(message) => Failure::new(Exit::Usage, message, "", ""),
        other => Failure::internal(format!("{} was not assessed", row.path.display()), other),
    })?;
    let found = assessment.classification.as_ref();
    let wide = |values: &Vec<f32>| values.iter().map(|value| f64::from(*value)).collect();
    Ok(Item {
        sha256: row.sha256.clone(),
        appearance: patch.decoded.appearance,
        logits: found.map(|found| wide(&found.logits)),
        image_logits: found.and_then(|found| found.image_logits.as_ref()).map(wide),
        alpha_text: found.and_then(|found| found.alpha_text).map(f64::from),
        novelty: found.and_then(|found| found.novelty),
        text: assessment.description.map(|text| Written {
            read_whole: found.and_then(|found| found.description_read_until).map(|end| end >= text.text.trim_end().len()),
            words: text.text,
            tokens: text.tokens,
            finished: text.stop_reason == StopReason::EndToken,
        }),
    })
}

/// The bytes of a hash in hex.
pub fn hash(hex: &str) -> [u8; 32] {
    std::array::from_fn(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2).unwrap_or("0"), 16).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(sha256: &str) -> Item {
        let rgb = mmlnb_models::prepare::decode::Rgb8Image { width: 2, height: 2, pixels: vec![9; 12] };
        let appearance = Appearance::of(&rgb, None, false);
        let sha256 = sha256.to_owned();
        Item {
            sha256,
            appearance,
            logits: Some(vec![0.1, 1.0 / 3.0]),
            image_logits: None,
            alpha_text: None,
            novelty: None,
            text: None,
        }
    }

    #[test]
    fn answers_outlive_a_kill_and_are_dropped_with_another_bundle_or_other_texts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers");
        let mut store = Store::open(path.clone(), "b1", "cpu", Some("t1".into())).unwrap();
        store.keep(item("aa")).unwrap();
        store.keep(item("bb")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let store = Store::open(path.clone(), "b1", "cpu", Some("t1".into())).unwrap();
        assert_eq!(store.known.values().cloned().collect::<Vec<_>>(), [item("aa")], "the cut line is gone, the rest is exact");
        let anew =
            |bundle: &str, texts: &str| Store::open(path.clone(), bundle, "cpu", Some(texts.into())).unwrap().known.is_empty();
        assert!(!anew("b1", "t1") && anew("b1", "t2"), "other texts are other answers");
        assert!(anew("b2", "t2"));
        store.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_hash_in_hex_is_read_back() {
        assert_eq!(hash(&format!("0aff{}", "00".repeat(30)))[..2], [10, 255]);
    }
}
