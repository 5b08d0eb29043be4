//! The vision tower: from an image's patches to its tokens.

use mmlnb_models::prepare::positions::VisionPositions;
use ort::session::Session;
use ort::value::Tensor;

/// The tower's session.
pub(super) struct Tower(Session);

impl Tower {
    /// Takes over the session.
    pub fn new(session: Session) -> Tower {
        Tower(session)
    }

    /// The tokens `[image tokens, hidden]` of an image's `pixel_values` `[patches, 1176]`.
    pub fn see(&mut self, pixel_values: &[f32], places: &VisionPositions) -> ort::Result<Vec<f32>> {
        let patches = places.patch_positions.len();
        let pixels = Tensor::from_array(([patches, pixel_values.len() / patches], pixel_values.to_vec()))?;
        let positions = Tensor::from_array(([patches, 2], places.patch_positions.concat()))?;
        let [windows, bounds] = [&places.window_index, &places.cu_window_seqlens];
        let outputs = self.0.run(ort::inputs! {
            "pixel_values" => pixels,
            "patch_positions_hw" => positions,
            "window_index" => Tensor::from_array(([windows.len()], windows.clone()))?,
            "cu_window_seqlens" => Tensor::from_array(([bounds.len()], bounds.clone()))?,
        })?;
        Ok(outputs["image_embeds"].try_extract_tensor::<f32>()?.1.to_vec())
    }
}
