//! Kernels whose work is moving rows: each reads its inputs once and does little with them.

mod activation;
pub(super) mod add;
pub(super) mod embed;
pub(super) mod gather_rows;
pub(super) mod glu;
pub(super) mod layer_norm;
pub(super) mod map;
pub(super) mod norm_add_norm;
pub(super) mod rms_norm;
pub(super) mod rope;
mod squares;

pub use activation::Activation;
pub use add::AddSpec;
pub use embed::EmbedSpec;
pub use gather_rows::GatherRowsSpec;
pub use glu::GluSpec;
pub use layer_norm::LayerNormSpec;
pub use map::{Map, MapSpec};
pub use norm_add_norm::NormAddNormSpec;
pub use rms_norm::RmsNormSpec;
pub use rope::{RopeKind, RopeSpec};
