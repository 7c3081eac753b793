//! Values that are no numbers, or too large or small for what is computed in, in place of one weight or
//! one activation: whatever executor runs the model, its logits are those of the reference or an error
//! that names the operation.
//!
//! Where rounding what precedes a large value decides on all that follows it, logits may go as far as those
//! of the reference do that rounds as much. That it is the model that magnifies what 8 bits take, and no
//! operation that errs, is shown by comparing each on the same inputs.
//!
//! `GANNET_PLANTED=all` plants in every tensor of every layer; by default in those of one layer.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/plants.rs"]
mod plants;
mod reference;

use common::{model, shared};
use gannet_engine::DeviceChoice;
use gannet_engine::internals::exec::{Executor, StepRows};
use gannet_engine::internals::kv::BlockTable;
use gannet_engine::internals::plan::{Buf, Element};
use gannet_engine::settings::Buffers;
use gannet_engine::tools::parity::{ParityOptions, Side, compare};
use gannet_engine::tools::{eval, make_executor};
use plants::*;

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
        plant_everywhere(&file, &runners()[..2], 1e-2);
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

#[test]
fn generation_ends_with_the_operation() {
    if let Some(model) = with_a_nan_in_down("generation of no numbers") {
        generates_nothing(&model, DeviceChoice::Cpu);
        generates_nothing(&model, DeviceChoice::Interp);
    }
}
