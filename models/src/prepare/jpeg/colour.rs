//! Planes to pixels: libjpeg's upsampling and colour conversion.

use super::Found;
use super::frame::{Component, Frame};

/// How the components become colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// As the file's JFIF and Adobe marks and its component numbers say.
    AsMarked,
    /// Luminance and chrominance to RGB.
    Luminance,
    /// As they are stored.
    Stored,
}

/// What application segments say about colours.
#[derive(Default)]
pub struct Marks {
    /// JFIF's version.
    jfif: Option<u8>,
    /// Adobe's number of the transform.
    adobe: Option<u8>,
}

impl Marks {
    pub fn application(&mut self, marker: u8, data: &[u8]) {
        if marker == 0xe0 && data.len() >= 14 && data.starts_with(b"JFIF\0") {
            self.jfif = Some(data[5]);
        }
        if marker == 0xee && data.len() >= 12 && data.starts_with(b"Adobe") {
            self.adobe = Some(data[11]);
        }
    }

    /// A version that JFIF does not have, or a transform that Adobe does not have for this number of components.
    pub fn contradiction(&self, components: usize, colours: Colours) -> Option<String> {
        if let Some(version) = self.jfif.filter(|&version| version != 1) {
            return Some(format!("its JFIF segment is of version {version}"));
        }
        let number = self.adobe.filter(|_| colours == Colours::AsMarked)?;
        let known = match components {
            3 => self.jfif.is_some() || number <= 1,
            4 => matches!(number, 0 | 2),
            _ => true,
        };
        (!known).then(|| format!("its Adobe segment names colour transform {number}"))
    }

    fn transforms(&self, frame: &Frame, colours: Colours) -> bool {
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        match (colours, ids.len()) {
            (Colours::Stored, _) | (_, 1) => false,
            (Colours::Luminance, _) => true,
            (_, 3) if self.jfif.is_some() => true,
            (_, 3) => self.adobe.map_or(ids != *b"RGB", |number| number != 0),
            _ => self.adobe.is_some_and(|number| number != 0),
        }
    }
}

/// Channels and samples of the whole image; an error names a sampling that is not read.
pub fn samples(frame: &Frame, marks: &Marks, colours: Colours) -> Found<(usize, Vec<u8>)> {
    let transforms = marks.transforms(frame, colours);
    let channels = frame.components.len();
    let upsamplings = frame.components.iter().map(|component| Upsampling::of(component, frame)).collect::<Found<Vec<_>>>()?;
    let mut rows = vec![vec![0; frame.width + 8]; channels];
    let mut samples = vec![0; frame.width * frame.height * channels];
    for (y, line) in samples.chunks_exact_mut(frame.width * channels).enumerate() {
        for ((component, upsampling), row) in frame.components.iter().zip(&upsamplings).zip(&mut rows) {
            upsampling.row(component, y, row);
        }
        match rows.as_slice() {
            [grey] => line.copy_from_slice(&grey[..frame.width]),
            [a, b, c] => {
                for (x, pixel) in line.chunks_exact_mut(3).enumerate() {
                    pixel.copy_from_slice(&if transforms { rgb(a[x], b[x], c[x]) } else { [a[x], b[x], c[x]] });
                }
            }
            _ => {
                for (x, pixel) in line.chunks_exact_mut(4).enumerate() {
                    let inks = [rows[0][x], rows[1][x], rows[2][x]];
                    let inks = if transforms { rgb(inks[0], inks[1], inks[2]).map(|light| 255 - light) } else { inks };
                    pixel[..3].copy_from_slice(&inks);
                    pixel[3] = rows[3][x];
                }
            }
        }
    }
    Ok((channels, samples))
}

