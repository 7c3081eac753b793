//! Memory forms: addresses, loads and stores of every space, width and order, atomics.
//!
//! Threads exchange what they store through their block's shared memory, so that a store is seen by another thread
//! than its own. Atomics have a cell of each thread's own, whose every value is determined, and one that all share,
//! whose final value is, where updates commute.

use super::asm::{Asm, SLOT, at, in_shared};
use super::inputs::{self, Random, mask};
use super::{Case, blank};
use crate::interp::LaunchArg;
use crate::ir::{Imm, Operand, Reg, Ty};
use crate::op::{Opcode, Rmw, Space};
use crate::target::Target;

const THREADS: u32 = 256;
const BLOCKS: u32 = 4;
/// Bytes that a thread moves: those of the widest access.
const BYTES: u32 = 16;

/// Kernel parameters of a type.
pub(super) fn parameter(ty: Ty, op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [32, 1, 1]);
    let output = a.param(Ty::U64);
    let tid = a.tid();
    let to = a.global(output, tid, SLOT);
    let value = a.param(ty);
    a.store(Space::Global, ty, to, 0, value);
    let mut case = blank(op, target, a.finish());
    let bits = 0xfedc_ba98_7654_3210u64;
    case.scalars = vec![match ty {
        Ty::U32 => LaunchArg::U32(bits as u32),
        Ty::I32 => LaunchArg::I32(bits as i32),
        Ty::I64 => LaunchArg::I64(bits as i64),
        Ty::F32 => LaunchArg::F32(f32::from_bits(bits as u32)),
        Ty::F64 => LaunchArg::F64(f64::from_bits(bits)),
        _ => LaunchArg::U64(bits),
    }];
    case.output = vec![0; SLOT as usize * 32];
    case.results = vec![ty];
    case.coverage = "1 argument, read by 32 threads".into();
    case
}

/// The address of a shared array: what is stored by name is loaded by address.
pub(super) fn shared_address(op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [1, 1, 1]);
    let (input, output) = (a.param(Ty::U64), a.param(Ty::U64));
    let (_, array) = (a.shared(48), a.shared(64));
    let value = a.load(Space::Global, Ty::U64, input, 0);
    a.emit(
        Opcode::St {
            space: Space::Shared,
            ty: Ty::U64,
            vec: 1,
            order: crate::op::Order::Weak,
        },
        &[],
        &[in_shared(array, 16), value.into()],
    );
    let address = a.get(op, Ty::U32, &[in_shared(array, 0)]);
    let back = a.load(Space::Shared, Ty::U64, address, 16);
    a.store(Space::Global, Ty::U64, output, 0, back);
    let low = a.word(Opcode::And { ty: Ty::U32 }, address, 15);
    a.store(Space::Global, Ty::U32, output, SLOT as i32, low);
    let mut case = blank(op, target, a.finish());
    case.inputs = vec![inputs::slots([0x0123_4567_89ab_cdef])];
    case.output = vec![0; 2 * SLOT as usize];
    case.coverage = "stored by name, loaded by address; aligned".into();
    case
}

/// A generic address of device memory, converted and loaded through.
pub(super) fn converted_address(op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let io = Ends::new(&mut a);
    let address = a.get(op, Ty::U64, &[io.from.into()]);
    let values = [0, 8].map(|n| a.load(Space::Global, Ty::U64, address, n));
    io.put(&mut a, &values);
    let mut case = moved(a, op, target);
    case.coverage = format!("{}: loaded through", BLOCKS * THREADS);
    case
}

/// A thread's 16 bytes of input and of output.
struct Ends {
    from: Reg,
    to: Reg,
}

impl Ends {
    fn new(a: &mut Asm) -> Ends {
        let (input, output) = (a.param(Ty::U64), a.param(Ty::U64));
        let index = a.index();
        Ends {
            from: a.global(input, index, BYTES),
            to: a.global(output, index, BYTES),
        }
    }

    fn put(&self, a: &mut Asm, values: &[Reg]) {
        for (i, value) in values.iter().enumerate() {
            a.store(Space::Global, Ty::U64, self.to, 8 * i as i32, *value);
        }
    }
}

/// A case that moves random bytes, and whose whole output counts.
fn moved(a: Asm, op: Opcode, target: Target) -> Case {
    let mut case = blank(op, target, a.finish());
    let n = (BLOCKS * THREADS * BYTES) as usize;
    let mut random = Random::new(&format!("{op:?}"));
    case.grid = [BLOCKS, 1, 1];
    case.inputs = vec![inputs::bytes(n, &mut random)];
    case.output = vec![0; n];
    case.coverage = format!("{} threads: any bytes", BLOCKS * THREADS);
    case
}

/// A thread's place in shared memory, and another thread's.
fn places(a: &mut Asm) -> (Reg, Reg) {
    let array = a.shared(THREADS * BYTES);
    let (base, tid) = (a.shared_base(array), a.tid());
    let other = a.word(Opcode::Xor { ty: Ty::U32 }, tid, THREADS - 1);
    (a.local(base, tid, BYTES), a.local(base, other, BYTES))
}

/// A load form: from device memory, or of what another thread has stored to shared memory.
pub(super) fn load(space: Space, ty: Ty, vec: u8, op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let io = Ends::new(&mut a);
    let source = if space == Space::Shared {
        let (mine, theirs) = places(&mut a);
        for n in [0, 8] {
            let x = a.load(Space::Global, Ty::U64, io.from, n);
            a.store(Space::Shared, Ty::U64, mine, n, x);
        }
        a.barrier();
        theirs
    } else {
        io.from
    };
    let values: Vec<Reg> = (0..vec).map(|_| a.reg(ty)).collect();
    a.emit(op, &values, &[at(source, 0)]);
    for (i, value) in values.iter().enumerate() {
        let offset = i as i32 * ty.bytes() as i32;
        a.store(Space::Global, ty, io.to, offset, *value);
    }
    moved(a, op, target)
}

