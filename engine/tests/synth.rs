//! Made-up models: sound files of the right shape, in every mix of types.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::Arc;

use gannet_engine::internals::model::of_container;
use gannet_engine::settings::Precision;
use gannet_engine::tools::synth::{self, ShapeName, SynthOptions, TypeMix};
use gannet_engine::{DeviceChoice, GenerateOptions, ModelOptions, Session, Settings};
use gannet_gguf::Gguf;
use gannet_quant::Format;

fn tiny(mix: TypeMix, seed: u64) -> (Vec<u8>, synth::Summary) {
    let options = SynthOptions {
        shape: ShapeName::Tiny,
        mix,
        seed,
        vocab_from: None,
    };
    let mut file = Vec::new();
    let mut last = (0, 1);
    let summary = synth::write(&options, &mut file, &mut |done, total| {
        assert!(done > last.0 && done <= total);
        last = (done, total);
    });
    assert_eq!(last.0, last.1, "progress ends at the end");
    (file, summary.unwrap())
}

/// Standard deviation of a tensor's weights around their mean.
fn deviation(gguf: &Gguf, name: &str) -> f64 {
    let tensor = gguf.tensor(name).unwrap();
    let len = tensor.dims.iter().product::<u64>() as usize;
    let mut values = vec![0.0; len];
    let format = Format::from_ggml_id(tensor.ty.id()).unwrap();
    format.dequantize(gguf.data(tensor), &mut values).unwrap();
    assert!(values.iter().all(|v| v.is_finite()), "{name}");
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / len as f64;
    let square = |v: &f32| (f64::from(*v) - mean).powi(2);
    (values.iter().map(square).sum::<f64>() / len as f64).sqrt()
}

#[test]
fn tiny_models_of_every_mix_are_sound_files() {
    for &mix in TypeMix::ALL {
        let (file, summary) = tiny(mix, 7);
        assert_eq!(summary.file_bytes, file.len() as u64, "{mix}");
        let gguf = Gguf::from_vec("tiny.gguf", file).unwrap();
        assert!(gguf.warnings().is_empty(), "{mix}: {:?}", gguf.warnings());
        assert_eq!(gguf.tensors().len(), summary.tensors);
        assert_eq!(
            gguf.tensors().iter().map(|t| t.bytes).sum::<u64>(),
            summary.weight_bytes
        );
        let expected = [
            ("token_embd.weight", 0.5),
            ("blk.2.attn_q.weight", 1.0 / 16.0),
            ("blk.0.attn_v.weight", 1.0 / 16.0),
            ("blk.3.ffn_down.weight", 1.0 / (1024.0f64 * 8.0).sqrt()),
            ("blk.1.attn_norm.weight", 0.05),
        ];
        for (name, expected) in expected {
            let found = deviation(&gguf, name);
            assert!(
                (0.7..1.4).contains(&(found / expected)),
                "{mix} {name}: {found}"
            );
        }
    }
}

#[test]
fn tiny_models_of_every_mix_run() {
    let mut total_distinct = 0;
    for &mix in TypeMix::ALL {
        let gguf = Gguf::from_vec("tiny.gguf", tiny(mix, 3).0).unwrap();
        let model = Arc::new(of_container(gguf, &ModelOptions::default()).unwrap());
        let options = Settings {
            device: DeviceChoice::Cpu,
            precision: Precision::Exact,
            ..Settings::default()
        };
        let mut session = Session::new(&model, &options).unwrap();
        let prompt: Vec<u32> = (0..64).map(|i| i * 7 % 512).collect();
        session
            .feed(&prompt, |_, _| ControlFlow::Continue(()))
            .unwrap();
        let logits = session.executor().logits().unwrap().to_vec();
        assert_eq!(logits.len(), 512);
        assert!(logits.iter().all(|v| v.is_finite()), "{mix}");
        let square = logits.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        let std = (square / logits.len() as f64).sqrt();
        assert!(
            (1.2..4.0).contains(&std),
            "{mix}: logits have a deviation of {std}"
        );

        session.clear();
        let options = GenerateOptions {
            max_tokens: 32,
            ignore_eog: true,
            ..GenerateOptions::default()
        };
        let go = |_: gannet_engine::Event<'_>| ControlFlow::Continue(());
        let made = session.generate("All of the water", &options, go).unwrap();
        let mut distinct = made.tokens.clone();
        distinct.sort_unstable();
        distinct.dedup();
        eprintln!(
            "{mix}: std {std:.2}, {} of 32 tokens distinct",
            distinct.len()
        );
        assert_eq!(made.tokens.len(), 32);
        total_distinct += distinct.len();
    }
    // Some of them fall into a loop: a step is a random map of 512 tokens.
    assert!(
        total_distinct > 8 * TypeMix::ALL.len(),
        "{total_distinct} distinct tokens of all"
    );
}

