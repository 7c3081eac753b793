//! Qwen 3: Llama with a norm on every head of Q and K before the rope, whose pairs are half a head
//! apart. The head size is independent of the hidden size.

use super::{Binder, FactorTensors, Family, Norms, llama};
use crate::Error;
use crate::model::blocks::{self, Attends};
use crate::plan::{Buf, PlanBuilder, RopeKind};

pub(super) const FAMILY: Family = Family {
    arch: "qwen3",
    models: "Qwen 3 dense models",
    norms: Norms::RootMeanSquare,
    rotates: true,
    build,
};

fn build(p: &mut PlanBuilder, b: &Binder<'_>) -> Result<Buf, Error> {
    let embedding = blocks::embedding(p, b)?;
    let rope = b.rope(p, RopeKind::Neox, &b.rope_params()?, FactorTensors::ByType)?;
    let how = Attends::plainly(b, rope);
    let mut x = p.embed(embedding);
    for index in 0..b.hparams.num_layers {
        let mut layer = llama::Layer::bind(p, b, index)?;
        layer.attention = layer.attention.with_head_norms(p, b, index)?;
        x = layer.write(p, index, &how, b.hparams.norm_eps, x);
    }
    blocks::head(p, b, embedding, x)
}
