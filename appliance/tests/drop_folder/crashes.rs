//! Kills, aborts, full disks and hanging stages: the ledger stays whole and every file still ends exactly once.

use std::time::Duration;

use rustix::process::Signal;

use crate::appliance::{Appliance, png, text};

#[test]
fn killed_five_times_in_the_middle() {
    let mut appliance = Appliance::new();
    appliance.set("DOUBLE_DELAY_MS", "40");
    for seed in 0..40 {
        appliance.drop_png(&format!("case/{seed}.png"), seed);
    }
    for kill in 1..=5 {
        appliance.start();
        appliance.until("some are done", |appliance| appliance.reports() >= kill * 6);
        appliance.kill();
    }
    appliance.start();
    appliance.until("all are filed", |appliance| appliance.in_state("filed") == 40);
    assert_eq!(appliance.reports(), 40);
    assert!(appliance.inbox_is_empty());
    assert_eq!(appliance.stop(), Some(0));
    appliance.check();
    assert_eq!(appliance.count("SELECT count(*) FROM files"), 40);
}

#[test]
fn an_image_that_is_often_killed_from_outside_is_not_blamed() {
    let mut appliance = Appliance::new();
    appliance.set("DOUBLE_DELAY_MS", "3000");
    appliance.drop_png("slow.png", 1);
    for _ in 0..5 {
        let before = appliance.assessed().len();
        appliance.start();
        appliance.until("it is in work", |appliance| appliance.assessed().len() > before);
        appliance.kill();
    }
    appliance.set("DOUBLE_DELAY_MS", "5");
    appliance.start();
    appliance.until("it is filed", |appliance| appliance.in_state("filed") == 1);
}

#[test]
fn a_poison_image_ends_after_three_deaths_and_the_others_go_on() {
    let mut appliance = Appliance::new();
    appliance.set("DOUBLE_DELAY_MS", "100");
    appliance.drop("poison.png", &png(66, 64, 1));
    for seed in 0..12 {
        appliance.drop_png(&format!("{seed}.png"), seed);
    }
    let mut deaths = 0;
    appliance.spawn();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        if !appliance.is_running() {
            appliance.ended();
            deaths += 1;
            assert!(deaths <= 3, "{}", appliance.log());
            appliance.spawn();
        }
        if appliance.in_state("filed") == 12 && appliance.in_state("failed") == 1 {
            break;
        }
    }
    assert_eq!(deaths, 3);
    assert_eq!(appliance.rows("SELECT code FROM files WHERE state = 'failed'"), ["crashed_repeatedly"]);
    assert!(appliance.path("failed/poison.png.note.html").exists());
    appliance.check();
}

#[test]
fn a_hanging_image_is_given_up_and_the_others_go_on() {
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_ASSESS_S", "1");
    appliance.set("MMLNB_MAX_ATTEMPTS", "1");
    appliance.drop("hang.png", &png(77, 64, 1));
    appliance.drop_png("good.png", 2);
    appliance.start();
    appliance.until("both ended", |appliance| appliance.in_state("filed") == 1 && appliance.in_state("failed") == 1);
    assert_eq!(appliance.rows("SELECT code FROM files WHERE state = 'failed'"), ["timed_out"]);
}

