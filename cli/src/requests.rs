//! Requests that arrive at once on an engine, for `gannet bench --requests`.

use std::sync::Arc;
use std::time::Instant;

use gannet_engine::requests::Prompt;
use gannet_engine::settings::Settings;
use gannet_engine::tools::bench::{BenchKind, BenchReport};
use gannet_engine::{Engine, Error, GenerateOptions, Handle, Model, Request};
use serde_json::json;

use crate::figures;

/// Tokens of each request's prompt, and tokens that it asks for.
pub(crate) const TOKENS: usize = 128;

/// What requests that arrived at once took.
#[derive(Debug)]
pub(crate) struct RequestsReport {
    /// How many.
    requests: usize,
    /// From the first to the end of the last, the median of the repeats.
    seconds: f64,
    /// Tokens of prompts and such as were generated, a second.
    tokens_per_second: f64,
    /// The same prompts one after the other and the same generation together, by the other rows, where
    /// both were measured.
    apart_seconds: Option<f64>,
    /// Host waits for the device in all repeats.
    synchronizations: u64,
    /// Kernels loaded in all repeats.
    modules: u64,
}

impl RequestsReport {
    pub(crate) fn as_json(&self) -> serde_json::Value {
        json!({
            "requests": self.requests,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "apart_seconds": self.apart_seconds,
            "synchronizations": self.synchronizations,
            "modules": self.modules,
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
    let mut run = || -> Result<f64, Error> {
        round += 1;
        let start = Instant::now();
        let handles: Vec<Handle> = (0..requests)
            .map(|i| engine.submit(request(vocab_size, round * requests + i)))
            .collect();
        for handle in handles {
            handle.wait()?;
        }
        Ok(start.elapsed().as_secs_f64())
    };
    run()?;
    let before = engine.counters()?.executor;
    let mut seconds = (0..repeats).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
    let after = engine.counters()?.executor;
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
        seconds,
        tokens_per_second: (2 * TOKENS * requests) as f64 / seconds,
        apart_seconds: apart.map(|(p, g)| requests as f64 * p.median() + g.median()),
        synchronizations: after.synchronizations - before.synchronizations,
        modules: after.modules - before.modules,
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
    format!(
        "\n{} requests of {TOKENS} + {TOKENS} tokens at once: {}, {} tok/s{apart}; {} waits, {} \
         kernels loaded\n",
        report.requests,
        figures::seconds(report.seconds),
        figures::rate(report.tokens_per_second),
        report.synchronizations,
        report.modules,
    )
}
