//! Many clients of all kinds at once, some of whom leave wherever they are.
//!
//! `GANNET_STRESS=all` goes on for two minutes, otherwise for some seconds.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Connection, Streamed, request};
use crate::harness::{Server, greedy, streamed, with, words};

const CLIENTS: u64 = 64;

/// A small generator: the same numbers every time.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n.max(1) as u64) as usize
    }
}

/// Requests of all kinds, each of which says the same every time.
fn bodies() -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    for i in 0..6 {
        let prompt = words(3 + i * i * 4);
        all.push(("/v1/completions", greedy(&prompt, 4 + i * 7)));
        let drawn = json!({"temperature": 0.9, "seed": i, "top_p": 0.95});
        all.push(("/v1/completions", with(greedy(&prompt, 30 - i * 4), drawn)));
    }
    let message = json!([{"role": "user", "content": "Ownership"}]);
    for (i, schema) in schemas().into_iter().enumerate() {
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        let body = json!({
            "messages": message, "response_format": format, "max_tokens": 60, "seed": i,
        });
        all.push(("/v1/chat/completions", body));
    }
    all
}

fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "yy"]}},
               "required": ["a", "b"], "additionalProperties": false}),
        json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99},
               "minItems": 2, "maxItems": 4}),
        json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}},
               "required": ["name"], "additionalProperties": false}),
    ]
}

/// What became of a client's requests.
#[derive(Debug, Default)]
struct Tally {
    whole: u64,
    left: u64,
    wrong: Vec<String>,
}

/// One client until the time is over.
fn client(server: &Server, seed: u64, until: Instant, known: &[(&str, Value, String)]) -> Tally {
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    while Instant::now() < until {
        let (path, body, text) = &known[random.below(known.len())];
        let leaves = random.below(5) == 0;
        let streams = random.below(2) == 0;
        let body = if streams {
            streamed(body.clone())
        } else {
            body.clone()
        };
        if leaves {
            leave(server, path, &body, &mut random);
            tally.left += 1;
            continue;
        }
        let said = match streams {
            true => whole(&server.stream(path, &body)),
            false => Ok(server.post(path, &body)).and_then(|answer| match answer.status() {
                200 => Ok(answer.said()),
                _ => Err(answer.text().to_owned()),
            }),
        };
        match said {
            Ok(said) if said == *text => tally.whole += 1,
            Ok(said) => tally
                .wrong
                .push(format!("{body}: {said:?} is not {text:?}")),
            Err(error) => tally.wrong.push(format!("{body}: {error}")),
        }
    }
    tally
}

fn whole(stream: &Streamed) -> Result<String, String> {
    match (&stream.error, stream.is_done) {
        (None, true) => Ok(stream.text.clone()),
        _ => Err(format!("{stream:?}")),
    }
}

/// Leaves somewhere: in its own request, in front of the answer, or within it.
fn leave(server: &Server, path: &str, body: &Value, random: &mut Random) {
    let bytes = request("POST", path, body);
    let mut connection = server.open();
    let sent = match random.below(4) {
        0 => random.below(bytes.len()),
        _ => bytes.len(),
    };
    // It may have ended already.
    let _ = connection.send(&bytes[..sent]);
    if sent < bytes.len() {
        return;
    }
    match random.below(3) {
        0 => std::thread::sleep(Duration::from_millis(random.below(80) as u64)),
        1 if body["stream"] == true => read_some(&mut connection, 1 + random.below(12)),
        _ => {}
    }
}

fn read_some(connection: &mut Connection, events: usize) {
    if connection.head().is_err() {
        return;
    }
    for _ in 0..events {
        if !matches!(connection.event(), Ok(Some(_))) {
            return;
        }
    }
}

fn run(server: &Server, time: Duration, known: &[(&str, Value, String)], round: u64) -> Tally {
    let until = Instant::now() + time;
    let all = Mutex::new(Tally::default());
    std::thread::scope(|threads| {
        for i in 0..CLIENTS {
            let all = &all;
            threads.spawn(move || {
                let tally = client(server, round * CLIENTS + i, until, known);
                let mut all = all.lock().unwrap();
                all.whole += tally.whole;
                all.left += tally.left;
                all.wrong.extend(tally.wrong);
            });
        }
    });
    all.into_inner().unwrap()
}

#[test]
fn clients_of_all_kinds_at_once_get_what_each_gets_alone() {
    let is_long = std::env::var_os("GANNET_STRESS").is_some_and(|v| v == "all");
    let server = Server::start(&["--slots", "16", "--cache-blocks", "20", "--ctx", "512"]);
    let alone = |(path, body): (&'static str, Value)| {
        let text = server.post(path, &body).said();
        (path, body, text)
    };
    let known: Vec<(&str, Value, String)> = bodies().into_iter().map(alone).collect();
    // The first round fills whatever is filled once.
    let time = Duration::from_secs(if is_long { 20 } else { 3 });
    let warm = run(&server, time, &known, 0);
    server.until_idle();
    let before = server.memory();
    let time = Duration::from_secs(if is_long { 120 } else { 5 });
    let tally = run(&server, time, &known, 1);
    let free = server.until_idle();
    let after = server.memory();
    let metrics = server.metrics();
    println!(
        "{} whole, {} left, {} wrong; memory {} to {} MiB; idle after {free:?}; {} preemptions, {} aborted",
        tally.whole,
        tally.left,
        tally.wrong.len(),
        before >> 20,
        after >> 20,
        metrics.get("num_preemptions_total"),
        metrics.ended("abort"),
    );
    for wrong in [&warm.wrong, &tally.wrong] {
        assert!(
            wrong.is_empty(),
            "{} wrong, such as {}",
            wrong.len(),
            wrong[0]
        );
    }
    assert!(tally.whole > 20 && tally.left > 5, "{tally:?}");
    assert_eq!(metrics.ended("error"), 0.0);
    assert!(free < Duration::from_secs(1), "{free:?}");
    assert!(after < before + (32 << 20), "{before} to {after} bytes");
    // It says what it said.
    for (path, body, text) in &known {
        assert_eq!(server.post(path, body).said(), *text);
    }
}
