//! Decoding of awkward files and Pillow's resize, against the reference data.

mod golden_files;

use golden_files::{family, integer, json, list, picture, text};
use mmlnb_models::config::Resample;
use mmlnb_models::prepare::decode::{Limits, decode};
use mmlnb_models::prepare::resize::resize;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

#[test]
fn golden_resize_is_pillows_to_the_byte() {
    let Some(folder) = family("resize") else { return };
    let cases = json(&folder.join("cases.json"));
    for case in list(&cases, "resize") {
        let filter = match text(case, "filter") {
            "bicubic" => Resample::Bicubic,
            "bilinear" => Resample::Bilinear,
            other => panic!("unknown filter {other}"),
        };
        let source = picture(&folder.join(text(case, "source")));
        let (width, height) = (integer(case, "width") as usize, integer(case, "height") as usize);
        let expected = picture(&folder.join(text(case, "expected")));
        let found = resize(&source, width, height, filter);
        assert_eq!((found.width, found.height), (expected.width, expected.height), "{case}");
        let most = found.pixels.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(i64::from(most.unwrap()) <= integer(case, "tolerance_max"), "{case}: differs by {most:?}");
    }
}

#[test]
fn golden_resize_decodes_awkward_files() {
    let Some(folder) = family("resize") else { return };
    let cases = json(&folder.join("cases.json"));
    for case in list(&cases, "decode") {
        let found = picture(&folder.join(text(case, "file")));
        let expected = picture(&folder.join(text(case, "expected")));
        assert_eq!((found.width, found.height), (expected.width, expected.height), "{case}");
        assert_eq!(found.pixels.len(), expected.pixels.len(), "{case}");
        let differences = found.pixels.iter().zip(&expected.pixels).map(|(a, b)| u64::from(a.abs_diff(*b)));
        let (most, sum) = differences.fold((0, 0), |(most, sum), one| (u64::max(most, one), sum + one));
        let mean = sum as f64 / found.pixels.len() as f64;
        eprintln!("{}: at most {most}, mean {mean:.3}", text(case, "file"));
        assert!(most as i64 <= integer(case, "tolerance_max"), "{case}: differs by {most}");
        assert!(mean <= case["tolerance_mean"].as_f64().unwrap(), "{case}: differs by {mean} on average");
    }
}

/// Each awkward file with a few bytes changed, or cut: an image of the right size, or an error; never a panic.
#[test]
fn golden_resize_damaged_files_never_panic() {
    let Some(folder) = family("resize") else { return };
    let limits = Limits { max_side: 1024, max_alloc: 64 << 20, ..Limits::default() };
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut refused = 0;
    for case in list(&json(&folder.join("cases.json")), "decode") {
        let whole = std::fs::read(folder.join(text(case, "file"))).unwrap();
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.next_u32() % 6 {
                let at = random.next_u32() as usize % bytes.len();
                bytes[at] = random.next_u32() as u8;
            }
            if random.next_u32().is_multiple_of(4) {
                bytes.truncate(random.next_u32() as usize % whole.len());
            }
            match decode(&bytes, &limits) {
                Ok(image) => assert_eq!(image.pixels.len(), image.width * image.height * 3),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 100, "only {refused} damaged files were refused");
}
