//! Our side: the real programs.

use super::{
    Options, Sample,
    figure::Part,
    make::Made,
    peers,
    process::{self, Ended},
};
use crate::appliance::program;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;

/// What one process of ours tells: the parts that it measures.
pub struct Side {
    pub parts: &'static [Part],
    measure: fn(&Options, &Made) -> Result<Vec<Sample>>,
}

/// Our processes, in the order in which they run.
pub const SIDES: [Side; 3] = [
    Side { parts: &[Part::Decode, Part::Classifier, Part::Preparation, Part::Pipeline], measure: engine },
    Side { parts: &[Part::Pipeline], measure: pipeline },
    Side { parts: &[Part::Export], measure: export },
];

impl Side {
    /// Measures it once.
    ///
    /// # Errors
    /// The program fails, or does not tell what it should.
    pub fn measure(&self, options: &Options, made: &Made) -> Result<Vec<Sample>> {
        (self.measure)(options, made)
    }
}

/// `mmlnb-appliance bench`.
fn engine(options: &Options, made: &Made) -> Result<Vec<Sample>> {
    let mut bench = program("mmlnb-appliance");
    let rows: Vec<String> = options.rows.iter().map(usize::to_string).collect();
    let image = made.image_files()?.into_iter().next().context("there is an image")?;
    bench.arg("bench").arg("--bundle").arg(made.rows_bundle()).arg("--image").arg(image).args(["--json", "--provider", "cpu"]);
    // Images an hour are counted through the whole program instead.
    bench.args(["--runs", "1", "--slots", "1", "--rows", &rows.join(","), "--threads", &options.threads.to_string()]);
    let ended = process::run(&mut bench, &made.log("bench"))?;
    let (_, found) = ended.lines.first().context("mmlnb-appliance bench told nothing")?;
    let describer = &found["describer"];
    let mut samples = vec![
        sample("prompt", &describer["prompt_tokens_per_s"])?,
        sample("first token", &describer["first_token_s"])?,
        sample("classifier", &found["classifier"]["images_per_s"])?,
        Sample { figure: "start-up".to_owned(), value: found["startup_s"].as_f64().context("no startup_s")?, waited: None },
        preparation(found)?,
    ];
    for decode in describer["decode"].as_array().context("no decode")? {
        samples.push(sample(&format!("decode {}", decode["rows"]), &decode["tokens_per_s"])?);
    }
    Ok(samples)
}

fn sample(figure: &str, found: &Value) -> Result<Sample> {
    let value = found["median"].as_f64().with_context(|| format!("mmlnb-appliance bench could not measure {figure}"))?;
    Ok(Sample { figure: figure.to_owned(), value, waited: found["waited"].as_f64() })
}

/// From the file to what both halves of the bundle read.
fn preparation(found: &Value) -> Result<Sample> {
    let parts = [&found["decode_image_s"], &found["describer"]["prepare_s"], &found["classifier"]["prepare_s"]];
    let parts = parts.map(|part| sample("preparation", part)).into_iter().collect::<Result<Vec<_>>>()?;
    let waited = parts.iter().filter_map(|part| part.waited).max_by(f64::total_cmp);
    Ok(Sample { figure: "preparation".to_owned(), value: parts.iter().map(|part| part.value).sum(), waited })
}

/// `mmlnb-appliance classify` over all images. Answers are counted from the one that has filled every slot to the last one after which they
/// still are full: at both ends as many images are begun. The start-up is a figure of its own.
fn pipeline(options: &Options, made: &Made) -> Result<Vec<Sample>> {
    let mut classify = program("mmlnb-appliance");
    let slots = options.slots;
    classify.arg("classify").arg("--bundle").arg(made.pipeline_bundle(options)).args(["--json", "--provider", "cpu"]);
    classify.args(["--threads", &options.threads.to_string(), "--slots", &slots.to_string()]).args(made.image_files()?);
    let ended = process::run(&mut classify, &made.log("classify"))?;
    ensure!(ended.lines.len() == options.images, "{} of {} images were classified", ended.lines.len(), options.images);
    for (_, report) in &ended.lines {
        let tokens = report["description_tokens"].as_u64();
        ensure!(
            tokens == Some(options.description as u64),
            "a description has {tokens:?} tokens instead of {}",
            options.description
        );
    }
    Ok(vec![Sample { figure: "pipeline".to_owned(), value: images_an_hour(&ended, slots), waited: ended.waited }])
}

fn images_an_hour(ended: &Ended, slots: usize) -> f64 {
    let times: Vec<f64> = ended.lines.iter().map(|(time, _)| *time).collect();
    let (from, to) = (slots - 1, times.len() - 1 - slots);
    (to - from) as f64 * 3600.0 / (times[to] - times[from])
}

/// `mmlnb-export graph` of the decoder in int4: what onnxruntime-genai's builder makes.
fn export(_: &Options, made: &Made) -> Result<Vec<Sample>> {
    let output = made.path("export");
    fs::remove_dir_all(&output).ok();
    let mut export = program("mmlnb-export");
    export.args(["graph", "--network", "decoder", "--precision", "int4"]);
    export.arg("--checkpoint").arg(made.path("describer")).arg("--output").arg(&output);
    Ok(peers::export(&process::run(&mut export, &made.log("export"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_between_full_slots_are_counted() {
        let lines = [9.0, 10.0, 12.0, 14.0, 14.1, 14.2].map(|time| (time, Value::Null)).to_vec();
        let ended = Ended { lines, seconds: 15.0, peak_bytes: 0, waited: None };
        assert_eq!(images_an_hour(&ended, 2), 2.0 * 3600.0 / 4.0, "two images from 10 s to 14 s");
    }
}
