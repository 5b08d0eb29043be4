//! `status`: what the daemon says about itself, or that there is none.

use clap::Args;
use serde_json::{Value, json};

use super::{Machine, open_for_reading, print};
use crate::clock;
use crate::config::{Config, Need};
use crate::daemon::control;
use crate::error::{Exit, Failure};
use crate::ledger::read;
use crate::report::status::size;

/// `status`.
#[derive(Args, Clone, Debug)]
pub struct Status {
    /// Configuration and form of the answer.
    #[command(flatten)]
    pub machine: Machine,
    /// Exit 1 when anything is not as it should be, 69 when the daemon is not running.
    #[arg(long)]
    pub check: bool,
}

/// Prints the status; with `--check` the exit status tells it.
///
/// # Errors
/// Configuration; [`Exit::NotRunning`] with `--check`.
pub fn run(args: &Status) -> Result<Exit, Failure> {
    let config = Config::load(&args.machine.configured.config, Need::Ledger)?;
    let answer = control::ask(&config.state, &json!({ "do": "status" }))?;
    let Some(status) = answer else { return stopped(args) };
    match args.machine.json {
        true => print(&format!("{status}\n"))?,
        false => print(&text(&status))?,
    }
    Ok(if args.check && status["level"] != "green" { Exit::NotAllRight } else { Exit::Done })
}

fn stopped(args: &Status) -> Result<Exit, Failure> {
    if args.machine.json {
        print("{\"headline\":\"NOT RUNNING\",\"level\":\"red\"}\n")?;
    } else {
        let counts = open_for_reading(&args.machine.configured)
            .and_then(|(_, connection)| Ok(read::counts(&connection, &clock::today_utc())?));
        let today = counts.map(|(done, failed, waiting)| format!("; today {done} reported, {failed} failed; {waiting} waiting"));
        print(&format!("not running{}\n", today.unwrap_or_default()))?;
    }
    Ok(if args.check { Exit::NotRunning } else { Exit::Done })
}

fn text(status: &Value) -> String {
    let line = |name: &str| status[name].as_str().unwrap_or("").to_owned();
    let mut out = format!(
        "{} | {} | bundle {} | waiting or in work {} | today {} reported, {} failed | free {} | since {}\n",
        line("headline"),
        line("device"),
        line("bundle"),
        status["queued"],
        status["reported_today"],
        status["failed_today"],
        size(status["free_bytes"].as_u64().unwrap_or(0)),
        clock::local(&line("started_at")),
    );
    for activity in status["working"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {}\n", activity.as_str().unwrap_or("")));
    }
    for notice in status["notices"].as_array().into_iter().flatten() {
        out.push_str(&format!("! {}\n", notice.as_str().unwrap_or("")));
    }
    out
}
