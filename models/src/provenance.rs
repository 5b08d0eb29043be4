//! Which images and patients a describer or a classifier has seen: hashes only, in a file beside its weights, so that later commands leave them out.

use crate::{hash, record::RecordError, spelling::folded};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The file's name in an adapter's, a checkpoint's or a classifier's folder, and in a bundle's.
pub const TRAINING_DATA: &str = "training_data.json";

/// Hashes of what was seen. Those of a patient are made from the folded name, so that `P01` and `p1` are one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingData {
    /// Goes into every hash, another one in each run: lists of names cannot be hashed once and looked up in every folder. Empty in folders of
    /// earlier versions, whose hashes are SHA-256 of image files and of patients' names as they were written.
    #[serde(default)]
    salt: String,
    /// Of the images on which weights were fitted (in earlier versions also of those that chose the epoch).
    images: BTreeSet<String>,
    /// Of their patients.
    groups: BTreeSet<String>,
    /// What chose the best epoch and fitted thresholds.
    #[serde(default)]
    chosen: Hashes,
    /// What the weights had seen before this training began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    before: Vec<TrainingData>,
    /// Whether the weights have also seen what nobody recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
}

/// Hashes of images and patients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Hashes {
    images: BTreeSet<String>,
    groups: BTreeSet<String>,
}

/// What an image was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It chose the best epoch, temperature or thresholds.
    Chosen,
    /// Weights were fitted on it.
    Trained,
}

/// How a row is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// Another image of its patient was used.
    Patient,
    /// The image itself was used.
    Image,
}

impl TrainingData {
    /// Nothing seen in this training; what the weights had seen before it, if that is known.
    pub fn new(salt: String, before: Option<TrainingData>) -> TrainingData {
        TrainingData { salt, before: before.into_iter().collect(), ..TrainingData::default() }
    }

    /// Of weights that were trained, and of which nobody says on what.
    pub fn unknown() -> TrainingData {
        TrainingData { incomplete: true, ..TrainingData::default() }
    }

    /// What a describer has seen: what is `tuned` on `base` (an adapter, or a checkpoint of which all weights were trained), and `base` itself. `None`:
    /// neither says, as with a checkpoint from the hub. Where `base` alone says, that is known and the rest is not ([`TrainingData::is_complete`]).
    ///
    /// # Errors
    /// As [`TrainingData::read`].
    pub fn of_describer(base: &Path, tuned: Option<&Path>) -> Result<Option<TrainingData>, RecordError> {
        let base = TrainingData::read(base)?;
        let Some(tuned) = tuned else { return Ok(base) };
        Ok(match (TrainingData::read(tuned)?, base) {
            (Some(tuned), Some(base)) if tuned.holds(&base) => Some(tuned),
            (Some(mut tuned), base) => {
                tuned.before.extend(base);
                Some(tuned)
            }
            (None, Some(base)) => Some(TrainingData { before: vec![base], ..TrainingData::unknown() }),
            (None, None) => None,
        })
    }

    /// Whether everything that the weights have seen is in it, as far as those say that trained them.
    pub fn is_complete(&self) -> bool {
        !self.incomplete && self.before.iter().all(TrainingData::is_complete)
    }

    fn holds(&self, other: &TrainingData) -> bool {
        self == other || self.before.iter().any(|before| before.holds(other))
    }

    /// The salt, for a training that goes on.
    pub fn salt(&self) -> &str {
        &self.salt
    }

    /// Keeps an image, by the SHA-256 of its file, and its patient.
    pub fn add(&mut self, role: Role, image_sha256: &str, group: Option<&str>) {
        let image = self.image_hash(image_sha256);
        let group = group.map(|group| self.group_hash(group));
        let (images, groups) = match role {
            Role::Trained => (&mut self.images, &mut self.groups),
            Role::Chosen => (&mut self.chosen.images, &mut self.chosen.groups),
        };
        images.insert(image);
        groups.extend(group);
    }

    /// What an image, or another one of its patient, was used for; training before choosing, the image before its patient.
    pub fn seen(&self, image_sha256: &str, group: Option<&str>) -> Option<(Role, Known)> {
        let image = self.image_hash(image_sha256);
        let hashed = group.map(|group| self.group_hash(group));
        let of = |images: &BTreeSet<String>, groups: &BTreeSet<String>| match &hashed {
            _ if images.contains(&image) => Some(Known::Image),
            Some(group) if groups.contains(group) => Some(Known::Patient),
            _ => None,
        };
        let here = [
            of(&self.images, &self.groups).map(|known| (Role::Trained, known)),
            of(&self.chosen.images, &self.chosen.groups).map(|known| (Role::Chosen, known)),
        ];
        let before = self.before.iter().map(|before| before.seen(image_sha256, group));
        here.into_iter().chain(before).flatten().max()
    }

    fn image_hash(&self, sha256: &str) -> String {
        if self.salt.is_empty() {
            sha256.to_string()
        } else {
            hash::sha256_hex(format!("{} image {sha256}", self.salt).as_bytes())
        }
    }

    fn group_hash(&self, group: &str) -> String {
        match self.salt.as_str() {
            "" => hash::sha256_hex(group.as_bytes()),
            salt => hash::sha256_hex(format!("{salt} patient {}", folded(group)).as_bytes()),
        }
    }

