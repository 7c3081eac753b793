//! `gannet template`: what a model is given for messages.

use crate::detokenize::fed;
use crate::support::run;

const HELLO: &[u8] = br#"[{"role": "user", "content": "Hello"}]"#;

fn text(args: &[&str]) -> String {
    let output = fed(&[&["template"], args].concat(), HELLO);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn error(args: &[&str], input: &[u8]) -> String {
    let output = fed(&[&["template"], args].concat(), input);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn messages_are_written_by_a_template() {
    assert_eq!(text(&[]), "User: Hello\n\nAssistant:");
    assert_eq!(text(&["--no-generation-prompt"]), "User: Hello\n\n");
    let chatml = text(&["--chat-template", "chatml", "--system", "Be brief."]);
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n\
                    <|im_start|>assistant\n";
    assert_eq!(chatml, expected);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "{{ messages[0].content }}{{ enable_thinking }}",
    )
    .unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(
        text(&["--chat-template", path, "--no-thinking"]),
        "HelloFalse"
    );
    assert_eq!(text(&["--chat-template", path, "--thinking"]), "HelloTrue");
    let found: serde_json::Value = serde_json::from_str(&text(&["--json"])).unwrap();
    assert_eq!(found["template"], "plain");
    assert!(found["tokens"].as_array().unwrap().len() > 4);
}

#[test]
fn what_is_wrong_is_said_in_a_line() {
    let line = error(&[], br#"[{"role": "boss", "content": "x"}]"#);
    assert!(
        line.contains("standard input: messages[0].role: is \"boss\""),
        "{line}"
    );
    let line = error(&["--chat-template", "nothing"], HELLO);
    assert!(
        line.contains("chatml, ") && line.lines().count() == 1,
        "{line}"
    );
    let tools = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tools.path(), r#"[{"function": {"name": "f"}}]"#).unwrap();
    let path = tools.path().to_str().unwrap();
    let line = error(&["--chat-template", "vicuna", "--tools", path], HELLO);
    assert!(line.contains("no place for tools"), "{line}");
    assert!(text(&["--tools", path]).contains("{\"name\": \"f\"}"));
    let both = run(&["template", "--thinking", "--no-thinking"]);
    assert!(both.usage().contains("--no-thinking"), "{}", both.stderr);
}
