//! Qwen 3: Llama with a norm on every head of Q and K before the rope, whose pairs are half a head
//! apart. The head size is independent of the hidden size.

use super::llama::{Layer, Network, feed_forward, head};
use super::{Binder, Family};
use crate::Error;
use crate::plan::RopeKind;
use crate::plan::{Buf, Plan, PlanBuilder, Weight};

pub(super) const FAMILY: Family = Family {
    arch: "qwen3",
    models: "Qwen 3 dense models",
    build,
};

fn build(p: &mut PlanBuilder, b: &mut Binder<'_>) -> Result<Plan, Error> {
    let (vocab, hidden, head_dim) = (b.vocab_size, b.hparams.hidden_size, b.hparams.head_dim);
    let embedding = b.matrix(p, "token_embd.weight", vocab, hidden)?;
    let net = Network::new(p, b, RopeKind::Neox)?;
    let mut x = p.embed(embedding);
    for index in 0..b.hparams.num_layers {
        let l = Layer::bind(p, b, index)?;
        let q_norm = b.vector(p, &format!("blk.{index}.attn_q_norm.weight"), head_dim)?;
        let k_norm = b.vector(p, &format!("blk.{index}.attn_k_norm.weight"), head_dim)?;
        x = layer(p, &net, &l, (q_norm, k_norm), index, x);
    }
    head(p, b, embedding, x)
}

fn layer(
    p: &mut PlanBuilder,
    net: &Network,
    l: &Layer,
    (q_norm, k_norm): (Weight, Weight),
    index: usize,
    x: Buf,
) -> Buf {
    let a = net.attention;
    let h = p.rms_norm(x, l.attn_norm, net.eps);
    // Queries last, as in the decoder of `llama`.
    let (k, v) = (p.matmul(h, l.k), p.matmul(h, l.v));
    let k = p.rms_norm(k, k_norm, net.eps);
    let k = p.rope(k, net.rope, a.num_kv_heads, a.head_dim);
    p.kv_write(index, k, v, a);
    let q = p.matmul(h, l.q);
    let q = p.rms_norm(q, q_norm, net.eps);
    let q = p.rope(q, net.rope, a.num_heads, a.head_dim);
    let attended = p.attention(q, index, a);
    let o = p.matmul(attended, l.o);
    let x = p.add(x, o);
    feed_forward(p, net, l, x)
}
