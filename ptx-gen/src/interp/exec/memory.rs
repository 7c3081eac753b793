//! Loads, stores and atomics, every lane checked.

use super::{Context, Exec, fault, num};
use crate::interp::decode::{Inst, SHARED_BASE};
use crate::interp::fault::{self, FaultKind};
use crate::interp::memory::{Number, Region, describe};
use crate::interp::races::{By, Kind};
use crate::interp::warp::{Lanes, Longs, Warp, lanes};
use crate::ir::Ty;
use crate::op::{Order, Rmw, Space};

/// How an access counts for the race detector.
fn kind(order: Order, weak: Kind) -> Kind {
    match order {
        Order::Weak => weak,
        Order::Volatile | Order::Relaxed(_) => Kind::Relaxed,
        Order::Acquire(_) | Order::Release(_) | Order::AcqRel(_) => Kind::Strong,
    }
}

fn named(space: Space) -> fault::FaultSpace {
    match space {
        Space::Global => fault::FaultSpace::Global,
        Space::Shared => fault::FaultSpace::Shared,
    }
}

/// Resolves addresses, remembering the last allocation: lanes of a warp nearly always share one.
pub(super) struct Cursor<'c> {
    cx: &'c Context<'c>,
    space: Space,
    bytes: u32,
    /// Reads may come before the launch in front has written.
    early: bool,
    /// The last region and its first address.
    last: (&'c Region, u64),
}

impl<'c> Cursor<'c> {
    /// A cursor for accesses of `bytes` bytes, a power of two that addresses must be a multiple of.
    pub(super) fn new(cx: &'c Context<'c>, space: Space, bytes: u32) -> Cursor<'c> {
        // For global memory a region without bytes' worth of match: the first access replaces it.
        let start = if space == Space::Shared {
            u64::from(SHARED_BASE)
        } else {
            u64::MAX
        };
        Cursor {
            cx,
            space,
            bytes,
            early: false,
            last: (&cx.shared, start),
        }
    }

    /// A cursor for reads of global memory by a warp.
    pub(super) fn global(cx: &'c Context<'c>, bytes: u32, w: &Warp) -> Cursor<'c> {
        let early = cx.program.starts_early && !w.waited;
        Cursor {
            early,
            ..Cursor::new(cx, Space::Global, bytes)
        }
    }

    /// The region that holds the bytes at `address`, and their offset in it.
    #[inline(always)]
    pub(super) fn at(&mut self, lane: usize, address: u64) -> Exec<(&'c Region, u64)> {
        let (region, start) = self.last;
        let offset = address.wrapping_sub(start);
        if start != u64::MAX
            && region.holds(offset, u64::from(self.bytes))
            && address & u64::from(self.bytes - 1) == 0
        {
            return Ok((region, offset));
        }
        self.slow(lane, address)
    }

    #[cold]
    #[inline(never)]
    fn slow(&mut self, lane: usize, address: u64) -> Exec<(&'c Region, u64)> {
        let (space, bytes) = (named(self.space), self.bytes);
        if address & u64::from(bytes - 1) != 0 {
            return fault(
                lane,
                FaultKind::Misaligned {
                    space,
                    address,
                    bytes,
                    align: bytes,
                },
            );
        }
        if self.space == Space::Shared {
            let start = u64::from(SHARED_BASE);
            let nearest = describe(
                start,
                address.wrapping_sub(start) as i64,
                self.cx.shared.bytes(),
            );
            return fault(
                lane,
                FaultKind::OutOfBounds {
                    space,
                    address,
                    bytes,
                    nearest,
                },
            );
        }
        match self.cx.memory.region(address) {
            Some((region, offset)) if region.holds(offset, u64::from(bytes)) => {
                self.last = (region, address.wrapping_sub(offset));
                Ok((region, offset))
            }
            _ => fault(lane, self.cx.memory.out_of_bounds(address, bytes)),
        }
    }

    /// As [`Cursor::at`], for a read: the bytes must have been written where that is tracked.
    #[inline(always)]
    pub(super) fn read(&mut self, lane: usize, address: u64) -> Exec<(&'c Region, u64)> {
        let (region, offset) = self.at(lane, address)?;
        if region.tracked() && !region.is_defined(offset, self.bytes) {
            let (space, bytes) = (named(self.space), self.bytes);
            return fault(
                lane,
                FaultKind::Uninitialised {
                    space,
                    address,
                    bytes,
                },
            );
        }
        let Number { own, in_flight } = self.cx.launch;
        if self.early && region.is_stored(offset, self.bytes, in_flight..own) {
            let bytes = self.bytes;
            return fault(lane, FaultKind::Early { address, bytes });
        }
        Ok((region, offset))
    }

    /// As [`Cursor::at`], for a write.
    #[inline(always)]
    pub(super) fn write(&mut self, lane: usize, address: u64) -> Exec<(&'c Region, u64)> {
        let (region, offset) = self.at(lane, address)?;
        region.define(offset, self.bytes);
        if self.space == Space::Global && self.cx.program.marks_stores() {
            region.mark_stored(offset, self.bytes, self.cx.launch.own);
        }
        Ok((region, offset))
    }
}

