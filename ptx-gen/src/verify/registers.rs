//! Registers: what a launch gives each thread, what one product needs, and what a block's warpgroups take from each
//! other.

use std::collections::HashMap;

use super::Error;
use crate::ir::{Imm, Inst, Kernel, Operand, Reg, Stmt};
use crate::op::{Cmp, Opcode, Special, Wgmma, WgmmaA};
use crate::table::row_of;

/// Registers of a quarter of a multiprocessor, on every target here.
const QUARTER: u32 = 16384;

/// Registers that ptxas needs beside the operands of a product (13.0, by trial with `.maxnreg`:
/// m64n8 from shared memory compiles from 30 on, m64n256 from 154).
const BESIDE_OPERANDS: u32 = 26;

impl Kernel {
    /// Registers that a launch gives each thread where the text bounds them
    /// ([`Kernel::min_blocks`]): as many as fit, warps being dealt to the four quarters of a
    /// multiprocessor. `setmaxnreg` works only there, within the block's share; where it asks for more,
    /// ptxas gives a launch no more than the most that is asked for (13.0, by trial).
    pub fn launch_registers(&self) -> Option<u32> {
        let fit = self.registers_with(self.min_blocks?);
        let mut most = None;
        self.for_each_inst(|inst| {
            if let Opcode::SetMaxNReg {
                registers,
                increase: true,
            } = inst.op
            {
                most = most.max(Some(u32::from(registers)));
            }
        });
        Some(most.map_or(fit, |most| fit.min(most)))
    }

    /// Registers a thread when so many blocks fit a multiprocessor.
    fn registers_with(&self, blocks: u32) -> u32 {
        let warps = blocks.saturating_mul(self.threads().div_ceil(32));
        let each = QUARTER / 32 / warps.div_ceil(4).max(1);
        (each / 8 * 8).min(256)
    }
}

/// The fewest registers of a launch with which ptxas compiles a product; fewer are its error C7602, also where
/// `setmaxnreg` raises them.
pub fn registers_of(m: Wgmma) -> u32 {
    let a = if m.a == WgmmaA::Registers { 4 } else { 0 };
    BESIDE_OPERANDS + m.accumulators() as u32 + a
}

pub(super) fn check(k: &Kernel) -> Result<(), Error> {
    let has = k.launch_registers().unwrap_or(k.registers_with(1));
    let mut result = Ok(());
    let mut asks = false;
    k.for_each_inst(|inst| {
        asks |= matches!(inst.op, Opcode::SetMaxNReg { .. });
        if let (Opcode::Wgmma(m), true) = (inst.op, result.is_ok()) {
            let needs = registers_of(m);
            if needs > has {
                let why = format!(
                    "its operands need {needs} registers a thread, of which a launch of {} threads, {} a \
                     multiprocessor, gives {has}",
                    k.threads(),
                    k.min_blocks.unwrap_or(1)
                );
                result = refuse(k, inst, why);
            }
        }
    });
    result?;
    if asks { pool(k) } else { Ok(()) }
}

fn refuse(k: &Kernel, inst: &Inst, why: String) -> Result<(), Error> {
    Err(Error::Form {
        kernel: k.name.as_str().into(),
        op: row_of(inst.op, k.target).mnemonic.into(),
        at: inst.loc,
        why: why.into(),
    })
}

/// Whether what the warpgroups end up with is what the block has.
fn pool(k: &Kernel) -> Result<(), Error> {
    let mut walk = Walk::new(k);
    let all = 0..k.threads();
    walk.block(&k.body, &Some(all));
    let Some(launch) = k.launch_registers() else {
        let Some(first) = walk.last_asked else {
            return Ok(());
        };
        let why = "is ignored by ptxas in a kernel that does not say min_blocks";
        return refuse(k, first, why.to_owned());
    };
    let each: Vec<u32> = walk
        .groups
        .iter()
        .map(|held| match held {
            Held::Launch => launch,
            Held::Known(n) => *n,
            Held::Unknown => 24,
        })
        .collect();
    let (sum, has) = (each.iter().sum::<u32>(), launch * each.len() as u32);
    match walk.last_asked {
        Some(inst) if sum > has => {
            let list: Vec<String> = each.iter().map(u32::to_string).collect();
            let why = format!(
                "the block's warpgroups ask for {} registers a thread, but a launch gives {launch} each: one waits \
                 forever",
                list.join(" + ")
            );
            refuse(k, inst, why)
        }
        _ => Ok(()),
    }
}

/// What a warpgroup's threads end up with.
#[derive(Clone, Copy)]
enum Held {
    Launch,
    Known(u32),
    /// It depends on more than the thread's place.
    Unknown,
}

