//! Which buffers may share memory: a linear scan over their lifetimes.
//!
//! A buffer lives from the operation that writes it to the last that reads it. Both executors use
//! the same scan, the CPU over plan operations and the GPU over launches (fusion moves a read to a
//! later launch, so lifetimes are those of what really runs).

use super::{Buf, Plan, Rows};

/// The slot of each buffer, and the size of each slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Slot of each buffer; `None` for a buffer that nothing writes.
    pub slot: Vec<Option<usize>>,
    /// Row dimension and elements a row of each slot.
    pub sizes: Vec<(Rows, usize)>,
}

/// Assigns slots for steps given as (reads, writes) in execution order.
///
/// A buffer in `keep` is never overwritten once written. What a step writes never shares a slot
/// with what it reads.
#[must_use]
pub fn assign_storage(plan: &Plan, steps: &[(Vec<Buf>, Vec<Buf>)], keep: &[Buf]) -> Storage {
    let mut last_use = vec![0; plan.buffers.len()];
    for (i, (reads, writes)) in steps.iter().enumerate() {
        for b in reads.iter().chain(writes) {
            last_use[b.0 as usize] = i;
        }
    }
    for b in keep {
        last_use[b.0 as usize] = usize::MAX;
    }
    let mut storage = Storage {
        slot: vec![None; plan.buffers.len()],
        sizes: Vec::new(),
    };
    let mut free: Vec<usize> = Vec::new();
    let mut live: Vec<Buf> = Vec::new();
    for (i, (_, writes)) in steps.iter().enumerate() {
        live.retain(|&b| {
            let alive = last_use[b.0 as usize] >= i;
            if !alive {
                free.extend(storage.slot[b.0 as usize]);
            }
            alive
        });
        for &b in writes {
            if storage.slot[b.0 as usize].is_none() {
                let slot = take_slot(plan, b, &mut free, &mut storage.sizes);
                storage.slot[b.0 as usize] = Some(slot);
                live.push(b);
            }
        }
    }
    storage
}

/// The free slot that fits best: the smallest that is large enough, else the largest, grown.
fn take_slot(plan: &Plan, b: Buf, free: &mut Vec<usize>, sizes: &mut Vec<(Rows, usize)>) -> usize {
    let info = plan.buffer(b);
    let candidate = free
        .iter()
        .enumerate()
        .filter(|&(_, &s)| sizes[s].0 == info.rows)
        .min_by_key(|&(_, &s)| {
            let cols = sizes[s].1;
            if cols >= info.cols {
                (0, cols)
            } else {
                (1, usize::MAX - cols)
            }
        })
        .map(|(i, _)| i);
    match candidate {
        Some(i) => {
            let slot = free.swap_remove(i);
            sizes[slot].1 = sizes[slot].1.max(info.cols);
            slot
        }
        None => {
            sizes.push((info.rows, info.cols));
            sizes.len() - 1
        }
    }
}
