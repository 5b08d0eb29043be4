//! A CSV file as it stands: its header, and each record with its line. Training and qualifying read their data through it.

use csv::{ByteRecord, ReaderBuilder};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum SheetError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Some lines are wrong.
    #[error("{}:\n{}", file.display(), problems.join("\n"))]
    Lines {
        /// The file.
        file: PathBuf,
        /// Every problem with its line, indented.
        problems: Vec<String>,
    },
}

/// A CSV file with a header.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    /// The file.
    pub file: PathBuf,
    /// Names of the columns, in the file's order.
    pub header: Vec<String>,
    /// Without empty ones.
    pub records: Vec<Record>,
}

/// One record; as many fields as the header has.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// Without white space at both ends.
    pub fields: Vec<String>,
}

impl Sheet {
    /// Reads UTF-8 with or without a byte-order mark, commas, quoted fields.
    ///
    /// # Errors
    /// [`SheetError::Lines`] with every line that cannot be read.
    pub fn read(file: &Path) -> Result<Sheet, SheetError> {
        let bytes = fs::read(file).map_err(|source| SheetError::Io { file: file.into(), source })?;
        let refused = |problems| SheetError::Lines { file: file.into(), problems };
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Err(refused(vec!["  the file is UTF-16; save it as CSV UTF-8".into()]));
        }
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let (records, mut problems) = records(text);
        let mut records = records.into_iter();
        let Some(header) = records.next() else {
            problems.push("  the file is empty; its first line names the columns: file_name,description,class".into());
            return Err(refused(problems));
        };
        let records: Vec<Record> = records.collect();
        problems.extend(header_problems(&header.fields));
        let columns = header.fields.len();
        for record in records.iter().filter(|record| record.fields.len() != columns) {
            let Record { line, fields } = record;
            problems.push(format!(
                "  line {line}: {} fields where the header has {columns}; a text with commas or line breaks stands in double quotes",
                fields.len()
            ));
        }
        if !problems.is_empty() {
            return Err(refused(problems));
        }
        Ok(Sheet { file: file.into(), header: header.fields, records })
    }

    /// A field by its column's name; none where there is no such column or nothing in it.
    pub fn field<'r>(&self, record: &'r Record, column: &str) -> Option<&'r str> {
        self.column(column).map(|at| record.fields[at].as_str()).filter(|text| !text.is_empty())
    }

    /// The place of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }
}

/// All records that are UTF-8 and not empty, and what is wrong with the others.
fn records(text: &[u8]) -> (Vec<Record>, Vec<String>) {
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
    let (mut records, mut problems) = (Vec::new(), Vec::new());
    let mut record = ByteRecord::new();
    // The parser stops only at the end of the text: in memory no read fails, and with `flexible` no length does.
    while reader.read_byte_record(&mut record).unwrap_or(false) {
        let line = beginning(text, &record);
        let fields: Result<Vec<String>, _> = record.iter().map(|field| String::from_utf8(field.trim_ascii().to_vec())).collect();
        match fields {
            Ok(fields) if fields.iter().all(String::is_empty) => {}
            Ok(fields) => records.push(Record { line, fields }),
            Err(_) => problems.push(format!("  line {line}: not UTF-8; save the file as CSV UTF-8")),
        }
    }
    (records, problems)
}

/// The parser's line is that of the first empty line before a record.
fn beginning(text: &[u8], record: &ByteRecord) -> u64 {
    let Some(position) = record.position() else { return 1 };
    let before = text[position.byte() as usize..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r'));
    position.line() + before.filter(|byte| **byte == b'\n').count() as u64
}

fn header_problems(header: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    if !header.iter().any(|name| name == "file_name") {
        let separated = header.len() == 1 && header[0].contains(';');
        let hint = if separated { "; columns are separated by commas, not semicolons" } else { "" };
        problems.push(format!("  line 1: no column `file_name`, the header has: {}{hint}", header.join(", ")));
    }
    for name in ["file_name", "description", "class", "group", "site", "split"] {
        if header.iter().filter(|column| *column == name).count() > 1 {
            problems.push(format!("  line 1: the column `{name}` stands there twice"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Sheet, SheetError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.csv");
        fs::write(&file, text).unwrap();
        Sheet::read(&file)
    }

    #[test]
    fn a_record_is_known_by_the_line_on_which_it_begins() {
        let text = "\n\nfile_name,description\na.png,\"two\nlines, and \"\"quotes\"\"\"\n\n\r\nb.png, word \n,\nc.png,\n";
        let sheet = read(text.as_bytes()).unwrap();
        let lines: Vec<(u64, &str)> = sheet.records.iter().map(|record| (record.line, record.fields[1].as_str())).collect();
        assert_eq!(lines, [(4, "two\nlines, and \"quotes\""), (8, "word"), (10, "")]);
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
        let plain = read(b"file_name,class\na.png,PD\nb.png,D\n").unwrap();
        let windows = read(b"\xef\xbb\xbffile_name,class\r\na.png,PD\r\nb.png,D").unwrap();
        assert_eq!((plain.header, plain.records), (windows.header, windows.records));
    }

    #[test]
    fn all_unreadable_lines_are_listed() {
        let error = read(b"file_name,class,class\na.png,PD,1,2\n\xff.png,D,3\nb.png\n").unwrap_err();
        let SheetError::Lines { problems, .. } = &error else { panic!("{error}") };
        assert_eq!(problems.len(), 4, "{error}");
        for part in ["line 1: the column `class`", "line 2: 4 fields", "line 3: not UTF-8", "line 4: 1 fields"] {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part} is not in {error}");
        }
    }

    #[test]
    fn the_commonest_wrong_files_are_named_for_what_they_are() {
        for (text, part) in [
            (&b"file_name;class\na;b\n"[..], "semicolons"),
            (b"\xff\xfef\0", "UTF-16"),
            (b"", "empty"),
            (b"image,class\n", "the header has: image, class"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
