//! The third column of ARCHITECTURE.md's table, and other rules about the sources that no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mmlnb_tests::{circles, files_that_name, run, skipped};
use serde_json::Value;

/// Crates with rules, by their folders.
const ROOMS: [&str; 8] =
    ["models", "exporter", "trainer", "trainer/study", "trainer/phantom", "appliance", "appliance/kernels", "tests"];

/// Crates whose files must not take from each other in circles.
const WITHOUT_CIRCLES: [&str; 5] = ["appliance", "appliance/kernels", "trainer", "trainer/study", "trainer/phantom"];

/// Lines of a function beyond which it has to be named in [`LONG`].
const LONGEST: usize = 90;
/// Functions that are longer, each with the reason.
const LONG: [(&str, &str); 1] = [("infer", "one arm an operator, no catch-all: the rules of all shapes in one place")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the room lies in the checkout").to_owned()
}

/// What a room must not know, by the words of ARCHITECTURE.md, as crates.
fn crates(word: &str) -> &'static [&'static str] {
    match word {
        "libtorch" => &["tch", "torch-sys"],
        "ONNX Runtime" => &["ort", "ort-sys"],
        "protobuf" => &["prost", "protobuf"],
        "SQLite" => &["rusqlite", "libsqlite3-sys"],
        "how graphs are made" => &["mmlnb-exporter", "mmlnb-trainer"],
        "internals" => &["mmlnb-models", "mmlnb-exporter", "mmlnb-trainer", "mmlnb-appliance"],
        _ => panic!("ARCHITECTURE.md names `{word}`, but no test knows how to check it"),
    }
}

/// Room to what it must not know, from the table.
fn table() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>());
    let words = |cell: &str| cell.split(", ").filter(|word| !word.is_empty()).map(str::to_owned).collect();
    cells.map(|cells| (cells[1].clone(), words(&cells[3]))).collect()
}

/// The crate in a room's folder.
fn package(room: &str) -> String {
    format!("mmlnb-{}", room.rsplit('/').next().unwrap_or(room))
}

/// The graph of crates for this machine's platform: crates of other platforms were never downloaded by a build.
fn metadata() -> Value {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform()])
        .current_dir(root());
    serde_json::from_str(&run(&mut cargo).expect(0).out).expect("cargo writes JSON")
}

fn platform() -> String {
    let told = run(Command::new("rustc").arg("-vV").current_dir(root())).expect(0).out;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc names its host").to_owned()
}

/// Everything that a crate is built from, directly or through others, without what only its tests use.
fn built_from(metadata: &Value, name: &str) -> BTreeSet<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().expect("the graph has nodes");
    let by_id: BTreeMap<&str, &Value> = nodes.iter().filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .expect("there are packages")
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
        .collect();
    let start = names.iter().find(|(_, found)| **found == name).unwrap_or_else(|| panic!("no crate {name}")).0;
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![*start]);
    while let Some(id) = waiting.pop() {
        for dependency in by_id[id]["deps"].as_array().into_iter().flatten() {
            let built = dependency["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"] != "dev");
            let package = dependency["pkg"].as_str().expect("a dependency has an id");
            if built && seen.insert(package) {
                waiting.push(package);
            }
        }
    }
    seen.into_iter().map(|id| names[id].to_owned()).collect()
}

#[test]
fn no_room_knows_what_it_must_not_know() {
    let metadata = metadata();
    let table = table();
    for room in ROOMS {
        let forbidden = table.get(room).unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {room}"));
        assert!(!forbidden.is_empty(), "{room}");
        let known = built_from(&metadata, &package(room));
        for word in forbidden {
            // The end-to-end tests read the ledger's views as any other program does.
            for name in crates(word) {
                assert!(!known.contains(*name), "{room} is built from {name}, but must not know {word}");
            }
        }
    }
    for room in ROOMS.into_iter().filter(|room| !["appliance", "tests"].contains(room)) {
        assert!(!built_from(&metadata, &package(room)).contains("mmlnb-appliance"), "nobody uses the appliance");
    }
}

#[test]
fn no_files_take_from_each_other_in_circles() {
    let found: Vec<String> = WITHOUT_CIRCLES
        .into_iter()
        .flat_map(|room| circles(&root().join(room)))
        .map(|circle| circle.iter().map(|file| format!("  {}", file.display())).collect::<Vec<_>>().join("\n"))
        .collect();
    assert!(found.is_empty(), "files that take from each other, directly or through others:\n{}", found.join("\n\n"));
}

/// The circles of a made-up crate, by names of files.
fn circles_in(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let room = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, text) in files {
        let path = room.path().join("src").join(name);
        fs::create_dir_all(path.parent().expect("it lies in src")).expect("a folder can be made");
        fs::write(path, text).expect("a file can be written");
    }
    let name = |file: PathBuf| file.strip_prefix(room.path().join("src")).expect("it lies in src").display().to_string();
    circles(room.path()).into_iter().map(|circle| circle.into_iter().map(name).collect()).collect()
}

#[test]
fn the_search_for_circles_finds_each_kind() {
    let root = ("lib.rs", "mod a;\nmod b;\nmod c;");
    let free =
        [root, ("a.rs", "use crate::b::x;\nfn a() { x() }"), ("b.rs", "pub fn x() { crate::c::y() }"), ("c.rs", "pub fn y() {}")];
    assert!(circles_in(&free).is_empty());
    let uses = ("c.rs", "use super::a::Z;\npub fn y(_: Z) {}");
    let path = ("c.rs", "pub fn y() { crate::a::z(1) }");
    let macros = ("c.rs", "pub fn y() { println!(\"{}\", [crate::a::Z::new()].len()); }");
    for closing in [uses, path, macros] {
        assert_eq!(
            circles_in(&[free[0], ("a.rs", "use crate::b::x;\npub struct Z;\npub fn z(_: u8) {}"), free[2], closing]),
            [["a.rs", "b.rs", "c.rs"]]
        );
    }
}

