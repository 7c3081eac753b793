//! The conformance cases on the CPU: every row of the instruction table has one, each is a legal kernel that ptxas
//! takes and the interpreter runs, and where a plain Rust expression says what an instruction computes, that is what
//! comes out. Comparison with a GPU is the engine's `gpu_conformance` test; its figures are in `CONFORMANCE.md`.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use gannet_ptx_gen::conformance::{Case, Rule, cases, compare, forms, report};
use gannet_ptx_gen::interp::FaultKind;
use gannet_ptx_gen::ir::Ty;
use gannet_ptx_gen::op::{Cmp, Opcode, Rmw, Round, Space};
use gannet_ptx_gen::table::row_of;
use gannet_ptx_gen::target::Target;
use rayon::prelude::*;

/// The target of the reference document: the newest that has every form.
const REFERENCE: Target = Target::Sm90a;

fn reference() -> &'static [Case] {
    static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| cases(REFERENCE));
    &CASES
}

#[test]
fn every_form_has_a_case_with_a_name_of_its_own() {
    for target in Target::ALL {
        let cases = cases(*target);
        let there: BTreeSet<String> = cases.iter().map(|c| format!("{:?}", c.op)).collect();
        for op in forms() {
            let exists = row_of(op, *target).exists_on(*target);
            assert_eq!(
                there.contains(&format!("{op:?}")),
                exists,
                "{op:?} on {target}"
            );
        }
        let mut seen = BTreeMap::new();
        for case in &cases {
            let twin = seen.insert(case.name.clone(), case.op);
            assert_eq!(twin, None, "two cases are named {}", case.name);
            assert!(
                !case.coverage.is_empty() && !case.output.is_empty(),
                "{}",
                case.name
            );
        }
    }
    assert_eq!(reference().len(), forms().len());
}

#[test]
fn every_case_contains_its_form() {
    for case in reference() {
        let mut found = false;
        case.kernel
            .for_each_inst(|inst| found |= inst.op == case.op);
        assert!(found, "{}", case.name);
    }
}

#[test]
fn every_case_verifies_on_every_target() {
    for target in Target::ALL {
        for case in cases(*target) {
            assert_eq!(case.kernel.verify(), Ok(()), "{} on {target}", case.name);
        }
    }
}

#[test]
fn every_case_runs_in_the_interpreter() {
    reference().par_iter().for_each(|case| {
        let outcome = case.interpret();
        if case.rule == Rule::Traps {
            assert_eq!(*outcome.unwrap_err().kind, FaultKind::Trap);
            return;
        }
        let output = outcome.unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_ne!(output, case.output, "{}: nothing came out", case.name);
        assert!(compare(case, &output, &output).passes(), "{}", case.name);
    });
}

#[test]
fn a_wrong_bit_is_noticed() {
    for case in reference().iter().step_by(7) {
        let Ok(output) = case.interpret() else {
            continue;
        };
        // The top bit of each value: its sign, or the most significant there is.
        let mut wrong = output.clone();
        for (slot, ty) in wrong.chunks_exact_mut(8).zip(case.results.iter().cycle()) {
            let top = ty.bits() as usize - 1;
            slot[top / 8] ^= 1 << (top % 8);
        }
        let outcome = compare(case, &output, &wrong);
        assert!(!outcome.passes(), "{}", case.name);
    }
}

