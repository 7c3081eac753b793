//! The examples of every crate are built with the tests; here they run, and say what they should.
//!
//! An example that is alone in its folder is a row of the table below, or the test says so.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Crate, example, and what it prints.
const EXAMPLES: &[(&str, &str, &str)] = &[
    ("gguf", "tensors", "token_embd.weight"),
    ("gguf", "write", "2 keys, 1 tensors"),
    ("quant", "formats", "Q4_K: 4.5 bits"),
    ("ptx-gen", "kernel", ".visible .entry largest("),
    ("cuda-runtime", "devices", "GPU"),
    ("cuda-runtime", "add", ""),
    ("engine", "first", "Ownership is"),
    ("engine", "streaming", "\n["),
    ("engine", "batch", "The borrow checker\""),
    ("engine", "custom_sampler", "The borrow checker"),
    ("engine", "plan", "rms_norm"),
    ("engine", "own_kernel", "interpreted: y[999] = 1999"),
    ("cli", "axum", ""),
];

/// Examples that measure for minutes, or write what other tests look at.
const NOT_RUN: &[(&str, &str)] = &[
    ("ptx-gen", "library"),
    ("quant", "matmul_bench"),
    ("quant", "quantize_bench"),
    ("quant", "tile_bench"),
];

/// The built example, or `None` where the tests were built without examples.
fn built(name: &str) -> Option<PathBuf> {
    let mut folder = std::env::current_exe().unwrap();
    // `target/debug/deps/examples-...` beside `target/debug/examples/...`.
    folder.pop();
    let file = folder.parent().unwrap().join("examples").join(name);
    if !file.is_file() {
        eprintln!(
            "skipped: {name} is not built; cargo build --workspace --examples --all-features"
        );
        return None;
    }
    Some(file)
}

fn example(file: &Path) -> Command {
    let mut command = Command::new(file);
    for variable in gannet_engine::settings::TABLE {
        command.env_remove(variable.name);
    }
    command.stdin(Stdio::null());
    command
}

#[test]
fn every_example_has_a_row() {
    let mut found = Vec::new();
    for folder in ["gguf", "quant", "ptx-gen", "cuda-runtime", "engine", "cli"] {
        let examples = format!("{}/../{folder}/examples", env!("CARGO_MANIFEST_DIR"));
        for entry in std::fs::read_dir(examples).unwrap() {
            let name = entry.unwrap().path().file_stem().unwrap().to_owned();
            found.push((folder, name.into_string().unwrap()));
        }
    }
    found.sort();
    let rows = EXAMPLES.iter().map(|(folder, name, _)| (*folder, *name));
    let rows = rows.chain(NOT_RUN.iter().copied());
    let mut rows: Vec<_> = rows
        .map(|(folder, name)| (folder, name.to_owned()))
        .collect();
    rows.sort();
    assert_eq!(found, rows);
}

#[test]
fn examples_say_what_they_should() {
    let folder = tempfile::tempdir().unwrap();
    for (_, name, expected) in EXAMPLES.iter().filter(|row| row.1 != "axum") {
        let Some(file) = built(name) else { continue };
        let mut command = example(&file);
        if *name == "write" {
            command.arg(folder.path().join("a.gguf"));
        }
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{name}: {said}{complaint}");
        let has_said = said.contains(expected) || (*name == "devices" && said.contains("sm_"));
        assert!(has_said, "{name}: {said}");
    }
}

#[test]
fn an_application_with_an_engine_in_it_streams() {
    let Some(file) = built("axum") else { return };
    let mut process = example(&file)
        .arg("0")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(process.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap().to_owned();
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let (rest, text) = (ask("/"), ask("/continue/Ownership%20is"));
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(rest.ends_with("the rest of the application"), "{rest}");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.len() > 200,
        "{text}"
    );
}
