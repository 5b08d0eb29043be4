//! Image files to 8-bit RGB.
//!
//! EXIF orientation is applied; 16 bit becomes round(v / 257); alpha is laid over white; grey gives three equal channels;
//! CMYK in JPEG is taken as Adobe stores it, inverted; colour profiles are not applied.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use super::completeness::{self, Completeness};
use super::exif;
use super::jpeg::{self, Bounds, Colours, JpegError};
use super::samples::{self, Alpha};
use super::tiff_directory::{self, TiffProblem};
use super::tiff_pages;
use super::zlib;

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

/// What is wrong with a file of which a picture can still be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first sign of it, for people.
    pub what: String,
}

/// All that a file gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The picture; where there is damage, what could be made of it.
    pub image: Rgb8Image,
    /// The first sign of damage.
    pub damage: Option<Damage>,
    /// Why the file is more than one picture; `image` is its first page.
    pub several_pages: Option<String>,
}

impl Decoded {
    /// Refuses files of several pictures.
    ///
    /// # Errors
    /// [`DecodeError::SeveralPages`].
    pub fn one_picture(self) -> Result<Decoded, DecodeError> {
        match self.several_pages {
            Some(why) => Err(DecodeError::SeveralPages(why)),
            None => Ok(self),
        }
    }

    /// The picture of a file that is whole.
    ///
    /// # Errors
    /// [`DecodeError::Damaged`].
    pub fn undamaged(self) -> Result<Rgb8Image, DecodeError> {
        match self.damage {
            Some(damage) => Err(DecodeError::Damaged(damage.what)),
            None => Ok(self.image),
        }
    }
}

/// Decodes a whole file in memory that holds one picture without damage.
///
/// # Errors
/// As [`examine`], [`DecodeError::SeveralPages`] and [`DecodeError::Damaged`].
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8Image, DecodeError> {
    examine(bytes, limits)?.one_picture()?.undamaged()
}

/// Decodes a whole file in memory; damage and further pages are told beside the picture.
///
/// Sizes are checked before pixels are allocated.
///
/// # Errors
/// A file that gives no picture. One whose end is missing is [`DecodeError::Truncated`], however much of it could be shown.
pub fn examine(bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    let header = super::header::inspect_bytes(bytes, limits)?;
    if let Completeness::Incomplete(what) = completeness::probe(&mut Cursor::new(bytes))? {
        return Err(DecodeError::Truncated(what));
    }
    let whole = |image| Decoded { image, damage: None, several_pages: None };
    match header.format {
        Format::Png => png_image(bytes, &header, limits),
        Format::Bmp => bmp_image(bytes, limits).map(whole),
        Format::Jpeg => jpeg_image(bytes, limits),
        Format::Tiff => tiff_image(bytes, limits),
    }
}

/// The decoder leaves the picture data's own checksum out; a chunk's cannot tell what was wrong before it was written.
fn png_image(bytes: &[u8], header: &Header, limits: &Limits) -> Result<Decoded, DecodeError> {
    let image = with_image_crate(bytes, ImageFormat::Png, limits)?;
    // Twice the picture at the greatest depth, with room for the rows' filters and the passes of interlacing.
    let most = 2 * (u64::from(header.width) + 2) * 8 * (u64::from(header.height) + 8);
    let whole = zlib::inflate(png_picture_data(bytes), most, |_| {});
    Ok(Decoded { image, damage: whole.err().map(|what| Damage { what: what.to_string() }), several_pages: None })
}

/// The data of each IDAT chunk.
fn png_picture_data(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    let chunks = std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_first_chunk::<4>()?;
        let (data, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rest = after.get(4..).unwrap_or_default();
        Some((kind, data))
    });
    chunks.filter(|(kind, _)| *kind == b"IDAT").map(|(_, data)| data)
}

