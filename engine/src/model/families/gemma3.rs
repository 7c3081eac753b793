//! Gemma 3: Gemma 2 with norms on the heads of queries and keys instead of caps, and five layers
//! with a window, whose rope has a base of its own, for each without one.

use super::gemma2::{self, CAPS};
use super::{BASES, Binder, FactorTensors, Family, Norms};
use crate::Error;
use crate::model::RopeParams;
use crate::model::blocks::{self, Attends};
use crate::plan::{Buf, PlanBuilder, RopeKind};

pub(super) const FAMILY: Family = Family {
    arch: "gemma3",
    models: "Gemma 3 (text)",
    norms: Norms::RootMeanSquare,
    rotates: true,
    build,
};

/// Every layer of that number sees all, the others a window.
const PERIOD: usize = 6;
/// Layers of the one size whose queries have a scale of their own; no key of a file says so.
const LAYERS_OF_27B: usize = 62;

fn build(p: &mut PlanBuilder, b: &Binder<'_>) -> Result<Buf, Error> {
    let embedding = blocks::embedding(p, b)?;
    let params = b.rope_params()?;
    let far = b.rope(p, RopeKind::Neox, &params, FactorTensors::None)?;
    let near = b.keys.opt_number("rope.freq_base_swa", BASES)?;
    let near = RopeParams {
        base: near.unwrap_or(10_000.0),
        // Only layers that see all have their positions scaled.
        scale: 1.0,
        ..params
    };
    let near = b.rope(p, RopeKind::Neox, &near, FactorTensors::None)?;
    let mut how = Attends::plainly(b, far);
    if b.hparams.num_layers == LAYERS_OF_27B {
        let width = b.hparams.hidden_size / b.hparams.num_heads;
        how.config.scale = 1.0 / (width as f32).sqrt();
    }
    how.config.softcap = b.keys.opt_number("attn_logit_softcapping", CAPS)?;
    let windows = b.windows(b.window(None)?, PERIOD)?;
    let mut x = gemma2::embed(p, b, embedding);
    for (index, &window) in windows.iter().enumerate() {
        how.config.window = window;
        how.rope = Some(if window.is_some() { near } else { far });
        let mut layer = gemma2::Layer::bind(p, b, index)?;
        layer.attention = layer.attention.with_head_norms(p, b, index)?;
        x = layer.write(p, index, &how, b.hparams.norm_eps, x);
    }
    let logits = blocks::head(p, b, embedding, x)?;
    Ok(match b.keys.opt_number("final_logit_softcapping", CAPS)? {
        Some(cap) => p.softcap(logits, cap),
        None => logits,
    })
}
