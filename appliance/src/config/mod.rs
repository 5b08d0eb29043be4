//! The configuration: one flat TOML file, overridden by `MMLNB_...`; every problem is found at once.
#![expect(clippy::disallowed_methods, reason = "the configuration and the folders that it names")]

mod folders;
pub mod keys;
mod setting;
mod template;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mmlnb_models::bundle::Trust;
use mmlnb_models::spelling::distance;
use toml::de::{DeArray, DeTable, DeValue};

use crate::error::{Exit, Failure, Problem};
use crate::files::names::Pattern;
use keys::{KEYS, Key, Kind};
pub use setting::Need;
use setting::{Placed, Setting};
pub use template::write as template;

/// Where the configuration is looked for when `--config` is absent.
pub const DEFAULT_FILE: &str = "/etc/mmlnb/appliance.toml";

/// How new files are noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watch {
    /// By the file system's type.
    Auto,
    /// Events and a scan each minute.
    Inotify,
    /// A scan every few seconds.
    Poll,
}

/// What becomes of an image in which the decoder finds damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damaged {
    /// It fails.
    Fail,
    /// It gets a report with a flag, and is never accepted.
    Abstain,
}

/// The checked configuration; paths are absolute.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it came from.
    pub file: PathBuf,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// Whose bundles are taken.
    pub trust: Trust,
    /// The watched folder.
    pub inbox: PathBuf,
    /// Where images with a report go.
    pub done: PathBuf,
    /// Where images without one go.
    pub failed: PathBuf,
    /// Ledger and lock.
    pub state: PathBuf,
    /// `auto`, `cpu` or `cuda`.
    pub provider: String,
    /// Threads for computing; 0: all cores less one.
    pub threads: usize,
    /// Images described together.
    pub slots: usize,
    /// Tokens for which a slot has room; 0: as the bundle needs.
    pub max_tokens: usize,
    /// How new files are noticed.
    pub watch: Watch,
    /// Whether likely tokens of a lone image are read together where that leaves its text as it is.
    pub drafts: bool,
    /// Unchanged for this long before a file is taken.
    pub settle: Duration,
    /// Unchanged for this long without an end mark: failed.
    pub incomplete: Duration,
    /// Largest file in bytes.
    pub max_file: u64,
    /// Longest side in pixels.
    pub max_side: u32,
    /// Shortest side in pixels.
    pub min_side: u32,
    /// Attempts that one file may cost: deaths of the program or of its decoder, time limits, errors of the engine.
    pub max_attempts: u32,
    /// Starts without success within an hour that lead to safe mode; 0: never.
    pub safe_mode_after: u32,
    /// What becomes of damaged images.
    pub damaged: Damaged,
    /// Names that stay in the inbox and are never looked at.
    pub ignore: Vec<Pattern>,
    /// Names that are never taken for images and move along with theirs.
    pub sidecars: Vec<Pattern>,
    /// Whether a describer in f16 may run on a processor.
    pub allow_f16_on_cpu: bool,
    /// Time limit for decoding.
    pub decode: Duration,
    /// Time limit without progress for an image in the engine.
    pub assess: Duration,
    /// Free space in bytes below which the appliance pauses.
    pub min_free: u64,
    /// Top probability below which a report is flagged; without a qualification the page says indeterminate.
    pub indeterminate_below: f64,
    /// The world-readable status for monitoring.
    pub status_file: PathBuf,
}

impl Config {
    /// Reads, overrides and checks.
    ///
    /// # Errors
    /// [`Exit::Configuration`] with every problem: syntax, unknown keys, wrong values, missing keys and paths.
    pub fn load(file: &Path, need: Need) -> Result<Config, Failure> {
        Config::load_with(file, need, |name| std::env::var(name).ok())
    }

    fn load_with(file: &Path, need: Need, environment: impl Fn(&str) -> Option<String>) -> Result<Config, Failure> {
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
        let mut problems = Vec::new();
        let mut settings = read(&text, file, &mut problems);
        for key in KEYS {
            override_by(&environment, key, &mut settings, &mut problems);
        }
        for key in KEYS {
            default(key, file, &mut settings, &mut problems);
        }
        let base = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let base = base.parent().unwrap_or(Path::new("/")).to_owned();
        folders::check(&base, &settings, need, &mut problems);
        if !problems.is_empty() {
            return Err(Failure { exit: Exit::Configuration, problems });
        }
        Ok(assemble(file, &base, &settings))
    }

