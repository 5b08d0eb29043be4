//! How names are spelled: which ones differ only for the eye, which ones name nothing, and how far two are apart.

use unicode_normalization::UnicodeNormalization;

/// What identifies a thing whatever way it is spelled: equal for `P 01`, `p1`, `\u{ff30}01` and `P01` with a zero width space in it.
///
/// Compatible characters are one (NFKC), white space and invisible characters do not count (only between digits white space separates), nor does case,
/// nor the kind of a dash. Zeros before a number do not count (`001`, `P01`), nor do those behind the point of a text that is one number (`1.0`, `1.50`).
pub fn folded(value: &str) -> String {
    numbers(&letters(value))
}

/// As [`folded`], and zeros count: `1.png` and `01.png` are two files.
pub fn folded_name(value: &str) -> String {
    letters(value)
}

/// Whether nothing of it can be seen: empty, white space, zero width characters.
pub fn is_blank(value: &str) -> bool {
    value.chars().all(|c| is_white(c) || is_invisible(c))
}

/// Whether it stands for a value that is not there: what spreadsheets and table programs write into such cells, and anything without a letter or digit.
pub fn is_placeholder(value: &str) -> bool {
    const WORDS: [&str; 10] = ["na", "n/a", "n.a.", "n.a", "<na>", "nan", "null", "none", "nil", "nat"];
    if is_blank(value) {
        return false;
    }
    let folded = letters(value);
    let error = folded.strip_prefix('#').is_some_and(|rest| {
        let rest = rest.trim_end_matches(['!', '?']);
        const ERRORS: [&str; 21] = [
            "n/a", "na", "n/an/a", "nv", "name", "null", "div/0", "ref", "value", "num", "wert", "zahl", "bezug", "valeur",
            "nom", "nombre", "valor", "calc", "spill", "field", "busy",
        ];
        ERRORS.contains(&rest)
    });
    let number = folded.trim_start_matches('-');
    error || WORDS.contains(&number) || number.starts_with("1.#") || !folded.chars().any(char::is_alphanumeric)
}

/// For messages: what cannot be seen in it is written as a code.
pub fn shown(value: &str) -> String {
    let code = |c: char| (c != ' ' && is_white(c)) || is_invisible(c) || c.is_control();
    value.chars().map(|c| if code(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// What keeps a reader from telling names apart, if anything: one that shows nothing, one that holds characters which change how a line is read, two that
/// differ for a computer only.
pub fn unclear(names: &[String]) -> Option<String> {
    let turns = |c: char| c.is_control() || is_direction(c) || matches!(c, '\u{2028}' | '\u{2029}');
    names.iter().enumerate().find_map(|(at, name)| {
        let code = name.chars().find(|c| turns(*c));
        let same = names[..at].iter().find(|other| folded(other) == folded(name));
        match (code, same) {
            _ if is_blank(name) => Some(format!("name {} is empty", at + 1)),
            (Some(code), _) => Some(format!(
                "`{}` holds {}, which cannot be seen and changes how a line is read",
                shown(name),
                code.escape_unicode()
            )),
            (None, Some(same)) => Some(format!("`{}` and `{}` are one name in two spellings", shown(same), shown(name))),
            (None, None) => None,
        }
    })
}

/// NFKC and the case, dashes and white space of no matter.
fn letters(value: &str) -> String {
    let composed: String = value.nfkc().filter(|c| !is_invisible(*c)).collect();
    let cased: String = composed.to_uppercase().to_lowercase().nfkc().collect();
    let cased: Vec<char> = cased.chars().map(|c| if is_dash(c) { '-' } else { c }).collect();
    let mut text = String::with_capacity(value.len());
    let mut gap = false;
    for c in cased {
        if is_white(c) {
            gap = true;
            continue;
        }
        if gap && c.is_ascii_digit() && text.ends_with(|last: char| last.is_ascii_digit()) {
            text.push(' ');
        }
        gap = false;
        text.push(c);
    }
    text
}

fn numbers(text: &str) -> String {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    if !whole.is_empty() && digits(whole) && digits(fraction) {
        let whole = whole.trim_start_matches('0');
        let whole = if whole.is_empty() { "0" } else { whole };
        return match fraction.trim_end_matches('0') {
            "" => whole.to_string(),
            fraction => format!("{whole}.{fraction}"),
        };
    }
    let mut short = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !c.is_ascii_digit() {
            short.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number = rest[..end].trim_start_matches('0');
        short.push_str(if number.is_empty() { "0" } else { number });
        rest = &rest[end..];
    }
    short
}

/// Unicode's white space, and Braille's empty cell, which looks like it.
fn is_white(c: char) -> bool {
    c.is_whitespace() || c == '\u{2800}'
}

/// Characters without width: controls, Unicode's default ignorable ones, and interlinear marks.
fn is_invisible(c: char) -> bool {
    let control = c.is_control() && !c.is_whitespace();
    control
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{17b4}'
                | '\u{17b5}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
        )
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}')
        || matches!(c, '\u{e0000}'..='\u{e0fff}')
}

/// Marks that turn the direction of what follows.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_dash(c: char) -> bool {
    matches!(c, '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{2043}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}')
}

