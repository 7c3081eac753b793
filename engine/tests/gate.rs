//! The parity gate on interpreted kernels: quiet where they are right, loud where one is left out,
//! in the steps that are held against the CPU and in those that are served.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/omitted.rs"]
mod omitted;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::{model, shared};
use gannet_engine::internals::exec::interp::InterpExecutor;
use gannet_engine::internals::exec::{
    DecodeStart, Executor, ExecutorKind, HostQueue, Inspect, Limits, Stats, Step,
};
use gannet_engine::internals::kv::BlockTable;
use gannet_engine::internals::lower::Shape;
use gannet_engine::internals::lower::Unit;
use gannet_engine::internals::plan::{Buf, Column, Plan};
use gannet_engine::settings::{Buffers, Faults, Overrides, Precision};
use gannet_engine::tools::gate;
use gannet_engine::tools::parity::Report;
use gannet_engine::tools::synth::{self, ShapeName, SynthOptions, TypeMix};
use gannet_engine::{Error, Model};
use gannet_ptx_gen::kernels::GemvVariant;
use gannet_ptx_gen::target::Target;
use half::f16;
use omitted::{Prompt, places, table};

/// A variant that rounds activations to bytes.
fn dp4a() -> GemvVariant {
    "dp4a-l32-w16-r1-b4".parse().unwrap()
}

/// As it serves: buffers share memory.
fn interp(model: &Arc<Model>, limits: Limits) -> InterpExecutor {
    let (target, precision) = (Target::Sm80, Precision::Fast);
    let made = InterpExecutor::new(
        Arc::clone(model),
        target,
        precision,
        limits,
        Buffers::Shared,
    );
    made.unwrap()
}

/// Checks an executor that must pass; what each step was held against.
fn passes(model: &Arc<Model>, executor: &mut dyn Inspect) -> Vec<String> {
    let reports = gate::check(model, executor).unwrap();
    for report in &reports {
        let failure = report.first_failure();
        assert!(report.passes(), "{}: {failure:?}", report.step);
        println!("{}: worst {:?}", report.step, report.worst());
    }
    reports.into_iter().map(|r| r.left).collect()
}

const CPU: &str = "the CPU";
const EAGER: &str = "one launch after the other";
const SHORT: &str = "the same in steps of 12";
const ALONE: &str = "each sequence alone";

fn healthy(part: &str) {
    let Some(path) = shared("the gate on healthy kernels", part) else {
        return;
    };
    let model = model(&path);
    // Room for everything, for a chunk without a batch, for a prompt, for a part of it, and for a
    // single token.
    let all = [CPU, CPU, EAGER, SHORT, EAGER, ALONE];
    for (slots, context, steps) in [
        (3, 128, &all[..]),
        (1, 128, &all[..4]),
        (1, 40, &all[..3]),
        (1, 6, &all[..3]),
        (1, 1, &all[..1]),
    ] {
        let limits = Limits {
            // A row, and its logits, for each slot and for what is missing to a power of two.
            max_outputs: usize::next_power_of_two(slots),
            ..Limits::new(slots, context)
        };
        let mut executor = interp(&model, limits);
        assert_eq!(passes(&model, &mut executor), steps, "{part} {context}");
    }
}

#[test]
fn healthy_micro_models_pass() {
    for family in ["llama", "llama3-scaled", "qwen2", "qwen3"] {
        healthy(&format!("golden/arch/{family}/{family}.gguf"));
    }
}

#[test]
fn the_healthy_trained_model_passes() {
    healthy("models/rustdoc-tiny-Q4_K_M.gguf");
}

