//! Instructions whose operands are all values: one thread an operand tuple, loaded, computed, stored.
//!
//! Also the frame of the warp-wide ones, whose lanes are threads with operands all the same.

use super::asm::{Asm, SLOT};
use super::inputs::{self, Random, mask};
use super::{Case, Rule, blank, rules};
use crate::ir::{Operand, Reg, Ty};
use crate::op::{Approx, Cmp, Opcode, Space, Special};
use crate::table::{Group, Slot, row_of};
use crate::target::Target;

/// Types of the operands that a form takes and gives.
pub(super) struct Signature {
    pub(super) sources: Vec<Ty>,
    pub(super) results: Vec<Ty>,
}

/// The types of a form's value operands.
pub(super) fn signature(op: Opcode, target: Target) -> Signature {
    let row = row_of(op, target);
    let types = |groups: &[Group]| {
        let slots = groups.iter().flat_map(|group| match group {
            Group::One(slot) => vec![*slot],
            Group::Many(slot, n) | Group::Again(slot, n) => vec![*slot; *n],
            Group::Lit(_) => Vec::new(),
        });
        slots.filter_map(|slot| value_type(slot, op)).collect()
    };
    Signature {
        sources: types(&row.src),
        results: types(&row.dst),
    }
}

fn value_type(slot: Slot, op: Opcode) -> Option<Ty> {
    match (slot, op) {
        (Slot::Is(ty), _) | (Slot::Bits(_), Opcode::Mov { ty }) => Some(ty),
        (Slot::Bits(16), _) => Some(Ty::U16),
        (Slot::Bits(32), _) => Some(Ty::U32),
        (Slot::Bits(_), _) => Some(Ty::U64),
        _ => None,
    }
}

/// The case of a form that is a function of its operands.
pub(super) fn case(op: Opcode, target: Target) -> Case {
    let signature = signature(op, target);
    let mut random = Random::new(&format!("{op:?}"));
    let (mut tuples, what) = inputs::tuples(&signature.sources, &mut random);
    if signature.sources.is_empty() {
        tuples = vec![Vec::new(); 64];
    }
    for tuple in &mut tuples {
        restrict(op, tuple, &mut random);
    }
    let mut case = lanewise(op, target, &signature, &tuples, None);
    if let Opcode::Approx {
        f: Approx::Sin | Approx::Cos,
        ty: Ty::F32,
    } = op
    {
        let argument = |tuple: &Vec<u64>| f32::from_bits(tuple[0] as u32);
        case.rule = Rule::Bounded {
            bounds: tuples
                .iter()
                .map(|t| rules::trigonometric(argument(t)))
                .collect(),
            what: "abs 2^-20.5 within 2 pi, 2^-14.7 within 100 pi",
        };
    }
    case.coverage = format!("{}: {what}", tuples.len());
    case.note = note(op);
    case
}

/// Keeps operands where the PTX ISA defines the result, and puts more of them where something happens.
fn restrict(op: Opcode, tuple: &mut [u64], random: &mut Random) {
    let mut near = |x: &mut u64, bound: u64| {
        if random.below(4) != 0 {
            *x %= bound;
        }
    };
    match op {
        Opcode::Div { ty } | Opcode::Rem { ty } if ty.is_int() && tuple[1] == 0 => {
            tuple[1] = mask(ty)
        }
        Opcode::Shl { ty } | Opcode::Shr { ty } => near(&mut tuple[1], u64::from(ty.bits()) + 8),
        Opcode::Shf { .. } => near(&mut tuple[2], 72),
        Opcode::Bfe { ty } | Opcode::Bfi { ty } => {
            let last = tuple.len() - 2;
            for x in &mut tuple[last..] {
                near(x, u64::from(ty.bits()) + 8);
                *x &= 0xff;
            }
        }
        Opcode::Approx {
            f: Approx::Sin | Approx::Cos,
            ty: Ty::F32,
        } => {
            let x = f32::from_bits(tuple[0] as u32);
            if x.is_finite() && x.abs() > rules::TRIGONOMETRIC_RANGE {
                let inside = random.unit() as f32 * rules::TRIGONOMETRIC_RANGE;
                tuple[0] = u64::from(inside.to_bits());
            }
        }
        _ => {}
    }
}

fn note(op: Opcode) -> &'static str {
    match op {
        Opcode::Div { ty } | Opcode::Rem { ty } if ty.is_int() => {
            "no divisor is zero: PTX leaves that result to the machine"
        }
        Opcode::Bfe { .. } | Opcode::Bfi { .. } => {
            "positions and lengths up to 255, to which PTX restricts them"
        }
        Opcode::Approx {
            f: Approx::Ex2,
            ty: Ty::F16 | Ty::F16x2,
        } => {
            "the ISA's relative error cannot hold where results are subnormal: there, one unit in the last place"
        }
        Opcode::Approx {
            f: Approx::Sin | Approx::Cos,
            ..
        } => "no finite argument beyond 100 pi: PTX bounds no error there",
        _ => "",
    }
}

/// Runs `op` in one thread a tuple; where `members` names the source that is a member mask, only in the lanes it names.
/// The number of tuples is at most 256 or a multiple of it, and a multiple of 32.
pub(super) fn lanewise(
    op: Opcode,
    target: Target,
    signature: &Signature,
    tuples: &[Vec<u64>],
    members: Option<usize>,
) -> Case {
    let Signature { sources, results } = signature;
    let threads = tuples.len().min(256) as u32;
    let mut a = Asm::new(target, [threads, 1, 1]);
    let input = (!sources.is_empty()).then(|| a.param(Ty::U64));
    let output = a.param(Ty::U64);
    let index = a.index();
    let to = a.global(output, index, SLOT * results.len() as u32);
    let mut operands: Vec<Operand> = Vec::new();
    let mut mask = None;
    if let Some(input) = input {
        let from = a.global(input, index, SLOT * sources.len() as u32);
        for (n, ty) in sources.iter().enumerate() {
            let value = a.load(Space::Global, *ty, from, (SLOT as usize * n) as i32);
            operands.push(value.into());
            if members == Some(n) {
                mask = Some(value);
            }
        }
    }
    let body = |a: &mut Asm| {
        let values: Vec<Reg> = results.iter().map(|ty| a.reg(*ty)).collect();
        a.emit(op, &values, &operands);
        for (n, (ty, value)) in results.iter().zip(&values).enumerate() {
            a.store(Space::Global, *ty, to, (SLOT as usize * n) as i32, *value);
        }
    };
    match mask {
        Some(mask) => {
            let lane = a.special(Special::Laneid);
            let shifted = a.get(
                Opcode::Shr { ty: Ty::U32 },
                Ty::U32,
                &[mask.into(), lane.into()],
            );
            let bit = a.word(Opcode::And { ty: Ty::U32 }, shifted, 1);
            let member = a.test(Cmp::Ne, bit, 0);
            a.branch(member, body, |_| {});
        }
        None => body(&mut a),
    }
    let mut case = blank(op, target, a.finish());
    case.grid = [(tuples.len() as u32).div_ceil(threads.max(1)), 1, 1];
    if !sources.is_empty() {
        case.inputs = vec![inputs::slots(tuples.iter().flatten().copied())];
    }
    case.output = vec![0; SLOT as usize * tuples.len() * results.len()];
    case.sources.clone_from(sources);
    case.results.clone_from(results);
    case
}
