//! `keygen`, `sign` and `verify` as programs: what they write, what they refuse, and that minisign agrees where it is installed.

use mmlnb_models::bundle::{Bundle, Classifier, FORMAT, Graph, Manifest, Precision, Provenance, list_files};
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Keys of minisign 0.11 of Debian 12 (`-G -W`; `-G` with the password `secret`), and the public ones.
const MINISIGN_KEY: &str = "untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA9EOevZhAvg8Lfd/UM2LrQrmCHeQt/WnC9mcwiAQk3pX2YFhgI/kk8a8qdgw4gVBoSAt5pP2AjABzFcGRviItY9RkdKOhbOOyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
";
const MINISIGN_PUBLIC: &str = "RWT0Q569mEC+D68qdgw4gVBoSAt5pP2AjABzFcGRviItY9RkdKOhbOOy";
const SEALED_KEY: &str = "untrusted comment: minisign encrypted secret key
RWRTY0IyKCdFnDsX0ClmFFurkdeC5CLOww26KJFbEjL8Ji3CV6wAAAACAAAAAAAAAEAAAAAAaA0+oKPcP9Py190+uzDuiiSTko01N78S699J98+Pbz1siqDF0PuEKH/1jcU1SWzPDlENuwBn1nbzt58Wd9bxlxWf6FGfymXN33wEGlcSRLBDsmZbMlRDMGD/duyx4INrek7JXxm65ns=
";
const SEALED_PUBLIC: &str = "RWSn0h5ZQI6Wu9wp4KcW7U3bC5aFux9KYQjTEuD9zC6kkokD9x9TGZsK";

fn run_with(input: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mmlnb-export"));
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that wants no input may have ended before.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().unwrap()
}

fn ends(code: i32, input: &str, arguments: &[&str]) -> String {
    let output = run_with(input, arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}{err}");
    if code == 0 { out } else { err }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A small bundle with nothing behind its graph.
fn bundle(dir: &Path, card: &str) -> PathBuf {
    fs::create_dir_all(dir.join("classifier")).unwrap();
    fs::write(dir.join("MODEL_CARD.md"), card).unwrap();
    fs::write(dir.join("classifier/prmf.onnx"), b"graph").unwrap();
    let prmf = Graph { file: "classifier/prmf.onnx".into(), inputs: vec![], outputs: vec![], parameters: 1 };
    let classes = ["A", "B"].map(String::from).to_vec();
    let classifier = Classifier { classes, image_size: None, max_length: None, image: None, text: None, prmf, calibration: None };
    let manifest = Manifest {
        format: FORMAT,
        producer: "test".into(),
        precision: Precision::F32,
        portable: false,
        describer: None,
        classifier: Some(classifier),
        provenance: Provenance::default(),
        known_answers: vec![],
        qualification: None,
        files: list_files(dir).unwrap(),
    };
    manifest.write(dir).unwrap();
    dir.to_path_buf()
}

/// A key without a password: its file and the line of its public key.
fn key(dir: &Path, name: &str) -> (PathBuf, String) {
    let file = dir.join(format!("{name}.key"));
    let out = ends(0, "", &["keygen", "--no-password", "--output", text(&file)]);
    (file, out.lines().last().unwrap().to_string())
}

#[test]
fn a_signed_bundle_is_verified_and_every_change_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let dir = bundle(&folder.path().join("bundle"), "a card");
    let (secret, public) = key(folder.path(), "maker");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    let err = ends(1, "", &["verify", text(&dir), "--public-key", &public]);
    assert!(err.contains("manifest.json is not signed"), "{err}");
    let out = ends(0, "", &["sign", text(&dir), "--key", text(&secret)]);
    assert!(out.contains("manifest.json: signed with the key"), "{out}");
    let out = ends(0, "", &["verify", text(&dir), "--public-key", &public]);
    assert!(out.contains("signed with the key") && out.contains("file:manifest.json, hashed"), "{out}");
    let of_file = folder.path().join("maker.pub");
    assert_eq!(out, ends(0, "", &["verify", text(&dir), "--public-key", text(&of_file)]), "the key's file serves too");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 4, "no temporary file is left");

    let untrusted = "untrusted comment: ".len();
    for name in ["manifest.json", "manifest.json.minisig", "MODEL_CARD.md", "classifier/prmf.onnx"] {
        let file = dir.join(name);
        let whole = fs::read(&file).unwrap();
        let vouched_for = if name.ends_with(".minisig") { 1 + whole.iter().position(|byte| *byte == b'\n').unwrap() } else { 0 };
        let places = (0..whole.len()).filter(|at| *at >= vouched_for || *at < untrusted);
        for at in places.step_by(if name == "manifest.json" { 7 } else { 3 }) {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            fs::write(&file, &changed).unwrap();
            ends(1, "", &["verify", text(&dir), "--public-key", &public]);
        }
        fs::write(&file, &whole).unwrap();
    }
    ends(0, "", &["verify", text(&dir), "--public-key", &public]);
    let signature = dir.join("manifest.json.minisig");
    let signed = fs::read_to_string(&signature).unwrap();
    fs::write(&signature, signed.replace("timestamp:", "timestamp:1")).unwrap();
    let err = ends(1, "", &["verify", text(&dir), "--public-key", &public]);
    assert!(err.contains("comment was altered"), "{err}");
}

