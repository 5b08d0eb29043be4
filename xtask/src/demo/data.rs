//! Phantoms, cut by patient into what each training sees and what none sees; real tissue at the phantoms' scale.

use super::{
    kept::{Kept, Made, empty},
    sizes::Sizes,
};
use crate::appliance::{finish, program};
use anyhow::{Context, Result};
use csv::StringRecord;
use image::imageops::{self, FilterType};
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// Width and height of phantoms and tiles in pixels, at one micrometre a pixel.
pub const SIDE: u32 = 112;

/// Real tiles that are shown to the appliance.
const TILES: usize = 24;

/// Foreign phantoms that are shown to it: three of each fault.
const FOREIGN: usize = 24;

/// Phantom patients that are drawn, for either size of the demo.
const PATIENTS: usize = 2800;

/// The phantoms and their parts.
pub struct Data {
    /// Everything, with `images/` and `truth.jsonl`.
    pub phantoms: Made,
    /// Some of the descriptions: the text that tokenizers learn from.
    pub corpus: Made,
    /// From whom the describer learns first.
    pub first: Made,
    /// For its tuning and for the classifier.
    pub tuning: Made,
    /// On whom the bundle is qualified.
    pub qualifying: Made,
    /// Whose first patch is served.
    pub served: Made,
    /// Phantoms unlike all others.
    pub foreign: Made,
}

impl Data {
    /// The images of all parts.
    pub fn images(&self) -> PathBuf {
        self.phantoms.path.join("images")
    }

    /// The file of [`Data::corpus`].
    pub fn corpus_file(&self) -> PathBuf {
        self.corpus.path.join("corpus.txt")
    }
}

/// A part's table.
pub fn table(part: &Made) -> PathBuf {
    part.path.join("data.csv")
}

/// Draws and cuts.
pub fn make(kept: &Kept, sizes: &Sizes) -> Result<Data> {
    let phantoms = phantoms(kept, "phantoms", PATIENTS, "2", "easy")?;
    let foreign = self::phantoms(kept, "foreign", FOREIGN, "1", "ood")?;
    let corpus = kept.step("corpus", &[], &[&phantoms], |part| corpus(&phantoms.path, part))?;
    let mut taken = 0;
    let mut part = |name: &str, patients: usize, patches: usize, splits: bool| {
        let mine = taken..taken + patients;
        taken = mine.end;
        let settings = format!("{mine:?} {patches} {splits}");
        kept.step(name, &[&settings], &[&phantoms], |folder| cut(&phantoms.path, mine, (patches, splits), folder))
    };
    // The tuning's patients keep the phantoms' splits. Of the others nobody but the program that gets them decides: the first describer trains on
    // all, qualification calibrates on one half and reports the other. Single patches are independent of each other.
    let first = part("first", sizes.first_patients, 2, false)?;
    let tuning = part("tuning", sizes.tuning_patients, 2, true)?;
    let qualifying = part("qualifying", sizes.qualifying_patients, 1, false)?;
    let served = part("served", sizes.served_patients, 1, false)?;
    Ok(Data { phantoms, corpus, first, tuning, qualifying, served, foreign })
}

fn phantoms(kept: &Kept, name: &str, patients: usize, patches: &str, set: &str) -> Result<Made> {
    let arguments = format!(
        "phantom --patients {patients} --patches {patches} --set {set} --size {SIDE} --um-per-px 1.0 --plain-texts --seed 1"
    );
    kept.step(name, &[&arguments], &[], |part| {
        empty(part)?;
        finish(program("mmlnb-train").args(arguments.split(' ')).arg("--output").arg(part))
    })
}

/// The phantoms' table: its columns, and the rows of each patient.
fn patients(phantoms: &Path) -> Result<(StringRecord, Vec<Vec<StringRecord>>)> {
    let mut reader = csv::Reader::from_path(phantoms.join("data.csv")).context("the phantoms' table cannot be read")?;
    let header = reader.headers()?.clone();
    let group = header.iter().position(|name| name == "group").context("the phantoms' table has no patients")?;
    let mut patients: Vec<Vec<StringRecord>> = Vec::new();
    for row in reader.into_records() {
        let row = row?;
        match patients.last_mut() {
            Some(last) if last[0][group] == row[group] => last.push(row),
            _ => patients.push(vec![row]),
        }
    }
    Ok((header, patients))
}

/// Writes the table of some patients, with so many patches of each, with or without the column of splits.
fn cut(phantoms: &Path, mine: Range<usize>, (patches, splits): (usize, bool), folder: &Path) -> Result<()> {
    empty(folder)?;
    let (header, patients) = patients(phantoms)?;
    let mine = patients.get(mine).context("there are fewer phantoms than patients")?;
    let kept = |row: &StringRecord| -> StringRecord {
        let fields = header.iter().zip(row).filter(|(column, _)| splits || *column != "split");
        fields.map(|(_, field)| field).collect()
    };
    let mut writer = csv::Writer::from_path(folder.join("data.csv"))?;
    writer.write_record(&kept(&header))?;
    mine.iter().flat_map(|patient| patient.iter().take(patches)).try_for_each(|row| writer.write_record(&kept(row)))?;
    writer.flush().context("the table cannot be written")
}

fn corpus(phantoms: &Path, folder: &Path) -> Result<()> {
    empty(folder)?;
    let text: String = patients(phantoms)?.1.iter().flatten().take(400).map(|row| format!("{}\n", &row[1])).collect();
    fs::write(folder.join("corpus.txt"), text).context("the tokenizers' text cannot be written")
}

/// Real H&E tiles, cut and scaled to the size and scale of the phantoms, so that neither gives them away.
pub fn tissue(kept: &Kept, tiles: &Path) -> Result<Made> {
    kept.step("tissue", &[&format!("{SIDE} {TILES}")], &[], |part| {
        empty(part)?;
        let mut paths: Vec<PathBuf> =
            fs::read_dir(tiles.join("images"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.sort();
        for path in paths.iter().take(TILES) {
            let tile = image::open(path).with_context(|| format!("{} cannot be read", path.display()))?.into_rgb8();
            // The slide has half a micrometre a pixel.
            let middle = imageops::crop_imm(&tile, 0, 0, (2 * SIDE).min(tile.width()), (2 * SIDE).min(tile.height())).to_image();
            let name = path.file_name().context("a file has a name")?;
            imageops::resize(&middle, SIDE, SIDE, FilterType::Triangle).save(part.join(name))?;
        }
        Ok(())
    })
}
