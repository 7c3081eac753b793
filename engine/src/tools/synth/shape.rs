//! The shapes of real models: dimensions, metadata and the list of tensors.
//!
//! Dimensions are those of the models' published configurations; the list of tensors is what their
//! GGUF files hold, in the usual order.

use std::f64::consts::TAU;
use std::fmt;
use std::str::FromStr;

use gannet_gguf::Writer;

use super::Error;

/// A model whose shape can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShapeName {
    /// Qwen 2.5 1.5B: biases on Q, K and V, tied embeddings, 1.54 billion weights.
    Qwen25_1_5B,
    /// Llama 3.1 8B: a head of its own, rope factors, 8.03 billion weights.
    Llama31_8B,
    /// Llama 3.2 1B: tied embeddings, rope factors, 1.24 billion weights.
    Llama32_1B,
    /// Gemma 3 4B, its text model: heads of 256 with norms, norms on both sides of a block, windows,
    /// tied embeddings of 262,144 tokens, 3.88 billion weights.
    Gemma3_4B,
    /// Phi 3 mini: one tensor for Q, K and V, one for gate and up, heads of 96, 3.82 billion weights.
    Phi3Mini,
    /// A Llama of 4 layers and 3.9 million weights, for tests.
    Tiny,
}

impl ShapeName {
    /// Every shape.
    pub const ALL: &'static [ShapeName] = &[
        ShapeName::Qwen25_1_5B,
        ShapeName::Llama31_8B,
        ShapeName::Llama32_1B,
        ShapeName::Gemma3_4B,
        ShapeName::Phi3Mini,
        ShapeName::Tiny,
    ];

    /// The name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ShapeName::Qwen25_1_5B => "qwen2.5-1.5b",
            ShapeName::Llama31_8B => "llama3.1-8b",
            ShapeName::Llama32_1B => "llama3.2-1b",
            ShapeName::Gemma3_4B => "gemma3-4b",
            ShapeName::Phi3Mini => "phi3-mini",
            ShapeName::Tiny => "tiny",
        }
    }

    pub(super) fn shape(self) -> Shape {
        match self {
            ShapeName::Qwen25_1_5B => Shape {
                arch: "qwen2",
                pre: "qwen2",
                num_layers: 28,
                hidden_size: 1536,
                ffn_size: 8960,
                num_heads: 12,
                num_kv_heads: 2,
                head_dim: 128,
                vocab_size: 151_936,
                is_tied: true,
                has_qkv_bias: true,
                rope_base: 1e6,
                rope_factor: None,
                rms_eps: 1e-6,
                context_length: 32_768,
                ..LLAMA3
            },
            ShapeName::Llama31_8B => Shape {
                num_layers: 32,
                hidden_size: 4096,
                ffn_size: 14_336,
                num_heads: 32,
                num_kv_heads: 8,
                head_dim: 128,
                is_tied: false,
                rope_factor: Some(8.0),
                ..LLAMA3
            },
            ShapeName::Llama32_1B => LLAMA3,
            ShapeName::Gemma3_4B => Shape {
                arch: "gemma3",
                num_layers: 34,
                hidden_size: 2560,
                ffn_size: 10_240,
                num_heads: 8,
                num_kv_heads: 4,
                head_dim: 256,
                vocab_size: 262_144,
                has_head_norms: true,
                has_post_norms: true,
                window: Some(1024),
                rope_base: 1e6,
                rope_factor: None,
                position_factor: Some(8.0),
                rms_eps: 1e-6,
                ..LLAMA3
            },
            ShapeName::Phi3Mini => Shape {
                arch: "phi3",
                num_layers: 32,
                hidden_size: 3072,
                ffn_size: 8192,
                num_heads: 32,
                num_kv_heads: 32,
                head_dim: 96,
                vocab_size: 32_064,
                is_tied: false,
                is_fused: true,
                window: Some(2047),
                rope_base: 1e4,
                rope_factor: None,
                context_length: 4096,
                ..LLAMA3
            },
            ShapeName::Tiny => Shape {
                num_layers: 4,
                hidden_size: 256,
                ffn_size: 1024,
                num_heads: 4,
                num_kv_heads: 2,
                head_dim: 64,
                vocab_size: 512,
                rope_base: 1e4,
                rope_factor: None,
                context_length: 2048,
                ..LLAMA3
            },
        }
    }
}

impl fmt::Display for ShapeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ShapeName {
    type Err = Error;

    fn from_str(name: &str) -> Result<ShapeName, Error> {
        let known = Self::ALL.iter().copied();
        known
            .clone()
            .find(|s| s.name() == name)
            .ok_or_else(|| Error::unknown("shape", name, known))
    }
}

