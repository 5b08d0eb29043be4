//! One page of a TIFF to 8-bit RGB.

use super::decode::{Damage, Rgb8Image};
use super::header::{DecodeError, Limits};
use super::jpeg::{self, Bounds, Colours, JpegError};
use super::samples::{self, Alpha};
use super::tiff_directory::Directory;
use super::tiff_layout::{Layout, Place};
use super::zlib;

/// So many pixels a tile may have wherever a page may have fewer.
const LEAST_TILE: u64 = 1 << 20;

/// Pixels of a page, and the first damage that still gave some.
pub fn page(bytes: &[u8], directory: &Directory, limits: &Limits) -> Result<(Rgb8Image, Option<Damage>), DecodeError> {
    refuse_unread(directory)?;
    let layout = Layout::of(directory, bytes.len() as u64).map_err(|what| failed(what.to_string()))?;
    let stored = u64::from(directory.width as u32) * directory.height * directory.channels;
    if directory.width > u64::from(limits.max_side) || stored.saturating_mul(4) > limits.max_alloc {
        return Err(DecodeError::TooLarge { width: directory.width, height: directory.height, limits: *limits });
    }
    // A tile may be larger than its page, and is unpacked whole: what a page may not be, it may not be either.
    let (wide, high) = (layout.width as u64, layout.height as u64);
    let samples = (wide * high).saturating_mul(directory.channels);
    if wide * high > limits.max_pixels.max(LEAST_TILE) || samples.saturating_mul(4) > limits.max_alloc {
        return Err(DecodeError::Unsupported(format!(
            "a TIFF whose tiles are {wide} x {high} pixels, more than any page may have"
        )));
    }
    let mut page = Page { bytes, directory, layout, limits, wide: Vec::new(), narrow: Vec::new(), damage: None };
    let count = (directory.width * directory.height * page.stored_channels() as u64) as usize;
    if page.bits() > 8 {
        page.wide = vec![0; count]
    } else {
        page.narrow = vec![0; count]
    }
    for index in 0..page.layout.count() {
        page.chunk(index)?;
    }
    let pixels = page.rgb()?;
    Ok((Rgb8Image { width: directory.width as usize, height: directory.height as usize, pixels }, page.damage))
}

fn failed(what: String) -> DecodeError {
    DecodeError::DecodeFailed(format!("as a TIFF, {what}"))
}

fn refuse_unread(directory: &Directory) -> Result<(), DecodeError> {
    let unread = |what: String| Err(DecodeError::Unsupported(format!("a TIFF {what}")));
    let compression = match directory.compression {
        1 | 5 | 7 | 8 | 32773 | 32946 => None,
        2..=4 => Some("fax".to_string()),
        6 => Some("old-style JPEG".to_string()),
        33003 | 33005 | 34712 => Some("JPEG 2000".to_string()),
        34925 => Some("LZMA".to_string()),
        50000 => Some("Zstandard".to_string()),
        50001 => Some("WebP".to_string()),
        50002 | 52546 => Some("JPEG XL".to_string()),
        other => Some(format!("(number {other})")),
    };
    if let Some(compression) = compression {
        return unread(format!("with {compression} compression"));
    }
    match directory.sample_format {
        2 => return unread("of signed samples".to_string()),
        3 => return unread("of floating-point samples".to_string()),
        1 | 4 => {}
        other => return unread(format!("of samples of format {other}")),
    }
    if directory.bits.iter().any(|bits| bits != &directory.bits[0]) || !(1..=16).contains(directory.bits.first().unwrap_or(&0)) {
        return unread(format!("of {:?}-bit samples", directory.bits));
    }
    let least = match directory.photometric {
        0 | 1 | 3 => 1,
        2 | 6 => 3,
        5 => 4,
        4 => return unread("that is a mask".to_string()),
        8..=10 => return unread("of L*a*b* colours".to_string()),
        32803 => return unread("of raw camera data".to_string()),
        other => return unread(format!("of photometric interpretation {other}")),
    };
    if directory.channels < least || least == 1 && directory.channels > 2 {
        return unread(format!("of photometric interpretation {} with {} channels", directory.photometric, directory.channels));
    }
    let predicts = directory.predictor == 1 || !matches!(directory.compression, 5 | 8 | 32946);
    if !predicts && (directory.predictor != 2 || !matches!(directory.bits[0], 8 | 16)) {
        return unread(format!("with predictor {} on {}-bit samples", directory.predictor, directory.bits[0]));
    }
    if directory.photometric == 6 && directory.compression != 7 && (directory.bits[0] != 8 || directory.channels != 3) {
        return unread("of luminance and chrominance that are not three channels of 8 bits".to_string());
    }
    if directory.compression == 7 && directory.bits[0] != 8 {
        return unread(format!("with JPEG of {}-bit samples", directory.bits[0]));
    }
    Ok(())
}

