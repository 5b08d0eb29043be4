//! Who stands behind a bundle: signatures in minisign's formats, the keys that are trusted, and what follows from both.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::BundleError;
use crate::base64;

/// What is added to a file's name to name its signature.
pub const SIGNATURE: &str = ".minisig";
/// A signature has a few hundred bytes; of a larger file no more than this is read.
const LARGEST: u64 = 16 << 10;
/// How the first line of each of minisign's files begins; nothing vouches for that line.
const UNTRUSTED: &str = "untrusted comment: ";

/// The number by which minisign tells keys apart, written in sixteen hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KeyId(u64);

impl KeyId {
    /// That of a key or signature in minisign's binary form.
    fn of(binary: &[u8]) -> Option<KeyId> {
        Some(KeyId(u64::from_le_bytes(binary.get(2..10)?.try_into().ok()?)))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl FromStr for KeyId {
    type Err = String;

    /// Hex digits, of which minisign leaves out leading zeros, or a whole public key.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim();
        let number = (12..=16).contains(&digits.len()).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
        number.map_or_else(|| text.parse::<PublicKey>().map(|key| key.id), |number| Ok(KeyId(number)))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A public key of minisign.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey {
    id: KeyId,
    key: minisign_verify::PublicKey,
}

impl PublicKey {
    /// The number that signatures name it by.
    pub fn id(&self) -> KeyId {
        self.id
    }
}

impl FromStr for PublicKey {
    type Err = String;

    /// The line `RW...`, alone or as the last one of a `.pub` file.
    fn from_str(text: &str) -> Result<Self, String> {
        let line = text.trim().lines().next_back().unwrap_or_default().trim();
        let wrong = || "no public key of minisign, which is one line of 56 characters that begins with RW".to_string();
        let id = base64::decode(line).and_then(|binary| KeyId::of(&binary)).ok_or_else(wrong)?;
        let key = minisign_verify::PublicKey::from_base64(line).map_err(|_| wrong())?;
        Ok(PublicKey { id, key })
    }
}

/// A signature as it stands in a file `NAME.minisig`.
#[derive(Clone)]
pub struct Signature {
    key: KeyId,
    signature: minisign_verify::Signature,
}

impl Signature {
    /// The signature of `name` in the folder `dir`, if there is one.
    ///
    /// # Errors
    /// The file cannot be read or is no signature.
    pub fn read(dir: &Path, name: &str) -> Result<Option<Signature>, BundleError> {
        let file = dir.join(format!("{name}{SIGNATURE}"));
        let mut text = String::new();
        match File::open(&file).and_then(|opened| opened.take(LARGEST).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => text.clear(),
            Err(source) => return Err(BundleError::Io { file, source }),
        }
        let parsed = Signature::parse(&text);
        parsed.map(Some).ok_or(BundleError::Untrusted { file: dir.join(name), reason: Distrust::Unreadable })
    }

    /// Exactly the four lines that minisign writes.
    fn parse(text: &str) -> Option<Signature> {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() != 4 || !lines[0].starts_with(UNTRUSTED) {
            return None;
        }
        let key = KeyId::of(&base64::decode(lines[1])?)?;
        Some(Signature { key, signature: minisign_verify::Signature::decode(text).ok()? })
    }

    /// The key that it says it was made with.
    pub fn key(&self) -> KeyId {
        self.key
    }
}

/// What is known of who signed a file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Standing {
    /// A trusted key signed it.
    Signed {
        /// Which.
        key: KeyId,
        /// The trusted comment, for which the key vouches too.
        comment: String,
    },
    /// There is a signature, and nobody has said which keys are trusted.
    Unchecked {
        /// The key that it says it was made with.
        key: KeyId,
    },
    /// There is no signature.
    #[default]
    Unsigned,
}

/// What is known of who signed a bundle, and what was found about it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Standings {
    /// The manifest.
    pub bundle: Standing,
    /// The qualification; none where there is none of its own.
    pub qualification: Option<Standing>,
}

impl Standing {
    /// With the trusted comment, on one line.
    pub fn in_full(&self) -> String {
        match self {
            Standing::Signed { comment, .. } if !comment.is_empty() => format!("{self} ({})", comment.replace('\t', ", ")),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Signed { key, .. } => write!(f, "signed with the key {key}"),
            Standing::Unchecked { key } => write!(f, "signature not checked (it names the key {key})"),
            Standing::Unsigned => f.write_str("not signed"),
        }
    }
}

/// Why a file of a bundle is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Distrust {
    /// There is no signature, and one is wanted.
    #[error("is not signed, and unsigned bundles are not allowed here")]
    Unsigned,
    /// What lies beside it cannot be read as a signature.
    #[error("has a file {SIGNATURE} beside it that is no signature of minisign")]
    Unreadable,
    /// The key is not trusted.
    #[error("is signed with the key {0}, which is none of the public keys that are trusted here")]
    UnknownKey(KeyId),
    /// The key was trusted once.
    #[error("is signed with the key {0}, which is revoked")]
    Revoked(KeyId),
    /// The signature is of the whole file, not of its hash.
    #[error("is signed with the key {0} in the old form of minisign before 0.10, which is not taken")]
    Legacy(KeyId),
    /// File, trusted comment or signature is another one.
    #[error(
        "is not what was signed with the key {0}: the file, its signature or the signature's comment was altered or belongs to another bundle"
    )]
    Altered(KeyId),
}

