//! What `config.json` says, in every spelling: the keys and factors that follow.

use gannet_engine::internals::files::Source;
use gannet_engine::internals::model::hf::HfFolder;
use gannet_gguf::Gguf;
use serde_json::{Value, json};

use crate::common::{micro_file, shared};
use crate::made::{self, How};

/// A folder made of a micro-model with another configuration.
pub(crate) fn folder_of(model: &str, change: &dyn Fn(&mut Value)) -> Option<tempfile::TempDir> {
    let path = shared("folders", &micro_file(&format!("golden/{model}")))?;
    let folder = tempfile::tempdir().unwrap();
    let how = How {
        config: change,
        ..How::default()
    };
    made::write(&Gguf::open(path).unwrap(), folder.path(), &how);
    Some(folder)
}

/// The header that follows, as `key -> value` texts, and the factors.
fn opened(model: &str, change: &dyn Fn(&mut Value)) -> Option<HfFolder> {
    let folder = folder_of(model, change)?;
    Some(HfFolder::open(folder.path(), false).unwrap_or_else(|e| panic!("{model}: {e}")))
}

fn number(folder: &HfFolder, key: &str) -> Option<f64> {
    let value = folder.metadata().get(key)?;
    value.as_float().or(value.as_int().map(|i| i as f64))
}

fn text(folder: &HfFolder, key: &str) -> Option<String> {
    folder.metadata().opt_str(key).unwrap().map(str::to_owned)
}

fn factors(folder: &HfFolder, name: &str) -> Vec<f32> {
    let tensor = folder.find(name).unwrap_or_else(|| panic!("no {name}"));
    let bytes = folder.bytes(tensor.index);
    bytes
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn near(found: Option<f64>, right: f64) {
    let found = found.expect("a number");
    assert!(
        (found - right).abs() <= 1e-6 * right.abs(),
        "{found} is not {right}"
    );
}

#[test]
fn ropes_are_stretched_by_every_spelling() {
    let key = |suffix: &str| format!("llama.rope.scaling.{suffix}");
    let with = |scaling: Value| {
        opened("arch/llama", &move |c: &mut Value| {
            c["rope_scaling"] = scaling.clone()
        })
    };
    let Some(plain) = with(Value::Null) else {
        return;
    };
    assert_eq!(text(&plain, &key("type")), None);
    for spelled in [
        json!({"type": "linear", "factor": 4.0}),
        json!({"rope_type": "linear", "factor": 4}),
        json!({"rope_type": "linear", "type": "linear", "factor": 4.0}),
    ] {
        let linear = with(spelled).unwrap();
        assert_eq!(text(&linear, &key("type")).as_deref(), Some("linear"));
        near(number(&linear, &key("factor")), 4.0);
    }
    let yarn = with(
        json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": 16, "beta_slow": 2,
        "original_max_position_embeddings": 128}),
    )
    .unwrap();
    assert_eq!(text(&yarn, &key("type")).as_deref(), Some("yarn"));
    near(number(&yarn, &key("factor")), 4.0);
    near(number(&yarn, &key("original_context_length")), 128.0);
    near(number(&yarn, &key("yarn_beta_fast")), 16.0);
    near(number(&yarn, &key("yarn_beta_slow")), 2.0);
    assert_eq!(number(&yarn, &key("attn_factor")), None);
    near(number(&yarn, "llama.context_length"), 512.0);
    // What is not YaRN's own growth, 1 + 0.1 ln 4.
    let own = 1.0 + 0.1 * 4f64.ln();
    let given = with(json!({"type": "yarn", "factor": 4.0, "attention_factor": 1.5})).unwrap();
    near(number(&given, &key("attn_factor")), 1.5 / own);
    let scaled = with(json!({"type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.4}));
    let growth = |m: f64| 1.0 + 0.1 * m * 4f64.ln();
    near(
        number(&scaled.unwrap(), &key("attn_factor")),
        growth(0.7) / growth(0.4) / own,
    );
    let dynamic = with(json!({"type": "dynamic", "factor": 2.0})).unwrap();
    assert_eq!(text(&dynamic, &key("type")), None);
    assert!(
        dynamic.warnings()[0].contains("contexts end"),
        "{:?}",
        dynamic.warnings()
    );

    let newer = opened("arch/llama", &|c: &mut Value| {
        c.as_object_mut().unwrap().remove("rope_theta");
        c["rope_parameters"] = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5});
    })
    .unwrap();
    near(number(&newer, "llama.rope.freq_base"), 5e5);
    near(number(&newer, &key("factor")), 2.0);
}