#[test]
fn any_launch_that_is_left_out_is_found() {
    for family in ["llama", "qwen2", "qwen3"] {
        let part = format!("golden/arch/{family}/{family}.gguf");
        let Some(path) = shared("the gate on omitted launches", &part) else {
            continue;
        };
        let model = model(&path);
        let vocab_size = model.plan().vocab_size;
        let mut executor = interp(&model, Limits::new(1, 128));
        let table = table(&executor);
        // The lists of the gate's two steps: a prompt, and a token.
        let lists = [12, 1].map(|rows| {
            let prompt = Prompt::new(rows, 0, vocab_size);
            places(&mut executor, &prompt.step(&table)).unwrap()
        });
        let count = lists.iter().map(Vec::len).max().unwrap();
        assert!(count >= 20, "{family}: {count}");
        for launch in 0..count {
            let mut executor = interp(&model, Limits::new(1, 128));
            executor.set_faults(Faults {
                omit_launch: Some(launch),
                ..Faults::default()
            });
            let reports = gate::check(&model, &mut executor).unwrap();
            for (report, list) in reports.iter().zip(&lists) {
                match list.get(launch) {
                    Some(place) => omitted::found(report, place),
                    None => assert!(report.passes(), "{family}, {launch}: {}", report.step),
                }
            }
        }
    }
}

#[test]
fn products_of_bytes_pass_and_their_faults_do_not() {
    let test = "the gate on int8 products";
    let Some(path) = shared(test, "models/rustdoc-tiny-Q4_K_M.gguf") else {
        return;
    };
    let model = model(&path);
    let int8 = |omit_launch| {
        let mut executor = interp(&model, Limits::new(2, 40));
        executor.set_overrides(Overrides {
            gemv: Some(dp4a()),
            ..Overrides::default()
        });
        executor.set_faults(Faults {
            omit_launch,
            ..Faults::default()
        });
        executor
    };
    let mut executor = int8(None);
    passes(&model, &mut executor);
    let vocab_size = model.plan().vocab_size;
    let prompt = Prompt::new(1, 0, vocab_size);
    let table = table(&executor);
    let places = places(&mut executor, &prompt.step(&table)).unwrap();
    for place in omitted::spread(places, 4) {
        let mut executor = int8(Some(place.launch));
        let reports = gate::check(&model, &mut executor).unwrap();
        omitted::found(&reports[1], &place);
    }
}

/// Where an executor goes wrong that is right launch by launch.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    /// This launch is missing when tokens are decoded.
    Decode(usize),
    /// This launch is missing in steps of many rows.
    Chunk(usize),
    /// The first two sequences of a batch are taken for each other, however it runs.
    Batch,
    /// This unit leaves NaN in this column of the first row of what it writes.
    Stray(usize, usize),
    /// What this unit reads beyond f16 has this magnitude, where it runs alone.
    Beyond(usize, f32),
}

/// An executor with a fault that only whole steps show.
struct Served {
    inner: InterpExecutor,
    wrong: Wrong,
}

impl Served {
    fn without<T>(&mut self, launch: Option<usize>, run: impl FnOnce(&mut Self) -> T) -> T {
        self.inner.set_faults(Faults {
            omit_launch: launch,
            ..Faults::default()
        });
        let result = run(self);
        self.inner.set_faults(Faults::default());
        result
    }

    fn slot(&self, slot: u32, rows: usize) -> u32 {
        match slot {
            0 | 1 if self.wrong == Wrong::Batch && rows > 1 => 1 - slot,
            other => other,
        }
    }
}

impl Executor for Served {
    fn kind(&self) -> ExecutorKind {
        self.inner.kind()
    }

    fn plan(&self) -> &Plan {
        self.inner.plan()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        let launch = match self.wrong {
            Wrong::Chunk(launch) if step.rows() > 64 => Some(launch),
            _ => None,
        };
        self.without(launch, |s| s.inner.run(step))
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        self.inner.logits()
    }

    fn next(&mut self) -> Result<&[u32], Error> {
        self.inner.next()
    }

    fn decode(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let launch = match self.wrong {
            Wrong::Decode(launch) => Some(launch),
            _ => None,
        };
        let mut sequences = sequences.to_vec();
        let rows = sequences.len();
        for s in &mut sequences {
            s.row.slot = self.slot(s.row.slot, rows);
        }
        self.without(launch, |s| {
            s.inner.decode(&sequences, steps, table, on_token)
        })
    }

    fn host_queue(&mut self) -> &mut HostQueue {
        self.inner.host_queue()
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.inner.copy_blocks(pairs)
    }

