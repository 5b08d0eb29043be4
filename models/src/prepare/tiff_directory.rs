//! The directories (IFDs) of TIFF and BigTIFF: what the completeness probe, the slide recogniser, the scale and the decoder ask.
//!
//! All that a file can make this read and keep is bounded over the whole file, however often its entries point to one place.

use std::collections::HashSet;
use std::io::{self, Read, Seek};

use super::source::Source;

const MOST_DIRECTORIES: usize = 1024;
const MOST_ENTRIES: u64 = 4096;
const LONGEST_TEXT: u64 = 64 << 10;
/// Entries of all directories of a file.
const ALL_ENTRIES: u64 = 64 << 10;
/// Bytes of all texts of a file.
const ALL_TEXTS: usize = 1 << 20;
const MOST_CHUNKS: u64 = 1 << 20;
/// Numbers of all lists of a file: a slide of a million tiles has two million.
const ALL_NUMBERS: u64 = 4 << 20;

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
#[derive(Clone, Debug)]
pub struct Directory {
    /// Whether numbers are stored little end first.
    pub little: bool,
    /// Pixels a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
    /// NewSubfileType's bits, with what SubfileType says: 1 a reduced image, 4 a mask.
    pub kind: u64,
    /// Bits a sample, for each sample or once.
    pub bits: Vec<u64>,
    /// Samples a pixel.
    pub channels: u64,
    /// 1 unsigned, 2 signed, 3 floating point, 4 undefined.
    pub sample_format: u64,
    /// Compression number; 1: none.
    pub compression: u64,
    /// Photometric number; 3: palette.
    pub photometric: u64,
    /// 2: the first bit of a byte is its lowest.
    pub fill_order: u64,
    /// 1: none, 2: differences along a row.
    pub predictor: u64,
    /// 2: one plane a channel.
    pub planar: u64,
    /// What samples behind the colours mean: 0 nothing known, 1 associated alpha, 2 unassociated alpha.
    pub extra_samples: Vec<u64>,
    /// MaxSampleValue.
    pub most_values: Vec<u64>,
    /// EXIF orientation, 1 to 8.
    pub orientation: u64,
    /// Tile's sides, where the pixels lie in tiles instead of strips.
    pub tile: Option<(u64, u64)>,
    /// Rows a strip.
    pub rows_per_strip: u64,
    /// Pixels for one pair of chrominance samples, across and down.
    pub subsampling: Vec<u64>,
    /// Black and white of each component, where the file gives them.
    pub reference: Vec<f64>,
    /// Pixels a unit across.
    pub resolution: Option<f64>,
    /// 1 no unit, 2 inch, 3 centimetre.
    pub resolution_unit: u64,
    /// Whether it holds Hamamatsu's own tag.
    pub ndpi: bool,
    /// ImageDescription.
    pub description: String,
    /// ImageDescription, Software, Make and XMP, one after the other.
    pub texts: String,
    /// The palette: all reds, all greens, all blues.
    pub color_map: Vec<u64>,
    /// Tables that all JPEG strips or tiles share.
    pub jpeg_tables: Vec<u8>,
    /// ImageJ's own metadata and the lengths of its parts.
    pub imagej: (Vec<u64>, Vec<u8>),
    /// Offsets of strips or tiles.
    pub offsets: Vec<u64>,
    /// Their lengths in bytes.
    pub lengths: Vec<u64>,
    /// Where directories below this one lie (SubIFDs).
    below: Vec<u64>,
}

impl Directory {
    fn new(little: bool) -> Directory {
        Directory {
            little,
            width: 0,
            height: 0,
            kind: 0,
            bits: vec![1],
            channels: 1,
            sample_format: 1,
            compression: 1,
            photometric: 1,
            fill_order: 1,
            predictor: 1,
            planar: 1,
            extra_samples: Vec::new(),
            most_values: Vec::new(),
            orientation: 1,
            tile: None,
            rows_per_strip: u64::MAX,
            subsampling: vec![2, 2],
            reference: Vec::new(),
            resolution: None,
            resolution_unit: 2,
            ndpi: false,
            description: String::new(),
            texts: String::new(),
            color_map: Vec::new(),
            jpeg_tables: Vec::new(),
            imagej: (Vec::new(), Vec::new()),
            offsets: Vec::new(),
            lengths: Vec::new(),
            below: Vec::new(),
        }
    }

    /// A smaller picture of another page.
    pub fn is_reduced(&self) -> bool {
        self.kind & 1 != 0
    }

    /// A mask of another page.
    pub fn is_mask(&self) -> bool {
        self.kind & 4 != 0 || self.photometric == 4
    }
}

