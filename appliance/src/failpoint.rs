//! Named points where a test build can be made to abort, fail, hang or wait. Without the feature `failpoints` every point is free.
//!
//! `MMLNB_FAILPOINTS="name=abort|eio|enospc|hang|delay:MS[;name=..]"`; `name=2*enospc` acts on the first two passes only.

/// Every name, in the order in which a file passes them.
pub const NAMES: &[&str] = &[
    "engine.warm_up",
    "scan.read_dir",
    "read.open",
    "read.body",
    "read.after_hash",
    "ledger.read",
    "ledger.claim",
    "claim.after",
    "decode.spawn",
    "decode.child",
    "decode.after",
    "assess.before",
    "assess.after",
    "ledger.commit_report",
    "ledger.committed",
    "commit.after",
    "ledger.wait",
    "ledger.left",
    "ledger.reject",
    "reject.after",
    "render.html_write",
    "render.html_rename",
    "render.json_write",
    "render.json_rename",
    "render.note_write",
    "render.note_rename",
    "move.mkdir",
    "move.before",
    "move.sync_file",
    "move.rename",
    "move.after_rename",
    "move.copy",
    "move.after_copy",
    "move.fsync",
    "ledger.filed",
    "filed.after",
    "ledger.release",
    "ledger.begin_run",
    "ledger.end_run",
    "ledger.retry",
    "retry.before_move",
    "retry.after_move",
    "status.write",
    "migrate.before",
    "migrate.copied",
    "migrate.kept",
    "migrate.begun",
    "migrate.tables",
    "migrate.altered",
    "migrate.committed",
    "recovery.before",
    "recovery.after",
    "qualify.linked",
    "qualify.exchange",
    "qualify.exchanged",
];

/// Passes the named point.
///
/// # Errors
/// The injected error (`eio`, `enospc`) of a test build; never in a release.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn pass(_name: &str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use active::pass;

#[cfg(feature = "failpoints")]
mod active {
    use std::collections::HashMap;
    use std::io::{self, Write};
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    use crate::world;

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Abort,
        Error(rustix::io::Errno),
        Hang,
        Delay(Duration),
    }

    struct Point {
        act: Act,
        left: u64,
    }

    static POINTS: OnceLock<Mutex<HashMap<String, Point>>> = OnceLock::new();

    /// Passes the named point, doing what `MMLNB_FAILPOINTS` says.
    ///
    /// # Errors
    /// The injected error.
    ///
    /// # Panics
    /// If `MMLNB_FAILPOINTS` cannot be read or names a point that does not exist: a test must not pass by a typing error.
    pub fn pass(name: &str) -> io::Result<()> {
        assert!(super::NAMES.contains(&name), "failpoint {name} is not listed");
        if let Some(result) = world::ask(|world| world.pass(name)) {
            return result;
        }
        let points = POINTS.get_or_init(|| Mutex::new(parse()));
        let act = {
            let mut points = points.lock().unwrap_or_else(PoisonError::into_inner);
            match points.get_mut(name) {
                Some(point) if point.left > 0 => {
                    point.left -= 1;
                    point.act
                }
                _ => return Ok(()),
            }
        };
        // A test must be able to tell that the point was met. In the decoder's child nobody listens.
        let _ = writeln!(io::stderr(), "failpoint {name}: {act:?}");
        match act {
            Act::Abort => std::process::abort(),
            Act::Error(errno) => Err(errno.into()),
            Act::Delay(time) => {
                std::thread::sleep(time);
                Ok(())
            }
            Act::Hang => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
        }
    }

    fn parse() -> HashMap<String, Point> {
        let text = std::env::var("MMLNB_FAILPOINTS").unwrap_or_default();
        let entries = text.split(';').filter(|entry| !entry.is_empty());
        entries.map(|entry| read(entry).unwrap_or_else(|| panic!("MMLNB_FAILPOINTS: cannot read `{entry}`"))).collect()
    }

    fn read(entry: &str) -> Option<(String, Point)> {
        let (name, act) = entry.split_once('=')?;
        let (left, act) = match act.split_once('*') {
            Some((count, act)) => (count.parse().ok()?, act),
            None => (u64::MAX, act),
        };
        let act = match act {
            "abort" => Act::Abort,
            "eio" => Act::Error(rustix::io::Errno::IO),
            "enospc" => Act::Error(rustix::io::Errno::NOSPC),
            "hang" => Act::Hang,
            delay => Act::Delay(Duration::from_millis(delay.strip_prefix("delay:")?.parse().ok()?)),
        };
        super::NAMES.contains(&name).then(|| (name.to_owned(), Point { act, left }))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_unique() {
        let mut names = super::NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), super::NAMES.len());
    }
}
