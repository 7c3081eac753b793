//! Keys that say nothing about arithmetic, or nothing else than what holds without them.

use gannet_gguf::Value;

/// Keys without the architecture's prefix that say nothing with any value.
const ALWAYS: &[&str] = &["vocab_size", "rope.scaling.finetuned"];

/// Keys that say nothing with these numbers: scales of 1, windows and caps and experts of 0.
const NUMBERS: &[(&str, &[f64])] = &[
    ("pooling_type", &[0.0, 1.0, 2.0, 3.0, 4.0]),
    ("attention.sliding_window", &[0.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.scale", &[0.0]),
    ("attention.temperature_scale", &[0.0]),
    ("attention.shared_kv_layers", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("logit_scale", &[1.0]),
    ("embedding_scale", &[1.0]),
    ("residual_scale", &[1.0]),
    ("rope.scaling.yarn_ext_factor", &[1.0, -1.0]),
    ("rope.scaling.yarn_beta_fast", &[32.0]),
    ("rope.scaling.yarn_beta_slow", &[1.0]),
    ("rope.scaling.yarn_log_multiplier", &[0.0]),
    ("expert_count", &[0.0]),
    ("expert_used_count", &[0.0]),
    ("expert_feed_forward_length", &[0.0]),
    ("expert_shared_feed_forward_length", &[0.0]),
    ("expert_shared_count", &[0.0]),
    ("expert_group_count", &[0.0]),
    ("expert_group_used_count", &[0.0]),
    ("expert_gating_func", &[0.0]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("leading_dense_block_count", &[0.0]),
    ("nextn_predict_layers", &[0.0]),
];

/// Keys that say nothing with this flag.
const FLAGS: &[(&str, bool)] = &[
    ("attention.causal", true),
    ("use_parallel_residual", false),
    ("expert_weights_norm", false),
];

/// Whether a key says nothing about arithmetic with its value.
pub(super) fn is_silent(suffix: &str, value: &Value<'_>) -> bool {
    let number = value.as_float().or(value.as_int().map(|int| int as f64));
    let layouts = ["reference", "Meta AI original pth"];
    let of = |name: &str| name == suffix;
    ALWAYS.iter().any(|name| of(name))
        || (NUMBERS.iter())
            .any(|(name, numbers)| of(name) && number.is_some_and(|n| numbers.contains(&n)))
        || (FLAGS.iter()).any(|&(name, flag)| of(name) && value.as_bool() == Some(flag))
        || (of("tensor_data_layout") && value.as_str().is_some_and(|l| layouts.contains(&l)))
}
