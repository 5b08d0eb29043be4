//! What is asked over and over: one image, and tokens that every description consists of, so that each run does the same work.

use std::path::Path;
use std::sync::Arc;

use mmlnb_models::bundle::{Bundle, DESCRIBER};
use mmlnb_models::config::QwenConfig;
use mmlnb_models::prepare::decode::Rgb8Image;

use super::args::Bench;
use super::figure::{Figure, watched};
use crate::assess::pipeline;
use crate::assess::reader::Reader;
use crate::engine::{Mode, OnToken, PatchImage, Request};
use crate::error::{Exit, Failure};

/// Both sides of the image that is drawn where none is given; a bundle with an image size of its own resizes it.
const SIDE: usize = 448;
/// The classifier's text where it is measured alone.
const TEXT: &str = "Small round cells lie in sheets with scant neuropil and a few rosettes.";

/// What is asked.
pub struct Question {
    /// The image.
    pub image: PatchImage,
    /// How long reading and decoding its file took in seconds; `None` where it was drawn.
    pub decode: Option<Figure>,
    /// The tokens of every description; none ends it.
    pub tokens: Arc<[i64]>,
    /// The token that stands for the image in a prompt.
    pub image_token: i64,
}

impl Question {
    /// Checks what was asked for against the bundle.
    ///
    /// # Errors
    /// An image that cannot be read, tokens beyond what the bundle allows.
    pub fn new(args: &Bench, opened: &Bundle) -> Result<Question, Failure> {
        let (image, decode) = args.image.as_deref().map_or_else(|| Ok((drawn(), None)), |path| read(path, args.runs))?;
        let Some(part) = &opened.manifest.describer else {
            return Ok(Question { image, decode, tokens: Arc::new([]), image_token: -1 });
        };
        let most = part.generation.max_new_tokens;
        if args.tokens == 1 || args.tokens > most || most < 2 {
            let what =
                format!("--tokens {}: this bundle's descriptions have at most {most} tokens, and a rate needs two", args.tokens);
            let mend = format!("give 2 to {most}, or export with settings that have a larger `max_new_tokens`");
            return Err(Failure::new(Exit::Usage, what, opened.dir.display().to_string(), mend));
        }
        let count = if args.tokens == 0 { most } else { args.tokens };
        let config = QwenConfig::from_dir(&opened.path(DESCRIBER)).map_err(|error| {
            Failure::new(Exit::Configuration, error.to_string(), opened.dir.display().to_string(), "export the bundle again")
        })?;
        let ordinary = (0..config.text.vocabulary).filter(|id| !part.generation.end_tokens.contains(id)).take(256);
        let tokens = ordinary.collect::<Vec<i64>>().into_iter().cycle().take(count).collect();
        Ok(Question { image, decode, tokens, image_token: config.image_token })
    }

    /// A request whose description consists of the fixed tokens.
    pub fn request(&self, mode: Mode, on_token: Option<OnToken>) -> Request {
        Request { follow: Some(self.tokens.clone()), on_token, ..Request::new(mode) }
    }

    /// A request for the classifier alone.
    pub fn classify(&self) -> Request {
        Request { description: Some(TEXT.to_owned()), ..Request::new(Mode::Classify) }
    }
}

/// The image of a file, and how long it takes to have it; the first time begins the decoder's process and is not counted.
fn read(path: &Path, runs: u16) -> Result<(PatchImage, Option<Figure>), Failure> {
    let reading = pipeline::settings();
    let mut reader = Reader::new(reading.clone());
    let patch = pipeline::open(&mut reader, path)?;
    pipeline::warn(&reading);
    let mut times = Vec::new();
    for _ in 0..runs {
        let (again, waited) = watched(|| pipeline::open(&mut reader, path));
        let milliseconds: f64 = again?.elapsed.iter().map(|(_, milliseconds)| milliseconds).sum();
        times.push((milliseconds / 1e3, waited));
    }
    Ok((patch.image(), Figure::of(&times)))
}

/// Dark discs on pink, about as dense as nuclei: what preparation costs depends on the size alone.
fn drawn() -> PatchImage {
    let pixel = |at: usize| {
        let (x, y) = ((at % SIDE % 32) as i32 - 16, (at / SIDE % 32) as i32 - 16);
        if x * x + y * y < 90 { [90, 60, 140] } else { [230, (180 + x) as u8, 210] }
    };
    let pixels = (0..SIDE * SIDE).flat_map(pixel).collect();
    PatchImage { sha256: [0; 32], rgb: Rgb8Image { width: SIDE, height: SIDE, pixels } }
}
