//! The data of a qualification: rows of a CSV file with their images, checked as a whole before anything is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mmlnb_models::hash::sha256_hex;
use mmlnb_models::prepare::bert_tokenizer::SPECIAL_TOKENS;
use mmlnb_models::problems::Problems;
use mmlnb_models::provenance::{Role, TrainingData};
use mmlnb_models::rows::{self, Identity, Part};
use mmlnb_models::sheet::{Record, Sheet, SheetError};
use mmlnb_models::spelling::{folded, is_placeholder};

use crate::error::{Exit, Failure, Problem};
use crate::report::hex;

/// One image with what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Line of the CSV file.
    pub line: u64,
    /// As the file names it.
    pub file_name: String,
    /// The image.
    pub path: PathBuf,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// Number of its class in the bundle.
    pub class: Option<usize>,
    /// The patient.
    pub group: Option<String>,
    /// The expert's text.
    pub description: Option<String>,
    /// What the row is used for.
    pub half: Half,
}

/// The rows that are used.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// In the file's order.
    pub rows: Vec<Row>,
    /// Rows that trained the bundle, or whose patient did.
    pub left_out: usize,
}

/// A row of the file, before the halves are known.
struct Given {
    row: Row,
    split: Option<Part>,
    /// What it, or another image of its patient, was used for while the bundle was trained.
    seen: Option<Role>,
}

impl Given {
    fn identity(&self) -> Identity<'_> {
        let Row { line, file_name, sha256, group, .. } = &self.row;
        Identity { line: *line, file_name, sha256, group: group.as_deref(), part: self.split }
    }
}

/// The two halves of the data, by patient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// Temperature and thresholds are fitted here.
    Fitted,
    /// What is reported.
    Reported,
}

/// What the bundle needs of every row.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// Names of the classes, if the bundle classifies.
    pub classes: Option<&'a [String]>,
    /// The classifier reads texts that the bundle cannot write.
    pub description: bool,
    /// Of the halves.
    pub seed: u64,
    /// What the bundle's parts have seen.
    pub seen: &'a [TrainingData],
    /// The classifier does not say what trained it: the file's column `split` has to.
    pub unknown: bool,
}

/// The hash of a file whose header is that of an image, or why it is none.
pub type Inspect<'a> = dyn FnMut(&Path) -> Result<[u8; 32], Failure> + 'a;

/// Reads and checks everything.
///
/// # Errors
/// [`Exit::Usage`] with every problem of the file and the images.
pub fn read(file: &Path, images: &Path, needs: &Needs<'_>, inspect: &mut Inspect<'_>) -> Result<Found, Failure> {
    let sheet = Sheet::read(file).map_err(|error| unreadable(file, error))?;
    let unread = sheet.unknown_columns();
    if !unread.is_empty() {
        eprintln!("note: {}: these columns are not read: {}", file.display(), unread.join(", "));
    }
    let mut problems = Problems::default();
    if sheet.records.is_empty() {
        problems.whole("there are no rows".to_owned());
    }
    for (needed, column) in [(needs.classes.is_some(), "class"), (needs.description, "description")] {
        if needed && sheet.column(column).is_none() {
            problems.whole(format!("no column `{column}`; the header has: {}", sheet.header.join(", ")));
        }
    }
    let (mut given, mut left_out) = (Vec::new(), 0);
    if problems.is_empty() {
        sheet.identities(
            if needs.classes.is_some() { &["group", "site", "class", "split"] } else { &["group", "site", "split"] },
            &mut problems,
        );
        if needs.description {
            sheet.texts(&SPECIAL_TOKENS, &mut problems);
        }
        rows::assignments(identities(&sheet), &mut problems);
        let first = rows::first_names(&sheet, &mut problems);
        let root = images.canonicalize().map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("the image folder cannot be opened: {error}"),
                images.display().to_string(),
                "check the path after --images",
            )
        })?;
        for (record, _) in sheet.records.iter().zip(first).filter(|(_, first)| *first) {
            given.extend(row(&sheet, record, &root, needs, inspect, &mut problems));
        }
        rows::duplicates(given.iter().map(Given::identity), &mut problems);
        left_out = leave_out_trained(&mut given);
        if given.is_empty() && problems.is_empty() {
            problems.whole(
                "every row trained this bundle (or is of the part `train`), and training images say nothing about it".to_owned(),
            );
        }
    }
    if problems.is_empty() {
        return Ok(Found { rows: halved(given, needs.seed), left_out });
    }
    let place = file.display().to_string();
    let problem = |what: String| Problem::new(what.trim_start().to_owned(), &place, "correct the file or the images");
    Err(Failure { exit: Exit::Usage, problems: problems.lines().into_iter().map(problem).collect() })
}

