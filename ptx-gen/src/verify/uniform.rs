//! Uniformity: do all threads that an instruction waits for arrive at it together?
//!
//! Every register gets a level: equal in the whole block, equal in each warp, or neither.
//! Constants, parameters and block indices are block-uniform; thread and lane indices are
//! divergent, except that `thread_x / 32` and comparisons of `thread_x` with a multiple of 32 are
//! warp-uniform in a one-dimensional block. Results take the worst level of their sources. A
//! weak load is as uniform as its address. Votes are warp-uniform; shuffles keep a level and
//! never improve one, except that reading one fixed lane makes a value warp-uniform. Whatever is
//! assigned under divergent control is divergent. `assume_uniform` vouches for the rest.
//!
//! A named barrier that counts the whole block is a block barrier, unless some threads only arrive
//! at it: those who wait are then fewer, and whole warps are all that can be asked of them.

use super::Error;
use crate::ir::{Address, Base, Imm, Inst, Kernel, Loc, Operand, Reg, Stmt};
use crate::op::{Cmp, Opcode, Order, Shfl, Special, Vote};
use crate::table::row_of;

/// Who agrees on a value, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Block,
    Warp,
    Thread,
}

/// The level of control flow, and what made it so.
#[derive(Clone, Copy)]
struct Flow {
    level: Level,
    cause: Option<Loc>,
}

impl Flow {
    fn under(self, level: Level, cause: Loc) -> Flow {
        if level > self.level {
            Flow {
                level,
                cause: Some(cause),
            }
        } else {
            self
        }
    }
}

pub(super) fn check(k: &Kernel) -> Result<(), Error> {
    let [_, y, z] = k.block_size;
    let mut a = Analysis {
        k,
        levels: vec![Level::Block; k.regs.len()],
        thread_x: vec![false; k.regs.len()],
        one_dimensional: y == 1 && z == 1,
        split_barriers: split_barriers(k),
        changed: true,
        report: false,
    };
    // Levels only rise, so this ends after at most two changes per register; in practice two or
    // three rounds.
    while a.changed {
        a.changed = false;
        a.block(
            &k.body,
            Flow {
                level: Level::Block,
                cause: None,
            },
        )?;
    }
    a.report = true;
    a.block(
        &k.body,
        Flow {
            level: Level::Block,
            cause: None,
        },
    )?;
    Ok(())
}

struct Analysis<'a> {
    k: &'a Kernel,
    levels: Vec<Level>,
    /// Registers that hold `%tid.x` itself.
    thread_x: Vec<bool>,
    one_dimensional: bool,
    split_barriers: u16,
    changed: bool,
    report: bool,
}

