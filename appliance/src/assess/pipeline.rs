//! The pipeline's stages in the order in which an image passes them: bytes, what the child finds in them, engine, verdict.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::bytes::Bytes;
use super::reader::{Decoded, Found, Reader, Settings, Unread};
use super::wire::{Ask, Want};
use crate::engine::{Assessment, PatchImage};
use crate::error::{Exit, Failure};
use crate::ledger::{NewReport, Rejection};
use crate::verdict::{self, Rules};

/// Longest side of an image outside of the daemon.
pub const MAX_SIDE: u32 = 16_384;
/// Largest file outside of the daemon.
const MAX_FILE: u64 = 1 << 30;
const DECODE: Duration = Duration::from_secs(60);

/// A patch that is ready for the engine.
pub struct Patch {
    /// SHA-256 of the file's bytes.
    pub sha256: [u8; 32],
    /// Pixels and appearance.
    pub decoded: Decoded,
    /// Stages so far and their milliseconds.
    pub elapsed: Vec<(&'static str, f64)>,
}

impl Patch {
    /// What the engine takes.
    pub fn image(&self) -> PatchImage {
        PatchImage { sha256: self.sha256, rgb: self.decoded.rgb.clone() }
    }

    /// What an assessment of this patch says, or nothing when the classifier gave no numbers.
    pub fn report(&self, assessment: &Assessment, rules: &Rules) -> Option<NewReport> {
        verdict::report(assessment, &self.decoded.appearance, &self.elapsed, rules)
    }
}

/// Why bytes are no patch.
pub enum NoPatch {
    /// A whole slide.
    Slide(Rejection),
    /// Not whole yet; what is missing.
    Unfinished(String),
    /// The child has no answer.
    Unread(Unread),
}

/// Has the child decode bytes.
///
/// # Errors
/// [`NoPatch`].
pub fn decode(reader: &mut Reader, bytes: &Bytes, ask: &Ask, read_ms: f64) -> Result<Patch, NoPatch> {
    let begun = Instant::now();
    let decoded = match reader.ask(ask, bytes.as_fd()) {
        Ok(Found::Image(decoded)) => *decoded,
        Ok(Found::Slide(vendor, size)) => return Err(NoPatch::Slide(whole_slide(&vendor, size, reader.sides().0))),
        Ok(Found::Unfinished(what)) => return Err(NoPatch::Unfinished(what)),
        Ok(Found::Fine) => return Err(NoPatch::Unread(Unread::Later("the decoder answered another question".to_owned()))),
        Err(unread) => return Err(NoPatch::Unread(unread)),
    };
    let elapsed = vec![("read", read_ms), ("decode_image", begun.elapsed().as_secs_f64() * 1000.0)];
    Ok(Patch { sha256: bytes.sha256, decoded, elapsed })
}

/// A slide's rejection.
pub fn whole_slide(vendor: &str, size: Option<(u64, u64)>, limit: u32) -> Rejection {
    let size = size.map(|(width, height)| format!(", {width} x {height} px")).unwrap_or_default();
    let message = format!("This is a whole slide ({vendor}{size}); this appliance reads patches up to {limit} px a side");
    Rejection { code: "whole_slide".into(), message }
}

/// How commands read images: large ones too, with a warning on stderr where the child cannot confine itself.
pub fn settings() -> Settings {
    Settings::new("/proc/self/exe".into(), DECODE, (MAX_SIDE, 1))
}

/// Says on stderr what the children's confinement lacks.
pub fn warn(settings: &Settings) {
    if let Some(missing) = settings.missing() {
        eprintln!("warning: {missing}");
    }
}

/// Reads and decodes a file for a command, which waits for nothing.
///
/// # Errors
/// [`Exit::Usage`]: the image's own fault.
pub fn open(reader: &mut Reader, path: &Path) -> Result<Patch, Failure> {
    let begun = Instant::now();
    let bytes = bytes(path)?;
    decode(reader, &bytes, &plain(path, Want::Image { thumbnail: false }), begun.elapsed().as_secs_f64() * 1000.0).map_err(
        |found| {
            let told = |why: Rejection| unusable(path, &format!("{} ({})", why.message, why.code));
            match found {
                NoPatch::Slide(why) | NoPatch::Unread(Unread::Rejected(why) | Unread::Died(why)) => told(why),
                NoPatch::Unfinished(what) => unusable(path, &format!("the file is cut off: {what}; copy it again (truncated)")),
                NoPatch::Unread(Unread::Later(reason)) => {
                    Failure::internal(format!("{} was not decoded", path.display()), reason)
                }
            }
        },
    )
}

/// The SHA-256 of a file whose header is that of an image.
///
/// # Errors
/// As [`open`].
pub fn inspect(reader: &mut Reader, path: &Path) -> Result<[u8; 32], Failure> {
    let bytes = bytes(path)?;
    match reader.ask(&plain(path, Want::Header), bytes.as_fd()) {
        Ok(_) => Ok(bytes.sha256),
        Err(Unread::Rejected(why) | Unread::Died(why)) => Err(unusable(path, &why.message)),
        Err(Unread::Later(reason)) => Err(Failure::internal(format!("{} was not read", path.display()), reason)),
    }
}

/// A file's bytes for a command.
///
/// # Errors
/// [`Exit::Usage`]: it cannot be read, or is too large.
pub fn bytes(path: &Path) -> Result<Bytes, Failure> {
    let read = open_regular(path).and_then(|mut file| Bytes::read(&mut file, MAX_FILE + 1));
    let bytes = read.map_err(|error| unusable(path, &error.to_string()))?;
    match bytes.size <= MAX_FILE {
        true => Ok(bytes),
        false => Err(unusable(path, &format!("the file has more than {} MB (file_too_large)", MAX_FILE >> 20))),
    }
}

/// A pipe or a device would keep the command waiting for ever.
#[expect(clippy::disallowed_methods, reason = "a path that the command line or a bundle names")]
fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

fn plain(path: &Path, want: Want) -> Ask {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ask { want, name, hollow: false, patient: false, lenient: false }
}

/// An image that gives no answer through its own fault.
pub fn unusable(path: &Path, reason: &str) -> Failure {
    Failure::new(Exit::Usage, reason, path.display().to_string(), "export the image again, best as 8-bit PNG")
}
