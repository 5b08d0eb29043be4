//! The data of a qualification: rows of a CSV file with their images, checked as a whole before anything is loaded.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use mmlnb_models::hash::sha256_hex;
use mmlnb_models::sheet::{Record, Sheet, SheetError};

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
}

/// The hash of a file whose header is that of an image, or why it is none.
pub type Inspect<'a> = dyn FnMut(&Path) -> Result<[u8; 32], Failure> + 'a;

/// Reads and checks everything.
///
/// # Errors
/// [`Exit::Usage`] with every problem of the file and the images.
pub fn read(file: &Path, images: &Path, needs: &Needs<'_>, inspect: &mut Inspect<'_>) -> Result<Vec<Row>, Failure> {
    let sheet = Sheet::read(file).map_err(|error| unreadable(file, error))?;
    let mut problems = Vec::new();
    if sheet.records.is_empty() {
        problems.push("there are no rows".to_owned());
    }
    for (needed, column) in [(needs.classes.is_some(), "class"), (needs.description, "description")] {
        if needed && sheet.column(column).is_none() {
            problems.push(format!("no column `{column}`; the header has: {}", sheet.header.join(", ")));
        }
    }
    let mut rows: Vec<(Row, Option<&str>)> = Vec::new();
    if problems.is_empty() {
        for record in &sheet.records {
            match row(&sheet, record, images, needs, inspect) {
                Ok(Some(row)) => rows.push((row, sheet.field(record, "split"))),
                Ok(None) => {}
                Err(found) => problems.extend(found.into_iter().map(|problem| format!("line {}: {problem}", record.line))),
            }
        }
        problems.extend(twice(&rows));
        if rows.is_empty() && problems.is_empty() {
            problems.push("every row is of the part `train`, and training images say nothing about a bundle".to_owned());
        }
    }
    if !problems.is_empty() {
        let place = file.display().to_string();
        let problems = problems.into_iter().map(|what| Problem::new(what, &place, "correct the file or the images")).collect();
        return Err(Failure { exit: Exit::Usage, problems });
    }
    Ok(halved(rows, needs.seed))
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

/// A row that is used, none for one that was trained on, or all that is wrong with it.
fn row(
    sheet: &Sheet,
    record: &Record,
    images: &Path,
    needs: &Needs<'_>,
    inspect: &mut Inspect<'_>,
) -> Result<Option<Row>, Vec<String>> {
    let field = |column: &str| sheet.field(record, column);
    let mut problems = Vec::new();
    match field("split") {
        Some("train") => return Ok(None),
        None | Some("validation" | "test") => {}
        Some(other) => problems.push(format!("split `{other}` is none of train, validation, test")),
    }
    let class = needs.classes.and_then(|classes| match field("class") {
        None => {
            problems.push("no class".to_owned());
            None
        }
        Some(name) => {
            let class = classes.iter().position(|class| class == name);
            if class.is_none() {
                problems.push(format!("class `{name}` is none of the bundle's: {}", classes.join(", ")));
            }
            class
        }
    });
    if needs.description && field("description").is_none() {
        problems.push("no description, and the bundle has no describer to write one".to_owned());
    }
    let file_name = field("file_name").unwrap_or_default().to_owned();
    let path = images.join(&file_name);
    let sha256 = match image(&file_name, &path, inspect) {
        Ok(sha256) => sha256,
        Err(problem) => {
            problems.push(problem);
            String::new()
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let text = |column: &str| field(column).map(str::to_owned);
    let (group, description) = (text("group"), text("description"));
    Ok(Some(Row { line: record.line, file_name, path, sha256, class, group, description, half: Half::Fitted }))
}

/// The hash of an image that lies in the folder and has the header of one.
fn image(file_name: &str, path: &Path, inspect: &mut Inspect<'_>) -> Result<String, String> {
    if file_name.is_empty()
        || !Path::new(file_name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(format!("file_name `{file_name}` does not lie in the image folder"));
    }
    let sha256 = inspect(path).map_err(|failure| format!("{file_name}: {}", failure.problems[0].what))?;
    Ok(hex(&sha256))
}

/// Rows with the same image content.
fn twice(rows: &[(Row, Option<&str>)]) -> Vec<String> {
    let mut first: BTreeMap<&str, &Row> = BTreeMap::new();
    let mut problems = Vec::new();
    for (row, _) in rows {
        match first.get(row.sha256.as_str()) {
            Some(other) => problems.push(format!(
                "line {}: {} is the same image as {} in line {}",
                row.line, row.file_name, other.file_name, other.line
            )),
            None => drop(first.insert(&row.sha256, row)),
        }
    }
    problems
}

/// Assigns the halves: the column `split` where it names both parts, else every other patient, ordered by class and a seeded hash.
fn halved(rows: Vec<(Row, Option<&str>)>, seed: u64) -> Vec<Row> {
    let named = |part: &str| rows.iter().any(|(_, split)| *split == Some(part));
    if named("validation") && named("test") {
        let half = |split: Option<&str>| if split == Some("test") { Half::Reported } else { Half::Fitted };
        return rows.into_iter().map(|(row, split)| Row { half: half(split), ..row }).collect();
    }
    let patient = |row: &Row| row.group.clone().unwrap_or_else(|| format!("\0{}", row.sha256));
    let mut patients: BTreeMap<String, Option<usize>> = BTreeMap::new();
    for (row, _) in &rows {
        patients.entry(patient(row)).or_insert(row.class);
    }
    let mut order: Vec<(Option<usize>, String, String)> =
        patients.into_iter().map(|(name, class)| (class, sha256_hex(format!("{seed} {name}").as_bytes()), name)).collect();
    order.sort();
    let fitted: Vec<&String> = order.iter().step_by(2).map(|(_, _, name)| name).collect();
    let half = |row: &Row| if fitted.contains(&&patient(row)) { Half::Fitted } else { Half::Reported };
    rows.into_iter().map(|(row, _)| Row { half: half(&row), ..row }).collect()
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
        let dir = folder(csv, images);
        let classes = ["A", "B"].map(String::from);
        let needs = Needs { classes: Some(&classes), description: false, seed: 3 };
        read(&dir.path().join("data.csv"), dir.path(), &needs, &mut |path| {
            crate::assess::pipeline::bytes(path).map(|bytes| bytes.sha256)
        })
    }

    #[test]
    fn everything_wrong_is_listed_at_once() {
        let failure = rows("file_name,class\n0.png,A\n../0.png,A\nabsent.png,B\n1.png,C\n0.png,\n", 2).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        let text = failure.to_string();
        for part in ["line 3: file_name `../0.png`", "line 4: absent.png", "line 5: class `C`", "line 6: no class"] {
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
