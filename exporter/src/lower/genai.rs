//! The describer's graphs with the inputs and outputs that onnxruntime-genai (0.18) binds to: other ends of the same networks.
//!
//! Its cache grows with every call, which GroupQueryAttention does by itself where `past` is shorter than what is asked for; positions come in
//! M-RoPE's three streams, which become a table of angles with one row for each token of the call.

use super::{Form, Lowering, Tensor};
use crate::{
    error::ExportError,
    few_bits::FewBits,
    nodes::{Attribute, Elem, OnnxGraph, Port},
    policy::Policy,
};
use mmlnb_models::{
    bundle::Precision,
    config::{TextConfig, VisionConfig},
    graph::{Dim, Graph, Node, Value},
    prepare::{positions::vision_positions, rotary::frequencies},
};

/// A graph of the describer, with what its other ends need to know.
#[derive(Clone, Copy, Debug)]
pub enum Genai<'a> {
    /// `pixel_values` f32 `[patches, 1176]`, `image_grid_thw` i64 `[1, 3]` -> `image_features` f32 `[patches / 4, hidden]`, for images of one size.
    Vision {
        /// Sizes of the network.
        config: &'a VisionConfig,
        /// Frames, rows and columns of patches.
        grid: [i64; 3],
    },
    /// `input_ids` i64 `[batch, tokens]`, `image_features` f32 `[image_tokens, hidden]` -> `inputs_embeds` f32 `[batch, tokens, hidden]`. Image tokens beyond
    /// the given features keep their own row.
    Embedding {
        /// Id of an image token.
        image_token: i64,
    },
    /// `inputs_embeds` f32 `[batch, tokens, hidden]`, `attention_mask` i64 `[batch, total]`, `position_ids` i64 `[3, batch, tokens]`,
    /// `past_key_values.N.key|value` `[batch, kv heads, past, head]` -> `logits` f32 `[batch, 1, vocabulary]` of the last token, `present.N.key|value`
    /// `[batch, kv heads, total, head]`.
    Decoder(&'a TextConfig),
}

/// The reading of one of the describer's networks for onnxruntime-genai.
///
/// # Errors
/// As [`super::lower`].
pub fn lower_genai(
    graph: &Graph,
    name: &str,
    precision: Precision,
    few: &FewBits,
    part: Genai<'_>,
) -> Result<OnnxGraph, ExportError> {
    let policy = Policy::new(precision, graph).deciding(few);
    let mut graph = super::fused(graph, precision);
    if matches!(part, Genai::Vision { .. }) {
        graph.outputs.iter_mut().for_each(|(name, _)| *name = "image_features".into());
    }
    let mut lowered = super::read(&graph, name, policy, Form::Genai(part))?;
    lowered.outputs.iter_mut().for_each(|port| settle(port, part));
    Ok(lowered)
}

/// An output's sizes under genai's names.
fn settle(port: &mut Port, part: Genai<'_>) {
    match part {
        Genai::Vision { config, grid } => port.dims[0] = Dim::from(grid.iter().product::<i64>() / (config.merge * config.merge)),
        Genai::Embedding { .. } => {}
        Genai::Decoder(_) if port.name == "logits" => port.dims.splice(..1, [Dim::named("batch"), Dim::from(1)]).for_each(drop),
        Genai::Decoder(_) => port.dims[2] = Dim::named("total"),
    }
}

