//! Many layouts and damages of small images, against what independent decoders make of them (`images/generate.py`).

use std::io::{Cursor, Read};
use std::path::Path;

use mmlnb_models::prepare::completeness::{Completeness, blank_tail, probe};
use mmlnb_models::prepare::decode::{DecodeError, Limits, Rgb8Image, decode, examine};
use mmlnb_models::prepare::header::inspect;
use mmlnb_models::prepare::scale::microns_per_pixel;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

fn variants() -> Vec<(serde_json::Value, Vec<u8>)> {
    unpacked(include_bytes!("images/variants.bin"))
}

fn unpacked(packed: &[u8]) -> Vec<(serde_json::Value, Vec<u8>)> {
    let mut all = Vec::new();
    flate2::read::ZlibDecoder::new(packed).read_to_end(&mut all).unwrap();
    let line = all.iter().position(|&byte| byte == b'\n').unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&all[..line]).unwrap();
    let mut rest = &all[line + 1..];
    let mut found = Vec::new();
    for case in cases {
        let (data, after) = rest.split_at(case["bytes"].as_u64().unwrap() as usize);
        found.push((case, data.to_vec()));
        rest = after;
    }
    found
}

fn limits() -> Limits {
    Limits { max_side: 512, ..Limits::default() }
}

fn hash(image: &Rgb8Image) -> String {
    Sha256::digest(&image.pixels).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn variants_are_decoded_as_by_others_or_refused_with_their_code() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (case, data) in variants() {
        count += 1;
        let name = case["name"].as_str().unwrap();
        match (decode(&data, &limits()), case["codes"].as_array()) {
            (Ok(image), None) => {
                let size = (image.width as u64, image.height as u64);
                if size != (case["width"].as_u64().unwrap(), case["height"].as_u64().unwrap())
                    || hash(&image) != case["sha256"].as_str().unwrap()
                {
                    wrong.push(format!("{name}: other pixels"));
                }
            }
            (Ok(_), Some(codes)) => wrong.push(format!("{name}: decoded, expected {codes:?}")),
            (Err(error), codes) => {
                if !codes.is_some_and(|codes| codes.iter().any(|code| code == error.code())) {
                    wrong.push(format!("{name}: {} ({error}), expected {codes:?}", error.code()));
                }
            }
        }
    }
    assert!(count >= 300, "{count} variants");
    assert!(wrong.is_empty(), "{} of {count} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn intake(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/intake").join(name)).unwrap()
}

#[test]
fn files_of_the_field() {
    let expected = [
        ("12bit-in-16.tif", "unsupported"),
        ("alpha-associated.tif", ""),
        ("bmp-bfsize-plus-2.bmp", ""),
        ("control.jpg", ""),
        ("imagej-composite.tif", ""),
        ("jpeg-200k-padding.jpg", ""),
        ("jpeg-arithmetic.jpg", "unsupported"),
        ("jpeg-last-30pct-missing.jpg", "damaged"),
        ("jpeg-noninterleaved-420.jpg", ""),
        ("jpegls.jpg", "unsupported"),
        ("planar-tiles-edge.tif", ""),
        ("scale-4um.png", ""),
        ("scale-4um.tif", ""),
        ("tiff-jpeg-strip-cut.tif", "damaged"),
        ("tiff-no-stripbytecounts.tif", ""),
        ("two-patients-two-pages.tif", "several_pages"),
        ("vips-crop-of-aperio.tif", ""),
    ];
    for (name, code) in expected {
        let found = decode(&intake(name), &Limits::default()).map_or_else(|error| error.code(), |_| "");
        assert_eq!(found, code, "{name}");
    }
    // The picture as Pillow decodes it.
    let padded = hash(&decode(&intake("jpeg-200k-padding.jpg"), &Limits::default()).unwrap());
    assert_eq!(padded, "bf5a293d8629619acf86477d264f6049025f8085c24f45b5a876fb86e4d0aae2");
}

#[test]
fn the_scale_is_read_from_every_format() {
    assert_eq!(microns_per_pixel(&intake("scale-4um.png")), Some(4.0));
    assert_eq!(microns_per_pixel(&intake("scale-4um.tif")), Some(4.0));
    let crop = microns_per_pixel(&intake("vips-crop-of-aperio.tif")).unwrap();
    assert!((crop - 0.252).abs() < 1e-4, "{crop}");
}

#[test]
fn damage_is_told_beside_the_picture() {
    let found = examine(&intake("jpeg-last-30pct-missing.jpg"), &Limits::default()).unwrap();
    let whole = decode(&intake("control.jpg"), &Limits::default()).unwrap();
    assert!(found.damage.is_some());
    assert_eq!((found.image.width, found.image.height), (whole.width, whole.height));
    let half = whole.pixels.len() / 2;
    assert!(found.image.pixels[..half] == whole.pixels[..half], "what came before the damage is as it was");
    let Err(DecodeError::Damaged(what)) = found.undamaged() else { panic!("damage is refused") };
    assert!(!what.is_empty());
}

#[test]
fn bytes_that_belong_to_nothing_are_told() {
    let told = |bytes: &[u8]| probe(&mut Cursor::new(bytes)).unwrap();
    for name in ["jpeg-200k-padding.jpg", "bmp-bfsize-plus-2.bmp"] {
        assert_eq!(told(&intake(name)), Completeness::Complete { trailing_bytes: true }, "{name}");
    }
    assert_eq!(told(&intake("control.jpg")), Completeness::Complete { trailing_bytes: false });
}

