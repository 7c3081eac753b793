//! Requests that are refused: status, code and the parameter that is named.

use serde_json::{Value, json};

use crate::client::{JSON, raw, request};
use crate::harness::{Server, greedy, streamed, with};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A body, and the parameter that its refusal names.
fn wrong_parameters() -> Vec<(&'static str, Value, &'static str)> {
    let complete = |others| with(greedy("Ownership is", 2), others);
    let say = |others| {
        let hello = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2});
        with(hello, others)
    };
    let mut cases = Vec::new();
    for (param, value) in [
        ("temperature", json!("hot")),
        ("temperature", json!(-0.5)),
        ("temperature", json!(2.5)),
        ("top_p", json!(1.5)),
        ("top_p", json!([1])),
        ("top_k", json!(-2)),
        ("top_k", json!(1.5)),
        ("min_p", json!(-1)),
        ("presence_penalty", json!(3)),
        ("frequency_penalty", json!(-3)),
        ("repetition_penalty", json!(0)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!("2")),
        ("n", json!(0)),
        ("n", json!(129)),
        ("seed", json!("x")),
        ("stop", json!(1)),
        ("stop", json!([""])),
        ("stop_token_ids", json!(["x"])),
        ("logit_bias", json!([1])),
        ("logit_bias.99999999", json!(1)),
        ("ignore_eos", json!("yes")),
        ("priority", json!(-1)),
        ("stream", json!("yes")),
        ("stream_options", json!({"include_usage": true})),
    ] {
        let body = match param {
            "logit_bias.99999999" => json!({"logit_bias": {"99999999": value}}),
            _ => json!({ param: value }),
        };
        cases.push((COMPLETIONS, complete(body.clone()), param));
        cases.push((CHAT, say(body), param));
    }
    for (param, body) in [
        ("prompt", json!({"max_tokens": 2})),
        ("prompt", json!({"prompt": 5})),
        ("prompt", json!({"prompt": []})),
        ("prompt", json!({"prompt": [[]]})),
        ("prompt", json!({"prompt": vec!["x"; 129]})),
        ("logprobs", complete(json!({"logprobs": 21}))),
        ("logprobs", complete(json!({"logprobs": true}))),
    ] {
        cases.push((COMPLETIONS, body, param));
    }
    for (param, body) in [
        ("messages", json!({"max_tokens": 2})),
        ("messages", json!({"messages": []})),
        ("messages", json!({"messages": "Hello"})),
        (
            "messages[0].role",
            json!({"messages": [{"role": "wizard", "content": "x"}]}),
        ),
        (
            "messages[1].role",
            json!({"messages": [{"role": "user", "content": "x"}, {"content": "x"}]}),
        ),
        (
            "top_logprobs",
            say(json!({"logprobs": true, "top_logprobs": 21})),
        ),
        ("top_logprobs", say(json!({"top_logprobs": 2}))),
        ("tool_choice", say(json!({"tool_choice": "required"}))),
        ("tool_choice", say(json!({"tool_choice": "some"}))),
        ("reasoning_effort", say(json!({"reasoning_effort": "all"}))),
    ] {
        cases.push((CHAT, body, param));
    }
    cases
}

#[test]
fn what_makes_no_sense_is_refused_by_the_name_of_its_parameter() {
    let server = Server::start(&[]);
    for (path, body, param) in wrong_parameters() {
        for body in [body.clone(), streamed(body.clone())] {
            if param.starts_with("stream") && body["stream"] == true {
                continue;
            }
            let answer = server.post(path, &body);
            assert_eq!(answer.status(), 400, "{body}: {}", answer.text());
            let error = answer.error();
            assert_eq!(error["type"], "invalid_request_error", "{body}");
            let named = error["param"].as_str().unwrap_or_default();
            assert!(named.starts_with(param), "{body}: {error}");
        }
    }
    for text in [
        "",
        "{",
        "[]",
        "7",
        "null",
        "\"x\"",
        "{]",
        "{\"prompt\": \"x\",}",
        "\u{feff}{}",
        r#"{"prompt": "x", "prompt": "y"}"#,
        r#"{"prompt": "x", "temperature": 1e999}"#,
        r#"{"prompt": "\ud800"}"#,
        r#"{"messages": [{"role": "user", "role": "user", "content": "x"}]}"#,
    ] {
        for path in [
            COMPLETIONS,
            CHAT,
            "/tokenize",
            "/detokenize",
            "/apply-template",
        ] {
            let answer = server.send(&raw("POST", path, &[JSON], text.as_bytes()));
            assert_eq!(answer.status(), 400, "{text}");
            let error = answer.error();
            assert_eq!(error["type"], "invalid_request_error", "{text}: {error}");
        }
    }
    let deep = "[".repeat(100_000);
    let deep = format!("{{\"prompt\": {deep}");
    for bytes in [deep.as_bytes(), b"{\"prompt\": \"\xff\xfe\"}"] {
        let answer = server.send(&raw("POST", COMPLETIONS, &[JSON], bytes));
        assert_eq!(answer.status(), 400);
    }
    assert!(server.metrics().is_idle());
}

