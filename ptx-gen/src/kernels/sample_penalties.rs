//! The sampler's penalties: the latest tokens of a slot get other logits for the length of a launch.
//!
//! One thread has each of them, so that there are at most as many as threads; a token that occurs
//! more than once belongs to its first place in the window.

use crate::build::{Builder, Ptr, Var};

use super::sample::{FREQUENCY, PRESENCE, REPETITION, SampleSpec, WINDOW, WRITTEN};

/// Logits changed for the latest tokens: a thread for each, which puts the old one back.
pub(super) struct Penalties<'k> {
    k: &'k Builder,
    changed: Var<'k, u32>,
    token: Var<'k, u32>,
    original: Var<'k, f32>,
}

impl<'k> Penalties<'k> {
    pub(super) fn apply(
        k: &'k Builder,
        spec: &SampleSpec,
        logits: Ptr<'k, f32>,
        params: Ptr<'k, u32>,
        ring: Ptr<'k, u32>,
    ) -> Penalties<'k> {
        let penalties = Penalties {
            k,
            changed: k.var(0u32),
            token: k.var(0u32),
            original: k.var(0f32),
        };
        let recent = k.shared::<u32>("recent", spec.window_max);
        let written = params.load(WRITTEN);
        let n = params.load(WINDOW).min(written);
        let i = k.thread_x();
        k.if_(n.gt(0), || {
            k.if_(i.lt(n), || {
                let at = (written - n + i) % spec.window_max;
                recent.store(i, ring.load(at));
            });
            k.barrier();
            k.if_(i.lt(n), || {
                let token = recent.load(i);
                let (count, earlier) = (k.var(0u32), k.var(0u32));
                k.for_each(0, n, 1, |j| {
                    let same = k.select(recent.load(j).eq(token), 1, 0);
                    count.update(|c| c + same);
                    earlier.update(|e| e + k.select(j.lt(i), same, 0));
                });
                k.if_(earlier.get().eq(0) & token.lt(spec.vocab_size), || {
                    let logit = logits.load(token);
                    let settings = params.cast::<f32>();
                    let (repetition, presence) =
                        (settings.load(REPETITION), settings.load(PRESENCE));
                    let scaled =
                        k.if_value(logit.gt(0.0), || logit / repetition, || logit * repetition);
                    let off = settings.load(FREQUENCY) * count.get().cast::<f32>() + presence;
                    logits.store(token, scaled - off);
                    penalties.changed.set(1);
                    penalties.token.set(token);
                    penalties.original.set(logit);
                });
            });
            k.barrier();
        });
        penalties
    }

    /// Puts the original logits back: after the last look at the others, and a barrier.
    pub(super) fn take_back(&self, logits: Ptr<'k, f32>) {
        self.k.if_(self.changed.get().eq(1), || {
            logits.store(self.token.get(), self.original.get());
        });
    }
}
