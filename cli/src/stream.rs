//! A generation on its way to the screen, and what is said of it when it has ended.

use std::ops::ControlFlow;
use std::time::Instant;

use gannet_engine::{Event, ExecutorKind, Finish, Generation};
use serde_json::json;

use crate::console::Console;
use crate::failure::Failure;
use crate::figures::{self, counted};
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// Prompts shorter than this are done before a bar could be read.
const LONG_PROMPT: usize = 512;

/// Shows a generation as it goes.
pub(crate) struct Stream<'c> {
    console: &'c mut Console,
    text: bool,
    interrupt: Interrupt,
    progress: Option<Progress>,
    pub(crate) first_token: Option<Instant>,
    pub(crate) failure: Option<Failure>,
}

impl<'c> Stream<'c> {
    pub(crate) fn new(console: &'c mut Console, text: bool, interrupt: Interrupt) -> Stream<'c> {
        Stream {
            console,
            text,
            interrupt,
            progress: Some(Progress::spinner("reading the prompt")),
            first_token: None,
            failure: None,
        }
    }

    pub(crate) fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Prompt { done, total } => {
                let console = &mut self.console;
                match &self.progress {
                    Some(progress) => progress.suspend(|| console.show_notes()),
                    None => console.show_notes(),
                }
                // The spinner that stands for a prompt of unknown length gives way to a bar.
                if total >= LONG_PROMPT && done < total {
                    let bar = self.progress.take().filter(Progress::is_bar);
                    let bar = bar.unwrap_or_else(|| Progress::bar("reading", total as u64));
                    bar.set(done as u64);
                    self.progress = Some(bar);
                }
            }
            Event::Token { text, .. } => {
                self.progress = None;
                self.first_token.get_or_insert_with(Instant::now);
                if self.text
                    && let Err(failure) = self.console.stream(text)
                {
                    self.failure = Some(failure);
                    return ControlFlow::Break(());
                }
            }
            _ => {}
        }
        match self.interrupt.came() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

pub(crate) fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Context => "context",
        Finish::EndOfText | Finish::StopString => "stop",
        Finish::Stopped => "cancelled",
        Finish::Deadline => "out of time",
    }
}

/// What is known of a run besides what it generated.
pub(crate) struct Circumstances<'a> {
    /// The model's file.
    pub(crate) model: &'a str,
    pub(crate) device: ExecutorKind,
    pub(crate) seed: u64,
    /// Seconds from when the prompt was there.
    pub(crate) first_token: Option<f64>,
    /// Steps that were to run as a graph and did not.
    pub(crate) fallbacks: u64,
    /// Positions of the cache.
    pub(crate) context: usize,
    /// Positions that the model was trained for.
    pub(crate) trained: usize,
}

impl Circumstances<'_> {
    pub(crate) fn report(&self, g: &Generation) -> serde_json::Value {
        json!({
            "text": g.text,
            "tokens": g.tokens,
            "prompt_tokens": g.prompt_tokens,
            "finish": finish_name(g.finish),
            "prompt_tokens_per_second": g.prompt_rate(),
            "decode_tokens_per_second": g.decode_rate(),
            "first_token_seconds": self.first_token,
            "device": self.device,
            "model": self.model,
            "seed": self.seed,
            "context": self.context,
            "fallbacks": self.fallbacks,
        })
    }

    /// The figures in one line.
    pub(crate) fn figures(&self, g: &Generation) -> String {
        let prompt = counted(g.prompt_tokens, "token");
        let mut parts = vec![format!(
            "prompt {prompt}, {} tok/s",
            figures::rate(g.prompt_rate())
        )];
        let generated = counted(g.tokens.len(), "token");
        // One token has no time between tokens.
        parts.push(match g.tokens.len() {
            0 | 1 => format!("generated {generated}"),
            _ => format!(
                "generated {generated}, {} tok/s",
                figures::rate(g.decode_rate())
            ),
        });
        if let Some(seconds) = self.first_token {
            parts.push(format!("first token after {}", figures::seconds(seconds)));
        }
        parts.push(format!("{}{}", self.device, without_graph(self.fallbacks)));
        match g.finish {
            Finish::Context => parts.push(full(self.context, self.trained)),
            Finish::Stopped => parts.push("interrupted".to_owned()),
            _ => {}
        }
        format!("[{}]", parts.join("; "))
    }
}

/// What to say of a context that is full, and what to do where something can be done.
pub(crate) fn full(context: usize, trained: usize) -> String {
    match context < trained {
        true => format!(
            "the context of {context} is full: --ctx N gives more, the model was trained for {trained}"
        ),
        false => format!(
            "the context of {context} is full, and the model was trained for no more than {trained}"
        ),
    }
}

/// Steps that were to run as a graph and did not, if there were any.
pub(crate) fn without_graph(fallbacks: u64) -> String {
    match fallbacks {
        0 => String::new(),
        n => format!("; {} without a graph", counted(n as usize, "step")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn figures(tokens: usize, finish: Finish) -> String {
        let generation = Generation {
            prompt_tokens: 1,
            cached_tokens: 0,
            tokens: vec![0; tokens],
            text: String::new(),
            finish,
            stop: None,
            prompt_time: Duration::from_secs(1),
            decode_time: Duration::from_secs(1),
        };
        let circumstances = Circumstances {
            model: "m.gguf",
            device: ExecutorKind::Cpu,
            seed: 0,
            first_token: None,
            fallbacks: 0,
            context: 8,
            trained: 1024,
        };
        circumstances.figures(&generation)
    }

    #[test]
    fn one_is_singular_and_a_full_context_is_told() {
        let prompt = "[prompt 1 token, 1.00 tok/s; generated";
        assert_eq!(
            figures(1, Finish::Length),
            format!("{prompt} 1 token; cpu]")
        );
        let two = format!("{prompt} 2 tokens, 1.00 tok/s; cpu");
        assert_eq!(figures(2, Finish::Length), format!("{two}]"));
        assert_eq!(figures(2, Finish::Stopped), format!("{two}; interrupted]"));
        let context = figures(2, Finish::Context);
        assert!(context.contains("context of 8 is full: --ctx"), "{context}");
        assert!(!full(1024, 1024).contains("--ctx"));
    }
}
