//! `gannet run` on the model that the binary carries.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::support::{finish, gannet, has_gpu, here, run};

const CPU: &[&str] = &["--device", "cpu"];

fn continuation(args: &[&str]) -> crate::support::Done {
    let mut all = vec!["run", "Ownership is"];
    all.extend_from_slice(args);
    all.extend_from_slice(CPU);
    run(&all).ok()
}

/// However a prompt is cut, on every device.
#[test]
fn chunks_of_a_prompt_make_no_difference() {
    let prompt = "Ownership is a set of rules that govern how a program manages memory.";
    let args = |device| ["run", prompt, "-n", "4", "--json", "--device", device];
    for (device, chunks) in [("cpu", &["1", "3", "1000"][..]), ("interp", &["5"])] {
        let tokens = |more: &[&str]| {
            let args = [&args(device)[..], &["--batch-invariant"], more].concat();
            run(&args).ok().json()["tokens"].clone()
        };
        let whole = tokens(&[]);
        for chunk in chunks {
            assert_eq!(tokens(&["--chunk", chunk]), whole, "{device} {chunk}");
        }
    }
    let none = run(&["run", prompt, "--chunk", "0"]);
    assert!(none.usage().contains("--chunk"), "{}", none.stderr);
    let other = run(&["run", prompt, "-ub", "64"]);
    assert!(
        other.one_line_of_usage().contains("--chunk N"),
        "{}",
        other.stderr
    );
}

/// The text that a float64 reference gives, whose smallest margin is above the noise of exact
/// arithmetic.
#[test]
fn greedy_text_is_the_references() {
    let golden = std::fs::read_to_string(here("tests/data/greedy-ownership.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let tokens = golden["tokens"].as_array().unwrap();
    let n = tokens.len().to_string();
    let done = continuation(&["-n", &n, "--temp", "0", "--exact", "--json", "--ignore-eos"]);
    let found = done.json();
    assert_eq!(found["tokens"], golden["tokens"]);
    assert_eq!(found["text"], golden["text"]);
    assert_eq!(
        found["prompt_tokens"],
        golden["prompt_tokens"].as_array().unwrap().len()
    );
    let streamed = continuation(&["-n", &n, "--temp", "0", "--exact", "--ignore-eos"]);
    assert_eq!(streamed.stdout, golden["text"].as_str().unwrap());
}

#[test]
fn the_same_command_gives_the_same_text() {
    let greedy = || continuation(&["-n", "40", "--temp", "0"]).stdout;
    assert_eq!(greedy(), greedy());
    let sampled = |seed: &str| {
        let args = [
            "-n", "40", "--temp", "0.9", "--top-p", "0.95", "--top-k", "50", "--seed", seed,
        ];
        continuation(&args).stdout
    };
    assert_eq!(sampled("7"), sampled("7"));
    assert_ne!(sampled("7"), sampled("8"));
}

#[test]
fn text_goes_to_standard_output_and_figures_to_standard_error() {
    let done = continuation(&["-n", "12"]);
    assert!(!done.stdout.contains("tok/s"), "{}", done.stdout);
    // The model, a line break behind the text, the figures.
    let lines: Vec<&str> = done.stderr.lines().collect();
    let named = "[model: rustdoc-tiny-Q4_K_M.gguf, the embedded demonstration model]";
    assert_eq!(
        (lines.len(), lines[0], lines[1]),
        (3, named, ""),
        "{}",
        done.stderr
    );
    assert!(lines[2].contains("generated 12 tokens"), "{}", done.stderr);
    assert!(done.stderr.contains("cpu"), "{}", done.stderr);
}

#[test]
fn json_is_one_object_with_the_contracts_fields() {
    let done = continuation(&["-n", "3", "--json"]);
    let object = done.json();
    for field in [
        "text",
        "tokens",
        "prompt_tokens",
        "finish",
        "prompt_tokens_per_second",
        "decode_tokens_per_second",
        "device",
    ] {
        assert!(!object[field].is_null(), "{field}");
    }
    assert_eq!(object["finish"], "length");
    assert_eq!(object["fallbacks"], 0);
    let times = &object["times"];
    assert!(times["prompt_seconds"].as_f64().unwrap() > 0.0, "{times}");
    assert!(times["first_choice_seconds"].as_f64().is_some(), "{times}");
    for (phase, count) in [("wait", 2), ("text", 3), ("callback", 3)] {
        let (mean, max) = (&times[phase]["mean_seconds"], &times[phase]["max_seconds"]);
        assert_eq!(times[phase]["count"], count, "{phase}");
        assert!(mean.as_f64() <= max.as_f64(), "{times}");
    }
    assert_eq!(object["tokens"].as_array().unwrap().len(), 3);
}

#[test]
fn the_prompt_comes_from_standard_input() {
    let args = ["run", "-", "-n", "8", "--device", "cpu"];
    let mut child = gannet(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"Ownership is")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        continuation(&["-n", "8"]).stdout
    );
}

#[test]
fn edges_of_length() {
    assert_eq!(continuation(&["-n", "0"]).stdout, "");
    assert!(
        !run(&["run", "-n", "4", "--device", "cpu"])
            .ok()
            .stdout
            .is_empty(),
        "no prompt"
    );
    // Five prompt tokens and a cache of eight: three more fit, and the token after them.
    let full = continuation(&["-n", "100", "--ctx", "8", "--ignore-eos", "--json"]).json();
    assert_eq!(full["finish"], "context");
    assert!(
        (3..=4).contains(&full["tokens"].as_array().unwrap().len()),
        "{full}"
    );
}

/// A reader that has seen enough is not an error: exit code 0, and not a word.
#[test]
fn a_closed_pipe_is_silent() {
    let cases: [&[&str]; 4] = [
        &[
            "run",
            "fn main",
            "-n",
            "400",
            "--ignore-eos",
            "--device",
            "cpu",
        ],
        &["inspect", "--tensors", &crate::support::model()],
        &["--help"],
        &["doctor"],
    ];
    for args in cases {
        let mut child = gannet(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 1]).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
        assert!(
            !stderr.contains("error") && !stderr.contains("panicked"),
            "{args:?}: {stderr}"
        );
    }
}

