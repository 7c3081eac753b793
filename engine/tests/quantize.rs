//! Files quantised: the field's blocks and types where it has one answer, its quality where it has none,
//! and importance matrices.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use gannet_engine::internals::model::of_container;
use gannet_engine::settings::Precision;
use gannet_engine::tools::imatrix::{CollectOptions, Imatrix, collect};
use gannet_engine::tools::quantize::{QuantType, QuantizeOptions, quantize};
use gannet_engine::tools::synth::{self, ShapeName, SynthOptions, TypeMix};
use gannet_engine::tools::{eval, make_executor};
use gannet_engine::{DeviceChoice, Model, ModelOptions};
use gannet_gguf::{Gguf, TensorInfo, Writer};
use gannet_quant::Format;

use common::{MICRO_MODELS, micro_file, options, shared};

fn quantized(gguf: &Gguf, to: QuantType, imatrix: Option<&Imatrix>) -> Gguf {
    let (mut out, mut last) = (Vec::new(), None);
    let mut progress = |done: u64, total: u64| {
        assert!(done <= total && last.is_none_or(|last| last <= done));
        last = Some(done);
    };
    let options = QuantizeOptions { to, imatrix };
    let summary = quantize(gguf, options, &mut out, &mut progress).unwrap();
    assert_eq!(last, Some(summary.bytes.0), "progress ends at the end");
    let made = Gguf::from_vec("quantised.gguf", out).unwrap();
    assert_eq!(
        summary.bytes.1,
        made.tensors().iter().map(|t| t.bytes).sum::<u64>()
    );
    made
}

fn trained(test: &str, name: &str) -> Option<Gguf> {
    let path = shared(test, &format!("models/{name}.gguf"))?;
    Some(Gguf::open(path).unwrap())
}

/// The model with some of its layers alone, as the reference data's smaller files were cut.
fn cut(gguf: &Gguf, layers: &[usize]) -> Gguf {
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    writer
        .set("llama.block_count", layers.len() as u32)
        .unwrap();
    let renamed = |t: &TensorInfo| {
        let Some(rest) = t.name.strip_prefix("blk.") else {
            return Some(t.name.clone());
        };
        let (layer, rest) = rest.split_once('.').unwrap();
        let layer: usize = layer.parse().unwrap();
        let at = layers.iter().position(|&l| l == layer)?;
        Some(format!("blk.{at}.{rest}"))
    };
    let kept: Vec<_> = gguf
        .tensors()
        .iter()
        .filter_map(|t| Some((renamed(t)?, t)))
        .collect();
    for (name, t) in &kept {
        writer.tensor(name, &t.dims, t.ty).unwrap();
    }
    let mut data = writer.start(Vec::new()).unwrap();
    for (name, t) in &kept {
        data.tensor(name, gguf.data(t)).unwrap();
    }
    Gguf::from_vec("cut.gguf", data.finish().unwrap()).unwrap()
}

fn types(gguf: &Gguf) -> HashMap<&str, &str> {
    gguf.tensors()
        .iter()
        .map(|t| (t.name.as_str(), t.ty.name()))
        .collect()
}

fn values(gguf: &Gguf, t: &TensorInfo) -> Vec<f32> {
    let mut values = vec![0.0; t.elements() as usize];
    let format = Format::from_ggml_id(t.ty.id()).unwrap();
    format.dequantize(gguf.data(t), &mut values).unwrap();
    values
}

#[test]
fn types_are_those_of_the_fields_files() {
    let test = "types_are_those_of_the_fields_files";
    let Some(f16) = trained(test, "rustdoc-tiny-F16") else {
        return;
    };
    for to in [
        QuantType::Q8_0,
        QuantType::Q6_K,
        QuantType::Q5_K_M,
        QuantType::Q4_K_M,
        QuantType::Q4_0,
    ] {
        let Some(sibling) = trained(test, &format!("rustdoc-tiny-{to}")) else {
            return;
        };
        let made = quantized(&f16, to, None);
        assert_eq!(types(&made), types(&sibling), "{to}");
        let file_type = |gguf: &Gguf| gguf.metadata().u32("general.file_type").unwrap();
        assert_eq!(file_type(&made), file_type(&sibling), "{to}");
    }
    let Some(sibling) = trained(test, "more/rustdoc-tiny-4l-Q3_K_M") else {
        return;
    };
    let made = quantized(&cut(&f16, &[0, 3, 6, 9]), QuantType::Q3_K_M, None);
    assert_eq!(types(&made), types(&sibling));
}

