//! What a file is, from its content, and how large its image: before anything is allocated for pixels.

use std::io::{self, Cursor, Read, Seek};

use super::bmp::{self, BmpHeader};
use super::completeness::JpegSegments;
use super::jpeg;
use super::source::Source;
use super::tiff_directory::{self, TiffProblem};
use super::tiff_pages;
use super::whole_slide::{self, WholeSlide};

/// Formats that are read. The file's name plays no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// TIFF and BigTIFF.
    Tiff,
    /// Windows bitmap.
    Bmp,
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format.
    pub format: Format,
    /// Width in pixels as stored, before an EXIF orientation.
    pub width: u32,
    /// Height in pixels as stored, before an EXIF orientation.
    pub height: u32,
}

/// What an image may be at most and at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest side in pixels.
    pub max_side: u32,
    /// Shortest side in pixels.
    pub min_side: u32,
    /// Most pixels.
    pub max_pixels: u64,
    /// Most bytes that a decoder may allocate.
    pub max_alloc: u64,
}

impl Default for Limits {
    /// Sides of 8 to 8192, 32 Mi pixels, 512 MiB.
    fn default() -> Self {
        Limits { max_side: 8192, min_side: 8, max_pixels: 32 << 20, max_alloc: 512 << 20 }
    }
}

/// Why a file gives no image. Each has a stable [`code`](DecodeError::code).
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the file is empty")]
    ZeroBytes,
    /// Not an image of any known kind.
    #[error("the file is not an image; expected PNG, JPEG, TIFF or BMP")]
    NotAnImage,
    /// The end is missing.
    #[error("the file is cut off: {0}; copy it again")]
    Truncated(&'static str),
    /// Damaged so that there is no picture.
    #[error("the image is damaged: {0}; export it again")]
    DecodeFailed(String),
    /// A picture can be shown, but part of it is lost or changed.
    #[error("the image is damaged: {0}; copy or export it again")]
    Damaged(String),
    /// Several pictures in one file.
    #[error("the file holds several pages: {0}; export each as a file of its own")]
    SeveralPages(String),
    /// Larger than the limits.
    #[error("the image is {width} x {height} pixels; at most {} a side and {} in all are read, export a patch", limits.max_side, limits.max_pixels)]
    TooLarge {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The limits.
        limits: Limits,
    },
    /// Smaller than the limits.
    #[error("the image is {width} x {height} pixels; at least {} a side are needed", limits.min_side)]
    TooSmall {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The limits.
        limits: Limits,
    },
    /// A whole slide, not a patch.
    #[error("this is a whole slide ({}){}; export patches from it, for example with QuPath", .0.vendor, size_text(.0))]
    WholeSlide(WholeSlide),
    /// Several frames.
    #[error("the file is an animation; export one frame as PNG")]
    Animated,
    /// A known kind of file that is not read.
    #[error("{0} is not supported; export the image as 8-bit PNG")]
    Unsupported(String),
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl DecodeError {
    /// A short name that never changes, for reports, notes and scripts.
    pub fn code(&self) -> &'static str {
        match self {
            DecodeError::ZeroBytes => "zero_bytes",
            DecodeError::NotAnImage => "not_an_image",
            DecodeError::Truncated(_) => "truncated",
            DecodeError::DecodeFailed(_) => "decode_failed",
            DecodeError::Damaged(_) => "damaged",
            DecodeError::SeveralPages(_) => "several_pages",
            DecodeError::TooLarge { .. } => "too_large",
            DecodeError::TooSmall { .. } => "too_small",
            DecodeError::WholeSlide(_) => "whole_slide",
            DecodeError::Animated => "animated",
            DecodeError::Unsupported(_) => "unsupported",
            DecodeError::Io(_) => "unreadable",
        }
    }
}

fn size_text(slide: &WholeSlide) -> String {
    slide.size.map_or(String::new(), |(width, height)| format!(" of {width} x {height} pixels"))
}

impl Format {
    /// The format by the first bytes (64 suffice), or nothing.
    pub fn of(head: &[u8]) -> Option<Format> {
        if head.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Format::Png)
        } else if head.starts_with(b"\xff\xd8\xff") {
            Some(Format::Jpeg)
        } else if whole_slide::is_tiff(head) {
            Some(Format::Tiff)
        } else if is_bmp(head) {
            Some(Format::Bmp)
        } else {
            None
        }
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Png => "PNG",
            Format::Jpeg => "JPEG",
            Format::Tiff => "TIFF",
            Format::Bmp => "BMP",
        }
    }
}

/// The reserved bytes may hold anything; a size of the header that exists tells a bitmap from a text.
fn is_bmp(head: &[u8]) -> bool {
    let header = head.get(14..18).map(|size| u32::from_le_bytes([size[0], size[1], size[2], size[3]]));
    head.starts_with(b"BM")
        && header.map_or(head.get(6..10) == Some(&[0; 4]), |size| matches!(size, 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124))
}

