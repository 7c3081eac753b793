//! Feeds the chosen tokens back into the step state, so that the next step needs no host.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | next | u32 | `[num_slots]`, tokens just chosen |
//! | tokens, lengths | u32 | `[num_slots]`, the step state |
//! | limits | u32 | `[num_slots]`, the step state |
//! | positions, if the spec says so | u32 | `[num_slots]`, the step state |
//! | steps | u32 | `[1]`, steps done |
//! | ring | u32, host-mapped | `[ring_len, num_slots]`, then one word: steps done |
//!
//! A slot of length 0 stays as it is; others get their token and one more position, up to
//! `context`, but length 0 where that is more than their limit, if they have one. One block. The last word of the ring is written after everything before it is visible
//! to the host (PTX memory model, `fence.acq_rel.sys`).

use crate::ir::{Kernel, Param};
use crate::op::{Fence, Order, Scope};
use crate::target::Target;

/// The end of a step that another one follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdvanceSpec {
    /// GPU to write for.
    pub target: Target,
    /// Rows of the step; at most 1024.
    pub num_slots: u32,
    /// Steps that the ring holds.
    pub ring_len: u32,
    /// Positions of a sequence.
    pub context: u32,
    /// Whether the step state has positions: each is its length less one, 0 where that is 0.
    pub positions: bool,
}

impl AdvanceSpec {
    /// One block.
    pub fn grid(&self) -> [u32; 3] {
        [1, 1, 1]
    }

    /// Bytes moved.
    pub fn bytes(&self) -> u64 {
        (28 + 4 * u64::from(self.positions)) * u64::from(self.num_slots)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        let mut params = vec![
            Param::input::<u32>("next"),
            Param::output::<u32>("tokens"),
            Param::in_out::<u32>("lengths"),
            Param::input::<u32>("limits"),
            Param::in_out::<u32>("steps"),
            Param::output::<u32>("ring"),
        ];
        params.extend(self.positions.then(|| Param::output::<u32>("positions")));
        params
    }

    /// The kernel.
    pub fn kernel(&self) -> Kernel {
        let AdvanceSpec {
            target,
            num_slots,
            ring_len,
            context,
            positions,
        } = *self;
        let (suffix, extra) = match positions {
            true => ("_positions", "positions[s] = max(lengths[s], 1) - 1; "),
            false => ("", ""),
        };
        let name = format!("advance_{num_slots}_r{ring_len}_c{context}{suffix}");
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "tokens[s] = next[s]; lengths[s] += 1, at most {context}, 0 beyond limits[s] unless \
                 that is 0; {extra}\nring[steps % {ring_len}, s] = next[s]; then steps += 1, in the ring's last word too. One \
                 block."
            ));
            k.block_size(num_slots.next_multiple_of(32).clamp(32, 1024));
            k.declare(self.params());
            let next = k.bind::<u32>("next");
            let (tokens, lengths) = (k.bind::<u32>("tokens"), k.bind::<u32>("lengths"));
            let limits = k.bind::<u32>("limits");
            let (steps, ring) = (k.bind::<u32>("steps"), k.bind::<u32>("ring"));
            let positions = k.bind_if::<u32>("positions");
            let slot = k.thread_x();
            let done = steps.load(0);
            k.if_(slot.lt(num_slots), || {
                let length = lengths.load(slot);
                k.if_(length.gt(0), || {
                    let token = next.load(slot);
                    tokens.store(slot, token);
                    // No limit, which is 0, wraps to the largest.
                    let is_last = length.gt(limits.load(slot) - 1);
                    let grown = k.select(is_last, 0, (length + 1).min(context));
                    lengths.store(slot, grown);
                    if let Some(positions) = positions {
                        positions.store(slot, grown.max(1) - 1);
                    }
                    ring.store((done % ring_len) * num_slots + slot, token);
                });
            });
            k.fence(Fence::AcqRel(Scope::Sys));
            k.barrier();
            k.if_(slot.eq(0), || {
                steps.store(0, done + 1);
                ring.store_ordered(ring_len * num_slots, done + 1, Order::Release(Scope::Sys));
            });
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<AdvanceSpec> {
    [(1, false), (32, false), (32, true)]
        .map(|(num_slots, positions)| AdvanceSpec {
            target,
            num_slots,
            ring_len: 256,
            context: 4096,
            positions,
        })
        .to_vec()
}
