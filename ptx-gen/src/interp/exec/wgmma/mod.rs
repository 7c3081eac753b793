//! A warpgroup's matrix products: issued, run some time later, visible once waited for.
//!
//! Each warp computes its own sixteen rows; a log sees to it that the four warps do the same. A product runs when it
//! is waited for, or, where warps are shuffled, at an arbitrary point before; its accumulators hold poison until then,
//! so that a kernel which reads early sees NaN. Registers that any product uses have slots of their own, which lets
//! [`watch`] see every other instruction that touches them: in flight, that is a fault; before a product, it asks for
//! a `wgmma.fence`.

mod matrix;
mod product;

use std::collections::{HashMap, VecDeque};

pub(crate) use product::e4m3;

use super::{Context, Exec, fault, first};
use crate::interp::block::mix;
use crate::interp::decode::{Inst, Program, SHARED_BASE, Step};
use crate::interp::fault::{FaultKind, FaultSpace};
use crate::interp::races::{By, Kind, TENSOR};
use crate::interp::warp::{Lanes, Warp};
use crate::op::{Wgmma, WgmmaA};

/// A warp's products in flight.
#[derive(Default)]
pub(crate) struct Tensor {
    /// Oldest first.
    pending: VecDeque<Pending>,
    /// What accumulators in flight really hold, by slot; the registers hold poison.
    values: HashMap<u32, Lanes>,
    /// The number of the open group.
    group: u32,
    /// By slot: touched by an ordinary instruction since the last `wgmma.fence`.
    touched: Vec<bool>,
    fenced: bool,
}

/// A product of one warp, not yet waited for.
struct Pending {
    m: Wgmma,
    pc: usize,
    group: u32,
    /// A's registers as they were issued.
    a: [Lanes; 4],
    /// Shared offsets of the 16-byte chunks of A (if it is there) and of B.
    chunks: [Vec<u32>; 2],
    add: bool,
    done: bool,
}

/// What the warps of a warpgroup have done together: each must do the same in the same order.
#[derive(Default)]
pub(crate) struct Log {
    /// How many steps are older than the first one kept.
    gone: usize,
    steps: VecDeque<Together>,
    at: [usize; 4],
}

/// A step of a warpgroup: the instruction and what must be equal in its warps.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Together {
    pc: usize,
    operands: [u64; 3],
}

impl Log {
    /// A warp's next step; false where another warp did something else.
    fn step(&mut self, warp: usize, step: Together) -> bool {
        let at = self.at[warp] - self.gone;
        self.at[warp] += 1;
        let same = match self.steps.get(at) {
            Some(other) => *other == step,
            None => {
                self.steps.push_back(step);
                true
            }
        };
        while self.at.iter().all(|n| *n > self.gone) {
            self.steps.pop_front();
            self.gone += 1;
        }
        same
    }

    /// A step that other warps of the group have taken and this one has not.
    fn behind(&self, warp: usize) -> Option<usize> {
        self.steps.get(self.at[warp] - self.gone).map(|s| s.pc)
    }
}

impl Tensor {
    /// Nothing in flight, nothing fenced.
    pub(crate) fn restart(&mut self) {
        *self = Tensor::default();
    }

    fn touch(&mut self, slot: u32) {
        let at = slot as usize;
        if self.touched.len() <= at {
            self.touched.resize(at + 1, false);
        }
        self.touched[at] = true;
    }

    fn is_touched(&self, slot: u32) -> bool {
        self.touched.get(slot as usize).copied().unwrap_or(false)
    }
}

/// Registers of a product: accumulators, and A where it is in registers.
fn registers(pc: usize, program: &Program) -> (&[u32], &[u32]) {
    match &program.code[pc] {
        Step::Opcode(inst) => (&inst.extra, left(inst)),
        _ => (&[], &[]),
    }
}

/// The slots of A's registers.
fn left(inst: &Inst) -> &[u32] {
    match inst.op {
        crate::op::Opcode::Wgmma(m) if m.a == WgmmaA::Registers => &inst.src[..4],
        _ => &[],
    }
}

