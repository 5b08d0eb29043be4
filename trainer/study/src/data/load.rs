//! From a CSV file and an image folder to a table, or to the list of everything that is wrong.

use super::{
    classes::{self, ClassOrder},
    images::{self, Looked},
    table::{Row, Table},
};
use crate::error::StudyError;
use mmlnb_models::{
    problems::Problems,
    rows::{self, Part},
    sheet::{Record, Sheet},
    spelling::is_placeholder,
};
use std::{collections::HashMap, path::Path};

/// What a stage cannot do without.
#[derive(Clone, Copy, Default)]
pub struct Needs<'a> {
    /// A text in every row.
    pub description: bool,
    /// A class in every row, and two classes at least.
    pub class: bool,
    /// The order of the classes.
    pub order: ClassOrder<'a>,
    /// How long a row's text may be.
    pub text: Option<TextLimit<'a>>,
    /// What the network that reads the texts takes for control tokens; a text must not hold them.
    pub control: &'a [&'a str],
}

/// How long the sequence of a row is for the network that reads it, and how long it may be.
#[derive(Clone, Copy)]
pub struct TextLimit<'a> {
    /// Tokens of the whole sequence, everything around the text included.
    pub tokens: &'a dyn Fn(&Row) -> usize,
    /// Most tokens.
    pub most: usize,
    /// Whether the network cuts longer ones, as `paper` does at 128; [`super::Summary`] counts them. Else they are refused.
    pub cut: bool,
}

/// Reads and checks a data set: every field, every image, before anything else is started.
///
/// # Errors
/// [`StudyError::Data`] with all problems by line.
pub fn load(file: &Path, folder: &Path, needs: &Needs<'_>) -> Result<Table, StudyError> {
    let sheet = Sheet::read(file)?;
    let mut problems = Problems::default();
    if sheet.records.is_empty() {
        problems.whole("there are no rows".into());
    }
    for (needed, column) in [(needs.description, "description"), (needs.class, "class")] {
        if needed {
            filled(&sheet, column, &mut problems);
        }
    }
    tell_unknown(&sheet);
    sheet.identities(&["group", "site", "class", "split"], &mut problems);
    if needs.description {
        sheet.texts(needs.control, &mut problems);
    }
    let class = |record| sheet.field(record, "class").filter(|class| !is_placeholder(class));
    let named: Vec<(u64, &str)> = sheet.records.iter().filter_map(|record| Some((record.line, class(record)?))).collect();
    let (classes, ordinal) = classes::classes(needs.order, &named, &mut problems);
    if needs.class && classes.len() == 1 {
        problems.whole(format!("every row has the class {}; at least two are needed", classes[0]));
    }
    let looked = look(folder, &sheet, &mut problems);
    let numbers: HashMap<&str, usize> = classes.iter().enumerate().map(|(number, name)| (name.as_str(), number)).collect();
    let rows: Vec<Row> =
        sheet.records.iter().zip(looked).map(|(record, looked)| row(&sheet, record, &numbers, looked, &mut problems)).collect();
    rows::duplicates(rows.iter().map(Row::identity), &mut problems);
    rows::assignments(rows.iter().map(Row::identity), &mut problems);
    too_long(&rows, needs.text, &mut problems);
    StudyError::data(file, problems)?;
    Ok(Table { file: file.into(), images: folder.into(), rows, classes, ordinal })
}

/// A column that has to be there, with something in every row.
fn filled(sheet: &Sheet, column: &str, problems: &mut Problems) {
    if sheet.column(column).is_none() {
        return problems.whole(format!("no column `{column}`; the header has: {}", sheet.header.join(", ")));
    }
    for record in sheet.records.iter().filter(|record| sheet.field(record, column).is_none()) {
        problems.at(record.line, "fields that are empty", format!("`{column}` is empty"));
    }
}

/// A column that nobody reads may be one whose name was meant otherwise.
pub fn tell_unknown(sheet: &Sheet) {
    let unknown = sheet.unknown_columns();
    if !unknown.is_empty() {
        eprintln!("note: {}: these columns are not read: {}", sheet.file.display(), unknown.join(", "));
    }
}

fn row(sheet: &Sheet, record: &Record, classes: &HashMap<&str, usize>, looked: Looked, problems: &mut Problems) -> Row {
    let text = |column| sheet.field(record, column).map(str::to_string);
    Row {
        line: record.line,
        file_name: text("file_name").unwrap_or_default(),
        description: text("description"),
        class: sheet.field(record, "class").and_then(|class| classes.get(class).copied()),
        group: text("group"),
        site: text("site"),
        split: sheet.field(record, "split").and_then(|split| Part::read(split, record.line, problems)),
        sha256: looked.sha256,
        width: looked.width,
        height: looked.height,
    }
}

