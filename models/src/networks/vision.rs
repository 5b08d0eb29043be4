//! Qwen2.5-VL's vision tower (arXiv 2502.13923; reference: transformers' `Qwen2_5_VisionTransformerPretrainedModel`), one image a call.
//!
//! Merged cells (2 x 2 patches) are put into window order once, attention stays within windows except in the blocks that see everything, and
//! the merger's rows are put back into image order.

use crate::{
    config::VisionConfig,
    graph::{AttentionKind, Builder, Dim, Graph, Kind, Op, X},
};

/// `pixel_values` `[patches, channels * temporal * patch^2]`, `patch_positions_hw` Int `[patches, 2]` (row and column in the full grid, in the order of
/// `pixel_values`), `window_index` Int `[patches / 4]` and `cu_window_seqlens` Int `[windows + 1]` (in patches) -> `image_embeds` `[patches / 4, output]`.
pub fn vision(config: &VisionConfig) -> Graph {
    let b = Builder::new();
    let group = config.merge * config.merge;
    let size = config.channels * config.temporal * config.patch * config.patch;
    let patches = Dim::named("patches");
    let pixels = b.input("pixel_values", Kind::Float, [patches.clone(), Dim::from(size)]);
    let positions = b.input("patch_positions_hw", Kind::Int, [patches.clone(), Dim::from(2)]);
    let order = b.input("window_index", Kind::Int, [patches.over(group)]);
    let bounds = b.input("cu_window_seqlens", Kind::Int, [Dim::named("bounds")]);
    let (cos, sin) = positions.axial_angles(config.hidden / config.heads, config.rope_theta);
    let angles = (cos.permute_groups(order, group), sin.permute_groups(order, group));
    let embeds = b.scope("visual", || {
        let kernel = [config.hidden, config.channels, config.temporal, config.patch, config.patch];
        let mut x = pixels.patch_embed("patch_embed.proj", &kernel).permute_groups(order, group);
        for n in 0..config.depth {
            let bounds = (!config.full_attention.contains(&n)).then_some(bounds);
            x = b.block(format!("blocks.{n}"), || block(&b, config, x, angles, bounds));
        }
        b.scope("merger", || merger(config, x, group)).unpermute(order)
    });
    b.output("image_embeds", embeds);
    b.finish()
}

fn block<'g>(b: &'g Builder, c: &VisionConfig, x: X<'g>, angles: (X<'g>, X<'g>), bounds: Option<X<'g>>) -> X<'g> {
    let h = x.rms_norm("norm1", c.eps);
    let x = x + b.scope("attn", || attention(c, h, angles, bounds));
    let h = x.rms_norm("norm2", c.eps);
    x + b.scope("mlp", || {
        h.linear("gate_proj", c.inner, true).swiglu(h.linear("up_proj", c.inner, true)).linear("down_proj", c.hidden, true)
    })
}

fn attention<'g>(c: &VisionConfig, x: X<'g>, angles: (X<'g>, X<'g>), bounds: Option<X<'g>>) -> X<'g> {
    let [q, k, v] = x.linear("qkv", 3 * c.hidden, true).split([c.hidden; 3]);
    let (q, k) = (q.rotary(c.heads, angles, None), k.rotary(c.heads, angles, None));
    let seen = match bounds {
        Some(bounds) => q.attention(k, v, c.heads, c.heads, AttentionKind::Segments, &[bounds]),
        None => q.attention(k, v, c.heads, c.heads, AttentionKind::Full, &[]),
    };
    seen.linear("proj", c.hidden, true)
}

fn merger<'g>(c: &VisionConfig, x: X<'g>, group: i64) -> X<'g> {
    let cells = x.rms_norm("ln_q", c.eps).apply(Op::MergeRows { group });
    cells.linear("mlp.0", group * c.hidden, true).apply(Op::Gelu).linear("mlp.2", c.output, true)
}