struct Walk<'k> {
    groups: Vec<Held>,
    /// `%tid.x >> n`, by register.
    shifted: HashMap<Reg, u32>,
    /// Comparisons of `%tid.x` with a number of threads that end up as `Lt` or `Eq`: first and last thread that
    /// satisfies it, and whether it is negated.
    tests: HashMap<Reg, (std::ops::Range<u32>, bool)>,
    last_asked: Option<&'k Inst>,
}

impl<'k> Walk<'k> {
    fn new(k: &'k Kernel) -> Walk<'k> {
        let mut walk = Walk {
            groups: vec![Held::Launch; k.threads().div_ceil(128) as usize],
            shifted: HashMap::new(),
            tests: HashMap::new(),
            last_asked: None,
        };
        let [_, y, z] = k.block_size;
        if (y, z) == (1, 1) {
            k.for_each_inst(|inst| walk.learn(k, inst));
        }
        walk
    }

    fn learn(&mut self, k: &Kernel, inst: &Inst) {
        let Some(d) = inst.dst.first().filter(|d| !k.reg(**d).mutable) else {
            return;
        };
        match (inst.op, inst.src.as_slice()) {
            (Opcode::Special(Special::Tid(0)), _) => {
                self.shifted.insert(*d, 0);
            }
            (Opcode::Shr { .. }, [Operand::Reg(r), Operand::Imm(by)]) if by.bits < 16 => {
                if let Some(n) = self.shifted.get(r) {
                    self.shifted.insert(*d, n + by.bits as u32);
                }
            }
            (Opcode::Setp { cmp, .. }, [Operand::Reg(r), Operand::Imm(Imm { bits, .. })]) => {
                if let Some(n) = self.shifted.get(r) {
                    let edge = |bits: u64| (bits.min(2048) as u32) << n;
                    let (range, negated) = match cmp {
                        Cmp::Lt => (0..edge(*bits), false),
                        Cmp::Ge => (0..edge(*bits), true),
                        Cmp::Le => (0..edge(*bits + 1), false),
                        Cmp::Gt => (0..edge(*bits + 1), true),
                        Cmp::Eq => (edge(*bits)..edge(*bits + 1), false),
                        Cmp::Ne => (edge(*bits)..edge(*bits + 1), true),
                    };
                    self.tests.insert(*d, (range, negated));
                }
            }
            _ => {}
        }
    }

    /// Walks statements that the threads of a range execute; `None`: some threads, nobody knows which.
    fn block(&mut self, stmts: &'k [Stmt], threads: &Option<std::ops::Range<u32>>) {
        for stmt in stmts {
            match stmt {
                Stmt::Comment(_) => {}
                Stmt::Inst(inst) => {
                    if let Opcode::SetMaxNReg { registers, .. } = inst.op {
                        self.set(inst, u32::from(registers), threads);
                    }
                }
                Stmt::If(branch) => {
                    let (mut then, mut otherwise) = self.split(branch.cond, threads);
                    if branch.negated {
                        std::mem::swap(&mut then, &mut otherwise);
                    }
                    self.block(&branch.then, &then);
                    self.block(&branch.otherwise, &otherwise);
                }
                Stmt::Loop(l) => self.block(&l.body, threads),
            }
        }
    }

    /// The threads where a predicate holds, and the others.
    fn split(
        &self,
        cond: Reg,
        threads: &Option<std::ops::Range<u32>>,
    ) -> (Option<std::ops::Range<u32>>, Option<std::ops::Range<u32>>) {
        let (Some(all), Some((range, negated))) = (threads, self.tests.get(&cond)) else {
            return (None, None);
        };
        let inside = range.start.max(all.start)..range.end.min(all.end);
        let outside = if inside.is_empty() {
            Some(all.clone())
        } else if inside.start == all.start {
            Some(inside.end..all.end)
        } else if inside.end == all.end {
            Some(all.start..inside.start)
        } else {
            None
        };
        if *negated {
            (outside, Some(inside))
        } else {
            (Some(inside), outside)
        }
    }

    fn set(&mut self, inst: &'k Inst, registers: u32, threads: &Option<std::ops::Range<u32>>) {
        self.last_asked = Some(inst);
        for (n, held) in self.groups.iter_mut().enumerate() {
            let (from, to) = (128 * n as u32, 128 * n as u32 + 128);
            match threads {
                Some(range) if range.start <= from && range.end >= to => {
                    *held = Held::Known(registers);
                }
                Some(range) if range.end <= from || range.start >= to => {}
                _ => *held = Held::Unknown,
            }
        }
    }
}
