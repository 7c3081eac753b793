//! What `/metrics` says, in the text format of Prometheus; names are vLLM's under `gannet:`.
//!
//! What happened since the server started is counted here; how things are now is asked of the engines when
//! somebody looks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use gannet_engine::requests::{EngineCounters, Histogram as EngineTimes};
use gannet_engine::{Finish, Generation};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet as NoLabels,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::error::ApiError;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    finished_reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    status: u16,
}

/// What the server counts.
pub(crate) struct Metrics {
    outcomes: Family<Outcome, Counter>,
    answers: Family<Answer, Counter>,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generation_tokens: Counter,
    refused: Counter,
    took: Histogram,
    slow_readers: Counter<u64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        Metrics {
            outcomes: Family::default(),
            answers: Family::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            refused: Counter::default(),
            took: Histogram::new(exponential_buckets(0.005, 2.0, 18)),
            slow_readers: Counter::default(),
        }
    }

    /// A choice has ended.
    pub(crate) fn ended(&self, result: &Result<Generation, ApiError>, took: Duration) {
        let finished_reason = match result {
            Ok(generation) => {
                self.prompt_tokens.inc_by(generation.prompt_tokens as u64);
                self.cached_tokens.inc_by(generation.cached_tokens as u64);
                self.took.observe(took.as_secs_f64());
                match generation.finish {
                    Finish::Length | Finish::Context => "length",
                    Finish::EndOfText | Finish::StopString => "stop",
                    Finish::Stopped | Finish::Deadline => "abort",
                }
            }
            Err(_) => "error",
        };
        self.outcomes
            .get_or_create(&Outcome { finished_reason })
            .inc();
    }

    /// The client of choices under way has gone.
    pub(crate) fn abandoned(&self, choices: u64) {
        let finished_reason = "abort";
        self.outcomes
            .get_or_create(&Outcome { finished_reason })
            .inc_by(choices);
    }

    /// A request found no room.
    pub(crate) fn refused(&self, _active: usize) {
        self.refused.inc();
    }

    /// The engine gave a token.
    pub(crate) fn token(&self) {
        self.generation_tokens.inc();
    }

    /// A reader was too slow.
    pub(crate) fn slow_reader(&self) {
        self.slow_readers.inc();
    }

    /// A request was answered.
    pub(crate) fn answered(&self, status: u16) {
        self.answers.get_or_create(&Answer { status }).inc();
    }

    /// All of it as text, with how engines do.
    pub(crate) fn text(
        &self,
        engines: Vec<(String, EngineCounters)>,
    ) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        let r = &mut registry;
        r.register(
            "gannet:request_success",
            "Generations that ended, by why",
            self.outcomes.clone(),
        );
        r.register(
            "gannet:http_responses",
            "Answers, by status",
            self.answers.clone(),
        );
        r.register(
            "gannet:prompt_tokens",
            "Tokens of the prompts of generations that ended",
            self.prompt_tokens.clone(),
        );
        r.register(
            "gannet:prompt_tokens_cached",
            "Of these, such as were known already",
            self.cached_tokens.clone(),
        );
        r.register(
            "gannet:generation_tokens",
            "Tokens generated",
            self.generation_tokens.clone(),
        );
        r.register(
            "gannet:requests_refused",
            "Requests refused because too many waited",
            self.refused.clone(),
        );
        r.register(
            "gannet:slow_readers",
            "Generations ended because their reader was too slow",
            self.slow_readers.clone(),
        );
        r.register(
            "gannet:e2e_request_latency_seconds",
            "From a generation's submission to its end",
            self.took.clone(),
        );
        r.register_collector(Box::new(Engines(Arc::new(engines))));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// A number, and what it is.
struct What<'a> {
    name: &'a str,
    help: &'a str,
    kind: MetricType,
}

/// How the engines do, by the names of their models.
#[derive(Debug)]
struct Engines(Arc<Vec<(String, EngineCounters)>>);

