//! Tables of rows that are checked before anything is started.

use super::{Cost, Ground, drops::image, golden, processor};
use crate::appliance::program;
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const CLASSES: [&str; 3] = ["UD", "PD", "D"];

/// `describe --dry-run` on rows of different images.
pub fn describe(ground: &Ground, size: usize) -> Result<Cost> {
    let table = Table::write(ground, size, |at| at)?;
    let settings = "rank = 2\nepochs = 1\nimage_size = [56, 56]\nbase_dtype = \"f32\"\nvalidation_texts = 2\n";
    fs::write(table.path("describer.toml"), settings)?;
    let mut command = program("mmlnb-train");
    command.arg("describe").arg("--dry-run").arg("--base").arg(golden("qwen2_5_vl"));
    command.arg("--config").arg(table.path("describer.toml")).arg("--output").arg(table.path("run"));
    table.checked_by(&mut command, 0)
}

/// `classify --dry-run` on rows of different images.
pub fn classify(ground: &Ground, size: usize) -> Result<Cost> {
    let table = Table::write(ground, size, |at| at)?;
    table.checked_by(&mut table.classify()?, 0)
}

/// `classify --dry-run` on rows that all name the same image: each is a problem.
pub fn repeated(ground: &Ground, size: usize) -> Result<Cost> {
    let table = Table::write(ground, size, |_| 0)?;
    table.checked_by(&mut table.classify()?, 2)
}

/// The rows of `qualify`. The last one has no class of the bundle: all are checked, and then none is assessed.
pub fn qualify(ground: &Ground, size: usize) -> Result<Cost> {
    let mut table = Table::write(ground, size - 1, |at| at)?;
    table.rows = size;
    let csv =
        fs::read_to_string(table.path("data.csv"))? + &format!("{},no class,none of them,nobody,test\n", Table::name(size - 1));
    fs::write(table.path("data.csv"), csv)?;
    fs::write(table.path("images").join(Table::name(size - 1)), image(size - 1)?)?;
    table.checked_by(program("mmlnb-appliance").arg("qualify").arg(&ground.bundle), 2)
}

/// The rows of `qualify` when all name the same image.
pub fn qualify_repeated(ground: &Ground, size: usize) -> Result<Cost> {
    let table = Table::write(ground, size, |_| 0)?;
    table.checked_by(program("mmlnb-appliance").arg("qualify").arg(&ground.bundle), 2)
}

/// A table with its images.
struct Table {
    folder: PathBuf,
    rows: usize,
}

impl Table {
    /// So many rows; `image_of` says which image each names.
    fn write(ground: &Ground, rows: usize, image_of: impl Fn(usize) -> usize) -> Result<Table> {
        let folder = ground.fresh()?;
        fs::create_dir(folder.join("images"))?;
        let mut csv = "file_name,description,class,group,split\n".to_owned();
        for at in 0..rows {
            let number = image_of(at);
            csv += &Table::line(number, at);
            let path = folder.join("images").join(Table::name(number));
            if !path.exists() {
                fs::write(&path, image(number)?).with_context(|| format!("{} cannot be written", path.display()))?;
            }
        }
        fs::write(folder.join("data.csv"), csv)?;
        Ok(Table { folder, rows })
    }

    fn name(number: usize) -> String {
        format!("{number:06}.png")
    }

    /// A row; patients have three rows each and are in one part.
    fn line(image: usize, at: usize) -> String {
        let (patient, class) = (at / CLASSES.len(), CLASSES[at % CLASSES.len()]);
        let part = ["train", "train", "validation", "test"][patient % 4];
        format!("{},Sheets of cells {at}.,{class},patient {patient},{part}\n", Table::name(image))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn classify(&self) -> Result<Command> {
        let settings = format!("start = {:?}\nepochs = 3\nbatch_size = 4\n", as_text(&golden("curriculum/checkpoint"))?);
        fs::write(self.path("classifier.toml"), settings)?;
        let mut command = program("mmlnb-train");
        command.arg("classify").arg("--dry-run").arg("--config").arg(self.path("classifier.toml"));
        command.arg("--output").arg(self.path("run"));
        Ok(command)
    }

    /// What a program takes to read and check it; its exit status is known before.
    fn checked_by(&self, command: &mut Command, status: i32) -> Result<Cost> {
        command.arg("--data").arg(self.path("data.csv")).arg("--images").arg(self.path("images"));
        let ended = processor::of_command(command)?;
        ensure!(ended.status.code() == Some(status), "{} ended with {}, not {status}", shown(command), ended.status);
        Ok(Cost { processor: ended.processor, items: self.rows, peak: ended.peak })
    }
}

fn as_text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
