//! Our own kernels in the place of ONNX Runtime's, on a processor: it asks them for the operators of these names, and keeps all others.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use mmlnb_kernels::attention::{self, Angles, Heads, Sizes, Tokens};
use mmlnb_kernels::products::{self, Bits, Weights};
use mmlnb_kernels::{BLOCK, Processor, Rows, Spawned, Workers};
use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput};
use ort::value::TensorElementType::{Float32, Int32, Int64, Uint8};
use ort::value::{TensorValueType, ValueRef};

use super::pages;

/// The domain of ONNX Runtime's own operators, whose kernels ours stand before.
const DOMAIN: &str = "com.microsoft";

/// Threads that lay weights out at the start; more would only wait for memory.
const MOST_AT_START: usize = 16;

/// The operators that are replaced in one session, for a pool of so many threads.
pub(super) fn own(threads: usize) -> ort::Result<OperatorDomain> {
    let processor = Processor::here();
    let products = Products { threads, processor, rows: Arc::default() };
    OperatorDomain::new(DOMAIN)?.add(products)?.add(CachedAttention { threads, processor })
}

/// ONNX Runtime's threads during a call.
struct Pool<'c> {
    context: &'c ComputeContext,
    threads: usize,
}

impl Workers for Pool<'_> {
    fn count(&self) -> usize {
        self.threads
    }

    fn each(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        // A panic must not pass through ONNX Runtime's frames.
        let panicked = Mutex::new(None);
        let called = self.context.par_for(parts, 0, |part| {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(part))) {
                *panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
        });
        if let Some(panic) = panicked.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
        called.expect("ONNX Runtime calls back within a call");
    }
}

/// What `work` gives; a panic of it becomes an error, for it must not pass through ONNX Runtime's frames.
fn caught<T>(work: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(ort::Error::new(format!("a kernel panicked: {}", text.unwrap_or("no reason"))))
    })
}

/// MatMulNBits.
struct Products {
    threads: usize,
    processor: Processor,
    /// The nodes of a session run one after the other, so they share the room for activations.
    rows: Arc<Mutex<Rows>>,
}

struct Product {
    threads: usize,
    processor: Processor,
    weights: Weights,
    inputs: usize,
    outputs: usize,
    rows: Arc<Mutex<Rows>>,
}

impl Operator for Products {
    type Kernel<'attr> = Product;

    fn name(&self) -> &str {
        "MatMulNBits"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(Float32),
            OperatorInput::required(Uint8),
            OperatorInput::required(Float32),
            OperatorInput::optional(Uint8),
            OperatorInput::optional(Int32),
            OperatorInput::optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'attr>(&self, node: &KernelContext<'attr>) -> ort::Result<Product> {
        caught(|| self.kernel(node))
    }
}

impl Products {
    fn kernel(&self, node: &KernelContext<'_>) -> ort::Result<Product> {
        let size = |name: &str| node.get::<i64>(name).and_then(|value| usize::try_from(value).ok());
        let (Some(inputs), Some(outputs)) = (size("K"), size("N")) else { return Err(refused("a product without sizes")) };
        let bits = match (size("bits"), size("block_size"), size("accuracy_level")) {
            (Some(4), Some(BLOCK), Some(4)) => Bits::Four,
            (Some(8), Some(BLOCK), Some(4)) => Bits::Eight,
            other => return Err(refused(&format!("a product of bits, block size and accuracy {other:?}"))),
        };
        if size("weight_prepacked").is_some_and(|packed| packed != 0) {
            return Err(refused("a product whose weights are laid out for another one"));
        }
        let (codes, scales) = (node.constant_input::<TensorValueType<u8>>(1)?, node.constant_input::<TensorValueType<f32>>(2)?);
        let (codes, scales) = (codes.extract_tensor().1, scales.extract_tensor().1);
        let workers = Spawned(self.threads.min(MOST_AT_START));
        let weights = Weights::new(bits, codes, scales, outputs, inputs, &workers);
        pages::give_back(codes);
        pages::give_back(bytemuck::cast_slice(scales));
        let weights = weights.ok_or_else(|| refused("a product whose weights have other sizes"))?;
        Ok(Product { threads: self.threads, processor: self.processor, weights, inputs, outputs, rows: self.rows.clone() })
    }
}

