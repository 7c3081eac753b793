//! What people type: a model in front, prompts with dashes, -1, flags and commands of other programs.

use std::io::Write;
use std::process::Stdio;

use crate::support::{Done, finish, gannet, model, run};

/// `gannet` with something on standard input.
fn piped(args: &[&str], input: &str) -> Done {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    finish(gannet(args).stdin(Stdio::from(file)), args)
}

const CPU: &[&str] = &["-n", "6", "--device", "cpu", "--json"];

fn tokens(args: &[&str]) -> serde_json::Value {
    run(&[&["run"], args, CPU].concat()).ok().json()["tokens"].clone()
}

#[test]
fn the_model_may_stand_in_front_of_the_prompt() {
    let (model, prompt) = (model(), "fn main() {");
    let named = run(&["run", prompt, "-m", &model, "-n", "6", "--device", "cpu"]).ok();
    let in_front = run(&["run", &model, prompt, "-n", "6", "--device", "cpu"]).ok();
    assert_eq!(in_front.stdout, named.stdout);
    let line = format!("[model: {model}]");
    assert_eq!(in_front.stderr.lines().next(), Some(line.as_str()));
    // Without a prompt: the start of a text.
    assert_eq!(tokens(&[&model]), tokens(&["-m", &model, ""]));
    assert_eq!(
        tokens(&[&model, "- a"]),
        tokens(&["-m", &model, "-p", "- a"])
    );
    let missing = run(&["run", "no-such-model.gguf", "-n", "20"]);
    assert!(
        missing.error().contains("no-such-model.gguf: cannot open"),
        "{}",
        missing.stderr
    );
    assert_eq!(missing.stdout, "");
}

/// What names a file is never continued as if it were text, whatever else is given.
#[test]
fn a_path_is_not_continued_as_text() {
    let model = model();
    for path in [
        "Cargo.toml",
        "src",
        "./no/such/model",
        "TheBloke/x-GGUF",
        "x.safetensors",
    ] {
        for args in [&[path][..], &["-m", &model, path], &[&model, path]] {
            let done = run(&[&["run"], args, &["-n", "2", "--device", "cpu"]].concat());
            let line = done.one_line_of_usage();
            assert!(
                line.contains(path) && line.contains("did you mean"),
                "{line}"
            );
            assert!(line.contains(&format!("-p '{path}'")), "{line}");
        }
        tokens(&["-p", path]);
    }
    let twice = run(&["run", "-m", &model, &model]);
    assert!(twice.one_line_of_usage().contains("one runs at a time"));
    let unquoted = run(&["run", "Once", "upon", "a", "time"]);
    assert!(unquoted.one_line_of_usage().contains("quotes"));
}

#[test]
fn a_prompt_may_begin_with_a_dash() {
    for prompt in ["- first item", "-5 degrees", "-- comment", "-> Result"] {
        assert_eq!(tokens(&[prompt]), tokens(&["-p", prompt]), "{prompt}");
        let behind = run(&[&["run"], CPU, &["--", prompt]].concat()).ok().json();
        assert_eq!(tokens(&[prompt]), behind["tokens"], "{prompt}");
    }
    // What is no flag of the command is the value of one that waits for it.
    for prompt in ["-x", "--", "-what", "--no-such=1"] {
        let attached = format!("--prompt={prompt}");
        assert_eq!(tokens(&["-p", prompt]), tokens(&[&attached]), "{prompt}");
    }
    run(&["run", "-p", "-n", "4"]).usage();
    let ids = run(&["tokenize", "--text", "- a"]).ok().stdout;
    assert_eq!(ids, run(&["tokenize", "--text=- a"]).ok().stdout);
    run(&["run", "--no-such-flag"]).usage();
    run(&["run", "-z"]).usage();
}

#[test]
fn minus_one_is_no_limit_and_another_seed() {
    let done = run(&[
        "run",
        "x",
        "-n",
        "-1",
        "-c",
        "24",
        "--ignore-eos",
        "--device",
        "cpu",
        "--json",
    ]);
    let full = done.ok().json();
    assert_eq!(
        (&full["finish"], &full["context"]),
        (&"context".into(), &24.into())
    );
    let enough = run(&[
        "run",
        "x",
        "-n",
        "4",
        "-c",
        "24",
        "--ignore-eos",
        "--device",
        "cpu",
        "--json",
    ]);
    assert_eq!(enough.ok().json()["finish"], "length");
    let seed = |args: &[&str]| {
        let args = [&["run", "x", "--temp", "1"], args, CPU].concat();
        run(&args).ok().json()["seed"].as_u64().unwrap()
    };
    assert_ne!(seed(&["--seed", "-1"]), seed(&["--seed", "-1"]));
    assert_eq!(seed(&["--seed", "7"]), 7);
    assert_eq!(seed(&["-s", "7"]), 7);
    for wrong in [["-n", "-2"], ["--seed", "-2"]] {
        let done = run(&["run", "x", wrong[0], wrong[1]]);
        assert!(done.usage().contains("-1 for"), "{}", done.stderr);
    }
}

