//! Matrix instructions against plain products, with fragments filled by the formulas of the PTX ISA.

use gannet_ptx_gen::interp::Memory;
use gannet_ptx_gen::ir::{Imm, Kernel, Operand, Reg, Ty};
use gannet_ptx_gen::op::{Cache, Mma, Opcode, Order, Space};
use half::{bf16, f16};

use crate::asm::{Asm, at, in_shared, run};

/// `D = mma(A, B, C)` with each lane's registers in memory: lane-major, A then B then C.
fn mma_kernel(shape: Mma) -> Kernel {
    let (na, nb, nc) = shape.fragments();
    let mut a = Asm::new(32);
    let (input, output) = (a.pointer(), a.pointer());
    let tid = a.tid();
    let from = a.get(
        Opcode::MadWide { ty: Ty::U32 },
        Ty::U64,
        &[tid.into(), Imm::u32(64).into(), input.into()],
    );
    let to = a.get(
        Opcode::MadWide { ty: Ty::U32 },
        Ty::U64,
        &[tid.into(), Imm::u32(16).into(), output.into()],
    );
    let accumulator = shape.accumulator();
    let ld = |ty| Opcode::Ld {
        space: Space::Global,
        ty,
        vec: 1,
        order: Order::Weak,
        cache: Cache::default(),
    };
    let sources: Vec<Operand> = (0..na + nb + nc)
        .map(|n| {
            let ty = if n < na + nb { Ty::U32 } else { accumulator };
            a.get(ld(ty), ty, &[at(from, 4 * n as i32)]).into()
        })
        .collect();
    let d: Vec<Reg> = (0..nc).map(|_| a.reg(accumulator)).collect();
    a.emit(Opcode::Mma(shape), &d, &sources);
    for (n, d) in d.iter().enumerate() {
        a.store(accumulator, to, 4 * n as i32, *d);
    }
    a.finish()
}

/// Runs a shape on matrices given as functions of (row, column), with `bits` of an element packed `per` to a
/// register, and returns D's registers, `[lane][register]`.
fn product(
    shape: Mma,
    per: usize,
    a: &dyn Fn(usize, usize) -> u32,
    b: &dyn Fn(usize, usize) -> u32,
    c: &dyn Fn(usize, usize) -> u32,
) -> Vec<[u32; 4]> {
    let (na, nb, nc) = shape.fragments();
    let width = 32 / per as u32;
    let mut words = vec![0u32; 32 * 16];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        let fill = |words: &mut Vec<u32>, register: usize, j: usize, bits: u32| {
            words[16 * lane + register] |= bits << (width * j as u32);
        };
        for i in 0..na * per {
            let (row, col) = match (shape, per) {
                (Mma::M8n8k16Int8 { .. }, _) => (g, 4 * t + i),
                (_, 2) => (g + 8 * ((i >> 1) & 1), 2 * t + (i & 1) + 8 * (i >> 2)),
                (_, 4) => (g + 8 * ((i >> 2) & 1), 4 * t + (i & 3) + 16 * (i >> 3)),
                _ => (g + 8 * (i & 1), t + 4 * (i >> 1)),
            };
            fill(&mut words, i / per, i % per, a(row, col));
        }
        for i in 0..nb * per {
            let k = match per {
                2 => 2 * t + (i & 1) + 8 * (i >> 1),
                4 => 4 * t + (i & 3) + 16 * (i >> 2),
                _ => t + 4 * i,
            };
            fill(&mut words, na + i / per, i % per, b(k, g));
        }
        for i in 0..nc {
            words[16 * lane + na + nb + i] = c(g + 8 * (i >> 1), 2 * t + (i & 1));
        }
    }
    let mut memory = Memory::new();
    let (input, output) = (memory.alloc_from(&words), memory.alloc_zeroed(512));
    run(&mma_kernel(shape), &[input, output], &memory).expect("no fault");
    let words: Vec<u32> = memory.read(output, 128).expect("in bounds");
    words
        .chunks_exact(4)
        .map(|w| [w[0], w[1], w[2], w[3]])
        .collect()
}

/// Small values that every format holds exactly.
fn av(row: usize, k: usize) -> i32 {
    ((row * 7 + k * 3) % 13) as i32 - 6
}

fn bv(k: usize, col: usize) -> i32 {
    ((k * 5 + col * 11) % 17) as i32 - 8
}

fn cv(row: usize, col: usize) -> i32 {
    (row * 8 + col) as i32 - 40
}

fn check(
    shape: Mma,
    per: usize,
    k: usize,
    encode: &dyn Fn(i32) -> u32,
    accumulate: &dyn Fn(i32) -> u32,
) {
    let d = product(
        shape,
        per,
        &|r, c| encode(av(r, c)),
        &|r, c| encode(bv(r, c)),
        &|r, c| accumulate(cv(r, c)),
    );
    for (lane, registers) in d.iter().enumerate() {
        for (i, found) in registers.iter().enumerate().take(shape.fragments().2) {
            let (row, col) = (lane / 4 + 8 * (i >> 1), 2 * (lane % 4) + (i & 1));
            let expected = cv(row, col) + (0..k).map(|k| av(row, k) * bv(k, col)).sum::<i32>();
            assert_eq!(
                *found,
                accumulate(expected),
                "{shape:?} row {row} column {col}"
            );
        }
    }
}