struct Page<'a> {
    bytes: &'a [u8],
    directory: &'a Directory,
    layout: Layout<'a>,
    limits: &'a Limits,
    /// Samples of more than 8 bits, interleaved.
    wide: Vec<u16>,
    /// Samples of up to 8 bits, interleaved, as they are stored.
    narrow: Vec<u8>,
    damage: Option<Damage>,
}

impl Page<'_> {
    fn bits(&self) -> usize {
        self.directory.bits[0] as usize
    }

    fn stored_channels(&self) -> usize {
        self.directory.channels as usize
    }

    fn tell(&mut self, what: String) {
        self.damage.get_or_insert(Damage { what });
    }

    fn chunk(&mut self, index: usize) -> Result<(), DecodeError> {
        let place = self.layout.chunk(index);
        let (at, length) = self.layout.place(index);
        if at == 0 || length == 0 {
            return Err(failed(format!("strip or tile {index} is empty")));
        }
        let stored = usize::try_from(at).ok().zip(usize::try_from(at.saturating_add(length)).ok());
        let stored = stored.and_then(|(at, end)| self.bytes.get(at..end));
        let stored = stored.ok_or(DecodeError::Truncated("the TIFF's picture data ends early"))?;
        if self.directory.compression == 7 {
            return self.jpeg(index, stored, &place);
        }
        let reversed: Vec<u8>;
        let stored = if self.directory.fill_order == 2 {
            reversed = stored.iter().map(|byte| byte.reverse_bits()).collect();
            &reversed
        } else {
            stored
        };
        let needed = self.layout.bytes(place.rows);
        let (mut data, problem) = unpacked(self.directory.compression, stored, needed)?;
        if let Some(problem) = problem {
            self.tell(format!("{problem} in strip or tile {index}"));
        }
        if data.len() < needed {
            if data.is_empty() {
                return Err(failed(format!("strip or tile {index} has no data")));
            }
            self.tell(format!("strip or tile {index} ends early"));
            data.resize(needed, 0);
        }
        if self.layout.is_subsampled() {
            self.subsampled(&data, &place);
        } else {
            self.rows(data, &place);
        }
        Ok(())
    }

    /// Rows of samples to their places.
    fn rows(&mut self, mut data: Vec<u8>, place: &Place) {
        let (bits, channels) = (self.bits(), self.layout.channels);
        let row_bytes = (self.layout.width * channels * bits).div_ceil(8);
        let predicted = self.directory.predictor == 2 && matches!(self.directory.compression, 5 | 8 | 32946);
        let (width, height) = (self.directory.width as usize, self.directory.height as usize);
        let (stored, columns) = (self.stored_channels(), self.layout.width.min(width - place.left));
        for (row, line) in data.chunks_exact_mut(row_bytes).enumerate().take(height.saturating_sub(place.top)) {
            let first = ((place.top + row) * width + place.left) * stored + place.plane;
            if bits > 8 {
                let mut values = wide_values(line, bits, self.directory.little);
                if predicted {
                    for at in channels..values.len() {
                        values[at] = values[at].wrapping_add(values[at - channels]);
                    }
                }
                spread(&values[..columns * channels], channels, &mut self.wide[first..], stored);
            } else {
                if predicted {
                    for at in channels..line.len() {
                        line[at] = line[at].wrapping_add(line[at - channels]);
                    }
                }
                if bits == 8 {
                    spread(&line[..columns * channels], channels, &mut self.narrow[first..], stored);
                } else {
                    let values = narrow_values(line, bits, columns * channels);
                    spread(&values, channels, &mut self.narrow[first..], stored);
                }
            }
        }
    }

    /// Units of several luminance samples with one pair of chrominance samples.
    fn subsampled(&mut self, data: &[u8], place: &Place) {
        let [across, down] = self.layout.subsampling();
        let (width, height) = (self.directory.width as usize, self.directory.height as usize);
        let units = self.layout.width.div_ceil(across);
        for (index, unit) in data.chunks_exact(across * down + 2).enumerate() {
            let (top, left) = (place.top + index / units * down, place.left + index % units * across);
            for at in 0..across * down {
                let (y, x) = (top + at / across, left + at % across);
                if y < height && x < width && x - place.left < self.layout.width {
                    let pixel = [unit[at], unit[across * down], unit[across * down + 1]];
                    self.narrow[(y * width + x) * 3..][..3].copy_from_slice(&pixel);
                }
            }
        }
    }

    fn jpeg(&mut self, index: usize, stored: &[u8], place: &Place) -> Result<(), DecodeError> {
        let shared = Some(self.directory.jpeg_tables.as_slice()).filter(|tables| tables.len() > 4);
        let luminance = self.directory.photometric == 6 && self.layout.planes == 1;
        let colours = if luminance { Colours::Luminance } else { Colours::Stored };
        let bounds = Bounds { width: self.layout.width, height: self.layout.height, alloc: self.limits.max_alloc };
        let found = jpeg::decode(stored, shared, colours, &bounds).map_err(|error| match error {
            JpegError::Unsupported(what) => DecodeError::Unsupported(format!("a TIFF with {what}")),
            JpegError::Damaged(what) => failed(format!("in strip or tile {index}, {what}")),
            JpegError::TooLarge => failed(format!("strip or tile {index} is larger than the page says")),
        })?;
        let (width, height) = (self.directory.width as usize, self.directory.height as usize);
        let (columns, rows) = (self.layout.width.min(width - place.left), place.rows.min(height - place.top));
        if found.channels != self.layout.channels {
            return Err(failed(format!("strip or tile {index} has {} channels", found.channels)));
        }
        if let Some(damage) = found.damage {
            self.tell(format!("in strip or tile {index}, {damage}"));
        }
        if found.width < columns || found.height < rows {
            self.tell(format!("strip or tile {index} has fewer pixels than the page says"));
        }
        let (channels, stored) = (found.channels, self.stored_channels());
        for (row, line) in found.samples.chunks_exact(found.width * channels).enumerate().take(rows) {
            let first = ((place.top + row) * width + place.left) * stored + place.plane;
            spread(&line[..columns.min(found.width) * channels], channels, &mut self.narrow[first..], stored);
        }
        Ok(())
    }

    fn alpha(&self, colours: usize) -> Alpha {
        if self.stored_channels() <= colours {
            return Alpha::None;
        }
        match self.directory.extra_samples.first() {
            None | Some(2) => Alpha::Straight,
            Some(1) => Alpha::Premultiplied,
            Some(_) => Alpha::None,
        }
    }

    /// The value that stands for white: 12-bit cameras in 16-bit files state theirs, or nobody knows.
    fn white(&self) -> u16 {
        let bits = self.bits() as u32;
        let all = u16::MAX >> (16 - bits);
        let stated = self.directory.most_values.first().copied().and_then(|most| u16::try_from(most).ok());
        let significant = attribute(&self.directory.description, "SignificantBits").and_then(|bits| bits.parse::<u32>().ok());
        let significant = significant.filter(|bits| (8..bits_of(all) + 1).contains(bits)).map(|bits| u16::MAX >> (16 - bits));
        // Some programs write the largest value there instead of the range.
        stated.filter(|&most| most >= 255 && (most & (most.wrapping_add(1))) == 0).or(significant).unwrap_or(all).min(all)
    }

    fn rgb(&mut self) -> Result<Vec<u8>, DecodeError> {
        let directory = self.directory;
        let channels = self.stored_channels();
        let colours = match directory.photometric {
            0 | 1 | 3 => 1,
            5 => 4,
            _ => 3,
        };
        let alpha = self.alpha(colours);
        let mut narrow = std::mem::take(&mut self.narrow);
        if directory.photometric == 3 {
            return self.palette(&narrow, alpha);
        }
        let bits = self.bits();
        if bits > 8 {
            let wide = std::mem::take(&mut self.wide);
            let white = self.white();
            if white == u16::MAX && matches!(directory.photometric, 1 | 2) {
                samples::refuse_few_bits(&wide, channels, colours)?;
            }
            narrow = samples::eight_bits(&wide, white);
        } else if bits < 8 {
            let most = (1_u32 << bits) - 1;
            narrow.iter_mut().for_each(|value| *value = ((u32::from(*value) * 255 + most / 2) / most) as u8);
        }
        if directory.photometric == 0 {
            narrow.chunks_exact_mut(channels).for_each(|pixel| pixel[0] = 255 - pixel[0]);
        }
        Ok(match directory.photometric {
            5 => narrow.chunks_exact(channels).flat_map(|ink| samples::ink_to_rgb([ink[0], ink[1], ink[2], ink[3]])).collect(),
            // JPEG's own conversion was made while decoding, except where planes lie apart.
            6 if directory.compression != 7 || self.layout.planes > 1 => self.luminance(&narrow),
            _ => samples::to_rgb(&narrow, channels, colours, alpha),
        })
    }

    /// Luminance and chrominance to RGB, with the black and white that the file states.
    fn luminance(&self, samples: &[u8]) -> Vec<u8> {
        let usual = [0.0, 255.0, 128.0, 255.0, 128.0, 255.0];
        let stated = &self.directory.reference;
        let range = |at: usize| if stated.len() == 6 { stated[at] } else { usual[at] };
        let scaled =
            |value: u8, at: usize, most: f64| (f64::from(value) - range(at)) * most / (range(at + 1) - range(at)).max(1.0);
        let rgb = |pixel: &[u8]| {
            let (y, cb, cr) = (scaled(pixel[0], 0, 255.0), scaled(pixel[1], 2, 127.0), scaled(pixel[2], 4, 127.0));
            [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb]
                .map(|value| value.round().clamp(0.0, 255.0) as u8)
        };
        samples.chunks_exact(self.stored_channels()).flat_map(rgb).collect()
    }

    fn palette(&self, indices: &[u8], alpha: Alpha) -> Result<Vec<u8>, DecodeError> {
        let map = &self.directory.color_map;
        let (entries, bits, channels) = (map.len() / 3, self.bits(), self.stored_channels());
        if bits > 8 || entries < 1 << bits {
            return Err(DecodeError::Unsupported(format!("a palette TIFF of {bits}-bit indices with {entries} colours")));
        }
        // Old files store colours of 8 bits.
        let shift = if map.iter().all(|&value| value < 256) { 0 } else { 8 };
        let mut pixels = Vec::with_capacity(indices.len() / channels * 4);
        for pixel in indices.chunks_exact(channels) {
            pixels.extend([0, 1, 2].map(|plane| (map[plane * entries + usize::from(pixel[0])] >> shift) as u8));
            pixels.push(if alpha == Alpha::None { 255 } else { pixel[1] });
        }
        Ok(samples::to_rgb(&pixels, 4, 3, alpha))
    }
}

