//! Products of warpgroups in flight: which registers they use, and what touches those.
//!
//! Every path is followed with the registers that may be in flight, by how many groups ago their product was
//! committed. A wait for all but the newest `n` groups frees the older ones; where paths meet, what may be in flight
//! on one of them is. The same walk finds registers that may have been touched since the last `wgmma.fence`. The
//! interpreter sees the same in what really runs, and what lies in shared memory besides.

use std::collections::{BTreeMap, BTreeSet};

use super::Error;
use crate::ir::{Address, Base, Inst, Kernel, Loc, Operand, Reg, Stmt};
use crate::op::{Opcode, Wgmma, WgmmaA};
use crate::table::row_of;

/// Groups that are told apart; older ones count as one.
const GROUPS: usize = 9;

/// How a product uses a register.
#[derive(Clone, Copy, PartialEq)]
struct Use {
    /// As an accumulator of the product and the list that begins with the register; else as a part of A.
    accumulator: Option<(Wgmma, Reg)>,
    at: Loc,
}

type Uses = BTreeMap<Reg, Use>;

#[derive(Clone, Default, PartialEq)]
struct State {
    /// Of products not yet committed.
    open: Uses,
    /// Of committed groups, the newest first.
    groups: Vec<Uses>,
    /// Registers touched since the last fence.
    touched: BTreeSet<Reg>,
    /// A fence has been passed on every path.
    fenced: bool,
}

impl State {
    fn in_flight(&self, r: Reg) -> Option<&Use> {
        std::iter::once(&self.open)
            .chain(&self.groups)
            .find_map(|uses| uses.get(&r))
    }

    fn any(&self) -> Option<&Use> {
        std::iter::once(&self.open)
            .chain(&self.groups)
            .find_map(|uses| uses.values().next())
    }

    fn commit(&mut self) {
        self.groups.insert(0, std::mem::take(&mut self.open));
        if self.groups.len() > GROUPS
            && let Some(oldest) = self.groups.pop()
            && let Some(last) = self.groups.last_mut()
        {
            last.extend(oldest);
        }
        self.trim();
    }

    fn wait(&mut self, pending: usize) {
        self.groups.truncate(pending);
        self.trim();
    }

    /// Groups without registers at the end say nothing.
    fn trim(&mut self) {
        while self.groups.last().is_some_and(Uses::is_empty) {
            self.groups.pop();
        }
    }

    /// What may hold on either path.
    fn join(mut self, other: State) -> State {
        let merge = |into: &mut Uses, from: Uses| {
            for (reg, used) in from {
                into.entry(reg).or_insert(used);
            }
        };
        merge(&mut self.open, other.open);
        let groups = self.groups.len().max(other.groups.len());
        self.groups.resize_with(groups, Uses::new);
        for (into, from) in self.groups.iter_mut().zip(other.groups) {
            merge(into, from);
        }
        self.touched.extend(other.touched);
        self.fenced &= other.fenced;
        self
    }
}

pub(super) fn check(k: &Kernel) -> Result<(), Error> {
    let mut used = BTreeSet::new();
    k.for_each_inst(|inst| {
        if let Opcode::Wgmma(m) = inst.op {
            used.extend(&inst.dst);
            used.extend(left(m, inst));
        }
    });
    if used.is_empty() {
        return Ok(());
    }
    let walk = Walk { k, used };
    let end = walk.block(&k.body, State::default())?;
    match end.as_ref().and_then(State::any) {
        Some(used) => Err(walk.never_waited(used.at)),
        None => Ok(()),
    }
}

/// The registers of A.
fn left(m: Wgmma, inst: &Inst) -> impl Iterator<Item = Reg> {
    let n = if m.a == WgmmaA::Registers { 4 } else { 0 };
    inst.src.iter().take(n).filter_map(register)
}

fn register(operand: &Operand) -> Option<Reg> {
    match operand {
        Operand::Reg(r)
        | Operand::Addr(Address {
            base: Base::Reg(r), ..
        }) => Some(*r),
        _ => None,
    }
}

struct Walk<'a> {
    k: &'a Kernel,
    /// Registers of any product.
    used: BTreeSet<Reg>,
}