#[test]
fn sigterm_finishes_and_a_second_one_stops_at_once() {
    let mut appliance = Appliance::new();
    appliance.set("DOUBLE_DELAY_MS", "1500");
    appliance.drop_png("a.png", 1);
    appliance.start();
    appliance.until("it is in work", |appliance| appliance.assessed().len() == 1);
    assert_eq!(appliance.stop(), Some(0));
    assert_eq!(appliance.in_state("filed"), 1);

    appliance.set("DOUBLE_DELAY_MS", "60000");
    appliance.drop_png("b.png", 2);
    appliance.start();
    appliance.until("it is in work", |appliance| appliance.assessed().len() == 2);
    appliance.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    let begun = std::time::Instant::now();
    appliance.signal(Signal::TERM);
    assert_eq!(appliance.ended(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(appliance.count("SELECT count(*) FROM run WHERE ended_at IS NULL"), 0);
    assert_eq!(appliance.rows("SELECT state || attempts FROM job WHERE state <> 'committed'"), ["released0"]);
    appliance.set("DOUBLE_DELAY_MS", "5");
    appliance.start();
    appliance.until("it is filed", |appliance| appliance.in_state("filed") == 2);
    appliance.check();
}

#[test]
fn two_daemons_do_not_share_a_folder() {
    let mut first = Appliance::new();
    first.start();
    let mut second = Appliance::new();
    for key in ["inbox", "state"] {
        let theirs = first.path(key).display().to_string();
        second.set(&format!("MMLNB_{}", key.to_uppercase()), &theirs);
        second.spawn();
        assert_eq!(second.ended(), Some(75), "{}", second.log());
        second.unset("MMLNB_INBOX");
    }
}

#[test]
fn ready_comes_after_loading_and_the_watchdog_starves_when_a_worker_hangs() {
    let mut appliance = Appliance::new();
    let socket = std::os::unix::net::UnixDatagram::bind(appliance.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let address = appliance.path("notify").display().to_string();
    appliance.set("NOTIFY_SOCKET", &address);
    appliance.set("WATCHDOG_USEC", "600000");
    appliance.set("DOUBLE_LOAD_MS", "600");
    appliance.set("MMLNB_FAILPOINTS", "assess.before=hang");
    appliance.set("MMLNB_ASSESS_S", "1");
    let hear = |time: Duration| {
        let (begun, mut said) = (std::time::Instant::now(), String::new());
        let mut buffer = [0; 4096];
        while begun.elapsed() < time {
            if let Ok(count) = socket.recv(&mut buffer) {
                said.push_str(&text(&buffer[..count]));
                said.push('\n');
            }
        }
        said
    };
    appliance.spawn();
    let early = hear(Duration::from_millis(400));
    assert!(early.contains("EXTEND_TIMEOUT_USEC") && !early.contains("READY=1"), "{early}");
    let later = hear(Duration::from_secs(3));
    assert!(later.contains("READY=1") && later.contains("WATCHDOG=1"), "{later}");
    if cfg!(feature = "failpoints") {
        appliance.drop_png("x.png", 1);
        hear(Duration::from_secs(14));
        let starved = hear(Duration::from_secs(2));
        assert!(!starved.contains("WATCHDOG=1"), "{starved}");
        appliance.kill();
    } else {
        appliance.signal(Signal::TERM);
        assert!(hear(Duration::from_secs(1)).contains("STOPPING=1"));
        appliance.ended();
    }
}

/// Every point at which a program may die: it dies there once, and after the restart every file ends exactly once.
#[cfg(feature = "failpoints")]
#[test]
fn every_failpoint_is_survived() {
    let pairs: Vec<(&str, &str)> = ["1*abort", "2*eio", "2*enospc"]
        .iter()
        .flat_map(|act| mmlnb_appliance::failpoint::NAMES.iter().map(|point| (*point, *act)))
        .filter(|(point, _)| !point.starts_with("qualify."))
        .collect();
    // Most of the time is waiting, so several appliances live beside each other.
    std::thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .chunks(pairs.len().div_ceil(12))
            .map(|chunk| scope.spawn(move || chunk.iter().for_each(|(point, act)| survive(point, act))))
            .collect();
        assert!(threads.into_iter().all(|thread| thread.join().is_ok()));
    });
}

/// Copies that wait together are moved together and get their receipts in one transaction: a death before it loses none of them.
#[cfg(feature = "failpoints")]
#[test]
fn a_death_before_the_receipt_of_several_files_loses_none() {
    let mut appliance = Appliance::new();
    appliance.set("DOUBLE_DELAY_MS", "1500");
    for copy in 0..40 {
        appliance.drop_png(&format!("case{}/{copy}.png", copy % 2), 5);
    }
    appliance.set("MMLNB_FAILPOINTS", "ledger.filed=1*abort");
    appliance.spawn();
    appliance.ended();
    let placed = |case: &str| {
        let entries = std::fs::read_dir(appliance.path(&format!("done/{case}"))).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "png")).count()
    };
    assert!(placed("case0") + placed("case1") > 1, "several were moved, and none is noted");
    assert_eq!(appliance.in_state("filed"), 0);
    appliance.unset("MMLNB_FAILPOINTS");
    appliance.start();
    appliance.until("all are filed", |appliance| appliance.in_state("filed") == 40 && appliance.inbox_is_empty());
    assert_eq!((appliance.reports(), appliance.count("SELECT count(*) FROM files")), (1, 40));
    let page = |name: &str| std::fs::read_to_string(appliance.path(&format!("done/{name}.report.html"))).unwrap();
    assert!(page("case1/1.png").contains("SAME IMAGE AS CASE case0") && page("case0/0.png").contains("SAME IMAGE AS CASE case1"));
    appliance.stop();
    appliance.check();
}

