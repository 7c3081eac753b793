//! One small kernel for every row of the instruction table, to run in the interpreter and on a GPU and compare.
//!
//! The interpreter is only worth what its agreement with hardware is. A [`Case`] has a kernel around one instruction
//! form, inputs that reach the form's corners (NaN payloads, subnormals, infinities, bounds of integers, shifts past
//! the width, ragged member masks), and the [`Rule`] that results are held to: equal bits, or the error that the PTX
//! ISA documents for an approximate instruction. [`cases`] makes them all from [`forms`], the crate's one list of
//! instruction forms: most forms need nothing but to be listed there.
//!
//! ```
//! use gannet_ptx_gen::conformance::{cases, compare};
//! use gannet_ptx_gen::target::Target;
//!
//! let cases = cases(Target::Sm80);
//! let case = cases.iter().find(|c| c.name == "rcp.approx.ftz.f32").unwrap();
//! let interpreted = case.interpret().unwrap();
//! // In place of a second run of the interpreter stands a GPU's output.
//! let outcome = compare(case, &interpreted, &interpreted);
//! assert!(outcome.passes() && outcome.values > 65536);
//! ```
//!
//! # What always holds
//!
//! * Cases are a pure function of the target.
//! * A case's kernel takes the addresses of [`Case::inputs`] in order, then that of the output, then
//!   [`Case::scalars`]. It accesses nothing else and leaves no byte of the output to chance: where it writes nothing,
//!   [`Case::output`] stays.
//! * The output is an array of 8-byte slots; slot `i` holds a value of type `results[i % results.len()]`.

mod asm;
mod compare;
mod forms;
mod fragments;
mod inputs;
mod memory;
pub mod report;
mod rules;
mod scalar;
mod sync;
mod warp;

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::interp::{Arg, Fault, Memory, Options, launch};
use crate::ir::{Kernel, Ty};
use crate::op::{Fence, Op};
use crate::table::{Group, row_of};
use crate::target::Target;

pub use compare::{Outcome, compare};
pub use forms::forms;
pub use rules::Rule;

/// One instruction form to be tried.
#[derive(Debug, Clone)]
pub struct Case {
    /// The form.
    pub op: Op,
    /// The form as PTX spells it; unique among a target's cases.
    pub name: String,
    /// Section of the PTX ISA document that defines it.
    pub section: &'static str,
    /// The kernel around it.
    pub kernel: Kernel,
    /// Blocks to launch.
    pub grid: [u32; 3],
    /// Contents of the input buffers, one a pointer parameter.
    pub inputs: Vec<Vec<u8>>,
    /// Contents of the output buffer before the launch; the pointer parameter after the inputs.
    pub output: Vec<u8>,
    /// Arguments of the parameters after the output.
    pub scalars: Vec<Arg>,
    /// Types of the values in the slots of the first input, where it holds operands of the instruction; else empty.
    pub sources: Vec<Ty>,
    /// Types of the values in the output's slots, repeating.
    pub results: Vec<Ty>,
    /// What a GPU's results are held to.
    pub rule: Rule,
    /// How many inputs there are and what they cover.
    pub coverage: String,
    /// What a reader should know of the comparison; may be empty.
    pub note: &'static str,
}

impl Case {
    /// Runs the case in the interpreter and gives the output buffer.
    ///
    /// # Errors
    /// The fault, for [`Rule::Traps`] too: a trap.
    pub fn interpret(&self) -> Result<Vec<u8>, Fault> {
        let mut memory = Memory::new();
        let buffers = self.inputs.iter().chain([&self.output]);
        let addresses: Vec<u64> = buffers.map(|bytes| memory.alloc_from(bytes)).collect();
        let pointers = addresses.iter().map(|a| Arg::U64(*a));
        let args: Vec<Arg> = pointers.chain(self.scalars.iter().copied()).collect();
        launch(&self.kernel, self.grid, &args, &memory, &Options::default())?;
        memory.read(addresses[self.inputs.len()], self.output.len())
    }
}

/// Every form that the target has, as a case.
#[must_use]
pub fn cases(target: Target) -> Vec<Case> {
    let forms: Vec<Op> = forms()
        .into_iter()
        .filter(|op| row_of(*op, target).capability <= target.capability())
        .collect();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for op in &forms {
        *count.entry(spelling(*op, target)).or_default() += 1;
    }
    let names = forms.iter().map(|op| {
        let name = spelling(*op, target);
        match (count[&name], element(*op)) {
            (2.., Some(ty)) => format!("{name} ({ty})"),
            _ => name,
        }
    });
    let named: Vec<(Op, String)> = forms.iter().copied().zip(names).collect();
    let make = |(op, name): (Op, String)| case(op, name, target);
    named.into_par_iter().map(make).collect()
}

