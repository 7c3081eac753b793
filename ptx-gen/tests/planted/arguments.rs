//! Arguments that do not fit the signature.

use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory, launch};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::target::Target;

use crate::{finding, numbers, options, quiet, thread};

const FILE: &str = "planted/arguments.rs";

/// y[i] += a * x[i], i < n.
fn axpy() -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("axpy", Target::Sm80, |k| {
        k.block_size(32);
        let (x, y) = (k.input::<f32>("x"), k.in_out::<f32>("y"));
        let (a, n) = (k.scalar::<f32>("a"), k.scalar::<u32>("n"));
        let i = k.thread_x();
        k.if_(i.lt(n), || {
            line = line!() + 1;
            let value = x.load(i);
            y.store(i, a.fma(value, y.load(i)));
        });
    });
    (kernel, line)
}

#[test]
fn arguments_that_do_not_fit() {
    let (kernel, line) = axpy();
    let mut memory = Memory::new();
    let (x, y) = (memory.alloc_from(&numbers(32)), memory.alloc_zeroed(128));
    let (x, y, a, n) = (
        LaunchArg::U64(x),
        LaunchArg::U64(y),
        LaunchArg::F32(2.0),
        LaunchArg::U32(32),
    );
    for (args, word) in [
        // Too few and too many.
        (vec![x, y, a], "4 parameters, but 3 arguments"),
        (vec![x, y, a, n, n], "4 parameters, but 5 arguments"),
        // A number where a pointer belongs, and the reverse.
        (vec![n, y, a, n], "parameter x is u64"),
        (vec![x, y, a, y], "parameter n is u32"),
        // An integer where a float belongs, the reverse, and a float of the wrong width.
        (vec![x, y, n, n], "parameter a is f32"),
        (vec![x, y, a, a], "parameter n is u32"),
        (vec![x, y, LaunchArg::F64(2.0), n], "parameter a is f32"),
    ] {
        let fault = launch(&kernel, [1, 1, 1], &args, &memory, &options()).unwrap_err();
        match &*fault.kind {
            FaultKind::Launch { kernel, what } => {
                assert_eq!(kernel, "axpy");
                assert!(what.contains(word), "{fault}");
            }
            other => panic!("{other}"),
        }
    }
    // A 64-bit number is no pointer either; the first use of it says so.
    let args = [LaunchArg::U64(32), y, a, n];
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, thread((FILE, line), 0));
    assert!(
        matches!(kind, FaultKind::OutOfBounds { address: 32, .. }),
        "{kind}"
    );
    quiet(&kernel, [1, 1, 1], &[x, y, a, n], &memory);
    let LaunchArg::U64(y) = y else { unreachable!() };
    // Three runs add three times.
    let expected: Vec<f32> = numbers(32).iter().map(|v| 6.0 * v).collect();
    assert_eq!(memory.read::<f32>(y, 32).unwrap(), expected);
}
