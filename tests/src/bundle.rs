//! The bundle of all end-to-end tests, exported once for each build of the exporter.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{binaries, binary, command, run, sha256_hex};

/// Short texts keep the suite fast; the sampler's defaults are the exporter's.
const SETTINGS: &str = "max_new_tokens = 12\n";

/// A family's folder of the golden data, for instance `qwen2_5_vl`.
pub fn golden(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(family)
}

/// The bundle's folder: the small golden describer and the small golden classifier.
///
/// # Panics
/// When the exporter fails.
pub fn bundle() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(export_once)
}

fn export_once() -> PathBuf {
    let folder = binaries::build_folder().join("end-to-end");
    fs::create_dir_all(&folder).expect("the build folder is writable");
    let lock = File::create(folder.join("lock")).expect("the build folder is writable");
    lock.lock().expect("a local file can be locked");
    let exporter = fs::read(binary("mmlnb-export")).expect("the exporter was found and can be read");
    let output = folder.join(format!("bundle-{}", &sha256_hex(&exporter)[..12]));
    if !output.join("manifest.json").is_file() {
        remove_earlier(&folder);
        export(&folder, &output);
    }
    output
}

fn remove_earlier(folder: &Path) {
    for entry in fs::read_dir(folder).expect("the folder was just made").flatten() {
        if entry.file_name().to_string_lossy().starts_with("bundle-") {
            fs::remove_dir_all(entry.path()).expect("an earlier bundle can be removed");
        }
    }
}

fn export(folder: &Path, output: &Path) {
    let settings = folder.join("settings.toml");
    fs::write(&settings, SETTINGS).expect("the build folder is writable");
    let mut export = command(&binary("mmlnb-export"));
    export.arg("bundle").arg("--output").arg(output).arg("--vlm").arg(golden("qwen2_5_vl"));
    export.arg("--classifier").arg(golden("curriculum/checkpoint")).arg("--settings").arg(&settings);
    run(export.args(["--image-size", "112x84"])).expect(0);
}

/// Copies a folder with all that is below it.
///
/// # Panics
/// On I/O errors.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the target is writable");
    for entry in fs::read_dir(from).expect("the source is a folder") {
        let entry = entry.expect("the source can be listed");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}
