//! `init`: folders, marker, commented configuration; for the service also their owner and the unit's drop-in.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};

use super::print;
use crate::accounts;
use crate::config;
use crate::error::{Exit, Failure};
use crate::files::Dir;
use crate::intake::write_marker;

const UNIT: &str = "mmlnb-appliance.service";
const SERVICE_USER: &str = "mmlnb";
const DROP_GROUP: &str = "mmlnb-drop";
/// The unit's `ProtectHome=` hides everything below these from the service.
const HIDDEN: [&str; 3] = ["/home", "/root", "/run/user"];

/// Makes everything that is absent; an existing configuration is never overwritten.
///
/// # Errors
/// [`Exit::Usage`] when there is a configuration already; with `service` [`Exit::Permission`] without root, [`Exit::Configuration`]
/// when the service's user or unit is not installed; I/O.
pub fn run(dir: &Path, service: bool) -> Result<Exit, Failure> {
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
    let owner = if service { Some(Owner::find()?) } else { None };
    make(&root, &file)?;
    let next = match owner {
        Some(owner) => hand_over(&root, &owner)?,
        None => format!("  mmlnb-appliance run --config {}\n", file.display()),
    };
    print(&format!(
        "made {}: inbox, done, failed, state, appliance.toml\nnext: put a bundle at {} (or name it in appliance.toml), then\n{next}",
        root.display(),
        root.join("bundle").display(),
    ))?;
    Ok(Exit::Done)
}

#[expect(
    clippy::disallowed_methods,
    reason = "makes what is absent in a folder that root or the user named; nothing is given away by it"
)]
fn make(root: &Path, file: &Path) -> Result<(), Failure> {
    for name in ["inbox", "done", "failed", "state"] {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).map_err(|error| Failure::io("the folder cannot be made", &folder, &error))?;
    }
    let marker = Dir::open(&root.join("inbox")).and_then(|inbox| write_marker(&inbox));
    marker.map_err(|error| Failure::io("the inbox's marker cannot be written", root, &error))?;
    let written = File::options().write(true).create_new(true).open(file);
    written
        .and_then(|mut out| out.write_all(config::template(root).as_bytes()).and_then(|()| out.sync_all()))
        .map_err(|error| Failure::io("the configuration cannot be written", file, &error))
}

/// The service's user and the group of those who drop files.
struct Owner {
    user: u32,
    user_group: u32,
    drop_group: u32,
}

impl Owner {
    fn find() -> Result<Owner, Failure> {
        if !rustix::process::geteuid().is_root() {
            let mend = "run it with sudo, or without --service for folders of your own";
            return Err(Failure::new(Exit::Permission, "giving folders to the service needs root", "", mend));
        }
        let absent = |what: &str, place: &str| {
            let mend = "install the package first; by hand: copy systemd/sysusers.conf to /usr/lib/sysusers.d/mmlnb.conf and run systemd-sysusers";
            Failure::new(Exit::Configuration, format!("there is no {what}"), place, mend)
        };
        let user = accounts::user(|user| user.name == SERVICE_USER).ok_or_else(|| absent("user mmlnb", "/etc/passwd"))?;
        let drop_group = accounts::group(DROP_GROUP).ok_or_else(|| absent("group mmlnb-drop", "/etc/group"))?;
        Ok(Owner { user: user.uid, user_group: user.gid, drop_group })
    }
}

/// Gives the folders their owners and modes and writes the drop-in; what comes next, as text.
fn hand_over(root: &Path, owner: &Owner) -> Result<String, Failure> {
    let inbox = root.join("inbox");
    let shared = shared_by_default(&inbox, owner);
    give_all(root, owner).map_err(|error| Failure::io("the folders cannot be given to the service", root, &error))?;
    let file = PathBuf::from(format!("/etc/systemd/system/{UNIT}.d/folders.conf"));
    write_drop_in(&file, root).map_err(|error| Failure::io("the unit's drop-in cannot be written", &file, &error))?;
    let warning = match shared {
        true => String::new(),
        false => format!(
            "  (setfacl is not installed or {} has no ACLs: who drops files needs a umask of 0002 so that the service may move them)\n",
            inbox.display()
        ),
    };
    Ok(format!(
        "{warning}  systemctl daemon-reload && systemctl restart mmlnb-appliance\n(the unit's drop-in: {})\n",
        file.display()
    ))
}

/// By handles that follow no link, from the inside out: whoever gets a folder could put a link in the place of what is given after it, and
/// root would give away what that points to.
fn give_all(root: &Path, owner: &Owner) -> io::Result<()> {
    let give = |what: &OwnedFd, group: u32, mode: u32| -> io::Result<()> {
        rustix::fs::fchown(what, Some(Uid::from_raw(owner.user)), Some(Gid::from_raw(group)))?;
        Ok(rustix::fs::fchmod(what, Mode::from_raw_mode(mode))?)
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |folder: &OwnedFd, name: &str| rustix::fs::openat(folder, name, flags, Mode::empty());
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let inbox = open(&root, "inbox")?;
    give(&open(&inbox, crate::files::names::MARKER)?, owner.user_group, 0o640)?;
    give(&inbox, owner.drop_group, 0o2770)?;
    for name in ["done", "failed"] {
        give(&open(&root, name)?, owner.drop_group, 0o2770)?;
    }
    give(&open(&root, "state")?, owner.user_group, 0o750)?;
    give(&open(&root, "appliance.toml")?, owner.user_group, 0o640)?;
    // Through the root those who drop files only pass.
    give(&root, owner.drop_group, 0o750)
}

/// Files that users drop belong to the group and to the service whatever their umask says, as below /srv by tmpfiles.
fn shared_by_default(inbox: &Path, owner: &Owner) -> bool {
    let entries = format!("d:g:{}:rwx,d:u:{}:rwx", owner.drop_group, owner.user);
    let ran = std::process::Command::new("setfacl").args(["-m", &entries]).arg(inbox).output();
    ran.is_ok_and(|output| output.status.success())
}

#[expect(clippy::disallowed_methods, reason = "root's folder of the service manager")]
fn write_drop_in(file: &Path, root: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, drop_in(root))
}

/// Lets the unit's sandbox reach the folders and starts the daemon with their configuration.
fn drop_in(root: &Path) -> String {
    let path = escaped(root);
    let way = if HIDDEN.iter().any(|hidden| root.starts_with(hidden)) { "BindPaths" } else { "ReadWritePaths" };
    format!(
        "# Written by `mmlnb-appliance init --service`.\n[Unit]\nRequiresMountsFor={path}\n\n[Service]\nExecStart=\n\
         ExecStart=/usr/bin/mmlnb-appliance run --config {}\n{way}={path}\n",
        escaped(&root.join("appliance.toml"))
    )
}

/// A path as the service manager reads it: in quotes, with its own signs doubled.
fn escaped(path: &Path) -> String {
    let text = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    if text.contains([' ', '\t', '"', '\\', '\'']) { format!("\"{text}\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_in_opens_the_sandbox_for_the_folders() {
        let text = drop_in(Path::new("/data/pathology"));
        for line in [
            "RequiresMountsFor=/data/pathology",
            "ExecStart=/usr/bin/mmlnb-appliance run --config /data/pathology/appliance.toml",
            "ReadWritePaths=/data/pathology",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let hidden = format!("{}/lab/drops", HIDDEN[0]);
        assert!(drop_in(Path::new(&hidden)).contains(&format!("\nBindPaths={hidden}\n")));
    }
}
