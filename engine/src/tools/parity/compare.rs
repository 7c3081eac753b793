//! Which steps two executors are compared on: prompts of several sequences, whole or in chunks,
//! tokens generated for all of them at once, and what a sequence gives alone.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::report::{bit_equal, compare_tokens, error};
use super::{BufferRow, Mode, Report, Side, Tolerance, diff, diff_chunks};
use crate::Error;
use crate::exec::sample::{NO_TOKEN, Sampling, argmax};
use crate::exec::trace::Replay;
use crate::exec::{DecodeStart, Executor, Inspect, StepRows};
use crate::kv::BlockTable;
use crate::lower::{Activations, Shape, StepKind, Unit};
use crate::model::Model;
use crate::settings::{Buffers, Faults, Settings};
use crate::tools::make_executor;

/// Rows of the step between the prompt and the generated tokens.
const FEW_ROWS: usize = 5;

/// Largest NMSE of the logits of a sequence in a batch against the same sequence alone, where other
/// kernels run: products of all layers may have f16 inputs on one side and f32 on the other.
pub const ALONE_LIMIT: f64 = 1e-4;

/// The same where products of one side have int8 inputs and those of the other have not: 3e-4 was
/// measured on a model of few layers, and errors add up over more.
pub const ALONE_INT8_LIMIT: f64 = 1e-2;

/// Logits of the two most likely tokens closer than this may change places between kernels.
pub const MARGIN: f32 = 0.05;

/// The limit of logits that steps of two shapes give, by the units of each.
pub(crate) fn alone_limit(alone: &[Unit], together: &[Unit]) -> f64 {
    let rounded = |units: &[Unit]| -> Vec<Vec<usize>> {
        let int8 = units.iter().filter(|u| u.activations == Activations::Int8);
        int8.map(|u| u.ops.clone()).collect()
    };
    if rounded(alone) == rounded(together) {
        ALONE_LIMIT
    } else {
        ALONE_INT8_LIMIT
    }
}

/// What [`compare`] compares.
#[derive(Debug, Clone)]
pub struct ParityOptions {
    /// The reference.
    pub left: Side,
    /// What is held against it.
    pub right: Side,
    /// What both sides run by, apart from what they are and what the sizes of the comparison decide:
    /// the arithmetic, the type of the cache and the variants of kernels of those that run kernels,
    /// the index of the GPU, and faults to plant, which the right side alone gets.
    pub settings: Settings,
    /// Tokens of the prompt; at least one.
    pub tokens: Vec<u32>,
    /// Tokens generated after it, one a step, each the left side's choice.
    pub generate: usize,
    /// Sequences at once, each in a slot of its own. Sequence `i` has the prompt rotated by `i`
    /// tokens, less its last `3 * i` modulo half of its length: [`prompts`].
    pub batch: usize,
    /// Tokens of the chunks in which the right side gets each prompt, the left side whole.
    pub chunk: Option<usize>,
    /// Compare what each sequence gives in the batch with what it gives alone, both on the right
    /// side; the left one is not made.
    pub alone: bool,
}

impl Default for ParityOptions {
    fn default() -> Self {
        ParityOptions {
            left: Side::Cpu,
            right: Side::CudaEager,
            settings: Settings::default(),
            // Any tokens do; these are in every vocabulary.
            tokens: (0..40).map(|i| (i * 37 + 11) % 256).collect(),
            generate: 3,
            batch: 1,
            chunk: None,
            alone: false,
        }
    }
}

/// The prompts of `batch` sequences: different tokens at each position, different lengths, the first
/// as given.
#[must_use]
pub fn prompts(tokens: &[u32], batch: usize) -> Vec<Vec<u32>> {
    let half = tokens.len().div_ceil(2).max(1);
    let prompt = |i: usize| {
        let mut tokens = tokens.to_vec();
        if !tokens.is_empty() {
            let by = i % tokens.len();
            tokens.rotate_left(by);
        }
        tokens.truncate(tokens.len() - 3 * i % half);
        tokens
    };
    (0..batch).map(prompt).collect()
}

