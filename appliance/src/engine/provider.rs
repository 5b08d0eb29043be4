//! Which provider runs: CUDA where it was asked for and can be had, else the processor, with the reason said loudly.

use std::path::Path;

use ort::ep;
use ort::memory::AllocationDevice;
use ort::value::Tensor;

use super::runtime::Runtime;
use super::{Provider, ProviderChoice};

/// Settles the provider. `half`: whether the describer, if any, is in f16.
pub(super) fn choose(runtime: &Runtime, choice: ProviderChoice, half: bool) -> Provider {
    match choice {
        ProviderChoice::Cpu => Provider { name: "cpu", note: None },
        ProviderChoice::Cuda => match cuda_works(runtime, half) {
            Ok(()) => Provider { name: "cuda", note: None },
            Err(reason) => {
                let note = format!("The GPU was asked for but is not used, the processor is, and it is slow: {reason}");
                tracing::warn!(note, "provider_fallback");
                Provider { name: "cpu", note: Some(note) }
            }
        },
    }
}

/// Loads CUDA's libraries and copies a number to the GPU.
fn cuda_works(runtime: &Runtime, half: bool) -> Result<(), String> {
    if !half {
        return Err("the describer of this bundle keeps its cache in f32, for which the GPU has no attention kernel; \
                    export the bundle with --precision f16"
            .to_string());
    }
    preload(runtime.folder())?;
    runtime.builder(true).map_err(|error| error.to_string())?;
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
