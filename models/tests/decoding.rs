//! Decoding, completeness and whole slides on files made in memory.

use std::io::Cursor;

use image::{ExtendedColorType, ImageEncoder};
use mmlnb_models::prepare::completeness::{Completeness, blank_tail, probe};
use mmlnb_models::prepare::decode::{DecodeError, Format, Limits, decode};
use mmlnb_models::prepare::header::{inspect, inspect_bytes};
use mmlnb_models::prepare::scale::microns_per_pixel;
use mmlnb_models::prepare::whole_slide::recognise;
use proptest::prelude::*;

const WIDTH: u32 = 24;
const HEIGHT: u32 = 16;

fn pixels() -> Vec<u8> {
    (0..WIDTH * HEIGHT * 3).map(|at| (at * 37 % 251) as u8).collect()
}

fn png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    encoder.write_image(&pixels(), WIDTH, HEIGHT, ExtendedColorType::Rgb8).unwrap();
    bytes
}

fn jpeg() -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
    encoder.write_image(&pixels(), WIDTH, HEIGHT, ExtendedColorType::Rgb8).unwrap();
    bytes
}

fn bmp() -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::bmp::BmpEncoder::new(&mut bytes);
    encoder.write_image(&pixels(), WIDTH, HEIGHT, ExtendedColorType::Rgb8).unwrap();
    bytes
}

