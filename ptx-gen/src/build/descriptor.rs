//! Descriptors of matrices in shared memory, by which a warpgroup's products find their factors.
//!
//! A matrix is made of groups of eight rows; a row of a group is [`Swizzle::row_bytes`] long, and
//! its chunks of 16 bytes are exchanged by the row's number, so that no two rows of a group meet in
//! one bank. "Contiguous" is the dimension whose elements are neighbours: `k`, or the rows of A or
//! the columns of B where the product says so (`transpose`). Addresses of chunks (PTX ISA,
//! "Matrix descriptor"; the layouts' names are CUTLASS's):
//!
//! * `k` contiguous: row `r`, 16-byte chunk `c`: `(r % 8) * row_bytes + (r / 8) * stride + c * 16`;
//!   without swizzling `c * leading` in place of `c * 16`, and rows of 16 bytes.
//! * rows contiguous: chunk `g` of rows, `k`: `(k % 8) * row_bytes + (k / 8) * stride + g * 16`,
//!   where every `row_bytes / 16` chunks make a step of `leading`; without swizzling
//!   `(k % 8) * 16 + (k / 8) * leading + g * stride`.
//!
//! Swizzling then exchanges bits 4.. of the whole address by an exclusive or with bits 7..; so a
//! group of eight rows must lie where these bits begin at zero ([`Swizzle::atom_bytes`]).

use super::{AsVal, Builder, Shared, Type, Val};
use crate::op::Opcode;

/// How 16-byte chunks are exchanged within eight rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Not: rows of 16 bytes.
    None,
    /// Rows of 32 bytes.
    B32,
    /// Rows of 64 bytes.
    B64,
    /// Rows of 128 bytes.
    B128,
}

impl Swizzle {
    /// Bytes of a row of an atom.
    pub const fn row_bytes(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Bytes of eight rows, and what their first address is a multiple of (16 suffice without
    /// swizzling).
    pub const fn atom_bytes(self) -> u32 {
        8 * self.row_bytes()
    }

    /// What the first address of an atom is a multiple of.
    pub const fn align(self) -> u32 {
        match self {
            Swizzle::None => 16,
            s => s.atom_bytes(),
        }
    }

    /// Where the byte at an offset of a matrix in order lies in the swizzled one that starts at a
    /// multiple of [`Swizzle::align`].
    pub const fn place(self, offset: u32) -> u32 {
        let mask = self.row_bytes() / 16 - 1;
        offset ^ ((offset >> 7 & mask) << 4)
    }

    /// Bits 62 and 63 of a descriptor.
    const fn code(self) -> u32 {
        match self {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3,
        }
    }

    /// The mode that bits 62 and 63 of a descriptor name.
    pub(crate) const fn of(code: u32) -> Swizzle {
        match code & 3 {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        }
    }
}

/// Where the parts of a matrix lie relative to its start; the module says what the distances are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixLayout {
    /// How chunks are exchanged.
    pub swizzle: Swizzle,
    /// The leading dimension's distance in bytes; unused where `k` is contiguous and swizzled.
    pub leading: u32,
    /// The other dimension's distance in bytes.
    pub stride: u32,
}

impl MatrixLayout {
    /// Atoms of eight rows one after another, `k` contiguous.
    pub const fn rows(swizzle: Swizzle) -> MatrixLayout {
        MatrixLayout {
            swizzle,
            leading: 16,
            stride: swizzle.atom_bytes(),
        }
    }

    /// Bytes from the matrix's start, at a multiple of [`Swizzle::align`], to element `k` of a row
    /// of A or a column of B, of so many bytes; `transposed` as in [`crate::op::Wgmma`].
    pub fn place(self, transposed: bool, bytes: u32, row: u32, k: u32) -> u32 {
        let (across, down) = if transposed { (row, k) } else { (k, row) };
        let (across, width) = (across * bytes, self.swizzle.row_bytes());
        let (chunk, group) = match (self.swizzle, transposed) {
            (Swizzle::None, true) => (self.stride, self.leading),
            _ => (self.leading, self.stride),
        };
        let plain = across / width * chunk + down / 8 * group + down % 8 * width + across % width;
        self.swizzle.place(plain)
    }

