//! Gemma 2 and 3: windows, caps, norms of what is added, and embeddings that are scaled.

use super::super::micro::{Key, MicroModel};
use super::llama::LLAMA;
use super::{Case, case, plain};

/// Windows on every second layer, and caps that are reached.
const GEMMA2: MicroModel = MicroModel {
    arch: "gemma2",
    num_layers: 3,
    has_head: false,
    keys: &[
        ("attention.sliding_window", Key::Int(16)),
        ("attn_logit_softcapping", Key::Float(2.0)),
        ("final_logit_softcapping", Key::Float(6.0)),
    ],
    ..LLAMA
};

/// Windows on six of seven layers, with a base of their own.
const GEMMA3: MicroModel = MicroModel {
    arch: "gemma3",
    num_layers: 7,
    has_head: false,
    keys: &[
        ("attention.sliding_window", Key::Int(16)),
        ("rope.freq_base", Key::Float(1e6)),
    ],
    ..LLAMA
};

pub(super) const CASES: &[Case] = &[
    plain("gemma2", GEMMA2),
    case(
        "gemma2, no window reached, no cap reached",
        MicroModel {
            keys: &[],
            ..GEMMA2
        },
    ),
    case(
        "gemma2, windows on two of three layers, linear scaling",
        MicroModel {
            num_layers: 4,
            keys: &[
                ("attention.sliding_window", Key::Int(8)),
                ("attention.sliding_window_pattern", Key::Int(3)),
                ("rope.scaling.type", Key::Text("linear")),
                ("rope.scaling.factor", Key::Float(2.0)),
            ],
            ..GEMMA2
        },
    ),
    case(
        "gemma2, a list of windows, another base in them",
        MicroModel {
            keys: &[
                ("attention.sliding_window", Key::Int(9)),
                (
                    "attention.sliding_window_pattern",
                    Key::Bools(&[false, true, true]),
                ),
                ("rope.freq_base_swa", Key::Float(500.0)),
            ],
            ..GEMMA2
        },
    ),
    case(
        "gemma2, heads of 24, one KV head",
        MicroModel {
            num_kv_heads: 1,
            head_dim: 24,
            rope_dim: 24,
            keys: &[("attention.sliding_window", Key::Int(16))],
            ..GEMMA2
        },
    ),
    case(
        "gemma2, as deep as the one of 27 billion weights",
        MicroModel {
            num_layers: 46,
            head_dim: 32,
            rope_dim: 32,
            keys: &[("attention.sliding_window", Key::Int(16))],
            ..GEMMA2
        },
    ),
    plain("gemma3", GEMMA3),
    case(
        "gemma3, no windows",
        MicroModel {
            num_layers: 2,
            keys: &[("rope.freq_base", Key::Float(1000000.0))],
            ..GEMMA3
        },
    ),
    case(
        "gemma3, linear scaling of global layers",
        MicroModel {
            keys: &[
                ("attention.sliding_window", Key::Int(16)),
                ("rope.freq_base", Key::Float(1000000.0)),
                ("rope.scaling.type", Key::Text("linear")),
                ("rope.scaling.factor", Key::Float(8.0)),
            ],
            ..GEMMA3
        },
    ),
    case(
        "gemma3, every third layer global, a base for the others",
        MicroModel {
            num_layers: 4,
            keys: &[
                ("attention.sliding_window", Key::Int(5)),
                ("attention.sliding_window_pattern", Key::Int(3)),
                ("rope.freq_base", Key::Float(1000000.0)),
                ("rope.freq_base_swa", Key::Float(2000.0)),
            ],
            ..GEMMA3
        },
    ),
    case(
        "gemma3, a head, a cap of logits",
        MicroModel {
            has_head: true,
            keys: &[
                ("attention.sliding_window", Key::Int(16)),
                ("rope.freq_base", Key::Float(1000000.0)),
                ("final_logit_softcapping", Key::Float(5.0)),
            ],
            ..GEMMA3
        },
    ),
    case(
        "gemma3, caps of scores and of logits, a bias of the head",
        MicroModel {
            biases: &["output"],
            keys: &[
                ("attention.sliding_window", Key::Int(16)),
                ("rope.freq_base", Key::Float(1000000.0)),
                ("attn_logit_softcapping", Key::Float(1.5)),
                ("final_logit_softcapping", Key::Float(5.0)),
            ],
            ..GEMMA3
        },
    ),
    case(
        "gemma3, as deep as the one of 27 billion weights",
        MicroModel {
            num_layers: 62,
            head_dim: 32,
            rope_dim: 32,
            keys: &[("attention.sliding_window", Key::Int(16))],
            ..GEMMA3
        },
    ),
];
