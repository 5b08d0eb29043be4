//! The keys and values of all slots, `[slots, kv heads, tokens, head size]` a layer and side, allocated once and updated in place.

use std::fmt::Debug;

use mmlnb_models::bundle;
use ort::AsPointer;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, PrimitiveTensorElementType, Shape, TensorElementType, TensorRefMut};

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
        let element = if shape.cache_dtype == "f16" { TensorElementType::Float16 } else { TensorElementType::Float32 };
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
        let width = if shape.cache_dtype == "f16" { 2 } else { 4 };
        (2 * shape.layers * shape.kv_heads * shape.cache_head_size * width) as u64 * slots as u64 * tokens as u64
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
                unsafe {
                    match self.element {
                        TensorElementType::Float16 => {
                            bind(binding, &past, &present, &self.view::<half::f16>(layer, side, first, rows)?)?
                        }
                        _ => bind(binding, &past, &present, &self.view::<f32>(layer, side, first, rows)?)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies the first `tokens` of slot `from` to slot `to`.
    pub fn copy(&mut self, from: usize, to: usize, tokens: usize) -> ort::Result<()> {
        for layer in 0..self.layers.len() {
            for side in 0..2 {
                match self.element {
                    TensorElementType::Float16 => self.copy_side::<half::f16>(layer, side, [from, to], tokens)?,
                    _ => self.copy_side::<f32>(layer, side, [from, to], tokens)?,
                }
            }
        }
        Ok(())
    }

    fn copy_side<T: PrimitiveTensorElementType + Copy + Debug>(
        &mut self,
        layer: usize,
        side: usize,
        [from, to]: [usize; 2],
        tokens: usize,
    ) -> ort::Result<()> {
        let tensor = &mut self.layers[layer][side];
        if !tensor.memory_info().is_cpu_accessible() {
            // SAFETY: both views end with this block.
            let [source, target] = unsafe { [self.view::<T>(layer, side, from, 1)?, self.view::<T>(layer, side, to, 1)?] };
            return source.copy_into(target);
        }
        let (heads, room, width) = (self.kv_heads, self.tokens, self.head);
        let (_, values) = tensor.try_extract_tensor_mut::<T>()?;
        for head in 0..heads {
            let [from, to] = [from, to].map(|slot| (slot * heads + head) * room * width);
            values.copy_within(from..from + tokens * width, to);
        }
        Ok(())
    }

    /// A tensor over the memory of `rows` slots; `T` is the type of the elements.
    ///
    /// # Safety
    /// The view must not be used after this cache is gone.
    unsafe fn view<'a, T: PrimitiveTensorElementType + Debug>(
        &mut self,
        layer: usize,
        side: usize,
        first: usize,
        rows: usize,
    ) -> ort::Result<TensorRefMut<'a, T>> {
        let slot = self.kv_heads * self.tokens * self.head;
        let tensor = &mut self.layers[layer][side];
        assert!((first + rows) * slot <= tensor.shape().num_elements(), "the view lies within the cache");
        let dims = [rows, self.kv_heads, self.tokens, self.head].map(|dim| dim as i64);
        let info = tensor.memory_info().to_owned();
        let start = tensor.data_ptr_mut().cast::<T>().wrapping_add(first * slot);
        // SAFETY: the assertion keeps the view inside the tensor's memory, which lives as long as the cache.
        unsafe { TensorRefMut::from_raw(info, start.cast(), Shape::new(dims)) }
    }
}

/// Binds one tensor as an input and as an output. `IoBinding::bind_input` would copy it, because it does not own the memory.
fn bind<T>(binding: &IoBinding, input: &str, output: &str, tensor: &TensorRefMut<'_, T>) -> ort::Result<()>
where
    T: PrimitiveTensorElementType + Debug,
{
    let [input, output] = [input, output].map(|name| std::ffi::CString::new(name).expect("names of layers hold no NUL"));
    let (binding, value) = (binding.ptr().cast_mut(), tensor.ptr());
    // SAFETY: binding, names and value are alive during the calls; ONNX Runtime counts its own reference to the value.
    unsafe {
        ort::Error::result_from_status((ort::api().BindInput)(binding, input.as_ptr(), value))?;
        ort::Error::result_from_status((ort::api().BindOutput)(binding, output.as_ptr(), value))
    }
}

/// Binds an output to the first rows of a matrix `[rows, width]`. `IoBinding::bind_output` would make every run return all outputs, the cache's among
/// them.
///
/// # Safety
/// The binding must not be run after `matrix` is gone.
pub(super) unsafe fn bind_rows(
    binding: &IoBinding,
    name: &std::ffi::CStr,
    matrix: &mut ort::value::Tensor<f32>,
    rows: usize,
) -> ort::Result<()> {
    let shape = matrix.shape();
    assert!(rows as i64 <= shape[0], "the rows lie within the matrix");
    let (info, dims) = (matrix.memory_info().to_owned(), [rows as i64, shape[1]]);
    // SAFETY: the assertion keeps the view inside the matrix's memory.
    let view = unsafe { TensorRefMut::<f32>::from_raw(info, matrix.data_ptr_mut(), Shape::new(dims)) }?;
    // SAFETY: binding, name and view are alive during the call, ONNX Runtime counts its own reference to the view, and the caller keeps the matrix.
    unsafe { ort::Error::result_from_status((ort::api().BindOutput)(binding.ptr().cast_mut(), name.as_ptr(), view.ptr())) }
}
