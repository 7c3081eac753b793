//! Requests spoilt at random: bodies, heads, templates, grammars, and the way they are sent.
//!
//! Whatever comes is answered or dropped within a bounded time; nothing panics, no answer is a failure of the
//! server, and it goes on to answer good requests. `GANNET_FUZZ=all` sends ten thousand bodies, otherwise a
//! share of them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{JSON, raw, request};
use crate::harness::{Server, greedy, with};
use crate::stress::Random;

/// Bodies that there are.
const BODIES: usize = 10_000;
/// One in so many is in a sample.
const SHARE: usize = 20;
/// As many good requests follow.
const BETWEEN: usize = 100;
/// Clients at once.
const CLIENTS: usize = 4;

/// Longer than any answer takes.
const AT_MOST: Duration = Duration::from_secs(20);

fn count(all: usize) -> usize {
    match std::env::var_os("GANNET_FUZZ").is_some_and(|v| v == "all") {
        true => all,
        false => all / SHARE,
    }
}

/// Good requests, from which bad ones are made.
fn good() -> Vec<(&'static str, Value)> {
    let hello = json!([{"role": "system", "content": "Be."}, {"role": "user", "content": "Hello"}]);
    let tool = json!({"type": "function", "function": {"name": "f", "description": "d", "parameters":
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}});
    let say = |others| with(json!({"messages": hello, "max_tokens": 2}), others);
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]{1,3}$"},
        "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}}, "$defs": {"n": {"type": "number"}}});
    vec![
        (
            "/v1/completions",
            with(greedy("Ownership is", 2), json!({"logprobs": 2, "n": 2})),
        ),
        (
            "/v1/completions",
            json!({"prompt": [[5, 6, 7], [8]], "max_tokens": 1, "stop": ["a", "b"],
            "logit_bias": {"5": 1.5}, "seed": 3, "top_p": 0.9, "stream": true}),
        ),
        (
            "/v1/chat/completions",
            say(json!({"temperature": 0.5, "top_k": 3})),
        ),
        (
            "/v1/chat/completions",
            say(
                json!({"stream": true, "stream_options": {"include_usage": true},
            "logprobs": true, "top_logprobs": 2}),
            ),
        ),
        (
            "/v1/chat/completions",
            say(json!({"response_format":
            {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}})),
        ),
        (
            "/v1/chat/completions",
            say(json!({"guided_regex": "(ab|c+){1,3}[^x]?"})),
        ),
        (
            "/v1/chat/completions",
            say(json!({"guided_grammar": "start: \"a\" b*\nb: /[0-9]+/"})),
        ),
        (
            "/v1/chat/completions",
            say(json!({"tools": [tool], "tool_choice": "auto"})),
        ),
        (
            "/v1/chat/completions",
            say(json!({"chat_template_kwargs": {"x": [1, {"y": null}]}})),
        ),
        (
            "/v1/responses",
            json!({"input": "Hello", "max_output_tokens": 2, "stream": true}),
        ),
        (
            "/v1/responses",
            json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}],
            "max_output_tokens": 2, "instructions": "Be.", "temperature": 0.3}),
        ),
        (
            "/v1/messages",
            json!({"model": "rustdoc-tiny", "max_tokens": 2, "system": [{"type": "text", "text": "Be."}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "stop_sequences": ["q"]}),
        ),
        (
            "/v1/messages/count_tokens",
            json!({"model": "rustdoc-tiny", "messages":
            [{"role": "user", "content": "x"}]}),
        ),
        (
            "/api/generate",
            json!({"model": "rustdoc-tiny", "prompt": "x", "options": {"num_predict": 2, "seed": 1}}),
        ),
        (
            "/api/chat",
            json!({"model": "rustdoc-tiny", "messages": hello, "stream": false, "format": "json",
            "options": {"num_predict": 2}}),
        ),
        (
            "/api/embed",
            json!({"model": "rustdoc-tiny", "input": ["x", "y"]}),
        ),
        (
            "/api/embeddings",
            json!({"model": "rustdoc-tiny", "prompt": "x"}),
        ),
        (
            "/v1/embeddings",
            json!({"input": [[5, 6], [7]], "encoding_format": "base64"}),
        ),
        ("/api/show", json!({"model": "rustdoc-tiny"})),
        (
            "/tokenize",
            json!({"content": "Hello \u{1f980}", "add_special": true}),
        ),
        ("/detokenize", json!({"tokens": [1, 2, 300]})),
        (
            "/apply-template",
            json!({"messages": hello, "tools": [tool]}),
        ),
    ]
}

