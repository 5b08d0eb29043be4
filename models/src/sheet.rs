//! A CSV file as it stands: its header, and each record with its line. Training and qualifying read their data through it.

use crate::{
    problems::Problems,
    spelling::{folded, is_blank, is_near, is_placeholder, shown},
};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// Columns that commands read.
const READ: [&str; 6] = ["file_name", "description", "class", "group", "site", "split"];
/// Columns that `generate` writes beside the description.
const WRITTEN: [&str; 3] = ["description_tokens", "stop_reason", "mean_token_logprob"];

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
        /// Every problem with its line, indented; at most a hundred of a kind.
        problems: Vec<String>,
        /// All of them.
        count: usize,
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
    /// Reads UTF-8 with or without a byte-order mark, commas, quoted fields. A quote that does not open or close a field is an error: what a lenient
    /// reader would make of it swallows rows.
    ///
    /// # Errors
    /// [`SheetError::Lines`] with every line that cannot be read.
    pub fn read(file: &Path) -> Result<Sheet, SheetError> {
        let bytes = fs::read(file).map_err(|source| SheetError::Io { file: file.into(), source })?;
        let refused = |problems: Problems| {
            let count = problems.count();
            SheetError::Lines { file: file.into(), problems: problems.lines(), count }
        };
        let mut problems = Problems::default();
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.iter().take(64).any(|byte| *byte == 0) {
            problems.whole("the file is UTF-16; save it as CSV UTF-8".into());
            return Err(refused(problems));
        }
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let mut records = Records { text, at: 0, line: 1, name: None };
        let Some(header) = records.next(&mut problems) else {
            problems.whole("the file is empty; its first line names the columns: file_name,description,class".into());
            return Err(refused(problems));
        };
        header_problems(&header.fields, &mut problems);
        if separator(&header.fields).is_some() {
            return Err(refused(problems));
        }
        records.name = header.fields.iter().position(|column| column == "file_name");
        let columns = header.fields.len();
        let mut rows = Vec::new();
        while let Some(Record { line, fields }) = records.next(&mut problems) {
            if fields.len() == columns {
                rows.push(Record { line, fields });
                continue;
            }
            let problem = format!(
                "{} fields where the header has {columns}; a text with commas or line breaks stands in double quotes",
                fields.len()
            );
            problems.at(line, "rows of another length than the header's", problem);
        }
        if problems.is_empty() {
            Ok(Sheet { file: file.into(), header: header.fields, records: rows })
        } else {
            Err(refused(problems))
        }
    }

    /// A field by its column's name; none where there is no such column or nothing to be seen in it.
    pub fn field<'r>(&self, record: &'r Record, column: &str) -> Option<&'r str> {
        self.column(column).map(|at| record.fields[at].as_str()).filter(|text| !is_blank(text))
    }

    /// The place of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }

    /// Names of columns that no command reads or writes.
    pub fn unknown_columns(&self) -> Vec<&str> {
        let known = |name: &str| READ.contains(&name) || WRITTEN.contains(&name) || is_blank(name);
        self.header.iter().map(String::as_str).filter(|name| !known(name)).collect()
    }

    /// Whether `generate` wrote the descriptions.
    pub fn is_generated(&self) -> bool {
        self.column("description").is_some() && WRITTEN.iter().any(|name| self.column(name).is_some())
    }

    /// What is wrong with the values of columns that identify something: two spellings of one value, and words for a value that is not there.
    pub fn identities(&self, columns: &[&str], problems: &mut Problems) {
        for column in columns {
            let Some(at) = self.column(column) else { continue };
            let mut folds: HashMap<&str, String> = HashMap::new();
            let mut spellings: HashMap<String, (&str, u64)> = HashMap::new();
            for Record { line, fields } in &self.records {
                let value = fields[at].as_str();
                if is_blank(value) || folds.contains_key(value) && spellings[&folds[value]].0 == value {
                    continue;
                }
                if is_placeholder(value) {
                    let problem =
                        format!("{column} `{}` is no value; fill it in, or leave it empty where it may be", shown(value));
                    problems.at(*line, "a word for a value that is not there", problem);
                    continue;
                }
                let fold = folds.entry(value).or_insert_with(|| folded(value));
                let (first, at) = *spellings.entry(fold.clone()).or_insert((value, *line));
                if first != value {
                    let problem = format!(
                        "{column} `{}` is spelled `{}` in line {at}: they differ only in spelling, write one of them",
                        shown(value),
                        shown(first)
                    );
                    problems.at(*line, "a value that is spelled in another way elsewhere", problem);
                }
            }
        }
    }

    /// Texts in `description` that stand for none, and texts with control tokens in them: those of `tokens`, and whatever is written like one of them.
    pub fn texts(&self, tokens: &[&str], problems: &mut Problems) {
        for record in &self.records {
            let Some(text) = self.field(record, "description") else { continue };
            if is_placeholder(text) {
                let problem = format!("`description` is `{}`, which describes nothing", shown(text));
                problems.at(record.line, "a word for a text that is not there", problem);
            }
            let found = control_tokens(text, tokens);
            if !found.is_empty() {
                let problem =
                    format!("`description` holds {}, which the model reads as a control token; delete it", found.join(", "));
                problems.at(record.line, "control tokens in texts", problem);
            }
        }
    }
}

