//! Instructions: one variant of [`Opcode`] per instruction form, with typed fields.
//!
//! The enum says *what* is done; [`crate::table::row_of`] says how it is spelled, what operands it
//! takes and what it requires. Semantics are PTX's unless a variant's text says otherwise. In
//! the texts, `d` are the destinations and `a, b, c, ..` the sources in order.

mod fields;
mod traits;
mod wgmma;

use crate::ir::Ty;

pub use fields::{
    Approx, Cache, Cmp, Fence, Mma, Order, Rmw, Round, Scope, Shfl, Space, Special, Vote,
};
pub use wgmma::{Wgmma, WgmmaA, WgmmaType};

/// An instruction form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Opcode {
    // ---- moves ----
    /// `d = a`; also between types of equal width (a bit cast). A predicate moves too.
    Mov {
        /// Type of `d`; `a` has the same width.
        ty: Ty,
    },
    /// `d` (u32, or u64 for [`Special::GlobalTimer`]) `=` a special register. No sources.
    Special(Special),
    /// `d` (u32) `=` the shared-window address of `a`, an address with a shared base.
    SharedAddress,
    /// `d = ` kernel parameter `a` (an address with a parameter base).
    LoadParam {
        /// Type of the parameter.
        ty: Ty,
    },
    /// `d` (u64) `= a` (u64), converted from the generic to the global address window.
    CvtaToGlobal,
    /// `d` (32 bit) `= {a, b}`: two 16-bit values, `a` in the low half.
    Pack2x16,
    /// `{d0, d1} = a`: the low and high 16 bits of a 32-bit value.
    Unpack2x16,
    /// `d` (64 bit) `= {a, b}`: two 32-bit values, `a` in the low half.
    Pack2x32,
    /// `{d0, d1} = a`: the low and high 32 bits of a 64-bit value.
    Unpack2x32,

    // ---- arithmetic ----
    /// `d = a + b`. Integers wrap; floats round to nearest even. 16x2 types: per half.
    Add {
        /// Type of all operands.
        ty: Ty,
    },
    /// `d = a - b`, as [`Opcode::Add`].
    Sub {
        /// Type of all operands.
        ty: Ty,
    },
    /// `d = a * b`: low bits for integers, round to nearest for floats.
    Mul {
        /// Type of all operands.
        ty: Ty,
    },
    /// `d =` high half of the integer product `a * b`.
    MulHi {
        /// Type of all operands.
        ty: Ty,
    },
    /// `d` (64 bit) `=` full product of 32-bit `a * b`.
    MulWide {
        /// Type of the sources: `U32` or `I32`.
        ty: Ty,
    },
    /// `d = a * b + c`, integers, low bits.
    MadLo {
        /// Type of all operands.
        ty: Ty,
    },
    /// `d` (64 bit) `= a * b` (full product of 32-bit values) `+ c` (64 bit).
    MadWide {
        /// Type of `a` and `b`: `U32` or `I32`.
        ty: Ty,
    },
    /// `d = a / b`: integers truncate; `F32` is `div.rn` (correctly rounded); `F64` likewise.
    Div {
        /// Type of all operands.
        ty: Ty,
    },
    /// `d = a / b` on f32 within 2 ulp (`div.full.f32`).
    DivFull,
    /// `d = a % b`, integers; the sign of `a`.
    Rem {
        /// Type of all operands.
        ty: Ty,
    },
    /// `d = min(a, b)`; floats: the other operand when one is NaN.
    Min {
        /// Type of all operands.
        ty: Ty,
    },
    /// `d = max(a, b)`; floats: the other operand when one is NaN.
    Max {
        /// Type of all operands.
        ty: Ty,
    },
    /// `d = -a`.
    Neg {
        /// Type of both operands.
        ty: Ty,
    },
    /// `d = |a|`.
    Abs {
        /// Type of both operands.
        ty: Ty,
    },
    /// `d = a * b + c`, one rounding to nearest even. 16x2 types: per half.
    Fma {
        /// `F16`, `Bf16`, `F32`, `F64`, `F16x2` or `Bf16x2`.
        ty: Ty,
    },
    /// A one-operand approximate function, `d = f(a)`.
    Approx {
        /// Which function.
        f: Approx,
        /// `F32`; `Ex2` and `Tanh` also `F16` and `F16x2`.
        ty: Ty,
    },
    /// `d = sqrt(a)`, correctly rounded, `F32` or `F64`.
    SqrtRn {
        /// Type of both operands.
        ty: Ty,
    },
    /// `d = 1 / a`, correctly rounded, `F32` or `F64`.
    RcpRn {
        /// Type of both operands.
        ty: Ty,
    },

    // ---- bits ----
    /// `d = a & b`; also on predicates.
    And {
        /// Type (only its width matters).
        ty: Ty,
    },
    /// `d = a | b`; also on predicates.
    Or {
        /// Type (only its width matters).
        ty: Ty,
    },
    /// `d = a ^ b`; also on predicates.
    Xor {
        /// Type (only its width matters).
        ty: Ty,
    },
    /// `d = !a`, bitwise; also on predicates.
    Not {
        /// Type (only its width matters).
        ty: Ty,
    },
    /// `d = a << b`; `b` is u32 and clamps at the width.
    Shl {
        /// Type of `d` and `a`.
        ty: Ty,
    },
    /// `d = a >> b`, arithmetic for signed types; `b` is u32 and clamps at the width.
    Shr {
        /// Type of `d` and `a`.
        ty: Ty,
    },
    /// `d =` bits `b .. b+c` of `a`, sign-extended for signed types; `b` and `c` are u32.
    Bfe {
        /// Type of `d` and `a`.
        ty: Ty,
    },
    /// `d = b` with its bits `c .. c+e` replaced by the low bits of `a` (sources a, b, c, e).
    Bfi {
        /// Type of `d`, `a` and `b` (unsigned).
        ty: Ty,
    },
    /// `d = f(a, b, c)` bit by bit; bit `4a + 2b + c` of `lut` is the result.
    Lop3 {
        /// Truth table.
        lut: u8,
    },
    /// `d =` four bytes picked from `{b, a}` by the four nibbles of `c` (default mode; bit 3 of
    /// a nibble replicates the byte's sign).
    Prmt,
    /// `d =` the high (left) or low (right) 32 bits of `{b, a} <<` or `>>` `c`, `a` being the
    /// low word; `c` wraps at 32 (`shf.l/r.wrap.b32`).
    Shf {
        /// Left instead of right.
        left: bool,
    },
    /// `d` (u32) `=` number of ones in `a`.
    Popc {
        /// Type of `a`: 32 or 64 bits.
        ty: Ty,
    },
    /// `d` (u32) `=` number of leading zeros of `a`.
    Clz {
        /// Type of `a`: 32 or 64 bits.
        ty: Ty,
    },
    /// `d` (i32) `= dot4(a, b) + c`: bytes of 32-bit words, signedness by operand.
    Dp4a {
        /// Bytes of `a` are signed.
        a_signed: bool,
        /// Bytes of `b` are signed.
        b_signed: bool,
    },

    // ---- comparison and conversion ----
    /// `d` (predicate) `= a <cmp> b`. Ordered for floats, except `Ne`, which is true for NaN
    /// (`neu`), as in Rust.
    Setp {
        /// The comparison.
        cmp: Cmp,
        /// Type of the sources.
        ty: Ty,
    },
    /// `d = c ? a : b`, `c` a predicate.
    Selp {
        /// Type of `d`, `a` and `b`.
        ty: Ty,
    },
    /// `d = a` converted.
    Cvt {
        /// Type of `d`.
        to: Ty,
        /// Type of `a`.
        from: Ty,
        /// Rounding.
        round: Round,
        /// Clamp integers to the destination's range.
        sat: bool,
    },
    /// `d` (`F16x2` or `Bf16x2`) `=` two f32 rounded to nearest even: **`a` becomes the high
    /// half**, `b` the low half, as PTX has it.
    CvtPack {
        /// Type of `d`.
        ty: Ty,
    },

    // ---- memory ----
    /// `d.. = [a]`: `vec` consecutive elements of `ty` (total at most 16 bytes, and aligned to
    /// the total). 8- and 16-bit elements land in 16-bit registers.
    Ld {
        /// Address space.
        space: Space,
        /// Element type.
        ty: Ty,
        /// 1, 2 or 4.
        vec: u8,
        /// Memory order.
        order: Order,
        /// Cache hints.
        cache: Cache,
    },
    /// `[a] = b..`: `vec` consecutive elements; sources are the address, then the values.
    St {
        /// Address space.
        space: Space,
        /// Element type.
        ty: Ty,
        /// 1, 2 or 4.
        vec: u8,
        /// Memory order.
        order: Order,
    },
    /// `d = [a]; [a] = f(d, b)`, atomically. `Cas` has sources address, expected, new.
    Atom {
        /// Address space.
        space: Space,
        /// The update.
        f: Rmw,
        /// Element type.
        ty: Ty,
        /// Memory order with its scope; never `Weak` or `Volatile`.
        order: Order,
    },
    /// [`Opcode::Atom`] without a result; order `Relaxed` or `Release`.
    Red {
        /// Address space.
        space: Space,
        /// The update; not `Exch` or `Cas`.
        f: Rmw,
        /// Element type.
        ty: Ty,
        /// Memory order with its scope.
        order: Order,
    },
    /// Memory fence.
    Fence(Fence),
    /// Brings the cache line of global address `a` to the L2 cache.
    PrefetchL2,

    // ---- synchronisation ----
    /// Waits for all threads of the block (barrier 0). `bar.sync 0`.
    BarSync,
    /// Waits at barrier `id` (1..=15) for `threads` (a multiple of 32) threads in all.
    BarSyncN {
        /// Barrier number.
        id: u8,
        /// Threads that take part, arriving ones included.
        threads: u16,
    },
    /// Arrives at barrier `id` without waiting.
    BarArrive {
        /// Barrier number.
        id: u8,
        /// Threads that take part, waiting ones included.
        threads: u16,
    },
    /// Waits for the lanes of member mask `a` (u32).
    BarWarpSync,
    /// `d = ` the value of `a` in another lane; sources a, lane operand (u32), clamp-and-segment
    /// word `c` (u32), member mask (u32).
    Shfl {
        /// How the other lane is found.
        mode: Shfl,
        /// Type of `d` and `a` (32 bits wide).
        ty: Ty,
    },
    /// Vote over the lanes of mask `b`: `d` (predicate; u32 for `Ballot`) from predicate `a`.
    Vote {
        /// The combination.
        f: Vote,
    },
    /// `d` (u32) `=` the mask of lanes of mask `b` whose 32-bit `a` equals this lane's.
    MatchAny,
    /// `d =` reduction of `a` over the lanes of mask `b`.
    Redux {
        /// `Add`, `Min`, `Max`, `And`, `Or` or `Xor`.
        f: Rmw,
        /// `U32` or `I32`.
        ty: Ty,
    },
    /// `d` (u32) `=` lanes currently executing together.
    ActiveMask,
    /// `d0` (u32, the leader's lane), `d1` (predicate, true in one lane of mask `a`).
    ElectSync,

    // ---- matrix ----
    /// `D = A * B + C` by a warp; the fragments are described at [`Mma`].
    Mma(Mma),
    /// `d..` (1, 2 or 4 u32) `=` 8x8 matrices of 16-bit elements from shared memory; lane
    /// `8j + r` supplies (in `a`) the 16-byte aligned address of row `r` of matrix `j`.
    Ldmatrix {
        /// Matrices: 1, 2 or 4.
        num: u8,
        /// Transpose each matrix.
        trans: bool,
    },
    /// Inverse of [`Opcode::Ldmatrix`]: sources are the address, then `num` u32.
    Stmatrix {
        /// Matrices: 1, 2 or 4.
        num: u8,
        /// Transpose each matrix.
        trans: bool,
    },
    /// `d` (u32) `=` the 8x8 matrix of 16-bit elements held as `a` across the warp, transposed.
    Movmatrix,

    // ---- a warpgroup's matrix products ----
    /// `D = A * B + D` by four warps, asynchronously; operands and fragments are described at
    /// [`Wgmma`].
    Wgmma(Wgmma),
    /// Orders the warpgroup's accesses to registers before its later [`Opcode::Wgmma`].
    WgmmaFence,
    /// Closes the group of the warpgroup's products since the last commit.
    WgmmaCommit,
    /// Waits until at most `pending` of the warpgroup's newest groups are in flight.
    WgmmaWait {
        /// Groups that may stay in flight.
        pending: u8,
    },
    /// Gives each thread of the warpgroup so many registers; asking for more waits until the
    /// block has them.
    SetMaxNReg {
        /// Registers a thread: 24 to 256, a multiple of 8.
        registers: u16,
        /// More than before, instead of fewer.
        increase: bool,
    },

    // ---- asynchronous copies ----
    /// Copies `bytes` from global address `b` to shared address `a`; the last source is how many
    /// of them (u32, at most `bytes`) are read, the rest being zero-filled.
    CpAsync {
        /// 4, 8 or 16.
        bytes: u8,
        /// Bypass the L1 cache (`.cg`, 16 bytes only).
        bypass_l1: bool,
    },
    /// Closes the group of this thread's copies since the last commit.
    CpAsyncCommit,
    /// Waits until at most `pending` of this thread's newest groups are in flight.
    CpAsyncWait {
        /// Groups that may stay in flight.
        pending: u8,
    },
    /// Initialises the mbarrier at shared address `a` with an arrival count `b` (u32).
    MbarrierInit,
    /// Ends the life of the mbarrier at `a`.
    MbarrierInval,
    /// Arrives once at the mbarrier `a`; no result kept.
    MbarrierArrive,
    /// Adds `b` (u32) bytes to the mbarrier's expected transactions, then arrives once.
    MbarrierArriveExpectTx,
    /// `d` (predicate) `=` the phase of parity `b` (u32) of mbarrier `a` has completed; may
    /// wait for a while first.
    MbarrierTryWait,
    /// As [`Opcode::MbarrierTryWait`] without waiting.
    MbarrierTestWait,
    /// Bulk copy of `c` (u32, a multiple of 16) bytes from global address `b` to shared address
    /// `a`, counted on mbarrier `e` (sources a, b, c, e).
    CpAsyncBulk,
    /// [`Opcode::CpAsyncBulk`] to the same shared address in every block of the cluster whose bit
    /// is set in `f` (u16), counted on the mbarrier at address `e` there (sources a, b, c, e, f).
    CpAsyncBulkMulticast,
    /// Bulk copy of `c` (u32, a multiple of 16) bytes from shared address `b` to global address
    /// `a`, counted in the thread's open bulk group. It reads through the async proxy: what was
    /// written by ordinary stores needs [`Fence::ProxyAsync`] first.
    CpAsyncBulkStore,
    /// Closes the group of this thread's bulk copies since the last commit.
    CpAsyncBulkCommit,
    /// Waits until at most `pending` of this thread's newest bulk groups are in flight.
    CpAsyncBulkWait {
        /// Groups that may stay in flight.
        pending: u8,
        /// Waits only until the others have read their sources, which may then be overwritten.
        read: bool,
    },
    /// Arrives at the barrier of the cluster, with release.
    ClusterArrive,
    /// Waits until every thread of the cluster has arrived at its barrier, with acquire.
    ClusterWait,
    /// `d` (u32) `=` the address, in the cluster's window, of what shared address `a` (u32) is in
    /// the cluster's block `b` (u32).
    Mapa,
    /// Arrives once at the mbarrier whose address in the cluster's window is `a`.
    MbarrierArriveCluster,
    /// Waits for the launches this one programmatically depends on.
    GridDepWait,
    /// Lets launches that programmatically depend on this one start.
    GridDepLaunch,

    // ---- odds and ends ----
    /// Suspends the thread for about `a` (u32) nanoseconds.
    Nanosleep,
    /// Aborts the launch with an error.
    Trap,
    /// Ends the thread.
    Exit,
    /// Claims that `d` (a copy of predicate `a`) is equal in all threads of the block; printed
    /// as a move. An executor may check the claim.
    AssumeUniform,
}
