//! The directories (IFDs) of TIFF and BigTIFF: what the completeness probe, the slide recogniser and the decoder ask.

use std::collections::HashSet;
use std::io::{self, Read, Seek};

use super::source::Source;

const MOST_DIRECTORIES: usize = 1024;
const MOST_ENTRIES: u64 = 4096;
const LONGEST_TEXT: u64 = 64 << 10;
/// Of all directories: many may share one text.
const MOST_TEXT: u64 = 4 << 20;
const MOST_CHUNKS: u64 = 1 << 20;

/// Why the directories cannot be read.
#[derive(Debug)]
pub enum TiffProblem {
    /// Something lies behind the end of the file.
    Beyond(&'static str),
    /// The structure contradicts itself.
    Malformed(&'static str),
    /// The source failed.
    Io(io::Error),
}

impl From<io::Error> for TiffProblem {
    fn from(error: io::Error) -> Self {
        TiffProblem::Io(error)
    }
}

/// One image of the file.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Pixels a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
    /// Compression number; 1: none.
    pub compression: u64,
    /// Photometric number; 3: palette.
    pub photometric: u64,
    /// Where the photometric number stands in the file.
    pub photometric_at: u64,
    /// EXIF orientation, 1 to 8.
    pub orientation: u64,
    /// Whether the pixels lie in tiles instead of strips.
    pub tiled: bool,
    /// Whether it holds Hamamatsu's own tag.
    pub ndpi: bool,
    /// ImageDescription, Software, Make and XMP, one after the other.
    pub texts: String,
    /// The palette: all reds, all greens, all blues.
    pub color_map: Vec<u64>,
    /// Offsets of strips or tiles.
    pub offsets: Vec<u64>,
    /// Their lengths in bytes.
    pub lengths: Vec<u64>,
}

/// Reads every directory; with `chunks` also where each strip or tile lies.
pub fn directories<S: Read + Seek>(source: &mut S, chunks: bool) -> Result<Vec<Directory>, TiffProblem> {
    let mut reader = Reader::new(source)?;
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut at = reader.first;
    while at != 0 && found.len() < MOST_DIRECTORIES {
        if !seen.insert(at) {
            return Err(TiffProblem::Malformed("its directories form a ring"));
        }
        let (directory, next) = reader.directory(at, chunks)?;
        found.push(directory);
        at = next;
    }
    if found.is_empty() {
        return Err(TiffProblem::Malformed("it has no directory"));
    }
    Ok(found)
}

struct Reader<'a, S> {
    source: Source<'a, S>,
    little: bool,
    big_tiff: bool,
    first: u64,
    text_left: u64,
}

/// One entry of a directory: `count` values of `kind`, at `at`.
struct Entry {
    tag: u64,
    kind: u64,
    count: u64,
    at: u64,
}

impl<'a, S: Read + Seek> Reader<'a, S> {
    fn new(source: &'a mut S) -> Result<Self, TiffProblem> {
        let mut source = Source::new(source)?;
        let head = source.array::<4>(0)?.ok_or(TiffProblem::Beyond("the header"))?;
        let (little, big_tiff) = match &head {
            b"II*\0" => (true, false),
            b"MM\0*" => (false, false),
            b"II+\0" => (true, true),
            b"MM\0+" => (false, true),
            _ => return Err(TiffProblem::Malformed("it has no TIFF header")),
        };
        let mut reader = Reader { source, little, big_tiff, first: 0, text_left: MOST_TEXT };
        reader.first = if big_tiff { reader.number(8, 8, "the header")? } else { reader.number(4, 4, "the header")? };
        Ok(reader)
    }

    fn number(&mut self, at: u64, bytes: usize, what: &'static str) -> Result<u64, TiffProblem> {
        let read = self.source.up_to(at, bytes)?;
        if read.len() < bytes {
            return Err(TiffProblem::Beyond(what));
        }
        Ok(fold(&read, self.little))
    }

