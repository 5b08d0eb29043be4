//! `verify`: is the ledger whole, and does every filed image lie where it was put, unchanged.

use rusqlite::Connection;
use serde_json::json;

use super::{Lines, Machine, open_for_reading};
use crate::error::{Exit, Failure};
use crate::intake::Folder;
use crate::ledger::{FileRow, check, read};

/// Checks everything and names each problem.
///
/// # Errors
/// Configuration; a ledger that is damaged (65).
pub fn run(args: &Machine) -> Result<Exit, Failure> {
    let (config, connection) = open_for_reading(&args.configured)?;
    check::check(&connection, &config.ledger(), true)?;
    let folder = Folder::new(&config);
    let mut lines = Lines::new();
    let dangling = check::dangling(&connection)?;
    let mut told = Told { folder, problems: dangling.len(), images: 0, changed: 0 };
    if args.json {
        // One object for all: only the problems are kept.
        let mut problems = dangling;
        told.each(&connection, |problem| {
            problems.push(problem);
            Ok(())
        })?;
        lines.write(&format!("{}\n", json!({ "ledger": "ok", "images": told.images, "problems": problems })))?;
    } else {
        for problem in dangling {
            lines.write(&format!("! {problem}\n"))?;
        }
        told.each(&connection, |problem| lines.write(&format!("! {problem}\n")))?;
        lines.write(&format!("ledger ok | {} images: {} ok\n", told.images, told.images - told.changed))?;
    }
    lines.end()?;
    Ok(if told.problems == 0 { Exit::Done } else { Exit::NotAllRight })
}

/// What has been counted so far.
struct Told {
    folder: Folder,
    problems: usize,
    images: usize,
    changed: usize,
}

impl Told {
    /// Examines each image and passes on what is wrong with it.
    fn each(&mut self, connection: &Connection, mut tell: impl FnMut(String) -> Result<(), Failure>) -> Result<(), Failure> {
        read::each_put_away(connection, |row| {
            self.images += 1;
            let Some(problem) = examine(&self.folder, &row) else { return Ok(()) };
            (self.problems, self.changed) = (self.problems + 1, self.changed + 1);
            tell(problem)
        })
    }
}

fn examine(folder: &Folder, row: &FileRow) -> Option<String> {
    let (path, sha256) = (row.filed_path.as_ref()?, row.sha256?);
    match folder.placed(path).and_then(|(folder, name)| folder.sha256_of(&name)) {
        Ok(found) if found == sha256 => None,
        Ok(_) => Some(format!("CHANGED {} (job {}): its bytes are not the ones that were judged", path.display(), row.id)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Some(format!("MISSING {} (job {})", path.display(), row.id))
        }
        Err(error) => Some(format!("UNREADABLE {} (job {}): {error}", path.display(), row.id)),
    }
}
