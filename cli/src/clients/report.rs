//! What clients saw, as text and as JSON.

use gannet_engine::tools::bench::{BenchKind, BenchReport};
use serde_json::{Value, json};

use crate::figures;

/// What clients saw.
#[derive(Debug)]
pub(crate) struct ClientsReport {
    pub(super) clients: usize,
    /// Of each prompt, and of each answer.
    pub(super) tokens: usize,
    /// From the first request to the last byte, the median of the repeats.
    pub(super) seconds: f64,
    /// Of half of the clients at most, in the same run.
    pub(super) first_token_seconds: f64,
    /// By the number of others.
    pub(super) joining: Vec<Joining>,
    pub(super) shared: Shared,
}

/// A long prompt that joined others.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) clients: usize,
    pub(super) prompt: usize,
    pub(super) first_token_seconds: f64,
    /// Between tokens of the others before it came.
    pub(super) before_p99_seconds: f64,
    /// Between tokens of the others until its first one.
    pub(super) during_p99_seconds: f64,
    /// Some of the others had all their tokens before it had its first.
    pub(super) others_ended_first: bool,
}

impl Joining {
    fn as_json(&self) -> Value {
        json!({
            "clients": self.clients,
            "prompt": self.prompt,
            "first_token_seconds": self.first_token_seconds,
            "inter_token_p99_before_seconds": self.before_p99_seconds,
            "inter_token_p99_during_seconds": self.during_p99_seconds,
            "others_ended_first": self.others_ended_first,
        })
    }

    fn as_text(&self) -> String {
        format!(
            "a prompt of {} joins {}: its first token after {}; between theirs {} before and {} meanwhile \
             (p99), {:.2} times as long{}\n",
            self.prompt,
            figures::counted(self.clients, "client"),
            figures::seconds(self.first_token_seconds),
            figures::seconds(self.before_p99_seconds),
            figures::seconds(self.during_p99_seconds),
            self.during_p99_seconds / self.before_p99_seconds.max(1e-9),
            match self.others_ended_first {
                true => "; some of them ended before that",
                false => "",
            },
        )
    }
}

/// Clients that shared a prefix.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clients: usize,
    pub(super) prefix: usize,
    pub(super) tail: usize,
    /// Rows of prompts that were computed for all of them.
    pub(super) rows_computed: usize,
    pub(super) first_token_seconds: f64,
    /// From the first first token to the last.
    pub(super) spread_seconds: f64,
}

/// What the same prompts take one after the other, and with the same generation, by the other rows of the
/// same run; `None` where they were not measured.
fn apart(clients: usize, tokens: usize, report: &BenchReport) -> Option<(f64, f64)> {
    let row = |kind, batch| {
        let mut fits = report
            .rows
            .iter()
            .filter(|row| row.kind == kind && row.tokens == tokens);
        fits.find(|row| row.batch == batch && row.depth == 0)
    };
    let prompts = clients as f64 * row(BenchKind::Prompt, 1)?.median();
    Some((prompts, row(BenchKind::Generate, clients)?.median()))
}

impl ClientsReport {
    pub(crate) fn as_json(&self, report: &BenchReport) -> Value {
        let apart = apart(self.clients, self.tokens, report);
        let s = &self.shared;
        json!({
            "clients": self.clients,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "first_token_p50_seconds": self.first_token_seconds,
            "prompts_apart_seconds": apart.map(|(prompts, _)| prompts),
            "generation_apart_seconds": apart.map(|(_, generation)| generation),
            "joining": self.joining.iter().map(Joining::as_json).collect::<Vec<_>>(),
            "shared": {
                "clients": s.clients,
                "prefix": s.prefix,
                "tail": s.tail,
                "prompt_rows_computed": s.rows_computed,
                "first_token_p50_seconds": s.first_token_seconds,
                "first_token_spread_seconds": s.spread_seconds,
            },
        })
    }

    pub(crate) fn as_text(&self, report: &BenchReport) -> String {
        let s = &self.shared;
        let joining: String = self.joining.iter().map(Joining::as_text).collect();
        let apart = apart(self.clients, self.tokens, report).map(|(prompts, generation)| {
            format!(
                ", {} of what prompts one by one and the generation take; first token of half of them \
                 within {}, {} of what the prompts take",
                figures::percent(self.seconds / (prompts + generation)),
                figures::seconds(self.first_token_seconds),
                figures::percent(self.first_token_seconds / prompts),
            )
        });
        let first = || {
            format!(
                "; first token of half of them within {}",
                figures::seconds(self.first_token_seconds)
            )
        };
        format!(
            "\n{} of {} + {} tokens at once: {}{}\n\
             {joining}\
             {} with a prefix of {} and {} more each: {} rows of prompts computed; first tokens within {} of \
             each other, half of them after {}\n",
            figures::counted(self.clients, "client"),
            self.tokens,
            self.tokens,
            figures::seconds(self.seconds),
            apart.unwrap_or_else(first),
            figures::counted(s.clients, "client"),
            s.prefix,
            s.tail,
            s.rows_computed,
            figures::seconds(s.spread_seconds),
            figures::seconds(s.first_token_seconds),
        )
    }
}
