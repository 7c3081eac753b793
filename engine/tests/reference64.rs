//! The f64 reference against the truth from elsewhere, and the engine against the reference.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
mod reference;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{floats, json, shared, tokens};
use gannet_engine::settings::Precision;
use gannet_engine::tools::{eval, make_executor};
use gannet_engine::{DeviceChoice, Model, Settings};
use reference::cases::{self, Case, LLAMA, SEEDS};
use reference::micro::{self, FactorTensors, Key, MicroModel};
use reference::{Reference, kld};

/// Micro-models with logits of another float64 implementation, rounded to f32.
const GOLDEN: &[&str] = &[
    "golden/arch/llama",
    "golden/arch/llama3-scaled",
    "golden/arch/qwen2",
    "golden/arch/qwen3",
    "golden/arch/gemma2",
    "golden/arch/gemma3",
    "golden/arch/phi3",
    "golden/arch2/gpt2",
    "golden/arch2/mistral3",
];

#[test]
fn reference_gives_the_logits_of_another() {
    for part in GOLDEN {
        let Some(folder) = shared("the reference", part) else {
            continue;
        };
        let index = json(&folder.join("index.json"));
        let reference = Reference::open(&folder.join(index["gguf"].as_str().unwrap())).unwrap();
        let sequences = index["sequences"].as_object().unwrap();
        assert!(sequences.len() >= 2, "{part}");
        for (name, sequence) in sequences {
            let file = |key: &str| folder.join(sequence[key].as_str().unwrap());
            let ids = tokens(&json(&file("tokens")));
            let golden: Vec<f64> = (floats(&file("ref64")).into_iter().map(f64::from)).collect();
            let found = reference.logits(&ids, sequence["n_ctx"].as_u64().unwrap() as usize);
            assert_eq!(found.len(), golden.len());
            let (worst, difference) = compare(&found, &golden, reference.vocab_size());
            println!("{part} {name}: KLD {worst:e}, difference {difference:e}");
            assert!(worst <= 1e-12 && difference <= 1e-6, "{part} {name}");
        }
    }
}

/// The largest divergence of a row, and the largest difference of a logit.
fn compare(reference: &[f64], other: &[f64], vocab: usize) -> (f64, f64) {
    let rows = reference.chunks_exact(vocab).zip(other.chunks_exact(vocab));
    let worst = rows.map(|(a, b)| kld(a, b)).fold(0.0, f64::max);
    let pairs = reference.iter().zip(other);
    let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    (worst, difference)
}

/// A model whose vocabulary micro-models take.
fn vocab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/arch/llama/llama.gguf")
}

/// Logits of `len` random tokens by the reference.
fn reference_logits(model: &MicroModel, len: usize, context: usize) -> (Vec<f64>, usize) {
    let file = model.file(&vocab());
    let reference = Reference::open(file.path()).unwrap_or_else(|e| panic!("{model:?}: {e}"));
    let vocab_size = reference.vocab_size();
    let ids = micro::tokens(vocab_size, len, model.seed);
    (reference.logits(&ids, context), vocab_size)
}

#[test]
fn logits_of_micro_models_spread_like_those_of_trained_ones() {
    for case in cases::all() {
        let (logits, _) = reference_logits(&case.model, 40, case.context);
        let mean = logits.iter().sum::<f64>() / logits.len() as f64;
        let squares: f64 = logits.iter().map(|l| (l - mean).powi(2)).sum();
        let deviation = (squares / logits.len() as f64).sqrt();
        assert!(
            (2.0..3.2).contains(&deviation),
            "{}: {deviation}",
            case.name
        );
    }
}

#[test]
fn every_case_differs_from_its_family() {
    for case in cases::all() {
        let is_family = |c: &&Case| c.is_plain && c.model.arch == case.model.arch;
        let family = cases::all().find(is_family).unwrap();
        let (a, vocab_size) = reference_logits(&case.model, 40, case.context);
        let (b, _) = reference_logits(&family.model, 40, family.context);
        let (worst, _) = compare(&a, &b, vocab_size);
        if case.is_plain {
            assert_eq!(worst, 0.0, "{}", case.name);
        } else {
            assert!(worst > 0.01, "{}: {worst}", case.name);
        }
    }
}

/// Keys and tensors that some families read, in files of those that do not: nobody passes over them.
#[test]
fn what_nothing_reads_is_refused() {
    let refused = |model: MicroModel, name: &str| {
        let file = model.file(&vocab());
        let by_reference = Reference::open(file.path()).err().unwrap();
        let by_engine = Model::open(file.path()).err().unwrap().to_string();
        assert!(by_engine.contains(name), "{name}: {by_engine}");
        by_reference
    };
    let keys: &[&[(&str, Key)]] = &[
        &[("attention.temperature_scale", Key::Float(0.5))],
        &[("attention.sliding_window", Key::Int(4))],
        &[("final_logit_softcapping", Key::Float(1.0))],
        &[("logit_scale", Key::Float(0.5))],
        &[("rope.freq_base_swa", Key::Float(500.0))],
        &[("rope.scaling.yarn_ext_factor", Key::Float(0.5))],
        &[("rope.scaling.yarn_attn_factor", Key::Float(2.0))],
        &[("rope.scaling.yarn_log_multiplier", Key::Float(1.0))],
    ];
    for &keys in keys {
        let by_reference = refused(MicroModel { keys, ..LLAMA }, keys[0].0);
        assert!(by_reference.contains(keys[0].0), "{by_reference}");
    }
    let long = MicroModel {
        factors: FactorTensors::LongAndShort,
        ..LLAMA
    };
    let by_reference = refused(long, "rope_factors_long.weight");
    assert_eq!(by_reference, "llama reads no rope_factors_long.weight");
    let unknown = MicroModel {
        arch: "phi2",
        ..LLAMA
    };
    assert_eq!(refused(unknown, "phi2"), "no reference for phi2");
    assert!(Reference::open(LLAMA.file(&vocab()).path()).is_ok());
}

