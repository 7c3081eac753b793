//! What the engine's tests share: where reference data is, and how to read it.

#![allow(dead_code, unreachable_pub, reason = "each test target uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gannet_engine::settings::Precision;
use gannet_engine::settings::Settings;
use gannet_engine::{DeviceChoice, Model};
use serde_json::Value;

/// The micro-models whose families run: their folders in the reference data.
pub const MICRO_MODELS: &[&str] = &[
    "golden/arch/llama",
    "golden/arch/llama3-scaled",
    "golden/arch/qwen2",
    "golden/arch/qwen3",
    "golden/arch/gemma2",
    "golden/arch/gemma3",
    "golden/arch/phi3",
    "golden/arch2/gpt2",
];

/// The file of a micro-model, by its folder.
pub fn micro_file(folder: &str) -> String {
    let name = folder.rsplit('/').next().unwrap_or(folder);
    format!("{folder}/{name}.gguf")
}

/// A part of the reference data: beside the repository (or where `GANNET_SHARED` says), else the
/// share of it that the repository ships. `None`, and a line that says *skipped*, where neither has
/// it.
pub fn shared(test: &str, part: &str) -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root =
        std::env::var_os("GANNET_SHARED").map_or_else(|| here.join("../../shared"), PathBuf::from);
    let shipped = part.strip_prefix("models/").map_or_else(
        || here.join("tests/data").join(part),
        |model| here.join("../cli/models").join(model),
    );
    let found = [root.join(part), shipped]
        .into_iter()
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: {test}: no {part} in the reference data");
    }
    found
}

/// The folder of reference logits and the model file of a weight type, where both are there.
pub fn trained(test: &str, file: &str) -> Option<(PathBuf, PathBuf)> {
    let model = shared(test, &format!("models/rustdoc-tiny-{file}.gguf"))?;
    let logits = shared(test, &format!("golden/rustdoc-tiny/{file}"))?;
    Some((logits.parent()?.to_path_buf(), model))
}

pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn tokens(value: &Value) -> Vec<u32> {
    let list = value.as_array().expect("a list of token ids");
    list.iter()
        .map(|v| v.as_u64().expect("a token id") as u32)
        .collect()
}

pub fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

pub fn model(path: &Path) -> Arc<Model> {
    Arc::new(Model::open(path).unwrap_or_else(|e| panic!("{e}")))
}

pub fn options(device: DeviceChoice, precision: Precision, outputs: usize) -> Settings {
    Settings {
        device,
        precision,
        context: Some(1024),
        max_outputs: Some(outputs),
        ..Settings::default()
    }
}

/// KLD, top-1 agreement and largest difference over many positions.
#[derive(Debug, Default)]
pub struct Divergence {
    pub positions: usize,
    pub sum: f64,
    pub max: f64,
    pub max_difference: f64,
    pub agreed: usize,
    /// Positions whose choice differs although the reference's margin is over 0.5.
    pub clear_flips: usize,
}

impl Divergence {
    pub fn add(&mut self, reference: &[f32], found: &[f32]) {
        let kld = gannet_engine::tools::eval::kl_divergence(reference, found);
        self.positions += 1;
        self.sum += kld;
        self.max = self.max.max(if kld.is_nan() { f64::INFINITY } else { kld });
        for (a, b) in reference.iter().zip(found) {
            self.max_difference = self.max_difference.max(f64::from((a - b).abs()));
        }
        let top = gannet_engine::internals::exec::sample::argmax;
        let (best, chosen) = (top(reference), top(found));
        self.agreed += usize::from(best == chosen);
        let margin = reference[best as usize] - reference[chosen as usize];
        self.clear_flips += usize::from(margin > 0.5);
    }

    pub fn mean(&self) -> f64 {
        self.sum / self.positions as f64
    }
}

/// Whether there is a GPU to test on; says *skipped* where there is none, and fails instead where
/// `GANNET_REQUIRE_GPU=1`.
pub fn gpu(test: &str) -> bool {
    let found = gannet_cuda_runtime::Driver::load().and_then(|d| d.device(0));
    if let Err(why) = found {
        let required = std::env::var_os("GANNET_REQUIRE_GPU").is_some_and(|v| v == "1");
        assert!(!required, "{test}: {why}");
        eprintln!("skipped: {test}: {why}");
        return false;
    }
    true
}

