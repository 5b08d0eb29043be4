//! Who signed a bundle decides whether it is served, and every report says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mmlnb_tests::{Appliance, binary, bundle, command, copy_folder, drop_by_copy, patches, run, sha256_hex};
use serde_json::Value;

/// Runs the exporter; what it printed.
#[track_caller]
fn export(words: &[&str]) -> String {
    run(command(&binary("mmlnb-export")).args(words)).expect(0).out
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// A new key without a password: its file and the line of its public key.
fn key(folder: &Path, name: &str) -> (PathBuf, String) {
    let file = folder.join(format!("{name}.key"));
    let out = export(&["keygen", "--no-password", "--output", text(&file)]);
    (file, out.lines().last().expect("the public key is printed").to_owned())
}

fn sign(bundle: &Path, key: &Path) {
    export(&["sign", text(bundle), "--key", text(key)]);
}

/// An appliance that takes no unsigned bundle, with a copy of the bundle and a key that has signed it.
struct Signed {
    appliance: Appliance,
    bundle: PathBuf,
    secret: PathBuf,
    public: String,
}

impl Signed {
    fn new() -> Signed {
        let appliance = Appliance::new();
        let folder = appliance.root().join("bundle");
        copy_folder(bundle(), &folder);
        let (secret, public) = key(appliance.root(), "maker");
        sign(&folder, &secret);
        appliance.set("bundle", &format!("{:?}", text(&folder)));
        appliance.set("public_keys", &format!("[{public:?}]"));
        appliance.set("allow_unsigned", "false");
        Signed { appliance, bundle: folder, secret, public }
    }

    /// The start is refused with these words.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let refused = self.appliance.daemon().refused().expect(78);
        for word in words {
            assert!(refused.err.contains(word), "`{word}` is missing in:\n{}", refused.err);
        }
    }

    #[track_caller]
    fn served(&self) {
        assert_eq!(self.appliance.daemon().start().stop(Duration::from_secs(15)), 0);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bundle.join(name)
    }
}

#[test]
fn a_signed_bundle_is_served_and_everything_says_who_signed_it() {
    let signed = Signed::new();
    let (appliance, patch) = (&signed.appliance, patches(1).remove(0));
    let daemon = appliance.daemon().start();
    drop_by_copy(&patch.bytes, &appliance.inbox("patch.png"));
    appliance.wait_for_files(1, Duration::from_secs(60));
    let json: Value =
        serde_json::from_slice(&fs::read(appliance.done("patch.png.report.json")).expect("it is filed")).expect("JSON");
    let standing = &json["trust"]["bundle"];
    assert_eq!((standing["state"].as_str(), &json["trust"]["qualification"]), (Some("signed"), &Value::Null));
    assert_eq!(json["qualification_sha256"], Value::Null);
    let words = format!("signed with the key {}", standing["key"].as_str().expect("a key has a number"));
    let page = fs::read_to_string(appliance.done("patch.png.report.html")).expect("a page lies beside");
    assert!(page.contains(&words), "{words} is not on the page");
    for command in [&["show", "1"][..], &["status"]] {
        let out = appliance.operator(command).expect(0).out;
        assert!(out.contains(&words), "{words} is not in {out}");
    }
    assert!(appliance.status_text().contains(&words));
    let status = appliance.operator(&["status", "--json"]).expect(0).json_lines().remove(0);
    assert!(status["level"] == "green" && status["bundle"].as_str().is_some_and(|line| line.contains(&words)), "{status}");
    assert_eq!(appliance.number("SELECT count(*) FROM reports WHERE trust ->> '$.bundle.state' = 'signed'"), 1);
    assert_eq!(daemon.stop(Duration::from_secs(15)), 0);

    appliance.set("allow_unsigned", "true");
    fs::remove_file(signed.path("manifest.json.minisig")).expect("it was signed");
    let daemon = appliance.daemon().start();
    drop_by_copy(&patches(2)[1].bytes, &appliance.inbox("other.png"));
    appliance.wait_for_files(2, Duration::from_secs(60));
    let page = fs::read_to_string(appliance.done("other.png.report.html")).expect("a page lies beside");
    assert!(page.contains("not signed") && appliance.status_text().contains("not signed"));
    assert_eq!(daemon.stop(Duration::from_secs(15)), 0);
}