#[test]
fn auto_says_that_it_runs_on_the_cpu() {
    if has_gpu() {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    for args in [
        &["run", "x", "-n", "2"][..],
        &["run", "x", "-n", "2", "--device", "auto"],
    ] {
        let done = finish(&mut gannet(args), args).ok();
        assert!(
            done.stderr.contains("running on the CPU"),
            "{}",
            done.stderr
        );
        assert!(!done.stdout.is_empty());
    }
}

/// The kernels of a GPU, interpreted, choose the tokens that the CPU chooses.
#[test]
fn interpreted_kernels_give_the_cpus_tokens() {
    let tokens = |device: &str| {
        let args = ["run", "fn main() {", "-n", "4", "--temp", "0", "--json"];
        let done = run(&[&args[..], &["--device", device]].concat()).ok();
        done.json()["tokens"].clone()
    };
    assert_eq!(tokens("interp"), tokens("cpu"));
}

/// Each line of a file gives what it gives alone, in whatever order they are done.
#[test]
fn lines_of_a_file_are_continued_together() {
    let prompts = ["Ownership is", "fn main() {", "Ownership is", "A vector"];
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), prompts.join("\n\n")).unwrap();
    let file = file.path().to_str().unwrap();
    let settings = [
        "-n", "24", "--temp", "0.8", "--exact", "--device", "cpu", "--json",
    ];
    let run_with = |args: &[&str]| run(&[&["run"], args, &settings[..]].concat()).ok();
    let done = run_with(&["--prompts", file, "--slots", "3", "--seed", "5"]);
    let mut found: Vec<serde_json::Value> = (done
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap()))
    .collect();
    found.sort_by_key(|object| object["line"].as_u64());
    assert_eq!(found.len(), prompts.len());
    for (i, (prompt, object)) in prompts.iter().zip(&found).enumerate() {
        let seed = (5 + i).to_string();
        let alone = run_with(&[prompt, "--seed", &seed]).json();
        assert_eq!(object["line"], i);
        for field in ["text", "tokens", "finish", "prompt_tokens"] {
            assert_eq!(object[field], alone[field], "{prompt}: {field}");
        }
    }
    assert!(done.stderr.contains("4 lines"), "{}", done.stderr);

    let text = run(&["run", "--prompts", file, "-n", "4", "--device", "cpu"]).ok();
    for (i, prompt) in prompts.iter().enumerate() {
        let label = format!("==> {i}: {prompt} <==\n");
        assert!(text.stdout.contains(&label), "{}", text.stdout);
    }
    for object in &found {
        let first = object["first_token_seconds"].as_f64().unwrap();
        assert!(first > 0.0 && first < 600.0, "{first}");
        assert_eq!(object["fallbacks"], 0);
    }
    run(&["run", "x", "--prompts", file]).usage();
    run(&["run", "x", "--slots", "2"]).usage();
    let empty = tempfile::NamedTempFile::new().unwrap();
    let done = run(&["run", "--prompts", empty.path().to_str().unwrap()]);
    assert!(done.error().contains("no line"), "{}", done.stderr);
}

