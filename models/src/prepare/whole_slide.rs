//! Recognises whole-slide files, which the appliance does not read, from their headers.

use std::io::{self, Read, Seek};

use super::source::Source;
use super::tiff_directory::{self, Directory, TiffProblem};

/// A recognised whole slide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeSlide {
    /// Whose format it is.
    pub vendor: &'static str,
    /// Width and height in pixels where the header says so.
    pub size: Option<(u64, u64)>,
}

/// Endings of formats that are recognised by name, because their content says too little.
const ENDINGS: [(&str, &str); 10] = [
    (".mrxs", "MIRAX"),
    (".vms", "Hamamatsu"),
    (".vmu", "Hamamatsu"),
    (".svslide", "Sakura"),
    (".isyntax", "Philips"),
    (".qptiff", "Akoya"),
    (".vsi", "Olympus"),
    (".ets", "Olympus"),
    (".zarr", "OME-Zarr"),
    (".zarr.zip", "OME-Zarr"),
];

/// Texts in a TIFF's description, software, make or XMP.
const TIFF_WORDS: [(&str, &str); 5] = [
    ("Aperio", "Aperio"),
    ("http://www.leica-microsystems.com/scn", "Leica"),
    ("Philips", "Philips"),
    ("iScan", "Ventana"),
    ("PerkinElmer-QPI", "Akoya"),
];

/// Looks at the name's ending and at the header (at most 64 KiB and the TIFF directories).
///
/// A TIFF of no known maker is a whole slide when it has a side above `max_side` and lies in tiles or several pages.
pub fn recognise<S: Read + Seek>(source: &mut S, name: &str, max_side: u32) -> io::Result<Option<WholeSlide>> {
    let lower = name.to_ascii_lowercase();
    if let Some((_, vendor)) = ENDINGS.iter().find(|(ending, _)| lower.ends_with(ending)) {
        return Ok(Some(WholeSlide { vendor, size: None }));
    }
    let head = Source::new(source)?.up_to(0, 132)?;
    if head.starts_with(b"ZISRAWFILE") {
        return Ok(Some(WholeSlide { vendor: "Zeiss", size: None }));
    }
    if head.get(128..132) == Some(b"DICM") {
        return Ok(Some(WholeSlide { vendor: "DICOM", size: None }));
    }
    if !is_tiff(&head) {
        return Ok(None);
    }
    match tiff_directory::directories(source, false) {
        Ok(directories) => Ok(tiff_slide(&directories, max_side)),
        Err(TiffProblem::Io(error)) => Err(error),
        Err(TiffProblem::Beyond(_) | TiffProblem::Malformed(_)) => Ok(None),
    }
}

/// Whether `head` begins like TIFF or BigTIFF.
pub(super) fn is_tiff(head: &[u8]) -> bool {
    [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| head.starts_with(*magic))
}

fn tiff_slide(directories: &[Directory], max_side: u32) -> Option<WholeSlide> {
    let largest = directories.iter().max_by_key(|one| one.width.saturating_mul(one.height))?;
    let size = Some((largest.width, largest.height));
    if directories.iter().any(|one| one.ndpi) {
        return Some(WholeSlide { vendor: "Hamamatsu", size });
    }
    for (word, vendor) in TIFF_WORDS {
        if directories.iter().any(|one| one.texts.contains(word)) {
            return Some(WholeSlide { vendor, size });
        }
    }
    let large = largest.width.max(largest.height) > u64::from(max_side);
    (large && (largest.tiled || directories.len() > 1)).then_some(WholeSlide { vendor: "pyramidal TIFF", size })
}
