//! The scale that an image file states.

use std::io::Cursor;

use super::bmp::{self, BmpHeader};
use super::exif::{self, Exif};
use super::header::Format;
use super::tiff_directory::{self, Directory};
use super::tiff_pages;
use super::tiff_pixels::attribute;

/// Micrometres a pixel if the file states them.
///
/// What is stated in a unit of microscopy (OME-XML, ImageJ in micrometres and the like, `MPP`) is believed from 0.01 to 1000:
/// a scale that no model has seen must be refused, not taken for unknown. Densities an inch, centimetre or metre are often
/// those of a screen or a printer; they count only up to 20 (1270 dots an inch), which neither has.
///
/// In this order: OME-XML, ImageJ's unit, the format's own field (TIFF's XResolution, PNG's `pHYs`, JFIF's density, BMP's
/// pixels a metre), EXIF, and what slide scanners write into a TIFF's description (`MPP = 0.25`).
pub fn microns_per_pixel(bytes: &[u8]) -> Option<f64> {
    let stated = match Format::of(bytes.get(..64).unwrap_or(bytes))? {
        Format::Png => png_chunk(bytes, b"pHYs")
            .and_then(png_resolution)
            .into_iter()
            .chain(png_chunk(bytes, b"eXIf").and_then(exif_resolution))
            .map(Stated::AsDensity)
            .collect(),
        Format::Jpeg => {
            let jfif = exif::jpeg_segment(bytes, 0xe0, b"JFIF\0").and_then(jfif_resolution);
            let exif = exif::jpeg_segment(bytes, 0xe1, b"Exif\0\0").and_then(exif_resolution);
            jfif.into_iter().chain(exif).map(Stated::AsDensity).collect()
        }
        Format::Bmp => BmpHeader::parse(&bytes[..bytes.len().min(bmp::HEADER)])
            .map(|header| Stated::AsDensity(1e6 / header.pixels_per_metre as f64))
            .into_iter()
            .collect(),
        Format::Tiff => tiff_resolutions(bytes),
    };
    stated.into_iter().find_map(Stated::believed)
}

/// How a file states micrometres a pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stated {
    /// As a length, in a unit of microscopy.
    AsLength(f64),
    /// As dots an inch, centimetre or metre.
    AsDensity(f64),
}

impl Stated {
    fn believed(self) -> Option<f64> {
        match self {
            Stated::AsLength(microns) => (0.01..=1000.0).contains(&microns).then_some(microns),
            Stated::AsDensity(microns) => (0.01..=20.0).contains(&microns).then_some(microns),
        }
    }
}

/// Micrometres of a unit's name.
fn unit(name: &str) -> Option<f64> {
    Some(match name.trim() {
        "\u{b5}m" | "\u{3bc}m" | "um" | "micron" | "microns" | "micrometer" | "micrometre" | "\\u00B5m" | "&#181;m"
        | "&#xB5;m" | "&#956;m" => 1.0,
        "nm" | "nanometer" | "nanometre" => 1e-3,
        "mm" | "millimeter" | "millimetre" => 1e3,
        "cm" | "centimeter" | "centimetre" => 1e4,
        "m" | "meter" | "metre" => 1e6,
        "in" | "inch" | "inches" => 25_400.0,
        _ => return None,
    })
}

fn tiff_resolutions(bytes: &[u8]) -> Vec<Stated> {
    let Ok(directories) = tiff_directory::directories(&mut Cursor::new(bytes), false) else { return Vec::new() };
    let mains = tiff_pages::mains(&directories);
    let Some(page) = mains.first() else { return Vec::new() };
    let first = directories.first().map_or("", |first| first.description.as_str());
    let own = match page.resolution_unit {
        3 => page.resolution.map(|density| 10_000.0 / density),
        2 => page.resolution.map(|density| 25_400.0 / density),
        _ => None,
    };
    let scanner = scanner(&page.description).or_else(|| scanner(first));
    let stated =
        [ome(first).map(Stated::AsLength), imagej(page, first), own.map(Stated::AsDensity), scanner.map(Stated::AsLength)];
    stated.into_iter().flatten().collect()
}

