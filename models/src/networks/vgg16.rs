//! VGG16's convolutional part (Simonyan & Zisserman, arXiv 1409.1556) as torchvision's `features`, then the mean over positions.
//!
//! Deviation: torchvision's 7 x 7 pool and its three linear layers are not used (MMLNB takes the 512 pooled features).

use super::prefixed;
use crate::{
    config::Vgg16Config,
    graph::{Dim, Graph, Kind, Op},
};

/// Convolutions in each of the five stages.
const DEPTHS: [usize; 5] = [2, 2, 3, 3, 3];

/// `pixel_values` `[batch, 3, height, width]` -> `image_features` `[batch, channels of the last stage]`.
pub fn vgg16(config: &Vgg16Config, prefix: &str) -> Graph {
    prefixed(prefix, |b| {
        let dims = [Dim::named("batch"), Dim::from(3), Dim::named("height"), Dim::named("width")];
        let mut x = b.input("pixel_values", Kind::Float, dims);
        let mut index = 0;
        for (depth, channels) in DEPTHS.iter().zip(&config.channels) {
            for _ in 0..*depth {
                x = x.conv2d(&format!("features.{index}"), *channels, 3, 1, 1).apply(Op::Relu);
                index += 2;
            }
            x = x.apply(Op::MaxPool2d);
            index += 1;
        }
        b.output("image_features", x.apply(Op::Mean { axes: vec![2, 3] }));
    })
}