impl Kernel for Product {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        caught(|| self.multiply(context))
    }
}

impl Product {
    fn multiply(&self, context: &ComputeContext) -> ort::Result<()> {
        let numbers = context.input(0)?.ok_or_else(|| refused("a product without its numbers"))?;
        let bias = context.input(5)?;
        if context.input(3)?.is_some() || context.input(4)?.is_some() {
            return Err(refused("a product with zero points or an order"));
        }
        let (shape, numbers) = numbers.try_extract_tensor::<f32>()?;
        let bias = bias.as_ref().map(|bias| Ok::<_, ort::Error>(bias.try_extract_tensor::<f32>()?.1)).transpose()?;
        if bias.is_some_and(|bias| bias.len() != self.outputs) {
            return Err(refused("a product whose bias has another size"));
        }
        let mut shape: Vec<i64> = shape.iter().copied().collect();
        match shape.last_mut() {
            Some(width) if *width == self.inputs as i64 => *width = self.outputs as i64,
            _ => return Err(refused(&format!("a product of {shape:?} with {} inputs", self.inputs))),
        }
        let mut product = context.output(0, shape)?.ok_or_else(|| refused("a product that nobody wants"))?;
        let product = product.try_extract_tensor_mut::<f32>()?.1;
        let pool = Pool { context, threads: self.threads };
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.take(self.processor, numbers, self.inputs, &pool);
        products::multiply(self.processor, &rows, &self.weights, bias, product, &pool);
        Ok(())
    }
}

/// GroupQueryAttention.
struct CachedAttention {
    threads: usize,
    processor: Processor,
}

struct Attention {
    threads: usize,
    processor: Processor,
    heads: usize,
    kv_heads: usize,
    /// Queries and keys come as they are, with their angles.
    rotates: bool,
    /// Absent: by the width of a head.
    scale: Option<f32>,
}

impl Operator for CachedAttention {
    type Kernel<'attr> = Attention;

    fn name(&self) -> &str {
        "GroupQueryAttention"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let [f32, i32, i64] = [Float32, Int32, Int64];
        let first = OperatorInput::required(f32);
        std::iter::once(first).chain([f32, f32, f32, f32, i32, i32, f32, f32, i64, f32, f32].map(OperatorInput::optional))
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [Float32; 3].map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, node: &KernelContext<'attr>) -> ort::Result<Attention> {
        caught(|| self.kernel(node))
    }
}

impl CachedAttention {
    fn kernel(&self, node: &KernelContext<'_>) -> ort::Result<Attention> {
        let whole = |name: &str| node.get::<i64>(name).unwrap_or(0);
        let [heads, kv_heads] = ["num_heads", "kv_num_heads"].map(|name| usize::try_from(whole(name)).unwrap_or(0));
        let unknown =
            ["rotary_interleaved", "smooth_softmax", "qk_output", "kv_cache_bit_width"].into_iter().find(|name| whole(name) != 0);
        if let Some(name) = unknown.or((whole("local_window_size") > 0).then_some("local_window_size")) {
            return Err(refused(&format!("attention with {name}")));
        }
        let quantised = ["k_quant_type", "v_quant_type"].into_iter();
        let quantised = quantised.filter_map(|name| node.get::<String>(name)).any(|kind| !kind.is_empty() && kind != "NONE");
        if quantised {
            return Err(refused("attention on a quantised cache"));
        }
        if node.get::<f32>("softcap").is_some_and(|cap| cap != 0.0) || heads == 0 || kv_heads == 0 {
            return Err(refused("attention with a cap, or without heads"));
        }
        let scale = node.get::<f32>("scale").filter(|scale| *scale != 0.0);
        let rotates = whole("do_rotary") != 0;
        Ok(Attention { threads: self.threads, processor: self.processor, heads, kv_heads, rotates, scale })
    }
}

impl Kernel for Attention {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        caught(|| self.attend(context))
    }
}

