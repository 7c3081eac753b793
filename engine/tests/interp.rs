//! The lowered kernels, interpreted, against the CPU operation by operation: what a GPU will run,
//! checked on a machine that has none.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
mod reference;

use std::path::Path;

use common::{
    Divergence, MICRO_MODELS, floats, json, micro_divergence, micro_file, model, shared, tokens,
};
use gannet_engine::DeviceChoice;
use gannet_engine::internals::kv::KvType;
use gannet_engine::settings::{Precision, Settings};
use gannet_engine::tools::parity::{ParityOptions, Report, Side, compare};
use gannet_engine::tools::synth::{self, ShapeName, SynthOptions, TypeMix};
use gannet_engine::tools::{eval, make_executor};
use reference::cases::{self, Case, biased, heads_of};
use reference::micro::{self, MicroModel};
use reference::{Reference, kld};
use tempfile::NamedTempFile;

fn check(path: &Path, precision: Precision, prompt: u32) {
    let options = ParityOptions {
        settings: Settings {
            precision,
            ..Settings::default()
        },
        generate: 2,
        ..ParityOptions::default()
    };
    check_with(path, options, prompt);
}

/// Parity on `prompt` tokens, with what `options` say besides.
fn check_with(path: &Path, options: ParityOptions, prompt: u32) {
    let model = model(path);
    let vocab = model.plan().vocab_size as u32;
    let options = ParityOptions {
        left: Side::Cpu,
        right: Side::Interp,
        tokens: (0..prompt)
            .map(|i| (i * i * 7 + 3 * i + 11) % vocab)
            .collect(),
        ..options
    };
    let (precision, kv_type) = (options.settings.precision, options.settings.kv_type);
    let name = path.display();
    let reports = compare(&model, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    for report in &reports {
        assert!(
            report.passes(),
            "{name} {precision:?} {kv_type:?} at {} ({} rows): {:?}",
            report.position,
            report.rows,
            report.first_failure()
        );
    }
    let worst = reports.iter().filter_map(Report::worst);
    let worst = worst.max_by(|a, b| a.nmse.total_cmp(&b.nmse));
    println!(
        "{name} {precision:?} {kv_type:?}: {} steps, worst {worst:?}",
        reports.len()
    );
}

#[test]
fn micro_models_of_every_family() {
    for folder in MICRO_MODELS {
        let Some(path) = shared("interpreted micro-models", &micro_file(folder)) else {
            continue;
        };
        for precision in [Precision::Exact, Precision::Fast] {
            check(&path, precision, 21);
        }
    }
}

/// Prompts through the kernels of batches and, by 80 rows, of long ones. The random weights of f32
/// feel rounding more than trained ones do; what is left here is that of the cache of f16: with one of f32
/// no position is off by more than 1e-7.
#[test]
fn prompts_of_micro_models_give_the_logits_of_the_reference() {
    for folder in MICRO_MODELS {
        let Some(path) = shared("interpreted logits", &micro_file(folder)) else {
            continue;
        };
        let (model, folder) = (model(&path), path.parent().unwrap());
        let f16 = KvType::F16;
        for (rows, kv_type, most) in [(16, f16, 2e-5), (80, f16, 2e-5), (80, KvType::F32, 1e-7)] {
            let settings = Settings {
                device: DeviceChoice::Interp,
                precision: Precision::Fast,
                context: Some(128),
                max_rows: Some(rows),
                max_outputs: Some(rows),
                kv_type,
                ..Settings::default()
            };
            let mut executor = make_executor(&model, &settings).unwrap().executor;
            let d = micro_divergence(folder, executor.as_mut());
            let what = format!("{} by {rows}, {kv_type:?}", folder.display());
            println!("{what}: mean {:e}, {d:?}", d.mean());
            assert!(d.positions > 30 && d.max <= most, "{what}: {d:?}");
            assert!(d.mean() <= 5e-6, "{what}: {}", d.mean());
        }
    }
}

#[test]
fn heads_of_many_sizes() {
    let part = "golden/arch/llama/llama.gguf";
    let Some(vocab) = shared("interpreted heads of many sizes", part) else {
        return;
    };
    for dim in [8, 24, 40, 72, 96, 104, 136, 200, 248, 256] {
        let file = heads_of(dim).file(&vocab);
        for precision in [Precision::Exact, Precision::Fast] {
            check(file.path(), precision, 21);
        }
    }
}

/// What no kernel computes is refused by its name; nothing is said of a GPU that nobody asked for.
#[test]
fn a_refusal_speaks_of_the_model() {
    let part = "golden/arch/llama/llama.gguf";
    let Some(vocab) = shared("interpreted refusals", part) else {
        return;
    };
    for dim in [12, 20, 264] {
        let file = heads_of(dim).file(&vocab);
        let settings = Settings {
            device: DeviceChoice::Interp,
            ..Settings::default()
        };
        let made = make_executor(&model(file.path()), &settings).map(|made| made.executor);
        let refused = made
            .and_then(|mut executor| eval::logits(executor.as_mut(), &[1, 2, 3], 0, |_, _| Ok(())));
        let line = refused.expect_err("no kernel has such heads").to_string();
        assert!(
            line.contains("head") && line.contains("--device cpu"),
            "{line}"
        );
        assert!(!line.contains("cuda") && !line.contains("GPU"), "{line}");
    }
}

/// The head's bias counts where its matrix is the embedding.
#[test]
fn a_bias_of_a_head_that_is_the_embedding() {
    let part = "golden/arch/llama/llama.gguf";
    let Some(vocab) = shared("an interpreted bias of a tied head", part) else {
        return;
    };
    let is_tied = |case: &&Case| !case.model.has_head && case.model.biases.contains(&"output");
    let tied: Vec<&Case> = cases::all().filter(is_tied).collect();
    assert!(tied.len() >= 3, "{}", tied.len());
    for case in tied {
        let file = case.model.file(&vocab);
        for precision in [Precision::Exact, Precision::Fast] {
            check(file.path(), precision, 21);
        }
    }
}

/// Rows by position are those of the tokens' places in their sequence, fed in pieces or one by one.
#[test]
fn learned_positions_give_the_logits_of_the_reference() {
    let folder = "golden/arch2/gpt2";
    let Some(path) = shared("interpreted positions", &micro_file(folder)) else {
        return;
    };
    let (model, folder) = (model(&path), path.parent().unwrap());
    let vocab = model.plan().vocab_size;
    let ids = tokens(&json(&folder.join("s33.tokens.json")));
    let reference = floats(&folder.join("s33.ref64.f32"));
    for (precision, rows) in [
        (Precision::Exact, 16),
        (Precision::Fast, 16),
        (Precision::Fast, 1),
    ] {
        let settings = Settings {
            device: DeviceChoice::Interp,
            precision,
            max_rows: Some(rows),
            max_outputs: Some(rows),
            ..Settings::default()
        };
        let mut executor = make_executor(&model, &settings).unwrap().executor;
        let mut d = Divergence::default();
        eval::logits(executor.as_mut(), &ids, 0, |position, row| {
            d.add(&reference[position * vocab..][..vocab], row);
            Ok(())
        })
        .unwrap();
        println!("{precision:?}, {rows} rows: {d:?}");
        assert!(
            d.positions == ids.len() && d.max <= 3e-5,
            "{precision:?}: {d:?}"
        );
    }
}

/// A model of random weights of a mix of types.
fn made_up(mix: TypeMix) -> NamedTempFile {
    let options = SynthOptions {
        shape: ShapeName::Tiny,
        mix,
        seed: 2,
        vocab_from: None,
    };
    let mut file = NamedTempFile::new().unwrap();
    synth::write(&options, &mut file, &mut |_, _| {}).unwrap();
    file
}

/// Types that a GPU holds as another one: every operation as on the CPU, which computes from the blocks of
/// the file.
#[test]
fn types_that_are_converted() {
    for mix in [
        TypeMix::Q4_1,
        TypeMix::IQ2_XXS,
        TypeMix::IQ3_S,
        TypeMix::TQ1_0,
        TypeMix::TQ2_0,
        TypeMix::NVFP4,
    ] {
        let file = made_up(mix);
        check(file.path(), Precision::Exact, 3);
        check(file.path(), Precision::Fast, 3);
    }
}

/// The logits of every type that is converted, on the CPU and of interpreted kernels, against those of the
/// reference. Weights that are rounded to f16 cost what activations in f16 do.
#[test]
fn types_that_are_converted_give_the_logits_of_the_reference() {
    for mix in [
        TypeMix::IQ1_S,
        TypeMix::IQ1_M,
        TypeMix::IQ2_XXS,
        TypeMix::IQ2_XS,
        TypeMix::IQ2_M,
        TypeMix::IQ3_XXS,
        TypeMix::IQ3_S,
        TypeMix::TQ1_0,
        TypeMix::NVFP4,
        TypeMix::MXFP4,
    ] {
        let file = made_up(mix);
        let reference = Reference::open(file.path()).unwrap();
        let vocab_size = reference.vocab_size();
        let ids = micro::tokens(vocab_size, 9, 1);
        let expected = reference.logits(&ids, 64);
        let model = model(file.path());
        for (device, precision, limit) in [
            (DeviceChoice::Cpu, Precision::Exact, 1e-9),
            (DeviceChoice::Cpu, Precision::Fast, 1e-3),
            (DeviceChoice::Interp, Precision::Fast, 5e-6),
        ] {
            let settings = Settings {
                device,
                precision,
                context: Some(64),
                max_rows: Some(16),
                max_outputs: Some(16),
                ..Settings::default()
            };
            let mut made = make_executor(&model, &settings).unwrap();
            let mut sum = 0.0;
            eval::logits(made.executor.as_mut(), &ids, 0, |position, row| {
                let row: Vec<f64> = row.iter().map(|&l| f64::from(l)).collect();
                sum += kld(&expected[position * vocab_size..][..vocab_size], &row);
                Ok(())
            })
            .unwrap();
            let mean = sum / ids.len() as f64;
            println!("{mix} {device:?} {precision:?}: {mean:.1e}");
            assert!(mean < limit, "{mix} {device:?} {precision:?}: {mean:e}");
        }
    }
}

#[test]
fn the_trained_model() {
    let part = "models/rustdoc-tiny-Q4_K_M.gguf";
    if let Some(path) = shared("the interpreted trained model", part) {
        check(&path, Precision::Fast, 17);
    }
}

/// Every type of the cache, written and read by the kernels of prompts and of batches.
#[test]
fn caches_of_every_type() {
    for name in ["llama", "qwen3"] {
        let part = format!("golden/arch/{name}/{name}.gguf");
        let Some(path) = shared("interpreted caches", &part) else {
            continue;
        };
        for kv_type in [KvType::F32, KvType::BF16, KvType::Int8] {
            for precision in [Precision::Exact, Precision::Fast] {
                let options = ParityOptions {
                    settings: Settings {
                        precision,
                        kv_type,
                        ..Settings::default()
                    },
                    batch: 2,
                    generate: 1,
                    ..ParityOptions::default()
                };
                check_with(&path, options, 15);
            }
        }
    }
}

/// The mean divergence of interpreted kernels from the reference in a step of 40 rows and in steps of
/// one, and what is said of the model.
fn divergence_with(micro: &MicroModel, kv_type: KvType, vocab: &Path) -> (f64, Option<String>) {
    let file = micro.file(vocab);
    let reference = Reference::open(file.path()).unwrap();
    let vocab_size = reference.vocab_size();
    let ids = micro::tokens(vocab_size, 40, micro.seed);
    let expected = reference.logits(&ids, 64);
    let model = model(file.path());
    let (mut sum, mut positions, mut notice) = (0.0, 0, None);
    for rows in [40, 1] {
        let settings = Settings {
            device: DeviceChoice::Interp,
            context: Some(64),
            max_rows: Some(rows),
            max_outputs: Some(rows),
            kv_type,
            ..Settings::default()
        };
        let mut made = make_executor(&model, &settings).unwrap();
        eval::logits(made.executor.as_mut(), &ids, 0, |position, row| {
            let row: Vec<f64> = row.iter().map(|&l| f64::from(l)).collect();
            sum += kld(&expected[position * vocab_size..][..vocab_size], &row);
            positions += 1;
            Ok(())
        })
        .unwrap();
        notice = made.notice;
    }
    assert_eq!(positions, 2 * ids.len());
    (sum / positions as f64, notice)
}

/// With the type that was asked for in both layers, divergences beside biases of 50 in both would be above
/// 7e-3 with bytes, beside 200 above 2e-3 with bf16.
#[test]
fn caches_of_keys_with_large_biases() {
    let part = "golden/arch/llama/llama.gguf";
    let Some(vocab) = shared("caches of keys with large biases", part) else {
        return;
    };
    for (head_dim, outliers, seed) in [
        (16, 0.0, 1),
        (16, 7.5, 2),
        (16, 8.5, 3),
        (16, 50.0, 4),
        (24, 120.0, 5),
        (64, 7.5, 6),
        (64, 33.0, 7),
        (64, 200.0, 8),
        (128, 80.0, 9),
    ] {
        let micro = biased(head_dim, outliers, seed);
        for (kv_type, largest) in [(KvType::Int8, 8.0), (KvType::BF16, 32.0)] {
            let (mean, notice) = divergence_with(&micro, kv_type, &vocab);
            println!("{head_dim} {outliers} {kv_type:?}: {mean:e} {notice:?}");
            assert!(mean < 1e-3, "{head_dim} {outliers} {kv_type:?}: {mean}");
            let biases = [outliers, outliers / 10.0];
            let count = biases.iter().filter(|&&bias| bias > largest).count();
            let said = format!("f16 instead of {} in {count} of 2 layers", kv_type.name());
            let notice = notice.unwrap_or_default();
            let is_right = match count {
                0 => !notice.contains("instead of"),
                _ => notice.contains(&said),
            };
            assert!(is_right, "{head_dim} {outliers} {kv_type:?}: {notice:?}");
        }
    }
}
