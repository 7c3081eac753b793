//! Keys that no part of a plan reads and that change nothing: the list, with the reason of each row.
//!
//! A key is on it with the values that it is harmless with. Every other key under the architecture's
//! prefix is read or refused.

use gannet_gguf::Value;

/// The values that a key changes nothing with.
#[derive(Clone, Copy)]
enum With {
    /// Any.
    Anything,
    /// One of these numbers.
    Numbers(&'static [f64]),
    /// This flag.
    Flag(bool),
    /// One of these texts.
    Texts(&'static [&'static str]),
}

/// A key without the architecture's prefix, the values, and why nothing comes of it.
struct Row(&'static str, With, &'static str);

const ZERO: With = With::Numbers(&[0.0]);
const ONE: With = With::Numbers(&[1.0]);

const TABLE: &[Row] = &[
    Row(
        "vocab_size",
        With::Anything,
        "the tokens are counted, and the embedding is held against them",
    ),
    Row(
        "rope.scaling.finetuned",
        With::Anything,
        "says how the model was trained, not how it is computed",
    ),
    Row(
        "tensor_data_layout",
        With::Texts(&["reference", "Meta AI original pth"]),
        "the two names of the order of rows that the family expects",
    ),
    Row(
        "attention.causal",
        With::Flag(true),
        "every plan attends causally",
    ),
    Row(
        "use_parallel_residual",
        With::Flag(false),
        "no plan has parallel residuals",
    ),
    Row("attention.sliding_window", ZERO, "0 is no window"),
    Row("attention.clamp_kqv", ZERO, "0 clamps nothing"),
    Row("attention.max_alibi_bias", ZERO, "0 is no bias"),
    Row("attention.scale", ZERO, "0 is the usual scale"),
    Row("attention.temperature_scale", ZERO, "0 scales nothing"),
    Row("attention.shared_kv_layers", ZERO, "0 layers share"),
    Row("attn_logit_softcapping", ZERO, "0 is no cap"),
    Row("final_logit_softcapping", ZERO, "0 is no cap"),
    Row("logit_scale", ONE, "1 scales nothing"),
    Row("embedding_scale", ONE, "1 scales nothing"),
    Row("residual_scale", ONE, "1 scales nothing"),
    Row(
        "rope.scaling.yarn_ext_factor",
        With::Numbers(&[1.0, -1.0]),
        "1 is the whole mix of YaRN, -1 leaves it to the type",
    ),
    Row(
        "rope.scaling.yarn_beta_fast",
        With::Numbers(&[32.0]),
        "the constant of YaRN, which reads others itself",
    ),
    Row(
        "rope.scaling.yarn_beta_slow",
        ONE,
        "the constant of YaRN, which reads others itself",
    ),
    Row(
        "rope.scaling.yarn_log_multiplier",
        ZERO,
        "0 takes nothing back",
    ),
    Row("expert_feed_forward_length", ZERO, "there are no experts"),
    Row(
        "expert_shared_feed_forward_length",
        ZERO,
        "there are no experts",
    ),
    Row("expert_shared_count", ZERO, "there are no experts"),
    Row("expert_group_count", ZERO, "there are no experts"),
    Row("expert_group_used_count", ZERO, "there are no experts"),
    Row("expert_gating_func", ZERO, "there are no experts"),
    Row(
        "expert_weights_scale",
        With::Numbers(&[0.0, 1.0]),
        "there are no experts",
    ),
    Row(
        "expert_weights_norm",
        With::Flag(false),
        "there are no experts",
    ),
    Row("leading_dense_block_count", ZERO, "every layer is dense"),
    Row(
        "nextn_predict_layers",
        ZERO,
        "every layer is one of the forward pass",
    ),
];

/// Why a key changes nothing with its value, if it is known to.
pub(super) fn reason(suffix: &str, value: &Value<'_>) -> Option<&'static str> {
    let row = TABLE.iter().find(|row| row.0 == suffix)?;
    let is_neutral = match row.1 {
        With::Anything => true,
        With::Numbers(numbers) => {
            let found = value.as_float().or(value.as_int().map(|int| int as f64));
            found.is_some_and(|found| numbers.contains(&found))
        }
        With::Flag(flag) => value.as_bool() == Some(flag),
        With::Texts(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
    };
    is_neutral.then_some(row.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_reason_and_no_key_two_rows() {
        for (i, row) in TABLE.iter().enumerate() {
            assert!(!row.2.is_empty(), "{}", row.0);
            assert!(TABLE[..i].iter().all(|other| other.0 != row.0), "{}", row.0);
        }
    }

    #[test]
    fn a_key_is_neutral_with_its_values_only() {
        let is_neutral = |suffix, value: &Value<'_>| reason(suffix, value).is_some();
        assert!(is_neutral("attention.causal", &Value::Bool(true)));
        assert!(!is_neutral("attention.causal", &Value::Bool(false)));
        assert!(!is_neutral("attention.causal", &Value::U32(1)));
        assert!(is_neutral("logit_scale", &Value::F64(1.0)));
        assert!(is_neutral("logit_scale", &Value::U8(1)));
        assert!(!is_neutral("logit_scale", &Value::F32(f32::NAN)));
        assert!(!is_neutral("logit_scale", &Value::String("1")));
        assert!(is_neutral(
            "tensor_data_layout",
            &Value::String("reference")
        ));
        assert!(!is_neutral("tensor_data_layout", &Value::String("other")));
        assert!(is_neutral("vocab_size", &Value::U32(7)));
        assert!(!is_neutral("vocab_sizes", &Value::U32(7)));
    }
}
