//! Both stages of the trainer as their users meet them: killed, stopped, resumed, given wrong data or other settings.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mmlnb_tests::{Stage, Training, losses, run, send};
use rustix::process::Signal;

/// Numbers that differ from test to test and are the same in every run of the suite.
struct Moments(u64);

impl Moments {
    fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        limit.mul_f64((self.0 >> 33) as f64 / (1u64 << 31) as f64)
    }
}

/// Kills a training with SIGKILL ten times, each time at a random moment after it has logged something new, and lets it end.
fn killed_ten_times(stage: Stage, epochs: u32) {
    let training = Training::new(stage, epochs);
    let started = Instant::now();
    run(&mut training.command("whole")).expect(0);
    let whole = started.elapsed();
    let mut moments = Moments(stage as u64 + 7);
    let mut kills = 0;
    let mut runs = 0;
    while kills < 10 {
        let name = format!("killed-{runs}");
        let before = training.metrics(&name).len();
        let mut child = training.start(&name, true);
        while training.metrics(&name).len() <= before && child.try_wait().expect("a child can be asked").is_none() {
            std::thread::sleep(Duration::from_millis(3));
        }
        std::thread::sleep(moments.below(whole / 8));
        match child.try_wait().expect("a child can be asked") {
            None => {
                child.kill().expect("the trainer is our child");
                child.wait().expect("a killed child ends");
                kills += 1;
            }
            Some(status) => {
                assert!(status.success(), "a resumed training fails: {status}");
                same_result(&training, &name);
                runs += 1;
            }
        }
    }
    let name = format!("killed-{runs}");
    run(training.command(&name).arg("--resume")).expect(0);
    same_result(&training, &name);
}

#[track_caller]
fn same_result(training: &Training, name: &str) {
    assert_eq!(losses(&training.metrics(name)), losses(&training.metrics("whole")));
    assert_eq!(training.weights(name), training.weights("whole"));
    let left: Vec<String> = fs::read_dir(training.path(name))
        .expect("the run is there")
        .map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".new") || name.ends_with(".old"))
        .collect();
    assert!(left.is_empty(), "{left:?} are left of killed processes");
}

#[test]
fn a_describer_killed_at_ten_moments_has_the_weights_of_an_uninterrupted_one() {
    killed_ten_times(Stage::Describe, 8);
}

#[test]
fn a_classifier_killed_at_ten_moments_has_the_weights_of_an_uninterrupted_one() {
    killed_ten_times(Stage::Classify, 30);
}

/// Ctrl-C ends with 130 and says how to go on; going on gives what an uninterrupted run gives; once more does nothing.
fn interrupted(stage: Stage) {
    let training = Training::new(stage, 6);
    run(&mut training.command("whole")).expect(0);
    let mut child = training.command("run").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the trainer starts");
    while losses(&training.metrics("run")).len() < 3 {
        assert!(child.try_wait().expect("a child can be asked").is_none(), "it ended before Ctrl-C");
        std::thread::sleep(Duration::from_millis(2));
    }
    send(&child, Signal::INT);
    let mut said = String::new();
    child.stderr.take().expect("it was asked for").read_to_string(&mut said).expect("words are text");
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{said}");
    assert!(said.contains("--resume"), "{said}");
    let steps = losses(&training.metrics("run")).len();
    assert!(steps < losses(&training.metrics("whole")).len(), "it went on to the end");
    run(training.command("run").arg("--resume")).expect(0);
    same_result(&training, "run");

    let before = files(&training, "run");
    let again = run(training.command("run").arg("--resume")).expect(0);
    assert!(again.err.contains("finished"), "{}", again.err);
    assert_eq!(files(&training, "run"), before, "a finished run is left as it is");
}

/// Names, sizes and times of a run's files.
fn files(training: &Training, name: &str) -> BTreeMap<String, (u64, std::time::SystemTime)> {
    let listing = fs::read_dir(training.path(name)).expect("the run is there").map(|entry| entry.expect("it can be listed"));
    let described = listing.map(|entry| {
        let known = entry.metadata().expect("a listed file has metadata");
        (entry.file_name().to_string_lossy().into_owned(), (known.len(), known.modified().expect("files have times")))
    });
    described.collect()
}

#[test]
fn a_describer_stopped_by_ctrl_c_goes_on() {
    interrupted(Stage::Describe);
}

#[test]
fn a_classifier_stopped_by_ctrl_c_goes_on() {
    interrupted(Stage::Classify);
}

