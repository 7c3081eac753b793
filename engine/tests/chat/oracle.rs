//! Templates of the field against Python's jinja2: what it gave is kept beside them, and asked again
//! where there is a Python that has it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gannet_engine::chat::{ChatTemplate, TemplateOptions, parse_messages, parse_tools};
use serde_json::{Value, json};

use crate::support::model;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chat"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(folder().join(path)).unwrap()
}

/// Name and source of each template, in order.
fn templates() -> Vec<(String, String)> {
    let files = std::fs::read_dir(folder().join("templates")).unwrap();
    let mut all: Vec<(String, String)> = files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    all.sort();
    all
}

/// What is asked of the oracle about one template and one conversation.
fn case(name: &str, source: &str, conversation: &Value, all: &Value) -> Value {
    let tokenizer = model().tokenizer();
    let token = |id: Option<u32>| tokenizer.token_text(id.unwrap()).unwrap().into_owned();
    let mut case = conversation.clone();
    case["source"] = source.into();
    case["bos"] = token(tokenizer.bos()).into();
    case["eos"] = token(tokenizer.eos()).into();
    case["forms"] = all["forms"].get(name).cloned().unwrap_or(json!([]));
    case["tools"] = match conversation.get("tools").is_some() {
        true => all["tools"].clone(),
        false => Value::Null,
    };
    case
}

/// What this crate makes of a case.
fn rendered(template: &ChatTemplate, case: &Value) -> Value {
    let messages = parse_messages(&case["messages"].to_string()).unwrap();
    let tools = match case["tools"].is_null() {
        true => Vec::new(),
        false => parse_tools(&case["tools"].to_string()).unwrap(),
    };
    let variables = case.get("variables").and_then(Value::as_object);
    let options = TemplateOptions {
        add_generation_prompt: case.get("generation").is_none(),
        now: Some(1_700_000_000),
        variables: variables
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.to_string()))
            .collect(),
        ..TemplateOptions::default()
    };
    match template.render(&messages, &tools, &options) {
        Ok(text) => json!({"text": text}),
        Err(error) => match error.refusal() {
            Some(message) => json!({"refused": message}),
            None => json!({"error": true}),
        },
    }
}