impl Attention {
    fn attend(&self, context: &ComputeContext) -> ort::Result<()> {
        let input = |index| context.input(index)?.ok_or_else(|| refused("attention without its numbers"));
        if (10..context.num_inputs()?).any(|index| !matches!(context.input(index), Ok(None))) {
            return Err(refused("attention with a bias or sinks"));
        }
        let (query, past, last) = (input(0)?, [input(3)?, input(4)?], input(5)?);
        let single = context.input(1)?.zip(context.input(2)?);
        let (shape, query) = query.try_extract_tensor::<f32>()?;
        let (room, last) = (past[0].try_extract_tensor::<f32>()?.0.clone(), last.try_extract_tensor::<i32>()?.1);
        let ([rows, tokens, width], [cached_rows, cached_heads, room_tokens, head]) = (&shape[..], &room[..]) else {
            return Err(refused("attention of another number of axes"));
        };
        if (cached_rows, *cached_heads) != (rows, self.kv_heads as i64) || past[1].try_extract_tensor::<f32>()?.0 != &room {
            return Err(refused(&format!("attention of {shape:?} on a cache of {room:?}")));
        }
        let [rows, tokens, width, room_tokens, head] = [rows, tokens, width, room_tokens, head].map(|size| *size as usize);
        let Attention { heads, kv_heads, .. } = *self;
        let before: Option<Vec<usize>> = last.iter().map(|last| (usize::try_from(*last).ok()? + 1).checked_sub(tokens)).collect();
        let before = before.ok_or_else(|| refused("attention on fewer tokens than are new"))?;
        let numbers = match &single {
            None => [0, heads * head, (heads + kv_heads) * head].map(|first| Heads { numbers: query, width, first }),
            Some((key, value)) => {
                let [key, value] = [key.try_extract_tensor::<f32>()?.1, value.try_extract_tensor::<f32>()?.1];
                let of = |numbers, width| Heads { numbers, width, first: 0 };
                [of(query, width), of(key, kv_heads * head), of(value, kv_heads * head)]
            }
        };
        let turning = if self.rotates { Some([input(7)?, input(8)?, input(9)?]) } else { None };
        let angles = match &turning {
            None => None,
            Some([cos, sin, places]) => Some(Angles {
                cos: cos.try_extract_tensor::<f32>()?.1,
                sin: sin.try_extract_tensor::<f32>()?.1,
                places: places.try_extract_tensor::<i64>()?.1,
            }),
        };
        if let Some([cos, sin, _]) = &turning {
            let fits =
                |side: &ValueRef<'_>| Ok::<_, ort::Error>(side.try_extract_tensor::<f32>()?.0.last() == Some(&(head as i64 / 2)));
            if !fits(cos)? || !fits(sin)? {
                return Err(refused("attention that turns a part of its heads"));
            }
        }
        let output =
            |index, shape: &[i64]| context.output(index, shape.to_vec())?.ok_or_else(|| refused("attention that nobody wants"));
        let seen_shape = [rows, tokens, heads * head].map(|size| size as i64);
        let (mut seen, mut keys, mut values) = (output(0, &seen_shape)?, output(1, &room)?, output(2, &room)?);
        for (side, past) in [&mut keys, &mut values].into_iter().zip(&past) {
            // The engine binds both to one memory.
            let before = past.try_extract_tensor::<f32>()?.1.as_ptr();
            let (_, present) = side.try_extract_tensor_mut::<f32>()?;
            if !std::ptr::eq(present.as_ptr(), before) {
                present.copy_from_slice(past.try_extract_tensor::<f32>()?.1);
            }
        }
        let sizes = Sizes { rows, tokens, heads, kv_heads, head, room: room_tokens };
        let scale = self.scale.unwrap_or(1.0 / (head as f32).sqrt());
        let tokens = Tokens { heads: numbers, angles, before: &before, scale };
        let cache = [keys.try_extract_tensor_mut::<f32>()?.1, values.try_extract_tensor_mut::<f32>()?.1];
        let pool = Pool { context, threads: self.threads };
        attention::attend(self.processor, &sizes, &tokens, cache, seen.try_extract_tensor_mut::<f32>()?.1, &pool)
            .map_err(|misfit| refused(&format!("this attention: {misfit}")))
    }
}

fn refused(what: &str) -> ort::Error {
    ort::Error::new(format!("this version has no kernel for {what}"))
}