/// Looks at the header alone: whole slides, other kinds of files, sizes outside `limits`.
///
/// `name` serves only the recognition of whole slides of several files. A file that is still being written may be refused
/// already here, for example for its size.
pub fn inspect<S: Read + Seek>(source: &mut S, name: &str, limits: &Limits) -> Result<Header, DecodeError> {
    if let Some(slide) = whole_slide::recognise(source, name, limits.max_side)? {
        return Err(DecodeError::WholeSlide(slide));
    }
    let head = Source::new(source)?.up_to(0, 64)?;
    if head.is_empty() {
        return Err(DecodeError::ZeroBytes);
    }
    let format = Format::of(&head).ok_or_else(|| unknown(&head))?;
    let (width, height) = match format {
        Format::Png => png_size(&mut Source::new(source)?)?,
        Format::Jpeg => jpeg_size(&mut Source::new(source)?)?,
        Format::Bmp => bmp_size(&head)?,
        Format::Tiff => tiff_size(source)?,
    };
    let most = width.max(height);
    if most > u64::from(limits.max_side) || width.saturating_mul(height) > limits.max_pixels {
        return Err(DecodeError::TooLarge { width, height, limits: *limits });
    }
    if width.min(height) < u64::from(limits.min_side.max(1)) {
        return Err(DecodeError::TooSmall { width, height, limits: *limits });
    }
    Ok(Header { format, width: width as u32, height: height as u32 })
}

/// [`inspect`] on bytes in memory.
pub fn inspect_bytes(bytes: &[u8], limits: &Limits) -> Result<Header, DecodeError> {
    inspect(&mut Cursor::new(bytes), "", limits)
}

fn unknown(head: &[u8]) -> DecodeError {
    let starts = |magic: &[u8]| head.starts_with(magic);
    if starts(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        let animated = head.get(12..16) == Some(b"VP8X") && head.get(20).is_some_and(|flags| flags & 2 != 0);
        return if animated { DecodeError::Animated } else { DecodeError::Unsupported("WebP".to_string()) };
    }
    let kinds: [(&[u8], &str); 8] = [
        (b"GIF8", "GIF"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"%PDF", "PDF"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"8BPS", "a Photoshop file"),
        (b"SQLite format 3", "a database"),
    ];
    if let Some((_, name)) = kinds.iter().find(|(magic, _)| starts(magic)) {
        return DecodeError::Unsupported((*name).to_string());
    }
    if head.get(4..8) == Some(b"ftyp") {
        return DecodeError::Unsupported("HEIF or AVIF".to_string());
    }
    if b"\x89PNG\r\n\x1a\n".starts_with(head) || b"\xff\xd8\xff".starts_with(head) {
        return DecodeError::Truncated("only the first bytes are there");
    }
    DecodeError::NotAnImage
}

fn png_size<S: Read + Seek>(source: &mut Source<S>) -> Result<(u64, u64), DecodeError> {
    let head = source.array::<16>(8)?.ok_or(DecodeError::Truncated("the PNG ends inside its header"))?;
    if &head[4..8] != b"IHDR" {
        return Err(DecodeError::DecodeFailed("the PNG does not begin with its header".to_string()));
    }
    let number = |at: usize| head[at..at + 4].iter().fold(0, |sum, &byte| (sum << 8) | u64::from(byte));
    let size = (number(8), number(12));
    if png_is_animated(source)? { Err(DecodeError::Animated) } else { Ok(size) }
}

/// An `acTL` chunk with more than one frame stands in front of the picture data.
fn png_is_animated<S: Read + Seek>(source: &mut Source<S>) -> Result<bool, DecodeError> {
    let mut at = 8_u64;
    while let Some(head) = source.array::<12>(at)? {
        let number = |from: usize| head[from..from + 4].iter().fold(0, |sum, &byte| (sum << 8) | u64::from(byte));
        match &head[4..8] {
            b"acTL" => return Ok(number(8) > 1),
            b"IDAT" | b"IEND" => return Ok(false),
            _ => at = at.saturating_add(12 + number(0)),
        }
    }
    Ok(false)
}

fn jpeg_size<S: Read + Seek>(source: &mut Source<S>) -> Result<(u64, u64), DecodeError> {
    let mut segments = JpegSegments::new();
    while let Some(segment) = segments.next(source)? {
        match segment.marker {
            0xc4 | 0xc8 | 0xcc => {}
            0xc0..=0xcf | 0xf7 => {
                let head = source.array::<5>(segment.data)?.ok_or(DecodeError::Truncated("the JPEG ends inside its header"))?;
                if let Some(kind) = jpeg::unread_kind(segment.marker, head[0]) {
                    return Err(DecodeError::Unsupported(kind));
                }
                let [_, high, low, wide_high, wide_low] = head.map(u64::from);
                return Ok((wide_high << 8 | wide_low, high << 8 | low));
            }
            0xd9 | 0xda => return Err(DecodeError::Damaged("it has no frame header".to_string())),
            _ => {}
        }
    }
    Err(DecodeError::Truncated("the JPEG ends before its picture data"))
}

fn bmp_size(head: &[u8]) -> Result<(u64, u64), DecodeError> {
    let head =
        BmpHeader::parse(&head[..head.len().min(bmp::HEADER)]).ok_or(DecodeError::Truncated("the BMP ends inside its header"))?;
    Ok((head.width, head.height))
}

fn tiff_size<S: Read + Seek>(source: &mut S) -> Result<(u64, u64), DecodeError> {
    let directories = tiff_directory::directories(source, false).map_err(|problem| match problem {
        TiffProblem::Beyond(what) => DecodeError::Truncated(what),
        TiffProblem::Malformed(what) => DecodeError::DecodeFailed(format!("as a TIFF, {what}")),
        TiffProblem::Io(error) => DecodeError::Io(error),
    })?;
    let page = tiff_pages::mains(&directories).first().copied().unwrap_or(&directories[0]);
    Ok((page.width, page.height))
}
