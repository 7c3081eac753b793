//! Edits worth naming: what people's files have had and engines passed over, each in several families.

use gannet_engine::ModelOptions;
use gannet_engine::internals::model::of_container;
use gannet_gguf::Gguf;

use super::cases::{self, Case};
use super::edit::dims;
use super::file::{File, Tensor, Val};
use super::{Base, compare, exact_cpu, vocab};

/// The plainest file of a family.
fn plain(arch: &str) -> &'static Case {
    let is_plain = |case: &&Case| case.is_plain && case.model.arch == arch;
    cases::all().find(is_plain).unwrap()
}

/// The line of an edited file's refusal, and the warnings of one that is opened all the same.
fn ends(arch: &str, edit: impl Fn(&mut File<'_>)) -> (Option<String>, Option<Vec<String>>) {
    let base = Gguf::from_vec("base", plain(arch).model.bytes(&vocab())).unwrap();
    let mut file = File::of(&base);
    edit(&mut file);
    let bytes = file.bytes().unwrap();
    let open = |options: &ModelOptions| {
        let gguf = Gguf::from_vec("edited", bytes.clone()).unwrap();
        of_container(gguf, options)
    };
    let mut ignoring = ModelOptions::default();
    ignoring.ignore_unknown = true;
    let warnings = open(&ignoring).ok();
    (
        open(&ModelOptions::default()).err().map(|e| e.to_string()),
        warnings.map(|model| model.warnings().map(str::to_owned).collect()),
    )
}

fn set(file: &mut File<'_>, suffix: &str, value: Val) {
    let key = file.key(suffix);
    file.keys.retain(|(k, _)| *k != key);
    file.keys.push((key, value));
}

/// Refused by name; or run with a warning that has the name, where that was asked for.
fn is_unread(arch: &str, name: &str, edit: impl Fn(&mut File<'_>)) {
    let (refused, warnings) = ends(arch, edit);
    let line = refused.unwrap_or_else(|| panic!("{arch} with {name} runs"));
    assert!(
        line.contains(name) && line.contains("--ignore-unknown"),
        "{arch}: {line}"
    );
    let warnings = warnings.unwrap_or_else(|| panic!("{arch} with {name} cannot be opened"));
    assert!(
        warnings.iter().any(|w| w.contains(name)),
        "{arch}: {warnings:?}"
    );
}

/// Refused by name, whatever is ignored.
fn is_refused(arch: &str, name: &str, edit: impl Fn(&mut File<'_>)) {
    let (refused, warnings) = ends(arch, edit);
    let line = refused.unwrap_or_else(|| panic!("{arch} with {name} runs"));
    assert!(line.contains(name), "{arch}: {line}");
    assert_eq!(warnings, None, "{arch} with {name}");
}

/// What is ignored is as if it were not there.
#[test]
fn what_is_ignored_changes_nothing() {
    let vocab = vocab();
    for (arch, suffix, value) in [
        ("llama", "logit_scale", Val::F32(0.5)),
        ("qwen2", "attention.causal", Val::Bool(false)),
        ("phi3", "final_logit_softcapping", Val::F32(1.0)),
    ] {
        let base = Base::new(plain(arch), &vocab);
        let mut file = File::of(&base.gguf);
        set(&mut file, suffix, value);
        let dims = dims(&file, &["heads"]);
        let sinks = Tensor::new("blk.0.attn_sinks.weight", &dims, || 1.0);
        file.tensors.push(sinks);
        let gguf = Gguf::from_vec("edited", file.bytes().unwrap()).unwrap();
        let mut options = ModelOptions::default();
        options.ignore_unknown = true;
        let found = exact_cpu(of_container(gguf, &options).unwrap(), &base).unwrap();
        let vocab_size = base.logits.len() / base.tokens.len();
        compare(&base.logits, &found, vocab_size).unwrap();
    }
}

#[test]
fn tensors_of_other_families_are_named() {
    let in_layers: &[(&str, &str, &[&str])] = &[
        // Norms of heads, in families that have none.
        ("qwen2", "attn_q_norm.weight", &["head"]),
        ("llama", "attn_k_norm.weight", &["head"]),
        ("phi3", "attn_q_norm.weight", &["head"]),
        ("gemma2", "attn_k_norm.weight", &["head"]),
        // Norms before or after what the family knows.
        ("llama", "post_attention_norm.weight", &["hidden"]),
        ("qwen3", "post_ffw_norm.weight", &["hidden"]),
        ("phi3", "attn_sub_norm.weight", &["hidden"]),
        ("gpt2", "attn_norm_2.weight", &["hidden"]),
        // Sinks.
        ("llama", "attn_sinks.weight", &["heads"]),
        ("gemma3", "attn_sinks.weight", &["heads"]),
        ("qwen3", "attn_sinks", &["heads"]),
        ("gpt2", "attn_sinks.weight", &["heads"]),
        // Biases of norms.
        ("llama", "attn_norm.bias", &["hidden"]),
        ("qwen2", "ffn_norm.bias", &["hidden"]),
        ("gemma2", "post_ffw_norm.bias", &["hidden"]),
        ("qwen3", "attn_q_norm.bias", &["head"]),
        // Gates, scales and experts.
        ("gpt2", "ffn_gate.weight", &["hidden", "ffn"]),
        ("llama", "attn_gate.weight", &["hidden", "q"]),
        ("qwen2", "attn_q.scale", &["heads"]),
        ("qwen3", "ffn_gate_inp.weight", &["hidden", "heads"]),
        ("gemma3", "layer_output_scale.weight", &["heads"]),
    ];
    for &(arch, name, sizes) in in_layers {
        let name = format!("blk.1.{name}");
        is_unread(arch, &name, |file| {
            let dims = dims(file, sizes);
            file.tensors.push(Tensor::new(&name, &dims, || 1.0));
        });
    }
    let others: &[(&str, &str, &[&str])] = &[
        // Embeddings of positions, in families that rotate.
        ("llama", "position_embd.weight", &["hidden", "context"]),
        ("qwen3", "position_embd.weight", &["hidden", "context"]),
        ("gemma2", "position_embd.weight", &["hidden", "context"]),
        ("llama", "output_norm.bias", &["hidden"]),
        ("qwen2", "token_embd_norm.weight", &["hidden"]),
        ("gpt2", "rope_freqs.weight", &["pairs"]),
        ("gemma3", "rope_freqs.weight", &["pairs"]),
        ("phi3", "rope_freqs.weight", &["pairs"]),
        ("qwen2", "cls.weight", &["hidden", "hidden"]),
    ];
    for &(arch, name, sizes) in others {
        is_unread(arch, name, |file| {
            let dims = dims(file, sizes);
            file.tensors.push(Tensor::new(name, &dims, || 1.0));
        });
    }
}

#[test]
fn fewer_layers_than_there_are_is_no_model() {
    for arch in ["llama", "qwen2", "qwen3", "gemma2", "phi3", "gpt2"] {
        is_unread(arch, "block_count 1", |file| {
            set(file, "block_count", Val::U32(1))
        });
    }
    is_refused("llama", "block_count 3", |file| {
        set(file, "block_count", Val::U32(3))
    });
}

#[test]
fn keys_that_change_the_arithmetic_are_named() {
    use Val::{Bool, F32, U32};
    let keys = [
        ("llama", "attention.causal", Bool(false)),
        ("qwen3", "attention.causal", Bool(false)),
        ("gemma3", "attention.causal", Bool(false)),
        ("gpt2", "attention.causal", Bool(false)),
        ("llama", "attention.sliding_window", U32(64)),
        ("qwen2", "attention.sliding_window", U32(4096)),
        ("qwen3", "attention.sliding_window_pattern", U32(4)),
        ("gpt2", "attention.sliding_window", U32(16)),
        ("llama", "attention.scale", F32(0.0078)),
        ("llama", "logit_scale", F32(0.0625)),
        ("qwen2", "embedding_scale", F32(12.0)),
        ("qwen3", "residual_scale", F32(0.22)),
        ("llama", "final_logit_softcapping", F32(30.0)),
        ("phi3", "attn_logit_softcapping", F32(50.0)),
        ("gpt2", "use_parallel_residual", Bool(true)),
        ("llama", "expert_feed_forward_length", U32(32)),
        ("qwen3", "expert_weights_scale", F32(2.5)),
        ("gpt2", "rope.freq_base", F32(1e4)),
        ("gpt2", "rope.dimension_count", U32(16)),
        ("llama", "attention.layer_norm_epsilon", F32(0.1)),
        ("gpt2", "attention.layer_norm_rms_epsilon", F32(0.1)),
        ("llama", "rope.scaling.yarn_attn_factor", F32(1.2)),
        ("qwen2", "rope.scaling.yarn_log_multiplier", F32(0.1)),
        ("qwen3", "rope.scaling.yarn_beta_fast", F32(8.0)),
        ("llama", "attention.key_length_swa", U32(16)),
        ("qwen3", "rope.dimension_sections", U32(8)),
        ("llama", "tensor_data_layout", Val::Text("rows".to_owned())),
        ("llama", "ssm.conv_kernel", U32(4)),
        ("llama", "what_comes_next", U32(0)),
    ];
    for (arch, suffix, value) in keys {
        is_unread(arch, suffix, |file| set(file, suffix, value.clone()));
    }
}

#[test]
fn numbers_that_no_model_has_are_refused() {
    use Val::{F32, U32};
    let keys = [
        ("llama", "rope.scaling.factor", F32(1e-45)),
        ("qwen2", "rope.scaling.factor", F32(1e30)),
        ("phi3", "rope.scaling.factor", F32(-4.0)),
        ("gemma3", "rope.scaling.factor", F32(f32::NAN)),
        ("llama", "rope.scale_linear", F32(1e-45)),
        ("llama", "rope.freq_base", F32(1e-45)),
        ("qwen3", "rope.freq_base", F32(f32::INFINITY)),
        ("gemma3", "rope.freq_base_swa", F32(0.0)),
        ("llama", "rope.scaling.attn_factor", F32(1e30)),
        ("gemma2", "final_logit_softcapping", F32(1e-45)),
        ("gemma2", "attn_logit_softcapping", F32(f32::INFINITY)),
        ("llama", "attention.layer_norm_rms_epsilon", F32(1e30)),
        ("llama", "expert_count", U32(8)),
        ("qwen3", "expert_count", U32(128)),
        ("gpt2", "expert_count", U32(2)),
        ("qwen2", "pooling_type", U32(5)),
        ("llama", "pooling_type", Val::Text("mean".to_owned())),
        (
            "llama",
            "rope.scaling.type",
            Val::Text("dynamic".to_owned()),
        ),
        (
            "llama",
            "rope.scaling.type",
            Val::Text("longrope".to_owned()),
        ),
        ("llama", "general.quantization_version", U32(1)),
    ];
    for (arch, suffix, value) in keys {
        is_refused(arch, suffix, |file| match suffix.starts_with("general.") {
            true => file.keys.push((suffix.to_owned(), value.clone())),
            false => set(file, suffix, value.clone()),
        });
    }
    is_refused("llama", "rope.scale_linear", |file| {
        set(file, "rope.scaling.factor", F32(4.0));
        set(file, "rope.scale_linear", F32(2.0));
    });
    is_refused("llama", "rope_freqs.weight", |file| {
        let dims = dims(file, &["pairs"]);
        let tensor = Tensor::new("rope_freqs.weight", &dims, || 1e-45);
        file.tensors.push(tensor);
    });
}

/// A list that holds one number counts as the number, for whatever key; another is refused.
#[test]
fn lists_by_layer_count_where_they_are_uniform() {
    use Val::{F32s, I32s, U32s};
    let lists = [
        (
            "llama",
            "attention.head_count_kv",
            U32s(vec![2, 2]),
            U32s(vec![2, 4]),
        ),
        (
            "llama",
            "attention.head_count",
            U32s(vec![4, 4]),
            U32s(vec![4, 2]),
        ),
        (
            "qwen2",
            "feed_forward_length",
            I32s(vec![80, 80]),
            I32s(vec![80, 40]),
        ),
        (
            "phi3",
            "feed_forward_length",
            U32s(vec![80, 80]),
            U32s(vec![80]),
        ),
        (
            "qwen3",
            "rope.freq_base",
            F32s(vec![1e6, 1e6]),
            F32s(vec![1e6, 1e4]),
        ),
        (
            "gpt2",
            "attention.head_count",
            U32s(vec![3, 3]),
            U32s(vec![3, 3, 3]),
        ),
    ];
    for (arch, suffix, uniform, other) in lists {
        let (refused, _) = ends(arch, |file| set(file, suffix, uniform.clone()));
        assert_eq!(refused, None, "{arch} {suffix}");
        is_refused(arch, suffix, |file| set(file, suffix, other.clone()));
    }
}

/// How vectors of texts are made changes no logits: the file is read, whatever it says.
#[test]
fn pooling_is_read() {
    for number in 0..=4 {
        let (refused, warnings) = ends("qwen2", |file| set(file, "pooling_type", Val::U32(number)));
        assert_eq!((refused, warnings), (None, Some(Vec::new())), "{number}");
    }
}
