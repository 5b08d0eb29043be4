//! Weights in a form that is not read: what it is, and what to give instead.

use super::{
    Naming,
    mapped::{Entry, Mapped},
};
use std::path::Path;

/// First bytes of files that are taken for safetensors, what they are, and what to do.
const BEGINNINGS: [(&[u8], &str); 5] = [
    (b"PK\x03\x04", TORCH),
    (b"\x80\x02", TORCH),
    (b"\x80\x04", TORCH),
    (b"GGUF", "a GGUF file, whose weights are quantised or renamed; give the original checkpoint in safetensors"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"),
];
const TORCH: &str = "a file of torch.save, not of safetensors; import it: `mmlnb-train import FILE --output FILE.safetensors` (VGG16, Swin, \
                     BERT, the released MMLNB model), or save it with transformers' save_pretrained, which writes safetensors";
/// Endings of files that hold weights of another format.
const ENDINGS: [&str; 5] = [".bin", ".pth", ".pt", ".ckpt", ".gguf"];
/// Files with these endings that trainings leave beside weights.
const BESIDE: [&str; 4] = ["optimizer", "rng_state", "scheduler", "training_args"];

/// Endings of names that only quantised checkpoints have, and by which method.
const QUANTISED: [(&str, &str); 15] = [
    (".qweight", "AWQ or GPTQ"),
    (".qzeros", "AWQ or GPTQ"),
    (".g_idx", "GPTQ"),
    (".weight_scale_inv", "FP8"),
    (".weight_scale", "FP8 or compressed-tensors"),
    (".input_scale", "FP8"),
    (".activation_scale", "FP8"),
    (".weight_packed", "compressed-tensors"),
    (".weight_zero_point", "compressed-tensors"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".weight_format", "bitsandbytes"),
    (".W_q", "HQQ"),
    ("._scale", "quanto"),
];
/// What wrappers of PyTorch put before every name.
const WRAPPERS: [(&str, &str); 3] = [
    ("module.", "DistributedDataParallel or DataParallel: save `model.module.state_dict()`"),
    ("_orig_mod.", "torch.compile: save `model._orig_mod.state_dict()`"),
    ("_fsdp_wrapped_module.", "FSDP: save the full state dict"),
];

/// What a file that is no safetensors file is by its first bytes, and what to do; `None` where they say nothing.
pub(super) fn not_safetensors(bytes: &[u8]) -> Option<String> {
    BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|(_, what)| format!("it is {what}"))
}

/// What to do about a folder without a `.safetensors` file whose weights have another format; `None` where there are none.
pub(super) fn other_weights(names: &[String], naming: Naming) -> Option<String> {
    let beside = |name: &str| BESIDE.iter().any(|beginning| name.starts_with(beginning));
    let name = names.iter().find(|name| ENDINGS.iter().any(|ending| name.ends_with(ending)) && !beside(name))?;
    if name.ends_with(".gguf") {
        return Some(format!("its weights are in {name}, a GGUF file; give the original checkpoint in safetensors"));
    }
    let mend = match naming {
        Naming::Qwen => "save it with transformers' save_pretrained, which writes safetensors".to_string(),
        Naming::Vgg16 | Naming::Swin | Naming::Bert | Naming::Classifier => {
            format!("import it: `mmlnb-train import {name} --output model.safetensors`")
        }
    };
    Some(format!("its weights are in {name}, a file of torch.save, and no .safetensors file is there; {mend}"))
}

/// An adapter's folder whose weights are in a file of torch.save.
pub(super) fn other_adapter(folder: &Path) -> Option<String> {
    let file = "adapter_model.bin";
    folder.join(file).is_file().then(|| {
        format!("its weights are in {file}, a file of torch.save; save it with PEFT's save_pretrained, which writes safetensors")
    })
}

