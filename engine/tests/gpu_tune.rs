//! Tuning and profiling on a GPU: every product is measured and what was chosen is served; a profile
//! is of every launch of a step as it is served; counters are those of one executor.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/omitted.rs"]
mod omitted;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use common::{gpu, model, shared};
use gannet_engine::internals::exec::cuda::{CudaExecutor, Gpu};
use gannet_engine::internals::exec::{DecodeStart, Executor, LaunchTime, Stats, StepRows};
use gannet_engine::internals::kv::BlockTable;
use gannet_engine::internals::plan::StepRow;
use gannet_engine::settings::DiskCache;
use gannet_engine::tools::tune::{self, TuneOptions, TunedShape};
use gannet_engine::tools::{make_executor, make_executor_on};
use gannet_engine::{DeviceChoice, Model, Opening, Sampling, Settings};

fn tiny(test: &str) -> Option<Arc<Model>> {
    if !gpu(test) {
        return None;
    }
    Some(model(&shared(test, "models/rustdoc-tiny-Q4_K_M.gguf")?))
}

fn options(slots: usize, disk_cache: DiskCache) -> Settings {
    Settings {
        device: DeviceChoice::Cuda(0),
        context: Some(512),
        slots: Some(slots),
        gate: false,
        disk_cache,
        ..Settings::default()
    }
}

/// Sequences of one token each, `length - 1` of a zeroed cache before it.
fn starts(count: usize, length: u32, sampling: &Sampling) -> Vec<DecodeStart<'_>> {
    let start = |slot: u32| DecodeStart {
        row: StepRow::new(11 + slot, length, slot),
        sampling,
        history: &[],
        draws: 0,
    };
    (0..count as u32).map(start).collect()
}

fn table(executor: &dyn Executor) -> BlockTable {
    let limits = executor.limits();
    let mut table = BlockTable::new(limits.num_slots, limits.context, limits.cache_blocks);
    for slot in 0..limits.num_slots {
        table.reserve(slot, limits.context).unwrap();
    }
    table
}

/// Settings that use both kernels of sampling.
fn drawn() -> Sampling {
    Sampling {
        temperature: 0.8,
        top_k: 40,
        seed: 5,
        ..Sampling::default()
    }
}