/// Makes both executors and compares them on prompts, on a few rows after them, and on generated
/// tokens. A CPU on the left leads the right side in lockstep; two GPU executors run free, must agree
/// in every bit, and must decode the same tokens.
///
/// # Errors
/// A device that cannot be used, or one that failed.
pub fn compare(model: &Arc<Model>, options: &ParityOptions) -> Result<Vec<Report>, Error> {
    model.check_tokens(&options.tokens)?;
    options.settings.overrides.check(model.plan())?;
    let refuse = |why: &str| Err(Error::Request(why.to_owned()));
    if options.tokens.is_empty() {
        return refuse("parity needs at least one token");
    }
    if options.batch == 0 || options.chunk == Some(0) {
        return refuse("parity needs at least one sequence, and one token in a chunk");
    }
    if options.alone {
        let faults = options.settings.faults;
        let mut executor = side(model, options, options.right, faults)?;
        return Sequences::new(options, executor.as_ref())?.alone(executor.inspect());
    }
    let mut left = side(model, options, options.left, Faults::default())?;
    let mut right = side(model, options, options.right, options.settings.faults)?;
    let sequences = Sequences::new(options, left.as_ref())?;
    let mut reports = sequences.compare(left.inspect(), right.inspect())?;
    // What was asked for: executors of one kind go by one name.
    for report in &mut reports {
        report.left = options.left.to_string();
        report.right = options.right.to_string();
    }
    Ok(reports)
}

/// The sequences under comparison.
struct Sequences<'a> {
    options: &'a ParityOptions,
    table: BlockTable,
    /// Tokens of each slot.
    tokens: Vec<Vec<u32>>,
}

