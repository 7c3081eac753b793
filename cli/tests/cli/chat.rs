//! `gannet chat` in a pipe: a line is a message, replies alone come out, orders begin with a slash. And on a
//! terminal, where Python can make one.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use crate::support::{Done, finish, gannet, here, model, run};

const CPU: &[&str] = &["--device", "cpu"];

/// A conversation: what is written to it, and what it left.
fn chat(args: &[&str], input: &str) -> Done {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let all = [&["chat"], CPU, args].concat();
    finish(gannet(&all).stdin(Stdio::from(file)), &all)
}

/// The lines of a conversation with `--json`.
fn replies(args: &[&str], input: &str) -> Vec<serde_json::Value> {
    let done = chat(&[args, &["--json"]].concat(), input).ok();
    let lines = done.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_line_is_a_message_and_only_replies_come_out() {
    let done = chat(&["-n", "8"], "Ownership is\nA trait is\n").ok();
    let json = replies(&["-n", "8"], "Ownership is\nA trait is\n");
    let expected: String = (json.iter())
        .map(|line| line["reply"].as_str().unwrap())
        .flat_map(|text| [text, if text.ends_with('\n') { "" } else { "\n" }])
        .collect();
    assert_eq!(done.stdout, expected);
    let figures: Vec<&str> = done
        .stderr
        .lines()
        .filter(|l| l.contains("tok/s"))
        .collect();
    assert_eq!(figures.len(), 2, "{}", done.stderr);
    assert!(
        figures[1].contains("of 1,024") || figures[1].contains("of 1024"),
        "{figures:?}"
    );
    assert!(done.stderr.contains("base model"), "{}", done.stderr);
    let quiet = chat(&["-n", "8", "-q"], "Ownership is\nA trait is").ok();
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (done.stdout, ""));
    assert_eq!(chat(&[], "").ok().stdout, "");
    assert_eq!(chat(&[], "\n  \n").ok().stdout, "");
}

/// What was said is computed once: a second message finds the blocks of the first.
#[test]
fn a_message_costs_its_own_tokens() {
    let long = "The borrow checker looks at every reference. ".repeat(12);
    let replies = replies(&["-n", "4"], &format!("{long}\nGo on.\nAnd on.\n"));
    let number = |i: usize, name: &str| replies[i][name].as_u64().unwrap();
    assert_eq!(number(0, "cached_tokens"), 0);
    for i in 1..3 {
        let (known, said) = (number(i, "cached_tokens"), number(i - 1, "prompt_tokens"));
        assert!(number(i, "prompt_tokens") > said);
        // All but what is in no whole block.
        assert!(known + 64 > said && known > 0, "{known} of {said}");
    }
    // What was generated is known as well, though the template writes it anew.
    let short = self::replies(&["-n", "80"], "Ownership is\nGo on.\n");
    let (known, asked) = (&short[1]["cached_tokens"], &short[0]["prompt_tokens"]);
    assert!(known.as_u64() > asked.as_u64(), "{known} behind {asked}");
}

