//! Keys of `config.json` that nothing reads and that change nothing of a text's logits: the list, with
//! the reason of each row. Every other key is read or refused.

use serde_json::Value;

/// The values that a key changes nothing with.
#[derive(Clone, Copy)]
enum With {
    /// Any.
    Anything,
    /// This flag.
    Flag(bool),
    /// This number.
    Number(f64),
    /// One of these texts.
    Texts(&'static [&'static str]),
}

/// A key, the values, and why nothing comes of it.
struct Row(&'static str, With, &'static str);

const TRAINING: &str = "of training alone";
const LIBRARY: &str = "how the library that wrote it runs, not what it computes";
const OUTPUTS: &str = "what the library hands out besides logits";
const OTHER_TASKS: &str = "of other tasks than the next token";

const TABLE: &[Row] = &[
    Row("model_type", With::Anything, "architectures says it"),
    Row("_name_or_path", With::Anything, "where it was saved from"),
    Row("name_or_path", With::Anything, "where it was saved from"),
    Row(
        "auto_map",
        With::Anything,
        "code of its own for families that are known here",
    ),
    Row("torch_dtype", With::Anything, "the tensors say their types"),
    Row("dtype", With::Anything, "the tensors say their types"),
    Row("transformers_version", With::Anything, LIBRARY),
    Row("_attn_implementation", With::Anything, LIBRARY),
    Row("attn_implementation", With::Anything, LIBRARY),
    Row("_attn_implementation_autoset", With::Anything, LIBRARY),
    Row("_flash_attn_2_enabled", With::Anything, LIBRARY),
    Row("cache_implementation", With::Anything, LIBRARY),
    Row("use_cache", With::Anything, LIBRARY),
    Row("return_dict", With::Anything, LIBRARY),
    Row("torchscript", With::Anything, LIBRARY),
    Row("chunk_size_feed_forward", With::Anything, LIBRARY),
    Row("reorder_and_upcast_attn", With::Anything, LIBRARY),
    Row(
        "pretraining_tp",
        With::Anything,
        "in how many parts products are computed",
    ),
    Row("unsloth_fixed", With::Anything, LIBRARY),
    Row("unsloth_version", With::Anything, LIBRARY),
    Row("output_attentions", With::Anything, OUTPUTS),
    Row("output_hidden_states", With::Anything, OUTPUTS),
    Row("use_return_dict", With::Anything, OUTPUTS),
    Row("initializer_range", With::Anything, TRAINING),
    Row("attention_dropout", With::Anything, TRAINING),
    Row("hidden_dropout", With::Anything, TRAINING),
    Row("resid_pdrop", With::Anything, TRAINING),
    Row("embd_pdrop", With::Anything, TRAINING),
    Row("attn_pdrop", With::Anything, TRAINING),
    Row("gradient_checkpointing", With::Anything, TRAINING),
    Row("keys_to_ignore_at_inference", With::Anything, TRAINING),
    Row("pad_token_id", With::Anything, "texts are not padded"),
    Row("tokenizer_class", With::Anything, "tokenizer.json says it"),
    Row("id2label", With::Anything, OTHER_TASKS),
    Row("label2id", With::Anything, OTHER_TASKS),
    Row("problem_type", With::Anything, OTHER_TASKS),
    Row("task_specific_params", With::Anything, OTHER_TASKS),
    Row("finetuning_task", With::Anything, OTHER_TASKS),
    Row("summary_activation", With::Anything, OTHER_TASKS),
    Row("summary_first_dropout", With::Anything, OTHER_TASKS),
    Row("summary_proj_to_labels", With::Anything, OTHER_TASKS),
    Row("summary_type", With::Anything, OTHER_TASKS),
    Row("summary_use_proj", With::Anything, OTHER_TASKS),
    Row("is_encoder_decoder", With::Flag(false), "it is a decoder"),
    Row("is_decoder", With::Anything, "it is a decoder"),
    Row("add_cross_attention", With::Flag(false), "there is none"),
    Row(
        "cross_attention_hidden_size",
        With::Flag(false),
        "there is none",
    ),
    Row("scale_attn_weights", With::Flag(true), "the usual scale"),
    Row(
        "scale_attn_by_inverse_layer_idx",
        With::Flag(false),
        "the usual scale",
    ),
    Row(
        "use_bidirectional_attention",
        With::Flag(false),
        "every plan attends causally",
    ),
    Row("final_layer_norm", With::Flag(true), "every plan has one"),
    Row("qk_layernorm", With::Flag(false), "without norms of heads"),
    Row("use_qk_norm", With::Flag(false), "without norms of heads"),
    Row(
        "embedding_multiplier",
        With::Number(1.0),
        "1 scales nothing",
    ),
    Row("logits_scaling", With::Number(1.0), "1 scales nothing"),
    Row("residual_multiplier", With::Number(1.0), "1 scales nothing"),
    Row(
        "num_nextn_predict_layers",
        With::Number(0.0),
        "every layer is one of the forward pass",
    ),
    Row(
        "num_local_experts",
        With::Number(0.0),
        "there are no experts",
    ),
    Row("num_experts", With::Number(0.0), "there are no experts"),
    Row(
        "position_embedding_type",
        With::Texts(&["absolute", "rope"]),
        "the family's own",
    ),
];

/// Why a key changes nothing with its value, if it is known to.
pub(super) fn reason(key: &str, value: &Value) -> Option<&'static str> {
    let row = TABLE.iter().find(|row| row.0 == key)?;
    let is_neutral = match row.1 {
        With::Anything => true,
        With::Flag(flag) => value.as_bool() == Some(flag),
        With::Number(number) => value.as_f64() == Some(number),
        With::Texts(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
    };
    is_neutral.then_some(row.2)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        let is_neutral = |key, value: Value| reason(key, &value).is_some();
        assert!(is_neutral("torch_dtype", json!("bfloat16")));
        assert!(is_neutral("scale_attn_weights", json!(true)));
        assert!(!is_neutral("scale_attn_weights", json!(false)));
        assert!(is_neutral("logits_scaling", json!(1)));
        assert!(!is_neutral("logits_scaling", json!(8.0)));
        assert!(!is_neutral("torch_dtypes", json!("bfloat16")));
    }
}
