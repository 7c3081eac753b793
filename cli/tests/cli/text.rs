//! Text in and out of the command line: where it comes from, where it begins, where it stops.

use crate::detokenize::fed;
use crate::support::{Done, here, run};

/// The ids of a text on standard input.
fn ids(text: &[u8]) -> serde_json::Value {
    let output = fed(&["tokenize", "--file", "-", "--json"], text);
    assert_eq!(output.status.code(), Some(0));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn standard_input_is_a_file_named_by_a_dash() {
    let plain = serde_json::json!([46, 1170, 2238, 329]);
    assert_eq!(ids(b"Ownership is"), plain);
    // The last newline is text.
    assert_ne!(ids(b"Ownership is\n"), plain);
    let wrong = fed(&["tokenize", "--file", "-"], b"a\xff");
    assert_eq!(wrong.status.code(), Some(1));
    let line = String::from_utf8(wrong.stderr).unwrap();
    let expected = "error: standard input: not UTF-8 text at byte 1; convert it first\n";
    assert_eq!(line, expected);
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let plain = ids(b"Ownership is");
    assert_eq!(ids(b"\xef\xbb\xbfOwnership is"), plain);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"\xef\xbb\xbfOwnership is").unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(
        run(&["tokenize", "--file", path, "--json"]).ok().json(),
        plain
    );
    let prompted = |text: &[u8]| {
        let args = [
            "run", "-", "-n", "4", "--temp", "0", "--device", "cpu", "--json",
        ];
        let output = fed(&args, text);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (found["prompt_tokens"].clone(), found["tokens"].clone())
    };
    assert_eq!(
        prompted(b"\xef\xbb\xbfOwnership is"),
        prompted(b"Ownership is")
    );
    std::fs::write(file.path(), b"\xff\xfeO\0").unwrap();
    let wide = run(&["tokenize", "--file", path]);
    assert!(wide.error().contains("UTF-16"), "{}", wide.stderr);
}

#[test]
fn a_prompt_has_one_beginning() {
    let tokens = |prompt: &str| {
        let done = run(&["run", prompt, "-n", "1", "--json", "--device", "cpu"]).ok();
        done.json()["prompt_tokens"].as_u64().unwrap()
    };
    assert_eq!(tokens("Ownership is"), 5);
    assert_eq!(tokens("<|begin_of_text|>Ownership is"), 5);
    assert_eq!(tokens("<|begin_of_text|>"), 1);
    assert_eq!(tokens(""), 1);
    let args = [
        "tokenize",
        "--add-special",
        "--parse-special",
        "--json",
        "--text",
    ];
    let with = |text| run(&[&args[..], &[text]].concat()).ok().json();
    assert_eq!(with("<|begin_of_text|>Ownership is"), with("Ownership is"));
}

/// The model gives `Hello`, ` there`, the control token `<|user|>`, ` more`, ` text`, and ends.
fn stopped(args: &[&str]) -> Done {
    let model = here("../engine/tests/data/cases/turn2/stop-at-control-token.gguf");
    let mut all = vec!["run", "x", "-m", &model, "-n", "12", "--device", "cpu"];
    all.extend_from_slice(&["--temp", "0"]);
    all.extend_from_slice(args);
    run(&all).ok()
}

#[test]
fn a_stop_string_may_be_a_control_token() {
    let text = |stop: &str| stopped(&["--stop", stop]).stdout;
    let whole = stopped(&[]).stdout;
    assert!(whole.starts_with("Hello there more text"), "{whole:?}");
    assert_eq!(text("<|user|>"), "Hello there");
    assert_eq!(text(" there<|user|>"), "Hello");
    assert_eq!(text("ere<|user|> m"), "Hello th");
    assert_eq!(text("<|user|> more"), "Hello there");
    assert_eq!(text("e m"), "Hello ther");
    // What is not shown is not searched for parts.
    assert_eq!(text("user"), whole);
    assert_eq!(text("<|user|> less"), whole);
    let found = stopped(&["--stop", "<|user|>", "--json"]).json();
    assert_eq!(
        (&found["text"], &found["finish"]),
        (&"Hello there".into(), &"stop".into())
    );
}

#[test]
fn a_token_can_stop_a_text() {
    let tokens = |args: &[&str]| stopped(args).json()["tokens"].as_array().unwrap().clone();
    let all = tokens(&["--json"]);
    let before = tokens(&["--json", "--stop", "<|user|>"]);
    let user = all[before.len()].to_string();
    for (id, expected) in [(user.as_str(), "Hello there"), (&all[0].to_string(), "")] {
        let found = stopped(&["--stop-id", id, "--json"]).json();
        assert_eq!(
            (&found["text"], &found["finish"]),
            (&expected.into(), &"stop".into())
        );
    }
    let model = here("../engine/tests/data/cases/turn2/stop-at-control-token.gguf");
    let beyond = run(&[
        "run",
        "x",
        "-m",
        &model,
        "--stop-id",
        "99999",
        "--device",
        "cpu",
    ]);
    assert!(beyond.error().contains("99999"), "{}", beyond.stderr);
}