/// JFIF's conversion with libjpeg's 16-bit constants.
#[inline(always)]
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91881 * cr + 32768) >> 16);
    let green = y + ((-22554 * cb - 46802 * cr + 32768) >> 16);
    let blue = y + ((116_130 * cb + 32768) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// How a component's samples spread over the image.
enum Upsampling {
    Full,
    /// Twice across, triangle filter.
    Wide,
    /// Twice down, triangle filter.
    High,
    /// Twice both ways, triangle filter.
    Both,
    /// Each sample repeated.
    Repeated(usize, usize),
}

impl Upsampling {
    fn of(component: &Component, frame: &Frame) -> Found<Upsampling> {
        let whole = frame.most_across.is_multiple_of(component.across) && frame.most_down.is_multiple_of(component.down);
        if !whole {
            let name = |component: &Component| format!("{}x{}", component.across, component.down);
            let all: Vec<String> = frame.components.iter().map(name).collect();
            return Err(format!("a JPEG with sampling factors {}", all.join(", ")));
        }
        let factors = (frame.most_across / component.across, frame.most_down / component.down);
        Ok(match factors {
            (1, 1) => Upsampling::Full,
            (2, 1) if component.width > 2 => Upsampling::Wide,
            (2, 2) if component.width > 2 => Upsampling::Both,
            (1, 2) => Upsampling::High,
            (across, down) => Upsampling::Repeated(across, down),
        })
    }

    /// Row `y` of the image, which may reach beyond its width.
    fn row(&self, component: &Component, y: usize, out: &mut [u8]) {
        let line = |row: usize| &component.plane[row * component.stride()..][..component.width];
        let near = |y: usize| if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { (y / 2 + 1).min(component.height - 1) };
        match *self {
            Upsampling::Full => out[..component.width].copy_from_slice(line(y)),
            Upsampling::Wide => wide(line(y), out),
            Upsampling::High => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for (out, (&here, &there)) in out.iter_mut().zip(line(y / 2).iter().zip(line(near(y)))) {
                    *out = ((u16::from(here) * 3 + u16::from(there) + bias) >> 2) as u8;
                }
            }
            Upsampling::Both => both(line(y / 2), line(near(y)), out),
            Upsampling::Repeated(across, down) => {
                for (out, &sample) in out.chunks_mut(across).zip(line(y / down)) {
                    out.fill(sample);
                }
            }
        }
    }
}

/// Three quarters of the nearer sample, one of the farther.
fn wide(line: &[u8], out: &mut [u8]) {
    let last = line.len() - 1;
    let mix = |here: u8, there: u8, bias: u16| ((u16::from(here) * 3 + u16::from(there) + bias) >> 2) as u8;
    for (pair, three) in out[2..].chunks_exact_mut(2).zip(line.windows(3)) {
        pair[0] = mix(three[1], three[0], 1);
        pair[1] = mix(three[1], three[2], 2);
    }
    out[0] = line[0];
    out[1] = mix(line[0], line[1], 2);
    out[2 * last] = mix(line[last], line[last - 1], 1);
    out[2 * last + 1] = line[last];
}

/// The same in both directions.
fn both(here: &[u8], there: &[u8], out: &mut [u8]) {
    let last = here.len() - 1;
    let sum = |here: u8, there: u8| u16::from(here) * 3 + u16::from(there);
    for ((pair, here), there) in out[2..].chunks_exact_mut(2).zip(here.windows(3)).zip(there.windows(3)) {
        let [left, middle, right] = [0, 1, 2].map(|at| sum(here[at], there[at]));
        pair[0] = ((middle * 3 + left + 8) >> 4) as u8;
        pair[1] = ((middle * 3 + right + 7) >> 4) as u8;
    }
    let sum = |at: usize| sum(here[at], there[at]);
    out[0] = ((sum(0) * 4 + 8) >> 4) as u8;
    out[1] = ((sum(0) * 3 + sum(1) + 7) >> 4) as u8;
    out[2 * last] = ((sum(last) * 3 + sum(last - 1) + 8) >> 4) as u8;
    out[2 * last + 1] = ((sum(last) * 4 + 7) >> 4) as u8;
}
