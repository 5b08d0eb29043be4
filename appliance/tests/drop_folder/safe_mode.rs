//! The brake of a loop of crashes: watching, status and ledger go on, nothing is assessed, and a person is called.

use crate::appliance::{Appliance, text};

fn status(appliance: &Appliance) -> String {
    std::fs::read_to_string(appliance.path("inbox/STATUS.txt")).unwrap_or_default()
}

fn is_braked(appliance: &Appliance) -> bool {
    appliance.cli(&["status", "--check"]).status.code() == Some(1) && status(appliance).starts_with("NEEDS HELP: safe mode")
}

#[test]
fn ten_starts_that_lose_the_gpu_lead_to_safe_mode_and_a_clean_restart_ends_it() {
    let mut appliance = Appliance::new();
    appliance.drop_png("S1/a.png", 1);
    appliance.drop("S1/text.png", b"not an image but a text");
    appliance.set("DOUBLE_LOSES_GPU", "1");
    // The text fails in one of the first runs; what counts are ten in a row after it.
    let mut fruitless = 0;
    while fruitless < 10 {
        let before = appliance.in_state("failed");
        appliance.spawn();
        assert_eq!(appliance.ended(), Some(70), "{}", appliance.log());
        fruitless = if appliance.in_state("failed") > before { 0 } else { fruitless + 1 };
        assert!(appliance.assessed().len() < 25, "{}", appliance.log());
    }
    let assessed = appliance.assessed().len();
    appliance.start();
    appliance.until("the status calls for help", is_braked);
    assert!(status(&appliance).contains("systemctl restart mmlnb-appliance"), "{}", status(&appliance));

    // It still sees, tells and keeps its ledger.
    appliance.drop_png("S2/b.png", 2);
    appliance.until("the new file is seen", |appliance| status(appliance).contains("waiting or in work: 2"));
    let id = appliance.rows("SELECT id FROM files WHERE state = 'failed'")[0].clone();
    let retried = appliance.cli(&["retry", &id]);
    assert!(retried.status.success(), "{}", text(&retried.stderr));
    appliance.until("it lies in the inbox again", |appliance| appliance.path("inbox/S1/text.png").exists());
    assert_eq!(appliance.assessed().len(), assessed);
    assert_eq!(appliance.reports(), 0);

    appliance.unset("DOUBLE_LOSES_GPU");
    assert_eq!(appliance.stop(), Some(0));
    appliance.start();
    appliance.until("all have ended", |appliance| appliance.in_state("filed") == 2 && appliance.in_state("failed") == 1);
    appliance.check();
}

#[test]
fn deaths_while_loading_count_and_in_safe_mode_nothing_is_loaded() {
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_SAFE_MODE_AFTER", "3");
    appliance.set("DOUBLE_DIES_LOADING", "1");
    for _ in 0..3 {
        appliance.spawn();
        assert_eq!(appliance.ended(), None, "a signal ends it");
    }
    appliance.start();
    appliance.until("the status calls for help", is_braked);
    appliance.set("MMLNB_SAFE_MODE_AFTER", "0");
    assert_eq!(appliance.stop(), Some(0));
    appliance.spawn();
    assert_eq!(appliance.ended(), None, "without the brake it loads and dies");
}

#[test]
fn a_program_that_is_killed_again_and_again_but_gets_on_is_not_braked() {
    let mut appliance = Appliance::new();
    appliance.set("MMLNB_SAFE_MODE_AFTER", "3");
    for seed in 1..=4 {
        appliance.drop_png(&format!("{seed}.png"), seed);
        appliance.start();
        appliance.until("it is filed", |appliance| appliance.in_state("filed") == i64::from(seed));
        appliance.kill();
    }
    appliance.drop_png("last.png", 9);
    appliance.start();
    appliance.until("it is filed", |appliance| appliance.in_state("filed") == 5);
}

#[test]
fn a_start_that_only_a_person_can_mend_leaves_no_run_behind() {
    let mut appliance = Appliance::new();
    appliance.set("DOUBLE_REFUSES_BUNDLE", "1");
    for _ in 0..2 {
        appliance.spawn();
        assert_eq!(appliance.ended(), Some(78));
    }
    assert_eq!(appliance.count("SELECT count(*) FROM run"), 0);
}
