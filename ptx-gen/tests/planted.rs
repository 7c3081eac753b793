//! Planted bugs: real shapes of kernels with one mistake each, what the mistake must be told, and the correct twin
//! that must run in silence and be right.
//!
//! Each kernel is a function of `planted`, which chooses between the mistake and the right line, and gives back the
//! line of Rust code that a finding must name. Blocks run one after the other, so that the first finding is always
//! the same one.

#![allow(clippy::unwrap_used)]

#[path = "planted/arguments.rs"]
mod arguments;
#[path = "planted/barriers.rs"]
mod barriers;
#[path = "planted/copies.rs"]
mod copies;
#[path = "planted/launches.rs"]
mod launches;
#[path = "planted/memory.rs"]
mod memory;
#[path = "planted/products.rs"]
mod products;
#[path = "planted/proxies.rs"]
mod proxies;
#[path = "planted/registers.rs"]
mod registers;
#[path = "planted/sharing.rs"]
mod sharing;

use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory, Options, Prepared};
use gannet_ptx_gen::ir::Kernel;

/// Where the shared window starts in the interpreter.
const SHARED: u64 = 1024;

/// Where a finding must point.
struct Place {
    /// File name and line of the emitting Rust code.
    source: (&'static str, u32),
    block: [u32; 3],
    thread: [u32; 3],
}

/// A place in block 0 of a one-dimensional block.
fn thread(source: (&'static str, u32), x: u32) -> Place {
    Place {
        source,
        block: [0; 3],
        thread: [x, 0, 0],
    }
}

fn options() -> Options {
    Options {
        serial: true,
        ..Options::default()
    }
}

/// Runs a kernel with a mistake; the finding must name kernel, line, block and thread. Gives what was found.
fn finding(
    kernel: &Kernel,
    grid: [u32; 3],
    args: &[LaunchArg],
    memory: &Memory,
    place: Place,
) -> FaultKind {
    let prepared = Prepared::new(kernel).unwrap_or_else(|e| panic!("{e}"));
    found(&prepared, kernel, (grid, args), memory, place)
}

/// [`finding`] for a kernel that is ready, whatever the verifier said.
fn found(
    prepared: &Prepared,
    kernel: &Kernel,
    (grid, args): ([u32; 3], &[LaunchArg]),
    memory: &Memory,
    place: Place,
) -> FaultKind {
    let fault = match prepared.launch(grid, args, memory, &options()) {
        Ok(_) => panic!("{}: nothing was found", kernel.name),
        Err(fault) => fault,
    };
    let site = fault.site.as_ref().unwrap_or_else(|| panic!("{fault}"));
    let (file, line) = place.source;
    assert_eq!(site.kernel, kernel.name, "{fault}");
    assert!(
        site.source.ends_with(&format!("{file}:{line}")),
        "expected {file}:{line}: {fault}"
    );
    assert_eq!(site.block, place.block, "{fault}");
    assert_eq!(site.thread, place.thread, "{fault}");
    *fault.kind
}

/// Runs the correct twin.
fn quiet(kernel: &Kernel, grid: [u32; 3], args: &[LaunchArg], memory: &Memory) {
    let prepared = Prepared::new(kernel).unwrap_or_else(|e| panic!("{e}"));
    for shuffle in [None, Some(1), Some(2)] {
        let options = Options {
            shuffle,
            ..options()
        };
        if let Err(fault) = prepared.launch(grid, args, memory, &options) {
            panic!("{fault}");
        }
    }
}

/// Small whole numbers, exact in f32 whatever is done with them here.
fn numbers(n: u32) -> Vec<f32> {
    (0..n).map(|i| (i * 7 % 31) as f32).collect()
}