#[test]
fn blocks_of_a_fixed_rule_are_the_references_bit_for_bit() {
    let test = "blocks_of_a_fixed_rule_are_the_references_bit_for_bit";
    let Some(f16) = trained(test, "rustdoc-tiny-F16") else {
        return;
    };
    let whole = |name: &str| {
        (
            format!("rustdoc-tiny-{name}"),
            vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        )
    };
    let part = |name: &str| (format!("more/rustdoc-tiny-4l-{name}"), vec![0, 3, 6, 9]);
    let files = [
        (Format::Q8_0, whole("Q8_0")),
        (Format::Q4_0, whole("Q4_0")),
        (Format::Q4_1, part("Q4_1")),
        (Format::Q5_0, part("Q5_0")),
        (Format::Q5_1, part("Q5_1")),
    ];
    for (format, (file, layers)) in files {
        let Some(sibling) = trained(test, &file) else {
            continue;
        };
        let source = cut(&f16, &layers);
        let mut compared = 0;
        for t in sibling
            .tensors()
            .iter()
            .filter(|t| t.ty.id() == format.ggml_id())
        {
            let x = values(&source, source.tensor(&t.name).unwrap());
            let mut blocks = vec![0; t.bytes as usize];
            format.quantize(&x, &mut blocks).unwrap();
            let differ = (blocks.chunks(format.block_bytes()))
                .zip(sibling.data(t).chunks(format.block_bytes()))
                .position(|(ours, theirs)| ours != theirs);
            assert_eq!(
                differ, None,
                "{format} {}: the first block that differs",
                t.name
            );
            compared += 1;
        }
        assert!(compared >= 29, "{format}: {compared} tensors");
    }
}

/// Perplexity of a part of the held-out text.
fn perplexity(gguf: Gguf, text: &str) -> f64 {
    const CONTEXT: usize = 256;
    let model = Arc::new(of_container(gguf, &ModelOptions::default()).unwrap());
    let tokenizer = model.tokenizer();
    let tokens = tokenizer.encode_prompt(&[], text, false);
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let settings = options(DeviceChoice::Cpu, Precision::Fast, 64);
    let mut executor = make_executor(&model, &settings).unwrap().executor;
    let found = eval::perplexity(executor.as_mut(), &tokens, bos, CONTEXT, |_, _, _| {});
    found.unwrap().value
}

fn held_out(test: &str, bytes: usize) -> Option<String> {
    let path = shared(test, "golden/rustdoc-tiny/val-200k.txt")?;
    let text = std::fs::read(path).unwrap();
    Some(String::from_utf8_lossy(&text[..bytes.min(text.len())]).into_owned())
}

/// At most half a percent above the field's file of the same name; where there is none, above F16 by what
/// the type may cost.
#[test]
fn quality_is_the_fields() {
    let test = "quality_is_the_fields";
    let (Some(f16), Some(text)) = (trained(test, "rustdoc-tiny-F16"), held_out(test, 12_000))
    else {
        return;
    };
    let layers = [0, 3, 6, 9];
    let base = perplexity(cut(&f16, &(0..10).collect::<Vec<_>>()), &text);
    let base_cut = perplexity(cut(&f16, &layers), &text);
    eprintln!("F16 {base:.4}, of 4 layers {base_cut:.4}");
    for &to in QuantType::ALL {
        let (source, base, sibling) = match to {
            QuantType::Q3_K_M | QuantType::IQ4_XS => {
                let name = format!("more/rustdoc-tiny-4l-{to}");
                (cut(&f16, &layers), base_cut, trained(test, &name))
            }
            _ => {
                let name = format!("rustdoc-tiny-{to}");
                let whole = cut(&f16, &(0..10).collect::<Vec<_>>());
                (whole, base, trained(test, &name))
            }
        };
        let found = perplexity(quantized(&source, to, None), &text);
        let (of, limit) = match (to, sibling) {
            (_, Some(sibling)) => (perplexity(sibling, &text), 1.005),
            (QuantType::F16 | QuantType::BF16, None) => (base, 1.001),
            (_, None) => (base, 1.02),
        };
        eprintln!(
            "{to}: {found:.4}, to be compared with {of:.4}: {:+.3}%",
            100.0 * (found / of - 1.0)
        );
        assert!(found <= of * limit, "{to}: {found} against {of}");
    }
}

