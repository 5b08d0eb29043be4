//! A ledger that has grown: one report that the daemon made, and copies of its rows for as many images that really lie in `done`.

use super::{Cost, Ground, drops::image, processor};
use crate::appliance::{Appliance, Daemon, program};
use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, Transaction, params};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// From the start of the program to READY, the last daemon having been killed.
pub fn start(ground: &Ground, size: usize) -> Result<Cost> {
    let appliance = grown(ground, size)?;
    let daemon = Daemon::start(&appliance, &[])?;
    let (processor, peak) = (processor::of_family(daemon.id())?, processor::peak_of(daemon.id())?);
    daemon.stop()?;
    Ok(Cost { processor, items: size, peak })
}

/// `reports --json`.
pub fn reports(ground: &Ground, size: usize) -> Result<Cost> {
    run(&grown(ground, size)?, &["reports", "--json"], size)
}

/// `verify`.
pub fn verify(ground: &Ground, size: usize) -> Result<Cost> {
    run(&grown(ground, size)?, &["verify"], size)
}

fn run(appliance: &Appliance, words: &[&str], size: usize) -> Result<Cost> {
    let ended = processor::of_command(program("mmlnb-appliance").args(words).arg("--config").arg(appliance.config()))?;
    ensure!(ended.status.success(), "{} ended with {}", words.join(" "), ended.status);
    Ok(Cost { processor: ended.processor, items: size, peak: ended.peak })
}

/// An appliance with so many reports whose daemon was killed.
fn grown(ground: &Ground, size: usize) -> Result<Appliance> {
    let appliance = Appliance::around(ground.fresh()?, &ground.bundle)?;
    let daemon = Daemon::start(&appliance, &[])?;
    fs::write(appliance.path("first"), image(0)?)?;
    fs::rename(appliance.path("first"), appliance.path("inbox/first.png"))?;
    let mut ledger = Connection::open(appliance.path("state/ledger.sqlite"))?;
    ledger.busy_timeout(Duration::from_secs(5))?;
    let begun = Instant::now();
    while !ledger.query_row("SELECT EXISTS(SELECT 1 FROM file WHERE state = 'filed')", [], |row| row.get(0))? {
        if begun.elapsed() > Duration::from_secs(60) {
            bail!("the first image was not filed within a minute");
        }
        thread::sleep(Duration::from_millis(20));
    }
    // Dropping kills: the run has no end.
    drop(daemon);
    let transaction = ledger.transaction()?;
    multiply(&transaction, &appliance.path("done"), size)?;
    transaction.commit()?;
    Ok(appliance)
}

/// Copies the rows of the first image; each copy is another content, and its file lies in `done`.
fn multiply(ledger: &Transaction<'_>, done: &Path, size: usize) -> Result<()> {
    for table in ["content", "thumbnail", "job", "file", "report"] {
        ledger.execute_batch(&format!("CREATE TEMP TABLE one_{table} AS SELECT * FROM main.{table} LIMIT 1"))?;
    }
    for at in 1..size as i64 {
        let folder = done.join(format!("case-{:04}", at / 500));
        if at % 500 == 0 || at == 1 {
            fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        }
        let (bytes, path) = (format!("image {at}"), folder.join(format!("{at:07}.png")));
        fs::write(&path, &bytes).with_context(|| format!("{} cannot be written", path.display()))?;
        let sha256: [u8; 32] = Sha256::digest(bytes.as_bytes()).into();
        let source = format!("case-{:04}/{at:07}.png", at / 500);
        ledger.execute("UPDATE one_content SET sha256 = ?1, pixels_sha256 = ?1", [&sha256[..]])?;
        ledger.execute("UPDATE one_thumbnail SET sha256 = ?1", [&sha256[..]])?;
        ledger.execute("UPDATE one_job SET id = ?1 + 1, sha256 = ?2", params![at, &sha256[..]])?;
        ledger.execute(
            "UPDATE one_file SET id = ?1 + 1, job_id = ?1 + 1, sha256 = ?2, path = CAST(?3 AS BLOB), path_text = ?3, case_id = ?4, ino = ino + 1,
               filed_path = ?5",
            params![at, &sha256[..], source, source.split('/').next(), path.as_os_str().as_bytes()],
        )?;
        ledger.execute("UPDATE one_report SET id = ?1 + 1, job_id = ?1 + 1, description_key = ?1", [at])?;
        for table in ["content", "thumbnail", "job", "file", "report"] {
            ledger.prepare_cached(&format!("INSERT INTO main.{table} SELECT * FROM one_{table}"))?.execute([])?;
        }
    }
    Ok(())
}
