//! `mmlnb-train phantom`: patches with known truth, drawn from nothing.

use crate::error::TrainError;
use indicatif::{ProgressBar, ProgressStyle};
use mmlnb_phantom::{
    plan::{Plan, Texts},
    sets::Set,
    write::{Written, write},
};
use std::{io::IsTerminal, ops::RangeInclusive, path::PathBuf, thread::available_parallelism, time::Instant};

/// Draw phantoms: procedural patches that look like H&E, with their true class, counts and a description. They are synthetic, say so in their
/// metadata, and prove nothing about patients.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder to write: images/, data.csv, truth.jsonl
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Number of patients; of each class three in five train, one validates, one tests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    patients: u64,
    /// Another seed gives other patients
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Width and height in pixels
    #[arg(long, value_name = "PX", default_value_t = 224, value_parser = clap::value_parser!(u32).range(16..=8192))]
    size: u32,
    /// How hard it is
    #[arg(long, value_enum, default_value_t = Set::Standard)]
    set: Set,
    /// Patches of each patient, one number or a range
    #[arg(long, value_name = "N or N..M", default_value = "4..20", value_parser = patches)]
    patches: RangeInclusive<u32>,
    /// Number of scanners (the column site)
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    sites: u16,
    /// Micrometres a pixel
    #[arg(long, value_name = "UM", default_value_t = 0.5, value_parser = um_per_px)]
    um_per_px: f32,
    /// Patients of UD, PD and D, as shares
    #[arg(long, value_name = "UD,PD,D", default_value = "1,1,1", value_parser = shares)]
    class_shares: Shares,
    /// Also write masks/: a number for what stands at each pixel
    #[arg(long)]
    masks: bool,
    /// State four findings in one fixed wording and never the class: for describers too small to learn a language as well
    #[arg(long, conflicts_with = "class_words")]
    plain_texts: bool,
    /// Share of descriptions that name the class
    #[arg(long, value_name = "P", default_value_t = Texts::default().class_words, value_parser = probability)]
    class_words: f32,
    /// Share of descriptions that are another patient's
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    p_swap: f32,
    /// Share of descriptions that say nothing about the patch
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    p_generic: f32,
    /// Share of descriptions that break off
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    p_truncated: f32,
    /// Share of descriptions with one wrong finding
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    p_wrong: f32,
}

/// Patients of each class.
#[derive(Clone, Copy, Debug)]
struct Shares([f32; 3]);

/// Draws and writes the phantoms.
///
/// # Errors
/// The folder holds something already, or cannot be written.
pub fn run(args: &Args) -> Result<(), TrainError> {
    let plan = Plan {
        seed: args.seed,
        patients: args.patients,
        patches: args.patches.clone(),
        sites: usize::from(args.sites),
        size: args.size,
        um_per_px: args.um_per_px,
        set: args.set,
        class_shares: args.class_shares.0,
        texts: Texts {
            plain: args.plain_texts,
            class_words: args.class_words,
            swapped: args.p_swap,
            generic: args.p_generic,
            truncated: args.p_truncated,
            wrong: args.p_wrong,
        },
    };
    let threads = available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    let bar = bar();
    let written = write(&plan, args.masks, threads, &args.output, &|| bar.inc(1))?;
    bar.finish_and_clear();
    report(args, &written, written.patches() as f64 / started.elapsed().as_secs_f64());
    Ok(())
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{pos} patches, {per_sec}").expect("the template is well formed");
    ProgressBar::new_spinner().with_style(style)
}

fn report(args: &Args, written: &Written, per_second: f64) {
    let [ud, pd, d, none] = written.classes;
    eprintln!(
        "{} phantoms of {} patients in {}: UD {ud}, PD {pd}, D {d}, without a class {none}; {} left their patient's class; {per_second:.0} a second",
        written.patches(),
        written.patients,
        args.output.display(),
        written.strayed,
    );
    eprintln!(
        "They are synthetic: they show that code learns, splits, calibrates and abstains, and nothing about accuracy on patients."
    );
}

fn patches(text: &str) -> Result<RangeInclusive<u32>, String> {
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| format!("{text:?} is no number; write 8 or 4..20"));
    let (least, most) = match text.split_once("..") {
        Some((least, most)) => (number(least)?, number(most.trim_start_matches('='))?),
        None => (number(text)?, number(text)?),
    };
    if least == 0 || least > most || most > 10_000 {
        return Err("a patient has from 1 to 10000 patches, the smaller number first".into());
    }
    Ok(least..=most)
}

fn um_per_px(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(um) if (0.05..=10.0).contains(&um) => Ok(um),
        _ => Err("micrometres a pixel lie between 0.05 and 10; 0.5 is a 20x scan".into()),
    }
}

fn probability(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share lies between 0 and 1".into()),
    }
}

fn shares(text: &str) -> Result<Shares, String> {
    let parts: Vec<f32> = text.split(',').filter_map(|part| part.trim().parse().ok()).collect();
    let parts: [f32; 3] = parts.try_into().map_err(|_| "three numbers, like 1,3,1".to_owned())?;
    if parts.iter().any(|part| !part.is_finite() || *part < 0.0) || parts.iter().sum::<f32>() <= 0.0 {
        return Err("shares are not negative, and not all are 0".into());
    }
    Ok(Shares(parts))
}