impl Lowering<'_> {
    /// What stands for an input of the network, if genai has none of its kind.
    pub(super) fn genai_input(&mut self, name: &str, node: &Node, part: Genai<'_>) -> Option<Tensor> {
        match part {
            Genai::Vision { config, grid } => self.genai_vision_input(name, node, config, grid),
            Genai::Embedding { .. } => None,
            Genai::Decoder(config) => self.genai_decoder_input(name, node, config),
        }
    }

    /// Changes the results of a network into those that genai asks for.
    pub(super) fn genai_results(&mut self, part: Genai<'_>) {
        match part {
            Genai::Vision { .. } => {}
            Genai::Embedding { image_token } => self.put_image_features(image_token),
            Genai::Decoder(_) => {
                let logits = self.output("logits");
                let rows = self.want(logits, Elem::F32);
                let name = self.unsqueeze(&rows, 1);
                self.tensors.insert(logits, Tensor { name, elem: Elem::F32 });
            }
        }
    }

    fn output(&self, name: &str) -> Value {
        self.graph.outputs.iter().find(|(output, _)| output == name).expect("the describer's graphs have these outputs").1
    }

    fn port(&mut self, name: &str, elem: Elem, dims: Vec<Dim>) -> Tensor {
        self.emit.inputs.push(Port { name: name.to_string(), elem, dims });
        Tensor { name: name.to_string(), elem }
    }

    /// Positions and windows of one image size, as constants.
    fn genai_vision_input(&mut self, name: &str, node: &Node, config: &VisionConfig, grid: [i64; 3]) -> Option<Tensor> {
        let at = vision_positions(&[grid], config);
        let patches = at.patch_positions.len() as i64;
        self.emit.scope = name.to_string();
        let integers = |name| Some(Tensor { name, elem: Elem::I64 });
        match name {
            "pixel_values" => {
                let mut dims = node.types[0].dims.clone();
                dims[0] = Dim::from(patches);
                Some(self.port(name, Elem::F32, dims))
            }
            "patch_positions_hw" => {
                let flat = self.emit.ints(&at.patch_positions.concat());
                integers(self.reshape(&flat, &[-1, 2]))
            }
            "window_index" => {
                let order = self.emit.ints(&at.window_index);
                integers(self.refusing_other_grids(&order, patches, grid))
            }
            "cu_window_seqlens" => integers(self.emit.ints(&at.cu_window_seqlens)),
            _ => None,
        }
    }

    /// The order of the cells, moved beyond all of them for an image of another size: picking rows then fails, where constants of another size would give
    /// wrong features.
    fn refusing_other_grids(&mut self, order: &str, patches: i64, grid: [i64; 3]) -> String {
        let given = self.port("image_grid_thw", Elem::I64, vec![Dim::from(1), Dim::from(3)]).name;
        let expected = self.emit.ints(&grid);
        let off = self.emit.op("Sub", &[&given, &expected]);
        let off = self.emit.op("Abs", &[&off]);
        let off = self.emit.op_with("ReduceMax", &[&off], vec![("keepdims", Attribute::Int(0))]);
        let patches = self.emit.int(patches);
        let beyond = self.emit.op("Mul", &[&off, &patches]);
        self.emit.op("Add", &[order, &beyond])
    }

    fn genai_decoder_input(&mut self, name: &str, node: &Node, config: &TextConfig) -> Option<Tensor> {
        self.emit.scope = name.to_string();
        let integers = |name| Some(Tensor { name, elem: Elem::I64 });
        let lengths = |name| Some(Tensor { name, elem: Elem::I32 });
        match name {
            "position_ids" => {
                let [batch, total, tokens] = ["batch", "total", "tokens"].map(Dim::named);
                self.port("attention_mask", Elem::I64, vec![batch.clone(), total]);
                self.port("position_ids", Elem::I64, vec![Dim::from(3), batch, tokens]);
                integers(self.rows_of_angles(config))
            }
            "cos" | "sin" => {
                let angles = self.shared["angles of three streams"][0].clone();
                let op = if name == "cos" { "Cos" } else { "Sin" };
                Some(Tensor { name: self.emit.op(op, &[&angles]), elem: Elem::F32 })
            }
            "logits_rows" => {
                let [batch, tokens] = [1, 2].map(|axis| self.size("position_ids", axis));
                let (rows, one) = (self.range(&batch), self.emit.int(1));
                let next = self.emit.op("Add", &[&rows, &one]);
                let next = self.emit.op("Mul", &[&next, &tokens]);
                integers(self.emit.op("Sub", &[&next, &one]))
            }
            "seqlens_k" => {
                let (axis, one) = (self.emit.ints(&[1]), self.emit.int(1));
                let sum = self.emit.op_with("ReduceSum", &["attention_mask", &axis], vec![("keepdims", Attribute::Int(0))]);
                let last = self.emit.op("Sub", &[&sum, &one]);
                lengths(self.cast(&last, Elem::I32))
            }
            "total_sequence_length" => {
                let total = self.size("attention_mask", 1);
                lengths(self.cast(&total, Elem::I32))
            }
            _ => {
                let (past, rest) = (name.strip_prefix("past.")?, Dim::named("past"));
                let mut dims = node.types[0].dims.clone();
                dims[2] = rest;
                self.pad_cache(&mut dims);
                Some(self.port(&format!("past_key_values.{past}"), self.compute(), dims))
            }
        }
    }

    /// Angles `[batch * tokens, head / 2]`, each frequency times the position in its section's stream, and each token's row of them.
    fn rows_of_angles(&mut self, config: &TextConfig) -> String {
        let streams: Vec<i64> = (0..).zip(&config.mrope_section).flat_map(|(axis, count)| vec![axis; *count as usize]).collect();
        let flat = self.reshape("position_ids", &[3, -1]);
        let positions = self.cast(&flat, Elem::F32);
        let positions = self.emit.op_with("Transpose", &[&positions], vec![("perm", Attribute::Ints(vec![1, 0]))]);
        let streams = self.emit.ints(&streams);
        let positions = self.emit.op_with("Gather", &[&positions, &streams], vec![("axis", Attribute::Int(1))]);
        let frequencies = self.emit.floats(&[config.head_size / 2], &frequencies(config));
        let angles = self.emit.op("Mul", &[&positions, &frequencies]);
        self.shared.insert("angles of three streams".into(), vec![angles]);
        let count = self.size(&flat, 1);
        let numbers = self.range(&count);
        let shape = vec![("start", Attribute::Int(1)), ("end", Attribute::Int(3))];
        let shape = self.emit.op_with("Shape", &["position_ids"], shape);
        self.emit.op("Reshape", &[&numbers, &shape])
    }

    /// The rows of image tokens, in order, from the image's features.
    fn put_image_features(&mut self, image_token: i64) {
        let embeds = self.output("inputs_embeds");
        let hidden = self.width(embeds);
        let ids = self.emit.inputs[0].name.clone();
        let features = self.port("image_features", Elem::F32, vec![Dim::named("image_tokens"), Dim::from(hidden)]).name;
        let own = self.want(embeds, Elem::F32);
        self.emit.scope = "image".into();
        let token = self.emit.int(image_token);
        let is_image = self.emit.op("Equal", &[&ids, &token]);
        let is_image = self.reshape(&is_image, &[-1]);
        let (counted, axis, one) = (self.cast(&is_image, Elem::I64), self.emit.int(0), self.emit.int(1));
        let number = self.emit.op("CumSum", &[&counted, &axis]);
        let number = self.emit.op("Sub", &[&number, &one]);
        let given = self.size(&features, 0);
        let within = self.emit.op("Less", &[&number, &given]);
        let replaced = self.emit.op("And", &[&is_image, &within]);
        // One row more, for all that is not replaced: without an image there would be none to pick.
        let row = self.emit.op("Where", &[&replaced, &number, &given]);
        let (pads, zero) = (self.emit.ints(&[0, 0, 1, 0]), self.emit.zero(Elem::F32));
        let rows = self.emit.op("Pad", &[&features, &pads, &zero]);
        let rows = self.emit.op("Gather", &[&rows, &row]);
        let flat = self.reshape(&own, &[-1, hidden]);
        let replaced = self.unsqueeze(&replaced, 1);
        let mixed = self.emit.op("Where", &[&replaced, &rows, &flat]);
        let shape = self.emit.op("Shape", &[&own]);
        let name = self.emit.op("Reshape", &[&mixed, &shape]);
        self.tensors.insert(embeds, Tensor { name, elem: Elem::F32 });
    }
}