#[test]
fn other_keys_and_other_bundles_signatures_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [dir, other] = ["bundle", "other"].map(|name| bundle(&folder.path().join(name), name));
    let ((maker, maker_public), (site, site_public)) = (key(folder.path(), "maker"), key(folder.path(), "site"));
    [&dir, &other].iter().for_each(|dir| drop(ends(0, "", &["sign", text(dir), "--key", text(&maker)])));
    let err = ends(1, "", &["verify", text(&dir), "--public-key", &site_public]);
    assert!(err.contains("none of the public keys"), "{err}");
    ends(0, "", &["verify", text(&dir), "--public-key", &site_public, "--public-key", &maker_public]);
    fs::copy(other.join("manifest.json.minisig"), dir.join("manifest.json.minisig")).unwrap();
    let err = ends(1, "", &["verify", text(&dir), "--public-key", &maker_public]);
    assert!(err.contains("belongs to another bundle"), "{err}");
    ends(0, "", &["sign", text(&dir), "--key", text(&maker)]);
    ends(0, "", &["verify", text(&dir), "--public-key", &maker_public]);
    let err = ends(2, "", &["sign", text(&dir), "--key", text(&site)]);
    assert!(err.contains("signed with other keys already") && err.contains("manifest.json.minisig"), "{err}");
    ends(0, "", &["verify", text(&dir), "--public-key", &maker_public]);
}

#[test]
fn what_cannot_be_right_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let dir = bundle(&at("bundle"), "a card");
    let (secret, public) = key(folder.path(), "maker");
    let before = fs::read(&secret).unwrap();
    let err = ends(2, "", &["keygen", "--no-password", "--output", text(&secret)]);
    assert!(err.contains("never overwritten"), "{err}");
    assert_eq!(fs::read(&secret).unwrap(), before);
    fs::remove_file(&secret).unwrap();
    ends(2, "", &["keygen", "--no-password", "--output", text(&secret)]);
    ends(2, "", &["keygen", "--no-password", "--output", text(&at("x.pub"))]);
    ends(2, "one\ntwo\n", &["keygen", "--output", text(&at("y.key"))]);
    ends(2, "\n\n", &["keygen", "--output", text(&at("y.key"))]);
    assert!(!at("y.key").exists() && !at("x.pub").exists());
    fs::write(&secret, &before).unwrap();
    let err = ends(2, "", &["sign", text(&dir), "--key", text(&at("maker.pub"))]);
    assert!(err.contains("is no secret key"), "{err}");
    ends(2, "", &["verify", text(&dir), "--public-key", &public[1..]]);
    ends(2, "", &["verify", text(&dir)]);
    fs::write(dir.join("added"), "").unwrap();
    let err = ends(1, "", &["sign", text(&dir), "--key", text(&secret)]);
    assert!(err.contains("added"), "{err}");
    assert!(!dir.join("manifest.json.minisig").exists(), "a damaged bundle is not signed");
}

