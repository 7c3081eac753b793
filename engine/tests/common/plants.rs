//! Values in place of weights, and runners of models that hold them: for tests on the CPU and on a GPU.

#![allow(unreachable_pub)]
// Each target uses some of it.
#![allow(dead_code, unused_imports)]

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::common::{gpu, model, shared};
use crate::reference::{Reference, Rounding, kld};
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
use tempfile::NamedTempFile;

/// Not a number, none that is finite, beyond f16, beyond the squares of f32, and subnormal.
pub const VALUES: [f32; 8] = [
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
pub fn planted(file: &Path, tensor: &TensorInfo, element: u64, value: f32) -> NamedTempFile {
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
pub struct Runner {
    pub name: &'static str,
    pub settings: Settings,
    pub limit: f64,
    pub rounding: f32,
    /// Whether it rounds the inputs of products to 8 bits.
    pub rounds_to_bytes: bool,
    /// The largest finite value that it is held to the reference with: that of a cache whose roundings
    /// decide beyond it which key is looked at.
    pub largest: f32,
}

pub fn runner(
    name: &'static str,
    (device, precision): (DeviceChoice, Precision),
    limit: f64,
    rounding: f32,
) -> Runner {
    Runner {
        largest: f32::MAX,
        rounds_to_bytes: (device, precision) == (DeviceChoice::Cpu, Precision::Fast),
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

pub fn runners() -> Vec<Runner> {
    let (exact, fast) = (Precision::Exact, Precision::Fast);
    vec![
        runner("exact", (DeviceChoice::Cpu, exact), 1e-6, f32::EPSILON),
        runner("fast", (DeviceChoice::Cpu, fast), 1e-3, 1.0 / 127.0),
        runner("interp", (DeviceChoice::Interp, fast), 1e-3, 1.0 / 1024.0),
    ]
}

/// The tokens that models are held to the reference with: more than matrix-vector kernels take.
pub fn tokens(vocab_size: usize) -> Vec<u32> {
    (0..13)
        .map(|i| (i * i * 7 + 3 * i + 11) % vocab_size as u32)
        .collect()
}

/// The largest divergence of a position.
pub fn worst(right: &[f64], found: &[f64], vocab_size: usize) -> f64 {
    let rows = right.chunks(vocab_size).zip(found.chunks(vocab_size));
    rows.map(|(a, b)| kld(a, b)).fold(0.0, f64::max)
}

/// Ways to round that are tried.
const ROUNDINGS: u64 = 9;

/// A value in place of a weight of a model.
pub struct Plant<'a> {
    pub file: &'a Path,
    pub tensor: &'a TensorInfo,
    pub element: u64,
    pub value: f32,
}

impl Plant<'_> {
    pub fn times(&self, factor: f32) -> NamedTempFile {
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

    /// How far they go where nothing but products round, in some ways. A large value makes
    /// of scores a choice of one key, and of all that follows one direction or another: where two keys are
    /// close, whatever is rounded before decides.
    fn of_products(&self, ids: &[u32], right: &[f64], way: impl Fn(u64) -> Rounding) -> f64 {
        let mut rounded = Reference::open(self.times(1.0).path()).unwrap();
        let of = |seed| {
            rounded.round_products(way(seed));
            worst(right, &rounded.logits(ids, 64), rounded.vocab_size())
        };
        (0..ROUNDINGS).map(of).fold(0.0, f64::max)
    }

    /// Holds a runner whose logits are `worst` off to what rounding makes of the model: it may go as far as
    /// the reference does that rounds as much; and one that rounds to bytes has each operation right all the
    /// same, products to within what f32 sums err by given the same bytes.
    fn hold(&self, runner: &Runner, what: &str, ids: &[u32], worst: f64) {
        let file = self.times(1.0);
        let right = Reference::open(file.path()).unwrap().logits(ids, 64);
        let share = f64::from(runner.rounding);
        let of_products = match runner.rounds_to_bytes {
            true => self.of_products(ids, &right, Rounding::Bytes),
            false => self.of_products(ids, &right, |seed| Rounding::Share(seed, share)),
        };
        let allowed = of_products.max(self.sensitivity(ids, &right, runner.rounding));
        if runner.rounds_to_bytes {
            let options = ParityOptions {
                left: Side::Cpu,
                right: Side::CpuFast,
                tokens: ids.to_vec(),
                generate: 0,
                ..ParityOptions::default()
            };
            for report in compare(&model(file.path()), &options).unwrap() {
                assert!(report.passes(), "{what}: {:?}", report.first_failure());
            }
        }
        let name = runner.name;
        println!("{what}, {name}: KLD {worst:.1e}, rounding {allowed:.1e}");
        assert!(
            worst <= 4.0 * allowed,
            "{what}, {name}: KLD {worst:e}, {allowed:e}"
        );
    }
}

/// Every executor on a planted model. Returns how many of them gave an error.
pub fn check(plant: &Plant<'_>, runners: &[Runner], what: &str, limit: f64) -> usize {
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
                let line = found.to_string();
                assert!(found.origin.is_some(), "{what}, {}: {line}", runner.name);
                errors += 1;
                continue;
            }
            Err(why) => panic!("{what}, {} before it runs: {why}", runner.name),
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
                let is_held = plant.value.abs() <= runner.largest || plant.value.is_nan();
                if is_held && worst > f64::max(limit, runner.limit) {
                    plant.hold(runner, what, &ids, worst);
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
pub fn is_chosen(name: &str) -> bool {
    let all = std::env::var_os("GANNET_PLANTED").is_some_and(|v| v == "all");
    all || !name.starts_with("blk.") || name.starts_with("blk.1.")
}

/// Whatever generates ends with the error; a token before the fault may have been given.
pub fn generates_nothing(model: &Arc<Model>, device: DeviceChoice) {
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

pub fn with_a_nan_in_down(test: &str) -> Option<Arc<Model>> {
    let file = shared(test, "golden/arch/llama/llama.gguf")?;
    let gguf = Gguf::open(&file).unwrap();
    let down = gguf.tensor("blk.1.ffn_down.weight").unwrap();
    let copy = planted(&file, down, 77, f32::NAN);
    Some(model(copy.path()))
}

/// Plants every value in every chosen tensor of a model, one at a time.
pub fn plant_everywhere(file: &Path, runners: &[Runner], limit: f64) {
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
