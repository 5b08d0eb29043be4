//! Which provider runs: CUDA where it was asked for and can be had, else the processor, with the reason said loudly.

use std::path::Path;

use mmlnb_models::bundle::Precision;
use ort::ep;
use ort::memory::AllocationDevice;
use ort::value::Tensor;

use super::cuda::on_cuda;
use super::runtime::Runtime;
use super::{EngineError, Provider, ProviderChoice};

/// Settles the provider for graphs at `precision`; `describes`: a describer is among them. Refuses bf16 where no GPU runs it.
pub(super) fn choose(
    runtime: &Runtime,
    choice: ProviderChoice,
    precision: Precision,
    describes: bool,
) -> Result<Provider, EngineError> {
    let only_gpus = |why: &str| {
        EngineError::Bundle(format!(
            "this bundle is in bf16, which only GPUs run, and {why}; for processors export it with --precision f32 or int8"
        ))
    };
    let tried = match choice {
        ProviderChoice::Cpu if precision == Precision::Bf16 => {
            return Err(only_gpus("the processor was asked for, or no GPU is there"));
        }
        ProviderChoice::Cpu => return Ok(Provider { name: "cpu", note: None }),
        ProviderChoice::Cuda => fits(precision, describes).and_then(|()| preload(runtime.folder())),
    };
    let reason = match tried.map(|()| cuda_works(runtime, precision)) {
        Ok(Ok(())) => return Ok(Provider { name: "cuda", note: None }),
        // A card that is full or not there yet may be had after a restart.
        Ok(Err(reason)) if precision == Precision::Bf16 => {
            return Err(EngineError::Gpu(format!(
                "this bundle is in bf16, which only GPUs run, and the GPU cannot be used: {reason}"
            )));
        }
        Err(reason) if precision == Precision::Bf16 => return Err(only_gpus(&reason)),
        Ok(Err(reason)) | Err(reason) => reason,
    };
    let note = format!("The GPU was asked for but is not used, the processor is, and it is slow: {reason}");
    tracing::warn!(note, "provider_fallback");
    Ok(Provider { name: "cpu", note: Some(note) })
}

/// Whether the GPU has kernels for these graphs.
fn fits(precision: Precision, describes: bool) -> Result<(), String> {
    let why = match precision {
        Precision::F16 | Precision::Bf16 => return Ok(()),
        Precision::F32 if !describes => return Ok(()),
        Precision::F32 => "the describer of this bundle is in f32, which the GPU's attention does not take",
        Precision::Int8 | Precision::Int4 | Precision::Int4Int8 => {
            "this bundle is in few bits, for which the GPU has no kernels: it is for processors"
        }
    };
    Err(format!("{why}; export the bundle with --precision f16"))
}

/// Copies a number to the GPU.
fn cuda_works(runtime: &Runtime, precision: Precision) -> Result<(), String> {
    runtime.builder().and_then(|builder| on_cuda(builder, precision)).map_err(|error| error.to_string())?;
    let copied = || Tensor::from_array(([1], vec![1.0f32]))?.to(AllocationDevice::CUDA, 0);
    let value: Tensor<f32> = copied().map_err(|error: ort::Error| error.to_string())?;
    if value.memory_info().allocation_device() == AllocationDevice::CUDA {
        Ok(())
    } else {
        Err("no GPU answers; see nvidia-smi".to_string())
    }
}

/// Loads NVIDIA's libraries from the folders that the set-up lays out beside ONNX Runtime, where they exist; elsewhere the system's are taken.
fn preload(capi: &Path) -> Result<(), String> {
    let nvidia = capi.join("../../nvidia");
    let folders = [nvidia.join("cu13/lib"), nvidia.join("cudnn/lib")];
    let [cuda, cudnn] = folders.each_ref().map(|folder| folder.is_dir().then_some(folder.as_path()));
    ep::cuda::preload_dylibs(cuda, cudnn).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::{EngineOptions, cuda};
    use super::*;

    /// A builder refuses unknown keys of its configuration only when a session is made; here the words are at least those of the library.
    #[test]
    fn the_pinned_library_has_these_words() {
        let runtime = Runtime::open(&EngineOptions::default(), Precision::F32).unwrap();
        let folder = std::fs::read_dir(runtime.folder()).unwrap();
        let library =
            folder.flatten().map(|file| file.path()).find(|path| path.to_string_lossy().contains("libonnxruntime.so.1"));
        let bytes = std::fs::read(library.expect("the library's file")).unwrap();
        for words in cuda::OFF_THE_GPU.into_iter().chain([cuda::NEVER, "optimization.disable_specified_optimizers"]) {
            assert!(bytes.windows(words.len()).any(|window| window == words.as_bytes()), "{words}");
        }
    }
}
