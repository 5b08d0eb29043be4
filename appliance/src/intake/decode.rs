//! Decoding in a process of its own: whatever a file does to the decoder, the daemon lives on and only that file has failed.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use mmlnb_models::prepare::completeness::{Completeness, probe};
use mmlnb_models::prepare::decode::{self, Limits, Rgb8Image};
use mmlnb_models::prepare::{phantom, scale};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::appearance::Appearance;
use crate::failpoint;
use crate::ledger::{Image, Rejection};

/// The hidden subcommand that decodes standard input.
pub const COMMAND: &str = "decode-child";
/// Address space of the child: enough for the largest allowed image in 16 bit with alpha, its RGB copy and the file.
const ADDRESS_SPACE: u64 = 4 << 30;
/// Longest side of the thumbnail.
const THUMBNAIL: u32 = 512;

/// Runs decoders.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The program that knows the hidden subcommand; normally this one.
    pub program: std::path::PathBuf,
    /// Time limit.
    pub timeout: Duration,
    /// Longest and shortest side.
    pub sides: (u32, u32),
}

/// A decoded image.
#[derive(Debug)]
pub struct Decoded {
    /// PNG, JPEG, TIFF or BMP.
    pub format: String,
    /// The pixels.
    pub rgb: Rgb8Image,
    /// What the image looks like, for flags and the verdict.
    pub appearance: Appearance,
}

/// Why there is no image.
#[derive(Debug)]
pub enum DecodeFailure {
    /// The file's own fault.
    Rejected(Rejection),
    /// Not the file's fault; waiting may help.
    Later(String),
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Image { format: String, appearance: Appearance },
    Rejected { code: String, message: String },
}

impl Decoder {
    /// Decodes a file's bytes.
    ///
    /// # Errors
    /// [`DecodeFailure`].
    pub fn decode(&self, bytes: &[u8]) -> Result<Decoded, DecodeFailure> {
        let later = |error: io::Error| DecodeFailure::Later(format!("the decoder could not be started: {error}"));
        failpoint::pass("decode.spawn").map_err(later)?;
        let mut child = self.spawn().map_err(later)?;
        let result = self.converse(&mut child, bytes);
        // Killing a process that has ended already fails, and that is fine.
        let _ = child.kill();
        let status = child.wait().map_err(later)?;
        match result {
            Some(output) => understand(&output).unwrap_or_else(|| Err(died(&format!("ended with {status}")))),
            None => Err(died(&format!("did not finish within {} s", self.timeout.as_secs()))),
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        Command::new(&self.program)
            .arg(COMMAND)
            .args([self.sides.0.to_string(), self.sides.1.to_string(), self.timeout.as_secs().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    }

    /// Everything that the child says, or nothing when the time is over.
    fn converse(&self, child: &mut Child, bytes: &[u8]) -> Option<Vec<u8>> {
        let (mut stdin, mut stdout) = (child.stdin.take()?, child.stdout.take()?);
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            scope.spawn(move || {
                let mut output = Vec::new();
                // A child that dies closes its end; what it said until then is judged by `understand`.
                let _ = stdout.read_to_end(&mut output);
                let _ = sender.send(output);
            });
            scope.spawn(move || {
                // A child that rejects a file early does not read the rest of it.
                let _ = stdin.write_all(bytes);
            });
            let output = receiver.recv_timeout(self.timeout).ok();
            if output.is_none() {
                let _ = child.kill();
            }
            output
        })
    }
}

fn died(how: &str) -> DecodeFailure {
    DecodeFailure::Rejected(Rejection {
        code: "decoder_died".into(),
        message: format!("The decoder {how} on this file; it is damaged in an unusual way"),
    })
}

fn understand(output: &[u8]) -> Option<Result<Decoded, DecodeFailure>> {
    let (length, rest) = output.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (answer, rest) = rest.split_at_checked(length)?;
    match serde_json::from_slice(answer).ok()? {
        Answer::Rejected { code, message } => Some(Err(DecodeFailure::Rejected(Rejection { code, message }))),
        Answer::Image { format, appearance } => {
            let [width, height] = appearance.size;
            if width.checked_mul(height)?.checked_mul(3)? != rest.len() {
                return None;
            }
            let rgb = Rgb8Image { width, height, pixels: rest.to_vec() };
            Some(Ok(Decoded { format, rgb, appearance }))
        }
    }
}

impl Decoded {
    /// What goes into the ledger, made while the pixels are being assessed: encoding the thumbnail takes as long as decoding the file.
    ///
    /// # Errors
    /// The thumbnail could not be encoded.
    pub fn image(&self) -> io::Result<Image> {
        let (width, height) = (self.rgb.width as u32, self.rgb.height as u32);
        let (pixels_sha256, thumbnail) = (pixels_sha256(&self.rgb), thumbnail(&self.rgb)?);
        Ok(Image {
            format: self.format.clone(),
            width,
            height,
            pixels_sha256,
            microns_per_pixel: self.appearance.microns_per_pixel,
            thumbnail,
        })
    }
}

fn pixels_sha256(rgb: &Rgb8Image) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((rgb.width as u32).to_le_bytes());
    hash.update((rgb.height as u32).to_le_bytes());
    hash.update(&rgb.pixels);
    hash.finalize().into()
}