fn bits_of(all: u16) -> u32 {
    16 - all.leading_zeros()
}

/// An XML attribute's value.
pub fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut from = 0;
    while let Some(found) = text[from..].find(name) {
        let (before, after) = (&text[..from + found], &text[from + found + name.len()..]);
        from += found + name.len();
        let Some(value) = after.trim_start().strip_prefix('=').map(str::trim_start) else { continue };
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''));
        if let Some(quote) = quote.filter(|_| before.ends_with(char::is_whitespace)) {
            return value[1..].split(quote).next();
        }
    }
    None
}

/// A line's samples into every `stride`-th place, `channels` side by side.
fn spread<T: Copy>(line: &[T], channels: usize, out: &mut [T], stride: usize) {
    if channels == stride {
        out[..line.len()].copy_from_slice(line);
        return;
    }
    for (pixel, out) in line.chunks_exact(channels).zip(out.chunks_mut(stride)) {
        out[..channels].copy_from_slice(pixel);
    }
}

/// Samples of 9 to 16 bits; those of 16 in the file's byte order.
fn wide_values(line: &[u8], bits: usize, little: bool) -> Vec<u16> {
    if bits == 16 {
        let value =
            |pair: &[u8]| if little { u16::from_le_bytes([pair[0], pair[1]]) } else { u16::from_be_bytes([pair[0], pair[1]]) };
        return line.chunks_exact(2).map(value).collect();
    }
    let value = |index: usize| {
        let first = index * bits;
        let byte = |at: usize| u32::from(line.get(at).copied().unwrap_or(0));
        let three = byte(first / 8) << 16 | byte(first / 8 + 1) << 8 | byte(first / 8 + 2);
        ((three >> (24 - first % 8 - bits)) & ((1 << bits) - 1)) as u16
    };
    (0..line.len() * 8 / bits).map(value).collect()
}