/// The lanes' addresses: source `n`, which is the instruction's address number `k`.
#[inline(always)]
pub(super) fn addresses(space: Space, i: &Inst, n: usize, k: usize, w: &Warp) -> Longs {
    let mut out = [0; 32];
    match space {
        Space::Global => {
            let (base, offset) = (w.long(i.src[n]), i64::from(i.offset[k]) as u64);
            for l in 0..32 {
                out[l] = base[l].wrapping_add(offset);
            }
        }
        Space::Shared => {
            let (base, offset) = (w.word(i.src[n]), i.offset[k] as u32);
            for l in 0..32 {
                out[l] = u64::from(base[l].wrapping_add(offset));
            }
        }
    }
    out
}

/// The elements a vector access moves, as words: `vec` elements of `size` bytes.
#[inline(always)]
fn gather<const VEC: usize>(
    cursor: &mut Cursor,
    at: &Longs,
    m: u32,
    size: u32,
    out: &mut [Lanes; 4],
) -> Exec {
    for l in lanes(m) {
        let (region, offset) = cursor.read(l, at[l])?;
        for (e, lane) in out.iter_mut().enumerate().take(VEC) {
            lane[l] = region.load(offset + e as u64 * u64::from(size), size);
        }
    }
    Ok(())
}

pub(super) fn load(
    space: Space,
    ty: Ty,
    vec: u8,
    order: Order,
    i: &Inst,
    m: u32,
    w: &mut Warp,
    cx: &mut Context,
) -> Exec {
    // A strong load may be waiting for another thread.
    w.polled |= order != Order::Weak;
    let at = addresses(space, i, 0, 0, w);
    let size = ty.bytes();
    if space == Space::Shared {
        cx.touch(kind(order, Kind::Read), &at, m, size * u32::from(vec), w)?;
    }
    let bytes = size * u32::from(vec);
    let mut cursor = match space {
        Space::Global => Cursor::global(cx, bytes, w),
        Space::Shared => Cursor::new(cx, space, bytes),
    };
    if size == 8 {
        let mut out = [[0; 32]; 2];
        for l in lanes(m) {
            let (region, offset) = cursor.read(l, at[l])?;
            for (e, lane) in out.iter_mut().enumerate().take(usize::from(vec)) {
                lane[l] = region.load64(offset + 8 * e as u64);
            }
        }
        for (e, value) in out.iter().enumerate().take(usize::from(vec)) {
            w.put64(i.dst[e], value, m);
        }
        return Ok(());
    }
    let mut out = [[0; 32]; 4];
    match (vec, size) {
        (1, 4) => gather::<1>(&mut cursor, &at, m, 4, &mut out)?,
        (2, 4) => gather::<2>(&mut cursor, &at, m, 4, &mut out)?,
        (4, 4) => gather::<4>(&mut cursor, &at, m, 4, &mut out)?,
        (1, 2) => gather::<1>(&mut cursor, &at, m, 2, &mut out)?,
        (1, 1) => gather::<1>(&mut cursor, &at, m, 1, &mut out)?,
        (2, _) => gather::<2>(&mut cursor, &at, m, size, &mut out)?,
        _ => gather::<4>(&mut cursor, &at, m, size, &mut out)?,
    }
    for (e, value) in out.iter_mut().enumerate().take(usize::from(vec)) {
        if ty == Ty::I8 {
            // Sign-extended to the 16-bit register.
            value
                .iter_mut()
                .for_each(|x| *x = u32::from(*x as u8 as i8 as u16));
        }
        w.put(i.dst[e], value, m);
    }
    Ok(())
}