    fn save_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.inner.save_blocks(pairs)
    }

    fn restore_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.inner.restore_blocks(pairs)
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn inspect(&mut self) -> &mut dyn Inspect {
        self
    }
}

impl Inspect for Served {
    fn units(&mut self, shape: Shape) -> Result<Vec<Unit>, Error> {
        self.inner.units(shape)
    }

    fn poison(&mut self) -> Result<(), Error> {
        self.inner.poison()
    }

    fn begin(&mut self, step: &Step<'_>) -> Result<(), Error> {
        let batch = step.slots().windows(2).any(|w| w[0] != w[1]);
        let count = if batch { step.rows() } else { 1 };
        let mut rows = step.inputs.clone();
        for slot in rows.column_mut(Column::Slot) {
            *slot = self.slot(*slot, count);
        }
        self.inner.begin(&rows.step(step.table))
    }

    fn run_unit(&mut self, step: &Step<'_>, unit: usize) -> Result<(), Error> {
        if let Wrong::Beyond(wrong, largest) = self.wrong
            && wrong == unit
        {
            let reads = self.inner.units(step.shape())?[unit].reads.clone();
            for b in reads {
                let mut values = self.inner.read(b)?.unwrap_or_default();
                let beyond = values.iter_mut().filter(|v| v.abs() > f16::MAX.to_f32());
                beyond.for_each(|v| *v = largest.copysign(*v));
                self.inner.write(b, &values)?;
            }
        }
        self.inner.run_unit(step, unit)?;
        if let Wrong::Stray(wrong, column) = self.wrong
            && wrong == unit
            && let Some(&b) = self.inner.units(step.shape())?[unit].writes.last()
            && let Some(mut values) = self.inner.read(b)?
        {
            values[column] = f32::NAN;
            self.inner.write(b, &values)?;
        }
        Ok(())
    }

    fn read(&mut self, b: Buf) -> Result<Option<Vec<f32>>, Error> {
        self.inner.read(b)
    }

    fn write(&mut self, b: Buf, data: &[f32]) -> Result<(), Error> {
        self.inner.write(b, data)
    }
}

/// What the first report that does not pass was held against.
fn found(reports: &[Report]) -> Option<&'static str> {
    let failed = reports.iter().find(|r| !r.passes())?;
    let known = [CPU, EAGER, SHORT, ALONE];
    known.into_iter().find(|left| *left == failed.left)
}

/// A read of what no launch has written.
const UNWRITTEN: &str = "the interpreter";

#[test]
fn what_only_serving_shows_is_found() {
    let test = "the gate on what is served";
    let Some(path) = shared(test, "golden/arch/qwen3/qwen3.gguf") else {
        return;
    };
    let model = model(&path);
    let limits = Limits::new(2, 128);
    let check = |wrong| {
        let inner = interp(&model, limits);
        match gate::check(&model, &mut Served { inner, wrong }) {
            Ok(reports) => found(&reports),
            // The interpreter may see it first.
            Err(Error::Interp(line)) if line.contains("that nothing has written") => {
                Some(UNWRITTEN)
            }
            Err(other) => panic!("{wrong:?}: {other}"),
        }
    };
    let mut healthy = interp(&model, limits);
    let table = table(&healthy);
    let mut launches = |rows| {
        let prompt = Prompt::new(rows, 0, model.plan().vocab_size);
        let places = places(&mut healthy, &prompt.step(&table)).unwrap();
        omitted::spread(places, 12)
    };
    for place in launches(1) {
        let found = check(Wrong::Decode(place.launch));
        let seen = found == Some(EAGER) || found == Some(UNWRITTEN);
        assert!(seen, "{place:?}: {found:?}");
    }
    for place in launches(72) {
        // The head has nothing to do in a chunk whose logits nobody wants.
        let head = [
            "gather_outputs",
            "rms_norm final",
            "matmul logits",
            "argmax",
        ];
        let in_head = head.iter().any(|name| place.unit.starts_with(name));
        let found = check(Wrong::Chunk(place.launch));
        let seen = found == Some(SHORT) || found == Some(UNWRITTEN);
        assert!(
            if in_head { found.is_none() } else { seen },
            "{place:?}: {found:?}"
        );
    }
    assert_eq!(check(Wrong::Batch), Some(ALONE));
}

