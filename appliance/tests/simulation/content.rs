//! What lies in files here: a line that says what it is, filling, an end mark. The decoder's and the engine's stand-ins know no other images.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// What an image does to whoever looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// It gets a report.
    Good,
    /// The decoder finds it damaged.
    Damaged,
    /// The decoder dies of it.
    KillsDecoder,
    /// The decoder never ends with it.
    HangsDecoder,
    /// The decoder finds a slide.
    Slide,
    /// The engine refuses it.
    Unsuitable,
    /// The engine gets no numbers.
    NoNumbers,
    /// The engine fails for it so many times.
    Fails(u8),
    /// The engine never ends with it, but goes on with the others.
    Hangs,
    /// The engine never ends with it nor with any other.
    HangsAll,
    /// The program dies of it.
    KillsProgram,
}

impl Kind {
    pub const BAD: [Kind; 12] = [
        Kind::Damaged,
        Kind::KillsDecoder,
        Kind::HangsDecoder,
        Kind::Slide,
        Kind::Unsuitable,
        Kind::NoNumbers,
        Kind::Fails(1),
        Kind::Fails(2),
        Kind::Fails(3),
        Kind::Hangs,
        Kind::HangsAll,
        Kind::KillsProgram,
    ];

    /// The codes with which it may end; none: with a report.
    pub fn codes(self) -> &'static [&'static str] {
        match self {
            Kind::Good | Kind::Fails(1 | 2) => &[],
            Kind::Damaged => &["damaged"],
            Kind::KillsDecoder | Kind::HangsDecoder => &["decoder_died"],
            Kind::Slide => &["whole_slide"],
            Kind::Unsuitable => &["unsuitable_image"],
            Kind::NoNumbers => &["no_numbers"],
            Kind::Fails(_) => &["engine_failed"],
            Kind::Hangs => &["timed_out"],
            Kind::HangsAll => &["crashed_repeatedly", "timed_out"],
            Kind::KillsProgram => &["crashed_repeatedly"],
        }
    }
}

const END: &[u8] = b"\nEND.";

/// A whole image; every number gives other bytes.
pub fn image(kind: Kind, number: u32, filling: usize) -> Vec<u8> {
    let mut bytes = format!("IMAGE {kind:?} {number}\n").into_bytes();
    bytes.resize(bytes.len() + filling, b'.');
    bytes.extend_from_slice(END);
    bytes
}

/// Whether an image has arrived as a whole.
pub fn is_whole(bytes: &[u8]) -> bool {
    bytes.ends_with(END)
}

/// Whether bytes begin as an image does; one cut off in its first bytes may still become one.
pub fn is_image(bytes: &[u8]) -> bool {
    let head = b"IMAGE ";
    bytes.starts_with(&head[..head.len().min(bytes.len())])
}

pub fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Which contents there are, by their hash, and how often the engine has failed for each.
#[derive(Default)]
pub struct Catalogue(Mutex<HashMap<[u8; 32], (Kind, u32, u8)>>);

impl Catalogue {
    pub fn add(&self, bytes: &[u8], kind: Kind, number: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(hash(bytes)).or_insert((kind, number, 0));
    }

    pub fn find(&self, sha256: &[u8; 32]) -> Option<(Kind, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(sha256).map(|(kind, number, _)| (*kind, *number))
    }

    /// How often the engine failed for it before, this time not counted.
    pub fn fail(&self, sha256: &[u8; 32]) -> u8 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, _, times)) = known.get_mut(sha256) else { return 0 };
        *times = times.saturating_add(1);
        *times - 1
    }
}
