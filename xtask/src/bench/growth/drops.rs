//! Files that are dropped on a running daemon.

use super::{Cost, Ground, processor};
use crate::appliance::{Appliance, Daemon};
use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// So many drops are measured beside old folders.
const DROPS: usize = 20;

/// So long at most until a dropped file is filed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Different images in one case.
pub fn different(ground: &Ground, size: usize) -> Result<Cost> {
    burst(ground, size, |at| (format!("case/{at:05}.png"), at), None)
}

/// Different images in one case, each with a sidecar.
pub fn with_sidecars(ground: &Ground, size: usize) -> Result<Cost> {
    burst(ground, size, |at| (format!("case/{at:05}.png"), at), Some("xml"))
}

/// Copies of one image in one case.
pub fn copies(ground: &Ground, size: usize) -> Result<Cost> {
    burst(ground, size, |at| (format!("case/{at:05}.png"), 0), None)
}

/// A copy of one image in each of so many cases.
pub fn cases(ground: &Ground, size: usize) -> Result<Cost> {
    burst(ground, size, |at| (format!("case-{at:05}/a.png"), 0), None)
}

/// Drops one after the other, each in a case of its own, beside so many cases whose files are long filed.
pub fn beside_old_folders(ground: &Ground, size: usize) -> Result<Cost> {
    let appliance = Appliance::around(ground.fresh()?, &ground.bundle)?;
    for at in 0..size {
        fs::create_dir(appliance.path("inbox").join(format!("old-{at:06}")))?;
    }
    let scene = Scene::start(appliance)?;
    let before = scene.processor()?;
    for at in 0..DROPS {
        scene.drop(&scene.prepare(at)?, &format!("case-{at}/a.png"))?;
        scene.wait_for_filed(at + 2)?;
    }
    scene.end(before, DROPS)
}

/// Drops so many files at once, one content for each number that `name_and_content` gives, and waits until all are filed.
fn burst(
    ground: &Ground,
    size: usize,
    name_and_content: impl Fn(usize) -> (String, usize),
    sidecar: Option<&str>,
) -> Result<Cost> {
    let scene = Scene::start(Appliance::around(ground.fresh()?, &ground.bundle)?)?;
    let drops: Vec<(PathBuf, String)> = (0..size)
        .map(|at| {
            let (name, content) = name_and_content(at);
            let outside = scene.appliance.path(&format!("outside-{at}"));
            fs::write(&outside, image(content + 1)?).with_context(|| format!("{} cannot be written", outside.display()))?;
            Ok((outside, name))
        })
        .collect::<Result<_>>()?;
    if let Some(ending) = sidecar {
        for (_, name) in &drops {
            let path = scene.appliance.path("inbox").join(name).with_extension(ending);
            fs::create_dir_all(path.parent().context("a name below the inbox")?)?;
            fs::write(path, "<x/>")?;
        }
    }
    let before = scene.processor()?;
    drops.iter().try_for_each(|(outside, name)| scene.drop(outside, name))?;
    scene.wait_for_filed(size + 1)?;
    if let Some(ending) = sidecar {
        let left = drops.iter().filter(|(_, name)| scene.appliance.path("inbox").join(name).with_extension(ending).exists());
        ensure!(left.count() == 0, "sidecars were left behind in the inbox");
    }
    scene.end(before, size)
}

/// An appliance whose daemon has filed a first image.
struct Scene {
    appliance: Appliance,
    daemon: Daemon,
    ledger: Connection,
}

impl Scene {
    fn start(appliance: Appliance) -> Result<Scene> {
        let daemon = Daemon::start(&appliance, &[])?;
        let path = appliance.path("state/ledger.sqlite");
        let ledger = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        ledger.busy_timeout(Duration::from_secs(5))?;
        let scene = Scene { appliance, daemon, ledger };
        let first = scene.appliance.path("first");
        fs::write(&first, image(0)?)?;
        scene.drop(&first, "first.png")?;
        scene.wait_for_filed(1)?;
        Ok(scene)
    }

    /// The image of a number, outside of the inbox.
    fn prepare(&self, number: usize) -> Result<PathBuf> {
        let outside = self.appliance.path(&format!("outside-{number}"));
        fs::write(&outside, image(number + 1)?).with_context(|| format!("{} cannot be written", outside.display()))?;
        Ok(outside)
    }

    /// Renames a file into the inbox: that is a complete file by contract.
    fn drop(&self, outside: &Path, name: &str) -> Result<()> {
        let target = self.appliance.path("inbox").join(name);
        fs::create_dir_all(target.parent().context("a name below the inbox")?)?;
        fs::rename(outside, &target).with_context(|| format!("{} cannot be written", target.display()))
    }

    fn processor(&self) -> Result<Duration> {
        processor::of_family(self.daemon.id())
    }

    /// Waits until so many files are filed, and nothing else has become of any.
    fn wait_for_filed(&self, wanted: usize) -> Result<()> {
        let (wanted, mut last, mut since) = (u32::try_from(wanted)?, 0, Instant::now());
        loop {
            let (filed, failed) = self.counts()?;
            ensure!(failed == 0, "{failed} files were not reported");
            if filed >= wanted {
                return Ok(());
            }
            if filed > last {
                (last, since) = (filed, Instant::now());
            }
            ensure!(since.elapsed() < PATIENCE, "nothing more is filed; {filed} of {wanted} are");
            thread::sleep(Duration::from_millis(if wanted < 100 { 5 } else { 100 }));
        }
    }

    fn counts(&self) -> Result<(u32, u32)> {
        let sql = "SELECT coalesce(sum(files) FILTER (WHERE state = 'filed'), 0),
                     coalesce(sum(files) FILTER (WHERE state IN ('failed', 'rejected', 'vanished', 'replaced')), 0) FROM tally";
        Ok(self.ledger.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    fn end(self, before: Duration, items: usize) -> Result<Cost> {
        let (processor, peak) = (self.processor()?.saturating_sub(before), processor::peak_of(self.daemon.id())?);
        self.daemon.stop()?;
        Ok(Cost { processor, items, peak })
    }
}

/// A small picture in the colours of a stained section, another one for each number.
pub fn image(number: usize) -> Result<Vec<u8>> {
    let colour = |x: u32, y: u32| {
        let dark = (x * 7 + y * 13 + number as u32) % 97;
        image::Rgb([200 - dark as u8, 120 + (number / 97 % 97) as u8 - dark as u8, 180 - (number / 9409) as u8])
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(48, 48, colour).write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_another_image() {
        let images: std::collections::BTreeSet<Vec<u8>> = (0..20_000).map(|number| image(number).unwrap()).collect();
        assert_eq!(images.len(), 20_000);
    }
}
