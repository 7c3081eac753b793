//! Clean-up after building: what the builder emits mechanically and no reader wants to see.
//!
//! * A copy out of a variable (`Var::get`) whose uses all come before the variable's next
//!   change is dropped, and its uses read the variable.
//! * A value computed only to be put into a variable (`Var::set`) is computed there.
//! * Neither moves a use of a variable past the products of a warpgroup that run beside it.
//! * Pure instructions whose results nobody reads go away.
//!
//! The meaning of the kernel does not change; ptxas would do the same.

use std::collections::HashMap;

use crate::ir::{Address, Base, Inst, Kernel, Operand, Reg, Stmt};
use crate::op::Opcode;

/// Cleans up. `order[new] = old` maps the final order of shared arrays to the one in which the
/// body's addresses number them.
pub(crate) fn tidy(kernel: &mut Kernel, order: &[usize]) {
    renumber_shared(&mut kernel.body, order);
    let mut body = std::mem::take(&mut kernel.body);
    loop {
        let uses = count_uses(&body, kernel.regs.len());
        let mut changed = forward(&mut body, kernel, &uses);
        let uses = count_uses(&body, kernel.regs.len());
        changed |= sweep(&mut body, &uses);
        if !changed {
            break;
        }
    }
    kernel.body = body;
}

/// Calls `f` on every operand of every instruction.
fn operands(stmts: &mut [Stmt], f: &mut impl FnMut(&mut Operand)) {
    for stmt in stmts {
        match stmt {
            Stmt::Inst(inst) => inst.src.iter_mut().for_each(&mut *f),
            Stmt::If(branch) => {
                operands(&mut branch.then, f);
                operands(&mut branch.otherwise, f);
            }
            Stmt::Loop(l) => operands(&mut l.body, f),
            Stmt::Comment(_) => {}
        }
    }
}

fn renumber_shared(body: &mut [Stmt], order: &[usize]) {
    operands(body, &mut |operand| {
        if let Operand::Addr(Address {
            base: Base::Shared(i),
            ..
        }) = operand
            && let Some(new) = order.iter().position(|old| *old == *i as usize)
        {
            *i = new as u32;
        }
    });
}

fn reg_of(operand: &Operand) -> Option<Reg> {
    match operand {
        Operand::Reg(r)
        | Operand::Addr(Address {
            base: Base::Reg(r), ..
        }) => Some(*r),
        _ => None,
    }
}

/// How often each register is read.
fn count_uses(stmts: &[Stmt], regs: usize) -> Vec<u32> {
    fn walk(stmts: &[Stmt], uses: &mut [u32]) {
        for stmt in stmts {
            match stmt {
                Stmt::Inst(inst) => {
                    for r in inst.src.iter().filter_map(reg_of) {
                        uses[r.0 as usize] += 1;
                    }
                    if let Some((r, _)) = inst.guard {
                        uses[r.0 as usize] += 1;
                    }
                }
                Stmt::If(branch) => {
                    uses[branch.cond.0 as usize] += 1;
                    walk(&branch.then, uses);
                    walk(&branch.otherwise, uses);
                }
                Stmt::Loop(l) => {
                    walk(&l.body, uses);
                    uses[l.again.0 as usize] += 1;
                }
                Stmt::Comment(_) => {}
            }
        }
    }
    let mut uses = vec![0; regs];
    walk(stmts, &mut uses);
    uses
}

/// Drops pure instructions without readers.
fn sweep(stmts: &mut Vec<Stmt>, uses: &[u32]) -> bool {
    let before = stmts.len();
    let mut changed = false;
    for stmt in stmts.iter_mut() {
        match stmt {
            Stmt::If(branch) => {
                changed |= sweep(&mut branch.then, uses);
                changed |= sweep(&mut branch.otherwise, uses);
            }
            Stmt::Loop(l) => changed |= sweep(&mut l.body, uses),
            _ => {}
        }
    }
    stmts.retain(|stmt| match stmt {
        Stmt::Inst(inst) => !inst.op.is_pure() || inst.dst.iter().any(|r| uses[r.0 as usize] > 0),
        Stmt::If(branch) => !branch.then.is_empty() || !branch.otherwise.is_empty(),
        _ => true,
    });
    changed || stmts.len() != before
}

/// Removes copies from and to variables within each straight run of instructions.
fn forward(stmts: &mut Vec<Stmt>, kernel: &Kernel, uses: &[u32]) -> bool {
    let mut changed = false;
    for stmt in stmts.iter_mut() {
        match stmt {
            Stmt::If(branch) => {
                changed |= forward(&mut branch.then, kernel, uses);
                changed |= forward(&mut branch.otherwise, kernel, uses);
            }
            Stmt::Loop(l) => changed |= forward(&mut l.body, kernel, uses),
            _ => {}
        }
    }
    changed | forward_reads(stmts, kernel, uses) | forward_writes(stmts, kernel, uses)
}

