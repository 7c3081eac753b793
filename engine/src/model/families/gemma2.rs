//! Gemma 2: the embedding scaled by the root of its width, norms before and after attention and
//! feed-forward, GELU, scores and logits bent below a cap, and a window in every other layer.

use std::ops::RangeInclusive;

use super::{BASES, Binder, FactorTensors, Family, Norms, llama};
use crate::Error;
use crate::model::RopeParams;
use crate::model::blocks::{self, Attends, Attention, FeedForward};
use crate::plan::{Activation, Buf, PlanBuilder, RopeKind, Weight};

pub(super) const FAMILY: Family = Family {
    arch: "gemma2",
    models: "Gemma 2",
    norms: Norms::RootMeanSquare,
    rotates: true,
    build,
};

/// Weights of a layer; those of Gemma 3 have head norms.
pub(super) struct Layer {
    attn_norm: Weight,
    pub(super) attention: Attention,
    post_attn_norm: Weight,
    ffn_norm: Weight,
    ffn: FeedForward,
    post_ffn_norm: Weight,
}

impl Layer {
    pub(super) fn bind(p: &mut PlanBuilder, b: &Binder<'_>, index: usize) -> Result<Layer, Error> {
        Ok(Layer {
            attn_norm: llama::norm(p, b, index, "attn_norm")?,
            attention: Attention::bind(p, b, index)?,
            post_attn_norm: llama::norm(p, b, index, "post_attention_norm")?,
            ffn_norm: llama::norm(p, b, index, "ffn_norm")?,
            ffn: FeedForward::bind(p, b, index)?,
            post_ffn_norm: llama::norm(p, b, index, "post_ffw_norm")?,
        })
    }

    /// `x + norm(attention(norm x))`, then `x + norm(ffn(norm x))`.
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
        let attended = p.rms_norm(attended, self.post_attn_norm, eps);
        let x = p.add(x, attended);
        let h = p.rms_norm(x, self.ffn_norm, eps);
        let fed = self.ffn.write(p, Activation::Gelu, h);
        let fed = p.rms_norm(fed, self.post_ffn_norm, eps);
        p.add(x, fed)
    }
}

/// The embedding, scaled.
pub(super) fn embed(p: &mut PlanBuilder, b: &Binder<'_>, embedding: Weight) -> Buf {
    let x = p.embed(embedding);
    p.scale(x, (b.hparams.hidden_size as f32).sqrt())
}

fn build(p: &mut PlanBuilder, b: &Binder<'_>) -> Result<Buf, Error> {
    let embedding = blocks::embedding(p, b)?;
    let params = b.rope_params()?;
    let far = b.rope(p, RopeKind::Neox, &params, FactorTensors::None)?;
    let near = match b.keys.opt_number("rope.freq_base_swa", BASES)? {
        Some(base) => {
            let near = RopeParams { base, ..params };
            b.rope(p, RopeKind::Neox, &near, FactorTensors::None)?
        }
        None => far,
    };
    let mut how = Attends::plainly(b, far);
    // Heads of the 27B model are scaled by what its width gives a head.
    if b.hparams.num_layers == LAYERS_OF_27B {
        let width = b.hparams.hidden_size / b.hparams.num_heads;
        how.config.scale = 1.0 / (width as f32).sqrt();
    }
    let cap = b.keys.opt_number("attn_logit_softcapping", CAPS)?;
    how.config.softcap = Some(cap.unwrap_or(50.0));
    let windows = b.windows(b.window(Some(WINDOW))?, 2)?;
    let mut x = embed(p, b, embedding);
    for (index, &window) in windows.iter().enumerate() {
        how.config.window = window;
        how.rope = Some(if window.is_some() { near } else { far });
        let layer = Layer::bind(p, b, index)?;
        x = layer.write(p, index, &how, b.hparams.norm_eps, x);
    }
    let logits = blocks::head(p, b, embedding, x)?;
    let cap = b.keys.opt_number("final_logit_softcapping", CAPS)?;
    Ok(p.softcap(logits, cap.unwrap_or(30.0)))
}

/// Below what scores and logits may be bent.
pub(super) const CAPS: RangeInclusive<f32> = 1e-3..=1e6;

/// Tokens that a window shows where the file does not say.
const WINDOW: u32 = 4096;
/// Layers of the one size whose queries have a scale of their own; no key of a file says so.
const LAYERS_OF_27B: usize = 46;
