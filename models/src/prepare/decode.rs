//! Image files to 8-bit RGB.
//!
//! EXIF orientation is applied; 16 bit becomes round(v / 257); alpha is laid over white; grey gives three equal channels;
//! CMYK in JPEG is taken as Adobe stores it, inverted; of a TIFF with several pages the first is read; colour profiles are
//! not applied.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};
use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult};

use super::completeness::{self, Completeness};
use super::tiff_directory::{self, Directory, TiffProblem};

pub use super::header::{DecodeError, Format, Header, Limits};

/// An image of 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb8Image {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Rows from the top, `[height, width, 3]`.
    pub pixels: Vec<u8>,
}

/// Decodes a whole file in memory.
///
/// Sizes are checked before pixels are allocated. A file whose end is missing is [`DecodeError::Truncated`], however much
/// of it could be shown.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8Image, DecodeError> {
    let header = super::header::inspect_bytes(bytes, limits)?;
    if let Completeness::Incomplete(what) = completeness::probe(&mut Cursor::new(bytes))? {
        return Err(DecodeError::Truncated(what));
    }
    match header.format {
        Format::Png => with_image_crate(bytes, ImageFormat::Png, limits),
        Format::Jpeg => with_image_crate(bytes, ImageFormat::Jpeg, limits),
        Format::Bmp => with_image_crate(bytes, ImageFormat::Bmp, limits),
        Format::Tiff => tiff_image(bytes, limits),
    }
}

fn with_image_crate(bytes: &[u8], format: ImageFormat, limits: &Limits) -> Result<Rgb8Image, DecodeError> {
    let mut bounds = image::Limits::no_limits();
    bounds.max_image_width = Some(limits.max_side);
    bounds.max_image_height = Some(limits.max_side);
    bounds.max_alloc = Some(limits.max_alloc);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(bounds);
    let mut decoder = reader.into_decoder().map_err(image_error)?;
    let orientation = decoder.orientation().map_err(image_error)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(image_error)?;
    picture.apply_orientation(orientation);
    rgb8(picture)
}

fn image_error(error: ImageError) -> DecodeError {
    match error {
        ImageError::Unsupported(error) => DecodeError::Unsupported(format!("this kind of image ({error})")),
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated("the picture data ends early")
        }
        other => DecodeError::DecodeFailed(other.to_string()),
    }
}

fn rgb8(picture: DynamicImage) -> Result<Rgb8Image, DecodeError> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let pixels = match picture {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageLuma8(image) => to_rgb(image.as_raw(), 1, false),
        DynamicImage::ImageLumaA8(image) => to_rgb(image.as_raw(), 2, true),
        DynamicImage::ImageRgba8(image) => to_rgb(image.as_raw(), 4, true),
        DynamicImage::ImageLuma16(image) => to_rgb(&eight_bits(image.as_raw()), 1, false),
        DynamicImage::ImageLumaA16(image) => to_rgb(&eight_bits(image.as_raw()), 2, true),
        DynamicImage::ImageRgb16(image) => eight_bits(image.as_raw()),
        DynamicImage::ImageRgba16(image) => to_rgb(&eight_bits(image.as_raw()), 4, true),
        other => return Err(DecodeError::Unsupported(format!("an image of {:?} samples", other.color()))),
    };
    Ok(Rgb8Image { width, height, pixels })
}

/// round(v / 257)
fn eight_bits(samples: &[u16]) -> Vec<u8> {
    samples.iter().map(|&sample| ((u32::from(sample) + 128) / 257) as u8).collect()
}

/// Grey or RGB samples to RGB; with `alpha` the last channel is laid over white, others behind the colours are dropped.
fn to_rgb(samples: &[u8], channels: usize, alpha: bool) -> Vec<u8> {
    let grey = channels - usize::from(alpha) < 3;
    let mut pixels = Vec::with_capacity(samples.len() / channels * 3);
    for pixel in samples.chunks_exact(channels) {
        let opacity = if alpha { pixel[channels - 1] } else { 255 };
        for colour in 0..3 {
            pixels.push(over_white(pixel[if grey { 0 } else { colour }], opacity));
        }
    }
    pixels
}