/// The control tokens in a text.
fn control_tokens<'t>(text: &'t str, tokens: &[&'t str]) -> Vec<&'t str> {
    let mut found: Vec<&str> = tokens.iter().copied().filter(|token| text.contains(token)).collect();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("<|") {
        let Some((name, _)) = after.split_once("|>") else { break };
        let start = text.len() - after.len() - 2;
        let token = &text[start..start + name.len() + 4];
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        if is_name && !found.contains(&token) {
            found.push(token);
        }
        rest = after;
    }
    found
}

/// Reads records one after the other.
struct Records<'t> {
    text: &'t [u8],
    at: usize,
    /// Of `at`, from 1.
    line: u64,
    /// The place of the images' names, once the header is known.
    name: Option<usize>,
}

impl Records<'_> {
    /// The next record that is whole, UTF-8 and not empty; what is wrong with others is kept.
    fn next(&mut self, problems: &mut Problems) -> Option<Record> {
        while self.at < self.text.len() {
            let (start, line) = (self.at, self.line);
            match self.record() {
                Ok(fields) => {
                    let fields: Result<Vec<String>, _> =
                        fields.iter().map(|field| String::from_utf8(field.trim_ascii().to_vec())).collect();
                    match fields {
                        Ok(fields) if fields.iter().all(String::is_empty) => {}
                        Ok(fields) => return Some(Record { line, fields }),
                        Err(_) => problems.at(line, "lines that are not UTF-8", "not UTF-8; save the file as CSV UTF-8".into()),
                    }
                }
                Err((at, problem)) => {
                    problems.at(at, "wrong quotes", problem);
                    // The next line is read on its own: what follows a wrong quote may be right.
                    (self.at, self.line) = (start, line);
                    while self.at < self.text.len() && !self.ends_line() {
                        self.at += 1;
                    }
                }
            }
        }
        None
    }

    /// The fields up to the end of the record; or the line and what is wrong there.
    fn record(&mut self) -> Result<Vec<Vec<u8>>, (u64, String)> {
        let mut fields = Vec::new();
        loop {
            let field = if self.text.get(self.at) == Some(&b'"') { self.quoted(&fields)? } else { self.plain()? };
            fields.push(field);
            match self.text.get(self.at) {
                Some(b',') => self.at += 1,
                _ => {
                    self.ends_line();
                    return Ok(fields);
                }
            }
        }
    }

    fn plain(&mut self) -> Result<Vec<u8>, (u64, String)> {
        let rest = &self.text[self.at..];
        let end = rest.iter().position(|byte| matches!(byte, b',' | b'\r' | b'\n')).unwrap_or(rest.len());
        if rest[..end].contains(&b'"') {
            let problem = "a double quote inside a field; put the whole field in quotes and write the quote twice, or delete it";
            return Err((self.line, problem.into()));
        }
        self.at += end;
        Ok(rest[..end].to_vec())
    }

    /// A field in quotes; `before`: the record's fields so far.
    fn quoted(&mut self, before: &[Vec<u8>]) -> Result<Vec<u8>, (u64, String)> {
        let opened = self.line;
        let mut field = Vec::new();
        self.at += 1;
        loop {
            match self.text.get(self.at) {
                None => return Err((opened, "a quote opens a text here that no quote closes".into())),
                Some(b'"') if self.text.get(self.at + 1) == Some(&b'"') => {
                    field.push(b'"');
                    self.at += 2;
                }
                Some(b'"') => break,
                Some(byte) => {
                    field.push(*byte);
                    let from = self.at;
                    if self.ends_line() {
                        field.extend(&self.text[from + 1..self.at]);
                    } else {
                        self.at += 1;
                    }
                }
            }
        }
        self.at += 1;
        while self.text.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        if !matches!(self.text.get(self.at), None | Some(b',' | b'\r' | b'\n')) {
            let place = if opened == self.line { String::new() } else { format!(" in line {}", self.line) };
            let problem = format!(
                "the quote that opens here ends{place} in the middle of a field; close it, or write quotes inside it twice"
            );
            return Err((opened, problem));
        }
        match self.swallowed(before, &field) {
            Some(row) => Err((
                opened,
                format!("the quote that opens here runs over lines that are rows (`{row}`); close it where the text ends"),
            )),
            None => Ok(field),
        }
    }

    /// The beginning of a line inside a text that is a row: it names an image where rows do, of the same kind as this row's.
    fn swallowed(&self, before: &[Vec<u8>], field: &[u8]) -> Option<String> {
        let place = self.name?;
        let field = String::from_utf8_lossy(field);
        let kind = |name: &str| {
            name.trim().rsplit_once('.').map(|(_, kind)| kind.to_lowercase()).filter(|kind| (2..=5).contains(&kind.len()))
        };
        let own = before.get(place).and_then(|name| kind(&String::from_utf8_lossy(name)));
        let is_row = |line: &&str| {
            let name = line.split(',').nth(place).and_then(kind);
            let other = ["png", "jpg", "jpeg", "tif", "tiff", "bmp"];
            line.contains(',') && name.is_some_and(|name| Some(&name) == own.as_ref() || other.contains(&name.as_str()))
        };
        let row = field.split(['\n', '\r']).skip(1).find(is_row)?;
        Some(row.trim().chars().take(40).collect())
    }

    /// Whether a line ends here; then it is behind.
    fn ends_line(&mut self) -> bool {
        let ends = match self.text.get(self.at) {
            Some(b'\r') => 1 + usize::from(self.text.get(self.at + 1) == Some(&b'\n')),
            Some(b'\n') => 1,
            _ => return false,
        };
        self.at += ends;
        self.line += 1;
        true
    }
}

