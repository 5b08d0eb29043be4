//! `cargo xtask bench decode`: our JPEG decoder, which tells damage, beside the `image` crate's (zune-jpeg), which passes over most of it.
//!
//! Both decode the same bytes in turn in one process; each figure is the median over rounds of the time for all files together.

use super::percentile;
use crate::{appliance::say, slide};
use anyhow::{Context, Result, ensure};
use image::{ImageFormat, codecs::jpeg::JpegEncoder};
use mmlnb_models::prepare::decode::{Limits, decode};
use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    time::Instant,
};

/// What is decoded, and how often.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// JPEG files, or folders of them; without any the real H&E tiles, encoded with quality 90
    #[arg(value_name = "FILE|DIR")]
    images: Vec<PathBuf>,
    /// How often each side decodes all
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

/// Measures and prints; fails where our decoder needs more time.
pub fn run(options: &Options) -> Result<()> {
    if cfg!(debug_assertions) {
        say("this is a development build; `cargo run --release --package xtask -- bench decode` measures what is shipped");
    }
    let files = if options.images.is_empty() { tiles()? } else { read(&options.images)? };
    ensure!(!files.is_empty(), "there is no JPEG file to decode");
    let pixels: u64 = files.iter().map(|bytes| ours(bytes)).sum::<Result<u64>>()?;
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds.max(1) {
        mine.push(seconds(&files, ours)?);
        theirs.push(seconds(&files, zune)?);
    }
    let spread = |all: &[f64]| [0.5, 0.0, 1.0].map(|at| percentile(all.iter().copied(), at));
    let ([ours, ours_low, ours_high], [zune, zune_low, zune_high]) = (spread(&mine), spread(&theirs));
    let speed = |seconds: f64| pixels as f64 / seconds / 1e6;
    println!(
        "{} files, {:.1} million pixels, median (smallest to largest) of {} rounds",
        files.len(),
        pixels as f64 / 1e6,
        mine.len()
    );
    println!(
        "  ours  {:6.1} ms ({:.1} to {:.1}), {:.1} million pixels a second",
        ours * 1e3,
        ours_low * 1e3,
        ours_high * 1e3,
        speed(ours)
    );
    println!(
        "  image {:6.1} ms ({:.1} to {:.1}), {:.1} million pixels a second",
        zune * 1e3,
        zune_low * 1e3,
        zune_high * 1e3,
        speed(zune)
    );
    println!("  ratio {:.2} (above 1: ours is faster)", zune / ours);
    ensure!(ours <= zune, "our decoder is slower");
    Ok(())
}

fn seconds(files: &[Vec<u8>], decoded: fn(&[u8]) -> Result<u64>) -> Result<f64> {
    let begun = Instant::now();
    for bytes in files {
        black_box(decoded(black_box(bytes))?);
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// As the appliance decodes; the number of pixels.
fn ours(bytes: &[u8]) -> Result<u64> {
    let image = decode(bytes, &Limits::default())?;
    Ok((image.width * image.height) as u64)
}

fn zune(bytes: &[u8]) -> Result<u64> {
    let image = image::load_from_memory_with_format(bytes, ImageFormat::Jpeg)?.into_rgb8();
    Ok(u64::from(image.width()) * u64::from(image.height()))
}

fn tiles() -> Result<Vec<Vec<u8>>> {
    let encode = |path: PathBuf| {
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&image::open(path)?.into_rgb8())?;
        Ok(bytes)
    };
    files_of(&slide::tiles(None)?.join("images"))?.into_iter().map(encode).collect()
}

fn read(given: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    for path in given {
        if path.is_dir() { files.extend(files_of(path)?) } else { files.push(path.clone()) }
    }
    let jpeg = |path: &PathBuf| {
        path.extension().is_some_and(|name| name.eq_ignore_ascii_case("jpg") || name.eq_ignore_ascii_case("jpeg"))
    };
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    files.iter().filter(|path| jpeg(path)).map(read).collect()
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}