#[test]
fn orders_change_what_comes() {
    let one = replies(&["-n", "6"], "Ownership is\n");
    let cleared = replies(&["-n", "6"], "A trait is\n/clear\nOwnership is\n");
    assert_eq!(cleared[1]["reply"], one[0]["reply"]);
    let set = replies(
        &[],
        "/set max-tokens 3\n/set temp 0.9\n/set seed 5\nOwnership is\n/retry\n/retry\n",
    );
    assert_eq!(set.len(), 3);
    for reply in &set {
        assert_eq!(reply["tokens"], 3);
        assert_eq!(reply["finish"], "length");
    }
    let texts: Vec<_> = set.iter().map(|reply| &reply["reply"]).collect();
    assert!(
        texts[0] != texts[1] || texts[1] != texts[2],
        "other seeds: {texts:?}"
    );
    let same = replies(&["-n", "6"], "Ownership is\n/retry\n");
    assert_eq!(same[0]["reply"], same[1]["reply"], "the temperature is 0");
    let by_flag = replies(&["-n", "6", "--system", "Rust."], "Ownership is\n");
    let by_order = replies(
        &["-n", "6"],
        "/system Rust.\nOwnership is\n/system -\n/clear\nOwnership is\n",
    );
    assert_eq!(by_flag[0]["reply"], by_order[0]["reply"]);
    assert_eq!(by_flag[0]["prompt_tokens"], by_order[0]["prompt_tokens"]);
    assert_eq!(by_order[1]["prompt_tokens"], one[0]["prompt_tokens"]);
    let ended = replies(&["-n", "2"], "a\n/exit\nb\n");
    assert_eq!(ended.len(), 1);
    // Answers to orders are no replies.
    let told = chat(&["-q"], "/help\n/set\n/stats\n/system\n").ok();
    assert_eq!(told.stdout, "");
    for word in ["/retry", "top-k", "0 messages", "/system TEXT"] {
        assert!(told.stderr.contains(word), "{word}: {}", told.stderr);
    }
}

#[test]
fn messages_may_have_lines_and_begin_with_a_slash() {
    let said = |input: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.json");
        chat(
            &["-n", "1"],
            &format!("{input}\n/save {}\n", file.display()),
        )
        .ok();
        let text = std::fs::read_to_string(file).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["messages"][0]["content"].as_str().unwrap().to_owned()
    };
    assert_eq!(said("a \\\nb"), "a \nb");
    assert_eq!(said("\"\"\"\n/exit\n\n  c\\\n\"\"\""), "/exit\n\n  c\\");
    assert_eq!(said("//etc/hosts"), "/etc/hosts");
    assert_eq!(said("\u{e9}\u{1f600} "), "\u{e9}\u{1f600} ");
}

#[test]
fn a_conversation_goes_on_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let file = file.to_str().unwrap();
    let whole = replies(&["-n", "5", "--system", "Rust."], "Ownership is\nand\n");
    chat(
        &["-n", "5", "--system", "Rust."],
        &format!("Ownership is\n/save {file}\n"),
    )
    .ok();
    let rest = replies(&["-n", "5"], &format!("/load {file}\nand\n"));
    assert_eq!(rest[0]["reply"], whole[1]["reply"]);
    assert_eq!(rest[0]["prompt_tokens"], whole[1]["prompt_tokens"]);
    let again = chat(&[], &format!("/save {file}\n"));
    assert!(
        again.error_behind_notes().contains("/save -f"),
        "{}",
        again.stderr
    );
    chat(&[], &format!("/load {file}\n/save -f {file}\n")).ok();
}

/// In a pipe the first thing that cannot be done ends it, and nothing is cut without a word.
#[test]
fn what_cannot_be_done_is_one_line() {
    for (input, word) in [
        ("/fly\n", "/help"),
        ("/set temp hot\n", "number"),
        ("/set temp 9e9x\n", "number"),
        ("/retry\n", "nothing was said"),
        ("/edit\n", "terminal"),
        ("/load /no/such/file\n", "/no/such/file"),
        ("\"\"\"\nopen\n", "no end"),
    ] {
        let done = chat(&[], &format!("{input}a message\n"));
        let line = done.error_behind_notes();
        assert!(line.contains(word), "{input}: {line}");
        assert_eq!(done.stdout, "", "{input}");
    }
    let long = "word ".repeat(200);
    let full = chat(&["-c", "64"], &format!("{long}\n"));
    let line = full.error_behind_notes();
    assert!(
        line.contains("context is 64") && line.contains("--ctx"),
        "{line}"
    );
    let cut = chat(&["-c", "48", "-n", "-1", "-q"], "Ownership is\n").ok();
    assert!(
        cut.stderr.contains("cut") && cut.stderr.contains("full"),
        "{}",
        cut.stderr
    );
    assert!(!cut.stdout.is_empty());
    let mut broken = gannet(&["chat", "--device", "cpu"]);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"\xff\xfe\n").unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let broken = finish(broken.stdin(Stdio::from(file)), &["chat"]);
    assert!(
        broken.error_behind_notes().contains("not UTF-8"),
        "{}",
        broken.stderr
    );
}

