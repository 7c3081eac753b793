//! That what a sequence gives does not depend on what runs beside it: on the CPU always, on interpreted
//! kernels with `batch_invariant`.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/mixes.rs"]
mod mixes;

use std::sync::Arc;

use common::{MICRO_MODELS, micro_file, model, shared};
use gannet_engine::internals::kv::KvType;
use gannet_engine::internals::model::of_container;
use gannet_engine::settings::Precision;
use gannet_engine::tools::synth::{self, ShapeName, SynthOptions, TypeMix};
use gannet_engine::{DeviceChoice, Model, ModelOptions, Settings};
use gannet_gguf::Gguf;
use mixes::{Mix, logits_are_those_alone, texts_are_those_alone};

fn settings(device: DeviceChoice, precision: Precision) -> Settings {
    Settings {
        device,
        precision,
        batch_invariant: true,
        ..Settings::default()
    }
}

/// Logits and texts of a mix; gives how many positions sequences had in common.
fn check(model: &Arc<Model>, settings: &Settings, mix: Mix) -> usize {
    texts_are_those_alone(model, settings, mix);
    logits_are_those_alone(model, settings, mix)
}

fn trained_on_the_cpu(part: &str) {
    let Some(path) = shared("one text on the CPU", part) else {
        return;
    };
    let model = model(&path);
    for precision in [Precision::Fast, Precision::Exact] {
        // On the CPU nobody has to ask for it.
        let settings = Settings {
            batch_invariant: false,
            ..settings(DeviceChoice::Cpu, precision)
        };
        let mut shared = 0;
        for (seed, slots, rows) in [(1, 3, 7), (2, 5, 40), (3, 12, 96)] {
            let mix = Mix {
                seed,
                sequences: 9,
                slots,
                tokens: 72,
                rows,
            };
            shared += check(&model, &settings, mix);
        }
        assert!(shared > 0, "some prefixes were known");
    }
}

#[test]
fn an_f16_model_on_the_cpu() {
    trained_on_the_cpu("models/rustdoc-tiny-F16.gguf");
}

#[test]
fn a_q8_0_model_on_the_cpu() {
    trained_on_the_cpu("models/rustdoc-tiny-Q8_0.gguf");
}

#[test]
fn a_q4_k_m_model_on_the_cpu() {
    trained_on_the_cpu("models/rustdoc-tiny-Q4_K_M.gguf");
}

/// A model of a few layers of random weights.
fn made_up(mix: TypeMix) -> Arc<Model> {
    let options = SynthOptions {
        shape: ShapeName::Tiny,
        mix,
        seed: 5,
        vocab_from: None,
    };
    let mut file = Vec::new();
    synth::write(&options, &mut file, &mut |_, _| {}).unwrap();
    let gguf = Gguf::from_vec("tiny.gguf", file).unwrap();
    Arc::new(of_container(gguf, &ModelOptions::default()).unwrap())
}

#[test]
fn every_mix_of_types_on_the_cpu() {
    for &types in TypeMix::ALL {
        let model = made_up(types);
        for precision in [Precision::Fast, Precision::Exact] {
            let settings = settings(DeviceChoice::Cpu, precision);
            let mix = Mix {
                seed: 7,
                sequences: 5,
                slots: 4,
                tokens: 24,
                rows: 24,
            };
            logits_are_those_alone(&model, &settings, mix);
        }
    }
}

fn interpreted(precision: Precision, kv_type: KvType) -> Settings {
    Settings {
        kv_type,
        ..settings(DeviceChoice::Interp, precision)
    }
}

/// A few short sequences: interpreted kernels take their time.
fn short(seed: u64) -> Mix {
    Mix {
        seed,
        sequences: 4,
        slots: 3,
        tokens: 16,
        rows: 20,
    }
}

#[test]
fn micro_models_on_interpreted_kernels() {
    for (seed, folder) in (1..).zip(MICRO_MODELS) {
        let Some(path) = shared("one text interpreted", &micro_file(folder)) else {
            continue;
        };
        let model = model(&path);
        let fast = interpreted(Precision::Fast, KvType::F16);
        logits_are_those_alone(&model, &fast, short(seed));
        let exact = interpreted(Precision::Exact, KvType::F32);
        logits_are_those_alone(&model, &exact, short(seed));
    }
}

/// More keys than a split has, more rows than a tile, a window and a prefix in common.
#[test]
fn long_sequences_on_interpreted_kernels() {
    for name in ["llama3-scaled", "gemma3"] {
        let part = format!("golden/arch/{name}/{name}.gguf");
        let Some(path) = shared("one text interpreted", &part) else {
            continue;
        };
        let model = model(&path);
        let mut shared = 0;
        for (seed, precision, kv_type) in [
            (21, Precision::Fast, KvType::Int8),
            (22, Precision::Exact, KvType::F16),
        ] {
            let mix = Mix {
                seed,
                sequences: 4,
                slots: 2,
                tokens: 110,
                rows: 90,
            };
            shared += logits_are_those_alone(&model, &interpreted(precision, kv_type), mix);
        }
        assert!(shared > 0, "{name}: some prefixes were known");
    }
}

#[test]
fn quantised_models_on_interpreted_kernels() {
    for types in [TypeMix::F16, TypeMix::Q8_0, TypeMix::Q4_K_M] {
        let model = made_up(types);
        let settings = interpreted(Precision::Fast, KvType::F16);
        let mix = Mix {
            sequences: 3,
            tokens: 10,
            ..short(11)
        };
        logits_are_those_alone(&model, &settings, mix);
    }
}

#[test]
fn texts_on_interpreted_kernels() {
    let part = "golden/arch/qwen2/qwen2.gguf";
    let Some(path) = shared("one text interpreted", part) else {
        return;
    };
    let settings = settings(DeviceChoice::Interp, Precision::Fast);
    let mix = Mix {
        seed: 3,
        sequences: 5,
        slots: 3,
        tokens: 36,
        rows: 16,
    };
    texts_are_those_alone(&model(&path), &settings, mix);
}