#[test]
fn a_re_export_is_no_taking_and_hides_none() {
    let root = ("lib.rs", "mod m;");
    let own = ("m/mod.rs", "mod a;\nmod b;\npub use a::A;\npub use b::*;");
    let (a, b) = (("m/a.rs", "pub struct A;"), ("m/b.rs", "use super::A;\npub struct B(A);"));
    assert!(circles_in(&[root, own, a, b]).is_empty());
    let back = ("m/a.rs", "use crate::m::B;\npub struct A(Box<B>);");
    assert_eq!(circles_in(&[root, own, back, b]), [["m/a.rs", "m/b.rs"]]);
    let code = ("m/mod.rs", "mod a;\nmod b;\npub use a::A;\npub fn f(_: b::B) {}\npub const N: u8 = 1;");
    let child = ("m/b.rs", "pub struct B([u8; super::N as usize]);");
    assert_eq!(circles_in(&[root, code, a, child]), [["m/b.rs", "m/mod.rs"]]);
}

#[test]
fn rooms_that_must_not_know_how_graphs_are_made_name_no_graph() {
    let table = table();
    let rooms: Vec<&&str> = ROOMS.iter().filter(|room| table[**room].iter().any(|word| word == "how graphs are made")).collect();
    assert!(rooms.contains(&&"appliance"), "{rooms:?}");
    let named = |module| rooms.iter().flat_map(move |room| files_that_name(&root().join(room), &["mmlnb_models", module]));
    let found: Vec<PathBuf> = ["graph", "networks"].into_iter().flat_map(named).collect();
    assert!(found.is_empty(), "these name graphs or networks: {found:?}");
    let knows = files_that_name(&root().join("exporter"), &["mmlnb_models", "graph"]);
    assert!(knows.len() > 5, "the exporter names graphs in grouped `use`s and in code: {knows:?}");
}

#[test]
fn only_the_exporters_lowering_and_the_engines_own_kernels_name_operator_sets_of_onnx() {
    let domain = ["com", "microsoft"].join(".");
    let may = [root().join("exporter"), root().join("appliance/src/engine/operators.rs")];
    for file in sources().into_iter().filter(|file| !may.iter().any(|place| file.starts_with(place))) {
        let text = fs::read_to_string(&file).expect("a source can be read");
        assert!(!text.contains(&domain), "{} names {domain}", file.display());
    }
}

/// Files that belong to the project: tracked, or new and not ignored.
fn project_files() -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    let ran = run(&mut git);
    if ran.code != 0 {
        skipped("the check of tracked files", "this is no git checkout");
        return Vec::new();
    }
    ran.out.lines().map(|name| root().join(name)).filter(|file| file.is_file()).collect()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for room in ["models", "exporter", "trainer", "appliance", "tests", "xtask"] {
        collect_rust(&root().join(room), &mut found);
    }
    assert!(found.contains(&root().join("trainer/tests/golden/lora.rs")), "{} sources", found.len());
    found
}

fn collect_rust(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
        let path = entry.path();
        // Data, and large.
        if path.is_dir() && path != root().join("tests/golden") {
            collect_rust(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    // In pieces, so that this file does not find itself.
    let folders = [["/ho", "me/"], ["/ro", "ot/"], ["/Us", "ers/"], ["/wo", "rk/"], ["/mn", "t/"]].map(|halves| halves.concat());
    let mut found = Vec::new();
    for file in project_files() {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.len() < 2000) {
            let names = |folder: &String| line.match_indices(folder.as_str()).any(|(at, _)| starts_a_path(line, at));
            if folders.iter().any(names) {
                found.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "absolute paths of somebody's machine:\n{}", found.join("\n"));
}

/// Whether the slash at `at` begins a path, not continues one such as `a/home/b` or an address.
fn starts_a_path(line: &str, at: usize) -> bool {
    let before = line[..at].chars().next_back();
    before.is_none_or(|before| !before.is_alphanumeric() && !"./_-~}>".contains(before))
}

#[test]
fn no_function_is_longer_than_can_be_read_at_once() {
    let mut found = Vec::new();
    for file in sources() {
        let text = fs::read_to_string(&file).expect("a source can be read");
        let short = |name: &str| !LONG.iter().any(|(long, _)| *long == name);
        let long = functions(&text).into_iter().filter(|(name, lines)| *lines > LONGEST && short(name));
        found.extend(long.map(|(name, lines)| format!("{}: {name}, {lines} lines", file.display())));
    }
    assert!(
        found.is_empty(),
        "functions above {LONGEST} lines; shorten them or name them in LONG with the reason:\n{}",
        found.join("\n")
    );
}

/// Names and lengths of the functions of a source as rustfmt lays it out: a body ends at a brace below its `fn`.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let body = lines[start..].iter().position(|line| *line == end);
        found.extend(body.map(|length| (name.to_owned(), length + 1)));
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let modifiers = ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "async", "extern", "\"C\""];
    let opens = line.ends_with('{') || line.ends_with('(');
    let plain = before.split_whitespace().all(|word| modifiers.contains(&word));
    (plain && opens).then(|| after.split(['(', '<']).next().unwrap_or(after))
}

#[test]
fn the_measure_of_functions_finds_one_of_known_length() {
    let text =
        "impl X {\n    pub fn long(\n        a: u8,\n    ) {\n        body();\n    }\n\n    fn short() {}\n}\nfn end() {\n}\n";
    assert_eq!(functions(text), [("long".to_owned(), 5), ("end".to_owned(), 2)]);
}
