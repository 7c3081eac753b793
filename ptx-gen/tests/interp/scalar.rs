//! Every family of scalar instructions, by hand-computed values.

use gannet_ptx_gen::ir::{Operand, Ty};
use gannet_ptx_gen::op::{Approx, Cmp, Opcode, Round};

use crate::asm::{eval, eval_all, imm};

fn u(x: u32) -> Operand {
    imm(Ty::U32, u64::from(x))
}

fn s(x: i32) -> Operand {
    imm(Ty::I32, u64::from(x as u32))
}

fn f(x: f32) -> Operand {
    imm(Ty::F32, u64::from(x.to_bits()))
}

fn h(x: f32) -> Operand {
    imm(Ty::F16, u64::from(half::f16::from_f32(x).to_bits()))
}

fn u64s(x: u64) -> Operand {
    imm(Ty::U64, x)
}

fn as_f32(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn as_half(bits: u64) -> f32 {
    half::f16::from_bits(bits as u16).to_f32()
}

#[test]
fn integer_arithmetic_wraps_and_widens() {
    let word = |op, a, b| eval(op, Ty::U32, &[u(a), u(b)]) as u32;
    assert_eq!(word(Opcode::Add { ty: Ty::U32 }, u32::MAX, 2), 1);
    assert_eq!(word(Opcode::Sub { ty: Ty::I32 }, 1, 3), -2i32 as u32);
    assert_eq!(word(Opcode::Mul { ty: Ty::U32 }, 0x10001, 0x10001), 0x20001);
    assert_eq!(
        word(Opcode::MulHi { ty: Ty::U32 }, u32::MAX, u32::MAX),
        u32::MAX - 1
    );
    assert_eq!(word(Opcode::MulHi { ty: Ty::I32 }, u32::MAX, 5), u32::MAX);
    assert_eq!(
        word(Opcode::Div { ty: Ty::I32 }, -7i32 as u32, 2),
        -3i32 as u32
    );
    assert_eq!(
        word(Opcode::Rem { ty: Ty::I32 }, -7i32 as u32, 2),
        -1i32 as u32
    );
    assert_eq!(word(Opcode::Div { ty: Ty::U32 }, 7, 0), u32::MAX);
    assert_eq!(
        word(Opcode::Min { ty: Ty::I32 }, -1i32 as u32, 1),
        -1i32 as u32
    );
    assert_eq!(word(Opcode::Max { ty: Ty::U32 }, -1i32 as u32, 1), u32::MAX);
    assert_eq!(
        eval(Opcode::MulWide { ty: Ty::I32 }, Ty::I64, &[s(-3), s(5)]) as i64,
        -15
    );
    assert_eq!(
        eval(
            Opcode::MulWide { ty: Ty::U32 },
            Ty::U64,
            &[u(u32::MAX), u(2)]
        ),
        0x1_ffff_fffe
    );
    assert_eq!(
        eval(
            Opcode::MadWide { ty: Ty::I32 },
            Ty::I64,
            &[s(-3), s(5), u64s(20)]
        ),
        5
    );
    assert_eq!(
        eval(Opcode::MadLo { ty: Ty::U32 }, Ty::U32, &[u(7), u(6), u(5)]),
        47
    );
    assert_eq!(
        eval(
            Opcode::Add { ty: Ty::U16 },
            Ty::U16,
            &[imm(Ty::U16, 0xffff), imm(Ty::U16, 2)]
        ),
        1
    );
    assert_eq!(
        eval(
            Opcode::Max { ty: Ty::I16 },
            Ty::I16,
            &[imm(Ty::I16, 0xffff), imm(Ty::I16, 0x8000)]
        ),
        0xffff
    );
    assert_eq!(
        eval(Opcode::Neg { ty: Ty::I32 }, Ty::I32, &[s(5)]) as i32,
        -5
    );
    assert_eq!(
        eval(Opcode::Abs { ty: Ty::I64 }, Ty::I64, &[u64s(-5i64 as u64)]),
        5
    );
    assert_eq!(
        eval(
            Opcode::Mul { ty: Ty::U64 },
            Ty::U64,
            &[u64s(1 << 40), u64s(1 << 30)]
        ),
        0
    );
}

#[test]
fn shifts_clamp() {
    let shift = |op, ty, a: u64, n| eval(op, ty, &[imm(ty, a), u(n)]);
    assert_eq!(shift(Opcode::Shl { ty: Ty::U32 }, Ty::U32, 1, 31), 1 << 31);
    assert_eq!(shift(Opcode::Shl { ty: Ty::U32 }, Ty::U32, 1, 32), 0);
    assert_eq!(
        shift(Opcode::Shr { ty: Ty::I32 }, Ty::I32, 0x8000_0000, 99),
        0xffff_ffff
    );
    assert_eq!(
        shift(Opcode::Shr { ty: Ty::U32 }, Ty::U32, 0x8000_0000, 99),
        0
    );
    assert_eq!(
        shift(Opcode::Shr { ty: Ty::I64 }, Ty::I64, 1 << 63, 62),
        u64::MAX - 1
    );
    assert_eq!(shift(Opcode::Shl { ty: Ty::U64 }, Ty::U64, 1, 64), 0);
    assert_eq!(
        shift(Opcode::Shl { ty: Ty::U16 }, Ty::U16, 0x00ff, 12),
        0xf000
    );
    assert_eq!(
        shift(Opcode::Shr { ty: Ty::I16 }, Ty::I16, 0x8000, 15),
        0xffff
    );
    let funnel = |left, a, b, c| eval(Opcode::Shf { left }, Ty::U32, &[u(a), u(b), u(c)]) as u32;
    assert_eq!(funnel(true, 0x8000_0001, 0x1234_5678, 4), 0x2345_6788);
    assert_eq!(funnel(false, 0x8000_0001, 0x1234_5678, 4), 0x8800_0000);
    assert_eq!(funnel(true, 7, 9, 32), 9);
    assert_eq!(funnel(false, 7, 9, 32), 7);
}

#[test]
fn bit_fields() {
    let bfe = |ty, a: u64, pos, len| eval(Opcode::Bfe { ty }, ty, &[imm(ty, a), u(pos), u(len)]);
    assert_eq!(bfe(Ty::U32, 0xabcd_1234, 8, 8), 0x12);
    assert_eq!(bfe(Ty::I32, 0xabcd_f234, 8, 8), 0xffff_fff2);
    assert_eq!(bfe(Ty::U32, 0xf000_0000, 28, 8), 0xf);
    assert_eq!(bfe(Ty::I32, 0xf000_0000, 28, 8), 0xffff_ffff);
    assert_eq!(bfe(Ty::I32, 0x8000_0000, 40, 4), 0xffff_ffff);
    assert_eq!(bfe(Ty::U32, 0xffff_ffff, 3, 0), 0);
    assert_eq!(bfe(Ty::U64, 0xabcd << 40, 40, 12), 0xbcd);
    let bfi = |a, b, pos, len| {
        eval(
            Opcode::Bfi { ty: Ty::U32 },
            Ty::U32,
            &[u(a), u(b), u(pos), u(len)],
        ) as u32
    };
    assert_eq!(bfi(0xff, 0, 4, 4), 0xf0);
    assert_eq!(bfi(0x5, 0xffff_ffff, 28, 8), 0x5fff_ffff);
    assert_eq!(bfi(0x5, 0x1234, 0, 0), 0x1234);
    assert_eq!(bfi(0x5, 0x1234, 0, 32), 5);
}

#[test]
fn logic_tables_and_permutes() {
    let (a, b, c) = (0xf0f0_f0f0, 0xcccc_cccc, 0xaaaa_aaaa_u32);
    let lop = |lut| eval(Opcode::Lop3 { lut }, Ty::U32, &[u(a), u(b), u(c)]) as u32;
    assert_eq!(lop(0xf0 & 0xcc & 0xaa), a & b & c);
    assert_eq!(lop(0xf0 ^ 0xcc ^ 0xaa), a ^ b ^ c);
    assert_eq!(lop((0xf0 & 0xcc) | 0xaa), (a & b) | c);
    assert_eq!(lop(!0xf0), !a);
    let prmt = |sel| {
        eval(
            Opcode::Prmt,
            Ty::U32,
            &[u(0x3322_1100), u(0x7766_5584), u(sel)],
        ) as u32
    };
    assert_eq!(prmt(0x3210), 0x3322_1100);
    assert_eq!(prmt(0x7654), 0x7766_5584);
    assert_eq!(prmt(0x0123), 0x0011_2233);
    assert_eq!(prmt(0x8c4f), 0x00ff_8400);
    assert_eq!(eval(Opcode::Popc { ty: Ty::U32 }, Ty::U32, &[u(0xff01)]), 9);
    assert_eq!(eval(Opcode::Clz { ty: Ty::U32 }, Ty::U32, &[u(0)]), 32);
    assert_eq!(eval(Opcode::Clz { ty: Ty::U64 }, Ty::U32, &[u64s(1)]), 63);
    assert_eq!(
        eval(
            Opcode::Not { ty: Ty::U16 },
            Ty::U16,
            &[imm(Ty::U16, 0x00f0)]
        ),
        0xff0f
    );
    let dot = |a_signed, b_signed, a, b, c| {
        eval(
            Opcode::Dp4a { a_signed, b_signed },
            Ty::I32,
            &[u(a), u(b), s(c)],
        ) as i32
    };
    assert_eq!(
        dot(true, true, 0xff02_0380, 0x0102_0304, 10),
        -1 + 4 + 9 - 512 + 10
    );
    assert_eq!(
        dot(false, true, 0xff02_0380, 0xff02_0304, 0),
        -255 + 4 + 9 + 512
    );
}

#[test]
fn packing() {
    assert_eq!(
        eval(
            Opcode::Pack2x16,
            Ty::U32,
            &[imm(Ty::U16, 0x1234), imm(Ty::U16, 0x5678)]
        ),
        0x5678_1234
    );
    assert_eq!(
        eval_all(Opcode::Unpack2x16, &[Ty::U16, Ty::U16], &[u(0x5678_1234)]),
        [0x1234, 0x5678]
    );
    assert_eq!(
        eval(Opcode::Pack2x32, Ty::U64, &[u(1), u(2)]),
        0x2_0000_0001
    );
    assert_eq!(
        eval_all(
            Opcode::Unpack2x32,
            &[Ty::U32, Ty::U32],
            &[u64s(0x2_0000_0001)]
        ),
        [1, 2]
    );
    let pair = eval(
        Opcode::CvtPack { ty: Ty::F16x2 },
        Ty::F16x2,
        &[f(1.0), f(-2.0)],
    );
    assert_eq!(pair, 0x3c00_c000, "the first source is the high half");
    assert_eq!(
        eval(Opcode::Mov { ty: Ty::F32 }, Ty::F32, &[u(0x3f80_0000)]),
        0x3f80_0000
    );
}

#[test]
fn single_precision() {
    let two = |op, a, b| as_f32(eval(op, Ty::F32, &[f(a), f(b)]));
    assert_eq!(two(Opcode::Add { ty: Ty::F32 }, 0.1, 0.2), 0.1 + 0.2);
    assert_eq!(two(Opcode::Min { ty: Ty::F32 }, f32::NAN, 2.0), 2.0);
    assert_eq!(two(Opcode::Max { ty: Ty::F32 }, 2.0, f32::NAN), 2.0);
    assert!(two(Opcode::Min { ty: Ty::F32 }, 0.0, -0.0).is_sign_negative());
    assert!(two(Opcode::Max { ty: Ty::F32 }, -0.0, 0.0).is_sign_positive());
    assert_eq!(two(Opcode::Div { ty: Ty::F32 }, 1.0, 3.0), 1.0 / 3.0);
    let e = f32::EPSILON;
    let fused = as_f32(eval(
        Opcode::Fma { ty: Ty::F32 },
        Ty::F32,
        &[f(1.0 + e), f(1.0 - e), f(-1.0)],
    ));
    assert_eq!(fused, -e * e, "one rounding");
    let approx = |which, x| {
        as_f32(eval(
            Opcode::Approx {
                f: which,
                ty: Ty::F32,
            },
            Ty::F32,
            &[f(x)],
        ))
    };
    assert_eq!(approx(Approx::Ex2, 10.0), 1024.0);
    assert_eq!(approx(Approx::Ex2, -140.0), 0.0, "flushed");
    assert_eq!(approx(Approx::Lg2, 8.0), 3.0);
    assert_eq!(approx(Approx::Rcp, 4.0), 0.25);
    assert_eq!(approx(Approx::Rcp, 0.0), f32::INFINITY);
    assert_eq!(approx(Approx::Rsqrt, 16.0), 0.25);
    assert_eq!(approx(Approx::Sqrt, 2.0), 2f32.sqrt());
    assert_eq!(approx(Approx::Tanh, 100.0), 1.0);
    assert_eq!(approx(Approx::Sin, 0.5), (0.5f64.sin()) as f32);
    assert_eq!(approx(Approx::Cos, 0.0), 1.0);
    assert_eq!(
        eval(Opcode::Neg { ty: Ty::F32 }, Ty::F32, &[f(0.0)]),
        0x8000_0000
    );
}

#[test]
fn double_precision() {
    let d = |x: f64| imm(Ty::F64, x.to_bits());
    let fused = eval(
        Opcode::Fma { ty: Ty::F64 },
        Ty::F64,
        &[d(0.1), d(10.0), d(-1.0)],
    );
    assert_eq!(f64::from_bits(fused), 0.1f64.mul_add(10.0, -1.0));
    assert_eq!(
        f64::from_bits(eval(Opcode::SqrtRn { ty: Ty::F64 }, Ty::F64, &[d(2.0)])),
        2f64.sqrt()
    );
}

#[test]
fn half_precision_rounds_once() {
    let fma = |a, b, c| {
        as_half(eval(
            Opcode::Fma { ty: Ty::F16 },
            Ty::F16,
            &[h(a), h(b), h(c)],
        ))
    };
    assert_eq!(fma(1.5, 2.0, 0.25), 3.25);
    // 2048 + 1 is a tie to 2048; any product above 1 must reach 2050.
    let above = 1.0 + 2f32.powi(-10);
    assert_eq!(fma(1.0, 1.0, 2048.0), 2048.0);
    assert_eq!(fma(above, 1.0, 2048.0), 2050.0);
    assert_eq!(fma(60000.0, 2.0, 0.0), f32::INFINITY);
    assert_eq!(
        as_half(eval(
            Opcode::Add { ty: Ty::F16 },
            Ty::F16,
            &[h(1.0), h(2.0)]
        )),
        3.0
    );
    let pair = |lo: f32, hi: f32| {
        let bits = |x| u64::from(half::f16::from_f32(x).to_bits());
        imm(Ty::F16x2, bits(lo) | bits(hi) << 16)
    };
    let sum = eval(
        Opcode::Mul { ty: Ty::F16x2 },
        Ty::F16x2,
        &[pair(3.0, -2.0), pair(0.5, 4.0)],
    );
    assert_eq!((as_half(sum), as_half(sum >> 16)), (1.5, -8.0));
    let b = |x: f32| imm(Ty::Bf16, u64::from(half::bf16::from_f32(x).to_bits()));
    let fused = eval(
        Opcode::Fma { ty: Ty::Bf16 },
        Ty::Bf16,
        &[b(3.0), b(5.0), b(256.0)],
    );
    // 271 lies between the neighbours 270 and 272, which are 2 apart: a tie, to even.
    assert_eq!(f32::from_bits((fused as u32) << 16), 272.0);
}

#[test]
fn conversions_round_and_clamp() {
    let cvt = |to, from, round, sat, bits: u64| {
        eval(
            Opcode::Cvt {
                to,
                from,
                round,
                sat,
            },
            to,
            &[imm(from, bits)],
        )
    };
    let from_f32 = |to, round, x: f32| cvt(to, Ty::F32, round, false, u64::from(x.to_bits()));
    assert_eq!(from_f32(Ty::I32, Round::Rzi, -2.7) as i32, -2);
    assert_eq!(from_f32(Ty::I32, Round::Rni, 2.5) as i32, 2);
    assert_eq!(from_f32(Ty::I32, Round::Rmi, -2.1) as i32, -3);
    assert_eq!(from_f32(Ty::I32, Round::Rpi, 2.1) as i32, 3);
    assert_eq!(from_f32(Ty::I32, Round::Rzi, f32::NAN), 0);
    assert_eq!(from_f32(Ty::I32, Round::Rzi, 1e20) as i32, i32::MAX);
    assert_eq!(from_f32(Ty::U32, Round::Rzi, -5.0), 0);
    assert_eq!(from_f32(Ty::I64, Round::Rzi, -1e10) as i64, -10_000_000_000);
    assert_eq!(
        cvt(
            Ty::I8,
            Ty::F32,
            Round::Rni,
            true,
            u64::from(200f32.to_bits())
        ),
        127
    );
    assert_eq!(
        cvt(
            Ty::I8,
            Ty::I32,
            Round::None,
            true,
            u64::from(-300i32 as u32)
        ),
        0xff80
    );
    assert_eq!(cvt(Ty::I32, Ty::I8, Round::None, false, 0x80) as i32, -128);
    assert_eq!(cvt(Ty::U32, Ty::U8, Round::None, false, 0xff80), 0x80);
    assert_eq!(
        cvt(Ty::I64, Ty::I32, Round::None, false, 0xffff_fffe) as i64,
        -2
    );
    assert_eq!(cvt(Ty::U32, Ty::U64, Round::None, false, 0x1_0000_0002), 2);
    assert_eq!(
        as_f32(cvt(Ty::F32, Ty::U32, Round::Rn, false, 0xffff_ffff)),
        4_294_967_296.0
    );
    assert_eq!(
        as_f32(cvt(Ty::F32, Ty::U32, Round::Rz, false, 0xffff_ffff)),
        4_294_967_040.0
    );
    assert_eq!(
        as_f32(cvt(Ty::F32, Ty::F16, Round::None, false, 0x3555)),
        half::f16::from_bits(0x3555).to_f32()
    );
    assert_eq!(from_f32(Ty::F16, Round::Rn, 65520.0), 0x7c00);
    assert_eq!(from_f32(Ty::F16, Round::Rz, 65520.0), 0x7bff);
    assert_eq!(from_f32(Ty::Bf16, Round::Rn, 1.0 + 2f32.powi(-8)), 0x3f80);
    assert_eq!(
        from_f32(Ty::Bf16, Round::Rn, 1.0 + 3.0 * 2f32.powi(-8)),
        0x3f82
    );
    assert_eq!(as_f32(from_f32(Ty::F32, Round::Rni, -0.4)), 0.0);
    assert_eq!(
        as_f32(cvt(Ty::F32, Ty::F64, Round::Rn, false, 0.1f64.to_bits())),
        0.1
    );
    let wide = (1u64 << 62) + 1;
    assert_eq!(
        as_f32(cvt(Ty::F32, Ty::I64, Round::Rn, false, wide)),
        2f32.powi(62)
    );
}

#[test]
fn comparisons_and_selection() {
    let cmp = |cmp, ty, a, b| {
        eval(
            Opcode::Setp { cmp, ty },
            Ty::Pred,
            &[imm(ty, a), imm(ty, b)],
        ) == 1
    };
    assert!(cmp(Cmp::Lt, Ty::I32, 0xffff_ffff, 0));
    assert!(!cmp(Cmp::Lt, Ty::U32, 0xffff_ffff, 0));
    assert!(cmp(Cmp::Ge, Ty::I64, 0, u64::MAX));
    assert!(cmp(Cmp::Gt, Ty::U16, 0xffff, 0));
    assert!(!cmp(Cmp::Gt, Ty::I16, 0xffff, 0));
    let nan = u64::from(f32::NAN.to_bits());
    assert!(!cmp(Cmp::Eq, Ty::F32, nan, nan));
    assert!(cmp(Cmp::Ne, Ty::F32, nan, nan));
    assert!(!cmp(Cmp::Le, Ty::F32, nan, 0));
    assert!(cmp(Cmp::Eq, Ty::F32, 0, 0x8000_0000), "-0 equals +0");
    assert!(cmp(Cmp::Lt, Ty::F16, 0x3c00, 0x4000));
    let pick = |c| {
        eval(
            Opcode::Selp { ty: Ty::U64 },
            Ty::U64,
            &[u64s(7), u64s(8), imm(Ty::Pred, c)],
        )
    };
    assert_eq!((pick(1), pick(0)), (7, 8));
    let both = |a, b| {
        eval(
            Opcode::And { ty: Ty::Pred },
            Ty::Pred,
            &[imm(Ty::Pred, a), imm(Ty::Pred, b)],
        )
    };
    assert_eq!((both(1, 1), both(1, 0)), (1, 0));
}