/// Samples of 1 to 7 bits.
fn narrow_values(line: &[u8], bits: usize, count: usize) -> Vec<u8> {
    let value = |index: usize| {
        let first = index * bits;
        let pair = u16::from_be_bytes([line[first / 8], line.get(first / 8 + 1).copied().unwrap_or(0)]);
        ((pair >> (16 - first % 8 - bits)) & ((1 << bits) - 1)) as u8
    };
    (0..count).map(value).collect()
}

/// `needed` bytes, or fewer where the data ends, and what is wrong with them.
fn unpacked(compression: u64, stored: &[u8], needed: usize) -> Result<(Vec<u8>, Option<&'static str>), DecodeError> {
    let mut data = Vec::with_capacity(needed);
    let problem = match compression {
        1 => {
            data.extend_from_slice(&stored[..needed.min(stored.len())]);
            None
        }
        5 => lzw(stored, needed, &mut data)?,
        8 | 32946 => {
            // What follows are rows beyond the page and the checksum, which is compared at the end.
            let whole = zlib::inflate(std::iter::once(stored), 2 * needed as u64, |bytes| {
                data.extend_from_slice(&bytes[..bytes.len().min(needed - data.len())]);
            });
            whole.err()
        }
        _ => pack_bits(stored, needed, &mut data),
    };
    Ok((data, problem))
}

