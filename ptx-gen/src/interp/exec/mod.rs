//! What each instruction does to a warp: one arm per operation, grouped in files by kind.
//!
//! Control flow and block-wide barriers are not here; they belong to [`super::block`].

mod asynchronous;
mod bulk_store;
mod convert;
mod float;
mod int;
mod matrix;
mod memory;
mod mma;
mod num;
mod warpwide;
mod wgmma;

use super::decode::{Inst, Program, SHARED_BASE};
use super::fault::FaultKind;
use super::memory::{Memory, Number, Region};
use super::races::{By, Kind, Races};
use super::warp::{Longs, Warp, lanes};
use crate::ir::Ty;
use crate::op::{Fence, Opcode, Special};

pub(crate) use asynchronous::{Mbarrier, PendingBulk, PendingCopy, arrive_from, begin_bulk};
pub(crate) use bulk_store::PendingStore;
pub(crate) use wgmma::{Log, Tensor, e4m3, together, watch};

/// A fault and the lane that it is blamed on.
#[derive(Debug)]
pub(crate) struct LaneFault {
    pub(crate) lane: usize,
    pub(crate) kind: FaultKind,
}

/// The outcome of an instruction.
pub(crate) type Exec<T = ()> = Result<T, Box<LaneFault>>;

/// What one block of a cluster does to another.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The other's number in the cluster.
    pub(crate) rank: u32,
    pub(crate) what: Remote,
    /// The instruction, as an index of the program.
    pub(crate) pc: usize,
}

/// The effect of an instruction in another block of the cluster.
#[derive(Clone, Debug)]
pub(crate) enum Remote {
    /// An arrival at the mbarrier at a shared offset.
    Arrive(u32),
    /// A bulk copy to shared memory.
    Copy(Box<PendingBulk>),
}

/// Lanes of a warp end: nothing of theirs may be in flight.
pub(crate) fn end_lanes(m: u32, w: &mut Warp, cx: &Context) -> Exec {
    wgmma::end(m, w, cx)?;
    bulk_store::end_lanes(m, w, cx)
}

/// A fault of one lane.
pub(crate) fn fault<T>(lane: usize, kind: FaultKind) -> Exec<T> {
    Err(Box::new(LaneFault { lane, kind }))
}

/// The first lane of a mask, for faults that concern all of them.
pub(crate) fn first(mask: u32) -> usize {
    (mask.trailing_zeros() as usize).min(31)
}

fn unsupported<T>(op: Opcode) -> Exec<T> {
    fault(0, FaultKind::Unsupported(format!("{op:?}")))
}

/// What the warps of a block share.
pub(crate) struct Context<'a> {
    pub(crate) program: &'a Program,
    pub(crate) memory: &'a Memory,
    /// One value a parameter, as bits.
    pub(crate) args: &'a [u64],
    /// The launch in this memory.
    pub(crate) launch: Number,
    pub(crate) grid: [u32; 3],
    /// The block's index in the grid.
    pub(crate) block: [u32; 3],
    pub(crate) shared: Region,
    /// Shared offsets and states of the mbarriers.
    pub(crate) mbarriers: Vec<(u32, Mbarrier)>,
    pub(crate) bulk: Vec<PendingBulk>,
    /// The race detector, where it is wanted.
    pub(crate) races: Option<Box<Races>>,
    /// Warp instructions executed by the block.
    pub(crate) steps: u64,
    /// Lane instructions executed by the block.
    pub(crate) lane_steps: u64,
    /// Changes of a barrier's state: what a waiting warp may be waiting for.
    pub(crate) events: u64,
    /// What the warps of each warpgroup did together.
    pub(crate) warpgroups: Vec<Log>,
    /// The seed of a drawn schedule.
    pub(crate) seed: Option<u64>,
    /// Registers that no warp of the block has, by threads.
    pub(crate) free_registers: u32,
    /// What goes to other blocks of the cluster.
    pub(crate) outbox: Vec<Message>,
}

