//! Copies that complete later, and the mbarriers they complete on.
//!
//! A copy may land at any time between its issue and its wait. Here it lands as late as it can, and its destination
//! is poisoned until then, so that a kernel which reads too early sees NaN (or, where shared memory is tracked, a
//! fault).

use super::memory::{Cursor, addresses};
use super::{Context, Exec, Message, Remote, fault};
use crate::interp::decode::{Inst, SHARED_BASE};
use crate::interp::fault::FaultKind;
use crate::interp::memory::Region;
use crate::interp::races::{By, Clock, Kind};
use crate::interp::warp::{Warp, lanes};
use crate::op::{Opcode, Space};

/// A `cp.async` of one lane, not yet waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingCopy {
    lane: u32,
    /// The lane's commit group.
    group: u32,
    /// Offset in shared memory.
    to: u64,
    /// Global address.
    from: u64,
    bytes: u32,
    /// Bytes that are read; the rest become zero.
    read: u32,
}

/// A `cp.async.bulk` on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingBulk {
    /// What the race detector knew of the issuing warp.
    issued: Clock,
    /// Shared offset of the mbarrier that counts it.
    mbarrier: u32,
    to: u64,
    from: u64,
    bytes: u32,
}

/// The state of an mbarrier object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mbarrier {
    /// Completed phases; its parity is what waits ask about.
    phase: u32,
    expected: u32,
    pending: u32,
    /// Bytes announced and not yet arrived.
    transactions: i64,
}

impl Mbarrier {
    /// Starts the next phase when nothing is outstanding.
    fn settle(&mut self) {
        if self.pending == 0 && self.transactions == 0 {
            self.phase = self.phase.wrapping_add(1);
            self.pending = self.expected;
        }
    }
}

fn poison(shared: &Region, to: u64, bytes: u32) {
    for b in 0..u64::from(bytes) {
        shared.store(to + b, 1, 0xff);
    }
}

/// Cp.async of `bytes` bytes a lane.
pub(super) fn copy(bytes: u32, i: &Inst, m: u32, w: &mut Warp, cx: &mut Context) -> Exec {
    let (to, from) = (
        addresses(Space::Shared, i, 0, 0, w),
        addresses(Space::Global, i, 1, 1, w),
    );
    cx.touch(Kind::Copy, &to, m, bytes, w)?;
    let mut shared = Cursor::new(cx, Space::Shared, bytes);
    let mut global = Cursor::global(cx, bytes, w);
    for l in lanes(m) {
        let read = w.word(i.src[2])[l];
        if read > bytes {
            return fault(
                l,
                FaultKind::Protocol(format!("cp.async is to read {read} of {bytes} bytes")),
            );
        }
        let (_, offset) = shared.at(l, to[l])?;
        if read == bytes {
            global.read(l, from[l])?;
        } else if from[l] & u64::from(bytes - 1) != 0 {
            let space = crate::interp::fault::FaultSpace::Global;
            return fault(
                l,
                FaultKind::Misaligned {
                    space,
                    address: from[l],
                    bytes,
                    align: bytes,
                },
            );
        } else {
            let mut byte = Cursor::global(cx, 1, w);
            for b in 0..u64::from(read) {
                byte.read(l, from[l] + b)?;
            }
        }
        poison(&cx.shared, offset, bytes);
        w.copies.push(PendingCopy {
            lane: l as u32,
            group: w.groups[l],
            to: offset,
            from: from[l],
            bytes,
            read,
        });
    }
    Ok(())
}

/// Moves bytes that were checked when the copy was issued.
fn land(cx: &Context, to: u64, from: u64, bytes: u32, read: u32) {
    if let Some((region, offset)) = cx.memory.region(from) {
        let whole = u64::from(read / 4 * 4);
        for b in (0..whole).step_by(4) {
            cx.shared.set_word(to + b, region.word(offset + b));
        }
        for b in whole..u64::from(read) {
            cx.shared.store(to + b, 1, region.load(offset + b, 1));
        }
    }
    for b in u64::from(read)..u64::from(bytes) {
        cx.shared.store(to + b, 1, 0);
    }
    (to..to + u64::from(bytes)).for_each(|b| cx.shared.define(b, 1));
}

/// Cp.async.wait_group: all but the newest `pending` groups of each active lane land.
pub(super) fn wait(pending: u32, m: u32, w: &mut Warp, cx: &mut Context) {
    let (groups, warp, pc) = (w.groups, w.index, w.pc);
    w.copies.retain(|c| {
        let due = m >> c.lane & 1 == 1 && c.group + pending < groups[c.lane as usize];
        if due {
            land(cx, c.to, c.from, c.bytes, c.read);
            if let Some(races) = &mut cx.races {
                let by = By {
                    warp,
                    lane: c.lane as usize,
                    pc,
                };
                races.landed(by, c.to, c.bytes);
            }
        }
        !due
    });
}

fn protocol<T>(lane: usize, what: String) -> Exec<T> {
    fault(lane, FaultKind::Protocol(what))
}

