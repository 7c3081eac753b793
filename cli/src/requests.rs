//! Requests that arrive at once on an engine, for `gannet bench --requests`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gannet_engine::requests::Prompt;
use gannet_engine::settings::Settings;
use gannet_engine::times::Phase;
use gannet_engine::tools::bench::{BenchKind, BenchReport};
use gannet_engine::{Engine, Error, GenerateOptions, Handle, Model, Request};
use serde_json::json;

use crate::figures;

/// Tokens of each request's prompt, and tokens that it asks for.
pub(crate) const TOKENS: usize = 128;

/// In how long requests arrive that do not arrive at once.
const SPREAD: Duration = Duration::from_secs(2);

/// What requests that arrived at once took.
#[derive(Debug)]
pub(crate) struct RequestsReport {
    /// How many.
    requests: usize,
    /// What it took to make everything ready that steps need.
    warm_up_seconds: f64,
    /// From the first to the end of the last, the median of the repeats.
    seconds: f64,
    /// Tokens of prompts and such as were generated, a second.
    tokens_per_second: f64,
    /// The same prompts one after the other and the same generation together, by the other rows, where
    /// both were measured.
    apart_seconds: Option<f64>,
    /// The same requests where they arrive at random in two seconds.
    spread_seconds: f64,
    /// Of the time that steps take then and the device waits for the next, the share of the latter; `None`
    /// where nothing times that.
    idle_share: Option<f64>,
    /// Host waits for the device in all repeats.
    synchronizations: u64,
    /// Kernels loaded in all repeats.
    modules: u64,
    /// Graphs built in all repeats.
    graphs: u64,
}

impl RequestsReport {
    pub(crate) fn as_json(&self) -> serde_json::Value {
        json!({
            "requests": self.requests,
            "warm_up_seconds": self.warm_up_seconds,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "apart_seconds": self.apart_seconds,
            "synchronizations": self.synchronizations,
            "modules": self.modules,
            "graphs": self.graphs,
            "spread_seconds": self.spread_seconds,
            "idle_share": self.idle_share,
        })
    }
}

/// Times requests of [`TOKENS`] and as many more on an engine of their own.
pub(crate) fn measure(
    model: &Arc<Model>,
    settings: &Settings,
    requests: usize,
    repeats: usize,
    report: &BenchReport,
) -> Result<RequestsReport, Error> {
    let settings = Settings {
        context: Some(2 * TOKENS),
        slots: Some(requests),
        ..settings.clone()
    };
    let engine = Engine::new(model, &settings)?;
    let vocab_size = model.tokenizer().vocab_size();
    let mut round = 0;
    let mut run = |window: Duration| -> Result<f64, Error> {
        round += 1;
        let start = Instant::now();
        // Spread evenly in a random order is what a multiplier without a common factor gives.
        let mut times: Vec<f64> = (0..requests)
            .map(|i| ((i * 2_654_435_761 + 12_345) % 10_007) as f64 / 10_007.0)
            .collect();
        times.sort_by(f64::total_cmp);
        let submit = |(i, time): (usize, &f64)| {
            let at = window.mul_f64(*time);
            std::thread::sleep(at.saturating_sub(start.elapsed()));
            engine.submit(request(vocab_size, round * requests + i))
        };
        let handles: Vec<Handle> = times.iter().enumerate().map(submit).collect();
        for handle in handles {
            handle.wait()?;
        }
        Ok(start.elapsed().as_secs_f64())
    };
    run(Duration::ZERO)?;
    let before = engine.counters()?.executor;
    let seconds = (0..repeats).map(|_| run(Duration::ZERO));
    let mut seconds = seconds.collect::<Result<Vec<_>, _>>()?;
    let after = engine.counters()?.executor;
    engine.time_steps(true);
    let spread_seconds = run(SPREAD)?;
    let timed = engine.counters()?.executor.timed;
    let all = (timed.busy + timed.idle).as_secs_f64();
    seconds.sort_by(f64::total_cmp);
    let seconds = seconds[seconds.len() / 2];
    let row = |kind, batch| {
        let rows = report.rows.iter();
        let mut fits = rows.filter(|row| row.kind == kind && row.tokens == TOKENS);
        fits.find(|row| row.batch == batch && row.depth == 0)
    };
    let (prompt, generation) = (
        row(BenchKind::Prompt, 1),
        row(BenchKind::Generate, requests),
    );
    let apart = prompt.zip(generation);
    Ok(RequestsReport {
        requests,
        warm_up_seconds: engine.load_report().phase_seconds(Phase::WarmUp),
        seconds,
        tokens_per_second: (2 * TOKENS * requests) as f64 / seconds,
        apart_seconds: apart.map(|(p, g)| requests as f64 * p.median() + g.median()),
        synchronizations: after.synchronizations - before.synchronizations,
        modules: after.modules - before.modules,
        graphs: after.graphs - before.graphs,
        spread_seconds,
        idle_share: (all > 0.0).then(|| timed.idle.as_secs_f64() / all),
    })
}

/// A prompt that no other begins like.
fn request(vocab_size: usize, seed: usize) -> Request {
    let token = |i: usize| ((i + seed * 7919).wrapping_mul(2_654_435_761) % vocab_size) as u32;
    let options = GenerateOptions {
        max_tokens: TOKENS,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    Request::new(Prompt::Tokens((0..TOKENS).map(token).collect())).with_options(options)
}

/// A line of it.
pub(crate) fn as_text(report: &RequestsReport) -> String {
    let apart = report.apart_seconds.map_or(String::new(), |apart| {
        format!(
            ", {} of what prompts one by one and the generation take",
            figures::percent(report.seconds / apart)
        )
    });
    let idle = report.idle_share.map_or(String::new(), |share| {
        format!(", the device idle for {}", figures::percent(share))
    });
    // Nothing is made ready where nothing is launched.
    let made = match report.warm_up_seconds > 0.0 {
        false => String::new(),
        true => format!(
            "; {} waits, {} kernels loaded, {} graphs built after a warm-up of {}",
            report.synchronizations,
            report.modules,
            report.graphs,
            figures::seconds(report.warm_up_seconds)
        ),
    };
    format!(
        "\n{} of {TOKENS} + {TOKENS} tokens at once: {}, {} tok/s{apart}{made}\nthe same over 2 s: \
         {}{idle}\n",
        figures::counted(report.requests, "request"),
        figures::seconds(report.seconds),
        figures::rate(report.tokens_per_second),
        figures::seconds(report.spread_seconds),
    )
}