    /// The file in a folder; `None`: the folder does not say what was seen.
    ///
    /// # Errors
    /// A file that is there and cannot be read or is damaged.
    pub fn read(folder: &Path) -> Result<Option<TrainingData>, RecordError> {
        TrainingData::read_file(&folder.join(TRAINING_DATA))
    }

    /// As [`TrainingData::read`], of a file.
    ///
    /// # Errors
    /// As [`TrainingData::read`].
    pub fn read_file(file: &Path) -> Result<Option<TrainingData>, RecordError> {
        let failed = |problem: String| RecordError { file: file.into(), problem };
        match fs::read(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error.to_string())),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.to_string())),
        }
    }

    /// As the file has it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("sets of strings are JSON");
        bytes.push(b'\n');
        bytes
    }
}

/// The file beside a CSV file that says what the describer of its texts had seen: `data.csv.training_data.json`.
pub fn beside_table(csv: &Path) -> PathBuf {
    let mut name = csv.as_os_str().to_owned();
    name.push(".");
    name.push(TRAINING_DATA);
    name.into()
}

/// Random, 128 bits in hex.
///
/// # Errors
/// The system's random source cannot be read.
pub fn new_salt() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_known_by_image_and_by_patient_however_it_is_spelled() {
        let mut data = TrainingData::new(new_salt().unwrap(), None);
        data.add(Role::Trained, "aa", Some("P01"));
        data.add(Role::Chosen, "bb", Some("P02"));
        assert_eq!(data.seen("aa", None), Some((Role::Trained, Known::Image)));
        assert_eq!(data.seen("cc", Some("p\u{a0}1")), Some((Role::Trained, Known::Patient)));
        assert_eq!(data.seen("bb", Some("P01")), Some((Role::Trained, Known::Patient)));
        assert_eq!(data.seen("bb", Some("P9")), Some((Role::Chosen, Known::Image)));
        assert_eq!(data.seen("dd", Some("P3")), None);
        let mut next = TrainingData::new(new_salt().unwrap(), Some(data.clone()));
        next.add(Role::Trained, "ee", None);
        assert_ne!(next.salt(), data.salt());
        assert_eq!(next.seen("cc", Some("P1")), Some((Role::Trained, Known::Patient)), "what its base had seen");
        assert_eq!(next.seen("ee", None), Some((Role::Trained, Known::Image)));
    }

    #[test]
    fn an_adapter_without_a_record_does_not_hide_its_bases() {
        let folder = tempfile::tempdir().unwrap();
        let [base, adapter] = ["base", "adapter"].map(|name| folder.path().join(name));
        [&base, &adapter].iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let of = || TrainingData::of_describer(&base, Some(&adapter)).unwrap();
        assert_eq!(of(), None, "a checkpoint from the hub and an adapter from elsewhere");
        let mut seen = TrainingData::new(new_salt().unwrap(), None);
        seen.add(Role::Trained, "aa", Some("P01"));
        fs::write(base.join(TRAINING_DATA), seen.to_bytes()).unwrap();
        let joined = of().unwrap();
        assert_eq!(joined.seen("aa", None), Some((Role::Trained, Known::Image)));
        assert!(!joined.is_complete(), "what the adapter has seen is not known");
        fs::write(adapter.join(TRAINING_DATA), joined.to_bytes()).unwrap();
        assert!(!TrainingData::read(&adapter).unwrap().unwrap().is_complete(), "and stays so in the file");

        let mut own = TrainingData::new(new_salt().unwrap(), None);
        own.add(Role::Chosen, "bb", None);
        fs::write(adapter.join(TRAINING_DATA), own.to_bytes()).unwrap();
        let joined = of().unwrap();
        assert_eq!(
            joined.seen("cc", Some("P1")),
            Some((Role::Trained, Known::Patient)),
            "another base than the adapter's record names"
        );
        assert_eq!(joined.seen("bb", None), Some((Role::Chosen, Known::Image)));
        assert!(joined.is_complete());
        fs::write(adapter.join(TRAINING_DATA), joined.to_bytes()).unwrap();
        assert_eq!(of().unwrap(), joined, "what the adapter's record holds already does not stand there twice");
        assert!(!TrainingData::new("s".into(), Some(TrainingData::unknown())).is_complete());
    }

    #[test]
    fn the_file_names_nobody_and_those_of_earlier_versions_are_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(TrainingData::read(folder.path()).unwrap(), None);
        let mut data = TrainingData::new(new_salt().unwrap(), None);
        let image = hash::sha256_hex(b"image");
        data.add(Role::Trained, &image, Some("P01"));
        let file = folder.path().join(TRAINING_DATA);
        fs::write(&file, data.to_bytes()).unwrap();
        assert_eq!(TrainingData::read(folder.path()).unwrap(), Some(data));
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("P01") && !text.contains(&image) && !text.contains(&hash::sha256_hex(b"P01")), "{text}");
        fs::write(&file, format!("{{\"images\": [\"{image}\"], \"groups\": [\"{}\"]}}", hash::sha256_hex(b"P01"))).unwrap();
        let old = TrainingData::read(folder.path()).unwrap().unwrap();
        assert_eq!(old.seen(&image, None), Some((Role::Trained, Known::Image)));
        assert_eq!(old.seen("bb", Some("P01")), Some((Role::Trained, Known::Patient)));
        fs::write(&file, "{").unwrap();
        assert!(TrainingData::read(folder.path()).unwrap_err().to_string().contains(TRAINING_DATA));
        assert_eq!(beside_table(Path::new("a/data.csv")), Path::new("a/data.csv.training_data.json"));
    }
}