/// Reads every directory, those of the file's chain first, then those below them; with `chunks` also where each strip or tile
/// lies.
///
/// Cameras' files (DNG) begin with a thumbnail and keep the picture below it.
pub fn directories<S: Read + Seek>(source: &mut S, chunks: bool) -> Result<Vec<Directory>, TiffProblem> {
    let mut reader = Reader::new(source, chunks)?;
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut at = reader.first;
    while at != 0 && found.len() < MOST_DIRECTORIES {
        if !seen.insert(at) {
            return Err(TiffProblem::Malformed("its directories form a ring"));
        }
        let (directory, next) = reader.directory(at, 1)?;
        found.push(directory);
        at = next;
    }
    if found.is_empty() {
        return Err(TiffProblem::Malformed("it has no directory"));
    }
    below(&mut reader, &mut seen, &mut found)?;
    Ok(found)
}

/// Appends the directories below those that are found, and those below them.
///
/// Programs that rewrite a picture keep offsets that lead nowhere: below a page that is itself the picture what cannot be read
/// is passed over; below a thumbnail it is the picture.
fn below<S: Read + Seek>(reader: &mut Reader<S>, seen: &mut HashSet<u64>, found: &mut Vec<Directory>) -> Result<(), TiffProblem> {
    let mut parent = 0;
    while parent < found.len() {
        let (needed, orientation) = (found[parent].is_reduced(), found[parent].orientation);
        for mut at in std::mem::take(&mut found[parent].below) {
            while at != 0 && found.len() < MOST_DIRECTORIES && seen.insert(at) {
                match reader.directory(at, orientation) {
                    Ok((directory, next)) if directory.width > 0 && directory.height > 0 => {
                        found.push(directory);
                        at = next;
                    }
                    Err(TiffProblem::Io(error)) => return Err(TiffProblem::Io(error)),
                    Err(problem) if needed => return Err(problem),
                    Ok(_) if needed => return Err(TiffProblem::Malformed("a directory below another has no picture")),
                    Ok(_) | Err(_) => break,
                }
            }
        }
        parent += 1;
    }
    Ok(())
}

struct Reader<'a, S> {
    source: Source<'a, S>,
    little: bool,
    big_tiff: bool,
    first: u64,
    chunks: bool,
    /// What may still be read of texts, lists and entries.
    texts_left: usize,
    numbers_left: u64,
    entries_left: u64,
}

/// One entry of a directory: `count` values of `kind`, at `at`.
struct Entry {
    tag: u64,
    kind: u64,
    count: u64,
    at: u64,
}

impl<'a, S: Read + Seek> Reader<'a, S> {
    fn new(source: &'a mut S, chunks: bool) -> Result<Self, TiffProblem> {
        let mut source = Source::new(source)?;
        let head = source.array::<4>(0)?.ok_or(TiffProblem::Beyond("the header"))?;
        let (little, big_tiff) = match &head {
            b"II*\0" => (true, false),
            b"MM\0*" => (false, false),
            b"II+\0" => (true, true),
            b"MM\0+" => (false, true),
            _ => return Err(TiffProblem::Malformed("it has no TIFF header")),
        };
        let mut reader = Reader {
            source,
            little,
            big_tiff,
            first: 0,
            chunks,
            texts_left: ALL_TEXTS,
            numbers_left: ALL_NUMBERS,
            entries_left: ALL_ENTRIES,
        };
        reader.first = if big_tiff { reader.number(8, 8, "the header")? } else { reader.number(4, 4, "the header")? };
        Ok(reader)
    }

    fn bytes(&mut self, at: u64, count: usize, what: &'static str) -> Result<Vec<u8>, TiffProblem> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let read = self.source.up_to(at, count)?;
        if read.len() < count { Err(TiffProblem::Beyond(what)) } else { Ok(read) }
    }

    fn number(&mut self, at: u64, bytes: usize, what: &'static str) -> Result<u64, TiffProblem> {
        Ok(fold(&self.bytes(at, bytes, what)?, self.little))
    }

    /// The directory at `at` and where the next one lies; `orientation` is what it has where it states none.
    fn directory(&mut self, at: u64, orientation: u64) -> Result<(Directory, u64), TiffProblem> {
        let (count_bytes, entry_bytes, offset_bytes) = if self.big_tiff { (8, 20, 8) } else { (2, 12, 4) };
        let count = self.number(at, count_bytes, "a directory")?;
        if count > MOST_ENTRIES {
            return Err(TiffProblem::Malformed("a directory has too many entries"));
        }
        self.entries_left =
            self.entries_left.checked_sub(count).ok_or(TiffProblem::Malformed("its directories have too many entries in all"))?;
        let first = at.saturating_add(count_bytes as u64);
        let entries = self.bytes(first, count as usize * entry_bytes, "a directory")?;
        let mut directory = Directory { orientation, ..Directory::new(self.little) };
        for (index, entry) in entries.chunks_exact(entry_bytes).enumerate() {
            let entry = self.entry(entry, first.saturating_add((index * entry_bytes) as u64));
            self.apply(&entry, &mut directory)?;
        }
        let next = self.number(first.saturating_add(entries.len() as u64), offset_bytes, "a directory")?;
        Ok((directory, next))
    }

