//! `retry`: failed files go back to the inbox and are judged anew, by the daemon or, while it is stopped, here.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use clap::Args;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Configured, open_for_reading, print};
use crate::config::{Config, Need};
use crate::daemon::control::{self, Refused};
use crate::error::{Exit, Failure};
use crate::intake::{self, Adoption, Folder, Sidecars, filing};
use crate::ledger::{FileRow, FileState, Ledger, LedgerError, read};

/// So many files are brought back by one request, whose answer is waited for: each is hashed and moved.
const AT_ONCE: usize = 50;
/// So many numbers are named.
const LISTED: usize = 20;

/// `retry`.
#[derive(Args, Clone, Debug)]
pub struct Retry {
    /// The configuration.
    #[command(flatten)]
    pub configured: Configured,
    /// All failed files.
    #[arg(long, conflicts_with_all = ["code", "ids"])]
    pub all: bool,
    /// All files that failed with this code.
    #[arg(long, value_name = "CODE", conflicts_with = "ids")]
    pub code: Option<String>,
    /// Job numbers, as the notes name them.
    #[arg(value_name = "ID", required_unless_present_any = ["all", "code"])]
    pub ids: Vec<i64>,
}

/// Brings the files back.
///
/// # Errors
/// [`Exit::NotFound`] when none of the ids has failed, and so on for other reasons that all of them share; [`Exit::SomeFailed`] when some
/// were brought back.
pub fn run(args: &Retry) -> Result<Exit, Failure> {
    let config = Config::load(&args.configured.config, Need::Everything)?;
    let (_, connection) = open_for_reading(&args.configured)?;
    let asked = chosen(args, &connection)?;
    if asked.is_empty() {
        print("nothing to try again\n")?;
        return Ok(Exit::Done);
    }
    let others = others_with_these_bytes(&asked, &connection)?;
    drop(connection);
    let count = |files: &[Asked]| files.iter().map(|file| file.ids.len()).sum::<usize>();
    let (whole, mut left, mut failures) = (count(&asked), 0, Vec::new());
    for (number, some) in asked.chunks(AT_ONCE).enumerate() {
        let ids: Vec<i64> = some.iter().map(|file| file.ids[0]).collect();
        match bring_back(&config, &ids) {
            Ok(refused) => {
                let stayed: BTreeSet<i64> = refused.iter().map(|refused| refused.id).collect();
                left += some.iter().filter(|file| stayed.contains(&file.ids[0])).map(|file| file.ids.len()).sum::<usize>();
                failures.extend(refused.into_iter().map(|refused| refused.failure));
            }
            // What was brought back before is told all the same.
            Err(failure) => {
                left += count(&asked[number * AT_ONCE..]);
                failures.push(failure);
                break;
            }
        }
    }
    print(&format!("{} of {whole} queued again\n", whole - left))?;
    print(&others)?;
    if failures.is_empty() { Ok(Exit::Done) } else { Err(Failure::joined(failures, left < whole)) }
}

fn bring_back(config: &Config, ids: &[i64]) -> Result<Vec<Refused>, Failure> {
    match control::ask(&config.state, &json!({ "do": "retry", "ids": ids }))? {
        Some(answer) => refusals(&answer),
        None => here(config, ids),
    }
}

/// One file in `failed` that is to be tried again.
struct Asked {
    /// Its number, and the further ones that it stands for, which go back with it.
    ids: Vec<i64>,
    sha256: Option<[u8; 32]>,
    lies_at: Option<PathBuf>,
}

fn chosen(args: &Retry, connection: &Connection) -> Result<Vec<Asked>, Failure> {
    let rows: Vec<(i64, Option<FileRow>)> = if args.all || args.code.is_some() {
        read::failed(connection, args.code.as_deref())?.into_iter().map(|row| (row.id, Some(row))).collect()
    } else {
        let ids: BTreeSet<i64> = args.ids.iter().copied().collect();
        ids.into_iter().map(|id| Ok((id, read::file(connection, id)?))).collect::<Result<_, LedgerError>>()?
    };
    let mut places: HashMap<_, usize> = HashMap::new();
    let mut asked: Vec<Asked> = Vec::new();
    for (id, row) in rows {
        let failed = row.as_ref().filter(|row| row.state == FileState::Failed);
        let place = failed.and_then(|row| Some((row.sha256?, row.filed_path.clone()?)));
        match place.as_ref().and_then(|place| places.get(place)) {
            Some(at) => asked[*at].ids.push(id),
            None => {
                places.extend(place.map(|place| (place, asked.len())));
                let (sha256, lies_at) = row.map_or((None, None), |row| (row.sha256, row.filed_path));
                asked.push(Asked { ids: vec![id], sha256, lies_at });
            }
        }
    }
    Ok(asked)
}

fn refusals(answer: &Value) -> Result<Vec<Refused>, Failure> {
    serde_json::from_value(answer["refused"].clone()).map_err(|error| {
        let said = answer["error"].as_str().map_or_else(|| error.to_string(), str::to_owned);
        Failure::internal("the daemon did not try the files again", said)
    })
}

/// What is judged anew are bytes: other files that hold them stay where they failed until they are asked for too.
fn others_with_these_bytes(asked: &[Asked], connection: &Connection) -> Result<String, Failure> {
    let contents: BTreeSet<[u8; 32]> = asked.iter().filter_map(|file| file.sha256).collect();
    // Rows whose file is one of those that are asked for go back with it.
    let places: BTreeSet<&PathBuf> = asked.iter().filter_map(|file| file.lies_at.as_ref()).collect();
    let mut others = BTreeSet::new();
    for sha256 in &contents {
        let elsewhere = |row: &FileRow| row.filed_path.as_ref().is_none_or(|place| !places.contains(place));
        others.extend(read::failed_with(connection, sha256)?.into_iter().filter(elsewhere).map(|row| row.id));
    }
    if others.is_empty() {
        return Ok(String::new());
    }
    let listed = others.iter().take(LISTED).map(i64::to_string).collect::<Vec<_>>().join(" ");
    let more = others.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Ok(format!("the same bytes also failed as {listed}{more}: `mmlnb-appliance retry {listed}` brings those files back too\n"))
}

fn here(config: &Config, ids: &[i64]) -> Result<Vec<Refused>, Failure> {
    let _lock = intake::lock(&config.state.join("lock"), "another appliance uses this state folder")?;
    let ledger = Ledger::open(&config.ledger(), Default::default())?;
    let folder = Folder::new(config);
    if let Adoption::Absent(reason) = folder.adopt(&ledger)? {
        let what = format!("nothing can be brought back to {}: {reason}", config.inbox.display());
        return Err(Failure::new(Exit::NotFound, what, "", "mount or repair the inbox, then try again"));
    }
    let actor = control::actor(rustix::process::getuid().as_raw());
    let mut sidecars = Sidecars::default();
    Ok(control::retry(&ledger, ids, |row| filing::bring_back(&ledger, &folder, row, &actor, &mut sidecars)))
}
