//! Llama: pre-norm, grouped heads, interleaved rope (the converter permutes Q and K), SwiGLU.
//! Runs Llama 1 to 3.x, Mistral 7B, TinyLlama, SmolLM.

use super::{Binder, FactorTensors, Family, Norms};
use crate::Error;
use crate::model::blocks::{self, Attends, Attention, FeedForward};
use crate::plan::{Activation, Buf, PlanBuilder, RopeKind, Weight};

pub(super) const FAMILY: Family = Family {
    arch: "llama",
    models: "Llama 1 to 3.x, Mistral 7B, TinyLlama, SmolLM",
    norms: Norms::RootMeanSquare,
    rotates: true,
    build,
};

/// Weights of a layer; Qwen 3 has the same with head norms.
pub(super) struct Layer {
    pub(super) attn_norm: Weight,
    pub(super) attention: Attention,
    pub(super) ffn_norm: Weight,
    pub(super) ffn: FeedForward,
}

impl Layer {
    pub(super) fn bind(p: &mut PlanBuilder, b: &Binder<'_>, index: usize) -> Result<Layer, Error> {
        Ok(Layer {
            attn_norm: norm(p, b, index, "attn_norm")?,
            attention: Attention::bind(p, b, index)?,
            ffn_norm: norm(p, b, index, "ffn_norm")?,
            ffn: FeedForward::bind(p, b, index)?,
        })
    }

    /// `x + attention(norm x)`, then `x + ffn(norm x)`.
    pub(super) fn write(
        &self,
        p: &mut PlanBuilder,
        index: usize,
        how: &Attends,
        eps: f32,
        x: Buf,
    ) -> Buf {
        let h = p.rms_norm(x, self.attn_norm, eps);
        let attended = self.attention.write(p, index, how, h);
        let x = p.add(x, attended);
        let h = p.rms_norm(x, self.ffn_norm, eps);
        let fed = self.ffn.write(p, Activation::Silu, h);
        p.add(x, fed)
    }
}

/// A norm of a layer over the whole stream.
pub(super) fn norm(
    p: &mut PlanBuilder,
    b: &Binder<'_>,
    index: usize,
    name: &str,
) -> Result<Weight, Error> {
    let name = format!("blk.{index}.{name}.weight");
    b.vector(p, &name, b.hparams.hidden_size)
}

fn build(p: &mut PlanBuilder, b: &Binder<'_>) -> Result<Buf, Error> {
    decoder(p, b, RopeKind::Interleaved)
}

/// A Llama-shaped decoder; Qwen 2 is the same with the other rope pairing.
pub(super) fn decoder(p: &mut PlanBuilder, b: &Binder<'_>, kind: RopeKind) -> Result<Buf, Error> {
    let embedding = blocks::embedding(p, b)?;
    let rope = b.rope(p, kind, &b.rope_params()?, FactorTensors::ByType)?;
    let how = Attends::plainly(b, rope);
    let mut x = p.embed(embedding);
    for index in 0..b.hparams.num_layers {
        let layer = Layer::bind(p, b, index)?;
        x = layer.write(p, index, &how, b.hparams.norm_eps, x);
    }
    blocks::head(p, b, embedding, x)
}
