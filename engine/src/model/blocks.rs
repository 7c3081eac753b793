//! What the layers of most families are made of: grouped attention and a feed-forward, with a gate
//! or without.
//!
//! A family says what stands around them: which norms, where sums go, what a layer sees.

use super::{Binder, Part};
use crate::Error;
use crate::plan::{Activation, AttentionConfig, Buf, Linear, PlanBuilder, Rope, Weight};

/// Weights of a layer's attention.
pub(super) struct Attention {
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) o: Linear,
    /// Norms over each head of the queries and of the keys, before they are rotated.
    pub(super) head_norms: Option<HeadNorms>,
}

/// Norms over single heads.
#[derive(Clone, Copy)]
pub(super) struct HeadNorms {
    pub(super) q: Weight,
    pub(super) k: Weight,
    pub(super) eps: f32,
}

/// How a layer attends.
#[derive(Clone, Copy)]
pub(super) struct Attends {
    /// Heads, scale, window.
    pub(super) config: AttentionConfig,
    /// Rotation of queries and keys, where they are rotated.
    pub(super) rope: Option<Rope>,
}

impl Attends {
    /// To all before it, with the usual scale `1 / sqrt(head_dim)`.
    pub(super) fn plainly(b: &Binder<'_>, rope: impl Into<Option<Rope>>) -> Attends {
        let h = b.hparams;
        Attends {
            config: AttentionConfig {
                num_heads: h.num_heads,
                num_kv_heads: h.num_kv_heads,
                head_dim: h.head_dim,
                scale: 1.0 / (h.head_dim as f32).sqrt(),
                softcap: None,
                window: None,
            },
            rope: rope.into(),
        }
    }

    /// Heads as they are, or rotated.
    fn rotated(&self, p: &mut PlanBuilder, x: Buf, num_heads: usize) -> Buf {
        match self.rope {
            Some(rope) => p.rope(x, rope, num_heads, self.config.head_dim),
            None => x,
        }
    }
}

impl Attention {
    /// Four matrices with the biases that the file has.
    pub(super) fn bind(
        p: &mut PlanBuilder,
        b: &Binder<'_>,
        index: usize,
    ) -> Result<Attention, Error> {
        let h = b.hparams;
        let (q_size, kv_size) = (h.num_heads * h.head_dim, h.num_kv_heads * h.head_dim);
        let name = |part: &str| format!("blk.{index}.{part}");
        Ok(Attention {
            q: b.linear(p, &name("attn_q"), q_size, h.hidden_size)?,
            k: b.linear(p, &name("attn_k"), kv_size, h.hidden_size)?,
            v: b.linear(p, &name("attn_v"), kv_size, h.hidden_size)?,
            o: b.linear(p, &name("attn_output"), h.hidden_size, q_size)?,
            head_norms: None,
        })
    }

    /// The same with queries, keys and values as parts of one tensor, in this order.
    pub(super) fn bind_fused(
        p: &mut PlanBuilder,
        b: &Binder<'_>,
        index: usize,
    ) -> Result<Attention, Error> {
        let h = b.hparams;
        let (q_size, kv_size) = (h.num_heads * h.head_dim, h.num_kv_heads * h.head_dim);
        let name = |part: &str| format!("blk.{index}.{part}");
        let (tensor, of) = (name("attn_qkv"), q_size + 2 * kv_size);
        let part = |p: &mut PlanBuilder, role, from, size| {
            let part = Part {
                tensor: &tensor,
                of,
                rows: from..from + size,
            };
            b.linear_part(p, &name(role), &part, h.hidden_size)
        };
        Ok(Attention {
            q: part(p, "attn_q", 0, q_size)?,
            k: part(p, "attn_k", q_size, kv_size)?,
            v: part(p, "attn_v", q_size + kv_size, kv_size)?,
            o: b.linear(p, &name("attn_output"), h.hidden_size, q_size)?,
            head_norms: None,
        })
    }

    /// The same with a norm over each head of queries and keys.
    pub(super) fn with_head_norms(
        self,
        p: &mut PlanBuilder,
        b: &Binder<'_>,
        index: usize,
    ) -> Result<Attention, Error> {
        let dim = b.hparams.head_dim;
        let mut norm = |name| b.vector(p, &format!("blk.{index}.{name}.weight"), dim);
        let norms = HeadNorms {
            q: norm("attn_q_norm")?,
            k: norm("attn_k_norm")?,
            eps: b.hparams.norm_eps,
        };
        Ok(Attention {
            head_norms: Some(norms),
            ..self
        })
    }

    /// Writes attention of layer `index` over a cache of its own, on normed inputs `h`.
    pub(super) fn write(&self, p: &mut PlanBuilder, index: usize, how: &Attends, h: Buf) -> Buf {
        let a = how.config;
        let cache = p.cache(&format!("blk.{index}.cache"), a.num_kv_heads, a.head_dim);
        // Queries last: attention then loads what it knows of the cache while they are made.
        let (mut k, v) = (p.matmul(h, self.k), p.matmul(h, self.v));
        if let Some(norms) = self.head_norms {
            k = p.rms_norm(k, norms.k, norms.eps);
        }
        let k = how.rotated(p, k, a.num_kv_heads);
        p.kv_write(cache, k, v);
        let mut q = p.matmul(h, self.q);
        if let Some(norms) = self.head_norms {
            q = p.rms_norm(q, norms.q, norms.eps);
        }
        let q = how.rotated(p, q, a.num_heads);
        let attended = p.attention(index, q, cache, a);
        p.matmul(attended, self.o)
    }
}

