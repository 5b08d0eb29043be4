//! What the service wrote into the journal: nothing above information but what the scenario provoked.

use super::container::Container;
use anyhow::{Result, ensure};

/// Events above information that this scenario causes itself: kills, a broken file, a slide, files that are still being written.
const PROVOKED: [&str; 7] =
    ["unclean_end", "recovered", "rejected", "failed", "refused", "its twin was given back", "the program is ending"];

/// Fails with the lines that nothing in the scenario explains.
pub fn check(container: &Container) -> Result<()> {
    let text = container.ok(&["journalctl", "--unit=mmlnb-appliance", "--output=cat", "--no-pager", "_COMM=mmlnb-appliance"])?;
    ensure!(text.contains("ready"), "the journal holds nothing of the service");
    let loud = |line: &&str| {
        line.starts_with("ERROR") || line.starts_with(" WARN") || line.starts_with("WARN") || line.contains("panicked")
    };
    let unexplained: Vec<&str> =
        text.lines().filter(loud).filter(|line| !PROVOKED.iter().any(|event| line.contains(event))).collect();
    ensure!(unexplained.is_empty(), "the service complains without a cause in the scenario:\n  {}", unexplained.join("\n  "));
    Ok(())
}
