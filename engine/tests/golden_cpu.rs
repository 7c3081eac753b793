//! The CPU executor against float64 references: logits, greedy text and perplexity of the trained
//! model in five formats, and logits of a micro-model of every family.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{
    Divergence, MICRO_MODELS, check_greedy, divergence, floats, json, micro_file, model, options,
    perplexity, shared, tokens, trained,
};
use gannet_engine::settings::Precision;
use gannet_engine::tools::eval;
use gannet_engine::tools::make_executor;
use gannet_engine::{DeviceChoice, Model, Session, Settings};

for_each_file! {
    logits: logits,
    greedy_text: greedy_text,
    text_perplexity: text_perplexity,
}

fn logits(file: &str) {
    let test = "logits on the CPU";
    let Some((folder, path)) = trained(test, file) else {
        return;
    };
    let model = model(&path);
    let run = |precision| {
        let options = options(DeviceChoice::Cpu, precision, 256);
        let mut executor = make_executor(&model, &options).unwrap().executor;
        divergence(&folder, file, executor.as_mut())
    };
    let d = run(Precision::Exact);
    println!("{file} exact: {d:?}");
    assert!(
        d.positions > 100 && d.max <= 1e-9 && d.max_difference <= 1e-3,
        "{file}: {d:?}"
    );
    let d = run(Precision::Fast);
    println!("{file} fast: mean {:e} {d:?}", d.mean());
    assert!(d.positions > 100 && d.mean() <= 1e-3, "{file}: {d:?}");
    // Near-ties may flip: a sample of 111 positions holds a few; a clear choice never may.
    assert!(
        d.agreed * 100 >= d.positions * 97 && d.clear_flips == 0,
        "{file}: {d:?}"
    );
}

fn greedy_text(file: &str) {
    let test = "greedy text on the CPU";
    let Some((folder, path)) = trained(test, file) else {
        return;
    };
    let reference = json(&folder.join(format!("greedy-{file}.json")));
    let model = model(&path);
    for (precision, noise) in [(Precision::Exact, 0.01), (Precision::Fast, 0.1)] {
        let options = options(DeviceChoice::Cpu, precision, 1);
        let mut session = Session::new(&model, &options).unwrap();
        check_greedy(&mut session, &reference, noise);
    }
}

fn text_perplexity(file: &str) {
    let test = "perplexity on the CPU";
    let Some(text) = shared(test, "golden/rustdoc-tiny/val-200k.txt") else {
        return;
    };
    let name = format!("rustdoc-tiny-{file}.gguf");
    let Some((_, path)) = trained(test, file) else {
        return;
    };
    let model = model(&path);
    for (precision, limit) in [(Precision::Exact, 2e-4), (Precision::Fast, 1e-3)] {
        let options = options(DeviceChoice::Cpu, precision, 256);
        let mut executor = make_executor(&model, &options).unwrap().executor;
        let (found, reference) = perplexity(&text, &model, &name, executor.as_mut());
        let error = (found / reference - 1.0).abs();
        println!("{file} {precision:?}: {found} against {reference}: {error:e}");
        assert!(error <= limit, "{file} {precision:?}: {error}");
    }
}

/// Formats of blocks of 256: each 32 activations have a scale of their own all the same.
#[test]
fn fast_perplexity_of_formats_of_few_bits() {
    let test = "fast perplexity";
    let Some(text) = shared(test, "golden/rustdoc-tiny/val-200k.txt") else {
        return;
    };
    for types in ["Q2_K", "Q3_K_M", "IQ4_XS"] {
        let name = format!("rustdoc-tiny-4l-{types}.gguf");
        let Some(path) = shared(test, &format!("models/more/{name}")) else {
            continue;
        };
        let model = model(&path);
        let options = options(DeviceChoice::Cpu, Precision::Fast, 256);
        let mut executor = make_executor(&model, &options).unwrap().executor;
        let (found, reference) = perplexity(&text, &model, &name, executor.as_mut());
        let error = (found / reference - 1.0).abs();
        println!("{types}: {found} against {reference}: {error:e}");
        assert!(error <= 1e-3, "{types}: {error}");
    }
}

#[test]
fn logits_of_a_micro_model_of_each_family() {
    for name in MICRO_MODELS {
        let Some(path) = shared("micro-models on the CPU", &micro_file(name)) else {
            continue;
        };
        let (folder, model) = (path.parent().unwrap(), model(&path));
        let options = options(DeviceChoice::Cpu, Precision::Exact, 64);
        let options = Settings {
            context: Some(model.hparams().context_length.min(256)),
            ..options
        };
        let mut executor = make_executor(&model, &options).unwrap().executor;
        let vocab = model.plan().vocab_size;
        // Windows are shorter than the longest.
        for sequence in ["s5", "s33", "s75"] {
            let file = folder.join(format!("{sequence}.tokens.json"));
            if sequence == "s75" && !file.exists() {
                continue;
            }
            let ids = tokens(&json(&file));
            let reference = floats(&folder.join(format!("{sequence}.ref64.f32")));
            let mut d = Divergence::default();
            eval::logits(executor.as_mut(), &ids, 0, |position, row| {
                d.add(&reference[position * vocab..][..vocab], row);
                Ok(())
            })
            .unwrap();
            println!("{name} {sequence}: {d:?}");
            assert_eq!(d.positions, ids.len());
            assert!(d.max <= 1e-9, "{name} {sequence}: {d:?}");
        }
    }
}

/// A table of positions ends where it ends, whoever asks for more.
#[test]
fn a_context_beyond_learned_positions_is_refused() {
    let test = "a context beyond learned positions";
    let Some(path) = shared(test, &micro_file("golden/arch2/gpt2")) else {
        return;
    };
    let model = model(&path);
    let made = |context| {
        let settings = Settings {
            context,
            ..options(DeviceChoice::Cpu, Precision::Exact, 1)
        };
        make_executor(&model, &settings)
    };
    let rows = model.plan().max_positions().unwrap();
    assert_eq!(rows, model.hparams().context_length);
    for context in [None, Some(rows)] {
        assert_eq!(made(context).unwrap().executor.limits().context, rows);
    }
    let line = made(Some(rows + 1)).err().expect("refused").to_string();
    assert!(
        line.contains("positions of context") && line.contains(&rows.to_string()),
        "{line}"
    );
}

#[test]
fn other_families_are_refused_by_name() {
    let Some(path) = shared("refused families", "golden/arch/qwen3moe/qwen3moe.gguf") else {
        return;
    };
    let line = Model::open(path).err().expect("refused").to_string();
    let list = "supported: llama, qwen2, qwen3, gemma2, gemma3, phi3, gpt2";
    assert!(line.contains("qwen3moe") && line.contains(list), "{line}");
}
