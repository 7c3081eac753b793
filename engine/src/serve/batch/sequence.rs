//! One sequence of a batch: where its tokens and its keys and values are.

use std::sync::Arc;

use super::SeqId;
use crate::exec::DecodeStart;
use crate::exec::sample::{Sampler, Sampling, argmax};
use crate::plan::StepRow;
use crate::serve::output::Output;
use crate::serve::session::GenerateOptions;

/// A sequence, whether it has a slot or not. All that is needed to go on is its tokens: keys and
/// values can be computed again.
pub(super) struct Sequence {
    pub(super) id: SeqId,
    pub(super) sampling: Sampling,
    pub(super) output: Output,
}

/// A sequence in a slot.
pub(super) struct Live {
    pub(super) sequence: Sequence,
    pub(super) slot: usize,
    /// Tokens, from the first on, whose keys and values are in the cache. While decoding: all but
    /// the last, which is fed next.
    pub(super) cached: usize,
    /// What follows the prompt, for sequences with the same prompt.
    pub(super) after_prompt: Option<Next>,
}

/// What a step says about the token that follows.
#[derive(Clone)]
pub(super) enum Next {
    /// The most likely one.
    Token(u32),
    /// Every token's logit.
    Logits(Arc<[f32]>),
}

impl Sequence {
    pub(super) fn new(id: SeqId, prompt: &[u32], options: GenerateOptions) -> Sequence {
        Sequence {
            id,
            output: Output::new(prompt, &options),
            sampling: options.sampling,
        }
    }

    /// Whether it can choose from this.
    pub(super) fn can_use(&self, next: &Next) -> bool {
        matches!(next, Next::Logits(_)) || self.sampling.is_greedy()
    }

    /// The token that follows, which [`Sequence::can_use`] allows to choose.
    pub(super) fn choose(&self, next: &Next) -> u32 {
        match next {
            Next::Token(token) => *token,
            Next::Logits(logits) if self.sampling.is_greedy() => argmax(logits),
            Next::Logits(logits) => Sampler::with_draws(self.sampling.clone(), self.draws())
                .sample(logits, self.output.history()),
        }
    }

    /// Random numbers used so far: one a token.
    fn draws(&self) -> u64 {
        self.output.generated() as u64
    }
}

impl Live {
    /// How the next tokens are chosen: the settings, and the recent tokens that they look at.
    pub(super) fn choice(&self) -> (Sampling, Vec<u32>) {
        let history = self.sequence.output.history();
        let sampling = &self.sequence.sampling;
        let start = history.len().saturating_sub(sampling.repetition_window);
        (sampling.clone(), history[start..].to_vec())
    }

    /// Where decoding goes on, in a context of that many positions: it ends with its last token.
    pub(super) fn start<'a>(
        &self,
        context: usize,
        sampling: &'a Sampling,
        recent: &'a [u32],
    ) -> DecodeStart<'a> {
        let history = self.sequence.output.history();
        let row = StepRow::last(&history[..=self.cached], self.slot);
        DecodeStart {
            row: StepRow {
                limit: (self.cached + self.remaining(context)) as u32,
                ..row
            },
            sampling,
            history: recent,
            draws: self.sequence.draws(),
        }
    }

    /// Steps that it can still use in a context of that many positions.
    pub(super) fn remaining(&self, context: usize) -> usize {
        let output = &self.sequence.output;
        output.remaining().min(context - self.cached)
    }
}