#[test]
fn a_blank_tail_is_measured_in_uncompressed_formats_only() {
    for (name, end) in [("bmp-bfsize-plus-2.bmp", 37686), ("tiff-no-stripbytecounts.tif", 37772), ("control.jpg", 6454)] {
        let mut bytes = intake(name);
        let full = blank_tail(&mut Cursor::new(&bytes)).unwrap();
        assert!(full < 8, "{name}: {full}");
        let from = end - 3000.min(end / 2);
        bytes[from..end].fill(0);
        let expected = if name == "control.jpg" { 0..1 } else { 2990..3008 };
        assert!(expected.contains(&blank_tail(&mut Cursor::new(&bytes)).unwrap()), "{name}");
    }
}

/// Texts that share one place, lists that do, fill bytes: bounded, whatever their number.
#[test]
fn hostile_headers_take_neither_memory_nor_time() {
    let begun = std::time::Instant::now();
    let mut directory = Vec::new();
    directory.extend(4095_u16.to_le_bytes());
    for _ in 0..4095 {
        directory.extend([270_u16.to_le_bytes(), 2_u16.to_le_bytes()].concat());
        directory.extend([65536_u32.to_le_bytes(), 8_u32.to_le_bytes()].concat());
    }
    directory.extend(0_u32.to_le_bytes());
    let mut bytes = b"II*\0".to_vec();
    bytes.extend((8_u32 + 65536).to_le_bytes());
    bytes.extend([b'a'; 65536]);
    bytes.extend(&directory);
    let error = inspect(&mut Cursor::new(&bytes), "", &Limits::default()).unwrap_err();
    assert_eq!(error.code(), "too_small");

    let filled = [b"\xff\xd8".as_slice(), &vec![0xff; 64 << 20]].concat();
    assert_eq!(decode(&filled, &Limits::default()).unwrap_err().code(), "truncated");
    let control = intake("control.jpg");
    let filled = [&control[..2], &vec![0xff; 64 << 20], &control[2..]].concat();
    assert_eq!(decode(&filled, &Limits::default()).unwrap(), decode(&control, &Limits::default()).unwrap());
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

/// How many of the JPEGs with one changed byte in their picture data are noticed. The figures stand in docs/images.md:
/// `cargo test -p mmlnb-models --test variants random_mutants -- --nocapture`.
#[test]
fn random_mutants_of_jpegs_are_noticed_or_look_alike() {
    let mut random = ChaCha8Rng::seed_from_u64(13);
    for (kind, name) in [
        ("baseline", "jpeg/57x43-s2-p0-q95"),
        ("progressive", "jpeg/57x43-s2-p1-q95"),
        ("restart marks", "jpeg/restart-57x43-p0"),
    ] {
        let (_, whole) = variants().into_iter().find(|(case, _)| case["name"] == name).unwrap();
        let image = decode(&whole, &limits()).unwrap();
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap() + 14;
        let (mut noticed, mut same, mut changed) = (0, 0, 0);
        for _ in 0..2000 {
            let mut mutant = whole.clone();
            let at = scan + random.next_u32() as usize % (whole.len() - 2 - scan);
            mutant[at] ^= 1 << (random.next_u32() % 8);
            match decode(&mutant, &limits()) {
                Err(_) => noticed += 1,
                Ok(other) if other == image => same += 1,
                Ok(_) => changed += 1,
            }
        }
        println!(
            "{kind}: of 2,000 flipped bits {noticed} are noticed, {same} change no pixel, {changed} give another picture in silence"
        );
        // Without restart marks most flipped bits lead to another valid stream, for libjpeg too.
        assert!(noticed * 4 > changed, "{kind}: {noticed} noticed, {changed} in silence");
    }
}

/// Plain and drawn pictures whose data is nearly all zeros or ones, by libjpeg-turbo's encoder.
#[test]
fn legal_zeros_of_jpegs_are_no_hole() {
    for (case, data) in unpacked(include_bytes!("images/zeros.bin")) {
        if let Err(error) = decode(&data, &Limits::default()) {
            panic!("{}: {error}", case["name"]);
        }
    }
}

/// How many JPEGs with a hole of zero bytes in their picture data, as lost sectors leave it, are noticed. The figures stand in
/// docs/images.md: `cargo test -p mmlnb-models --test variants holes -- --nocapture`.
#[test]
fn holes_of_zeros_in_jpegs_are_noticed() {
    let mut random = ChaCha8Rng::seed_from_u64(29);
    for (case, whole) in unpacked(include_bytes!("images/zeros.bin")).into_iter().take(3) {
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap() + 14;
        for length in [64, 512, 4096] {
            let torn = |_| {
                let mut torn = whole.clone();
                let at = scan + random.next_u32() as usize % (whole.len() - 2 - length - scan);
                torn[at..at + length].fill(0);
                decode(&torn, &Limits::default()).is_err()
            };
            let noticed = (0..200).map(torn).filter(|&noticed| noticed).count();
            println!("{}: of 200 holes of {length} bytes {noticed} are noticed", case["name"]);
            assert!(noticed >= 198, "{}: {noticed} of 200 holes of {length} bytes", case["name"]);
        }
    }
}
