//! Warp-wide matrix products and the loads that feed them. Fragment layouts: [`Mma`].

use super::{Builder, Shared, Type, Val};
use crate::ir::{Operand, Ty};
use crate::op::{Mma, Opcode};

impl Builder {
    /// `a * b + c` for 16x8x16 tiles of f16 with f32 accumulators; sm_80 and later.
    #[track_caller]
    pub fn mma_f16<'k>(
        &'k self,
        a: [Val<'k, u32>; 4],
        b: [Val<'k, u32>; 2],
        c: [Val<'k, f32>; 4],
    ) -> [Val<'k, f32>; 4] {
        self.mma(Mma::M16n8k16F16, &a, &b, c)
    }

    /// `a * b + c` for 16x8x16 tiles of bf16 with f32 accumulators; sm_80 and later.
    #[track_caller]
    pub fn mma_bf16<'k>(
        &'k self,
        a: [Val<'k, u32>; 4],
        b: [Val<'k, u32>; 2],
        c: [Val<'k, f32>; 4],
    ) -> [Val<'k, f32>; 4] {
        self.mma(Mma::M16n8k16Bf16, &a, &b, c)
    }

    /// `a * b + c` for 16x8x8 tiles of f16 with f32 accumulators; every target.
    #[track_caller]
    pub fn mma_f16_k8<'k>(
        &'k self,
        a: [Val<'k, u32>; 2],
        b: [Val<'k, u32>; 1],
        c: [Val<'k, f32>; 4],
    ) -> [Val<'k, f32>; 4] {
        self.mma(Mma::M16n8k8F16, &a, &b, c)
    }

    /// [`Builder::mma_f16`] on any target: sm_75 does it in two halves of `k`.
    #[track_caller]
    pub fn mma_f16_any<'k>(
        &'k self,
        a: [Val<'k, u32>; 4],
        b: [Val<'k, u32>; 2],
        c: [Val<'k, f32>; 4],
    ) -> [Val<'k, f32>; 4] {
        if self.target().has_ampere() {
            return self.mma_f16(a, b, c);
        }
        let c = self.mma_f16_k8([a[0], a[1]], [b[0]], c);
        self.mma_f16_k8([a[2], a[3]], [b[1]], c)
    }

    /// Any product; the slices have [`Mma::fragments`] lengths.
    #[track_caller]
    pub fn mma<'k, C: Type, const N: usize>(
        &'k self,
        mma: Mma,
        a: &[Val<'k, u32>],
        b: &[Val<'k, u32>],
        c: [Val<'k, C>; N],
    ) -> [Val<'k, C>; N] {
        assert_eq!(
            (a.len(), b.len(), N),
            mma.fragments(),
            "fragment lengths of {mma:?}"
        );
        let mut src: Vec<Operand> = Vec::with_capacity(a.len() + b.len() + N);
        self.blame(self.here(), || {
            src.extend(a.iter().chain(b).map(|v| v.in_reg().operand()));
            src.extend(c.iter().map(|v| v.in_reg().operand()));
        });
        let regs = self.emit(Opcode::Mma(mma), &[C::TY; N], &src);
        std::array::from_fn(|i| Val::reg(self, regs[i]))
    }

    /// The 8x8 matrix of 16-bit elements held across the warp, transposed.
    #[track_caller]
    pub fn movmatrix<'k>(&'k self, value: Val<'k, u32>) -> Val<'k, u32> {
        self.value(Opcode::Movmatrix, &[value.in_reg().operand()])
    }
}

impl<'k, T: Type> Shared<'k, T> {
    /// `N` (1, 2 or 4) 8x8 matrices of 16-bit elements: lane `8j + r` passes the index of row `r`
    /// of matrix `j`, whose address is a multiple of 16 bytes.
    #[track_caller]
    pub fn ldmatrix<const N: usize>(self, index: Val<'k, u32>) -> [Val<'k, u32>; N] {
        self.matrices(index, false)
    }

    /// [`Shared::ldmatrix`] with each matrix transposed.
    #[track_caller]
    pub fn ldmatrix_trans<const N: usize>(self, index: Val<'k, u32>) -> [Val<'k, u32>; N] {
        self.matrices(index, true)
    }

    #[track_caller]
    fn matrices<const N: usize>(self, index: Val<'k, u32>, trans: bool) -> [Val<'k, u32>; N] {
        let op = Opcode::Ldmatrix {
            num: N as u8,
            trans,
        };
        let address = self.operand(index);
        let k = index.k;
        let regs = k.emit(op, &[Ty::U32; N], &[address]);
        std::array::from_fn(|i| Val::reg(k, regs[i]))
    }

    /// Inverse of [`Shared::ldmatrix`]; sm_90 and later.
    #[track_caller]
    pub fn stmatrix<const N: usize>(self, index: Val<'k, u32>, values: [Val<'k, u32>; N]) {
        self.put_matrices(index, values, false);
    }

    /// [`Shared::stmatrix`] with each matrix transposed.
    #[track_caller]
    pub fn stmatrix_trans<const N: usize>(self, index: Val<'k, u32>, values: [Val<'k, u32>; N]) {
        self.put_matrices(index, values, true);
    }

    #[track_caller]
    fn put_matrices<const N: usize>(
        self,
        index: Val<'k, u32>,
        values: [Val<'k, u32>; N],
        trans: bool,
    ) {
        let mut src = vec![self.operand(index)];
        src.extend(values.iter().map(|v| v.in_reg().operand()));
        let num = N as u8;
        index.k.emit(Opcode::Stmatrix { num, trans }, &[], &src);
    }
}
