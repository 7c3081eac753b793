//! Loads that overlap with the launch in front of what that launch writes.

use gannet_ptx_gen::build::{Builder, Val};
use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory, launch};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::target::Target;

use crate::{finding, numbers, options, quiet, thread};

const FILE: &str = "planted/launches.rs";

/// `out[i] = x[i] + weight[i]`, where weights (and with `early` activations) are loaded above the
/// wait for the launch in front; and the line of the load of activations.
fn sum(target: Target, early: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("sum", target, |k: &Builder| {
        k.block_size(64);
        let (x, weight) = (k.input::<f32>("x"), k.input::<f32>("weight"));
        let out = k.output::<f32>("out");
        let i = k.thread_x();
        let mut load = || {
            line = line!() + 1;
            x.load(k.thread_x())
        };
        let ahead: Option<Val<'_, f32>> = early.then(&mut load);
        let weight = weight.load(i);
        k.wait_for_predecessor();
        let value = ahead.unwrap_or_else(&mut load);
        out.store(i, value + weight);
    });
    (kernel, line)
}

/// Two launches, of which the second reads what the first one wrote.
fn chain(memory: &mut Memory) -> [[LaunchArg; 3]; 2] {
    let x = memory.alloc_from(&numbers(64));
    let weight = memory.alloc_from(&numbers(64));
    let (between, out) = (memory.alloc_poisoned(256), memory.alloc_poisoned(256));
    let args = |x, out| [x, weight, out].map(LaunchArg::U64);
    [args(x, between), args(between, out)]
}

#[test]
fn activations_loaded_before_they_are_written() {
    let mut memory = Memory::new();
    let [first, second] = chain(&mut memory);
    let (right, _) = sum(Target::Sm90a, false);
    let (wrong, line) = sum(Target::Sm90a, true);
    // The first launch reads nothing that a launch has written.
    launch(&wrong, [1, 1, 1], &first, &memory, &options()).unwrap();
    let found = finding(&wrong, [1, 1, 1], &second, &memory, thread((FILE, line), 0));
    assert!(
        matches!(found, FaultKind::Early { bytes: 4, .. }),
        "{found}"
    );
    quiet(&right, [1, 1, 1], &first, &memory);
    quiet(&right, [1, 1, 1], &second, &memory);
}

/// What is older than the launch in front has been written, and before sm_90 launches never overlap.
#[test]
fn older_activations_may_be_loaded_early() {
    let mut memory = Memory::new();
    let [first, second] = chain(&mut memory);
    let [between, _] = chain(&mut memory);
    let (early, _) = sum(Target::Sm90a, true);
    for args in [&first, &between, &second] {
        let done = launch(&early, [1, 1, 1], args, &memory, &options());
        done.unwrap_or_else(|fault| panic!("{fault}"));
    }
    let (early, _) = sum(Target::Sm80, true);
    quiet(&early, [1, 1, 1], &first, &memory);
    quiet(&early, [1, 1, 1], &second, &memory);
}

/// A launch that lets the one behind it start before it has waited: then what the launch in front of both
/// writes may not be loaded early either.
#[test]
fn activations_loaded_before_the_last_but_one_has_written_them() {
    let copy = |hands_over: bool| {
        Kernel::new("copy", Target::Sm90a, |k: &Builder| {
            k.block_size(64);
            let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
            if hands_over {
                k.launch_dependents();
            }
            k.wait_for_predecessor();
            out.store(k.thread_x(), x.load(k.thread_x()));
        })
    };
    let (early, line) = sum(Target::Sm90a, true);
    for hands_over in [true, false] {
        let mut memory = Memory::new();
        let [first, second] = chain(&mut memory);
        let between = [memory.alloc_from(&numbers(64)), memory.alloc(256)].map(LaunchArg::U64);
        let run = |kernel: &Kernel, args: &[LaunchArg]| {
            let done = launch(kernel, [1, 1, 1], args, &memory, &options());
            done.unwrap_or_else(|fault| panic!("{fault}"));
        };
        run(&early, &first);
        run(&copy(hands_over), &between);
        if hands_over {
            let found = finding(&early, [1, 1, 1], &second, &memory, thread((FILE, line), 0));
            assert!(matches!(found, FaultKind::Early { .. }), "{found}");
        } else {
            run(&early, &second);
        }
    }
}
