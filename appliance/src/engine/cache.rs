//! The keys and values of all slots, `[slots, kv heads, tokens, head size]` a layer and side, allocated once and updated in place.

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use mmlnb_models::bundle;
use ort::AsPointer;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, TensorElementType};

/// The cache of all layers.
pub(super) struct Cache {
    layers: Vec<[DynTensor; 2]>,
    element: TensorElementType,
    kv_heads: usize,
    /// Tokens that a slot has room for.
    tokens: usize,
    head: usize,
}

const SIDES: [&str; 2] = ["key", "value"];

impl Cache {
    /// Allocates room for `slots` of `tokens` each, on the GPU if `cuda`.
    pub fn new(session: &Session, shape: &bundle::Decoder, slots: usize, tokens: usize, cuda: bool) -> ort::Result<Cache> {
        let element = element(shape);
        let (kv_heads, head) = (shape.kv_heads as usize, shape.cache_head_size as usize);
        let allocator = if cuda {
            let device = MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default)?;
            Allocator::new(session, device)?
        } else {
            Allocator::default()
        };
        let dims = [slots as i64, kv_heads as i64, tokens as i64, head as i64];
        let side = || -> ort::Result<DynTensor> {
            let mut tensor = DynTensor::new(&allocator, element, dims)?;
            if cuda {
                // On the processor the memory is zero already; what the kernel masks must be a number on the GPU too.
                DynTensor::new(&Allocator::default(), element, dims)?.copy_into(&mut tensor)?;
            }
            Ok(tensor)
        };
        let layers = (0..shape.layers).map(|_| Ok([side()?, side()?])).collect::<ort::Result<_>>()?;
        Ok(Cache { layers, element, kv_heads, tokens, head })
    }

    /// Bytes of a cache of this shape.
    pub fn bytes(shape: &bundle::Decoder, slots: usize, tokens: usize) -> u64 {
        let numbers = (2 * shape.layers * shape.kv_heads * shape.cache_head_size) as u64 * slots as u64 * tokens as u64;
        numbers * width(element(shape)) as u64
    }

    /// Binds `rows` slots from `first` on as past and present of every layer: the kernel then writes into them in place.
    ///
    /// # Safety
    /// The binding must not be run after this cache is gone.
    pub unsafe fn bind(&mut self, binding: &IoBinding, first: usize, rows: usize) -> ort::Result<()> {
        for layer in 0..self.layers.len() {
            for (side, name) in SIDES.iter().enumerate() {
                let (past, present) = (format!("past.{layer}.{name}"), format!("present.{layer}.{name}"));
                // SAFETY: the caller keeps the cache for as long as the binding is run.
                unsafe { bind(binding, &past, &present, &self.view(layer, side, first, rows)?)? }
            }
        }
        Ok(())
    }

    /// Copies the first `tokens` of slot `from` to slot `to`.
    pub fn copy(&mut self, from: usize, to: usize, tokens: usize) -> ort::Result<()> {
        for layer in 0..self.layers.len() {
            for side in 0..2 {
                self.copy_side(layer, side, [from, to], tokens)?;
            }
        }
        Ok(())
    }

    /// Puts zeros in the place of a slot's tokens from `from` on.
    pub fn clear(&mut self, slot: usize, from: usize) -> ort::Result<()> {
        let numbers = (self.tokens - from) * self.head;
        let zeros = DynTensor::new(&Allocator::default(), self.element, [numbers as i64])?;
        for tensor in self.layers.iter_mut().flatten() {
            for head in 0..self.kv_heads {
                let start = ((slot * self.kv_heads + head) * self.tokens + from) * self.head;
                // SAFETY: the view ends with this block.
                copy_view(&zeros, unsafe { over(tensor, self.element, start, &[numbers as i64])? })?;
            }
        }
        Ok(())
    }

    fn copy_side(&mut self, layer: usize, side: usize, [from, to]: [usize; 2], tokens: usize) -> ort::Result<()> {
        if !self.layers[layer][side].memory_info().is_cpu_accessible() {
            // SAFETY: both views end with this block.
            let [source, target] = unsafe { [self.view(layer, side, from, 1)?, self.view(layer, side, to, 1)?] };
            return copy_view(&source, target);
        }
        let (heads, row) = (self.kv_heads, self.head * width(self.element));
        let room = self.tokens * row;
        let tensor = &mut self.layers[layer][side];
        let bytes = tensor.shape().num_elements() * width(self.element);
        // SAFETY: the tensor's memory, which the processor can reach, as bytes; nothing else uses it meanwhile.
        let values = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr_mut().cast::<u8>(), bytes) };
        for head in 0..heads {
            let [from, to] = [from, to].map(|slot| (slot * heads + head) * room);
            values.copy_within(from..from + tokens * row, to);
        }
        Ok(())
    }

    /// A tensor over the memory of `rows` slots.
    ///
    /// # Safety
    /// The view must not be used after this cache is gone.
    unsafe fn view(&mut self, layer: usize, side: usize, first: usize, rows: usize) -> ort::Result<DynTensor> {
        let dims = [rows, self.kv_heads, self.tokens, self.head].map(|dim| dim as i64);
        let start = first * self.kv_heads * self.tokens * self.head;
        // SAFETY: the caller keeps the cache for as long as the view is used.
        unsafe { over(&mut self.layers[layer][side], self.element, start, &dims) }
    }
}