/// The formula of Llama 3.1, by its own words: wavelengths.
#[test]
fn factors_of_llama_3_follow_from_wavelengths() {
    let Some(folder) = opened("arch/llama", &|c: &mut Value| {
        c["rope_theta"] = json!(500_000.0);
        c["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    }) else {
        return;
    };
    let dim = number(&folder, "llama.rope.dimension_count").unwrap();
    for (pair, &found) in factors(&folder, "rope_freqs.weight").iter().enumerate() {
        let frequency = 1.0 / 500_000f64.powf(2.0 * pair as f64 / dim);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        let right = if wavelength < 8192.0 / 4.0 {
            frequency
        } else if wavelength > 8192.0 {
            frequency / 8.0
        } else {
            let smooth = (8192.0 / wavelength - 1.0) / 3.0;
            (1.0 - smooth) * frequency / 8.0 + smooth * frequency
        };
        near(Some(f64::from(found)), frequency / right);
    }
}

#[test]
fn long_ropes_have_both_factors_and_their_scale() {
    let long: Vec<f64> = (0..8).map(|i| 1.5 + f64::from(i)).collect();
    let short: Vec<f64> = (0..8).map(|i| 1.0 + 0.1 * f64::from(i)).collect();
    for name in ["longrope", "su"] {
        let (long, short) = (long.clone(), short.clone());
        let Some(folder) = opened("arch/phi3", &|c: &mut Value| {
            c["original_max_position_embeddings"] = json!(64);
            c["rope_scaling"] = json!({"type": name, "long_factor": long, "short_factor": short});
        }) else {
            return;
        };
        assert_eq!(
            text(&folder, "phi3.rope.scaling.type").as_deref(),
            Some("longrope")
        );
        near(
            number(&folder, "phi3.rope.scaling.original_context_length"),
            64.0,
        );
        let right = (1.0 + (256f64 / 64.0).ln() / 64f64.ln()).sqrt();
        near(number(&folder, "phi3.rope.scaling.attn_factor"), right);
        assert_eq!(factors(&folder, "rope_factors_long.weight")[7], 8.5);
        assert_eq!(factors(&folder, "rope_factors_short.weight")[1], 1.1);
    }
}

#[test]
fn windows_layers_and_parts_of_heads_are_read() {
    let Some(gemma3) = opened("arch/gemma3", &|c: &mut Value| {
        let full = "full_attention";
        let near = "sliding_attention";
        c["layer_types"] = json!([near, full, near, near, full, full]);
        c["rope_parameters"] = json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}});
    }) else {
        return;
    };
    let pattern = gemma3
        .metadata()
        .bools("gemma3.attention.sliding_window_pattern")
        .unwrap();
    assert_eq!(pattern, [true, false, true, true, false, false]);
    near(number(&gemma3, "gemma3.rope.freq_base_swa"), 1e4);
    near(number(&gemma3, "gemma3.rope.scaling.factor"), 8.0);
    let period = opened("arch/gemma3", &|c: &mut Value| {
        c["sliding_window_pattern"] = json!(3)
    });
    let key = "gemma3.attention.sliding_window_pattern";
    near(number(&period.unwrap(), key), 3.0);

    let phi4 = opened("arch/phi3", &|c: &mut Value| {
        c["partial_rotary_factor"] = json!(0.75);
        c["sliding_window"] = json!(64);
    });
    let phi4 = phi4.unwrap();
    near(number(&phi4, "phi3.rope.dimension_count"), 12.0);
    near(number(&phi4, "phi3.attention.sliding_window"), 64.0);

    // A window where the family has none ends the context.
    let mistral = opened("arch/llama", &|c: &mut Value| {
        c["architectures"] = json!(["MistralForCausalLM"]);
        c["model_type"] = json!("mistral");
        c["sliding_window"] = json!(100);
    });
    let mistral = mistral.unwrap();
    near(number(&mistral, "llama.context_length"), 100.0);
    assert!(mistral.warnings()[0].contains("sliding_window 100"));
    let unused = opened("arch/qwen2", &|c: &mut Value| {
        c["use_sliding_window"] = json!(false);
        c["sliding_window"] = json!(100);
        c["max_window_layers"] = json!(1);
    });
    near(number(&unused.unwrap(), "qwen2.context_length"), 256.0);
}