/// A store form: to device memory, or to shared memory where another thread loads it.
pub(super) fn store(space: Space, ty: Ty, vec: u8, op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let io = Ends::new(&mut a);
    let values: Vec<Reg> = (0..i32::from(vec))
        .map(|i| a.load(Space::Global, ty, io.from, i * ty.bytes() as i32))
        .collect();
    let operands = |to: Reg| -> Vec<Operand> {
        let values = values.iter().map(|r| Operand::Reg(*r));
        [at(to, 0)].into_iter().chain(values).collect()
    };
    if space == Space::Global {
        a.emit(op, &[], &operands(io.to));
        return moved(a, op, target);
    }
    let (mine, theirs) = places(&mut a);
    let zero = a.get(Opcode::Mov { ty: Ty::U64 }, Ty::U64, &[Imm::u64(0).into()]);
    for n in [0, 8] {
        a.store(Space::Shared, Ty::U64, mine, n, zero);
    }
    a.emit(op, &[], &operands(mine));
    a.barrier();
    let back = [0, 8].map(|n| a.load(Space::Shared, Ty::U64, theirs, n));
    io.put(&mut a, &back);
    moved(a, op, target)
}

/// An atomic, with or without its old value.
///
/// Input: a value and an operand (and for `cas` a replacement) for each thread. Output: each thread's old value, its
/// cell afterwards, and the cell that threads share.
pub(super) fn atomic(space: Space, f: Rmw, ty: Ty, op: Opcode, target: Target) -> Case {
    let fetches = matches!(op, Opcode::Atom { .. });
    let commutes = !matches!(f, Rmw::Exch | Rmw::Cas);
    let n = BLOCKS * THREADS;
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let (input, output) = (a.param(Ty::U64), a.param(Ty::U64));
    let index = a.index();
    let from = a.global(input, index, 4 * SLOT);
    let to = a.global(output, index, 3 * SLOT);
    // In device memory one cell for the grid, in shared memory one a block.
    let (cell, common) = if space == Space::Shared {
        let array = a.shared((THREADS + 1) * SLOT);
        let (base, tid) = (a.shared_base(array), a.tid());
        let mine = a.local(base, tid, SLOT);
        let value = a.load(Space::Global, ty, from, 0);
        a.store(Space::Shared, ty, mine, 0, value);
        let first = a.test(crate::op::Cmp::Eq, tid, 0);
        let zero = a.get(Opcode::Mov { ty }, ty, &[Imm { ty, bits: 0 }.into()]);
        let end = (THREADS * SLOT) as i32;
        a.branch(
            first,
            |a| a.store(Space::Shared, ty, base, end, zero),
            |_| {},
        );
        a.barrier();
        (at(mine, 0), at(base, end))
    } else {
        (at(to, SLOT as i32), at(output, (3 * n * SLOT) as i32))
    };
    let operand = a.load(Space::Global, ty, from, SLOT as i32);
    let mut sources = vec![cell, operand.into()];
    if f == Rmw::Cas {
        let new = a.load(Space::Global, ty, from, 2 * SLOT as i32);
        sources.push(new.into());
    }
    if fetches {
        let old = a.get(op, ty, &sources);
        a.store(Space::Global, ty, to, 0, old);
    } else {
        a.emit(op, &[], &sources);
    }
    if commutes {
        let shared = a.load(Space::Global, ty, from, 3 * SLOT as i32);
        let dst: Vec<Reg> = fetches.then(|| a.reg(ty)).into_iter().collect();
        a.emit(op, &dst, &[common, shared.into()]);
    }
    if space == Space::Shared {
        a.barrier();
        for (place, offset) in [(cell, SLOT), (common, 2 * SLOT)] {
            let ld = Opcode::Ld {
                space,
                ty,
                vec: 1,
                order: crate::op::Order::Weak,
                cache: crate::op::Cache::default(),
            };
            let value = a.get(ld, ty, &[place]);
            a.store(Space::Global, ty, to, offset as i32, value);
        }
    }
    let mut case = blank(op, target, a.finish());
    let (input, output) = cells(space, f, ty, op, n);
    case.grid = [BLOCKS, 1, 1];
    case.inputs = vec![input];
    case.output = output;
    case.results = vec![ty];
    case.coverage = format!(
        "{n} threads: own cells{}",
        if commutes { ", a shared cell" } else { "" }
    );
    if ty == Ty::F32 && space == Space::Global {
        case.note = "in device memory subnormals count as zero, as PTX says of atom and red";
    }
    case
}

/// Contents of an atomic's buffers.
fn cells(space: Space, f: Rmw, ty: Ty, op: Opcode, n: u32) -> (Vec<u8>, Vec<u8>) {
    let mut random = Random::new(&format!("{op:?}"));
    let specials = inputs::specials(ty);
    let (mut input, mut output) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let cell = inputs::value(ty, &specials, &mut random);
        let mut operand = inputs::value(ty, &specials, &mut random);
        if f == Rmw::Cas && random.below(2) == 0 {
            operand = cell;
        }
        let new = random.next() & mask(ty);
        // Whole numbers add up without rounding, so that their order does not matter.
        let common = if ty == Ty::F32 {
            u64::from((random.below(64) as f32 - 32.0).to_bits())
        } else {
            random.next() & mask(ty)
        };
        input.extend([cell, operand, new, common]);
        output.extend([0, if space == Space::Global { cell } else { 0 }, 0]);
    }
    output.push(0);
    (inputs::slots(input), inputs::slots(output))
}
