//! Proves that a mutant is the same program: it computes the same values by other instructions.
//!
//! [`Prover`] walks a kernel and writes down its effects: what it loads, stores and
//! exchanges, where it branches, and what its variables hold where paths meet. Everything in
//! between is expressed in what the effects gave, bit by bit (see [`super::rules`]). Two kernels
//! with equal traces do the same: as long as they have done the same, equal expressions have equal
//! values, so that the next effect is the same too. A mutant with another trace may still do the
//! same; that is for a list of survivors to say.

use std::collections::BTreeSet;

use gannet_ptx_gen::ir::{Base, If, Inst, Kernel, Loop, Operand, Reg, Stmt};
use gannet_ptx_gen::op::Opcode;

use super::rules::{Node, Nodes};
use super::values::{Bit, ONE, Value, ZERO};

/// What a step of a trace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Inst(Opcode),
    If,
    Else,
    Join,
    Loop,
    Again,
}

/// A step of a trace with all that it depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    kind: Kind,
    /// Offsets of addresses, arrays, variables: the numbers that are no values.
    numbers: Vec<i64>,
    values: Vec<Vec<Bit>>,
}

/// A kernel to compare others with.
pub(crate) struct Prover {
    nodes: Nodes,
    effects: Vec<Effect>,
    zeros: Vec<u64>,
}

impl Prover {
    pub(crate) fn new(kernel: &Kernel) -> Prover {
        let mut prover = Prover {
            nodes: Nodes::default(),
            effects: Vec::new(),
            zeros: Vec::new(),
        };
        if let Some((effects, zeros)) = prover.trace(kernel, false) {
            (prover.effects, prover.zeros) = (effects, zeros);
        }
        prover
    }

    /// Whether `mutant` provably does what the kernel does.
    pub(crate) fn is_same(&mut self, mutant: &Kernel) -> bool {
        self.trace(mutant, true).is_some()
    }

    /// The effects of a kernel, and the bits of each variable that are never set; `None` if they
    /// shall be those of the first kernel and are not.
    fn trace(&mut self, kernel: &Kernel, compare: bool) -> Option<(Vec<Effect>, Vec<u64>)> {
        // Bits that are zero in all that is ever written to a variable: assumed first, then
        // withdrawn until the assumption bears itself out.
        let mut zeros = self.zeros.clone();
        zeros.resize(kernel.regs.len(), u64::MAX);
        loop {
            let mut walk = Walk {
                kernel,
                nodes: &mut self.nodes,
                values: vec![None; kernel.regs.len()],
                effects: Vec::new(),
                expected: compare.then_some(&self.effects),
                differs: false,
                zeros: &zeros,
                written: zeros.clone(),
            };
            walk.stmts(&kernel.body);
            if walk.differs
                || walk
                    .expected
                    .is_some_and(|all| all.len() != walk.effects.len())
            {
                return None;
            }
            let (written, effects) = (walk.written, walk.effects);
            if written == zeros {
                return Some((effects, zeros));
            }
            zeros = written;
        }
    }
}

struct Walk<'a> {
    kernel: &'a Kernel,
    nodes: &'a mut Nodes,
    /// What each register holds now.
    values: Vec<Option<Value>>,
    effects: Vec<Effect>,
    /// The effects that there should be, and whether there was another one.
    expected: Option<&'a Vec<Effect>>,
    differs: bool,
    /// Bits of each variable that are taken to be always zero, and those that were.
    zeros: &'a [u64],
    written: Vec<u64>,
}