/// A hash over the texts of the rows.
pub fn texts_sha256(rows: &[Row]) -> String {
    let line = |row: &Row| format!("{} {:?}\n", row.sha256, row.description);
    sha256_hex(rows.iter().map(line).collect::<String>().as_bytes())
}

/// A hash over all that the rows say.
pub fn data_sha256(rows: &[Row]) -> String {
    let line = |row: &Row| format!("{} {:?} {:?} {:?}\n", row.sha256, row.class, row.group, row.description);
    sha256_hex(rows.iter().map(line).collect::<String>().as_bytes())
}

fn unreadable(file: &Path, error: SheetError) -> Failure {
    match error {
        SheetError::Io { source, .. } => Failure::new(
            Exit::Usage,
            format!("the data cannot be read: {source}"),
            file.display().to_string(),
            "check the path after --data",
        ),
        SheetError::Lines { problems, .. } => Failure {
            exit: Exit::Usage,
            problems: problems
                .iter()
                .map(|what| Problem::new(what.trim(), file.display().to_string(), "correct the file"))
                .collect(),
        },
    }
}

/// Leaves out what trained the bundle and every other image of the same patients, whom perhaps only this file names; how many rows that are.
fn leave_out_trained(given: &mut Vec<Given>) -> usize {
    let before = given.len();
    let trained = |given: &&Given| given.seen == Some(Role::Trained);
    let patients: BTreeSet<String> = given.iter().filter(trained).filter_map(|given| given.row.group.clone()).collect();
    given.retain(|given| !trained(&given) && given.row.group.as_ref().is_none_or(|group| !patients.contains(group)));
    before - given.len()
}

/// A row; none where something is wrong with it. Of the part `train` only the image and its patient are of interest, where the image is at hand.
fn row(
    sheet: &Sheet,
    record: &Record,
    root: &Path,
    needs: &Needs<'_>,
    inspect: &mut Inspect<'_>,
    problems: &mut Problems,
) -> Option<Given> {
    let field = |column: &str| sheet.field(record, column);
    let before = problems.count();
    let split = field("split");
    let part = split.and_then(|split| Part::read(split, record.line, problems));
    let file_name = field("file_name").unwrap_or_default().to_owned();
    let text = |column: &str| field(column).map(str::to_owned);
    let (group, description) = (text("group"), text("description"));
    if part == Some(Part::Train) {
        let (path, sha256) = image(&file_name, root, inspect).unwrap_or_default();
        let row = Row { line: record.line, file_name, path, sha256, class: None, group, description, half: Half::Fitted };
        return Some(Given { row, split: part, seen: Some(Role::Trained) });
    }
    if split.is_none() && needs.unknown {
        let problem = "no split, and the classifier does not say which images trained it (it was imported, or trained with an earlier version): \
                       fill in the column `split` with train, validation or test, or train the classifier again";
        problems.at(record.line, "rows without a split", problem.to_owned());
    }
    let class = needs.classes.and_then(|classes| match field("class") {
        None => {
            problems.at(record.line, "rows without a class", "no class".to_owned());
            None
        }
        Some(name) => {
            let class = classes.iter().position(|class| class == name);
            if class.is_none() && !is_placeholder(name) {
                let near = classes.iter().find(|class| folded(class) == folded(name));
                let hint = near.map_or(String::new(), |class| format!("; spell it `{class}`"));
                let problem = format!("class `{name}` is none of the bundle's: {}{hint}", classes.join(", "));
                problems.at(record.line, "unknown classes", problem);
            }
            class
        }
    });
    if needs.description && field("description").is_none() {
        let problem = "no description, and the bundle has no describer to write one".to_owned();
        problems.at(record.line, "rows without a description", problem);
    }
    let (path, sha256) = match image(&file_name, root, inspect) {
        Ok(found) => found,
        Err(problem) => {
            problems.at(record.line, "images that cannot be used", problem);
            Default::default()
        }
    };
    let seen = needs.seen.iter().filter_map(|data| data.seen(&sha256, group.as_deref())).map(|(role, _)| role).max();
    if problems.count() > before {
        return None;
    }
    let row = Row { line: record.line, file_name, path, sha256, class, group, description, half: Half::Fitted };
    Some(Given { row, split: part, seen })
}

/// The hash of an image that lies in the folder and has the header of one.
fn image(file_name: &str, root: &Path, inspect: &mut Inspect<'_>) -> Result<(PathBuf, String), String> {
    let path = rows::inside(root, file_name)?;
    let sha256 = inspect(&path).map_err(|failure| format!("{file_name}: {}", failure.problems[0].what))?;
    Ok((path, hex(&sha256)))
}

