//! Matrix products of a warpgroup: every type and layout against plain sums, and a whole pipeline.

#![allow(clippy::unwrap_used)]

#[path = "warpgroup/agreement.rs"]
mod agreement;
#[path = "warpgroup/image.rs"]
mod image;
#[path = "warpgroup/pipeline.rs"]
mod pipeline;
#[path = "warpgroup/products.rs"]
mod products;
#[path = "warpgroup/rules.rs"]
mod rules;
