//! BERT (Devlin et al., arXiv 1810.04805) as transformers' `BertModel`: one text a row, token types all 0.

use super::prefixed;
use crate::{
    config::BertConfig,
    graph::{Builder, Dim, Graph, Kind, Op, X},
};

/// `input_ids`, `attention_mask` Int `[batch, tokens]` -> `text_features` `[batch, hidden]` (the pooler, after tanh) and `last_hidden_state`.
pub fn bert(config: &BertConfig, prefix: &str) -> Graph {
    prefixed(prefix, |b| {
        let dims = || [Dim::named("batch"), Dim::named("tokens")];
        let ids = b.input("input_ids", Kind::Int, dims());
        let mask = b.input("attention_mask", Kind::Int, dims());
        let mut x = b.scope("embeddings", || {
            let words = ids.embedding("word_embeddings.weight", config.vocabulary, config.hidden);
            let typed = words.add_row("token_type_embeddings.weight", config.types, 0);
            let placed = typed.add_positions("position_embeddings.weight", config.positions);
            dropped(placed.layer_norm("LayerNorm", config.eps), config.dropout)
        });
        for n in 0..config.layers {
            x = b.block(format!("encoder.layer.{n}"), || layer(b, config, x, mask));
        }
        b.output(
            "text_features",
            b.scope("pooler", || x.apply(Op::FirstToken).linear("dense", config.hidden, true).apply(Op::Tanh)),
        );
        b.output("last_hidden_state", x);
    })
}

fn layer<'g>(b: &'g Builder, c: &BertConfig, x: X<'g>, mask: X<'g>) -> X<'g> {
    let seen = b.scope("attention.self", || {
        let [q, k, v] = ["query", "key", "value"].map(|name| x.linear(name, c.hidden, true));
        q.masked_attention(k, v, mask, c.heads, c.attention_dropout)
    });
    let x = b.scope("attention.output", || {
        (dropped(seen.linear("dense", c.hidden, true), c.dropout) + x).layer_norm("LayerNorm", c.eps)
    });
    let inner = b.scope("intermediate", || x.linear("dense", c.inner, true).apply(Op::Gelu));
    b.scope("output", || (dropped(inner.linear("dense", c.hidden, true), c.dropout) + x).layer_norm("LayerNorm", c.eps))
}

fn dropped(x: X<'_>, p: f64) -> X<'_> {
    if p > 0.0 { x.apply(Op::Dropout { p }) } else { x }
}
