//! Tokens that steps in front chose: `tokens[i] = latest[slots[i]]` where `tokens[i]` says so.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | tokens | u32 | `[n]`, the step state |
//! | slots | u32 | `[n]`, the step state |
//! | latest | u32 | `[num_slots]`, what was chosen last for each slot |
//! | n | u32 | rows |
//!
//! So a step can be queued before the host knows the tokens of the step in front of it. Grid
//! `[ceil(n / 256), 1, 1]`. Moves at most 16n bytes.

use crate::ir::{Kernel, Param};
use crate::target::Target;

/// Puts chosen tokens into the step state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FeedSpec {
    /// GPU to write for.
    pub target: Target,
}

const THREADS: u32 = 256;

impl FeedSpec {
    /// In the place of a token: what was chosen last for its slot.
    pub const CHOSEN: u32 = u32::MAX;

    /// Blocks for `n` rows.
    pub fn grid(&self, n: u32) -> [u32; 3] {
        [n.div_ceil(THREADS), 1, 1]
    }

    /// Bytes moved at most for `n` rows.
    pub fn bytes(&self, n: u64) -> u64 {
        16 * n
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::in_out::<u32>("tokens"),
            Param::input::<u32>("slots"),
            Param::input::<u32>("latest"),
            Param::scalar::<u32>("n"),
        ]
    }

    /// The kernel, named `feed`.
    pub fn kernel(&self) -> Kernel {
        Kernel::new("feed", self.target, |k| {
            k.doc(format!(
                "tokens[i] = latest[slots[i]] where it is {}, i < n. Grid [ceil(n / {THREADS}), 1, 1].",
                FeedSpec::CHOSEN
            ));
            k.block_size(THREADS);
            k.declare(self.params());
            let (tokens, slots) = (k.bind::<u32>("tokens"), k.bind::<u32>("slots"));
            let latest = k.bind::<u32>("latest");
            let n = k.bind_value::<u32>("n");
            let i = k.block_x() * THREADS + k.thread_x();
            k.if_(i.lt(n), || {
                k.if_(tokens.load(i).eq(FeedSpec::CHOSEN), || {
                    tokens.store(i, latest.load(slots.load(i)));
                });
            });
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<FeedSpec> {
    vec![FeedSpec { target }]
}
