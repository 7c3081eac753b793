//! Values that are no numbers, or too large or small for what is computed in, in place of one weight or
//! one activation: whatever executor runs the model, its logits are those of the reference or an error
//! that names the operation.
//!
//! `GANNET_PLANTED=all` plants in every tensor of every layer; by default in those of one layer.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
mod reference;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{gpu, model, shared};
use gannet_engine::internals::exec::{Executor, StepRows};
use gannet_engine::internals::kv::BlockTable;
use gannet_engine::internals::plan::{Buf, Element};
use gannet_engine::settings::{Buffers, Precision};
use gannet_engine::tools::parity::{ParityOptions, Side, compare};
use gannet_engine::tools::{eval, make_executor};
use gannet_engine::{
    DeviceChoice, Error, ExecutorChoice, GenerateOptions, Model, Sampling, Session, Settings,
};
use gannet_gguf::{Gguf, TensorInfo, TensorType};
use half::{bf16, f16};
use reference::{Reference, kld};
use tempfile::NamedTempFile;

/// Not a number, none that is finite, beyond f16, beyond the squares of f32, and subnormal.
const VALUES: [f32; 8] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    65_520.0,
    -1e6,
    1e30,
    1e-40,
    -6e-8,
];

/// A copy of a model with a value in place of an element, or of the scale of its block.
fn planted(file: &Path, tensor: &TensorInfo, element: u64, value: f32) -> NamedTempFile {
    let mut bytes = std::fs::read(file).unwrap();
    let block = element % tensor.elements() / tensor.ty.block_len();
    let at = (tensor.offset + block * tensor.ty.block_bytes()) as usize;
    let half = f16::from_f32(value).to_le_bytes();
    match tensor.ty {
        TensorType::F32 => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
        TensorType::BF16 => {
            let value = bf16::from_f32(value).to_le_bytes();
            bytes[at..at + 2].copy_from_slice(&value);
        }
        // Behind what it scales.
        TensorType::Q6_K => bytes[at + 208..at + 210].copy_from_slice(&half),
        // A number of f16, or a block's scale in front of it.
        _ => bytes[at..at + 2].copy_from_slice(&half),
    }
    let mut out = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    out.write_all(&bytes).unwrap();
    out
}

/// What runs a model, how far it may be from the reference, and how much of an activation it may round
/// away.
struct Runner {
    name: &'static str,
    settings: Settings,
    limit: f64,
    rounding: f32,
    /// The largest finite value that it is held to the reference with. Beyond, all that a trained model
    /// computes is one direction, of which 8 bits leave noise.
    largest: f32,
}

fn runner(
    name: &'static str,
    (device, precision): (DeviceChoice, Precision),
    limit: f64,
    rounding: f32,
) -> Runner {
    Runner {
        largest: f32::MAX,
        rounding,
        name,
        settings: Settings {
            device,
            precision,
            context: Some(64),
            max_outputs: Some(16),
            ..Settings::default()
        },
        limit,
    }
}

fn runners() -> Vec<Runner> {
    let (exact, fast) = (Precision::Exact, Precision::Fast);
    vec![
        runner("exact", (DeviceChoice::Cpu, exact), 1e-6, 1e-6),
        runner("fast", (DeviceChoice::Cpu, fast), 1e-3, 1.0 / 127.0),
        runner("interp", (DeviceChoice::Interp, fast), 1e-3, 1.0 / 1024.0),
    ]
}

/// The tokens that models are held to the reference with: more than matrix-vector kernels take.
fn tokens(vocab_size: usize) -> Vec<u32> {
    (0..13)
        .map(|i| (i * i * 7 + 3 * i + 11) % vocab_size as u32)
        .collect()
}

/// The largest divergence of a position.
fn worst(right: &[f64], found: &[f64], vocab_size: usize) -> f64 {
    let rows = right.chunks(vocab_size).zip(found.chunks(vocab_size));
    rows.map(|(a, b)| kld(a, b)).fold(0.0, f64::max)
}