impl Context<'_> {
    /// Shows the race detector an access of `bytes` bytes at each lane's shared address.
    #[inline(always)]
    fn touch(&mut self, kind: Kind, at: &Longs, m: u32, bytes: u32, w: &Warp) -> Exec {
        if self.races.is_some() {
            self.touch_lanes(kind, at, m, bytes, w)
        } else {
            Ok(())
        }
    }

    #[inline(never)]
    fn touch_lanes(&mut self, kind: Kind, at: &Longs, m: u32, bytes: u32, w: &Warp) -> Exec {
        let Some(races) = &mut self.races else {
            return Ok(());
        };
        if kind == Kind::Strong {
            races.fence(w.index);
        }
        let by = |lane| By {
            warp: w.index,
            lane,
            pc: w.pc,
        };
        let offset = |lane: usize| at[lane].wrapping_sub(u64::from(SHARED_BASE));
        for lane in lanes(m) {
            let outcome = races.check(kind, by(lane), offset(lane), bytes, self.program);
            outcome.or_else(|kind| fault(lane, kind))?;
        }
        for lane in lanes(m) {
            races.record(kind, by(lane), offset(lane), bytes);
        }
        if kind == Kind::Strong {
            races.fence(w.index);
        }
        Ok(())
    }
}

/// Executes an instruction in the lanes of `m`, which is not empty.
pub(crate) fn execute(i: &Inst, m: u32, w: &mut Warp, cx: &mut Context) -> Exec {
    match i.op {
        Opcode::Fma { ty } => return float::arithmetic(i.op, ty, i, m, w),
        Opcode::Add { ty }
        | Opcode::Sub { ty }
        | Opcode::Mul { ty }
        | Opcode::Div { ty }
        | Opcode::Min { ty }
        | Opcode::Max { ty }
        | Opcode::Neg { ty }
        | Opcode::Abs { ty } => {
            return if ty.is_int() {
                int::arithmetic(i.op, ty, i, m, w)
            } else {
                float::arithmetic(i.op, ty, i, m, w)
            };
        }
        Opcode::MadLo { ty } | Opcode::MulHi { ty } | Opcode::Rem { ty } => {
            return int::arithmetic(i.op, ty, i, m, w);
        }
        Opcode::MulWide { ty } => int::wide(ty.is_signed(), false, i, m, w),
        Opcode::MadWide { ty } => int::wide(ty.is_signed(), true, i, m, w),
        Opcode::DivFull => return float::arithmetic(i.op, Ty::F32, i, m, w),
        Opcode::SqrtRn { ty } | Opcode::RcpRn { ty } => {
            return float::arithmetic(i.op, ty, i, m, w);
        }
        Opcode::Approx { f, ty } => return float::approx(i.op, f, ty, i, m, w),

        Opcode::And { ty } | Opcode::Or { ty } | Opcode::Xor { ty } | Opcode::Not { ty } => {
            return int::logic(i.op, ty, i, m, w);
        }
        Opcode::Shl { ty } | Opcode::Shr { ty } => return int::shift(i.op, ty, i, m, w),
        Opcode::Bfe { ty } | Opcode::Bfi { ty } => int::fields(i.op, ty, i, m, w),
        Opcode::Lop3 { lut } => int::lop3(lut, i, m, w),
        Opcode::Prmt => w.map3(i, m, int::prmt),
        Opcode::Shf { left: true } => {
            w.map3(i, m, |a, b, c| ((joined(a, b) << (c & 31)) >> 32) as u32)
        }
        Opcode::Shf { left: false } => w.map3(i, m, |a, b, c| (joined(a, b) >> (c & 31)) as u32),
        Opcode::Popc { ty } | Opcode::Clz { ty } => int::count(i.op, ty, i, m, w),
        Opcode::Dp4a {
            a_signed: true,
            b_signed: true,
        } => w.map3(i, m, |a, b, c| int::dp4a(a, b, c, true, true)),
        Opcode::Dp4a { a_signed, b_signed } => {
            w.map3(i, m, |a, b, c| int::dp4a(a, b, c, a_signed, b_signed))
        }

        Opcode::Setp { cmp, ty } if ty.is_int() => return int::setp(i.op, cmp, ty, i, m, w),
        Opcode::Setp { cmp, ty } => return float::setp(i.op, cmp, ty, i, m, w),
        Opcode::Selp { ty } => select(ty, i, m, w),
        Opcode::Cvt {
            to,
            from,
            round,
            sat,
        } => convert::execute(to, from, round, sat, i, m, w),
        Opcode::CvtPack { ty } => {
            let h = if ty == Ty::F16x2 {
                float::Half::F16
            } else {
                float::Half::Bf16
            };
            let narrow = |x: u32| h.narrow(f32::from_bits(x));
            w.map2(i, m, |a, b| narrow(a) << 16 | narrow(b));
        }

        Opcode::Mov { ty } => copy(ty, i, m, w),
        Opcode::Special(which) => special(which, i, m, w, cx),
        Opcode::SharedAddress => {
            let offset = i.offset[0] as u32;
            w.map1(i, m, |a| a.wrapping_add(offset));
        }
        Opcode::LoadParam { ty } => {
            let bits = cx.args.get(i.offset[0] as usize).copied().unwrap_or(0);
            if ty.bits() == 64 {
                w.put64(i.dst[0], &[bits; 32], m)
            } else {
                w.put(i.dst[0], &[bits as u32; 32], m)
            }
        }
        // Generic and global addresses coincide.
        Opcode::CvtaToGlobal => w.long1(i, m, |a| a),
        Opcode::Pack2x16 => w.map2(i, m, |a, b| a & 0xffff | b << 16),
        Opcode::Unpack2x16 => {
            let a = *w.word(i.src[0]);
            w.put(i.dst[0], &a.map(|x| x & 0xffff), m);
            w.put(i.dst[1], &a.map(|x| x >> 16), m);
        }
        Opcode::Pack2x32 => {
            let (a, b) = (w.word(i.src[0]), w.word(i.src[1]));
            let out = std::array::from_fn(|l| joined(a[l], b[l]));
            w.put64(i.dst[0], &out, m);
        }
        Opcode::Unpack2x32 => {
            let a = *w.long(i.src[0]);
            w.put(i.dst[0], &a.map(|x| x as u32), m);
            w.put(i.dst[1], &a.map(|x| (x >> 32) as u32), m);
        }

        Opcode::Ld {
            space,
            ty,
            vec,
            order,
            cache,
        } => {
            if cache.nc {
                memory::check_read_only(u32::from(vec) * ty.bytes(), i, m, w, cx)?;
            }
            return memory::load(space, ty, vec, order, i, m, w, cx);
        }
        Opcode::St {
            space,
            ty,
            vec,
            order,
        } => return memory::store(space, ty, vec, order, i, m, w, cx),
        Opcode::Atom {
            space,
            f,
            ty,
            order,
        }
        | Opcode::Red {
            space,
            f,
            ty,
            order,
        } => {
            return memory::atomic(space, f, ty, order, i, m, w, cx);
        }
        // One warp runs at a time and sees all that others did: memory is sequentially consistent.
        Opcode::Fence(Fence::ProxyAsync) => {
            if let Some(races) = &mut cx.races {
                races.proxy_fence(w.index);
            }
        }
        Opcode::Fence(_) => {
            if let Some(races) = &mut cx.races {
                races.fence(w.index);
            }
        }
        Opcode::GridDepWait => w.waited = true,
        Opcode::PrefetchL2 | Opcode::GridDepLaunch => {}
        Opcode::Nanosleep => w.polled = true,

        Opcode::Shfl { mode, .. } => return warpwide::shuffle(mode, i, m, w),
        Opcode::Vote { f } => return warpwide::vote(f, i, m, w),
        Opcode::MatchAny => return warpwide::match_any(i, m, w),
        Opcode::Redux { f, ty } => return warpwide::reduce(f, ty, i, m, w),
        Opcode::BarWarpSync => return warpwide::sync(i, m, w, cx),
        Opcode::ActiveMask => w.put(i.dst[0], &[m; 32], m),
        Opcode::ElectSync => return warpwide::elect(i, m, w),
        Opcode::AssumeUniform => return warpwide::assume_uniform(i, m, w),

        Opcode::Mma(shape) => return matrix::mma(shape, i, m, w),
        Opcode::Ldmatrix { num, trans } => return matrix::load(num, trans, i, m, w, cx),
        Opcode::Stmatrix { num, trans } => return matrix::store(num, trans, i, m, w, cx),
        Opcode::Movmatrix => return matrix::transpose(i, m, w),

        Opcode::Wgmma(shape) => return wgmma::issue(shape, i, m, w, cx),
        Opcode::WgmmaFence => return wgmma::fence(m, w, cx),
        Opcode::WgmmaCommit => return wgmma::commit(m, w, cx),
        Opcode::WgmmaWait { pending } => return wgmma::wait(u32::from(pending), m, w, cx),

        Opcode::CpAsync { bytes, .. } => return asynchronous::copy(u32::from(bytes), i, m, w, cx),
        Opcode::CpAsyncCommit => lanes(m).for_each(|l| w.groups[l] += 1),
        Opcode::CpAsyncWait { pending } => asynchronous::wait(u32::from(pending), m, w, cx),
        Opcode::MbarrierInit
        | Opcode::MbarrierInval
        | Opcode::MbarrierArrive
        | Opcode::MbarrierArriveExpectTx
        | Opcode::MbarrierTryWait
        | Opcode::MbarrierTestWait => return asynchronous::mbarrier(i, m, w, cx),
        Opcode::CpAsyncBulk | Opcode::CpAsyncBulkMulticast => {
            return asynchronous::bulk(i, m, w, cx);
        }
        Opcode::Mapa => return asynchronous::mapa(i, m, w, cx),
        Opcode::MbarrierArriveCluster => return asynchronous::arrive_cluster(i, m, w, cx),
        Opcode::CpAsyncBulkStore => return bulk_store::issue(i, m, w, cx),
        Opcode::CpAsyncBulkCommit => lanes(m).for_each(|l| w.bulk_groups[l] += 1),
        Opcode::CpAsyncBulkWait { pending, read } => {
            bulk_store::wait(u32::from(pending), read, m, w, cx);
        }

        Opcode::Trap => return fault(first(m), FaultKind::Trap),
        Opcode::BarSync
        | Opcode::BarSyncN { .. }
        | Opcode::BarArrive { .. }
        | Opcode::ClusterArrive
        | Opcode::ClusterWait
        | Opcode::SetMaxNReg { .. }
        | Opcode::Exit => {
            return unsupported(i.op);
        }
    }
    Ok(())
}

