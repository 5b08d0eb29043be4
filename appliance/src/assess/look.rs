//! What the child finds out about one file: everything that parses foreign bytes.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};

use mmlnb_models::prepare::completeness::{Completeness, blank_tail, probe};
use mmlnb_models::prepare::decode::{self, Limits, Rgb8Image};
use mmlnb_models::prepare::header::{self, DecodeError};
use mmlnb_models::prepare::{phantom, scale, whole_slide};

use super::appearance::Appearance;
use super::wire::{Answer, Ask, Want};

/// Longest side of the thumbnail.
const THUMBNAIL: u32 = 512;

/// Zero bytes at the end of an uncompressed picture from which it is taken for unfinished; a few black pixels are no sign of it.
const BLANK: u64 = 1024;

/// An answer, and the pixels where it is an image.
pub struct Seen {
    /// The answer.
    pub answer: Answer,
    /// The pixels.
    pub rgb: Option<Rgb8Image>,
}

impl From<Answer> for Seen {
    fn from(answer: Answer) -> Self {
        Seen { answer, rgb: None }
    }
}

/// The limits for a longest and shortest side.
pub fn limits((max_side, min_side): (u32, u32)) -> Limits {
    let pixels = (u64::from(max_side) * u64::from(max_side)).min(64 << 20);
    Limits { max_side, min_side, max_pixels: pixels, max_alloc: 1 << 30 }
}