/// A value in place of a weight of a model.
struct Plant<'a> {
    file: &'a Path,
    tensor: &'a TensorInfo,
    element: u64,
    value: f32,
}

impl Plant<'_> {
    fn times(&self, factor: f32) -> NamedTempFile {
        planted(self.file, self.tensor, self.element, self.value * factor)
    }

    /// How far logits go where the value is rounded: no executor that rounds so is held closer.
    fn sensitivity(&self, ids: &[u32], right: &[f64], rounding: f32) -> f64 {
        let of = |factor: f32| {
            let rounded = Reference::open(self.times(factor).path()).unwrap();
            worst(right, &rounded.logits(ids, 64), rounded.vocab_size())
        };
        of(1.0 + rounding).max(of(1.0 - rounding))
    }
}

/// Every executor on a planted model. Returns how many of them gave an error.
fn check(plant: &Plant<'_>, runners: &[Runner], what: &str, limit: f64) -> usize {
    let copy = plant.times(1.0);
    let file = copy.path();
    let reference = Reference::open(file).unwrap();
    let ids = tokens(reference.vocab_size());
    let right = reference.logits(&ids, 64);
    let model = model(file);
    let mut errors = 0;
    for runner in runners {
        let mut executor = match make_executor(&model, &runner.settings) {
            Ok(made) => made.executor,
            // The gate has looked before.
            Err(Error::NotFinite(found)) => {
                assert!(found.origin.is_some(), "{what}");
                errors += 1;
                continue;
            }
            Err(why) => panic!("{what}: {why}"),
        };
        let mut worst = 0.0;
        let found = eval::logits(executor.as_mut(), &ids, 0, |position, row| {
            let row: Vec<f64> = row.iter().map(|&v| v.into()).collect();
            let right = &right[position * row.len()..][..row.len()];
            worst = f64::max(worst, kld(right, &row));
            Ok(())
        });
        match found {
            Ok(()) => {
                let is_held = !(plant.value.abs() > runner.largest);
                if is_held && worst > f64::max(limit, runner.limit) {
                    let most = 4.0 * plant.sensitivity(&ids, &right, runner.rounding);
                    assert!(
                        worst <= most,
                        "{what}, {}: KLD {worst:e}, {most:e}",
                        runner.name
                    );
                }
            }
            Err(Error::NotFinite(found)) => {
                let line = found.to_string();
                assert!(found.origin.is_some(), "{what}, {}: {line}", runner.name);
                errors += 1;
            }
            Err(why) => panic!("{what}, {}: {why}", runner.name),
        }
    }
    errors
}

/// Whether a tensor is looked at.
fn is_chosen(name: &str) -> bool {
    let all = std::env::var_os("GANNET_PLANTED").is_some_and(|v| v == "all");
    all || !name.starts_with("blk.") || name.starts_with("blk.1.")
}

/// Plants every value in every chosen tensor of a model, one at a time.
fn plant_everywhere(file: &Path, runners: &[Runner], limit: f64) {
    let gguf = Gguf::open(file).unwrap();
    let (mut ran, mut errors) = (0, 0);
    for (nth, tensor) in (0u64..).zip(gguf.tensors()) {
        if !is_chosen(&tensor.name) {
            continue;
        }
        for (i, value) in (0u64..).zip(VALUES) {
            // In the embedding of a token that is there.
            let vocab = tensor.dims.last().copied().unwrap_or(1);
            let element = match tensor.name.as_str() {
                "token_embd.weight" => u64::from(tokens(vocab as usize)[3]) * tensor.dims[0] + i,
                _ => nth * 7919 + i * 104_729,
            };
            let plant = Plant {
                file,
                tensor,
                element,
                value,
            };
            let what = format!("{value:e} in {} of {}", tensor.name, file.display());
            let found = check(&plant, runners, &what, limit);
            if !value.is_finite() && tensor.name != "rope_freqs.weight" {
                // An infinity of a norm or a gate may leave numbers; NaN does not.
                assert!(found > 0 || !value.is_nan(), "{what}: no error");
            }
            errors += found;
            ran += runners.len();
        }
    }
    println!("{}: {errors} of {ran} are errors", file.display());
}