/// Why the tensors of a checkpoint are not those of a network as it was trained: quantised, of a type that is too wide, empty, wrapped, or
/// with an adapter inside.
pub(super) fn not_a_checkpoint(files: &[Mapped]) -> Option<String> {
    let entries = || files.iter().flat_map(|file| &file.entries);
    let found = quantised(entries()).or_else(|| too_wide(entries())).or_else(|| empty(entries()));
    found.or_else(|| wrapped(entries())).or_else(|| with_adapter(entries()))
}

fn quantised<'e>(mut entries: impl Iterator<Item = &'e Entry>) -> Option<String> {
    let method = |entry: &Entry| {
        let by_name = QUANTISED.iter().find(|(ending, _)| entry.name.ends_with(ending)).map(|(_, method)| *method);
        let by_type = match entry.dtype.as_str() {
            dtype if dtype.starts_with("F8_") => Some("FP8"),
            dtype if dtype == "F4" || dtype.starts_with("F6_") => Some("FP4 or FP6"),
            "U8" | "I8" if entry.name.ends_with(".weight") => Some("8 bits or fewer"),
            _ => None,
        };
        by_name.or(by_type).or_else(|| entry.name.contains(".quant_state.").then_some("bitsandbytes"))
    };
    entries.find_map(|entry| method(entry).map(|method| told_quantised(method, &format!("tensor `{}`", entry.name))))
}

/// Numbers of 64 bits, which no network here is trained in.
fn too_wide<'e>(mut entries: impl Iterator<Item = &'e Entry>) -> Option<String> {
    let entry = entries.find(|entry| matches!(entry.dtype.as_str(), "F64" | "C64"))?;
    Some(format!(
        "the tensor `{}` has the type {}, and F32, F16 and BF16 are read; save the weights again as F32 (in PyTorch `model.float()`, then \
         save_pretrained)",
        entry.name, entry.dtype
    ))
}

/// The sentence about quantised weights; `where_seen` is the tensor or key that gave it away.
pub(crate) fn told_quantised(method: &str, where_seen: &str) -> String {
    format!(
        "the weights are quantised ({method}, by the {where_seen}), which training and export cannot read; give the original checkpoint in \
         F32, F16 or BF16"
    )
}

/// Tensors without numbers, as each process of DeepSpeed's ZeRO-3 holds them.
pub(super) fn empty<'e>(entries: impl Iterator<Item = &'e Entry>) -> Option<String> {
    let empty: Vec<&str> = entries.filter(|entry| entry.shape.contains(&0)).map(|entry| entry.name.as_str()).collect();
    let first = empty.first()?;
    Some(format!(
        "tensors without numbers: {}, the first is `{first}`. DeepSpeed's ZeRO-3 leaves such files when the parts of its \
         processes are not gathered: gather them with zero_to_fp32.py, or train with stage3_gather_16bit_weights_on_model_save, \
         and save again",
        empty.len()
    ))
}

/// Names that a wrapper of PyTorch has put something before.
pub(super) fn wrapped<'e>(mut entries: impl Iterator<Item = &'e Entry>) -> Option<String> {
    let wrapper =
        |name: &str| WRAPPERS.iter().find(|(prefix, _)| name.starts_with(prefix) || name.contains(&format!(".{prefix}")));
    entries.find_map(|entry| {
        let (prefix, mend) = wrapper(&entry.name)?;
        Some(format!(
            "names hold `{prefix}` (the first is `{}`), as they do in the state dict of a model that is wrapped by {mend}, or take \
             `{prefix}` off the names",
            entry.name
        ))
    })
}

fn with_adapter<'e>(mut entries: impl Iterator<Item = &'e Entry>) -> Option<String> {
    let part = |name: &str| [".base_layer.", ".lora_A.", ".modules_to_save."].iter().any(|part| name.contains(part));
    let entry = entries.find(|entry| part(&entry.name) || entry.name.starts_with("base_model.model."))?;
    Some(format!(
        "it holds an adapter of PEFT (the first such tensor is `{}`): merge with PEFT first (model.merge_and_unload(), then \
         save_pretrained) and give that folder, or give the base and the adapter's own folder",
        entry.name
    ))
}