    /// Whether a descriptor can say it.
    ///
    /// # Errors
    ///
    /// What is wrong, in a phrase.
    pub fn check(self) -> Result<(), String> {
        for (name, bytes) in [("leading", self.leading), ("stride", self.stride)] {
            if !bytes.is_multiple_of(16) || bytes >= 1 << 18 {
                return Err(format!(
                    "the {name} distance of {bytes} bytes is no multiple of 16 below 262144"
                ));
            }
        }
        let atom = self.swizzle.align();
        if !self.stride.is_multiple_of(atom) {
            let stride = self.stride;
            return Err(format!(
                "the stride of {stride} bytes is no multiple of the atom's {atom}"
            ));
        }
        Ok(())
    }

    /// The descriptor without its address: low and high word.
    fn words(self) -> (u32, u32) {
        let high = self.stride >> 4 | self.swizzle.code() << 30;
        (self.leading >> 4 << 16, high)
    }
}

/// A descriptor of a matrix in shared memory.
#[derive(Clone, Copy)]
pub struct Descriptor<'k> {
    low: Val<'k, u32>,
    high: u32,
}

impl<'k> Descriptor<'k> {
    /// The matrix that starts so many bytes (a multiple of 16) further: 32 are the next step of
    /// `k` in a row.
    #[track_caller]
    pub fn advance(self, bytes: impl AsVal<'k, u32>) -> Descriptor<'k> {
        let low = self.low + bytes.val(self.low.k) / 16u32;
        Descriptor { low, ..self }
    }

    /// The descriptor as the instruction takes it.
    #[track_caller]
    pub fn value(self) -> Val<'k, u64> {
        let k = self.low.k;
        let high = k.constant(self.high).in_reg();
        k.value(
            Opcode::Pack2x32,
            &[self.low.in_reg().operand(), high.operand()],
        )
    }
}

impl<'k, T: Type> Shared<'k, T> {
    /// Describes the matrix that starts at element `index`.
    ///
    /// # Panics
    ///
    /// When no descriptor can say the layout, or the array, or a constant `index`, does not keep
    /// its atoms aligned. What only a running kernel knows is checked by the interpreter.
    #[track_caller]
    pub fn descriptor(self, index: impl AsVal<'k, u32>, layout: MatrixLayout) -> Descriptor<'k> {
        if let Err(why) = layout.check() {
            panic!("a matrix descriptor: {why}");
        }
        let (align, swizzle) = (self.alignment(), layout.swizzle);
        assert!(
            align >= swizzle.align(),
            "atoms of {swizzle:?} need an array aligned to {} bytes, not {align}",
            swizzle.align()
        );
        if let Some(offset) = self.constant_offset(index) {
            let within = offset.rem_euclid(i64::from(swizzle.align()));
            let fits = within.rem_euclid(16) == 0 && within < i64::from(swizzle.row_bytes());
            assert!(fits, "a matrix that starts {within} bytes into an atom");
        }
        let (leading, high) = layout.words();
        let low = (self.address(index) >> 4u32) + leading;
        Descriptor { low, high }
    }
}

impl Builder {
    /// The dynamic array of the kernel, `len` elements, with an alignment in bytes (a power of
    /// two); see [`Builder::dynamic_shared`].
    ///
    /// # Panics
    ///
    /// When the kernel has one already.
    pub fn dynamic_shared_aligned<T: Type>(
        &self,
        name: &str,
        len: u32,
        align: u32,
    ) -> Shared<'_, T> {
        self.one_dynamic(name, T::TY, len * T::TY.bytes(), align)
    }
}
