//! What README and docs/ show must be true: every command exists with the options shown, and every query on the ledger runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mmlnb_tests::{Appliance, binary, command, copy_folder, drop_by_copy, golden, installed, patches, phantoms, run};
use rusqlite::{Connection, OpenFlags};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the room lies in the checkout").to_owned()
}

/// A fenced block: where it begins, its language, its text.
struct Block {
    place: String,
    language: String,
    text: String,
}

fn pages() -> Vec<PathBuf> {
    let listing = fs::read_dir(root().join("docs")).expect("there is a folder docs");
    let mut found: Vec<PathBuf> = listing.map(|entry| entry.expect("docs can be listed").path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    found.sort();
    found.insert(0, root().join("README.md"));
    found
}

fn blocks(page: &Path) -> Vec<Block> {
    let text = fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let name = page.file_name().expect("a page has a name").to_string_lossy();
    let (mut found, mut open) = (Vec::new(), None::<Block>);
    for (number, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => found.push(block),
            (Some(language), None) => {
                let place = format!("{name}:{}", number + 1);
                open = Some(Block { place, language: language.trim().to_owned(), text: String::new() });
            }
            (None, Some(mut block)) => {
                block.text += &format!("{line}\n");
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{name} ends inside a block");
    found
}

/// The commands of a shell block, each as its words; of a transcript, the lines after `$ `.
fn commands(block: &Block) -> Vec<Vec<String>> {
    match block.language.as_str() {
        "" | "sh" | "bash" => split(&block.text),
        "console" => {
            let lines = block.text.lines().filter_map(|line| line.strip_prefix("$ "));
            split(&lines.map(|line| format!("{line}\n")).collect::<String>())
        }
        _ => Vec::new(),
    }
}

/// Commands outside of fenced blocks: indented lines, and code within a line if it is more than a name.
fn commands_between(page: &Path) -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(page).expect("a page can be read");
    let name = page.file_name().expect("a page has a name").to_string_lossy();
    let (mut found, mut fenced) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        let codes: Vec<&str> = match line.strip_prefix("    ") {
            Some(code) => vec![code],
            None => line.split('`').skip(1).step_by(2).filter(|code| code.contains(' ')).collect(),
        };
        let commands = codes.into_iter().filter(|_| !fenced).flat_map(split);
        found.extend(commands.map(|words| (format!("{name}:{}", number + 1), words)));
    }
    found
}

/// Splits shell text into commands and words; knows quotes, comments, continued lines and the signs that end a command.
fn split(text: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&'\n') => drop(characters.next()),
            quote @ ('"' | '\'') => {
                let quoted: String = characters.by_ref().take_while(|next| *next != quote).collect();
                word.get_or_insert_default().push_str(&quoted);
            }
            '#' if word.is_none() => while characters.next_if(|next| *next != '\n').is_some() {},
            '\n' | '|' | '&' | ';' => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            space if space.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    commands.push(words);
    commands.retain(|words| !words.is_empty());
    commands
}

/// The program of ours that these words start, with its own words; `None` for other people's programs.
fn ours(words: &[String]) -> Option<(String, &[String])> {
    let name = |word: &String| Path::new(word).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let start = words.iter().position(|word| !word.contains('=') && word != "sudo")?;
    let words = &words[start..];
    match name(&words[0]).as_str() {
        "cargo" if words.get(1).is_some_and(|word| word == "xtask") => Some(("xtask".to_owned(), &words[2..])),
        program @ ("mmlnb-export" | "mmlnb-appliance" | "mmlnb-train") => Some((program.to_owned(), &words[1..])),
        _ => None,
    }
}

/// Every command that the pages show, with its place.
fn shown() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for page in pages() {
        for block in blocks(&page) {
            found.extend(commands(&block).into_iter().map(|words| (block.place.clone(), words)));
        }
        found.extend(commands_between(&page));
    }
    found
}