/// The index of the mbarrier at a shared offset.
fn find(cx: &Context, lane: usize, at: u32) -> Exec<usize> {
    match cx.mbarriers.iter().position(|(offset, _)| *offset == at) {
        Some(index) => Ok(index),
        None => protocol(
            lane,
            format!(
                "no mbarrier was initialised at shared address {:#x}",
                at + SHARED_BASE
            ),
        ),
    }
}

/// The mbarrier instructions, lane by lane.
pub(super) fn mbarrier(i: &Inst, m: u32, w: &mut Warp, cx: &mut Context) -> Exec {
    let at = addresses(Space::Shared, i, 0, 0, w);
    let operand = if i.num_src > 1 {
        *w.word(i.src[1])
    } else {
        [0; 32]
    };
    let mut done = 0;
    for l in lanes(m) {
        let offset = Cursor::new(cx, Space::Shared, 8).at(l, at[l])?.1 as u32;
        match i.op {
            Opcode::MbarrierInit => {
                cx.mbarriers.retain(|(other, _)| *other != offset);
                if operand[l] == 0 {
                    return protocol(l, "an mbarrier needs a count of at least 1".to_owned());
                }
                let fresh = Mbarrier {
                    phase: 0,
                    expected: operand[l],
                    pending: operand[l],
                    transactions: 0,
                };
                cx.mbarriers.push((offset, fresh));
                if let Some(races) = &mut cx.races {
                    races.init(w.index, offset);
                }
            }
            Opcode::MbarrierInval => {
                let index = find(cx, l, offset)?;
                cx.mbarriers.remove(index);
            }
            Opcode::MbarrierArrive | Opcode::MbarrierArriveExpectTx => {
                let index = find(cx, l, offset)?;
                if let Some(races) = &mut cx.races {
                    races
                        .check_born(w.index, offset)
                        .or_else(|kind| fault(l, kind))?;
                    races.arrive_at(w.index, offset);
                }
                let barrier = &mut cx.mbarriers[index].1;
                if i.op == Opcode::MbarrierArriveExpectTx {
                    barrier.transactions += i64::from(operand[l]);
                }
                if barrier.pending == 0 {
                    return protocol(
                        l,
                        format!(
                            "more arrivals than the mbarrier's count of {}",
                            barrier.expected
                        ),
                    );
                }
                barrier.pending -= 1;
                barrier.settle();
                cx.events += 1;
            }
            _ => {
                let index = find(cx, l, offset)?;
                if let Some(races) = &cx.races {
                    races
                        .check_born(w.index, offset)
                        .or_else(|kind| fault(l, kind))?;
                }
                let parity = operand[l] & 1;
                if cx.mbarriers[index].1.phase & 1 == parity {
                    deliver(cx, index);
                }
                if cx.mbarriers[index].1.phase & 1 == parity {
                    w.polled = true;
                } else {
                    done |= 1 << l;
                    if let Some(races) = &mut cx.races {
                        races.waited(w.index, offset);
                    }
                }
            }
        }
    }
    if i.num_dst > 0 {
        w.put_pred(i.dst[0], done, m);
    }
    Ok(())
}

/// Completes the bulk copies that an mbarrier counts: somebody has begun to wait for them.
fn deliver(cx: &mut Context, index: usize) {
    let offset = cx.mbarriers[index].0;
    let (due, rest): (Vec<_>, Vec<_>) = cx.bulk.iter().partition(|b| b.mbarrier == offset);
    cx.bulk = rest;
    for bulk in due {
        land(cx, bulk.to, bulk.from, bulk.bytes, bulk.bytes);
        if let Some(races) = &mut cx.races {
            races.bulk_landed(offset, &bulk.issued, bulk.to, bulk.bytes);
        }
        let barrier = &mut cx.mbarriers[index].1;
        barrier.transactions -= i64::from(bulk.bytes);
        barrier.settle();
        cx.events += 1;
    }
}

/// The address in the cluster's window of what a shared address is in one of its blocks: the block's number above the
/// window.
pub(super) fn mapa(i: &Inst, m: u32, w: &mut Warp, cx: &Context) -> Exec {
    let ranks = *w.word(i.src[1]);
    let far = |l: &usize| ranks[*l] >= cx.program.cluster;
    if let Some(l) = lanes(m).find(far) {
        let (rank, size) = (ranks[l], cx.program.cluster);
        return protocol(l, format!("block {rank} of a cluster of {size}"));
    }
    w.map2(i, m, |at, rank| at | (rank + 1) << RANK);
    Ok(())
}

/// Where an address of the cluster's window holds its block's number, plus one.
const RANK: u32 = 24;

