//! Phantoms, cut by patient into what each training sees and what none sees; real tissue at the phantoms' scale.

use super::{
    kept::{Kept, Made, empty},
    sizes::Sizes,
};
use crate::appliance::{finish, program};
use anyhow::{Context, Result};
use image::imageops::{self, FilterType};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Width and height of phantoms and tiles in pixels, at one micrometre a pixel.
pub const SIDE: u32 = 112;

/// Real tiles that are shown to the appliance.
const TILES: usize = 24;

/// Foreign phantoms that are shown to it: three of each fault.
const FOREIGN: usize = 24;

/// The phantoms and their parts.
pub struct Data {
    /// Everything, with `images/` and `truth.jsonl`.
    pub phantoms: Made,
    /// The parts' tables, in the folder of [`Data::phantoms`]'s key.
    pub parts: Made,
    /// Phantoms unlike all others.
    pub foreign: Made,
}

impl Data {
    /// The images of all parts.
    pub fn images(&self) -> PathBuf {
        self.phantoms.path.join("images")
    }

    /// The table of a part: `first`, `tuning`, `qualifying` or `served`.
    pub fn table(&self, part: &str) -> PathBuf {
        self.parts.path.join(format!("{part}.csv"))
    }
}

/// Draws and cuts.
pub fn make(kept: &Kept, sizes: &Sizes) -> Result<Data> {
    let phantoms = phantoms(kept, "phantoms", sizes.patients(), "2", "easy")?;
    let foreign = phantoms_of_one_patch(kept)?;
    let settings = format!("{sizes:?}");
    let parts = kept.step("parts", &[&settings], &[&phantoms], |part| cut(&phantoms.path, sizes, part))?;
    Ok(Data { phantoms, parts, foreign })
}

fn phantoms_of_one_patch(kept: &Kept) -> Result<Made> {
    phantoms(kept, "foreign", FOREIGN, "1", "ood")
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

/// Writes one table a part, and the descriptions of the first as the text that tokenizers learn from. Of patients that are served or qualify,
/// the first patch counts: such patches are independent of each other.
fn cut(phantoms: &Path, sizes: &Sizes, folder: &Path) -> Result<()> {
    empty(folder)?;
    let mut reader = csv::Reader::from_path(phantoms.join("data.csv")).context("the phantoms' table cannot be read")?;
    let header = reader.headers()?.clone();
    let rows = reader.records().collect::<Result<Vec<_>, _>>()?;
    let group = header.iter().position(|name| name == "group").context("the phantoms' table has no patients")?;
    let mut patients: Vec<Vec<&csv::StringRecord>> = Vec::new();
    for row in &rows {
        match patients.last_mut() {
            Some(last) if last[0][group] == row[group] => last.push(row),
            _ => patients.push(vec![row]),
        }
    }
    let mut rest = patients.as_slice();
    let parts = [
        ("first", sizes.first_patients, usize::MAX),
        ("tuning", sizes.tuning_patients, usize::MAX),
        ("qualifying", sizes.qualifying_patients, 1),
        ("served", sizes.served_patients, 1),
    ];
    for (name, count, patches) in parts {
        let (mine, others) = rest.split_at_checked(count).context("there are fewer phantoms than patients")?;
        rest = others;
        let mut writer = csv::Writer::from_path(folder.join(format!("{name}.csv")))?;
        // Nothing is tested on those from whom the describer learns first: their table has no parts, the recipe gives them all to training.
        let kept = |row: &csv::StringRecord| -> csv::StringRecord {
            let fields = header.iter().zip(row).filter(|(column, _)| name != "first" || *column != "split");
            fields.map(|(_, field)| field).collect()
        };
        writer.write_record(&kept(&header))?;
        mine.iter().flat_map(|patient| patient.iter().take(patches)).try_for_each(|row| writer.write_record(&kept(row)))?;
        writer.flush()?;
    }
    let text: String = rows.iter().take(400).map(|row| format!("{}\n", &row[1])).collect();
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
