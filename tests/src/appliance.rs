//! An appliance on a temporary folder: configuration, commands, and what lies in its folders.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::{
    FileRow, Note, Patch, Ran, ReportRow, Starting, appliance_binary, bundle, command, ledger, run, sha256_hex, wait_for,
};

/// A folder made by `init`, with settings that suit tests: CPU, short settling.
pub struct Appliance {
    root: PathBuf,
    program: PathBuf,
    _temporary: Option<TempDir>,
}

impl Appliance {
    /// On a folder of its own, removed at the end.
    #[track_caller]
    pub fn new() -> Appliance {
        let temporary = tempfile::tempdir().expect("a temporary folder can be made");
        let mut appliance = Appliance::at(&temporary.path().join("box"));
        appliance._temporary = Some(temporary);
        appliance
    }

    /// On a folder that the caller owns; it must not exist yet.
    #[track_caller]
    pub fn at(root: &Path) -> Appliance {
        let program = appliance_binary();
        run(command(&program).arg("init").arg(root)).expect(0);
        let appliance = Appliance { root: root.to_owned(), program, _temporary: None };
        let outside = appliance.outside();
        fs::create_dir_all(&outside).expect("the root is writable");
        appliance.set("bundle", &format!("{:?}", bundle().display().to_string()));
        appliance.set("provider", "\"cpu\"");
        appliance.set("settle_ms", "300");
        appliance.set("incomplete_s", "2");
        appliance
    }

