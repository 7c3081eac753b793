//! A grammar that follows one text.

use llguidance::toktrie::SimpleVob;

use super::compile::one_line;
use super::numerals::Numerals;

/// The tokens that may come next, by id.
#[derive(Clone)]
pub struct Allowed(SimpleVob);

impl Allowed {
    /// Whether a token may come.
    #[must_use]
    pub fn contains(&self, token: u32) -> bool {
        let word = self.0.as_slice().get(token as usize / 32);
        word.is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Their ids, ascending.
    pub(super) fn tokens(&self) -> impl Iterator<Item = u32> {
        self.0.iter()
    }

    /// The same without some tokens; `None` where there are no others.
    #[must_use]
    pub fn without(mut self, tokens: &[u32]) -> Option<Allowed> {
        for &token in tokens {
            if self.contains(token) {
                self.0.disallow_token(token);
            }
        }
        let is_empty = self.0.is_zero();
        (!is_empty).then_some(self)
    }

    /// Gives the logits of all other tokens the value minus infinity.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self
            .0
            .as_slice()
            .iter()
            .copied()
            .chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            if word == u32::MAX {
                continue;
            }
            for (i, logit) in logits.iter_mut().enumerate() {
                if word >> i & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// A compiled grammar and what it has seen of a text.
pub struct Matcher {
    parser: llguidance::Matcher,
    numerals: Option<Numerals>,
}

impl Matcher {
    /// At the start of a text; `numerals` follow one that is JSON.
    pub(super) fn new(parser: llguidance::Matcher, numerals: Option<Numerals>) -> Matcher {
        Matcher { parser, numerals }
    }

    /// The same at the same place, for another text.
    #[must_use]
    pub fn fork(&self) -> Matcher {
        Matcher {
            parser: self.parser.deep_clone(),
            numerals: self.numerals.clone(),
        }
    }

    /// The tokens that may come next, those that end a text among them where it may end here; `None`
    /// where the text is complete and nothing more may come.
    ///
    /// # Errors
    /// No token may come, though the text is not complete: one line. So does a grammar whose next step is
    /// beyond what is computed for a token.
    pub fn allowed(&mut self) -> Result<Option<Allowed>, String> {
        if self.is_complete() {
            return Ok(None);
        }
        let may_end = self.parser.is_accepting();
        let may_end = may_end.map_err(|e| one_line(&e.to_string()))?;
        match self.parser.compute_mask() {
            Ok(mask) => {
                let (allowed, numerals) = (Allowed(mask), self.numerals.as_ref());
                Ok(Some(match numerals {
                    Some(numerals) => numerals.bound(allowed),
                    None => allowed,
                }))
            }
            Err(_) if may_end => Ok(None),
            Err(error) => Err(one_line(&error.to_string())),
        }
    }

    /// Takes the next token of the text.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn accept(&mut self, token: u32) -> Result<(), String> {
        if let Some(numerals) = &mut self.numerals {
            numerals.accept(token);
        }
        let taken = self.parser.consume_token(token);
        taken.map_err(|e| one_line(&e.to_string()))
    }

    /// Whether the text matches the grammar and cannot go on.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.parser.is_error() && self.parser.is_stopped()
    }

    /// Whether the text may end here.
    pub fn may_end(&mut self) -> bool {
        self.is_complete() || self.parser.is_accepting().unwrap_or(false)
    }
}