#[test]
fn flags_are_checked_before_anything_is_loaded() {
    for args in [
        &["--chat-template", "/no/such"][..],
        &["--stop", ""],
        &["--temp", "-1"],
        &["-n", "-5"],
        &["-c", "0"],
        &["a.gguf", "-m", "b.gguf"],
    ] {
        run(&[&["chat"], args].concat()).usage();
    }
    run(&["chat", "no-such-model.gguf"]).error();
    // The demonstration model as a file has no template of its own.
    let model = model();
    let none = run(&["chat", &model, "--device", "cpu"]);
    assert!(none.error().contains("template"), "{}", none.stderr);
    let named = replies(
        &["-m", &model, "--chat-template", "plain", "-n", "3"],
        "fn main\n",
    );
    assert_eq!(named[0]["tokens"], 3);
}

/// What a model thinks is no reply: it stands apart, and in a pipe it is left out.
#[test]
fn thoughts_are_no_replies() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("thinks.jinja");
    let template = "{% for m in messages %}{{ m.content }}\n{% endfor %}<think>";
    std::fs::write(&file, template).unwrap();
    let args = ["--chat-template", file.to_str().unwrap(), "-n", "8"];
    let thought = replies(&args, "Ownership is\n");
    assert_eq!(thought[0]["reply"], "");
    assert!(!thought[0]["reasoning"].as_str().unwrap().is_empty());
    assert_eq!(chat(&args, "Ownership is\n").ok().stdout, "");
}

/// Ctrl-C ends a reply and keeps what there is of it.
#[cfg(unix)]
#[test]
fn an_interruption_keeps_what_there_is() {
    // Interpreted kernels are still at it when the signal comes.
    let args = ["chat", "--device", "interp", "-n", "400"];
    let mut child = gannet(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"Ownership is\nnever asked\n").unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut first = vec![0; 8];
    output.read_exact(&mut first).unwrap();
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let mut told = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert!(told.contains("; interrupted]"), "{told}");
    assert!(rest.ends_with(b"\n"));
}

/// A reader that goes is no error.
#[cfg(unix)]
#[test]
fn a_reader_that_goes_ends_it() {
    let shell = r#"echo "Ownership is" | "$0" chat --device cpu -q -n -1 | head -c 5"#;
    let done = Command::new("sh")
        .args(["-c", shell, env!("CARGO_BIN_EXE_gannet")])
        .output()
        .unwrap();
    assert_eq!((done.stdout.len(), done.stderr.len()), (5, 0));
}

/// On a terminal: editing, Ctrl-C, a history that the next conversation knows.
#[cfg(unix)]
#[test]
fn it_talks_on_a_terminal() {
    let script = here("tests/cli/terminal.py");
    let has_python = Command::new("python3").arg("--version").output().is_ok();
    if !has_python {
        eprintln!("skipped: no Python to make a terminal");
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let template = cache.path().join("thinks.jinja");
    std::fs::write(&template, "{{ messages[-1].content }}<think>").unwrap();
    let done = Command::new("python3")
        .args([script.as_str(), env!("CARGO_BIN_EXE_gannet")])
        .arg(&template)
        .env("GANNET_CACHE", cache.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    let history = std::fs::File::open(cache.path().join("chat-history")).unwrap();
    let lines: Vec<String> = BufReader::new(history)
        .lines()
        .map(Result::unwrap)
        .collect();
    assert!(lines.iter().any(|line| line == "Ownership is"), "{lines:?}");
}
