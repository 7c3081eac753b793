//! `gannet run`: continues a prompt.
//!
//! Standard output gets the continuation and nothing else, whole characters as they come, flushed
//! for every token. With `--prompts` it gets the continuation of every line of a file, each whole
//! when it is done.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use gannet_engine::settings::{Given, Settings};
use gannet_engine::{
    Batch, Event, ExecutorKind, Finish, GenerateOptions, Generation, Opening, Sampling, Session,
};
use gannet_gguf::shown_path;
use serde_json::json;

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures;
use crate::input;
use crate::flags::{self, DeviceFlags, ModelFlag};
use crate::progress::Progress;
use crate::times;

/// Prompts shorter than this are done before a bar could be read.
const LONG_PROMPT: usize = 512;

/// Lines of `--prompts` at once where nobody said how many.
const DEFAULT_SLOTS: u16 = 8;

/// Continue a prompt: text to standard output, figures to standard error
#[derive(Args)]
pub(crate) struct Run {
    /// Text to continue; `-` reads it from standard input [default: the start of a text]
    #[arg(value_name = "PROMPT", default_value = "", hide_default_value = true)]
    prompt: String,
    #[command(flatten)]
    model: ModelFlag,
    /// Most tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    device: DeviceFlags,
    /// Positions of the cache, for prompt and continuation [default: the model's, at most 4096]
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// Go on when the model ends its text
    #[arg(long)]
    ignore_eos: bool,
    /// End the text where TEXT begins, which is not printed; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// End the text at this token, which is not printed; may be given more than once
    #[arg(long, value_name = "ID")]
    stop_id: Vec<u32>,
    /// Continue every line of a file, many at once, and print each when it is done; empty lines are
    /// skipped, line i (from 0) of the others has seed S + i. Nothing runs where a line is too long
    /// for the cache. What a line gives does not depend on the others, on a GPU as far as
    /// --batch-invariant says
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "timing"])]
    prompts: Option<PathBuf>,
    /// Lines of --prompts to work on at once [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: Option<u16>,
    /// Print where the time went: the phases of the load, the first token, what each token took
    #[arg(long)]
    timing: bool,
    /// Print one JSON object at the end instead of text as it comes
    #[arg(long)]
    json: bool,
}

/// How the next token is chosen.
#[derive(Args)]
struct SamplingFlags {
    /// Temperature; 0 takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temp: f32,
    /// Choose among the K most likely tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the most likely tokens that together reach probability P
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Choose among tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Make recent tokens less likely by this factor; 1: not
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repeat_penalty: f32,
    /// Subtract this from the logit of every recent token
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    presence_penalty: f32,
    /// Subtract this from the logit of a recent token for each time it occurs
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    frequency_penalty: f32,
    /// How many of the last tokens the penalties look at, at most 256
    #[arg(long, value_name = "N", default_value_t = 64)]
    penalty_window: usize,
    /// Seed of the random choice: the same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl SamplingFlags {
    fn sampling(&self) -> Result<Sampling, Failure> {
        let sampling = Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_window: self.penalty_window,
            seed: self.seed,
        };
        sampling.check().map_err(Failure::Usage)?;
        Ok(sampling)
    }
}

/// A run on its way: its device opens while its model does.
struct Begun {
    at: Instant,
    settings: Settings,
    opening: Opening,
}

