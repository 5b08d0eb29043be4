//! Writing a bundle's manifest, opening the bundle, and every way in which it may have been changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mmlnb_models::bundle::{
    Bundle, BundleError, Calibration, Classifier, FORMAT, Graph, KnownAnswer, Manifest, Port, Precision, Provenance,
    Qualification, Trust, list_files,
};
use mmlnb_models::hash::sha256_hex;

fn graph(file: &str) -> Graph {
    let port = Port { name: "logits".to_string(), dtype: "f32".to_string(), shape: vec!["batch".to_string(), "3".to_string()] };
    Graph { file: file.to_string(), inputs: vec![port.clone()], outputs: vec![port], parameters: 12 }
}

fn manifest(dir: &Path) -> Manifest {
    Manifest {
        format: FORMAT,
        producer: "test 1".to_string(),
        precision: Precision::F32,
        portable: false,
        describer: None,
        classifier: Some(Classifier {
            classes: vec!["A".to_string(), "B".to_string()],
            image_size: Some([64, 64]),
            max_length: None,
            image: Some(graph("classifier/image.onnx")),
            text: None,
            prmf: graph("classifier/prmf.onnx"),
            calibration: None,
        }),
        provenance: Provenance::default(),
        known_answers: Vec::new(),
        qualification: None,
        files: list_files(dir).unwrap(),
    }
}

fn bundle() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("classifier")).unwrap();
    fs::write(folder.path().join("MODEL_CARD.md"), "a card").unwrap();
    fs::write(folder.path().join("classifier/image.onnx"), vec![5; 70_000]).unwrap();
    fs::write(folder.path().join("classifier/prmf.onnx"), b"graph").unwrap();
    let sha256 = manifest(folder.path()).write(folder.path()).unwrap();
    (folder, sha256)
}

#[test]
fn what_is_written_is_read() {
    let (folder, sha256) = bundle();
    let opened = Bundle::open(folder.path()).unwrap();
    assert_eq!(opened.sha256, sha256);
    assert_eq!(opened.sha256, sha256_hex(&fs::read(folder.path().join("manifest.json")).unwrap()));
    assert_eq!(opened.manifest, manifest(folder.path()));
    assert_eq!(opened.manifest.files.len(), 3);
    assert_eq!(opened.manifest.graphs().len(), 2);
    assert_eq!(opened.manifest.write(folder.path()).unwrap(), sha256, "the same manifest gives the same bytes");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "no temporary file is left");
}

#[test]
fn one_changed_byte_is_found_and_named() {
    let (folder, _) = bundle();
    let file = folder.path().join("classifier/image.onnx");
    let mut bytes = fs::read(&file).unwrap();
    bytes[66_000] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let error = Bundle::open(folder.path()).unwrap_err();
    assert!(matches!(error, BundleError::Changed { .. }));
    assert!(error.to_string().contains("classifier/image.onnx"), "{error}");
    bytes.pop();
    fs::write(&file, &bytes).unwrap();
    assert!(Bundle::open(folder.path()).unwrap_err().to_string().contains("69999 bytes instead of 70000"));
    fs::remove_file(&file).unwrap();
    assert!(matches!(Bundle::open(folder.path()), Err(BundleError::Io { .. })));
}

