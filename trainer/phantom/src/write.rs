//! The files of a set of phantoms: `images/`, `masks/` on demand, `data.csv`, `truth.jsonl`. The same bytes for any number of threads.

use crate::{
    error::PhantomError,
    grammar::Description,
    optics::Scanner,
    patch::Patch,
    patient::{Class, Patient},
    plan::{Plan, Planned, Spoiling},
    random::{Purpose, Stream},
    sets::Fault,
    truth::Truth,
};
use image::{RgbImage, codecs::jpeg::JpegEncoder};
use mmlnb_models::prepare::phantom::MARK;
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Patients.
    pub patients: usize,
    /// Patches of each class by what was drawn, and those without one.
    pub classes: [usize; 4],
    /// Patches whose own class differs from their patient's.
    pub strayed: usize,
}

impl Written {
    /// All patches.
    pub fn patches(&self) -> usize {
        self.classes.iter().sum()
    }
}

/// One row of `data.csv` with its line of `truth.jsonl`.
struct Row {
    file_name: String,
    patient: usize,
    class: Option<Class>,
    description: Description,
    truth: Kept,
}

/// A line of `truth.jsonl`. A few get another patient's text at the end; the others are text already, a quarter of the memory.
enum Kept {
    Line(String),
    Open(Value),
}

impl Kept {
    /// The line; it does not change any more.
    fn close(&mut self) -> &str {
        if let Kept::Open(value) = self {
            *self = Kept::Line(format!("{value}\n"));
        }
        match self {
            Kept::Line(line) => line,
            Kept::Open(_) => unreachable!("it was closed a line above"),
        }
    }
}

/// Draws and writes everything; `progress` is told of each patch.
///
/// # Errors
/// The folder holds something already, or a file cannot be written.
pub fn write(
    plan: &Plan,
    masks: bool,
    threads: usize,
    output: &Path,
    progress: &(dyn Fn() + Sync),
) -> Result<Written, PhantomError> {
    if fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(PhantomError::Asked(format!(
            "{} holds something already; name a new folder with --output",
            output.display()
        )));
    }
    for folder in ["images"].into_iter().chain(masks.then_some("masks")) {
        let path = output.join(folder);
        fs::create_dir_all(&path).map_err(PhantomError::io("create", &path))?;
    }
    let patients = plan.draw_patients();
    let scanners = plan.scanners();
    let jobs: Vec<(usize, u32)> = patients
        .iter()
        .enumerate()
        .flat_map(|(index, planned)| (0..planned.patient.patches).map(move |patch| (index, patch)))
        .collect();
    let swaps = swaps(plan, &patients);
    let jobs: Vec<(usize, u32, bool)> =
        jobs.into_iter().enumerate().map(|(at, (index, patch))| (index, patch, swaps.contains_key(&at))).collect();
    let mut rows = in_parallel(threads, &jobs, |&(index, patch, swapped)| {
        let patient = &patients[index].patient;
        let scanner = &scanners[patient.scanner];
        let drawn = plan.draw_patch(patient, scanner, patch);
        let file_name = save(output, plan, patient, scanner, patch, &drawn.image)?;
        if masks {
            save_mask(output, &file_name, &drawn)?;
        }
        progress();
        let mut row = row(plan, patient, index, scanner, patch, file_name, &drawn);
        if !swapped {
            row.truth.close();
        }
        Ok(row)
    })?;
    swap(&swaps, &mut rows);
    write_table(output, plan, &patients, &rows)?;
    write_truth(&output.join("truth.jsonl"), rows.iter_mut().map(|row| row.truth.close()))?;
    Ok(summary(&patients, &rows))
}