/// A factor that no type stands beside divides positions, as the reference loader has it.
#[test]
fn a_factor_without_a_type_gives_the_right_logits() {
    let part = |name: &str| shared("a factor without a type", &format!("cases/turn2/{name}"));
    let (Some(file), Some(right), Some(ids)) = (
        part("rope-factor-without-type.gguf"),
        part("rope-factor-without-type.right.f32"),
        part("tokens-32.json"),
    ) else {
        return;
    };
    let ids = tokens(&json(&ids));
    let right: Vec<f64> = floats(&right).into_iter().map(f64::from).collect();
    let reference = Reference::open(&file).unwrap();
    let vocab_size = reference.vocab_size();
    let all = reference.logits(&ids, ids.len());
    let (worst, difference) = compare(&right, &all[all.len() - right.len()..], vocab_size);
    assert!(
        worst <= 1e-12 && difference <= 1e-6,
        "{worst:e} {difference:e}"
    );
    let model = Model::open(&file).unwrap();
    let found = exact_logits(model, &ids, ids.len());
    let (worst, difference) = compare(&right, &found[found.len() - right.len()..], vocab_size);
    assert!(
        worst <= 1e-9 && difference <= 1e-3,
        "{worst:e} {difference:e}"
    );
}

/// A matrix of one row is a matrix.
#[test]
fn models_of_a_width_of_one_run() {
    for (hidden_size, ffn_size) in [(1, 80), (48, 1), (1, 1)] {
        let model = MicroModel {
            hidden_size,
            ffn_size,
            ..LLAMA
        };
        let file = model.file(&vocab());
        let reference = Reference::open(file.path()).unwrap();
        let ids = micro::tokens(reference.vocab_size(), 20, 1);
        let expected = reference.logits(&ids, 64);
        let found = exact_logits(Model::open(file.path()).unwrap(), &ids, 64);
        let (worst, difference) = compare(&expected, &found, reference.vocab_size());
        assert!(
            worst <= 1e-9 && difference <= 1e-3,
            "{worst:e} {difference:e}"
        );
    }
}

/// Logits of the exact CPU, all positions.
fn exact_logits(model: Model, ids: &[u32], context: usize) -> Vec<f64> {
    let settings = Settings {
        device: DeviceChoice::Cpu,
        precision: Precision::Exact,
        context: Some(context),
        max_outputs: Some(16),
        ..Settings::default()
    };
    let mut executor = make_executor(&Arc::new(model), &settings).unwrap().executor;
    let mut found = Vec::new();
    eval::logits(executor.as_mut(), ids, 0, |_, row| {
        found.extend(row.iter().map(|&l| f64::from(l)));
        Ok(())
    })
    .unwrap();
    found
}

#[test]
fn the_exact_cpu_gives_the_logits_of_the_reference() {
    for case in cases::all() {
        let mut worst = (0.0f64, 0.0f64);
        for seed in SEEDS {
            let found = exact_cpu(case, seed);
            worst = (worst.0.max(found.0), worst.1.max(found.1));
        }
        println!("{}: KLD {:e}, difference {:e}", case.name, worst.0, worst.1);
        assert!(worst.0 <= 1e-9 && worst.1 <= 1e-3, "{}", case.name);
    }
}

/// The divergence of the exact CPU from the reference on a case's sequences.
fn exact_cpu(case: &Case, seed: u64) -> (f64, f64) {
    let micro = MicroModel {
        seed,
        ..case.model.clone()
    };
    let file = micro.file(&vocab());
    let reference = Reference::open(file.path()).unwrap();
    let model = Model::open(file.path()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let options = Settings {
        device: DeviceChoice::Cpu,
        precision: Precision::Exact,
        context: Some(case.context),
        max_outputs: Some(16),
        ..Settings::default()
    };
    let mut executor = make_executor(&Arc::new(model), &options).unwrap().executor;
    let mut worst = (0.0f64, 0.0f64);
    for &len in case.lengths {
        let ids = micro::tokens(reference.vocab_size(), len, seed ^ len as u64);
        let expected = reference.logits(&ids, case.context);
        let mut found = Vec::new();
        eval::logits(executor.as_mut(), &ids, 0, |_, row| {
            found.extend(row.iter().map(|&l| f64::from(l)));
            Ok(())
        })
        .unwrap();
        assert_eq!(found.len(), expected.len());
        let (kld, difference) = compare(&expected, &found, reference.vocab_size());
        worst = (worst.0.max(kld), worst.1.max(difference));
    }
    worst
}