    /// Sets a key of the configuration on the line where `init` wrote it.
    ///
    /// # Panics
    /// When `init` wrote no line with this key, or several.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str) {
        let file = self.configuration();
        let text = fs::read_to_string(&file).expect("init wrote the configuration");
        let holds = |line: &str| line.trim_start_matches(['#', ' ']).split_once('=').is_some_and(|(name, _)| name.trim() == key);
        assert_eq!(text.lines().filter(|line| holds(line)).count(), 1, "`{key}` stands once in the configuration:\n{text}");
        let line = |line: &str| if holds(line) { format!("{key} = {value}\n") } else { format!("{line}\n") };
        fs::write(&file, text.lines().map(line).collect::<String>()).expect("the configuration is writable");
    }

    /// Runs another copy of the binary from now on.
    pub fn use_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `appliance.toml`.
    pub fn configuration(&self) -> PathBuf {
        self.root.join("appliance.toml")
    }

    /// A path below the inbox.
    pub fn inbox(&self, path: &str) -> PathBuf {
        self.root.join("inbox").join(path)
    }

    /// A path below `done`.
    pub fn done(&self, path: &str) -> PathBuf {
        self.root.join("done").join(path)
    }

    /// A path below `failed`.
    pub fn failed(&self, path: &str) -> PathBuf {
        self.root.join("failed").join(path)
    }

    /// The ledger's file.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("state/ledger.sqlite")
    }

    /// A folder on the same file system that nobody watches.
    pub fn outside(&self) -> PathBuf {
        self.root.join("outside")
    }

    /// A daemon that is still to be started.
    pub fn daemon(&self) -> Starting {
        Starting::new(&self.program, &self.configuration(), &self.root)
    }

    /// A command of the operator with `--config` of this appliance, for instance `["show", "3"]`.
    pub fn operator(&self, words: &[&str]) -> Ran {
        run(self.bare(words).arg("--config").arg(self.configuration()))
    }

    /// A command without `--config`.
    pub fn bare(&self, words: &[&str]) -> Command {
        let mut command = command(&self.program);
        command.args(words);
        command
    }

    /// All rows of the view `reports`.
    pub fn reports(&self) -> Vec<ReportRow> {
        ledger::reports(&self.ledger())
    }

    /// All rows of the view `files`.
    pub fn files(&self) -> Vec<FileRow> {
        ledger::files(&self.ledger())
    }

    /// The only number that a query on the ledger gives.
    ///
    /// # Panics
    /// When it gives something else.
    #[track_caller]
    pub fn number(&self, query: &str) -> i64 {
        ledger::number_in(&self.ledger(), query)
    }

    /// Writes a ledger as version 1 of its schema left it, with thousands of rows or none. No daemon has run here yet.
    ///
    /// # Panics
    /// On I/O errors.
    pub fn write_old_ledger(&self, with_rows: bool) {
        ledger::write_old(&self.ledger(), with_rows);
    }

    /// Runs statements on the ledger, which no daemon may hold.
    ///
    /// # Panics
    /// When they do not fit.
    #[track_caller]
    pub fn execute(&self, statements: &str) {
        ledger::execute(&self.ledger(), statements);
    }

    /// The only row of `files` with this source.
    #[track_caller]
    pub fn file(&self, source: &str) -> FileRow {
        let mut rows: Vec<FileRow> = self.files().into_iter().filter(|row| row.source == source).collect();
        assert_eq!(rows.len(), 1, "rows of {source}: {rows:?}");
        rows.remove(0)
    }

    /// A good and a broken file of the case `case` have each ended exactly once, whatever happened on the way; `story` is told when not.
    ///
    /// # Panics
    /// When something is lost, doubled or left.
    #[track_caller]
    pub fn assert_both_ended(&self, good: &Patch, broken: &[u8], story: &str) {
        let filed = fs::read(self.done(&format!("case/{}", good.name))).unwrap_or_else(|error| panic!("{story}: {error}"));
        assert_eq!(sha256_hex(&filed), good.sha256, "{story}");
        assert_eq!(self.reports().len(), 1, "{story}");
        assert_eq!(fs::read(self.failed("case/broken.png")).expect("the broken file lies in failed"), broken, "{story}");
        assert_eq!(Note::beside(&self.failed("case/broken.png")).job, self.file("case/broken.png").id, "{story}");
        for folder in ["done", "failed"] {
            let whole = || self.listing(folder).len() == 3;
            wait_for(Duration::from_secs(60), &format!("{story}: image, page and JSON in {folder}"), whole);
        }
        assert_eq!(self.listing("inbox"), [] as [String; 0], "{story}");
    }

    /// Waits until `count` rows of `files` have reached their last place.
    #[track_caller]
    pub fn wait_for_files(&self, count: usize, limit: Duration) {
        let filed = || self.files().iter().filter(|row| row.filed_at.is_some()).count();
        wait_for(limit, &format!("{count} files in their last place"), || filed() >= count);
        assert_eq!(filed(), count, "{:#?}", self.files());
    }

    /// Everything below a folder that is no folder itself, as sorted paths relative to it; the appliance's own marks and
    /// status pages are left out.
    pub fn listing(&self, folder: &str) -> Vec<String> {
        let mut found = Vec::new();
        collect(&self.root.join(folder), "", &mut found);
        found.retain(|name| !name.starts_with("STATUS.") && !name.starts_with('.'));
        found.sort();
        found
    }

    /// `STATUS.txt` of the inbox, empty while there is none.
    pub fn status_text(&self) -> String {
        fs::read_to_string(self.inbox("STATUS.txt")).unwrap_or_default()
    }

    /// Gives everything to another user.
    pub fn give_to(&self, user: u32) {
        give(&self.root, user);
        let parent = self.root.parent().expect("the root lies in a folder");
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).expect("the temporary folder is ours");
    }
}

impl Default for Appliance {
    fn default() -> Self {
        Appliance::new()
    }
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    let listing = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in listing {
        let entry = entry.expect("the folder can be listed");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("a listed entry has a type").is_dir() {
            collect(&entry.path(), &format!("{name}/"), found);
        } else {
            found.push(name);
        }
    }
}

fn give(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).expect("root may give files away");
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).expect("the folder can be listed") {
            give(&entry.expect("the folder can be listed").path(), user);
        }
    }
}
