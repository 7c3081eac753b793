//! `gannet logits` and `gannet perplexity`.

use crate::support::{has_gpu, run, shared};

/// Reads logits as another program would: little-endian f32, no header.
fn floats(path: &std::path::Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn logits(tokens: &str, extra: &[&str]) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.f32");
    let mut args = vec!["logits", "--tokens", tokens, "--out", out.to_str().unwrap()];
    args.extend_from_slice(&["--device", "cpu", "--exact"]);
    args.extend_from_slice(extra);
    run(&args).ok();
    floats(&out)
}

#[test]
fn logits_are_positions_by_vocabulary() {
    let all = logits("8184,46,1170,2238,329", &[]);
    assert_eq!(all.len(), 5 * 8192);
    assert_eq!(
        logits("8184,46,1170,2238,329", &["--last", "2"]),
        all[3 * 8192..]
    );
    let best = |row: &[f32]| {
        (0..row.len())
            .max_by(|&a, &b| row[a].total_cmp(&row[b]))
            .unwrap()
    };
    // The first token of the reference's greedy continuation.
    assert_eq!(best(&all[4 * 8192..]), 264);
}

#[test]
fn logits_are_those_of_the_reference() {
    let Some(golden) = shared("golden/rustdoc-tiny/Q4_K_M/ownership.f32") else {
        return;
    };
    let tokens = golden
        .parent()
        .unwrap()
        .with_file_name("ownership.tokens.json");
    let found = logits(&format!("@{}", tokens.display()), &[]);
    let expected = floats(&golden);
    assert_eq!(found.len(), expected.len());
    let worst = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst <= 1e-3, "largest difference {worst}");
}

#[test]
fn perplexity_of_a_short_text() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "Ownership is a set of rules. ".repeat(40)).unwrap();
    let path = file.path().to_str().unwrap();
    let args = [
        "perplexity",
        "--file",
        path,
        "-c",
        "64",
        "--device",
        "cpu",
        "--json",
    ];
    let object = run(&args).ok().json();
    let value = object["perplexity"].as_f64().unwrap();
    assert!(value > 1.0 && value < 100.0, "{value}");
    // Positions 32 to 62 of each window predict the next token.
    assert_eq!(object["scored"], object["chunks"].as_u64().unwrap() * 31);
    let text = run(&["perplexity", "--file", path, "-c", "64", "--device", "cpu"])
        .ok()
        .stdout;
    assert_eq!(text.trim(), format!("{value:.4}"));
    run(&[
        "perplexity",
        "--file",
        path,
        "-c",
        "4096",
        "--device",
        "cpu",
    ])
    .error();
    run(&["perplexity", "--file", path, "-c", "2", "--device", "cpu"]).usage();
}

/// Counts of one are said as one.
#[test]
fn one_token_is_no_window() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for (text, count) in [("", "1 token;"), ("a", "2 tokens;")] {
        std::fs::write(path, text).unwrap();
        let done = run(&["perplexity", "--file", path, "-c", "64", "--device", "cpu"]);
        let line = done.error();
        assert!(
            line.starts_with(&format!("no window of 64 in {count}")),
            "{line}"
        );
    }
}

#[test]
fn measuring_on_a_gpu_that_is_not_there_fails() {
    if has_gpu() {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    run(&[
        "perplexity",
        "--file",
        &crate::support::model(),
        "--device",
        "cuda",
    ])
    .error();
    run(&[
        "logits",
        "--tokens",
        "1",
        "--out",
        "/dev/null",
        "--device",
        "cuda",
    ])
    .error();
}
