//! The reader of safetensors against files from strangers, and against sound ones.
//!
//! `data/malformed/manifest.json` lists each file with `expect` (`accept` or `reject`) and the word
//! that the refusal must contain.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gannet_engine::internals::files::safetensors::{Dtype, SafeTensors, refuse_as_model};
use serde_json::Value;

fn malformed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed")
}

/// A file of a header and data.
fn write(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

/// What a file with this header and data is refused with.
fn refusal(header: &str, data: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    write(&path, header, data);
    let line = SafeTensors::open(&path).unwrap_err().to_string();
    assert!(!line.contains('\n') && line.len() < 1000, "{line}");
    line.split_once("x.safetensors: ").unwrap().1.to_owned()
}

fn tensor(shape: &str, begin: u64, end: u64) -> String {
    format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

#[test]
fn malformed_files_are_refused_with_the_reason() {
    let manifest = fs::read(malformed().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let entries = manifest.as_array().unwrap();
    assert_eq!(entries.len(), 28);
    for entry in entries {
        let name = entry["file"].as_str().unwrap();
        let path = malformed().join(name);
        let start = Instant::now();
        let opened = SafeTensors::open(&path);
        let as_model = refuse_as_model(&path).unwrap_err().to_string();
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{name}: {:?}",
            start.elapsed()
        );
        match entry["expect"].as_str().unwrap() {
            "accept" => {
                assert_eq!(opened.unwrap().tensors().len(), 1, "{name}");
                assert!(
                    as_model.contains("not supported") && as_model.contains("GGUF"),
                    "{name}"
                );
            }
            "reject" => {
                let line = opened.unwrap_err().to_string();
                let word = entry["error_should_mention"].as_str().unwrap();
                let (_, message) = line.split_once(name).unwrap();
                assert!(
                    message.to_ascii_lowercase().contains(word),
                    "{name}: {line}"
                );
                assert!(
                    !line.contains('\n') && message.len() < 500,
                    "{name}: {line}"
                );
                assert_eq!(as_model, line);
            }
            other => panic!("{name}: expect is {other}"),
        }
    }
}

#[test]
fn tensors_metadata_and_data_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let header = r#"{"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[3,7],"note":[{}]},
        "__metadata__":{"format":"pt","\u00e9":"\n"},
        "a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},
        "scalar":{"dtype":"F4","shape":[2],"data_offsets":[7,8]}}   "#;
    write(&path, header, b"abcdefgh");
    let model = SafeTensors::open(&path).unwrap();
    let names: Vec<&str> = model.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "scalar"]);
    let b = model.tensor("b").unwrap();
    assert_eq!((b.dtype, &b.shape[..]), (Dtype::BF16, &[2, 1][..]));
    assert_eq!(b.bytes.end - b.bytes.start, 4);
    assert_eq!(model.data("b").unwrap(), b"defg");
    assert_eq!(model.data("scalar").unwrap(), b"h");
    let metadata: Vec<_> = model.metadata().collect();
    assert_eq!(metadata, [("format", "pt"), ("\u{e9}", "\n")]);
    assert!(
        model
            .data("c")
            .unwrap_err()
            .to_string()
            .ends_with("tensor \"c\" is missing")
    );
    fs::write(&path, b"").unwrap();
    assert!(model.data("b").unwrap_err().to_string().contains("shrunk"));
}