/// Other settings and other data are refused with the difference; more epochs are not.
fn changed(stage: Stage) {
    let mut training = Training::new(stage, 2);
    if stage == Stage::Classify {
        // Left out, they stand at thirds of the epochs, and more epochs are another curriculum.
        training.set("text_unfrozen_from_epoch", "1");
        training.set("encoders_frozen_from_epoch", "2");
    }
    run(&mut training.command("run")).expect(0);
    let weights = training.weights("run");
    training.set("learning_rate", "0.25");
    let refused = run(training.command("run").arg("--resume")).expect(2);
    assert!(refused.err.contains("recipe.learning_rate: was 0.0001, is 0.25"), "{}", refused.err);
    training.set("learning_rate", "0.0001");
    let data = fs::read_to_string(training.path("data.csv")).expect("the data is there");
    fs::write(training.path("data.csv"), data.replacen("cells", "blue cells", 1)).expect("the copy is writable");
    let refused = run(training.command("run").arg("--resume")).expect(2);
    assert!(refused.err.contains("data.sha256: was"), "{}", refused.err);
    assert_eq!(training.weights("run"), weights, "nothing was touched");

    fs::write(training.path("data.csv"), data).expect("the copy is writable");
    let refused = run(&mut training.command("run")).expect(2);
    assert!(refused.err.contains("--resume"), "{}", refused.err);
    training.set("epochs", "3");
    run(training.command("run").arg("--resume")).expect(0);
    let epochs: Vec<u64> = training.metrics("run").iter().filter_map(|line| line["epoch"].as_u64()).collect();
    assert_eq!(epochs.iter().max(), Some(&2), "a third epoch was made");
}

#[test]
fn a_describer_with_other_settings_is_not_resumed() {
    changed(Stage::Describe);
}

#[test]
fn a_classifier_with_other_settings_is_not_resumed() {
    changed(Stage::Classify);
}

/// Everything that is wrong with the data is listed at once, by line, before weights are read, and nothing is started.
fn wrong_data(stage: Stage) {
    let training = Training::new(stage, 1);
    let data = fs::read_to_string(training.path("data.csv")).expect("the data is there");
    let header: Vec<&str> = data.lines().next().expect("there is a header").split(',').collect();
    let first = data.lines().nth(1).expect("there are rows").to_owned();
    let lines = data.lines().count();
    let row = |file: &str, class: &str, description: &str| {
        let field = |name: &&str| match *name {
            "file_name" => file.to_owned(),
            "class" => class.to_owned(),
            "description" => description.to_owned(),
            "group" => "P-new".to_owned(),
            "split" => "train".to_owned(),
            "site" => "S1".to_owned(),
            _ => "0".to_owned(),
        };
        header.iter().map(field).collect::<Vec<_>>().join(",")
    };
    let images = training.path("images").canonicalize().expect("the images are there");
    fs::remove_file(training.path("images")).expect("a link can be removed");
    mmlnb_tests::copy_folder(&images, &training.path("images"));
    fs::write(training.path("images/broken.png"), b"\x89PNG\r\n\x1a\n").expect("the copy is writable");
    let rows = [
        first,
        row("absent.png", "UD", "t"),
        row("broken.png", "UD", "t"),
        row("../data.csv", "UD", "t"),
        row("x.png", "UD", ""),
    ];
    fs::write(training.path("data.csv"), format!("{}\n{}\n", data.trim_end(), rows.join("\n"))).expect("the copy is writable");
    let refused = run(&mut training.command("run")).expect(2);
    let line = |number: usize| format!("line {}: ", lines + number);
    for (number, what) in [
        (1, "too"),
        (2, "not in the image folder"),
        (3, "broken.png"),
        (4, "leaves the image folder"),
        (5, "`description` is empty"),
    ] {
        let found = refused.err.lines().any(|said| said.contains(&line(number)) && said.contains(what));
        assert!(found, "{}{what} is not in\n{}", line(number), refused.err);
    }
    assert!(!training.path("run").exists(), "nothing was started");
}

#[test]
fn wrong_data_of_a_describer_is_listed_and_nothing_starts() {
    wrong_data(Stage::Describe);
}

#[test]
fn wrong_data_of_a_classifier_is_listed_and_nothing_starts() {
    wrong_data(Stage::Classify);
}

fn dry(stage: Stage, words: &[&str]) {
    let training = Training::new(stage, 4);
    let ran = run(training.command("run").arg("--dry-run")).expect(0);
    let said = format!("{}{}", ran.out, ran.err);
    for word in ["train", "validation", "test", "UD", "patients"].iter().chain(words) {
        assert!(said.contains(word), "{word} is not in\n{said}");
    }
    assert!(!training.path("run").exists(), "nothing was started");
}

#[test]
fn a_dry_run_of_a_describer_prints_data_plan_and_one_sample_token_by_token() {
    dry(Stage::Describe, &["<|im_end|>", "GiB"]);
}

#[test]
fn a_dry_run_of_a_classifier_prints_data_and_plan() {
    dry(Stage::Classify, &["epoch"]);
}

/// Answers of different lengths: a mean of means would differ from the mean over all tokens.
#[test]
fn four_micro_batches_of_one_are_one_batch_of_four() {
    let mut training = Training::new(Stage::Describe, 2);
    training.set("dropout", "0.0");
    for (run_name, batch, accumulation) in [("batch", "4", "1"), ("accumulated", "1", "4")] {
        training.set("batch_size", batch);
        training.set("accumulation", accumulation);
        run(&mut training.command(run_name)).expect(0);
    }
    let (batch, accumulated) = (losses(&training.metrics("batch")), losses(&training.metrics("accumulated")));
    assert!(batch.len() >= 8 && batch.len() == accumulated.len(), "{} and {} steps", batch.len(), accumulated.len());
    for ((step, one), (_, four)) in batch.iter().zip(&accumulated) {
        assert!((one - four).abs() <= 1e-6 * one.abs(), "step {step}: {one} and {four}");
    }
}
