//! Templates and grammars of people who mean no good: refused, or followed within bounds of time and memory.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Connection, request};
use crate::harness::{Server, greedy, with};

/// A schema as a request says it.
fn schema(schema: Value) -> (&'static str, Value) {
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    ("response_format", format)
}

fn grammars() -> Vec<(&'static str, Value)> {
    let regex = |text: &str| ("guided_regex", json!(text));
    let lark = |text: &str| ("guided_grammar", json!(text));
    let many = |from: usize, each: &dyn Fn(usize) -> Value| -> Vec<Value> {
        (0..from).map(each).collect()
    };
    let rules: String = (0..300)
        .map(|i| format!("r{i}: r{0} r{0} | \"a\"\n", i + 1))
        .collect();
    vec![
        regex(&format!("{}{}", "(".repeat(3000), ")".repeat(3000))),
        regex("((a{1,100}){1,100}){1,100}"),
        regex("(a|b|ab)*c{500,1000}"),
        regex(&"(a*)*".repeat(50)),
        regex(&"a".repeat(100_000)),
        regex("(.*a){20}"),
        regex("(?!a)b"),
        regex(""),
        lark("start: start"),
        lark("start: (\"\"*)*"),
        lark(&format!(
            "start: {}\"b\"{}",
            "(\"a\" | ".repeat(5000),
            ")".repeat(5000)
        )),
        lark("start: \"a\"{1,1000000000}"),
        lark(&format!("{rules}r300: \"x\"\nstart: r0")),
        lark("start: nothing"),
        schema(json!({"$ref": "#"})),
        schema(json!({"$ref": "file:///etc/passwd"})),
        schema(json!({"type": "array", "minItems": 1_000_000_000})),
        schema(json!({"type": "string", "minLength": 1_000_000_000})),
        schema(json!({"type": "string", "pattern": "(a|b|ab)*c{1000}{1000}"})),
        schema(json!({"enum": many(5000, &|i| json!(format!("x{i}")))})),
        schema(json!({"anyOf": many(500, &|i| json!({"required": [format!("p{i}")]}))})),
        schema(
            json!({"allOf": many(30, &|i| json!({"anyOf": [{"minLength": i}, {"maxLength": i}]}))}),
        ),
        schema(json!({"type": "number", "multipleOf": 1e-300})),
        schema(json!({"type": "integer", "minimum": 5, "maximum": 4})),
        schema(json!({"not": {}})),
    ]
}

#[test]
fn hostile_grammars_are_refused_or_bounded() {
    let server = Server::start(&["--ctx", "96", "--timeout", "5"]);
    let say =
        json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 4, "temperature": 0});
    for (param, value) in grammars() {
        let shown: String = value.to_string().chars().take(80).collect();
        let begun = Instant::now();
        let answer = server.post(
            "/v1/chat/completions",
            &with(say.clone(), json!({param: value})),
        );
        let took = begun.elapsed();
        assert!(
            [200, 400, 408].contains(&answer.status()),
            "{shown}: {}",
            answer.text()
        );
        if answer.status() == 400 {
            let error = answer.error();
            let named = error["param"].as_str().unwrap_or(param);
            assert!(named.starts_with(param), "{shown}: {error}");
        }
        assert!(took < Duration::from_secs(15), "{shown}: {took:?}");
        assert!(server.memory() < 1 << 30, "{shown}");
    }
    assert_eq!(
        server.post("/v1/completions", &greedy("x", 1)).status(),
        200
    );
    server.until_idle();
}

/// Templates are programs of strangers: none of these takes the server with it, or its time.
#[test]
fn hostile_templates_are_refused_or_bounded() {
    let folder = tempfile::tempdir().unwrap();
    for (i, template) in [
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x' * 100000000000 }}",
        "{% set x = namespace(v='x') %}{% for i in range(64) %}{% set x.v = x.v ~ x.v %}{% endfor %}{{ x.v }}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{{ raise_exception('no\nlines') }}",
        "{{ undefined_function() }}",
        "{{ messages | tojson(indent=1000000000) }}",
        "{% include '/etc/passwd' %}",
        "{{ (((((((((1))))))))) }}{{ 1 // 0 }}",
        "{% if %}",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(format!("{i}.jinja"));
        std::fs::write(&path, template).unwrap();
        let args = ["--chat-template", path.to_str().unwrap(), "--ctx", "96", "--timeout", "5"];
        let server = Server::start(&args);
        let say = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1});
        for path in ["/v1/chat/completions", "/apply-template"] {
            let say = match path {
                "/apply-template" => json!({"messages": say["messages"]}),
                _ => say.clone(),
            };
            let begun = Instant::now();
            let mut connection: Connection = server.open();
            connection.send(&request("POST", path, &say)).unwrap();
            let answer = connection.answer().unwrap();
            assert!([200, 400].contains(&answer.status()), "{template}: {}", answer.text());
            if answer.status() == 400 {
                answer.error();
            }
            assert!(!answer.text().contains("root:"), "{template}");
            assert!(begun.elapsed() < Duration::from_secs(10), "{template}: {:?}", begun.elapsed());
        }
        assert!(server.memory() < 1 << 30, "{template}");
        assert_eq!(server.post("/v1/completions", &greedy("x", 1)).status(), 200);
    }
}