#[test]
fn every_command_shown_exists_with_the_options_shown() {
    let (mut helps, mut wrong, mut checked) = (BTreeMap::new(), Vec::new(), 0);
    for (place, words) in shown() {
        let Some((program, words)) = ours(&words) else { continue };
        let subcommand = words.first().filter(|word| !word.starts_with('-')).cloned().unwrap_or_default();
        // Only benchmarks have a second word that is no argument.
        let second = words.get(1).filter(|word| subcommand == "bench" && program == "xtask" && !word.starts_with('-'));
        let path: Vec<String> = [subcommand.clone()].into_iter().chain(second.cloned()).collect();
        let help = helps.entry((program.clone(), path.clone())).or_insert_with(|| help(&program, &path));
        checked += 1;
        let Some(help) = help else {
            wrong.push(format!("{place}: {program} has no `{subcommand}`"));
            continue;
        };
        let options = words.iter().map(|word| word.trim_matches(['[', ']'])).filter(|word| word.starts_with("--"));
        let options = options.map(|word| word.split('=').next().unwrap_or(word)).filter(|option| !has(help, option));
        wrong.extend(options.map(|option| format!("{place}: {program} {subcommand} has no {option}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 10, "only {checked} commands were found");
}

fn help(program: &str, path: &[String]) -> Option<String> {
    let mut help = command(&binary(program));
    help.args(path.iter().filter(|word| !word.is_empty())).arg("--help");
    let ran = run(&mut help);
    (ran.code == 0).then_some(ran.out)
}

fn has(help: &str, option: &str) -> bool {
    help.split(|character: char| !character.is_alphanumeric() && character != '-').any(|word| word == option)
}

#[test]
fn readme_shows_the_two_commands_to_begin_with_each_alone() {
    let blocks = blocks(&root().join("README.md"));
    for wanted in ["cargo xtask demo", "cargo xtask test"] {
        assert!(blocks.iter().any(|block| block.text.trim() == wanted), "a block with `{wanted}` alone");
    }
}

#[test]
fn every_link_inside_the_documents_leads_somewhere() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page can be read");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next()) {
            let inside = !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
            if inside && !page.with_file_name(target).exists() {
                wrong.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The queries of docs/database.md: blocks of SQL, and what the `sqlite3` commands in it are given.
fn queries() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for block in blocks(&root().join("docs/database.md")) {
        if block.language == "sql" {
            found.push((block.place.clone(), block.text.clone()));
        }
        let given = commands(&block).into_iter().filter(|words| words[0] == "sqlite3").filter_map(|words| words.last().cloned());
        found.extend(given.filter(|last| last.to_uppercase().contains("SELECT")).map(|query| (block.place.clone(), query)));
    }
    found
}

#[test]
fn the_example_queries_of_the_database_run_on_a_ledger() {
    let appliance = Appliance::new();
    let daemon = appliance.daemon().start();
    for (index, patch) in patches(4).iter().enumerate() {
        drop_by_copy(&patch.bytes, &appliance.inbox(&format!("S26-{}/{}", index % 2, patch.name)));
    }
    drop_by_copy(b"no image", &appliance.inbox("S26-0/broken.png"));
    appliance.wait_for_files(5, Duration::from_secs(60));
    let queries = queries();
    assert!(queries.len() >= 5, "docs/database.md has five example queries, not {}", queries.len());
    for (place, query) in &queries {
        through_rusqlite(&appliance, place, query);
        if installed("sqlite3", "the example queries through sqlite3") {
            let mut sqlite = Command::new("sqlite3");
            let ran = run(sqlite.arg("-readonly").arg(appliance.ledger()).arg(query));
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{place}: {query}");
        }
    }
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[track_caller]
fn through_rusqlite(appliance: &Appliance, place: &str, query: &str) {
    let connection =
        Connection::open_with_flags(appliance.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the ledger is there");
    let mut statement = connection.prepare(query).unwrap_or_else(|error| panic!("{place}: {error}"));
    let mut rows = statement.query([]).unwrap_or_else(|error| panic!("{place}: {error}"));
    while rows.next().unwrap_or_else(|error| panic!("{place}: {error}")).is_some() {}
}

#[test]
fn docs_name_every_column_of_both_views() {
    let appliance = Appliance::new();
    assert_eq!(appliance.daemon().start().stop(Duration::from_secs(10)), 0);
    let text = fs::read_to_string(root().join("docs/database.md")).expect("docs/database.md is there");
    let connection =
        Connection::open_with_flags(appliance.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the ledger is there");
    for view in ["reports", "files"] {
        let statement = connection.prepare(&format!("SELECT * FROM {view}")).expect("the view is there");
        for column in statement.column_names() {
            assert!(text.contains(&format!("`{column}`")), "docs/database.md explains `{column}` of {view}");
        }
    }
}

/// What docs/training.md starts from, small: phantoms in place of patches, golden checkpoints in place of the hub's.
fn researchers_desk() -> tempfile::TempDir {
    let desk = tempfile::tempdir().expect("a temporary folder can be made");
    let at = |name: &str| desk.path().join(name);
    for data in ["nbpath", "nbitp"] {
        copy_folder(&phantoms(), &at(data));
    }
    copy_folder(&golden("qwen2_5_vl"), &at("Qwen2.5-VL-7B-Instruct"));
    copy_folder(&golden("bert"), &at("bert-base-uncased"));
    let rows = fs::read_to_string(phantoms().join("data.csv")).expect("phantoms were drawn");
    let test = rows.lines().enumerate().filter(|(number, row)| *number == 0 || row.ends_with(",test"));
    let test: String = test.map(|(_, row)| format!("{row}\n")).collect();
    fs::write(at("nbitp/test.csv"), test).expect("the folder is writable");
    let held_out: String = rows.lines().filter(|row| !row.ends_with(",train")).map(|row| format!("{row}\n")).collect();
    fs::write(at("nbpath/held_out.csv"), held_out).expect("the folder is writable");
    fs::copy(golden("vgg16/model.zip.pth"), at("vgg16-397923af.pth")).expect("the folder is writable");
    let describer =
        "rank = 2\nepochs = 1\nimage_size = [56, 56]\nbase_dtype = \"f32\"\nvalidation_texts = 2\nmax_new_tokens = 6\n";
    fs::write(at("describer.toml"), describer).expect("the folder is writable");
    let channels = fs::read_to_string(golden("vgg16/config.json")).expect("the golden data is there");
    let channels: serde_json::Value = serde_json::from_str(&channels).expect("it is JSON");
    let classifier = format!(
        "image_weights = \"vgg16.safetensors\"\ntext_weights = \"bert-base-uncased\"\nchannels = {}\nimage_size = [64, 64]\n\
         max_length = 32\nepochs = 3\nbatch_size = 8\n",
        channels["channels"]
    );
    fs::write(at("classifier.toml"), classifier).expect("the folder is writable");
    desk
}

#[test]
fn the_commands_of_training_md_run_in_their_order() {
    let desk = researchers_desk();
    let mut ran = 0;
    for block in blocks(&root().join("docs/training.md")).iter().filter(|block| block.language == "sh") {
        for words in commands(block) {
            let (program, words) = ours(&words).unwrap_or_else(|| panic!("{}: {words:?} is no program of ours", block.place));
            let mut command = command(&binary(&program));
            command.current_dir(desk.path()).args(words).env("OMP_NUM_THREADS", "1");
            if words[0] == "describe" && !words.iter().any(|word| word == "--config") {
                command.args(["--config", "describer.toml"]);
            }
            if words[0] == "phantom" {
                command.args(["--patches", "1", "--size", "32"]);
            }
            let outcome = run(&mut command);
            assert_eq!(outcome.code, 0, "{}: {words:?}\n{}\n{}", block.place, outcome.out, outcome.err);
            ran += 1;
        }
    }
    assert!(ran >= 8, "only {ran} commands were found");
}

/// Settings that docs/training.md shows are keys that the stage knows: a dry run reads them.
#[test]
fn the_settings_of_training_md_are_known() {
    let desk = researchers_desk();
    let mut shown = 0;
    for block in blocks(&root().join("docs/training.md")).iter().filter(|block| block.language == "toml") {
        let stage = if block.text.contains("rank") { "describe" } else { "classify" };
        let file = desk.path().join("shown.toml");
        let small = fs::read_to_string(desk.path().join("classifier.toml")).expect("it was just written");
        let small = small.lines().filter(|line| line.starts_with("channels") && stage == "classify");
        let imported = desk.path().join("vgg16.safetensors");
        fs::copy(golden("vgg16/model.safetensors"), imported).expect("the folder is writable");
        fs::write(&file, format!("{}{}\n", block.text, small.collect::<String>())).expect("the folder is writable");
        let mut command = command(&binary("mmlnb-train"));
        command.current_dir(desk.path()).args([
            stage,
            "--data",
            "nbpath/data.csv",
            "--images",
            "nbpath/images",
            "--output",
            "run",
            "--dry-run",
        ]);
        command.args((stage == "describe").then_some(["--base", "Qwen2.5-VL-7B-Instruct"]).into_iter().flatten());
        let outcome = run(command.args(["--config", "shown.toml"]));
        assert_eq!(outcome.code, 0, "{}\n{}\n{}", block.place, outcome.out, outcome.err);
        shown += 1;
    }
    assert!(shown >= 2, "only {shown} blocks of settings were found");
}

#[test]
fn shell_text_is_split_as_a_shell_splits_it() {
    let text = "a --b 'c d' \\\n  e | f # not this\n# nor this\ng \"h\ni\"\n";
    assert_eq!(split(text), [vec!["a", "--b", "c d", "e"], vec!["f"], vec!["g", "h\ni"]]);
}