/// `t = mov var; .. use t ..` becomes `.. use var ..`, when every use of `t` is in this run and
/// before `var` changes.
fn forward_reads(stmts: &mut [Stmt], kernel: &Kernel, uses: &[u32]) -> bool {
    let mut copies: HashMap<Reg, (usize, Reg)> = HashMap::new();
    let mut seen: HashMap<Reg, u32> = HashMap::new();
    let mut replace: Vec<Reg> = Vec::new();
    for (at, stmt) in stmts.iter().enumerate() {
        let Stmt::Inst(inst) = stmt else {
            // Nested statements may change any variable and read any copy.
            copies.clear();
            continue;
        };
        for r in inst.src.iter().filter_map(reg_of) {
            // A product goes on reading while the variable may change: it keeps its copy.
            if copies.contains_key(&r) && !matches!(inst.op, Opcode::Wgmma(_)) {
                let n = seen.entry(r).or_default();
                *n += 1;
                if *n == uses[r.0 as usize] {
                    replace.push(r);
                }
            }
        }
        for d in &inst.dst {
            copies.retain(|_, (_, var)| var != d);
        }
        if let Some((to, from)) = plain_copy(inst)
            && kernel.reg(from).mutable
            && !kernel.reg(to).mutable
            && kernel.reg(from).ty == kernel.reg(to).ty
        {
            copies.insert(to, (at, from));
        }
    }
    if replace.is_empty() {
        return false;
    }
    let mut map: HashMap<Reg, Reg> = HashMap::new();
    for stmt in stmts.iter() {
        if let Stmt::Inst(inst) = stmt
            && let Some((to, from)) = plain_copy(inst)
            && replace.contains(&to)
        {
            map.insert(to, from);
        }
    }
    for stmt in stmts.iter_mut() {
        if let Stmt::Inst(inst) = stmt {
            for operand in &mut inst.src {
                match operand {
                    Operand::Reg(r)
                    | Operand::Addr(Address {
                        base: Base::Reg(r), ..
                    }) => {
                        *r = map.get(r).copied().unwrap_or(*r);
                    }
                    _ => {}
                }
            }
        }
    }
    true
}

/// `t = op ..; var = mov t` becomes `var = op ..`, when that is the only use of `t` and nothing
/// in between reads or changes `var`.
fn forward_writes(stmts: &mut Vec<Stmt>, kernel: &Kernel, uses: &[u32]) -> bool {
    let mut remove: Vec<usize> = Vec::new();
    for at in 0..stmts.len() {
        let Stmt::Inst(inst) = &stmts[at] else {
            continue;
        };
        let Some((var, value)) = plain_copy(inst) else {
            continue;
        };
        if !kernel.reg(var).mutable || kernel.reg(value).mutable || uses[value.0 as usize] != 1 {
            continue;
        }
        if kernel.reg(var).ty != kernel.reg(value).ty {
            continue;
        }
        let Some(source) = definition_before(stmts, at, var, value) else {
            continue;
        };
        if let Stmt::Inst(inst) = &mut stmts[source] {
            for d in &mut inst.dst {
                if *d == value {
                    *d = var;
                }
            }
            remove.push(at);
        }
    }
    for at in remove.iter().rev() {
        stmts.remove(*at);
    }
    !remove.is_empty()
}

/// Where `value` is computed in the straight run before `at`, if `var` rests in between.
fn definition_before(stmts: &[Stmt], at: usize, var: Reg, value: Reg) -> Option<usize> {
    for i in (0..at).rev() {
        let inst = match &stmts[i] {
            Stmt::Inst(inst) => inst,
            Stmt::Comment(_) => continue,
            _ => return None,
        };
        // Products in flight may be using the variable up to here.
        if matches!(inst.op, Opcode::WgmmaWait { .. } | Opcode::WgmmaFence) {
            return None;
        }
        if inst.dst.contains(&value) {
            return inst.guard.is_none().then_some(i);
        }
        let reads = inst.src.iter().filter_map(reg_of).any(|r| r == var);
        if reads || inst.dst.contains(&var) || inst.guard.is_some_and(|(r, _)| r == var) {
            return None;
        }
    }
    None
}

/// `(to, from)` of an unguarded move between registers.
fn plain_copy(inst: &Inst) -> Option<(Reg, Reg)> {
    match (
        inst.op,
        inst.dst.as_slice(),
        inst.src.as_slice(),
        inst.guard,
    ) {
        (Opcode::Mov { .. }, [to], [Operand::Reg(from)], None) => Some((*to, *from)),
        _ => None,
    }
}
