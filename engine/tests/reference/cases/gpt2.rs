//! GPT-2: learned positions, layer norms, no gate.

use super::super::micro::MicroModel;
use super::llama::LLAMA;
use super::{Case, case, plain};

/// As [`LLAMA`] with as many key/value heads as query heads, and the biases of every file of GPT-2.
const GPT2: MicroModel = MicroModel {
    arch: "gpt2",
    num_heads: 3,
    num_kv_heads: 3,
    has_head: false,
    biases: &["attn_qkv", "attn_output", "ffn_up", "ffn_down"],
    ..LLAMA
};

pub(super) const CASES: &[Case] = &[
    plain("gpt2", GPT2),
    case(
        "gpt2, a head of its own",
        MicroModel {
            has_head: true,
            ..GPT2
        },
    ),
    case(
        "gpt2, no bias on its linears",
        MicroModel {
            biases: &[],
            ..GPT2
        },
    ),
];