/// An image for each record; an empty one where there is a problem.
fn look(folder: &Path, sheet: &Sheet, problems: &mut Problems) -> Vec<Looked> {
    let Some(column) = sheet.column("file_name") else { return Vec::new() };
    let first = rows::first_names(sheet, problems);
    let wanted = sheet.records.iter().zip(&first).filter(|(_, first)| **first);
    let names: Vec<&str> = wanted.map(|(record, _)| record.fields[column].as_str()).collect();
    let answers = images::look(folder, &names);
    let all_absent = answers.iter().zip(&names).all(|(_, name)| !folder.join(name).exists());
    if all_absent && !names.is_empty() {
        problems.whole(format!("none of the {} images is in {}; is --images right?", names.len(), folder.display()));
    }
    let mut answers = answers.into_iter();
    let mut usable = |(record, first): (&Record, bool)| {
        let answer = if first { answers.next() } else { None };
        match answer {
            Some(_) if record.fields[column].is_empty() => {
                problems.at(record.line, "fields that are empty", "`file_name` is empty".into());
            }
            Some(Err(problem)) if !all_absent => problems.at(record.line, "images that cannot be used", problem),
            Some(Ok(looked)) => return looked,
            Some(Err(_)) | None => {}
        }
        Looked::default()
    };
    sheet.records.iter().zip(first).map(&mut usable).collect()
}

