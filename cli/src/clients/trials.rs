//! What clients do, and what is made of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gannet_engine::internals::kv::BLOCK_TOKENS;

use super::client::{Answer, complete, get, wait_until_ready};
use super::report::{ClientsReport, Joining, Shared};

/// Tokens of a client's prompt, and tokens that it asks for.
const TOKENS: usize = 128;

/// Tokens of the long prompt, of the shared prefix, and of what follows that; less where a model has not as
/// many positions.
const LONG: usize = 8000;
const PREFIX: usize = 4000;
const TAIL: usize = 16;

/// Clients that share a prefix.
const MOST_SHARING: usize = 32;

/// Clients that a long prompt joins, as many of them as there are.
const JOINED: [usize; 6] = [1, 8, 16, 32, 48, 64];

/// Pieces that each of them has by then.
const STARTED: usize = 64;

/// How large everything is.
pub(super) struct Sizes {
    pub(super) clients: usize,
    vocab_size: usize,
    long: usize,
    prefix: usize,
}

impl Sizes {
    pub(super) fn new(clients: usize, trained: usize, vocab_size: usize) -> Sizes {
        let room = trained.saturating_sub(2 * TOKENS).max(TOKENS);
        Sizes {
            clients,
            vocab_size,
            long: LONG.min(room),
            prefix: PREFIX.min(room),
        }
    }

    /// Positions that a sequence needs.
    pub(super) fn context(&self) -> usize {
        (self.long.max(self.prefix + TAIL) + TOKENS).max(TOKENS + self.joined_tokens())
    }

    /// Clients of the trial of a prefix.
    fn sharing(&self) -> usize {
        self.clients.min(MOST_SHARING)
    }

    /// Clients that a long prompt joins, trial by trial: all of them in the last one.
    pub(super) fn joined(&self) -> Vec<usize> {
        let fewer = JOINED.into_iter().filter(|&n| n < self.clients);
        fewer.chain([self.clients]).collect()
    }

    /// Tokens that clients generate whom a long prompt joins: more than it has steps.
    fn joined_tokens(&self) -> usize {
        (8 * TOKENS).min(self.long)
    }

    /// Blocks that all of a trial needs.
    pub(super) fn blocks(&self) -> usize {
        let of = |tokens: usize| tokens.div_ceil(BLOCK_TOKENS) + 1;
        let together = (self.clients * of(2 * TOKENS))
            .max(self.clients * of(TOKENS + self.joined_tokens()) + of(self.long + TOKENS))
            .max(of(self.prefix) + self.sharing() * of(TAIL + TOKENS) + of(self.prefix));
        2 * together
    }

    /// A prompt that no other begins like.
    fn prompt(&self, seed: usize, tokens: usize) -> Vec<u32> {
        let token = |i: usize| {
            let mixed = (seed * 1_000_003 + i + 1).wrapping_mul(2_654_435_761) >> 7;
            // The first ids are often of control tokens.
            let first = 300.min(self.vocab_size / 2);
            (first + mixed % (self.vocab_size - first)) as u32
        };
        (0..tokens).map(token).collect()
    }
}

/// A prompt, and how many pieces of its answer have come.
struct Asking {
    prompt: Vec<u32>,
    pieces: AtomicUsize,
}

impl Asking {
    fn all(prompts: impl IntoIterator<Item = Vec<u32>>) -> Vec<Asking> {
        let asking = prompts.into_iter().map(|prompt| Asking {
            prompt,
            pieces: AtomicUsize::new(0),
        });
        asking.collect()
    }
}

/// The answers of clients that ask at once.
fn at_once(address: SocketAddr, clients: &[Asking], most: usize) -> io::Result<Vec<Answer>> {
    let together = Barrier::new(clients.len());
    std::thread::scope(|threads| {
        let together = &together;
        let asked = clients.iter().map(|client| {
            threads.spawn(move || {
                together.wait();
                complete(address, &client.prompt, most, &client.pieces)
            })
        });
        let asked: Vec<_> = asked.collect();
        let lost = |_| Err(io::Error::other("a client failed"));
        asked
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(lost))
            .collect()
    })
}

/// What has a share of the others at most, in seconds.
fn percentile(times: impl IntoIterator<Item = Duration>, share: f64) -> f64 {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort_unstable();
    let at = (times.len() as f64 * share).ceil() as usize;
    let at = at.clamp(1, times.len().max(1)) - 1;
    times.get(at).map_or(0.0, Duration::as_secs_f64)
}

/// A number of `/metrics`, of all models together.
fn counter(address: SocketAddr, name: &str) -> io::Result<f64> {
    let text = get(address, "/metrics")?;
    let of = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = rest
            .strip_prefix('{')
            .map_or(Some(rest), |r| Some(r.split_once('}')?.1));
        rest?.trim().parse::<f64>().ok()
    };
    Ok(text.lines().filter_map(of).sum())
}

