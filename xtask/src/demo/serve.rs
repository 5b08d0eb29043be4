//! The appliance at work: files dropped into its inbox become reports.

use super::{
    data::{Data, table},
    kept::Made,
};
use crate::{
    appliance::{Appliance, Daemon, say},
    checkout,
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Longest wait for all reports.
const PATIENCE: Duration = Duration::from_secs(900);

/// One image with what is known of it and what the appliance says.
pub struct Item {
    /// Its file.
    pub name: String,
    /// The true class; empty when there is none.
    pub class: String,
    /// The true description.
    pub description: String,
    /// The report's JSON.
    pub report: Value,
}

/// Everything that was served.
pub struct Served {
    /// Phantoms of patients that no training saw.
    pub phantoms: Vec<Item>,
    /// Phantoms with something wrong in them.
    pub foreign: Vec<Item>,
    /// Real tissue.
    pub tissue: Vec<Item>,
    /// One report's page.
    pub page: PathBuf,
    /// What the appliance says of a file that is broken.
    pub note: PathBuf,
    /// The appliance's bundle.
    pub bundle: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
}

/// A file that is no image any more.
const BROKEN: &str = "broken.png";

/// The three cases in the inbox.
const CASES: [&str; 3] = ["phantoms", "foreign", "tissue"];

/// Drops everything and reads the reports.
pub fn run(bundle: &Made, data: &Data, tissue: &Made) -> Result<Served> {
    let appliance = Appliance::around(new_folder()?, &bundle.path.join("bundle"))?;
    let images = [
        known(&table(&data.served), &data.images())?,
        known(&table(&data.foreign), &data.foreign.path.join("images"))?,
        files(&tissue.path)?,
    ];
    say("serving");
    let mut daemon = Daemon::start(&appliance, &[])?;
    let mut reports = Vec::new();
    for (case, images) in CASES.into_iter().zip(&images) {
        let folder = appliance.path("inbox").join(case);
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        for (path, _, _) in images {
            fs::copy(path, folder.join(path.file_name().context("a file has a name")?))?;
        }
    }
    drop_broken(&images[0], &appliance)?;
    let started = Instant::now();
    for (case, images) in CASES.into_iter().zip(images) {
        reports.push(collect(&mut daemon, &appliance, case, images, started)?);
    }
    let note = appliance.path("failed").join(CASES[0]).join(format!("{BROKEN}.note.html"));
    wait(&mut daemon, &appliance, &[&note], started)?;
    daemon.stop()?;
    let [phantoms, foreign, tissue] = reports.try_into().ok().context("three cases have three lists")?;
    let first =
        phantoms.iter().find(|item| item.report["verdict"] == "accepted").or(phantoms.first()).context("phantoms were served")?;
    let page = appliance.path("done").join(CASES[0]).join(format!("{}.report.html", first.name));
    let (bundle, config) = (appliance.path("bundle"), appliance.config());
    Ok(Served { page, note, bundle, config, phantoms, foreign, tissue })
}

/// `demo/1`, `demo/2`, ...: the first that is not there yet.
fn new_folder() -> Result<PathBuf> {
    let demo = checkout().join("demo");
    let folder = (1..).map(|number: u32| demo.join(number.to_string())).find(|folder| !folder.exists());
    let folder = folder.context("there is a free number")?;
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}

/// An image's path with its class and description.
type Known = (PathBuf, String, String);

fn known(table: &Path, images: &Path) -> Result<Vec<Known>> {
    let mut reader = csv::Reader::from_path(table).with_context(|| format!("{} cannot be read", table.display()))?;
    let rows = reader.deserialize::<HashMap<String, String>>();
    rows.map(|row| {
        let mut row = row?;
        let mut field = |name: &str| row.remove(name).with_context(|| format!("{} has no column {name}", table.display()));
        Ok((images.join(field("file_name")?), field("class")?, field("description")?))
    })
    .collect()
}

fn files(folder: &Path) -> Result<Vec<Known>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths.into_iter().map(|path| (path, String::new(), String::new())).collect())
}

/// Waits for the report of each image. A note in its place is an item without a report's fields: it counts as no answer.
fn collect(daemon: &mut Daemon, appliance: &Appliance, case: &str, images: Vec<Known>, started: Instant) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for (path, class, description) in images {
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        let report = appliance.path("done").join(case).join(format!("{name}.report.json"));
        let note = appliance.path("failed").join(case).join(format!("{name}.note.json"));
        let found = wait(daemon, appliance, &[&report, &note], started)?;
        let report = serde_json::from_slice(&fs::read(found)?).with_context(|| format!("{} is no JSON", found.display()))?;
        items.push(Item { name, class, description, report });
    }
    Ok(items)
}

/// The first of these files that appears.
fn wait<'p>(daemon: &mut Daemon, appliance: &Appliance, paths: &[&'p Path], started: Instant) -> Result<&'p Path> {
    loop {
        if let Some(found) = paths.iter().find(|path| path.exists()) {
            return Ok(found);
        }
        daemon.check()?;
        if started.elapsed() > PATIENCE {
            let log = appliance.path("daemon.log");
            bail!("no {} after {} s; the log: {}", paths[0].display(), PATIENCE.as_secs(), log.display());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A PNG whose middle was overwritten: it gets a note, not a report.
fn drop_broken(images: &[Known], appliance: &Appliance) -> Result<()> {
    let png = images.iter().find(|(path, ..)| path.extension().is_some_and(|end| end == "png"));
    let mut bytes = fs::read(&png.context("some phantoms are PNG files")?.0)?;
    let middle = bytes.len() / 2;
    bytes[middle..].iter_mut().take(64).for_each(|byte| *byte = 0);
    fs::write(appliance.path("inbox").join(CASES[0]).join(BROKEN), bytes).context("the broken file cannot be written")
}

/// The table of everything that was served.
pub fn print(served: &Served) {
    println!("{:28} {:5} {:5} {:>6} {:>6} {:9} description", "image", "true", "says", "conf.", "alpha", "verdict");
    for item in served.phantoms.iter().chain(&served.foreign).chain(&served.tissue) {
        let text = |key: &str| item.report[key].as_str().unwrap_or("-").to_owned();
        let number = |key: &str| item.report[key].as_f64().map_or("-".into(), |value| format!("{value:.3}"));
        let (class, says) = (if item.class.is_empty() { "-" } else { &item.class }, text("leading_class"));
        let description: String = text("description").chars().take(110).collect();
        println!(
            "{:28} {class:5} {says:5} {:>6} {:>6} {:9} {description}",
            item.name,
            number("confidence"),
            number("alpha_text"),
            text("verdict")
        );
    }
}
