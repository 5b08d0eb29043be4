//! `init`: folders, marker, commented configuration.

use std::io::Write;
use std::path::Path;

use super::print;
use crate::config;
use crate::error::{Exit, Failure};
use crate::intake::write_marker;

/// Makes everything that is absent; an existing configuration is never overwritten.
///
/// # Errors
/// [`Exit::Usage`] when there is a configuration already; I/O.
pub fn run(dir: &Path) -> Result<Exit, Failure> {
    let root = std::path::absolute(dir).map_err(|error| Failure::io("the folder cannot be made", dir, &error))?;
    let file = root.join("appliance.toml");
    if file.exists() {
        return Err(Failure::new(
            Exit::Usage,
            "there is a configuration already",
            file.display().to_string(),
            "edit it, or remove it first; it is not overwritten",
        ));
    }
    for name in ["inbox", "done", "failed", "state"] {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).map_err(|error| Failure::io("the folder cannot be made", &folder, &error))?;
    }
    write_marker(&root.join("inbox")).map_err(|error| Failure::io("the inbox's marker cannot be written", &root, &error))?;
    let written = std::fs::File::options().write(true).create_new(true).open(&file);
    written
        .and_then(|mut out| out.write_all(config::template(&root).as_bytes()).and_then(|()| out.sync_all()))
        .map_err(|error| Failure::io("the configuration cannot be written", &file, &error))?;
    print(&format!(
        "made {}: inbox, done, failed, state, appliance.toml\nnext: put a bundle at {} (or name it in appliance.toml), then\n  mmlnb-appliance run --config {}\n",
        root.display(),
        root.join("bundle").display(),
        file.display()
    ))?;
    Ok(Exit::Done)
}