fn decode(
    executor: &mut dyn Executor,
    starts: &[DecodeStart<'_>],
    table: &BlockTable,
) -> Vec<Vec<u32>> {
    let mut found = vec![Vec::new(); starts.len()];
    let mut on_token = |i: usize, token: u32| {
        found[i].push(token);
        ControlFlow::Continue(())
    };
    executor.decode(starts, 16, table, &mut on_token).unwrap();
    found
}

#[test]
fn gpu_every_product_is_measured_and_the_choice_is_served() {
    let Some(model) = tiny("tuning") else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let options = options(
        8,
        DiskCache {
            folder: Some(cache.path().to_owned()),
            ..DiskCache::default()
        },
    );
    let tuned = |rows: usize| {
        let what = TuneOptions {
            tokens: vec![rows],
            repeats: 1,
            ..TuneOptions::default()
        };
        let mut seen = Vec::new();
        let mut on_shape = |shape: &TunedShape| seen.push(shape.shape);
        let report = tune::run(&model, &options, &what, &mut on_shape).unwrap();
        let shapes: Vec<_> = report.shapes.iter().map(|s| s.shape).collect();
        assert_eq!(seen, shapes);
        assert!(!shapes.is_empty());
        for shape in &report.shapes {
            let name = shape.shape.name();
            assert_eq!(shape.shape.tokens as usize, rows, "{name}");
            assert!(shape.times.len() > 1, "{name}");
            let chosen = shape.time_of(shape.chosen).unwrap();
            assert!(chosen.passes() && chosen.limit <= what.limit, "{chosen:?}");
            assert!(chosen.seconds > 0.0 && chosen.seconds < 1.0, "{chosen:?}");
            // Held against the CPU: the reference arithmetic is right on any GPU.
            let built_in = shape.time_of(shape.built_in).unwrap();
            assert!(built_in.passes(), "{name}: {built_in:?}");
            assert!(shape.over_best >= 1.0, "{name}: {}", shape.over_best);
            let failed = shape.times.iter().filter(|t| !t.passes()).count();
            assert_eq!(failed, 0, "{name}: refused or past their limit");
            println!("{name}: {} variants", shape.times.len());
        }
        report
    };
    let first = tuned(1);
    let file = first.file.unwrap();
    assert!(file.starts_with(cache.path()));
    let gpu = Gpu::open(0, &options.disk_cache).unwrap();
    let measured = |what: &str| {
        let profile = gpu.profile(&options.disk_cache, options.overrides);
        profile.unwrap_or_else(|e| panic!("{what}: {e}"))
    };
    for shape in &first.shapes {
        let kept = measured("tuned").measured().get(&shape.shape).copied();
        assert_eq!(kept, Some(shape.chosen));
    }
    make_executor(&model, &options).unwrap();
    // A file that nobody wrote is refused, and repaired by what the refusal names.
    std::fs::write(&file, "nonsense").unwrap();
    let refused = make_executor(&model, &options).err().unwrap().to_string();
    assert!(refused.contains("gannet tune"), "{refused}");
    // Steps of 8 rows are served by other kernels; asked for, products of 8 are measured.
    let second = tuned(8);
    assert_eq!(measured("repaired").measured().len(), second.shapes.len());
    make_executor(&model, &options).unwrap();
}

#[test]
fn gpu_profiles_are_of_every_launch_that_is_served() {
    const REPEATS: usize = 3;
    let Some(model) = tiny("profiles") else {
        return;
    };
    for slots in [1, 4] {
        let mut executor = make_executor(&model, &options(slots, DiskCache::default()))
            .unwrap()
            .executor;
        let table = table(executor.as_ref());
        let (greedy, drawn) = (Sampling::default(), drawn());
        let rows = StepRows::batch((0..slots as u32).map(|slot| StepRow::new(11, 1, slot)));
        let planned = omitted::places(executor.inspect(), &rows.step(&table)).unwrap();
        let cases = [
            (&greedy, vec!["advance"]),
            (&drawn, vec!["filter", "draw", "advance"]),
        ];
        for (sampling, behind) in cases {
            let starts = starts(slots, 20, sampling);
            let before = decode(executor.as_mut(), &starts, &table);
            let device = executor.measure().unwrap();
            let found = device.launch_times(&starts, REPEATS, &table).unwrap();
            let units: Vec<&str> = found.iter().map(|l| l.unit.as_str()).collect();
            let planned: Vec<&str> = planned.iter().map(|p| p.unit.as_str()).collect();
            assert_eq!(units, [&planned[..], &behind].concat(), "{slots} slots");
            for launch in &found {
                assert_eq!(launch.seconds.len(), REPEATS);
                let timed = |s: &f64| s.is_finite() && *s < 0.1;
                assert!(launch.seconds.iter().all(timed), "{launch:?}");
                assert!(launch.bytes > 0 && !launch.kernel.is_empty(), "{launch:?}");
            }
            let total: f64 = found.iter().map(|l| l.seconds[REPEATS - 1]).sum();
            assert!(total > 0.0);
            assert_eq!(decode(executor.as_mut(), &starts, &table), before);
        }
        let device = executor.measure().unwrap();
        device
            .launch_times(&starts(slots, 0, &greedy), 1, &table)
            .unwrap_err();
    }
}

#[test]
fn gpu_profiles_count_the_keys_that_a_step_sees() {
    const SLOTS: usize = 2;
    let Some(model) = tiny("bytes of a profile") else {
        return;
    };
    let mut executor = make_executor(&model, &options(SLOTS, DiskCache::default()))
        .unwrap()
        .executor;
    let table = table(executor.as_ref());
    let greedy = Sampling::default();
    let mut at = |length| -> Vec<LaunchTime> {
        let starts = starts(SLOTS, length, &greedy);
        let device = executor.measure().unwrap();
        device.launch_times(&starts, 1, &table).unwrap()
    };
    let (shallow, deep) = (at(20), at(320));
    let caches = &model.plan().caches;
    let kernels = |times: &[LaunchTime]| times.iter().map(|l| l.kernel.clone()).collect::<Vec<_>>();
    assert_eq!(kernels(&shallow), kernels(&deep));
    let mut attention = 0;
    for (shallow, deep) in shallow.iter().zip(&deep) {
        let reads = shallow.kernel.starts_with("attention") && !shallow.kernel.contains("merge");
        // Keys and values of f16.
        let more = 300 * SLOTS * caches[0].width() * 2 * 2;
        let more = if reads { more as u64 } else { 0 };
        assert_eq!(deep.bytes - shallow.bytes, more, "{}", shallow.kernel);
        attention += usize::from(reads);
    }
    assert_eq!(attention, caches.len());
}

#[test]
fn gpu_step_times_are_of_the_device() {
    const STEPS: usize = 64;
    let Some(model) = tiny("time of a step") else {
        return;
    };
    for slots in [1, 4] {
        let mut executor = make_executor(&model, &options(slots, DiskCache::default()))
            .unwrap()
            .executor;
        let table = table(executor.as_ref());
        for sampling in [Sampling::default(), drawn()] {
            let starts = starts(slots, 20, &sampling);
            let before = decode(executor.as_mut(), &starts, &table);
            let clock = Instant::now();
            let device = executor.measure().unwrap();
            let seconds = device.device_step_time(&starts, STEPS, &table).unwrap();
            let elapsed = clock.elapsed().as_secs_f64();
            assert!(
                seconds > 0.0 && seconds * STEPS as f64 <= elapsed,
                "{seconds}"
            );
            assert_eq!(decode(executor.as_mut(), &starts, &table), before);
        }
    }
}

#[test]
fn gpu_counters_are_those_of_an_executor() {
    let Some(model) = tiny("counters of executors") else {
        return;
    };
    let options = options(1, DiskCache::default());
    // Both on one context.
    let opening = Opening::start(&options);
    let make = || {
        make_executor_on(&model, &options, &opening)
            .unwrap()
            .executor
    };
    let mut first = make();
    assert_eq!(first.stats(), Stats::default());
    let table = table(first.as_ref());
    let greedy = Sampling::default();
    decode(first.as_mut(), &starts(1, 20, &greedy), &table);
    let stats = first.stats();
    assert_eq!((stats.steps, stats.graph_launches), (16, 16));
    let second = make();
    assert_eq!(second.stats(), Stats::default());
}

/// Nothing is compiled between the load and the last token.
#[test]
fn gpu_loads_compile_all_that_decoding_launches() {
    const SLOTS: usize = 6;
    let Some(model) = tiny("kernels of a load") else {
        return;
    };
    let options = options(SLOTS, DiskCache::default());
    let gpu = Arc::new(Gpu::open(0, &options.disk_cache).unwrap());
    let mut executor = CudaExecutor::new(&gpu, &model, &options).unwrap();
    let loaded = gpu.context.statistics().modules;
    assert_eq!(executor.load().kernels, loaded);
    let table = table(&executor);
    for count in 1..=SLOTS {
        for sampling in [Sampling::default(), drawn()] {
            decode(&mut executor, &starts(count, 20, &sampling), &table);
        }
    }
    assert_eq!(gpu.context.statistics().modules, loaded);
}
