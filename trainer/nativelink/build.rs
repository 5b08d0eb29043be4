//! Passes libtorch's folder on to cargo, so that `cargo run`, `cargo test` and built binaries find it with nothing exported.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let torch = PathBuf::from(env::var_os("LIBTORCH").expect("LIBTORCH is set in .cargo/config.toml"));
    let lib = torch.join("lib");
    assert!(lib.join("libtorch_cpu.so").exists(), "libtorch is not in {}: run `cargo xtask setup` first", lib.display());
    // Cargo hands a search path to the loader of `run` and `test` only if it lies under the target directory.
    let link = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("torchlib");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(&lib, &link).expect("a link in OUT_DIR can be made");
    println!("cargo::metadata=LIB_DIR={}", lib.display());
    println!("cargo::rustc-link-search=native={}", link.display());
}