    /// The ledger's file.
    pub fn ledger(&self) -> PathBuf {
        self.state.join("ledger.sqlite")
    }
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    let exit = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Configuration,
    };
    Failure::new(
        exit,
        format!("the configuration cannot be read: {error}"),
        file.display().to_string(),
        "name the file with --config, or write one with `mmlnb-appliance init DIR`",
    )
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

fn read(text: &str, file: &Path, problems: &mut Vec<Problem>) -> BTreeMap<&'static str, Placed> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        let what = format!("no valid TOML: {}", error.message());
        problems.push(Problem::new(what, format!("{}:{line}", file.display()), "write `key = value`, text in quotes"));
    }
    let mut settings = BTreeMap::new();
    for (name, value) in table.get_ref() {
        let place = format!("{}:{}", file.display(), line_of(text, name.span().start));
        let name: &str = name.get_ref();
        let Some(key) = keys::find(name) else {
            problems.push(unknown(name, &place));
            continue;
        };
        match from_toml(key, value.get_ref()).and_then(|setting| within(key, setting)) {
            Ok(setting) => drop(settings.insert(key.name, Placed { setting, place })),
            Err(mend) => problems.push(Problem::new(format!("`{name}` has a value that it cannot have"), place, mend)),
        }
    }
    settings
}

fn unknown(name: &str, place: &str) -> Problem {
    let nearest = KEYS.iter().map(|key| (distance(name, key.name), key.name)).min();
    let mend = match nearest {
        Some((far, near)) if far <= 3 => format!("did you mean `{near}`?"),
        _ => "remove the line; `mmlnb-appliance init` writes every key with its meaning".to_owned(),
    };
    Problem::new(format!("`{name}` is no key of the configuration"), place, mend)
}

fn from_toml(key: &Key, value: &DeValue<'_>) -> Result<Setting, String> {
    match (key.kind, value) {
        (Kind::Folder | Kind::File | Kind::Word(_), DeValue::String(text)) => Ok(Setting::Text(text.to_string())),
        (Kind::Whole(..), DeValue::Integer(number)) => {
            let digits = number.as_str().replace('_', "");
            i64::from_str_radix(&digits, number.radix()).map(Setting::Whole).map_err(|_| wanted(key))
        }
        (Kind::Flag, DeValue::Boolean(value)) => Ok(Setting::Flag(*value)),
        (Kind::Patterns, DeValue::Array(items)) => each(key, items, |text| Some(Pattern::new(text))).map(Setting::Patterns),
        (Kind::PublicKeys, DeValue::Array(items)) => each(key, items, |text| text.parse().ok()).map(Setting::PublicKeys),
        (Kind::KeyIds, DeValue::Array(items)) => each(key, items, |text| text.parse().ok()).map(Setting::KeyIds),
        (Kind::Real(..), DeValue::Integer(number)) => parse(key, number.as_str()),
        (Kind::Real(..), DeValue::Float(number)) => parse(key, number.as_str()),
        _ => Err(wanted(key)),
    }
}

fn parse(key: &Key, text: &str) -> Result<Setting, String> {
    match key.kind {
        Kind::Folder | Kind::File | Kind::Word(_) => Ok(Setting::Text(text.to_owned())),
        Kind::Whole(..) => text.trim().parse().map(Setting::Whole).map_err(|_| wanted(key)),
        Kind::Real(..) => text.trim().parse().map(Setting::Real).map_err(|_| wanted(key)),
        Kind::Flag => text.trim().parse().map(Setting::Flag).map_err(|_| wanted(key)),
        Kind::Patterns | Kind::PublicKeys | Kind::KeyIds => {
            let line = format!("list = {text}");
            let table = DeTable::parse(&line).map_err(|_| wanted(key))?;
            table.get_ref().get("list").map_or_else(|| Err(wanted(key)), |list| from_toml(key, list.get_ref()))
        }
    }
}

/// A list of texts, each read as its key wants it.
fn each<T>(key: &Key, items: &DeArray<'_>, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    items.iter().map(|item| item.get_ref().as_str().and_then(&read)).collect::<Option<_>>().ok_or_else(|| wanted(key))
}

