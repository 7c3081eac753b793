//! Writes a GGUF model as a folder of safetensors: the translation backwards, by other code.

use std::fs;
use std::path::Path;

use gannet_gguf::{Gguf, Metadata, TensorInfo, TensorType};
use serde_json::{Map, Value, json};

/// A tensor as folders have it.
struct Stored {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

/// How a folder is written.
pub(crate) struct How<'a> {
    /// Files of the weights.
    pub shards: usize,
    /// Bytes that a header is longer than it must be, so that data is aligned to nothing.
    pub padding: usize,
    /// Changes `config.json`.
    pub config: &'a dyn Fn(&mut Value),
    /// Changes `tokenizer.json`.
    pub tokenizer: &'a dyn Fn(&mut Value),
}

impl Default for How<'_> {
    fn default() -> Self {
        How {
            shards: 1,
            padding: 0,
            config: &|_| {},
            tokenizer: &|_| {},
        }
    }
}

/// Writes a model's folder.
pub(crate) fn write(gguf: &Gguf, folder: &Path, how: &How<'_>) {
    let meta = gguf.metadata();
    let mut config = config(gguf);
    (how.config)(&mut config);
    let mut tokenizer = tokenizer(meta);
    (how.tokenizer)(&mut tokenizer);
    let save = |name: &str, value: &Value| {
        fs::write(folder.join(name), value.to_string()).unwrap();
    };
    save("config.json", &config);
    save("tokenizer.json", &tokenizer);
    let stored: Vec<Stored> = gguf
        .tensors()
        .iter()
        .filter_map(|t| stored(gguf, t))
        .collect();
    if how.shards == 1 {
        safetensors(&folder.join("model.safetensors"), &stored, how.padding);
        return;
    }
    let mut weight_map = Map::new();
    for (at, part) in stored.chunks(stored.len().div_ceil(how.shards)).enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", at + 1, how.shards);
        safetensors(&folder.join(&name), part, how.padding);
        for tensor in part {
            weight_map.insert(tensor.name.clone(), json!(name));
        }
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    save("model.safetensors.index.json", &index);
}

fn safetensors(path: &Path, tensors: &[Stored], padding: usize) {
    let (mut header, mut end) = (Map::new(), 0);
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for t in tensors {
        let begin = end;
        end += t.bytes.len();
        let entry = json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [begin, end]});
        header.insert(t.name.clone(), entry);
    }
    let mut header = Value::from(header).to_string();
    let len = header.len().next_multiple_of(8) + padding;
    header.push_str(&" ".repeat(len - header.len()));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    for t in tensors {
        bytes.extend(&t.bytes);
    }
    fs::write(path, bytes).unwrap();
}

fn arch(meta: &Metadata) -> &str {
    meta.str("general.architecture").unwrap()
}

fn int(meta: &Metadata, suffix: &str) -> u64 {
    meta.u64(&format!("{}.{suffix}", arch(meta))).unwrap()
}

/// A tensor in the order, under the name and with the values of folders; none for those that follow from
/// the configuration.
fn stored(gguf: &Gguf, t: &TensorInfo) -> Option<Stored> {
    let (meta, data) = (gguf.metadata(), gguf.data(t));
    let arch = arch(meta);
    let name = name(arch, &t.name)?;
    let mut shape: Vec<u64> = t.dims.iter().rev().copied().collect();
    let (dtype, width) = match t.ty {
        TensorType::F32 => ("F32", 4),
        TensorType::F16 => ("F16", 2),
        TensorType::BF16 => ("BF16", 2),
        other => panic!("{other}"),
    };
    let row = t.bytes as usize / shape[0] as usize;
    let mut bytes = data.to_vec();
    let heads = match (arch, t.name.split('.').nth(2)) {
        ("llama", Some("attn_q")) => Some(int(meta, "attention.head_count")),
        ("llama", Some("attn_k")) => Some(int(meta, "attention.head_count_kv")),
        _ => None,
    };
    if let Some(heads) = heads {
        let dim = shape[0] as usize / heads as usize;
        for (to, out) in bytes.chunks_mut(row).enumerate() {
            let (head, within) = (to / dim, to % dim);
            // The first half of a head has the first of each pair.
            let from = head * dim + 2 * (within % (dim / 2)) + within / (dim / 2);
            out.copy_from_slice(&data[from * row..][..row]);
        }
    }
    if arch.starts_with("gemma") && t.name.contains("norm") {
        for out in bytes.chunks_mut(4) {
            let v = f32::from_le_bytes(out.try_into().unwrap());
            out.copy_from_slice(&(v - 1.0).to_le_bytes());
        }
    }
    if arch == "gpt2" && shape.len() == 2 && name.contains(".c_") {
        let (rows, cols) = (shape[0] as usize, shape[1] as usize);
        bytes.clear();
        for col in 0..cols {
            for r in 0..rows {
                bytes.extend(&data[(r * cols + col) * width..][..width]);
            }
        }
        shape.reverse();
    }
    Some(Stored {
        name,
        dtype,
        shape,
        bytes,
    })
}

