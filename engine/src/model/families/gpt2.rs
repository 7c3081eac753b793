//! GPT-2: learned positions instead of a rotation, layer norms in front of attention and of a
//! feed-forward without a gate, one tensor for queries, keys and values, and biases everywhere.

use super::{Binder, Family, Norms};
use crate::Error;
use crate::model::blocks::{self, Attends, Attention, LayerNorm, PlainFeedForward};
use crate::plan::{Activation, Buf, PlanBuilder};

pub(super) const FAMILY: Family = Family {
    arch: "gpt2",
    models: "GPT-2",
    norms: Norms::Layer,
    rotates: false,
    build,
};

/// Weights of a layer.
struct Layer {
    attn_norm: LayerNorm,
    attention: Attention,
    ffn_norm: LayerNorm,
    ffn: PlainFeedForward,
}

impl Layer {
    fn bind(p: &mut PlanBuilder, b: &Binder<'_>, index: usize) -> Result<Layer, Error> {
        Ok(Layer {
            attn_norm: LayerNorm::bind(p, b, &format!("blk.{index}.attn_norm"))?,
            attention: Attention::bind_fused(p, b, index)?,
            ffn_norm: LayerNorm::bind(p, b, &format!("blk.{index}.ffn_norm"))?,
            ffn: PlainFeedForward::bind(p, b, index)?,
        })
    }

    /// `x + attention(norm x)`, then `x + ffn(norm x)`.
    fn write(&self, p: &mut PlanBuilder, index: usize, how: &Attends, x: Buf) -> Buf {
        let h = self.attn_norm.write(p, x);
        let attended = self.attention.write(p, index, how, h);
        let x = p.add(x, attended);
        let h = self.ffn_norm.write(p, x);
        let fed = self.ffn.write(p, Activation::Gelu, h);
        p.add(x, fed)
    }
}

fn build(p: &mut PlanBuilder, b: &Binder<'_>) -> Result<Buf, Error> {
    let (hidden, context) = (b.hparams.hidden_size, b.hparams.context_length);
    let embedding = blocks::embedding(p, b)?;
    let positions = b.matrix(p, "position_embd.weight", context, hidden)?;
    let how = Attends::plainly(b, None);
    let (token, position) = (p.embed(embedding), p.embed_positions(positions));
    let mut x = p.add(token, position);
    for index in 0..b.hparams.num_layers {
        x = Layer::bind(p, b, index)?.write(p, index, &how, x);
    }
    let norm = LayerNorm::bind(p, b, "output_norm")?;
    let output = b.head(p, embedding)?;
    let x = p.gather_outputs(x);
    let x = norm.write(p, x);
    Ok(p.matmul(x, output))
}