#[test]
fn weights_of_micro_models() {
    for part in ["llama", "qwen2", "gemma2"] {
        let part = format!("golden/arch/{part}/{part}.gguf");
        if let Some(file) = shared("planted weights", &part) {
            plant_everywhere(&file, &runners(), 0.0);
        }
    }
}

#[test]
fn weights_of_a_trained_model() {
    for name in ["Q4_K_M", "F16", "Q8_0"] {
        let Some(file) = shared(
            "planted weights",
            &format!("models/rustdoc-tiny-{name}.gguf"),
        ) else {
            continue;
        };
        let mut runners = runners();
        runners[1].largest = 65_520.0;
        plant_everywhere(&file, &runners[..2], 1e-2);
    }
}

#[test]
fn gpu_weights() {
    if !gpu("planted weights") {
        return;
    }
    let on_gpu = (DeviceChoice::Cuda(0), Precision::Fast);
    let mut runners = vec![runner("cuda", on_gpu, 1e-3, 1.0 / 1024.0)];
    runners[0].settings.executor = ExecutorChoice::Graph;
    for name in ["Q4_K_M", "F16"] {
        let part = format!("models/rustdoc-tiny-{name}.gguf");
        if let Some(file) = shared("planted weights", &part) {
            plant_everywhere(&file, &runners, 1e-2);
        }
    }
}

/// Runs a step unit by unit with a value in place of an element of a buffer, and gives its logits.
fn with_activation(
    executor: &mut dyn Executor,
    ids: &[u32],
    at: Buf,
    value: f32,
) -> Option<Vec<f32>> {
    let limits = executor.limits();
    let mut table = BlockTable::new(1, limits.context, limits.cache_blocks);
    table.reserve(0, ids.len()).unwrap();
    let rows = StepRows::of_slot(ids, 0, 0..ids.len());
    let step = rows.step(&table);
    let inspect = executor.inspect();
    let units = inspect.units(step.shape()).unwrap();
    inspect.begin(&step).unwrap();
    let mut is_planted = false;
    for (i, unit) in units.iter().enumerate() {
        inspect.run_unit(&step, i).unwrap();
        if unit.writes.contains(&at) {
            let mut values = inspect.read(at).unwrap()?;
            let middle = values.len() / 2 + 3;
            values[middle] = value;
            inspect.write(at, &values).unwrap();
            is_planted = true;
        }
    }
    is_planted.then(|| inspect.logits().unwrap().to_vec())
}

#[test]
fn activations() {
    let Some(file) = shared("planted activations", "golden/arch/llama/llama.gguf") else {
        return;
    };
    let model = model(&file);
    let ids = tokens(model.plan().vocab_size);
    let make = |mut runner: Runner| {
        runner.settings.buffers = Buffers::Distinct;
        let made = make_executor(&model, &runner.settings).unwrap();
        (made.executor, runner)
    };
    let mut executors: Vec<_> = runners().into_iter().map(make).collect();
    let mut compared = 0;
    for (b, info) in (0..).zip(&model.plan().buffers) {
        if info.element != Element::F32 || !is_chosen(&info.name) {
            continue;
        }
        for value in VALUES {
            let (exact, others) = executors.split_first_mut().unwrap();
            let right = with_activation(exact.0.as_mut(), &ids, Buf(b), value).unwrap();
            for (executor, runner) in others {
                let Some(found) = with_activation(executor.as_mut(), &ids, Buf(b), value) else {
                    continue;
                };
                compared += 1;
                // Logits that are not finite are an error to whoever asks for them.
                if found.iter().any(|v| !v.is_finite()) {
                    continue;
                }
                let kld = eval::kl_divergence(&right, &found);
                let what = format!("{value:e} in {}, {}", info.name, runner.name);
                assert!(kld <= runner.limit, "{what}: KLD {kld:e}");
            }
        }
    }
    assert!(compared > 200, "{compared}");
}