/// Type of the numbers.
fn element(shape: &bundle::Decoder) -> TensorElementType {
    match shape.cache_dtype.as_str() {
        "f16" => TensorElementType::Float16,
        "bf16" => TensorElementType::Bfloat16,
        _ => TensorElementType::Float32,
    }
}

/// Bytes of a number.
fn width(element: TensorElementType) -> usize {
    if element == TensorElementType::Float32 { 4 } else { 2 }
}

/// A tensor of these sizes over the memory of another one, from its number `start` on.
///
/// It owns itself, unlike ort's `TensorRefMut::from_raw`: `copy_into` and `bind_input` clone a borrowed tensor, and the clone waits for the lock that
/// `copy_into` holds, for ever (ort 2.0.0-rc.15, value/impl_tensor/copy.rs).
///
/// # Safety
/// The view must not be used after `memory` is gone.
unsafe fn over(memory: &mut DynTensor, element: TensorElementType, start: usize, dims: &[i64]) -> ort::Result<DynTensor> {
    let numbers = dims.iter().product::<i64>() as usize;
    assert!(start + numbers <= memory.shape().num_elements(), "the view lies within the memory");
    let data = memory.data_ptr_mut().cast::<u8>().wrapping_add(start * width(element)).cast::<c_void>();
    let mut made = null_mut();
    // SAFETY: the assertion keeps the view inside of the tensor's memory, which the caller keeps; ONNX Runtime copies the sizes.
    let value = unsafe {
        ort::Error::result_from_status((ort::api().CreateTensorWithDataAsOrtValue)(
            memory.memory_info().ptr(),
            data,
            numbers * width(element),
            dims.as_ptr(),
            dims.len(),
            element.into(),
            &mut made,
        ))?;
        NonNull::new(made).ok_or_else(|| ort::Error::new("ONNX Runtime made no tensor"))?
    };
    // SAFETY: the value was just made and belongs to nobody else. Its memory is not the allocator's: releasing the value leaves it.
    Ok(unsafe { DynTensor::from_ptr(value, Some(&Allocator::default())) })
}

/// Copies one view into another of the same sizes, on whatever device both are.
fn copy_view(source: &DynTensor, mut target: DynTensor) -> ort::Result<()> {
    source.copy_into(&mut target)
}

/// Binds one tensor as an input and as an output. `IoBinding::bind_output` would make every run return all outputs.
fn bind(binding: &IoBinding, input: &str, output: &str, tensor: &DynTensor) -> ort::Result<()> {
    let [input, output] = [input, output].map(|name| std::ffi::CString::new(name).expect("names of layers hold no NUL"));
    let (binding, value) = (binding.ptr().cast_mut(), tensor.ptr());
    // SAFETY: binding, names and value are alive during the calls; ONNX Runtime counts its own reference to the value.
    unsafe {
        ort::Error::result_from_status((ort::api().BindInput)(binding, input.as_ptr(), value))?;
        ort::Error::result_from_status((ort::api().BindOutput)(binding, output.as_ptr(), value))
    }
}

/// Binds an output to the first rows of a matrix of f32 `[rows, width]`. `IoBinding::bind_output` would make every run return all outputs, the
/// cache's among them.
///
/// # Safety
/// The binding must not be run after `matrix` is gone.
pub(super) unsafe fn bind_rows(
    binding: &IoBinding,
    name: &std::ffi::CStr,
    matrix: &mut DynTensor,
    rows: usize,
) -> ort::Result<()> {
    let dims = [rows as i64, matrix.shape()[1]];
    // SAFETY: binding, name and view are alive during the calls, ONNX Runtime counts its own reference to the view, and the caller keeps the matrix.
    unsafe {
        let view = over(matrix, TensorElementType::Float32, 0, &dims)?;
        ort::Error::result_from_status((ort::api().BindOutput)(binding.ptr().cast_mut(), name.as_ptr(), view.ptr()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineOptions, runtime::Runtime};
    use mmlnb_models::bundle::Precision;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// The way that a slot is moved on a GPU. With borrowed views this call never returned, on the processor's memory too.
    #[test]
    fn a_view_is_copied_into_another_of_the_same_memory() {
        let (done, waiting) = channel();
        std::thread::spawn(move || {
            let _runtime = Runtime::open(&EngineOptions::default(), Precision::F32).unwrap();
            let mut memory = DynTensor::new(&Allocator::default(), TensorElementType::Float32, [3i64, 2, 4]).unwrap();
            memory.try_extract_tensor_mut::<f32>().unwrap().1.iter_mut().zip(0u8..).for_each(|(value, n)| *value = f32::from(n));
            // SAFETY: the memory outlives both views.
            let [third, first] =
                [16, 0].map(|start| unsafe { over(&mut memory, TensorElementType::Float32, start, &[1, 2, 4]) }.unwrap());
            copy_view(&third, first).unwrap();
            drop(third);
            done.send(memory.try_extract_tensor::<f32>().unwrap().1.to_vec()).unwrap();
        });
        let values = waiting.recv_timeout(Duration::from_secs(60)).expect("the copy returns");
        let expected: Vec<f32> = (16u8..24).chain(8..24).map(f32::from).collect();
        assert_eq!(values, expected, "the first slot holds the third, which stays, like the second");
    }
}