/// Llama 3.2 1B; its sisters differ in the fields that they name.
const LLAMA3: Shape = Shape {
    arch: "llama",
    pre: "llama-bpe",
    num_layers: 16,
    hidden_size: 2048,
    ffn_size: 8192,
    num_heads: 32,
    num_kv_heads: 8,
    head_dim: 64,
    vocab_size: 128_256,
    is_tied: true,
    has_qkv_bias: false,
    has_head_norms: false,
    has_post_norms: false,
    is_fused: false,
    window: None,
    rope_base: 5e5,
    rope_factor: Some(32.0),
    position_factor: None,
    rms_eps: 1e-5,
    context_length: 131_072,
};

/// The dimensions of a model.
#[derive(Clone)]
pub(super) struct Shape {
    /// `general.architecture`.
    pub(super) arch: &'static str,
    /// `tokenizer.ggml.pre` of a vocabulary that is made up.
    pub(super) pre: &'static str,
    pub(super) num_layers: usize,
    pub(super) hidden_size: usize,
    pub(super) ffn_size: usize,
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocab_size: usize,
    /// Whether the embedding table is the head, too.
    pub(super) is_tied: bool,
    pub(super) has_qkv_bias: bool,
    /// Whether the heads of Q and K have norms.
    pub(super) has_head_norms: bool,
    /// Whether attention and feed-forward have norms behind them, too.
    pub(super) has_post_norms: bool,
    /// Whether Q, K and V are one tensor, and gate and up another.
    pub(super) is_fused: bool,
    /// `attention.sliding_window`.
    pub(super) window: Option<u32>,
    pub(super) rope_base: f32,
    /// How far Llama 3.1's scaling stretches the slowest rope frequencies.
    pub(super) rope_factor: Option<f64>,
    /// What positions are divided by.
    pub(super) position_factor: Option<f32>,
    pub(super) rms_eps: f32,
    pub(super) context_length: u32,
}

/// What a tensor does; its type and its values follow from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The embedding table; also the head where the two are tied.
    Embedding { is_tied: bool },
    /// The head.
    Output,
    /// Q, K, gate or up.
    Matrix,
    /// Q, K and V of a layer.
    FusedQkv,
    /// V of a layer.
    Value { layer: usize },
    /// The projection back from attention.
    AttentionOutput,
    /// The projection back from the feed-forward layer.
    Down { layer: usize },
    /// Weights of a layer's norm.
    Norm,
    /// Weights of the last norm.
    OutputNorm,
    /// A bias.
    Bias,
    /// Divisors of the rope frequencies.
    RopeFactors,
}

/// A tensor to be made.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) role: Role,
    /// Output features; 1 for a vector.
    pub(super) rows: usize,
    /// Contiguous elements: input features, or the length of a vector.
    pub(super) cols: usize,
}

impl Tensor {
    /// ggml's order: the contiguous dimension first.
    pub(super) fn dims(&self) -> Vec<u64> {
        match self.role {
            Role::Norm | Role::OutputNorm | Role::Bias | Role::RopeFactors => {
                vec![self.cols as u64]
            }
            Role::Embedding { .. }
            | Role::Output
            | Role::Matrix
            | Role::FusedQkv
            | Role::Value { .. }
            | Role::AttentionOutput
            | Role::Down { .. } => vec![self.cols as u64, self.rows as u64],
        }
    }
}

impl Shape {
    /// Sets the keys that describe the network.
    pub(super) fn describe(&self, writer: &mut Writer) -> Result<(), gannet_gguf::Error> {
        let mut int = |key: &str, value: usize| {
            // Every dimension of the table above is small.
            writer.set(&format!("{}.{key}", self.arch), value as u32)
        };
        int("block_count", self.num_layers)?;
        int("context_length", self.context_length as usize)?;
        int("embedding_length", self.hidden_size)?;
        int("feed_forward_length", self.ffn_size)?;
        int("attention.head_count", self.num_heads)?;
        int("attention.head_count_kv", self.num_kv_heads)?;
        int("attention.key_length", self.head_dim)?;
        int("attention.value_length", self.head_dim)?;
        int("rope.dimension_count", self.head_dim)?;
        if let Some(window) = self.window {
            int("attention.sliding_window", window as usize)?;
        }
        int("vocab_size", self.vocab_size)?;
        let mut float = |key: &str, value: f32| writer.set(&format!("{}.{key}", self.arch), value);
        float("attention.layer_norm_rms_epsilon", self.rms_eps)?;
        float("rope.freq_base", self.rope_base)?;
        if let Some(factor) = self.position_factor {
            float("rope.scaling.factor", factor)?;
            writer.set(&format!("{}.rope.scaling.type", self.arch), "linear")?;
        }
        Ok(())
    }