/// A little-endian TIFF of one uncompressed strip; `entries` replace or add tags (tag, type, count, value).
fn tiff(entries: &[(u16, u16, u32, u32)], data: &[u8], extra: &[u8]) -> Vec<u8> {
    let mut tags = vec![
        (256, 3, 1, WIDTH),
        (257, 3, 1, HEIGHT),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 0),
        (277, 3, 1, 1),
        (278, 3, 1, HEIGHT),
        (279, 4, 1, data.len() as u32),
    ];
    for entry in entries {
        tags.retain(|one| one.0 != entry.0);
        tags.push(*entry);
    }
    tags.sort_by_key(|entry| entry.0);
    let first = 8 + 2 + tags.len() as u32 * 12 + 4;
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((tags.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in tags {
        // Values that do not fit are given as offsets into `extra`.
        let outside = count * [1, 1, 1, 2, 4, 8][usize::from(kind)] > 4;
        let value = match tag {
            273 | 324 if count == 1 => first + extra.len() as u32,
            _ if outside => first + value,
            _ => value,
        };
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(extra);
    bytes.extend(data);
    bytes
}

fn code(bytes: &[u8]) -> &'static str {
    decode(bytes, &Limits::default()).expect_err("a file that gives no image").code()
}

fn is_whole(bytes: &[u8]) -> Completeness {
    probe(&mut Cursor::new(bytes)).unwrap()
}

const COMPLETE: Completeness = Completeness::Complete { trailing_bytes: false };

#[test]
fn lossless_formats_give_the_pixels() {
    for bytes in [png(), bmp()] {
        let image = decode(&bytes, &Limits::default()).unwrap();
        assert_eq!((image.width, image.height), (WIDTH as usize, HEIGHT as usize));
        assert!(image.pixels == pixels());
    }
}

#[test]
fn grey_palette_and_turned_tiff() {
    let grey: Vec<u8> = (0..WIDTH * HEIGHT).map(|at| (at % 256) as u8).collect();
    let image = decode(&tiff(&[], &grey, &[]), &Limits::default()).unwrap();
    assert!(image.pixels.chunks_exact(3).zip(&grey).all(|(rgb, &value)| rgb == [value; 3]));

    let white_is_zero = decode(&tiff(&[(262, 3, 1, 0)], &grey, &[]), &Limits::default()).unwrap();
    assert!(white_is_zero.pixels.chunks_exact(3).zip(&grey).all(|(rgb, &value)| rgb == [255 - value; 3]));

    let map: Vec<u8> = (0..768_u32).flat_map(|at| ((at * 40 % 256 * 257) as u16).to_le_bytes()).collect();
    let palette = decode(&tiff(&[(262, 3, 1, 3), (320, 3, 768, 0)], &grey, &map), &Limits::default()).unwrap();
    let colour = |index: u32, plane: u32| ((plane * 256 + index) * 40 % 256) as u8;
    for (rgb, &index) in palette.pixels.chunks_exact(3).zip(&grey) {
        assert_eq!(rgb, [0, 1, 2].map(|plane| colour(u32::from(index), plane)));
    }

    let turned = decode(&tiff(&[(274, 3, 1, 6)], &grey, &[]), &Limits::default()).unwrap();
    assert_eq!((turned.width, turned.height), (HEIGHT as usize, WIDTH as usize));
    assert_eq!(turned.pixels[(HEIGHT as usize - 1) * 3], grey[0], "the first pixel goes to the upper right");
}

#[test]
fn tiff_with_ink_and_with_luminance_and_chrominance() {
    let count = (WIDTH * HEIGHT) as usize;
    let bits: Vec<u8> = [8_u16; 4].iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let ink = [0, 255, 0, 0].repeat(count);
    let entries = [(258, 3, 4, 0), (262, 3, 1, 5), (277, 3, 1, 4)];
    let image = decode(&tiff(&entries, &ink, &bits), &Limits::default()).unwrap();
    assert_eq!(&image.pixels[..3], [255, 0, 255], "magenta");

    let red = [76, 85, 255].repeat(count);
    let entries = [(258, 3, 3, 0), (262, 3, 1, 6), (277, 3, 1, 3), (530, 3, 2, 1 | 1 << 16)];
    let image = decode(&tiff(&entries, &red, &bits[..6]), &Limits::default()).unwrap();
    assert!(image.pixels[0] >= 253 && image.pixels[1] <= 2 && image.pixels[2] <= 2, "{:?}", &image.pixels[..3]);
}

#[test]
fn tiff_of_one_bit() {
    let rows: Vec<u8> = (0..HEIGHT).flat_map(|row| [row as u8, 0xf0, 0x81]).collect();
    let bit = |at: usize| rows[at / 8] >> (7 - at % 8) & 1;
    for (photometric, one) in [(1, 255), (0, 0)] {
        let image = decode(&tiff(&[(258, 3, 1, 1), (262, 3, 1, photometric)], &rows, &[]), &Limits::default()).unwrap();
        assert_eq!(image.pixels.len(), (WIDTH * HEIGHT * 3) as usize);
        for (at, rgb) in image.pixels.chunks_exact(3).enumerate() {
            assert_eq!(rgb, [if bit(at) == 1 { one } else { 255 - one }; 3], "pixel {at}");
        }
    }
}

/// A tile is unpacked whole, whatever its page needs of it: one that no page may be is refused before room is made for it.
#[test]
fn a_tile_that_is_larger_than_any_page_is_refused() {
    let tile = |side: u32| {
        [(256, 3, 1, 64), (257, 3, 1, 64), (259, 3, 1, 8), (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 0), (325, 4, 1, 8)]
    };
    for side in [65_536, 16_384] {
        let bytes = tiff(&tile(side), &[0x78, 0x9c, 3, 0, 0, 0, 0, 1], &[]);
        assert_eq!(code(&bytes), "unsupported", "{side}");
    }
    assert_ne!(code(&tiff(&tile(256), &[0x78, 0x9c, 3, 0, 0, 0, 0, 1], &[])), "unsupported");
}

/// Slide scanners' exports: the TIFF holds a JPEG stream of luminance and chrominance.
#[test]
fn tiff_with_jpeg_inside() {
    let bits: Vec<u8> = [8_u16; 3].iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let entries = [(258, 3, 3, 0), (259, 3, 1, 7), (262, 3, 1, 6), (277, 3, 1, 3)];
    let inside = decode(&tiff(&entries, &jpeg(), &bits), &Limits::default()).unwrap();
    let alone = decode(&jpeg(), &Limits::default()).unwrap();
    let most = inside.pixels.iter().zip(&alone.pixels).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(most <= Some(2), "differs by {most:?}");
}

#[test]
fn every_refusal_has_its_code() {
    assert_eq!(code(b""), "zero_bytes");
    assert_eq!(code(b"a text that calls itself patch.png"), "not_an_image");
    assert_eq!(code(b"GIF89a\x10\0\x10\0"), "unsupported");
    assert_eq!(code(b"PK\x03\x04 an archive"), "unsupported");
    assert_eq!(code(b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0"), "animated");
    assert_eq!(code(b"\x89PNG"), "truncated");
    assert_eq!(code(&jpeg()[..200]), "truncated");
    assert_eq!(code(&png()[..60]), "truncated");
    assert_eq!(code(&bmp()[..100]), "truncated");
    let mut broken = png();
    let middle = broken.len() / 2;
    broken[middle] ^= 0xff;
    assert_eq!(code(&broken), "decode_failed");

    let mut huge = png()[..33].to_vec();
    huge[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
    huge[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
    assert_eq!(code(&huge), "too_large");
    let limits = Limits { min_side: 17, ..Limits::default() };
    assert_eq!(decode(&png(), &limits).unwrap_err().code(), "too_small");
}

#[test]
fn an_animated_png_is_refused() {
    let mut bytes = png();
    let chunk = [b"\0\0\0\x08acTL".as_slice(), &2_u32.to_be_bytes(), &0_u32.to_be_bytes(), &[0; 4]].concat();
    bytes.splice(33..33, chunk);
    assert_eq!(code(&bytes), "animated");
}

#[test]
fn completeness_is_seen_at_every_length() {
    let grey = vec![7; (WIDTH * HEIGHT) as usize];
    for bytes in [png(), jpeg(), bmp(), tiff(&[], &grey, &[])] {
        assert_eq!(is_whole(&bytes), COMPLETE);
        for length in 4..bytes.len() {
            let part = &bytes[..length];
            let complete = matches!(is_whole(part), Completeness::Complete { .. });
            assert!(!complete, "{length} of {} bytes taken for a whole {:?}", bytes.len(), Format::of(part));
        }
        let longer = [bytes.as_slice(), b"tail"].concat();
        let trailing = Completeness::Complete { trailing_bytes: true };
        assert!([trailing, COMPLETE].contains(&is_whole(&longer)));
    }
    assert!(matches!(is_whole(b""), Completeness::Incomplete(_)));
    assert_eq!(is_whole(b"some text that is no image"), Completeness::Unknown);
}

#[test]
fn space_reserved_before_copying_is_not_complete() {
    for bytes in [png(), jpeg()] {
        let mut reserved = bytes.clone();
        reserved[bytes.len() / 2..].fill(0);
        assert!(matches!(is_whole(&reserved), Completeness::Incomplete(_)));
    }
    let empty = tiff(&[(259, 3, 1, 5)], &[0; 64], &[]);
    assert!(matches!(is_whole(&empty), Completeness::Incomplete(_)));
}

/// A thumbnail in the header has an end mark of its own.
#[test]
fn a_jpeg_cut_behind_its_thumbnail_is_not_complete() {
    let mut bytes = jpeg();
    let thumbnail = b"Exif\0\0 thumbnail \xff\xd8\xff\xd9";
    let length = (thumbnail.len() as u16 + 2).to_be_bytes();
    bytes.splice(2..2, [b"\xff\xe1".as_slice(), &length, thumbnail].concat());
    assert_eq!(is_whole(&bytes), COMPLETE);
    bytes.truncate(bytes.len() - 20);
    assert!(matches!(is_whole(&bytes), Completeness::Incomplete(_)));
}

fn vendor(bytes: &[u8], name: &str) -> Option<&'static str> {
    recognise(&mut Cursor::new(bytes), name, 8192).unwrap().map(|slide| slide.vendor)
}

fn described(tag: u16, text: &str) -> Vec<u8> {
    tiff(&[(tag, 2, text.len() as u32, 0)], &[0; (WIDTH * HEIGHT) as usize], text.as_bytes())
}

/// The header of a slide: a side that no patch has.
fn large(tag: u16, text: &str) -> Vec<u8> {
    let tags = [(tag, 2, text.len() as u32, 0), (256, 4, 1, 60_000)];
    tiff(&tags, &[0; (WIDTH * HEIGHT) as usize], text.as_bytes())
}

#[test]
fn whole_slides_are_recognised_by_their_headers() {
    assert_eq!(vendor(&described(270, "Aperio Image Library v11.2.1\r\n46000x32914"), "a.svs"), Some("Aperio"));
    let leica = "<scn xmlns=\"http://www.leica-microsystems.com/scn/2010/10/01\">";
    assert_eq!(vendor(&described(270, leica), "a.scn"), Some("Leica"));
    assert_eq!(vendor(&large(305, "Philips DP v1.0"), "a.tiff"), Some("Philips"));
    assert_eq!(vendor(&described(700, "<iScan Magnification=\"40\">"), "a.bif"), Some("Ventana"));
    assert_eq!(vendor(&large(270, "<PerkinElmer-QPI-ImageDescription>"), "a.tif"), Some("Akoya"));
    let grey = [0; (WIDTH * HEIGHT) as usize];
    assert_eq!(vendor(&tiff(&[(65420, 4, 1, 1)], &grey, &[]), "a.ndpi"), Some("Hamamatsu"));
    let pyramid = tiff(&[(256, 4, 1, 60_000), (257, 4, 1, 40_000), (322, 3, 1, 256)], &grey, &[]);
    assert_eq!(vendor(&pyramid, "a.tif"), Some("pyramidal TIFF"));
    assert_eq!(vendor(b"ZISRAWFILE\0\0\0\0\0\0", "a.czi"), Some("Zeiss"));
    assert_eq!(vendor(&[&[0; 128], b"DICM".as_slice()].concat(), "a.dcm"), Some("DICOM"));
    for name in ["a.mrxs", "a.VMS", "a.svslide", "a.isyntax", "a.qptiff", "a.vsi", "a.ets", "a.ome.zarr.zip"] {
        assert!(vendor(&jpeg(), name).is_some(), "{name}");
    }
}

#[test]
fn patches_are_no_whole_slides() {
    assert_eq!(vendor(&png(), "a.png"), None);
    assert_eq!(vendor(&described(270, "a patch of 0.5 um/px"), "a.tif"), None);
    // Crops keep what their slide's description says, and tools write the scanner's maker into Make.
    assert_eq!(vendor(&described(270, "Aperio Image Library v11.2.1\n46000x32914|MPP = 0.2520"), "crop.tif"), None);
    assert_eq!(vendor(&described(271, "Philips"), "crop.tif"), None);
    let tiled = tiff(&[(322, 3, 1, 16), (323, 3, 1, 16)], &[0; (WIDTH * HEIGHT) as usize], &[]);
    assert_eq!(vendor(&tiled, "a.tif"), None);
    let large = tiff(&[(256, 4, 1, 60_000)], &[0; 16], &[]);
    assert_eq!(code(&large), "too_large", "one page in strips is a large patch");
}

#[test]
fn a_whole_slide_is_refused_with_its_size() {
    let bytes = described(270, "Aperio");
    let error = inspect(&mut Cursor::new(&bytes), "a.svs", &Limits::default()).unwrap_err();
    assert_eq!(error.code(), "whole_slide");
    assert!(error.to_string().contains("24 x 16"), "{error}");
}

/// What fills strips, tiles and rows up is no picture: writers fill it with zeros.
#[test]
fn padding_is_no_blank_tail() {
    let blank = |bytes: &[u8]| blank_tail(&mut Cursor::new(bytes)).unwrap();
    let tiled = |side: u32, lit: u32| {
        let tile: Vec<u8> = (0..side * side).map(|at| u8::from(at % side < WIDTH && at / side < lit)).collect();
        tiff(&[(322, 3, 1, side), (323, 3, 1, side), (324, 4, 1, 0), (325, 4, 1, side * side)], &tile, &[])
    };
    for side in [32, 64, 256] {
        assert_eq!(blank(&tiled(side, HEIGHT)), 0, "tiles of {side}");
        assert_eq!(blank(&tiled(side, HEIGHT - 5)), u64::from(WIDTH) * 5, "tiles of {side} whose last five rows are missing");
        assert_eq!(blank(&tiled(side, 0)), u64::from(WIDTH * HEIGHT));
    }
    // Two planes of edge tiles: only the second one lacks rows.
    let plane = |lit: u32| (0..32 * 32_u32).map(move |at| u8::from(at % 32 < WIDTH && at / 32 < lit));
    let planes: Vec<u8> = plane(HEIGHT).chain(plane(HEIGHT - 2)).collect();
    let mut planar = tiff(
        &[(277, 3, 1, 2), (284, 3, 1, 2), (322, 3, 1, 32), (323, 3, 1, 32), (324, 4, 2, 0), (325, 4, 2, 8)],
        &planes,
        &[[0; 8], [0, 4, 0, 0, 0, 4, 0, 0]].concat(),
    );
    let (data, list) = (planar.len() - planes.len(), planar.len() - planes.len() - 16);
    planar[list..list + 4].copy_from_slice(&(data as u32).to_le_bytes());
    planar[list + 4..list + 8].copy_from_slice(&(data as u32 + 1024).to_le_bytes());
    assert_eq!(blank(&planar), u64::from(WIDTH) * 2);
    // A strip that is longer than its rows.
    let strip: Vec<u8> = (0..WIDTH * 64).map(|at| u8::from(at / WIDTH < HEIGHT)).collect();
    assert_eq!(blank(&tiff(&[(278, 3, 1, 64)], &strip, &[])), 0);
    // A mask behind the picture may well be empty.
    let grey = vec![7; (WIDTH * HEIGHT) as usize];
    assert_eq!(blank(&tiff(&[(254, 4, 1, 4)], &vec![0; grey.len()], &[])), 0);

    let mut rows = Vec::new();
    let narrow = vec![9; 21 * 16 * 3];
    image::codecs::bmp::BmpEncoder::new(&mut rows).write_image(&narrow, 21, 16, ExtendedColorType::Rgb8).unwrap();
    assert_eq!(blank(&rows), 0, "a row of 63 bytes takes 64");
    let end = rows.len();
    rows[end - 128..].fill(0);
    assert_eq!(blank(&rows), 126);
}

/// Cameras' files: a thumbnail in front, the picture in a directory below it.
#[test]
fn the_picture_below_a_thumbnail_is_read() {
    let camera = |photometric: u32, thumbnail: u32, cut: usize| {
        let mut bytes = tiff(
            &[(254, 4, 1, thumbnail), (256, 3, 1, 8), (257, 3, 1, 8), (278, 3, 1, 8), (274, 3, 1, 6), (330, 4, 1, 0)],
            &[9; 64],
            &[],
        );
        let at = bytes.len() as u32;
        let entry = bytes.windows(8).position(|entry| entry == [0x4a, 1, 4, 0, 1, 0, 0, 0]).unwrap();
        bytes[entry + 8..entry + 12].copy_from_slice(&at.to_le_bytes());
        let grey: Vec<u8> = (0..WIDTH * HEIGHT).map(|at| (at % 256) as u8).collect();
        let mut below = tiff(&[(262, 3, 1, photometric)], &grey, &[])[8..].to_vec();
        let strip = below.windows(4).position(|entry| entry == [0x11, 1, 4, 0]).unwrap() + 8;
        let data = at + (below.len() - grey.len()) as u32;
        below[strip..strip + 4].copy_from_slice(&data.to_le_bytes());
        bytes.extend(&below[..below.len() - cut]);
        bytes
    };
    let image = decode(&camera(1, 1, 0), &Limits::default()).unwrap();
    assert_eq!((image.width, image.height), (HEIGHT as usize, WIDTH as usize), "turned as the thumbnail is");
    assert_eq!(image.pixels[(HEIGHT as usize - 1) * 3..][..3], [0; 3]);
    let header = inspect_bytes(&camera(1, 1, 0), &Limits::default()).unwrap();
    assert_eq!((header.width, header.height), (WIDTH, HEIGHT));
    let error = decode(&camera(32803, 1, 0), &Limits::default()).unwrap_err();
    assert!(error.code() == "unsupported" && error.to_string().contains("raw camera data"), "{error}");
    assert_eq!(code(&camera(1, 1, 10)), "truncated", "the picture's end is missing");
    assert_eq!(code(&camera(1, 1, 490)), "truncated", "the picture's directory is missing");
    assert_eq!(code(&camera(1, 0, 0)), "several_pages", "two pictures, neither is marked as the other's copy");
    // An offset that was left behind by a program that knew nothing of it leads nowhere.
    let left = tiff(&[(330, 4, 1, 1 << 20)], &[9; (WIDTH * HEIGHT) as usize], &[]);
    assert_eq!(decode(&left, &Limits::default()).unwrap().width, WIDTH as usize);
}

/// A program that writes a wrong picture writes right sums of its chunks.
#[test]
fn a_png_whose_picture_data_fails_its_checksum_is_damaged() {
    let whole = png();
    let at = whole.windows(4).position(|kind| kind == b"IDAT").unwrap();
    let length = u32::from_be_bytes(whole[at - 4..at].try_into().unwrap()) as usize;
    let stream = &whole[at + 4..at + 4 + length];
    let with = |pieces: &[&[u8]]| {
        let mut bytes = whole[..at - 4].to_vec();
        for piece in pieces {
            let chunk = [b"IDAT".as_slice(), piece].concat();
            let mut sum = flate2::Crc::new();
            sum.update(&chunk);
            bytes.extend((piece.len() as u32).to_be_bytes());
            bytes.extend(&chunk);
            bytes.extend(sum.sum().to_be_bytes());
        }
        bytes.extend(&whole[at + 8 + length..]);
        bytes
    };
    assert_eq!(decode(&with(&[&stream[..7], &[], &stream[7..]]), &Limits::default()).unwrap().pixels, pixels());
    let mut wrong = stream.to_vec();
    wrong[length - 1] ^= 1;
    assert_eq!(code(&with(&[&wrong])), "damaged");
    assert_eq!(code(&with(&[&stream[..length - 4]])), "damaged");
    assert_eq!(code(&with(&[&stream[..length - 1]])), "damaged");
}

/// A scale that no model has seen must be refused, not taken for unknown.
#[test]
fn a_scale_in_a_unit_is_believed() {
    let stated = |text: &str| microns_per_pixel(&described(270, text));
    let ome = |size: &str, unit: &str| {
        stated(&format!("<?xml version=\"1.0\"?><OME><Pixels PhysicalSizeX=\"{size}\" PhysicalSizeXUnit=\"{unit}\"/></OME>"))
    };
    assert_eq!(ome("10", "um"), Some(10.0));
    assert_eq!(ome("20", "nm"), Some(0.02));
    assert_eq!(ome("0.4", "mm"), Some(400.0));
    assert_eq!(ome("0", "um"), None);
    assert_eq!(ome("10", "m"), None);
    assert_eq!(stated("Aperio\r\nAppMag = 1|MPP = 10.0"), Some(10.0));
    let density = |number: u32, unit: u32, text: &str| {
        let grey = [0; (WIDTH * HEIGHT) as usize];
        let extra = [&number.to_le_bytes(), &1_u32.to_le_bytes(), text.as_bytes()].concat();
        let tags = [(270, 2, text.len() as u32, 8), (282, 5, 1, 0), (296, 3, 1, unit)];
        microns_per_pixel(&tiff(&tags, &grey, &extra))
    };
    assert_eq!(density(1000, 3, "a text"), Some(10.0));
    assert_eq!(density(72, 2, "a text"), None, "a screen's");
    assert_eq!(density(600, 2, "a text"), None, "a printer's");
    assert_eq!(density(72, 1, "ImageJ=1.54\nunit=inch\n"), None, "a screen's, taken over");
    assert_eq!(density(2, 1, "ImageJ=1.54\nunit=mm\n"), Some(500.0));
}

#[test]
fn a_ring_of_directories_ends() {
    let mut bytes = tiff(&[], &[0; (WIDTH * HEIGHT) as usize], &[]);
    let next = 8 + 2 + 9 * 12;
    bytes[next..next + 4].copy_from_slice(&8_u32.to_le_bytes());
    assert!(matches!(inspect_bytes(&bytes, &Limits::default()), Err(DecodeError::DecodeFailed(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Damaged files give an image of the size that their header names, or an error; never a panic, never more memory.
    #[test]
    fn damaged_files_never_panic(
        kind in 0..5_usize,
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let grey = vec![7; (WIDTH * HEIGHT) as usize];
        let palette: Vec<u8> = vec![1; 1536];
        let mut bytes = match kind {
            0 => png(),
            1 => jpeg(),
            2 => bmp(),
            3 => tiff(&[], &grey, &[]),
            _ => tiff(&[(262, 3, 1, 3), (320, 3, 768, 0)], &grey, &palette),
        };
        for (place, value) in &places {
            let at = place.index(bytes.len());
            bytes[at] = *value;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        let limits = Limits { max_side: 512, max_alloc: 16 << 20, ..Limits::default() };
        if let Ok(image) = decode(&bytes, &limits) {
            prop_assert_eq!(image.pixels.len(), image.width * image.height * 3);
            prop_assert!(image.width <= 512 && image.height <= 512);
        }
    }

    #[test]
    fn any_bytes_are_looked_at_without_panic(head in 0..7_usize, tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let heads: [&[u8]; 7] = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0"];
        let bytes = [heads[head], &tail].concat();
        let _ = decode(&bytes, &Limits::default());
        let _ = is_whole(&bytes);
        let _ = vendor(&bytes, "name");
    }
}
