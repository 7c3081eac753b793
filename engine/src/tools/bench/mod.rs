//! Speed of a model on a device, next to what the device's memory can give in the same run.
//!
//! Measured on the executor that serves: prompts of several lengths, generation at several depths
//! of the cache, the wait for a first token. Every figure is the median of repeats after a warm-up,
//! and every repeat starts from the same cache, so that repeats are comparable. Sampling and
//! detokenisation are not part of it: tokens are the most likely ones and nobody reads them.
//!
//! What it costs to have rows computed alike however many there are is measured in one run: the same
//! tests again with the default kernels, when the others have left the device.

mod ceiling;
mod row;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

pub use ceiling::cpu_read_ceiling;
pub use row::{BenchKind, BenchRow};

use super::make_executor_on;
use crate::Error;
use crate::exec::LoadReport;
use crate::exec::sample::{NO_TOKEN, Sampling};
use crate::exec::trace::Replay;
use crate::exec::{DecodeStart, Executor, ExecutorKind, Opening, StepRows};
use crate::kv::{BlockTable, KvType};
use crate::lower::rule_names;
use crate::model::Model;
use crate::plan::{CacheInfo, Plan, StepRow};
use crate::settings::Settings;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchOptions {
    /// Lengths of prompts in tokens; empty: none.
    pub prompts: Vec<usize>,
    /// Tokens to generate; 0: none.
    pub generate: usize,
    /// Tokens in the cache before generation starts.
    pub depths: Vec<usize>,
    /// Sequences that generate at once.
    pub batches: Vec<usize>,
    /// Timed runs of each test, after one that is not.
    pub repeats: usize,
    /// Measure every launch of a generating step, too.
    pub profile: bool,
}

impl Default for BenchOptions {
    fn default() -> Self {
        BenchOptions {
            prompts: vec![512],
            generate: 128,
            depths: vec![0],
            batches: vec![1],
            repeats: 3,
            profile: false,
        }
    }
}

/// Length of the longest prompt whose first token is waited for. Each repeat has a prompt a token shorter
/// than the one before: what a user asks has seldom the length of what was asked last.
pub const FIRST_TOKEN_PROMPT: usize = 32;

/// Lengths of prompts whose first token is waited for.
const FIRST_TOKEN_LENGTHS: usize = 16;

/// Everything a run of [`run`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// The executor.
    pub executor: ExecutorKind,
    /// What the user should know about the choice of device, or what only running could show, such
    /// as a graph that could not be built.
    pub notice: Option<String>,
    /// Whether every row was computed alike however many there are.
    pub batch_invariant: bool,
    /// Rules of lowering that were left out, by their names.
    pub without: Vec<&'static str>,
    /// Steps that were to run as a graph and did not, because none could be built.
    pub fallbacks: u64,
    /// Bytes of the weights in the file.
    pub weight_bytes: u64,
    /// Time to put the model on the device, in seconds.
    pub load_seconds: f64,
    /// Where the time went, from opening the file on.
    pub load: LoadReport,
    /// From the start of loading to the first token of a prompt of [`FIRST_TOKEN_PROMPT`], in
    /// seconds: nothing is warm.
    pub cold_first_token_seconds: f64,
    /// Speed of reading memory in this run, `1e9` bytes a second.
    pub ceiling_gb_per_second: f64,
    /// The tests.
    pub rows: Vec<BenchRow>,
}

/// Measures a model. `on_row` gets each result as it is there.
///
/// # Errors
/// The options name nothing to measure or a length of 0, the context is too small for them, the
/// device cannot be used, or it failed.
pub fn run(
    model: &Arc<Model>,
    settings: &Settings,
    bench: &BenchOptions,
    on_row: &mut dyn FnMut(&BenchRow),
) -> Result<BenchReport, Error> {
    run_on(model, settings, &Opening::default(), bench, on_row)
}

