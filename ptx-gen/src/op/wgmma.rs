//! Matrix products of a warpgroup.

use crate::ir::Ty;

/// `D[64 x n] = A[64 x k] * B[k x n] + D` by a warpgroup (four neighbouring warps, the first one a
/// multiple of four); `k` is 32 bytes of the factors' type.
///
/// Sources are A (four u32 registers, or a descriptor in a u64), the descriptor of B (u64), a
/// predicate without which D counts as zero, and the registers of D once more. D is registers
/// that may be written more than once; A and D may be touched again only after a wait for the
/// group.
///
/// Fragments, with `g = lane / 4`, `t = lane % 4`, `w = warp % 4`, element `i` counted from the
/// lowest bits of the first register (PTX ISA, "Register Fragments and Shared Memory Matrix
/// Layouts"):
/// * D: row `16w + g + 8*((i/2)%2)`, column `8*(i/4) + 2t + i%2`; `n/2` registers.
/// * A of 16-bit elements: row `16w + g + 8*((i/2)%2)`, column `2t + i%2 + 8*(i/4)`.
/// * A of bytes: row `16w + g + 8*((i/4)%2)`, column `4t + i%4 + 16*(i/8)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wgmma {
    /// Type of the factors.
    pub ty: WgmmaType,
    /// Columns of D: a multiple of 8 up to 256; of 16 from 32 on for [`WgmmaType::S8`].
    pub n: u16,
    /// Where A is.
    pub a: WgmmaA,
    /// Takes `-A`.
    pub negate_a: bool,
    /// Takes `-B`.
    pub negate_b: bool,
    /// B lies with `n` contiguous instead of `k`; 16-bit types only.
    pub transpose_b: bool,
}

/// Where a warpgroup's left factor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WgmmaA {
    /// Four registers of every thread.
    Registers,
    /// Shared memory, by a descriptor.
    Shared {
        /// It lies with the 64 rows contiguous instead of `k`; 16-bit types only.
        transpose: bool,
    },
}

/// Types of a warpgroup's factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WgmmaType {
    /// IEEE half, f32 accumulators.
    F16,
    /// Brain float, f32 accumulators.
    Bf16,
    /// Bytes of 4 exponent and 3 mantissa bits, f32 accumulators.
    E4m3,
    /// Signed bytes, i32 accumulators.
    S8,
}

impl WgmmaType {
    /// Name in the instruction.
    pub fn ptx(self) -> &'static str {
        match self {
            WgmmaType::F16 => "f16",
            WgmmaType::Bf16 => "bf16",
            WgmmaType::E4m3 => "e4m3",
            WgmmaType::S8 => "s8",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> u32 {
        match self {
            WgmmaType::F16 | WgmmaType::Bf16 => 2,
            WgmmaType::E4m3 | WgmmaType::S8 => 1,
        }
    }
}

impl Wgmma {
    /// `A * B` of k-contiguous factors, A in registers.
    pub fn from_registers(ty: WgmmaType, n: u16) -> Wgmma {
        Wgmma {
            ty,
            n,
            a: WgmmaA::Registers,
            negate_a: false,
            negate_b: false,
            transpose_b: false,
        }
    }

    /// `A * B` of k-contiguous factors, both in shared memory.
    pub fn from_shared(ty: WgmmaType, n: u16) -> Wgmma {
        Wgmma {
            a: WgmmaA::Shared { transpose: false },
            ..Wgmma::from_registers(ty, n)
        }
    }

    /// Elements that one instruction sums: 32 bytes of the factors.
    pub fn k(self) -> u32 {
        32 / self.ty.bytes()
    }

    /// Registers of D a thread.
    pub fn accumulators(self) -> usize {
        usize::from(self.n) / 2
    }

    /// Type of the accumulators.
    pub fn accumulator(self) -> Ty {
        if self.ty == WgmmaType::S8 {
            Ty::I32
        } else {
            Ty::F32
        }
    }

    /// Whether PTX has it.
    ///
    /// # Errors
    ///
    /// What it does not have, in a phrase.
    pub fn check(self) -> Result<(), &'static str> {
        let n = self.n;
        if !n.is_multiple_of(8) || !(8..=256).contains(&n) {
            return Err("n is a multiple of 8 from 8 to 256");
        }
        if self.ty == WgmmaType::S8 && n > 24 && !n.is_multiple_of(16) {
            return Err("n beyond 24 is a multiple of 16 for s8");
        }
        let transposed = self.transpose_b || self.a == (WgmmaA::Shared { transpose: true });
        if transposed && self.ty.bytes() != 2 {
            return Err("only factors of 16 bits are transposed");
        }
        if (self.negate_a || self.negate_b) && self.ty == WgmmaType::S8 {
            return Err("integer factors are not negated");
        }
        Ok(())
    }
}