    fn entry(&self, bytes: &[u8], at: u64) -> Entry {
        let number = |from: usize, count: usize| fold(&bytes[from..from + count], self.little);
        let (kind, value_bytes) = (number(2, 2), if self.big_tiff { 8 } else { 4 });
        let count = number(4, value_bytes);
        let inside = count.saturating_mul(kind_bytes(kind)) <= value_bytes as u64;
        let at = if inside { at.saturating_add(4 + value_bytes as u64) } else { number(4 + value_bytes, value_bytes) };
        Entry { tag: number(0, 2), kind, count, at }
    }

    fn apply(&mut self, entry: &Entry, directory: &mut Directory) -> Result<(), TiffProblem> {
        match entry.tag {
            254 => directory.kind |= self.value(entry)?,
            255 => directory.kind |= u64::from(self.value(entry)? == 2),
            256 => directory.width = self.value(entry)?,
            257 => directory.height = self.value(entry)?,
            258 => directory.bits = self.values(entry, 64)?,
            259 => directory.compression = self.value(entry)?,
            262 => directory.photometric = self.value(entry)?,
            266 => directory.fill_order = self.value(entry)?,
            270 => {
                let text = self.text(entry)?;
                directory.texts.push_str(&text);
                directory.description = text;
            }
            271 | 305 | 700 => directory.texts.push_str(&self.text(entry)?),
            274 => directory.orientation = self.value(entry)?,
            277 => directory.channels = self.value(entry)?,
            278 => directory.rows_per_strip = self.value(entry)?,
            281 => directory.most_values = self.values(entry, 64)?,
            282 => directory.resolution = self.ratios(entry, 1)?.first().copied(),
            284 => directory.planar = self.value(entry)?,
            296 => directory.resolution_unit = self.value(entry)?,
            317 => directory.predictor = self.value(entry)?,
            320 => directory.color_map = self.values(entry, 3 << 16)?,
            322 => directory.tile = Some((self.value(entry)?, directory.tile.map_or(0, |tile| tile.1))),
            323 => directory.tile = Some((directory.tile.map_or(0, |tile| tile.0), self.value(entry)?)),
            330 => directory.below = self.values(entry, MOST_DIRECTORIES as u64)?,
            338 => directory.extra_samples = self.values(entry, 64)?,
            339 => directory.sample_format = self.value(entry)?,
            347 if self.chunks => directory.jpeg_tables = self.raw(entry)?,
            530 => directory.subsampling = self.values(entry, 2)?,
            532 => directory.reference = self.ratios(entry, 6)?,
            50838 if self.chunks => directory.imagej.0 = self.values(entry, 4096)?,
            50839 if self.chunks => directory.imagej.1 = self.raw(entry)?,
            273 | 324 if self.chunks => directory.offsets = self.values(entry, MOST_CHUNKS)?,
            279 | 325 if self.chunks => directory.lengths = self.values(entry, MOST_CHUNKS)?,
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
        self.numbers_left =
            self.numbers_left.checked_sub(entry.count).ok_or(TiffProblem::Malformed("its lists are too long in all"))?;
        let size = kind_bytes(entry.kind) as usize;
        let bytes = self.bytes(entry.at, entry.count as usize * size, "a list of values")?;
        Ok(bytes.chunks_exact(size).map(|value| fold(value, self.little)).collect())
    }

    fn ratios(&mut self, entry: &Entry, most: u64) -> Result<Vec<f64>, TiffProblem> {
        let size = kind_bytes(entry.kind) as usize;
        let bytes = self.bytes(entry.at, entry.count.min(most) as usize * size, "a list of ratios")?;
        let ratio = |value: &[u8]| match entry.kind {
            5 => fold(&value[..4], self.little) as f64 / fold(&value[4..], self.little) as f64,
            11 => f64::from(f32::from_bits(fold(value, self.little) as u32)),
            12 => f64::from_bits(fold(value, self.little)),
            _ => fold(value, self.little) as f64,
        };
        Ok(bytes.chunks_exact(size).map(ratio).collect())
    }

    /// Bytes as they stand, cut where the bounds are reached.
    fn raw(&mut self, entry: &Entry) -> Result<Vec<u8>, TiffProblem> {
        let count = entry.count.saturating_mul(kind_bytes(entry.kind)).min(self.texts_left as u64).min(LONGEST_TEXT) as usize;
        self.texts_left -= count;
        self.bytes(entry.at, count, "a text")
    }

    fn text(&mut self, entry: &Entry) -> Result<String, TiffProblem> {
        Ok(String::from_utf8_lossy(&self.raw(entry)?).into_owned() + "\n")
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
