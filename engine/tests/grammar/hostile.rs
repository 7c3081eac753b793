//! Grammars from strangers: refused in one line, or followed, within bounds of time and memory.

use std::time::{Duration, Instant};

use gannet_engine::Finish;
use gannet_engine::requests::Grammar;
use serde_json::{Value, json};

use super::generator::{Random, schema};
use super::{drawn, engine, model};

/// What a grammar may take to compile here, where builds are not optimised for speed and other tests have
/// the processor: each takes less than a second of it.
const PATIENCE: Duration = Duration::from_secs(30);

fn nested(open: &str, inner: &str, close: &str, depth: usize) -> String {
    open.repeat(depth) + inner + &close.repeat(depth)
}

/// Definitions of which each refers to the next.
fn chain(n: usize) -> String {
    let defs: serde_json::Map<String, Value> = (0..n)
        .map(|i| {
            let next = format!("#/$defs/d{}", i + 1);
            (
                format!("d{i}"),
                json!({"type": "array", "items": {"$ref": next}}),
            )
        })
        .chain([(format!("d{n}"), json!({"type": "null"}))])
        .collect();
    json!({"$ref": "#/$defs/d0", "$defs": defs}).to_string()
}

fn exploding(levels: usize) -> String {
    let option =
        |i: usize| json!({"type": "object", "properties": {format!("p{i}"): {"type": "string"}}});
    let all: Vec<Value> = (0..levels)
        .map(|level| json!({"anyOf": (0..10).map(|i| option(level * 10 + i)).collect::<Vec<_>>()}))
        .collect();
    json!({"allOf": all}).to_string()
}

