//! What the describer reads of an image, prepared by the same functions as in the appliance. Knows nothing of libtorch, so that images are prepared
//! on other threads while the networks compute.

use crate::error::TrainError;
use mmlnb_models::{
    config::QwenConfig,
    prepare::{
        chat,
        decode::Rgb8Image,
        positions::{self, TextPositions, VisionPositions},
        qwen_image::{QwenImageProcessor, QwenPatches, SizeError},
        qwen_tokenizer::QwenTokenizer,
        settings::{Settings, SettingsFile},
    },
    record::Record,
};
use std::path::Path;

/// Prepares prompts and reads answers of one checkpoint.
#[derive(Clone, Debug)]
pub struct Prompter {
    /// Sizes of the networks.
    pub config: QwenConfig,
    /// The question, and how the answer is written.
    pub settings: Settings,
    /// How images become patches.
    pub processor: QwenImageProcessor,
    tokenizer: QwenTokenizer,
    rendered: Vec<i64>,
}

/// An image and where its random numbers come from.
#[derive(Clone, Debug)]
pub struct Picture {
    /// SHA-256 of the file's bytes; it seeds the random stream of a sampled description.
    pub sha256: [u8; 32],
    /// The pixels.
    pub rgb: Rgb8Image,
}

/// One image's prompt.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The patches.
    pub patches: QwenPatches,
    /// Where the patches stand.
    pub vision: VisionPositions,
    /// The token ids, image tokens multiplied.
    pub ids: Vec<i64>,
    /// Where the tokens stand.
    pub positions: TextPositions,
    /// The image's SHA-256.
    pub sha256: [u8; 32],
    /// What the vision tower makes of the patches, where it is known already: `[image tokens * hidden]`.
    pub rows: Option<Vec<f32>>,
}

impl Prompter {
    /// Reads a checkpoint's configuration and tokenizer; `settings` is a file of prompt and generation settings, `image_size` width and height in
    /// pixels that every image gets. Where they are silent, question and size are those of the record that training left in the folder `trained`
    /// (an adapter's; without one, that of the checkpoint), then the default question and smart_resize within the checkpoint's limits.
    ///
    /// # Errors
    /// A folder that is no Qwen2.5-VL checkpoint, another chat template, settings that make no sense, a size that is not made of whole tokens.
    pub fn open(
        base: &Path,
        trained: Option<&Path>,
        settings: Option<&Path>,
        image_size: Option<[i64; 2]>,
    ) -> Result<Prompter, TrainError> {
        let given = match settings {
            Some(file) => SettingsFile::read(file).map_err(|error| TrainError::Asked(error.to_string()))?,
            None => SettingsFile::default(),
        };
        Prompter::with_settings(base, trained, given, image_size)
    }

    /// As [`Prompter::open`], for settings that are read already.
    ///
    /// # Errors
    /// As [`Prompter::open`].
    pub fn with_settings(
        base: &Path,
        trained: Option<&Path>,
        settings: SettingsFile,
        image_size: Option<[i64; 2]>,
    ) -> Result<Prompter, TrainError> {
        let unfit = |problem: String| TrainError::file(base, problem);
        let config = QwenConfig::from_dir(base)?;
        chat::check_template(base).map_err(|error| TrainError::Asked(error.to_string()))?;
        let tokenizer = QwenTokenizer::from_dir(base).and_then(|tokenizer| tokenizer.within(config.text.vocabulary));
        let tokenizer = tokenizer.map_err(|error| unfit(error.to_string()))?;
        let mut processor = QwenImageProcessor::from_dir(base, &config.vision)?;
        let record = |folder: &Path| Record::read(folder).map_err(|error| TrainError::Asked(error.to_string()));
        let record = trained.map(record).transpose()?.flatten().map_or_else(|| record(base), |own| Ok(Some(own)))?;
        if let Some([width, height]) = image_size.or(record.as_ref().and_then(|record| record.image_size)) {
            processor = processor.with_size(width, height).map_err(|error| TrainError::Asked(error.to_string()))?;
        }
        let settings = Settings::complete(settings, None, base, record.as_ref(), |token| tokenizer.id(token))
            .map_err(|error| TrainError::Asked(error.to_string()))?;
        let rendered = tokenizer
            .encode(&chat::render(settings.system.as_deref(), 1, &settings.prompt))
            .map_err(|error| unfit(error.to_string()))?;
        if rendered.iter().filter(|id| **id == config.image_token).count() != 1 {
            return Err(unfit("the tokenizer does not turn <|image_pad|> into the image_token_id of config.json".into()));
        }
        Ok(Prompter { config, settings, processor, tokenizer, rendered })
    }

    /// Prepares an image.
    ///
    /// # Errors
    /// An image that is more than 200 times as long as wide.
    pub fn prepare(&self, picture: &Picture) -> Result<Prompt, SizeError> {
        let patches = self.processor.patches(&picture.rgb)?;
        let vision = positions::vision_positions(&[patches.grid], &self.config.vision);
        let (ids, positions) = self.placed(patches.grid);
        Ok(Prompt { patches, vision, ids, positions, sha256: picture.sha256, rows: None })
    }

    /// The prompt of an image of which the vision tower's rows are known.
    pub fn with_rows(&self, grid: [i64; 3], rows: Vec<f32>, sha256: [u8; 32]) -> Prompt {
        let (ids, positions) = self.placed(grid);
        let patches = QwenPatches { pixel_values: Vec::new(), grid };
        let vision = positions::vision_positions(&[grid], &self.config.vision);
        Prompt { patches, vision, ids, positions, sha256, rows: Some(rows) }
    }

    /// Ids and positions for an image of this grid.
    fn placed(&self, grid: [i64; 3]) -> (Vec<i64>, TextPositions) {
        let one_image = "the prompt has one image token, as `open` has seen, and the run is made from the grid";
        let ids = positions::expand_images(&self.rendered, &[grid], &self.config).expect(one_image);
        let positions = positions::text_positions(&ids, &[grid], &self.config).expect(one_image);
        (ids, positions)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &QwenTokenizer {
        &self.tokenizer
    }

    /// The text of an answer, without special tokens.
    ///
    /// # Errors
    /// Ids that no tokenizer has.
    pub fn text(&self, tokens: &[i64]) -> Result<String, TrainError> {
        self.tokenizer.decode(tokens, true).map_err(|error| TrainError::Failed(error.to_string()))
    }
}