/// (c a + 255 (255 - a)) / 255, rounded.
fn over_white(colour: u8, alpha: u8) -> u8 {
    let (colour, alpha) = (u32::from(colour), u32::from(alpha));
    ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

fn tiff_image(bytes: &[u8], limits: &Limits) -> Result<Rgb8Image, DecodeError> {
    let directory = first_directory(bytes)?;
    let picture = if directory.photometric == 3 {
        tiff_palette(bytes, &directory, limits)?
    } else {
        let (size, colour, samples) = tiff_samples(bytes, limits)?;
        Rgb8Image { width: size.0, height: size.1, pixels: tiff_rgb(colour, samples)? }
    };
    turned(picture, directory.orientation)
}

fn first_directory(bytes: &[u8]) -> Result<Directory, DecodeError> {
    match tiff_directory::directories(&mut Cursor::new(bytes), false) {
        Ok(mut directories) => Ok(directories.swap_remove(0)),
        Err(TiffProblem::Beyond(what)) => Err(DecodeError::Truncated(what)),
        Err(TiffProblem::Malformed(what)) => Err(DecodeError::DecodeFailed(format!("as a TIFF, {what}"))),
        Err(TiffProblem::Io(error)) => Err(DecodeError::Io(error)),
    }
}

type Size = (usize, usize);

/// Samples of the first page, interleaved, 8 bits each.
fn tiff_samples(bytes: &[u8], limits: &Limits) -> Result<(Size, ColorType, Vec<u8>), DecodeError> {
    let mut bounds = tiff::decoder::Limits::default();
    bounds.decoding_buffer_size = limits.max_alloc as usize;
    bounds.intermediate_buffer_size = limits.max_alloc as usize;
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(tiff_error)?.with_limits(bounds);
    let (width, height) = decoder.dimensions().map_err(tiff_error)?;
    let size = (width as usize, height as usize);
    let colour = decoder.colortype().map_err(tiff_error)?;
    let mut result = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut result).map_err(tiff_error)?;
    let mut samples = match result {
        DecodingResult::U8(samples) => samples,
        DecodingResult::U16(samples) => eight_bits(&samples),
        _ => return Err(DecodeError::Unsupported("a TIFF of floating-point or signed samples".to_string())),
    };
    if colour.bit_depth() < 8 {
        samples = unpacked(&samples, size, colour.bit_depth(), layout.row_stride.map_or(0, |stride| stride.get()))?;
    }
    if layout.plane_stride.is_some_and(|stride| stride.get() < layout.complete_len) {
        samples = interleaved(&samples, size, usize::from(colour.num_samples()))?;
    }
    Ok((size, colour, samples))
}

fn tiff_error(error: tiff::TiffError) -> DecodeError {
    match error {
        tiff::TiffError::UnsupportedError(error) => DecodeError::Unsupported(format!("this kind of TIFF ({error})")),
        tiff::TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated("the TIFF's picture data ends early")
        }
        other => DecodeError::DecodeFailed(other.to_string()),
    }
}

/// Samples of 1, 2 or 4 bits, one byte each, as they stand.
fn unpacked(rows: &[u8], size: Size, bits: u8, stride: usize) -> Result<Vec<u8>, DecodeError> {
    let (width, height) = size;
    let per_byte = 8 / usize::from(bits);
    if !matches!(bits, 1 | 2 | 4) || stride < width.div_ceil(per_byte) || rows.len() < stride * height {
        return Err(DecodeError::Unsupported(format!("a TIFF of {bits}-bit samples in several channels")));
    }
    let mask = (1_u16 << bits) as u8 - 1;
    let sample = |row: &[u8], x: usize| (row[x / per_byte] >> (8 - bits as usize * (x % per_byte + 1))) & mask;
    Ok(rows.chunks_exact(stride).take(height).flat_map(|row| (0..width).map(move |x| sample(row, x))).collect())
}

