//! What is written.

use super::plan;
use mmlnb_models::prepare::phantom;
use mmlnb_phantom::{
    error::PhantomError,
    plan::{Plan, Texts},
    sets::Set,
    write::write,
};
use std::{collections::BTreeMap, fs, path::Path};

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(self::files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

fn written(plan: &Plan, threads: usize) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    write(plan, true, threads, folder.path(), &|| {}).unwrap();
    files(folder.path())
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let plan = Plan { texts: Texts { swapped: 0.5, ..Texts::default() }, ..plan(Set::Standard, 11, 9) };
    let one = written(&plan, 1);
    assert!(one == written(&plan, 3), "other bytes with three threads");
    assert!(one != written(&Plan { seed: 12, ..plan }, 1), "the seed changes nothing");
}

#[test]
fn every_image_says_that_it_is_a_phantom_and_both_formats_occur() {
    let files = written(&plan(Set::Standard, 1, 12), 2);
    let images: Vec<_> = files.iter().filter(|(name, _)| name.starts_with("images/") || name.starts_with("masks/")).collect();
    for (name, bytes) in &images {
        assert!(phantom::is_marked(bytes), "{name} does not say that it is a phantom");
        image::load_from_memory(bytes).unwrap();
    }
    let count = |end: &str| images.iter().filter(|(name, _)| name.ends_with(end)).count();
    assert!(count(".jpg") > 0 && count(".png") > 0);
    assert!(phantom::MARK.contains("phantom"));
}

#[test]
fn the_table_and_the_truth_speak_of_the_same_images() {
    let files = written(&Plan { texts: Texts { swapped: 0.4, ..Texts::default() }, ..plan(Set::Standard, 2, 15) }, 2);
    let mut table = csv::Reader::from_reader(files["data.csv"].as_slice());
    assert_eq!(table.headers().unwrap(), vec!["file_name", "description", "class", "group", "site", "split"]);
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    let truth = String::from_utf8(files["truth.jsonl"].clone()).unwrap();
    let lines: Vec<serde_json::Value> = truth.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), lines.len());
    let owner: BTreeMap<&str, &str> = rows.iter().map(|row| (&row[1], &row[3])).collect();
    let mut swapped = 0;
    for (row, line) in rows.iter().zip(&lines) {
        assert_eq!(
            (&row[0], &row[1], &row[2]),
            (line["file_name"].as_str().unwrap(), line["description"].as_str().unwrap(), line["class"].as_str().unwrap())
        );
        assert!(files.contains_key(&format!("images/{}", &row[0])));
        assert!(line["phantom"].as_bool().unwrap() && line["counts"].is_object());
        assert!(line["differentiating_share"].is_number() && line["neuropil_area"].is_number());
        swapped += usize::from(line["text"] == "swapped");
    }
    assert!(swapped > 0 && owner.len() > 1);
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine"), "").unwrap();
    let error = write(&plan(Set::Easy, 0, 1), false, 1, folder.path(), &|| {}).unwrap_err();
    assert!(matches!(error, PhantomError::Asked(_)), "{error:?}: exit code 2");
    assert_eq!(files(folder.path()).len(), 1);
}