#[test]
fn made_up_models_have_the_types_of_their_mixes() {
    let made = |mix: TypeMix| {
        let options = SynthOptions {
            shape: ShapeName::Tiny,
            mix,
            seed: 5,
            vocab_from: None,
        };
        let mut file = Vec::new();
        synth::write(&options, &mut file, &mut |_, _| {}).unwrap();
        Gguf::from_vec("synth.gguf", file).unwrap()
    };
    let source = made(TypeMix::F32);
    for (mix, to) in [
        (TypeMix::F16, QuantType::F16),
        (TypeMix::BF16, QuantType::BF16),
        (TypeMix::Q8_0, QuantType::Q8_0),
        (TypeMix::Q6_K, QuantType::Q6_K),
        (TypeMix::Q5_K_M, QuantType::Q5_K_M),
        (TypeMix::Q4_K_M, QuantType::Q4_K_M),
        (TypeMix::Q3_K_M, QuantType::Q3_K_M),
        (TypeMix::Q4_0, QuantType::Q4_0),
        (TypeMix::IQ4_XS, QuantType::IQ4_XS),
    ] {
        let result = quantized(&source, to, None);
        assert_eq!(types(&result), types(&made(mix)), "{to}");
        // Nothing else of the file changes.
        for (key, value) in source.metadata().iter() {
            let is_kept = result.metadata().get(key) == Some(value);
            assert!(is_kept || key == "general.file_type", "{to}: {key}");
        }
    }
}

/// Rows of 64 fit no super-block; every target still makes a file that runs.
#[test]
fn rows_that_are_no_whole_blocks_get_smaller_ones() {
    let test = "rows_that_are_no_whole_blocks_get_smaller_ones";
    for folder in MICRO_MODELS {
        let Some(path) = shared(test, &micro_file(folder)) else {
            continue;
        };
        let source = Gguf::open(path).unwrap();
        for &to in QuantType::ALL {
            let made = quantized(&source, to, None);
            for t in made.tensors() {
                let kept = source.tensor(&t.name).unwrap();
                let is_small = t.name.ends_with("_norm.weight") || !t.name.ends_with(".weight");
                let is_vector = t.dims.len() == 1 || is_small;
                assert!(!is_vector || t.ty == kept.ty, "{to} {}: {}", t.name, t.ty);
            }
            of_container(made, &ModelOptions::default()).unwrap();
        }
    }
}

fn importance(model: &Path, text: &str, precision: Precision) -> (tempfile::TempDir, Imatrix) {
    let model = Arc::new(Model::open(model).unwrap());
    let tokens = model.tokenizer().encode_prompt(&[], text, false);
    let options = CollectOptions {
        context: 128,
        chunks: Some(4),
        precision,
    };
    let bos = model
        .tokenizer()
        .bos()
        .filter(|_| model.tokenizer().adds_bos());
    let collected = collect(&model, &tokens, bos, options, |_, _| {}).unwrap();
    assert_eq!(collected.chunks, 4);
    assert!(collected.sums.values().all(|(_, count)| *count == 512));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("i.gguf");
    collected
        .write("text", std::fs::File::create(&file).unwrap())
        .unwrap();
    let matrix = Imatrix::open(&file).unwrap();
    (folder, matrix)
}

