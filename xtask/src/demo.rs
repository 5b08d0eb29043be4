//! `cargo xtask demo`: the appliance at work on real H&E tiles, from nothing to reports.

use crate::{
    appliance::{Appliance, Daemon, finish, program, program_path, say},
    checkout, slide,
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Tiles that are dropped.
const TILES: usize = 24;

/// Longest wait for all reports.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the whole demo. Everything it makes stays in a new folder below `demo/`.
pub fn run(offline_dir: Option<PathBuf>) -> Result<()> {
    let started = Instant::now();
    let folder = new_folder()?;
    say("the demo: patches dropped in a folder become reports. Nothing has been trained: the weights are random");
    let appliance = Appliance::make(folder, offline_dir.clone())?;
    let tiles = slide::tiles(offline_dir)?;

    say("starting the daemon");
    let mut daemon = Daemon::start(&appliance, &[])?;
    let dropped = drop_tiles(&tiles, &appliance.path("inbox"))?;
    say(&format!("dropped {dropped} real H&E tiles and one broken file into {}", appliance.path("inbox").display()));
    wait(&mut daemon, &appliance, dropped)?;
    say("the reports");
    finish(program("mmlnb-appliance").arg("reports").arg("--config").arg(appliance.config()))?;
    daemon.stop()?;
    say("the daemon has stopped cleanly");
    print_places(&appliance)?;
    println!("\nThe whole took {:.0} s.", started.elapsed().as_secs_f64());
    Ok(())
}

/// `demo/1`, `demo/2`, ...: the first that is not there yet.
fn new_folder() -> Result<PathBuf> {
    let demo = checkout().join("demo");
    fs::create_dir_all(&demo).with_context(|| format!("{} cannot be made", demo.display()))?;
    let folder = (1..).map(|number: u32| demo.join(number.to_string())).find(|folder| !folder.exists());
    let folder = folder.context("there is a free number")?;
    fs::create_dir(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}

/// Copies tiles into two cases, and a tile whose middle was overwritten into the second; answers how many good ones.
fn drop_tiles(tiles: &Path, inbox: &Path) -> Result<usize> {
    let mut images: Vec<PathBuf> = fs::read_dir(tiles.join("images"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    images.sort();
    images.truncate(TILES);
    let cases = ["case-1", "case-2"].map(|case| inbox.join(case));
    for case in &cases {
        fs::create_dir_all(case).with_context(|| format!("{} cannot be made", case.display()))?;
    }
    for (index, image) in images.iter().enumerate() {
        let name = image.file_name().context("a file in a folder has a name")?;
        fs::copy(image, cases[index * cases.len() / images.len()].join(name))?;
    }
    let mut broken = fs::read(&images[0])?;
    let middle = broken.len() / 2;
    broken[middle..middle + 64].fill(0);
    fs::write(cases[1].join("broken.png"), broken)?;
    Ok(images.len())
}

/// Waits until every dropped file has its report or its note.
fn wait(daemon: &mut Daemon, appliance: &Appliance, reports: usize) -> Result<()> {
    let started = Instant::now();
    let mut said = 0;
    loop {
        daemon.check()?;
        let done = files_ending_in(&appliance.path("done"), ".report.html")?.len();
        let failed = files_ending_in(&appliance.path("failed"), ".note.html")?.len();
        if done + failed > said {
            said = done + failed;
            eprintln!("{done} reports, {failed} notes of {} files", reports + 1);
        }
        if (done, failed) == (reports, 1) {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            let log = appliance.path("daemon.log");
            bail!("only {done} reports and {failed} notes after {} s; the log: {}", PATIENCE.as_secs(), log.display());
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// All files below a folder whose names end so, sorted.
fn files_ending_in(folder: &Path, end: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_ending_in(&path, end)?);
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn print_places(appliance: &Appliance) -> Result<()> {
    let reports = files_ending_in(&appliance.path("done"), ".report.html")?;
    let notes = files_ending_in(&appliance.path("failed"), ".note.html")?;
    let (first, note) = (reports.first().context("there are reports")?, notes.first().context("there is a note")?);
    let command = program_path("mmlnb-appliance");
    println!("\nOpen this page first:  {}", first.display());
    println!("All files at a glance: {}", appliance.path("done/STATUS.html").display());
    println!("The broken file's note: {}", note.display());
    println!("The database:          {}", appliance.path("state/ledger.sqlite").display());
    println!("The bundle of graphs:  {}", appliance.path("bundle").display());
    println!("Start it again:        {} run --config {}", command.display(), appliance.config().display());
    println!(
        "\nNOTHING HAS BEEN TRAINED YET. All weights are random: the classes A, B, C stand for nothing, the descriptions are words"
    );
    println!("drawn by a random network. The demo shows the way of an image through the appliance, not what a trained one says.");
    Ok(())
}
