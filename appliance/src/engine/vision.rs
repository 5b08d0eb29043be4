//! The vision tower and the embedding: from a prompt to the rows that the language model reads.

use ort::session::Session;
use ort::value::{DynTensor, Tensor};

use super::prompt::Prompt;

/// The two sessions that make embeddings.
pub(super) struct Embedder {
    vision: Session,
    embedding: Session,
    image_token: i64,
}

impl Embedder {
    /// Takes over the sessions.
    pub fn new(vision: Session, embedding: Session, image_token: i64) -> Embedder {
        Embedder { vision, embedding, image_token }
    }

    /// The image's tokens `[image tokens, hidden]`.
    pub fn image(&mut self, prompt: &Prompt) -> ort::Result<Vec<f32>> {
        let patches = prompt.vision.patch_positions.len();
        let pixels = &prompt.patches.pixel_values;
        let pixel_values = Tensor::from_array(([patches, pixels.len() / patches], pixels.clone()))?;
        let positions = Tensor::from_array(([patches, 2], prompt.vision.patch_positions.concat()))?;
        let windows = &prompt.vision.window_index;
        let bounds = &prompt.vision.cu_window_seqlens;
        let outputs = self.vision.run(ort::inputs! {
            "pixel_values" => pixel_values,
            "patch_positions_hw" => positions,
            "window_index" => Tensor::from_array(([windows.len()], windows.clone()))?,
            "cu_window_seqlens" => Tensor::from_array(([bounds.len()], bounds.clone()))?,
        })?;
        Ok(outputs["image_embeds"].try_extract_tensor::<f32>()?.1.to_vec())
    }

    /// The prompt's rows `[tokens, hidden]`, those of image tokens taken from `image`.
    pub fn prompt(&mut self, prompt: &Prompt, image: &[f32]) -> ort::Result<Vec<f32>> {
        let tokens = prompt.ids.len();
        let rows = self.run([1, tokens], prompt.ids.clone())?;
        let mut embeds = rows.try_extract_tensor::<f32>()?.1.to_vec();
        let hidden = embeds.len() / tokens;
        let places = prompt.ids.iter().enumerate().filter(|(_, id)| **id == self.image_token);
        for ((index, _), row) in places.zip(image.chunks_exact(hidden)) {
            embeds[index * hidden..(index + 1) * hidden].copy_from_slice(row);
        }
        Ok(embeds)
    }

    /// One row a token, `[tokens, 1, hidden]`.
    pub fn tokens(&mut self, ids: Vec<i64>) -> ort::Result<DynTensor> {
        self.run([ids.len(), 1], ids)
    }

    fn run(&mut self, shape: [usize; 2], ids: Vec<i64>) -> ort::Result<DynTensor> {
        let mut outputs = self.embedding.run(ort::inputs! { "input_ids" => Tensor::from_array((shape, ids))? })?;
        let rows = outputs.remove("inputs_embeds").ok_or_else(|| ort::Error::new("the embedding has no output inputs_embeds"))?;
        rows.downcast()
    }
}
