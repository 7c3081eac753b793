//! Llama: pre-norm, grouped heads, interleaved rope (the converter permutes Q and K), SwiGLU.
//! Runs Llama 1 to 3.x, Mistral 7B, TinyLlama, SmolLM.

use super::{Binder, Family};
use crate::Error;
use crate::plan::RopeKind;
use crate::plan::{Activation, AttentionSpec, Buf, Linear, Plan, PlanBuilder, Rope, Weight};

pub(super) const FAMILY: Family = Family {
    arch: "llama",
    models: "Llama 1 to 3.x, Mistral 7B, TinyLlama, SmolLM",
    build,
};

/// Weights of a layer; Qwen 2 and 3 have the same with a bias or head norms beside them.
pub(super) struct Layer {
    pub(super) attn_norm: Weight,
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) o: Linear,
    pub(super) ffn_norm: Weight,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Layer {
    pub(super) fn bind(
        p: &mut PlanBuilder,
        b: &mut Binder<'_>,
        index: usize,
    ) -> Result<Layer, Error> {
        let h = b.hparams;
        let (hidden, ffn) = (h.hidden_size, h.ffn_size);
        let (q_size, kv_size) = (h.num_heads * h.head_dim, h.num_kv_heads * h.head_dim);
        let name = |part: &str| format!("blk.{index}.{part}");
        Ok(Layer {
            attn_norm: b.vector(p, &name("attn_norm.weight"), hidden)?,
            q: b.linear(p, &name("attn_q"), q_size, hidden)?,
            k: b.linear(p, &name("attn_k"), kv_size, hidden)?,
            v: b.linear(p, &name("attn_v"), kv_size, hidden)?,
            o: b.linear(p, &name("attn_output"), hidden, q_size)?,
            ffn_norm: b.vector(p, &name("ffn_norm.weight"), hidden)?,
            gate: b.linear(p, &name("ffn_gate"), ffn, hidden)?,
            up: b.linear(p, &name("ffn_up"), ffn, hidden)?,
            down: b.linear(p, &name("ffn_down"), hidden, ffn)?,
        })
    }
}

/// What stays the same from layer to layer.
pub(super) struct Network {
    pub(super) attention: AttentionSpec,
    pub(super) rope: Rope,
    pub(super) eps: f32,
}

impl Network {
    pub(super) fn new(
        p: &mut PlanBuilder,
        b: &mut Binder<'_>,
        kind: RopeKind,
    ) -> Result<Network, Error> {
        let h = b.hparams;
        let attention = AttentionSpec {
            num_heads: h.num_heads,
            num_kv_heads: h.num_kv_heads,
            head_dim: h.head_dim,
            scale: 1.0 / (h.head_dim as f32).sqrt(),
            softcap: None,
            window: None,
        };
        Ok(Network {
            attention,
            rope: b.rope(p, kind)?,
            eps: h.rms_eps,
        })
    }
}

fn build(p: &mut PlanBuilder, b: &mut Binder<'_>) -> Result<Plan, Error> {
    decoder(p, b, RopeKind::Interleaved)
}

/// A Llama-shaped decoder; Qwen 2 is the same with the other rope pairing and QKV biases.
pub(super) fn decoder(
    p: &mut PlanBuilder,
    b: &mut Binder<'_>,
    kind: RopeKind,
) -> Result<Plan, Error> {
    let (vocab, hidden) = (b.vocab_size, b.hparams.hidden_size);
    let embedding = b.matrix(p, "token_embd.weight", vocab, hidden)?;
    let net = Network::new(p, b, kind)?;
    let mut x = p.embed(embedding);
    for index in 0..b.hparams.num_layers {
        let l = Layer::bind(p, b, index)?;
        x = layer(p, &net, &l, index, x);
    }
    head(p, b, embedding, x)
}

fn layer(p: &mut PlanBuilder, net: &Network, l: &Layer, index: usize, x: Buf) -> Buf {
    let a = net.attention;
    let h = p.rms_norm(x, l.attn_norm, net.eps);
    // Queries last: attention then loads what it knows of the cache while they are made.
    let (k, v) = (p.matmul(h, l.k), p.matmul(h, l.v));
    let k = p.rope(k, net.rope, a.num_kv_heads, a.head_dim);
    p.kv_write(index, k, v, a);
    let q = p.matmul(h, l.q);
    let q = p.rope(q, net.rope, a.num_heads, a.head_dim);
    let attended = p.attention(q, index, a);
    let o = p.matmul(attended, l.o);
    let x = p.add(x, o);
    feed_forward(p, net, l, x)
}

/// `x + down(silu(gate(norm x)) * up(norm x))`.
pub(super) fn feed_forward(p: &mut PlanBuilder, net: &Network, l: &Layer, x: Buf) -> Buf {
    let h = p.rms_norm(x, l.ffn_norm, net.eps);
    let (gate, up) = (p.matmul(h, l.gate), p.matmul(h, l.up));
    let hidden = p.glu(Activation::Silu, gate, up);
    let down = p.matmul(hidden, l.down);
    p.add(x, down)
}

/// Final norm and head, on the rows whose logits are wanted.
pub(super) fn head(
    p: &mut PlanBuilder,
    b: &mut Binder<'_>,
    embedding: Weight,
    x: Buf,
) -> Result<Plan, Error> {
    let (hidden, eps) = (b.hparams.hidden_size, b.hparams.rms_eps);
    let norm = b.vector(p, "output_norm.weight", hidden)?;
    let output = b.head(p, embedding)?;
    let x = p.gather_outputs(x);
    let x = p.rms_norm(x, norm, eps);
    let logits = p.matmul(x, output);
    Ok(std::mem::take(p).finish(logits))
}
