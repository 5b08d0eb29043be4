//! `mmlnb-train import`

use crate::{error::TrainError, import};
use std::path::PathBuf;

/// Makes a file of torch.save into ours: an encoder's weights into a .safetensors file, the released MMLNB model into a classifier's folder.
///
/// Nothing in the file is executed. Known are torchvision's VGG16 and Swin, BERT, and the model of the MMLNB paper's authors; torchvision publishes
/// its weights as vgg16-397923af.pth and swin_b-68c6b09e.pth.
#[derive(clap::Args)]
pub struct Args {
    /// The file, of either format that torch.save has had
    #[arg(value_name = "FILE.pth")]
    file: PathBuf,
    /// The .safetensors file (an encoder) or the folder (the released model) to be written
    #[arg(long, value_name = "PATH")]
    output: PathBuf,
    /// For the released model: a folder with config.json and tokenizer of its BERT
    #[arg(long, value_name = "DIR")]
    text: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// See [`import::import`].
pub fn run(args: Args) -> Result<(), TrainError> {
    let imported = import::import(&args.file, &args.output, args.text.as_deref())?;
    println!("{}: {} ({} tensors)", imported.path.display(), imported.what, imported.tensors);
    Ok(())
}