#[test]
fn a_parameter_that_is_not_supported_is_refused_and_never_passed_over() {
    let server = Server::start(&[]);
    let complete = |others| (COMPLETIONS, with(greedy("Ownership is", 2), others));
    let say = |others| {
        let hello = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2});
        (CHAT, with(hello, others))
    };
    for ((path, body), param) in [
        (complete(json!({"echo": true})), "echo"),
        (complete(json!({"suffix": "x"})), "suffix"),
        (complete(json!({"best_of": 3})), "best_of"),
        (complete(json!({"magic": 1})), "magic"),
        (say(json!({"magic": {"a": []}})), "magic"),
        (say(json!({"store": true})), "store"),
        (say(json!({"modalities": ["audio"]})), "modalities"),
        (say(json!({"service_tier": "flex"})), "service_tier"),
        (
            say(json!({"stream": true, "stream_options": {"x": 1}})),
            "stream_options.x",
        ),
        (
            say(json!({"response_format": {"type": "xml"}})),
            "response_format",
        ),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status(), 400, "{body}: {}", answer.text());
        let error = answer.error();
        let named = error["param"].as_str().unwrap_or_default();
        assert!(named.starts_with(param), "{body}: {error}");
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_in_front_of_any_header() {
    let server = Server::start(&["--ctx", "64"]);
    let long: Vec<u32> = vec![5; 65];
    let count = |text: &str| {
        let answer = server.post("/tokenize", &json!({"content": text, "add_special": true}));
        answer.json()["count"].as_u64().unwrap()
    };
    let text = "a value ".repeat(100);
    let message = json!([{"role": "user", "content": text}]);
    let prompt = server.post("/apply-template", &json!({"messages": message}));
    let in_chat = prompt.json()["count"].as_u64().unwrap();
    for (path, body, tokens) in [
        (COMPLETIONS, json!({"prompt": long}), 65),
        (COMPLETIONS, json!({"prompt": text}), count(&text)),
        (
            COMPLETIONS,
            json!({"prompt": ["short", text]}),
            count(&text),
        ),
        (CHAT, json!({"messages": message}), in_chat),
    ] {
        for body in [body.clone(), streamed(body.clone())] {
            let answer = server.post(path, &body);
            assert_eq!(answer.status(), 400, "{}", answer.text());
            let error = answer.error();
            assert_eq!(error["code"], "context_length_exceeded");
            assert_eq!(error["type"], "invalid_request_error");
            let message = error["message"].as_str().unwrap();
            for count in [tokens.to_string(), "64".to_owned()] {
                assert!(message.contains(&format!("{count} tokens")), "{message}");
            }
        }
    }
    // One that fills it is none of these.
    let whole = server.post(
        COMPLETIONS,
        &json!({"prompt": vec![5; 64], "max_tokens": 5}),
    );
    assert_eq!(whole.json()["choices"][0]["finish_reason"], "length");
    assert!(server.metrics().is_idle());
}

