//! Whether an image file has arrived as a whole, from its structure and without decoding it.

use std::io::{self, Read, Seek};

use super::header::Format;
use super::source::Source;
use super::tiff_directory::{self, TiffProblem};

const JPEG_TAIL: usize = 64 << 10;

/// What the structure of a file says about its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// The end mark is there and everything that the headers name lies inside the file.
    Complete {
        /// Whether bytes follow the end mark.
        trailing_bytes: bool,
    },
    /// Something is missing; the text says what.
    Incomplete(&'static str),
    /// No format that is known here: nothing can be said.
    Unknown,
}

const COMPLETE: Completeness = Completeness::Complete { trailing_bytes: false };

/// Looks at chunks, markers, directories or sizes, depending on the format.
pub fn probe<S: Read + Seek>(source: &mut S) -> io::Result<Completeness> {
    let head = Source::new(source)?.up_to(0, 16)?;
    if head.is_empty() {
        return Ok(Completeness::Incomplete("the file is empty"));
    }
    match Format::of(&head) {
        Some(Format::Png) => png(&mut Source::new(source)?),
        Some(Format::Jpeg) => jpeg(&mut Source::new(source)?),
        Some(Format::Bmp) => bmp(&mut Source::new(source)?),
        Some(Format::Tiff) => tiff(source),
        None => Ok(Completeness::Unknown),
    }
}

fn png<S: Read + Seek>(source: &mut Source<S>) -> io::Result<Completeness> {
    let mut at = 8;
    loop {
        let Some(head) = source.array::<8>(at)? else {
            return Ok(Completeness::Incomplete("the PNG ends before its IEND chunk"));
        };
        let (length, kind) = head.split_at(4);
        if !kind.iter().all(u8::is_ascii_alphabetic) {
            return Ok(Completeness::Incomplete("the PNG has a gap between its chunks"));
        }
        let length = length.iter().fold(0, |sum, &byte| (sum << 8) | u64::from(byte));
        at += 12 + length;
        if at > source.length {
            return Ok(Completeness::Incomplete("the PNG ends inside a chunk"));
        }
        if kind == b"IEND" {
            return Ok(Completeness::Complete { trailing_bytes: at < source.length });
        }
    }
}

fn jpeg<S: Read + Seek>(source: &mut Source<S>) -> io::Result<Completeness> {
    let Some(scan) = jpeg_scan(source)? else {
        return Ok(Completeness::Incomplete("the JPEG ends before its picture data"));
    };
    let from = scan.max(source.length.saturating_sub(JPEG_TAIL as u64));
    let tail = source.up_to(from, JPEG_TAIL)?;
    match tail.windows(2).rposition(|pair| pair == [0xff, 0xd9]) {
        Some(at) => Ok(Completeness::Complete { trailing_bytes: at + 2 < tail.len() }),
        None => Ok(Completeness::Incomplete("the JPEG has no end mark")),
    }
}

/// Where the first scan's data begins: behind the headers, whose thumbnails have end marks of their own.
fn jpeg_scan<S: Read + Seek>(source: &mut Source<S>) -> io::Result<Option<u64>> {
    let mut segments = JpegSegments::new();
    while let Some(segment) = segments.next(source)? {
        if segment.marker == 0xda {
            return Ok(Some(segment.data + segment.length));
        }
    }
    Ok(None)
}

/// A header segment of a JPEG file.
pub(super) struct JpegSegment {
    pub marker: u8,
    pub data: u64,
    pub length: u64,
}

/// Walks the segments in front of the picture data.
pub(super) struct JpegSegments {
    at: u64,
}

impl JpegSegments {
    pub fn new() -> Self {
        JpegSegments { at: 2 }
    }

    /// The next segment with a length, or nothing where the file ends or holds no marker.
    pub fn next<S: Read + Seek>(&mut self, source: &mut Source<S>) -> io::Result<Option<JpegSegment>> {
        loop {
            let Some([first, marker]) = source.array::<2>(self.at)? else { return Ok(None) };
            if first != 0xff {
                return Ok(None);
            }
            match marker {
                0xff => self.at += 1,
                0x01 | 0xd0..=0xd8 => self.at += 2,
                _ => {
                    let Some(length) = source.array::<2>(self.at + 2)? else { return Ok(None) };
                    let length = u64::from(u16::from_be_bytes(length));
                    let segment = JpegSegment { marker, data: self.at + 4, length: length.saturating_sub(2) };
                    self.at += 2 + length.max(2);
                    return Ok((self.at <= source.length).then_some(segment));
                }
            }
        }
    }
}

