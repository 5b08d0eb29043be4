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
const ENDINGS: [(&str, &str); 11] = [
    (".dzi", "Deep Zoom"),
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

/// Endings of TIFFs that hold slides, whatever their size.
const TIFF_ENDINGS: [&str; 4] = [".svs", ".ndpi", ".scn", ".bif"];

/// Looks at the name's ending and at the header (at most 64 KiB and the TIFF directories).
///
/// Patches that were cut from a slide often keep its description. A TIFF with a maker's words is a whole slide when it also
/// has a side above `max_side`, a page with the slide's label or overview, or a slide's ending; one of no known maker when it
/// has a side above `max_side` and lies in tiles or several pages.
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
        Ok(directories) => Ok(tiff_slide(&directories, &lower, max_side)),
        Err(TiffProblem::Io(error)) => Err(error),
        Err(TiffProblem::Beyond(_) | TiffProblem::Malformed(_)) => Ok(None),
    }
}

/// Whether `head` begins like TIFF or BigTIFF.
pub(super) fn is_tiff(head: &[u8]) -> bool {
    [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| head.starts_with(*magic))
}

fn tiff_slide(directories: &[Directory], name: &str, max_side: u32) -> Option<WholeSlide> {
    let largest = directories.iter().max_by_key(|one| one.width.saturating_mul(one.height))?;
    let size = Some((largest.width, largest.height));
    let large = largest.width.max(largest.height) > u64::from(max_side);
    let word = || TIFF_WORDS.iter().find(|(word, _)| directories.iter().any(|one| one.texts.contains(word)));
    let maker = if directories.iter().any(|one| one.ndpi) { Some("Hamamatsu") } else { word().map(|(_, vendor)| *vendor) };
    if let Some(vendor) = maker {
        let named = TIFF_ENDINGS.iter().any(|ending| name.ends_with(ending));
        return (large || named || directories.iter().any(shows_glass)).then_some(WholeSlide { vendor, size });
    }
    (large && (largest.tile.is_some() || directories.len() > 1)).then_some(WholeSlide { vendor: "pyramidal TIFF", size })
}

/// A page with the slide's label or an overview of the whole glass: Aperio names them on the second line of their
/// descriptions, Philips and Ventana with one word.
fn shows_glass(page: &Directory) -> bool {
    let lower = page.description.trim().to_ascii_lowercase();
    let named = |text: &str| ["label", "macro"].iter().any(|word| text.trim_start().starts_with(word));
    named(&lower) || lower.lines().nth(1).is_some_and(named) || page.kind == 9
}
