//! A request under way: its output, and how its tokens are chosen where the host does.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

use super::callers::Listener;
use super::request::{LogProbs, LogitHook, Request};
use crate::exec::sample::{NO_TOKEN, Sampler, Sampling, argmax};
use crate::serve::output::Output;
use crate::serve::session::{Event, Finish};
use crate::text::grammar::{Allowed, Matcher};
use crate::text::tokenizer::Tokenizer;

/// A request under way.
pub(super) struct Live {
    /// What the listener knows it by.
    pub(super) key: u64,
    pub(super) sampling: Sampling,
    output: Output,
    /// Log-probabilities of tokens that have had no event.
    log_probs: VecDeque<LogProbs>,
    host: Option<HostChoice>,
    /// Tokens of the prompt that the caller knows to be done.
    announced: usize,
    /// Tokens of its prompt that were known when it first joined.
    cached: Option<usize>,
    pub(super) submitted: Instant,
    pub(super) latest: Option<Instant>,
    pub(super) deadline: Option<Instant>,
}

/// How the host chooses.
struct HostChoice {
    sampler: Option<Sampler>,
    bias: Vec<(u32, f32)>,
    hook: Option<Box<dyn LogitHook>>,
    log_probs: Option<usize>,
    /// Fewest tokens in front of one of `ends`.
    min_tokens: usize,
    /// Tokens that end the text.
    ends: Vec<u32>,
    grammar: Option<Following>,
    /// Logits as they are changed.
    changed: Vec<f32>,
}

/// The grammar of a text under way.
struct Following {
    matcher: Matcher,
    /// Tokens that end the text for its grammar, and are none of the text.
    ends: Vec<u32>,
    /// Whether those end it for the request.
    ignores_ends: bool,
    /// The tokens that may come next, once that is known; `None` where nothing may.
    next: Option<Option<Allowed>>,
    /// Why no token can be chosen any more.
    fault: Option<String>,
}

impl Following {
    /// Finds out which tokens may come next, where that is not known; `barred` may not.
    fn prepare(&mut self, barred: &[u32]) {
        if self.next.is_some() || self.fault.is_some() {
            return;
        }
        match self.matcher.allowed() {
            Ok(allowed) => {
                let ends: &[u32] = match self.ignores_ends {
                    true => &self.ends,
                    false => &[],
                };
                let open = allowed.and_then(|allowed| allowed.without(barred));
                self.next = Some(open.and_then(|allowed| allowed.without(ends)));
            }
            Err(why) => self.fault = Some(why),
        }
    }

    /// Takes the token that was chosen.
    fn accept(&mut self, token: u32) {
        self.next = None;
        if self.ends.contains(&token) {
            return;
        }
        self.fault = self.matcher.accept(token).err();
    }
}

impl Live {
    pub(super) fn new(
        tokenizer: &Tokenizer,
        key: u64,
        prompt: &[u32],
        request: Request,
        submitted: Instant,
    ) -> Live {
        let options = &request.options;
        let stops = options.stop_tokens.iter();
        let ends = tokenizer.ends().iter().filter(|_| !options.ignore_eog);
        let host = request.needs_logits().then(|| HostChoice {
            sampler: (!request.options.sampling.is_greedy())
                .then(|| Sampler::new(request.options.sampling.clone())),
            bias: request.logit_bias,
            hook: request.logit_hook,
            log_probs: request.log_probs,
            min_tokens: request.min_tokens,
            ends: ends.chain(stops).copied().collect(),
            grammar: None,
            changed: Vec::new(),
        });
        Live {
            key,
            output: Output::new(prompt, &request.options),
            sampling: request.options.sampling,
            log_probs: VecDeque::new(),
            host,
            announced: 0,
            cached: None,
            submitted,
            latest: None,
            deadline: request.deadline.map(|after| submitted + after),
        }
    }

    /// The same with a grammar.
    pub(super) fn with(mut self, tokenizer: &Tokenizer, matcher: Option<Matcher>) -> Live {
        if let (Some(host), Some(matcher)) = (&mut self.host, matcher) {
            host.grammar = Some(Following {
                matcher,
                ends: tokenizer.ends().to_vec(),
                ignores_ends: self.output.ignores_ends(),
                next: None,
                fault: None,
            });
        }
        self
    }

    fn grammar(&mut self) -> Option<&mut Following> {
        self.host.as_mut()?.grammar.as_mut()
    }

    /// Whether it is to be found out which tokens may come next.
    pub(super) fn waits(&self) -> bool {
        let grammar = self.host.as_ref().and_then(|host| host.grammar.as_ref());
        grammar.is_some_and(|g| g.next.is_none() && g.fault.is_none()) && !self.is_over()
    }

    /// Finds out which tokens may come next, where there is a grammar.
    pub(super) fn prepare(&mut self) {
        let generated = self.output.generated();
        let Some(host) = &mut self.host else {
            return;
        };
        if let Some(grammar) = &mut host.grammar {
            grammar.prepare(match generated < host.min_tokens {
                true => &host.ends,
                false => &[],
            });
        }
    }

    /// Ends a text whose grammar lets nothing more come.
    pub(super) fn end_if_complete(&mut self) {
        self.prepare();
        if self.grammar().is_some_and(|g| matches!(g.next, Some(None))) {
            self.output.end(Finish::EndOfText);
        }
    }

