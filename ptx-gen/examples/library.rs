//! Prints every kernel of the library, for every target that it exists on.
//!
//! `cargo run -p gannet-ptx-gen --example library`. The texts are what other tools assemble and
//! count, so each stands under a line that they can read: name, target, bytes of shared memory that
//! a launch adds to what the text declares, and how many lines of text follow.

use std::io::{self, BufWriter, Write};

use gannet_ptx_gen::kernels;
use gannet_ptx_gen::target::Target;

fn main() -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for target in Target::ALL {
        for kernel in kernels::library(*target) {
            let text = kernel.ptx().map_err(|e| {
                let line = format!("{} for {target}: {e}", kernel.name);
                io::Error::new(io::ErrorKind::InvalidData, line)
            })?;
            let (name, shared) = (&kernel.name, kernel.dynamic_shared);
            let lines = text.lines().count();
            writeln!(out, "{name} {} {shared} {lines}", target.name())?;
            writeln!(out, "{}", text.trim_end_matches('\n'))?;
        }
    }
    out.flush()
}
