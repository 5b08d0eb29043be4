//! A CSV file with all its columns, to be given back with descriptions in it.

use super::Generated;
use crate::error::TrainError;
use std::{
    fs::{self, File},
    path::{Component, Path, PathBuf},
};

const FILE_NAME: &str = "file_name";
/// Columns that are written, after the others where they are new.
const WRITTEN: [&str; 4] = ["description", "description_tokens", "stop_reason", "mean_token_logprob"];

/// Header and rows, as they are.
#[derive(Clone, Debug)]
pub struct Sheet {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Line on which each row begins, from 1.
    lines: Vec<u64>,
    file_name: usize,
}

impl Sheet {
    /// Reads a CSV file in UTF-8, with or without a byte order mark.
    ///
    /// # Errors
    /// Everything that is wrong with the file's form: no column `file_name`, rows of another length, names that leave the image folder.
    pub fn read(file: &Path) -> Result<Sheet, TrainError> {
        let bytes = fs::read(file).map_err(TrainError::io("read", file))?;
        let wrong = |problems: Vec<String>| TrainError::Data { file: file.to_path_buf(), problems };
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            wrong(vec![format!("line {line}: not UTF-8; save the file as UTF-8")])
        })?;
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.trim_start_matches('\u{feff}').as_bytes());
        let columns: Vec<String> = reader
            .headers()
            .map_err(|error| wrong(vec![error.to_string()]))?
            .iter()
            .map(|name| name.trim().to_string())
            .collect();
        let Some(file_name) = columns.iter().position(|name| name == FILE_NAME) else {
            return Err(wrong(vec![format!("line 1: no column {FILE_NAME}; there are {}", columns.join(", "))]));
        };
        let mut sheet = Sheet { columns, rows: Vec::new(), lines: Vec::new(), file_name };
        let mut problems: Vec<String> = sheet.doubled().into_iter().map(|name| format!("line 1: two columns {name}")).collect();
        for record in reader.records() {
            let record = record.map_err(|error| wrong(vec![error.to_string()]))?;
            let line = record.position().map_or(0, csv::Position::line);
            let name = record.get(file_name).unwrap_or_default();
            if record.len() != sheet.columns.len() {
                problems.push(format!("line {line}: {} fields, the header has {}", record.len(), sheet.columns.len()));
            } else if name.is_empty() || !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
                problems.push(format!("line {line}: `{name}` is no file below the image folder"));
            }
            sheet.rows.push(record.iter().map(str::to_string).collect());
            sheet.lines.push(line);
        }
        if sheet.rows.is_empty() {
            problems.push("there are no rows".into());
        }
        if problems.is_empty() { Ok(sheet) } else { Err(wrong(problems)) }
    }

    fn doubled(&self) -> Vec<&str> {
        let twice = |(at, name): (usize, &String)| self.columns[..at].contains(name);
        self.columns.iter().enumerate().filter(|(at, name)| twice((*at, name))).map(|(_, name)| name.as_str()).collect()
    }

    /// The rows' image files below `images`.
    pub fn files(&self, images: &Path) -> Vec<PathBuf> {
        self.rows.iter().map(|row| images.join(&row[self.file_name])).collect()
    }

    /// Line and file name of a row.
    pub fn place(&self, row: usize) -> (u64, &str) {
        (self.lines[row], &self.rows[row][self.file_name])
    }

    /// Writes the rows with their descriptions; a row without one gets empty fields. The file appears whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, file: &Path, descriptions: &[Option<&Generated>]) -> Result<(), TrainError> {
        let mut columns = self.columns.clone();
        columns
            .extend(WRITTEN.iter().filter(|name| !self.columns.iter().any(|known| known == *name)).map(|name| name.to_string()));
        let places = WRITTEN.map(|name| columns.iter().position(|known| known == name).expect("it was added above"));
        let mut partial = file.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let failed = |error: csv::Error| TrainError::io("write", &partial)(std::io::Error::other(error));
        let output = File::create(&partial).map_err(TrainError::io("create", &partial))?;
        let mut writer = csv::Writer::from_writer(output);
        writer.write_record(&columns).map_err(failed)?;
        for (row, description) in self.rows.iter().zip(descriptions) {
            let mut fields = row.clone();
            fields.resize(columns.len(), String::new());
            for (place, value) in places.iter().zip(written(*description)) {
                fields[*place] = value;
            }
            writer.write_record(&fields).map_err(failed)?;
        }
        let output = writer.into_inner().map_err(|error| TrainError::io("write", &partial)(error.into_error()))?;
        output.sync_all().map_err(TrainError::io("write", &partial))?;
        fs::rename(&partial, file).map_err(TrainError::io("rename", &partial))
    }
}

/// The fields of [`WRITTEN`].
fn written(description: Option<&Generated>) -> [String; 4] {
    description.map_or_else(Default::default, |one| {
        [
            one.text.clone(),
            one.written_tokens().to_string(),
            one.stop_reason.name().to_string(),
            format!("{:.6}", one.mean_logprob),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::StopReason;

    fn generated(text: &str) -> Generated {
        Generated { text: text.into(), token_ids: vec![1, 2, 3], stop_reason: StopReason::EndToken, mean_logprob: -0.25 }
    }

    fn sheet(text: &str) -> Result<(Sheet, tempfile::TempDir), TrainError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.csv");
        fs::write(&file, text).unwrap();
        Sheet::read(&file).map(|sheet| (sheet, folder))
    }

    #[test]
    fn columns_stay_and_descriptions_are_replaced() {
        let (sheet, folder) =
            sheet("\u{feff}class,description,file_name,mine\nUD,old,a.png,\"x, y\"\nPD,older,b/c.png,z\n").unwrap();
        assert_eq!(sheet.files(Path::new("images")), [Path::new("images/a.png"), Path::new("images/b/c.png")]);
        let output = folder.path().join("out.csv");
        sheet.write(&output, &[Some(&generated("two\nlines")), None]).unwrap();
        let written = fs::read_to_string(output).unwrap();
        let expected = "class,description,file_name,mine,description_tokens,stop_reason,mean_token_logprob\n\
                        UD,\"two\nlines\",a.png,\"x, y\",2,end_token,-0.250000\nPD,,b/c.png,z,,,\n";
        assert_eq!(written, expected);
    }

    #[test]
    fn all_problems_are_listed_with_their_lines() {
        let error = sheet("file_name,class\n../a.png,UD\n/b.png,UD\n,UD\nc.png\n\"d\n.png\",UD\n").unwrap_err().to_string();
        for line in ["line 2: `../a.png`", "line 3: `/b.png`", "line 4: ``", "line 5: 1 fields"] {
            assert!(error.contains(line), "{error}");
        }
        assert!(!error.contains("line 6"), "{error}");
        assert!(sheet("name,class\na,b\n").unwrap_err().to_string().contains("no column file_name"));
        assert!(sheet("file_name\n").unwrap_err().to_string().contains("no rows"));
        assert!(sheet("file_name,file_name\na,b\n").unwrap_err().to_string().contains("two columns"));
    }
}
