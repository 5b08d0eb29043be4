//! `mmlnb-train generate`

use super::place::Place;
use crate::{
    data::{Sheet, TrainingData},
    error::TrainError,
    generate::{BATCH, Generated, Source, describe_files, file_name, image_files, write_descriptions},
    run::files,
    start, threads,
};
use mmlnb_models::{problems::Problems, provenance::beside_table};
use std::{
    ffi::OsString,
    fs, io,
    num::NonZeroU16,
    path::{Path, PathBuf},
};

/// Describes every image of a CSV file with a Qwen2.5-VL checkpoint, and writes the CSV file again with the descriptions in it.
///
/// All columns stay; `description` is written or replaced, and beside it description_tokens, stop_reason and mean_token_logprob. Question, image size and
/// settings are those of the bundle that would be exported from the same folders. Descriptions are kept in OUTPUT.descriptions.jsonl as they are made:
/// the same command goes on after any interruption, and makes nothing twice that the same describer has said of the same image. Rows whose image
/// cannot be read are listed by line and left without a description (exit code 3). OUTPUT.training_data.json says in hashes which images the describer was
/// tuned on, if its folder does: keep it beside OUTPUT, `classify` reads it.
#[derive(clap::Args)]
pub struct Args {
    /// CSV file with a column `file_name`
    #[arg(long, value_name = "CSV")]
    data: PathBuf,
    /// The folder below which the images lie
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// The Qwen2.5-VL checkpoint
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// An adapter, in PEFT's format, merged into it
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Accept an adapter that lacks modules that its configuration names: they stay as in the base
    #[arg(long, requires = "adapter")]
    allow_partial: bool,
    /// The CSV file to be written; not --data itself
    #[arg(long, value_name = "CSV")]
    output: PathBuf,
    /// Prompt and generation settings (TOML), as for `mmlnb-export bundle`
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Width and height that every image gets, multiples of 28 [default: those of the adapter's training, else by smart_resize]
    #[arg(long, value_name = "WxH", value_parser = super::image_size)]
    image_size: Option<[i64; 2]>,
    /// Images that are described together
    #[arg(long, value_name = "N", default_value_t = BATCH, value_parser = super::at_least_one)]
    batch: usize,
    /// Threads of libtorch [default: one for small networks, else the physical cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroU16>,
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
///
/// # Errors
/// Wrong input, a describer that cannot be used; [`TrainError::Partly`] when some images have no description.
pub fn run(args: Args) -> Result<(), TrainError> {
    let Args { data, images, base, adapter, allow_partial, output, settings, image_size, batch, threads, place } = args;
    let device = place.device()?;
    let sheet = Sheet::read(&data)?;
    let images = image_files(&sheet, &images)?;
    let mut cache = OsString::from(output.as_os_str());
    cache.push(".descriptions.jsonl");
    let cache = PathBuf::from(cache);
    let inputs = [("--data", data.as_path()), ("--base", base.as_path())];
    let inputs = inputs.into_iter().chain(adapter.iter().map(|folder| ("--adapter", folder.as_path())));
    let inputs = inputs.chain(settings.iter().map(|file| ("--settings", file.as_path())));
    let inputs: Vec<(&str, &Path)> = inputs.chain(images.iter().map(|image| ("--images", image.as_path()))).collect();
    for written in [output.as_path(), &cache, &beside_table(&output)] {
        files::not_an_input(written, &inputs)?;
    }
    let tuned_on = TrainingData::of_describer(&base, adapter.as_deref())?;
    let source = Source { base, adapter, allow_partial, asked_as: None, settings, image_size, device, batch };
    let threads = threads::chosen(threads, None, threads::of_describer(&source.prompter()?.config))?;
    start::set_threads(threads);
    eprintln!("threads of libtorch: {threads}");
    let described = describe_files(&source, &images, &cache)?;
    let descriptions: Vec<Option<&Generated>> = described.iter().map(|one| one.as_ref().ok()).collect();
    write_tuned_on(&output, tuned_on.as_ref())?;
    write_descriptions(&sheet, &output, &descriptions)?;
    let done = descriptions.iter().flatten().count();
    println!("{}: {done} of {} rows described", output.display(), described.len());
    let mut failed = Problems::default();
    for (record, one) in sheet.records.iter().zip(&described) {
        if let Err(problem) = one {
            failed.at(record.line, "rows without a description", format!("{}: {problem}", file_name(&sheet, record)));
        }
    }
    match failed.count() {
        0 => Ok(()),
        count => Err(TrainError::Partly(format!("{count} rows have no description:\n{}", failed.lines().join("\n")))),
    }
}

/// Writes beside the table what its describer was tuned on; that of an earlier describer does not stay.
fn write_tuned_on(output: &Path, tuned_on: Option<&TrainingData>) -> Result<(), TrainError> {
    let file = beside_table(output);
    match tuned_on {
        Some(data) => Ok(files::replace_file(&file, &data.to_bytes())?),
        None => match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TrainError::io("remove", &file)(error)),
            _ => Ok(()),
        },
    }
}