/// Mbarrier.arrive on an mbarrier of some block of the cluster.
pub(super) fn arrive_cluster(i: &Inst, m: u32, w: &Warp, cx: &mut Context) -> Exec {
    let at = addresses(Space::Shared, i, 0, 0, w);
    for l in lanes(m) {
        let (rank, local) = (at[l] as u32 >> RANK, at[l] & ((1 << RANK) - 1));
        let offset = Cursor::new(cx, Space::Shared, 8).at(l, local)?.1 as u32;
        let own = cx.block[0] % cx.program.cluster;
        if let Some(races) = &mut cx.races {
            if rank == 0 || rank - 1 == own {
                races
                    .check_born(w.index, offset)
                    .or_else(|kind| fault(l, kind))?;
            }
            races.arrive_at(w.index, offset);
        }
        if rank == 0 || rank - 1 == own {
            arrive_from(cx, offset).or_else(|kind| fault(l, kind))?;
        } else {
            cx.outbox.push(Message {
                rank: rank - 1,
                what: Remote::Arrive(offset),
                pc: w.pc,
            });
        }
    }
    Ok(())
}

/// An arrival by this or another block of the cluster.
pub(crate) fn arrive_from(cx: &mut Context, offset: u32) -> Result<(), FaultKind> {
    let index = find(cx, 0, offset).map_err(|e| e.kind)?;
    let barrier = &mut cx.mbarriers[index].1;
    if barrier.pending == 0 {
        return Err(FaultKind::Protocol(format!(
            "more arrivals than the mbarrier's count of {}",
            barrier.expected
        )));
    }
    barrier.pending -= 1;
    barrier.settle();
    cx.events += 1;
    Ok(())
}

/// A bulk copy by another block of the cluster begins.
pub(crate) fn begin_bulk(cx: &mut Context, bulk: PendingBulk) -> Result<(), FaultKind> {
    find(cx, 0, bulk.mbarrier).map_err(|e| e.kind)?;
    if let Some(races) = &mut cx.races {
        races.foreign_copy(bulk.to, bulk.bytes, cx.program)?;
    }
    poison(&cx.shared, bulk.to, bulk.bytes);
    cx.bulk.push(bulk);
    cx.events += 1;
    Ok(())
}

/// The blocks of the cluster, as bits, that a lane's bulk copy goes to.
fn targets(i: &Inst, l: usize, w: &Warp, cx: &Context) -> Exec<u32> {
    let own = 1 << (cx.block[0] % cx.program.cluster);
    if i.op != Opcode::CpAsyncBulkMulticast {
        return Ok(own);
    }
    let mask = w.word(i.src[4])[l] & 0xffff;
    let size = cx.program.cluster;
    if mask == 0 || mask >> size != 0 {
        return protocol(l, format!("blocks {mask:#b} of a cluster of {size}"));
    }
    Ok(mask)
}

/// Cp.async.bulk from global to shared memory.
pub(super) fn bulk(i: &Inst, m: u32, w: &Warp, cx: &mut Context) -> Exec {
    let to = addresses(Space::Shared, i, 0, 0, w);
    let from = addresses(Space::Global, i, 1, 1, w);
    let barriers = addresses(Space::Shared, i, 3, 2, w);
    for l in lanes(m) {
        let bytes = w.word(i.src[2])[l];
        if !bytes.is_multiple_of(16) {
            return protocol(
                l,
                format!("cp.async.bulk of {bytes} bytes: the size must be a multiple of 16"),
            );
        }
        let (mut shared, mut global) = (
            Cursor::new(cx, Space::Shared, 16),
            Cursor::global(cx, 16, w),
        );
        let mut start = 0;
        for b in (0..u64::from(bytes)).step_by(16) {
            global.read(l, from[l].wrapping_add(b))?;
            let (_, offset) = shared.at(l, to[l].wrapping_add(b))?;
            if b == 0 {
                start = offset;
            }
        }
        let mbarrier = Cursor::new(cx, Space::Shared, 8).at(l, barriers[l])?.1 as u32;
        let targets = targets(i, l, w, cx)?;
        let own = cx.block[0] % cx.program.cluster;
        let here = targets >> own & 1 == 1;
        if let Some(races) = &cx.races {
            let shared = match here {
                true => races.check_proxy(w.index, start, bytes, cx.program),
                false => Ok(()),
            };
            shared
                .and_then(|()| races.check_global_proxy(w.index, from[l], bytes, cx.program))
                .or_else(|kind| fault(l, kind))?;
        }
        let mut copy = PendingBulk {
            issued: [0; 64],
            mbarrier,
            to: start,
            from: from[l],
            bytes,
        };
        for rank in lanes(targets).map(|rank| rank as u32) {
            if rank != own {
                let what = Remote::Copy(Box::new(copy));
                let pc = w.pc;
                cx.outbox.push(Message { rank, what, pc });
            }
        }
        if !here {
            continue;
        }
        find(cx, l, mbarrier)?;
        cx.touch(Kind::Copy, &to, 1 << l, bytes, w)?;
        copy.issued = cx.races.as_mut().map_or([0; 64], |r| r.issue_bulk(w.index));
        poison(&cx.shared, start, bytes);
        cx.bulk.push(copy);
    }
    Ok(())
}