/// Values that fit nowhere.
fn odd_value(random: &mut Random) -> String {
    let deep = |open: &str, close: &str, n| open.repeat(n) + "1" + &close.repeat(n);
    let values = [
        "null".to_owned(),
        "true".to_owned(),
        "-1".to_owned(),
        "0".to_owned(),
        "1e308".to_owned(),
        "1e999".to_owned(),
        "-0.0".to_owned(),
        "18446744073709551616".to_owned(),
        "9223372036854775808".to_owned(),
        "4294967296".to_owned(),
        "0.1e-400".to_owned(),
        "\"\"".to_owned(),
        "\"\\u0000\"".to_owned(),
        "\"\\ud800\"".to_owned(),
        "\"\\udc00\\ud800\"".to_owned(),
        "\"\\ud83e\\udd80\"".to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        "[[]]".to_owned(),
        "{\"\":{}}".to_owned(),
        "NaN".to_owned(),
        "Infinity".to_owned(),
        "'x'".to_owned(),
        deep("[", "]", 100),
        deep("[", "]", 5000),
        deep("{\"a\":", "}", 100),
        deep("{\"a\":", "}", 5000),
        format!("\"{}\"", "x".repeat(20_000)),
        format!("[{}1]", "1,".repeat(20_000)),
        format!("\"{}\"", "(".repeat(2000)),
        "\"(a*)*b{1000}{1000}\"".to_owned(),
        "\"start: start\"".to_owned(),
        "\"start: (\\\"a\\\"*)*\"".to_owned(),
        "\"{% for i in range(1000000000) %}x{% endfor %}\"".to_owned(),
        "{\"$ref\":\"#\"}".to_owned(),
        "{\"allOf\":[{\"$ref\":\"#/$defs/n\"}]}".to_owned(),
        "{\"type\":\"array\",\"minItems\":1000000000}".to_owned(),
        "{\"type\":\"string\",\"minLength\":100000,\"pattern\":\"(a|b|ab)*c\"}".to_owned(),
        "{\"enum\":[]}".to_owned(),
        "{\"not\":{}}".to_owned(),
        "{\"type\":\"nothing\"}".to_owned(),
    ];
    values[random.below(values.len())].clone()
}

/// Puts another value where one was, anywhere in a body; as text, for not all of them are JSON.
fn replace_value(body: &Value, random: &mut Random) -> String {
    const HERE: &str = "\u{1}here\u{1}";
    let mut body = body.clone();
    let mut at = &mut body;
    loop {
        let is_here = random.below(3) == 0;
        let inner: Vec<String> = match &*at {
            Value::Object(map) if !map.is_empty() => map.keys().cloned().collect(),
            Value::Array(all) if !all.is_empty() => (0..all.len()).map(|i| i.to_string()).collect(),
            _ => Vec::new(),
        };
        if inner.is_empty() || is_here {
            *at = json!(HERE);
            break;
        }
        let key = &inner[random.below(inner.len())];
        at = match at {
            Value::Array(all) => &mut all[key.parse::<usize>().unwrap()],
            other => &mut other[key.as_str()],
        };
    }
    body.to_string()
        .replace(&json!(HERE).to_string(), &odd_value(random))
}

/// A body that was good.
fn spoil(body: &Value, random: &mut Random) -> Vec<u8> {
    let text = body.to_string();
    let mut bytes = text.clone().into_bytes();
    match random.below(8) {
        0 => {
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
        }
        1 => bytes.truncate(random.below(bytes.len())),
        2 => {
            let at = random.below(bytes.len());
            let from = random.below(bytes.len());
            let to = (from + random.below(40)).min(bytes.len());
            let piece = bytes[from..to].to_vec();
            bytes.splice(at..at, piece);
        }
        3 => {
            let from = random.below(bytes.len());
            let to = (from + random.below(20)).min(bytes.len());
            bytes.drain(from..to);
        }
        4 => {
            // A name twice, or one that nobody knows.
            let name = body
                .as_object()
                .unwrap()
                .keys()
                .nth(random.below(2))
                .cloned();
            let name = name
                .filter(|_| random.below(2) == 0)
                .unwrap_or_else(|| "magic".to_owned());
            bytes.pop();
            bytes.extend(format!(",\"{name}\":{}}}", odd_value(random)).into_bytes());
        }
        5 => {
            let at = random.below(bytes.len());
            let odd: &[u8] = [
                b"\xff\xfe".as_slice(),
                b"\xed\xa0\x80",
                b"\0",
                b"\xc0\xaf",
                "\u{feff}".as_bytes(),
            ][random.below(5)];
            bytes.splice(at..at, odd.iter().copied());
        }
        _ => bytes = replace_value(body, random).into_bytes(),
    }
    bytes
}

