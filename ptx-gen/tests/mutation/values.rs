//! What is known of a value without running the kernel: each bit a constant or a named unknown,
//! and the range of the whole.
//!
//! Two values with equal bits are equal whatever the unknowns are.

/// Zero, one, or bit `(n - 2) % 64` of node `(n - 2) / 64`.
pub(crate) type Bit = u32;
pub(crate) const ZERO: Bit = 0;
pub(crate) const ONE: Bit = 1;

/// A value of up to 64 bits, the lowest first, and its range as an unsigned integer.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) bits: Vec<Bit>,
    pub(super) low: u64,
    pub(super) high: u64,
}

pub(super) fn ones(width: u32) -> u64 {
    u64::MAX >> (64 - width)
}

impl Value {
    pub(crate) fn constant(value: u64, width: u32) -> Value {
        let bits = (0..width).map(|i| (value >> i & 1) as Bit).collect();
        let value = value & ones(width);
        Value {
            bits,
            low: value,
            high: value,
        }
    }

    pub(super) fn new(bits: Vec<Bit>) -> Value {
        let high = ones(bits.len() as u32);
        Value { bits, low: 0, high }.refined()
    }

    pub(super) fn within(bits: Vec<Bit>, low: u64, high: u64) -> Value {
        Value { bits, low, high }.refined()
    }

    fn mask(&self, is: impl Fn(Bit) -> bool) -> u64 {
        let bits = self.bits.iter().enumerate();
        bits.map(|(i, bit)| u64::from(is(*bit)) << i).sum()
    }

    /// Bits that are zero, or beyond the width.
    pub(crate) fn zeros(&self) -> u64 {
        !self.mask(|bit| bit != ZERO)
    }

    /// These bits are known to be zero.
    pub(crate) fn clear(&mut self, zeros: u64) {
        for (i, bit) in self.bits.iter_mut().enumerate() {
            if zeros >> i & 1 == 1 {
                *bit = ZERO;
            }
        }
        self.high &= !zeros;
        *self = self.clone().refined();
    }

    /// Lets bits and range tell each other what they know.
    pub(super) fn refined(mut self) -> Value {
        self.low = self.low.max(self.mask(|bit| bit == ONE));
        self.high = self.high.min(self.mask(|bit| bit != ZERO));
        if self.low == self.high {
            return Value::constant(self.low, self.bits.len() as u32);
        }
        let used = 64 - self.high.leading_zeros() as usize;
        self.bits[used..].fill(ZERO);
        self
    }

    pub(super) fn known(&self) -> Option<u64> {
        (self.low == self.high).then_some(self.low)
    }

    pub(super) fn width(&self) -> u32 {
        self.bits.len() as u32
    }

    /// Low bits that are zero.
    pub(super) fn alignment(&self) -> u32 {
        self.bits.iter().take_while(|bit| **bit == ZERO).count() as u32
    }

    pub(super) fn shifted_left(&self, by: u32) -> Value {
        let width = self.bits.len();
        let by = (by as usize).min(width);
        let mut bits = vec![ZERO; by];
        bits.extend(&self.bits[..width - by]);
        match self
            .high
            .checked_mul(1u64.checked_shl(by as u32).unwrap_or(0))
        {
            Some(high) if by < 64 && high <= ones(width as u32) => {
                Value::within(bits, self.low << by, high)
            }
            _ => Value::new(bits),
        }
    }

    /// `fill` comes in from above.
    pub(super) fn shifted_right(&self, by: u32, fill: Bit) -> Value {
        let by = by.min(self.width());
        let mut bits = self.bits[by as usize..].to_vec();
        bits.resize(self.bits.len(), fill);
        if fill != ZERO || by == 64 {
            return Value::new(bits);
        }
        Value::within(bits, self.low >> by, self.high >> by)
    }

    pub(super) fn resized(&self, width: u32) -> Value {
        let mut bits = self.bits.clone();
        bits.resize(width as usize, ZERO);
        if width >= self.width() || self.high <= ones(width) {
            return Value::within(bits, self.low, self.high);
        }
        Value::new(bits)
    }
}
