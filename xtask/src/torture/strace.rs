//! The daemon under strace: its system calls are written down, or some of them made to fail.

use std::{fs, path::Path};

/// Why nothing can be traced here.
pub fn hindrance() -> Option<String> {
    super::absent(&["strace"]).or_else(|| {
        let ran = std::process::Command::new("strace").args(["-D", "-f", "-o", "/dev/null", "true"]).output();
        match ran {
            Ok(ran) if ran.status.success() => None,
            Ok(ran) => Some(format!("strace may not trace here: {}", String::from_utf8_lossy(&ran.stderr).trim())),
            Err(error) => Some(format!("strace cannot be started: {error}")),
        }
    })
}

/// strace's words in front of the daemon's: the daemon stays our child, and its children are traced too.
pub fn words(log: &Path, options: &[&str]) -> Vec<String> {
    let log = log.display().to_string();
    let fixed = ["strace", "-D", "-f", "-qq", "-y", "-s", "0", "-o", &log];
    fixed.into_iter().chain(options.iter().copied()).chain(["--"]).map(str::to_owned).collect()
}

/// One system call that succeeded.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The thread.
    pub thread: u32,
    /// Its name.
    pub name: String,
    /// All between the brackets, as strace wrote it.
    pub words: String,
    /// Lines of the log at which it began and was over.
    pub began: usize,
    /// See `began`.
    pub over: usize,
}

/// All calls of a log that succeeded, in the order of their ends.
pub fn calls(log: &Path) -> Vec<Call> {
    let text = fs::read(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> Vec<Call> {
    let (mut open, mut found) = (std::collections::HashMap::new(), Vec::new());
    for (at, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let (Ok(thread), rest) = (thread.parse::<u32>(), rest.trim_start()) else { continue };
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (at, begun.to_owned()));
            continue;
        }
        let (began, whole) = match rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, end)) => match open.remove(&thread) {
                Some((began, begun)) => (began, begun + end),
                None => continue,
            },
            None => (at, rest.to_owned()),
        };
        let Some((call, result)) = whole.rsplit_once(" = ") else { continue };
        let Some((name, words)) = call.split_once('(') else { continue };
        if !result.starts_with('-') && !result.starts_with('?') {
            let words = words.trim_end().trim_end_matches(')').to_owned();
            found.push(Call { thread, name: name.to_owned(), words, began, over: at });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_others_interrupt_are_put_together() {
        let log = "7 fsync(3</a/b> <unfinished ...>\n8 renameat2(4</in>, \"x\", 5</out>, \"x\", RENAME_NOREPLACE) = 0\n\
            7 <... fsync resumed>)      = 0\n9 read(3</x>, \"\"..., 10) = -1 EIO (Input/output error) (INJECTED)\n7 +++ exited with 0 +++\n";
        let calls = parse(log);
        assert_eq!(calls.len(), 2);
        assert_eq!((calls[0].name.as_str(), calls[0].thread, calls[0].over), ("renameat2", 8, 1));
        assert_eq!((calls[1].words.as_str(), calls[1].began, calls[1].over), ("3</a/b>", 0, 2));
    }
}
