//! One training step: both losses, their gradients, and the optimiser's move.

use super::network::{Batch, Mode, Network};
use crate::{error::TrainError, optimiser::Optimiser, torch::Outputs};
use tch::{Kind, Reduction, TchError, Tensor};

/// What decides a step beside the batch.
#[derive(Debug)]
pub struct StepOptions {
    /// Weight of the fused loss.
    pub lambda: f64,
    /// Step size of the optimiser.
    pub learning_rate: f64,
    /// Share of a label that is spread over all classes.
    pub label_smoothing: f64,
    /// `[classes]`; `None`: all weigh 1.
    pub class_weights: Option<Tensor>,
    /// What learns and what drops.
    pub mode: Mode,
}

/// A step's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct StepResult {
    /// `lambda * fused + (1 - lambda) * image`.
    pub loss: f64,
    /// Cross entropy of the fused logits (of the only logits, where there is nothing to fuse).
    pub fused: f64,
    /// Cross entropy of the image logits, with an image head beside a fusion.
    pub image: Option<f64>,
    /// alpha of every item, with PRMF.
    pub alpha: Option<Vec<f64>>,
    /// Items whose largest logit is the right one.
    pub correct: usize,
}

/// `L = lambda CE(logits) + (1 - lambda) CE(image_logits)`, means over the batch, then one move of all that learns.
///
/// A frozen tensor has no gradient: the optimiser moves neither it nor its moments.
///
/// # Errors
/// A loss that is not finite, and what libtorch refuses.
pub fn train_step(
    network: &Network,
    optimiser: &mut Optimiser,
    batch: &Batch,
    options: &StepOptions,
) -> Result<StepResult, TrainError> {
    clear_gradients(network);
    let pass = network.forward_for_training(batch, options.mode)?;
    let losses = losses(pass.outputs(), batch, options)?;
    let result = result(pass.outputs(), batch, &losses)?;
    if !result.loss.is_finite() {
        return Err(TrainError::Failed(format!(
            "the loss became {}: lower learning_rate (now {}), or look for images or texts that are damaged",
            result.loss, options.learning_rate
        )));
    }
    pass.backward(&losses.whole)?;
    optimiser.step(network.leaves(), options.learning_rate)?;
    Ok(result)
}

struct Losses {
    whole: Tensor,
    fused: Tensor,
    image: Option<Tensor>,
}

fn losses(outputs: &Outputs, batch: &Batch, options: &StepOptions) -> Result<Losses, TrainError> {
    let fused = cross_entropy(outputs.get("logits")?, batch, options)?;
    let Ok(image_logits) = outputs.get("image_logits") else {
        return Ok(Losses { whole: fused.shallow_clone(), fused, image: None });
    };
    let image = cross_entropy(image_logits, batch, options)?;
    // At lambda 1 the image head's gradient is zero, not absent: its moments move it on, as in PyTorch.
    let whole = fused.f_mul_scalar(options.lambda)?.f_add(&image.f_mul_scalar(1.0 - options.lambda)?)?;
    Ok(Losses { whole, fused, image: Some(image) })
}

fn cross_entropy(logits: &Tensor, batch: &Batch, options: &StepOptions) -> Result<Tensor, TchError> {
    logits.f_cross_entropy_loss(&batch.labels, options.class_weights.as_ref(), Reduction::Mean, -100, options.label_smoothing)
}

fn result(outputs: &Outputs, batch: &Batch, losses: &Losses) -> Result<StepResult, TrainError> {
    let right = outputs.get("logits")?.f_argmax(-1, false)?.f_eq_tensor(&batch.labels)?;
    let alpha = match outputs.get("alpha_text") {
        Ok(alpha) => Some(Vec::<f64>::try_from(alpha.detach().f_flatten(0, -1)?.f_to_kind(Kind::Double)?)?),
        Err(_) => None,
    };
    Ok(StepResult {
        loss: losses.whole.f_double_value(&[])?,
        fused: losses.fused.f_double_value(&[])?,
        image: losses.image.as_ref().map(|loss| loss.f_double_value(&[])).transpose()?,
        alpha,
        correct: right.f_sum(Kind::Int64)?.f_int64_value(&[])? as usize,
    })
}

fn clear_gradients(network: &Network) {
    for leaf in network.leaves().filter(|leaf| leaf.tensor.requires_grad()) {
        leaf.tensor.shallow_clone().zero_grad();
    }
}