/// Sends bytes and looks at all that comes back: answers that are none of a server's failures, or an end.
fn survive(server: &Server, bytes: &[u8], then_close: bool) {
    let begun = Instant::now();
    let mut connection = server.open();
    connection.patience(AT_MOST);
    // It may answer and close before it has read everything.
    let _ = connection.send(bytes);
    if then_close {
        let _ = connection.finish_sending();
    }
    if let Ok(answer) = connection.answer() {
        let status = answer.status();
        assert!(
            status < 500 || status == 503,
            "{status}: {:?}",
            shown(bytes)
        );
        let is_error = status >= 400 && !answer.body.is_empty();
        if is_error && answer.head.header("content-type") == Some("application/json") {
            assert!(!answer.json()["error"].is_null(), "{}", answer.text());
        }
    }
    let took = begun.elapsed();
    assert!(took < AT_MOST, "{took:?}: {:?}", shown(bytes));
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned()
}

fn answers_well(server: &Server, text: &str) {
    assert_eq!(
        server
            .post("/v1/completions", &greedy("Ownership is", 3))
            .said(),
        text
    );
}

/// Runs something with every number below `count`, some at once, and a good request now and then.
fn each(server: &Server, count: usize, work: impl Fn(u64) + Sync) {
    let text = server
        .post("/v1/completions", &greedy("Ownership is", 3))
        .said();
    std::thread::scope(|threads| {
        for client in 0..CLIENTS {
            let (work, text) = (&work, &text);
            threads.spawn(move || {
                for i in (client..count).step_by(CLIENTS) {
                    work(i as u64);
                    if i % BETWEEN == 0 {
                        answers_well(server, text);
                    }
                }
            });
        }
    });
    answers_well(server, &text);
    server.until_idle();
}

/// A server with little of everything.
fn small() -> Server {
    let args = [
        "--ctx",
        "96",
        "--patience",
        "1",
        "--timeout",
        "5",
        "--max-body",
        "1000000",
    ];
    Server::start(&args)
}

#[test]
fn spoilt_bodies_are_answered() {
    let server = small();
    let good = good();
    for (path, body) in &good {
        let answer = server.post(path, body);
        // A model may have no embeddings; it says so.
        let is_good = answer.status() == 200 || path.contains("embed");
        assert!(is_good, "{path} {body}: {}", answer.text());
    }
    let before = server.memory();
    each(&server, count(BODIES), |i| {
        let mut random = Random::new(i);
        let (path, body) = &good[random.below(good.len())];
        let bytes = spoil(body, &mut random);
        survive(&server, &raw("POST", path, &[JSON], &bytes), false);
    });
    let after = server.memory();
    println!("memory {} to {} MiB", before >> 20, after >> 20);
    assert!(after < before + (256 << 20), "{before} to {after} bytes");
}

/// A head or a body that breaks the rules of HTTP, and requests behind one another.
fn spoilt_head(random: &mut Random) -> (Vec<u8>, bool) {
    let body = greedy("x", 1).to_string();
    let body = body.as_bytes();
    let good = request("POST", "/v1/completions", &greedy("x", 1));
    let with_headers = |headers: &[(&str, &str)]| {
        let headers = [&[JSON], headers].concat();
        raw("POST", "/v1/completions", &headers, body)
    };
    let bytes = match random.below(16) {
        0 => {
            let mut bytes = good.clone();
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
            bytes
        }
        1 => with_headers(&[("X-Long", &"x".repeat(random.below(200_000)))]),
        2 => {
            let many: Vec<(&str, &str)> = vec![("X-Many", "1"); random.below(3000)];
            with_headers(&many)
        }
        3 => raw("POST", &"/x".repeat(random.below(50_000)), &[JSON], body),
        4 => with_headers(&[("Content-Length", "99999999999999999999")]),
        5 => with_headers(&[("Content-Length", &random.below(300).to_string())]),
        6 => with_headers(&[("Transfer-Encoding", "chunked")]),
        7 => {
            let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                        Transfer-Encoding: chunked\r\n\r\n";
            let size = ["ffffffffffffffff", "-1", "zz", "5;ext=1", "0", "fffffff"][random.below(6)];
            [
                head.as_bytes(),
                size.as_bytes(),
                b"\r\n",
                body,
                b"\r\n0\r\n\r\n",
            ]
            .concat()
        }
        8 => good.repeat(1 + random.below(20)),
        9 => good[..random.below(good.len())].to_vec(),
        10 => (0..random.below(2000))
            .map(|_| random.below(256) as u8)
            .collect(),
        11 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        12 => raw(&"G".repeat(random.below(9000)), "/health", &[], b""),
        13 => with_headers(&[("Expect", "100-continue"), ("Connection", "close, upgrade")]),
        14 => with_headers(&[("Authorization", "Bearer \u{fe}\u{ff}"), ("Origin", "\t")]),
        _ => {
            let mut both = good.clone();
            both.extend((0..40).map(|_| random.below(256) as u8));
            both
        }
    };
    (bytes, random.below(2) == 0)
}

#[test]
fn spoilt_heads_are_answered_or_dropped() {
    let server = small();
    each(&server, count(BODIES) / 5, |i| {
        let (bytes, then_close) = spoilt_head(&mut Random::new(i ^ 0x5eed));
        survive(&server, &bytes, then_close);
    });
}
