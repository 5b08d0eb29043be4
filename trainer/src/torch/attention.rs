//! Scaled dot-product attention in its four kinds.

use super::{surroundings::last, widen::factor};
use tch::{Device, Kind, TchError, Tensor};

/// Numbers of heads.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub query: i64,
    pub kv: i64,
}

/// Everything sees everything, except keys whose `mask` `[batch, tokens]` is 0. Without a batch axis the rows are one sequence.
pub(super) fn full(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, heads: Heads) -> Result<Tensor, TchError> {
    let seen = match mask {
        Some(mask) => Some(mask.f_ne(0)?.f_reshape([-1, 1, 1, last(mask)])?),
        None => None,
    };
    attend(&split(q, heads.query)?, &split(k, heads.kv)?, &split(v, heads.kv)?, Seen::By(seen), heads)?.f_reshape(q.size())
}

/// As [`full`], with `dropout` on the shares that each token takes of the others.
pub(super) fn full_with_dropout(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    heads: Heads,
    dropout: &dyn Fn(&Tensor) -> Result<Tensor, TchError>,
) -> Result<Tensor, TchError> {
    let [query, key, value] = [split(&factor(q)?, heads.query)?, split(&factor(k)?, heads.kv)?, split(&factor(v)?, heads.kv)?];
    let scale = 1.0 / (last(&query) as f64).sqrt();
    let mut scores = query.f_mul_scalar(scale)?.f_matmul(&key.f_transpose(-2, -1)?)?.f_to_kind(Kind::Float)?;
    if let Some(mask) = mask {
        let unseen = mask.f_eq(0)?.f_reshape([-1, 1, 1, last(mask)])?;
        scores = scores.f_masked_fill(&unseen, f64::NEG_INFINITY)?;
    }
    let shares = dropout(&scores.f_softmax(-1, Kind::Float)?)?.f_to_kind(value.kind())?;
    shares.f_matmul(&value)?.f_transpose(1, 2)?.f_reshape(q.size())?.f_to_kind(q.kind())
}

pub(super) fn causal(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<Tensor, TchError> {
    attend(&split(q, heads.query)?, &split(k, heads.kv)?, &split(v, heads.kv)?, Seen::Causal, heads)?.f_reshape(q.size())
}

/// `cache`: past key, past value, last, total. Gives the result and new caches; the old ones stay as they are.
pub(super) fn cached(q: &Tensor, k: &Tensor, v: &Tensor, cache: &[&Tensor], heads: Heads) -> Result<Vec<Tensor>, TchError> {
    let &[past_key, past_value, last_positions, total] = cache else {
        return Err(TchError::Shape("a cache has four parts".into()));
    };
    let (batch, tokens, _) = q.size3()?;
    let total = total.f_int64_value(&[])?;
    let (new_key, new_value) = (split(k, heads.kv)?, split(v, heads.kv)?);
    // [batch, tokens]: where each new token stands.
    let offsets = Tensor::f_arange(tokens, (Kind::Int64, q.device()))?.f_add_scalar(1 - tokens)?;
    let positions = last_positions.f_unsqueeze(1)?.f_add(&offsets)?;
    let key = written(past_key, &new_key, &positions)?;
    let value = written(past_value, &new_value, &positions)?;
    let y = if tokens == total {
        attend(&split(q, heads.query)?, &new_key, &new_value, Seen::Causal, heads)?
    } else {
        let (k, v) = (key.f_narrow(2, 0, total)?, value.f_narrow(2, 0, total)?);
        let seen = if tokens == 1 && batch == 1 { None } else { Some(up_to(&positions, total)?) };
        attend(&split(q, heads.query)?, &k.f_to_kind(q.kind())?, &v.f_to_kind(q.kind())?, Seen::By(seen), heads)?
    };
    Ok(vec![y.f_reshape(q.size())?, key, value])
}

/// Rows of one sequence in segments, neighbours of one length together.
pub(super) fn segments(q: &Tensor, k: &Tensor, v: &Tensor, bounds: &Tensor, heads: Heads) -> Result<Tensor, TchError> {
    let bounds = Vec::<i64>::try_from(&bounds.f_to_device(Device::Cpu)?)?;
    let rows = q.size()[0];
    let ordered = bounds.windows(2).all(|pair| pair[0] <= pair[1]);
    if bounds.first() != Some(&0) || bounds.last() != Some(&rows) || !ordered {
        return Err(TchError::Shape(format!("the bounds {bounds:?} do not cut {rows} rows into segments")));
    }
    let lengths: Vec<i64> = bounds.windows(2).map(|pair| pair[1] - pair[0]).filter(|length| *length > 0).collect();
    let mut start = 0;
    let mut parts = Vec::new();
    for group in lengths.chunk_by(|a, b| a == b) {
        let (count, length) = (group.len() as i64, group[0]);
        let cut = |x: &Tensor| x.f_narrow(0, start, count * length)?.f_reshape([count, length, last(x)]);
        let [q, k, v] = [cut(q)?, cut(k)?, cut(v)?];
        parts.push(full(&q, &k, &v, None, heads)?.f_flatten(0, 1)?);
        start += count * length;
    }
    Tensor::f_cat(&parts, 0)
}

enum Seen {
    Causal,
    By(Option<Tensor>),
}

/// `[batch, heads, tokens, head]` each; the result is `[batch, tokens, heads, head]`.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, seen: Seen, heads: Heads) -> Result<Tensor, TchError> {
    let (causal, mask) = match seen {
        Seen::Causal => (true, None),
        Seen::By(mask) => (false, mask),
    };
    let kind = q.kind();
    let [q, k, v] = [factor(q)?, factor(k)?, factor(v)?];
    let y = Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask, 0.0, causal, None, heads.query != heads.kv)?;
    y.f_transpose(1, 2)?.f_to_kind(kind)
}

/// `[batch, tokens, heads * head]` or `[tokens, heads * head]` -> `[batch, heads, tokens, head]`.
fn split(x: &Tensor, heads: i64) -> Result<Tensor, TchError> {
    let size = x.size();
    let batch = if size.len() == 3 { size[0] } else { 1 };
    let tokens = size[size.len() - 2];
    x.f_reshape([batch, tokens, heads, last(x) / heads])?.f_transpose(1, 2)
}

/// A cache `[batch, heads, length, head]` with new rows at these positions.
fn written(past: &Tensor, new: &Tensor, positions: &Tensor) -> Result<Tensor, TchError> {
    let (batch, tokens) = positions.size2()?;
    let index = positions.f_reshape([batch, 1, tokens, 1])?.f_expand(new.size(), false)?;
    past.f_scatter(2, &index, &new.f_to_kind(past.kind())?)
}

/// `[batch, 1, tokens, total]`: true where a key stands no later than the token.
fn up_to(positions: &Tensor, total: i64) -> Result<Tensor, TchError> {
    let (batch, tokens) = positions.size2()?;
    let keys = Tensor::f_arange(total, (Kind::Int64, positions.device()))?;
    keys.f_le_tensor(&positions.f_reshape([batch, 1, tokens, 1])?)
}
