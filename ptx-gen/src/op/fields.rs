//! Types of the fields of [`Opcode`](super::Op): the choices within an instruction form.

use crate::ir::Ty;

/// Special registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    /// Thread index; 0, 1, 2 for x, y, z.
    Tid(u8),
    /// Block size; 0, 1, 2 for x, y, z.
    Ntid(u8),
    /// Block index; 0, 1, 2 for x, y, z.
    Ctaid(u8),
    /// Grid size; 0, 1, 2 for x, y, z.
    Nctaid(u8),
    /// Lane within the warp.
    Laneid,
    /// Warp slot within the multiprocessor; not stable, and not `tid / 32`.
    Warpid,
    /// Multiprocessor.
    Smid,
    /// Clock cycles, low 32 bits.
    Clock,
    /// Nanoseconds, 64 bits.
    GlobalTimer,
    /// The block's number in its cluster; 0 without clusters.
    ClusterRank,
    /// Blocks of the cluster; 1 without clusters.
    ClusterSize,
}

/// Approximate functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Approx {
    /// `1 / a` (1 ulp).
    Rcp,
    /// `1 / sqrt(a)` (2^-22.9 relative).
    Rsqrt,
    /// `sqrt(a)`.
    Sqrt,
    /// `2^a` (2^-22.5 relative).
    Ex2,
    /// `log2(a)`.
    Lg2,
    /// `sin(a)`, absolute error about 2^-20.5 in `[-pi, pi]`.
    Sin,
    /// `cos(a)`, as `Sin`.
    Cos,
    /// `tanh(a)`, relative error about 2^-11.
    Tanh,
}

/// Comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cmp {
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Greater or equal.
    Ge,
    /// Greater.
    Gt,
}

/// Rounding of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Round {
    /// None written: the conversion is exact, or between integers (which truncates bits).
    None,
    /// Float result to nearest even.
    Rn,
    /// Float result toward zero.
    Rz,
    /// Integer result to nearest even.
    Rni,
    /// Integer result toward zero, as Rust's `as` (NaN gives 0).
    Rzi,
    /// Integer result toward minus infinity.
    Rmi,
    /// Integer result toward plus infinity.
    Rpi,
}

/// Address spaces of loads, stores and atomics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// Device memory, 64-bit addresses.
    Global,
    /// The block's memory, 32-bit addresses.
    Shared,
}

/// Who must see a memory operation in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The block.
    Cta,
    /// The GPU.
    Gpu,
    /// The whole system, host included.
    Sys,
}

/// Memory order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Plain access.
    Weak,
    /// Never cached in a register.
    Volatile,
    /// Strong, unordered.
    Relaxed(Scope),
    /// Later accesses stay after (loads, atomics).
    Acquire(Scope),
    /// Earlier accesses stay before (stores, atomics).
    Release(Scope),
    /// Both (atomics).
    AcqRel(Scope),
}

/// Cache hints of a global load; `Cache::default()` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cache {
    /// Through the read-only path: nothing writes this memory while the kernel runs.
    pub nc: bool,
    /// Do not keep the line in L1.
    pub no_allocate: bool,
    /// Let L2 fetch 128 bytes.
    pub l2_128: bool,
}

/// Read-modify-write functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rmw {
    /// Sum; integers wrap.
    Add,
    /// Minimum (integers).
    Min,
    /// Maximum (integers).
    Max,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// Replace.
    Exch,
    /// Replace if equal.
    Cas,
}

/// Fences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fence {
    /// Sequentially consistent for a scope: `membar.cta/gl/sys`.
    Membar(Scope),
    /// Acquire and release for a scope: `fence.acq_rel.*`.
    AcqRel(Scope),
    /// Orders generic writes before later asynchronous-proxy accesses to shared memory.
    ProxyAsync,
    /// Makes mbarrier initialisation visible to the asynchronous proxy and the cluster.
    MbarrierInit,
}

/// How [`Opcode::Shfl`](super::Opcode::Shfl) finds its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shfl {
    /// Lane minus `b`.
    Up,
    /// Lane plus `b`.
    Down,
    /// Lane xor `b`.
    Bfly,
    /// Lane `b`.
    Idx,
}

/// Votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vote {
    /// True in every lane.
    All,
    /// True in some lane.
    Any,
    /// The mask of lanes where true.
    Ballot,
}

/// Warp-wide matrix products, all row-major A by column-major B.
///
/// Fragments, with `g = lane / 4`, `t = lane % 4`, element `i` counted from the lowest bits of
/// the first register:
/// * `C`/`D` of every m16n8: row `g + 8*(i/2)`, column `2t + i%2`; four registers (f32 or i32).
/// * m16n8k16: A row `g + 8*((i/2)%2)`, column `2t + i%2 + 8*(i/4)`; B row `2t + i%2 + 8*(i/2)`,
///   column `g`; 4 and 2 u32 registers.
/// * m16n8k8 f16: A row `g + 8*(i/2)`, column `2t + i%2` (2 registers); B row `2t + i`,
///   column `g` (1 register).
/// * m16n8k32: A row `g + 8*((i/4)%2)`, column `4t + i%4 + 16*(i/8)` (4); B row
///   `4t + i%4 + 16*(i/4)`, column `g` (2).
/// * m8n8k16: A row `g`, column `4t + i` (1); B row `4t + i`, column `g` (1); C row `g`,
///   column `2t + i` (2).
/// * m16n8k8 tf32: A row `g + 8*(i%2)`, column `t + 4*(i/2)` (4); B row `t + 4i`, column `g` (2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mma {
    /// m16n8k16, f16 inputs, f32 accumulators.
    M16n8k16F16,
    /// m16n8k16, bf16 inputs, f32 accumulators.
    M16n8k16Bf16,
    /// m16n8k8, f16 inputs, f32 accumulators (sm_75's largest).
    M16n8k8F16,
    /// m16n8k8, tf32 inputs (f32 bits), f32 accumulators.
    M16n8k8Tf32,
    /// m16n8k32, 8-bit inputs, wrapping i32 accumulators.
    M16n8k32Int8 {
        /// Elements of A are signed.
        a_signed: bool,
        /// Elements of B are signed.
        b_signed: bool,
    },
    /// m8n8k16, 8-bit inputs, wrapping i32 accumulators.
    M8n8k16Int8 {
        /// Elements of A are signed.
        a_signed: bool,
        /// Elements of B are signed.
        b_signed: bool,
    },
}

impl Mma {
    /// Registers per lane of A, B and C (D has as many as C).
    pub fn fragments(self) -> (usize, usize, usize) {
        match self {
            Mma::M16n8k16F16 | Mma::M16n8k16Bf16 | Mma::M16n8k32Int8 { .. } | Mma::M16n8k8Tf32 => {
                (4, 2, 4)
            }
            Mma::M16n8k8F16 => (2, 1, 4),
            Mma::M8n8k16Int8 { .. } => (1, 1, 2),
        }
    }

    /// Type of the accumulators.
    pub fn accumulator(self) -> Ty {
        match self {
            Mma::M16n8k32Int8 { .. } | Mma::M8n8k16Int8 { .. } => Ty::I32,
            _ => Ty::F32,
        }
    }
}