/// Logits of the sequences of a micro-model's folder, against float64.
pub fn micro_divergence(
    folder: &Path,
    executor: &mut dyn gannet_engine::internals::exec::Executor,
) -> Divergence {
    let vocab = executor.plan().vocab_size;
    let index = json(&folder.join("index.json"));
    let mut result = Divergence::default();
    for (_, sequence) in index["sequences"].as_object().expect("sequences") {
        let file = |key: &str| folder.join(sequence[key].as_str().expect("a file name"));
        let (ids, reference) = (tokens(&json(&file("tokens"))), floats(&file("ref64")));
        gannet_engine::tools::eval::logits(executor, &ids, 0, |position, row| {
            result.add(&reference[position * vocab..][..vocab], row);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    }
    result
}

/// Logits of the reference sequences that a folder's `index.json` lists, against an executor.
pub fn divergence(
    folder: &Path,
    file: &str,
    executor: &mut dyn gannet_engine::internals::exec::Executor,
) -> Divergence {
    let vocab = executor.plan().vocab_size;
    let index = json(&folder.join("index.json"));
    let mut result = Divergence::default();
    for (_, sequence) in index["sequences"].as_object().expect("sequences") {
        let name = sequence["tokens"].as_str().expect("a file name");
        let ids = tokens(&json(&folder.join(name)));
        let first = sequence["first_position"].as_u64().expect("a position") as usize;
        let logits = sequence["logits"]
            .as_str()
            .expect("a file name")
            .replace("<FILE>", file);
        let reference = floats(&folder.join(logits));
        gannet_engine::tools::eval::logits(executor, &ids, first, |position, row| {
            result.add(&reference[(position - first) * vocab..][..vocab], row);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    result
}

/// Generates the reference's greedy continuations and compares them up to the first margin below
/// `noise`.
pub fn check_greedy(session: &mut gannet_engine::Session, reference: &Value, noise: f64) {
    for (name, case) in reference.as_object().expect("cases") {
        let expected = tokens(&case["tokens"]);
        let margins = case["margin"].as_array().expect("margins");
        let sure = margins
            .iter()
            .position(|m| m.as_f64().expect("a margin") < noise);
        let sure = sure.unwrap_or(expected.len());
        session.clear();
        let generate = gannet_engine::GenerateOptions {
            max_tokens: expected.len(),
            ignore_eog: true,
            ..Default::default()
        };
        let prompt = tokens(&case["prompt"]);
        let found = session
            .generate_tokens(&prompt, &generate, |_| std::ops::ControlFlow::Continue(()))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(found.tokens.len(), expected.len(), "{name}");
        assert_eq!(found.tokens[..sure], expected[..sure], "{name}");
    }
}

/// The perplexity that the reference protocol asks for, and the reference's own.
pub fn perplexity(
    text: &Path,
    model: &Arc<Model>,
    name: &str,
    executor: &mut dyn gannet_engine::internals::exec::Executor,
) -> (f64, f64) {
    let protocol = json(&text.with_file_name("perplexity.json"));
    let of = |list: &str| protocol[list][name]["ref64"].as_f64();
    let reference = of("models").or_else(|| of("more")).expect("a perplexity");
    let text = std::fs::read_to_string(text).expect("the text");
    let encode = gannet_engine::tokenizer::EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let ids = model.tokenizer().encode(&text, encode);
    assert_eq!(
        ids.len() as u64,
        protocol["tokens"].as_u64().expect("a count")
    );
    let bos = model.tokenizer().bos();
    let found = gannet_engine::tools::eval::perplexity(executor, &ids, bos, 512, |_, _, _| {})
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(
        found.scored as u64,
        protocol["scored"].as_u64().expect("a count")
    );
    (found.value, reference)
}

/// Makes tests of a check for each file that has reference logits and greedy text, so that one
/// without its file is skipped alone.
#[allow(unused_macros, reason = "each test target uses its part")]
macro_rules! for_each_file {
    (@ $module:ident $file:literal $($test:ident $check:ident)*) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$check($file);
            })*
        }
    };
    ($($test:ident: $check:ident,)*) => {
        for_each_file!(@ f16 "F16" $($test $check)*);
        for_each_file!(@ q8_0 "Q8_0" $($test $check)*);
        for_each_file!(@ q6_k "Q6_K" $($test $check)*);
        for_each_file!(@ q4_k_m "Q4_K_M" $($test $check)*);
        for_each_file!(@ q4_0 "Q4_0" $($test $check)*);
    };
}
