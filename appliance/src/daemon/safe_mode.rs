//! The brake of a loop of crashes: when start after start ends uncleanly and nothing is achieved, the appliance watches and tells, but
//! loads no engine and takes no file. A clean end releases it.

use std::time::Duration;

use rusqlite::Connection;

use crate::ledger::LedgerError;
use crate::ledger::runs::{self, RunEnd};

const WITHIN: Duration = Duration::from_secs(3600);

/// Why `run` has to be in safe mode, if it has: the `after` runs before it (0: never) are such a loop at `now`.
///
/// # Errors
/// The ledger.
pub fn due(connection: &Connection, run: i64, after: u32, now: &str) -> Result<Option<String>, LedgerError> {
    let before = runs::before(connection, run, after)?;
    let Some(first) = before.last().filter(|_| before.len() == after as usize && is_loop(&before, now)) else { return Ok(None) };
    if runs::achieved(connection, first.id)? {
        return Ok(None);
    }
    Ok(Some(format!(
        "safe mode, nothing is assessed: the last {after} starts, all within an hour, ended uncleanly and finished no image; \
         find the cause in the log (journalctl -u mmlnb-appliance), then restart the appliance (systemctl restart mmlnb-appliance)"
    )))
}

/// Whether all of these runs ended uncleanly and the first of them began less than an hour ago. A clock that was set in between proves
/// nothing.
fn is_loop(before: &[RunEnd], now: &str) -> bool {
    let (Some(first), true) = (before.last(), before.iter().all(|run| !run.clean)) else { return false };
    let (Ok(began), Ok(now)) = (first.started_at.parse::<jiff::Timestamp>(), now.parse::<jiff::Timestamp>()) else {
        return false;
    };
    Duration::try_from(now.duration_since(began)).is_ok_and(|age| age < WITHIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(minutes_ago: &[i64]) -> (Vec<RunEnd>, String) {
        let now: jiff::Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let run = |(at, minutes): (usize, &i64)| RunEnd {
            id: 100 - at as i64,
            started_at: format!("{:.3}", now - jiff::SignedDuration::from_mins(*minutes)),
            clean: false,
        };
        (minutes_ago.iter().enumerate().map(run).collect(), format!("{now:.3}"))
    }

    #[test]
    fn unclean_ends_within_an_hour_are_a_loop() {
        let (found, now) = runs(&[1, 20, 59]);
        assert!(is_loop(&found, &now));
        let (old, now) = runs(&[1, 20, 61]);
        assert!(!is_loop(&old, &now));
        let (turned_back, now) = runs(&[1, 20, -5]);
        assert!(!is_loop(&turned_back, &now), "the clock was set back");
        assert!(!is_loop(&[], &now));
    }

    #[test]
    fn one_clean_end_releases_the_brake() {
        let (mut found, now) = runs(&[1, 2, 3]);
        found[1].clean = true;
        assert!(!is_loop(&found, &now));
    }
}