/// Written by hand as in the older form, and read back.
fn older(folder: &Path, matrix: &Imatrix) -> Imatrix {
    let number = |n: usize| (n as i32).to_le_bytes();
    let mut bytes = number(matrix.iter().count()).to_vec();
    for (name, values) in matrix.iter() {
        bytes.extend(number(name.len()));
        bytes.extend(name.as_bytes());
        bytes.extend(number(4));
        bytes.extend(number(values.len()));
        bytes.extend(values.iter().flat_map(|v| (v * 4.0).to_le_bytes()));
    }
    let file = folder.join("i.dat");
    std::fs::write(&file, bytes).unwrap();
    Imatrix::open(file).unwrap()
}

#[test]
fn importance_is_the_mean_square_of_inputs_and_lowers_the_weighted_error() {
    let test = "importance_is_the_mean_square_of_inputs";
    let path = shared(test, "models/rustdoc-tiny-F16.gguf");
    let (Some(path), Some(text)) = (path, held_out(test, 12_000)) else {
        return;
    };
    let (folder, matrix) = importance(&path, &text, Precision::Exact);
    let f16 = Gguf::open(&path).unwrap();
    assert_eq!(matrix.iter().count(), 70);

    // What comes into the first layer, by hand: embeddings, normalised.
    let model = Model::open(&path).unwrap();
    let mut tokens = model.tokenizer().encode_prompt(&[], &text, false);
    tokens.truncate(512);
    if let Some(bos) = model
        .tokenizer()
        .bos()
        .filter(|_| model.tokenizer().adds_bos())
    {
        tokens.chunks_mut(128).for_each(|window| window[0] = bos);
    }
    let embedding = values(&f16, f16.tensor("token_embd.weight").unwrap());
    let norm = values(&f16, f16.tensor("blk.0.attn_norm.weight").unwrap());
    let eps = f16
        .metadata()
        .f32("llama.attention.layer_norm_rms_epsilon")
        .unwrap();
    let mut expected = vec![0.0f64; 256];
    for &token in &tokens {
        let row = &embedding[token as usize * 256..][..256];
        let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 256.0;
        for ((e, &v), &w) in expected.iter_mut().zip(row).zip(&norm) {
            *e += (f64::from(v) * f64::from(w)).powi(2) / (mean + f64::from(eps)) / 512.0;
        }
    }
    let of = |name: &str| matrix.iter().find(|(n, _)| *n == name).unwrap().1;
    for name in ["attn_q", "attn_k", "attn_v"] {
        let found = of(&format!("blk.0.{name}.weight"));
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (f64::from(*found) / expected - 1.0).abs() < 1e-4,
                "{found} {expected}"
            );
        }
    }

    let old = older(folder.path(), &matrix);
    for ((name, new), (same, old)) in matrix.iter().zip(old.iter()) {
        assert_eq!(name, same);
        assert!(new.iter().zip(old).all(|(a, b)| (a - b).abs() <= 1e-6 * a));
    }

    for to in [
        QuantType::Q6_K,
        QuantType::Q4_K_S,
        QuantType::Q3_K_M,
        QuantType::Q4_0,
        QuantType::IQ4_XS,
    ] {
        let (plain, weighted) = (
            quantized(&f16, to, None),
            quantized(&f16, to, Some(&matrix)),
        );
        let error = |gguf: &Gguf| {
            let (mut sum, mut count) = (0.0, 0);
            for (name, importance) in matrix.iter() {
                let (exact, found) = (f16.tensor(name).unwrap(), gguf.tensor(name).unwrap());
                if plain.tensor(name).unwrap().ty != weighted.tensor(name).unwrap().ty {
                    continue;
                }
                let (x, y) = (values(&f16, exact), values(gguf, found));
                let columns = importance.iter().cycle();
                let errors = x.iter().zip(&y).zip(columns);
                sum += errors
                    .map(|((x, y), w)| f64::from(*w) * f64::from(x - y).powi(2))
                    .sum::<f64>();
                count += 1;
            }
            assert!(count >= 60);
            sum
        };
        let (plain, weighted) = (error(&plain), error(&weighted));
        eprintln!("{to}: weighted error {weighted:.4e}, was {plain:.4e}");
        assert!(weighted < plain, "{to}: {weighted} is not below {plain}");
    }
}
