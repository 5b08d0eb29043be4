//! F4: the order in which the daemon makes things durable, read from its system calls.

use super::{
    arena::{Arena, LONG, Parcel, stream, wait_for_ends},
    failpoints::Other,
    figure::{Figure, Measures, Step},
    strace::{self, Call},
};
use mmlnb_tests::{Dropped, drop_by_copy};
use std::{collections::HashMap, time::Duration};

/// The calls that make something durable or visible.
const TRACED: &str = "trace=fsync,fdatasync,rename,renameat,renameat2,linkat,unlinkat,pwrite64";

/// Order of system calls.
pub static F4: Figure = Figure {
    name: "F4",
    what: "the daemon's system calls while files are put away one after the other, the last step's onto another file system: report committed < image synced < renamed < both folders synced < `filed` written; pages synced < renamed < folder synced",
    wanted: "100 % of moves",
    unit: "files",
    full: || 400,
    short: Some(40),
    step: 40,
    alone: false,
    hindrance: strace::hindrance,
    play,
};

fn play(step: &Step) -> Measures {
    let arena = Arena::new(step, 0);
    // The last one of the whole figure.
    let across = step.first + step.count >= (F4.full)();
    let other = across.then(|| Other::new(&arena));
    let log = arena.root().join("calls");
    let words = strace::words(&log, &["-e", TRACED, "--seccomp-bpf"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let files = stream(&mut step.draw(step.first), step.count as usize, "f");
    let mut daemon = arena.daemon().through(&words).start();
    // One after the other: files that wait together are put away by one thread, and system calls do not tell whose end a commit of another holds.
    for (number, file) in files.iter().enumerate() {
        drop_by_copy(&file.bytes, &arena.inbox(&file.path));
        wait_for_ends(&arena, &mut daemon, number + 1, LONG, "under strace");
    }
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    let dropped: Vec<Dropped> = files.iter().map(Parcel::dropped).collect();
    arena.assert_each_ended_once(&dropped, "under strace");
    let calls = strace::calls(&log);
    let moves = moves(&calls, &arena);
    assert_eq!(moves.len(), files.len(), "one move for each file");
    let mut measures = Measures::default();
    let mut last: HashMap<u32, usize> = HashMap::new();
    for moved in &moves {
        moved.assert_in_order(&calls, last.get(&moved.call.thread).copied());
        last.insert(moved.call.thread, moved.call.over);
    }
    measures.count(if across { "moves onto another file system in order" } else { "moves in order" }, moves.len() as u64);
    drop(other);
    measures
}

/// An image that gets its last name, by a rename from the inbox or by one of a copy.
struct Move<'a> {
    call: &'a Call,
    /// Folder in the inbox.
    from: String,
    /// Folder in `done` or `failed`.
    to: String,
    name: String,
    copied: bool,
}

fn moves<'a>(calls: &'a [Call], arena: &Arena) -> Vec<Move<'a>> {
    let root = |name: &str| std::fs::canonicalize(arena.root().join(name)).expect("the folder is there").display().to_string();
    let (inbox, done, failed) = (root("inbox"), root("done"), root("failed"));
    let ends = |folder: &str| folder.starts_with(&done) || folder.starts_with(&failed);
    let renames = calls.iter().filter(|call| call.name == "renameat2");
    let found = renames.filter_map(|call| {
        let [from, old, to, name] = <[String; 4]>::try_from(parts(&call.words)).ok()?;
        if !ends(&to) || !(from.starts_with(&inbox) || from == to && old == format!(".{name}.part")) {
            return None;
        }
        let copied = from == to;
        let case = to.rsplit('/').next().unwrap_or_default();
        Some(Move { call, from: if copied { format!("{inbox}/{case}") } else { from }, to, name, copied })
    });
    found.collect()
}

/// Folder, name, folder, name of a rename's words.
fn parts(words: &str) -> Vec<String> {
    let words = words.split(", ").take(4);
    let bare = |word: &str| match word.split_once('<') {
        Some((_, path)) => path.trim_end_matches('>').to_owned(),
        None => word.trim_matches('"').to_owned(),
    };
    words.map(bare).collect()
}

