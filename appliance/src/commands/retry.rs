//! `retry`: failed files go back to the inbox and are judged anew, by the daemon or, while it is stopped, here.

use clap::Args;
use serde_json::json;

use super::{Configured, open_for_reading, print};
use crate::config::{Config, Need};
use crate::daemon::control;
use crate::error::{Exit, Failure, Problem};
use crate::intake::{self, Adoption, Folder, filing};
use crate::ledger::{Ledger, read};

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
/// [`Exit::NotFound`] for ids that have not failed; the others are done then.
pub fn run(args: &Retry) -> Result<Exit, Failure> {
    let config = Config::load(&args.configured.config, Need::Everything)?;
    let ids = chosen(args)?;
    if ids.is_empty() {
        print("nothing to try again\n")?;
        return Ok(Exit::Done);
    }
    let problems = match control::ask(&config.state, &json!({ "do": "retry", "ids": ids }))? {
        Some(answer) => match answer["problems"].as_array() {
            Some(problems) => problems.iter().map(|problem| problem.as_str().unwrap_or("").to_owned()).collect(),
            None => {
                let said = answer["error"].as_str().unwrap_or("no answer that is known");
                return Err(Failure::internal("the daemon did not try the files again", said));
            }
        },
        None => here(&config, &ids)?,
    };
    let problems: Vec<String> = problems.into_iter().map(|problem| problem.trim_start_matches("error: ").to_owned()).collect();
    print(&format!("{} of {} queued again\n", ids.len() - problems.len().min(ids.len()), ids.len()))?;
    if problems.is_empty() {
        return Ok(Exit::Done);
    }
    let exit = if problems.len() == ids.len() { Exit::NotFound } else { Exit::SomeFailed };
    Err(Failure { exit, problems: problems.into_iter().map(|problem| Problem::new(problem, "", "")).collect() })
}

fn chosen(args: &Retry) -> Result<Vec<i64>, Failure> {
    if !args.all && args.code.is_none() {
        return Ok(args.ids.clone());
    }
    let (_, connection) = open_for_reading(&args.configured)?;
    Ok(read::failed(&connection, args.code.as_deref())?.into_iter().map(|row| row.id).collect())
}

fn here(config: &Config, ids: &[i64]) -> Result<Vec<String>, Failure> {
    let _lock = intake::lock(&config.state.join("lock"), "another appliance uses this state folder")?;
    let ledger = Ledger::open(&config.ledger(), Default::default())?;
    let folder = Folder::new(config);
    if let Adoption::Absent(reason) = folder.adopt(&ledger)? {
        let what = format!("nothing can be brought back to {}: {reason}", config.inbox.display());
        return Err(Failure::new(Exit::NotFound, what, "", "mount or repair the inbox, then try again"));
    }
    let actor = control::actor(rustix::process::getuid().as_raw());
    Ok(control::retry(&ledger, ids, |row| filing::bring_back(&ledger, &folder, row, &actor)))
}
