//! Sessions on the GPU: the options of ONNX Runtime's CUDA provider, and what ONNX Runtime says of nodes that it leaves to the processor.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use mmlnb_models::bundle::Precision;
use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch};
use ort::logging::{LogLevel, LoggerFunction};
use ort::session::builder::SessionBuilder;

/// Options of the CUDA provider for graphs at `precision`; names as ONNX Runtime reads them.
fn options(precision: Precision) -> Vec<(&'static str, &'static str)> {
    let mut options = vec![
        ("arena_extend_strategy", "kSameAsRequested"),
        // The exhaustive search, which is the default, measures every kernel for every convolution and size of a batch when it first comes.
        ("cudnn_conv_algo_search", "HEURISTIC"),
    ];
    if precision == Precision::F32 {
        // Products of 10 bits of mantissa are no f32.
        options.push(("use_tf32", "0"));
    }
    options
}

/// A transformation of ONNX Runtime that must not happen: it moves the rotation into the attention on the cache, whose CUDA kernel takes the angles of
/// the first slot for every slot, silently.
pub(super) const NEVER: &str = "GroupQueryAttentionFusion";

/// Sessions of this builder run on the GPU; one that cannot is an error.
pub(super) fn on_cuda(builder: SessionBuilder, precision: Precision) -> ort::Result<SessionBuilder> {
    let provider = options(precision)
        .into_iter()
        .fold(ep::CUDA::default(), |provider, (name, value)| provider.with_arbitrary_config(name, value));
    let provider: ExecutionProviderDispatch = provider.build();
    Ok(builder.with_disabled_optimizers(NEVER)?.with_execution_providers([provider.error_on_failure()])?)
}

/// What ONNX Runtime warns of while it loads a graph, where it concerns what does not run on the GPU.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    /// A logger that keeps such warnings and passes everything on to the log.
    pub fn logger(&self) -> LoggerFunction {
        let heard = self.clone();
        Arc::new(move |level, _, _, place, message| {
            if level >= LogLevel::Warning && OFF_THE_GPU.iter().any(|words| message.contains(words)) {
                heard.0.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_string());
            }
            match level {
                LogLevel::Verbose => tracing::trace!(target: "ort", place, "{message}"),
                LogLevel::Info => tracing::info!(target: "ort", place, "{message}"),
                LogLevel::Warning => tracing::warn!(target: "ort", place, "{message}"),
                LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "ort", place, "{message}"),
            }
        })
    }

    /// Says what was heard about a graph.
    pub fn tell(&self, graph: &Path) {
        for warning in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            tracing::warn!(event = "graph_partly_on_processor", graph = %graph.display(), warning);
        }
    }
}

/// Words of ONNX Runtime's warnings of nodes on the processor and of copies between the sides.
pub(super) const OFF_THE_GPU: [&str; 2] =
    ["Memcpy nodes are added to the graph", "Some nodes were not assigned to the preferred execution providers"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_promise_f32_only_where_it_was_asked_for() {
        let common = [("arena_extend_strategy", "kSameAsRequested"), ("cudnn_conv_algo_search", "HEURISTIC")];
        assert_eq!(options(Precision::F32), [common.as_slice(), &[("use_tf32", "0")]].concat());
        [Precision::F16, Precision::Bf16].iter().for_each(|half| assert_eq!(options(*half), common));
    }

    #[test]
    fn warnings_about_the_processor_are_heard_and_others_are_not() {
        let heard = Heard::default();
        let logger = heard.logger();
        let copies = "5 Memcpy nodes are added to the graph main_graph for CUDAExecutionProvider.";
        let nodes = "Some nodes were not assigned to the preferred execution providers which may or may not have an negative impact on performance.";
        [copies, "Removing initializer 'x'.", nodes].iter().for_each(|message| logger(LogLevel::Warning, "", "", "", message));
        logger(LogLevel::Verbose, "", "", "", copies);
        assert_eq!(*heard.0.lock().unwrap(), [copies, nodes]);
        heard.tell(Path::new("vision.onnx"));
        assert!(heard.0.lock().unwrap().is_empty(), "told once");
    }
}