    /// Every tensor, in the order of the file.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let mut list = Vec::new();
        let mut add = |name: &str, role: Role, rows: usize, cols: usize| {
            list.push(Tensor {
                name: name.to_owned(),
                role,
                rows,
                cols,
            });
        };
        let (hidden, ffn, vocab) = (self.hidden_size, self.ffn_size, self.vocab_size);
        let (q_size, kv_size) = (
            self.num_heads * self.head_dim,
            self.num_kv_heads * self.head_dim,
        );
        add(
            "token_embd.weight",
            Role::Embedding {
                is_tied: self.is_tied,
            },
            vocab,
            hidden,
        );
        if self.rope_factor.is_some() {
            add("rope_freqs.weight", Role::RopeFactors, 1, self.head_dim / 2);
        }
        for layer in 0..self.num_layers {
            let mut add = |part: &str, role: Role, rows: usize, cols: usize| {
                add(&format!("blk.{layer}.{part}"), role, rows, cols);
            };
            add("attn_norm.weight", Role::Norm, 1, hidden);
            if self.is_fused {
                let rows = q_size + 2 * kv_size;
                add("attn_qkv.weight", Role::FusedQkv, rows, hidden);
            } else {
                add("attn_q.weight", Role::Matrix, q_size, hidden);
                add("attn_k.weight", Role::Matrix, kv_size, hidden);
                add("attn_v.weight", Role::Value { layer }, kv_size, hidden);
            }
            if self.has_head_norms {
                add("attn_q_norm.weight", Role::Norm, 1, self.head_dim);
                add("attn_k_norm.weight", Role::Norm, 1, self.head_dim);
            }
            if self.has_qkv_bias {
                add("attn_q.bias", Role::Bias, 1, q_size);
                add("attn_k.bias", Role::Bias, 1, kv_size);
                add("attn_v.bias", Role::Bias, 1, kv_size);
            }
            add("attn_output.weight", Role::AttentionOutput, hidden, q_size);
            if self.has_post_norms {
                add("post_attention_norm.weight", Role::Norm, 1, hidden);
            }
            add("ffn_norm.weight", Role::Norm, 1, hidden);
            if self.is_fused {
                add("ffn_up.weight", Role::Matrix, 2 * ffn, hidden);
            } else {
                add("ffn_gate.weight", Role::Matrix, ffn, hidden);
                add("ffn_up.weight", Role::Matrix, ffn, hidden);
            }
            add("ffn_down.weight", Role::Down { layer }, hidden, ffn);
            if self.has_post_norms {
                add("post_ffw_norm.weight", Role::Norm, 1, hidden);
            }
        }
        add("output_norm.weight", Role::OutputNorm, 1, hidden);
        if !self.is_tied {
            add("output.weight", Role::Output, vocab, hidden);
        }
        list
    }

    /// The divisor of each pair's rope frequency.
    ///
    /// Llama 3.1's scaling: wavelengths up to `8192 / 4` stay, those over `8192 / 1` are stretched
    /// by the factor, and between the two the frequencies are blended linearly in `8192 /
    /// wavelength` (Meta's `apply_scaling`, with low_freq_factor 1 and high_freq_factor 4).
    pub(super) fn rope_factors(&self) -> Vec<f32> {
        const ORIGINAL_CONTEXT: f64 = 8192.0;
        const LOW: f64 = 1.0;
        const HIGH: f64 = 4.0;
        let stretch = self.rope_factor.unwrap_or(1.0);
        let factor = |pair: usize| {
            let exponent = 2.0 * pair as f64 / self.head_dim as f64;
            let wavelength = TAU * f64::from(self.rope_base).powf(exponent);
            let turns = ORIGINAL_CONTEXT / wavelength;
            if turns > HIGH {
                1.0
            } else if turns < LOW {
                stretch
            } else {
                let kept = (turns - LOW) / (HIGH - LOW);
                1.0 / ((1.0 - kept) / stretch + kept)
            }
        };
        (0..self.head_dim / 2)
            .map(|pair| factor(pair) as f32)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_published_number_of_weights() {
        let weights = |name: ShapeName| {
            let tensors = name.shape().tensors();
            let real = tensors.iter().filter(|t| t.role != Role::RopeFactors);
            real.map(|t| t.rows * t.cols).sum::<usize>()
        };
        assert_eq!(weights(ShapeName::Qwen25_1_5B), 1_543_714_304);
        assert_eq!(weights(ShapeName::Llama31_8B), 8_030_261_248);
        assert_eq!(weights(ShapeName::Llama32_1B), 1_235_814_400);
        assert_eq!(weights(ShapeName::Gemma3_4B), 3_880_099_328);
        assert_eq!(weights(ShapeName::Phi3Mini), 3_821_079_552);
    }

    #[test]
    fn names_are_read_back() {
        for &name in ShapeName::ALL {
            assert_eq!(name.name().parse::<ShapeName>().unwrap(), name);
        }
        let line = "llama".parse::<ShapeName>().unwrap_err().to_string();
        assert!(
            line.contains("\"llama\"") && line.contains("llama3.1-8b"),
            "{line}"
        );
    }

    #[test]
    fn rope_factors_keep_short_waves_and_stretch_long_ones() {
        let factors = ShapeName::Llama31_8B.shape().rope_factors();
        assert_eq!(factors.len(), 64);
        assert_eq!(factors[..29], [1.0; 29]);
        assert_eq!(factors[35..], [8.0; 29]);
        assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]));
    }
}
