//! Vectors of texts: against float64 by way of the head, and whatever else runs.
//!
//! The head is linear in what stands in front of it. So the head's product with the vector of the last token
//! are that token's logits, and with the mean vector the mean of all logits, which the reference data has in
//! float64, computed by other code.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{MICRO_MODELS, floats, gpu, json, micro_file, model, shared, tokens};
use gannet_engine::requests::Pooling;
use gannet_engine::settings::Precision;
use gannet_engine::{DeviceChoice, Engine, Error, GenerateOptions, Model, Request, Settings};
use gannet_gguf::Gguf;

fn settings(device: DeviceChoice, precision: Precision) -> Settings {
    Settings {
        device,
        precision,
        context: Some(96),
        slots: Some(3),
        ..Settings::default()
    }
}

/// `logits[v] = head[v] . vector` in float64.
fn logits(file: &Gguf, vector: &[f32]) -> Vec<f64> {
    let tensor = file
        .tensor("output.weight")
        .or_else(|| file.tensor("token_embd.weight"));
    let bytes = file.data(tensor.unwrap());
    let weights = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let weights: Vec<f32> = weights.collect();
    let dot = |row: &[f32]| {
        row.iter()
            .zip(vector)
            .map(|(w, x)| f64::from(*w) * f64::from(*x))
            .sum()
    };
    weights.chunks_exact(vector.len()).map(dot).collect()
}

/// The largest difference from the reference over all sequences of a model, and how large logits are.
fn worst(folder: &str, settings: &Settings) -> Option<f64> {
    let path = shared("embed", &micro_file(folder))?;
    let folder = path.parent().unwrap();
    let file = Gguf::open(&path).unwrap();
    // A cap is not linear.
    let arch = file
        .metadata()
        .str("general.architecture")
        .unwrap()
        .to_owned();
    if file
        .metadata()
        .get(&format!("{arch}.final_logit_softcapping"))
        .is_some()
    {
        return None;
    }
    let engine = Engine::new(&model(&path), settings).unwrap();
    let mut worst = 0.0f64;
    for (_, sequence) in json(&folder.join("index.json"))["sequences"]
        .as_object()
        .unwrap()
    {
        let part = |key: &str| folder.join(sequence[key].as_str().unwrap());
        let (ids, reference) = (tokens(&json(&part("tokens"))), floats(&part("ref64")));
        let vocab = reference.len() / ids.len();
        let last = reference[reference.len() - vocab..]
            .iter()
            .map(|&l| f64::from(l));
        let mean = (0..vocab).map(|v| {
            let column = reference.iter().skip(v).step_by(vocab);
            column.map(|&l| f64::from(l)).sum::<f64>() / ids.len() as f64
        });
        for (pooling, expected) in [
            (Pooling::Last, last.collect::<Vec<f64>>()),
            (Pooling::Mean, mean.collect()),
        ] {
            let found = logits(&file, &engine.embed(ids.clone(), pooling).unwrap());
            assert_eq!(found.len(), expected.len());
            let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            worst = differences.fold(worst, f64::max);
        }
    }
    Some(worst)
}

/// Holds every micro-model to a limit of the difference of logits, which are about 3 apart.
fn check(settings: &Settings, limit: f64) {
    let found = MICRO_MODELS.iter().filter_map(|folder| {
        let worst = worst(folder, settings)?;
        assert!(worst < limit, "{folder}: {worst}");
        Some(worst)
    });
    let (models, worst) = found.fold((0, 0.0f64), |(n, most), worst| (n + 1, most.max(worst)));
    println!("{models} models, largest difference {worst:.1e}");
    assert!(models > 0);
}

#[test]
fn vectors_are_those_of_float64() {
    check(&settings(DeviceChoice::Cpu, Precision::Exact), 1e-4);
}

#[test]
fn vectors_of_the_gpu_are_those_of_float64() {
    if gpu("embed") {
        check(&settings(DeviceChoice::Cuda(0), Precision::Exact), 0.05);
    }
}

fn tiny() -> Arc<Model> {
    model(&shared("embed", "models/rustdoc-tiny-Q4_K_M.gguf").unwrap())
}

/// A text of so many tokens.
fn text(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| 200 + i * 37 % 7000).collect()
}

fn do_not_depend_on_others(device: DeviceChoice) {
    let engine = Engine::new(&tiny(), &settings(device, Precision::Fast)).unwrap();
    let asked = |len, pooling| engine.embed(text(len), pooling).unwrap();
    let lens = [1, 5, 33, 90];
    let alone: Vec<Vec<f32>> = lens.iter().map(|&len| asked(len, Pooling::Mean)).collect();
    let options = GenerateOptions {
        max_tokens: 60,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    let request = |len| Request::new(text(len)).with_options(options.clone());
    let lonely = engine.submit(request(20)).wait().unwrap();
    // As many as there are slots, with log-probabilities of one, so that logits come to the host.
    let handles: Vec<_> = [20, 21, 20]
        .into_iter()
        .enumerate()
        .map(|(i, len)| {
            let log_probs = (i == 2).then_some(2);
            engine.submit(Request {
                log_probs,
                ..request(len)
            })
        })
        .collect();
    for _ in 0..4 {
        for (len, expected) in lens.iter().zip(&alone) {
            assert_eq!(&asked(*len, Pooling::Mean), expected, "{len}");
        }
    }
    for (i, handle) in handles.into_iter().enumerate() {
        let generation = handle.wait().unwrap();
        if i != 1 {
            assert_eq!(generation.tokens, lonely.tokens, "{i}");
        }
    }
    assert_ne!(asked(5, Pooling::Last), asked(5, Pooling::Mean));
    assert_eq!(asked(1, Pooling::Last), asked(1, Pooling::Mean));
}

#[test]
fn vectors_and_texts_do_not_depend_on_each_other() {
    do_not_depend_on_others(DeviceChoice::Cpu);
}

#[test]
fn vectors_and_texts_do_not_depend_on_each_other_on_a_gpu() {
    if gpu("embed") {
        do_not_depend_on_others(DeviceChoice::Cuda(0));
    }
}

#[test]
fn what_has_no_vector_is_refused() {
    let engine = Engine::new(&tiny(), &settings(DeviceChoice::Cpu, Precision::Fast)).unwrap();
    let refused = |tokens, pooling| engine.embed(tokens, pooling).unwrap_err();
    assert!(matches!(
        refused(Vec::new(), Pooling::Mean),
        Error::Request(_)
    ));
    assert!(matches!(
        refused(vec![1 << 30], Pooling::Mean),
        Error::TokenOutOfRange { .. }
    ));
    let long = refused(text(97), Pooling::Mean);
    assert!(
        matches!(
            long,
            Error::ContextFull {
                tokens: 97,
                context: 96
            }
        ),
        "{long}"
    );
    for pooling in [Pooling::None, Pooling::First, Pooling::Rank] {
        let error = refused(text(3), pooling);
        assert!(
            matches!(&error, Error::Request(why) if why.contains("pooling")),
            "{error}"
        );
    }
    // The whole context fits.
    assert_eq!(engine.embed(text(96), Pooling::Mean).unwrap().len(), 256);
}
