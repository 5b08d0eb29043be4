use crate::{mmlnb_train, outcome};
use std::{fs, path::Path};

#[test]
fn ablate_tunes_a_describer_for_each_rank_and_trains_on_its_texts() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let [base, start] = ["qwen2_5_vl", "curriculum/checkpoint"].map(|name| golden.join(name));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let phantoms = path("phantoms");
    let drawn = ["phantom", "--output", &phantoms, "--patients", "30", "--patches", "1", "--size", "56", "--set", "easy"];
    let (code, errors) = outcome(&mmlnb_train(&drawn));
    assert_eq!(code, Some(0), "{errors}");
    let table = fs::read_to_string(folder.path().join("phantoms/data.csv")).unwrap();
    // The describers' patients are not the classifier's.
    let (header, rows) = table.split_once('\n').unwrap();
    let rows: Vec<&str> = rows.lines().collect();
    for (name, rows) in [("tuning.csv", &rows[..12]), ("data.csv", &rows[12..])] {
        fs::write(folder.path().join(name), format!("{header}\n{}\n", rows.join("\n"))).unwrap();
    }
    fs::write(folder.path().join("classify.toml"), format!("epochs = 1\nstart = {start:?}\n")).unwrap();
    let describe = "epochs = 1\nimage_size = [56, 56]\nmax_new_tokens = 4\nvalidation_texts = 2\nfractions = [0.7, 0.3, 0.0]\n";
    fs::write(folder.path().join("describe.toml"), describe).unwrap();
    let [data, tuning, config, describe, output, images] =
        ["data.csv", "tuning.csv", "classify.toml", "describe.toml", "ablation", "phantoms/images"].map(path);
    let base = base.to_str().unwrap();
    let asked = ["ablate", "--data", &data, "--images", &images, "--output", &output, "--config", &config];
    let asked = [&asked[..], &["--recipes", "paper", "--seeds", "1", "--ranks", "1,2"]].concat();
    let (code, errors) = outcome(&mmlnb_train(&asked));
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("--base") && errors.contains("--describe-data"), "{errors}");

    let asked = [&asked[..], &["--base", base, "--describe-data", &tuning, "--describe-config", &describe]].concat();
    let (code, errors) = outcome(&mmlnb_train(&asked));
    assert_eq!(code, Some(0), "{errors}");
    let found: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("ablation/ablation.json")).unwrap()).unwrap();
    let names: Vec<&str> = found["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["paper", "rank-1", "rank-2"]);
    let ranks = found["ranks"].as_array().unwrap();
    assert_eq!(ranks.iter().map(|rank| rank["rank"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    let size = |at: usize| ranks[at]["adapter_bytes"].as_u64().unwrap();
    assert!(size(1) > size(0) && ranks.iter().all(|rank| rank["measures"]["nll"].as_f64().unwrap() > 0.0), "{ranks:?}");
    let markdown = fs::read_to_string(folder.path().join("ablation/ablation.md")).unwrap();
    assert!(markdown.contains("| rank-2 | - |") && markdown.contains("\n| 2 | "), "{markdown}");
    let adapter = folder.path().join("ablation/describers/rank-2/best/adapter_model.safetensors");
    let before = fs::metadata(&adapter).unwrap().modified().unwrap();
    assert_eq!(outcome(&mmlnb_train(&asked)).0, Some(0));
    assert_eq!(fs::metadata(&adapter).unwrap().modified().unwrap(), before, "finished describers are kept");
}