fn interleaved(planes: &[u8], size: Size, channels: usize) -> Result<Vec<u8>, DecodeError> {
    let plane = size.0 * size.1;
    if planes.len() < plane * channels {
        return Err(DecodeError::DecodeFailed("the TIFF lacks a colour plane".to_string()));
    }
    Ok((0..plane).flat_map(|at| (0..channels).map(move |channel| planes[channel * plane + at])).collect())
}

fn tiff_rgb(colour: ColorType, samples: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
    Ok(match colour {
        ColorType::Gray(bits) if bits < 8 => {
            let most = (1_u16 << bits) - 1;
            let scaled: Vec<u8> = samples.iter().map(|&sample| (u16::from(sample) * 255 / most) as u8).collect();
            to_rgb(&scaled, 1, false)
        }
        ColorType::Gray(8 | 16) => to_rgb(&samples, 1, false),
        ColorType::GrayA(8 | 16) | ColorType::Multiband { bit_depth: 8 | 16, num_samples: 2 } => to_rgb(&samples, 2, true),
        ColorType::RGB(8 | 16) => samples,
        ColorType::RGBA(8 | 16) => to_rgb(&samples, 4, true),
        ColorType::CMYK(8 | 16) => samples.chunks_exact(4).flat_map(|ink| ink_to_rgb([ink[0], ink[1], ink[2], ink[3]])).collect(),
        ColorType::YCbCr(8) => samples.chunks_exact(3).flat_map(|one| ycbcr_to_rgb([one[0], one[1], one[2]])).collect(),
        other => return Err(DecodeError::Unsupported(format!("a TIFF of {other:?} samples"))),
    })
}

/// (255 - K)(255 - C) / 255, rounded, and so on.
fn ink_to_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let light = |ink: u8| ((255 - u32::from(ink)) * (255 - u32::from(black)) + 127) / 255;
    [light(cyan) as u8, light(magenta) as u8, light(yellow) as u8]
}

/// JFIF's conversion.
fn ycbcr_to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    let colours = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
    colours.map(|colour| colour.round().clamp(0.0, 255.0) as u8)
}

/// A palette image: decoded as if its indices were grey values, then looked up.
fn tiff_palette(bytes: &[u8], directory: &Directory, limits: &Limits) -> Result<Rgb8Image, DecodeError> {
    let mut grey = bytes.to_vec();
    let at = directory.photometric_at as usize;
    let little = bytes.starts_with(b"II");
    let field = grey.get_mut(at..at.saturating_add(2)).ok_or(DecodeError::Truncated("the TIFF's directory is cut"))?;
    field.copy_from_slice(&if little { 1_u16.to_le_bytes() } else { 1_u16.to_be_bytes() });
    let (size, colour, indices) = tiff_samples(&grey, limits)?;
    let entries = directory.color_map.len() / 3;
    let bits = match colour {
        ColorType::Gray(bits) if bits <= 8 && entries >= 1 << bits => bits,
        _ => return Err(DecodeError::Unsupported(format!("a palette TIFF of {colour:?} indices, {entries} colours"))),
    };
    let table: Vec<u8> = eight_bits(&directory.color_map.iter().map(|&value| value as u16).collect::<Vec<_>>());
    let last = (1_usize << bits) - 1;
    let colour_of = |&index: &u8| [0, 1, 2].map(|plane| table[plane * entries + usize::from(index).min(last)]);
    Ok(Rgb8Image { width: size.0, height: size.1, pixels: indices.iter().flat_map(colour_of).collect() })
}

fn turned(picture: Rgb8Image, orientation: u64) -> Result<Rgb8Image, DecodeError> {
    let turn = u8::try_from(orientation).ok().and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    if turn == Orientation::NoTransforms {
        return Ok(picture);
    }
    let buffer = image::RgbImage::from_raw(picture.width as u32, picture.height as u32, picture.pixels)
        .ok_or_else(|| DecodeError::DecodeFailed("the TIFF has fewer pixels than its header says".to_string()))?;
    let mut picture = DynamicImage::ImageRgb8(buffer);
    picture.apply_orientation(turn);
    rgb8(picture)
}