#[test]
fn minisigns_keys_sign() {
    let folder = tempfile::tempdir().unwrap();
    let dir = bundle(&folder.path().join("bundle"), "a card");
    for (name, text_of, public) in [("plain", MINISIGN_KEY, MINISIGN_PUBLIC), ("sealed", SEALED_KEY, SEALED_PUBLIC)] {
        let file = folder.path().join(name);
        fs::write(&file, text_of).unwrap();
        if name == "sealed" {
            let err = ends(2, "wrong\n", &["sign", text(&dir), "--key", text(&file)]);
            assert!(err.contains("Wrong password"), "{err}");
        }
        ends(0, "secret\n", &["sign", text(&dir), "--key", text(&file)]);
        ends(0, "", &["verify", text(&dir), "--public-key", public]);
        fs::remove_file(dir.join("manifest.json.minisig")).unwrap();
    }
}

#[test]
fn a_key_with_a_password_signs_with_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = bundle(&folder.path().join("bundle"), "a card");
    let secret = folder.path().join("maker.key");
    let out = ends(0, "a word\na word\n", &["keygen", "--output", text(&secret)]);
    ends(2, "another\n", &["sign", text(&dir), "--key", text(&secret)]);
    ends(0, "a word\n", &["sign", text(&dir), "--key", text(&secret)]);
    ends(0, "", &["verify", text(&dir), "--public-key", out.lines().last().unwrap()]);
}

#[test]
fn minisign_and_this_program_take_each_others_files() {
    if Command::new("minisign").arg("-v").output().is_err() {
        eprintln!("skipped: minisign is not installed");
        return;
    }
    let minisign = |input: &str, arguments: &[&str]| {
        let mut command = Command::new("minisign");
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        assert!(child.wait().unwrap().success(), "minisign {arguments:?}");
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let dir = bundle(&at("bundle"), "a card");
    let (manifest, signature) = (dir.join("manifest.json"), dir.join("manifest.json.minisig"));
    for (name, password, input) in [("plain", vec!["--no-password"], ""), ("sealed", vec![], "a word\na word\n")] {
        // Ours signs with ours: minisign verifies. Minisign signs with ours: we verify.
        let (secret, public) = (at(&format!("{name}.key")), at(&format!("{name}.pub")));
        ends(0, input, &[&["keygen", "--output", text(&secret)], password.as_slice()].concat());
        ends(0, input, &["sign", text(&dir), "--key", text(&secret)]);
        minisign("", &["-V", "-p", text(&public), "-m", text(&manifest)]);
        fs::remove_file(&signature).unwrap();
        minisign(input, &["-S", "-s", text(&secret), "-m", text(&manifest)]);
        ends(0, "", &["verify", text(&dir), "--public-key", text(&public)]);
        fs::remove_file(&signature).unwrap();
    }
    // Minisign's own keys.
    let (secret, public) = (at("theirs.key"), at("theirs.pub"));
    minisign("", &["-G", "-W", "-s", text(&secret), "-p", text(&public)]);
    ends(0, "", &["sign", text(&dir), "--key", text(&secret)]);
    minisign("", &["-V", "-p", text(&public), "-m", text(&manifest)]);
    minisign("", &["-S", "-s", text(&secret), "-m", text(&manifest)]);
    ends(0, "", &["verify", text(&dir), "--public-key", text(&public)]);
    assert_eq!(Bundle::open(&dir).unwrap().manifest.producer, "test");
}