/// Notes which of the products' registers an ordinary instruction touches.
pub(crate) fn watch(i: &Inst, m: u32, w: &mut Warp, cx: &Context) -> Exec {
    for slot in &i.watch {
        for p in &w.tensor.pending {
            let (d, a) = registers(p.pc, cx.program);
            let what = match (d.contains(slot), a.contains(slot)) {
                (true, _) => "an accumulator",
                (_, true) => "a factor's register",
                _ => continue,
            };
            let open = if p.group == w.tensor.group {
                "not even committed"
            } else {
                "not waited for"
            };
            let site = &cx.program.sites[p.pc];
            let what = format!("{what} of the product from {site}, which is {open}");
            return fault(first(m), FaultKind::InFlight(what));
        }
        w.tensor.touch(*slot);
    }
    Ok(())
}

/// The whole warp of a whole warpgroup, at the same step as its other warps.
pub(crate) fn together(operands: [u64; 3], m: u32, w: &Warp, cx: &mut Context) -> Exec {
    if m != u32::MAX || w.live != u32::MAX {
        let needed = u32::MAX;
        return fault(first(m), FaultKind::Divergent { active: m, needed });
    }
    if !cx.program.threads().is_multiple_of(128) {
        let what = "a block with warpgroups has a multiple of 128 threads";
        return fault(0, FaultKind::Protocol(what.to_owned()));
    }
    let group = w.index as usize / 4;
    if cx.warpgroups.len() <= group {
        cx.warpgroups.resize_with(group + 1, Log::default);
    }
    let step = Together { pc: w.pc, operands };
    if cx.warpgroups[group].step(w.index as usize % 4, step) {
        return Ok(());
    }
    let what = "the warps of a warpgroup must execute the same instructions with equal descriptors";
    fault(0, FaultKind::Protocol(what.to_owned()))
}

/// A word of all lanes, which must be equal.
fn uniform64(slot: u32, w: &Warp) -> Exec<u64> {
    let lanes = w.long(slot);
    match lanes.iter().position(|x| *x != lanes[0]) {
        None => Ok(lanes[0]),
        Some(lane) => fault(
            lane,
            FaultKind::Descriptor("the lanes of a warp have different descriptors".to_owned()),
        ),
    }
}

/// `wgmma.mma_async`.
pub(super) fn issue(m: Wgmma, i: &Inst, mask: u32, w: &mut Warp, cx: &mut Context) -> Exec {
    let in_registers = m.a == WgmmaA::Registers;
    let at = if in_registers { 4 } else { 1 };
    let b = uniform64(i.src[at], w)?;
    let a = if in_registers {
        0
    } else {
        uniform64(i.src[0], w)?
    };
    let add = w.pred(i.src[at + 1]);
    if add != 0 && add != u32::MAX {
        let what = "the lanes of a warp have different predicates to add by".to_owned();
        return fault(0, FaultKind::Protocol(what));
    }
    together([a, b, u64::from(add & 1)], mask, w, cx)?;
    ready(m, i, w, cx)?;
    let a_chunks = match m.a {
        WgmmaA::Registers => Vec::new(),
        WgmmaA::Shared { transpose } => {
            let first = w.index as usize % 4 * 16;
            matrix::chunks(a, first, 16, transpose).or_else(|why| misplaced("A", &why))?
        }
    };
    let b_chunks = matrix::chunks(b, 0, usize::from(m.n), m.transpose_b)
        .or_else(|why| misplaced("B", &why))?;
    let chunks = [offsets(&a_chunks, cx)?, offsets(&b_chunks, cx)?];
    read(&chunks, w, cx)?;
    written(&chunks, cx)?;
    let mut registers = [[0; 32]; 4];
    for (to, slot) in registers.iter_mut().zip(left(i)) {
        *to = *w.word(*slot);
    }
    for slot in &i.extra {
        let held = *w.word(*slot);
        w.tensor.values.entry(*slot).or_insert(held);
        w.put(*slot, &[u32::MAX; 32], u32::MAX);
    }
    w.tensor.pending.push_back(Pending {
        m,
        pc: w.pc,
        group: w.tensor.group,
        a: registers,
        chunks,
        add: add != 0,
        done: false,
    });
    sometimes(w, cx);
    Ok(())
}