impl Move<'_> {
    /// `before`: where this thread's move before this one was over.
    #[track_caller]
    fn assert_in_order(&self, calls: &[Call], before: Option<usize>) {
        let Move { call, from, to, name, .. } = self;
        let own: Vec<&Call> = calls.iter().filter(|other| other.thread == call.thread).collect();
        let written = own.iter().find(|other| other.name == "pwrite64" && is_of_log(other) && other.began > call.over);
        let written = written.unwrap_or_else(|| panic!("{name}: nothing was committed after the move"));
        let committed = own.iter().any(|other| other.name == "fsync" && is_of_log(other) && other.began > written.over);
        assert!(committed, "{name}: the last commit was not synced");

        let earlier = own.iter().filter(|other| other.name == "fsync" && is_of_log(other));
        let earlier = earlier.filter(|other| other.over < call.began && before.is_none_or(|before| other.began > before));
        // A second copy of an image is put away by the commit that found it.
        assert!(earlier.count() >= 1, "{name}: moved before its end was committed");

        let image = if self.copied { format!("{to}/.{name}.part") } else { format!("{from}/{name}") };
        assert!(syncs(calls, &image).any(|sync| sync.over < call.began), "{name}: the image was not synced before its move");
        let both = [(to, call.over), (from, if self.copied { self.unlinked(calls) } else { call.over })];
        for (folder, after) in both {
            let synced = syncs(calls, folder).any(|sync| sync.began > after && sync.over < written.began);
            assert!(synced, "{name}: {folder} was not synced between the move and the commit");
        }
        let pages = ["report.html", "report.json", "note.html", "note.json"];
        let pages = pages.into_iter().filter(|kind| self.assert_page(calls, &format!("{name}.{kind}"), written));
        assert_eq!(pages.count(), 2, "{name}: its page and its JSON were written before the commit");
    }

    /// Where the source of a copy was removed: after the copy and its folder were durable.
    #[track_caller]
    fn unlinked(&self, calls: &[Call]) -> usize {
        let Move { call, from, to, name, .. } = self;
        let end = format!("<{from}>, \"{name}\", 0");
        let unlinked = calls.iter().find(|other| other.name == "unlinkat" && other.words.ends_with(&end));
        let unlinked = unlinked.unwrap_or_else(|| panic!("{name}: the source stayed"));
        let durable = syncs(calls, to).any(|sync| sync.began > call.over && sync.over < unlinked.began);
        assert!(durable, "{name}: the source was removed before its copy's name was durable");
        unlinked.over
    }

    /// A page that was written for this move was durable before its name, and its name before the commit; false where there is none.
    #[track_caller]
    fn assert_page(&self, calls: &[Call], page: &str, written: &Call) -> bool {
        let end = format!("<{}>, \"{page}\"", self.to);
        let mut renames = calls.iter().filter(|call| call.name == "renameat" && call.words.ends_with(&end));
        let Some(renamed) = renames.rfind(|call| call.over < written.began) else { return false };
        let part = format!("{}/.{page}.part", self.to);
        assert!(syncs(calls, &part).any(|sync| sync.over < renamed.began), "{page} was not synced before it got its name");
        let named = syncs(calls, &self.to).any(|sync| sync.began > renamed.over && sync.over < written.began);
        assert!(named, "{page}: its name was not durable before the commit");
        true
    }
}

fn is_of_log(call: &Call) -> bool {
    call.words.split(", ").next().is_some_and(|file| file.ends_with("/ledger.sqlite-wal>"))
}

fn syncs<'a>(calls: &'a [Call], path: &str) -> impl Iterator<Item = &'a Call> {
    let end = format!("<{path}>");
    calls.iter().filter(move |call| call.name == "fsync" && call.words.ends_with(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(at: usize, name: &str, words: &str) -> Call {
        Call { thread: 7, name: name.into(), words: words.into(), began: at, over: at }
    }

    fn log() -> Vec<Call> {
        vec![
            call(0, "fsync", "6</s/ledger.sqlite-wal>"),
            call(1, "fsync", "9</o/.x.report.html.part>"),
            call(2, "renameat", "8</o>, \".x.report.html.part\", 8</o>, \"x.report.html\""),
            call(9, "fsync", "9</o/.x.report.json.part>"),
            call(10, "renameat", "8</o>, \".x.report.json.part\", 8</o>, \"x.report.json\""),
            call(3, "fsync", "9</i/x>"),
            call(4, "renameat2", "7</i>, \"x\", 8</o>, \"x\", RENAME_NOREPLACE"),
            call(5, "fsync", "8</o>"),
            call(6, "fsync", "7</i>"),
            call(7, "pwrite64", "6</s/ledger.sqlite-wal>, \"\"..., 24, 5"),
            call(8, "fsync", "6</s/ledger.sqlite-wal>"),
        ]
    }

    fn is_in_order(calls: &[Call]) -> bool {
        let calls: Vec<Call> = calls.iter().enumerate().map(|(at, call)| Call { began: at, over: at, ..call.clone() }).collect();
        let found = calls.iter().find(|call| call.name == "renameat2").expect("the log has a move");
        let moved = Move { call: found, from: "/i".into(), to: "/o".into(), name: "x".into(), copied: false };
        std::panic::catch_unwind(|| moved.assert_in_order(&calls, None)).is_ok()
    }

    #[test]
    fn every_step_that_is_missing_or_late_is_seen() {
        assert!(is_in_order(&log()));
        for missing in [0, 1, 2, 3, 4, 5, 7, 8, 9, 10] {
            let mut calls = log();
            calls.remove(missing);
            assert!(!is_in_order(&calls), "without {missing}");
        }
        for (early, late) in [(1, 2), (3, 4), (5, 6), (6, 7), (7, 9), (8, 9)] {
            let mut calls = log();
            let moved = calls.remove(early);
            calls.insert(late, moved);
            assert!(!is_in_order(&calls), "{early} after {late}");
        }
    }

    #[test]
    fn the_words_of_a_rename_are_read() {
        assert_eq!(
            parts("23</b/inbox/c>, \"a.png\", 24</b/done/c>, \"a.png\", RENAME_NOREPLACE"),
            ["/b/inbox/c", "a.png", "/b/done/c", "a.png"]
        );
    }
}
