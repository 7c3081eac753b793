//! Keys and tensors that the field's files have, whichever family they belong to.

use super::file::Val;

/// A value that a list of constants can hold.
#[derive(Clone, Copy)]
pub(crate) enum Const {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
}

impl Const {
    pub(crate) fn val(self) -> Val {
        match self {
            Const::U32(v) => Val::U32(v),
            Const::F32(v) => Val::F32(v),
            Const::Bool(v) => Val::Bool(v),
            Const::Text(v) => Val::Text(v.to_owned()),
        }
    }
}

use Const::{Bool, F32, Text, U32};

/// Texts that `rope.scaling.type` and `general.architecture` may hold.
pub(crate) const TEXTS: &[&str] = &[
    "none", "linear", "yarn", "longrope", "su", "", "YARN", "llama", "qwen2", "phi3", "gpt2",
    "bert",
];

/// Suffixes of keys, with values and whether they change nothing wherever they stand.
pub(crate) const KEYS: &[(&str, &[(Const, bool)])] = &[
    ("vocab_size", &[(U32(320), true), (U32(7), true)]),
    (
        "rope.scaling.finetuned",
        &[(Bool(true), true), (Bool(false), true)],
    ),
    (
        "tensor_data_layout",
        &[(Text("Meta AI original pth"), true), (Text("other"), false)],
    ),
    (
        "attention.causal",
        &[(Bool(true), true), (Bool(false), false), (U32(1), false)],
    ),
    (
        "pooling_type",
        &[(U32(0), true), (U32(3), true), (U32(9), false)],
    ),
    (
        "use_parallel_residual",
        &[(Bool(false), true), (Bool(true), false)],
    ),
    ("logit_scale", &[(F32(1.0), true), (F32(0.25), false)]),
    ("embedding_scale", &[(F32(1.0), true), (F32(12.0), false)]),
    ("residual_scale", &[(F32(1.0), true), (F32(0.22), false)]),
    ("attention.scale", &[(F32(0.0), true), (F32(0.015), false)]),
    (
        "attention.clamp_kqv",
        &[(F32(0.0), true), (F32(8.0), false)],
    ),
    (
        "attention.max_alibi_bias",
        &[(F32(0.0), true), (F32(8.0), false)],
    ),
    (
        "attention.temperature_scale",
        &[(F32(0.0), true), (F32(0.1), false)],
    ),
    ("attention.temperature_length", &[(U32(8), false)]),
    (
        "attention.sliding_window",
        &[(U32(3), false), (U32(9), false), (U32(4096), false)],
    ),
    (
        "attention.sliding_window_pattern",
        &[(U32(2), false), (U32(1), false), (U32(3), false)],
    ),
    (
        "attention.shared_kv_layers",
        &[(U32(0), true), (U32(1), false)],
    ),
    ("attention.key_length_swa", &[(U32(16), false)]),
    ("attention.value_length_swa", &[(U32(16), false)]),
    ("attention.layer_norm_epsilon", &[(F32(0.1), false)]),
    ("attention.layer_norm_rms_epsilon", &[(F32(0.1), false)]),
    ("attention.group_norm_epsilon", &[(F32(0.1), false)]),
    ("attention.q_lora_rank", &[(U32(8), false)]),
    ("attention.kv_lora_rank", &[(U32(8), false)]),
    (
        "attn_logit_softcapping",
        &[(F32(1.5), false), (F32(30.0), false)],
    ),
    (
        "final_logit_softcapping",
        &[(F32(2.0), false), (F32(30.0), false)],
    ),
    (
        "rope.freq_base",
        &[(F32(500.0), false), (F32(1e6), false), (F32(0.0), false)],
    ),
    ("rope.freq_base_swa", &[(F32(700.0), false)]),
    ("rope.dimension_sections", &[(U32(4), false)]),
    ("rope.dimension_count_swa", &[(U32(8), false)]),
    (
        "rope.scaling.type",
        &[
            (Text("none"), false),
            (Text("linear"), false),
            (Text("yarn"), false),
            (Text("longrope"), false),
            (Text("dynamic"), false),
        ],
    ),
    (
        "rope.scaling.factor",
        &[
            (F32(4.0), false),
            (F32(0.5), false),
            (F32(1e-45), false),
            (F32(1e30), false),
            (F32(-2.0), false),
        ],
    ),
    (
        "rope.scale_linear",
        &[(F32(4.0), false), (F32(3.0), false), (F32(f32::NAN), false)],
    ),
    (
        "rope.scaling.attn_factor",
        &[(F32(1.3), false), (F32(0.0), false)],
    ),
    (
        "rope.scaling.original_context_length",
        &[(U32(16), false), (U32(0), false)],
    ),
    (
        "rope.scaling.yarn_ext_factor",
        &[(F32(1.0), true), (F32(0.5), false)],
    ),
    ("rope.scaling.yarn_attn_factor", &[(F32(1.5), false)]),
    (
        "rope.scaling.yarn_beta_fast",
        &[(F32(32.0), false), (F32(4.0), false)],
    ),
    (
        "rope.scaling.yarn_beta_slow",
        &[(F32(1.0), false), (F32(0.5), false)],
    ),
    (
        "rope.scaling.yarn_log_multiplier",
        &[(F32(0.0), true), (F32(0.1), false)],
    ),
    ("expert_count", &[(U32(0), true), (U32(4), false)]),
    ("expert_used_count", &[(U32(0), true), (U32(2), false)]),
    (
        "expert_feed_forward_length",
        &[(U32(0), true), (U32(32), false)],
    ),
    ("expert_shared_count", &[(U32(0), true), (U32(1), false)]),
    ("expert_gating_func", &[(U32(0), true), (U32(2), false)]),
    (
        "expert_weights_scale",
        &[(F32(1.0), true), (F32(2.5), false)],
    ),
    (
        "expert_weights_norm",
        &[(Bool(false), true), (Bool(true), false)],
    ),
    ("expert_group_count", &[(U32(0), true), (U32(4), false)]),
    (
        "leading_dense_block_count",
        &[(U32(0), true), (U32(1), false)],
    ),
    ("nextn_predict_layers", &[(U32(0), true), (U32(1), false)]),
    ("full_attention_interval", &[(U32(4), false)]),
    ("embedding_length_per_layer_input", &[(U32(16), false)]),
    ("ssm.conv_kernel", &[(U32(4), false)]),
    ("ssm.state_size", &[(U32(16), false)]),
    ("wkv.head_size", &[(U32(16), false)]),
    ("decoder_start_token_id", &[(U32(1), false)]),
    ("swin_norm", &[(Bool(true), false)]),
];