pub(super) fn store(
    space: Space,
    ty: Ty,
    vec: u8,
    order: Order,
    i: &Inst,
    m: u32,
    w: &mut Warp,
    cx: &mut Context,
) -> Exec {
    cx.events += 1;
    let at = addresses(space, i, 0, 0, w);
    let size = ty.bytes();
    if space == Space::Shared {
        cx.touch(kind(order, Kind::Write), &at, m, size * u32::from(vec), w)?;
    }
    if space == Space::Global {
        wrote_global(&at, m, size * u32::from(vec), w, cx);
    }
    let mut cursor = Cursor::new(cx, space, size * u32::from(vec));
    for l in lanes(m) {
        let (region, offset) = cursor.write(l, at[l])?;
        for e in 0..usize::from(vec) {
            let (slot, to) = (i.src[1 + e], offset + e as u64 * u64::from(size));
            if size == 8 {
                region.store64(to, w.long(slot)[l]);
            } else {
                region.store(to, size, w.word(slot)[l]);
            }
        }
    }
    Ok(())
}

/// Shows the race detector an ordinary write of global memory, where it follows them.
fn wrote_global(at: &Longs, m: u32, bytes: u32, w: &Warp, cx: &mut Context) {
    let Some(races) = cx.races.as_mut().filter(|r| r.follows_global()) else {
        return;
    };
    for lane in lanes(m) {
        let by = By {
            warp: w.index,
            lane,
            pc: w.pc,
        };
        races.wrote_global(by, at[lane], bytes);
    }
}

/// Checks a load through the read-only path: nothing it reads may have been written by this launch.
pub(super) fn check_read_only(bytes: u32, i: &Inst, m: u32, w: &Warp, cx: &Context) -> Exec {
    let at = addresses(Space::Global, i, 0, 0, w);
    let mut cursor = Cursor::new(cx, Space::Global, bytes);
    for l in lanes(m) {
        let (region, offset) = cursor.at(l, at[l])?;
        let own = cx.launch.own;
        if region.is_stored(offset, bytes, own..own + 1) {
            return fault(
                l,
                FaultKind::ReadOnly {
                    address: at[l],
                    bytes,
                },
            );
        }
    }
    Ok(())
}

fn update32(f: Rmw, ty: Ty, old: u32, a: u32, b: u32) -> u32 {
    match (f, ty) {
        (Rmw::Add, Ty::F32) => (f32::from_bits(old) + f32::from_bits(a)).to_bits(),
        (Rmw::Add, Ty::F16x2 | Ty::Bf16x2) => {
            let h = if ty == Ty::F16x2 {
                super::float::Half::F16
            } else {
                super::float::Half::Bf16
            };
            let add = |x: u32, y: u32| h.narrow(h.value(x & 0xffff) + h.value(y & 0xffff));
            add(old, a) | add(old >> 16, a >> 16) << 16
        }
        (Rmw::Add, _) => old.wrapping_add(a),
        (Rmw::Min, Ty::I32) => (old as i32).min(a as i32) as u32,
        (Rmw::Max, Ty::I32) => (old as i32).max(a as i32) as u32,
        (Rmw::Min, _) => old.min(a),
        (Rmw::Max, _) => old.max(a),
        (Rmw::And, _) => old & a,
        (Rmw::Or, _) => old | a,
        (Rmw::Xor, _) => old ^ a,
        (Rmw::Exch, _) => a,
        (Rmw::Cas, _) => {
            if old == a {
                b
            } else {
                old
            }
        }
    }
}

