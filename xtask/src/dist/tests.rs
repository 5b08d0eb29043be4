//! The package read back by dpkg-deb, made of stand-ins for the programs and the library.

use super::*;
use std::collections::BTreeMap;

const EPOCH: u64 = 1_700_000_000;

/// A product whose programs ask for this C library.
fn product(folder: &Path, glibc: &str) -> Product {
    let (programs, onnxruntime) = (folder.join("programs"), folder.join("onnxruntime"));
    fs::create_dir_all(&programs).unwrap();
    fs::create_dir_all(onnxruntime.join("capi")).unwrap();
    for file in PROGRAMS.map(|name| programs.join(name)).into_iter().chain([onnxruntime.join("capi").join(NATIVE)]) {
        fs::write(file, format!("stand-in\0GLIBC_2.2.5\0{glibc}\0")).unwrap();
    }
    for name in ["LICENSE", "ThirdPartyNotices.txt"] {
        fs::write(onnxruntime.join(name), name).unwrap();
    }
    Product {
        programs,
        onnxruntime,
        configuration: "bundle = \"/srv/mmlnb/bundle\"\n".into(),
        crates: vec![],
        notices: "notices".into(),
    }
}

fn told(arguments: &[&str], package: &Path) -> String {
    let output = Command::new("dpkg-deb").args(arguments).arg(package).env("TZ", "UTC").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether packages can be read and written here; says so where they cannot.
fn can() -> bool {
    let hindrance = hindrance();
    hindrance.iter().for_each(|reason| eprintln!("SKIPPED: {reason}"));
    hindrance.is_none()
}

#[test]
fn dpkg_reads_back_what_belongs_into_the_package() {
    if !can() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let written = write(&product(folder.path(), "GLIBC_2.34"), &output, EPOCH).unwrap();

    let listing = told(&["--contents"], &written[0]);
    // Mode, owner, size, day, time, name.
    let files: BTreeMap<&str, Vec<&str>> = listing
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .map(|words| (words[5].trim_start_matches("./"), words))
        .collect();
    assert!(files.values().all(|words| words[1] == "root/root" && words[3] == "2023-11-14"), "{listing}");
    assert!(files.iter().all(|(name, words)| !name.ends_with('/') || words[0] == "drwxr-xr-x"), "{listing}");
    let mode = |name: &str| files.get(name).unwrap_or_else(|| panic!("{name} is absent:\n{listing}"))[0];
    for name in PROGRAMS {
        assert_eq!(mode(&format!("usr/bin/{name}")), "-rwxr-xr-x");
    }
    let plain = ["usr/lib/mmlnb/onnxruntime/capi/libonnxruntime.so.1.28.0", "etc/mmlnb/appliance.toml"];
    let documents = ["README.md", "copyright", "changelog.gz", "crates.txt.gz", "docs/operations.md", "examples/gpu.conf"];
    let documents = documents.map(|name| format!("{DOCS}/{name}"));
    for name in plain.into_iter().chain(SERVICE_FILES.map(|(_, to)| to)).chain(documents.iter().map(String::as_str)) {
        assert_eq!(mode(name), "-rw-r--r--", "{name}");
    }
    // dpkg would remove what it owns: folders of patients' data are made by the scripts.
    assert!(files.keys().all(|name| !name.starts_with("var/") && !name.starts_with("srv/")), "{listing}");

    let field = |name: &str| told(&["--field"], &written[0]).lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
    assert_eq!(field("Package: ").unwrap(), "mmlnb");
    assert!(field("Depends: ").unwrap().starts_with("libc6 (>= 2.34),"));
    assert_eq!(told(&["--info"], &written[0]).matches("#!/bin/sh").count(), 3);
    let control = folder.path().join("control");
    let status = Command::new("dpkg-deb").arg("--control").arg(&written[0]).arg(&control).status().unwrap();
    assert!(status.success());
    assert_eq!(fs::read_to_string(control.join("conffiles")).unwrap(), "/etc/mmlnb/appliance.toml\n");
    for (name, text) in SCRIPTS {
        assert_eq!(fs::read_to_string(control.join(name)).unwrap(), text);
        assert!(Command::new("sh").arg("-n").arg(control.join(name)).status().unwrap().success(), "{name}");
    }
    assert!(
        Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&output).status().unwrap().success()
    );
    let left: Vec<_> = fs::read_dir(&output).unwrap().collect();
    assert_eq!(left.len(), written.len(), "nothing else is left in the folder: {left:?}");
}

#[test]
fn the_same_input_gives_the_same_bytes_and_another_time_others() {
    if !can() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let product = product(folder.path(), "GLIBC_2.34");
    let sums = |name: &str, epoch| {
        let output = folder.path().join(name);
        write(&product, &output, epoch).unwrap();
        fs::read_to_string(output.join("SHA256SUMS")).unwrap()
    };
    let first = sums("first", EPOCH);
    assert_eq!(first, sums("second", EPOCH));
    assert_ne!(first, sums("third", EPOCH + 86_400));
}

#[test]
fn a_program_that_debian_12_cannot_start_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree::new(folder.path().join("tree"), EPOCH).unwrap();
    let error = stage_programs(&tree, &product(folder.path(), "GLIBC_2.39")).unwrap_err().to_string();
    assert!(error.contains("mmlnb-appliance asks for the C library 2.39") && error.contains("Debian 12"), "{error}");
}

#[test]
fn an_absent_program_or_library_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let product = product(folder.path(), "GLIBC_2.34");
    fs::remove_file(product.onnxruntime.join("capi").join(NATIVE)).unwrap();
    let error = write(&product, &folder.path().join("out"), EPOCH).unwrap_err().to_string();
    assert!(error.contains(NATIVE), "{error}");
    assert!(!folder.path().join("out/SHA256SUMS").exists());
}

#[test]
fn the_newest_c_library_counts_by_number_not_by_letter() {
    assert_eq!(deb::newest_glibc(b"GLIBC_2.4\0GLIBC_2.17\0GLIBC_2.9"), Some(17));
    assert_eq!(deb::newest_glibc(b"GLIBCXX_3.4.30"), None);
}
