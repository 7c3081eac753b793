//! Uniformity: do all threads that an instruction waits for arrive at it together?
//!
//! Every register gets a level: equal in the whole grid, the whole block, each warpgroup (128
//! threads), each warp, or none of these. Constants and parameters are grid-uniform, block indices
//! block-uniform; thread and lane indices are divergent, except that `thread_x / 32` and
//! comparisons of `thread_x` with a multiple of 32 are warp-uniform in a one-dimensional block,
//! those with 128 in place of 32 warpgroup-uniform. Results take the worst level of their sources. A
//! weak load is as uniform as its address. Votes are warp-uniform; shuffles keep a level and
//! never improve one, except that reading one fixed lane makes a value warp-uniform. Whatever is
//! assigned under divergent control is divergent. `assume_uniform` vouches for the rest.
//!
//! Beside its level a register has a source: was it computed from what a thread loaded, or only
//! from its place? Arrivals and waits at mbarriers and named barriers may stand under conditions
//! on a thread's place (a lane that is elected, a warp that produces), since those count on it;
//! under a condition that differs from thread to thread by what was loaded, nobody can count.
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
    Grid,
    Block,
    Group,
    Warp,
    Thread,
}

/// The level of control flow, and what made it so.
#[derive(Clone, Copy)]
struct Flow {
    level: Level,
    cause: Option<Loc>,
    /// The branch that depends on what threads have loaded, and not alike in the block.
    skips: Option<Loc>,
}

impl Flow {
    /// That of a kernel's start.
    const START: Flow = Flow {
        level: Level::Grid,
        cause: None,
        skips: None,
    };

    /// Under a condition on loaded values.
    fn loaded(self, loaded: bool, level: Level, cause: Loc) -> Flow {
        let skips = (loaded && level > Level::Block).then_some(cause);
        Flow {
            skips: self.skips.or(skips),
            ..self
        }
    }

