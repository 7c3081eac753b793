//! The sampler's penalties: the latest tokens of a slot get other logits.
//!
//! Each block changes the logits that it looks at. One thread has each of the latest tokens, so that
//! there are at most as many as threads; a token that occurs more than once belongs to its first
//! place in the window.

use std::ops::Range;

use crate::build::{Builder, Ptr, Val};

use super::sampler::{FREQUENCY, PRESENCE, REPETITION, SampleSpec, WINDOW, WRITTEN};

/// Writes penalised logits of the latest tokens within `tokens`, and shows them to the whole block.
/// Holds barriers.
pub(super) fn penalise<'k>(
    k: &'k Builder,
    spec: &SampleSpec,
    logits: Ptr<'k, f32>,
    params: Ptr<'k, u32>,
    ring: Ptr<'k, u32>,
    tokens: Range<Val<'k, u32>>,
) {
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
            let ours = token.ge(tokens.start) & token.lt(tokens.end);
            k.if_(ours & token.lt(spec.vocab_size), || {
                let (count, earlier) = (k.var(0u32), k.var(0u32));
                k.for_each(0, n, 1, |j| {
                    let same = k.select(recent.load(j).eq(token), 1, 0);
                    count.update(|c| c + same);
                    earlier.update(|e| e + k.select(j.lt(i), same, 0));
                });
                k.if_(earlier.get().eq(0), || {
                    let logit = logits.load(token);
                    let settings = params.cast::<f32>();
                    let (repetition, presence) =
                        (settings.load(REPETITION), settings.load(PRESENCE));
                    let scaled =
                        k.if_value(logit.gt(0.0), || logit / repetition, || logit * repetition);
                    let off = settings.load(FREQUENCY) * count.get().cast::<f32>() + presence;
                    logits.store(token, scaled - off);
                });
            });
        });
        k.barrier();
    });
}