#[test]
fn ptxas_accepts_every_case() {
    let ptxas = std::env::var("PTXAS").unwrap_or_else(|_| "ptxas".into());
    if Command::new(&ptxas).arg("--version").output().is_err() {
        eprintln!("skipped: no ptxas (set PTXAS to its path)");
        return;
    }
    let complaints: Vec<String> = reference()
        .par_iter()
        .filter_map(|case| {
            let mut child = Command::new(&ptxas)
                .args(["-arch", REFERENCE.name(), "-o", "/dev/null", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let text = case.kernel.ptx().unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            let output = child.wait_with_output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            (!output.status.success()).then(|| format!("{}: {error}\n{text}", case.name))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The signed value of a pattern.
fn signed(ty: Ty, x: u64) -> i128 {
    let unused = 64 - ty.bits();
    i128::from(((x << unused) as i64) >> unused)
}

fn number(ty: Ty, x: u64) -> i128 {
    if ty.is_signed() {
        signed(ty, x)
    } else {
        i128::from(x)
    }
}

/// What an integer instruction computes, as wide arithmetic says it; the result is cut to its type.
fn integer(op: Opcode, x: &[u64]) -> Option<i128> {
    let n = |ty, i: usize| number(ty, x[i]);
    let amount = |ty: Ty| (x[1] as u32).min(ty.bits());
    Some(match op {
        Opcode::Add { ty } if ty.is_int() => n(ty, 0) + n(ty, 1),
        Opcode::Sub { ty } if ty.is_int() => n(ty, 0) - n(ty, 1),
        Opcode::Mul { ty } if ty.is_int() => n(ty, 0).wrapping_mul(n(ty, 1)),
        Opcode::MulHi { ty } if ty.bits() < 64 => (n(ty, 0) * n(ty, 1)) >> ty.bits(),
        Opcode::MulWide { ty } => n(ty, 0) * n(ty, 1),
        Opcode::MadLo { ty } => n(ty, 0).wrapping_mul(n(ty, 1)).wrapping_add(n(ty, 2)),
        Opcode::MadWide { ty } => n(ty, 0) * n(ty, 1) + i128::from(x[2]),
        Opcode::Div { ty } if ty.is_int() => n(ty, 0) / n(ty, 1),
        Opcode::Rem { ty } if ty.is_int() => n(ty, 0) % n(ty, 1),
        Opcode::Min { ty } if ty.is_int() => n(ty, 0).min(n(ty, 1)),
        Opcode::Max { ty } if ty.is_int() => n(ty, 0).max(n(ty, 1)),
        Opcode::Neg { ty } if ty.is_int() => -n(ty, 0),
        Opcode::Abs { ty } if ty.is_int() => signed(ty, x[0]).abs(),
        Opcode::And { .. } => i128::from(x[0] & x[1]),
        Opcode::Or { .. } => i128::from(x[0] | x[1]),
        Opcode::Xor { .. } => i128::from(x[0] ^ x[1]),
        Opcode::Not { .. } => i128::from(!x[0]),
        Opcode::Shl { ty } => i128::from(x[0]) << amount(ty),
        Opcode::Shr { ty } => n(ty, 0) >> amount(ty),
        Opcode::Popc { .. } => i128::from(x[0].count_ones()),
        Opcode::Clz { ty } => i128::from(x[0].leading_zeros() - (64 - ty.bits())),
        Opcode::Selp { .. } => i128::from(if x[2] != 0 { x[0] } else { x[1] }),
        Opcode::Mov { .. } => i128::from(x[0]),
        Opcode::Pack2x16 => i128::from(x[0] | x[1] << 16),
        Opcode::Pack2x32 => i128::from(x[0] | x[1] << 32),
        Opcode::Lop3 { .. } => i128::from(x[0] ^ x[1] ^ x[2]),
        Opcode::Setp { cmp, ty } if ty.is_int() => i128::from(holds(cmp, n(ty, 0), n(ty, 1))),
        Opcode::Cvt { to, from, sat, .. } if from.is_int() && to.is_int() => {
            let (low, high) = range(to);
            let x = n(from, 0);
            if sat { x.clamp(low, high) } else { x }
        }
        Opcode::Cvt {
            to, from, round, ..
        } if to.is_int() && matches!(from, Ty::F32 | Ty::F64) => {
            let x = if from == Ty::F32 {
                f64::from(f32::from_bits(x[0] as u32))
            } else {
                f64::from_bits(x[0])
            };
            let whole = match round {
                Round::Rni => x.round_ties_even(),
                Round::Rzi => x.trunc(),
                Round::Rmi => x.floor(),
                _ => x.ceil(),
            };
            let (low, high) = range(to);
            match x.is_nan() {
                // What the ISA says of NaN.
                true if from == Ty::F64 || to.bits() == 64 => 1 << (to.bits() - 1),
                true => 0,
                false => (whole as i128).clamp(low, high),
            }
        }
        _ => return None,
    })
}

/// The least and the largest value of an integer type.
fn range(ty: Ty) -> (i128, i128) {
    if ty.is_signed() {
        (-(1 << (ty.bits() - 1)), (1 << (ty.bits() - 1)) - 1)
    } else {
        (0, (1 << ty.bits()) - 1)
    }
}

fn holds<T: PartialOrd>(cmp: Cmp, a: T, b: T) -> bool {
    match cmp {
        Cmp::Lt => a < b,
        Cmp::Le => a <= b,
        Cmp::Eq => a == b,
        Cmp::Ne => a != b,
        Cmp::Ge => a >= b,
        Cmp::Gt => a > b,
    }
}

/// What a single- or double-precision instruction computes, as Rust's own operators do.
fn float(op: Opcode, x: &[u64]) -> Option<u64> {
    let f = |i: usize| f32::from_bits(x[i] as u32);
    let d = |i: usize| f64::from_bits(x[i]);
    let single = |y: f32| Some(u64::from(y.to_bits()));
    match op {
        Opcode::Add { ty: Ty::F32 } => single(f(0) + f(1)),
        Opcode::Sub { ty: Ty::F32 } => single(f(0) - f(1)),
        Opcode::Mul { ty: Ty::F32 } => single(f(0) * f(1)),
        Opcode::Div { ty: Ty::F32 } => single(f(0) / f(1)),
        Opcode::Fma { ty: Ty::F32 } => single(f(0).mul_add(f(1), f(2))),
        Opcode::SqrtRn { ty: Ty::F32 } => single(f(0).sqrt()),
        Opcode::RcpRn { ty: Ty::F32 } => single(1.0 / f(0)),
        Opcode::Neg { ty: Ty::F32 } => single(-f(0)),
        Opcode::Abs { ty: Ty::F32 } => single(f(0).abs()),
        Opcode::Add { ty: Ty::F64 } => Some((d(0) + d(1)).to_bits()),
        Opcode::Sub { ty: Ty::F64 } => Some((d(0) - d(1)).to_bits()),
        Opcode::Mul { ty: Ty::F64 } => Some((d(0) * d(1)).to_bits()),
        Opcode::Div { ty: Ty::F64 } => Some((d(0) / d(1)).to_bits()),
        Opcode::Fma { ty: Ty::F64 } => Some(d(0).mul_add(d(1), d(2)).to_bits()),
        Opcode::SqrtRn { ty: Ty::F64 } => Some(d(0).sqrt().to_bits()),
        Opcode::RcpRn { ty: Ty::F64 } => Some((1.0 / d(0)).to_bits()),
        Opcode::Setp { cmp, ty: Ty::F32 } => Some(u64::from(holds(cmp, f(0), f(1)))),
        Opcode::Setp { cmp, ty: Ty::F64 } => Some(u64::from(holds(cmp, d(0), d(1)))),
        _ => None,
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap());
    bytes.chunks_exact(8).map(word).collect()
}

/// Checks a case by its meaning; whether it has a plain one.
fn check_meaning(case: &Case) -> bool {
    if case.sources.is_empty() || case.results.len() != 1 {
        return false;
    }
    let input = words(&case.inputs[0]);
    let mut tuples = input.chunks_exact(case.sources.len());
    let ty = case.results[0];
    let mask = if ty == Ty::Pred {
        1
    } else {
        u64::MAX >> (64 - ty.bits())
    };
    let meaning = |x: &[u64]| {
        integer(case.op, x)
            .map(|y| y as u64 & mask)
            .or_else(|| float(case.op, x))
    };
    if tuples.clone().next().and_then(meaning).is_none() {
        return false;
    }
    let expected: Vec<u8> = tuples
        .by_ref()
        .flat_map(|x| meaning(x).unwrap().to_le_bytes())
        .collect();
    let found = case.interpret().unwrap();
    let outcome = compare(case, &expected, &found);
    assert!(
        outcome.passes(),
        "{}: {:?} (meaning as \"interpreter\")",
        case.name,
        outcome.first
    );
    true
}

#[test]
fn plain_meanings_come_out() {
    let checked = reference()
        .par_iter()
        .filter(|case| check_meaning(case))
        .count();
    assert!(checked >= 200, "only {checked} forms have a plain meaning");
}

#[test]
fn atomics_update_each_threads_own_cell() {
    let flushed = |x: f32| {
        if x.is_subnormal() {
            0.0f32.copysign(x)
        } else {
            x
        }
    };
    for case in reference() {
        let (space, f, ty) = match case.op {
            Opcode::Atom { space, f, ty, .. } if f == Rmw::Exch || ty == Ty::F32 => (space, f, ty),
            _ => continue,
        };
        let (input, output) = (words(&case.inputs[0]), words(&case.interpret().unwrap()));
        for (x, y) in input.chunks_exact(4).zip(output.chunks_exact(3)) {
            assert_eq!(x[0], y[0], "{}: the old value", case.name);
            if f == Rmw::Exch {
                assert_eq!(x[1], y[1], "{}", case.name);
            } else if f == Rmw::Add && ty == Ty::F32 {
                // Device memory flushes subnormals, shared memory keeps them.
                let [a, b, sum] = [x[0], x[1], y[1]].map(|x| f32::from_bits(x as u32));
                let expected = match space {
                    Space::Global => flushed(flushed(a) + flushed(b)),
                    Space::Shared => a + b,
                };
                let same = expected.to_bits() == sum.to_bits();
                assert!(
                    same || expected.is_nan() && sum.is_nan(),
                    "{}: {a} + {b}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn the_document_lists_every_form() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFORMANCE.md");
    let document = std::fs::read_to_string(&path).unwrap_or_default();
    let (device, results) = report::results(&document);
    let expected = report::render(reference(), &device, &results);
    if document == expected {
        return;
    }
    if std::env::var_os("GANNET_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(&path, expected).unwrap();
        return;
    }
    let line = document
        .lines()
        .zip(expected.lines())
        .find(|(old, new)| old != new);
    panic!("CONFORMANCE.md is out of date (`cargo xtask bless`); first difference: {line:?}");
}