impl Analysis<'_> {
    /// Walks a block and gives the flow after it: threads may have ended on the way.
    fn block(&mut self, stmts: &[Stmt], mut flow: Flow) -> Result<Flow, Error> {
        for stmt in stmts {
            match stmt {
                Stmt::Comment(_) => {}
                Stmt::Inst(inst) => {
                    if self.report {
                        self.rendezvous(inst, flow)?;
                    }
                    self.inst(inst, flow);
                    if inst.op == Opcode::Exit {
                        let level = inst
                            .guard
                            .map_or(flow.level, |(r, _)| flow.level.max(self.level(r)));
                        flow = flow.under(level, inst.loc);
                    }
                }
                Stmt::If(branch) => {
                    let inner = flow.under(self.level(branch.cond), branch.loc);
                    let after_then = self.block(&branch.then, inner)?;
                    let after_else = self.block(&branch.otherwise, inner)?;
                    // Threads that ended inside are missing from here on.
                    if ends_threads(&branch.then) {
                        flow = after_then;
                    }
                    if ends_threads(&branch.otherwise) && after_else.level > flow.level {
                        flow = after_else;
                    }
                }
                Stmt::Loop(l) => {
                    let inner = flow.under(self.level(l.again), l.loc);
                    let after = self.block(&l.body, inner)?;
                    if ends_threads(&l.body) {
                        flow = after;
                    }
                }
            }
        }
        Ok(flow)
    }

    fn level(&self, r: Reg) -> Level {
        self.levels[r.0 as usize]
    }

    fn inst(&mut self, inst: &Inst, flow: Flow) {
        let guard = inst.guard.map_or(Level::Block, |(r, _)| self.level(r));
        let level = match inst.op {
            Opcode::AssumeUniform => Level::Block,
            _ => self.result(inst).max(flow.level).max(guard),
        };
        let is_thread_x = inst.op == Opcode::Special(Special::Tid(0));
        for d in &inst.dst {
            let slot = &mut self.levels[d.0 as usize];
            if level > *slot {
                *slot = level;
                self.changed = true;
            }
            self.thread_x[d.0 as usize] = is_thread_x && !self.k.reg(*d).mutable;
        }
    }

    /// Level of an instruction's results in uniform flow.
    fn result(&self, inst: &Inst) -> Level {
        let sources = inst
            .src
            .iter()
            .map(|o| self.operand(o))
            .max()
            .unwrap_or(Level::Block);
        match inst.op {
            Opcode::Special(s) => match s {
                Special::Tid(_) | Special::Laneid | Special::Clock | Special::GlobalTimer => {
                    Level::Thread
                }
                Special::Warpid => Level::Warp,
                _ => Level::Block,
            },
            Opcode::Shr { .. } if self.splits_warps(inst, |n| n >= 5) => Level::Warp,
            Opcode::And { .. } if self.splits_warps(inst, |mask| mask % 32 == 0) => Level::Warp,
            Opcode::Setp {
                cmp: Cmp::Lt | Cmp::Ge,
                ..
            } if self.splits_warps(inst, |n| n % 32 == 0) => Level::Warp,
            Opcode::Setp {
                cmp: Cmp::Le | Cmp::Gt,
                ..
            } if self.splits_warps(inst, |n| n % 32 == 31) => Level::Warp,
            Opcode::Ld { order, .. } if order != Order::Weak => Level::Thread,
            Opcode::Vote {
                f: Vote::All | Vote::Any | Vote::Ballot,
            } => match inst.src.first() {
                Some(o) if self.operand(o) == Level::Block => Level::Block,
                _ => Level::Warp,
            },
            Opcode::Shfl {
                mode: Shfl::Idx, ..
            } if inst
                .src
                .get(1)
                .is_some_and(|lane| self.operand(lane) <= Level::Warp) =>
            {
                sources.min(Level::Warp)
            }
            Opcode::Redux { .. } => Level::Warp,
            Opcode::Atom { .. }
            | Opcode::ActiveMask
            | Opcode::ElectSync
            | Opcode::Mma(_)
            | Opcode::Ldmatrix { .. } => Level::Thread,
            Opcode::Movmatrix
            | Opcode::MatchAny
            | Opcode::MbarrierTryWait
            | Opcode::MbarrierTestWait => Level::Thread,
            _ => sources,
        }
    }

    /// Whether the instruction has `%tid.x` and a constant that satisfies `f` as its sources, in
    /// a block where lanes are `%tid.x % 32`.
    fn splits_warps(&self, inst: &Inst, f: impl Fn(u64) -> bool) -> bool {
        match inst.src.as_slice() {
            [Operand::Reg(r), Operand::Imm(Imm { bits, .. })] => {
                self.one_dimensional && self.thread_x[r.0 as usize] && f(*bits)
            }
            _ => false,
        }
    }

    fn operand(&self, operand: &Operand) -> Level {
        match operand {
            Operand::Reg(r)
            | Operand::Addr(Address {
                base: Base::Reg(r), ..
            }) => self.level(*r),
            _ => Level::Block,
        }
    }

    /// Refuses an instruction that waits for threads which may not come.
    fn rendezvous(&self, inst: &Inst, flow: Flow) -> Result<(), Error> {
        let (group, worst) = match inst.op {
            Opcode::BarSync => ("block", Level::Block),
            Opcode::BarSyncN { id, threads }
                if u32::from(threads) == self.k.threads() && self.split_barriers >> id & 1 == 0 =>
            {
                ("block", Level::Block)
            }
            Opcode::BarSyncN { .. }
            | Opcode::BarArrive { .. }
            | Opcode::Mma(_)
            | Opcode::Movmatrix => ("warp", Level::Warp),
            Opcode::Ldmatrix { .. } | Opcode::Stmatrix { .. } => ("warp", Level::Warp),
            Opcode::BarWarpSync if whole_warp(inst, 0) => ("warp", Level::Warp),
            Opcode::Shfl { .. } if whole_warp(inst, 3) => ("warp", Level::Warp),
            Opcode::Vote { .. } | Opcode::Redux { .. } | Opcode::MatchAny
                if whole_warp(inst, 1) =>
            {
                ("warp", Level::Warp)
            }
            _ => return Ok(()),
        };
        if flow.level <= worst {
            return Ok(());
        }
        Err(Error::Divergent {
            kernel: self.k.name.as_str().into(),
            op: row_of(inst.op, self.k.target).mnemonic.into(),
            at: inst.loc,
            group,
            cause: flow.cause.unwrap_or(inst.loc),
        })
    }
}

/// The barriers, as bits, at which some threads only arrive while others wait: their threads come by different ways.
fn split_barriers(k: &Kernel) -> u16 {
    let mut ids = 0;
    k.for_each_inst(|inst| {
        if let Opcode::BarArrive { id, .. } = inst.op {
            ids |= 1 << (id % 16);
        }
    });
    ids
}

/// Whether the member mask in source `i` names every lane.
fn whole_warp(inst: &Inst, i: usize) -> bool {
    matches!(inst.src.get(i), Some(Operand::Imm(imm)) if imm.bits == u64::from(u32::MAX))
}

/// Whether some thread may end inside.
fn ends_threads(stmts: &[Stmt]) -> bool {
    stmts.iter().any(|stmt| match stmt {
        Stmt::Inst(inst) => inst.op == Opcode::Exit,
        Stmt::If(branch) => ends_threads(&branch.then) || ends_threads(&branch.otherwise),
        Stmt::Loop(l) => ends_threads(&l.body),
        Stmt::Comment(_) => false,
    })
}
