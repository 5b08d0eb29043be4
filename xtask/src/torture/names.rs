//! F19: names that a page, a table or a log would take for something else.

use super::{
    arena::{Arena, LONG, image_as, wait_for_ends},
    figure::{Figure, Measures, Step},
};
use image::ImageFormat;
use mmlnb_models::random::Draw;
use mmlnb_tests::{Dropped, End, drop_by_copy};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// Names.
pub static F19: Figure = Figure {
    name: "F19",
    what: "fuzzed names of files and cases: bytes that are no UTF-8, line breaks, 255 bytes, tags, formulas, marks that turn the direction",
    wanted: "invariant I, every page well-formed and free of the name's tags, no field of the CSV a formula, one line a report in JSON",
    unit: "files",
    full: || 2000,
    short: Some(100),
    step: 50,
    alone: false,
    hindrance: || None,
    play,
};

/// Pieces that mean something to a page, a table, a shell, a log or a person's eye.
const PIECES: [&str; 24] = [
    "<script>alert(1)</script>",
    "<b>",
    "&amp;",
    "\"",
    "'",
    "=cmd|'/C calc'!A0",
    "+1",
    "-1",
    "@SUM(1)",
    "\t",
    "\r",
    "\n",
    ",",
    ";",
    "\u{202e}gnp",
    "\u{7f}",
    "\u{1b}[31m",
    "`id`",
    "$(id)",
    "%00",
    "病理",
    "e\u{301}",
    " ",
    "*",
];

fn play(step: &Step) -> Measures {
    let arena = Arena::new(step, 0);
    arena.set("settle_ms", "30");
    let mut daemon = arena.daemon().start();
    let (mut names, mut dropped) = (BTreeSet::new(), Vec::new());
    for round in step.rounds() {
        let mut draw = step.draw(round);
        let case = if draw.below(2) == 0 { name(&mut draw, "", 40) } else { OsString::new() };
        let path = Path::new(&case).join(name(&mut draw, ".png", 255));
        if names.insert(path.clone()) {
            let bytes = image_as(&mut draw, ImageFormat::Png, 56);
            drop_by_copy(&bytes, &arena.inbox("").join(&path));
            dropped.push(Dropped::new(&bytes, End::Report));
        }
    }
    wait_for_ends(&arena, &mut daemon, dropped.len(), LONG, &format!("names {:?}", step.rounds()));
    assert_eq!(daemon.stop(Duration::from_secs(30)), 0, "a clean stop");
    arena.assert_each_ended_once(&dropped, &format!("names {:?}", step.rounds()));
    let mut measures = Measures::default();
    let mut pages = vec![arena.inbox("STATUS.html"), arena.done("STATUS.html")];
    collect_pages(&arena.done(""), &mut pages);
    for page in &pages {
        let text = fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert_eq!(malformed(&text), None, "{}", page.display());
        assert!(!text.contains("<script"), "{}", page.display());
    }
    measures.count("pages well-formed", pages.len() as u64);
    let csv = arena.operator(&["reports", "--csv"]).expect(0).out;
    measures.count("fields of the CSV that are no formulas", safe_fields(&csv, dropped.len()));
    assert_eq!(arena.operator(&["reports", "--json"]).expect(0).json_lines().len(), dropped.len(), "one line a report");
    measures
}

/// A name of pieces, letters and raw bytes that the inbox does not ignore, ending in `end`.
fn name(draw: &mut Draw, end: &str, longest: usize) -> OsString {
    // A letter first: names that begin with a dot or a tilde are left alone.
    let mut bytes = vec![b'a' + draw.below(26) as u8];
    let most = if draw.below(8) == 0 { longest } else { 1 + draw.below(60.min(longest)) };
    while bytes.len() < most {
        match draw.below(3) {
            0 => bytes.extend(PIECES[draw.below(PIECES.len())].bytes().filter(|byte| *byte != b'/')),
            1 => bytes.push(match 1 + draw.below(255) as u8 {
                b'/' => b'_',
                byte => byte,
            }),
            _ => bytes.push(b'a' + draw.below(26) as u8),
        }
    }
    // A formula may stand first too.
    if draw.below(6) == 0 {
        bytes[0] = b"=+-@"[draw.below(4)];
    }
    bytes.truncate(longest - end.len());
    bytes.extend(end.bytes());
    OsString::from_vec(bytes)
}

fn collect_pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be listed").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pages(&entry.path(), found);
        } else if entry.file_name().as_bytes().ends_with(b".report.html") {
            found.push(entry.path());
        }
    }
}

/// How many fields there are; none of them is a formula to a spreadsheet.
#[track_caller]
fn safe_fields(csv: &str, rows: usize) -> u64 {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let (mut fields, mut records) = (0, 0);
    for record in reader.records() {
        let record = record.unwrap_or_else(|error| panic!("{error}\n{csv}"));
        records += 1;
        for field in &record {
            fields += 1;
            let number = field.parse::<f64>().is_ok();
            assert!(number || !field.starts_with(['=', '+', '-', '@', '\t', '\r']), "a formula: {field:?}");
        }
    }
    assert_eq!(records, rows, "one record for each report");
    fields
}

/// What is wrong with a page: a tag that is never closed, closes another one or is broken.
fn malformed(page: &str) -> Option<String> {
    const VOID: [&str; 5] = ["meta", "link", "br", "img", "hr"];
    let (mut open, mut rest) = (Vec::<String>::new(), page);
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let Some(end) = end_of_tag(rest) else { return Some(format!("no end: <{}", rest.chars().take(60).collect::<String>())) };
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        if tag.starts_with('!') {
            continue;
        }
        let closing = tag.strip_prefix('/');
        let name: String = closing.unwrap_or(tag).chars().take_while(|letter| letter.is_ascii_alphanumeric()).collect();
        if name.is_empty() {
            return Some(format!("no tag: <{tag}>"));
        }
        match closing {
            Some(_) if open.last() == Some(&name) => drop(open.pop()),
            Some(_) => return Some(format!("</{name}> within {open:?}")),
            None if VOID.contains(&name.as_str()) || tag.ends_with('/') => {}
            None => {
                if name == "style" {
                    rest = &rest[rest.find("</style>").unwrap_or(rest.len())..];
                }
                open.push(name);
            }
        }
    }
    (!open.is_empty()).then(|| format!("never closed: {open:?}"))
}

/// Where a tag ends; signs in quotes do not count.
fn end_of_tag(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (None, '>') => return Some(at),
            (None, '<') => return None,
            (None, '"' | '\'') => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_a_name_breaks_are_seen() {
        let page = |title: &str| {
            format!(
                "<!DOCTYPE html><html lang=\"en\"><head><title>{title}</title><style>a<b{{}}</style></head><body><br><p class='x>y'>1</p></body></html>"
            )
        };
        assert_eq!(malformed(&page("a &lt;b&gt;")), None);
        for broken in ["a<b>", "<", "</p>", "<i", "a < b"] {
            assert!(malformed(&page(broken)).is_some(), "{broken}");
        }
    }

    #[test]
    fn names_repeat_by_their_round_and_fit() {
        let step = Step { figure: "F19", first: 0, count: 1 };
        for round in 0..300 {
            let made = name(&mut step.draw(round), ".png", 255);
            assert_eq!(made, name(&mut step.draw(round), ".png", 255));
            assert!(made.len() <= 255 && !made.as_bytes().contains(&b'/') && !made.as_bytes().contains(&0), "{made:?}");
        }
    }
}