/// Weights of a gated feed-forward.
pub(super) struct FeedForward {
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl FeedForward {
    /// Three matrices with the biases that the file has.
    pub(super) fn bind(
        p: &mut PlanBuilder,
        b: &Binder<'_>,
        index: usize,
    ) -> Result<FeedForward, Error> {
        let (hidden, ffn) = (b.hparams.hidden_size, b.hparams.ffn_size);
        let name = |part: &str| format!("blk.{index}.{part}");
        Ok(FeedForward {
            gate: b.linear(p, &name("ffn_gate"), ffn, hidden)?,
            up: b.linear(p, &name("ffn_up"), ffn, hidden)?,
            down: b.linear(p, &name("ffn_down"), hidden, ffn)?,
        })
    }

    /// The same with the gate above the other matrix in one tensor, `ffn_up`.
    pub(super) fn bind_fused(
        p: &mut PlanBuilder,
        b: &Binder<'_>,
        index: usize,
    ) -> Result<FeedForward, Error> {
        let (hidden, ffn) = (b.hparams.hidden_size, b.hparams.ffn_size);
        let name = |part: &str| format!("blk.{index}.{part}");
        let tensor = name("ffn_up");
        let part = |from| Part {
            tensor: &tensor,
            of: 2 * ffn,
            rows: from..from + ffn,
        };
        Ok(FeedForward {
            gate: b.linear_part(p, &name("ffn_gate"), &part(0), hidden)?,
            up: b.linear_part(p, &name("ffn_up"), &part(ffn), hidden)?,
            down: b.linear(p, &name("ffn_down"), hidden, ffn)?,
        })
    }

    /// Writes `down(act(gate h) * (up h))`.
    pub(super) fn write(&self, p: &mut PlanBuilder, act: Activation, h: Buf) -> Buf {
        let (gate, up) = (p.matmul(h, self.gate), p.matmul(h, self.up));
        let hidden = p.glu(act, gate, up);
        p.matmul(hidden, self.down)
    }
}

/// Weights of a feed-forward without a gate.
pub(super) struct PlainFeedForward {
    up: Linear,
    down: Linear,
}

impl PlainFeedForward {
    /// Two matrices with the biases that the file has.
    pub(super) fn bind(
        p: &mut PlanBuilder,
        b: &Binder<'_>,
        index: usize,
    ) -> Result<PlainFeedForward, Error> {
        let (hidden, ffn) = (b.hparams.hidden_size, b.hparams.ffn_size);
        let name = |part: &str| format!("blk.{index}.{part}");
        Ok(PlainFeedForward {
            up: b.linear(p, &name("ffn_up"), ffn, hidden)?,
            down: b.linear(p, &name("ffn_down"), hidden, ffn)?,
        })
    }

    /// Writes `down(act(up h))`.
    pub(super) fn write(&self, p: &mut PlanBuilder, act: Activation, h: Buf) -> Buf {
        let up = p.matmul(h, self.up);
        let hidden = p.activate(act, up);
        p.matmul(hidden, self.down)
    }
}

/// Weights of a layer norm over the whole stream.
pub(super) struct LayerNorm {
    weight: Weight,
    bias: Option<Weight>,
    eps: f32,
}

impl LayerNorm {
    /// `NAME.weight`, and `NAME.bias` where the file has it.
    pub(super) fn bind(
        p: &mut PlanBuilder,
        b: &Binder<'_>,
        name: &str,
    ) -> Result<LayerNorm, Error> {
        let (hidden, bias) = (b.hparams.hidden_size, format!("{name}.bias"));
        let weight = b.vector(p, &format!("{name}.weight"), hidden)?;
        let bias = match b.has(&bias) {
            true => Some(b.vector(p, &bias, hidden)?),
            false => None,
        };
        let eps = b.hparams.norm_eps;
        Ok(LayerNorm { weight, bias, eps })
    }

    /// Writes the norm of `x`.
    pub(super) fn write(&self, p: &mut PlanBuilder, x: Buf) -> Buf {
        p.layer_norm(x, self.weight, self.bias, self.eps)
    }
}

/// The embedding table of a vocabulary.
pub(super) fn embedding(p: &mut PlanBuilder, b: &Binder<'_>) -> Result<Weight, Error> {
    b.matrix(p, "token_embd.weight", b.vocab_size, b.hparams.hidden_size)
}

/// Final norm and head, on the rows whose logits are wanted.
pub(super) fn head(
    p: &mut PlanBuilder,
    b: &Binder<'_>,
    embedding: Weight,
    x: Buf,
) -> Result<Buf, Error> {
    let (hidden, eps) = (b.hparams.hidden_size, b.hparams.norm_eps);
    let norm = b.vector(p, "output_norm.weight", hidden)?;
    let output = b.head(p, embedding)?;
    let x = p.gather_outputs(x);
    let x = p.rms_norm(x, norm, eps);
    Ok(p.matmul(x, output))
}
