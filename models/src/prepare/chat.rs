//! The chat template of Qwen2.5-VL, in code, compared with the one that the checkpoint ships.

use std::path::{Path, PathBuf};

use crate::json::{self, ConfigError, Section};

/// The template that [`render`] carries out, byte for byte as the hub's Qwen2.5-VL checkpoints have it.
pub const TEMPLATE: &str = concat!(
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}",
    "{% for message in messages %}",
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}",
    "<|im_start|>{{ message['role'] }}\n",
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n",
    "{% else %}{% for content in message['content'] %}",
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}",
    "{% set image_count.value = image_count.value + 1 %}",
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>",
    "{% elif content['type'] == 'video' or 'video' in content %}",
    "{% set video_count.value = video_count.value + 1 %}",
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>",
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}",
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
);

/// The system turn that the template adds when none is given.
pub const SYSTEM: &str = "You are a helpful assistant.";

/// What is wrong with a checkpoint's chat template.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// Another template than the one in code: prompts would differ from those of training.
    #[error(
        "{}: the chat template is not Qwen2.5-VL's; they differ from character {at} on:\n  expected: {expected}\n  \
         found:    {found}\nThe prompt would differ from the one that the model knows; use a Qwen2.5-VL checkpoint, or, if only the \
         template was changed, put the checkpoint's own chat_template.json back.",
        file.display()
    )]
    Different {
        /// The file.
        file: PathBuf,
        /// Characters before the first difference.
        at: usize,
        /// The known template around the difference.
        expected: String,
        /// The checkpoint's around the difference.
        found: String,
    },
    /// The template of the text-only models, and none for images beside it.
    #[error(
        "{}: this is the chat template of Qwen's text-only models, which has no place for an image, and the folder holds no other. \
         Qwen2.5-VL's checkpoints keep theirs in chat_template.json or chat_template.jinja: copy that file (and preprocessor_config.json) \
         from the checkpoint that this one was made from into the folder",
        file.display()
    )]
    TextOnly {
        /// The file.
        file: PathBuf,
    },
    /// A file is damaged.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Compares the chat templates of a checkpoint's folder with [`TEMPLATE`]; a folder without one is accepted.
///
/// The kind of line ends and one line end at the end make no difference, as in Jinja. The hub's checkpoints keep the template
/// of the text-only Qwen2.5, with tools and without images, in `tokenizer_config.json`; beside a template for images it is
/// never used and therefore accepted.
pub fn check_template(dir: &Path) -> Result<(), ChatError> {
    let mut for_images = false;
    let jinja = dir.join("chat_template.jinja");
    if jinja.exists() {
        let text = super::source::text(&jinja).map_err(|source| ConfigError::Unreadable { file: jinja.clone(), source })?;
        compare(&jinja, &text)?;
        for_images = true;
    }
    for name in ["chat_template.json", "processor_config.json"] {
        if let Some((file, text)) = stored_template(dir, name)? {
            compare(&file, &text)?;
            for_images = true;
        }
    }
    match stored_template(dir, "tokenizer_config.json")? {
        Some((_, text)) if for_images && is_text_only(&text) => Ok(()),
        Some((file, text)) => compare(&file, &text),
        None => Ok(()),
    }
}

/// Whether a template is Qwen's for texts and tools.
fn is_text_only(template: &str) -> bool {
    template.contains("<|im_start|>") && template.contains("if tools") && !template.contains("image")
}

/// The `chat_template` of a JSON file: a text, or the one named `default` of a list.
fn stored_template(dir: &Path, name: &str) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let file = dir.join(name);
    if !file.exists() {
        return Ok(None);
    }
    let value = json::read(&file)?;
    let top = Section::top(&file, &value)?;
    let text = match top.get("chat_template") {
        Some(serde_json::Value::Array(named)) => {
            let default = named.iter().find(|one| one["name"] == "default");
            let template = default.and_then(|one| one["template"].as_str());
            Some(template.ok_or_else(|| top.error("chat_template", "the list has no template named default"))?)
        }
        _ => top.optional_text("chat_template")?,
    };
    Ok(text.map(|text| (file.clone(), text.to_string())))
}

fn compare(file: &Path, found: &str) -> Result<(), ChatError> {
    let found = found.replace("\r\n", "\n").replace('\r', "\n");
    let found = found.strip_suffix('\n').unwrap_or(&found);
    if found == TEMPLATE {
        return Ok(());
    }
    if is_text_only(found) {
        return Err(ChatError::TextOnly { file: file.to_path_buf() });
    }
    let at = TEMPLATE.chars().zip(found.chars()).take_while(|(one, other)| one == other).count();
    let around = |text: &str| -> String {
        let part: String = text.chars().skip(at.saturating_sub(20)).take(80).collect();
        if part.is_empty() { "(ends here)".to_string() } else { format!("{part:?}") }
    };
    let (expected, found) = (around(TEMPLATE), around(found));
    Err(ChatError::Different { file: file.to_path_buf(), at, expected, found })
}

/// The prompt up to the assistant's turn: system turn, then a user turn of `images` placeholders and the text.
pub fn render(system: Option<&str>, images: usize, text: &str) -> String {
    let system = system.unwrap_or(SYSTEM);
    let images = "<|vision_start|><|image_pad|><|vision_end|>".repeat(images);
    format!("<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{images}{text}<|im_end|>\n<|im_start|>assistant\n")
}