fn bmp<S: Read + Seek>(source: &mut Source<S>) -> io::Result<Completeness> {
    let Some(size) = source.array::<4>(2)? else {
        return Ok(Completeness::Incomplete("the BMP ends inside its header"));
    };
    let named = u64::from(u32::from_le_bytes(size));
    if named > source.length {
        return Ok(Completeness::Incomplete("the BMP is shorter than its header says"));
    }
    Ok(Completeness::Complete { trailing_bytes: named != 0 && named < source.length })
}

fn tiff<S: Read + Seek>(source: &mut S) -> io::Result<Completeness> {
    let directories = match tiff_directory::directories(source, true) {
        Ok(directories) => directories,
        Err(TiffProblem::Io(error)) => return Err(error),
        Err(TiffProblem::Beyond(_)) => return Ok(Completeness::Incomplete("the TIFF ends before its directories")),
        Err(TiffProblem::Malformed(_)) => return Ok(Completeness::Incomplete("the TIFF has no readable directory")),
    };
    let mut source = Source::new(source)?;
    for directory in &directories {
        let ends = directory.offsets.iter().zip(&directory.lengths).map(|(at, length)| at.saturating_add(*length));
        if ends.clone().any(|end| end > source.length) {
            return Ok(Completeness::Incomplete("the TIFF ends before its picture data"));
        }
        // A copy that reserves its size first has zeros where compressed data, never all zero, will be.
        let Some(end) = ends.max().filter(|_| directory.compression != 1) else { continue };
        let tail = source.up_to(end.saturating_sub(16), 16.min(end as usize))?;
        if tail.iter().all(|&byte| byte == 0) {
            return Ok(Completeness::Incomplete("the TIFF's picture data is still empty"));
        }
    }
    Ok(COMPLETE)
}

/// Bytes of zeros at the end of uncompressed picture data that make it look unwritten.
const BLANK: u64 = 4096;

/// Whether uncompressed picture data (BMP, TIFF) ends in zeros only, as it does while a writer that has reserved the room still writes.
/// A black edge looks the same.
pub fn blank_tail<S: Read + Seek>(source: &mut S) -> io::Result<bool> {
    let head = Source::new(source)?.up_to(0, 34)?;
    let data = match Format::of(&head) {
        Some(Format::Bmp) => bmp_data(&head, Source::new(source)?.length),
        Some(Format::Tiff) => tiff_data(source)?,
        Some(Format::Png | Format::Jpeg) | None => None,
    };
    let Some((from, end)) = data else { return Ok(false) };
    let from = from.max(end.saturating_sub(BLANK));
    let tail = Source::new(source)?.up_to(from, end.saturating_sub(from) as usize)?;
    Ok(!tail.is_empty() && tail.iter().all(|&byte| byte == 0))
}

/// Where uncompressed BMP data begins and ends.
fn bmp_data(head: &[u8], length: u64) -> Option<(u64, u64)> {
    let number = |at: usize| Some(u64::from(u32::from_le_bytes(*head.get(at..)?.first_chunk()?)));
    let compression = if number(14)? == 12 { 0 } else { number(30)? };
    // 0: none, 3 and 6: none, with bit masks.
    if !matches!(compression, 0 | 3 | 6) {
        return None;
    }
    let end = Some(number(2)?).filter(|named| *named != 0).map_or(length, |named| named.min(length));
    Some((number(10)?, end))
}

/// Where the last uncompressed strip or tile begins and ends.
fn tiff_data<S: Read + Seek>(source: &mut S) -> io::Result<Option<(u64, u64)>> {
    let directories = match tiff_directory::directories(source, true) {
        Ok(directories) => directories,
        Err(TiffProblem::Io(error)) => return Err(error),
        Err(TiffProblem::Beyond(_) | TiffProblem::Malformed(_)) => return Ok(None),
    };
    let plain = directories.iter().filter(|directory| directory.compression == 1);
    let chunks = plain.flat_map(|directory| directory.offsets.iter().zip(&directory.lengths));
    Ok(chunks.map(|(at, length)| (*at, at.saturating_add(*length))).max_by_key(|(_, end)| *end))
}