impl Run {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let start = Instant::now();
        let options = GenerateOptions {
            max_tokens: self.max_tokens,
            sampling: self.sampling.sampling()?,
            ignore_eog: self.ignore_eos,
            stop: self.stop.clone(),
            stop_tokens: self.stop_id.clone(),
            ..GenerateOptions::default()
        };
        if self.stop.iter().any(String::is_empty) {
            return Err(Failure::Usage(
                "--stop needs some text to end at".to_owned(),
            ));
        }
        if self.slots.is_some() && self.prompts.is_none() {
            return Err(Failure::Usage("--slots needs --prompts".to_owned()));
        }
        flags::check_context("--ctx", self.ctx)?;
        let slots = (self.prompts.is_some()).then(|| self.slots.unwrap_or(DEFAULT_SLOTS).into());
        let settings = flags::resolve(&Given {
            context: self.ctx,
            slots,
            ..self.device.given()
        })?;
        let begun = Begun {
            at: start,
            opening: Opening::start(&settings),
            settings,
        };
        if let Some(file) = &self.prompts {
            return self.run_lines(console, file, &options, &begun);
        }
        let prompt = self.prompt_text()?;
        let model = self.model.open(console)?;
        let mut session = {
            let _progress = Progress::spinner("loading");
            Session::on(&model, &begun.settings, &begun.opening)?
        };
        let load = session.load_report();
        let told = session.notice();
        if let Some(notice) = &told {
            console.note(notice);
        }
        let mut stream = Stream::new(console, !self.json);
        let generated = session.generate(&prompt, &options, |event| stream.event(event));
        let first_token_at = stream.first_token;
        let first_token = first_token_at.map(|at| at.duration_since(start).as_secs_f64());
        // A failure to print explains a stopped generation, so it comes first.
        if let Some(failure) = stream.failure.take() {
            return Err(failure);
        }
        drop(stream);
        // What only running could show, such as a graph that could not be built.
        if let Some(notice) = session.notice().filter(|n| told.as_ref() != Some(n)) {
            console.note(notice);
        }
        let generation = generated?;
        let device = session.executor().kind();
        let fallbacks = session.executor().stats().fallbacks;
        if self.json {
            let mut object = report(&generation, device, first_token);
            object["load"] = json!(load);
            object["times"] = json!(session.times());
            object["fallbacks"] = json!(fallbacks);
            console.json(&object)
        } else {
            console.end_text()?;
            console.show_notes();
            if self.timing {
                console::say(times::table(&load, start, first_token_at).trim_end());
                console::say(times::tokens(&session.times()).trim_end());
            }
            if let Some(moved) = times::moved(&load) {
                console::say(&format!("[{moved}]"));
            }
            console::say(&figures_line(&generation, device, first_token, fallbacks));
            Ok(())
        }
    }

    /// Continues every line of a file. A line that cannot be continued is an error before any is; one
    /// that fails with a step is one after all others.
    fn run_lines(
        &self,
        console: &mut Console,
        file: &Path,
        options: &GenerateOptions,
        begun: &Begun,
    ) -> Result<(), Failure> {
        let text = input::read_text(file)?;
        // With the number that an editor shows.
        let lines: Vec<(usize, &str)> = (1..)
            .zip(text.lines())
            .filter(|(_, line)| !line.is_empty())
            .collect();
        if lines.is_empty() {
            let why = "no line to continue; write one prompt a line";
            return Err(Failure::Work(format!("{}: {why}", shown_path(file))));
        }
        let model = self.model.open(console)?;
        let mut batch = {
            let _progress = Progress::spinner("loading");
            Batch::on(&model, &begun.settings, &begun.opening)?
        };
        let told = batch.notice();
        if let Some(notice) = &told {
            console.note(notice);
        }
        let mut ids = HashMap::new();
        for (i, (number, line)) in lines.iter().enumerate() {
            let mut options = options.clone();
            options.sampling.seed = options.sampling.seed.wrapping_add(i as u64);
            let added = batch
                .add_text(line, options)
                .map_err(|e| Failure::Work(format!("{}: line {number}: {e}", shown_path(file))))?;
            ids.insert(added, i);
        }
        let (start, mut generated) = (Instant::now(), 0);
        let mut failure = None;
        let mut first_tokens = HashMap::new();
        while !batch.is_idle() {
            let finished = batch.step(|id, event| {
                if let Event::Token { .. } = event {
                    first_tokens
                        .entry(id)
                        .or_insert_with(|| begun.at.elapsed().as_secs_f64());
                }
                ControlFlow::Continue(())
            });
            for (id, result) in finished {
                console.show_notes();
                let line = ids.get(&id).copied().unwrap_or_default();
                let generation = match result {
                    Ok(generation) => generation,
                    Err(e) => {
                        let why = format!("{}: line {}: {e}", shown_path(file), lines[line].0);
                        failure.get_or_insert(Failure::Work(why));
                        continue;
                    }
                };
                generated += generation.tokens.len();
                let first_token = first_tokens.remove(&id);
                if self.json {
                    let mut object = report(&generation, batch.executor().kind(), first_token);
                    object["line"] = json!(line);
                    object["fallbacks"] = json!(batch.executor().stats().fallbacks);
                    console.json(&object)?;
                } else {
                    console.line(&format!("==> {line}: {} <==", lines[line].1))?;
                    console.line(&generation.text)?;
                }
                console.flush()?;
            }
        }
        // What only running could show, such as a graph that could not be built.
        if let Some(notice) = batch.notice().filter(|n| told.as_ref() != Some(n)) {
            console.note(notice);
        }
        console.show_notes();
        let rate = generated as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let stats = batch.stats();
        console::say(&format!(
            "[{} lines; prompts {} tokens computed, {} shared; generated {generated} tokens, {} tok/s \
             together; {}{}]",
            lines.len(),
            stats.computed,
            stats.shared,
            figures::rate(rate),
            batch.executor().kind(),
            without_graph(batch.executor().stats().fallbacks)
        ));
        failure.map_or(Ok(()), Err)
    }

    fn prompt_text(&self) -> Result<String, Failure> {
        if self.prompt != "-" {
            return Ok(self.prompt.clone());
        }
        input::read_text(Path::new("-"))
    }
}

