//! Qwen2.5's language model (arXiv 2412.15115; reference: transformers' `Qwen2_5_VLTextModel`) with M-RoPE given as a table of angles.
//!
//! The three position streams of M-RoPE are resolved outside: row i of `cos` and `sin` holds the angles of one token, and `position_ids` says which
//! row belongs to which token. So text, images and slots of a cache all look alike here.

use crate::{
    config::TextConfig,
    graph::{AttentionKind, Builder, Dim, Graph, Kind, X},
};

/// `input_ids` Int `[batch, tokens]` -> `inputs_embeds` `[batch, tokens, hidden]`.
pub fn embedding(config: &TextConfig) -> Graph {
    let b = Builder::new();
    let ids = b.input("input_ids", Kind::Int, [Dim::named("batch"), Dim::named("tokens")]);
    b.output("inputs_embeds", ids.embedding("model.embed_tokens.weight", config.vocabulary, config.hidden));
    b.finish()
}

/// Inputs: `inputs_embeds` `[batch, tokens, hidden]`, `position_ids` Int `[batch, tokens]`, `cos`, `sin` `[table, head / 2]`, `logits_rows` Int `[rows]` (counted
/// through batch and tokens) and, with `cached`, `seqlens_k` Int `[batch]` (each row's length after this call, less one), `total_sequence_length` Int `[]` and
/// `past.N.key`, `past.N.value` `[batch, kv heads, length, head]`.
///
/// Outputs: `logits` `[rows, vocabulary]` and, with `cached`, `present.N.key`, `present.N.value`.
pub fn decoder(config: &TextConfig, cached: bool) -> Graph {
    let b = Builder::new();
    let logits = logits(&b, config, states(&b, config, cached));
    b.output("logits", logits);
    b.finish()
}

/// [`decoder`] without a cache and without its head: the same inputs -> `states` `[rows, hidden]`, the residual stream of the rows. [`head`] makes
/// logits of it, in as many calls as memory asks for.
pub fn decoder_states(config: &TextConfig) -> Graph {
    let b = Builder::new();
    let states = states(&b, config, false);
    b.output("states", states);
    b.finish()
}

/// `states` `[rows, hidden]` -> `logits` `[rows, vocabulary]`: the last norm and the output head.
pub fn head(config: &TextConfig) -> Graph {
    let b = Builder::new();
    let states = b.input("states", Kind::Float, [Dim::named("rows"), Dim::from(config.hidden)]);
    let logits = logits(&b, config, states);
    b.output("logits", logits);
    b.finish()
}

/// All layers, and of the last one's result the rows that are asked for.
fn states<'g>(b: &'g Builder, config: &TextConfig, cached: bool) -> X<'g> {
    let tokens = || [Dim::named("batch"), Dim::named("tokens")];
    let mut x = b.input("inputs_embeds", Kind::Float, tokens().into_iter().chain([Dim::from(config.hidden)]));
    let positions = b.input("position_ids", Kind::Int, tokens());
    let table = ["cos", "sin"].map(|n| b.input(n, Kind::Float, [Dim::named("table"), Dim::from(config.head_size / 2)]));
    let rows = b.input("logits_rows", Kind::Int, [Dim::named("rows")]);
    let lengths =
        cached.then(|| (b.input("seqlens_k", Kind::Int, [Dim::named("batch")]), b.input("total_sequence_length", Kind::Int, [])));
    let rope = Rope { table: (table[0], table[1]), positions };
    for n in 0..config.layers {
        let cache = lengths.map(|(last, total)| {
            let dims = || [Dim::named("batch"), Dim::from(config.kv_heads), Dim::named("length"), Dim::from(config.head_size)];
            [
                b.input(&format!("past.{n}.key"), Kind::Float, dims()),
                b.input(&format!("past.{n}.value"), Kind::Float, dims()),
                last,
                total,
            ]
        });
        let (y, present) = b.block(format!("model.layers.{n}"), || layer(b, config, x, rope, cache));
        x = y;
        if let Some([key, value]) = present {
            b.output(&format!("present.{n}.key"), key);
            b.output(&format!("present.{n}.value"), value);
        }
    }
    x.take_rows(rows)
}

fn logits<'g>(b: &'g Builder, config: &TextConfig, states: X<'g>) -> X<'g> {
    let h = b.scope("model", || states.rms_norm("norm", config.eps));
    if config.tied {
        h.linear_by("model.embed_tokens.weight", config.vocabulary)
    } else {
        h.linear("lm_head", config.vocabulary, false)
    }
}

#[derive(Clone, Copy)]
struct Rope<'g> {
    table: (X<'g>, X<'g>),
    positions: X<'g>,
}

type Present<'g> = Option<[X<'g>; 2]>;

fn layer<'g>(b: &'g Builder, c: &TextConfig, x: X<'g>, rope: Rope<'g>, cache: Option<[X<'g>; 4]>) -> (X<'g>, Present<'g>) {
    let h = x.rms_norm("input_layernorm", c.eps);
    let (y, present) = b.scope("self_attn", || attention(c, h, rope, cache));
    let x = x + y;
    let h = x.rms_norm("post_attention_layernorm", c.eps);
    let y = b.scope("mlp", || {
        h.linear("gate_proj", c.inner, false).swiglu(h.linear("up_proj", c.inner, false)).linear("down_proj", c.hidden, false)
    });
    (x + y, present)
}

fn attention<'g>(c: &TextConfig, x: X<'g>, rope: Rope<'g>, cache: Option<[X<'g>; 4]>) -> (X<'g>, Present<'g>) {
    let q = x.linear("q_proj", c.heads * c.head_size, true).rotary(c.heads, rope.table, Some(rope.positions));
    let k = x.linear("k_proj", c.kv_heads * c.head_size, true).rotary(c.kv_heads, rope.table, Some(rope.positions));
    let v = x.linear("v_proj", c.kv_heads * c.head_size, true);
    let (seen, present) = match cache {
        Some(cache) => {
            let [seen, key, value] = q.cached_attention(k, v, c.heads, c.kv_heads, cache);
            (seen, Some([key, value]))
        }
        None => (q.attention(k, v, c.heads, c.kv_heads, AttentionKind::Causal, &[]), None),
    };
    (seen.linear("o_proj", c.hidden, false), present)
}