/// As [`run`], on a device that has been opening meanwhile.
///
/// # Errors
/// As [`run`].
pub fn run_on(
    model: &Arc<Model>,
    settings: &Settings,
    opening: &Opening,
    bench: &BenchOptions,
    on_row: &mut dyn FnMut(&BenchRow),
) -> Result<BenchReport, Error> {
    check(bench)?;
    let settings = Settings {
        context: Some(context(settings, bench)?),
        slots: Some(bench.batches.iter().copied().max().unwrap_or(1)),
        ..settings.clone()
    };
    if bench.profile && settings.device.gpu().is_none() {
        return Err(no_launches(&settings.device.to_string()));
    }
    let start = Instant::now();
    let made = make_executor_on(model, &settings, opening)?;
    if bench.profile && !made.executor.kind().is_gpu() {
        return Err(no_launches(&made.executor.kind().to_string()));
    }
    let load_seconds = start.elapsed().as_secs_f64();
    let load = LoadReport::new(model, made.executor.as_ref());
    let mut subject = Subject::new(made.executor)?;
    subject.prompt(FIRST_TOKEN_PROMPT)?;
    let cold_first_token_seconds = start.elapsed().as_secs_f64();
    let weights = model.plan().weight_bytes_per_token();
    let ceiling = ceiling::read_ceiling(made.gpu, weights, &settings)? / 1e9;

    let mut rows = subject.measure(bench, ceiling, on_row)?;
    let ceiling = match made.gpu {
        Some(_) => ceiling,
        None => ceiling::raised(ceiling, weights, &mut rows),
    };
    let (executor, fallbacks) = (subject.executor.kind(), subject.executor.stats().fallbacks);
    let notice = made.notice.or_else(|| subject.executor.notice());
    drop(subject);
    if settings.batch_invariant && executor.runs_kernels() {
        compare_with_default(model, &settings, opening, bench, &mut rows)?;
    }
    Ok(BenchReport {
        executor,
        notice,
        batch_invariant: settings.batch_invariant,
        without: rule_names(settings.overrides.without),
        fallbacks,
        weight_bytes: model.weight_total(),
        load_seconds,
        load,
        cold_first_token_seconds,
        ceiling_gb_per_second: ceiling,
        rows,
    })
}

/// Measures the same with the default kernels, and says of each row what share of their speed it has.
fn compare_with_default(
    model: &Arc<Model>,
    settings: &Settings,
    opening: &Opening,
    bench: &BenchOptions,
    rows: &mut [BenchRow],
) -> Result<(), Error> {
    let settings = Settings {
        batch_invariant: false,
        ..settings.clone()
    };
    let bench = BenchOptions {
        profile: false,
        ..bench.clone()
    };
    let mut subject = Subject::new(make_executor_on(model, &settings, opening)?.executor)?;
    subject.prompt(FIRST_TOKEN_PROMPT)?;
    let default = subject.measure(&bench, 0.0, &mut |_| {})?;
    for (row, default) in rows.iter_mut().zip(&default) {
        row.share_of_default = Some(row.tokens_per_second / default.tokens_per_second);
    }
    Ok(())
}

fn check(bench: &BenchOptions) -> Result<(), Error> {
    let request = |what: &str| Err(Error::Request(what.to_owned()));
    let nothing = bench.prompts.is_empty() && (bench.generate == 0 || bench.depths.is_empty());
    if nothing {
        return request("nothing to measure: give prompt lengths, or tokens to generate");
    }
    if bench.prompts.contains(&0) {
        return request("a prompt of 0 tokens has no speed; give lengths of at least 1");
    }
    if bench.profile && (bench.generate == 0 || bench.depths.is_empty()) {
        return request("a profile is of a generating step; give tokens to generate");
    }
    if bench.batches.is_empty() || bench.batches.contains(&0) {
        return request("a batch of 0 sequences generates nothing; give sizes of at least 1");
    }
    if bench.repeats == 0 {
        return request("0 repeats have no median; give at least 1");
    }
    Ok(())
}

/// Positions that the largest test needs, or those that the caller insists on.
fn context(settings: &Settings, bench: &BenchOptions) -> Result<usize, Error> {
    let deepest = bench.depths.iter().max().copied().unwrap_or(0);
    let decode = deepest.saturating_add(bench.generate);
    let longest = bench.prompts.iter().max().copied().unwrap_or(0);
    let needed = longest.max(decode).max(FIRST_TOKEN_PROMPT);
    match settings.context {
        Some(context) if context < needed => Err(Error::ContextFull {
            tokens: needed,
            context,
        }),
        Some(context) => Ok(context),
        None => Ok(needed),
    }
}

/// The executor under test and a cache that it owns alone.
struct Subject {
    executor: Box<dyn Executor>,
    table: BlockTable,
}

