//! Instructions in which lanes of a warp look at each other.
//!
//! A `.sync` instruction waits for the lanes its mask names. Lanes run together here, so a named lane that is not
//! executing the same instruction is on another path, and would be waited for in vain or until it comes: a fault.

use super::{Context, Exec, fault, first};
use crate::interp::decode::Inst;
use crate::interp::fault::FaultKind;
use crate::interp::warp::{Warp, lanes};
use crate::ir::Ty;
use crate::op::{Rmw, Shfl, Vote};

/// Checks that the lanes named by the mask in source `n` are those executing. Lanes that do not exist or have exited
/// may be named.
fn members(n: usize, i: &Inst, m: u32, w: &Warp) -> Exec {
    let masks = w.word(i.src[n]);
    for l in lanes(m) {
        let needed = (masks[l] & w.live) | 1 << l;
        if needed & !m != 0 || masks[l] >> l & 1 == 0 {
            return fault(
                l,
                FaultKind::Divergent {
                    active: m,
                    needed: masks[l],
                },
            );
        }
    }
    Ok(())
}

/// Checks that the whole warp executes, as `.aligned` instructions on fragments need.
pub(super) fn whole(m: u32) -> Exec {
    if m == u32::MAX {
        Ok(())
    } else {
        fault(
            first(m),
            FaultKind::Divergent {
                active: m,
                needed: u32::MAX,
            },
        )
    }
}

/// Bar.warp.sync.
pub(super) fn sync(i: &Inst, m: u32, w: &Warp, cx: &mut Context) -> Exec {
    members(0, i, m, w)?;
    if let Some(races) = &mut cx.races {
        races.warp_sync(w.index);
    }
    Ok(())
}

/// Shfl.sync: the clamp is bits 0 to 4 of `c`, the segment mask bits 8 to 12 (PTX ISA, `shfl.sync`).
pub(super) fn shuffle(mode: Shfl, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    members(3, i, m, w)?;
    let (a, b, c) = (w.word(i.src[0]), w.word(i.src[1]), w.word(i.src[2]));
    let mut out = [0; 32];
    for l in lanes(m) {
        let lane = l as u32;
        let (b, clamp, segment) = (b[l] & 31, c[l] & 31, c[l] >> 8 & 31);
        let last = (lane & segment) | (clamp & !segment);
        let (from, valid) = match mode {
            Shfl::Up => {
                let from = lane as i32 - b as i32;
                (from, from >= last as i32)
            }
            Shfl::Down => ((lane + b) as i32, lane + b <= last),
            Shfl::Bfly => ((lane ^ b) as i32, lane ^ b <= last),
            Shfl::Idx => {
                let from = (lane & segment) | (b & !segment);
                (from as i32, from <= last)
            }
        };
        let from = if valid { from as usize } else { l };
        // The value of a lane that does not take part is undefined.
        out[l] = if m >> from & 1 == 1 {
            a[from]
        } else {
            u32::MAX
        };
    }
    w.put(i.dst[0], &out, m);
    Ok(())
}

/// Vote.sync.
pub(super) fn vote(f: Vote, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    members(1, i, m, w)?;
    let masks = *w.word(i.src[1]);
    let a = w.pred(i.src[0]) & m;
    let mut bits = 0;
    let mut ballots = [0; 32];
    for l in lanes(m) {
        let group = masks[l] & m;
        ballots[l] = a & group;
        let holds = match f {
            Vote::All => ballots[l] == group,
            Vote::Any | Vote::Ballot => ballots[l] != 0,
        };
        bits |= u32::from(holds) << l;
    }
    if f == Vote::Ballot {
        w.put(i.dst[0], &ballots, m);
    } else {
        w.put_pred(i.dst[0], bits, m);
    }
    Ok(())
}

/// Match.any.sync.
pub(super) fn match_any(i: &Inst, m: u32, w: &mut Warp) -> Exec {
    members(1, i, m, w)?;
    let (a, masks) = (*w.word(i.src[0]), *w.word(i.src[1]));
    let mut out = [0; 32];
    for l in lanes(m) {
        out[l] = lanes(masks[l] & m)
            .filter(|&k| a[k] == a[l])
            .fold(0, |mask, k| mask | 1 << k);
    }
    w.put(i.dst[0], &out, m);
    Ok(())
}

/// Redux.sync.
pub(super) fn reduce(f: Rmw, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    members(1, i, m, w)?;
    let (a, masks) = (*w.word(i.src[0]), *w.word(i.src[1]));
    let join = |x: u32, y: u32| match f {
        Rmw::Min if ty == Ty::I32 => (x as i32).min(y as i32) as u32,
        Rmw::Max if ty == Ty::I32 => (x as i32).max(y as i32) as u32,
        Rmw::Min => x.min(y),
        Rmw::Max => x.max(y),
        Rmw::And => x & y,
        Rmw::Or => x | y,
        Rmw::Xor => x ^ y,
        Rmw::Add | Rmw::Exch | Rmw::Cas => x.wrapping_add(y),
    };
    let mut out = [0; 32];
    for l in lanes(m) {
        out[l] = lanes(masks[l] & m)
            .map(|k| a[k])
            .reduce(join)
            .unwrap_or(a[l]);
    }
    w.put(i.dst[0], &out, m);
    Ok(())
}

/// Elect.sync: the lowest member leads.
pub(super) fn elect(i: &Inst, m: u32, w: &mut Warp) -> Exec {
    members(0, i, m, w)?;
    let leader = m.trailing_zeros();
    w.put(i.dst[0], &[leader; 32], m);
    w.put_pred(i.dst[1], 1 << leader, m);
    Ok(())
}

/// Holds the kernel to its claim, within a warp.
pub(super) fn assume_uniform(i: &Inst, m: u32, w: &mut Warp) -> Exec {
    let a = w.pred(i.src[0]);
    if a & m != 0 && a & m != m {
        let odd = first(a & m).max(first(!a & m));
        let what = format!(
            "claimed to be uniform, but true in lanes {:#010x} of {m:#010x}",
            a & m
        );
        return fault(odd, FaultKind::Protocol(what));
    }
    w.put_pred(i.dst[0], a, m);
    Ok(())
}
