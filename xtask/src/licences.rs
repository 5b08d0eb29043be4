//! Checks that every crate that is linked or used to build is under a licence that the product may carry.

use crate::checkout;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{collections::BTreeMap, process::Command};

/// Permissive licences without terms beyond keeping a notice.
const ALLOWED: [&str; 11] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "Unicode-3.0",
    "Zlib",
];

/// Prints how many crates are under each licence; fails with the list of crates under another one.
pub fn check() -> Result<()> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut refused = Vec::new();
    for package in packages()? {
        let name = format!("{} {}", package["name"].as_str().unwrap_or("?"), package["version"].as_str().unwrap_or("?"));
        let licence = package["license"].as_str().unwrap_or("none stated");
        if !is_allowed(licence) {
            refused.push(format!("{name}: {licence}"));
        }
        let words = licence.replace('/', " OR ");
        *counts.entry(words.split_whitespace().collect::<Vec<_>>().join(" ")).or_default() += 1;
    }
    ensure!(
        refused.is_empty(),
        "these crates are under a licence that is not on the list in xtask/src/licences.rs:\n  {}",
        refused.join("\n  ")
    );
    for (licence, count) in counts {
        println!("{count:4} {licence}");
    }
    Ok(())
}

/// The locked graph for Linux, as cargo tells it.
pub fn metadata() -> Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(checkout())
        .output()
        .context("cargo metadata cannot be started")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata gave no JSON")
}

/// The packages of other people in that graph.
fn packages() -> Result<Vec<Value>> {
    let metadata = metadata()?;
    let used: Vec<&Value> = metadata["resolve"]["nodes"].as_array().into_iter().flatten().map(|node| &node["id"]).collect();
    let all = metadata["packages"].as_array().into_iter().flatten();
    let packages: Vec<Value> =
        all.filter(|package| !package["source"].is_null() && used.contains(&&package["id"])).cloned().collect();
    ensure!(!packages.is_empty(), "cargo metadata lists no packages");
    Ok(packages)
}

/// Whether an SPDX expression can be met with licences of the list only. An old-style `/` means OR.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest) && rest.is_empty()
}

fn any_of(rest: &mut &[&str]) -> bool {
    let mut allowed = all_of(rest);
    while let Some((&"OR", tail)) = rest.split_first() {
        *rest = tail;
        allowed |= all_of(rest);
    }
    allowed
}

fn all_of(rest: &mut &[&str]) -> bool {
    let mut allowed = term(rest);
    while let Some((&"AND", tail)) = rest.split_first() {
        *rest = tail;
        allowed &= term(rest);
    }
    allowed
}

fn term(rest: &mut &[&str]) -> bool {
    match rest {
        ["(", tail @ ..] => {
            *rest = tail;
            let allowed = any_of(rest);
            *rest = rest.strip_prefix(&[")"]).unwrap_or(&["unbalanced"]);
            allowed
        }
        [licence, "WITH", exception, tail @ ..] => {
            let name = format!("{licence} WITH {exception}");
            *rest = tail;
            ALLOWED.contains(&name.as_str())
        }
        [licence, tail @ ..] => {
            let allowed = ALLOWED.contains(licence);
            *rest = tail;
            allowed
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "MIT/GPL-3.0",
            "GPL-2.0 OR MIT",
            "(MIT OR LGPL-2.1) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT", "Apache-2.0 WITH other", "", "MIT GPL-3.0"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
