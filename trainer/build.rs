//! Lets built binaries and tests find libtorch: installed beside them, or where the set-up of this checkout put it.

use std::env;

fn main() {
    println!("cargo::rerun-if-env-changed=MMLNB_PACKAGE");
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/mmlnb/torch/lib");
    // A package that leaves this machine must not name its folders.
    if env::var_os("MMLNB_PACKAGE").is_none() {
        let torch = env::var("DEP_MMLNB_NATIVE_LIB_DIR").expect("mmlnb-nativelink passes libtorch's folder on");
        println!("cargo::rustc-link-arg=-Wl,-rpath,{torch}");
    }
}