/// Grammars, and what the error of those that are refused says; the others may be either.
fn hostile() -> Vec<(&'static str, Grammar, &'static str)> {
    let json = |text: String| Grammar::JsonSchema(text);
    let regex = |text: String| Grammar::Regex(text);
    let lark = |text: String| Grammar::Lark(text);
    let many = |n: usize| (0..n).map(|i| format!("w{i:x}")).collect::<Vec<_>>();
    let cyclic = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}});
    let siblings =
        json!({"$defs": {"a": {"type": "object", "$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"});
    let endless = json!({"$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}, "$ref": "#/$defs/a"});
    let properties: serde_json::Map<String, Value> = (0..1_000)
        .map(|i| (format!("p{i}"), json!({"type": "integer"})))
        .collect();
    vec![
        ("deep schema", json(nested(r#"{"items":"#, "{}", "}", 120)), ""),
        ("deeper schema", json(nested(r#"{"items":"#, "{}", "}", 5_000)), "no JSON"),
        ("deep not", json(nested(r#"{"not":"#, "{}", "}", 100)), "not is not supported"),
        ("a chain", json(chain(3_000)), ""),
        ("a longer chain", json(chain(15_000)), ""),
        ("a cycle", json(cyclic.to_string()), "match nothing"),
        ("a cycle with siblings", json(siblings.to_string()), "circular"),
        ("without end", json(endless.to_string()), ""),
        ("exploding", json(exploding(6)), ""),
        ("long enum", json(json!({"enum": many(20_000)}).to_string()), ""),
        ("long anyOf", json(json!({"anyOf": many(2_000).iter().map(|w| json!({"type": "object", "properties": {"k": {"const": w}}, "required": ["k"]})).collect::<Vec<_>>()}).to_string()), ""),
        ("many properties", json(json!({"type": "object", "properties": properties}).to_string()), ""),
        ("huge lengths", json(r#"{"type":"string","minLength":1000000,"maxLength":2000000000}"#.to_owned()), ""),
        ("huge counts", json(r#"{"type":"array","items":{"type":"string"},"minItems":100000,"maxItems":4000000000}"#.to_owned()), ""),
        ("a catastrophic pattern", json(r#"{"type":"string","pattern":"^(([a-z]+)*)*([a-z]+)*x{1000}(a|aa)*$"}"#.to_owned()), ""),
        ("patterns that meet", json(r#"{"patternProperties":{"(a|b)*a(a|b){60}":{},"(a|b)*b(a|b){60}":{}}}"#.to_owned()), ""),
        ("a multiple", json(r#"{"type":"number","multipleOf":1e-300}"#.to_owned()), ""),
        ("bounds", json(r#"{"type":"number","minimum":-1e308,"maximum":1e308}"#.to_owned()), ""),
        ("overrides", json(r#"{"x-guidance":{"lenient":true},"not":{}}"#.to_owned()), "not taken from callers"),
        ("no schema", json("[1]".to_owned()), "no schema"),
        ("cut", json(r#"{"type":"#.to_owned()), "no JSON"),
        ("odd letters", json(r#"{"minLength":"ééééééééééééééééééééééééééééééééééééééééééééééééééééééééé"}"#.to_owned()), "not a count"),
        ("doubling", regex("((((((((((a{9}){9}){9}){9}){9}){9}){9}){9}){9}){9})".to_owned()), ""),
        ("alternatives", regex(many(2_500).join("|")), ""),
        ("an exponential automaton", regex("(a|b)*a(a|b){200}".to_owned()), ""),
        ("deep groups", regex(nested("(", "a", ")", 4_000)), ""),
        ("long", regex("a".repeat(100_000)), "16384"),
        ("open", regex("(a".to_owned()), "unclosed group"),
        ("look-around", regex("(?=a)b".to_owned()), "look-around"),
        ("a reference back", regex("(a)\\1".to_owned()), ""),
        ("a backslash", regex("a\\".to_owned()), "backslash"),
        ("nothing", regex("[^\\s\\S]".to_owned()), "match nothing"),
        ("deep Lark", lark(format!("start: {}", nested("(", "\"a\"", ")", 10_000))), "nest more than"),
        ("long Lark", lark("x".repeat(1 << 20)), "at most"),
        ("a chain of rules", lark((0..8_000).map(|i| format!("r{i}: r{}\n", i + 1)).collect::<String>() + "r8000: \"a\"\nstart: r0\n"), ""),
        ("negations", lark(format!("start: A\nA: {}/a/", "~".repeat(20_000))), ""),
        ("ambiguous", lark("start: start start | start start start | \"a\"?".to_owned()), ""),
        ("without end, Lark", lark("start: \"a\" start".to_owned()), ""),
        ("repeats", lark("start: (\"a\"{1000000}){1000000}".to_owned()), ""),
        ("a token that is none", lark("start: <|nosuch|> \"a\"".to_owned()), ""),
        ("a schema in Lark", lark("start: %json {\"not\": {}}".to_owned()), "line 1"),
        ("a heat in Lark", lark("start[temperature=0.5]: /a+/".to_owned()), "temperature"),
        ("no start", lark("a: \"b\"".to_owned()), ""),
    ]
}

#[test]
fn hostile_grammars_are_answered_in_time() {
    // What takes time once for a model.
    model().check_grammar(&Grammar::JsonObject).unwrap();
    for (name, grammar, says) in hostile() {
        let started = Instant::now();
        let result = model().check_grammar(&grammar);
        let took = started.elapsed();
        let error = result.err().map(|e| e.to_string());
        println!("{name}: {took:?}: {error:?}");
        assert!(took < PATIENCE, "{name}: {took:?}");
        let Some(error) = error else {
            assert!(says.is_empty(), "{name} was taken");
            continue;
        };
        assert!(error.contains(says), "{name}: {error}");
        assert!(
            !error.contains('\n') && error.len() < 600,
            "{name}: {error}"
        );
        assert!(
            !error.contains("internal") && !error.contains("panic"),
            "{name}: {error}"
        );
    }
}

/// Those that are taken are followed, or end with an error of their own; beside them others go on.
#[test]
fn hostile_grammars_are_followed_or_end_alone() {
    let engine = engine(4, 256);
    for (name, grammar, _) in hostile() {
        if model().check_grammar(&grammar).is_err() {
            continue;
        }
        let started = Instant::now();
        let mut request = drawn("aaaa", 1, 12);
        request.grammar = Some(grammar);
        let hostile = engine.submit(request);
        let other = engine.submit(drawn("Ownership", 2, 12));
        if let Err(error) = hostile.wait() {
            let error = error.to_string();
            assert!(
                error.contains("grammar") && !error.contains('\n'),
                "{name}: {error}"
            );
            println!("{name}: {error}");
        }
        assert_eq!(other.wait().unwrap().finish, Finish::Length);
        assert!(
            started.elapsed() < 2 * PATIENCE,
            "{name}: {:?}",
            started.elapsed()
        );
    }
}

/// Schemas with random keys and values in random places: an answer of one line, in time.
#[test]
fn spoiled_schemas_are_answered() {
    let odd = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!("x"),
        json!([]),
        json!({}),
        json!([[]]),
        json!(true),
        json!({"$ref": "#"}),
        json!("#/nowhere"),
        json!(18_446_744_073_709_551_615u64),
        json!("(["),
    ];
    let keys = [
        "type",
        "items",
        "minItems",
        "maxLength",
        "pattern",
        "$ref",
        "enum",
        "const",
        "anyOf",
        "required",
        "properties",
        "minimum",
        "multipleOf",
        "format",
        "additionalProperties",
        "$id",
        "$schema",
        "oneOf",
        "uniqueItems",
        "prefixItems",
        "minProperties",
        "allOf",
        "exclusiveMaximum",
        "patternProperties",
    ];
    let random = &mut Random::new(77);
    let mut taken = 0;
    let count = 150;
    for round in 0..count {
        let mut schema = schema(random);
        for _ in 0..1 + random.below(2) {
            spoil(&mut schema, random, &keys, &odd);
        }
        let started = Instant::now();
        match model().check_grammar(&Grammar::JsonSchema(schema.to_string())) {
            Ok(()) => taken += 1,
            Err(error) => {
                let error = error.to_string();
                let is_bad = error.contains('\n') || error.contains("internal");
                assert!(!is_bad && error.len() < 800, "{round}: {error}: {schema}");
            }
        }
        assert!(started.elapsed() < PATIENCE, "{round}: {schema}");
    }
    assert!(taken > 0 && taken < count, "{taken} were taken");
}

fn spoil(schema: &mut Value, random: &mut Random, keys: &[&str], odd: &[Value]) {
    match schema {
        Value::Object(map) if !map.is_empty() && !random.once_in(3) => {
            let at = random.below(map.len());
            if let Some(value) = map.values_mut().nth(at) {
                spoil(value, random, keys, odd);
            }
        }
        Value::Array(list) if !list.is_empty() && !random.once_in(3) => {
            let at = random.below(list.len());
            spoil(&mut list[at], random, keys, odd);
        }
        Value::Object(map) => {
            let key = keys[random.below(keys.len())];
            map.insert(key.to_owned(), odd[random.below(odd.len())].clone());
        }
        other => *other = odd[random.below(odd.len())].clone(),
    }
}

/// Errors name their place in the schema.
#[test]
fn errors_name_their_place() {
    let of = |schema: Value| {
        let result = model().check_grammar(&Grammar::JsonSchema(schema.to_string()));
        result.unwrap_err().to_string()
    };
    let at = |part: Value| json!({"type": "object", "properties": {"a/b": {"items": part}}});
    let cases = [
        (
            json!({"uniqueItems": true}),
            "#/properties/a~1b/items/uniqueItems: uniqueItems is not supported",
        ),
        (
            json!({"type": "strin"}),
            "#/properties/a~1b/items/type: \"strin\" is not a type",
        ),
        (
            json!({"format": "colour"}),
            "format \"colour\" is not supported; known are date-time",
        ),
        (
            json!({"const": 9_007_199_254_740_993i64}),
            "#/properties/a~1b/items/const: 9007199254740993",
        ),
        (
            json!({"minProperties": 2, "properties": {"a": {}}}),
            "#/properties/a~1b/items: minProperties",
        ),
        (
            json!({"pattern": "(?<=a)b", "type": "string"}),
            "#/properties/a~1b/items: invalid regular expression: look-around",
        ),
        (
            json!({"oneOf": [{"type": "integer"}, {"minimum": 4}]}),
            "#/properties/a~1b/items: oneOf",
        ),
        (
            json!({"$ref": "other.json"}),
            "#/properties/a~1b/items/$ref: \"other.json\"",
        ),
        (json!({"nullable": true, "type": "string"}), "nullable"),
    ];
    for (part, says) in cases {
        let error = of(at(part.clone()));
        assert!(error.contains(says), "{part}: {error}");
    }
}