/// Whether one edit, or none, makes one of the other: a character more, less, another one, or two neighbours exchanged.
pub fn is_near(a: &str, b: &str) -> bool {
    let exchanged = || {
        let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
        let at = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        a.len() == b.len() && at + 1 < a.len() && a[at] == b[at + 1] && a[at + 1] == b[at] && a[at + 2..] == b[at + 2..]
    };
    distance(a, b) <= 1 || exchanged()
}

/// Insertions, deletions and exchanges that make one of the other (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_insertion_deletion_and_exchange_counts_once() {
        let known = [("", "abc", 3), ("abc", "", 3), ("settle_ms", "setle_ms", 1), ("kitten", "sitting", 3), ("same", "same", 0)];
        assert!(known.iter().all(|(a, b, expected)| distance(a, b) == *expected));
    }

    #[test]
    fn what_looks_alike_is_one() {
        let spellings: [(&str, &[&str]); 9] = [
            (
                "p1",
                &[
                    "P01",
                    "p01",
                    "P1",
                    "P\u{a0}01",
                    "P  01",
                    "\u{ff30}\u{ff10}\u{ff11}",
                    "P\u{200b}01",
                    "\u{feff}P01",
                    "P0\u{ad}1",
                    "\u{200e}P01\u{2069}",
                ],
            ),
            ("1", &["1", "001", "1.0", "1.", "01.00", "1\u{a0}", "\u{ff11}", "\u{2081}"]),
            ("0", &["0", "000", "0.0"]),
            ("1.5", &["1.5", "1.50", "01.5"]),
            ("strasse", &["Straße", "STRASSE", "strasse"]),
            ("klinik-a", &["Klinik-A", "Klinik\u{2011}A", "Klinik \u{2013} A", "klinik\u{2212}a"]),
            ("12 3", &["12 3", "12\u{2003}3", "12  03"]),
            ("café", &["Cafe\u{301}", "CAFÉ"]),
            ("", &["", " ", "\u{a0}", "\u{200b}\u{feff}"]),
        ];
        for (expected, all) in spellings {
            all.iter().for_each(|one| assert_eq!(folded(one), expected, "{}", shown(one)));
        }
        let different =
            ["P1", "P2", "P10", "P100", "1", "10", "1.01", "1.1", "12 3", "1 23", "123", "UD", "PD", "D", "a-1", "a1"];
        let folds: std::collections::BTreeSet<String> = different.iter().map(|one| folded(one)).collect();
        assert_eq!(folds.len(), different.len(), "{folds:?}");
        assert_ne!(folded_name("1.png"), folded_name("01.png"));
        assert_eq!(folded_name("A 1.PNG"), folded_name("a\u{a0}1.png"));
    }

    #[test]
    fn names_that_a_reader_cannot_tell_apart_are_told() {
        let told = |names: &[&str]| unclear(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        for clear in [["UD", "PD", "D"], ["1", "10", "01x"], ["schlecht", "mäßig", "gut\u{a0}differenziert"]] {
            assert_eq!(told(&clear), None, "{clear:?}");
        }
        for (names, part) in [
            (["A", "a"], "`A` and `a`"),
            (["A", "A\u{a0}"], "`A\\u{a0}`"),
            (["A", "A"], "two spellings"),
            (["A", "\u{200b}"], "name 2 is empty"),
            (["A", ""], "name 2 is empty"),
            (["A\u{202e}B", "C"], "\\u{202e}"),
            (["A", "B\n# C"], "\\u{a}"),
            (["A", "B\u{1b}[2J"], "\\u{1b}"),
        ] {
            assert!(told(&names).is_some_and(|text| text.contains(part)), "{names:?}: {:?}", told(&names));
        }
    }

    #[test]
    fn cells_without_a_value_are_known() {
        let nothing = [
            "#N/A",
            "#NAME?",
            "NA",
            "n/a",
            "N.A.",
            "NaN",
            "-nan",
            "null",
            "NULL",
            "None",
            "-",
            "--",
            ".",
            "?",
            "\u{2013}",
            "#REF!",
            "#DIV/0!",
            "#WERT!",
            "#NV",
            "<NA>",
            "\u{ff2e}\u{ff21}",
            "1.#QNAN",
        ];
        nothing.iter().for_each(|one| assert!(is_placeholder(one), "{one}"));
        let something = ["UD", "D", "0", "1", "Nana", "no", "#1", "#12", "P-1", "Nadel", "none seen", "", " ", "\u{a0}"];
        something.iter().for_each(|one| assert!(!is_placeholder(one), "{one}"));
        assert!(is_blank(" \u{a0}\u{200b}\u{feff}\t\u{3000}") && is_blank("") && !is_blank("."));
        assert_eq!(shown("P\u{a0}1 \u{200b}"), "P\\u{a0}1 \\u{200b}");
    }

    #[test]
    fn one_edit_is_near_and_two_are_not() {
        let near = [
            ("split", "splits"),
            ("split", "slit"),
            ("split", "spilt"),
            ("split", "splat"),
            ("site", "site"),
            ("group", "gruop"),
        ];
        near.iter().for_each(|(a, b)| assert!(is_near(a, b) && is_near(b, a), "{a} {b}"));
        let far = [("class", "classes"), ("group", "patient"), ("split", "pslti"), ("site", "scanner")];
        far.iter().for_each(|(a, b)| assert!(!is_near(a, b), "{a} {b}"));
    }
}