/// A full context says so, and what to do where something helps.
#[test]
fn a_full_context_is_told_apart() {
    let args = [
        "run",
        "x",
        "-n",
        "-1",
        "--ignore-eos",
        "--device",
        "cpu",
        "--temp",
        "0",
    ];
    let short = run(&[&args[..], &["--ctx", "12"]].concat()).ok();
    assert!(
        short.stderr.contains("the context of 12 is full: --ctx"),
        "{}",
        short.stderr
    );
    let whole = run(&args).ok().stderr;
    assert!(
        whole.contains("the context of 1024 is full") && !whole.contains("--ctx"),
        "{whole}"
    );
    let long = "word ".repeat(1100);
    let refused = run(&["run", &long, "--device", "cpu"]);
    assert!(
        refused.error().ends_with("trained for 1024"),
        "{}",
        refused.error()
    );
    assert!(!refused.error().contains("--ctx"), "{}", refused.error());
}

/// From a pipe, from `-`, from a file: the same prompt, less one line break.
#[test]
fn a_prompt_is_read_from_wherever_it_is() {
    let expected = tokens(&["Ownership is"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    let file = file.to_str().unwrap();
    for end in ["", "\n", "\r\n"] {
        let text = format!("Ownership is{end}");
        for args in [&[][..], &["-"], &["-f", "-"]] {
            let done = piped(&[&["run"], args, CPU].concat(), &text);
            assert_eq!(done.ok().json()["tokens"], expected, "{args:?} {text:?}");
        }
        std::fs::write(file, &text).unwrap();
        assert_eq!(tokens(&["-f", file]), expected);
    }
    // Only one.
    let two = piped(&[&["run"], CPU].concat(), "Ownership is\n\n")
        .ok()
        .json();
    assert_eq!(two["tokens"], tokens(&["Ownership is\n"]));
    // What is given counts, and a pipe beside it does not.
    let both = piped(&[&["run", "Ownership is"], CPU].concat(), "fn")
        .ok()
        .json();
    assert_eq!(both["tokens"], expected);
    run(&["run", "x", "-f", file]).one_line_of_usage();
    run(&["run", "x", "-p", "y"]).one_line_of_usage();
    let lines = piped(
        &["run", "--prompts", "-", "-n", "2", "--device", "cpu"],
        "a\nb\n",
    )
    .ok();
    assert!(lines.stdout.contains("==> 1: b <==\n"), "{}", lines.stdout);
}

/// `-` is standard input in every command that reads a file, byte for byte where text is measured.
#[test]
fn a_dash_is_standard_input_everywhere() {
    for text in ["a b", "a b\n"] {
        let ids = piped(&["tokenize", "--file", "-", "--json"], text)
            .ok()
            .json();
        assert_eq!(
            ids,
            run(&["tokenize", "--text", text, "--json"]).ok().json()
        );
        let short = piped(&["tokenize", "-f", "-", "--json"], text);
        assert_eq!(short.ok().json(), ids);
        let back = piped(&["detokenize", "-f", "-"], &ids.to_string());
        assert_eq!(back.ok().stdout, text);
    }
    let text = "Ownership is a set of rules. ".repeat(20);
    let args = ["perplexity", "--file", "-", "-c", "32", "--device", "cpu"];
    let short = ["perplexity", "-f", "-", "-c", "32", "--device", "cpu"];
    let measured = piped(&args, &text).ok().stdout;
    assert_eq!(piped(&short, &text).ok().stdout, measured);
    let logits = [
        "logits",
        "--tokens",
        "@-",
        "--out",
        "/dev/null",
        "--device",
        "cpu",
    ];
    piped(&logits, "[1, 2]").ok();
    for args in [
        &["run", "x", "-m", "-"][..],
        &["inspect", "-"],
        &["tokenize", "-m", "-", "--text", "x"],
        &["detokenize", "-m", "-", "--ids", "1"],
        &[
            "synth",
            "--shape",
            "tiny",
            "--vocab-from",
            "-",
            "-o",
            "/dev/null",
        ],
    ] {
        let done = run(args);
        let line = done.one_line_of_usage();
        assert!(line.contains("not read from standard input"), "{line}");
    }
    for address in ["https://host/m.gguf", "hf://a/b", "ollama://llama3"] {
        for args in [&["run", "x", "-m", address][..], &["inspect", address]] {
            let done = run(args);
            let line = done.one_line_of_usage();
            assert!(
                line.starts_with(address) && line.contains("nothing is downloaded"),
                "{line}"
            );
        }
    }
}

#[test]
fn other_programs_flags_and_commands_are_answered() {
    let cases: [(&[&str], &str); 12] = [
        (&["run", "x", "-ngl", "99"], "--device cuda"),
        (&["run", "x", "--n-gpu-layers", "99"], "--device cuda"),
        (&["bench", "--n-gpu-layers=99"], "--device cuda"),
        (&["run", "x", "--mlock"], "leave it out"),
        (&["run", "x", "-hf", "a/b"], "fetch the GGUF file"),
        (&["pull", "llama3"], "gannet run -m FILE"),
        (&["list"], "gannet inspect"),
        (&["ps"], "nothing"),
        (&["create", "x", "-f", "Modelfile"], "gannet convert"),
        (&["server"], "gannet serve"),
        (&["x.gguf"], "gannet run x.gguf"),
        (&["bench", "x.gguf"], "-m x.gguf"),
    ];
    for (args, word) in cases {
        let done = run(args);
        let line = done.one_line_of_usage();
        let said = args[0] == "ps" || line.contains(word);
        assert!(said, "{args:?}: {line}");
    }
    let help = run(&["help"]).ok().stdout;
    assert_eq!(help, run(&["--help"]).ok().stdout);
    assert!(run(&["help", "run"]).ok().stdout.contains("--max-tokens"));
}

#[test]
fn other_names_of_flags_are_understood() {
    let args = [
        "--temp",
        "0.7",
        "--penalty-window",
        "8",
        "--repeat-penalty",
        "1.2",
    ];
    let theirs = [
        "--temperature",
        "0.7",
        "--repeat-last-n",
        "8",
        "--repeat-penalty",
        "1.2",
    ];
    let one = |args: &[&str]| tokens(&[&["fn x"], args].concat());
    assert_eq!(one(&args), one(&theirs));
    assert_eq!(one(&["-c", "64"]), one(&["--ctx-size", "64"]));
    for count in ["--n-predict", "--predict", "--num-predict", "--max-tokens"] {
        let done = run(&["run", "fn x", count, "3", "--device", "cpu", "--json"]).ok();
        assert_eq!(done.json()["tokens"].as_array().unwrap().len(), 3);
    }
}

/// The demonstration model's own way, which any sampling flag replaces.
#[test]
fn the_demonstration_model_does_not_repeat_itself() {
    let text = |args: &[&str]| {
        let args = [
            &[
                "run",
                "How do I read a file?",
                "-n",
                "100",
                "--device",
                "cpu",
            ],
            args,
        ]
        .concat();
        run(&args).ok().stdout
    };
    let repeats = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let distinct: std::collections::HashSet<_> = words.windows(4).collect();
        1.0 - distinct.len() as f64 / words.windows(4).count() as f64
    };
    let (plain, shown) = (text(&["--temp", "0"]), text(&[]));
    assert!(repeats(&plain) > 0.5, "{plain}");
    assert!(repeats(&shown) < 0.1, "{shown}");
    let flags = [
        "--temp",
        "0",
        "--repeat-penalty",
        "1.2",
        "--penalty-window",
        "128",
    ];
    assert_eq!(shown, text(&flags));
    // Of a file, also of the same one, the most likely tokens.
    assert_eq!(text(&["-m", &model()]), plain);
}

/// Whoever writes the prompt is not what is measured.
#[test]
fn waiting_for_standard_input_is_no_time_of_the_first_token() {
    let args = ["run", "-n", "2", "--device", "cpu", "--json"];
    let began = std::time::Instant::now();
    let mut child = gannet(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let wait = std::time::Duration::from_secs(3);
    std::thread::sleep(wait);
    child.stdin.take().unwrap().write_all(b"fn main").unwrap();
    let output = child.wait_with_output().unwrap();
    let all = began.elapsed();
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = object["first_token_seconds"].as_f64().unwrap();
    let rest = (all - wait).as_secs_f64();
    assert!(
        first > 0.0 && first <= rest,
        "{first} s of {rest} s after the prompt was there"
    );
}
