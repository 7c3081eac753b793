//! Phi 3: fused linears and the long rope.

use super::super::micro::{FactorTensors, Key, MicroModel};
use super::llama::LLAMA;
use super::{Case, case, plain};

/// As [`LLAMA`], with fused linears.
const PHI3: MicroModel = MicroModel {
    arch: "phi3",
    ..LLAMA
};

pub(super) const CASES: &[Case] = &[
    plain("phi3", PHI3),
    case(
        "phi3, a window in every layer",
        MicroModel {
            keys: &[("attention.sliding_window", Key::Int(8))],
            ..PHI3
        },
    ),
    case(
        "phi3, long rope within its original context",
        MicroModel {
            factors: FactorTensors::LongAndShort,
            keys: &[
                ("rope.scaling.type", Key::Text("longrope")),
                ("rope.scaling.original_context_length", Key::Int(64)),
                ("rope.scaling.attn_factor", Key::Float(1.19)),
            ],
            ..PHI3
        },
    ),
    Case {
        context: 128,
        ..case(
            "phi3, long rope beyond its original context",
            MicroModel {
                factors: FactorTensors::LongAndShort,
                keys: &[
                    ("rope.scaling.type", Key::Text("longrope")),
                    ("rope.scaling.original_context_length", Key::Int(64)),
                    ("rope.scaling.attn_factor", Key::Float(1.19)),
                ],
                ..PHI3
            },
        )
    },
    Case {
        context: 128,
        ..case(
            "phi3, long rope without an amplitude",
            MicroModel {
                factors: FactorTensors::LongAndShort,
                keys: &[
                    ("rope.scaling.type", Key::Text("longrope")),
                    ("rope.scaling.original_context_length", Key::Int(64)),
                ],
                ..PHI3
            },
        )
    },
    Case {
        context: 65,
        ..case(
            "phi3, long rope that no type announces, in 12 of 16 elements",
            MicroModel {
                rope_dim: 12,
                factors: FactorTensors::LongAndShort,
                keys: &[("rope.scaling.original_context_length", Key::Int(64))],
                ..PHI3
            },
        )
    },
    case(
        "phi3, linear scaling",
        MicroModel {
            keys: &[
                ("rope.scaling.type", Key::Text("linear")),
                ("rope.scaling.factor", Key::Float(4.0)),
            ],
            ..PHI3
        },
    ),
    case(
        "phi3, tied, heads of 24, of which 18 turn",
        MicroModel {
            has_head: false,
            head_dim: 24,
            rope_dim: 18,
            ..PHI3
        },
    ),
    case(
        "phi3, a factor without a type",
        MicroModel {
            keys: &[("rope.scaling.factor", Key::Float(6.0))],
            ..PHI3
        },
    ),
    case(
        "phi3, a bias on every linear",
        MicroModel {
            biases: &["attn_qkv", "attn_output", "ffn_up", "ffn_down", "output"],
            ..PHI3
        },
    ),
];