impl<'a> Sequences<'a> {
    fn new(options: &'a ParityOptions, executor: &dyn Executor) -> Result<Sequences<'a>, Error> {
        let (slots, context) = (options.batch, executor.limits().context);
        let mut table = BlockTable::new(slots, context, BlockTable::blocks_for(slots, context));
        for slot in 0..slots {
            table.reserve(slot, context)?;
        }
        Ok(Sequences {
            options,
            table,
            tokens: prompts(&options.tokens, slots),
        })
    }

    /// How the sides are compared.
    fn how(&self) -> (Mode, Tolerance) {
        if self.options.left.is_gpu() && self.options.right.is_gpu() {
            (Mode::Free, Tolerance::BitEqual)
        } else {
            (Mode::Lockstep, Tolerance::PerOperation)
        }
    }

    fn compare(
        mut self,
        left: &mut dyn Inspect,
        right: &mut dyn Inspect,
    ) -> Result<Vec<Report>, Error> {
        let (mode, tolerance) = self.how();
        let mut reports = Vec::new();
        for slot in 0..self.tokens.len() {
            reports.extend(self.prompt(slot, left, right)?);
            let next = left.next()?[0];
            if next == NO_TOKEN {
                // There is no way on, and the reports say where it was lost.
                return Ok(reports);
            }
            self.tokens[slot].push(next);
        }
        for _ in 0..self.options.generate {
            let batch = StepRows::last_of_each(&self.tokens);
            let mut report = diff(left, right, &batch.step(&self.table), mode, tolerance)?;
            report.step = format!("batch of {}", self.tokens.len());
            reports.push(report);
            let next = left.next()?.to_vec();
            if next[..self.tokens.len()].contains(&NO_TOKEN) {
                return Ok(reports);
            }
            self.push(&next);
        }
        if mode == Mode::Free && self.options.generate > 0 {
            let mut report = self.report(
                &left.kind().to_string(),
                &right.kind().to_string(),
                "decode",
            );
            let (l, r) = (self.decode(left)?, self.decode(right)?);
            let rows = l.iter().zip(&r).enumerate();
            let rows = rows.map(|(slot, (l, r))| compare_tokens("decode", slot, l, r));
            report.buffers.extend(rows);
            reports.push(report);
        }
        Ok(reports)
    }

    /// Compares on one slot's prompt.
    fn prompt(
        &self,
        slot: usize,
        left: &mut dyn Inspect,
        right: &mut dyn Inspect,
    ) -> Result<Vec<Report>, Error> {
        let (mode, tolerance) = self.how();
        let tokens = &self.tokens[slot];
        let mut reports = Vec::new();
        if let Some(chunk) = self.options.chunk {
            let rows = StepRows::of_slot(tokens, slot, 0..tokens.len());
            reports = diff_chunks(left, right, &rows.step(&self.table), chunk)?;
        } else {
            // The last few tokens are a step of their own: few rows take other kernels.
            let bulk = tokens.len() - tokens.len().min(FEW_ROWS);
            for (from, to) in [(0, bulk), (bulk, tokens.len())] {
                if from < to {
                    let rows = StepRows::of_slot(tokens, slot, from..to);
                    let step = rows.step(&self.table);
                    reports.push(diff(left, right, &step, mode, tolerance)?);
                }
            }
        }
        for report in &mut reports {
            report.step = match self.options.chunk {
                Some(_) => format!("chunk of slot {slot}"),
                None => format!("prompt of slot {slot}"),
            };
        }
        Ok(reports)
    }

    /// Compares each sequence of a batch with itself alone, on one executor: the logits of every
    /// step, and the tokens that the steps choose with those that decoding gives.
    fn alone(mut self, executor: &mut dyn Inspect) -> Result<Vec<Report>, Error> {
        let vocab_size = executor.plan().vocab_size;
        for slot in 0..self.tokens.len() {
            let tokens = &self.tokens[slot];
            let chunk = self.options.chunk.unwrap_or(tokens.len());
            for from in (0..tokens.len()).step_by(chunk) {
                let rows = StepRows::of_slot(tokens, slot, from..tokens.len().min(from + chunk));
                executor.run(&rows.step(&self.table))?;
            }
            let next = executor.next()?[0];
            if next == NO_TOKEN {
                let replay = Replay {
                    tokens: &self.tokens[slot],
                    from: 0,
                    slot,
                    table: &self.table,
                };
                return Err(replay.explain(executor));
            }
            self.tokens[slot].push(next);
        }
        let name = self.options.right;
        let one = Shape {
            rows: 1,
            outputs: 1,
            kind: StepKind::Prompt,
        };
        let (alone, together) = (format!("{name} alone"), format!("{name} in a batch"));
        let start = self.tokens.clone();
        let mut reports = Vec::new();
        // Where rows are computed alike however many there are, no bit may differ.
        let invariant = self.options.settings.batch_invariant || !executor.kind().runs_kernels();
        for _ in 0..self.options.generate {
            let mut report = self.report(&alone, &together, "batch");
            let mut logits = Vec::new();
            // The batch comes last, so that later steps see the keys and values that it wrote.
            for (slot, tokens) in self.tokens.iter().enumerate() {
                let rows = StepRows::of_slot(tokens, slot, tokens.len() - 1..tokens.len());
                executor.run(&rows.step(&self.table))?;
                logits.push(executor.logits()?.to_vec());
            }
            let batch = StepRows::last_of_each(&self.tokens);
            let step = batch.step(&self.table);
            let limit = match invariant {
                true => 0.0,
                false => alone_limit(&executor.units(one)?, &executor.units(step.shape())?),
            };
            executor.run(&step)?;
            let together = executor.logits()?.chunks_exact(vocab_size);
            let rows = logits.iter().zip(together).enumerate();
            let rows = rows.map(|(slot, (a, b))| alone_row(slot, a, b, limit));
            report.buffers.extend(rows);
            reports.push(report);
            let next = executor.next()?.to_vec();
            if next[..self.tokens.len()].contains(&NO_TOKEN) {
                return Ok(reports);
            }
            self.push(&next);
        }
        if self.options.generate > 0 {
            let mut report = self.report(&alone, &together, "decode");
            let stepped = std::mem::replace(&mut self.tokens, start);
            let decoded = self.decode(executor)?;
            for (slot, (stepped, decoded)) in stepped.iter().zip(&decoded).enumerate() {
                let stepped = &stepped[self.tokens[slot].len()..];
                let row = compare_tokens("decode", slot, stepped, decoded);
                report.buffers.push(row);
            }
            reports.push(report);
        }
        Ok(reports)
    }

    /// What decoding gives after the tokens so far, for each slot.
    fn decode(&self, executor: &mut dyn Executor) -> Result<Vec<Vec<u32>>, Error> {
        let greedy = Sampling::default();
        let starts: Vec<DecodeStart<'_>> = (self.tokens.iter().enumerate())
            .map(|(slot, tokens)| DecodeStart::after(slot, tokens, &greedy))
            .collect();
        let mut found = vec![Vec::new(); starts.len()];
        let steps = self.options.generate;
        executor.decode(&starts, steps, &self.table, &mut |i, token| {
            found[i].push(token);
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    fn push(&mut self, next: &[u32]) {
        for (tokens, &token) in self.tokens.iter_mut().zip(next) {
            tokens.push(token);
        }
    }

    /// A report without rows yet, on a step of all sequences.
    fn report(&self, left: &str, right: &str, what: &str) -> Report {
        Report {
            left: left.to_owned(),
            right: right.to_owned(),
            step: format!("{what} of {}", self.tokens.len()),
            position: self.tokens[0].len() - 1,
            rows: self.tokens.len(),
            buffers: Vec::new(),
        }
    }
}

/// What a slot's logits in a batch are, against those that it has alone. Where other kernels ran,
/// they may differ a little, and their order only where the margin is small.
fn alone_row(slot: usize, alone: &[f32], together: &[f32], limit: f64) -> BufferRow {
    let (nmse, max_abs) = error(alone, together);
    let (best, chosen) = (argmax(alone), argmax(together));
    let logit = |token: u32| alone.get(token as usize).copied().unwrap_or(f32::NAN);
    let margin = logit(best) - logit(chosen);
    let most = MARGIN * (limit / ALONE_LIMIT).sqrt() as f32;
    let chosen_alike = best == chosen || margin < most;
    BufferRow {
        unit: "logits".to_owned(),
        buffer: format!("logits of slot {slot}"),
        nmse,
        max_abs,
        limit,
        pass: bit_equal(alone, together) || nmse <= limit && chosen_alike,
    }
}

/// Makes one side, with every buffer in memory of its own.
fn side(
    model: &Arc<Model>,
    options: &ParityOptions,
    side: Side,
    faults: Faults,
) -> Result<Box<dyn Executor>, Error> {
    let settings = &options.settings;
    let (device, executor) = side.choice(settings.device.gpu().unwrap_or(0));
    let precision = side.precision().unwrap_or(settings.precision);
    let rows = options.tokens.len();
    let settings = Settings {
        device,
        executor,
        precision,
        // Stepped, then decoded once more behind that.
        context: Some(options.generate.saturating_mul(2).saturating_add(rows + 1)),
        max_rows: Some(rows),
        slots: Some(options.batch),
        faults,
        buffers: Buffers::Distinct,
        ..settings.clone()
    };
    Ok(make_executor(model, &settings)?.executor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_in_tokens_and_lengths() {
        let given: Vec<u32> = (10..20).collect();
        let prompts = prompts(&given, 4);
        assert_eq!(prompts[0], given);
        assert_eq!(prompts[1], [11, 12, 13, 14, 15, 16, 17]);
        assert_eq!(prompts[2], [12, 13, 14, 15, 16, 17, 18, 19, 10]);
        assert_eq!(prompts[3].len(), 6);
        assert!(super::prompts(&[7], 5).iter().all(|p| *p == [7]));
    }

    #[test]
    fn choices_may_change_only_where_they_are_close() {
        let passes = |alone: &[f32], together: &[f32]| {
            let row = |limit| alone_row(0, alone, together, limit).pass;
            (row(ALONE_LIMIT), row(ALONE_INT8_LIMIT))
        };
        assert_eq!(passes(&[1.0, 2.0], &[1.0, 2.0]), (true, true));
        assert_eq!(passes(&[1.9999, 2.0], &[2.0, 1.9999]), (true, true));
        assert_eq!(passes(&[100.0, 100.06], &[100.06, 100.0]), (false, true));
        assert_eq!(passes(&[100.0, 101.0], &[101.0, 100.0]), (false, false));
        assert_eq!(passes(&[1.0, 2.0], &[1.1, 2.0]), (false, true));
        assert_eq!(passes(&[1.0, 2.0], &[1.5, 2.0]), (false, false));
        assert_eq!(passes(&[f32::NAN, 2.0], &[f32::NAN, 2.1]), (false, false));
    }
}