impl Walk<'_> {
    /// The state at the block's end; `None` where it is not reached.
    fn block(&self, stmts: &[Stmt], state: State) -> Result<Option<State>, Error> {
        let mut state = state;
        for stmt in stmts {
            match stmt {
                Stmt::Comment(_) => {}
                Stmt::Inst(inst) => {
                    self.inst(inst, &mut state)?;
                    if matches!(inst.op, Opcode::Exit | Opcode::Trap) && inst.guard.is_none() {
                        return Ok(None);
                    }
                }
                Stmt::If(branch) => {
                    let then = self.block(&branch.then, state.clone())?;
                    let otherwise = self.block(&branch.otherwise, state)?;
                    match (then, otherwise) {
                        (Some(a), Some(b)) => state = a.join(b),
                        (Some(one), None) | (None, Some(one)) => state = one,
                        (None, None) => return Ok(None),
                    }
                }
                Stmt::Loop(l) => {
                    // What may be in flight at the loop's head only grows from turn to turn.
                    let mut head = state;
                    loop {
                        let Some(end) = self.block(&l.body, head.clone())? else {
                            return Ok(None);
                        };
                        let again = head.clone().join(end.clone());
                        if again == head {
                            state = end;
                            break;
                        }
                        head = again;
                    }
                }
            }
        }
        Ok(Some(state))
    }

    fn inst(&self, inst: &Inst, state: &mut State) -> Result<(), Error> {
        match inst.op {
            Opcode::Wgmma(m) => return self.product(m, inst, state),
            Opcode::WgmmaFence => {
                state.touched.clear();
                state.fenced = true;
            }
            Opcode::WgmmaCommit => state.commit(),
            Opcode::WgmmaWait { pending } => state.wait(usize::from(pending)),
            Opcode::Exit => {
                if let Some(used) = state.any() {
                    return Err(self.never_waited(used.at));
                }
            }
            _ => {
                let read = inst.src.iter().filter_map(register);
                for r in read.chain(inst.dst.iter().copied()) {
                    if !self.used.contains(&r) {
                        continue;
                    }
                    if let Some(used) = state.in_flight(r) {
                        return Err(self.in_flight(inst, used));
                    }
                    state.touched.insert(r);
                }
            }
        }
        Ok(())
    }

    fn product(&self, m: Wgmma, inst: &Inst, state: &mut State) -> Result<(), Error> {
        let mut mine = inst.dst.iter().copied().chain(left(m, inst));
        if !state.fenced || mine.any(|r| state.touched.contains(&r)) {
            return Err(Error::Unfenced {
                kernel: self.k.name.as_str().into(),
                op: row_of(inst.op, self.k.target).mnemonic.into(),
                at: inst.loc,
            });
        }
        let accumulator = inst.dst.first().map(|first| (m, *first));
        let same = |used: &Use| match (used.accumulator, accumulator) {
            (Some((n, other)), Some((m, first))) => n.n == m.n && n.ty == m.ty && other == first,
            _ => false,
        };
        for r in &inst.dst {
            if let Some(used) = state.in_flight(*r).filter(|used| !same(used)) {
                return Err(self.in_flight(inst, used));
            }
        }
        for r in left(m, inst) {
            let written = |used: &&Use| used.accumulator.is_some();
            if let Some(used) = state.in_flight(r).filter(written) {
                return Err(self.in_flight(inst, used));
            }
        }
        let at = inst.loc;
        for r in left(m, inst) {
            let accumulator = None;
            state.open.insert(r, Use { accumulator, at });
        }
        for r in &inst.dst {
            state.open.insert(*r, Use { accumulator, at });
        }
        Ok(())
    }

    fn in_flight(&self, inst: &Inst, used: &Use) -> Error {
        Error::InFlight {
            kernel: self.k.name.as_str().into(),
            op: row_of(inst.op, self.k.target).mnemonic.into(),
            at: inst.loc,
            what: match used.accumulator {
                Some(_) => "an accumulator",
                None => "a register of a factor",
            },
            since: used.at,
        }
    }

    fn never_waited(&self, at: Loc) -> Error {
        Error::NeverWaited {
            kernel: self.k.name.as_str().into(),
            at,
        }
    }
}
