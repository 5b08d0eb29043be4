use crate::{family, mmlnb_train, outcome};
use std::{fs, path::Path};

/// A folder with four images, two of them equal, a damaged one, and a CSV file that also names one that is not there.
fn data(base: &Path, folder: &Path) {
    let images = folder.join("images");
    fs::create_dir(&images).unwrap();
    for (from, to) in [("0.png", "a.png"), ("1.png", "b.png"), ("2.png", "c.png"), ("0.png", "again.png")] {
        fs::copy(base.join("images").join(from), images.join(to)).unwrap();
    }
    fs::write(images.join("damaged.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    let rows = "file_name,class,note\na.png,UD,one\nabsent.png,PD,two\nb.png,PD,\"three, with a comma\"\ndamaged.png,D,four\nc.png,D,five\nagain.png,UD,six\n";
    fs::write(folder.join("data.csv"), rows).unwrap();
    fs::write(folder.join("settings.toml"), "max_new_tokens = 6\n").unwrap();
}

/// Other images stand in a batch after a restart, which moves the last digits of log-probabilities and nothing else.
fn assert_same_descriptions(found: &str, expected: &str) {
    let rows = |text: &str| -> Vec<csv::StringRecord> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
        reader.records().map(Result::unwrap).collect()
    };
    let (found, expected) = (rows(found), rows(expected));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.iter().take(6).collect::<Vec<_>>(), expected.iter().take(6).collect::<Vec<_>>());
        match (found[6].parse::<f64>(), expected[6].parse::<f64>()) {
            (Ok(found), Ok(expected)) => assert!((found - expected).abs() < 1e-5, "{found} and {expected}"),
            _ => assert_eq!(found[6], expected[6]),
        }
    }
}

#[test]
fn golden_qwen2_5_vl_generate_goes_on_where_it_was_and_names_failed_rows() {
    let Some(base) = family("qwen2_5_vl") else { return };
    let folder = tempfile::tempdir().unwrap();
    data(&base, folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (csv, images, output, settings) = (path("data.csv"), path("images"), path("out.csv"), path("settings.toml"));
    let base = base.to_str().unwrap();
    let arguments = [
        "generate",
        "--data",
        &csv,
        "--images",
        &images,
        "--base",
        base,
        "--output",
        &output,
        "--settings",
        &settings,
        "--batch",
        "2",
    ];
    let (code, errors) = outcome(&mmlnb_train(&arguments));
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("line 3: absent.png") && errors.contains("line 5: damaged.png"), "{errors}");
    assert!(!errors.contains("line 2:") && !errors.contains("line 4:"), "{errors}");

    let written = fs::read_to_string(&output).unwrap();
    let mut reader = csv::Reader::from_reader(written.as_bytes());
    let columns: Vec<String> = reader.headers().unwrap().iter().map(str::to_string).collect();
    assert_eq!(columns, ["file_name", "class", "note", "description", "description_tokens", "stop_reason", "mean_token_logprob"]);
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(
        rows.iter().map(|row| &row[0]).collect::<Vec<_>>(),
        ["a.png", "absent.png", "b.png", "damaged.png", "c.png", "again.png"]
    );
    assert_eq!(&rows[2][2], "three, with a comma");
    for (row, failed) in rows.iter().zip([false, true, false, true, false, false]) {
        assert_eq!(row[3].is_empty(), failed, "{row:?}");
    }
    assert_eq!(rows[0].iter().skip(3).collect::<Vec<_>>(), rows[5].iter().skip(3).collect::<Vec<_>>());

    // Killed after the first description and in the middle of the second.
    let cache = path("out.csv.descriptions.jsonl");
    let whole = fs::read(&cache).unwrap();
    let lines: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    assert_eq!(lines.len(), 3, "each content is described once");
    fs::remove_file(&output).unwrap();
    fs::write(&cache, &whole[..lines[0] + 20]).unwrap();
    assert_eq!(outcome(&mmlnb_train(&arguments)).0, Some(3));
    let resumed = fs::read_to_string(&output).unwrap();
    assert_same_descriptions(&resumed, &written);
    let written = resumed;
    // Nothing is left to be made: the file of descriptions does not grow.
    let before = fs::read(&cache).unwrap();
    assert_eq!(outcome(&mmlnb_train(&arguments)).0, Some(3));
    assert_eq!((fs::read(&cache).unwrap(), fs::read_to_string(&output).unwrap()), (before.clone(), written.clone()));
    // Another setting is another describer.
    fs::write(&settings, "max_new_tokens = 3\n").unwrap();
    assert_eq!(outcome(&mmlnb_train(&arguments)).0, Some(3));
    assert!(fs::read(&cache).unwrap().len() > before.len());
    assert_ne!(fs::read_to_string(&output).unwrap(), written);
}

#[test]
fn golden_qwen2_5_vl_generate_refuses_wrong_input_before_it_starts() {
    let Some(base) = family("qwen2_5_vl") else { return };
    let folder = tempfile::tempdir().unwrap();
    data(&base, folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (csv, images, output) = (path("data.csv"), path("images"), path("out.csv"));
    let base = base.to_str().unwrap();
    let ask = |more: &[&str]| {
        let mut arguments = vec!["generate", "--data", &csv, "--images", &images, "--base", base, "--output", &output];
        arguments.extend(more);
        outcome(&mmlnb_train(&arguments))
    };
    for (more, expected) in [
        (["--image-size", "100x56"].as_slice(), "multiples of 28"),
        (&["--image-size", "large"], "WIDTHxHEIGHT"),
        (&["--batch", "0"], "above 0"),
        (&["--device", "tpu"], "no device"),
        (&["--adapter", &images], "adapter_config.json"),
    ] {
        let (code, errors) = ask(more);
        assert_eq!(code, Some(2), "{more:?}: {errors}");
        assert!(errors.contains(expected), "{more:?}: {errors}");
    }
    let (before, link) = (fs::read(&csv).unwrap(), path("link.csv"));
    std::os::unix::fs::symlink(&csv, &link).unwrap();
    for output in [csv.as_str(), &link, &path("images/a.png")] {
        let arguments = ["generate", "--data", &csv, "--images", &images, "--base", base, "--output", output];
        let (code, errors) = outcome(&mmlnb_train(&arguments));
        assert!(code == Some(2) && errors.contains("would be overwritten"), "{output}: {errors}");
        assert_eq!(fs::read(&csv).unwrap(), before);
    }
    fs::write(&csv, "file_name\n../a.png\n/b.png\n").unwrap();
    let (code, errors) = ask(&[]);
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("line 2") && errors.contains("line 3"), "{errors}");
    assert!(!Path::new(&output).exists());
}
