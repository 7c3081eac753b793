//! What pure operations make of values.
//!
//! The rules see through moves, shifts, masks, byte permutations, sums without carries, and
//! comparisons and bounds that the ranges decide; every other result is a new unknown, named by the
//! operation and its operands.

use std::collections::HashMap;

use gannet_ptx_gen::ir::{Kernel, Reg, Ty};
use gannet_ptx_gen::op::{Cmp, Opcode, Special};

use super::values::{Bit, ONE, Value, ZERO, ones};

/// Where an unknown comes from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Node {
    /// The n-th result of the effect with this number.
    Effect(usize, usize),
    /// What a variable holds after so many effects.
    Variable(usize, Reg),
    /// The n-th result of a pure operation.
    Pure(Opcode, Vec<i64>, Vec<Vec<Bit>>, usize),
    /// A function of three bits, by its truth table.
    Bits(u8, [Bit; 3]),
}

/// The unknowns met so far.
#[derive(Default)]
pub(crate) struct Nodes {
    numbers: HashMap<Node, u32>,
    /// Opposites of bits, both ways.
    opposites: HashMap<Bit, Bit>,
}

impl Nodes {
    fn number(&mut self, node: Node) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(node).or_insert(next)
    }

    /// An unknown value.
    pub(crate) fn opaque(&mut self, node: Node, width: u32) -> Value {
        let first = 2 + 64 * self.number(node);
        Value::new((first..first + width).collect())
    }

    /// Any function of three bits; bit `4a + 2b + c` of the table is the result.
    fn function(&mut self, table: u8, inputs: [Bit; 3]) -> Bit {
        // Cases that can occur: constants are what they are, and equal bits are equal.
        let occurs = |case: usize| {
            let value = |i: usize| (case >> (2 - i) & 1) as Bit;
            (0..3).all(|i| inputs[i] > ONE || inputs[i] == value(i))
                && (0..3).all(|i| (0..i).all(|j| inputs[i] != inputs[j] || value(i) == value(j)))
        };
        let cases: Vec<usize> = (0..8).filter(|case| occurs(*case)).collect();
        let result = |case: usize| table >> case & 1;
        let first = result(cases[0]);
        if cases.iter().all(|case| result(*case) == first) {
            return Bit::from(first);
        }
        for (i, input) in inputs.iter().enumerate() {
            let value = |case: usize| (case >> (2 - i) & 1) as u8;
            if cases.iter().all(|case| result(*case) == value(*case)) {
                return *input;
            }
            if cases.iter().all(|case| result(*case) != value(*case)) {
                return self.not(*input);
            }
        }
        // The same function of the same bits has one name, however it is written down.
        let mut names: Vec<Bit> = inputs.iter().copied().filter(|bit| *bit > ONE).collect();
        names.sort_unstable();
        names.dedup();
        let mut own = [ZERO; 3];
        own[..names.len()].copy_from_slice(&names);
        let mut table = 0u8;
        for case in cases {
            let value = |bit: Bit| {
                inputs
                    .iter()
                    .position(|i| *i == bit)
                    .map(|i| case >> (2 - i) & 1)
            };
            let at = (0..3).map(|i| value(own[i]).filter(|_| own[i] > ONE).unwrap_or(0) << (2 - i));
            table |= result(case) << at.sum::<usize>();
        }
        self.opaque(Node::Bits(table, own), 1).bits[0]
    }

    pub(crate) fn not(&mut self, bit: Bit) -> Bit {
        if bit <= ONE {
            return ONE - bit;
        }
        if let Some(opposite) = self.opposites.get(&bit) {
            return *opposite;
        }
        let opposite = self.opaque(Node::Bits(0x0F, [bit, ZERO, ZERO]), 1).bits[0];
        self.opposites.insert(bit, opposite);
        self.opposites.insert(opposite, bit);
        opposite
    }

    fn bitwise(&mut self, table: u8, a: &Value, b: &Value, c: &Value) -> Value {
        let bits =
            (0..a.bits.len()).map(|i| self.function(table, [a.bits[i], b.bits[i], c.bits[i]]));
        Value::new(bits.collect())
    }

    /// The results of a pure operation, of these widths. `numbers` are what its operands hold
    /// besides values.
    pub(crate) fn compute(
        &mut self,
        kernel: &Kernel,
        op: Opcode,
        sources: &[Value],
        numbers: &[i64],
        widths: &[u32],
    ) -> Vec<Value> {
        if let Some(value) = self.known(kernel, op, sources, numbers, widths) {
            return vec![value];
        }
        if let (Opcode::Unpack2x16 | Opcode::Unpack2x32, [a]) = (op, sources) {
            let half = a.bits.len() / 2;
            return a
                .bits
                .chunks(half)
                .map(|bits| Value::new(bits.to_vec()))
                .collect();
        }
        (0..widths.len())
            .map(|i| self.unknown(op, sources, numbers, i, widths[i]))
            .collect()
    }

    fn unknown(
        &mut self,
        op: Opcode,
        sources: &[Value],
        numbers: &[i64],
        i: usize,
        width: u32,
    ) -> Value {
        let mut bits: Vec<Vec<Bit>> = sources.iter().map(|v| v.bits.clone()).collect();
        let commutes = match op {
            Opcode::Add { ty } | Opcode::Mul { ty } | Opcode::Min { ty } | Opcode::Max { ty } => {
                ty.is_int()
            }
            Opcode::MulWide { .. } | Opcode::MulHi { .. } => true,
            _ => false,
        };
        if commutes {
            bits.sort();
        }
        self.opaque(Node::Pure(op, numbers.to_vec(), bits, i), width)
    }

    /// The result where the rules have something to say.
    fn known(
        &mut self,
        kernel: &Kernel,
        op: Opcode,
        sources: &[Value],
        numbers: &[i64],
        widths: &[u32],
    ) -> Option<Value> {
        let &[width] = widths else { return None };
        let zero = Value::constant(0, width);
        let float = |ty: Ty| ty.is_float() || matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        Some(match (op, sources) {
            (Opcode::Mov { .. }, [a]) => a.clone(),
            (Opcode::Special(special), _) => {
                let bound = match special {
                    Special::Tid(axis) => kernel.block_size[usize::from(axis)] - 1,
                    Special::Laneid => 31,
                    _ => return None,
                };
                let value = self.unknown(op, sources, numbers, 0, width);
                Value::within(value.bits, 0, u64::from(bound))
            }
            (Opcode::SharedAddress, _) => {
                let &[offset, array] = numbers else {
                    return None;
                };
                let align = u64::from(kernel.shared[array as usize].align);
                let mut value = self.unknown(op, sources, numbers, 0, width);
                if align.is_power_of_two() && offset % align as i64 == 0 {
                    value.clear(align - 1);
                }
                value
            }
            (Opcode::Add { ty } | Opcode::Sub { ty } | Opcode::Mul { ty }, _) if float(ty) => {
                return None;
            }
            (Opcode::Add { .. }, [a, b]) => self.sum(op, a, b),
            (Opcode::Sub { .. }, [a, b]) => self.difference(op, a, b),
            (Opcode::Mul { .. }, [a, b]) => self.product(op, a, b, width),
            (Opcode::MulWide { ty }, [a, b]) if positive(ty, a) && positive(ty, b) => {
                self.product(op, a, b, width)
            }
            (Opcode::MadLo { ty }, [a, b, c]) => {
                let product = self.product(Opcode::Mul { ty }, a, b, width);
                self.sum(Opcode::Add { ty }, &product, c)
            }
            (Opcode::MadWide { ty }, [a, b, c]) if positive(ty, a) && positive(ty, b) => {
                let product = self.product(Opcode::MulWide { ty }, a, b, width);
                self.sum(Opcode::Add { ty: Ty::U64 }, &product, c)
            }
            (Opcode::Div { ty }, [a, b]) if ty.is_int() && positive(ty, a) && positive(ty, b) => {
                match b.known()? {
                    n if n.is_power_of_two() => a.shifted_right(n.trailing_zeros(), ZERO),
                    0 => return None,
                    n => {
                        let value = self.unknown(op, sources, numbers, 0, width);
                        Value::within(value.bits, a.low / n, a.high / n)
                    }
                }
            }
            (Opcode::Rem { ty }, [a, b]) if ty.is_int() && positive(ty, a) && positive(ty, b) => {
                match b.known()? {
                    n if a.high < n => a.clone(),
                    n if n.is_power_of_two() => {
                        let mask = Value::constant(n - 1, width);
                        self.bitwise(0xC0, a, &mask, &zero)
                    }
                    0 => return None,
                    n => {
                        let value = self.unknown(op, sources, numbers, 0, width);
                        Value::within(value.bits, 0, n - 1)
                    }
                }
            }
            (Opcode::Min { ty } | Opcode::Max { ty }, [a, b])
                if ty.is_int() && positive(ty, a) && positive(ty, b) =>
            {
                let least = matches!(op, Opcode::Min { .. });
                if a.bits == b.bits
                    || (if least {
                        a.high <= b.low
                    } else {
                        a.low >= b.high
                    })
                {
                    return Some(a.clone());
                }
                if if least {
                    b.high <= a.low
                } else {
                    b.low >= a.high
                } {
                    return Some(b.clone());
                }
                let value = self.unknown(op, sources, numbers, 0, width);
                let (low, high) = if least {
                    (a.low.min(b.low), a.high.min(b.high))
                } else {
                    (a.low.max(b.low), a.high.max(b.high))
                };
                Value::within(value.bits, low, high)
            }
            (Opcode::And { .. }, [a, b]) => {
                let both = self.bitwise(0xC0, a, b, &zero);
                let high = a.high.min(b.high);
                Value::within(both.bits, both.low, both.high.min(high))
            }
            (Opcode::Or { .. }, [a, b]) => self.bitwise(0xFC, a, b, &zero),
            (Opcode::Xor { .. }, [a, b]) => self.bitwise(0x3C, a, b, &zero),
            (Opcode::Not { .. }, [a]) => self.bitwise(0x0F, a, &zero, &zero),
            (Opcode::Lop3 { lut }, [a, b, c]) => self.bitwise(lut, a, b, c),
            (Opcode::Shl { .. }, [a, by]) => a.shifted_left(by.known()?.min(64) as u32),
            (Opcode::Shr { ty }, [a, by]) => {
                let fill = if ty.is_signed() {
                    *a.bits.last()?
                } else {
                    ZERO
                };
                a.shifted_right(by.known()?.min(64) as u32, fill)
            }
            (Opcode::Shf { left }, [a, b, by]) => {
                let by = (by.known()? & 31) as usize;
                let both = [a.bits.as_slice(), b.bits.as_slice()].concat();
                let first = if left { 32 - by } else { by };
                Value::new(both[first..first + 32].to_vec())
            }
            (Opcode::Bfe { ty }, [a, first, count]) => {
                let (first, count) = (first.known()? as usize, count.known()? as usize);
                let bits = a.bits.get(first..first + count)?;
                let fill = if ty.is_signed() { *bits.last()? } else { ZERO };
                let mut bits = bits.to_vec();
                bits.resize(width as usize, fill);
                Value::new(bits)
            }
            (Opcode::Bfi { .. }, [a, b, first, count]) => {
                let (first, count) = (first.known()? as usize, count.known()? as usize);
                let mut bits = b.bits.clone();
                bits.get_mut(first..first + count)?
                    .copy_from_slice(a.bits.get(..count)?);
                Value::new(bits)
            }
            (Opcode::Prmt, [a, b, selector]) => {
                let selector = selector.known()?;
                let both = [a.bits.as_slice(), b.bits.as_slice()].concat();
                let byte = |i: u32| {
                    let nibble = (selector >> (4 * i) & 15) as usize;
                    let byte = &both[8 * (nibble & 7)..][..8];
                    if nibble < 8 {
                        byte.to_vec()
                    } else {
                        vec![byte[7]; 8]
                    }
                };
                Value::new((0..4).flat_map(byte).collect())
            }
            (Opcode::Pack2x16 | Opcode::Pack2x32, [a, b]) => {
                Value::new([a.bits.as_slice(), b.bits.as_slice()].concat())
            }
            (Opcode::Selp { .. }, [a, b, p]) => {
                let p = Value::new(vec![p.bits[0]; width as usize]);
                let value = self.bitwise(0xE4, a, b, &p);
                let (low, high) = (a.low.min(b.low), a.high.max(b.high));
                Value::within(value.bits, low.max(value.low), high.min(value.high))
            }
            (Opcode::Cvt { to, from, .. }, [a]) if to.is_int() && from.is_int() => {
                let a = a.resized(from.bits().min(a.width()));
                if from.is_signed() && to.bits() > from.bits() {
                    let mut bits = a.bits.clone();
                    bits.resize(width as usize, *a.bits.last()?);
                    return Some(Value::new(bits));
                }
                if matches!(op, Opcode::Cvt { sat: true, .. }) {
                    return None;
                }
                a.resized(to.bits()).resized(width)
            }
            (Opcode::Setp { cmp, ty }, [a, b]) => {
                if !ty.is_int() || !positive(ty, a) || !positive(ty, b) {
                    return None;
                }
                let bit = match cmp {
                    Cmp::Lt => self.less(a, b),
                    Cmp::Gt => self.less(b, a),
                    Cmp::Ge => {
                        let bit = self.less(a, b);
                        self.not(bit)
                    }
                    Cmp::Le => {
                        let bit = self.less(b, a);
                        self.not(bit)
                    }
                    Cmp::Eq => self.equal(a, b),
                    Cmp::Ne => {
                        let bit = self.equal(a, b);
                        self.not(bit)
                    }
                };
                Value::new(vec![bit])
            }
            _ => return None,
        })
    }

    fn sum(&mut self, op: Opcode, a: &Value, b: &Value) -> Value {
        let width = a.bits.len();
        // Up to here at most one of the two has a one, so that nothing is carried.
        let plain = (0..width).take_while(|i| a.bits[*i] == ZERO || b.bits[*i] == ZERO);
        let plain = plain.count();
        let mut bits: Vec<Bit> = (0..plain).map(|i| a.bits[i] | b.bits[i]).collect();
        if plain < width {
            let unknown = self.unknown(op, &[a.clone(), b.clone()], &[], 0, width as u32);
            bits.extend(&unknown.bits[plain..]);
        }
        match a.high.checked_add(b.high) {
            Some(high) if high <= ones(width as u32) => Value::within(bits, a.low + b.low, high),
            _ => Value::new(bits),
        }
    }

    fn difference(&mut self, op: Opcode, a: &Value, b: &Value) -> Value {
        let width = a.bits.len();
        let plain = b.alignment() as usize;
        let mut bits = a.bits[..plain].to_vec();
        if plain < width {
            let unknown = self.unknown(op, &[a.clone(), b.clone()], &[], 0, width as u32);
            bits.extend(&unknown.bits[plain..]);
        }
        if a.low >= b.high {
            return Value::within(bits, a.low - b.high, a.high - b.low);
        }
        Value::new(bits)
    }

    fn product(&mut self, op: Opcode, a: &Value, b: &Value, width: u32) -> Value {
        for (a, b) in [(a, b), (b, a)] {
            match a.known() {
                Some(0) => return Value::constant(0, width),
                Some(n) if n.is_power_of_two() => {
                    return b.resized(width).shifted_left(n.trailing_zeros());
                }
                _ => {}
            }
        }
        let mut value = self.unknown(op, &[a.clone(), b.clone()], &[], 0, width);
        if let Some(high) = a.high.checked_mul(b.high)
            && high <= ones(width)
        {
            value = Value::within(value.bits, a.low * b.low, high);
        }
        let aligned = (a.alignment() + b.alignment()).min(width);
        value.bits[..aligned as usize].fill(ZERO);
        value.refined()
    }

    /// `a < b`, unsigned. A constant on the right is the largest that means the same.
    fn less(&mut self, a: &Value, b: &Value) -> Bit {
        if a.high < b.low {
            return ONE;
        }
        if a.low >= b.high {
            return ZERO;
        }
        // With a constant on the left: `c < b` is `!(b < c + 1)`.
        if let Some(c) = a.known() {
            let next = Value::constant(c + 1, b.width());
            let bit = self.less(b, &next);
            return self.not(bit);
        }
        let mut b = b.clone();
        if let Some(c) = b.known() {
            let step = 1u64 << a.alignment();
            if let Some(c) = c.checked_next_multiple_of(step)
                && c <= ones(a.width())
            {
                // Only the lowest value is below, or only the highest is not: an equality.
                if c >= step && c - step == a.low.next_multiple_of(step) {
                    let lowest = Value::constant(c - step, a.width());
                    return self.equal(a, &lowest);
                }
                if c == a.high & !(step - 1) {
                    let highest = Value::constant(c, a.width());
                    let bit = self.equal(a, &highest);
                    return self.not(bit);
                }
                b = Value::constant(c, a.width());
            }
        }
        let op = Opcode::Setp {
            cmp: Cmp::Lt,
            ty: Ty::U64,
        };
        self.unknown(op, &[a.clone(), b], &[], 0, 1).bits[0]
    }

    fn equal(&mut self, a: &Value, b: &Value) -> Bit {
        if a.bits == b.bits {
            return ONE;
        }
        let differ = |(a, b): (&Bit, &Bit)| *a <= ONE && *b <= ONE && a != b;
        if a.high < b.low || b.high < a.low || a.bits.iter().zip(&b.bits).any(differ) {
            return ZERO;
        }
        let (a, b) = if a.bits <= b.bits { (a, b) } else { (b, a) };
        let op = Opcode::Setp {
            cmp: Cmp::Eq,
            ty: Ty::U64,
        };
        self.unknown(op, &[a.clone(), b.clone()], &[], 0, 1).bits[0]
    }
}

/// Whether an operation may read this value as an unsigned one.
fn positive(ty: Ty, value: &Value) -> bool {
    !ty.is_signed() || value.bits.last().is_some_and(|bit| *bit == ZERO)
}
