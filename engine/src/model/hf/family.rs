//! The families as `config.json` describes them: a row each, with what a missing key means there.
//!
//! What a key that is missing means is what the family's class in transformers gives it, where all of
//! its versions agree; otherwise the key must be there.

use serde_json::{Value, json};

use super::config::Config;
use super::head::Head;
use super::rope;
use crate::Error;

/// A family: its architectures as folders name them, and how it is described.
pub(super) struct HfFamily {
    /// `general.architecture`.
    pub(super) arch: &'static str,
    /// `architectures`.
    pub(super) architectures: &'static [&'static str],
    /// `model_type`, where there are no architectures.
    pub(super) model_types: &'static [&'static str],
    pub(super) describe: fn(&Config, &mut Head) -> Result<Shape, Error>,
}

/// What the translation of tensors and of the vocabulary needs to know of a model.
pub(super) struct Shape {
    pub(super) num_heads: u64,
    pub(super) num_kv_heads: u64,
    pub(super) head_dim: u64,
    /// Positions.
    pub(super) context: u64,
    pub(super) vocab_size: Option<u64>,
    /// Whether the embedding is the head.
    pub(super) is_tied: bool,
    /// Whether a part of a head may turn alone.
    pub(super) turns_partly: bool,
    /// Which matrices have a bias, by keys of the file: the key, its value, parts of names.
    pub(super) biases: Vec<(&'static str, bool, &'static [&'static str])>,
}

pub(super) const FAMILIES: &[HfFamily] = &[
    HfFamily {
        arch: "llama",
        architectures: &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"],
        model_types: &["llama", "mistral"],
        describe: llama,
    },
    HfFamily {
        arch: "qwen2",
        architectures: &["Qwen2ForCausalLM"],
        model_types: &["qwen2"],
        describe: qwen2,
    },
    HfFamily {
        arch: "qwen3",
        architectures: &["Qwen3ForCausalLM"],
        model_types: &["qwen3"],
        describe: qwen3,
    },
    HfFamily {
        arch: "gemma2",
        architectures: &["Gemma2ForCausalLM"],
        model_types: &["gemma2"],
        describe: gemma2,
    },
    HfFamily {
        arch: "gemma3",
        architectures: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
        model_types: &["gemma3_text", "gemma3"],
        describe: gemma3,
    },
    HfFamily {
        arch: "phi3",
        architectures: &["Phi3ForCausalLM"],
        model_types: &["phi3"],
        describe: phi3,
    },
    HfFamily {
        arch: "gpt2",
        architectures: &["GPT2LMHeadModel"],
        model_types: &["gpt2"],
        describe: gpt2,
    },
];

/// What keys that are missing mean.
#[derive(Default)]
struct Defaults {
    layers: Option<u64>,
    hidden: Option<u64>,
    ffn: Option<u64>,
    heads: Option<u64>,
    /// None: as many as heads.
    kv_heads: Option<u64>,
    /// None: the width over the heads.
    head_dim: Option<u64>,
    context: Option<u64>,
    eps: f64,
    is_tied: bool,
}

const ALL_ATTENTION: &[&str] = &["attn_q", "attn_k", "attn_v", "attn_output"];
const FEED_FORWARD: &[&str] = &["ffn_gate", "ffn_up", "ffn_down"];

/// What all but GPT-2 say alike; context and rope follow by [`finish`].
fn decoder(c: &Config, head: &mut Head, d: &Defaults) -> Result<Shape, Error> {
    let mut int = |key: &str, suffix: &str, default: Option<u64>| {
        let found = c.int(key, default)?;
        head.set(suffix, found as u32, c, key)?;
        Ok::<u64, Error>(found)
    };
    int("num_hidden_layers", "block_count", d.layers)?;
    let hidden = int("hidden_size", "embedding_length", d.hidden)?;
    int("intermediate_size", "feed_forward_length", d.ffn)?;
    let heads = int("num_attention_heads", "attention.head_count", d.heads)?;
    let kv_default = Some(d.kv_heads.unwrap_or(heads));
    let kv_heads = int("num_key_value_heads", "attention.head_count_kv", kv_default)?;
    for (key, found) in [
        ("num_attention_heads", heads),
        ("num_key_value_heads", kv_heads),
    ] {
        if found == 0 {
            return Err(c.bad(key, &json!(found), "must be at least 1"));
        }
    }
    let head_dim = match c.opt_int("head_dim")?.or(d.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let expected =
                format!("must be a multiple of num_attention_heads, {heads}, without head_dim");
            return Err(c.bad("hidden_size", &json!(hidden), &expected));
        }
    };
    head.set("attention.key_length", head_dim as u32, c, "head_dim")?;
    head.set("attention.value_length", head_dim as u32, c, "head_dim")?;
    let eps = c.number("rms_norm_eps", Some(d.eps))?;
    head.set(
        "attention.layer_norm_rms_epsilon",
        eps as f32,
        c,
        "rms_norm_eps",
    )?;
    Ok(Shape {
        num_heads: heads,
        num_kv_heads: kv_heads,
        head_dim,
        context: c.int("max_position_embeddings", d.context)?,
        vocab_size: c.opt_int("vocab_size")?,
        is_tied: c.flag("tie_word_embeddings", d.is_tied)?,
        turns_partly: false,
        biases: Vec::new(),
    })
}

/// Writes the rope and the context.
fn finish(c: &Config, head: &mut Head, mut shape: Shape, theta: f64) -> Result<Shape, Error> {
    rope::write(c, head, &mut shape, theta)?;
    let context = u32::try_from(shape.context).unwrap_or(u32::MAX);
    head.set("context_length", context, c, "max_position_embeddings")?;
    Ok(shape)
}

/// A window of layers whose family attends to all here: up to its length both are the same.
fn limit_to_window(c: &Config, head: &mut Head, shape: &mut Shape, window: u64) {
    if window < shape.context {
        head.warnings.push(format!(
            "config.json: {} {window}: contexts end there, as {} models attend to all before them here",
            c.key("sliding_window"),
            head.arch
        ));
        shape.context = window;
    }
}

/// Whether any layer has a window, by `layer_types`.
fn slides(c: &Config) -> Result<Option<Vec<bool>>, Error> {
    let Some(types) = c.texts("layer_types")? else {
        return Ok(None);
    };
    let slides = types.iter().map(|ty| match *ty {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => {
            let expected = "layers here are full_attention or sliding_attention";
            Err(c.bad("layer_types", &Value::from(other), expected))
        }
    });
    slides.collect::<Result<_, _>>().map(Some)
}

fn llama(c: &Config, head: &mut Head) -> Result<Shape, Error> {
    let is_mistral = c.text("model_type")? == Some("mistral");
    let defaults = match is_mistral {
        true => Defaults {
            kv_heads: Some(8),
            context: Some(131_072),
            eps: 1e-6,
            ..Defaults::default()
        },
        false => Defaults {
            context: Some(2048),
            eps: 1e-6,
            ..Defaults::default()
        },
    };
    let mut shape = decoder(c, head, &defaults)?;
    c.require("hidden_act", &["silu", "swish"], "silu")?;
    let unsaid = (is_mistral && !c.has("sliding_window")).then_some(4096);
    if let Some(window) = c.opt_int("sliding_window")?.or(unsaid) {
        limit_to_window(c, head, &mut shape, window);
    }
    shape.biases = vec![
        (
            "attention_bias",
            c.flag("attention_bias", false)?,
            ALL_ATTENTION,
        ),
        ("mlp_bias", c.flag("mlp_bias", false)?, FEED_FORWARD),
    ];
    finish(c, head, shape, 1e4)
}

/// The windows of Qwen, which most of its files switch off.
fn qwen_window(c: &Config, head: &mut Head, shape: &mut Shape) -> Result<(), Error> {
    let uses = c.flag("use_sliding_window", false)?;
    let (window, from) = (
        c.opt_int("sliding_window")?,
        c.opt_int("max_window_layers")?,
    );
    let layers = c.int("num_hidden_layers", None)?;
    let any = match slides(c)? {
        Some(slides) => slides.contains(&true),
        None => uses && from.unwrap_or(28) < layers,
    };
    if any {
        limit_to_window(c, head, shape, window.unwrap_or(4096));
    }
    Ok(())
}

fn qwen2(c: &Config, head: &mut Head) -> Result<Shape, Error> {
    let defaults = Defaults {
        kv_heads: Some(32),
        context: Some(32_768),
        eps: 1e-6,
        ..Defaults::default()
    };
    let mut shape = decoder(c, head, &defaults)?;
    c.require("hidden_act", &["silu", "swish"], "silu")?;
    qwen_window(c, head, &mut shape)?;
    shape.biases = vec![("architectures", true, &["attn_q", "attn_k", "attn_v"])];
    finish(c, head, shape, 1e4)
}

fn qwen3(c: &Config, head: &mut Head) -> Result<Shape, Error> {
    let defaults = Defaults {
        kv_heads: Some(32),
        head_dim: Some(128),
        context: Some(32_768),
        eps: 1e-6,
        ..Defaults::default()
    };
    let mut shape = decoder(c, head, &defaults)?;
    c.require("hidden_act", &["silu", "swish"], "silu")?;
    qwen_window(c, head, &mut shape)?;
    let key = "attention_bias";
    shape.biases = vec![(key, c.flag(key, false)?, ALL_ATTENTION)];
    finish(c, head, shape, 1e4)
}

const GEMMA_GELU: &str = "gelu_pytorch_tanh";

/// What Gemma 2 and 3 say alike beyond the other families.
fn gemma(c: &Config, head: &mut Head, shape: &mut Shape, of_27b: u64) -> Result<(), Error> {
    // The first files of the family have a name in hidden_act that nothing of it reads.
    let is_new = c.text("hidden_activation")?.is_some();
    let old = c.text("hidden_act")?.map(str::to_owned);
    match (is_new, old.as_deref()) {
        (true, _) => c.require("hidden_activation", &[GEMMA_GELU], GEMMA_GELU)?,
        (false, Some("gelu")) => {}
        (false, _) => c.require("hidden_act", &[GEMMA_GELU], GEMMA_GELU)?,
    }
    let window = c.int("sliding_window", Some(4096))?;
    head.set(
        "attention.sliding_window",
        window as u32,
        c,
        "sliding_window",
    )?;
    let layers = c.int("num_hidden_layers", Some(26))?;
    let hidden = c.int("hidden_size", Some(2304))?;
    let usual = match layers == of_27b {
        true => hidden as f64 / shape.num_heads as f64,
        false => shape.head_dim as f64,
    };
    let key = "query_pre_attn_scalar";
    let scalar = c.number(key, Some(256.0))?;
    if scalar != usual {
        let expected = format!("{} models of {layers} layers have {usual} here", head.arch);
        return Err(c.bad(key, &json!(scalar), &expected));
    }
    if let Some(slides) = slides(c)? {
        let suffix = "attention.sliding_window_pattern";
        head.set_flags(suffix, &slides, c, "layer_types")?;
    }
    let key = "attention_bias";
    shape.biases = vec![(key, c.flag(key, false)?, ALL_ATTENTION)];
    Ok(())
}

fn gemma2(c: &Config, head: &mut Head) -> Result<Shape, Error> {
    let defaults = Defaults {
        layers: Some(26),
        hidden: Some(2304),
        ffn: Some(9216),
        heads: Some(8),
        kv_heads: Some(4),
        head_dim: Some(256),
        context: Some(8192),
        eps: 1e-6,
        is_tied: true,
    };
    let mut shape = decoder(c, head, &defaults)?;
    gemma(c, head, &mut shape, 46)?;
    for (key, suffix, default) in [
        ("attn_logit_softcapping", "attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", "final_logit_softcapping", 30.0),
    ] {
        if c.has(key) && c.get(key).is_none() {
            let expected = "must be a number: scores and logits of gemma2 models are bent here";
            return Err(c.bad(key, &Value::Null, expected));
        }
        let cap = c.number(key, Some(default))?;
        head.set(suffix, cap as f32, c, key)?;
    }
    finish(c, head, shape, 1e4)
}

/// The models with images have the language model in an object of its own; images are not read here.
fn gemma3(top: &Config, head: &mut Head) -> Result<Shape, Error> {
    let text = top.object("text_config")?;
    if text.is_some() {
        for key in [
            "vision_config",
            "mm_tokens_per_image",
            "boi_token_index",
            "eoi_token_index",
            "image_token_index",
            "vision_use_head",
        ] {
            // Said to be left out, below.
            top.get(key);
        }
        let line =
            "config.json: vision_config: left out with its tensors, texts alone are read here";
        head.warnings.push(line.to_owned());
    }
    let is_tied_above = top.flag("tie_word_embeddings", true)?;
    let c = text.as_ref().unwrap_or(top);
    let defaults = Defaults {
        layers: Some(26),
        hidden: Some(2304),
        ffn: Some(9216),
        heads: Some(8),
        kv_heads: Some(4),
        head_dim: Some(256),
        context: Some(131_072),
        eps: 1e-6,
        is_tied: is_tied_above,
    };
    let mut shape = decoder(c, head, &defaults)?;
    gemma(c, head, &mut shape, 62)?;
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = c.opt_number(key)? {
            head.set(key, cap as f32, c, key)?;
        }
    }
    let key = c.first_of(&["sliding_window_pattern", "_sliding_window_pattern"]);
    let period = c.opt_int(key)?;
    if let Some(period) = period.filter(|_| !c.has("layer_types")) {
        let suffix = "attention.sliding_window_pattern";
        head.set(suffix, period as u32, c, key)?;
    }
    rope::write_local(c, head, "rope_local_base_freq", 1e4)?;
    finish(c, head, shape, 1e6)
}

