//! Phi 3 and 3.5 mini: Llama with one tensor for queries, keys and values, one for the gate and the
//! other half of the unit, rope pairs half a head apart, and long rope where the context is long.

use super::llama::{self, Layer};
use super::{Binder, FactorTensors, Family, Norms};
use crate::Error;
use crate::model::blocks::{self, Attends, Attention, FeedForward};
use crate::plan::{Buf, PlanBuilder, RopeKind};

pub(super) const FAMILY: Family = Family {
    arch: "phi3",
    models: "Phi 3 and 3.5 mini, Phi 4",
    norms: Norms::RootMeanSquare,
    rotates: true,
    build,
};

fn build(p: &mut PlanBuilder, b: &Binder<'_>) -> Result<Buf, Error> {
    let embedding = blocks::embedding(p, b)?;
    let rope = b.rope(p, RopeKind::Neox, &b.rope_params()?, FactorTensors::Long)?;
    let mut how = Attends::plainly(b, rope);
    how.config.window = b.window(None)?;
    let mut x = p.embed(embedding);
    for index in 0..b.hparams.num_layers {
        let layer = Layer {
            attn_norm: llama::norm(p, b, index, "attn_norm")?,
            attention: Attention::bind_fused(p, b, index)?,
            ffn_norm: llama::norm(p, b, index, "ffn_norm")?,
            ffn: FeedForward::bind_fused(p, b, index)?,
        };
        x = layer.write(p, index, &how, b.hparams.norm_eps, x);
    }
    blocks::head(p, b, embedding, x)
}
