//! Files made to break readers: every one is handled as its manifest says, by every command that
//! opens files, within a second, with one line, and without a panic.

use std::time::{Duration, Instant};

use crate::support::{Done, here, run};

const FOLDER: &str = "../gguf/tests/data/malformed";

struct File {
    path: String,
    expect: String,
    mention: String,
}

fn files() -> Vec<File> {
    let manifest = std::fs::read_to_string(here(&format!("{FOLDER}/manifest.json"))).unwrap();
    let manifest: Vec<serde_json::Value> = serde_json::from_str(&manifest).unwrap();
    let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let files: Vec<File> = manifest
        .iter()
        .map(|entry| File {
            path: here(&format!("{FOLDER}/{}", text(entry, "file"))),
            expect: text(entry, "expect"),
            mention: text(entry, "error_should_mention").to_lowercase(),
        })
        .collect();
    assert_eq!(files.len(), 144);
    files
}

/// Runs a command that must end in time, in exit code 0 or in 1 with one line.
fn tame(args: &[&str]) -> Result<Done, String> {
    let start = Instant::now();
    let done = run(args);
    let took = start.elapsed();
    let problem = match done.code {
        _ if took > Duration::from_secs(1) => format!("took {took:?}"),
        _ if done.stderr.contains("panicked") => "panicked".to_owned(),
        Some(0) => return Ok(done),
        Some(1) if done.stderr.lines().count() == 1 && done.stderr.starts_with("error: ") => {
            return Ok(done);
        }
        code => format!("exit code {code:?}"),
    };
    Err(format!("{args:?}: {problem}: {}", done.stderr))
}

#[test]
fn run_behaves_as_the_manifest_says() {
    let mut failures = Vec::new();
    for File {
        path,
        expect,
        mention,
    } in files()
    {
        let done = match tame(&["run", "x", "-m", &path, "-n", "1", "--device", "cpu"]) {
            Ok(done) => done,
            Err(problem) => {
                failures.push(problem);
                continue;
            }
        };
        // The path has the word in it; the message must have it elsewhere.
        let said = done.stderr.replace(&path, "").to_lowercase();
        let refused = done.code == Some(1) && said.contains(&mention);
        if expect == "reject" && !refused {
            failures.push(format!("{path}: must be refused with {mention:?}: {said}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn inspect_opens_what_is_sound() {
    let mut failures = Vec::new();
    for File { path, expect, .. } in files() {
        for args in [
            &["inspect", &path, "--tensors"][..],
            &["inspect", &path, "--json"],
        ] {
            match tame(args) {
                Ok(done) if expect == "accept" && done.code != Some(0) => {
                    failures.push(format!("{path}: must open: {}", done.stderr));
                }
                Ok(_) => {}
                Err(problem) => failures.push(problem),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn tokenize_survives_all_of_them() {
    let failures: Vec<String> = files()
        .iter()
        .filter_map(|f| tame(&["tokenize", "-m", &f.path, "--text", "a b", "--json"]).err())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
