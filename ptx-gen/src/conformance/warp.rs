//! Warp-wide instructions: shuffles, votes and reductions with ragged member masks; matrix loads and stores.

use super::asm::{Asm, SLOT, at};
use super::inputs::{self, Random};
use super::scalar::{lanewise, signature};
use super::{Case, blank};
use crate::ir::{Operand, Reg, Ty};
use crate::op::{Opcode, Space};
use crate::target::Target;

const WARPS: usize = 256;

/// Shuffles, votes, match, redux, elect.
pub(super) fn lanes(op: Opcode, target: Target) -> Case {
    let mut random = Random::new(&format!("{op:?}"));
    let signature = signature(op, target);
    let specials: Vec<Vec<u64>> = signature
        .sources
        .iter()
        .map(|t| inputs::specials(*t))
        .collect();
    let mut tuples = Vec::new();
    for warp in 0..WARPS {
        let members = members(op, warp, &mut random);
        // Few different values, so that some agree; or one, so that all do.
        let few = 1 + random.below(4);
        for _ in 0..32 {
            let mut tuple: Vec<u64> = signature
                .sources
                .iter()
                .zip(&specials)
                .map(|(ty, list)| inputs::value(*ty, list, &mut random))
                .collect();
            match op {
                Opcode::Shfl { .. } => {
                    if warp % 4 != 0 {
                        tuple[1] = random.below(40);
                    }
                    // Clamp and segment mask: the whole warp, halves to pairs, or anything.
                    let segment = (32 - (32u64 >> (warp % 6))) << 8;
                    match warp % 3 {
                        0 => tuple[2] = segment | 31,
                        1 => tuple[2] = segment,
                        _ => {}
                    }
                }
                Opcode::Vote { .. } if warp % 4 < 2 => tuple[0] = (warp % 2) as u64,
                Opcode::MatchAny => tuple[0] = 0x8000_0000 + random.below(few),
                _ => {}
            }
            if let Some(last) = tuple.last_mut() {
                *last = u64::from(members);
            }
            tuples.push(tuple);
        }
    }
    let slot = signature.sources.len() - 1;
    let ragged = !matches!(op, Opcode::Shfl { .. });
    let mut case = lanewise(op, target, &signature, &tuples, ragged.then_some(slot));
    case.coverage = if ragged {
        format!("{WARPS} warps: every kind of member mask")
    } else {
        format!("{WARPS} warps: segments, clamps, lanes past the end")
    };
    if op == Opcode::ElectSync {
        case.note = "PTX promises a leader, hardware and interpreter take the lowest lane";
    }
    case
}

/// A member mask: all lanes, one, a run, or any set. A lane outside may not be read, so shuffles have them all.
fn members(op: Opcode, warp: usize, random: &mut Random) -> u32 {
    if matches!(op, Opcode::Shfl { .. }) {
        return u32::MAX;
    }
    let lane = random.below(32) as u32;
    match warp % 4 {
        0 => u32::MAX,
        1 => 1 << lane,
        2 => u32::MAX >> lane,
        _ => (random.next() as u32) | 1 << lane,
    }
}

/// Words of a row of a matrix.
const ROW: usize = 4;

/// Loads `n` words from consecutive slots.
fn words(a: &mut Asm, from: Reg, first: usize, n: usize) -> Vec<Reg> {
    let load = |i| {
        a.load(
            Space::Global,
            Ty::U32,
            from,
            (SLOT as usize * (first + i)) as i32,
        )
    };
    (0..n).map(load).collect()
}

/// Each lane's own row in shared memory filled, and the address of the row that its operand picks.
struct Rows {
    from: Reg,
    to: Reg,
    own: Reg,
    picked: Reg,
}

/// Operands: four words of the lane's row, the row it addresses, then `more` words.
fn rows(a: &mut Asm, more: usize, results: usize) -> Rows {
    let (input, output) = (a.param(Ty::U64), a.param(Ty::U64));
    let array = a.shared(32 * 16);
    let index = a.index();
    let from = a.global(input, index, SLOT * (ROW + 1 + more) as u32);
    let to = a.global(output, index, SLOT * results as u32);
    let base = a.shared_base(array);
    let tid = a.tid();
    let own = a.local(base, tid, 16);
    for (i, word) in words(a, from, 0, ROW).into_iter().enumerate() {
        a.store(Space::Shared, Ty::U32, own, 4 * i as i32, word);
    }
    let pick = words(a, from, ROW, 1)[0];
    let picked = a.local(base, pick, 16);
    a.barrier();
    Rows {
        from,
        to,
        own,
        picked,
    }
}

fn put(a: &mut Asm, to: Reg, values: &[Reg]) {
    for (i, value) in values.iter().enumerate() {
        a.store(Space::Global, Ty::U32, to, SLOT as i32 * i as i32, *value);
    }
}

/// The tuples of [`rows`]; `distinct` rows are a permutation.
fn matrices(more: usize, distinct: bool, op: Opcode) -> Vec<u8> {
    let mut random = Random::new(&format!("{op:?}"));
    let mut slots = Vec::new();
    for warp in 0..WARPS as u64 {
        let (factor, shift) = (2 * random.below(16) + 1, random.below(32));
        for lane in 0..32 {
            slots.extend((0..ROW).map(|_| random.next() & 0xffff_ffff));
            slots.push(if distinct || warp % 2 == 0 {
                (lane * factor + shift) % 32
            } else {
                random.below(32)
            });
            slots.extend((0..more).map(|_| random.next() & 0xffff_ffff));
        }
    }
    inputs::slots(slots)
}

/// `ldmatrix` from rows in any order.
pub(super) fn load_matrix(num: u8, op: Opcode, target: Target) -> Case {
    let n = usize::from(num);
    let mut a = Asm::new(target, [32, 1, 1]);
    let rows = rows(&mut a, 0, n);
    let values: Vec<Reg> = (0..n).map(|_| a.reg(Ty::U32)).collect();
    a.emit(op, &values, &[at(rows.picked, 0)]);
    put(&mut a, rows.to, &values);
    finish(a, op, target, matrices(0, false, op), n)
}

/// `stmatrix` to rows in any order, then each lane reads its own row.
pub(super) fn store_matrix(num: u8, op: Opcode, target: Target) -> Case {
    let n = usize::from(num);
    let mut a = Asm::new(target, [32, 1, 1]);
    let rows = rows(&mut a, n, ROW);
    let values = words(&mut a, rows.from, ROW + 1, n);
    let mut operands: Vec<Operand> = vec![at(rows.picked, 0)];
    operands.extend(values.iter().map(|r| Operand::Reg(*r)));
    a.emit(op, &[], &operands);
    a.barrier();
    let load = |i| a.load(Space::Shared, Ty::U32, rows.own, 4 * i);
    let values: Vec<Reg> = (0..ROW as i32).map(load).collect();
    put(&mut a, rows.to, &values);
    finish(a, op, target, matrices(n, true, op), ROW)
}

fn finish(a: Asm, op: Opcode, target: Target, input: Vec<u8>, results: usize) -> Case {
    let mut case = blank(op, target, a.finish());
    case.grid = [WARPS as u32, 1, 1];
    case.inputs = vec![input];
    case.output = vec![0; SLOT as usize * 32 * WARPS * results];
    case.results = vec![Ty::U32];
    case.coverage = format!("{WARPS} warps: rows in any order");
    case
}
