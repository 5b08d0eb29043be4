//! Swin Transformer (Liu et al., arXiv 2103.14030) as torchvision's `swin_t/s/b`, up to the mean over positions of the last norm.
//!
//! Reference: torchvision.models.swin_transformer. Maps that do not divide by the window are padded after the norm, padded cells are seen, and a
//! window that is not smaller than the padded map is not shifted (see [`Op::Windows`]).

use super::prefixed;
use crate::{
    config::SwinConfig,
    graph::{Builder, Dim, Graph, Kind, Op, X},
};

/// `pixel_values` `[batch, 3, height, width]` -> `image_features` `[batch, 8 embed]`.
pub fn swin(config: &SwinConfig, prefix: &str) -> Graph {
    prefixed(prefix, |b| {
        let dims = [Dim::named("batch"), Dim::from(3), Dim::named("height"), Dim::named("width")];
        let pixels = b.input("pixel_values", Kind::Float, dims);
        let patches = pixels.conv2d("features.0.0", config.embed, config.patch, config.patch, 0);
        let mut x = patches.apply(Op::ChannelsLast).layer_norm("features.0.2", config.eps);
        let mut width = config.embed;
        for (stage, (depth, heads)) in config.depths.iter().zip(&config.heads).enumerate() {
            if stage > 0 {
                let scope = format!("features.{}", 2 * stage);
                width *= 2;
                x = b.scope(scope, || x.apply(Op::MergePatches).layer_norm("norm", config.eps).linear("reduction", width, false));
            }
            for index in 0..*depth {
                let shift = if index % 2 == 0 { 0 } else { config.window / 2 };
                x = b.block(format!("features.{}.{index}", 2 * stage + 1), || block(b, config, x, width, *heads, shift));
            }
        }
        b.output("image_features", x.layer_norm("norm", config.eps).apply(Op::Mean { axes: vec![1, 2] }));
    })
}

fn block<'g>(b: &'g Builder, config: &SwinConfig, x: X<'g>, width: i64, heads: i64, shift: i64) -> X<'g> {
    let h = x.layer_norm("norm1", config.eps);
    let x = x + b.scope("attn", || attention(config, h, width, heads, shift));
    let inner = (width as f64 * config.mlp_ratio) as i64;
    let h = x.layer_norm("norm2", config.eps);
    x + b.scope("mlp", || h.linear("0", inner, true).apply(Op::Gelu).linear("3", width, true))
}

fn attention<'g>(config: &SwinConfig, x: X<'g>, width: i64, heads: i64, shift: i64) -> X<'g> {
    let (windows, mask) = x.windows(config.window, shift);
    let [q, k, v] = windows.linear("qkv", 3 * width, true).split([width; 3]);
    let seen = q.window_attention(k, v, mask, "relative_position_bias_table", heads, config.window);
    seen.linear("proj", width, true).unwindow(x, config.window, shift)
}
