//! What an administrator asks on the command line, while the daemon runs and while it does not.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mmlnb_tests::{
    Appliance, Daemon, Note, Patch, Ran, StoredTensor, bundle, drop_by_copy, patches, read_tensors, run, sha256_hex, wait_for,
};
use safetensors::Dtype;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// A name that a spreadsheet would take for a formula.
const FORMULA: &str = "=1+1.png";

/// An appliance that has judged five patches (three in case A, one in B, one at the top) and one broken file.
fn served() -> (Appliance, Daemon, Vec<Patch>) {
    let appliance = Appliance::new();
    let patches = patches(5);
    let daemon = appliance.daemon().start();
    for (folder, patch) in ["A", "A", "A/deeper", "B"].iter().zip(&patches) {
        drop_by_copy(&patch.bytes, &appliance.inbox(&format!("{folder}/{}", patch.name)));
    }
    drop_by_copy(&patches[4].bytes, &appliance.inbox(FORMULA));
    drop_by_copy(b"no image at all", &appliance.inbox("B/broken.png"));
    appliance.wait_for_files(6, LIMIT);
    (appliance, daemon, patches)
}

/// `classify` or `describe` on the bundle, without a daemon.
fn ask(words: &[&str], images: &[PathBuf]) -> Ran {
    let program = mmlnb_tests::appliance_binary();
    let mut command = mmlnb_tests::command(&program);
    command.args(words).arg("--bundle").arg(bundle()).args(["--provider", "cpu"]).args(images);
    run(&mut command)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn describe_and_classify_answer_as_the_report_does() {
    let (appliance, daemon, patches) = served();
    for row in appliance.reports() {
        let patch = patches.iter().find(|patch| patch.sha256 == row.image_sha256).expect("only these were dropped");
        let image = appliance.done(&row.source);
        let described = ask(&["describe", "--json"], std::slice::from_ref(&image)).expect(0).json_lines().remove(0);
        assert_eq!(described["description"].as_str(), row.description.as_deref(), "word for word");
        assert_eq!(described["sha256"], patch.sha256);
        assert_eq!(described["draft_tokens_accepted"], 0, "this bundle is in f32, in which nothing is drafted");
        let plain = ask(&["describe", "--json", "--no-drafts"], std::slice::from_ref(&image)).expect(0).json_lines().remove(0);
        assert_eq!(plain["description"], described["description"]);
        let classified = ask(&["classify", "--json"], std::slice::from_ref(&image)).expect(0).json_lines().remove(0);
        assert_eq!(classified["description"].as_str(), row.description.as_deref(), "word for word");
        assert_eq!(classified["class"].as_str(), row.class.as_deref());
        assert!((number(&classified["alpha_text"]) - row.alpha_text.expect("the classifier reads text")).abs() < 1e-5);
        for (class, probability) in row.probabilities.as_object().expect("an object") {
            assert!(
                (number(&classified["probabilities"][class]) - number(probability)).abs() < 1e-5,
                "{class} of {}",
                row.source
            );
        }
    }
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn a_report_as_json_has_every_promised_key() {
    let (appliance, daemon, patches) = served();
    let keys = [
        "id",
        "case_id",
        "file",
        "sha256",
        "class",
        "leading_class",
        "probabilities",
        "image_only",
        "alpha_text",
        "confidence",
        "verdict",
        "verdict_reasons",
        "flags",
        "description",
        "description_tokens",
        "description_tokens_read",
        "mean_token_logprob",
        "stop_reason",
        "bundle_sha256",
        "provider",
        "elapsed_ms",
    ];
    let place = format!("A/{}", patches[0].name);
    let beside = fs::read(appliance.done(&format!("{place}.report.json"))).expect("the report lies beside the image");
    let beside: Value = serde_json::from_slice(&beside).expect("a report is JSON");
    let direct = ask(&["classify", "--json"], &[appliance.done(&place)]).expect(0).json_lines().remove(0);
    let shown = appliance.operator(&["show", "--json", &place]).expect(0).json_lines().remove(0);
    for object in [&beside, &direct, &shown] {
        for key in keys {
            assert!(object.get(key).is_some(), "`{key}` is missing in {object}");
        }
        assert!(number(&object["mean_token_logprob"]) <= 0.0);
        assert!((1..=12).contains(&object["description_tokens"].as_i64().expect("a count")), "{object}");
        assert_eq!(object["verdict"], "not_assessed");
        assert_eq!(object["provider"], "cpu");
        assert_eq!(object["image_only"].as_object().expect("an object").len(), 3);
    }
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn an_own_text_takes_the_describers_place() {
    let image = mmlnb_tests::golden("curriculum/images/1.png");
    let text = "Poorly differentiated neuroblastoma with neuropil and Homer Wright rosettes.";
    let own = ask(&["classify", "--json", "--description", text], std::slice::from_ref(&image)).expect(0).json_lines().remove(0);
    assert_eq!(own["description"], text);
    let expected = read_tensors(&mmlnb_tests::golden("curriculum/classify.safetensors"));
    let expected = expected.iter().find(|tensor| tensor.name == "probabilities").expect("it is there").f32();
    for (class, wanted) in ["UD", "PD", "D"].iter().zip(&expected[3..6]) {
        assert!((number(&own["probabilities"][class]) - f64::from(*wanted)).abs() < 1e-4, "{own} against {expected:?}");
    }
}

fn traced(command: &str) -> BTreeMap<String, StoredTensor> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("trace.safetensors");
    let image = mmlnb_tests::golden("qwen2_5_vl/images/0.png");
    ask(&[command, "--trace", &file.display().to_string()], &[image]).expect(0);
    read_tensors(&file).into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect()
}

#[track_caller]
fn assert_tensor(tensors: &BTreeMap<String, StoredTensor>, name: &str, dtype: Dtype, shape: &[usize]) {
    let tensor = tensors.get(name).unwrap_or_else(|| panic!("no `{name}` in {:?}", tensors.keys()));
    assert_eq!((tensor.dtype, tensor.shape.as_slice()), (dtype, shape), "{name}");
}

/// The describer's part of a trace: 112 x 84 pixels are 8 x 6 patches; hidden 64, vocabulary 640.
#[track_caller]
fn assert_describer(tensors: &BTreeMap<String, StoredTensor>, prefix: &str) {
    let name = |name: &str| format!("{prefix}{name}");
    let (steps, length) = (tensors[&name("token_ids")].shape[0], tensors[&name("input_ids")].shape[1]);
    assert!((1..=12).contains(&steps) && length > 12);
    assert_tensor(tensors, &name("pixel_values"), Dtype::F32, &[48, 1176]);
    assert_tensor(tensors, &name("image_grid_thw"), Dtype::I64, &[1, 3]);
    assert_tensor(tensors, &name("image_embeds"), Dtype::F32, &[12, 64]);
    assert_tensor(tensors, &name("input_ids"), Dtype::I64, &[1, length]);
    assert_tensor(tensors, &name("position_ids"), Dtype::I64, &[3, 1, length]);
    assert_tensor(tensors, &name("token_ids"), Dtype::I64, &[steps]);
    assert_tensor(tensors, &name("logits"), Dtype::F32, &[steps, 640]);
    let image_tokens = tensors[&name("input_ids")].bytes.chunks_exact(8).filter(|id| **id == 572i64.to_le_bytes()).count();
    assert_eq!(image_tokens, 12, "one image token a merged cell");
}

#[test]
fn a_trace_of_describe_holds_the_promised_tensors_and_no_others() {
    let tensors = traced("describe");
    assert_describer(&tensors, "");
    assert_eq!(tensors.len(), 7, "{:?}", tensors.keys());
}

#[test]
fn a_trace_of_classify_holds_the_promised_tensors_with_those_of_the_describer() {
    let tensors = traced("classify");
    assert_describer(&tensors, "describe.");
    assert_tensor(&tensors, "classifier_pixel_values", Dtype::F32, &[1, 3, 64, 64]);
    let tokens = tensors["text_input_ids"].shape[1];
    assert!((3..=32).contains(&tokens));
    for name in ["text_input_ids", "text_attention_mask"] {
        assert_tensor(&tensors, name, Dtype::I64, &[1, tokens]);
    }
    let widths =
        [("image_features", 24), ("text_features", 32), ("projected_features", 32), ("fused_features", 32), ("alpha_text", 1)];
    let heads = ["logits", "image_logits", "probabilities", "image_probabilities"].map(|name| (name, 3));
    for (name, width) in widths.into_iter().chain(heads) {
        assert_tensor(&tensors, name, Dtype::F32, &[1, width]);
    }
    assert_eq!(tensors.len(), 7 + 12, "{:?}", tensors.keys());
}

#[test]
fn a_built_program_finds_its_libraries_by_itself() {
    let mut describe = mmlnb_tests::command(&mmlnb_tests::appliance_binary());
    for name in ["ORT_DYLIB_PATH", "MMLNB_ORT_LIB", "LD_LIBRARY_PATH", "CARGO_MANIFEST_DIR"] {
        describe.env_remove(name);
    }
    describe.current_dir("/").args(["describe", "--bundle"]).arg(bundle()).arg(mmlnb_tests::golden("qwen2_5_vl/images/0.png"));
    run(&mut describe).expect(0);
}

#[test]
fn exit_statuses_tell_absent_undecodable_and_partly_failed_images_apart() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (broken, absent) = (folder.path().join("broken.png"), folder.path().join("absent.png"));
    fs::write(&broken, b"no image").expect("a temporary folder is writable");
    let good = mmlnb_tests::golden("qwen2_5_vl/images/0.png");
    let trace = folder.path().join("trace.safetensors").display().to_string();
    for command in ["describe", "classify"] {
        let ran = ask(&[command, "--json"], &[good.clone(), absent.clone()]).expect(66);
        assert!(ran.err.contains("absent.png") && ran.out.is_empty(), "nothing is started: {ran:?}");
        assert!(ask(&[command], std::slice::from_ref(&broken)).expect(2).err.contains("broken.png"));
        let ran = ask(&[command, "--json"], &[broken.clone(), good.clone()]).expect(3);
        assert_eq!(ran.json_lines().len(), 1, "the good one is done");
        ask(&[command, "--trace", &trace], &[good.clone(), good.clone()]).expect(2);
        ask(&[command, "--no-such-flag"], std::slice::from_ref(&good)).expect(2);
    }
}

#[test]
fn answers_come_in_the_order_of_the_images_whatever_is_ready_first() {
    let images: Vec<PathBuf> = [0, 1, 2, 1, 0].map(|index| mmlnb_tests::golden(&format!("qwen2_5_vl/images/{index}.png"))).into();
    let together = ask(&["describe", "--json"], &images).expect(0).json_lines();
    let files: Vec<&str> = together.iter().filter_map(|answer| answer["file"].as_str()).collect();
    assert_eq!(files, images.iter().map(|path| path.to_str().expect("a plain path")).collect::<Vec<_>>());
    for (image, answer) in images.iter().zip(&together) {
        let alone = ask(&["describe", "--json"], std::slice::from_ref(image)).expect(0).json_lines().remove(0);
        assert_eq!(alone["description"], answer["description"], "a description does not depend on what else runs");
    }
}

#[test]
fn reports_are_filtered_and_written_as_table_json_and_csv() {
    let (appliance, daemon, patches) = served();
    let list = |filters: &[&str]| appliance.operator(&[&["reports", "--json"], filters].concat()).expect(0).json_lines();
    assert_eq!(list(&[]).len(), 5);
    assert_eq!(list(&["--case", "A"]).len(), 3);
    assert_eq!(list(&["--case", "B"])[0]["sha256"], patches[3].sha256);
    assert_eq!(list(&["--case", "nobody"]).len(), 0);
    assert_eq!(list(&["--file", &patches[2].name]).len(), 1);
    assert_eq!(list(&["--verdict", "not_assessed"]).len(), 5);
    assert_eq!(list(&["--verdict", "accepted"]).len(), 0);
    let by_class: usize = ["UD", "PD", "D"].iter().map(|class| list(&["--class", class]).len()).sum();
    assert_eq!(by_class, 5);
    assert_eq!(list(&["--since", "2000-01-01"]).len(), 5);
    assert_eq!(list(&["--until", "2000-01-01"]).len(), 0);
    appliance.operator(&["reports", "--since", "yesterday-ish"]).expect(2);

    let csv = appliance.operator(&["reports", "--csv"]).expect(0).out;
    let mut lines = csv.lines();
    let header = lines.next().expect("CSV has a header");
    assert!(header.starts_with("id,case_id,file,sha256,class"), "{header}");
    assert_eq!(lines.count(), 5, "one line a report: {csv}");
    assert!(
        csv.contains(&format!("'{FORMULA}")) && !csv.contains(&format!(",{FORMULA}")),
        "no spreadsheet computes a name: {csv}"
    );

    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
    let table = appliance.operator(&["reports"]).expect(0).out;
    assert_eq!(table.lines().count(), 6, "a head and a line a report, also while nothing runs:\n{table}");
}

#[test]
fn show_and_explain_find_a_report_by_number_and_by_file() {
    let (appliance, daemon, patches) = served();
    let row = appliance.reports().into_iter().find(|row| row.image_sha256 == patches[0].sha256).expect("it was dropped");
    let (id, path) = (row.id.to_string(), appliance.done(&row.source).display().to_string());
    for subject in [&id, &row.source, &patches[0].name, &path, &row.image_sha256] {
        let shown = appliance.operator(&["show", subject]).expect(0).out;
        assert!(shown.contains(&row.source) && shown.contains(&row.leading_class), "{subject}:\n{shown}");
        assert!(shown.contains(row.description.as_deref().expect("it was described")), "{subject}:\n{shown}");
    }
    let explained = appliance.operator(&["explain", &id]).expect(0).out;
    assert!(explained.contains("logits") && explained.contains("alpha 0") && explained.contains("alpha_text"), "{explained}");
    let json = appliance.operator(&["explain", "--json", &id]).expect(0).json_lines().remove(0);
    let without: f64 = ["UD", "PD", "D"].iter().map(|class| number(&json["probabilities_without_text"][class])).sum();
    assert!((without - 1.0).abs() < 1e-9);
    let failed = appliance.operator(&["show", "B/broken.png"]).expect(0).out;
    assert!(failed.contains("not_an_image"), "{failed}");
    for command in ["show", "explain"] {
        let ran = appliance.operator(&[command, "99999"]).expect(66);
        assert!(ran.err.contains("99999") && ran.out.is_empty(), "{ran:?}");
    }
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn a_failed_file_is_tried_again_while_the_daemon_runs_and_while_it_does_not() {
    let (appliance, daemon, _) = served();
    let first = Note::beside(&appliance.failed("B/broken.png")).job;
    appliance.operator(&["retry", &first.to_string()]).expect(0);
    appliance.wait_for_files(7, LIMIT);
    let second = Note::beside(&appliance.failed("B/broken.png")).job;
    assert_ne!(first, second, "the note is that of the new attempt");
    appliance.operator(&["retry", "99999"]).expect(66);
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);

    appliance.operator(&["retry", &second.to_string()]).expect(0);
    assert!(appliance.inbox("B/broken.png").is_file(), "the file lies in the inbox again");
    let good = patches(6).remove(5);
    fs::write(appliance.inbox("B/broken.png"), &good.bytes).expect("the inbox is writable");
    let daemon = appliance.daemon().start();
    // The image comes after its page: its bytes are synced in between.
    wait_for(LIMIT, "the mended file and its report", || {
        appliance.done("B/broken.png.report.json").is_file() && appliance.done("B/broken.png").is_file()
    });
    assert_eq!(sha256_hex(&fs::read(appliance.done("B/broken.png")).expect("it is filed")), good.sha256);
    assert_eq!(appliance.listing("failed"), [] as [String; 0], "no stale note is left");
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn verify_names_every_filed_image_that_was_changed_or_lost() {
    let (appliance, daemon, patches) = served();
    appliance.operator(&["verify"]).expect(0);
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
    let mut bytes = fs::read(appliance.done(&format!("A/{}", patches[0].name))).expect("it is filed");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(appliance.done(&format!("A/{}", patches[0].name)), bytes).expect("done is writable");
    fs::remove_file(appliance.done(&format!("B/{}", patches[3].name))).expect("done is writable");
    let ran = appliance.operator(&["verify"]).expect(1);
    assert!(ran.out.contains(&patches[0].name) && ran.out.contains(&patches[3].name), "{}", ran.out);
    assert!(!ran.out.contains(&patches[1].name), "only those: {}", ran.out);
}

#[test]
fn status_tells_whether_the_daemon_runs_and_is_well() {
    let (appliance, daemon, _) = served();
    appliance.operator(&["status", "--check"]).expect(0);
    let json = appliance.operator(&["status", "--json"]).expect(0).json_lines().remove(0);
    assert_eq!(json["reported_today"], 5);
    assert_eq!(json["failed_today"], 1);
    wait_for(LIMIT, "READY in STATUS.txt", || appliance.status_text().contains("READY"));
    let page = || fs::read_to_string(appliance.done("STATUS.html")).expect("done has a status page too");
    wait_for(LIMIT, "the broken file on the status page", || page().contains("broken.png"));
    assert!(page().contains("http-equiv=\"refresh\""));
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
    let ran = appliance.operator(&["status", "--check"]).expect(69);
    assert!(ran.out.contains("not running"), "{ran:?}");
}

#[test]
fn submitted_files_become_reports() {
    let appliance = Appliance::new();
    let patch = patches(1).remove(0);
    let file = appliance.outside().join("patch.png");
    fs::write(&file, &patch.bytes).expect("the root is writable");
    let path = file.display().to_string();
    appliance.operator(&["submit", "--case", "S26-9", &path]).expect(69);
    let daemon = appliance.daemon().start();
    appliance.wait_for_files(1, LIMIT);
    assert!(file.is_file(), "submitting copies");
    appliance.operator(&["submit", "--case", "S26-9", &path]).expect(0);
    appliance.wait_for_files(2, LIMIT);
    assert_eq!(appliance.reports().len(), 1);
    assert_eq!(appliance.reports()[0].case_id, "S26-9");
    appliance.operator(&["submit", "/nowhere/absent.png"]).expect(66);
    appliance.operator(&["submit", "--case", "../outside", &path]).expect(2);
    assert_eq!(daemon.stop(Duration::from_secs(10)), 0);
}

#[test]
fn init_writes_every_key_once_and_never_over_what_is_there() {
    let appliance = Appliance::new();
    let before = fs::read_to_string(appliance.configuration()).expect("init wrote it");
    for key in ["bundle", "provider", "inbox", "done", "failed", "state", "settle_ms", "incomplete_s"] {
        let holds = |line: &&str| line.trim_start_matches(['#', ' ']).split_once('=').is_some_and(|(name, _)| name.trim() == key);
        assert_eq!(before.lines().filter(holds).count(), 1, "{key}");
    }
    let again = run(appliance.bare(&["init"]).arg(appliance.root()));
    assert!([0, 2].contains(&again.code), "{again:?}");
    assert_eq!(fs::read_to_string(appliance.configuration()).expect("it stays"), before, "a configuration is never overwritten");
}
