//! The forward pass: layer after layer, all positions of a sequence at once.

use std::f64::consts::PI;

use super::config::{Activation, Config, LayerConfig};
use super::rope::Rope;
use super::softmax64;
use super::tensors::{Layer, Norm, Weights, dot};

/// A value for each position.
type Rows = Vec<Vec<f64>>;

/// Logits `[tokens, vocab]`.
pub(super) fn logits(c: &Config, w: &Weights, tokens: &[u32], context: usize) -> Vec<f64> {
    let embedding_scale = match c.family.scales_embedding {
        true => (c.hidden_size as f64).sqrt(),
        false => 1.0,
    };
    let embed = |&token: &u32| {
        let row = w.embedding.row(token as usize).iter();
        row.map(|v| v * embedding_scale).collect()
    };
    let mut x: Rows = tokens.iter().map(embed).collect();
    if let Some(positions) = &w.positions {
        for (position, x) in x.iter_mut().enumerate() {
            add(x, positions.row(position));
        }
    }
    for (layer, config) in w.layers.iter().zip(&c.layers) {
        let factors = config.rope.factors.tensor(context);
        let factors = factors.and_then(|name| w.rope_factors.get(name));
        let rope = Rope::new(&config.rope, factors.map(Vec::as_slice));
        let attended = attention(c, config, layer, &rope, &x);
        for (x, attended) in x.iter_mut().zip(attended) {
            let o = layer.o.apply(&attended);
            add(x, &post_norm(o, layer.attn_post_norm.as_deref(), c.eps));
            let hidden = feed_forward(c, layer, x);
            add(x, &post_norm(hidden, layer.ffn_post_norm.as_deref(), c.eps));
        }
    }
    let head = |x: &Vec<f64>| {
        let h = norm(c, x, &w.output_norm);
        let logits = match &w.output {
            Some(output) => output.apply(&h),
            None => {
                let mut logits = w.embedding.apply(&h);
                if let Some(bias) = &w.tied_bias {
                    add(&mut logits, bias);
                }
                logits
            }
        };
        logits.into_iter().map(|l| softcap(l, c.final_softcap))
    };
    x.iter().flat_map(head).collect()
}

/// Attention's output before its projection, `[positions, heads * head_dim]`.
fn attention(c: &Config, config: &LayerConfig, layer: &Layer, rope: &Rope, x: &Rows) -> Rows {
    let (mut queries, mut keys, mut values) = (Rows::new(), Rows::new(), Rows::new());
    for (position, x) in x.iter().enumerate() {
        let h = norm(c, x, &layer.attn_norm);
        let heads = |mut all: Vec<f64>, norm: Option<&Vec<f64>>| {
            for head in all.chunks_exact_mut(c.head_dim) {
                if let Some(norm) = norm {
                    head.copy_from_slice(&rms_norm(head, norm, c.eps));
                }
                rope.turn(head, position);
            }
            all
        };
        let mut q = heads(layer.q.apply(&h), layer.q_norm.as_ref());
        if let Some((stretch, scale)) = c.temperature {
            let temperature = 1.0 + scale * (1.0 + (position / stretch) as f64).ln();
            q.iter_mut().for_each(|q| *q *= temperature);
        }
        queries.push(q);
        keys.push(heads(layer.k.apply(&h), layer.k_norm.as_ref()));
        values.push(layer.v.apply(&h));
    }
    let per_kv_head = c.num_heads / c.num_kv_heads;
    let attend = |(position, q): (usize, &Vec<f64>)| {
        let seen = position + 1;
        let first = seen - config.window.map_or(seen, |w| w.min(seen));
        let mut out = vec![0.0; q.len()];
        for (head, (q, out)) in (q.chunks_exact(c.head_dim))
            .zip(out.chunks_exact_mut(c.head_dim))
            .enumerate()
        {
            let at = head / per_kv_head * c.head_dim;
            let score = |k: &Vec<f64>| {
                let score = c.attention_scale * dot(q, &k[at..][..c.head_dim]);
                softcap(score, c.attention_softcap)
            };
            let scores: Vec<f64> = keys[first..seen].iter().map(score).collect();
            for (share, v) in softmax64(&scores).iter().zip(&values[first..seen]) {
                let v = &v[at..][..c.head_dim];
                out.iter_mut().zip(v).for_each(|(o, v)| *o += share * v);
            }
        }
        out
    };
    queries.iter().enumerate().map(attend).collect()
}

/// `down(act(gate(norm x)) * up(norm x))`, or `down(act(up(norm x)))` without a gate.
fn feed_forward(c: &Config, layer: &Layer, x: &[f64]) -> Vec<f64> {
    let h = norm(c, x, &layer.ffn_norm);
    let act = |x: f64| match c.family.activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => gelu(x),
    };
    let up = layer.up.apply(&h).into_iter();
    let hidden: Vec<f64> = match &layer.gate {
        Some(gate) => up.zip(gate.apply(&h)).map(|(u, g)| act(g) * u).collect(),
        None => up.map(act).collect(),
    };
    layer.down.apply(&hidden)
}

/// The tanh form (Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2).
fn gelu(x: f64) -> f64 {
    let inner = (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// `cap * tanh(x / cap)`.
fn softcap(x: f64, cap: Option<f64>) -> f64 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

/// A norm of the family over a whole row.
fn norm(c: &Config, x: &[f64], norm: &Norm) -> Vec<f64> {
    let mean = match c.family.is_gpt2 {
        true => x.iter().sum::<f64>() / x.len() as f64,
        false => 0.0,
    };
    let centred: Vec<f64> = x.iter().map(|x| x - mean).collect();
    let mut y = rms_norm(&centred, &norm.weight, c.eps);
    if let Some(bias) = &norm.bias {
        add(&mut y, bias);
    }
    y
}

fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let mean = dot(x, x) / x.len() as f64;
    let scale = 1.0 / (mean + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

fn post_norm(x: Vec<f64>, weight: Option<&[f64]>, eps: f64) -> Vec<f64> {
    match weight {
        Some(weight) => rms_norm(&x, weight, eps),
        None => x,
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