#[inline(always)]
fn joined(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn copy(ty: Ty, i: &Inst, m: u32, w: &mut Warp) {
    match ty.bits() {
        1 => w.put_pred(i.dst[0], w.pred(i.src[0]), m),
        64 => w.long1(i, m, |a| a),
        _ => w.map1(i, m, |a| a),
    }
}

/// Selp.
fn select(ty: Ty, i: &Inst, m: u32, w: &mut Warp) {
    let c = w.pred(i.src[2]);
    if ty.bits() == 64 {
        let (mut out, a) = (*w.long(i.src[1]), w.long(i.src[0]));
        for l in 0..32 {
            out[l] = if c >> l & 1 == 1 { a[l] } else { out[l] };
        }
        w.put64(i.dst[0], &out, m);
    } else {
        let (mut out, a) = (*w.word(i.src[1]), w.word(i.src[0]));
        for l in 0..32 {
            out[l] = if c >> l & 1 == 1 { a[l] } else { out[l] };
        }
        w.put(i.dst[0], &out, m);
    }
}

fn special(which: Special, i: &Inst, m: u32, w: &mut Warp, cx: &Context) {
    let size = cx.program.block_size;
    let value = match which {
        Special::Tid(axis) => {
            let out = std::array::from_fn(|l| {
                thread_index(w.index * 32 + l as u32, size)[usize::from(axis) % 3]
            });
            return w.put(i.dst[0], &out, m);
        }
        Special::Laneid => return w.put(i.dst[0], &std::array::from_fn(|l| l as u32), m),
        Special::GlobalTimer => return w.put64(i.dst[0], &[cx.steps; 32], m),
        Special::Ntid(axis) => size[usize::from(axis) % 3],
        Special::Ctaid(axis) => cx.block[usize::from(axis) % 3],
        Special::Nctaid(axis) => cx.grid[usize::from(axis) % 3],
        Special::Warpid => w.index,
        Special::Smid => cx.block[0] % 128,
        Special::Clock => cx.steps as u32,
        Special::ClusterRank => cx.block[0] % cx.program.cluster,
        Special::ClusterSize => cx.program.cluster,
    };
    w.put(i.dst[0], &[value; 32], m);
}

/// The (x, y, z) index of a block's `n`-th thread.
pub(crate) fn thread_index(n: u32, size: [u32; 3]) -> [u32; 3] {
    let (x, y) = (size[0].max(1), size[1].max(1));
    [n % x, n / x % y, n / (x * y)]
}
