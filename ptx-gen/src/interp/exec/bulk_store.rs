//! Bulk copies from shared to global memory: groups of a thread's own, as late as they may be.
//!
//! A copy reads its source when it is waited for, and its destination is poisoned until it has been written. A thread
//! that ends before its copies have read shared memory is at fault: the block's memory may be another block's by then.

use super::memory::{Cursor, addresses};
use super::{Context, Exec, fault};
use crate::interp::decode::Inst;
use crate::interp::fault::FaultKind;
use crate::interp::races::{BULK, By, Kind};
use crate::interp::warp::{Warp, lanes};
use crate::op::Space;

/// A bulk copy of one lane on its way to global memory.
#[derive(Clone, Debug)]
pub(crate) struct PendingStore {
    lane: usize,
    /// The instruction, as an index of the program.
    pc: usize,
    /// The lane's commit group.
    group: u32,
    /// Global address.
    to: u64,
    /// Offset in shared memory.
    from: u64,
    bytes: u32,
    /// The source, once read.
    words: Option<Vec<u32>>,
}

/// Cp.async.bulk from shared to global memory.
pub(super) fn issue(i: &Inst, m: u32, w: &mut Warp, cx: &mut Context) -> Exec {
    let to = addresses(Space::Global, i, 0, 0, w);
    let from = addresses(Space::Shared, i, 1, 1, w);
    for l in lanes(m) {
        let bytes = w.word(i.src[2])[l];
        if !bytes.is_multiple_of(16) {
            let what = format!("cp.async.bulk of {bytes} bytes: the size must be a multiple of 16");
            return fault(l, FaultKind::Protocol(what));
        }
        let (mut shared, mut global) = (
            Cursor::new(cx, Space::Shared, 16),
            Cursor::new(cx, Space::Global, 16),
        );
        let mut start = 0;
        for b in (0..u64::from(bytes)).step_by(16) {
            let (_, offset) = shared.read(l, from[l].wrapping_add(b))?;
            if b == 0 {
                start = offset;
            }
            let (region, offset) = global.at(l, to[l].wrapping_add(b))?;
            (0..16)
                .step_by(4)
                .for_each(|b| region.set_word(offset + b, u32::MAX));
        }
        cx.touch(Kind::Read, &from, 1 << l, bytes, w)?;
        if let Some(races) = &mut cx.races {
            races
                .check_proxy(w.index, start, bytes, cx.program)
                .or_else(|kind| fault(l, kind))?;
            let by = By {
                warp: w.index,
                lane: l,
                pc: w.pc,
            };
            races.begins_to_read(BULK, by, start, bytes);
        }
        w.stores.push(PendingStore {
            lane: l,
            pc: w.pc,
            group: w.bulk_groups[l],
            to: to[l],
            from: start,
            bytes,
            words: None,
        });
    }
    Ok(())
}

/// Reads a copy's source, unless that has happened.
fn take(store: &mut PendingStore, warp: u32, cx: &mut Context) {
    if store.words.is_some() {
        return;
    }
    let offsets = (store.from..store.from + u64::from(store.bytes)).step_by(4);
    store.words = Some(offsets.map(|at| cx.shared.word(at)).collect());
    if let Some(races) = &mut cx.races {
        let by = By {
            warp,
            lane: store.lane,
            pc: store.pc,
        };
        races.has_read(by, store.from, store.bytes);
    }
}

/// Writes what a copy has read; its bounds were checked when it was issued.
fn land(store: &PendingStore, cx: &Context) {
    let Some((region, offset)) = cx.memory.region(store.to) else {
        return;
    };
    for (n, word) in store.words.iter().flatten().enumerate() {
        let at = offset + 4 * n as u64;
        region.set_word(at, *word);
        region.define(at, 4);
        if cx.program.marks_stores() {
            region.mark_stored(at, 4, cx.launch.own);
        }
    }
}

/// Cp.async.bulk.wait_group: all but the newest `pending` groups of each active lane are read, or written.
pub(super) fn wait(pending: u32, read: bool, m: u32, w: &mut Warp, cx: &mut Context) {
    let (groups, warp) = (w.bulk_groups, w.index);
    w.stores.retain_mut(|store| {
        if m >> store.lane & 1 == 0 || store.group + pending >= groups[store.lane] {
            return true;
        }
        take(store, warp, cx);
        if !read {
            land(store, cx);
        }
        read
    });
}

/// Lanes of a warp end: what their copies have read is written.
pub(super) fn end_lanes(m: u32, w: &mut Warp, cx: &Context) -> Exec {
    for store in w.stores.iter().filter(|s| m >> s.lane & 1 == 1) {
        if store.words.is_none() {
            w.pc = store.pc;
            let what = "the thread ends without waiting until this copy has read shared memory";
            return fault(store.lane, FaultKind::Protocol(what.to_owned()));
        }
        land(store, cx);
    }
    Ok(())
}