    /// Why there is no token that could be chosen, though its logits are numbers.
    pub(super) fn why_none(&mut self) -> String {
        let fault = self.grammar().map(|grammar| grammar.fault.take());
        match fault {
            Some(Some(why)) => format!("the grammar cannot be followed here: {why}"),
            Some(None) => {
                "biases or a hook leave no token that the grammar allows; leave the logits \
                           of some of these finite"
                    .to_owned()
            }
            None => {
                "biases or a hook leave no token that could be chosen; leave some logits finite"
                    .to_owned()
            }
        }
    }

    /// Draws that it has made where it has that many tokens: one for each behind its prompt.
    pub(super) fn draws(&self, tokens: usize) -> u64 {
        (tokens - self.output.prompt().len()) as u64
    }

    /// Notes how many of its tokens were known when it joined; later times it was there already.
    pub(super) fn join(&mut self, known: usize) {
        self.cached.get_or_insert(known);
    }

    /// Whether the host chooses its tokens.
    pub(super) fn is_chosen_by_host(&self) -> bool {
        self.host.is_some()
    }

    /// Whether nothing more is to be given: no token was asked for, or the caller wants none.
    pub(super) fn is_over(&self) -> bool {
        self.output.finished().is_some()
    }

    /// Says how much of the prompt is done, where the caller does not know.
    pub(super) fn announce(&mut self, done: usize, listener: &mut dyn Listener) -> ControlFlow<()> {
        let total = self.output.prompt().len();
        let done = done.min(total);
        if done <= self.announced {
            return ControlFlow::Continue(());
        }
        self.announced = done;
        let flow = listener.hear(self.key, Event::Prompt { done, total }, None);
        if flow.is_break() {
            self.output.end(Finish::Stopped);
        }
        flow
    }

    /// Chooses a token from logits.
    pub(super) fn choose(&mut self, logits: &[f32]) -> u32 {
        self.prepare();
        let history = self.output.history();
        let Some(host) = &mut self.host else {
            return argmax(logits);
        };
        host.changed.clear();
        host.changed.extend_from_slice(logits);
        for &(token, bias) in &host.bias {
            if let Some(logit) = host.changed.get_mut(token as usize) {
                *logit += bias;
            }
        }
        if let Some(hook) = &mut host.hook {
            hook.change(history, &mut host.changed);
        }
        if self.output.generated() < host.min_tokens {
            for &end in &host.ends {
                if let Some(logit) = host.changed.get_mut(end as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        if let Some(grammar) = &mut host.grammar {
            match &grammar.next {
                Some(Some(allowed)) => allowed.apply(&mut host.changed),
                Some(None) | None => return NO_TOKEN,
            }
        }
        let token = match &mut host.sampler {
            Some(sampler) => sampler.sample(&host.changed, history),
            None => argmax(&host.changed),
        };
        if token == NO_TOKEN {
            return token;
        }
        if let Some(grammar) = &mut host.grammar {
            grammar.accept(token);
        }
        if let Some(most) = host.log_probs {
            self.log_probs.push_back(log_probs(logits, token, most));
        }
        token
    }

    /// Takes a token that was chosen. Breaks where the sequence is over with it.
    pub(super) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: u32,
        listener: &mut dyn Listener,
    ) -> ControlFlow<()> {
        let (key, log_probs) = (self.key, &mut self.log_probs);
        let flow = self.output.push(tokenizer, token, &mut |event| {
            listener.hear(key, event, log_probs.pop_front())
        });
        let is_complete = self.grammar().is_some_and(|g| g.matcher.is_complete());
        match is_complete {
            true => {
                self.output.complete();
                ControlFlow::Break(())
            }
            false => flow,
        }
    }

    /// Ends it, with what it has given.
    pub(super) fn end(mut self, finish: Finish, listener: &mut dyn Listener) {
        self.output.end(finish);
        let (key, log_probs) = (self.key, &mut self.log_probs);
        let mut generation = (self.output)
            .into_generation(&mut |event| listener.hear(key, event, log_probs.pop_front()));
        generation.cached_tokens = self.cached.unwrap_or(0);
        listener.end(key, Ok(generation));
    }
}

/// Log-probabilities of a token, and of the most likely ones: `logit - log(sum(exp(logits)))`, in f64.
fn log_probs(logits: &[f32], token: u32, most: usize) -> LogProbs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    let norm = f64::from(max) + sum.ln();
    let of = |logit: f32| (f64::from(logit) - norm) as f32;
    let mut top: Vec<(u32, f32)> = (0..).zip(logits).map(|(i, &l)| (i, of(l))).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let most = most.min(top.len());
    if most < top.len() {
        top.select_nth_unstable_by(most, order);
        top.truncate(most);
    }
    top.sort_unstable_by(order);
    LogProbs {
        chosen: logits.get(token as usize).copied().map_or(f32::NAN, of),
        top,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_of_all_tokens() {
        let logits = [1.0f32, 3.0, 2.0, 3.0];
        let found = log_probs(&logits, 2, 3);
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let expected = |l: f32| (f64::from(l) - sum.ln()) as f32;
        assert!((found.chosen - expected(2.0)).abs() < 1e-6);
        let ids: Vec<u32> = found.top.iter().map(|t| t.0).collect();
        assert_eq!(ids, [1, 3, 2]);
        let all = log_probs(&logits, 0, 9);
        let total: f64 = all.top.iter().map(|t| f64::from(t.1).exp()).sum();
        assert!((total - 1.0).abs() < 1e-6 && all.top.len() == 4);
    }
}