/// What only the device has of what is no number is the device's fault, also where the CPU looks at a sample
/// of the columns.
#[test]
fn numbers_that_only_the_device_lacks_are_its_own_fault() {
    let test = "the gate on NaN of a device";
    let Some(path) = shared(test, "models/rustdoc-tiny-Q4_K_M.gguf") else {
        return;
    };
    let model = model(&path);
    let limits = Limits::new(1, 16);
    let mut healthy = interp(&model, limits);
    let prompt = Prompt::new(12, 0, model.plan().vocab_size);
    let table = table(&healthy);
    let units = healthy.units(prompt.step(&table).shape()).unwrap();
    let chosen = units.iter().enumerate().filter(|(_, unit)| {
        let in_layer = unit.name.contains("blk.1.") && !unit.writes.is_empty();
        in_layer || unit.name.starts_with("embed")
    });
    let chosen: Vec<_> = chosen.collect();
    assert!(chosen.len() >= 6, "{}", chosen.len());
    for (unit, named) in chosen.into_iter().step_by(2) {
        for column in [1, 100] {
            let inner = interp(&model, limits);
            let wrong = Wrong::Stray(unit, column);
            let reports = gate::check(&model, &mut Served { inner, wrong }).unwrap();
            let failure = reports[0].first_failure();
            let found = failure.map(|row| (&row.unit, row.nmse));
            assert_eq!(found, Some((&named.name, f64::INFINITY)), "column {column}");
        }
    }
}

/// A product that clamps activations at the range of f16, or lets them overflow, is right in every row that
/// the gate's prompt has of itself.
#[test]
fn products_that_clamp_what_f16_does_not_hold_are_found() {
    let test = "the gate on values beyond f16";
    for (part, every) in [
        ("golden/arch/llama/llama.gguf", 2),
        ("golden/arch/qwen2/qwen2.gguf", 3),
        ("models/rustdoc-tiny-Q4_K_M.gguf", 12),
    ] {
        let Some(path) = shared(test, part) else {
            continue;
        };
        let model = model(&path);
        let limits = Limits::new(1, 40);
        let mut healthy = interp(&model, limits);
        for (report, rows) in [(0, 12), (1, 1)] {
            let prompt = Prompt::new(rows, 0, model.plan().vocab_size);
            let table = table(&healthy);
            let units = healthy.units(prompt.step(&table).shape()).unwrap();
            let products = (units.iter().enumerate()).filter(|(_, u)| u.name.contains("matmul "));
            let products: Vec<_> = products.collect();
            assert!(products.len() >= 8, "{part}: {}", products.len());
            for (at, (unit, product)) in products.into_iter().step_by(every).enumerate() {
                let largest = [f16::MAX.to_f32(), f32::INFINITY][at % 2];
                let inner = interp(&model, limits);
                let wrong = Wrong::Beyond(unit, largest);
                let reports = gate::check(&model, &mut Served { inner, wrong }).unwrap();
                let failure = reports[report].first_failure();
                let expected = format!("{} of values beyond f16", product.name);
                assert_eq!(
                    failure.map(|row| &row.unit),
                    Some(&expected),
                    "{part} {largest}"
                );
            }
        }
    }
}

/// Types that a GPU holds as another one: where weights are rounded to f16 for it, products are off by that
/// and no more.
#[test]
fn healthy_models_of_converted_types_pass() {
    for mix in [
        TypeMix::Q4_1,
        TypeMix::IQ4_XS,
        TypeMix::IQ1_S,
        TypeMix::IQ2_XXS,
        TypeMix::IQ3_S,
        TypeMix::TQ1_0,
        TypeMix::NVFP4,
    ] {
        let options = SynthOptions {
            shape: ShapeName::Tiny,
            mix,
            seed: 2,
            vocab_from: None,
        };
        let mut file = tempfile::NamedTempFile::new().unwrap();
        synth::write(&options, &mut file, &mut |_, _| {}).unwrap();
        let model = model(file.path());
        println!("{mix}");
        passes(&model, &mut interp(&model, Limits::new(1, 40)));
    }
}