/// What Python makes of cases; none where it cannot.
fn asked(cases: &[Value]) -> Option<Vec<Value>> {
    let python = ["python3", "python"].into_iter().find(|python| {
        let found = Command::new(python).args(["-c", "import jinja2"]).output();
        found.is_ok_and(|done| done.status.success())
    })?;
    let mut child = Command::new(python)
        .arg(folder().join("oracle.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines: Vec<String> = cases.iter().map(Value::to_string).collect();
    let writer = std::thread::spawn(move || {
        stdin
            .write_all((lines.join("\n") + "\n").as_bytes())
            .unwrap();
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(found.len(), cases.len(), "the oracle stopped");
    Some(found)
}

/// All cases: template, conversation, what is asked.
fn cases() -> Vec<(String, String, Value)> {
    let all: Value = serde_json::from_str(&read("conversations.json")).unwrap();
    let mut cases = Vec::new();
    for (name, source) in templates() {
        for (title, conversation) in all["conversations"].as_object().unwrap() {
            let case = case(&name, &source, conversation, &all);
            cases.push((name.clone(), title.clone(), case));
        }
    }
    cases
}

fn compare(cases: &[(String, String, Value)], expected: impl Fn(usize) -> Value) {
    let mut wrong = Vec::new();
    let mut compiled: Option<(String, ChatTemplate)> = None;
    for (i, (name, title, case)) in cases.iter().enumerate() {
        if compiled.as_ref().is_none_or(|(known, _)| known != name) {
            let source = case["source"].as_str().unwrap();
            let template = ChatTemplate::parse(name, source, model().tokenizer());
            compiled = Some((name.clone(), template.unwrap()));
        }
        let (_, template) = compiled.as_ref().unwrap();
        let (found, expected) = (rendered(template, case), expected(i));
        if found != expected {
            wrong.push(format!("{name}, {title}:\n  {found}\n  {expected}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn templates_render_as_was_recorded_of_jinja2() {
    let expected: Value = serde_json::from_str(&read("expected.json")).unwrap();
    let cases = cases();
    assert!(templates().len() >= 70 && cases.len() >= 700);
    compare(&cases, |i| expected[&cases[i].0][&cases[i].1].clone());
}

#[test]
fn what_was_recorded_is_what_jinja2_gives() {
    let cases = cases();
    let inputs: Vec<Value> = cases.iter().map(|(.., case)| case.clone()).collect();
    let Some(found) = asked(&inputs) else {
        println!("skipped: no Python with jinja2");
        return;
    };
    let mut all = json!({});
    for ((name, title, _), found) in cases.iter().zip(found) {
        all[name][title] = found;
    }
    if std::env::var_os("GANNET_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&all).unwrap() + "\n";
        std::fs::write(folder().join("expected.json"), text).unwrap();
    }
    let expected: Value = serde_json::from_str(&read("expected.json")).unwrap();
    assert!(
        all == expected,
        "expected.json is not what jinja2 gives; bless it with GANNET_BLESS=1"
    );
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % most
    }

    fn text(&mut self) -> String {
        let parts = [
            "a",
            "Zu\u{308}rich",
            "\n",
            " ",
            "\"",
            "'",
            "\\",
            "{{ x }}",
            "{% if %}",
            "<|im_end|>",
            "\t",
            "\u{1f600}",
            "</think>",
            "<think>",
            "\u{2028}",
            "&<>",
            "\u{0}",
            "\r\n",
            "\u{a0}",
            "word ",
            "1.0",
        ];
        (0..self.below(8))
            .map(|_| parts[self.below(parts.len())])
            .collect()
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => (self.below(2) == 0).into(),
            2 => (self.below(2000) as i64 - 1000).into(),
            3 => (self.below(100_000) as f64 / 64.0 - 100.0).into(),
            4 | 5 => self.text().into(),
            6 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            _ => self.object(depth - 1),
        }
    }

    fn object(&mut self, depth: usize) -> Value {
        let count = self.below(4);
        let pairs = (0..count).map(|i| (format!("{}{i}", self.text()), self.value(depth)));
        Value::Object(pairs.collect())
    }

    fn message(&mut self) -> Value {
        match self.below(6) {
            0 => json!({"role": "system", "content": self.text()}),
            1 | 2 => json!({"role": "user", "content": self.text()}),
            3 => {
                json!({"role": "assistant", "content": self.text(), "reasoning_content": self.text()})
            }
            4 => json!({"role": "tool", "content": self.text(), "tool_call_id": "abcdefgh1"}),
            _ => json!({"role": "assistant", "content": self.text(), "tool_calls": [
                {"id": "abcdefgh1", "type": "function", "function": {"name": "f", "arguments": self.object(3)}}
            ]}),
        }
    }
}

#[test]
fn random_conversations_render_as_jinja2_renders_them() {
    let all: Value = serde_json::from_str(&read("conversations.json")).unwrap();
    let mut numbers = Numbers(7);
    let mut cases = Vec::new();
    for (name, source) in templates() {
        for round in 0..12 {
            let messages: Value = (0..1 + numbers.below(5))
                .map(|_| numbers.message())
                .collect();
            let mut conversation = json!({"messages": messages});
            if numbers.below(2) == 0 {
                conversation["tools"] = true.into();
            }
            let case = case(&name, &source, &conversation, &all);
            cases.push((name.clone(), format!("round {round}"), case));
        }
    }
    let inputs: Vec<Value> = cases.iter().map(|(.., case)| case.clone()).collect();
    match asked(&inputs) {
        Some(expected) => compare(&cases, |i| expected[i].clone()),
        None => println!("skipped: no Python with jinja2"),
    }
}