/// The name of a tensor in folders.
fn name(arch: &str, name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.').unwrap();
    let is_gpt2 = arch == "gpt2";
    let top = match module {
        "token_embd" if is_gpt2 => "transformer.wte",
        "position_embd" => "transformer.wpe",
        "output_norm" if is_gpt2 => "transformer.ln_f",
        "token_embd" => "model.embed_tokens",
        "output_norm" => "model.norm",
        "output" => "lm_head",
        "rope_freqs" | "rope_factors_long" | "rope_factors_short" => return None,
        _ => "",
    };
    if !top.is_empty() {
        return Some(format!("{top}.{kind}"));
    }
    let (layer, module) = module
        .strip_prefix("blk.")
        .unwrap()
        .split_once('.')
        .unwrap();
    let is_gemma = arch.starts_with("gemma");
    let inner = match module {
        "attn_norm" if is_gpt2 => "ln_1",
        "attn_qkv" if is_gpt2 => "attn.c_attn",
        "attn_output" if is_gpt2 => "attn.c_proj",
        "ffn_norm" if is_gpt2 => "ln_2",
        "ffn_up" if is_gpt2 => "mlp.c_fc",
        "ffn_down" if is_gpt2 => "mlp.c_proj",
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_qkv" => "self_attn.qkv_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "attn_output" => "self_attn.o_proj",
        "post_attention_norm" => "post_attention_layernorm",
        "ffn_norm" if is_gemma => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        "ffn_up" if arch == "phi3" => "mlp.gate_up_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        other => panic!("{other}"),
    };
    let layers = if is_gpt2 {
        "transformer.h"
    } else {
        "model.layers"
    };
    Some(format!("{layers}.{layer}.{inner}.{kind}"))
}

