//! Distinct patches: those of `MMLNB_TEST_PATCHES` and their mirror images, else the golden images in all orientations.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat};
use sha2::{Digest, Sha256};

/// One image file that nothing has read yet.
#[derive(Clone, Debug)]
pub struct Patch {
    /// File name with extension.
    pub name: String,
    /// The whole file.
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
}

/// SHA-256 in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `count` patches with different bytes.
///
/// # Panics
/// When there are not enough images.
pub fn patches(count: usize) -> Vec<Patch> {
    let sources = sources();
    let mut found: Vec<Patch> = Vec::new();
    for orientation in 0..8 {
        for source in &sources {
            if found.len() == count {
                return found;
            }
            let patch = oriented(source, orientation);
            if found.iter().all(|earlier| earlier.sha256 != patch.sha256) {
                found.push(patch);
            }
        }
    }
    assert_eq!(found.len(), count, "too few images among {} sources", sources.len());
    found
}

fn sources() -> Vec<PathBuf> {
    match std::env::var_os("MMLNB_TEST_PATCHES") {
        Some(folder) => images_in(&Path::new(&folder).join("images")),
        None => ["qwen2_5_vl", "qwen2_5_vl_b", "curriculum", "swin", "vgg16"]
            .iter()
            .flat_map(|family| images_in(&crate::golden(family).join("images")))
            .collect(),
    }
}

fn images_in(folder: &Path) -> Vec<PathBuf> {
    let listing = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = listing.map(|entry| entry.expect("the folder can be listed").path()).collect();
    paths.sort();
    paths
}

/// The file as it is for orientation 0, else turned or mirrored and encoded anew in its own format.
fn oriented(source: &Path, orientation: usize) -> Patch {
    let bytes = fs::read(source).expect("a listed image can be read");
    let name = source.file_name().expect("an image has a name").to_string_lossy();
    let family = source.parent().and_then(Path::parent).and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let bytes = match orientation {
        0 => bytes,
        _ => encode(&turned(&bytes, orientation), ImageFormat::from_path(source).expect("an image has a known extension")),
    };
    let sha256 = sha256_hex(&bytes);
    Patch { name: format!("{family}-{orientation}-{name}"), bytes, sha256 }
}

fn turned(bytes: &[u8], orientation: usize) -> DynamicImage {
    let image = image::load_from_memory(bytes).expect("a test image can be decoded");
    let image = if orientation & 1 == 1 { image.fliph() } else { image };
    match orientation >> 1 {
        0 => image,
        1 => image.rotate180(),
        2 => image.rotate90(),
        _ => image.rotate270(),
    }
}

/// An image's file in a format.
///
/// # Panics
/// When the format does not hold such pixels.
pub fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("an image can be encoded in memory");
    bytes.into_inner()
}
