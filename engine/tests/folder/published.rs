//! The published library as the oracle: folders as it saves them give the logits that it computes. Without
//! a `python3` that has `transformers` and `torch` this says *skipped*.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use gannet_engine::settings::Precision;
use gannet_engine::tools::{eval, make_executor};
use gannet_engine::{DeviceChoice, Model};

use crate::common::{floats, json, options, tokens};

fn has_library() -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", "import torch, transformers"]);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let has = command.status().is_ok_and(|status| status.success());
    if !has {
        eprintln!("skipped: python3 has no torch and transformers");
    }
    has
}

/// The largest difference of logits, and the largest of them.
fn compare(folder: &Path) -> (f32, f32) {
    let model = Model::open(folder).unwrap_or_else(|e| panic!("{e}"));
    let vocab = model.plan().vocab_size;
    let settings = options(DeviceChoice::Cpu, Precision::Exact, 64);
    let settings = gannet_engine::Settings {
        // A window ends some contexts there.
        context: Some(64),
        ..settings
    };
    let mut executor = make_executor(&Arc::new(model), &settings).unwrap().executor;
    let ids = tokens(&json(&folder.join("ids.json")));
    let right = floats(&folder.join("logits.f32"));
    let (mut worst, mut largest) = (0f32, 0f32);
    eval::logits(executor.as_mut(), &ids, 0, |position, row| {
        for (found, right) in row.iter().zip(&right[position * vocab..][..vocab]) {
            worst = worst.max((found - right).abs());
            largest = largest.max(right.abs());
        }
        Ok(())
    })
    .unwrap();
    (worst, largest)
}

#[test]
fn folders_give_the_logits_of_the_published_library() {
    if !has_library() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/folder/published.py");
    let done = Command::new("python3")
        .arg(script)
        .arg(root.path())
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let mut folders: Vec<_> = std::fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    assert_eq!(folders.len(), 21);
    let mut failures = Vec::new();
    for folder in folders {
        let (worst, largest) = compare(&folder);
        eprintln!("{}: {worst:.2e} of {largest:.1}", folder.display());
        if worst.is_nan() || worst > 2e-4 * largest {
            failures.push(format!("{}: {worst} of {largest}", folder.display()));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