/// The limits for a longest and shortest side.
pub fn limits((max_side, min_side): (u32, u32)) -> Limits {
    let pixels = (u64::from(max_side) * u64::from(max_side)).min(64 << 20);
    Limits { max_side, min_side, max_pixels: pixels, max_alloc: 1 << 30 }
}

/// The hidden subcommand: limits itself, decodes standard input, answers on standard output.
///
/// # Errors
/// The pipe broke; nobody is listening then.
pub fn child(max_side: u32, min_side: u32, seconds: u64) -> io::Result<()> {
    confine(seconds)?;
    failpoint::pass("decode.child")?;
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    let (answer, pixels) = match decode_here(&bytes, &limits((max_side, min_side))) {
        Ok(found) => found,
        Err(rejection) => (Answer::Rejected { code: rejection.code, message: rejection.message }, Vec::new()),
    };
    let answer = serde_json::to_vec(&answer)?;
    let mut out = io::stdout().lock();
    out.write_all(&(answer.len() as u32).to_le_bytes())?;
    for part in [&answer, &pixels] {
        out.write_all(part)?;
    }
    out.flush()
}

/// Bounds memory, time and everything that a decoder does not need.
fn confine(seconds: u64) -> io::Result<()> {
    let to = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::As, to(ADDRESS_SPACE))?;
    setrlimit(Resource::Cpu, to(seconds + 1))?;
    setrlimit(Resource::Core, to(0))?;
    setrlimit(Resource::Fsize, to(0))?;
    setrlimit(Resource::Nofile, to(16))?;
    Ok(())
}

fn decode_here(bytes: &[u8], limits: &Limits) -> Result<(Answer, Vec<u8>), Rejection> {
    let reject = |error: decode::DecodeError| Rejection { code: error.code().into(), message: error.to_string() };
    let header = mmlnb_models::prepare::header::inspect_bytes(bytes, limits).map_err(reject)?;
    let rgb = decode::decode(bytes, limits).map_err(reject)?;
    let trailing = matches!(probe(&mut io::Cursor::new(bytes)), Ok(Completeness::Complete { trailing_bytes: true }));
    let answer = Answer::Image {
        format: header.format.name().to_owned(),
        appearance: Appearance {
            phantom: phantom::is_marked(bytes),
            ..Appearance::of(&rgb, scale::microns_per_pixel(bytes), trailing)
        },
    };
    Ok((answer, rgb.pixels))
}

fn thumbnail(rgb: &Rgb8Image) -> io::Result<Vec<u8>> {
    let failed = || io::Error::other("no thumbnail could be made of this image");
    let (width, height) = (rgb.width as u32, rgb.height as u32);
    let mut image = image::RgbImage::from_raw(width, height, rgb.pixels.clone()).ok_or_else(failed)?;
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

    #[test]
    fn the_answer_survives_the_pipe_format() {
        let mut png = Vec::new();
        let image = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8, y as u8, 7]));
        image.write_to(&mut io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let (answer, pixels) = decode_here(&png, &limits((8192, 32))).unwrap();
        let answer = serde_json::to_vec(&answer).unwrap();
        let mut wire = (answer.len() as u32).to_le_bytes().to_vec();
        wire.extend([answer, pixels].concat());
        let decoded = understand(&wire).unwrap().unwrap();
        let row = decoded.image().unwrap();
        assert_eq!((row.width, row.height, row.format.as_str()), (64, 48, "PNG"));
        let thumbnail = image::load_from_memory(&row.thumbnail).unwrap();
        assert_eq!((thumbnail.width(), thumbnail.height()), (64, 48));
        assert_eq!(decoded.rgb.pixels, image.into_raw());
        assert!(understand(&wire[..wire.len() - 1]).is_none());
        assert!(understand(&[]).is_none());
    }

    #[test]
    fn a_text_is_rejected_with_its_code() {
        let rejection = decode_here(b"hello, this is no image at all", &limits((8192, 32))).map(|_| ()).unwrap_err();
        assert_eq!(rejection.code, "not_an_image");
    }

    #[test]
    fn a_program_that_answers_nothing_has_died_and_one_that_hangs_is_ended() {
        let decoder = |program: &str| Decoder { program: program.into(), timeout: Duration::from_millis(300), sides: (64, 1) };
        let Err(DecodeFailure::Rejected(why)) = decoder("/bin/true").decode(&[0; 100]) else { panic!() };
        assert_eq!(why.code, "decoder_died");
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("hang");
        std::fs::write(&script, "#!/bin/sh\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let begun = std::time::Instant::now();
        let Err(DecodeFailure::Rejected(why)) = decoder(script.to_str().unwrap()).decode(&vec![0; 1 << 20]) else { panic!() };
        assert!(why.message.contains("within"), "{}", why.message);
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(matches!(decoder("/nonexistent").decode(&[]), Err(DecodeFailure::Later(_))));
    }
}