/// Whose signatures count.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// The keys of makers and sites.
    pub public_keys: Vec<PublicKey>,
    /// Keys that are trusted no longer, whatever else is said.
    pub revoked_keys: Vec<KeyId>,
    /// Files without a signature are taken too; without any public key also those whose signature nobody can check.
    pub allow_unsigned: bool,
}

impl Trust {
    /// For programs that were not told any keys: signatures are shown and not judged.
    pub fn unjudged() -> Trust {
        Trust { allow_unsigned: true, ..Trust::default() }
    }

    /// What is known of who signed `name` in `dir`, whose content is `bytes`.
    ///
    /// # Errors
    /// The signature cannot be read, or the file is not to be trusted.
    pub(super) fn judge(&self, dir: &Path, name: &str, bytes: &[u8]) -> Result<Standing, BundleError> {
        let signature = Signature::read(dir, name)?;
        self.standing(bytes, signature.as_ref()).map_err(|reason| BundleError::Untrusted { file: dir.join(name), reason })
    }

    fn standing(&self, bytes: &[u8], signature: Option<&Signature>) -> Result<Standing, Distrust> {
        let Some(Signature { key, signature }) = signature else {
            return if self.allow_unsigned { Ok(Standing::Unsigned) } else { Err(Distrust::Unsigned) };
        };
        if self.revoked_keys.contains(key) {
            return Err(Distrust::Revoked(*key));
        }
        if self.public_keys.is_empty() && self.allow_unsigned {
            return Ok(Standing::Unchecked { key: *key });
        }
        let mut reason = Distrust::UnknownKey(*key);
        for public in self.public_keys.iter().filter(|public| public.id == *key) {
            reason = match public.key.verify(bytes, signature, false) {
                Ok(()) => return Ok(Standing::Signed { key: *key, comment: signature.trusted_comment().to_string() }),
                Err(minisign_verify::Error::UnexpectedAlgorithm) => Distrust::Legacy(*key),
                Err(_) => Distrust::Altered(*key),
            };
        }
        Err(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by minisign 0.11 of Debian 12 (`-G -W`, `-S`, `-S -l`), an implementation in C of its own.
    const KEY: &str = "RWT0Q569mEC+D68qdgw4gVBoSAt5pP2AjABzFcGRviItY9RkdKOhbOOy";
    const OTHER: &str = "RWSn0h5ZQI6Wu9wp4KcW7U3bC5aFux9KYQjTEuD9zC6kkokD9x9TGZsK";
    const CONTENT: &[u8] = b"{\"format\": 2}\n";
    const SIGNED: &str = "untrusted comment: signature from minisign secret key
RUT0Q569mEC+D2B1iJ27h6OmKAsPARq03GlgeUZ1Sb4Wqv/C2BgM6jjVsH6iv0TP2GmPDcsLmROGSzpts+Y9GWDB1iJRSJLQtwM=
trusted comment: timestamp:1764557000\tfile:manifest.json\thashed
CAWuEoXAAL5LR23EIJafY+TQJF1wEmsUTJuJywUbA4dMb0S5pVFW05AYFanWOwR/2T8ELZkbSqpApzhY3z6cBw==
";
    const LEGACY: &str = "untrusted comment: signature from minisign secret key
RWT0Q569mEC+D+Rm3YvWLgvJ/KwXKdq49ojkaG11iNsSe/h9N4Iie7DyB2Aau8Vi8DqfGbVLrioKfD4zc4ummJdnMyAqUmq+Lw8=
trusted comment: timestamp:1796094511\tfile:manifest.json
Fr8+q/d0JN6yuBS39XS6JovHeZTTJPPDpCuTMqbJx9c+pB0/dSz1PZvn+vecrQ6U2Rcned/xpXIaVkrTx82lCA==
";

    fn trust(public: &[&str], revoked: &[&str], allow_unsigned: bool) -> Trust {
        let public_keys = public.iter().map(|key| key.parse().unwrap()).collect();
        Trust { public_keys, revoked_keys: revoked.iter().map(|key| key.parse().unwrap()).collect(), allow_unsigned }
    }

    fn id(key: &str) -> KeyId {
        key.parse().unwrap()
    }

    #[test]
    fn minisigns_keys_and_signatures_are_read() {
        assert_eq!(id(KEY).to_string(), "0FBE4098BD9E43F4");
        assert_eq!(id("FBE4098BD9E43F4"), id(KEY), "as minisign writes it");
        assert_eq!(format!("untrusted comment: minisign public key X\n{OTHER}\n").parse::<PublicKey>().unwrap().id(), id(OTHER));
        for wrong in ["", "RW", "FBE4", &KEY[1..], &KEY.replace("RW", "RX"), "untrusted comment: minisign public key X\n"] {
            assert!(wrong.parse::<PublicKey>().is_err() && wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
        let signature = Signature::parse(SIGNED).unwrap();
        let standing = trust(&[OTHER, KEY], &[OTHER], false).standing(CONTENT, Some(&signature)).unwrap();
        assert_eq!(
            standing,
            Standing::Signed { key: id(KEY), comment: "timestamp:1764557000\tfile:manifest.json\thashed".into() }
        );
        assert_eq!(standing.in_full(), "signed with the key 0FBE4098BD9E43F4 (timestamp:1764557000, file:manifest.json, hashed)");
    }

    #[test]
    fn any_changed_byte_of_content_or_signature_is_refused_but_for_the_untrusted_comment() {
        let trust = trust(&[KEY], &[], true);
        let refused = |content: &[u8], text: &[u8]| {
            let signature = std::str::from_utf8(text).ok().and_then(Signature::parse);
            signature.is_none_or(|signature| trust.standing(content, Some(&signature)).is_err())
        };
        assert!(!refused(CONTENT, SIGNED.as_bytes()));
        for at in 0..CONTENT.len() {
            let mut content = CONTENT.to_vec();
            content[at] ^= 1;
            assert!(refused(&content, SIGNED.as_bytes()), "byte {at} of the content");
        }
        let untrusted = UNTRUSTED.len()..SIGNED.find('\n').unwrap();
        for at in (0..SIGNED.len()).filter(|at| !untrusted.contains(at)) {
            for bit in 0..8 {
                let mut text = SIGNED.as_bytes().to_vec();
                text[at] ^= 1 << bit;
                assert!(refused(CONTENT, &text), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_refused_is_refused_for_its_own_reason() {
        let (signature, legacy) = (Signature::parse(SIGNED).unwrap(), Signature::parse(LEGACY).unwrap());
        let signed = |trust: Trust| trust.standing(CONTENT, Some(&signature));
        assert_eq!(signed(trust(&[OTHER], &[], true)), Err(Distrust::UnknownKey(id(KEY))));
        assert_eq!(signed(trust(&[], &[], false)), Err(Distrust::UnknownKey(id(KEY))));
        assert_eq!(signed(trust(&[KEY], &[KEY], true)), Err(Distrust::Revoked(id(KEY))));
        assert_eq!(signed(trust(&[], &["0FBE4098BD9E43F4"], true)), Err(Distrust::Revoked(id(KEY))));
        assert_eq!(signed(trust(&[], &[], true)), Ok(Standing::Unchecked { key: id(KEY) }));
        assert_eq!(trust(&[KEY], &[], false).standing(CONTENT, None), Err(Distrust::Unsigned));
        assert_eq!(trust(&[KEY], &[], true).standing(CONTENT, None), Ok(Standing::Unsigned));
        assert_eq!(trust(&[KEY], &[], true).standing(CONTENT, Some(&legacy)), Err(Distrust::Legacy(id(KEY))));
    }
}