#[test]
fn files_that_the_manifest_does_not_list_are_refused() {
    let added = [
        "classifier/processor_config.json",
        "describer/preprocessor_config.json",
        "manifest.json.part",
        ".hidden",
        "classifier/.DS_Store",
        "qualification.json.minisig",
        "classifier/manifest.json.minisig",
        "deep/er/file",
        "classifier/image.onnx2",
    ];
    for name in added {
        let (folder, _) = bundle();
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "{}").unwrap();
        let error = Bundle::open(folder.path()).unwrap_err();
        assert!(matches!(error, BundleError::Unlisted { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let (folder, _) = bundle();
    fs::create_dir(folder.path().join("empty")).unwrap();
    Bundle::open(folder.path()).expect("an empty folder holds nothing that could be obeyed");
    ["b", "a"].iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
    let BundleError::Unlisted { files, .. } = Bundle::open(folder.path()).unwrap_err() else { panic!("another error") };
    assert_eq!(files, ["a", "b"], "all are named");
}

#[test]
fn a_folder_behind_a_link_is_looked_into() {
    let (folder, _) = bundle();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(folder.path().join("classifier"), elsewhere.path().join("half")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("half"), folder.path().join("classifier")).unwrap();
    Bundle::open(folder.path()).unwrap();
    fs::write(elsewhere.path().join("half/processor_config.json"), "{}").unwrap();
    assert!(Bundle::open(folder.path()).unwrap_err().to_string().contains("classifier/processor_config.json"));
    fs::remove_file(elsewhere.path().join("half/processor_config.json")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("describer")).unwrap();
    assert!(Bundle::open(folder.path()).unwrap_err().to_string().contains("describer"), "a link to a folder that nothing lists");
}

fn with_manifest(change: impl Fn(&mut serde_json::Value)) -> String {
    let (folder, _) = bundle();
    let file = folder.path().join("manifest.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut value);
    fs::write(&file, value.to_string()).unwrap();
    Bundle::open(folder.path()).expect_err("a wrong manifest").to_string()
}

#[test]
fn manifests_that_cannot_be_trusted_are_refused() {
    assert!(with_manifest(|value| value["format"] = 3.into()).contains("format 3, but this version reads 1 to 2"));
    assert!(with_manifest(|value| value["qualification"] = serde_json::json!({})).contains("qualification.json"));
    assert!(with_manifest(|value| value["surprise"] = 1.into()).contains("surprise"));
    assert!(with_manifest(|value| value["classifier"] = serde_json::Value::Null).contains("neither"));
    assert!(with_manifest(|value| value["classifier"]["classes"] = serde_json::json!(["A"])).contains("two classes"));
    assert!(with_manifest(|value| value["classifier"]["prmf"]["file"] = "other.onnx".into()).contains("other.onnx"));
    for outside in ["../secret", "/etc/passwd", "manifest.json", "qualification.json", "manifest.json.minisig", "a/../../b"] {
        let entry = serde_json::json!({ "size": 1, "sha256": "00" });
        assert!(with_manifest(|value| value["files"][outside] = entry.clone()).contains(outside));
    }
}

#[test]
fn a_manifest_that_would_not_open_is_not_written() {
    let (folder, _) = bundle();
    let broken = Manifest { files: BTreeMap::new(), ..manifest(folder.path()) };
    assert!(matches!(broken.write(folder.path()), Err(BundleError::Manifest { .. })));
}

/// A qualification with one image, written into a bundle.
fn qualify(folder: &Path, manifest: &Manifest, bundle_sha256: &str) -> String {
    let image = "known_answers/qualified-1.png";
    fs::create_dir_all(folder.join("known_answers")).unwrap();
    fs::write(folder.join(image), "image").unwrap();
    let entry = list_files(folder).unwrap().remove(image).unwrap();
    let found = Qualification {
        format: FORMAT,
        bundle_sha256: bundle_sha256.to_string(),
        calibration: Some(Calibration { threshold: Some(0.8), ..Calibration::default() }),
        known_answers: vec![KnownAnswer { image: image.to_string(), describer: None, classifier: None }],
        measured: serde_json::json!({ "images": 4 }),
        files: BTreeMap::from([(image.to_string(), entry)]),
    };
    found.write(folder, manifest).unwrap()
}

#[test]
fn a_qualification_takes_the_place_of_the_trainers_calibration_and_brings_files() {
    let (folder, sha256) = bundle();
    let unqualified = Bundle::open(folder.path()).unwrap();
    assert_eq!((unqualified.calibration(), unqualified.qualification_sha256()), (None, None));
    let written = qualify(folder.path(), &unqualified.manifest, &sha256);
    let opened = Bundle::open(folder.path()).unwrap();
    assert_eq!((opened.sha256.as_str(), opened.qualification_sha256()), (sha256.as_str(), Some(written.as_str())));
    assert_eq!(opened.calibration().unwrap().threshold, Some(0.8));
    assert_eq!(opened.known_answers().count(), 1);
    assert!(opened.standings().qualification.is_some());
    let image = folder.path().join("known_answers/qualified-1.png");
    fs::write(&image, "imago").unwrap();
    assert!(matches!(Bundle::open(folder.path()), Err(BundleError::Changed { .. })));
    fs::remove_file(folder.path().join("qualification.json")).unwrap();
    assert!(matches!(Bundle::open(folder.path()), Err(BundleError::Unlisted { .. })), "nothing lists its image");
}

#[test]
fn a_qualification_of_another_bundle_or_one_that_changes_it_is_refused() {
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let (folder, sha256) = bundle();
        qualify(folder.path(), &manifest(folder.path()), &sha256);
        let file = folder.path().join("qualification.json");
        let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(&mut value);
        fs::write(&file, value.to_string()).unwrap();
        let error = Bundle::open(folder.path()).expect_err("a wrong qualification");
        assert!(matches!(error, BundleError::Qualification { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(&|value| value["bundle_sha256"] = "ab".repeat(32).into()).contains("another bundle"));
    assert!(refused(&|value| value["format"] = 1.into()).contains("format 1"));
    assert!(refused(&|value| value["surprise"] = 1.into()).contains("surprise"));
    assert!(refused(&|value| value["known_answers"][0]["image"] = "x.png".into()).contains("x.png"));
    assert!(refused(&|value| value["calibration"]["temperature"] = 0.into()).contains("calibration"));
    for taken in ["MODEL_CARD.md", "manifest.json", "../x"] {
        let entry = serde_json::json!({ "size": 1, "sha256": "00" });
        assert!(refused(&|value| value["files"][taken] = entry.clone()).contains(taken));
    }
}

#[test]
fn what_is_touched_after_it_was_hashed_is_found_even_where_it_looks_the_same() {
    let (folder, _) = bundle();
    let file = folder.path().join("classifier/image.onnx");
    let opened = || Bundle::begin(folder.path(), &Trust::unjudged()).unwrap().0;
    let touched = |bundle: &Bundle| matches!(bundle.check_untouched(), Err(BundleError::Touched { .. }));
    let bundle = opened();
    fs::read(&file).unwrap();
    assert!(!touched(&bundle), "reading changes nothing");
    let (whole, time) = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().modified().unwrap());
    // The kernel's clock of files is coarse.
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&file, &whole).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    assert!(touched(&bundle), "written, with the same bytes and the time set back");
    let bundle = opened();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let aside = folder.path().join("aside");
    fs::rename(folder.path().join("classifier"), &aside).unwrap();
    fs::rename(&aside, folder.path().join("classifier")).unwrap();
    assert!(touched(&bundle), "a folder was elsewhere for a moment");
}