fn misplaced<T>(factor: &str, why: &str) -> Exec<T> {
    fault(0, FaultKind::Descriptor(format!("of {factor}: {why}")))
}

/// Whether the registers of a product are ordered before it.
fn ready(m: Wgmma, i: &Inst, w: &Warp, cx: &Context) -> Exec {
    let t = &w.tensor;
    if !t.fenced {
        let what = "no wgmma.fence stands before the first product".to_owned();
        return fault(0, FaultKind::Unfenced(what));
    }
    for (slots, name) in [(i.extra.as_slice(), "an accumulator"), (left(i), "A")] {
        if slots.iter().any(|slot| t.is_touched(*slot)) {
            let what = format!("{name} was touched since the last wgmma.fence");
            return fault(0, FaultKind::Unfenced(what));
        }
    }
    for p in &t.pending {
        let (d, a) = registers(p.pc, cx.program);
        let same = d == i.extra && p.m.n == m.n && p.m.ty == m.ty;
        let shares = |slots: &[u32], with: &[u32]| slots.iter().any(|s| with.contains(s));
        let clash = (!same && shares(&i.extra, d)) || shares(&i.extra, a) || shares(left(i), d);
        if clash {
            let what = format!(
                "registers of the product from {}, which has another shape or use for them",
                cx.program.sites[p.pc]
            );
            return fault(0, FaultKind::InFlight(what));
        }
    }
    Ok(())
}

/// Offsets of chunks in shared memory, where they lie in it.
fn offsets(addresses: &[u32], cx: &Context) -> Exec<Vec<u32>> {
    let mut out = Vec::with_capacity(addresses.len());
    for address in addresses {
        let offset = address.wrapping_sub(SHARED_BASE);
        if !cx.shared.holds(u64::from(offset), 16) {
            let (space, bytes) = (FaultSpace::Shared, 16);
            let address = u64::from(*address);
            let nearest = crate::interp::memory::describe(
                u64::from(SHARED_BASE),
                address as i64 - i64::from(SHARED_BASE),
                cx.shared.bytes(),
            );
            return fault(
                0,
                FaultKind::OutOfBounds {
                    space,
                    address,
                    bytes,
                    nearest,
                },
            );
        }
        out.push(offset);
    }
    Ok(out)
}

/// Shows the race detector what a product reads from now on.
fn read(chunks: &[Vec<u32>; 2], w: &Warp, cx: &mut Context) -> Exec {
    let Some(races) = &mut cx.races else {
        return Ok(());
    };
    let (warp, lane, pc) = (w.index, 0, w.pc);
    let by = By { warp, lane, pc };
    for offset in chunks.iter().flatten() {
        let at = u64::from(*offset);
        races
            .check(Kind::Read, by, at, 16, cx.program)
            .and_then(|()| races.check_proxy(warp, at, 16, cx.program))
            .or_else(|kind| fault(0, kind))?;
    }
    for offset in chunks.iter().flatten() {
        races.begins_to_read(TENSOR, by, u64::from(*offset), 16);
    }
    Ok(())
}

/// Whether somebody has written what a product reads.
fn written(chunks: &[Vec<u32>; 2], cx: &Context) -> Exec {
    let defined = |at: &&u32| cx.shared.is_defined(u64::from(**at), 16);
    match chunks.iter().flatten().find(|at| !defined(at)) {
        None => Ok(()),
        Some(offset) => fault(
            0,
            FaultKind::Uninitialised {
                space: FaultSpace::Shared,
                address: u64::from(*offset + SHARED_BASE),
                bytes: 16,
            },
        ),
    }
}

