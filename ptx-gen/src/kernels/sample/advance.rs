//! Feeds the chosen tokens back into the step state, so that the next step needs no host, and tells the
//! host.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | next | u32 | `[outputs]`, tokens just chosen |
//! | tokens, lengths | u32 | `[rows]`, the step state |
//! | limits, slots | u32 | `[rows]`, the step state |
//! | positions, if the spec says so | u32 | `[rows]`, the step state |
//! | latest | u32 | `[slots]`, what was chosen last for each |
//! | steps | u32 | `[1]`, steps done |
//! | ring | u32, host-mapped | `[ring_len, num_slots]`, then one word: steps done |
//! | indices, n, if the spec gathers | u32 | `[n]`, the row of each output; their number |
//!
//! Without `indices` every row is an output, and there are `num_slots`. A row of length 0 stays as it
//! is; others get their token and one more position, up to `context`, but length 0 where that is more
//! than their limit, if they have one. One block. The last word of the ring is written after everything before it is visible
//! to the host (PTX memory model, `fence.acq_rel.sys`).

use crate::ir::{Kernel, Param};
use crate::op::{Fence, Order, Scope};
use crate::target::Target;

/// The end of a step that another one follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdvanceSpec {
    /// GPU to write for.
    pub target: Target,
    /// Outputs of the step, or the most that it gathers; at most 1024.
    pub num_slots: u32,
    /// Steps that the ring holds.
    pub ring_len: u32,
    /// Positions of a sequence.
    pub context: u32,
    /// Whether the step state has positions: each is its length less one, 0 where that is 0.
    pub positions: bool,
    /// Whether outputs are some of the rows, which other arguments name.
    pub gathers: bool,
}

impl AdvanceSpec {
    /// One block.
    pub fn grid(&self) -> [u32; 3] {
        [1, 1, 1]
    }

    /// Bytes moved.
    pub fn bytes(&self) -> u64 {
        let more = u64::from(self.positions) + u64::from(self.gathers);
        (36 + 4 * more) * u64::from(self.num_slots)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        let mut params = vec![
            Param::input::<u32>("next"),
            Param::output::<u32>("tokens"),
            Param::in_out::<u32>("lengths"),
            Param::input::<u32>("limits"),
            Param::input::<u32>("slots"),
            Param::output::<u32>("latest"),
            Param::in_out::<u32>("steps"),
            Param::output::<u32>("ring"),
        ];
        params.extend(self.positions.then(|| Param::output::<u32>("positions")));
        if self.gathers {
            params.extend([Param::input::<u32>("indices"), Param::scalar::<u32>("n")]);
        }
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
            gathers,
        } = *self;
        let (suffix, extra) = match positions {
            true => ("_positions", "positions[s] = max(lengths[s], 1) - 1; "),
            false => ("", ""),
        };
        let (gathered, row) = match gathers {
            true => ("_gathered", "s = indices[i], i < n"),
            false => ("", "s = i"),
        };
        let name = format!("advance_{num_slots}_r{ring_len}_c{context}{suffix}{gathered}");
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "{row}: tokens[s] = latest[slots[s]] = next[i]; lengths[s] += 1, at most {context}, 0 \
                 beyond limits[s] unless that is 0;\n{extra}ring[steps % {ring_len}, i] = next[i]; then \
                 steps += 1, in the ring's last word too. One block."
            ));
            k.block_size(num_slots.next_multiple_of(32).clamp(32, 1024));
            k.declare(self.params());
            let next = k.bind::<u32>("next");
            let (tokens, lengths) = (k.bind::<u32>("tokens"), k.bind::<u32>("lengths"));
            let limits = k.bind::<u32>("limits");
            let (slots, latest) = (k.bind::<u32>("slots"), k.bind::<u32>("latest"));
            let (steps, ring) = (k.bind::<u32>("steps"), k.bind::<u32>("ring"));
            let positions = k.bind_if::<u32>("positions");
            let indices = k.bind_if::<u32>("indices");
            let output = k.thread_x();
            let done = steps.load(0);
            let is_output = match gathers {
                true => output.lt(k.bind_value::<u32>("n")),
                false => output.lt(num_slots),
            };
            k.if_(is_output, || {
                let row = indices.map_or(output, |indices| indices.load(output));
                let length = lengths.load(row);
                k.if_(length.gt(0), || {
                    let token = next.load(output);
                    tokens.store(row, token);
                    latest.store(slots.load(row), token);
                    // No limit, which is 0, wraps to the largest.
                    let is_last = length.gt(limits.load(row) - 1);
                    let grown = k.select(is_last, 0, (length + 1).min(context));
                    lengths.store(row, grown);
                    if let Some(positions) = positions {
                        positions.store(row, grown.max(1) - 1);
                    }
                    ring.store((done % ring_len) * num_slots + output, token);
                });
            });
            k.fence(Fence::AcqRel(Scope::Sys));
            k.barrier();
            k.if_(output.eq(0), || {
                steps.store(0, done + 1);
                ring.store_ordered(ring_len * num_slots, done + 1, Order::Release(Scope::Sys));
            });
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<AdvanceSpec> {
    let spec = |num_slots, positions, gathers| AdvanceSpec {
        target,
        num_slots,
        ring_len: 256,
        context: 4096,
        positions,
        gathers,
    };
    vec![
        spec(1, false, false),
        spec(32, false, false),
        spec(32, true, false),
        spec(32, false, true),
        spec(32, true, true),
    ]
}
