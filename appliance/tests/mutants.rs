//! Files with faults made by chance through the confined child: it lives, answers in time, and the program's own memory does not grow.
#![allow(clippy::disallowed_methods, reason = "tests prepare files by paths")]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mmlnb_appliance::assess::bytes::Bytes;
use mmlnb_appliance::assess::reader::{Decoder, Found, Reader, Settings, Unread};
use mmlnb_appliance::assess::wire::{Ask, Want};
use mmlnb_models::random::Draw;
use mmlnb_tests::{mutant, originals};

/// `FIRST:COUNT`: which mutants, where it is not the few of every day.
const WHICH: &str = "MMLNB_MUTANTS";
const EVERY_DAY: (u64, u64) = (0, 400);
/// Growth of this process that a file may cause, in MB.
const GROWTH: u64 = 200;

#[test]
fn no_mutant_costs_a_child_its_life() {
    let (first, count) = which();
    let mut reader = Reader::new(Settings::new(env!("CARGO_BIN_EXE_mmlnb-appliance").into(), Duration::from_secs(20), (8192, 8)));
    reader.start().unwrap();
    let (images, before) = (originals(), peak_mb("self"));
    let (mut decoded, mut unfinished, mut refused, mut longest, mut child) = (0, 0, 0, Duration::ZERO, 0);
    for number in first..first + count {
        let mut draw = Draw::new(13, "mutant", &[number]);
        let file = mutant(&images, |below| draw.below(below));
        let ask = Ask {
            want: Want::Image { thumbnail: true },
            name: "x.png".into(),
            hollow: false,
            patient: true,
            lenient: number % 2 == 1,
        };
        let bytes = Bytes::read(&mut file.as_slice(), u64::MAX).unwrap();
        let begun = Instant::now();
        let found = reader.ask(&ask, bytes.as_fd());
        let found = found.and_then(|found| match found {
            Found::Image(_) => reader.thumbnail().map(|_| &mut decoded),
            Found::Unfinished(_) | Found::Fine | Found::Slide(..) => Ok(&mut unfinished),
        });
        longest = longest.max(begun.elapsed());
        match found {
            Ok(kind) => *kind += 1,
            Err(Unread::Rejected(why)) => {
                assert!(!why.code.is_empty() && !why.message.is_empty(), "mutant {number}: a reason");
                refused += 1;
            }
            Err(Unread::Died(why)) => panic!("mutant {number}: {}: {}", why.code, why.message),
            Err(Unread::Later(why)) => panic!("mutant {number}: {why}"),
        }
        child = child.max(children().iter().map(|id| peak_mb(id)).max().unwrap_or(0));
    }
    let grown = peak_mb("self") - before;
    println!(
        "measured {}",
        serde_json::json!({
            "decoded": decoded, "unfinished": unfinished, "refused": refused,
            "longest_s": longest.as_secs_f64(), "grown_mb": grown, "child_mb": child,
        })
    );
    assert!(decoded > 0 && refused > 0, "{decoded} decoded, {refused} refused: these are no mutants");
    assert!(grown < GROWTH, "{grown} MB");
    // The machine may be busy with other tests; `cargo xtask torture F5` wants 1 s.
    assert!(longest < Duration::from_secs(10), "{longest:?}");
}

fn which() -> (u64, u64) {
    let Ok(text) = std::env::var(WHICH) else { return EVERY_DAY };
    let (first, count) = text.split_once(':').unwrap_or_else(|| panic!("{WHICH} is FIRST:COUNT, not {text}"));
    (first.parse().unwrap(), count.parse().unwrap())
}

fn children() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Largest resident size so far; 0 for a process that has just ended.
fn peak_mb(id: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or(0, |line| line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10)
}