fn too_long(rows: &[Row], limit: Option<TextLimit<'_>>, problems: &mut Problems) {
    let Some(limit) = limit.filter(|limit| !limit.cut) else { return };
    for row in rows.iter().filter(|row| row.description.is_some() && !row.sha256.is_empty()) {
        let tokens = (limit.tokens)(row);
        if tokens > limit.most {
            problems.at(
                row.line,
                "texts that are too long",
                format!("the text gives a sequence of {tokens} tokens, at most {} are read; shorten it", limit.most),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink, path::PathBuf};

    /// Images `0.png`, `1.png`, .. with different content, and a CSV file.
    struct Given {
        root: tempfile::TempDir,
    }

    impl Given {
        fn new(images: u8, csv: &str) -> Given {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("images")).unwrap();
            for number in 0..images {
                let picture = image::RgbImage::from_pixel(16, 12 + u32::from(number), image::Rgb([number, 40, 200]));
                picture.save(root.path().join(format!("images/{number}.png"))).unwrap();
            }
            fs::write(root.path().join("data.csv"), csv).unwrap();
            Given { root }
        }

        fn images(&self) -> PathBuf {
            self.root.path().join("images")
        }

        fn load(&self, needs: &Needs<'_>) -> Result<Table, StudyError> {
            load(&self.root.path().join("data.csv"), &self.images(), needs)
        }

        #[track_caller]
        fn problems(&self, needs: &Needs<'_>) -> Vec<String> {
            let error = self.load(needs).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let StudyError::Data { problems, .. } = error else { panic!("{error}") };
            problems
        }
    }

    const BOTH: Needs<'_> = Needs { description: true, class: true, order: ClassOrder::FromData, text: None, control: &[] };

    #[test]
    fn a_table_has_the_fields_of_any_column_order() {
        let given = Given::new(
            2,
            "site,class,scanner,file_name,group,description,split\nX,D,q,1.png,P1,\"a, b\",test\n,UD,q,./0.png,P2,c,Train\n",
        );
        let table = given.load(&BOTH).unwrap();
        assert_eq!((table.classes.clone(), table.ordinal), (vec!["UD".to_string(), "D".to_string()], true));
        let row = &table.rows[0];
        assert_eq!((row.line, row.description.as_deref(), row.class), (2, Some("a, b"), Some(1)));
        assert_eq!((row.group.as_deref(), row.site.as_deref(), row.split), (Some("P1"), Some("X"), Some(Part::Test)));
        assert_eq!((row.width, row.height), (16, 13));
        let bytes = fs::read(given.images().join("1.png")).unwrap();
        assert_eq!(row.sha256, mmlnb_models::hash::sha256_hex(&bytes));
        assert_eq!(table.rows[1].split, Some(Part::Train));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_and_by_line() {
        let csv = "file_name,description,class,group,split\n0.png,t,UD,P1,train\n0.png,t,UD,P1,train\nnone.png,t,UD,P1,train\n\
                   1.png,,UD,P1,test\n2.png,t,,P2,train\nbroken.png,t,ud,P2,train\n../data.csv,t,D,P2,train\nlink.png,t,D,P2,train\n\
                   copy.png,t,D,P3,validation\n,t,D,P3,validation\n/etc/hostname,t,D,,dev\na\\b.png,t,D,P3,validation\n";
        let given = Given::new(3, csv);
        fs::write(given.images().join("broken.png"), b"\x89PNG\r\n\x1a\n and no more").unwrap();
        fs::copy(given.images().join("2.png"), given.images().join("copy.png")).unwrap();
        let outside = given.root.path().join("outside.png");
        fs::copy(given.images().join("1.png"), &outside).unwrap();
        symlink(&outside, given.images().join("link.png")).unwrap();
        let problems = given.problems(&BOTH);
        let expected = [
            "group P1 is in several parts: train (lines 2, 3, 4), test (line 5)",
            "line 3: 0.png stands in line 2 too",
            "line 4: none.png is not in the image folder",
            "line 5: `description` is empty",
            "line 6: `class` is empty",
            "line 7: class `ud` is spelled `UD` in line 2",
            "line 7: broken.png: ",
            "line 8: ../data.csv leaves the image folder",
            "line 9: link.png is a link that leaves",
            "line 10: copy.png is the same image as 2.png in line 6, which is in another part (train; here validation)",
            "line 11: `file_name` is empty",
            "line 12: /etc/hostname leaves the image folder",
            "line 12: `split` is `dev`",
            "line 12: `group` is empty here",
            "line 12: `split` is empty here",
            "line 13: a\\b.png is not in the image folder; folders are separated by `/`",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for part in expected {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part} is not in {problems:#?}");
        }
        let lines =
            problems.iter().map(|p| p.trim().strip_prefix("line ").map_or(0, |p| p.split(':').next().unwrap().parse().unwrap()));
        assert!(lines.collect::<Vec<u32>>().is_sorted());
    }

    #[test]
    fn what_a_stage_does_not_need_may_be_absent() {
        let given = Given::new(2, "file_name\n0.png\n1.png\n");
        let table = given.load(&Needs::default()).unwrap();
        assert!(table.classes.is_empty() && !table.ordinal && table.rows[0].class.is_none());
        let problems = given.problems(&BOTH);
        assert!(problems[0].contains("no column `description`") && problems[1].contains("no column `class`"), "{problems:?}");
    }

    #[test]
    fn long_texts_are_listed_and_never_cut_unless_the_network_does() {
        let given = Given::new(2, "file_name,description\n0.png,one two three\n1.png,one two\n");
        let tokens = |row: &Row| row.description.as_deref().unwrap_or("").split(' ').count() + row.width as usize;
        let needs = |cut| Needs { text: Some(TextLimit { tokens: &tokens, most: 18, cut }), ..Needs::default() };
        let problems = given.problems(&needs(false));
        assert_eq!(problems, ["  line 2: the text gives a sequence of 19 tokens, at most 18 are read; shorten it"]);
        assert_eq!(given.load(&needs(true)).unwrap().rows[0].description.as_deref(), Some("one two three"));
    }

    #[test]
    fn the_order_of_classes_follows_the_rule() {
        let order = |csv: &str, order| {
            let table = Given::new(3, csv).load(&Needs { order, ..BOTH }).unwrap();
            (table.classes.join(" "), table.ordinal)
        };
        let neuro = "file_name,description,class\n0.png,t,PD\n1.png,t,D\n2.png,t,UD\n";
        let other = "file_name,description,class\n0.png,t,PD\n1.png,t,D\n2.png,t,GNB\n";
        assert_eq!(order(neuro, ClassOrder::FromData), ("UD PD D".into(), true));
        assert_eq!(order(other, ClassOrder::FromData), ("PD D GNB".into(), false));
        let names = ["GNB", "D", "PD"].map(String::from);
        assert_eq!(order(other, ClassOrder::Ordinal(&names)), ("GNB D PD".into(), true));
        assert_eq!(order(other, ClassOrder::Fixed(&names)), ("GNB D PD".into(), false));
        let problems = Given::new(3, neuro).problems(&Needs { order: ClassOrder::Ordinal(&names), ..BOTH });
        assert_eq!(
            problems,
            ["  --class-order names GNB, and no row has this class", "  line 4: unknown class `UD`; known are GNB, D, PD",]
        );
    }

    #[test]
    fn a_wrong_image_folder_is_one_problem() {
        let given = Given::new(0, "file_name\n0.png\n1.png\n2.png\n");
        let problems = given.problems(&Needs::default());
        assert!(problems.len() == 1 && problems[0].contains("none of the 3 images"), "{problems:?}");
        fs::remove_dir(given.images()).unwrap();
        assert!(given.problems(&Needs::default())[0].contains("is --images right?"));
    }

    #[test]
    fn the_hash_of_a_table_follows_content_and_not_layout() {
        let one = Given::new(2, "file_name,description,class\n0.png,t,UD\n1.png,u,D\n").load(&BOTH).unwrap();
        let same = Given::new(2, "class,extra,file_name,description\r\nUD,x,0.png,t\r\nD,y,1.png,u\r\n").load(&BOTH).unwrap();
        let text = Given::new(2, "file_name,description,class\n0.png,t,UD\n1.png,v,D\n").load(&BOTH).unwrap();
        assert_eq!(one.sha256(), same.sha256());
        assert_ne!(one.sha256(), text.sha256());
        let pixels = Given::new(2, "file_name,description,class\n0.png,t,UD\n1.png,u,D\n");
        image::RgbImage::from_pixel(16, 13, image::Rgb([9, 9, 9])).save(pixels.images().join("1.png")).unwrap();
        assert_ne!(one.sha256(), pixels.load(&BOTH).unwrap().sha256());
    }

    #[test]
    fn a_file_without_rows_is_refused() {
        assert!(Given::new(0, "file_name,class\n").problems(&Needs::default())[0].contains("no rows"));
        let one = Given::new(2, "file_name,description,class\n0.png,t,UD\n1.png,t,UD\n");
        assert!(one.problems(&BOTH)[0].contains("at least two are needed"));
    }
}