/// Shows a generation as it goes.
struct Stream<'c> {
    console: &'c mut Console,
    text: bool,
    progress: Option<Progress>,
    first_token: Option<Instant>,
    failure: Option<Failure>,
}

impl<'c> Stream<'c> {
    fn new(console: &'c mut Console, text: bool) -> Stream<'c> {
        Stream {
            console,
            text,
            progress: None,
            first_token: None,
            failure: None,
        }
    }

    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Prompt { done, total } => {
                self.console.show_notes();
                if total >= LONG_PROMPT {
                    let bar = || Progress::bar("reading", total as u64);
                    self.progress.get_or_insert_with(bar).set(done as u64);
                }
                ControlFlow::Continue(())
            }
            Event::Token { text, .. } => {
                self.progress = None;
                self.first_token.get_or_insert_with(Instant::now);
                if !self.text {
                    return ControlFlow::Continue(());
                }
                match self.console.stream(text) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(failure) => {
                        self.failure = Some(failure);
                        ControlFlow::Break(())
                    }
                }
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Context => "context",
        Finish::EndOfText | Finish::StopString => "stop",
        Finish::Stopped => "cancelled",
        Finish::Deadline => "out of time",
    }
}

fn report(g: &Generation, device: ExecutorKind, first_token: Option<f64>) -> serde_json::Value {
    json!({
        "text": g.text,
        "tokens": g.tokens,
        "prompt_tokens": g.prompt_tokens,
        "finish": finish_name(g.finish),
        "prompt_tokens_per_second": g.prompt_rate(),
        "decode_tokens_per_second": g.decode_rate(),
        "first_token_seconds": first_token,
        "device": device,
    })
}

/// Steps that were to run as a graph and did not, if there were any.
fn without_graph(fallbacks: u64) -> String {
    match fallbacks {
        0 => String::new(),
        n => format!("; {n} steps without a graph"),
    }
}

fn figures_line(
    g: &Generation,
    device: ExecutorKind,
    first_token: Option<f64>,
    fallbacks: u64,
) -> String {
    let mut parts = vec![format!(
        "prompt {} tokens, {} tok/s",
        g.prompt_tokens,
        figures::rate(g.prompt_rate())
    )];
    // One token has no time between tokens.
    if g.tokens.len() > 1 {
        let rate = figures::rate(g.decode_rate());
        parts.push(format!("generated {} tokens, {rate} tok/s", g.tokens.len()));
    } else {
        parts.push(format!("generated {} tokens", g.tokens.len()));
    }
    if let Some(seconds) = first_token {
        parts.push(format!("first token after {}", figures::seconds(seconds)));
    }
    parts.push(format!("{device}{}", without_graph(fallbacks)));
    format!("[{}]", parts.join("; "))
}
