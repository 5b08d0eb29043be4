//! Descriptions back into the CSV file that named the images.

use super::Generated;
use crate::{data::Sheet, error::TrainError};
use mmlnb_models::{problems::Problems, rows, spelling::is_blank};
use mmlnb_study::error::StudyError;
use std::{
    fs::{self, File},
    path::{Component, Path, PathBuf},
};

/// Columns that are written, after the others where they are new.
const WRITTEN: [&str; 4] = ["description", "description_tokens", "stop_reason", "mean_token_logprob"];

/// The image files of the rows, below `images`.
///
/// # Errors
/// Every row whose `file_name` is empty or leaves the image folder, every value that is spelled in two ways; a file without rows.
pub fn image_files(sheet: &Sheet, images: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut problems = Problems::default();
    let mut files = Vec::new();
    for record in &sheet.records {
        let name = file_name(sheet, record);
        let path = images.join(name);
        let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if is_blank(name) || !Path::new(name).components().all(plain) {
            problems.at(record.line, "names outside of the image folder", format!("`{name}` is no file below the image folder"));
        } else if let (Ok(root), true) = (images.canonicalize(), path.exists())
            && let Err(why) = rows::inside(&root, name)
        {
            problems.at(record.line, "names outside of the image folder", why);
        }
        files.push(path);
    }
    sheet.identities(&["group", "site", "class", "split"], &mut problems);
    if sheet.records.is_empty() {
        problems.whole("there are no rows".into());
    }
    StudyError::data(&sheet.file, problems)?;
    Ok(files)
}

/// A row's image as the file writes it.
pub fn file_name<'s>(sheet: &Sheet, record: &'s crate::data::Record) -> &'s str {
    &record.fields[sheet.column("file_name").expect("a sheet is not read without this column")]
}

/// Writes the rows, all their columns and their descriptions; a row without one gets empty fields. The file appears whole or not at all.
///
/// # Errors
/// A file that cannot be written.
pub fn write_descriptions(sheet: &Sheet, file: &Path, descriptions: &[Option<&Generated>]) -> Result<(), TrainError> {
    let mut columns = sheet.header.clone();
    columns.extend(WRITTEN.iter().filter(|name| sheet.column(name).is_none()).map(|name| name.to_string()));
    let places = WRITTEN.map(|name| columns.iter().position(|known| known == name).expect("it was added above"));
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let failed = |error: csv::Error| TrainError::io("write", &partial)(std::io::Error::other(error));
    let output = File::create(&partial).map_err(TrainError::io("create", &partial))?;
    let mut writer = csv::Writer::from_writer(output);
    writer.write_record(&columns).map_err(failed)?;
    for (record, description) in sheet.records.iter().zip(descriptions) {
        let mut fields = record.fields.clone();
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

    fn sheet(text: &str) -> (Sheet, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.csv");
        fs::write(&file, text).unwrap();
        (Sheet::read(&file).unwrap(), folder)
    }

    #[test]
    fn columns_stay_and_descriptions_are_replaced() {
        let (sheet, folder) = sheet("\u{feff}class,description,file_name,mine\nUD,old,a.png,\"x, y\"\nPD,older,b/c.png,z\n");
        let files = image_files(&sheet, Path::new("images")).unwrap();
        assert_eq!(files, [Path::new("images/a.png"), Path::new("images/b/c.png")]);
        let output = folder.path().join("out.csv");
        write_descriptions(&sheet, &output, &[Some(&generated("two\nlines")), None]).unwrap();
        let written = fs::read_to_string(output).unwrap();
        let expected = "class,description,file_name,mine,description_tokens,stop_reason,mean_token_logprob\n\
                        UD,\"two\nlines\",a.png,\"x, y\",2,end_token,-0.250000\nPD,,b/c.png,z,,,\n";
        assert_eq!(written, expected);
    }

    #[test]
    fn names_that_leave_the_folder_are_listed_with_their_lines() {
        let (wrong, _folder) = sheet("file_name,class\n../a.png,UD\n/b.png,UD\n,UD\n\"d\n.png\",UD\n");
        let error = image_files(&wrong, Path::new("images")).unwrap_err().to_string();
        for line in ["line 2: `../a.png`", "line 3: `/b.png`", "line 4: ``"] {
            assert!(error.contains(line), "{error}");
        }
        assert!(!error.contains("line 5"), "{error}");
        let (empty, _folder) = sheet("file_name\n");
        assert!(image_files(&empty, Path::new("images")).unwrap_err().to_string().contains("no rows"));
    }
}