#[cfg(feature = "failpoints")]
fn survive(point: &str, act: &str) {
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_MAX_ATTEMPTS", "5");
    for seed in 0..3 {
        appliance.drop_png(&format!("case/{seed}.png"), seed);
    }
    appliance.drop("case/broken.png", b"no image at all, only words");
    appliance.set("MMLNB_FAILPOINTS", &format!("{point}={act}"));
    appliance.spawn();
    let begun = std::time::Instant::now();
    while appliance.is_running() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
        if appliance.in_state("filed") + appliance.in_state("failed") == 4 {
            break;
        }
    }
    if appliance.is_running() {
        appliance.stop();
    } else {
        appliance.ended();
    }
    appliance.unset("MMLNB_FAILPOINTS");
    appliance.start();
    appliance.until(&format!("all end after {point}={act}"), |appliance| {
        appliance.in_state("filed") + appliance.in_state("failed") == 4 && appliance.inbox_is_empty()
    });
    appliance.stop();
    appliance.check();
    // A decoder that dies itself is the one case in which an image may be blamed.
    if *point != *"decode.child" {
        assert_eq!(appliance.reports(), 3, "{point}={act}\n{}", appliance.log());
    }
    assert_eq!(appliance.count("SELECT count(*) FROM files"), 4, "{point}={act}");
}

#[cfg(feature = "failpoints")]
#[test]
fn pages_learn_of_a_mix_up_although_the_program_dies_before_it_writes_them() {
    let mut appliance = Appliance::new();
    let image = png(64, 64, 1);
    appliance.drop("left/x.png", &image);
    appliance.start();
    appliance.until("the first is filed", |appliance| appliance.in_state("filed") == 1);
    assert_eq!(appliance.stop(), Some(0));
    appliance.set("MMLNB_FAILPOINTS", "filed.after=1*abort");
    appliance.drop("right/x.png", &image);
    appliance.spawn();
    assert_ne!(appliance.ended(), Some(0), "{}", appliance.log());
    assert_eq!(appliance.in_state("filed"), 2, "the second is filed");
    let page = |appliance: &Appliance, case: &str| {
        text(&std::fs::read(appliance.path(&format!("done/{case}/x.png.report.json"))).unwrap())
    };
    assert!(!page(&appliance, "left").contains("same_image_other_case"));
    appliance.unset("MMLNB_FAILPOINTS");
    appliance.start();
    for case in ["left", "right"] {
        assert!(page(&appliance, case).contains("same_image_other_case"), "{case}");
    }
}

#[test]
fn a_huge_file_of_an_image_s_name_does_not_keep_others_waiting() {
    let mut appliance = Appliance::new();
    std::fs::create_dir(appliance.path("done/case")).unwrap();
    let huge = std::fs::File::create(appliance.path("done/case/x.png")).unwrap();
    huge.set_len(1 << 40).unwrap();
    appliance.drop_png("case/x.png", 1);
    appliance.start();
    appliance.until("it is filed", |appliance| appliance.in_state("filed") == 1);
    assert_eq!(huge.metadata().unwrap().len(), 1 << 40);
    let names =
        std::fs::read_dir(appliance.path("done/case")).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("x~") && name.ends_with(".png")).count(), 1);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_page_does_not_stay_when_its_image_is_taken_away_before_it_moves() {
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_FAILPOINTS", "move.rename=1*abort");
    appliance.drop_png("case/x.png", 1);
    appliance.spawn();
    assert_ne!(appliance.ended(), Some(0), "{}", appliance.log());
    assert!(appliance.path("done/case/x.png.report.html").exists());
    std::fs::remove_file(appliance.path("inbox/case/x.png")).unwrap();
    appliance.unset("MMLNB_FAILPOINTS");
    appliance.start();
    appliance.until("it is known to have left", |appliance| appliance.in_state("vanished") == 1);
    assert!(!appliance.path("done/case/x.png.report.html").exists());
    assert!(!appliance.path("done/case/x.png.report.json").exists());
}
