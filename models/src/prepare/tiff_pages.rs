//! Which page of a TIFF is the picture, and whether the others are others.

use super::decode::{Damage, Rgb8Image};
use super::header::{DecodeError, Limits};
use super::tiff_directory::Directory;
use super::tiff_pixels;

/// Pages that are decoded to be compared; a file with more of them holds several pictures.
const MOST_COMPARED: usize = 16;
/// Mean difference of grey levels between a picture and its smaller copy.
const SAME: u64 = 12;

/// What a file's pages give.
pub struct Picture {
    /// The picture.
    pub image: Rgb8Image,
    /// The first damage.
    pub damage: Option<Damage>,
    /// Why the file is more than one picture.
    pub several: Option<String>,
    /// EXIF orientation, 1 to 8.
    pub orientation: u64,
}

/// Decodes the first page that is neither a reduced image nor a mask, or composes ImageJ's channels.
///
/// Other pages may be smaller copies or the same again.
pub fn picture(bytes: &[u8], directories: &[Directory], limits: &Limits) -> Result<Picture, DecodeError> {
    let mains: Vec<&Directory> = mains(directories);
    let Some(&first) = mains.first() else { return Err(DecodeError::DecodeFailed("as a TIFF, it has no page".to_string())) };
    if let Some(picture) = composite(bytes, &mains, limits)? {
        return Ok(picture);
    }
    let (image, damage) = tiff_pixels::page(bytes, first, limits)?;
    let mut several = hidden_pages(first, mains.len());
    if mains.len() > MOST_COMPARED {
        several = Some(format!("it has {} pages", mains.len()));
    }
    for (number, other) in mains.iter().enumerate().skip(1) {
        if several.is_some() {
            break;
        }
        if !is_copy(bytes, &image, other, limits) {
            several = Some(format!("page {} of {} shows something else than page 1", number + 1, mains.len()));
        }
    }
    Ok(Picture { image, damage, several, orientation: first.orientation })
}

/// The pages that are neither reduced images nor masks; all where there is no other.
pub fn mains(directories: &[Directory]) -> Vec<&Directory> {
    let mains: Vec<&Directory> = directories.iter().filter(|one| !one.is_reduced() && !one.is_mask()).collect();
    if mains.is_empty() { directories.iter().filter(|one| !one.is_mask()).collect() } else { mains }
}

/// ImageJ stores further pages without directories, OME-TIFF in other files.
fn hidden_pages(first: &Directory, pages: usize) -> Option<String> {
    let number = |name: &str| imagej(&first.description, name).and_then(|value| value.parse::<usize>().ok()).unwrap_or(1);
    if number("images") > pages {
        return Some(format!("ImageJ stored {} images in it", number("images")));
    }
    let planes = |name: &str| {
        let xml = first.description.contains("<OME").then_some(first.description.as_str());
        xml.and_then(|xml| tiff_pixels::attribute(xml, name)).and_then(|value| value.parse::<usize>().ok()).unwrap_or(1)
    };
    (planes("SizeZ").saturating_mul(planes("SizeT")) > 1).then(|| "its OME-XML describes a stack or a series".to_string())
}

/// A value of ImageJ's description, a line `name=value`.
pub fn imagej<'a>(description: &'a str, name: &str) -> Option<&'a str> {
    let lines = description.strip_prefix("ImageJ=")?.lines();
    lines.filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value.trim())
}

/// ImageJ's composites of a red, a green and a blue channel, each a grey page.
fn composite(bytes: &[u8], pages: &[&Directory], limits: &Limits) -> Result<Option<Picture>, DecodeError> {
    let &[red, green, blue] = pages else { return Ok(None) };
    let says = |name: &str, value: &str| imagej(&red.description, name) == Some(value);
    if !says("channels", "3") || !says("images", "3") || !says("mode", "composite") || !has_primary_colours(red) {
        return Ok(None);
    }
    let alike =
        |page: &Directory| page.photometric == 1 && page.channels == 1 && (page.width, page.height) == (red.width, red.height);
    if ![red, green, blue].into_iter().all(alike) {
        return Ok(None);
    }
    let (mut image, mut damage) = tiff_pixels::page(bytes, red, limits)?;
    for (channel, page) in [(1, green), (2, blue)] {
        let (plane, found) = tiff_pixels::page(bytes, page, limits)?;
        damage = damage.or(found);
        for (pixel, grey) in image.pixels.chunks_exact_mut(3).zip(plane.pixels.chunks_exact(3)) {
            pixel[channel] = grey[0];
        }
    }
    Ok(Some(Picture { image, damage, several: None, orientation: red.orientation }))
}

