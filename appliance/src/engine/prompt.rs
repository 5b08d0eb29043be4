//! What the describer reads, prepared on the caller's thread: patches, tokens, positions, angles.

use mmlnb_models::bundle::{self, Bundle, DESCRIBER};
use mmlnb_models::config::QwenConfig;
use mmlnb_models::prepare::chat;
use mmlnb_models::prepare::decode::Rgb8Image;
use mmlnb_models::prepare::positions::{self, TextPositions, VisionPositions};
use mmlnb_models::prepare::qwen_image::{QwenImageProcessor, QwenPatches};
use mmlnb_models::prepare::qwen_tokenizer::QwenTokenizer;
use mmlnb_models::prepare::rotary::{RotaryTable, rotary_table};

use super::EngineError;

/// Image tokens for which a slot has room unless the bundle needs fewer or `max_tokens` says otherwise: 1.6 million pixels.
const IMAGE_TOKENS: i64 = 2048;

/// Prepares prompts and reads answers as the bundle's describer needs it.
pub(super) struct Prompter {
    /// Sizes of the networks.
    pub config: QwenConfig,
    tokenizer: QwenTokenizer,
    processor: QwenImageProcessor,
    rendered: Vec<i64>,
}

/// What all prompts of a bundle begin with, before the image.
pub(super) struct Opening {
    /// The token ids.
    pub ids: Vec<i64>,
    /// Their angles.
    pub angles: RotaryTable,
}

/// One image's prompt.
pub(super) struct Prompt {
    /// The patches.
    pub patches: QwenPatches,
    /// Where the patches stand.
    pub vision: VisionPositions,
    /// The token ids, image tokens multiplied.
    pub ids: Vec<i64>,
    /// Where the tokens stand.
    pub positions: TextPositions,
    /// Angles of the tokens and of those that may follow.
    pub angles: RotaryTable,
}

impl Prompter {
    /// Reads configuration and tokenizer of the bundle.
    pub fn new(bundle: &Bundle, part: &bundle::Describer) -> Result<Prompter, EngineError> {
        let folder = bundle.path(DESCRIBER);
        let config = QwenConfig::from_dir(&folder).map_err(refused)?;
        let tokenizer = QwenTokenizer::from_dir(&folder).and_then(|tokenizer| tokenizer.within(config.text.vocabulary));
        let tokenizer = tokenizer.map_err(refused)?;
        let mut processor = QwenImageProcessor::from_dir(&folder, &config.vision).map_err(refused)?;
        if let Some([width, height]) = part.image_size {
            processor = processor.with_size(width, height).map_err(refused)?;
        }
        let rendered = tokenizer.encode(&chat::render(part.system.as_deref(), 1, &part.prompt)).map_err(refused)?;
        Ok(Prompter { config, tokenizer, processor, rendered })
    }

    /// Tokens that a slot needs for the largest image and `answer` tokens, with image tokens limited to [`IMAGE_TOKENS`].
    pub fn room(&self, answer: usize) -> usize {
        let factor = self.processor.patch * self.processor.merge;
        let pixels = self.processor.size.map_or(self.processor.max_pixels, |(width, height)| width * height);
        let image = pixels / (factor * factor);
        let image = if self.processor.size.is_some() { image } else { image.min(IMAGE_TOKENS) };
        self.rendered.len() - 1 + image as usize + answer
    }

    /// The tokens before the image.
    pub fn opening(&self) -> Opening {
        let ids: Vec<i64> = self.rendered.iter().copied().take_while(|id| *id != self.config.image_token).collect();
        let places: Vec<i64> = (0..ids.len() as i64).collect();
        Opening { angles: rotary_table(&[places.clone(), places.clone(), places], &self.config.text), ids }
    }

    /// Tokens of the prompt of the smallest image.
    pub fn shortest(&self) -> usize {
        self.rendered.len()
    }

    /// Prepares an image whose answer may take `answer` tokens, for a slot of `room` tokens.
    pub fn prepare(&self, image: &Rgb8Image, answer: usize, room: usize) -> Result<Prompt, EngineError> {
        let unfit = |error: &dyn std::error::Error| EngineError::Image(error.to_string());
        let (width, height) = self.processor.resized(image.width as i64, image.height as i64).map_err(|error| unfit(&error))?;
        let factor = self.processor.patch * self.processor.merge;
        let needed = self.rendered.len() - 1 + (width * height / (factor * factor)) as usize + answer;
        if needed > room {
            return Err(EngineError::Image(format!(
                "the image of {} x {} pixels needs {needed} tokens with its description, but there is room for {room}; \
                 export a smaller patch, set `max_tokens`, or export the bundle with --image-size",
                image.width, image.height
            )));
        }
        let patches = self.processor.patches(image).map_err(|error| unfit(&error))?;
        let grids = [patches.grid];
        let vision = positions::vision_positions(&grids, &self.config.vision);
        let ids = positions::expand_images(&self.rendered, &grids, &self.config).map_err(refused)?;
        let positions = positions::text_positions(&ids, &grids, &self.config).map_err(refused)?;
        let angles = rotary_table(&continued(&positions, ids.len(), answer), &self.config.text);
        Ok(Prompt { patches, vision, ids, positions, angles })
    }

    /// The text of an answer, without special tokens.
    pub fn text(&self, tokens: &[i64]) -> Result<String, EngineError> {
        self.tokenizer.decode(tokens, true).map_err(|error| EngineError::Internal(error.to_string()))
    }
}

/// The prompt's positions and those of `answer` tokens after it.
fn continued(positions: &TextPositions, length: usize, answer: usize) -> [Vec<i64>; 3] {
    let following = (length..length + answer).map(|index| index as i64 + positions.delta);
    positions.ids.clone().map(|mut axis| {
        axis.extend(following.clone());
        axis
    })
}

fn refused(error: impl std::fmt::Display) -> EngineError {
    EngineError::Bundle(format!("the describer of the bundle cannot be used: {error}; export the bundle again"))
}
