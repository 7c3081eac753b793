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
        "llama, YaRN by turns of its own",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(4.0)),
                ("rope.scaling.original_context_length", Key::Int(16)),
                ("rope.scaling.yarn_beta_fast", Key::Float(4.0)),
                ("rope.scaling.yarn_beta_slow", Key::Float(0.5)),
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
        "llama, YaRN, its constants spelled out",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(4.0)),
                ("rope.scaling.original_context_length", Key::Int(16)),
                ("rope.scaling.yarn_ext_factor", Key::Float(1.0)),
                ("rope.scaling.yarn_beta_fast", Key::Float(32.0)),
                ("rope.scaling.yarn_beta_slow", Key::Float(1.0)),
                ("rope.scaling.yarn_log_multiplier", Key::Float(0.0)),
            ],
            ..LLAMA
        },
    ),
    case(
        "qwen3, YaRN by turns of its own, half of each head turns",
        MicroModel {
            rope_dim: 16,
            keys: &[
                ("rope.scaling.type", Key::Text("yarn")),
                ("rope.scaling.factor", Key::Float(8.0)),
                ("rope.scaling.original_context_length", Key::Int(32)),
                ("rope.scaling.yarn_beta_fast", Key::Float(2.0)),
                ("rope.scaling.yarn_beta_slow", Key::Float(0.25)),
            ],
            ..QWEN3
        },
    ),
    case(
        "llama, the factor in both spellings",
        MicroModel {
            keys: &[
                ("rope.scaling.factor", Key::Float(2.0)),
                ("rope.scale_linear", Key::Float(2.0)),
            ],
            ..LLAMA
        },
    ),
    case(
        "qwen2, a factor without a type",
        MicroModel {
            keys: &[
                ("rope.freq_base", Key::Float(1000000.0)),
                ("rope.scaling.factor", Key::Float(8.0)),
            ],
            ..QWEN2
        },
    ),
    case(
        "qwen3, the factor's old key, a type",
        MicroModel {
            keys: &[
                ("rope.freq_base", Key::Float(1000000.0)),
                ("rope.scaling.type", Key::Text("linear")),
                ("rope.scale_linear", Key::Float(3.0)),
            ],
            ..QWEN3
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
