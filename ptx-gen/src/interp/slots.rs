//! Slots for registers: a kernel's thousands of single-assignment registers share the few slots that are live at
//! once, so that a warp's registers stay in cache.
//!
//! Lives are intervals of the linear code. A register read in a loop but written before it lives to the loop's end;
//! a mutable one first touched inside a loop lives through the whole outermost loop. Lanes that have left a loop keep
//! their values, because a write touches active lanes only.

use super::decode::{CONSTANT, File, Inst, Step};
use crate::ir::Kernel;
use crate::op::{Opcode, WgmmaA};

/// The outcome of [`assign`].
pub(crate) struct Assigned {
    /// Slots needed of each [`File`].
    pub(crate) files: [u32; 3],
    /// File, slot and value of each constant.
    pub(crate) constants: Vec<(File, u32, u64)>,
}

#[derive(Clone, Copy)]
struct Life {
    start: usize,
    end: usize,
}

/// Calls `f` on every operand of a step, with whether the step writes it.
fn operands(step: &mut Step, mut f: impl FnMut(&mut u32)) {
    match step {
        Step::Opcode(Inst {
            guard,
            dst,
            src,
            num_dst,
            num_src,
            extra,
            watch,
            ..
        }) => {
            extra.iter_mut().for_each(&mut f);
            watch.iter_mut().for_each(&mut f);
            src[..usize::from(*num_src)].iter_mut().for_each(&mut f);
            if let Some((pred, _)) = guard {
                f(pred);
            }
            dst[..usize::from(*num_dst)].iter_mut().for_each(&mut f);
        }
        Step::If { cond, .. } | Step::Again { cond, .. } => f(cond),
        Step::Else { .. } | Step::EndIf | Step::Loop | Step::End => {}
    }
}

/// Replaces register and constant numbers by slots.
pub(crate) fn assign(kernel: &Kernel, code: &mut [Step], constants: &[(File, u64)]) -> Assigned {
    let lives = lives(kernel, code);
    let mut files = [0u32; 3];
    let mut placed = Vec::with_capacity(constants.len());
    for &(file, bits) in constants {
        placed.push((file, files[file as usize], bits));
        files[file as usize] += 1;
    }

    let mut by_start: Vec<(usize, usize)> = lives
        .iter()
        .enumerate()
        .filter_map(|(r, life)| life.map(|l| (l.start, r)))
        .collect();
    by_start.sort_unstable();
    let mut by_end: Vec<(usize, usize)> = lives
        .iter()
        .enumerate()
        .filter_map(|(r, life)| life.map(|l| (l.end, r)))
        .collect();
    by_end.sort_unstable();

    let mut slot_of = vec![0u32; kernel.regs.len()];
    let mut free: [Vec<u32>; 3] = Default::default();
    let mut ended = by_end.into_iter().peekable();
    for (start, r) in by_start {
        while let Some((_, old)) = ended.next_if(|(end, _)| *end < start) {
            free[File::of(kernel.regs[old].ty) as usize].push(slot_of[old]);
        }
        let file = File::of(kernel.regs[r].ty) as usize;
        slot_of[r] = free[file].pop().unwrap_or_else(|| {
            files[file] += 1;
            files[file] - 1
        });
    }

    for step in code {
        operands(step, |operand| {
            *operand = match *operand & CONSTANT {
                0 => slot_of[*operand as usize],
                _ => placed[(*operand & !CONSTANT) as usize].1,
            };
        });
    }
    Assigned {
        files,
        constants: placed,
    }
}

/// The registers of a warpgroup's product, which share their slots with nobody: they are in use while other
/// instructions run.
pub(crate) fn products_registers(inst: &Inst) -> impl Iterator<Item = u32> {
    let factors = match inst.op {
        Opcode::Wgmma(m) if m.a == WgmmaA::Registers => 4,
        _ => 0,
    };
    let all = inst.extra.iter().chain(&inst.src[..factors]).copied();
    all.filter(|r| r & CONSTANT == 0)
}

fn lives(kernel: &Kernel, code: &mut [Step]) -> Vec<Option<Life>> {
    let mut end_of_loop = vec![0; code.len()];
    for (at, step) in code.iter().enumerate() {
        if let Step::Again { start, .. } = step {
            end_of_loop[*start] = at;
        }
    }
    let mut lives: Vec<Option<Life>> = vec![None; kernel.regs.len()];
    // The starts of the loops around the current step, outermost first.
    let mut loops: Vec<usize> = Vec::new();
    for (at, step) in code.iter_mut().enumerate() {
        if matches!(step, Step::Loop) {
            loops.push(at);
        }
        operands(step, |operand| {
            if *operand & CONSTANT != 0 {
                return;
            }
            let r = *operand as usize;
            let outermost = loops.first().filter(|_| kernel.regs[r].mutable);
            let life = lives[r].get_or_insert_with(|| match outermost {
                Some(&start) => Life {
                    start,
                    end: end_of_loop[start],
                },
                None => Life { start: at, end: at },
            });
            let entered = loops.iter().find(|&&start| start > life.start);
            life.end = life
                .end
                .max(entered.map_or(at, |&start| end_of_loop[start]));
        });
        if matches!(step, Step::Again { .. }) {
            loops.pop();
        }
    }
    let end = code.len();
    for step in code.iter() {
        if let Step::Opcode(inst) = step {
            for r in products_registers(inst) {
                lives[r as usize] = Some(Life { start: 0, end });
            }
        }
    }
    lives
}
