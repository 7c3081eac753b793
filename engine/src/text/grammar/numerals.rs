//! Numbers in JSON that come to an end.
//!
//! A schema of numbers allows ever more digits behind the point, and a model that has begun to repeat
//! itself writes them. No number needs more digits in a row than 64 bits have, so behind so many another
//! comes only where nothing else may.

use llguidance::toktrie::{TokEnv, TokenId};

use super::matcher::Allowed;

/// The most digits in a row: those of the largest integer of 64 bits.
const MOST_DIGITS: usize = 20;

/// Where a JSON text is.
#[derive(Clone)]
pub(super) struct Numerals {
    env: TokEnv,
    in_string: bool,
    is_escaped: bool,
    /// Digits at its end, outside of strings.
    digits: usize,
}

impl Numerals {
    /// At the start of a text.
    pub(super) fn new(env: &TokEnv) -> Numerals {
        Numerals {
            env: TokEnv::clone(env),
            in_string: false,
            is_escaped: false,
            digits: 0,
        }
    }

    /// Takes a token.
    pub(super) fn accept(&mut self, token: TokenId) {
        for &byte in self.env.tok_trie().token(token) {
            self.digits = match byte.is_ascii_digit() && !self.in_string {
                true => self.digits + 1,
                false => 0,
            };
            if byte == b'"' && !self.is_escaped {
                self.in_string = !self.in_string;
            }
            self.is_escaped = byte == b'\\' && self.in_string && !self.is_escaped;
        }
    }

    /// Forbids one more digit behind many, where something else may come.
    pub(super) fn bound(&self, allowed: Allowed) -> Allowed {
        if self.digits < MOST_DIGITS {
            return allowed;
        }
        let trie = self.env.tok_trie();
        let is_digit = |&token: &TokenId| trie.token(token).first().is_some_and(u8::is_ascii_digit);
        let digits: Vec<TokenId> = allowed.tokens().filter(is_digit).collect();
        match allowed.clone().without(&digits) {
            Some(others) => others,
            None => allowed,
        }
    }
}
