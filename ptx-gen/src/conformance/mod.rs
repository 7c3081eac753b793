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
mod warpgroup;

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::interp::{Fault, LaunchArg, Memory, Options, launch};
use crate::ir::{Kernel, Ty};
use crate::op::{Fence, Opcode, Special, WgmmaA};
use crate::table::{Group, row_of};
use crate::target::Target;

pub use compare::{Outcome, compare};
pub use forms::forms;
pub use rules::Rule;

/// One instruction form to be tried.
#[derive(Debug, Clone)]
pub struct Case {
    /// The form.
    pub op: Opcode,
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
    pub scalars: Vec<LaunchArg>,
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
        let pointers = addresses.iter().map(|a| LaunchArg::U64(*a));
        let args: Vec<LaunchArg> = pointers.chain(self.scalars.iter().copied()).collect();
        launch(&self.kernel, self.grid, &args, &memory, &Options::default())?;
        memory.read(addresses[self.inputs.len()], self.output.len())
    }
}

/// Every form that the target has, as a case.
#[must_use]
pub fn cases(target: Target) -> Vec<Case> {
    let forms: Vec<Opcode> = forms()
        .into_iter()
        .filter(|op| row_of(*op, target).exists_on(target))
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
    let named: Vec<(Opcode, String)> = forms.iter().copied().zip(names).collect();
    let make = |(op, name): (Opcode, String)| case(op, name, target);
    named.into_par_iter().map(make).collect()
}

/// The opcode and the fixed operands.
fn spelling(op: Opcode, target: Target) -> String {
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
fn element(op: Opcode) -> Option<String> {
    match op {
        Opcode::AssumeUniform => Some("uniform".into()),
        Opcode::Wgmma(m) if m.a == WgmmaA::Registers => Some("A in registers".into()),
        Opcode::Wgmma(_) => Some("A in shared memory".into()),
        Opcode::SharedAddress => Some("shared address".into()),
        Opcode::Pack2x16 | Opcode::Pack2x32 => Some("pack".into()),
        Opcode::Unpack2x16 | Opcode::Unpack2x32 => Some("unpack".into()),
        op => {
            let text = format!("{op:?}");
            let ty = text.split("ty: ").nth(1)?;
            let end = ty.find(|c: char| !c.is_ascii_alphanumeric())?;
            Some(ty[..end].to_lowercase())
        }
    }
}

/// Where each form's kernel comes from. Whatever has only values for operands goes to [`scalar`].
fn case(op: Opcode, name: String, target: Target) -> Case {
    let mut case = match op {
        Opcode::Special(which @ (Special::ClusterRank | Special::ClusterSize)) => {
            warpgroup::place(which, op, target)
        }
        Opcode::Special(which) => sync::special(which, op, target),
        Opcode::SharedAddress => memory::shared_address(op, target),
        Opcode::LoadParam { ty } => memory::parameter(ty, op, target),
        Opcode::CvtaToGlobal => memory::converted_address(op, target),
        Opcode::Ld { space, ty, vec, .. } => memory::load(space, ty, vec, op, target),
        Opcode::St { space, ty, vec, .. } => memory::store(space, ty, vec, op, target),
        Opcode::Atom { space, f, ty, .. } => memory::atomic(space, f, ty, op, target),
        Opcode::Red { space, f, ty, .. } => memory::atomic(space, f, ty, op, target),
        Opcode::Fence(Fence::Membar(_) | Fence::AcqRel(_) | Fence::ProxyAsync) => {
            sync::exchange(op, target)
        }
        Opcode::BarSync | Opcode::BarSyncN { .. } | Opcode::BarWarpSync => {
            sync::exchange(op, target)
        }
        Opcode::BarArrive { id, threads } => sync::produce(id, threads, op, target),
        Opcode::PrefetchL2 | Opcode::GridDepWait | Opcode::GridDepLaunch => {
            sync::harmless(op, target)
        }
        Opcode::Nanosleep => sync::harmless(op, target),
        Opcode::Trap => sync::trap(op, target),
        Opcode::Exit => sync::exit(op, target),
        Opcode::AssumeUniform => sync::uniform(op, target),
        Opcode::Shfl { .. }
        | Opcode::Vote { .. }
        | Opcode::MatchAny
        | Opcode::Redux { .. }
        | Opcode::ElectSync => warp::lanes(op, target),
        Opcode::Mma(shape) => fragments::mma(shape, op, target),
        Opcode::Ldmatrix { num, .. } => warp::load_matrix(num, op, target),
        Opcode::Stmatrix { num, .. } => warp::store_matrix(num, op, target),
        Opcode::Wgmma(m) => warpgroup::product(m, op, target),
        Opcode::WgmmaFence | Opcode::WgmmaCommit | Opcode::WgmmaWait { .. } => {
            warpgroup::ordered(op, target)
        }
        Opcode::SetMaxNReg { .. } => warpgroup::registers(op, target),
        Opcode::ClusterArrive
        | Opcode::ClusterWait
        | Opcode::Mapa
        | Opcode::MbarrierArriveCluster => warpgroup::cluster(op, target),
        Opcode::CpAsyncBulkMulticast => warpgroup::multicast(op, target),
        Opcode::CpAsync { bytes, .. } => sync::copy(bytes, op, target),
        Opcode::CpAsyncCommit | Opcode::CpAsyncWait { .. } => sync::copy(16, op, target),
        Opcode::MbarrierInit | Opcode::MbarrierInval | Opcode::MbarrierArrive => {
            sync::mbarrier(Opcode::MbarrierTestWait, op, target)
        }
        Opcode::MbarrierTestWait | Opcode::MbarrierTryWait => sync::mbarrier(op, op, target),
        Opcode::MbarrierArriveExpectTx
        | Opcode::CpAsyncBulk
        | Opcode::Fence(Fence::MbarrierInit) => sync::bulk(op, target),
        Opcode::CpAsyncBulkStore | Opcode::CpAsyncBulkCommit | Opcode::CpAsyncBulkWait { .. } => {
            sync::bulk_store(op, target)
        }
        op => scalar::case(op, target),
    };
    case.name = name;
    case
}

/// A case with nothing but its form filled in; its caller overwrites the rest.
fn blank(op: Opcode, target: Target, kernel: Kernel) -> Case {
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