/// OME-XML's physical size, micrometres unless it says otherwise.
fn ome(description: &str) -> Option<f64> {
    let xml = description.contains("<OME").then_some(description)?;
    let size: f64 = attribute(xml, "PhysicalSizeX")?.trim().parse().ok()?;
    Some(size * attribute(xml, "PhysicalSizeXUnit").map_or(Some(1.0), unit)?)
}

/// ImageJ keeps pixels a unit in XResolution and the unit's name in its description. Inches and centimetres it takes over from
/// files that state a density.
fn imagej(page: &Directory, description: &str) -> Option<Stated> {
    let unit = unit(tiff_pages::imagej(description, "unit")?)?;
    let microns = unit / page.resolution?;
    Some(if unit > 1e3 { Stated::AsDensity(microns) } else { Stated::AsLength(microns) })
}

/// `MPP = 0.2520` of Aperio's descriptions.
fn scanner(description: &str) -> Option<f64> {
    let field = description.split(['|', '\n', ';']).find_map(|field| field.trim().strip_prefix("MPP"))?;
    field.trim_start().strip_prefix('=')?.trim().parse().ok()
}

/// The data of a PNG's chunk in front of the picture data.
fn png_chunk<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    loop {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, data) = after.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        match kind {
            kind if kind == name => return data.get(..length),
            b"IDAT" | b"IEND" => return None,
            _ => rest = data.get(length.checked_add(4)?..)?,
        }
    }
}

/// PNG's `pHYs` in pixels a metre.
fn png_resolution(data: &[u8]) -> Option<f64> {
    let (x, unit) = (u32::from_be_bytes(*data.first_chunk()?), *data.get(8)?);
    (unit == 1 && x > 0).then(|| 1e6 / f64::from(x))
}

/// JFIF's density in dots an inch or centimetre.
fn jfif_resolution(data: &[u8]) -> Option<f64> {
    let density = f64::from(u16::from_be_bytes([*data.get(3)?, *data.get(4)?]));
    match data.get(2)? {
        1 => Some(25_400.0 / density),
        2 => Some(10_000.0 / density),
        _ => None,
    }
}

fn exif_resolution(data: &[u8]) -> Option<f64> {
    let exif = Exif::parse(data);
    let density = exif.resolution?;
    match exif.resolution_unit {
        2 => Some(25_400.0 / density),
        3 => Some(10_000.0 / density),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_microscopes_scales_count() {
        let png = |per_metre: u32| {
            let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x09pHYs".to_vec();
            bytes.extend(per_metre.to_be_bytes());
            bytes.extend(per_metre.to_be_bytes());
            bytes.extend([1, 0, 0, 0, 0]);
            bytes
        };
        assert_eq!(microns_per_pixel(&png(2_000_000)), Some(0.5));
        assert_eq!(microns_per_pixel(&png(2835)), None);
        assert_eq!(microns_per_pixel(b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\x02\x4e\x20\x4e\x20\0\0"), Some(0.5));
        assert_eq!(microns_per_pixel(b"nothing"), None);
    }

    #[test]
    fn descriptions_state_scales() {
        let ome = |unit: &str| {
            super::ome(&format!("<?xml?><OME><Pixels SizeX=\"9\" PhysicalSizeX=\"250\" {unit} PhysicalSizeY=\"1\"/></OME>"))
        };
        assert_eq!(ome("PhysicalSizeXUnit=\"nm\""), Some(0.25));
        assert_eq!(ome(""), Some(250.0));
        assert_eq!(ome("PhysicalSizeXUnit=\"furlong\""), None);
        assert_eq!(
            scanner("Aperio Image Library v11.2.1\n1536x1024 (256x256) JPEG/YCC Q=70|AppMag = 40|MPP = 0.2520"),
            Some(0.252)
        );
        assert_eq!(scanner("AppMag = 40"), None);
    }
}
