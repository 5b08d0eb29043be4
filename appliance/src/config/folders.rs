//! Folders and files that a configuration names: which are there, which can never be right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::keys::{KEYS, Kind};
use super::setting::{Need, Placed, Setting};
use crate::error::Problem;

type Settings = BTreeMap<&'static str, Placed>;

/// Folders of which none may be another one or lie in it.
const APART: [&str; 5] = ["inbox", "done", "failed", "state", "bundle"];

/// Adds everything that is wrong with them; `base`: where the configuration lies.
pub fn check(base: &Path, settings: &Settings, need: Need, problems: &mut Vec<Problem>) {
    let inbox_absent = text(settings, "inbox").is_some_and(|inbox| !Path::new(inbox).exists());
    for key in KEYS.iter().filter(|key| matches!(key.kind, Kind::Folder)) {
        let (Some(path), Some(placed)) = (text(settings, key.name).map(Path::new), settings.get(key.name)) else { continue };
        if path.is_relative() {
            problems.push(relative(base, key.name, path, placed));
            continue;
        }
        // A share that is not mounted yet takes done and failed along.
        let waited_for = key.name == "inbox" || matches!(key.name, "done" | "failed") && inbox_absent;
        let is_wrong = !path.is_dir() && (path.exists() || !waited_for);
        if (need == Need::Everything || key.name == "state") && is_wrong {
            let what = match path.exists() {
                true => format!("`{}`: {} is no folder", key.name, path.display()),
                false => format!("`{}`: there is no folder {}", key.name, path.display()),
            };
            problems.push(Problem::new(what, placed.place.clone(), mend(key.name)));
        }
    }
    if need == Need::Everything {
        check_apart(settings, problems);
        check_status_file(base, settings, problems);
    }
}

fn text<'s>(settings: &'s Settings, name: &str) -> Option<&'s str> {
    match settings.get(name).map(|placed| &placed.setting) {
        Some(Setting::Text(text)) => Some(text),
        _ => None,
    }
}

fn relative(base: &Path, name: &str, path: &Path, placed: &Placed) -> Problem {
    let what = format!("`{name}` is a relative path, and a service has no folder of its own to reckon it from");
    Problem::new(what, placed.place.clone(), format!("write {}", base.join(path).display()))
}

fn mend(name: &str) -> &'static str {
    match name {
        "bundle" => "write the bundle there with `mmlnb-export bundle`, or name another folder",
        _ => "mount or create it, or name another folder; the appliance never creates it by itself",
    }
}

/// One inside another: results would be read as new images, or the appliance would move its own ledger or graphs.
fn check_apart(settings: &Settings, problems: &mut Vec<Problem>) {
    let real: Vec<(&str, PathBuf)> =
        APART.iter().filter_map(|name| Some((*name, real(Path::new(text(settings, name)?))))).collect();
    for (at, (name, path)) in real.iter().enumerate() {
        for (other, elsewhere) in &real[..at] {
            if path.starts_with(elsewhere) || elsewhere.starts_with(path) {
                let what = match path == elsewhere {
                    true => format!("`{other}` and `{name}` are one folder"),
                    false => format!("`{other}` and `{name}` lie inside each other"),
                };
                let mend = "keep them beside each other, or results are read as new images and own files are moved";
                problems.push(Problem::new(what, settings[name].place.clone(), mend));
            }
        }
    }
}

/// The path without links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, real)) = there else { return path.to_owned() };
    path.strip_prefix(above).map_or_else(|_| real.clone(), |rest| real.join(rest))
}

/// It is written over every few seconds: a file of its own, in a folder that is there.
fn check_status_file(base: &Path, settings: &Settings, problems: &mut Vec<Problem>) {
    let (Some(given), Some(placed)) =
        (text(settings, "status_file").filter(|text| !text.is_empty()), settings.get("status_file"))
    else {
        return;
    };
    let path = Path::new(given);
    if path.is_relative() {
        problems.push(relative(base, "status_file", path, placed));
        return;
    }
    let own = |name: &str, folder: &Path| {
        name == "state" && path.file_name() == Some("status.json".as_ref()) && real(path).parent() == Some(folder)
    };
    let holds = |name: &str| {
        text(settings, name)
            .map(|folder| real(Path::new(folder)))
            .is_some_and(|folder| real(path).starts_with(&folder) && !own(name, &folder))
    };
    let inside = APART.iter().find(|name| holds(name));
    let what = match inside {
        _ if path.is_dir() => format!("`status_file`: {given} is a folder"),
        _ if !path.parent().is_some_and(Path::is_dir) => format!("`status_file`: the folder of {given} is not there"),
        Some(name) => format!("`status_file`: {given} lies in `{name}`, whose files are not to be written over"),
        None => return,
    };
    let mend = "name a file in a folder of its own, such as /run/mmlnb/status.json, or leave the key out";
    problems.push(Problem::new(what, placed.place.clone(), mend));
}
