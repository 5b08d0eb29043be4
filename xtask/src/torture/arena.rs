//! The appliance of a step, on a folder of its own that is kept where the step fails; and what is dropped into it.

use super::figure::Step;
use mmlnb_models::random::Draw;
use mmlnb_tests::{Appliance, Daemon, Dropped, End, encode};
use std::{
    fs,
    ops::Deref,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Longest that a daemon which is left alone needs for what a step drops.
pub const LONG: Duration = Duration::from_secs(180);

/// An appliance on a folder that is removed when all went well.
pub struct Arena {
    appliance: Appliance,
    folder: PathBuf,
}

impl Arena {
    /// The appliance of a step; `part` tells several of one step apart.
    pub fn new(step: &Step, part: u64) -> Arena {
        let name = format!("mmlnb-{}-{}-{}-{part}", step.figure.to_lowercase(), std::process::id(), step.first);
        Arena::at(std::env::temp_dir().join(name))
    }

    /// One on this folder, which must not exist.
    pub fn at(folder: PathBuf) -> Arena {
        let appliance = Appliance::at(&folder);
        appliance.set("threads", "1");
        Arena { appliance, folder }
    }
}

impl Deref for Arena {
    type Target = Appliance;

    fn deref(&self) -> &Appliance {
        &self.appliance
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what was left lies in {}", self.folder.display());
        } else if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("{} cannot be removed: {error}", self.folder.display());
        }
    }
}

/// Waits until `count` files have reached their last place, while the daemon lives.
#[track_caller]
pub fn wait_for_ends(arena: &Appliance, daemon: &mut Daemon, count: usize, limit: Duration, story: &str) {
    let begun = Instant::now();
    loop {
        let files = arena.files();
        if files.iter().filter(|row| row.filed_at.is_some()).count() >= count {
            return;
        }
        daemon.assert_alive();
        let open = || files.iter().filter(|row| row.filed_at.is_none()).collect::<Vec<_>>();
        assert!(
            begun.elapsed() < limit,
            "{story}: after {} s not all of {count} files have ended; open: {:#?}; in the inbox: {:?}",
            limit.as_secs(),
            open(),
            arena.listing("inbox")
        );
        std::thread::sleep(Duration::from_millis(40));
    }
}

/// A small image that no other draw gives, in PNG, JPEG, TIFF or BMP; with the ending of its name.
pub fn image(draw: &mut Draw) -> (Vec<u8>, &'static str) {
    let (format, ending) = [
        (image::ImageFormat::Png, "png"),
        (image::ImageFormat::Jpeg, "jpg"),
        (image::ImageFormat::Tiff, "tif"),
        (image::ImageFormat::Bmp, "bmp"),
    ][draw.below(4)];
    (image_as(draw, format, 56), ending)
}

/// A small image with sides of this many pixels that no other draw gives.
pub fn image_as(draw: &mut Draw, format: image::ImageFormat, side: u32) -> Vec<u8> {
    let tone: [u8; 3] = std::array::from_fn(|_| 60 + draw.below(160) as u8);
    // Blocks of 8 pixels survive JPEG: images that differ stay different.
    let noise: Vec<u8> = (0..side.div_ceil(8).pow(2)).map(|_| draw.below(64) as u8).collect();
    let pixel = |x: u32, y: u32| {
        let noise = noise[(y / 8 * side.div_ceil(8) + x / 8) as usize];
        image::Rgb(tone.map(|tone| tone.saturating_add(noise)))
    };
    encode(&image::RgbImage::from_fn(side, side, pixel).into(), format)
}

/// Bytes that are no image, and no others are the same.
pub fn no_image(draw: &mut Draw) -> Vec<u8> {
    format!("no image at all, only words {:016x}", draw.bits()).into_bytes()
}

/// A file to drop: its path below the inbox, its bytes, its end.
pub struct Parcel {
    /// Path below the inbox.
    pub path: String,
    /// All bytes.
    pub bytes: Vec<u8>,
    /// How it has to end.
    pub end: End,
}

impl Parcel {
    /// As the invariant wants it.
    pub fn dropped(&self) -> Dropped {
        Dropped::new(&self.bytes, self.end)
    }
}

/// A stream of files in two cases: distinct images, every tenth no image, every twelfth a second copy of an earlier one in the same case.
pub fn stream(draw: &mut Draw, count: usize, name: &str) -> Vec<Parcel> {
    let mut files: Vec<Parcel> = Vec::new();
    for at in 0..count {
        let case = ["left", "right"][at % 2];
        let file = if at % 10 == 9 {
            Parcel { path: format!("{case}/{name}-{at}.png"), bytes: no_image(draw), end: End::Failure }
        } else if at % 12 == 10 {
            Parcel { path: format!("{case}/{name}-{at}.png"), bytes: files[at - 8].bytes.clone(), end: files[at - 8].end }
        } else {
            let (bytes, ending) = image(draw);
            Parcel { path: format!("{case}/{name}-{at}.{ending}"), bytes, end: End::Report }
        };
        files.push(file);
    }
    files
}
