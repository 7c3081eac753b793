//! A build without the embedded model says what to do about it.

#![cfg(not(feature = "embedded-model"))]

use std::process::Command;

#[test]
fn a_model_must_be_given() {
    let output = Command::new(env!("CARGO_BIN_EXE_gannet"))
        .args(["run", "x"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("-m FILE.gguf"), "{stderr}");
}