fn within(key: &Key, setting: Setting) -> Result<Setting, String> {
    let fits = match (key.kind, &setting) {
        (Kind::Word(words), Setting::Text(text)) => words.contains(&text.as_str()),
        (Kind::Whole(low, high), Setting::Whole(value)) => (low..=high).contains(value),
        (Kind::Real(low, high), Setting::Real(value)) => (low..=high).contains(value),
        (Kind::Folder, Setting::Text(text)) => !text.is_empty(),
        _ => true,
    };
    if fits { Ok(setting) } else { Err(wanted(key)) }
}

fn wanted(key: &Key) -> String {
    match key.kind {
        Kind::Folder => "give the path of a folder in quotes".to_owned(),
        Kind::File => "give the path of a file in quotes".to_owned(),
        Kind::Word(words) => format!("give one of \"{}\"", words.join("\", \"")),
        Kind::Whole(low, high) => format!("give a whole number from {low} to {high}"),
        Kind::Real(low, high) => format!("give a number from {low} to {high}"),
        Kind::Flag => "give true or false".to_owned(),
        Kind::Patterns => "give a list of names in quotes, such as [\"*.xml\", \"Thumbs.db\"]".to_owned(),
        Kind::PublicKeys => "give a list of public keys, each the last line (RW...) of a .pub file in quotes".to_owned(),
        Kind::KeyIds => "give a list of keys in quotes, each the line RW... or the number of sixteen digits".to_owned(),
    }
}

fn override_by(
    environment: &impl Fn(&str) -> Option<String>,
    key: &Key,
    settings: &mut BTreeMap<&'static str, Placed>,
    problems: &mut Vec<Problem>,
) {
    let variable = format!("MMLNB_{}", key.name.to_uppercase());
    let Some(text) = environment(&variable) else { return };
    let place = format!("environment variable {variable}");
    match parse(key, &text).and_then(|setting| within(key, setting)) {
        Ok(setting) => drop(settings.insert(key.name, Placed { setting, place })),
        Err(mend) => problems.push(Problem::new(format!("`{text}` is no value for `{}`", key.name), place, mend)),
    }
}

fn default(key: &Key, file: &Path, settings: &mut BTreeMap<&'static str, Placed>, problems: &mut Vec<Problem>) {
    if settings.contains_key(key.name) {
        return;
    }
    let place = file.display().to_string();
    match key.default {
        Some(text) => {
            if let Ok(setting) = parse(key, text.trim_matches('"')) {
                settings.insert(key.name, Placed { setting, place });
            }
        }
        None if problems.iter().any(|problem| problem.what.contains(&format!("`{}`", key.name))) => {}
        None => problems.push(Problem::new(format!("`{}` is missing", key.name), place, wanted(key))),
    }
}

fn assemble(file: &Path, base: &Path, settings: &BTreeMap<&'static str, Placed>) -> Config {
    let text = |name: &str| match &settings[name].setting {
        Setting::Text(text) => text.clone(),
        other => unreachable!("{name} was checked to be text: {other:?}"),
    };
    let whole = |name: &str| match settings[name].setting {
        Setting::Whole(value) => value.unsigned_abs(),
        ref other => unreachable!("{name} was checked to be whole: {other:?}"),
    };
    let flag = |name: &str| match settings[name].setting {
        Setting::Flag(value) => value,
        ref other => unreachable!("{name} was checked to be true or false: {other:?}"),
    };
    let patterns = |name: &str| match &settings[name].setting {
        Setting::Patterns(patterns) => patterns.clone(),
        other => unreachable!("{name} was checked to be a list: {other:?}"),
    };
    let path = |name: &str| base.join(text(name));
    let trust = Trust {
        public_keys: match &settings["public_keys"].setting {
            Setting::PublicKeys(keys) => keys.clone(),
            other => unreachable!("public_keys was checked to be keys: {other:?}"),
        },
        revoked_keys: match &settings["revoked_keys"].setting {
            Setting::KeyIds(keys) => keys.clone(),
            other => unreachable!("revoked_keys was checked to be keys: {other:?}"),
        },
        allow_unsigned: flag("allow_unsigned"),
    };
    let state = path("state");
    Config {
        file: file.to_owned(),
        bundle: path("bundle"),
        trust,
        inbox: path("inbox"),
        done: path("done"),
        failed: path("failed"),
        status_file: status_file(&text("status_file"), base, &state),
        state,
        provider: text("provider"),
        threads: whole("threads") as usize,
        slots: whole("slots") as usize,
        max_tokens: whole("max_tokens") as usize,
        drafts: flag("drafts"),
        watch: match text("watch").as_str() {
            "inotify" => Watch::Inotify,
            "poll" => Watch::Poll,
            _ => Watch::Auto,
        },
        settle: Duration::from_millis(whole("settle_ms")),
        incomplete: Duration::from_secs(whole("incomplete_s")),
        max_file: whole("max_file_mb") << 20,
        max_side: whole("max_side_px") as u32,
        min_side: whole("min_side_px") as u32,
        max_attempts: whole("max_attempts") as u32,
        safe_mode_after: whole("safe_mode_after") as u32,
        damaged: match text("damaged").as_str() {
            "abstain" => Damaged::Abstain,
            _ => Damaged::Fail,
        },
        ignore: patterns("ignore"),
        sidecars: patterns("sidecars"),
        allow_f16_on_cpu: flag("allow_f16_on_cpu"),
        decode: Duration::from_secs(whole("decode_s")),
        assess: Duration::from_secs(whole("assess_s")),
        min_free: whole("min_free_mb") << 20,
        indeterminate_below: match settings["indeterminate_below"].setting {
            Setting::Real(value) => value,
            ref other => unreachable!("indeterminate_below was checked to be a number: {other:?}"),
        },
    }
}