#[test]
fn what_is_not_there_has_a_status_of_its_own() {
    let server = Server::start(&["--max-body", "100000"]);
    let models = server.get("/v1/models").json();
    let name = models["data"][0]["id"].as_str().unwrap();
    let of = |model: &str| with(greedy("x", 1), json!({"model": model}));
    assert_eq!(server.post(COMPLETIONS, &of(name)).status(), 200);
    let unknown = server.post(COMPLETIONS, &of("gpt-x"));
    assert_eq!(
        (unknown.status(), &unknown.error()["code"]),
        (404, &json!("model_not_found"))
    );
    assert_eq!(unknown.error()["param"], "model");
    assert_eq!(
        server.get("/v1/models/gpt-x").error()["code"],
        "model_not_found"
    );
    for path in [
        "/",
        "/v1",
        "/v1/complete",
        "/v1/completions/",
        "/%ff",
        "/v1/models/%ff",
        "//",
    ] {
        let answer = server.get(path);
        let status = answer.status();
        let is_page = path == "/" && status == 200;
        assert!(is_page || [400, 404].contains(&status), "{path}: {status}");
        if !is_page {
            answer.error();
        }
    }
    for (method, path) in [
        ("GET", COMPLETIONS),
        ("PUT", CHAT),
        ("DELETE", "/tokenize"),
        ("POST", "/v1/models"),
        ("POST", "/health"),
        ("BREW", "/metrics"),
    ] {
        let answer = server.send(&request(method, path, &Value::Null));
        assert_eq!(answer.status(), 405, "{method} {path}");
        assert!(answer.head.header("allow").is_some(), "{method} {path}");
        answer.error();
    }
    let body = greedy("x", 1).to_string();
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
    ] {
        let headers = [("Content-Type", kind)];
        let answer = server.send(&raw("POST", COMPLETIONS, &headers, body.as_bytes()));
        assert_eq!(answer.status(), 415, "{kind}");
        assert_eq!(answer.error()["code"], "unsupported_media_type");
    }
    let none = server.send(&raw("POST", COMPLETIONS, &[], body.as_bytes()));
    assert_eq!(none.status(), 415);
    let with_charset = [("Content-Type", "application/json; charset=utf-8")];
    let answer = server.send(&raw("POST", COMPLETIONS, &with_charset, body.as_bytes()));
    assert_eq!(answer.status(), 200);
}

/// The answer is there for a client that sends all of its body before it reads.
#[test]
fn a_body_that_is_too_large_is_refused_and_its_sender_hears_of_it() {
    let server = Server::start(&["--max-body", "100000", "--patience", "2"]);
    let large = json!({"prompt": "x".repeat(8_000_000)}).to_string();
    let whole = raw("POST", COMPLETIONS, &[JSON], large.as_bytes());
    let chunks = large.as_bytes().chunks(50_000).flat_map(|chunk| {
        let size = format!("{:x}\r\n", chunk.len());
        [size.as_bytes(), chunk, b"\r\n"].concat()
    });
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let chunked = [head.as_bytes(), &chunks.collect::<Vec<u8>>(), b"0\r\n\r\n"].concat();
    for bytes in [whole, chunked] {
        let answer = server.send(&bytes);
        assert_eq!(answer.status(), 413);
        assert_eq!(answer.error()["code"], "request_too_large");
    }
    // Such as were not asked for at all end alike.
    let lost = server.send(&raw("POST", "/nowhere", &[JSON], large.as_bytes()));
    assert_eq!(lost.status(), 404);
    // Nothing is sent but the length.
    let mut connection = server.open();
    let declared = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                    Content-Length: 100001\r\n\r\n";
    connection.send(declared.as_bytes()).unwrap();
    assert_eq!(connection.answer().unwrap().status(), 413);
    assert!(server.memory() < 1 << 30);
}

#[test]
fn tools_that_a_template_has_no_place_for_are_refused() {
    let server = Server::start(&["--chat-template", "vicuna"]);
    let tool =
        json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}});
    let body = json!({
        "messages": [{"role": "user", "content": "Ownership is"}], "max_tokens": 2, "tools": [tool],
    });
    let answer = server.post("/v1/chat/completions", &body);
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.error()["param"], "tools");
    // Without their use there is nothing to write.
    let mut none = body;
    none["tool_choice"] = json!("none");
    assert_eq!(server.post("/v1/chat/completions", &none).status(), 200);
}