/// What separates the columns of a header that has no comma.
fn separator(header: &[String]) -> Option<&'static str> {
    let [only] = header else { return None };
    [(';', "semicolons"), ('\t', "tabs"), ('|', "bars")].into_iter().find(|(mark, _)| only.contains(*mark)).map(|(_, name)| name)
}

fn header_problems(header: &[String], problems: &mut Problems) {
    let mut at = |problem: String| problems.at(1, "the header", problem);
    if !header.iter().any(|name| name == "file_name") {
        let hint = separator(header).map_or(String::new(), |mark| format!("; columns are separated by commas, not {mark}"));
        at(format!("no column `file_name`, the header has: {}{hint}", header.join(", ")));
    }
    for name in READ {
        if header.iter().filter(|column| *column == name).count() > 1 {
            at(format!("the column `{name}` stands there twice"));
        }
    }
    for column in header.iter().filter(|column| !READ.contains(&column.as_str())) {
        if let Some(name) = READ.into_iter().find(|name| is_near(&folded(column), &folded(name))) {
            at(format!(
                "the column `{}` is not read, and nearly the name of `{name}`; rename it to one or the other",
                shown(column)
            ));
        }
    }
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

    #[test]
    fn a_wrong_quote_is_an_error_with_its_line_and_no_row_is_lost() {
        let wrong = [
            ("a.png,x\nb.png,\"open\nc.png,y\n", "line 3: a quote opens a text here"),
            ("a.png,x\nb.png,\"open\nc.png,\"y\"\nd.png,z\n", "line 3: the quote that opens here ends in line 4 in the middle"),
            (
                "a.png,x\nb.png,\"open\nc.png,\"\nd.png,z\n",
                "line 3: the quote that opens here runs over lines that are rows (`c.png,`)",
            ),
            ("a.png,x\nb.png,\"", "line 3: a quote opens a text here"),
            ("a.png,x\nb.png,5\" wide\n", "line 3: a double quote inside a field"),
            ("a.png,\"x\"y\n", "line 2: the quote that opens here ends in the middle"),
            ("a.png, \"x\"\n", "line 2: a double quote inside a field"),
            ("a.png,\"x\ny\n", "line 2: a quote opens a text here"),
            ("a.png,\"x\r\nb.png,y\r\nc.png,z\"\r\n", "line 2: the quote that opens here runs over"),
        ];
        for (rows, part) in wrong {
            let error = read(format!("file_name,description\n{rows}").as_bytes()).unwrap_err();
            assert!(error.to_string().contains(part), "{rows:?}: {error}");
        }
        let both = read(b"file_name,description\na.png,5\" w\nb.png\nc.png,x\"\n").unwrap_err().to_string();
        assert!(["line 2", "line 3: 1 fields", "line 4"].iter().all(|part| both.contains(part)), "{both}");
        let right = "file_name,description\na.png,\"one, \"\"two\"\"\r\nthree, four\" \nb.png,\"\"\nc.png,\"x\"";
        let texts: Vec<String> =
            read(right.as_bytes()).unwrap().records.into_iter().map(|mut one| one.fields.remove(1)).collect();
        assert_eq!(texts, ["one, \"two\"\r\nthree, four", "", "x"]);
        assert_eq!(read(b"file_name,class\ra.png,PD\rb.png,D\r").unwrap().records[1].line, 3);
    }

    #[test]
    fn a_near_name_of_a_column_is_an_error_and_any_other_is_told() {
        let near = [
            "Split",
            "split\u{a0}",
            "splits",
            "SPLIT",
            "spilt",
            "Group",
            "groups",
            "Site",
            "sites",
            "Class",
            "clas",
            "Description",
            "descriptions",
            "\u{feff}group",
            "cla ss",
            "filename",
            "File Name",
            "\u{ff33}plit",
        ];
        for name in near {
            let error = read(format!("file_name,{name}\na.png,x\n").as_bytes()).unwrap_err().to_string();
            assert!(error.contains("nearly the name of"), "{name}: {error}");
        }
        let sheet = read(b"file_name,scanner,classes,,patient,stop_reason,split\na.png,1,2,3,4,5,test\n").unwrap();
        assert_eq!(sheet.unknown_columns(), ["scanner", "classes", "patient"]);
    }

    #[test]
    fn two_spellings_of_one_value_are_named_with_both_lines() {
        let of = |column: &str, values: &[&str]| {
            let rows: String = values.iter().map(|value| format!("a.png,{value}\n")).collect();
            let mut problems = Problems::default();
            read(format!("file_name,{column}\n{rows}").as_bytes())
                .unwrap()
                .identities(&["group", "site", "class", "split"], &mut problems);
            problems.lines()
        };
        for pair in [
            ["001", "1"],
            ["P00", "p00"],
            ["1", "1.0"],
            ["P 1", "P\u{a0}1"],
            ["A B", "A  B"],
            ["UD", "\u{ff35}D"],
            ["UD", "UD\u{200b}"],
            ["UD", "UD\u{a0}"],
            ["2", "2.0"],
            ["P1", "P01"],
        ] {
            for column in ["group", "site", "class", "split"] {
                let problems = of(column, &["x1", pair[0], pair[0], pair[1], pair[0]]);
                assert_eq!(problems.len(), 1, "{pair:?}: {problems:?}");
                assert!(problems[0].contains("line 5: ") && problems[0].contains("in line 3"), "{problems:?}");
            }
        }
        for nothing in ["#N/A", "NA", "null", "-", "nan"] {
            assert!(of("class", &["UD", nothing])[0].contains("line 3: class"), "{nothing}");
        }
        assert!(of("group", &["P1", "P2", "P10", "", "\u{a0}"]).is_empty());
    }

    #[test]
    fn texts_that_hold_control_tokens_or_nothing_are_named() {
        let texts = ["fine", "#NAME?", "nan", "\u{a0}", ".", "a <|im_end|>", "a [SEP] b", "p <|x_1|> <|", "a <| b |> c", "None"];
        let rows: String = texts.iter().map(|text| format!("a.png,{text}\n")).collect();
        let sheet = read(format!("file_name,description\n{rows}").as_bytes()).unwrap();
        let mut problems = Problems::default();
        sheet.texts(&["[SEP]", "<|im_end|>"], &mut problems);
        let lines = problems.lines();
        let named: Vec<&str> = lines.iter().map(|line| line.trim().split(':').next().unwrap()).collect();
        assert_eq!(named, ["line 3", "line 4", "line 6", "line 7", "line 8", "line 9", "line 11"], "{lines:?}");
        assert!(sheet.field(&sheet.records[3], "description").is_none());
    }
}
