//! Lanes that look at each other: shuffles, votes and reductions.

use gannet_ptx_gen::ir::{Imm, Operand, Ty};
use gannet_ptx_gen::op::{Cmp, Opcode, Order, Rmw, Shfl, Space, Vote};

use crate::asm::{Asm, at, imm};
use crate::control::outputs;

const U32: Ty = Ty::U32;

/// The result of one shuffle of the lane number times ten, by all lanes.
fn shuffle(mode: Shfl, b: u32, c: u32) -> Vec<u32> {
    let mut a = Asm::new(32);
    let out = a.pointer();
    let tid = a.tid();
    let value = a.get(
        Opcode::Mul { ty: U32 },
        U32,
        &[tid.into(), Imm::u32(10).into()],
    );
    let operands: [Operand; 4] = [
        value.into(),
        Imm::u32(b).into(),
        Imm::u32(c).into(),
        Imm::u32(u32::MAX).into(),
    ];
    let x = a.get(Opcode::Shfl { mode, ty: U32 }, U32, &operands);
    let address = a.element(out, tid);
    a.store(U32, address, 0, x);
    outputs(a, &[], 32)
}

#[test]
fn shuffles() {
    let tens = |f: fn(u32) -> u32| (0..32).map(|l| 10 * f(l)).collect::<Vec<_>>();
    assert_eq!(shuffle(Shfl::Bfly, 16, 31), tens(|l| l ^ 16));
    assert_eq!(
        shuffle(Shfl::Down, 4, 31),
        tens(|l| if l + 4 < 32 { l + 4 } else { l })
    );
    assert_eq!(
        shuffle(Shfl::Up, 4, 0),
        tens(|l| if l >= 4 { l - 4 } else { l })
    );
    assert_eq!(shuffle(Shfl::Idx, 5, 31), tens(|_| 5));
    // Segments of 8: mask 0x18 in bits 8 to 12.
    assert_eq!(shuffle(Shfl::Idx, 2, 0x181f), tens(|l| l / 8 * 8 + 2));
    assert_eq!(
        shuffle(Shfl::Down, 3, 0x181f),
        tens(|l| if l % 8 + 3 < 8 { l + 3 } else { l })
    );
    assert_eq!(
        shuffle(Shfl::Up, 3, 0x1800),
        tens(|l| if l % 8 >= 3 { l - 3 } else { l })
    );
}

#[test]
fn votes_and_reductions() {
    let mut a = Asm::new(32);
    let out = a.pointer();
    let tid = a.tid();
    let all = || imm(U32, 0xffff_ffff);
    let third = a.get(
        Opcode::Rem { ty: U32 },
        U32,
        &[tid.into(), Imm::u32(3).into()],
    );
    let p = a.get(
        Opcode::Setp {
            cmp: Cmp::Eq,
            ty: U32,
        },
        Ty::Pred,
        &[third.into(), Imm::u32(0).into()],
    );
    let ballot = a.get(Opcode::Vote { f: Vote::Ballot }, U32, &[p.into(), all()]);
    let any = a.get(Opcode::Vote { f: Vote::Any }, Ty::Pred, &[p.into(), all()]);
    let every = a.get(Opcode::Vote { f: Vote::All }, Ty::Pred, &[p.into(), all()]);
    let sum = a.get(
        Opcode::Redux {
            f: Rmw::Add,
            ty: U32,
        },
        U32,
        &[tid.into(), all()],
    );
    let least = a.get(
        Opcode::Redux {
            f: Rmw::Min,
            ty: Ty::I32,
        },
        Ty::I32,
        &[tid.into(), all()],
    );
    let same = a.get(Opcode::MatchAny, U32, &[third.into(), all()]);
    let (leader, elected) = (a.reg(U32), a.reg(Ty::Pred));
    a.emit(Opcode::ElectSync, &[leader, elected], &[all()]);
    let bit = |a: &mut Asm, p| {
        a.get(
            Opcode::Selp { ty: U32 },
            U32,
            &[Imm::u32(1).into(), Imm::u32(0).into(), Operand::Reg(p)],
        )
    };
    let (any, every) = (bit(&mut a, any), bit(&mut a, every));
    for (n, x) in [ballot, any, every, sum, least, same, leader]
        .into_iter()
        .enumerate()
    {
        a.emit_if(
            Some((elected, true)),
            Opcode::St {
                space: Space::Global,
                ty: U32,
                vec: 1,
                order: Order::Weak,
            },
            &[],
            &[at(out, 4 * n as i32), x.into()],
        );
    }
    let thirds = (0..32).filter(|l| l % 3 == 0).fold(0, |m, l| m | 1 << l);
    assert_eq!(outputs(a, &[], 32)[..7], [thirds, 1, 0, 496, 0, thirds, 0]);
}
