//! Keys, and signatures over bundles, in minisign's formats.

use crate::{error::ExportError, write::PRODUCER};
use minisign::{KeyPair, PError, SecretKey, SecretKeyBox};
use mmlnb_models::{
    base64,
    bundle::{self, Bundle, BundleError, KeyId, MANIFEST, PublicKey, QUALIFICATION, SIGNATURE, Signature, Standing, Trust},
    hash,
};
use std::{
    fs::{self, File},
    io::{Cursor, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// A key pair that was written.
#[derive(Clone, Debug)]
pub struct KeyPairMade {
    /// The public key's file, beside the secret one's.
    pub file: PathBuf,
    /// Its line, as configurations hold it.
    pub line: String,
    /// Its number.
    pub id: KeyId,
}

/// Writes a key pair: the secret key into `file`, for its owner alone, and the public one beside it, with the ending `.pub`.
/// Without a `password` whoever reads the file can sign.
///
/// # Errors
/// One of the two files is there already, or cannot be written.
pub fn keygen(file: &Path, password: Option<String>) -> Result<KeyPairMade, ExportError> {
    let public = file.with_extension("pub");
    if public == file {
        return Err(ExportError::Asked("the ending .pub is for the public key; name --output otherwise".to_string()));
    }
    for path in [file, &public] {
        if path.symlink_metadata().is_ok() {
            let problem = "is there already, and keys are never overwritten; choose another --output".to_string();
            return Err(ExportError::Occupied { path: path.to_path_buf(), problem });
        }
    }
    let made = |error: PError| ExportError::Asked(format!("no key can be made: {error}"));
    let pair = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    };
    let KeyPair { pk, sk } = pair.map_err(made)?;
    let line = pk.to_base64();
    let key: PublicKey = line.parse().map_err(ExportError::Asked)?;
    let comment = format!("minisign secret key {}", key.id());
    write_new(file, 0o600, &sk.to_box(Some(&comment)).map_err(made)?.to_bytes())?;
    let text = format!("untrusted comment: minisign public key {}\n{line}\n", key.id());
    write_new(&public, 0o644, text.as_bytes())?;
    Ok(KeyPairMade { file: public, line, id: key.id() })
}

fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), ExportError> {
    let opened = File::options().write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.map_err(ExportError::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(ExportError::io("write", path))
}

/// What became of a file of a bundle that can be signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signing {
    /// Its name.
    pub name: &'static str,
    /// The key that has signed it.
    pub key: KeyId,
    /// Whether it was signed now; else another key had done so before, whose signature stays.
    pub now: bool,
}

/// Signs what nobody else has signed, after every hash was checked. `password` is asked where the key wants one.
///
/// # Errors
/// A damaged bundle, a key that cannot be read, a wrong password, or nothing that is left to sign.
pub fn sign(dir: &Path, key: &Path, password: impl FnOnce() -> Result<String, ExportError>) -> Result<Vec<Signing>, ExportError> {
    let bundle = Bundle::open(dir).map_err(ExportError::Altered)?;
    let secret = secret_key(key, password)?;
    let public = minisign::PublicKey::from_secret_key(&secret).map_err(|error| ExportError::Asked(error.to_string()))?;
    let own = public.to_base64().parse::<PublicKey>().map_err(ExportError::Asked)?.id();
    let mut signings = Vec::new();
    for (name, sha256) in signed_files(&bundle) {
        let other = Signature::read(dir, name)?.map(|signature| signature.key()).filter(|other| *other != own);
        if other.is_none() {
            sign_file(dir, name, &sha256, (&secret, &public))?;
        }
        signings.push(Signing { name, key: other.unwrap_or(own), now: other.is_none() });
    }
    if signings.iter().all(|signing| !signing.now) {
        let names = signings.iter().map(|signing| format!("{}{SIGNATURE}", signing.name)).collect::<Vec<_>>().join(" and ");
        let problem = format!("is signed with other keys already; remove {names} to sign it anew");
        return Err(ExportError::Occupied { path: dir.to_path_buf(), problem });
    }
    Ok(signings)
}

/// The files of a bundle that stand for all others, with their hashes.
fn signed_files(bundle: &Bundle) -> Vec<(&'static str, String)> {
    let qualification = bundle.qualification_sha256().map(|sha256| (QUALIFICATION, sha256.to_string()));
    std::iter::once((MANIFEST, bundle.sha256.clone())).chain(qualification).collect()
}

/// A key that is damaged signs nothing: what it made is checked with the public key.
fn sign_file(dir: &Path, name: &str, sha256: &str, (key, public): (&SecretKey, &minisign::PublicKey)) -> Result<(), ExportError> {
    let file = dir.join(name);
    let bytes = fs::read(&file).map_err(ExportError::io("read", &file))?;
    if hash::sha256_hex(&bytes) != sha256 {
        return Err(ExportError::Altered(BundleError::Touched { file }));
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let trusted = format!("timestamp:{seconds}\tfile:{name}\thashed");
    let signed = minisign::sign(Some(public), key, Cursor::new(bytes), Some(&trusted), Some(&format!("signature by {PRODUCER}")));
    let signed = signed.map_err(|error| ExportError::Asked(format!("{} cannot be signed: {error}", file.display())))?;
    Ok(bundle::put(dir, &format!("{name}{SIGNATURE}"), signed.to_string().as_bytes())?)
}

fn secret_key(file: &Path, password: impl FnOnce() -> Result<String, ExportError>) -> Result<SecretKey, ExportError> {
    let text = fs::read_to_string(file).map_err(ExportError::io("read", file))?;
    let wrong = |problem: String| ExportError::Checkpoint { path: file.to_path_buf(), problem };
    let binary = text.lines().nth(1).and_then(|line| base64::decode(line.trim()));
    let found = binary.and_then(|binary| SecretKey::from_bytes(&binary).ok());
    let found = found.ok_or_else(|| wrong("is no secret key of minisign; `mmlnb-export keygen` makes one".to_string()))?;
    // Without a password nothing is to be opened; minisign leaves the checksum of such keys empty.
    match found.is_encrypted() {
        true => SecretKeyBox::from(text).into_secret_key(Some(password()?)).map_err(|error| wrong(error.to_string())),
        false => Ok(found),
    }
}

/// Checks every hash, and that each file that can be signed is signed with one of these keys.
///
/// # Errors
/// [`ExportError::Altered`] for whatever is not as it was signed.
pub fn verify(dir: &Path, public_keys: Vec<PublicKey>) -> Result<Vec<(&'static str, Standing)>, ExportError> {
    let trust = Trust { public_keys, ..Trust::default() };
    let bundle = Bundle::open_trusting(dir, &trust).map_err(ExportError::Altered)?;
    let qualification = bundle.qualification.map(|qualified| (QUALIFICATION, qualified.standing));
    Ok(std::iter::once((MANIFEST, bundle.standing)).chain(qualification).collect())
}