#[test]
fn a_bundle_of_which_any_one_byte_is_changed_is_refused() {
    let signed = Signed::new();
    signed.served();
    let files: Value = serde_json::from_slice(&fs::read(signed.path("manifest.json")).expect("there")).expect("JSON");
    let listed = files["files"].as_object().expect("files are listed").keys().cloned();
    let mut flipped = 0;
    for name in listed.chain(["manifest.json", "manifest.json.minisig"].map(str::to_owned)) {
        let file = signed.path(&name);
        let whole = fs::read(&file).expect("the copy can be read");
        // Nothing vouches for the first line of a signature but its beginning.
        let unsure =
            if name.ends_with(".minisig") { 1 + whole.iter().position(|byte| *byte == b'\n').expect("lines") } else { 0 };
        let draws: u32 = if name.starts_with("manifest") { 6 } else { 2 };
        for draw in 0..draws {
            // Another place in each file and each draw, the same in each run of the test.
            let spread = u64::from_str_radix(&sha256_hex(format!("{name} {draw}").as_bytes())[..12], 16).expect("hex");
            let at = unsure + (spread % (whole.len() - unsure) as u64) as usize;
            let mut changed = whole.clone();
            changed[at] ^= 1 << (spread % 8);
            fs::write(&file, &changed).expect("the copy is writable");
            let refused = signed.appliance.daemon().refused();
            assert_eq!(refused.code, 78, "{name}, byte {at}: {}", refused.err);
            flipped += 1;
        }
        fs::write(&file, &whole).expect("the copy is writable");
    }
    assert!(flipped > 30, "{flipped}");
    signed.served();
}

#[test]
fn every_way_in_which_a_signature_can_be_wrong_is_told() {
    let signed = Signed::new();
    let appliance = &signed.appliance;
    let signature = signed.path("manifest.json.minisig");
    let whole = fs::read_to_string(&signature).expect("it is signed");

    fs::remove_file(&signature).expect("the copy is writable");
    signed.refused(&["manifest.json is not signed", "mmlnb-export sign", "allow_unsigned"]);
    fs::write(&signature, "no signature").expect("the copy is writable");
    signed.refused(&["is no signature of minisign"]);
    fs::write(&signature, whole.replace("timestamp:", "timestamp:1")).expect("the copy is writable");
    signed.refused(&["comment was altered", "copy the bundle again"]);
    fs::write(&signature, whole.replacen("signature", "a word", 1)).expect("the copy is writable");
    signed.served();

    let other = appliance.root().join("other");
    copy_folder(bundle(), &other);
    let manifest = fs::read_to_string(other.join("manifest.json")).expect("a manifest") + "\n";
    fs::write(other.join("manifest.json"), manifest).expect("the copy is writable");
    sign(&other, &signed.secret);
    fs::copy(other.join("manifest.json.minisig"), &signature).expect("the copy is writable");
    signed.refused(&["belongs to another bundle"]);
    fs::write(&signature, &whole).expect("the copy is writable");

    fs::write(signed.path("classifier/added.txt"), "").expect("the copy is writable");
    signed.refused(&["added.txt", "does not list"]);
    fs::remove_file(signed.path("classifier/added.txt")).expect("it was added");

    let (_, stranger) = key(appliance.root(), "stranger");
    for allowed in ["false", "true"] {
        appliance.set("allow_unsigned", allowed);
        appliance.set("public_keys", &format!("[{stranger:?}]"));
        signed.refused(&["none of the public keys", "`public_keys`"]);
        appliance.set("public_keys", &format!("[{stranger:?}, {:?}]", signed.public));
        appliance.set("revoked_keys", &format!("[{:?}]", signed.public));
        signed.refused(&["which is revoked", "do not use the bundle"]);
        appliance.set("revoked_keys", &format!("[{stranger:?}]"));
        signed.served();
    }
    appliance.set("public_keys", &format!("[{:?}]", &signed.public[1..]));
    signed.refused(&["`public_keys`", ".pub file"]);
}