/// Runs `work` on every job with so many threads; the answers keep the jobs' order, the first error wins.
fn in_parallel<J: Sync, R: Send>(
    threads: usize,
    jobs: &[J],
    work: impl Fn(&J) -> Result<R, PhantomError> + Sync,
) -> Result<Vec<R>, PhantomError> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(jobs.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((index, job)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| Some((index, jobs.get(index)?)))
                {
                    let answer = work(job);
                    let failed = answer.is_err();
                    done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((index, answer));
                    if failed {
                        next.store(jobs.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, answer)| answer).collect()
}

fn row(plan: &Plan, patient: &Patient, index: usize, scanner: &Scanner, patch: u32, file_name: String, drawn: &Patch) -> Row {
    let class = drawn.truth.as_ref().map(Truth::class);
    let (description, spoiling) = match &drawn.truth {
        Some(truth) => plan.describe(truth, patient.number, patch),
        None => (Description { text: "No tumour tissue is seen in this image.".into(), facts: Vec::new() }, Spoiling::None),
    };
    let truth = Line {
        file_name: &file_name,
        phantom: true,
        class: class.map(Class::name),
        truth: drawn.truth.as_ref(),
        fault: plan.fault(patient.number, patch),
        text: spoiling,
        description: &description.text,
        facts: stated(&description),
        seed: plan.seed,
        um_per_px: plan.um_per_px,
        patient,
        scanner_settings: scanner,
        objects: objects(drawn),
    };
    // Numbers that are no numbers cannot be drawn, and keys are strings.
    let truth = serde_json::to_value(truth).expect("a line of truth is plain data");
    Row { file_name, patient: index, class, description, truth: Kept::Open(truth) }
}

/// One line of `truth.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    file_name: &'a str,
    phantom: bool,
    class: Option<&'a str>,
    #[serde(flatten)]
    truth: Option<&'a Truth>,
    fault: Option<Fault>,
    text: Spoiling,
    description: &'a str,
    facts: Value,
    seed: u64,
    um_per_px: f32,
    patient: &'a Patient,
    scanner_settings: &'a Scanner,
    objects: Value,
}

/// What a description states, by finding.
fn stated(description: &Description) -> Value {
    description.facts.iter().map(|fact| (fact.finding.to_owned(), json!(fact.state))).collect()
}

/// Kind, centre and radius of every object, in um.
fn objects(drawn: &Patch) -> Value {
    let tenth = |um: f32| (f64::from(um) * 10.0).round() / 10.0;
    drawn.scene.cells.iter().map(|cell| json!([cell.kind, tenth(cell.x), tenth(cell.y), tenth(cell.radius)])).collect()
}

/// Which patches get the text of which other patient's: a patch's number to another's.
fn swaps(plan: &Plan, patients: &[Planned]) -> HashMap<usize, usize> {
    let all: usize = patients.iter().map(|planned| planned.patient.patches as usize).sum();
    let (mut swaps, mut first) = (HashMap::new(), 0);
    for Planned { patient, .. } in patients {
        let own = patient.patches as usize;
        for index in first..first + own {
            // The streams of a patch's spoiling end at its own number; beyond the last patch is free.
            let stream = &mut Stream::new(plan.seed, patient.number, (1 << 32) + index as u64, Purpose::Spoiling);
            if stream.chance(plan.texts.swapped) && all > own {
                let other = stream.below(all - own);
                swaps.insert(index, if other < first { other } else { other + own });
            }
        }
        first += own;
    }
    swaps
}

/// Gives these patches the text of the others.
fn swap(swaps: &HashMap<usize, usize>, rows: &mut [Row]) {
    let texts: Vec<(usize, Description)> =
        swaps.iter().map(|(index, other)| (*index, rows[*other].description.clone())).collect();
    for (index, description) in texts {
        let row = &mut rows[index];
        if let Kept::Open(truth) = &mut row.truth {
            truth["text"] = json!(Spoiling::Swapped);
            truth["description"] = json!(description.text);
            truth["facts"] = stated(&description);
        }
        row.description = description;
    }
}