/// All trials.
pub(super) fn run(address: SocketAddr, sizes: &Sizes) -> io::Result<ClientsReport> {
    wait_until_ready(address)?;
    // What is made with the first requests is not measured.
    let first_ones = [sizes.prompt(1, TOKENS), sizes.prompt(2, TOKENS)];
    at_once(address, &Asking::all(first_ones), 8)?;
    let mut seeds = (10..).step_by(1000);
    let mut seed = || seeds.next().unwrap_or(0);
    let mut seconds = Vec::new();
    let mut first = Vec::new();
    for _ in 0..3 {
        let from = seed();
        let clients = Asking::all((0..sizes.clients).map(|i| sizes.prompt(from + i, TOKENS)));
        let begun = Instant::now();
        let answers = at_once(address, &clients, TOKENS)?;
        let end = answers.iter().map(|a| a.end).max().unwrap_or(begun);
        seconds.push((end - begun).as_secs_f64());
        first.push(percentile(answers.iter().filter_map(Answer::first), 0.5));
        if let Some(short) = answers.iter().find(|a| a.tokens != TOKENS) {
            return Err(io::Error::other(format!(
                "{} tokens of {TOKENS}",
                short.tokens
            )));
        }
    }
    // The pair of the median run.
    let mut order: Vec<usize> = (0..seconds.len()).collect();
    order.sort_by(|&a, &b| seconds[a].total_cmp(&seconds[b]));
    let middle = order[order.len() / 2];
    Ok(ClientsReport {
        clients: sizes.clients,
        tokens: TOKENS,
        seconds: seconds[middle],
        first_token_seconds: first[middle],
        joining: (sizes.joined().into_iter())
            .map(|clients| joining(address, sizes, clients, seed()))
            .collect::<io::Result<_>>()?,
        shared: shared(address, sizes, seed())?,
    })
}

/// A long prompt joins clients that are being answered.
fn joining(address: SocketAddr, sizes: &Sizes, clients: usize, from: usize) -> io::Result<Joining> {
    let asking = Asking::all((0..clients).map(|i| sizes.prompt(from + i, TOKENS)));
    let long = sizes.prompt(from + 999, sizes.long);
    let most = sizes.joined_tokens();
    let is_answered = |client: &Asking| client.pieces.load(Ordering::Relaxed) >= STARTED;
    let (answers, joined) = std::thread::scope(|threads| {
        let others = threads.spawn(|| at_once(address, &asking, most));
        while !asking.iter().all(is_answered) && !others.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let joined = complete(address, &long, 2, &AtomicUsize::new(0));
        let lost = |_| Err(io::Error::other("a client failed"));
        let others = others.join().unwrap_or_else(lost)?;
        Ok::<_, io::Error>((others, joined?))
    })?;
    let until = joined.pieces.first().copied().unwrap_or(joined.end);
    let all = |from, to| answers.iter().flat_map(move |a| a.gaps(from, to));
    let started = answers.iter().filter_map(|a| a.pieces.get(1)).max();
    let started = started.copied().unwrap_or(joined.asked);
    let first_end = answers.iter().map(|answer| answer.end).min();
    Ok(Joining {
        clients,
        prompt: sizes.long,
        first_token_seconds: (until - joined.asked).as_secs_f64(),
        before_p99_seconds: percentile(all(started, joined.asked), 0.99),
        during_p99_seconds: percentile(all(joined.asked, until), 0.99),
        others_ended_first: first_end.is_some_and(|end| end < until),
    })
}

/// Clients whose prompts begin with the same long text.
fn shared(address: SocketAddr, sizes: &Sizes, from: usize) -> io::Result<Shared> {
    let clients = sizes.sharing();
    let prefix = sizes.prompt(from, sizes.prefix);
    let asking = Asking::all(
        (0..clients).map(|i| [prefix.clone(), sizes.prompt(from + 1 + i, TAIL)].concat()),
    );
    let computed = || counter(address, "gannet:prompt_rows_computed_total");
    let before = computed()?;
    let answers = at_once(address, &asking, TOKENS / 4)?;
    let after = computed()?;
    let first: Vec<Instant> = (answers.iter())
        .filter_map(|a| a.pieces.first().copied())
        .collect();
    let ends = first.iter().min().zip(first.iter().max());
    Ok(Shared {
        clients,
        prefix: sizes.prefix,
        tail: TAIL,
        rows_computed: (after - before) as usize,
        first_token_seconds: percentile(answers.iter().filter_map(Answer::first), 0.5),
        spread_seconds: ends.map_or(0.0, |(first, last)| (*last - *first).as_secs_f64()),
    })
}
