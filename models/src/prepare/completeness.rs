//! Whether an image file has arrived as a whole, from its structure and without decoding it.

use std::io::{self, Read, Seek};

use super::bmp::{self, BmpHeader};
use super::header::Format;
use super::source::Source;
use super::tiff_directory::{self, Directory, TiffProblem};
use super::tiff_layout::{Inside, Layout};

/// What the structure of a file says about its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// The end mark is there and everything that the headers name lies inside the file.
    Complete {
        /// Whether there are bytes that belong to nothing: behind the end mark, or between a JPEG's segments.
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
    let head = Source::new(source)?.up_to(0, 64)?;
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

/// How many bytes at the end of an uncompressed file's picture data are zero: what a writer that reserves the whole size
/// first has still to write, or black. 0 for every other file, for compressed data is never blank.
///
/// Only bytes that hold pixels count, not those that fill rows, strips or tiles up. The picture data of a TIFF are those of
/// its strips or tiles, wherever they lie, without masks; the tail is counted in file order.
pub fn blank_tail<S: Read + Seek>(source: &mut S) -> io::Result<u64> {
    let head = Source::new(source)?.up_to(0, 64)?;
    match Format::of(&head) {
        Some(Format::Bmp) => {
            let mut source = Source::new(source)?;
            let stored = BmpHeader::parse(&source.up_to(0, bmp::HEADER)?).as_ref().and_then(Stored::of_bmp);
            stored.map_or(Ok(0), |stored| stored.blank_tail(&mut source))
        }
        Some(Format::Tiff) => {
            let Ok(directories) = tiff_directory::directories(source, true) else { return Ok(0) };
            let mut source = Source::new(source)?;
            let length = source.length;
            let plain = directories.iter().filter(|directory| directory.compression == 1 && !directory.is_mask());
            let mut stored: Vec<Stored> = plain.flat_map(|directory| Stored::of_tiff(directory, length)).collect();
            stored.sort_unstable_by_key(|one| std::cmp::Reverse(one.end));
            let mut blank = 0;
            let mut counted = u64::MAX;
            for mut one in stored {
                one.end = one.end.min(counted);
                if one.start >= one.end {
                    continue;
                }
                let zeros = one.blank_tail(&mut source)?;
                blank += zeros;
                counted = one.start;
                if zeros < one.pixels_before(one.end) {
                    break;
                }
            }
            Ok(blank)
        }
        _ => Ok(0),
    }
}

/// Pixels without compression: from `start` on the first `used` of every `stride` bytes, up to `end`.
struct Stored {
    start: u64,
    end: u64,
    used: u64,
    stride: u64,
}

impl Stored {
    fn of_bmp(header: &BmpHeader) -> Option<Stored> {
        let (picture, (used, stride)) = (header.uncompressed()?, header.row()?);
        (used > 0).then_some(Stored { start: picture.start, end: picture.end, used, stride })
    }

    /// Those of each strip or tile.
    fn of_tiff(directory: &Directory, file: u64) -> Vec<Stored> {
        let Ok(layout) = Layout::of(directory, file) else {
            let places = chunks(directory, file).into_iter().filter(|(start, end)| start < end);
            return places.map(|(start, end)| Stored { start, end, used: 1, stride: 1 }).collect();
        };
        let one = |index: usize| {
            let ((start, length), Inside { stride, used, lines }) = (layout.place(index), layout.inside(index));
            let end = start.saturating_add(length.min(stride * lines));
            (length > 0 && used > 0).then_some(Stored { start, end, used, stride })
        };
        (0..layout.count()).filter_map(one).collect()
    }

    /// Zero bytes of pixels at the end; what lies behind the end of the file counts as zero.
    fn blank_tail<S: Read + Seek>(&self, source: &mut Source<S>) -> io::Result<u64> {
        const STEP: u64 = 1 << 16;
        let mut at = self.end;
        while at > self.start {
            let from = at.saturating_sub(STEP).max(self.start);
            let piece = source.up_to(from, (at - from) as usize)?;
            let lit = (0..piece.len()).rfind(|&index| piece[index] != 0 && self.holds(from + index as u64));
            if let Some(lit) = lit {
                return Ok(self.pixels_before(self.end) - self.pixels_before(from + lit as u64 + 1));
            }
            at = from;
        }
        Ok(self.pixels_before(self.end))
    }

    fn holds(&self, at: u64) -> bool {
        (at - self.start) % self.stride < self.used
    }

    /// Bytes of pixels in front of `at`.
    fn pixels_before(&self, at: u64) -> u64 {
        let (lines, rest) = ((at - self.start) / self.stride, (at - self.start) % self.stride);
        lines * self.used + rest.min(self.used)
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
    let mut segments = JpegSegments::new();
    let mut scans = false;
    while let Some(segment) = segments.next(source)? {
        match segment.marker {
            0xd9 if scans => {
                let trailing_bytes = segments.stray || segment.data < source.length;
                return Ok(Completeness::Complete { trailing_bytes });
            }
            0xda => {
                scans = true;
                segments.skip_scan(source)?;
            }
            _ => {}
        }
    }
    Ok(Completeness::Incomplete(if scans { "the JPEG has no end mark" } else { "the JPEG ends before its picture data" }))
}

/// A marker of a JPEG file with its segment, empty where it has none.
pub(super) struct JpegSegment {
    pub marker: u8,
    pub data: u64,
    pub length: u64,
}

/// Walks the markers of a JPEG file.
pub(super) struct JpegSegments {
    at: u64,
    /// Whether bytes that belong to nothing stood between them.
    pub stray: bool,
}

impl JpegSegments {
    pub fn new() -> Self {
        JpegSegments { at: 2, stray: false }
    }

    /// The next marker, or nothing where the file ends first. Stray bytes in front of it are passed over, as libjpeg does.
    pub fn next<S: Read + Seek>(&mut self, source: &mut Source<S>) -> io::Result<Option<JpegSegment>> {
        let Some(marker) = self.marker(source)? else { return Ok(None) };
        if matches!(marker, 0x01 | 0xd0..=0xd9) {
            return Ok(Some(JpegSegment { marker, data: self.at, length: 0 }));
        }
        let Some(length) = source.array::<2>(self.at)? else { return Ok(None) };
        let length = u64::from(u16::from_be_bytes(length)).max(2);
        let segment = JpegSegment { marker, data: self.at + 2, length: length - 2 };
        self.at += length;
        Ok((self.at <= source.length).then_some(segment))
    }

    /// The next marker's second byte; `at` is behind it afterwards.
    fn marker<S: Read + Seek>(&mut self, source: &mut Source<S>) -> io::Result<Option<u8>> {
        let mut after_ff = false;
        loop {
            let window = source.window(self.at)?;
            if window.is_empty() {
                return Ok(None);
            }
            for (index, &byte) in window.iter().enumerate() {
                match byte {
                    0xff => after_ff = true,
                    1.. if after_ff => {
                        self.at += index as u64 + 1;
                        return Ok(Some(byte));
                    }
                    _ => {
                        after_ff = false;
                        self.stray = true;
                    }
                }
            }
            self.at += window.len() as u64;
        }
    }

    /// To the marker behind a scan's data: everything but stuffed bytes and restart marks ends it.
    fn skip_scan<S: Read + Seek>(&mut self, source: &mut Source<S>) -> io::Result<()> {
        let mut after_ff = false;
        loop {
            let window = source.window(self.at)?;
            if window.is_empty() {
                return Ok(());
            }
            for (index, &byte) in window.iter().enumerate() {
                if after_ff && matches!(byte, 0xc0..=0xcf | 0xd8..=0xfe) {
                    // The first byte of the marker may lie in an earlier window.
                    self.at = (self.at + index as u64).saturating_sub(1);
                    return Ok(());
                }
                after_ff = byte == 0xff;
            }
            self.at += window.len() as u64;
        }
    }
}

fn bmp<S: Read + Seek>(source: &mut Source<S>) -> io::Result<Completeness> {
    let Some(header) = BmpHeader::parse(&source.up_to(0, bmp::HEADER)?) else {
        return Ok(Completeness::Incomplete("the BMP ends inside its header"));
    };
    // Some writers are off by a few bytes in the size field, or leave it 0: what counts is the picture data.
    let end = header.uncompressed().map_or(header.named, |picture| picture.end);
    if end > source.length {
        return Ok(Completeness::Incomplete("the BMP is shorter than its header says"));
    }
    Ok(Completeness::Complete { trailing_bytes: header.named != 0 && header.named != source.length })
}

/// Where the strips or tiles of a directory begin and end; missing lengths are worked out.
fn chunks(directory: &Directory, file: u64) -> Vec<(u64, u64)> {
    let Ok(layout) = Layout::of(directory, file) else {
        return directory.offsets.iter().zip(&directory.lengths).map(|(&at, &length)| (at, at.saturating_add(length))).collect();
    };
    (0..directory.offsets.len()).map(|index| layout.place(index)).map(|(at, length)| (at, at.saturating_add(length))).collect()
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
        let chunks = chunks(directory, source.length);
        if chunks.iter().any(|&(_, end)| end > source.length) {
            return Ok(Completeness::Incomplete("the TIFF ends before its picture data"));
        }
        // A copy that reserves its size first has zeros where compressed data, never all zero, will be.
        let last = chunks.iter().filter(|chunk| chunk.0 < chunk.1).max_by_key(|chunk| chunk.1);
        let Some(&(start, end)) = last.filter(|_| directory.compression != 1) else { continue };
        let tail = source.up_to(end.saturating_sub(16).max(start), 16)?;
        if tail[..tail.len().min((end - start) as usize)].iter().all(|&byte| byte == 0) {
            return Ok(Completeness::Incomplete("the TIFF's picture data is still empty"));
        }
    }
    Ok(COMPLETE)
}
