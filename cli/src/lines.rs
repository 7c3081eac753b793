//! `gannet run --prompts`: the lines of a file, continued together.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use gannet_engine::batch::SeqId;
use gannet_engine::times::Times;
use gannet_engine::{Batch, Event, GenerateOptions, Generation};
use serde_json::json;

use crate::commands::run::{Begun, explained};
use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures::{self, counted};
use crate::flags::ModelFlag;
use crate::input;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::stream::{Circumstances, without_graph};
use crate::times;

/// What to continue, and how.
pub(crate) struct Lines<'a> {
    /// A prompt a line; `-` is standard input.
    pub(crate) file: &'a Path,
    pub(crate) options: &'a GenerateOptions,
    pub(crate) json: bool,
    pub(crate) timing: bool,
}

/// A line that is not empty.
struct Line<'t> {
    /// Among those, from 0.
    index: usize,
    /// In the file, as an editor shows it.
    number: usize,
    prompt: &'t str,
}

/// Where the time of all lines went.
#[derive(Default)]
struct Totals {
    tokens: usize,
    first_tokens: HashMap<SeqId, Instant>,
    /// From the start to each line's first token.
    first: Times,
    /// Each line's tokens after the first.
    rest: Times,
}

impl Lines<'_> {
    /// Continues every line. A line that cannot be continued is an error before any is; one that fails
    /// with a step is one after all others.
    pub(crate) fn run(
        &self,
        console: &mut Console,
        flag: &ModelFlag,
        begun: &Begun,
    ) -> Result<(), Failure> {
        let file = input::name_of(self.file);
        let text = input::read_text(self.file)?;
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty());
        let lines: Vec<Line<'_>> = (lines.enumerate())
            .map(|(index, (number, prompt))| Line {
                index,
                number,
                prompt,
            })
            .collect();
        if lines.is_empty() {
            let why = "no line to continue; write one prompt a line";
            return Err(Failure::Work(format!("{file}: {why}")));
        }
        let name = flag.name();
        if !self.json {
            console.note(format!("[model: {name}]"));
        }
        let model = flag.open(console)?;
        let mut batch = {
            let _progress = Progress::spinner(format!("loading {name}"));
            Batch::on(&model, &begun.settings, &begun.opening)?
        };
        let load = batch.load_report();
        let told = batch.notice();
        if let Some(notice) = &told {
            console.note(notice);
        }
        let mut ids = HashMap::new();
        for line in &lines {
            let mut options = self.options.clone();
            options.sampling.seed = options.sampling.seed.wrapping_add(line.index as u64);
            let added = batch.add_text(line.prompt, options);
            let added = added.map_err(|e| match explained(e, &model) {
                Failure::Work(why) => Failure::Work(format!("{file}: line {}: {why}", line.number)),
                other => other,
            })?;
            ids.insert(added, line.index);
        }
        let interrupt = Interrupt::watch();
        let progress = Progress::bar("lines", lines.len() as u64);
        progress.set(0);
        let (start, mut totals, mut failure) = (Instant::now(), Totals::default(), None);
        let mut was_told = false;
        while !batch.is_idle() {
            let finished = batch.step(|id, event| totals.hear(id, event, &interrupt));
            let mut finished: Vec<_> = finished;
            if interrupt.came() {
                // Those that wait have no events that could end them.
                let left: Vec<SeqId> = ids.keys().copied().collect();
                let ended = |id| Some((id, Ok(batch.remove(id)?)));
                finished.extend(left.into_iter().filter_map(ended));
            }
            progress.message(format!("lines, {}", counted(totals.tokens, "token")));
            if !was_told {
                progress.suspend(|| console.show_notes());
                was_told = true;
            }
            for (id, result) in finished {
                let index = ids.remove(&id).unwrap_or_default();
                let line = &lines[index];
                let generation = match result {
                    Ok(generation) => generation,
                    Err(e) => {
                        let why = format!("{file}: line {}: {e}", line.number);
                        failure.get_or_insert(Failure::Work(why));
                        continue;
                    }
                };
                if interrupt.came() && generation.tokens.is_empty() {
                    continue;
                }
                let first_token = totals.ended(id, &generation, begun.at);
                let circumstances = Circumstances {
                    model: &model.path().display().to_string(),
                    device: batch.executor().kind(),
                    seed: self.options.sampling.seed.wrapping_add(index as u64),
                    first_token,
                    fallbacks: batch.executor().stats().fallbacks,
                    context: batch.context(),
                    trained: model.hparams().context_length,
                };
                progress.set((lines.len() - ids.len()) as u64);
                progress.suspend(|| self.print(console, line, &generation, &circumstances))?;
            }
        }
        drop(progress);
        // What only running could show, such as a graph that could not be built.
        if let Some(notice) = batch.notice().filter(|n| told.as_ref() != Some(n)) {
            console.note(notice);
        }
        console.show_notes();
        if self.timing && !self.json {
            console::say(times::table(&load, begun.at, totals.earliest()).trim_end());
            console::say(times::lines(&totals.first, &totals.rest).trim_end());
        }
        let rate = totals.tokens as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let stats = batch.stats();
        let interrupted = interrupt.came();
        console::say(&format!(
            "[{}; prompts {} computed, {} shared; generated {}, {} tok/s together; {}{}{}]",
            counted(lines.len(), "line"),
            counted(stats.computed as usize, "token"),
            figures::count(stats.shared),
            counted(totals.tokens, "token"),
            figures::rate(rate),
            batch.executor().kind(),
            without_graph(batch.executor().stats().fallbacks),
            if interrupted { "; interrupted" } else { "" },
        ));
        match failure {
            Some(failure) => Err(failure),
            None if interrupted => Err(Failure::Interrupted),
            None => Ok(()),
        }
    }

    /// One line's continuation.
    fn print(
        &self,
        console: &mut Console,
        line: &Line<'_>,
        generation: &Generation,
        circumstances: &Circumstances<'_>,
    ) -> Result<(), Failure> {
        if self.json {
            let mut object = circumstances.report(generation);
            object["line"] = json!(line.index);
            console.json(&object)?;
        } else {
            console.line(&format!("==> {}: {} <==", line.index, line.prompt))?;
            console.line(&generation.text)?;
        }
        console.flush()
    }
}

impl Totals {
    fn hear(&mut self, id: SeqId, event: Event<'_>, interrupt: &Interrupt) -> ControlFlow<()> {
        if let Event::Token { .. } = event {
            self.tokens += 1;
            self.first_tokens.entry(id).or_insert_with(Instant::now);
        }
        match interrupt.came() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Takes the times of a line; seconds from `start` to its first token.
    fn ended(&mut self, id: SeqId, generation: &Generation, start: Instant) -> Option<f64> {
        let first = self.first_tokens.get(&id)?.saturating_duration_since(start);
        self.first.add(first);
        self.rest.add(generation.decode_time);
        Some(first.as_secs_f64())
    }

    /// When the first token of all came.
    fn earliest(&self) -> Option<Instant> {
        self.first_tokens.values().min().copied()
    }
}