    fn directory(&mut self, at: u64, chunks: bool) -> Result<(Directory, u64), TiffProblem> {
        let (count_bytes, entry_bytes, offset_bytes) = if self.big_tiff { (8, 20, 8) } else { (2, 12, 4) };
        let count = self.number(at, count_bytes, "a directory")?;
        if count > MOST_ENTRIES {
            return Err(TiffProblem::Malformed("a directory has too many entries"));
        }
        let first = at.saturating_add(count_bytes as u64);
        let mut directory = Directory { compression: 1, orientation: 1, ..Directory::default() };
        for index in 0..count {
            let entry = self.entry(first.saturating_add(index * entry_bytes))?;
            self.apply(&entry, &mut directory, chunks)?;
        }
        let next = self.number(first.saturating_add(count * entry_bytes), offset_bytes, "a directory")?;
        Ok((directory, next))
    }

    fn entry(&mut self, at: u64) -> Result<Entry, TiffProblem> {
        let tag = self.number(at, 2, "a directory")?;
        let (value_bytes, value_at) = if self.big_tiff { (8, at + 12) } else { (4, at + 8) };
        let kind = self.number(at + 2, 2, "a directory")?;
        let count = self.number(at + 4, value_bytes, "a directory")?;
        let inside = count.saturating_mul(kind_bytes(kind)) <= value_bytes as u64;
        let at = if inside { value_at } else { self.number(value_at, value_bytes, "a directory")? };
        Ok(Entry { tag, kind, count, at })
    }

    fn apply(&mut self, entry: &Entry, directory: &mut Directory, chunks: bool) -> Result<(), TiffProblem> {
        match entry.tag {
            256 => directory.width = self.value(entry)?,
            257 => directory.height = self.value(entry)?,
            259 => directory.compression = self.value(entry)?,
            262 => {
                directory.photometric = self.value(entry)?;
                directory.photometric_at = entry.at;
            }
            274 => directory.orientation = self.value(entry)?,
            270 | 271 | 305 | 700 => self.text(entry, &mut directory.texts)?,
            320 => directory.color_map = self.values(entry, 3 << 16)?,
            273 if chunks => directory.offsets = self.values(entry, MOST_CHUNKS)?,
            279 if chunks => directory.lengths = self.values(entry, MOST_CHUNKS)?,
            324 if chunks => directory.offsets = self.values(entry, MOST_CHUNKS)?,
            325 if chunks => directory.lengths = self.values(entry, MOST_CHUNKS)?,
            322 => directory.tiled = true,
            65420 => directory.ndpi = true,
            _ => {}
        }
        Ok(())
    }

    fn value(&mut self, entry: &Entry) -> Result<u64, TiffProblem> {
        let bytes = kind_bytes(entry.kind) as usize;
        self.number(entry.at, bytes.min(8), "a value")
    }

    fn values(&mut self, entry: &Entry, most: u64) -> Result<Vec<u64>, TiffProblem> {
        if entry.count > most {
            return Err(TiffProblem::Malformed("a list is too long"));
        }
        let size = kind_bytes(entry.kind) as usize;
        let bytes = self.source.up_to(entry.at, entry.count as usize * size)?;
        if bytes.len() < entry.count as usize * size {
            return Err(TiffProblem::Beyond("a list of values"));
        }
        let little = self.little;
        Ok(bytes.chunks_exact(size).map(|value| fold(value, little)).collect())
    }

    fn text(&mut self, entry: &Entry, texts: &mut String) -> Result<(), TiffProblem> {
        let count = entry.count.saturating_mul(kind_bytes(entry.kind)).min(LONGEST_TEXT).min(self.text_left) as usize;
        self.text_left -= count as u64;
        let bytes = self.source.up_to(entry.at, count)?;
        if bytes.len() < count {
            return Err(TiffProblem::Beyond("a text"));
        }
        texts.push_str(&String::from_utf8_lossy(&bytes));
        texts.push('\n');
        Ok(())
    }
}

fn fold(bytes: &[u8], little: bool) -> u64 {
    let push = |sum: u64, &byte: &u8| (sum << 8) | u64::from(byte);
    if little { bytes.iter().rev().fold(0, push) } else { bytes.iter().fold(0, push) }
}

/// Bytes of one value of a TIFF type; unknown types count as bytes.
fn kind_bytes(kind: u64) -> u64 {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 | 17 | 18 => 8,
        _ => 1,
    }
}
