//! Files made to break readers: every one is accepted or refused as its manifest says.
//!
//! `data/malformed/manifest.json` lists each file with `expect` (`accept`, `reject` or `either`) and
//! the word that the refusal must contain. The container refuses what is wrong with the container;
//! what only a model can know (hyper-parameters, vocabularies, missing tensors) is listed in
//! [`MODEL_LEVEL`] and must open here, so that it can be inspected.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gannet_gguf::{Error, Gguf, TensorType, Writer};

/// Files whose container is sound, and what is wrong with the model inside.
const MODEL_LEVEL: &[(&str, &str)] = &[
    ("v01_no_tokens.gguf", "no tokenizer.ggml.tokens"),
    (
        "v02_tokens_i32.gguf",
        "tokenizer.ggml.tokens holds integers",
    ),
    ("v03_zero_tokens.gguf", "an empty vocabulary"),
    ("v04_scores_short.gguf", "fewer scores than tokens"),
    ("v05_types_short.gguf", "fewer token types than tokens"),
    ("v06_types_u8.gguf", "token types of another width"),
    ("v15_model_unknown.gguf", "an unknown tokenizer.ggml.model"),
    ("v16_pre_unknown.gguf", "an unknown tokenizer.ggml.pre"),
    ("m01_block_0.gguf", "no layers"),
    ("m02_block_max.gguf", "4 billion layers"),
    ("m03_heads_0.gguf", "no heads"),
    ("m04_kvheads_0.gguf", "no key-value heads"),
    (
        "m05_kvheads_3_of_4.gguf",
        "key-value heads that do not divide the heads",
    ),
    ("m06_embd_0.gguf", "a hidden size of 0"),
    (
        "m07_embd_33.gguf",
        "a hidden size that is not that of the tensors",
    ),
    ("m09_eps_nan.gguf", "a norm epsilon that is not a number"),
    ("m10_eps_neg.gguf", "a negative norm epsilon"),
    ("m11_rope_base_0.gguf", "a rope base of 0"),
    ("m12_rope_base_inf.gguf", "an infinite rope base"),
    ("m13_rope_dim_odd.gguf", "an odd rope dimension"),
    ("m14_rope_dim_big.gguf", "a rope dimension over the head's"),
    (
        "m15_experts_used_gt.gguf",
        "more experts used than there are",
    ),
    ("m16_no_arch.gguf", "no general.architecture"),
    ("m17_arch_u32.gguf", "general.architecture is a number"),
    ("m18_arch_unknown.gguf", "an architecture nobody knows"),
    (
        "m19_missing_tensors.gguf",
        "tensors of the architecture are missing",
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed")
}

fn is_container_file(name: &str) -> bool {
    name.ends_with(".gguf")
}

#[test]
fn every_file_behaves_as_the_manifest_says() {
    let manifest = std::fs::read_to_string(folder().join("manifest.json")).unwrap();
    let manifest: Vec<serde_json::Value> = serde_json::from_str(&manifest).unwrap();
    let (mut seen, mut failures) = (0, Vec::new());
    for entry in &manifest {
        let name = entry["file"].as_str().unwrap();
        if !is_container_file(name) {
            // safetensors: another container, refused by its first bytes.
            assert!(Gguf::open(folder().join(name)).is_err(), "{name}");
            continue;
        }
        seen += 1;
        let started = Instant::now();
        let opened = Gguf::open(folder().join(name));
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{name} took too long"
        );
        let model_level = MODEL_LEVEL.iter().any(|(file, _)| *file == name);
        let mention = entry["error_should_mention"].as_str().unwrap();
        let verdict = match (entry["expect"].as_str().unwrap(), &opened) {
            ("accept", Ok(_)) => Ok(()),
            ("accept", Err(e)) => Err(format!("refused: {e}")),
            ("reject", Ok(_)) if model_level => Ok(()),
            ("reject", Err(e)) if model_level => Err(format!("refused, not inspectable: {e}")),
            ("reject", Ok(_)) => Err("accepted".to_owned()),
            ("reject" | "either", Err(e)) => one_line_about(e, name, mention),
            ("either", Ok(_)) => Ok(()),
            (other, _) => Err(format!("the manifest expects {other:?}")),
        };
        if let Err(e) = &opened {
            eprintln!("{e}");
        }
        failures.extend(verdict.err().map(|why| format!("{name}: {why}")));
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert_eq!(seen, 116, "files of this container in the manifest");
    for (name, why) in MODEL_LEVEL {
        let listed = manifest
            .iter()
            .any(|e| e["file"] == *name && e["expect"] == "reject");
        assert!(listed, "{name} ({why}) is not in the manifest");
    }
}

/// The message is one line of bounded length that names the file and contains `mention`.
fn one_line_about(error: &Error, name: &str, mention: &str) -> Result<(), String> {
    let message = error.to_string();
    let path = folder().join(name).display().to_string();
    let Some(rest) = message.strip_prefix(&path) else {
        return Err(format!("the file is not named: {message}"));
    };
    // Without the file's name, which often contains the word.
    let about = rest.to_lowercase();
    if !about.contains(&mention.to_lowercase()) {
        return Err(format!("{mention:?} is not mentioned: {message}"));
    }
    if rest.contains(['\n', '\r']) || rest.len() > 400 {
        return Err(format!("not one short line: {message}"));
    }
    Ok(())
}

#[test]
fn what_is_odd_but_sound_gives_a_warning() {
    let model = Gguf::open(folder().join("c04_trailing_bytes_ok.gguf")).unwrap();
    assert_eq!(model.warnings().len(), 1, "{:?}", model.warnings());
    let model = Gguf::open(folder().join("c01_minimal_ok.gguf")).unwrap();
    assert_eq!(model.warnings(), &[] as &[String]);
}

#[test]
fn version_2_reads_like_version_3() {
    let v2 = Gguf::open(folder().join("c02_version2_ok.gguf")).unwrap();
    let v3 = Gguf::open(folder().join("c01_minimal_ok.gguf")).unwrap();
    assert_eq!((v2.version(), v3.version()), (2, 3));
    assert_eq!(v2.tensors(), v3.tensors());
    assert!(v2.metadata().iter().eq(v3.metadata().iter()));
    assert!(!v2.tensors().is_empty());
    assert_eq!(v2.data(&v2.tensors()[0]), v3.data(&v3.tensors()[0]));
}

/// A small file with a value of every type and two tensors.
fn small_file() -> Vec<u8> {
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama").unwrap();
    writer.set("general.alignment", 16u32).unwrap();
    writer.set("a.u8", 1u8).unwrap();
    writer.set("a.f64", 0.5f64).unwrap();
    writer.set("a.bool", true).unwrap();
    writer.set_array("a.strings", &["", "é", "three"]).unwrap();
    writer.set_array("a.bools", &[true, false]).unwrap();
    writer.set_array("a.i16s", &[-1i16, 2]).unwrap();
    writer.tensor("first", &[5], TensorType::F32).unwrap();
    writer.tensor("second", &[32, 2], TensorType::Q4_0).unwrap();
    let mut data = writer.start(Vec::new()).unwrap();
    data.tensor("first", &[7; 20]).unwrap();
    data.tensor("second", &[9; 36]).unwrap();
    data.finish().unwrap()
}

/// Opens a file that may be broken and, where it opens, looks at everything in it.
fn look_at_everything(bytes: Vec<u8>) -> Option<Error> {
    let model = match Gguf::from_vec("broken", bytes) {
        Ok(model) => model,
        Err(e) => return Some(e),
    };
    let metadata = model.metadata();
    assert_eq!(metadata.iter().count(), metadata.len());
    for (key, value) in metadata.iter() {
        assert_eq!(metadata.get(key).map(|v| v.ty()), Some(value.ty()));
        let _ = value.describe();
        if let Some(array) = value.as_array() {
            assert_eq!(array.iter().count(), array.len());
        }
        let _ = (
            metadata.u32(key),
            metadata.f32s(key),
            metadata.i32s(key),
            metadata.strings(key),
        );
    }
    for tensor in model.tensors() {
        assert_eq!(model.data(tensor).len() as u64, tensor.bytes);
        assert_eq!(model.tensor(&tensor.name), Some(tensor));
    }
    None
}

#[test]
fn no_changed_byte_breaks_the_reader() {
    let file = small_file();
    assert!(look_at_everything(file.clone()).is_none());
    let mut refused = 0;
    for at in 0..file.len() {
        for new in [
            0x00,
            0x01,
            0x7f,
            0x80,
            0xff,
            file[at] ^ 1,
            file[at] ^ 0x80,
            file[at].wrapping_add(1),
        ] {
            let mut broken = file.clone();
            broken[at] = new;
            refused += usize::from(look_at_everything(broken).is_some());
        }
        // A whole 64-bit number made enormous, or the largest positive one.
        for new in [u64::MAX, i64::MAX as u64, 1 << 40] {
            let mut broken = file.clone();
            let end = file.len().min(at + 8);
            broken[at..end].copy_from_slice(&new.to_le_bytes()[..end - at]);
            refused += usize::from(look_at_everything(broken).is_some());
        }
    }
    assert!(refused > 1000, "only {refused} changes were noticed");
}

#[test]
fn every_truncation_is_refused_but_that_of_padding() {
    let file = small_file();
    // The last tensor has 36 bytes at an alignment of 16: 12 bytes of padding follow.
    let whole = file.len() - 12;
    for len in 0..file.len() {
        let error = look_at_everything(file[..len].to_vec());
        assert_eq!(
            error.is_some(),
            len < whole,
            "{len} of {} bytes: {error:?}",
            file.len()
        );
    }
}

#[test]
fn what_is_not_a_file_is_refused() {
    let error = Gguf::open(folder()).unwrap_err().to_string();
    assert!(error.contains("regular file"), "{error}");
    if cfg!(unix) {
        let error = Gguf::open("/dev/zero").unwrap_err().to_string();
        assert!(error.contains("regular file"), "{error}");
    }
    let error = Gguf::open(folder().join("absent.gguf"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("absent.gguf: cannot open the file"),
        "{error}"
    );
}
