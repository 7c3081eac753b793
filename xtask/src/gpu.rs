//! `cargo xtask gpu`: the GPU tests on this machine.
//!
//! GPU tests are the test targets whose name begins with `gpu_`. Elsewhere they skip without a
//! device; here `GANNET_REQUIRE_GPU=1` makes that a failure, and one thread runs them, since they
//! share the device. Fails when there is no GPU or no such test, so that it never reads as a pass.

use std::path::Path;

use crate::{Outcome, no_arguments, runner, workspace};

pub(crate) fn run(arguments: &[String]) -> Outcome {
    no_arguments(arguments)?;
    if !has_gpu() {
        return Err("no NVIDIA GPU on this machine".into());
    }
    let targets = workspace::gpu_test_arguments();
    if targets.is_empty() {
        return Err("the workspace has no test targets named gpu_*".into());
    }
    let environment = [("GANNET_REQUIRE_GPU", "1")];
    let tally = runner::cargo_test(&targets, &["--test-threads=1"], &environment)?;
    println!();
    runner::print_reasons(&tally);
    println!("{}", tally.closing_line());
    match (tally.failed(), tally.passed()) {
        (0, 0) => Err("no GPU test passed".into()),
        (0, _) => Ok(()),
        (n, _) => Err(format!("{n} failed")),
    }
}

/// Whether a driver shows a device. On Windows there is no file to look for: the tests decide.
fn has_gpu() -> bool {
    cfg!(windows)
        || ["/dev/nvidiactl", "/dev/dxg"]
            .iter()
            .any(|p| Path::new(p).exists())
}