#[test]
fn float_shapes() {
    let f32_bits = |x: i32| (x as f32).to_bits();
    let half = |x: i32| u32::from(f16::from_f32(x as f32).to_bits());
    let brain = |x: i32| u32::from(bf16::from_f32(x as f32).to_bits());
    check(Mma::M16n8k16F16, 2, 16, &half, &f32_bits);
    check(Mma::M16n8k16Bf16, 2, 16, &brain, &f32_bits);
    check(Mma::M16n8k8F16, 2, 8, &half, &f32_bits);
    check(Mma::M16n8k8Tf32, 1, 8, &f32_bits, &f32_bits);
}

#[test]
fn integer_shapes() {
    let signed = |x: i32| u32::from(x as i8 as u8);
    let word = |x: i32| x as u32;
    check(
        Mma::M16n8k32Int8 {
            a_signed: true,
            b_signed: true,
        },
        4,
        32,
        &signed,
        &word,
    );
    check(
        Mma::M8n8k16Int8 {
            a_signed: true,
            b_signed: true,
        },
        4,
        16,
        &signed,
        &word,
    );
    // The same bytes of A, read as unsigned.
    let shape = Mma::M16n8k32Int8 {
        a_signed: false,
        b_signed: true,
    };
    let d = product(shape, 4, &|_, _| 255, &|_, _| 0xff, &|_, _| 0);
    assert_eq!(d[0][0] as i32, -255 * 32);
}

#[test]
fn ldmatrix_stmatrix_and_movmatrix() {
    // Two 8 x 8 tiles of 16-bit elements, element (r, c) of tile j being 100 j + 10 r + c.
    let mut a = Asm::new(32);
    let (input, output) = (a.pointer(), a.pointer());
    let s = a.shared(512);
    let tid = a.tid();
    let base = a.get(Opcode::SharedAddress, Ty::U32, &[in_shared(s, 0)]);
    let row = a.get(
        Opcode::MadLo { ty: Ty::U32 },
        Ty::U32,
        &[tid.into(), Imm::u32(16).into(), base.into()],
    );
    let from = a.get(
        Opcode::MadWide { ty: Ty::U32 },
        Ty::U64,
        &[tid.into(), Imm::u32(16).into(), input.into()],
    );
    for n in 0..4 {
        let ld = Opcode::Ld {
            space: Space::Global,
            ty: Ty::U32,
            vec: 1,
            order: Order::Weak,
            cache: Cache::default(),
        };
        let x = a.get(ld, Ty::U32, &[at(from, 4 * n)]);
        let st = Opcode::St {
            space: Space::Shared,
            ty: Ty::U32,
            vec: 1,
            order: Order::Weak,
        };
        a.emit(st, &[], &[at(row, 4 * n), x.into()]);
    }
    a.emit(Opcode::BarSync, &[], &[]);
    let plain = [a.reg(Ty::U32), a.reg(Ty::U32)];
    a.emit(
        Opcode::Ldmatrix {
            num: 2,
            trans: false,
        },
        &plain,
        &[at(row, 0)],
    );
    let turned = [a.reg(Ty::U32), a.reg(Ty::U32)];
    a.emit(
        Opcode::Ldmatrix {
            num: 2,
            trans: true,
        },
        &turned,
        &[at(row, 0)],
    );
    let moved = a.get(Opcode::Movmatrix, Ty::U32, &[plain[0].into()]);
    // Writing the transposed registers with .trans gives the tile back.
    a.emit(
        Opcode::Stmatrix {
            num: 2,
            trans: true,
        },
        &[],
        &[at(row, 0), turned[0].into(), turned[1].into()],
    );
    a.emit(Opcode::BarSync, &[], &[]);
    let again = a.get(
        Opcode::Ldmatrix {
            num: 1,
            trans: false,
        },
        Ty::U32,
        &[at(row, 0)],
    );
    let to = a.get(
        Opcode::MadWide { ty: Ty::U32 },
        Ty::U64,
        &[tid.into(), Imm::u32(24).into(), output.into()],
    );
    for (n, x) in [plain[0], plain[1], turned[0], turned[1], moved, again]
        .into_iter()
        .enumerate()
    {
        a.store(Ty::U32, to, 4 * n as i32, x);
    }
    let element = |j: usize, r: usize, c: usize| (100 * j + 10 * r + c) as u16;
    let halves: Vec<u16> = (0..256)
        .map(|i| element(i / 64, i / 8 % 8, i % 8))
        .collect();
    let mut memory = Memory::new();
    let (input, output) = (memory.alloc_from(&halves), memory.alloc_zeroed(32 * 24));
    run(&a.finish(), &[input, output], &memory).expect("no fault");
    let words: Vec<u32> = memory.read(output, 192).expect("in bounds");
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let straight = |j| pair(element(j, g, 2 * t), element(j, g, 2 * t + 1));
        let across = |j| pair(element(j, 2 * t, g), element(j, 2 * t + 1, g));
        let expected = [
            straight(0),
            straight(1),
            across(0),
            across(1),
            across(0),
            straight(0),
        ];
        assert_eq!(words[6 * lane..6 * lane + 6], expected, "lane {lane}");
    }
}