/// PTX ISA, `atom`: single-precision sums in global memory flush subnormals, those in shared memory do not.
fn add_flushed(old: u32, a: u32) -> u32 {
    let flushed = |x: u32| num::flush(f32::from_bits(x));
    num::flush(flushed(old) + flushed(a)).to_bits()
}

fn update64(f: Rmw, ty: Ty, old: u64, a: u64, b: u64) -> u64 {
    match (f, ty) {
        (Rmw::Add, Ty::F64) => (f64::from_bits(old) + f64::from_bits(a)).to_bits(),
        (Rmw::Add, _) => old.wrapping_add(a),
        (Rmw::Min, Ty::I64) => (old as i64).min(a as i64) as u64,
        (Rmw::Max, Ty::I64) => (old as i64).max(a as i64) as u64,
        (Rmw::Min, _) => old.min(a),
        (Rmw::Max, _) => old.max(a),
        (Rmw::And, _) => old & a,
        (Rmw::Or, _) => old | a,
        (Rmw::Xor, _) => old ^ a,
        (Rmw::Exch, _) => a,
        (Rmw::Cas, _) => {
            if old == a {
                b
            } else {
                old
            }
        }
    }
}

/// Atom and Red: lanes take their turns in order. Blocks of kernels with global atomics run on one thread, so that a
/// read and a write are enough.
pub(super) fn atomic(
    space: Space,
    f: Rmw,
    ty: Ty,
    order: Order,
    i: &Inst,
    m: u32,
    w: &mut Warp,
    cx: &mut Context,
) -> Exec {
    w.polled |= matches!(f, Rmw::Cas | Rmw::Exch);
    let mut changed = false;
    let at = addresses(space, i, 0, 0, w);
    if space == Space::Shared {
        cx.touch(kind(order, Kind::Relaxed), &at, m, ty.bytes(), w)?;
    } else {
        wrote_global(&at, m, ty.bytes(), w, cx);
    }
    let mut cursor = Cursor::new(cx, space, ty.bytes());
    let b = if f == Rmw::Cas { i.src[2] } else { i.src[1] };
    if ty.bits() == 64 {
        let mut out = [0; 32];
        for l in lanes(m) {
            let (region, offset) = cursor.read(l, at[l])?;
            out[l] = region.load64(offset);
            let new = update64(f, ty, out[l], w.long(i.src[1])[l], w.long(b)[l]);
            changed |= new != out[l];
            region.store64(offset, new);
        }
        if i.num_dst > 0 {
            w.put64(i.dst[0], &out, m);
        }
    } else {
        let mut out = [0; 32];
        for l in lanes(m) {
            let (region, offset) = cursor.read(l, at[l])?;
            out[l] = region.load(offset, ty.bytes());
            let a = w.word(i.src[1])[l];
            let new = if space == Space::Global && f == Rmw::Add && ty == Ty::F32 {
                add_flushed(out[l], a)
            } else {
                update32(f, ty, out[l], a, w.word(b)[l])
            };
            changed |= new != out[l];
            region.store(offset, ty.bytes(), new);
        }
        if i.num_dst > 0 {
            w.put(i.dst[0], &out, m);
        }
    }
    cx.events += u64::from(changed);
    Ok(())
}