fn write_truth<'a>(path: &Path, lines: impl Iterator<Item = &'a str>) -> Result<(), PhantomError> {
    let mut file = BufWriter::new(File::create(path).map_err(PhantomError::io("create", path))?);
    for line in lines {
        file.write_all(line.as_bytes()).map_err(PhantomError::io("write", path))?;
    }
    file.flush().map_err(PhantomError::io("write", path))
}

fn write_table(output: &Path, plan: &Plan, patients: &[Planned], rows: &[Row]) -> Result<(), PhantomError> {
    let path = output.join("data.csv");
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut put = |fields: [&str; 6]| {
        writer.write_record(fields).map_err(|error| PhantomError::File { path: path.clone(), problem: error.to_string() })
    };
    put(["file_name", "description", "class", "group", "site", "split"])?;
    for row in rows {
        let Planned { patient, part } = &patients[row.patient];
        let class = row.class.map_or("", Class::name);
        let site = format!("scanner-{}", patient.scanner + 1);
        put([&row.file_name, &row.description.text, class, &plan.name_of(patient), &site, part.name()])?;
    }
    let bytes = writer.into_inner().map_err(|error| PhantomError::File { path: path.clone(), problem: error.to_string() })?;
    write_file(&path, &bytes)
}

fn summary(patients: &[Planned], rows: &[Row]) -> Written {
    let mut classes = [0; 4];
    rows.iter().for_each(|row| classes[row.class.map_or(3, |class| class as usize)] += 1);
    let meant = |row: &&Row| row.class.is_some_and(|class| class != patients[row.patient].patient.patient_class);
    Written { patients: patients.len(), classes, strayed: rows.iter().filter(meant).count() }
}

/// Writes the image as its scanner stores it; answers its name.
fn save(
    output: &Path,
    plan: &Plan,
    patient: &Patient,
    scanner: &Scanner,
    patch: u32,
    image: &RgbImage,
) -> Result<String, PhantomError> {
    let (extension, bytes) = match scanner.jpeg_quality {
        Some(quality) => ("jpg", jpeg(image, quality)),
        None => ("png", png(image, plan.um_per_px)),
    };
    let name = format!("{}-{:02}.{extension}", plan.name_of(patient), patch + 1);
    let path = output.join("images").join(&name);
    let bytes = bytes.map_err(|problem| PhantomError::File { path: path.clone(), problem })?;
    write_file(&path, &bytes)?;
    Ok(name)
}

/// PNG with the label as text and the size of a pixel.
fn png(image: &RgbImage, um_per_px: f32) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let per_metre = (1e6 / um_per_px).round() as u32;
    encoder.set_pixel_dims(Some(png::PixelDimensions { xppu: per_metre, yppu: per_metre, unit: png::Unit::Meter }));
    let written = encoder.add_text_chunk("Description".into(), MARK.into()).and_then(|()| {
        let mut writer = encoder.write_header()?;
        writer.write_image_data(image.as_raw())?;
        writer.finish()
    });
    written.map(|()| bytes).map_err(|error| error.to_string())
}

/// JPEG with the label as a comment, after JFIF's own segment.
fn jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(image).map_err(|error| error.to_string())?;
    let first = 4 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]])) - 2;
    let at = first + 2;
    let length = (MARK.len() + 2) as u16;
    let mut comment = vec![0xff, 0xfe];
    comment.extend(length.to_be_bytes());
    comment.extend(MARK.bytes());
    bytes.splice(at..at, comment);
    Ok(bytes)
}

fn save_mask(output: &Path, file_name: &str, drawn: &Patch) -> Result<(), PhantomError> {
    let path = output.join("masks").join(file_name).with_extension("png");
    let (width, height) = drawn.image.dimensions();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.add_text_chunk("Description".into(), MARK.into()).and_then(|()| {
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&drawn.labels)?;
        writer.finish()
    });
    written.map_err(|error| PhantomError::File { path: path.clone(), problem: error.to_string() })?;
    write_file(&path, &bytes)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), PhantomError> {
    fs::write(path, bytes).map_err(PhantomError::io("write", path))
}
