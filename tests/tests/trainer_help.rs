//! What the trainer says of itself: every command and every option of the fixed surface, each with its words.

use mmlnb_tests::{binary, command, run};

fn help(words: &[&str]) -> String {
    run(command(&binary("mmlnb-train")).args(words).arg("--help")).expect(0).out
}

/// Names of the commands as the program lists them.
fn commands() -> Vec<String> {
    let text = help(&[]);
    let list =
        text.split("Commands:").nth(1).expect("there is a list of commands").split("Options:").next().expect("split gives one");
    let named = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    named.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_of_the_surface_takes_its_options() {
    let both = ["--data", "--images", "--output", "--config", "--resume", "--dry-run"];
    let surface: [(&str, &[&str]); 7] = [
        ("describe", &["--base"]),
        ("classify", &["--describer", "--recipe"]),
        ("generate", &["--data", "--images", "--base", "--adapter", "--output"]),
        ("calibrate", &["--data", "--images", "--base", "--classifier", "--adapter", "--output", "--dry-run"]),
        ("merge", &["--base", "--adapter", "--output"]),
        ("phantom", &["--output", "--patients", "--seed", "--size", "--set"]),
        ("import", &["FILE.pth", "--output", "--text"]),
    ];
    for (name, options) in surface {
        let text = help(&[name]);
        let shared: &[&str] = if matches!(name, "describe" | "classify") { &both } else { &[] };
        for option in options.iter().chain(shared) {
            let stands = text.split(|c: char| c.is_whitespace() || "[]<>=,".contains(c)).any(|word| word == *option);
            assert!(stands, "{name} --help does not name {option}:\n{text}");
        }
    }
}

#[test]
fn every_option_of_every_command_is_explained() {
    let commands = commands();
    assert!(commands.len() >= 6, "{commands:?}");
    for name in commands {
        let text = help(&[&name]);
        let about = text.split("Usage:").next().unwrap_or_default().trim();
        assert!(about.len() > 40, "{name} does not say what it does: {about:?}");
        let mut lines =
            text.lines().skip_while(|line| !line.starts_with("Arguments:") && !line.starts_with("Options:")).peekable();
        while let Some(line) = lines.next() {
            let option = line.trim_start();
            if !(option.starts_with('-') || option.starts_with('<')) || line.starts_with("          ") {
                continue;
            }
            let beside = option.split_once("  ").is_some_and(|(_, words)| !words.trim().is_empty());
            let below = lines.peek().is_some_and(|next| next.starts_with("          ") && !next.trim().is_empty());
            assert!(beside || below, "{name}: {option} is not explained");
        }
    }
}

#[test]
fn a_wrong_command_and_a_wrong_option_end_with_two() {
    for words in [&["trian"][..], &["classify", "--recpie", "paper"], &["phantom"], &[]] {
        let ran = run(command(&binary("mmlnb-train")).args(words));
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.err);
    }
}
