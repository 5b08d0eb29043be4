//! The user's settings for the package index, as pip would read them: environment over configuration files.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// Where wheels may be looked for and how to reach those places.
#[derive(Debug, PartialEq)]
pub struct Settings {
    /// Indexes in the order in which they are asked; empty when none is configured or the user said `no-index`.
    pub indexes: Vec<String>,
    /// Local folders with wheels.
    pub folders: Vec<PathBuf>,
    /// A proxy named by pip's own setting; the usual proxy variables are read by the HTTP client.
    pub proxy: Option<String>,
    /// Certificate files or folders named by the user, besides the system's.
    pub certificates: Vec<PathBuf>,
    /// Seconds to wait for an answer.
    pub timeout: u64,
    /// How often a broken download is tried again.
    pub retries: u32,
}

impl Settings {
    /// Reads this process's environment and pip's configuration files.
    pub fn read() -> Self {
        let environment: HashMap<String, String> = std::env::vars().collect();
        let texts = configuration_files(&environment);
        Self::from(&environment, texts.iter().filter_map(|path| std::fs::read_to_string(path).ok()))
    }

    /// The settings that this environment and these configuration texts (least important first) amount to.
    fn from(environment: &HashMap<String, String>, files: impl Iterator<Item = String>) -> Self {
        let (mut global, mut download) = (HashMap::new(), HashMap::new());
        for text in files {
            read_ini(&text, "global", &mut global);
            read_ini(&text, "download", &mut download);
        }
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
        let setting = |name: &str| {
            variable(&format!("PIP_{}", name.to_uppercase().replace('-', "_")))
                .or_else(|| download.get(name).or_else(|| global.get(name)).cloned())
        };
        let words = |text: Option<String>| text.iter().flat_map(|t| t.split_whitespace()).map(str::to_owned).collect::<Vec<_>>();

        let first = variable("PIP_INDEX_URL")
            .or_else(|| variable("UV_DEFAULT_INDEX"))
            .or_else(|| variable("UV_INDEX_URL"))
            .or_else(|| setting("index-url"));
        let no_index =
            setting("no-index").is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str()));
        let indexes = if no_index { Vec::new() } else { first.into_iter().chain(words(setting("extra-index-url"))).collect() };
        let folders = words(setting("find-links"))
            .iter()
            .map(|place| place.strip_prefix("file://").unwrap_or(place))
            .filter(|place| !place.contains("://"))
            .map(PathBuf::from)
            .collect();
        let certificates = setting("cert")
            .into_iter()
            .chain(["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].into_iter().filter_map(variable))
            .map(PathBuf::from)
            .collect();
        Self {
            indexes,
            folders,
            proxy: setting("proxy"),
            certificates,
            timeout: setting("default-timeout").or_else(|| setting("timeout")).and_then(|t| t.parse().ok()).unwrap_or(30),
            retries: setting("retries").and_then(|t| t.parse().ok()).unwrap_or(5),
        }
    }
}

/// pip's configuration files, least important first.
fn configuration_files(environment: &HashMap<String, String>) -> Vec<PathBuf> {
    let get = |name: &str| environment.get(name).map(Path::new);
    let own = get("PIP_CONFIG_FILE");
    if own == Some(Path::new("/dev/null")) {
        return Vec::new();
    }
    let home = get("HOME").map(Path::to_owned);
    let config = get("XDG_CONFIG_HOME").map(Path::to_owned).or_else(|| home.as_ref().map(|h| h.join(".config")));
    let system = ["/etc/xdg/pip/pip.conf", "/etc/pip.conf"].map(PathBuf::from);
    system
        .into_iter()
        .chain(home.map(|h| h.join(".pip/pip.conf")))
        .chain(config.map(|c| c.join("pip/pip.conf")))
        .chain(get("VIRTUAL_ENV").map(|v| v.join("pip.conf")))
        .chain(own.map(Path::to_owned))
        .collect()
}

/// Adds one section's `key = value` lines to `values`; indented lines continue the value above them.
fn read_ini(text: &str, section: &str, values: &mut HashMap<String, String>) {
    let mut here = false;
    let mut last: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            here = name == section;
            last = None;
        } else if here && line.starts_with([' ', '\t']) && last.is_some() {
            let value = last.as_ref().and_then(|key| values.get_mut(key)).expect("the key above was put in");
            value.push('\n');
            value.push_str(trimmed);
        } else if here && let Some((key, value)) = trimmed.split_once(['=', ':']) {
            let key = key.trim().to_lowercase().replace('_', "-");
            values.insert(key.clone(), value.trim().to_owned());
            last = Some(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], files: &[&str]) -> Settings {
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::from(&environment, files.iter().map(|text| (*text).to_owned()))
    }

    #[test]
    fn nothing_configured_means_that_no_index_is_guessed() {
        let settings = settings(&[], &[]);
        assert!(settings.indexes.is_empty());
        assert_eq!((settings.timeout, settings.retries), (30, 5));
    }

    #[test]
    fn later_files_win_and_the_command_section_wins_over_all_global_ones() {
        let system = "[global]\nindex-url = https://a/simple\ntimeout: 7\n[download]\nretries = 2\n";
        let user = "[global]\nindex_url = https://b/simple\nretries = 9\n[install]\nindex-url = https://wrong\n";
        let settings = settings(&[], &[system, user]);
        assert_eq!(settings.indexes, ["https://b/simple"]);
        assert_eq!((settings.timeout, settings.retries), (7, 2));
    }

    #[test]
    fn environment_wins_and_lists_are_split() {
        let file = "[global]\nindex-url = https://a/simple\nextra-index-url =\n    https://c/simple\n    https://d/simple\nfind-links = /w file:///v https://x/y\n";
        let settings = settings(&[("PIP_INDEX_URL", "https://e/simple"), ("PIP_CERT", "/ca.pem")], &[file]);
        assert_eq!(settings.indexes, ["https://e/simple", "https://c/simple", "https://d/simple"]);
        assert_eq!(settings.folders, [Path::new("/w"), Path::new("/v")]);
        assert_eq!(settings.certificates, [Path::new("/ca.pem")]);
    }

    #[test]
    fn no_index_leaves_none() {
        assert!(settings(&[("PIP_NO_INDEX", "1")], &[]).indexes.is_empty());
    }
}