/// A line too long for the cache is named before anything runs, by file and number.
#[test]
fn a_line_that_does_not_fit_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let long = "word ".repeat(300);
    std::fs::write(file.path(), format!("short\n\n{long}\nshort\n")).unwrap();
    let file = file.path().to_str().unwrap();
    let args = ["--ctx", "100", "-n", "2", "--device", "cpu"];
    let done = run(&[&["run", "--prompts", file], &args[..]].concat());
    let start = format!("{file}: line 3: ");
    assert!(done.error().starts_with(&start), "{}", done.error());
    assert!(done.error().contains("context of 100"), "{}", done.error());
    assert_eq!(done.stdout, "");
}

#[test]
fn a_stop_string_is_not_printed() {
    let whole = continuation(&["-n", "30", "--ignore-eos"]).stdout;
    let letters: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
    let stop = &whole[letters[20]..letters[27]];
    let args = [
        "-n",
        "30",
        "--ignore-eos",
        "--stop",
        "\u{1}",
        "--stop",
        stop,
    ];
    let stopped = continuation(&args);
    assert_eq!(stopped.stdout, whole[..whole.find(stop).unwrap()]);
    let json = continuation(&[&args[..], &["--json"]].concat()).json();
    assert_eq!(json["finish"], "stop");
    run(&["run", "x", "--stop", ""]).usage();
}

/// The texts of lines, in their order.
fn texts_of_lines(prompts: &[&str], more: &[&str]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), prompts.join("\n")).unwrap();
    let file = file.path().to_str().unwrap();
    let args = ["run", "--prompts", file, "--json", "--ignore-eos"];
    let done = run(&[&args[..], more].concat()).ok();
    let lines = done.stdout.lines();
    let mut found: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    found.sort_by_key(|object| object["line"].as_u64());
    let text = |object: &serde_json::Value| object["text"].as_str().unwrap().to_owned();
    found.iter().map(text).collect()
}

/// At temperature 0 a line has one text, and a drawn one has that of its seed, however many others are
/// computed beside it.
#[test]
fn lines_give_one_text_at_any_number_of_slots() {
    let cpu = ["--device", "cpu"];
    let four = ["fn main() {"; 4];
    for n in ["40", "70"] {
        let alone = texts_of_lines(&four[..1], &[&cpu[..], &["-n", n]].concat());
        for slots in ["1", "2", "3", "4"] {
            let more = [&cpu[..], &["-n", n, "--slots", slots]].concat();
            let texts = texts_of_lines(&four, &more);
            assert!(texts.iter().all(|text| *text == alone[0]), "{slots} slots");
        }
    }
    let others = [
        "Ownership is a set of rules that govern how a program manages memory",
        "fn main() {",
        "A vector",
        "use std::collections::HashMap;",
        "The match expression",
        "Ownership is",
        "impl",
    ];
    for more in [&["--temp", "0.9", "--seed", "7"][..], &[], &["--exact"]] {
        let with = |slots| [&cpu[..], &["-n", "30", "--slots", slots], more].concat();
        let expected = texts_of_lines(&others, &with("1"));
        for slots in ["3", "4", "5", "7"] {
            let found = texts_of_lines(&others, &with(slots));
            assert_eq!(found, expected, "{more:?}, {slots} slots");
        }
    }
}

/// One kernel for any number of rows leaves none to choose; on the CPU it is always so.
#[test]
fn batch_invariance_is_a_mode_of_every_device() {
    let invariant =
        |more: &[&str]| run(&[&["run", "A", "-n", "1", "--batch-invariant"], more].concat());
    invariant(&["--device", "cpu"]).ok();
    for gemv in [["--gemv-rows", "4"], ["--gemv", "f32-l32-w16-r2-b4"]] {
        let done = invariant(&[&["--device", "interp"], &gemv[..]].concat());
        let line = done.error();
        assert!(
            line.starts_with(gemv[0]) && line.contains("--batch-invariant"),
            "{line}"
        );
    }
}