impl Subject {
    fn new(executor: Box<dyn Executor>) -> Result<Subject, Error> {
        let limits = executor.limits();
        let mut table = BlockTable::new(limits.num_slots, limits.context, limits.cache_blocks);
        for slot in 0..limits.num_slots {
            table.reserve(slot, limits.context)?;
        }
        Ok(Subject { executor, table })
    }

    /// All the tests, in order.
    fn measure(
        &mut self,
        bench: &BenchOptions,
        ceiling: f64,
        on_row: &mut dyn FnMut(&BenchRow),
    ) -> Result<Vec<BenchRow>, Error> {
        let mut rows = Vec::new();
        let mut done = |row: BenchRow| {
            on_row(&row);
            rows.push(row);
        };
        done(self.measure_prompt(BenchKind::FirstToken, FIRST_TOKEN_PROMPT, bench.repeats)?);
        for &tokens in &bench.prompts {
            done(self.measure_prompt(BenchKind::Prompt, tokens, bench.repeats)?);
        }
        if bench.generate > 0 {
            let depths = |b| bench.depths.iter().map(move |d| (b, d));
            for (&batch, &depth) in bench.batches.iter().flat_map(depths) {
                done(self.measure_decode(bench, batch, depth, ceiling)?);
            }
        }
        Ok(rows)
    }

    /// Fills the cache from position 0 and waits for the token that follows.
    fn prompt(&mut self, len: usize) -> Result<(), Error> {
        self.fill(0, len)
    }

    fn fill(&mut self, slot: usize, len: usize) -> Result<(), Error> {
        let tokens = arbitrary_tokens(len, self.executor.plan().vocab_size);
        let max_rows = self.executor.limits().max_rows;
        let mut first = 0;
        for chunk in tokens.chunks(max_rows) {
            let end = first + chunk.len();
            let mut rows = StepRows::prompt(chunk, slot, first);
            if end == len {
                rows = rows.with_last_output();
            }
            self.executor.run(&rows.step(&self.table))?;
            first = end;
        }
        if self.executor.next()?.contains(&NO_TOKEN) {
            let replay = Replay {
                tokens: &tokens,
                from: 0,
                slot,
                table: &self.table,
            };
            return Err(replay.explain(self.executor.inspect()));
        }
        Ok(())
    }

    fn measure_prompt(
        &mut self,
        kind: BenchKind,
        len: usize,
        repeats: usize,
    ) -> Result<BenchRow, Error> {
        let shorter = |repeat: usize| match kind {
            BenchKind::FirstToken => repeat % FIRST_TOKEN_LENGTHS,
            BenchKind::Prompt | BenchKind::Generate => 0,
        };
        let seconds = timed(repeats, |repeat| self.prompt(len - shorter(repeat)))?;
        Ok(BenchRow::new(kind, len, 0, seconds))
    }

    fn measure_decode(
        &mut self,
        bench: &BenchOptions,
        batch: usize,
        depth: usize,
        ceiling: f64,
    ) -> Result<BenchRow, Error> {
        if depth > 0 {
            (0..batch).try_for_each(|slot| self.fill(slot, depth))?;
        }
        // The keys that the repeat before wrote past the depth are written again before they are
        // read, so every repeat does the same work.
        let sampling = Sampling::default();
        let starts: Vec<DecodeStart<'_>> = (0..batch as u32)
            .map(|slot| DecodeStart {
                row: StepRow::new(1 + slot % 64, depth as u32 + 1, slot),
                sampling: &sampling,
                history: &[],
                draws: 0,
            })
            .collect();
        let tokens = bench.generate;
        let seconds = timed(bench.repeats, |_| self.decode(&starts, tokens))?;
        let mut row = BenchRow::new(BenchKind::Generate, tokens, depth, seconds);
        row.batch = batch;
        row.tokens_per_second *= batch as f64;
        let plan = self.executor.plan();
        let keys = batch as u64 * (depth as u64 + tokens.div_ceil(2) as u64);
        let kv_type = self.executor.limits().kv_type;
        let key = kv_bytes(plan, self.executor.kind(), kv_type);
        let bytes = plan.weight_bytes_per_token() + keys * key;
        let gb = bytes as f64 / row.step_seconds() / 1e9;
        row.bytes_per_step = Some(bytes);
        row.gb_per_second = Some(gb);
        row.share_of_ceiling = (ceiling > 0.0).then(|| gb / ceiling);
        // Half way through, so that it compares with the mean over all steps.
        let middle: Vec<DecodeStart<'_>> = (starts.iter())
            .map(|s| DecodeStart {
                row: StepRow {
                    length: s.row.length + tokens as u32 / 2,
                    ..s.row
                },
                ..*s
            })
            .collect();
        let steps = (tokens / 2).max(1);
        let Some(device) = self.executor.measure() else {
            return Ok(row);
        };
        row.device_step_seconds = Some(device.device_step_time(&starts, tokens, &self.table)?);
        if bench.profile {
            row.launches = device.launch_times(&middle, bench.repeats, &self.table)?;
        }
        if tokens > 1 {
            let short = self.count_waits(&middle, 1)?;
            let long = self.count_waits(&starts, steps + 1)?;
            row.synchronizations_per_token = Some((long - short) as f64 / steps as f64);
        }
        Ok(row)
    }