    fn under(self, level: Level, cause: Loc) -> Flow {
        if level > self.level {
            Flow {
                level,
                cause: Some(cause),
                ..self
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
        levels: vec![Level::Grid; k.regs.len()],
        loaded: vec![false; k.regs.len()],
        thread_x: vec![None; k.regs.len()],
        one_dimensional: y == 1 && z == 1,
        split_barriers: split_barriers(k),
        changed: true,
        report: false,
    };
    // Levels only rise, so this ends after at most two changes per register; in practice two or
    // three rounds.
    while a.changed {
        a.changed = false;
        a.block(&k.body, Flow::START)?;
    }
    a.report = true;
    a.block(&k.body, Flow::START)?;
    Ok(())
}

struct Analysis<'a> {
    k: &'a Kernel,
    levels: Vec<Level>,
    /// Registers computed from what was loaded.
    loaded: Vec<bool>,
    /// Registers that hold `%tid.x >> n`: the `n`.
    thread_x: Vec<Option<u32>>,
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
                        let loaded = inst.guard.is_some_and(|(r, _)| self.is_loaded(r));
                        flow = flow.under(level, inst.loc).loaded(loaded, level, inst.loc);
                    }
                }
                Stmt::If(branch) => {
                    let level = self.level(branch.cond);
                    let inner = flow.under(level, branch.loc).loaded(
                        self.is_loaded(branch.cond),
                        level,
                        branch.loc,
                    );
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
                    let level = self.level(l.again);
                    let inner =
                        flow.under(level, l.loc)
                            .loaded(self.is_loaded(l.again), level, l.loc);
                    let after = self.block(&l.body, inner)?;
                    if ends_threads(&l.body) {
                        flow = after;
                    }
                }
            }
        }
        Ok(flow)
    }

    fn is_loaded(&self, r: Reg) -> bool {
        self.loaded[r.0 as usize]
    }

    fn level(&self, r: Reg) -> Level {
        self.levels[r.0 as usize]
    }

    fn inst(&mut self, inst: &Inst, flow: Flow) {
        let guard = inst.guard.map_or(Level::Grid, |(r, _)| self.level(r));
        let level = match inst.op {
            Opcode::AssumeUniform => Level::Block,
            _ => self.result(inst).max(flow.level).max(guard),
        };
        let thread_x = self.shifted(inst);
        let loaded = self.loads(inst, flow);
        for d in &inst.dst {
            let known = &mut self.loaded[d.0 as usize];
            if loaded && !*known {
                *known = true;
                self.changed = true;
            }
            let slot = &mut self.levels[d.0 as usize];
            if level > *slot {
                *slot = level;
                self.changed = true;
            }
            self.thread_x[d.0 as usize] = thread_x.filter(|_| !self.k.reg(*d).mutable);
        }
    }

    /// Level of an instruction's results in uniform flow.
    fn result(&self, inst: &Inst) -> Level {
        let sources = inst
            .src
            .iter()
            .map(|o| self.operand(o))
            .max()
            .unwrap_or(Level::Grid);
        match inst.op {
            Opcode::Special(s) => match s {
                Special::Tid(_) | Special::Laneid | Special::Clock | Special::GlobalTimer => {
                    Level::Thread
                }
                Special::Warpid => Level::Warp,
                Special::Ctaid(_) | Special::Smid | Special::ClusterRank => Level::Block,
                _ => Level::Grid,
            },
            Opcode::Shr { .. } => {
                self.parts(inst, |n, shift| n + shift >= 5, |n, shift| n + shift >= 7)
            }
            Opcode::And { .. } => {
                let keeps =
                    |bits: u64| move |mask: u64, shift: u64| (mask << shift).is_multiple_of(bits);
                self.parts(inst, keeps(32), keeps(128))
            }
            Opcode::Setp {
                cmp: Cmp::Lt | Cmp::Ge,
                ..
            } => {
                let cuts = |bits: u64| move |n: u64, shift: u64| (n << shift).is_multiple_of(bits);
                self.parts(inst, cuts(32), cuts(128))
            }
            Opcode::Setp {
                cmp: Cmp::Le | Cmp::Gt,
                ..
            } => {
                let cuts =
                    |bits: u64| move |n: u64, shift: u64| ((n + 1) << shift).is_multiple_of(bits);
                self.parts(inst, cuts(32), cuts(128))
            }
            Opcode::Ld { order, .. } if order != Order::Weak => Level::Thread,
            Opcode::Vote {
                f: Vote::All | Vote::Any | Vote::Ballot,
            } => match inst.src.first() {
                Some(o) => self.operand(o).min(Level::Warp),
                None => Level::Warp,
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
            | Opcode::Wgmma(_)
            | Opcode::Ldmatrix { .. } => Level::Thread,
            Opcode::Movmatrix
            | Opcode::MatchAny
            | Opcode::MbarrierTryWait
            | Opcode::MbarrierTestWait => Level::Thread,
            _ => sources,
        }
    }

    /// Level of an instruction on `%tid.x >> shift` and a constant below 2^32, in a block where lanes are
    /// `%tid.x % 32`: by whether constant and shift keep to warps, and to warpgroups. Otherwise that of its sources.
    fn parts(
        &self,
        inst: &Inst,
        warps: impl Fn(u64, u64) -> bool,
        groups: impl Fn(u64, u64) -> bool,
    ) -> Level {
        let sources = inst.src.iter().map(|o| self.operand(o)).max();
        let sources = sources.unwrap_or(Level::Grid);
        let [Operand::Reg(r), Operand::Imm(Imm { bits, .. })] = inst.src.as_slice() else {
            return sources;
        };
        let bits = *bits & 0xffff_ffff;
        match self.thread_x[r.0 as usize].map(u64::from) {
            Some(shift) if self.one_dimensional && groups(bits, shift) => Level::Group,
            Some(shift) if self.one_dimensional && warps(bits, shift) => sources.min(Level::Warp),
            _ => sources,
        }
    }

    /// `n` where the instruction gives `%tid.x >> n`.
    fn shifted(&self, inst: &Inst) -> Option<u32> {
        match (inst.op, inst.src.as_slice()) {
            (Opcode::Special(Special::Tid(0)), _) => Some(0),
            (Opcode::Shr { .. }, [Operand::Reg(r), Operand::Imm(imm)]) => {
                let before = self.thread_x[r.0 as usize]?;
                (imm.bits < 16).then(|| before + imm.bits as u32)
            }
            (Opcode::Mov { .. }, [Operand::Reg(r)]) => self.thread_x[r.0 as usize],
            _ => None,
        }
    }

    /// Whether an instruction's results come from memory, or from what runs when.
    fn loads(&self, inst: &Inst, flow: Flow) -> bool {
        let source = match inst.op {
            Opcode::Ld { .. } | Opcode::Atom { .. } | Opcode::Ldmatrix { .. } => true,
            Opcode::ActiveMask | Opcode::Special(Special::Clock | Special::GlobalTimer) => true,
            // An answer that is asked for until it is yes.
            Opcode::MbarrierTryWait | Opcode::MbarrierTestWait => return false,
            Opcode::AssumeUniform => return false,
            _ => false,
        };
        let read = |o: &Operand| match o {
            Operand::Reg(r)
            | Operand::Addr(Address {
                base: Base::Reg(r), ..
            }) => self.is_loaded(*r),
            _ => false,
        };
        let guard = inst.guard.is_some_and(|(r, _)| self.is_loaded(r));
        source || guard || flow.skips.is_some() || inst.src.iter().any(read)
    }

    fn operand(&self, operand: &Operand) -> Level {
        match operand {
            Operand::Reg(r)
            | Operand::Addr(Address {
                base: Base::Reg(r), ..
            }) => self.level(*r),
            _ => Level::Grid,
        }
    }

    /// Refuses a barrier that some threads pass by because of what they have loaded.
    fn skipped(&self, inst: &Inst, flow: Flow) -> Result<(), Error> {
        let counts = matches!(
            inst.op,
            Opcode::BarSyncN { .. }
                | Opcode::BarArrive { .. }
                | Opcode::MbarrierArrive
                | Opcode::MbarrierArriveCluster
                | Opcode::MbarrierArriveExpectTx
                | Opcode::MbarrierTryWait
        );
        match flow.skips.filter(|_| counts) {
            None => Ok(()),
            Some(cause) => Err(Error::Skipped {
                kernel: self.k.name.as_str().into(),
                op: row_of(inst.op, self.k.target).mnemonic.into(),
                at: inst.loc,
                cause,
            }),
        }
    }

    /// Refuses an instruction that waits for threads which may not come.
    fn rendezvous(&self, inst: &Inst, flow: Flow) -> Result<(), Error> {
        self.skipped(inst, flow)?;
        let (group, worst) = match inst.op {
            Opcode::BarSync => ("block", Level::Block),
            Opcode::ClusterArrive | Opcode::ClusterWait if self.k.cluster > 1 => {
                ("cluster", Level::Grid)
            }
            Opcode::ClusterArrive | Opcode::ClusterWait => ("block", Level::Block),
            Opcode::Wgmma(_)
            | Opcode::WgmmaFence
            | Opcode::WgmmaCommit
            | Opcode::WgmmaWait { .. }
            | Opcode::SetMaxNReg { .. } => ("warpgroup", Level::Group),
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
