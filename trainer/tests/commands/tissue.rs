//! Real tissue: the loss of recipe image-only beside a plain PyTorch loop.
//!
//! Runs where MMLNB_TEST_PATCHES names a folder of patches and MMLNB_PYTHON a Python with torch, Pillow and safetensors; elsewhere it says so and passes.

use std::{path::Path, process::Command};

#[test]
fn the_loss_on_real_tissue_is_that_of_a_plain_pytorch_loop() {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let (Some(patches), Some(python)) = (given("MMLNB_TEST_PATCHES"), given("MMLNB_PYTHON")) else {
        eprintln!("SKIPPED: set MMLNB_TEST_PATCHES and MMLNB_PYTHON to compare with PyTorch on real tissue");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tissue/beside_pytorch.py"))
        .arg("--patches")
        .arg(patches)
        .args(["--program", env!("CARGO_BIN_EXE_mmlnb-train"), "--losses-only", "--seeds", "2", "--output"])
        .arg(folder.path())
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    let [said, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    println!("{said}");
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("largest difference of the loss over the first 20 steps"), "{said}");
}