/// Who stands where, by the file alone.
fn identities<'s>(sheet: &'s Sheet) -> impl Iterator<Item = Identity<'s>> {
    sheet.records.iter().map(|record| Identity {
        line: record.line,
        file_name: sheet.field(record, "file_name").unwrap_or_default(),
        sha256: "",
        group: sheet.field(record, "group"),
        part: sheet.field(record, "split").and_then(|split| Part::read(split, record.line, &mut Problems::default())),
    })
}

/// Assigns the halves: the column `split` where it names both parts, else every other patient, ordered by class and a seeded hash. Whoever chose the
/// bundle's best epoch is fitted on, never reported.
fn halved(given: Vec<Given>, seed: u64) -> Vec<Row> {
    let patient = |row: &Row| row.group.clone().unwrap_or_else(|| format!("\0{}", row.sha256));
    let chosen: BTreeSet<String> =
        given.iter().filter(|given| given.seen == Some(Role::Chosen)).map(|given| patient(&given.row)).collect();
    let named = |part: Part| given.iter().any(|given| given.split == Some(part));
    let by_file = named(Part::Validation) && named(Part::Test);
    let mut patients: BTreeMap<String, Option<usize>> = BTreeMap::new();
    for Given { row, .. } in given.iter().filter(|given| !chosen.contains(&patient(&given.row))) {
        patients.entry(patient(row)).or_insert(row.class);
    }
    let mut order: Vec<(Option<usize>, String, String)> =
        patients.into_iter().map(|(name, class)| (class, sha256_hex(format!("{seed} {name}").as_bytes()), name)).collect();
    order.sort();
    let fitted: BTreeSet<&String> = order.iter().step_by(2).map(|(_, _, name)| name).collect();
    let half = |Given { row, split, .. }: &Given| {
        let name = patient(row);
        let fitted = chosen.contains(&name) || if by_file { *split != Some(Part::Test) } else { fitted.contains(&name) };
        if fitted { Half::Fitted } else { Half::Reported }
    };
    given.iter().map(|given| Row { half: half(given), ..given.row.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(csv: &str, images: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("data.csv"), csv).unwrap();
        for at in 0..images {
            let image = image::RgbImage::from_pixel(8, 8, image::Rgb([at as u8, 3, 9]));
            image.save(dir.path().join(format!("{at}.png"))).unwrap();
        }
        dir
    }

    fn rows(csv: &str, images: usize) -> Result<Vec<Row>, Failure> {
        found(csv, images, &[], false).map(|found| found.rows)
    }

    fn found(csv: &str, images: usize, seen: &[TrainingData], unknown: bool) -> Result<Found, Failure> {
        let dir = folder(csv, images);
        let classes = ["A", "B"].map(String::from);
        let needs = Needs { classes: Some(&classes), description: false, seed: 3, seen, unknown };
        read(&dir.path().join("data.csv"), dir.path(), &needs, &mut |path| {
            crate::assess::pipeline::bytes(path).map(|bytes| bytes.sha256)
        })
    }

    #[test]
    fn rows_that_trained_the_bundle_or_whose_patient_did_are_left_out() {
        let dir = folder("", 12);
        let hash = |at: usize| sha256_hex(&std::fs::read(dir.path().join(format!("{at}.png"))).unwrap());
        let mut seen = TrainingData::new("salt".into(), None);
        seen.add(Role::Trained, &hash(0), Some("P01"));
        seen.add(Role::Chosen, &hash(4), Some("P03"));
        let line = |at: usize| format!("{at}.png,{},p{}\n", if at % 4 < 2 { "A" } else { "B" }, at / 2 + 1);
        let csv = format!("file_name,class,group\n{}", (0..12).map(line).collect::<String>());
        let kept = found(&csv, 12, std::slice::from_ref(&seen), false).unwrap();
        assert_eq!((kept.rows.len(), kept.left_out), (10, 2), "image 0 and the other image of its patient");
        let half = |line: u64| kept.rows.iter().find(|row| row.line == line).unwrap().half;
        assert_eq!([half(6), half(7)], [Half::Fitted; 2], "who chose the epoch is never reported");
        assert!(kept.rows.iter().any(|row| row.half == Half::Reported));
        let mut images_only = TrainingData::new("salt".into(), None);
        images_only.add(Role::Trained, &hash(0), None);
        let named_here = found(&csv, 12, &[images_only], false).unwrap();
        assert_eq!(named_here.left_out, 2, "the other image of a patient whom only this file names");
        let trained = found("file_name,class\n0.png,A\n", 1, &[seen], false).unwrap_err().to_string();
        assert!(trained.contains("every row trained"), "{trained}");
        let unknown = found(&csv, 12, &[], true).unwrap_err().to_string();
        assert!(unknown.contains("line 2: no split") && unknown.contains("train the classifier again"), "{unknown}");
        let split = "file_name,class,split\n0.png,A,Train\n1.png,B,validation\n2.png,A,TEST\n";
        assert_eq!(found(split, 3, &[], true).unwrap().left_out, 1);
    }

    #[test]
    fn values_that_differ_only_in_spelling_and_names_of_nothing_are_refused() {
        let wrong = [
            ("file_name,class,group\n0.png,A,001\n1.png,B,1\n", "line 3: group `1` is spelled `001` in line 2"),
            ("file_name,class,Split\n0.png,A,train\n1.png,B,test\n", "nearly the name of `split`"),
            ("file_name,class\n0.png,A\n1.png,a\n", "line 3: class `a` is spelled `A` in line 2"),
            ("file_name,class\n0.png,a\n1.png,B\n", "spell it `A`"),
            ("file_name,class,group\n0.png,A,#N/A\n1.png,B,P2\n", "line 2: group `#N/A` is no value"),
            ("file_name,class\n0.png,A\n0.png,A\n", "line 3: 0.png stands in line 2 too"),
            ("file_name,class\n0.png,A\n./0.png,A\n", "line 3: ./0.png stands in line 2 too"),
            ("file_name,class,group\n0.png,A,P1\n1.png,B,\n", "line 3: `group` is empty here"),
            ("file_name,class,group,split\n0.png,A,P1,validation\n1.png,B,P1,test\n", "group P1 is in several parts"),
            ("file_name,class,description\n0.png,A,\"x\n1.png,B,y\n", "line 2: a quote opens"),
        ];
        for (csv, part) in wrong {
            let text = rows(csv, 2).unwrap_err().to_string();
            assert!(text.contains(part), "{csv}: {text}");
        }
        let dir = folder("file_name,class,split\n0.png,A,train\ncopy.png,A,test\n1.png,B,test\n", 2);
        std::fs::copy(dir.path().join("0.png"), dir.path().join("copy.png")).unwrap();
        let classes = ["A", "B"].map(String::from);
        let needs = Needs { classes: Some(&classes), description: false, seed: 3, seen: &[], unknown: false };
        let inspect = &mut |path: &Path| crate::assess::pipeline::bytes(path).map(|bytes| bytes.sha256);
        let text = read(&dir.path().join("data.csv"), dir.path(), &needs, inspect).unwrap_err().to_string();
        assert!(text.contains("line 3: copy.png is the same image as 0.png in line 2, which is in another part"), "{text}");
    }

    #[test]
    fn rows_are_halved_in_time_that_grows_as_they_do() {
        let row = |at: usize| Row {
            line: at as u64,
            file_name: String::new(),
            path: PathBuf::new(),
            sha256: format!("{at:064x}"),
            class: Some(at % 2),
            group: None,
            description: None,
            half: Half::Fitted,
        };
        let given = (0..200_000).map(|at| Given { row: row(at), split: None, seen: None }).collect();
        let begun = std::time::Instant::now();
        let halves = halved(given, 1);
        assert_eq!(halves.iter().filter(|row| row.half == Half::Fitted).count(), 100_000);
        assert!(begun.elapsed().as_secs() < 60, "a search through all rows for each row takes minutes");
    }

    #[test]
    fn everything_wrong_is_listed_at_once() {
        let failure = rows("file_name,class\n0.png,A\n../0.png,A\nabsent.png,B\n1.png,C\n2.png,\n", 3).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        let text = failure.to_string();
        for part in ["line 3: ../0.png leaves the image folder", "line 4: absent.png", "line 5: class `C`", "line 6: no class"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(rows("file_name\n0.png\n", 1).unwrap_err().to_string().contains("no column `class`"));
        assert!(rows("file_name,class,split\n0.png,A,train\n", 1).unwrap_err().to_string().contains("train"));
    }

    #[test]
    fn a_patient_is_in_one_half_and_both_halves_have_every_class() {
        let line = |at: usize| format!("{at}.png,{},p{}\n", if at % 4 < 2 { "A" } else { "B" }, at / 2);
        let csv = format!("file_name,class,group\n{}", (0..16).map(line).collect::<String>());
        let rows = rows(&csv, 16).unwrap();
        for half in [Half::Fitted, Half::Reported] {
            let classes: Vec<_> = rows.iter().filter(|row| row.half == half).map(|row| row.class).collect();
            assert_eq!(classes.len(), 8);
            assert!(classes.contains(&Some(0)) && classes.contains(&Some(1)));
        }
        assert!(rows.chunks(2).all(|pair| pair[0].half == pair[1].half));
        assert_eq!(data_sha256(&rows).len(), 64);
    }

    #[test]
    fn the_files_own_parts_are_kept() {
        let rows = rows("file_name,class,split\n0.png,A,train\n1.png,B,validation\n2.png,A,test\n", 3).unwrap();
        assert_eq!(rows.iter().map(|row| (row.line, row.half)).collect::<Vec<_>>(), [(3, Half::Fitted), (4, Half::Reported)]);
    }
}
