//! How many threads libtorch's operators use: the physical cores for large networks, one for small ones, whose operators would spend their time waiting
//! for each other. The same number is needed for the same bits: sums are cut by it.

use crate::{error::TrainError, generate::BATCH, run::Decided};
use mmlnb_models::{
    config::{ClassifierConfig, QwenConfig},
    cost::{cost, parameters},
    graph::Graph,
    networks,
    weights::DType,
};
use std::{collections::BTreeSet, fs, num::NonZeroU16, path::Path, thread::available_parallelism};

/// Operations of one pass below which its operators are too short to be shared out: some milliseconds of one core.
const SMALL: f64 = 2e8;

/// What was asked for, else what a run was begun with, else what suits networks whose shortest pass has so many operations.
///
/// # Errors
/// A `run.toml` that cannot be read.
pub fn chosen(asked: Option<NonZeroU16>, resumed: Option<&Path>, operations: f64) -> Result<NonZeroU16, TrainError> {
    let begun = match resumed.filter(|run| run.join("run.toml").is_file()) {
        Some(run) => of_run(&Decided::read(run)?),
        None => None,
    };
    Ok(asked.or(begun).unwrap_or_else(|| usual(operations)))
}

/// Operations of a classifier's pass over one image and its text; infinite where they cannot be counted.
pub fn of_classifier(config: &ClassifierConfig) -> f64 {
    let [width, height] = config.image.as_ref().map_or([0, 0], |(_, input)| [input.width, input.height]);
    let tokens = config.text.as_ref().map_or(0, |text| text.longest_text());
    let size = |name: &str| match name {
        "batch" => Some(1),
        "width" => Some(width),
        "height" => Some(height),
        "tokens" => Some(tokens),
        _ => None,
    };
    let image = config.image.as_ref().map(|(encoder, _)| networks::image_encoder(encoder, "image"));
    let text = config.text.as_ref().map(|text| networks::bert(text, "text"));
    let operations = |graph: Graph| cost(&graph, &size, DType::F32).map_or(f64::INFINITY, |cost| cost.flops);
    image.into_iter().chain(text).map(operations).sum()
}

/// Operations of the pass that a describer repeats most: one token of each image that it describes together.
pub fn of_describer(config: &QwenConfig) -> f64 {
    let (text, vision) = (&config.text, &config.vision);
    let graphs = [networks::vision(vision), networks::embedding(text), networks::decoder_states(text), networks::head(text)];
    2.0 * parameters(&graphs.each_ref()) as f64 * BATCH as f64
}

/// The number in a run's `run.toml`; runs of earlier versions have none.
fn of_run(decided: &Decided) -> Option<NonZeroU16> {
    let threads = decided.0.get("recipe")?.get("threads")?.as_integer()?;
    NonZeroU16::new(u16::try_from(threads).ok()?)
}

fn usual(operations: f64) -> NonZeroU16 {
    if operations < SMALL {
        return NonZeroU16::MIN;
    }
    let allowed = available_parallelism().map_or(1, usize::from);
    let cores = physical_cores(Path::new("/sys/devices/system/cpu")).unwrap_or(allowed).min(allowed);
    u16::try_from(cores).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN)
}

/// Cores, each counted once however many threads it runs; none where the kernel does not say.
fn physical_cores(folder: &Path) -> Option<usize> {
    let mut cores = BTreeSet::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let number = |name: &str| fs::read_to_string(entry.path().join("topology").join(name)).ok();
        cores.extend(number("physical_package_id").zip(number("core_id")));
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmlnb_models::config::{Fusion, ImageEncoder, ImageInput, Resample, Vgg16Config};

    fn vgg(channels: [i64; 5], side: i64) -> ClassifierConfig {
        let input =
            ImageInput { width: side, height: side, resample: Resample::Bilinear, mean: [0.5; 3], std: [0.5; 3], stain: None };
        ClassifierConfig {
            classes: vec!["a".into(), "b".into()],
            image: Some((ImageEncoder::Vgg16(Vgg16Config { channels: channels.to_vec() }), input)),
            text: None,
            fusion: Fusion::Prmf,
            confidence_hidden: None,
            image_head: true,
            dropout: 0.0,
        }
    }

    #[test]
    fn small_networks_get_one_thread_and_large_ones_the_cores() {
        // VGG16 at 224 x 224 has 15.35 G multiplications in its convolutions.
        let large = of_classifier(&vgg([64, 128, 256, 512, 512], 224));
        assert!((30e9..31.5e9).contains(&large), "{large}");
        let small = of_classifier(&vgg([4, 8, 8, 8, 8], 32));
        assert!(small < SMALL, "{small}");
        assert_eq!(usual(small).get(), 1);
        assert!(usual(large).get() >= 1 && usize::from(usual(large).get()) <= available_parallelism().unwrap().get());
    }

    #[test]
    fn what_is_asked_for_comes_before_the_run_and_the_run_before_the_size() {
        let run = tempfile::tempdir().unwrap();
        let three = NonZeroU16::new(3);
        assert_eq!(chosen(None, Some(run.path()), 0.0).unwrap().get(), 1);
        fs::write(run.path().join("run.toml"), "[recipe]\nepochs = 2\nthreads = 5\n").unwrap();
        assert_eq!(chosen(None, Some(run.path()), 0.0).unwrap().get(), 5);
        assert_eq!(chosen(three, Some(run.path()), 0.0).unwrap().get(), 3);
        fs::write(run.path().join("run.toml"), "[recipe]\nepochs = 2\n").unwrap();
        assert_eq!(chosen(None, Some(run.path()), 0.0).unwrap().get(), 1);
    }

    #[test]
    fn two_threads_of_one_core_are_one_core() {
        let folder = tempfile::tempdir().unwrap();
        for (cpu, core) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
            let topology = folder.path().join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&topology).unwrap();
            fs::write(topology.join("physical_package_id"), "0\n").unwrap();
            fs::write(topology.join("core_id"), format!("{core}\n")).unwrap();
        }
        fs::create_dir(folder.path().join("cpufreq")).unwrap();
        assert_eq!(physical_cores(folder.path()), Some(2));
        assert_eq!(physical_cores(&folder.path().join("cpufreq")), None);
    }
}