impl Walk<'_> {
    fn stmts(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            if self.differs {
                return;
            }
            match stmt {
                Stmt::Comment(_) => {}
                Stmt::Inst(inst) => self.inst(inst),
                Stmt::If(branch) => self.branch(branch),
                Stmt::Loop(l) => self.turns(l),
            }
        }
    }

    fn read(&mut self, reg: Reg) -> Value {
        let bits = self.kernel.reg(reg).ty.bits();
        let at = self.effects.len();
        match &self.values[reg.0 as usize] {
            Some(value) => value.clone(),
            // Nothing wrote it on this path; the verifier sees to it that nobody cares.
            None => self.nodes.opaque(Node::Variable(at, reg), bits),
        }
    }

    fn push(&mut self, effect: Effect) {
        let expected = self.expected.map(|all| all.get(self.effects.len()));
        self.differs |= expected.is_some_and(|expected| expected != Some(&effect));
        self.effects.push(effect);
    }

    fn set(&mut self, reg: Reg, value: Value) {
        if self.kernel.reg(reg).mutable {
            self.written[reg.0 as usize] &= value.zeros();
        }
        self.values[reg.0 as usize] = Some(value);
    }

    fn predicate(&mut self, reg: Reg, wanted: bool) -> Bit {
        let bit = self.read(reg).bits[0];
        if wanted { bit } else { self.nodes.not(bit) }
    }

    fn inst(&mut self, inst: &Inst) {
        let guard = inst.guard.map_or(ONE, |(reg, on)| self.predicate(reg, on));
        if guard == ZERO {
            return;
        }
        let mut numbers = Vec::new();
        let mut sources = Vec::new();
        for operand in &inst.src {
            match operand {
                Operand::Reg(reg) => sources.push(self.read(*reg)),
                Operand::Imm(imm) => sources.push(Value::constant(imm.bits, imm.ty.bits())),
                Operand::Addr(address) => {
                    numbers.push(i64::from(address.offset));
                    match address.base {
                        Base::Reg(reg) => sources.push(self.read(reg)),
                        Base::Param(n) => numbers.push(-1 - i64::from(n)),
                        Base::Shared(n) => numbers.push(i64::from(n)),
                    }
                }
            }
        }
        let widths: Vec<u32> = (inst.dst.iter())
            .map(|reg| self.kernel.reg(*reg).ty.bits())
            .collect();
        if guard == ONE && inst.op.is_pure() && inst.op != Opcode::AssumeUniform {
            let results = self
                .nodes
                .compute(self.kernel, inst.op, &sources, &numbers, &widths);
            for (reg, value) in inst.dst.iter().zip(results) {
                self.set(*reg, value);
            }
            return;
        }
        let at = self.effects.len();
        let mut values: Vec<Vec<Bit>> = sources.into_iter().map(|v| v.bits).collect();
        values.push(vec![guard]);
        if guard != ONE {
            // What the others keep.
            for reg in &inst.dst {
                let old = self.read(*reg).bits;
                values.push(old);
            }
        }
        let kind = Kind::Inst(inst.op);
        self.push(Effect {
            kind,
            numbers,
            values,
        });
        for (i, (reg, bits)) in inst.dst.iter().zip(widths).enumerate() {
            let result = self.nodes.opaque(Node::Effect(at, i), bits);
            self.set(*reg, result);
        }
    }

    /// Writes down what variables hold here, and what a branch depends on.
    fn note(&mut self, kind: Kind, condition: Option<Bit>, variables: &BTreeSet<Reg>) {
        let mut values: Vec<Vec<Bit>> = condition.into_iter().map(|bit| vec![bit]).collect();
        for reg in variables {
            let value = self.read(*reg).bits;
            values.push(value);
        }
        let numbers = variables.iter().map(|reg| i64::from(reg.0)).collect();
        self.push(Effect {
            kind,
            numbers,
            values,
        });
    }

    /// From here on all that is known of these variables is that both kernels agree on them.
    fn forget(&mut self, variables: &BTreeSet<Reg>) {
        let at = self.effects.len();
        for reg in variables {
            let bits = self.kernel.reg(*reg).ty.bits();
            let mut value = self.nodes.opaque(Node::Variable(at, *reg), bits);
            value.clear(self.zeros[reg.0 as usize]);
            self.values[reg.0 as usize] = Some(value);
        }
    }

    fn branch(&mut self, branch: &If) {
        let condition = self.predicate(branch.cond, !branch.negated);
        match condition {
            ONE => return self.stmts(&branch.then),
            ZERO => return self.stmts(&branch.otherwise),
            _ => {}
        }
        let mut variables = BTreeSet::new();
        self.variables(&branch.then, &mut variables);
        self.variables(&branch.otherwise, &mut variables);
        self.note(Kind::If, Some(condition), &BTreeSet::new());
        let before = self.values.clone();
        self.stmts(&branch.then);
        self.note(Kind::Else, None, &variables);
        self.values = before;
        self.stmts(&branch.otherwise);
        self.note(Kind::Join, None, &variables);
        self.forget(&variables);
    }

    fn turns(&mut self, l: &Loop) {
        // A loop that provably never repeats is its body.
        let here = self.effects.len();
        let next = self.expected.and_then(|all| all.get(here));
        if next.is_none_or(|effect| effect.kind != Kind::Loop) {
            let (values, expected) = (self.values.clone(), self.expected.take());
            self.stmts(&l.body);
            let once = self.predicate(l.again, true) == ZERO;
            let effects = self.effects.split_off(here);
            self.expected = expected;
            if once {
                effects.into_iter().for_each(|effect| self.push(effect));
                return;
            }
            self.values = values;
        }
        let mut variables = BTreeSet::new();
        self.variables(&l.body, &mut variables);
        self.note(Kind::Loop, None, &variables);
        self.forget(&variables);
        self.stmts(&l.body);
        let again = self.predicate(l.again, true);
        self.note(Kind::Again, Some(again), &variables);
    }

    /// The variables that statements write.
    fn variables(&self, stmts: &[Stmt], found: &mut BTreeSet<Reg>) {
        for stmt in stmts {
            match stmt {
                Stmt::Comment(_) => {}
                Stmt::Inst(inst) => {
                    let written = inst.dst.iter();
                    found.extend(written.filter(|reg| self.kernel.reg(**reg).mutable));
                }
                Stmt::If(branch) => {
                    self.variables(&branch.then, found);
                    self.variables(&branch.otherwise, found);
                }
                Stmt::Loop(l) => self.variables(&l.body, found),
            }
        }
    }
}
