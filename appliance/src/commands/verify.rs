//! `verify`: is the ledger whole, and does every filed image lie where it was put, unchanged.

use serde_json::json;

use super::{Machine, open_for_reading, print};
use crate::error::{Exit, Failure};
use crate::intake::Folder;
use crate::ledger::{FileRow, open, read};

/// Checks everything and names each problem.
///
/// # Errors
/// Configuration; a ledger that is damaged (65).
pub fn run(args: &Machine) -> Result<Exit, Failure> {
    let (config, connection) = open_for_reading(&args.configured)?;
    open::check(&connection, &config.ledger(), true)?;
    let mut problems = open::dangling(&connection)?;
    let folder = Folder::new(&config);
    let files = read::put_away(&connection)?;
    problems.extend(files.iter().filter_map(|row| examine(&folder, row)));
    if args.json {
        print(&format!("{}\n", json!({ "ledger": "ok", "images": files.len(), "problems": problems })))?;
    } else {
        let good = files.len() - problems.len().min(files.len());
        let lines: String = problems.iter().map(|problem| format!("! {problem}\n")).collect();
        print(&format!("ledger ok | {} images: {good} ok\n{lines}", files.len()))?;
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::NotAllRight })
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
