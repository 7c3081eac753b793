//! `gannet run`: continues a prompt.
//!
//! Standard output gets the continuation and nothing else, whole characters as they come, flushed
//! for every token. With `--prompts` it gets the continuation of every line of a file, each whole
//! when it is done. Ctrl-C ends the text and keeps what there is, with its figures.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use gannet_engine::settings::{Given, Settings};
use gannet_engine::{Error, Finish, GenerateOptions, Model, Opening, Session};
use serde_json::json;

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::flags::{self, DeviceFlags, ModelFlag};
use crate::interrupt::Interrupt;
use crate::lines::Lines;
use crate::progress::Progress;
use crate::prompt::{PromptFlags, Source};
use crate::sampling::{DEFAULTS, SamplingFlags};
use crate::stream::{Circumstances, Stream};
use crate::times;

/// Lines of `--prompts` at once where nobody said how many.
const DEFAULT_SLOTS: u16 = 8;

/// Continue a prompt: text to standard output, figures to standard error
#[derive(Args)]
#[command(after_help = DEFAULTS)]
pub(crate) struct Run {
    #[command(flatten)]
    prompt: PromptFlags,
    #[command(flatten)]
    model: ModelFlag,
    /// Most tokens to generate; -1: until the text ends or the context is full
    #[arg(short = 'n', long, value_name = "N", default_value = "128", value_parser = most_tokens,
          aliases = ["n-predict", "num-predict", "predict"])]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    device: DeviceFlags,
    /// Positions of the cache, for prompt and continuation [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N", alias = "ctx-size")]
    ctx: Option<usize>,
    /// Go on when the model ends its text
    #[arg(long)]
    ignore_eos: bool,
    /// End the text where TEXT begins, which is not printed; may be given several times
    #[arg(long, value_name = "TEXT", aliases = ["reverse-prompt"])]
    stop: Vec<String>,
    /// End the text at this token, which is not printed; may be given more than once
    #[arg(long, value_name = "ID")]
    stop_id: Vec<u32>,
    /// Continue every line of a file (- is standard input), many at once, and print each when it is
    /// done; empty lines are skipped, line i (from 0) of the others has seed S + i. Nothing runs where a
    /// line is too long for the cache. What a line gives does not depend on the others, on a GPU as far
    /// as --batch-invariant says
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Lines of --prompts to work on at once [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: Option<u16>,
    /// Print where the time went: the phases of the load, the first token, what each token took
    #[arg(short = 'v', long, visible_alias = "verbose")]
    timing: bool,
    /// Print one JSON object at the end instead of text as it comes
    #[arg(long)]
    json: bool,
}

/// A run on its way: its device opens while its model does.
pub(crate) struct Begun {
    pub(crate) at: Instant,
    pub(crate) settings: Settings,
    pub(crate) opening: Opening,
}

/// A number of tokens, or -1 for no limit.
pub(crate) fn most_tokens(text: &str) -> Result<usize, String> {
    match text {
        "-1" => Ok(usize::MAX),
        _ => text
            .parse()
            .map_err(|_| "expected a number of tokens, or -1 for no limit".to_owned()),
    }
}

impl Run {
    pub(crate) fn run(mut self, console: &mut Console) -> Result<(), Failure> {
        let (model, source) = self.prompt.take(self.model.is_given())?;
        if let Some(path) = model {
            self.model.set(path);
        }
        let options = self.options(&source)?;
        flags::check_context("--ctx", self.ctx)?;
        let slots = (self.prompts.is_some()).then(|| self.slots.unwrap_or(DEFAULT_SLOTS).into());
        let settings = flags::resolve(&Given {
            context: self.ctx,
            slots,
            ..self.device.given()
        })?;
        // Before the clock starts: whoever writes the prompt is not what is measured.
        let prompt = match &self.prompts {
            Some(_) => String::new(),
            None => source.text()?,
        };
        let begun = Begun {
            at: Instant::now(),
            opening: Opening::start(&settings),
            settings,
        };
        match &self.prompts {
            Some(file) => Lines {
                file,
                options: &options,
                json: self.json,
                timing: self.timing,
            }
            .run(console, &self.model, &begun),
            None => self.run_one(console, &prompt, &options, &begun),
        }
    }