/// The header's reserved bytes and size field say nothing about the picture, but the decoder believes them.
fn bmp_image(bytes: &[u8], limits: &Limits) -> Result<Rgb8Image, DecodeError> {
    let mut usual = bytes.to_vec();
    usual[2..6].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
    usual[6..10].fill(0);
    with_image_crate(&usual, ImageFormat::Bmp, limits)
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
    let picture = DynamicImage::from_decoder(decoder).map_err(image_error)?;
    turned(rgb8(picture)?, u64::from(orientation.to_exif()))
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
    let wide = |samples: &[u16], channels: usize, colours: usize| {
        samples::refuse_few_bits(samples, channels, colours)?;
        Ok::<_, DecodeError>(samples::eight_bits(samples, u16::MAX))
    };
    let pixels = match picture {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageLuma8(image) => samples::to_rgb(image.as_raw(), 1, 1, Alpha::None),
        DynamicImage::ImageLumaA8(image) => samples::to_rgb(image.as_raw(), 2, 1, Alpha::Straight),
        DynamicImage::ImageRgba8(image) => samples::to_rgb(image.as_raw(), 4, 3, Alpha::Straight),
        DynamicImage::ImageLuma16(image) => samples::to_rgb(&wide(image.as_raw(), 1, 1)?, 1, 1, Alpha::None),
        DynamicImage::ImageLumaA16(image) => samples::to_rgb(&wide(image.as_raw(), 2, 1)?, 2, 1, Alpha::Straight),
        DynamicImage::ImageRgb16(image) => wide(image.as_raw(), 3, 3)?,
        DynamicImage::ImageRgba16(image) => samples::to_rgb(&wide(image.as_raw(), 4, 3)?, 4, 3, Alpha::Straight),
        other => return Err(DecodeError::Unsupported(format!("an image of {:?} samples", other.color()))),
    };
    Ok(Rgb8Image { width, height, pixels })
}

fn jpeg_image(bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    let side = limits.max_side as usize;
    let bounds = Bounds { width: side, height: side, alloc: limits.max_alloc };
    let found = jpeg::decode(bytes, None, Colours::AsMarked, &bounds).map_err(|error| match error {
        JpegError::Unsupported(what) => DecodeError::Unsupported(what),
        JpegError::Damaged(what) => DecodeError::Damaged(what),
        JpegError::TooLarge => DecodeError::DecodeFailed("its decoding would need more memory than is allowed".to_string()),
    })?;
    let pixels = match found.channels {
        1 => samples::to_rgb(&found.samples, 1, 1, Alpha::None),
        3 => found.samples,
        _ => found.samples.chunks_exact(4).flat_map(|ink| samples::ink_to_rgb([0, 1, 2, 3].map(|at| 255 - ink[at]))).collect(),
    };
    let image = turned(Rgb8Image { width: found.width, height: found.height, pixels }, exif::of_jpeg(bytes).orientation)?;
    Ok(Decoded { image, damage: found.damage.map(|what| Damage { what }), several_pages: None })
}

fn tiff_image(bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    let directories = tiff_directory::directories(&mut Cursor::new(bytes), true).map_err(|problem| match problem {
        TiffProblem::Beyond(what) => DecodeError::Truncated(what),
        TiffProblem::Malformed(what) => DecodeError::DecodeFailed(format!("as a TIFF, {what}")),
        TiffProblem::Io(error) => DecodeError::Io(error),
    })?;
    let found = tiff_pages::picture(bytes, &directories, limits)?;
    let image = turned(found.image, found.orientation)?;
    Ok(Decoded { image, damage: found.damage, several_pages: found.several })
}

fn turned(picture: Rgb8Image, orientation: u64) -> Result<Rgb8Image, DecodeError> {
    let turn = u8::try_from(orientation).ok().and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    if turn == Orientation::NoTransforms {
        return Ok(picture);
    }
    let buffer = image::RgbImage::from_raw(picture.width as u32, picture.height as u32, picture.pixels)
        .ok_or_else(|| DecodeError::DecodeFailed("it has fewer pixels than its header says".to_string()))?;
    let mut picture = DynamicImage::ImageRgb8(buffer);
    picture.apply_orientation(turn);
    rgb8(picture)
}
