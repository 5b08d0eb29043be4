//! EXIF: a small TIFF inside JPEG and PNG files.

use std::io::Cursor;

use super::tiff_directory::{self, Directory};

/// What is used of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exif {
    /// 1 to 8; 1 where nothing is said.
    pub orientation: u64,
    /// Pixels a unit across.
    pub resolution: Option<f64>,
    /// 2 inch, 3 centimetre.
    pub resolution_unit: u64,
}

impl Exif {
    /// From the TIFF's first directory; nothing is said where that is broken.
    pub fn parse(tiff: &[u8]) -> Exif {
        let first = tiff_directory::directories(&mut Cursor::new(tiff), false).ok().and_then(|list| list.into_iter().next());
        first.map_or(
            Exif { orientation: 1, resolution: None, resolution_unit: 2 },
            |Directory { orientation, resolution, resolution_unit, .. }| Exif { orientation, resolution, resolution_unit },
        )
    }
}

/// A JPEG's EXIF segment.
pub fn of_jpeg(bytes: &[u8]) -> Exif {
    Exif::parse(jpeg_segment(bytes, 0xe1, b"Exif\0\0").unwrap_or_default())
}

/// What follows `name` in the first application segment of that kind, in front of the picture data.
pub fn jpeg_segment<'a>(bytes: &'a [u8], marker: u8, name: &[u8]) -> Option<&'a [u8]> {
    let mut source = Cursor::new(bytes);
    let mut source = super::source::Source::new(&mut source).ok()?;
    let mut segments = super::completeness::JpegSegments::new();
    while let Some(segment) = segments.next(&mut source).ok()?.filter(|segment| segment.marker != 0xda) {
        let data = bytes.get(segment.data as usize..(segment.data + segment.length) as usize)?;
        if segment.marker == marker && data.starts_with(name) {
            return Some(&data[name.len()..]);
        }
    }
    None
}