    /// Checks the flags that go together, and sums up what is to be generated.
    fn options(&self, source: &Source) -> Result<GenerateOptions, Failure> {
        let usage = |why: &str| Err(Failure::Usage(why.to_owned()));
        if self.stop.iter().any(String::is_empty) {
            return usage("--stop needs some text to end at");
        }
        if self.slots.is_some() && self.prompts.is_none() {
            return usage("--slots needs --prompts");
        }
        if self.prompts.is_some() && *source != Source::Open {
            return usage("the prompts are the lines of --prompts; give no other one");
        }
        Ok(GenerateOptions {
            max_tokens: self.max_tokens,
            sampling: self.sampling.sampling(!self.model.is_given())?,
            ignore_eog: self.ignore_eos,
            stop: self.stop.clone(),
            stop_tokens: self.stop_id.clone(),
            ..GenerateOptions::default()
        })
    }

    fn run_one(
        &self,
        console: &mut Console,
        prompt: &str,
        options: &GenerateOptions,
        begun: &Begun,
    ) -> Result<(), Failure> {
        let name = self.model.name();
        if !self.json {
            console.note(format!("[model: {name}]"));
        }
        let model = self.model.open(console)?;
        let mut session = {
            let _progress = Progress::spinner(format!("loading {name}"));
            Session::on(&model, &begun.settings, &begun.opening)?
        };
        let load = session.load_report();
        let told = session.notice();
        if let Some(notice) = &told {
            console.note(notice);
        }
        let interrupt = Interrupt::watch();
        let mut stream = Stream::new(console, !self.json, interrupt.clone());
        let generated = session.generate(prompt, options, |event| stream.event(event));
        let first_token_at = stream.first_token;
        // A failure to print explains a stopped generation, so it comes first.
        if let Some(failure) = stream.failure.take() {
            return Err(failure);
        }
        drop(stream);
        // What only running could show, such as a graph that could not be built.
        if let Some(notice) = session.notice().filter(|n| told.as_ref() != Some(n)) {
            console.note(notice);
        }
        let generation = generated.map_err(|e| explained(e, &model))?;
        let circumstances = Circumstances {
            model: &model.path().display().to_string(),
            device: session.executor().kind(),
            seed: options.sampling.seed,
            first_token: first_token_at.map(|at| at.duration_since(begun.at).as_secs_f64()),
            fallbacks: session.executor().stats().fallbacks,
            context: session.context(),
            trained: model.hparams().context_length,
        };
        if self.json {
            let mut object = circumstances.report(&generation);
            object["load"] = json!(load);
            object["times"] = json!(session.times());
            console.json(&object)?;
            console.finish()?;
        } else {
            console.end_text()?;
            console.show_notes();
            if self.timing {
                console::say(times::table(&load, begun.at, first_token_at).trim_end());
                console::say(times::tokens(&session.times()).trim_end());
            }
            if let Some(moved) = times::moved(&load) {
                console::say(&format!("[{moved}]"));
            }
            console::say(&circumstances.figures(&generation));
        }
        match generation.finish == Finish::Stopped && interrupt.came() {
            true => Err(Failure::Interrupted),
            false => Ok(()),
        }
    }
}

/// An error of a prompt, with what helps: a longer context does not where the model knows no such
/// positions.
pub(crate) fn explained(error: Error, model: &Model) -> Failure {
    let trained = model.hparams().context_length;
    match error {
        Error::ContextFull { tokens, context } if tokens > trained => Failure::Work(format!(
            "{tokens} tokens do not fit the context of {context}; shorten the prompt: the model was \
             trained for {trained}"
        )),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_or_without_limit() {
        assert_eq!(most_tokens("0"), Ok(0));
        assert_eq!(most_tokens("-1"), Ok(usize::MAX));
        for wrong in ["-2", "many", "1.5", ""] {
            assert!(most_tokens(wrong).unwrap_err().contains("-1"), "{wrong}");
        }
    }
}
