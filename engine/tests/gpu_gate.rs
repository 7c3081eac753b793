//! The parity gate on a GPU: run at first use, remembered, and loud where a launch is left out.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use common::{gpu, model, shared};
use gannet_engine::ExecutorChoice;
use gannet_engine::settings::Overrides;
use gannet_engine::settings::{DiskCache, Faults, Precision};
use gannet_engine::tools::gate;
use gannet_engine::tools::make_executor;
use gannet_engine::{DeviceChoice, Error, Settings};

#[test]
fn gpu_is_held_against_the_cpu_once() {
    let test = "the parity gate";
    if !gpu(test) {
        return;
    }
    let Some(path) = shared(test, "models/rustdoc-tiny-Q4_K_M.gguf") else {
        return;
    };
    let model = model(&path);
    let cache = tempfile::tempdir().unwrap();
    let options = |omit_launch| Settings {
        device: DeviceChoice::Cuda(0),
        faults: Faults {
            omit_launch,
            ..Faults::default()
        },
        disk_cache: DiskCache {
            folder: Some(cache.path().to_owned()),
            ..DiskCache::default()
        },
        ..Settings::default()
    };
    // Faults first: they must not be remembered.
    for launch in [0, 7, 20] {
        match make_executor(&model, &options(Some(launch))).map(|_| ()) {
            Err(Error::Gate(failure)) => {
                let line = failure.to_string();
                println!("{line}");
                assert!(line.contains("computes this model wrongly") && !line.contains('\n'));
            }
            other => panic!("without launch {launch}: {other:?}"),
        }
        assert!(gate::passed(cache.path()).is_empty());
    }
    let mut off = options(Some(7));
    off.gate = false;
    make_executor(&model, &off).unwrap();

    let launches = || {
        let made = make_executor(&model, &options(None)).unwrap();
        made.executor.stats().launches
    };
    let first = launches();
    let passed = gate::passed(cache.path());
    assert_eq!(passed.len(), 1);
    assert_eq!(passed[0].model, path.display().to_string());
    let second = launches();
    assert!(second < first, "{first} launches, then {second}");
}

#[test]
fn gpu_gate_passes_on_every_format() {
    let test = "the parity gate on every format";
    if !gpu(test) {
        return;
    }
    for file in ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"] {
        let Some(path) = shared(test, &format!("models/rustdoc-tiny-{file}.gguf")) else {
            continue;
        };
        let model = model(&path);
        for precision in [Precision::Exact, Precision::Fast] {
            let options = Settings {
                device: DeviceChoice::Cuda(0),
                precision,
                ..Settings::default()
            };
            let mut executor = make_executor(&model, &options).unwrap().executor;
            for _ in 0..2 {
                let start = Instant::now();
                let reports = gate::check(&model, executor.inspect()).unwrap();
                let elapsed = start.elapsed();
                for report in &reports {
                    let failure = report.first_failure();
                    assert!(report.passes(), "{file} {precision:?}: {failure:?}");
                }
                let worst = reports.iter().filter_map(|r| r.worst()).next_back();
                println!("{file} {precision:?}: {elapsed:?}, worst {worst:?}");
            }
        }
    }
}

#[test]
fn gpu_gate_looks_at_what_is_served_with_and_without_a_cache() {
    let test = "the parity gate on what is served";
    if !gpu(test) {
        return;
    }
    let Some(path) = shared(test, "models/rustdoc-tiny-Q4_K_M.gguf") else {
        return;
    };
    let model = model(&path);
    let cache = tempfile::tempdir().unwrap();
    let options = |executor, variant: Option<&str>, cached: bool| Settings {
        device: DeviceChoice::Cuda(0),
        executor,
        slots: Some(5),
        context: Some(256),
        overrides: Overrides {
            gemv: variant.map(|v| v.parse().unwrap()),
            ..Overrides::default()
        },
        disk_cache: DiskCache {
            folder: cached.then(|| cache.path().to_owned()),
            ..DiskCache::default()
        },
        ..Settings::default()
    };
    let choices = [
        ExecutorChoice::Eager,
        ExecutorChoice::Graph,
        ExecutorChoice::Capture,
    ];
    let launches = |options: &Settings| {
        let made = make_executor(&model, options).unwrap();
        made.executor.stats().launches
    };
    let files = || std::fs::read_dir(cache.path().join("gate")).map_or(0, Iterator::count);
    for executor in choices {
        // Products of bytes pass, too, and are remembered apart.
        for variant in [None, Some("dp4a-l32-w16-r1-b4")] {
            let before = files();
            let first = launches(&options(executor, variant, true));
            assert_eq!(files(), before + 1, "{executor:?} {variant:?}");
            let again = launches(&options(executor, variant, true));
            assert!(again < first, "{executor:?} {variant:?}: {first}, {again}");
            assert_eq!(files(), before + 1, "{executor:?} {variant:?}");
            let options = options(executor, variant, false);
            assert!(launches(&options) > again, "without a cache folder");
            let mut executor = make_executor(&model, &options).unwrap().executor;
            let start = Instant::now();
            let reports = gate::check(&model, executor.inspect()).unwrap();
            let elapsed = start.elapsed();
            // Prompt, token, decoded token, chunk, batch replayed, batch alone.
            assert_eq!(reports.len(), 6);
            for report in &reports {
                let failure = report.first_failure();
                assert!(report.passes(), "{}: {failure:?}", report.step);
                println!(
                    "{} against {}: {:?}",
                    report.step,
                    report.left,
                    report.worst()
                );
            }
            println!("{} {variant:?}: {elapsed:?}", executor.kind());
        }
    }
}
