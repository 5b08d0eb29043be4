//! The numbers that stand in a phantom's mask, one a pixel; documented in docs/training.md.

/// Between the cells.
pub const BACKGROUND: u8 = 0;
/// Fibrils of nerve.
pub const NEUROPIL: u8 = 1;
/// Schwannian stroma.
pub const STROMA: u8 = 2;
/// Dead tissue.
pub const NECROSIS: u8 = 3;
/// Pale pink without fibres.
pub const OEDEMA: u8 = 4;
/// A small neuroblast's nucleus.
pub const NUCLEUS: u8 = 5;
/// A differentiating neuroblast's cytoplasm.
pub const DIFFERENTIATING_BODY: u8 = 6;
/// Its nucleus.
pub const DIFFERENTIATING_NUCLEUS: u8 = 7;
/// Any other cell or clot.
pub const OTHER_NUCLEUS: u8 = 8;