/// The service manager's run folder is world-readable, unlike the state folder.
fn status_file(configured: &str, base: &Path, state: &Path) -> PathBuf {
    match (configured, std::env::var_os("RUNTIME_DIRECTORY")) {
        ("", Some(run)) => PathBuf::from(run).join("status.json"),
        ("", None) => state.join("status.json"),
        (path, _) => base.join(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        for name in ["bundle", "inbox", "done", "failed", "state"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let file = root.path().join("appliance.toml");
        std::fs::write(&file, template(root.path())).unwrap();
        (root, file)
    }

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn the_template_loads_and_holds_every_default() {
        let (root, file) = folder();
        let config = Config::load_with(&file, Need::Everything, none).unwrap();
        assert_eq!(config.inbox, root.path().join("inbox"));
        assert_eq!(config.settle, Duration::from_millis(2000));
        assert_eq!(config.incomplete, Duration::from_secs(600));
        assert_eq!(config.provider, "auto");
        assert_eq!(config.max_file, 64 << 20);
    }

    #[test]
    fn each_key_stands_once_on_a_line_of_its_own() {
        let text = template(Path::new("/srv/x"));
        for key in KEYS {
            let lines = text.lines().filter(|line| {
                let line = line.trim_start_matches(['#', ' ']);
                line.split('=').next().is_some_and(|name| name.trim() == key.name) && line.contains('=')
            });
            assert_eq!(lines.count(), 1, "{}", key.name);
        }
    }

    #[test]
    fn uncommented_defaults_mean_the_same() {
        let (_root, file) = folder();
        let before = format!("{:?}", Config::load_with(&file, Need::Everything, none).unwrap());
        let text = std::fs::read_to_string(&file).unwrap();
        let keyed = |line: &str| KEYS.iter().any(|key| line.starts_with(&format!("#{} = ", key.name)));
        let text: Vec<String> =
            text.lines().map(|line| if keyed(line) { line[1..].to_owned() } else { line.to_owned() }).collect();
        std::fs::write(&file, text.join("\n")).unwrap();
        assert_eq!(before, format!("{:?}", Config::load_with(&file, Need::Everything, none).unwrap()));
    }

    #[test]
    fn three_mistakes_are_listed_together_with_their_lines() {
        let (root, file) = folder();
        std::fs::remove_dir(root.path().join("done")).unwrap();
        let text = std::fs::read_to_string(&file).unwrap().replace("#settle_ms = 2000", "settle_mss = 1\nprovider = \"tpu\"\n");
        std::fs::write(&file, text).unwrap();
        let failure = Config::load_with(&file, Need::Everything, none).unwrap_err();
        assert_eq!(failure.exit, Exit::Configuration);
        assert_eq!(failure.problems.len(), 3, "{failure}");
        let shown = failure.to_string();
        assert!(shown.contains("did you mean `settle_ms`?"), "{shown}");
        assert!(shown.contains("\"auto\", \"cpu\", \"cuda\""), "{shown}");
        assert!(shown.contains("no folder"), "{shown}");
        assert!(shown.contains("appliance.toml:"), "{shown}");
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let (_root, file) = folder();
        let settle = |name: &str| (name == "MMLNB_SETTLE_MS").then(|| "50".to_owned());
        let config = Config::load_with(&file, Need::Everything, settle).unwrap();
        assert_eq!(config.settle, Duration::from_millis(50));
        let wrong = |name: &str| (name == "MMLNB_SETTLE_MS").then(|| "soon".to_owned());
        let failure = Config::load_with(&file, Need::Everything, wrong).unwrap_err();
        assert!(failure.to_string().contains("MMLNB_SETTLE_MS"), "{failure}");
    }

    #[test]
    fn done_inside_the_inbox_is_refused() {
        let (root, file) = folder();
        std::fs::create_dir(root.path().join("inbox/done")).unwrap();
        let inner = root.path().join("inbox/done").display().to_string();
        let done = |name: &str| (name == "MMLNB_DONE").then(|| inner.clone());
        let failure = Config::load_with(&file, Need::Everything, done).unwrap_err();
        assert!(failure.to_string().contains("inside each other"), "{failure}");
    }

    #[test]
    fn no_two_folders_are_one_or_inside_each_other_and_the_status_is_a_file_of_its_own() {
        let (root, file) = folder();
        for inner in ["done/x", "state/x", "bundle/x", "failed/x"] {
            std::fs::create_dir_all(root.path().join(inner)).unwrap();
        }
        std::os::unix::fs::symlink(root.path().join("done"), root.path().join("link")).unwrap();
        let with = |name: &str, value: &str| {
            let (variable, value) = (format!("MMLNB_{}", name.to_uppercase()), root.path().join(value).display().to_string());
            Config::load_with(&file, Need::Everything, |asked| (asked == variable).then(|| value.clone()))
        };
        let wrong = [
            ("failed", "done", "one folder"),
            ("failed", "link", "one folder"),
            ("failed", "done/x", "inside each other"),
            ("state", "done/x", "inside each other"),
            ("state", "failed/x", "inside each other"),
            ("inbox", "state/x", "inside each other"),
            ("inbox", "done/absent/deeper", "inside each other"),
            ("done", "bundle/x", "inside each other"),
            ("bundle", "inbox", "one folder"),
            ("status_file", "state/ledger.sqlite", "lies in `state`"),
            ("status_file", "inbox/status.json", "lies in `inbox`"),
            ("status_file", "absent/status.json", "is not there"),
            ("status_file", "done", "is a folder"),
        ];
        for (name, value, part) in wrong {
            let failure = with(name, value).expect_err(value).to_string();
            assert!(failure.contains(part), "{name} = {value}: {failure}");
        }
        for value in ["state/status.json", "status.json"] {
            assert!(with("status_file", value).is_ok(), "{value}");
        }
    }

    #[test]
    fn unsigned_bundles_are_taken_where_init_says_so_and_keys_are_checked() {
        const KEY: &str = "RWT0Q569mEC+D68qdgw4gVBoSAt5pP2AjABzFcGRviItY9RkdKOhbOOy";
        let (_root, file) = folder();
        let load = || Config::load_with(&file, Need::Everything, none);
        assert!(load().unwrap().trust.allow_unsigned, "as init writes it");
        let environment = |name: &str| (name == "MMLNB_PUBLIC_KEYS").then(|| format!("[{KEY:?}]"));
        assert_eq!(Config::load_with(&file, Need::Everything, environment).unwrap().trust.public_keys.len(), 1);
        let text = std::fs::read_to_string(&file).unwrap().replace("\nallow_unsigned = true\n", "\n");
        let text = text.replace("#public_keys = []", &format!("public_keys = [{KEY:?}]"));
        std::fs::write(&file, text.replace("#revoked_keys = []", "revoked_keys = [\"FBE4098BD9E43F4\"]")).unwrap();
        let trust = load().unwrap().trust;
        assert!(!trust.allow_unsigned, "without the key");
        assert_eq!(trust.public_keys[0].id(), trust.revoked_keys[0]);
        std::fs::write(&file, text.replace("RWT0", "RWT")).unwrap();
        let failure = load().unwrap_err().to_string();
        assert!(failure.contains("`public_keys`") && failure.contains(".pub file"), "{failure}");
    }

    #[test]
    fn broken_syntax_names_its_line() {
        let (_root, file) = folder();
        let text = std::fs::read_to_string(&file).unwrap() + "\nslots = = 3\n";
        let line = text.trim_end().lines().count();
        std::fs::write(&file, text).unwrap();
        let failure = Config::load_with(&file, Need::Everything, none).unwrap_err();
        assert!(failure.to_string().contains(&format!("appliance.toml:{line}")), "{failure}");
    }
}