/// The models with images have the language model inside.
#[test]
fn a_text_model_inside_another_is_found() {
    let Some(folder) = folder_of("arch/gemma3", &|c: &mut Value| {
        let mut text = c.clone();
        for key in ["architectures", "bos_token_id", "eos_token_id"] {
            text.as_object_mut().unwrap().remove(key);
        }
        *c = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "text_config": text, "vision_config": {"hidden_size": 8}, "eos_token_id": [317, 5],
            "mm_tokens_per_image": 256, "torch_dtype": "bfloat16"});
    }) else {
        return;
    };
    let folder = HfFolder::open(folder.path(), false).unwrap();
    near(number(&folder, "gemma3.block_count"), 6.0);
    assert!(folder.warnings()[0].contains("vision_config"));
    let ends = folder
        .metadata()
        .u32s("tokenizer.ggml.eos_token_ids")
        .unwrap();
    assert_eq!(ends, [317, 5]);
}

#[test]
fn tokens_and_templates_come_from_all_files() {
    let Some(folder) = folder_of("arch/llama", &|_| {}) else {
        return;
    };
    let write = |name: &str, value: Value| {
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    };
    let open = || HfFolder::open(folder.path(), false).unwrap();
    let texts = open()
        .metadata()
        .strings("tokenizer.ggml.tokens")
        .unwrap()
        .iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    write(
        "generation_config.json",
        json!({"eos_token_id": [318, 317], "temperature": 0.6}),
    );
    write(
        "tokenizer_config.json",
        json!({"eos_token": {"content": texts[319]},
        "bos_token": texts[316], "add_bos_token": false, "chat_template": "{{ messages }}",
        "added_tokens_decoder": {"1": {"content": "x"}}}),
    );
    let found = open();
    let meta = found.metadata();
    assert_eq!(meta.u32("tokenizer.ggml.eos_token_id").unwrap(), 319);
    assert_eq!(
        meta.u32s("tokenizer.ggml.eos_token_ids").unwrap(),
        [319, 317, 318]
    );
    assert!(!meta.bool("tokenizer.ggml.add_bos_token").unwrap());
    assert_eq!(
        meta.str("tokenizer.chat_template").unwrap(),
        "{{ messages }}"
    );
    let model = gannet_engine::Model::open(folder.path()).unwrap();
    assert!(
        [317, 318, 319]
            .iter()
            .all(|&id| model.tokenizer().is_eog(id))
    );
    write(
        "tokenizer_config.json",
        json!({"chat_template": [
        {"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}),
    );
    let found = open();
    assert_eq!(
        found.metadata().str("tokenizer.chat_template").unwrap(),
        "a"
    );
    assert_eq!(
        found
            .metadata()
            .str("tokenizer.chat_template.tool_use")
            .unwrap(),
        "b"
    );
    std::fs::write(folder.path().join("chat_template.jinja"), "c").unwrap();
    assert_eq!(
        open().metadata().str("tokenizer.chat_template").unwrap(),
        "c"
    );
}