/// Tensors outside layers, with their dimensions.
pub(crate) const TENSORS: &[(&str, &[&str])] = &[
    ("output.weight", &["hidden", "vocab"]),
    ("output.bias", &["vocab"]),
    ("output_norm.bias", &["hidden"]),
    ("token_embd_norm.weight", &["hidden"]),
    ("position_embd.weight", &["hidden", "context"]),
    ("token_types.weight", &["hidden", "heads"]),
    ("rope_freqs.weight", &["pairs"]),
    ("rope_factors_long.weight", &["pairs"]),
    ("rope_factors_short.weight", &["pairs"]),
    ("cls.weight", &["hidden", "hidden"]),
];

/// Tensors of layers.
pub(crate) const LAYER_TENSORS: &[(&str, &[&str])] = &[
    ("attn_q.bias", &["q"]),
    ("attn_k.bias", &["kv"]),
    ("attn_v.bias", &["kv"]),
    ("attn_output.bias", &["hidden"]),
    ("attn_q_norm.weight", &["head"]),
    ("attn_k_norm.weight", &["head"]),
    ("attn_q_norm.bias", &["head"]),
    ("attn_sub_norm.weight", &["hidden"]),
    ("attn_sinks.weight", &["heads"]),
    ("attn_norm.bias", &["hidden"]),
    ("attn_norm_2.weight", &["hidden"]),
    ("attn_q.scale", &["heads"]),
    ("attn_rot_embd.weight", &["pairs"]),
    ("attn_gate.weight", &["hidden", "q"]),
    ("post_attention_norm.weight", &["hidden"]),
    ("post_ffw_norm.weight", &["hidden"]),
    ("ffn_norm.bias", &["hidden"]),
    ("ffn_gate.bias", &["ffn"]),
    ("ffn_up.bias", &["ffn"]),
    ("ffn_down.bias", &["hidden"]),
    ("ffn_gate.weight", &["hidden", "ffn"]),
    ("ffn_gate_inp.weight", &["hidden", "heads"]),
    ("ffn_sub_norm.weight", &["ffn"]),
    ("layer_output_scale.weight", &["heads"]),
    ("nextn.eh_proj.weight", &["hidden", "hidden"]),
    ("ssm_a", &["heads"]),
];
