//! Llama and those of its shape: Qwen 2 and 3.

use super::super::micro::{ALL_LINEARS, FactorTensors, Key, MicroModel};
use super::{Case, case, plain};

/// The plainest Llama; cases name what they change.
pub const LLAMA: MicroModel = MicroModel {
    arch: "llama",
    num_layers: 2,
    hidden_size: 48,
    ffn_size: 80,
    num_heads: 4,
    num_kv_heads: 2,
    head_dim: 16,
    rope_dim: 16,
    has_head: true,
    biases: &[],
    key_outliers: 0.0,
    factors: FactorTensors::None,
    keys: &[],
    seed: 0,
};

/// As [`LLAMA`], with the biases that every file of Qwen 2 has.
pub const QWEN2: MicroModel = MicroModel {
    arch: "qwen2",
    has_head: false,
    biases: &["attn_q", "attn_k", "attn_v"],
    keys: &[("rope.freq_base", Key::Float(1e6))],
    ..LLAMA
};

/// As [`LLAMA`], with norms on heads, which are wider than the hidden size has room for.
pub const QWEN3: MicroModel = MicroModel {
    arch: "qwen3",
    head_dim: 32,
    rope_dim: 32,
    keys: &[("rope.freq_base", Key::Float(1e6))],
    ..LLAMA
};

pub(super) const CASES: &[Case] = &[
    plain("llama", LLAMA),
    case(
        "llama, tied, one KV head",
        MicroModel {
            has_head: false,
            num_kv_heads: 1,
            ..LLAMA
        },
    ),
    case(
        "llama, linear scaling",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("linear")),
                ("rope.scaling.factor", Key::Float(4.0)),
            ],
            ..LLAMA
        },
    ),
    plain(
        "llama, a factor of no scaling",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("none")),
                ("rope.scaling.factor", Key::Float(4.0)),
            ],
            ..LLAMA
        },
    ),
    case(
        "llama, frequency factors",
        MicroModel {
            factors: FactorTensors::Freqs,
            keys: &[("rope.freq_base", Key::Float(5e5))],
            ..LLAMA
        },
    ),
    case(
        "llama, linear scaling and frequency factors",
        MicroModel {
            factors: FactorTensors::Freqs,
            keys: &[
                ("rope.scaling.type", Key::Text("linear")),
                ("rope.scaling.factor", Key::Float(2.5)),
            ],
            ..LLAMA
        },
    ),
    case(
        "llama, a bias on every linear",
        MicroModel {
            biases: ALL_LINEARS,
            ..LLAMA
        },
    ),
    case(
        "llama, biases around attention",
        MicroModel {
            biases: &["attn_q", "attn_v", "attn_output"],
            ..LLAMA
        },
    ),
    case(
        "llama, biases of the feed-forward layer",
        MicroModel {
            biases: &["ffn_gate", "ffn_up", "ffn_down"],
            ..LLAMA
        },
    ),
    case(
        "llama, a bias of the head",
        MicroModel {
            biases: &["output"],
            ..LLAMA
        },
    ),
    case(
        "llama, a bias of the head that is the embedding",
        MicroModel {
            has_head: false,
            biases: &["output"],
            ..LLAMA
        },
    ),
    case(
        "qwen2, a bias of the head that is the embedding",
        MicroModel {
            biases: &["attn_q", "attn_k", "attn_v", "output"],
            ..QWEN2
        },
    ),
    case(
        "llama, half of each head turns",
        MicroModel {
            rope_dim: 8,
            ..LLAMA
        },
    ),
    case(
        "llama, heads of 24, six a KV head",
        MicroModel {
            hidden_size: 72,
            num_heads: 6,
            num_kv_heads: 1,
            head_dim: 24,
            rope_dim: 24,
            ..LLAMA
        },
    ),
    case(
        "llama, heads of 15, of which 6 turn, in a width of 52",
        MicroModel {
            hidden_size: 52,
            num_heads: 3,
            num_kv_heads: 3,
            head_dim: 15,
            rope_dim: 6,
            ffn_size: 36,
            ..LLAMA
        },
    ),
    plain("qwen2", QWEN2),
    case(
        "qwen2, a head, a bias on every linear",
        MicroModel {
            has_head: true,
            biases: ALL_LINEARS,
            ..QWEN2
        },
    ),
    case(
        "qwen2, linear scaling, half of each head turns",
        MicroModel {
            rope_dim: 8,
            keys: &[
                ("rope.scaling.type", Key::Text("linear")),
                ("rope.scaling.factor", Key::Float(4.0)),
            ],
            ..QWEN2
        },
    ),
    case(
        "qwen2, heads of 40, seven of them",
        MicroModel {
            hidden_size: 56,
            num_heads: 7,
            num_kv_heads: 1,
            head_dim: 40,
            rope_dim: 40,
            ..QWEN2
        },
    ),
    plain("qwen3", QWEN3),
    case(
        "qwen3, tied, a bias on every linear",
        MicroModel {
            has_head: false,
            biases: &[
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_output",
                "ffn_gate",
                "ffn_up",
                "ffn_down",
            ],
            ..QWEN3
        },
    ),
    case(
        "qwen3, heads of 24, of which 10 turn",
        MicroModel {
            head_dim: 24,
            rope_dim: 10,
            ..QWEN3
        },
    ),
];