fn phi3(c: &Config, head: &mut Head) -> Result<Shape, Error> {
    let defaults = Defaults {
        context: Some(4096),
        eps: 1e-5,
        ..Defaults::default()
    };
    let mut shape = decoder(c, head, &defaults)?;
    shape.turns_partly = true;
    c.require("hidden_act", &["silu", "swish"], "silu")?;
    if let Some(window) = c.opt_int("sliding_window")? {
        head.set(
            "attention.sliding_window",
            window as u32,
            c,
            "sliding_window",
        )?;
    }
    let key = "attention_bias";
    shape.biases = vec![(key, c.flag(key, false)?, &["attn_qkv", "attn_output"])];
    // Read where a rope is long.
    c.opt_int("original_max_position_embeddings")?;
    finish(c, head, shape, 1e4)
}

fn gpt2(c: &Config, head: &mut Head) -> Result<Shape, Error> {
    let mut int = |key: &str, suffix: &str, default: Option<u64>| {
        let found = c.int(key, default)?;
        head.set(suffix, found as u32, c, key)?;
        Ok::<u64, Error>(found)
    };
    int("n_layer", "block_count", Some(12))?;
    let hidden = int("n_embd", "embedding_length", Some(768))?;
    let heads = int("n_head", "attention.head_count", Some(12))?;
    int("n_inner", "feed_forward_length", Some(4 * hidden))?;
    let context = int("n_positions", "context_length", Some(1024))?;
    if let Some(other) = c.opt_int("n_ctx")?.filter(|&n| n != context) {
        let expected = format!("must equal n_positions, which is {context}");
        return Err(c.bad("n_ctx", &json!(other), &expected));
    }
    if heads == 0 {
        return Err(c.bad("n_head", &json!(heads), "must be at least 1"));
    }
    head.set("attention.head_count_kv", heads as u32, c, "n_head")?;
    let eps = c.number("layer_norm_epsilon", Some(1e-5))?;
    head.set(
        "attention.layer_norm_epsilon",
        eps as f32,
        c,
        "layer_norm_epsilon",
    )?;
    let gelus = ["gelu_new", "gelu_pytorch_tanh"];
    c.require("activation_function", &gelus, "gelu_new")?;
    let all: &[&str] = &[
        "attn_qkv",
        "attn_output",
        "ffn_up",
        "ffn_down",
        "attn_norm",
        "ffn_norm",
    ];
    Ok(Shape {
        num_heads: heads,
        num_kv_heads: heads,
        head_dim: hidden / heads,
        context,
        vocab_size: c.opt_int("vocab_size")?,
        is_tied: c.flag("tie_word_embeddings", true)?,
        turns_partly: false,
        biases: vec![("architectures", true, all)],
    })
}