/// The opcode and the fixed operands.
fn spelling(op: Op, target: Target) -> String {
    let row = row_of(op, target);
    let fixed: Vec<&str> = row
        .src
        .iter()
        .filter_map(|group| match group {
            Group::Lit(text) if text != "_" => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let gap = if fixed.is_empty() { "" } else { " " };
    format!("{}{gap}{}", row.mnemonic, fixed.join(", "))
}

/// What an instruction that PTX spells without its type works on, to tell such forms apart.
fn element(op: Op) -> Option<String> {
    match op {
        Op::AssumeUniform => Some("uniform".into()),
        Op::SharedAddress => Some("shared address".into()),
        Op::Pack2x16 | Op::Pack2x32 => Some("pack".into()),
        Op::Unpack2x16 | Op::Unpack2x32 => Some("unpack".into()),
        op => {
            let text = format!("{op:?}");
            let ty = text.split("ty: ").nth(1)?;
            let end = ty.find(|c: char| !c.is_ascii_alphanumeric())?;
            Some(ty[..end].to_lowercase())
        }
    }
}

/// Where each form's kernel comes from. Whatever has only values for operands goes to [`scalar`].
fn case(op: Op, name: String, target: Target) -> Case {
    let mut case = match op {
        Op::Special(which) => sync::special(which, op, target),
        Op::SharedAddress => memory::shared_address(op, target),
        Op::LoadParam { ty } => memory::parameter(ty, op, target),
        Op::CvtaToGlobal => memory::converted_address(op, target),
        Op::Ld { space, ty, vec, .. } => memory::load(space, ty, vec, op, target),
        Op::St { space, ty, vec, .. } => memory::store(space, ty, vec, op, target),
        Op::Atom { space, f, ty, .. } => memory::atomic(space, f, ty, op, target),
        Op::Red { space, f, ty, .. } => memory::atomic(space, f, ty, op, target),
        Op::Fence(Fence::Membar(_) | Fence::AcqRel(_) | Fence::ProxyAsync) => {
            sync::exchange(op, target)
        }
        Op::BarSync | Op::BarSyncN { .. } | Op::BarWarpSync => sync::exchange(op, target),
        Op::BarArrive { id, threads } => sync::produce(id, threads, op, target),
        Op::PrefetchL2 | Op::GridDepWait | Op::GridDepLaunch => sync::harmless(op, target),
        Op::Nanosleep => sync::harmless(op, target),
        Op::Trap => sync::trap(op, target),
        Op::Exit => sync::exit(op, target),
        Op::AssumeUniform => sync::uniform(op, target),
        Op::Shfl { .. } | Op::Vote { .. } | Op::MatchAny | Op::Redux { .. } | Op::ElectSync => {
            warp::lanes(op, target)
        }
        Op::Mma(shape) => fragments::mma(shape, op, target),
        Op::Ldmatrix { num, .. } => warp::load_matrix(num, op, target),
        Op::Stmatrix { num, .. } => warp::store_matrix(num, op, target),
        Op::CpAsync { bytes, .. } => sync::copy(bytes, op, target),
        Op::CpAsyncCommit | Op::CpAsyncWait { .. } => sync::copy(16, op, target),
        Op::MbarrierInit | Op::MbarrierInval | Op::MbarrierArrive => {
            sync::mbarrier(Op::MbarrierTestWait, op, target)
        }
        Op::MbarrierTestWait | Op::MbarrierTryWait => sync::mbarrier(op, op, target),
        Op::MbarrierArriveExpectTx | Op::CpAsyncBulk | Op::Fence(Fence::MbarrierInit) => {
            sync::bulk(op, target)
        }
        Op::CpAsyncBulkStore | Op::CpAsyncBulkCommit | Op::CpAsyncBulkWait { .. } => {
            sync::bulk_store(op, target)
        }
        op => scalar::case(op, target),
    };
    case.name = name;
    case
}

/// A case with nothing but its form filled in; its caller overwrites the rest.
fn blank(op: Op, target: Target, kernel: Kernel) -> Case {
    Case {
        op,
        name: String::new(),
        section: row_of(op, target).section,
        kernel,
        grid: [1, 1, 1],
        inputs: Vec::new(),
        output: Vec::new(),
        scalars: Vec::new(),
        sources: Vec::new(),
        results: vec![Ty::U64],
        rule: rules::of(op),
        coverage: String::new(),
        note: "",
    }
}