#[test]
fn refusals_say_what_would_be_right() {
    let at = |line: &str, parts: &[&str]| {
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    };
    let one = tensor("[1]", 0, 4);
    let line = refusal(&format!(r#"{{"a":{}}}"#, tensor("[3]", 0, 8)), &[0; 8]);
    assert_eq!(
        line,
        "tensor \"a\": shape [3] of F32 needs 12 bytes; expected the 8 of data_offsets"
    );
    at(
        &refusal(r#"{"a":5}"#, &[]),
        &[
            "tensor \"a\"",
            "integer `5`",
            "dtype, shape and data_offsets",
        ],
    );
    at(
        &refusal(r#"{"a":{}}"#, &[]),
        &["tensor \"a\"", "missing field `data_offsets`"],
    );
    at(
        &refusal(r#"{"a":{"dtype":7}}"#, &[]),
        &["dtype", "`7`", "a string"],
    );
    at(
        &refusal(r#"{"a":{"shape":[1],"shape":[1]}}"#, &[]),
        &["duplicate key \"shape\""],
    );
    let twice = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    at(&refusal(twice, &[]), &["duplicate key \"k\""]);
    at(
        &refusal(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]),
        &["duplicate key", "__metadata__"],
    );
    let deep = format!(r#"{{"a":{one},"b":{{"x":{}"#, "[".repeat(200));
    at(&refusal(&deep, &[0; 4]), &["depth of more than 128"]);
    let dims = format!(
        r#"{{"a":{}}}"#,
        tensor(&format!("[1{}]", ",1".repeat(8)), 0, 4)
    );
    at(&refusal(&dims, &[0; 4]), &["shape", "more than 8 numbers"]);
    let long = format!(r#"{{"{}":{one}}}"#, "n".repeat(5 << 20));
    at(&refusal(&long, &[0; 4]), &["string over 4 MiB"]);
    let odd = r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#;
    at(&refusal(odd, &[0; 2]), &["12 bits", "whole bytes"]);
    at(
        &refusal(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e300]}}"#,
            &[],
        ),
        &["data_offsets"],
    );
}

#[test]
fn most_tensors_fit_and_more_are_refused() {
    let header = |count: usize| {
        let empty = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
        let tensors: Vec<String> = (0..count).map(|i| format!("\"{i}\":{empty}")).collect();
        format!("{{{}}}", tensors.join(","))
    };
    let start = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    write(&path, &header(32_768), &[]);
    assert_eq!(SafeTensors::open(&path).unwrap().tensors().len(), 32_768);
    assert!(refusal(&header(32_769), &[]).contains("more than 32768 tensors"));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn an_index_joins_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write(
        &file("1.safetensors"),
        &format!(r#"{{"a":{}}}"#, tensor("[1]", 0, 4)),
        b"aaaa",
    );
    write(
        &file("2.safetensors"),
        &format!(r#"{{"b":{}}}"#, tensor("[1]", 0, 4)),
        b"bbbb",
    );
    let path = file("model.safetensors.index.json");
    let open = |weight_map: &str| {
        let text = format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{weight_map}}}"#);
        fs::write(&path, text).unwrap();
        SafeTensors::open(&path).map_err(|e| e.to_string())
    };
    let model = open(r#"{"b":"2.safetensors","a":"1.safetensors"}"#).unwrap();
    assert_eq!(
        model.files(),
        [file("1.safetensors"), file("2.safetensors")]
    );
    assert_eq!(model.data("a").unwrap(), b"aaaa");
    assert_eq!(model.data("b").unwrap(), b"bbbb");
    assert!(
        refuse_as_model(&path)
            .unwrap_err()
            .to_string()
            .contains("GGUF")
    );

    let refused = |weight_map: &str, part: &str| {
        let line = open(weight_map).unwrap_err();
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    };
    refused(
        r#"{"a":"2.safetensors"}"#,
        "tensor \"a\" is missing from \"2.safetensors\"",
    );
    refused(r#"{"a":"3.safetensors"}"#, "3.safetensors: cannot open");
    refused(r#"{"a":"1.gguf"}"#, "expected a .safetensors file");
    refused(r#"{"a":7}"#, "weight_map: \"a\": invalid type: integer `7`");
    refused(
        r#"{"a":"1.safetensors","a":"1.safetensors"}"#,
        "duplicate key \"a\"",
    );
    write(
        &file("3.safetensors"),
        &format!(r#"{{"a":{}}}"#, tensor("[1]", 0, 4)),
        b"cccc",
    );
    refused(
        r#"{"a":"1.safetensors","b":"3.safetensors"}"#,
        "two files hold it",
    );
    refused(&"[".repeat(100_000), "depth");
    fs::write(&path, "{}").unwrap();
    assert!(
        SafeTensors::open(&path)
            .unwrap_err()
            .to_string()
            .contains("missing field `weight_map`")
    );
}

#[test]
fn other_files_pass() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    assert!(
        refuse_as_model(&path).is_ok(),
        "what does not exist is not safetensors"
    );
    fs::write(&path, b"GGUF\x03\0\0\0{}").unwrap();
    assert!(refuse_as_model(&path).is_ok());
    assert!(refuse_as_model(folder.path()).is_ok());
    // By its content, whatever its name.
    write(&path, "{}", &[]);
    assert!(
        refuse_as_model(&path)
            .unwrap_err()
            .to_string()
            .contains("not supported")
    );
}

#[test]
fn no_byte_panics_the_reader() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let header = format!(
        r#"{{"__metadata__":{{"k":"v"}},"a":{},"b":{}}}"#,
        tensor("[1]", 0, 4),
        tensor("[2,1]", 4, 12)
    );
    write(&path, &header, &[0; 12]);
    let sound = fs::read(&path).unwrap();
    assert!(SafeTensors::open(&path).is_ok());
    for at in 0..sound.len() - 12 {
        for byte in [0, b'"', b'{', b']', b'9', b'-', b'\\', 0xff] {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            fs::write(&path, &bytes).unwrap();
            if let Ok(model) = SafeTensors::open(&path) {
                for tensor in model.tensors() {
                    let len = tensor.bytes.end - tensor.bytes.start;
                    assert_eq!(model.data(&tensor.name).unwrap().len() as u64, len);
                }
            }
        }
        fs::write(&path, &sound[..at]).unwrap();
        assert!(SafeTensors::open(&path).is_err(), "cut at {at}");
    }
}