impl Engines {
    /// One number of every engine.
    fn all(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        what: What<'_>,
        write: impl Fn(MetricEncoder<'_>, &EngineCounters) -> fmt::Result,
    ) -> fmt::Result {
        let mut of_kind = encoder.encode_descriptor(what.name, what.help, None, what.kind)?;
        for (model, counters) in self.0.iter() {
            let labels = [("model_name", model.as_str())];
            write(of_kind.encode_family(&labels)?, counters)?;
        }
        Ok(())
    }

    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&EngineCounters) -> f64,
    ) -> fmt::Result {
        self.all(
            encoder,
            What {
                name,
                help,
                kind: MetricType::Gauge,
            },
            |mut to, counters| to.encode_gauge(&value(counters)),
        )
    }

    fn counter(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&EngineCounters) -> u64,
    ) -> fmt::Result {
        self.all(
            encoder,
            What {
                name,
                help,
                kind: MetricType::Counter,
            },
            |mut to, counters| to.encode_counter::<NoLabels, u64, f64>(&value(counters), None),
        )
    }

    fn times(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        times: impl Fn(&EngineCounters) -> EngineTimes,
    ) -> fmt::Result {
        self.all(
            encoder,
            What {
                name,
                help,
                kind: MetricType::Histogram,
            },
            |mut to, counters| {
                let times = times(counters);
                let bound = |i| EngineTimes::bound(i).map_or(f64::MAX, |bound| bound.as_secs_f64());
                let buckets: Vec<(f64, u64)> = (times.buckets.iter().enumerate())
                    .map(|(i, &count)| (bound(i), count))
                    .collect();
                let sum = times.total.as_secs_f64();
                to.encode_histogram::<NoLabels>(sum, times.count(), &buckets, None)
            },
        )
    }
}

impl Collector for Engines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let e = &mut encoder;
        self.gauge(
            e,
            "gannet:num_requests_running",
            "Sequences in a slot",
            |c| c.scheduler.running as f64,
        )?;
        self.gauge(
            e,
            "gannet:num_requests_waiting",
            "Sequences without a slot",
            |c| c.scheduler.waiting as f64,
        )?;
        self.gauge(
            e,
            "gannet:kv_cache_usage_perc",
            "Share of the cache's blocks that sequences hold",
            |c| {
                let s = c.scheduler;
                let all = s.blocks_free + s.blocks_held + s.blocks_cached;
                s.blocks_held as f64 / (all.max(1)) as f64
            },
        )?;
        self.gauge(
            e,
            "gannet:kv_cache_blocks_cached",
            "Blocks of known prefixes that nobody holds",
            |c| c.scheduler.blocks_cached as f64,
        )?;
        self.counter(
            e,
            "gannet:prefix_cache_hits",
            "Tokens known when a sequence joined",
            |c| c.scheduler.prefix_hits,
        )?;
        self.counter(
            e,
            "gannet:prompt_rows_computed",
            "Rows of prompts that were computed",
            |c| c.scheduler.prompt_rows,
        )?;
        self.gauge(
            e,
            "gannet:prompt_budget",
            "Tokens of prompts that a step may have while sequences decode",
            |c| c.scheduler.prompt_budget as f64,
        )?;
        self.counter(
            e,
            "gannet:steps_of_prompts",
            "Steps that had rows of prompts only",
            |c| c.scheduler.prompt_steps,
        )?;
        self.counter(
            e,
            "gannet:steps_decoding",
            "Steps that had rows of single tokens only",
            |c| c.scheduler.decode_steps,
        )?;
        self.counter(
            e,
            "gannet:steps_mixed",
            "Steps that had rows of prompts beside such as decode",
            |c| c.scheduler.mixed_steps,
        )?;
        self.counter(
            e,
            "gannet:grammar_cache_hits",
            "Grammars that were compiled for an earlier request",
            |c| c.grammar_hits,
        )?;
        self.counter(
            e,
            "gannet:grammar_cache_misses",
            "Grammars that were compiled",
            |c| c.grammar_misses,
        )?;
        self.counter(
            e,
            "gannet:num_preemptions",
            "Sequences that gave way to others",
            |c| c.scheduler.preemptions,
        )?;
        self.counter(
            e,
            "gannet:engine_requests",
            "Requests that the engine took",
            |c| c.requests,
        )?;
        self.counter(
            e,
            "gannet:engine_cancellations",
            "Requests that were cancelled",
            |c| c.scheduler.cancellations,
        )?;
        self.counter(e, "gannet:failed_steps", "Steps that failed", |c| {
            c.scheduler.failed_steps
        })?;
        self.counter(
            e,
            "gannet:failed_requests",
            "Requests that failed with them",
            |c| c.scheduler.failed_requests,
        )?;
        self.times(
            e,
            "gannet:time_to_first_token_seconds",
            "From a request to its first token",
            |c| c.first_token,
        )?;
        self.times(
            e,
            "gannet:inter_token_latency_seconds",
            "From one token to the next",
            |c| c.inter_token,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_written() {
        let metrics = Metrics::new();
        metrics.token();
        metrics.abandoned(2);
        metrics.answered(200);
        let engines = vec![("m".to_owned(), EngineCounters::default())];
        let text = metrics.text(engines).unwrap();
        for line in [
            "gannet:generation_tokens_total 1",
            "gannet:request_success_total{finished_reason=\"abort\"} 2",
            "gannet:http_responses_total{status=\"200\"} 1",
            "gannet:num_requests_running{model_name=\"m\"} 0.0",
            "gannet:prefix_cache_hits_total{model_name=\"m\"} 0",
            "gannet:time_to_first_token_seconds_count{model_name=\"m\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
