//! JPEG to samples, strictly: as libjpeg-turbo computes them, and every sign of damage is told.
//!
//! Baseline, extended and progressive Huffman files of 8 bits, after ITU T.81. The inverse transform, the upsampling and
//! the colour conversion are those of libjpeg-turbo's defaults (accurate integer transform, triangle filter), bit for bit.
//! Beyond what libjpeg warns about these are damage: coefficients behind the last, values that 8-bit samples cannot have,
//! whole bytes or broken padding left over at the end of a scan, runs of empty blocks that go beyond it, holes of zeros that
//! the file's own tables do not explain, and coefficients that no scan has brought to full precision.

mod blocks;
mod colour;
mod entropy;
mod frame;
mod markers;
mod scan;
mod tables;
mod transform;

pub use colour::Colours;

use frame::Frame;
use markers::{Marker, Markers};
use scan::Scan;
use tables::Tables;

/// What the file gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jpeg {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Samples a pixel: 1 (grey), 3 (RGB or as stored) or 4 (CMYK, as stored).
    pub channels: usize,
    /// Samples, `[height, width, channels]`.
    pub samples: Vec<u8>,
    /// The first sign of damage.
    pub damage: Option<String>,
}

/// Why there are no samples at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JpegError {
    /// A kind of JPEG that is not read; the text names it.
    Unsupported(String),
    /// Damaged before any sample could be read.
    Damaged(String),
    /// Larger than the caller expects.
    TooLarge,
}

/// What the caller expects.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most pixels a row.
    pub width: usize,
    /// Most rows.
    pub height: usize,
    /// Most bytes that may be allocated.
    pub alloc: u64,
}

/// What stands behind the first sign of damage, or why decoding ends.
type Found<T> = Result<T, String>;

/// Decodes one stream; `shared` are the tables that a TIFF keeps beside its strips.
pub fn decode(bytes: &[u8], shared: Option<&[u8]>, colours: Colours, bounds: &Bounds) -> Result<Jpeg, JpegError> {
    let mut decoder = Decoder { tables: Tables::default(), frame: None, marks: colour::Marks::default(), damage: None };
    if let Some(shared) = shared {
        decoder.read(shared, bounds)?;
    }
    decoder.read(bytes, bounds)?;
    decoder.finish(colours)
}

/// Names the kind of a frame (the marker's second byte and the bits a sample) that is not read.
pub fn unread_kind(marker: u8, precision: u8) -> Option<String> {
    match marker {
        0xc0..=0xc2 if precision == 8 => None,
        0xc0..=0xc2 => Some(format!("a JPEG of {precision}-bit samples")),
        0xc3 => Some("lossless JPEG".to_string()),
        0xc5..=0xc7 => Some("hierarchical JPEG".to_string()),
        0xc9..=0xcb => Some("JPEG with arithmetic coding".to_string()),
        0xcd..=0xcf => Some("hierarchical JPEG with arithmetic coding".to_string()),
        0xf7 => Some("JPEG-LS".to_string()),
        _ => None,
    }
}

struct Decoder {
    tables: Tables,
    frame: Option<Frame>,
    marks: colour::Marks,
    damage: Option<String>,
}

impl Decoder {
    fn tell(&mut self, damage: String) {
        self.damage.get_or_insert(damage);
    }

    /// Reads markers and scans to the end mark.
    fn read(&mut self, bytes: &[u8], bounds: &Bounds) -> Result<(), JpegError> {
        let mut markers = Markers::new(bytes).map_err(JpegError::Damaged)?;
        loop {
            match markers.next() {
                Ok(Marker { code: 0xd9, .. }) => return Ok(()),
                Ok(marker) => {
                    if let Err(damage) = self.apply(marker, &mut markers, bounds)? {
                        self.tell(damage);
                        return Ok(());
                    }
                }
                Err(damage) => {
                    self.tell(damage);
                    return Ok(());
                }
            }
        }
    }

    /// Outer errors leave no image, inner ones are damage behind which nothing can be read.
    fn apply(&mut self, marker: Marker, markers: &mut Markers, bounds: &Bounds) -> Result<Found<()>, JpegError> {
        let data = marker.data;
        match marker.code {
            0xdb => return Ok(self.tables.quantisers(data)),
            0xc4 => return Ok(self.tables.huffman(data)),
            0xdd => return Ok(self.tables.restarts(data)),
            0xe0 | 0xee => self.marks.application(marker.code, data),
            0xda => return Ok(self.scan(data, markers)),
            0xdc => return Err(JpegError::Unsupported("a JPEG whose height stands behind its picture data".to_string())),
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcf | 0xf7 => {
                if let Some(kind) = unread_kind(marker.code, data.first().copied().unwrap_or(8)) {
                    return Err(JpegError::Unsupported(kind));
                }
                if self.frame.is_some() {
                    return Ok(Err("it has a second frame".to_string()));
                }
                self.frame = Some(Frame::parse(marker.code, data, bounds)?);
            }
            0xd8 => return Ok(Err("a second start mark stands in it".to_string())),
            // Some encoders write a restart mark behind the last interval; what follows it must be a marker.
            _ => {}
        }
        Ok(Ok(()))
    }

    fn scan(&mut self, data: &[u8], markers: &mut Markers) -> Found<()> {
        let frame = self.frame.as_mut().ok_or("a scan stands in front of the frame")?;
        let scan = Scan::parse(data, frame, &self.tables)?;
        let (end, damage) = scan.read(frame, markers.bytes, markers.at);
        markers.at = end;
        if let Some(damage) = damage {
            self.tell(damage);
        }
        Ok(())
    }

    fn finish(mut self, colours: Colours) -> Result<Jpeg, JpegError> {
        let none = self.damage.clone().unwrap_or_else(|| "it has no picture data".to_string());
        let mut frame = self.frame.take().filter(|frame| frame.scans > 0).ok_or(JpegError::Damaged(none))?;
        if let Some(missing) = frame.missing() {
            self.tell(missing);
        }
        frame.transform();
        if let Some(damage) = self.marks.contradiction(frame.components.len(), colours) {
            self.tell(damage);
        }
        let (channels, samples) = colour::samples(&frame, &self.marks, colours).map_err(JpegError::Unsupported)?;
        Ok(Jpeg { width: frame.width, height: frame.height, channels, samples, damage: self.damage })
    }
}
