//! What `mmlnb-appliance qualify` found about a bundle where it is served: `qualification.json`, beside the manifest that it leaves as it was.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{BundleError, Calibration, FORMAT, FileEntry, KnownAnswer, Manifest, Standing, Trust, inside, put_json};
use crate::hash;

/// The file's name.
pub const QUALIFICATION: &str = "qualification.json";
/// Its signature.
pub(super) const QUALIFICATION_SIGNATURE: &str = "qualification.json.minisig";

/// What was found, and by which the bundle is served from then on.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Qualification {
    /// [`FORMAT`].
    pub format: u32,
    /// `bundle_sha256` of the bundle that it is about.
    pub bundle_sha256: String,
    /// In the place of the manifest's; null for a bundle that only describes.
    pub calibration: Option<Calibration>,
    /// Beside the manifest's, on images that lie here.
    pub known_answers: Vec<KnownAnswer>,
    /// The figures, as docs/bundle.md lists them.
    pub measured: serde_json::Value,
    /// Every file that it brings, by its path in the bundle.
    pub files: BTreeMap<String, FileEntry>,
}

/// A qualification with its hash and who signed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Qualified {
    /// What the file says.
    pub found: Qualification,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Who signed it.
    pub standing: Standing,
}

impl Qualification {
    /// Writes `qualification.json` into the folder of the bundle that it is about. Returns its SHA-256.
    pub fn write(&self, dir: &Path, manifest: &Manifest) -> Result<String, BundleError> {
        let error = |problem: String| BundleError::Qualification { file: dir.join(QUALIFICATION), problem };
        self.check(manifest, &self.bundle_sha256).map_err(error)?;
        put_json(dir, QUALIFICATION, self, error)
    }

    fn parse(bytes: &[u8], manifest: &Manifest, bundle_sha256: &str) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|cause| format!("not valid JSON: {cause}"))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => return Err(format!("format {format}, but this version reads {FORMAT}")),
            None => return Err("has no `format`".to_string()),
        }
        let found: Qualification = serde_json::from_value(value).map_err(|cause| cause.to_string())?;
        found.check(manifest, bundle_sha256).map(|()| found)
    }

    fn check(&self, manifest: &Manifest, bundle_sha256: &str) -> Result<(), String> {
        if self.bundle_sha256 != bundle_sha256 {
            return Err(format!("is about another bundle: {}, not {bundle_sha256}", self.bundle_sha256));
        }
        for name in self.files.keys() {
            if !inside(name) || manifest.files.contains_key(name) {
                return Err(format!("`{name}` is no path inside the bundle that the manifest leaves free"));
            }
        }
        match self.known_answers.iter().find(|answer| !self.files.contains_key(&answer.image)) {
            Some(answer) => Err(format!("`{}` is used but not listed in `files`", answer.image)),
            None => {
                let problem = self.calibration.as_ref().and_then(Calibration::problem);
                problem.map_or(Ok(()), |problem| Err(format!("calibration: {problem}")))
            }
        }
    }
}

impl Qualified {
    /// That of the bundle in `dir`, if there is one.
    ///
    /// # Errors
    /// It cannot be read, is not to be trusted, or is that of another bundle.
    pub(super) fn read(dir: &Path, manifest: &Manifest, bundle_sha256: &str, trust: &Trust) -> Result<Option<Self>, BundleError> {
        let file = dir.join(QUALIFICATION);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(BundleError::Io { file, source }),
        };
        let standing = trust.judge(dir, QUALIFICATION, &bytes)?;
        let found = Qualification::parse(&bytes, manifest, bundle_sha256);
        let found = found.map_err(|problem| BundleError::Qualification { file, problem })?;
        Ok(Some(Qualified { found, sha256: hash::sha256_hex(&bytes), standing }))
    }
}
