//! `gannet detokenize`: the tokens' bytes, exactly.

use std::io::Write;
use std::process::{Output, Stdio};

use crate::support::{gannet, run, shared};

/// What a run with `input` on standard input left, as bytes.
pub(crate) fn fed(args: &[&str], input: &[u8]) -> Output {
    let mut command = gannet(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// The bytes of some ids.
fn printed(ids: &str) -> Vec<u8> {
    let output = gannet(&["detokenize", "--ids", ids]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said, "");
    output.stdout
}

#[test]
fn what_was_tokenized_comes_back_byte_for_byte() {
    let text = "Ownership is\n  a \u{e9}\u{1f680} rule, \u{4e16}\u{754c}.\n\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    let plain = run(&["tokenize", "--file", path]).ok().stdout;
    let json = run(&["tokenize", "--file", path, "--json"]).ok().stdout;
    for ids in [plain, json] {
        let output = fed(&["detokenize", "--file", "-"], ids.as_bytes());
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(output.stdout, text.as_bytes());
        std::fs::write(file.path(), &ids).unwrap();
        let object = run(&["detokenize", "--file", path, "--json"]).ok().json();
        assert_eq!(object, text);
        assert_eq!(printed(&ids), text.as_bytes());
    }
    assert_eq!(printed("46,1170, 2238 329"), b"Ownership is");
    assert_eq!(printed(""), b"");
    // A special token gives its text.
    let special = printed("8184 46");
    assert!(special.len() > 1 && special.ends_with(&printed("46")));
}

/// A character of several tokens, cut in the middle: its bytes as they are, and no JSON string.
#[test]
fn bytes_that_are_no_text_stay_as_they_are() {
    let text = "a\u{16a0}";
    let ids = run(&["tokenize", "--text", text, "--json"]).ok().json();
    let ids: Vec<u64> = ids
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap())
        .collect();
    let written = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    assert_eq!(printed(&written(&ids)), text.as_bytes());
    let part = written(&ids[..ids.len() - 1]);
    let bytes = printed(&part);
    assert!(bytes.len() > 1 && text.as_bytes().starts_with(&bytes));
    assert!(std::str::from_utf8(&bytes).is_err(), "{bytes:?}");
    let refused = run(&["detokenize", "--ids", &part, "--json"]);
    let line = refused.error();
    assert!(
        line.starts_with("not UTF-8 text at byte 1, in token "),
        "{line}"
    );
    assert_eq!(refused.stdout, "");
}

#[test]
fn ids_that_are_none_are_one_line() {
    let beyond = run(&["detokenize", "--ids", "46,8192"]);
    let line = beyond.error();
    assert_eq!(line, "token 8192 (number 1): the vocabulary has 0 to 8191");
    assert_eq!(beyond.stdout, "", "nothing before the error");
    run(&["detokenize", "--ids", "4294967295"]).error();
    let word = run(&["detokenize", "--ids", "46,x"]);
    assert!(word.one_line_of_usage().contains("\"x\" is not a token id"));
    let output = fed(&["detokenize", "--file", "-"], b"[46, -1]");
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(
        line.starts_with("error: standard input: not a JSON array"),
        "{line}"
    );
    let missing = run(&["detokenize", "--file", "/no/such.json"]);
    assert!(missing.error().contains("/no/such.json"));
    run(&["detokenize"]).usage();
    run(&["detokenize", "--ids", "1", "--file", "x"]).usage();
}

/// What SentencePiece puts in front of a text is no part of it; behind other ids it is.
#[test]
fn a_text_of_pieces_comes_back_byte_for_byte() {
    let Some(path) = shared("vocab/ggml-vocab-phi-3.gguf") else {
        return;
    };
    let path = path.to_str().unwrap();
    let texts = [
        "Hello world",
        "  two  spaces \n",
        "<|user|>Hi<|end|>there<|assistant|>",
        "\u{e9}\u{1f680}\t\0",
        " ",
    ];
    for text in texts {
        let args = ["tokenize", "-m", path, "--parse-special", "--file", "-"];
        let ids = fed(&args, text.as_bytes()).stdout;
        let back = fed(&["detokenize", "-m", path, "--file", "-"], &ids);
        assert_eq!(String::from_utf8(back.stdout).unwrap(), text);
    }
    let args = ["detokenize", "-m", path, "--ids", "15043 3186"];
    assert_eq!(run(&args).ok().stdout, "Hello world");
    let args = [&args[..], &["--continue"]].concat();
    assert_eq!(run(&args).ok().stdout, " Hello world");
    let args = [&args[..], &["--json"]].concat();
    assert_eq!(run(&args).ok().json(), " Hello world");
}

/// WordPiece writes words: what it forgot of a text stays forgotten, and ids come back.
#[test]
fn a_text_of_words_comes_back_as_words() {
    let Some(path) = shared("vocab/ggml-vocab-bert-bge.gguf") else {
        return;
    };
    let path = path.to_str().unwrap();
    let text = "  The H\u{e9}llo,\nW\u{d6}RLD of wordpieces! ";
    let tokenize = |text: &str, more: &[&str]| {
        let args = [&["tokenize", "-m", path, "--file", "-"], more].concat();
        String::from_utf8(fed(&args, text.as_bytes()).stdout).unwrap()
    };
    let ids = tokenize(text, &[]);
    let written = run(&["detokenize", "-m", path, "--ids", ids.trim()])
        .ok()
        .stdout;
    assert_eq!(written, "the hello, world of wordpieces!");
    assert_eq!(tokenize(&written, &[]), ids);
    let whole = tokenize(text, &["--add-special"]);
    assert_eq!(whole, format!("101 {} 102\n", ids.trim()));
    let shown = run(&["detokenize", "-m", path, "--ids", whole.trim()])
        .ok()
        .stdout;
    assert_eq!(shown, format!("[CLS] {written} [SEP]"));
}

/// Files with a vocabulary and no weights serve.
#[test]
fn a_file_without_weights() {
    let Some(path) = shared("vocab/ggml-vocab-gpt-2.gguf") else {
        return;
    };
    let path = path.to_str().unwrap();
    let done = run(&["detokenize", "-m", path, "--ids", "15496 995"]).ok();
    assert_eq!(done.stdout, "Hello world");
}