#[test]
fn the_seed_decides_every_byte() {
    let (first, _) = tiny(TypeMix::Q4_K_M, 1);
    assert_eq!(first, tiny(TypeMix::Q4_K_M, 1).0);
    let other = tiny(TypeMix::Q4_K_M, 2).0;
    let [a, b] = [first, other].map(|file| Gguf::from_vec("tiny.gguf", file).unwrap());
    let alike = |t: &&gannet_gguf::TensorInfo| a.data(t) == b.data(b.tensor(&t.name).unwrap());
    assert_eq!(a.tensors().iter().filter(alike).count(), 0);
    // Tensors of one model differ from each other, too.
    let data = |name: &str| a.data(a.tensor(name).unwrap());
    assert_ne!(data("blk.0.ffn_up.weight"), data("blk.0.ffn_gate.weight"));
    assert_ne!(data("blk.0.ffn_up.weight"), data("blk.1.ffn_up.weight"));
}

#[test]
fn a_vocabulary_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.gguf");
    let tokens = ["<unk>", "<s>", "</s>", "a", "b"];
    let mut writer = gannet_gguf::Writer::new();
    writer.set("tokenizer.ggml.model", "llama").unwrap();
    writer.set_array("tokenizer.ggml.tokens", &tokens).unwrap();
    let file = writer.start(Vec::new()).unwrap().finish().unwrap();
    std::fs::write(&source, file).unwrap();
    let make = |name: &str| {
        let vocab_from = Some(folder.path().join(name));
        let mix = TypeMix::F16;
        let options = SynthOptions {
            shape: ShapeName::Tiny,
            mix,
            seed: 1,
            vocab_from,
        };
        let mut file = Vec::new();
        let result = synth::write(&options, &mut file, &mut |_, _| {});
        result.map(|_| file).map_err(|e| e.to_string())
    };
    let gguf = Gguf::from_vec("copy.gguf", make("source.gguf").unwrap()).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.str("tokenizer.ggml.model").unwrap(), "llama");
    assert!(
        metadata
            .strings("tokenizer.ggml.tokens")
            .unwrap()
            .iter()
            .eq(tokens)
    );
    assert_eq!(metadata.u32("llama.vocab_size").unwrap(), 5);
    assert_eq!(gguf.tensor("token_embd.weight").unwrap().dims, [256, 5]);
    assert!(make("none.gguf").unwrap_err().contains("none.gguf"));
}

#[test]
fn a_vocabulary_that_is_too_large_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("large.gguf");
    let mut writer = gannet_gguf::Writer::new();
    let tokens: Vec<String> = (0..128_257).map(|i| i.to_string()).collect();
    writer.set_array("tokenizer.ggml.tokens", &tokens).unwrap();
    let file = writer.start(Vec::new()).unwrap().finish().unwrap();
    std::fs::write(&source, file).unwrap();
    let options = SynthOptions {
        shape: ShapeName::Llama31_8B,
        mix: TypeMix::Q8_0,
        seed: 1,
        vocab_from: Some(source),
    };
    let line = synth::write(&options, Vec::new(), &mut |_, _| {})
        .unwrap_err()
        .to_string();
    assert!(line.contains("large.gguf: 128257 tokens"), "{line}");
    assert!(line.contains("llama3.1-8b has at most 128256"), "{line}");
}