/// Runs what is pending at a point that the schedule draws; without one, products run when they are waited for.
fn sometimes(w: &mut Warp, cx: &Context) {
    let drawn = cx
        .seed
        .is_some_and(|seed| mix(seed ^ cx.steps).is_multiple_of(3));
    if drawn {
        run(w, cx, u32::MAX);
    }
}

/// Runs the products of groups before `group`, oldest first.
fn run(w: &mut Warp, cx: &Context, group: u32) {
    let t = &mut w.tensor;
    for p in t.pending.iter_mut().filter(|p| p.group < group && !p.done) {
        let (d, _) = registers(p.pc, cx.program);
        let zero = [0; 32];
        let before = |n: usize| match (p.add, t.values.get(&d[n])) {
            (true, Some(lanes)) => *lanes,
            _ => zero,
        };
        let values: Vec<Lanes> = (0..d.len()).map(before).collect();
        let sums = product::product(p.m, &p.a, &p.chunks, &values, &cx.shared);
        for (slot, lanes) in d.iter().zip(sums) {
            t.values.insert(*slot, lanes);
        }
        p.done = true;
    }
}

/// `wgmma.fence`.
pub(super) fn fence(m: u32, w: &mut Warp, cx: &mut Context) -> Exec {
    together([0; 3], m, w, cx)?;
    w.tensor.touched.fill(false);
    w.tensor.fenced = true;
    Ok(())
}

/// `wgmma.commit_group`.
pub(super) fn commit(m: u32, w: &mut Warp, cx: &mut Context) -> Exec {
    together([0; 3], m, w, cx)?;
    w.tensor.group += 1;
    sometimes(w, cx);
    Ok(())
}

/// `wgmma.wait_group`: all but the newest `pending` groups have happened.
pub(super) fn wait(pending: u32, m: u32, w: &mut Warp, cx: &mut Context) -> Exec {
    together([0; 3], m, w, cx)?;
    // Groups before this one are complete.
    let until = w.tensor.group.saturating_sub(pending);
    run(w, cx, until);
    let (warp, lane) = (w.index, 0);
    let mut landed = Vec::new();
    while let Some(p) = w.tensor.pending.front() {
        if p.group >= until {
            break;
        }
        if let Some(races) = &mut cx.races {
            let by = By {
                warp,
                lane,
                pc: p.pc,
            };
            for offset in p.chunks.iter().flatten() {
                races.has_read(by, u64::from(*offset), 16);
            }
        }
        landed.push(p.pc);
        w.tensor.pending.pop_front();
    }
    if let Some(races) = &mut cx.races {
        races.warp_sync(warp);
        // What later products still read stays theirs.
        for p in &w.tensor.pending {
            let by = By {
                warp,
                lane,
                pc: p.pc,
            };
            for offset in p.chunks.iter().flatten() {
                races.begins_to_read(TENSOR, by, u64::from(*offset), 16);
            }
        }
    }
    for pc in landed {
        let (d, _) = registers(pc, cx.program);
        for slot in d {
            let later = |p: &Pending| registers(p.pc, cx.program).0.contains(slot);
            if w.tensor.pending.iter().any(later) {
                continue;
            }
            if let Some(lanes) = w.tensor.values.remove(slot) {
                w.put(*slot, &lanes, u32::MAX);
            }
        }
    }
    Ok(())
}

/// Lanes of a warp end: nothing may be in flight, and the other warps of its group must not have done more.
pub(crate) fn end(m: u32, w: &mut Warp, cx: &Context) -> Exec {
    if let Some(p) = w.tensor.pending.front() {
        w.pc = p.pc;
        let what = "the warp ends without waiting for this product".to_owned();
        return fault(first(m), FaultKind::InFlight(what));
    }
    let log = cx.warpgroups.get(w.index as usize / 4);
    if let Some(pc) = log.and_then(|log| log.behind(w.index as usize % 4)) {
        let what = format!(
            "the warp ends without the instruction from {}, which the other warps of its warpgroup execute",
            cx.program.sites[pc]
        );
        return fault(first(m), FaultKind::Protocol(what));
    }
    Ok(())
}