fn config(gguf: &Gguf) -> Value {
    let meta = gguf.metadata();
    let arch = arch(meta);
    let int = |suffix: &str| int(meta, suffix);
    let opt = |suffix: &str| meta.opt_u64(&format!("{arch}.{suffix}")).unwrap();
    let float = |suffix: &str| {
        let value = meta.opt_f32(&format!("{arch}.{suffix}")).unwrap();
        // By its shortest decimal form, as people write it.
        value.map(|v| v.to_string().parse::<f64>().unwrap())
    };
    let is_tied = gguf.tensor("output.weight").is_none();
    let vocab = gguf.tensor("token_embd.weight").unwrap().dims[1];
    let mut config = json!({
        "vocab_size": vocab, "tie_word_embeddings": is_tied, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": true, "initializer_range": 0.02,
        "bos_token_id": meta.opt_u64("tokenizer.ggml.bos_token_id").unwrap(),
        "eos_token_id": meta.opt_u64("tokenizer.ggml.eos_token_id").unwrap(),
    });
    let mut set = |key: &str, value: Value| config[key] = value;
    if arch == "gpt2" {
        set("architectures", json!(["GPT2LMHeadModel"]));
        set("model_type", json!("gpt2"));
        set("n_layer", json!(int("block_count")));
        set("n_embd", json!(int("embedding_length")));
        set("n_head", json!(int("attention.head_count")));
        set("n_inner", json!(int("feed_forward_length")));
        set("n_positions", json!(int("context_length")));
        set("n_ctx", json!(int("context_length")));
        set(
            "layer_norm_epsilon",
            json!(float("attention.layer_norm_epsilon")),
        );
        set("activation_function", json!("gelu_new"));
        return config;
    }
    let (class, model_type) = match arch {
        "llama" => ("LlamaForCausalLM", "llama"),
        "qwen2" => ("Qwen2ForCausalLM", "qwen2"),
        "qwen3" => ("Qwen3ForCausalLM", "qwen3"),
        "gemma2" => ("Gemma2ForCausalLM", "gemma2"),
        "gemma3" => ("Gemma3ForCausalLM", "gemma3_text"),
        "phi3" => ("Phi3ForCausalLM", "phi3"),
        other => panic!("{other}"),
    };
    set("architectures", json!([class]));
    set("model_type", json!(model_type));
    set("num_hidden_layers", json!(int("block_count")));
    set("hidden_size", json!(int("embedding_length")));
    set("intermediate_size", json!(int("feed_forward_length")));
    set("num_attention_heads", json!(int("attention.head_count")));
    set("num_key_value_heads", json!(int("attention.head_count_kv")));
    set("max_position_embeddings", json!(int("context_length")));
    set(
        "rms_norm_eps",
        json!(float("attention.layer_norm_rms_epsilon")),
    );
    set("rope_theta", json!(float("rope.freq_base").unwrap_or(1e4)));
    set("hidden_act", json!("silu"));
    let usual = int("embedding_length") / int("attention.head_count");
    let head_dim = opt("attention.key_length").unwrap_or(usual);
    if head_dim != usual || arch.starts_with("gemma") || arch == "qwen3" {
        set("head_dim", json!(head_dim));
    }
    if arch.starts_with("gemma") {
        set("hidden_act", json!("gelu_pytorch_tanh"));
        set("hidden_activation", json!("gelu_pytorch_tanh"));
        set("query_pre_attn_scalar", json!(head_dim));
        set("sliding_window", json!(opt("attention.sliding_window")));
        set(
            "attn_logit_softcapping",
            json!(float("attn_logit_softcapping")),
        );
        set(
            "final_logit_softcapping",
            json!(float("final_logit_softcapping")),
        );
    }
    if arch == "gemma3" {
        set("rope_local_base_freq", json!(float("rope.freq_base_swa")));
    }
    if gguf.tensor("rope_freqs.weight").is_some() {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
        set("rope_scaling", scaling);
    }
    config
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A file's vocabulary as `tokenizer.json`.
pub(crate) fn tokenizer(meta: &Metadata) -> Value {
    let texts: Vec<&str> = meta
        .strings("tokenizer.ggml.tokens")
        .unwrap()
        .iter()
        .collect();
    let types = meta.i32s("tokenizer.ggml.token_type").unwrap();
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, (text, ty)) in texts.iter().zip(&types).enumerate() {
        match ty {
            1 => {
                vocab.insert((*text).to_owned(), json!(id));
            }
            3 | 4 => added.push(json!({"id": id, "content": text, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": *ty == 3})),
            other => panic!("{other}"),
        }
    }
    let merges: Vec<&str> = meta
        .strings("tokenizer.ggml.merges")
        .unwrap()
        .iter()
        .collect();
    let bytes = |words: bool| {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": words})
    };
    let pre = meta.str("tokenizer.ggml.pre").unwrap();
    let words = |rule: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": false},
            bytes(false)]})
    };
    let steps = match pre {
        "gpt-2" => bytes(true),
        "llama-bpe" => words(LLAMA3),
        "qwen2" => words(&LLAMA3.replace("{1,3}", "")),
        other => panic!("{other}"),
    };
    let bos = meta.u64("tokenizer.ggml.bos_token_id").unwrap() as usize;
    let first = json!({"SpecialToken": {"id": texts[bos], "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": (pre == "qwen2").then(|| json!({"type": "NFC"})), "pre_tokenizer": steps, "decoder": {"type": "ByteLevel"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {}},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": pre == "llama-bpe", "vocab": vocab,
            "merges": merges},
    })
}
