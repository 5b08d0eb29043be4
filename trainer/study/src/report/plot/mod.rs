//! Plots without a plotting library: plain SVG, for pages and, drawn by resvg with a font of its own, as PNG.
//!
//! Colours are told apart with any colour vision; nothing is said by colour alone: lines have dashes, marks have shapes, cells have numbers.

mod axis;
mod canvas;
mod chart;
mod confusion;
mod intervals;
mod strip;

pub use axis::Axis;
pub use canvas::{Point, Svg};
pub use chart::{Chart, Mark, Series, Stage};
pub use confusion::confusion;
pub use intervals::{IntervalRow, Intervals};
pub use strip::{StripGroup, strip};