/// One hidden value exceeds f16, and its column of the down projection makes up for it: an ordinary model.
#[test]
fn a_hidden_value_beyond_f16() {
    let folder = "cases/turn2";
    let Some(file) = shared(
        "activations beyond f16",
        &format!("{folder}/activation-above-f16.gguf"),
    ) else {
        return;
    };
    let model = model(&file);
    let ids = common::tokens(&common::json(&file.with_file_name("tokens-32.json")));
    let right = common::floats(&file.with_file_name("activation-above-f16.right.f32"));
    for mut runner in runners() {
        runner.settings.max_rows = Some(32);
        let mut executor = make_executor(&model, &runner.settings).unwrap().executor;
        let mut worst = 0.0;
        eval::logits(executor.as_mut(), &ids, 0, |position, row| {
            let right = &right[position * row.len()..][..row.len()];
            worst = f64::max(worst, eval::kl_divergence(right, row));
            Ok(())
        })
        .unwrap();
        println!("{}: KLD {worst:e}", runner.name);
        assert!(worst < runner.limit, "{}: KLD {worst:e}", runner.name);
    }
    let options = ParityOptions {
        left: Side::Interp,
        right: Side::Interp,
        chunk: Some(1),
        tokens: ids,
        generate: 1,
        ..ParityOptions::default()
    };
    for report in compare(&model, &options).unwrap() {
        assert!(report.passes(), "{:?}", report.first_failure());
    }
}

/// Whatever generates ends with the error; a token before the fault may have been given.
fn generates_nothing(model: &Arc<Model>, device: DeviceChoice) {
    for temperature in [0.0, 0.8] {
        let settings = Settings {
            device,
            context: Some(64),
            gate: false,
            ..Settings::default()
        };
        let mut session = Session::new(model, &settings).unwrap();
        let options = GenerateOptions {
            max_tokens: 8,
            ignore_eog: true,
            sampling: Sampling {
                temperature,
                ..Sampling::default()
            },
            ..GenerateOptions::default()
        };
        let mut given = 0;
        let found = session.generate_tokens(&[5, 6, 7], &options, |event| {
            given += usize::from(matches!(event, gannet_engine::Event::Token { .. }));
            ControlFlow::Continue(())
        });
        match found {
            Err(Error::NotFinite(found)) => {
                let origin = found.origin.unwrap();
                assert_eq!(
                    (found.position, origin.position, origin.layer),
                    (2, 0, Some(1))
                );
                assert!(origin.unit.contains("blk.1.ffn_down"), "{}", origin.unit);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(given, 0);
    }
}

fn with_a_nan_in_down(test: &str) -> Option<Arc<Model>> {
    let file = shared(test, "golden/arch/llama/llama.gguf")?;
    let gguf = Gguf::open(&file).unwrap();
    let down = gguf.tensor("blk.1.ffn_down.weight").unwrap();
    let copy = planted(&file, down, 77, f32::NAN);
    Some(model(copy.path()))
}

#[test]
fn generation_ends_with_the_operation() {
    if let Some(model) = with_a_nan_in_down("generation of no numbers") {
        generates_nothing(&model, DeviceChoice::Cpu);
        generates_nothing(&model, DeviceChoice::Interp);
    }
}

#[test]
fn gpu_generation_ends_with_the_operation() {
    if gpu("generation of no numbers")
        && let Some(model) = with_a_nan_in_down("generation of no numbers")
    {
        generates_nothing(&model, DeviceChoice::Cuda(0));
    }
}