    fn decode(&mut self, starts: &[DecodeStart<'_>], tokens: usize) -> Result<(), Error> {
        let go_on = &mut |_, _| ControlFlow::Continue(());
        self.executor.decode(starts, tokens, &self.table, go_on)
    }

    /// Host waits of a decode.
    fn count_waits(&mut self, starts: &[DecodeStart<'_>], tokens: usize) -> Result<u64, Error> {
        let before = self.executor.stats().synchronizations;
        self.decode(starts, tokens)?;
        Ok(self.executor.stats().synchronizations - before)
    }
}

/// Why a profile was not made.
fn no_launches(executor: &str) -> Error {
    Error::Request(format!(
        "{executor} launches no kernels whose times could be profiled or traced; only a GPU does"
    ))
}

/// Bytes of one position's keys and values in all layers: f32 on the CPU, of that type on a GPU.
fn kv_bytes(plan: &Plan, executor: ExecutorKind, kv_type: KvType) -> u64 {
    let kv_type = if executor.is_gpu() {
        kv_type
    } else {
        KvType::F32
    };
    let bytes = |cache: &CacheInfo| {
        let head = (cache.kv_type(kv_type)).block_bytes(1, cache.head_dim as u32) as usize;
        (2 * cache.num_kv_heads * head) as u64
    };
    plan.caches.iter().map(bytes).sum()
}

/// Runs once to warm up, then `repeats` times with a clock; the body gets the number of runs before.
fn timed(
    repeats: usize,
    mut body: impl FnMut(usize) -> Result<(), Error>,
) -> Result<Vec<f64>, Error> {
    body(0)?;
    (1..=repeats)
        .map(|repeat| {
            let start = Instant::now();
            body(repeat)?;
            Ok(start.elapsed().as_secs_f64())
        })
        .collect()
}

/// Tokens spread over the vocabulary, always the same: a real text would favour some embedding rows
/// and no speed depends on which.
fn arbitrary_tokens(len: usize, vocab_size: usize) -> Vec<u32> {
    let vocab_size = vocab_size.max(1) as u64;
    (1..=len as u64)
        .map(|i| (i.wrapping_mul(2_654_435_761) % vocab_size) as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_holds_the_largest_test() {
        let bench = BenchOptions {
            prompts: vec![16, 2048],
            generate: 128,
            depths: vec![0, 4096],
            repeats: 1,
            ..BenchOptions::default()
        };
        let mut settings = Settings::default();
        assert_eq!(context(&settings, &bench).unwrap(), 4096 + 128);
        settings.context = Some(100);
        assert!(context(&settings, &bench).is_err());
    }

    #[test]
    fn nothing_to_measure_is_refused() {
        let empty = BenchOptions {
            prompts: vec![],
            generate: 0,
            ..BenchOptions::default()
        };
        assert!(check(&empty).is_err());
        assert!(
            check(&BenchOptions {
                repeats: 0,
                ..BenchOptions::default()
            })
            .is_err()
        );
        assert!(
            check(&BenchOptions {
                prompts: vec![0],
                ..BenchOptions::default()
            })
            .is_err()
        );
        assert!(check(&BenchOptions::default()).is_ok());
        let nothing_generated = BenchOptions {
            generate: 0,
            profile: true,
            ..BenchOptions::default()
        };
        assert!(check(&nothing_generated).is_err());
    }
}
