use crate::{family, mmlnb_train, outcome};
use mmlnb_models::{
    hash,
    provenance::{Role, TRAINING_DATA, TrainingData, new_salt},
};
use std::fs;

#[test]
fn golden_qwen2_5_vl_describe_refuses_a_base_that_has_seen_what_chooses_or_is_reported() {
    let Some(hub) = family("qwen2_5_vl") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    fs::create_dir(folder.path().join("base")).unwrap();
    for file in fs::read_dir(&hub).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        fs::copy(&file, folder.path().join("base").join(file.file_name().unwrap())).unwrap();
    }
    let rows = "file_name,description,group,split\n0.png,Neuropil.,p1,train\n1.png,Rosettes.,p2,validation\n2.png,Ganglion cells.,p3,test\n";
    fs::write(folder.path().join("data.csv"), rows).unwrap();
    let images = hub.join("images");
    let asked = || {
        let (data, base, output) = (path("data.csv"), path("base"), path("run"));
        let images = images.to_str().unwrap();
        let arguments = ["describe", "--data", &data, "--images", images, "--base", &base, "--output", &output];
        outcome(&mmlnb_train(&[arguments.as_slice(), &["--device", "cpu", "--dry-run"]].concat()))
    };
    let (_, errors) = asked();
    assert!(!errors.contains("seen by the base") && !errors.contains("unknown"), "a checkpoint of the hub: {errors}");
    for (image, role, refused) in [
        ("0.png", Role::Trained, false),
        ("1.png", Role::Chosen, false),
        ("1.png", Role::Trained, true),
        ("2.png", Role::Chosen, true),
    ] {
        let mut seen = TrainingData::new(new_salt().unwrap(), None);
        let (_, sha256) = hash::sha256_file(&images.join(image)).unwrap();
        seen.add(role, &sha256, None);
        fs::write(folder.path().join("base").join(TRAINING_DATA), seen.to_bytes()).unwrap();
        let (code, errors) = asked();
        assert_eq!(code == Some(2) && errors.contains("seen by the base"), refused, "{image} {role:?}: {errors}");
    }
}
