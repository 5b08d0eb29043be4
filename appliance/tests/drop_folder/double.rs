//! The daemon with a test double in the engine's place: it knows no model, answers by the image's hash, and misbehaves for images of certain
//! widths. The test program starts itself once more to be this daemon, so that it can be killed.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mmlnb_appliance::daemon::{self, Assessor};
use mmlnb_appliance::engine::{Assessment, Classification, Description, EngineError, PatchImage, Provider, Request, StopReason};
use mmlnb_appliance::error::{Exit, Failure};

/// Names the configuration; set only for the copy of the test program that is the daemon.
pub const CONFIGURATION: &str = "DOUBLE_CONFIGURATION";

/// Widths at which the double misbehaves.
const ABORTS: usize = 66;
const HANGS: usize = 77;
const HAS_NO_NUMBERS: usize = 88;

/// Not a check of its own: the entrance for the copy that is the daemon.
#[test]
fn daemon_process() {
    let Some(file) = std::env::var_os(CONFIGURATION) else { return };
    let milliseconds =
        |name: &str| Duration::from_millis(std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(5));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let (delay, loading) = (milliseconds("DOUBLE_DELAY_MS"), milliseconds("DOUBLE_LOAD_MS"));
    let result = daemon::run_with(Path::new(&file), |_, _| {
        std::thread::sleep(loading);
        if is_set("DOUBLE_DIES_LOADING") {
            std::process::abort();
        }
        if is_set("DOUBLE_REFUSES_BUNDLE") {
            return Err(Failure::new(Exit::Configuration, "this bundle cannot run", "", "export it again"));
        }
        Ok(Assessor {
            assess: Arc::new(move |image, request| assess(&image, request, delay)),
            decoder: env!("CARGO_BIN_EXE_mmlnb-appliance").into(),
            provider: Provider { name: "cpu", note: None },
            slots: 4,
            notices: Vec::new(),
        })
    });
    let exit = result.unwrap_or_else(|failure| {
        eprintln!("{failure}");
        failure.exit
    });
    std::process::exit(i32::from(exit as u8));
}

fn assess(image: &PatchImage, request: &Request, delay: Duration) -> Result<Assessment, EngineError> {
    count(image);
    if is_set("DOUBLE_LOSES_GPU") {
        return Err(EngineError::Gpu("CUDA failure 700: an illegal memory access was encountered".into()));
    }
    match image.rgb.width {
        ABORTS => std::process::abort(),
        HANGS => {
            while !request.is_cancelled() {
                std::thread::sleep(Duration::from_millis(20));
            }
            return Err(EngineError::Cancelled);
        }
        HAS_NO_NUMBERS => return Err(EngineError::Numbers("decoder, step 3: NaN in layer 2".into())),
        _ => {}
    }
    let end = std::time::Instant::now() + delay;
    while std::time::Instant::now() < end {
        if request.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        (request.beat)();
        std::thread::sleep(Duration::from_millis(5).min(delay));
    }
    Ok(answer(image))
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// One line for each image that was really assessed.
fn count(image: &PatchImage) {
    let Some(path) = std::env::var_os("DOUBLE_LOG") else { return };
    let mut log = std::fs::File::options().create(true).append(true).open(path).expect("the test's own log can be written");
    writeln!(log, "{}", image.sha256.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        .expect("the test's own log can be written");
}

fn answer(image: &PatchImage) -> Assessment {
    let weight = |at: usize| 1.0 + f64::from(image.sha256[at]);
    let softmax = |values: [f64; 3]| {
        let sum: f64 = values.iter().sum();
        values.map(|value| value / sum).to_vec()
    };
    let (fused, alone) = (softmax([weight(0), weight(1), weight(2)]), softmax([weight(3), weight(4), weight(5)]));
    let logits = |values: &[f64]| values.iter().map(|value| value.ln() as f32).collect::<Vec<_>>();
    Assessment {
        description: Some(Description {
            text: format!(
                "Small round cells, variant {:02x}{:02x}. Schwannian stroma is sparse.",
                image.sha256[0], image.sha256[1]
            ),
            tokens: 14,
            mean_token_logprob: -0.41,
            stop_reason: StopReason::EndToken,
        }),
        classification: Some(Classification {
            classes: ["A", "B", "C"].map(String::from).to_vec(),
            logits: logits(&fused),
            probabilities: fused,
            image_logits: Some(logits(&alone)),
            image_probabilities: Some(alone.clone()),
            novelty: None,
            stain_left: false,
            alpha_text: Some((weight(6) / 256.0) as f32),
            logits_without_text: Some(logits(&alone)),
            description_tokens_read: Some(9),
            description_read_until: Some(30),
        }),
        elapsed: vec![("describe", 5.0), ("classify", 1.0)],
        accepted: 0,
        trace: None,
    }
}