/// Looks at a file. That its bytes cannot be read at this moment says nothing about it.
pub fn look(mut file: File, ask: &Ask, limits: &Limits) -> Seen {
    let found = match &ask.want {
        Want::Slide => match slide(&mut file, &ask.name, limits) {
            Err(DecodeError::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => return Answer::unread(&error).into(),
            Ok(Some(slide)) => Ok(slide.into()),
            Ok(None) => arrived(&mut io::BufReader::new(file)).map(Seen::from),
            Err(error) => Err(error),
        },
        Want::Header | Want::Image { .. } => match whole(&mut file) {
            Err(error) => return Answer::unread(&error).into(),
            Ok(bytes) if ask.want == Want::Header => header::inspect_bytes(&bytes, limits).map(|_| Answer::Fine.into()),
            Ok(bytes) => image(&bytes, ask, limits),
        },
        #[cfg(feature = "failpoints")]
        Want::Attempt(what) => Ok(Answer::rejected("attempted", &super::attempt::attempt(what)).into()),
    };
    found.unwrap_or_else(|error| Answer::rejected(error.code(), &error.to_string()).into())
}

fn whole(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn slide<S: Read + Seek>(source: &mut S, name: &str, limits: &Limits) -> Result<Option<Answer>, DecodeError> {
    let found = whole_slide::recognise(source, name, limits.max_side)?;
    Ok(found.map(|slide| Answer::Slide { vendor: slide.vendor.to_owned(), size: slide.size }))
}

/// Of a file that nobody wants to see: whether it is there as a whole.
fn arrived<S: Read + Seek>(source: &mut S) -> Result<Answer, DecodeError> {
    let found = probe(source)?;
    source.rewind()?;
    let mut head = Vec::new();
    source.take(16).read_to_end(&mut head)?;
    Ok(missing(&found, &head).unwrap_or(Answer::Fine))
}

/// The answer about a file that is not there as a whole; `head`: its first bytes.
fn missing(found: &Completeness, head: &[u8]) -> Option<Answer> {
    match found {
        Completeness::Incomplete(what) => Some(Answer::Unfinished((*what).to_owned())),
        Completeness::Unknown if begins_blank(head) => Some(Answer::Unfinished("its beginning is not written".to_owned())),
        Completeness::Unknown | Completeness::Complete { .. } => None,
    }
}

fn image(bytes: &[u8], ask: &Ask, limits: &Limits) -> Result<Seen, DecodeError> {
    if let Some(slide) = slide(&mut Cursor::new(bytes), &ask.name, limits)? {
        return Ok(slide.into());
    }
    let found = probe(&mut Cursor::new(bytes))?;
    if let Some(answer) = missing(&found, bytes) {
        return Ok(answer.into());
    }
    let trailing = matches!(found, Completeness::Complete { trailing_bytes: true });
    let blank = ask.hollow || blank_tail(&mut Cursor::new(bytes))? >= BLANK;
    if blank && ask.patient {
        return Ok(Answer::Unfinished("a part of it is only reserved, or its end is only zeros".to_owned()).into());
    }
    let header = header::inspect_bytes(bytes, limits)?;
    let decoded = decode::examine(bytes, limits)?.one_picture()?;
    let damaged = decoded.damage.is_some();
    let rgb = if ask.lenient { decoded.image } else { decoded.undamaged()? };
    let appearance = Appearance {
        damaged,
        phantom: phantom::is_marked(bytes),
        blank_tail: blank,
        ..Appearance::of(&rgb, scale::microns_per_pixel(bytes), trailing)
    };
    Ok(Seen { answer: Answer::Image { format: header.format.name().to_owned(), appearance }, rgb: Some(rgb) })
}

/// Whether the first bytes are only zeros, or the beginning of a known mark: a writer that has made room and not begun yet.
fn begins_blank(bytes: &[u8]) -> bool {
    const MARKS: [&[u8]; 5] = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM"];
    let head = &bytes[..bytes.len().min(16)];
    head.iter().all(|byte| *byte == 0) || MARKS.iter().any(|mark| mark.len() > head.len() && mark.starts_with(head))
}

/// A JPEG of at most 512 pixels a side.
///
/// # Errors
/// The encoder failed.
pub fn thumbnail(rgb: Rgb8Image) -> io::Result<Vec<u8>> {
    let failed = || io::Error::other("no thumbnail could be made of this image");
    let (width, height) = (rgb.width as u32, rgb.height as u32);
    let mut image = image::RgbImage::from_raw(width, height, rgb.pixels).ok_or_else(failed)?;
    if width.max(height) > THUMBNAIL {
        let scale = f64::from(THUMBNAIL) / f64::from(width.max(height));
        let side = |pixels: u32| ((f64::from(pixels) * scale).round() as u32).max(1);
        image = image::imageops::thumbnail(&image, side(width), side(height));
    }
    let mut out = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, 85);
    image.write_with_encoder(encoder).map_err(|_| failed())?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn seen(bytes: &[u8], hollow: bool, patient: bool) -> Seen {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let ask = Ask { want: Want::Image { thumbnail: false }, name: "x.png".into(), hollow, patient, lenient: false };
        look(file, &ask, &limits((8192, 32)))
    }

    fn encoded(format: image::ImageFormat) -> (Vec<u8>, Vec<u8>) {
        let image = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([1 + x as u8, 1 + y as u8, 7]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        (bytes.into_inner(), image.into_raw())
    }

    #[test]
    fn an_image_gives_pixels_and_a_thumbnail() {
        let (png, pixels) = encoded(image::ImageFormat::Png);
        let Seen { answer: Answer::Image { format, appearance }, rgb: Some(rgb) } = seen(&png, false, true) else { panic!() };
        assert_eq!((format.as_str(), appearance.size, appearance.blank_tail), ("PNG", [64, 48], false));
        assert_eq!(rgb.pixels, pixels);
        let thumbnail = image::load_from_memory(&thumbnail(rgb).unwrap()).unwrap();
        assert_eq!((thumbnail.width(), thumbnail.height()), (64, 48));
    }

    #[test]
    fn bytes_that_cannot_be_read_are_no_fault_of_theirs() {
        for want in [Want::Slide, Want::Header, Want::Image { thumbnail: false }] {
            let ask = Ask { want, name: "x.png".into(), hollow: false, patient: true, lenient: false };
            let unreadable = File::open(std::env::temp_dir()).unwrap();
            let seen = look(unreadable, &ask, &limits((8192, 32)));
            assert!(matches!(seen.answer, Answer::Unread(_)), "{ask:?}: {:?}", seen.answer);
        }
    }

    #[test]
    fn a_text_is_rejected_with_its_code() {
        let Answer::Rejected { code, .. } = seen(b"hello, this is no image at all", false, true).answer else { panic!() };
        assert_eq!(code, "not_an_image");
    }

    #[test]
    fn what_is_not_written_waits_and_is_flagged_when_it_waited_long_enough() {
        let (mut bmp, _) = encoded(image::ImageFormat::Bmp);
        let (end, from) = (bmp.len(), bmp.len() * 6 / 10);
        bmp[from..end].fill(0);
        assert!(matches!(seen(&bmp, false, true).answer, Answer::Unfinished(_)));
        let Answer::Image { appearance, .. } = seen(&bmp, false, false).answer else { panic!() };
        assert!(appearance.blank_tail && appearance.flags().contains(&"blank_tail"));
        let (png, _) = encoded(image::ImageFormat::Png);
        assert!(matches!(seen(&png, true, true).answer, Answer::Unfinished(_)));
        let Answer::Image { appearance, .. } = seen(&png, true, false).answer else { panic!() };
        assert!(appearance.blank_tail);
        assert!(matches!(seen(&png[..png.len() / 2], false, false).answer, Answer::Unfinished(_)));
    }

    #[test]
    fn room_that_was_only_made_is_blank() {
        assert!(begins_blank(&[0; 16]));
        assert!(begins_blank(b"\x89PN"));
        assert!(begins_blank(b"\xff"));
        assert!(!begins_blank(b"hello"));
        assert!(!begins_blank(b"\x89PNX"));
    }
}