fn lzw(stored: &[u8], needed: usize, data: &mut Vec<u8>) -> Result<Option<&'static str>, DecodeError> {
    if let [0, second, ..] = stored
        && second & 1 == 1
    {
        return Err(DecodeError::Unsupported("a TIFF with old-style LZW compression".to_string()));
    }
    data.resize(needed, 0);
    let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8);
    let (mut read, mut written, mut problem) = (0, 0, None);
    while written < needed {
        let step = decoder.decode_bytes(&stored[read..], &mut data[written..]);
        read += step.consumed_in;
        written += step.consumed_out;
        match step.status {
            Ok(weezl::LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
            Ok(_) => break,
            Err(_) => {
                problem = Some("the compressed data is damaged");
                break;
            }
        }
    }
    data.truncate(written);
    Ok(problem)
}

fn pack_bits(stored: &[u8], needed: usize, data: &mut Vec<u8>) -> Option<&'static str> {
    let mut rest = stored;
    while data.len() < needed {
        let (&head, after) = rest.split_first()?;
        let count = match head {
            0..=127 => usize::from(head) + 1,
            128 => 0,
            _ => 1,
        };
        let Some((run, after)) = after.split_at_checked(count) else { return Some("the compressed data is cut") };
        match head {
            129.. => data.extend(std::iter::repeat_n(run[0], 257 - usize::from(head))),
            _ => data.extend_from_slice(run),
        }
        rest = after;
    }
    data.truncate(needed);
    None
}
