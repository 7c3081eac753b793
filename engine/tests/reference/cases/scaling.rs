//! Scaled positions beyond linear scaling by its own type: YaRN, amplitudes, and the ways to say a
//! factor.

use super::super::micro::{FactorTensors, Key, MicroModel};
use super::llama::{LLAMA, QWEN2, QWEN3};
use super::{Case, case};

pub(super) const CASES: &[Case] = &[
    case(
        "llama, YaRN",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(4.0)),
                ("rope.scaling.original_context_length", Key::Int(16)),
            ],
            ..LLAMA
        },
    ),
    case(
        "llama, YaRN from the context of the model",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(4.0)),
            ],
            ..LLAMA
        },
    ),
    case(
        "llama, YaRN and an amplitude",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(4.0)),
                ("rope.scaling.original_context_length", Key::Int(16)),
                ("rope.scaling.attn_factor", Key::Float(1.25)),
            ],
            ..LLAMA
        },
    ),
    case(
        "llama, YaRN, its keys that nobody reads",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(4.0)),
                ("rope.scaling.original_context_length", Key::Int(16)),
                ("rope.scaling.yarn_beta_fast", Key::Float(4.0)),
                ("rope.scaling.yarn_beta_slow", Key::Float(0.5)),
                ("rope.scaling.yarn_attn_factor", Key::Float(2.0)),
                ("rope.scaling.yarn_log_multiplier", Key::Float(1.0)),
            ],
            ..LLAMA
        },
    ),
    case(
        "llama, YaRN and frequency factors",
        MicroModel {
            factors: FactorTensors::Freqs,
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(4.0)),
                ("rope.scaling.original_context_length", Key::Int(16)),
            ],
            ..LLAMA
        },
    ),
    case(
        "llama, YaRN, half of each head turns",
        MicroModel {
            rope_dim: 8,
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(4.0)),
                ("rope.scaling.original_context_length", Key::Int(16)),
            ],
            ..LLAMA
        },
    ),
    case(
        "llama, an amplitude without scaling",
        MicroModel {
            keys: &[("rope.scaling.attn_factor", Key::Float(1.25))],
            ..LLAMA
        },
    ),
    case(
        "llama, linear scaling and an amplitude",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("linear")),
                ("rope.scaling.factor", Key::Float(4.0)),
                ("rope.scaling.attn_factor", Key::Float(0.8)),
            ],
            ..LLAMA
        },
    ),
    case(
        "llama, a factor without a type",
        MicroModel {
            keys: &[("rope.scaling.factor", Key::Float(4.0))],
            ..LLAMA
        },
    ),
    case(
        "llama, the factor's old key",
        MicroModel {
            keys: &[("rope.scale_linear", Key::Float(4.0))],
            ..LLAMA
        },
    ),
    case(
        "qwen2, YaRN",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(4.0)),
                ("rope.scaling.original_context_length", Key::Int(16)),
                ("rope.freq_base", Key::Float(1000000.0)),
            ],
            ..QWEN2
        },
    ),
    case(
        "qwen3, YaRN, heads of 24",
        MicroModel {
            head_dim: 24,
            rope_dim: 24,
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(4.0)),
                ("rope.scaling.original_context_length", Key::Int(16)),
                ("rope.freq_base", Key::Float(1000000.0)),
            ],
            ..QWEN3
        },
    ),
];