/// Whether the channels' colour tables, where ImageJ stored any, are red, green and blue.
fn has_primary_colours(page: &Directory) -> bool {
    let (lengths, data) = &page.imagej;
    let Some(&header) = lengths.first() else { return true };
    let (mut at, mut part) = (header as usize, 1);
    let kinds = data.get(4..header as usize).unwrap_or_default();
    for kind in kinds.chunks_exact(8) {
        let name = if page.little { [kind[3], kind[2], kind[1], kind[0]] } else { [kind[0], kind[1], kind[2], kind[3]] };
        let count = [kind[4], kind[5], kind[6], kind[7]];
        let count = if page.little { u32::from_le_bytes(count) } else { u32::from_be_bytes(count) };
        for index in 0..(count as usize).min(lengths.len()) {
            let length = lengths.get(part).map_or(0, |&length| length as usize);
            if &name == b"luts" {
                let table = data.get(at..at.saturating_add(length)).unwrap_or_default();
                let is_primary = table.len() == 768
                    && (0..768).all(|place| usize::from(table[place]) == if place / 256 == index { place % 256 } else { 0 });
                if !is_primary {
                    return false;
                }
            }
            at = at.saturating_add(length);
            part += 1;
        }
    }
    true
}

/// Whether a page shows the same as `image`, as large or smaller.
fn is_copy(bytes: &[u8], image: &Rgb8Image, page: &Directory, limits: &Limits) -> bool {
    let (width, height) = (page.width as usize, page.height as usize);
    let fits = |whole: usize, part: usize, other_whole: usize, other: usize| {
        let expected = whole as f64 * other as f64 / other_whole as f64;
        (part as f64 - expected).abs() <= 1.5
    };
    if width == 0 || height == 0 || width > image.width || height > image.height {
        return false;
    }
    if !fits(image.width, width, image.height, height) && !fits(image.height, height, image.width, width) {
        return false;
    }
    // A copy may be smaller than an image must be.
    let limits = Limits { min_side: 1, ..*limits };
    let Ok((other, _)) = tiff_pixels::page(bytes, page, &limits) else { return false };
    if (width, height) == (image.width, image.height) {
        return other.pixels == image.pixels;
    }
    let mut difference = 0;
    for y in 0..height {
        for x in 0..width {
            let mean = area_mean(image, (x, width), (y, height));
            let pixel = &other.pixels[(y * width + x) * 3..][..3];
            difference += (0..3).map(|channel| u64::from(mean[channel].abs_diff(pixel[channel]))).sum::<u64>();
        }
    }
    difference <= SAME * (width * height * 3) as u64
}

/// Mean colour of the part of `image` that pixel `x` of `columns`, `y` of `rows` covers; pixels at its edge count by their share.
fn area_mean(image: &Rgb8Image, (x, columns): (usize, usize), (y, rows): (usize, usize)) -> [u8; 3] {
    let shares = |at: usize, count: usize, whole: usize| {
        let (begin, end) = ((at * whole) as f64 / count as f64, ((at + 1) * whole) as f64 / count as f64);
        let last = (end.ceil() as usize).min(whole);
        (begin as usize..last).map(move |pixel| (pixel, (end.min(pixel as f64 + 1.0) - begin.max(pixel as f64)).max(0.0)))
    };
    let (mut sums, mut total) = ([0.0; 3], 0.0);
    for (row, height) in shares(y, rows, image.height) {
        for (column, width) in shares(x, columns, image.width) {
            let pixel = &image.pixels[(row * image.width + column) * 3..][..3];
            (0..3).for_each(|channel| sums[channel] += f64::from(pixel[channel]) * height * width);
            total += height * width;
        }
    }
    sums.map(|sum| (sum / total).round() as u8)
}
