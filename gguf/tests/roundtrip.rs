//! What the writer writes, the reader reads: values of every type, any alignment, shards, copies.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gannet_gguf::{Error, Gguf, TensorType, Value, Writer, shard_path};

const ARRAYS: &str = "every array type";

fn write_values(writer: &mut Writer) -> Result<(), Error> {
    writer.set("u8", u8::MAX)?;
    writer.set("i8", i8::MIN)?;
    writer.set("u16", u16::MAX)?;
    writer.set("i16", i16::MIN)?;
    writer.set("u32", u32::MAX)?;
    writer.set("i32", i32::MIN)?;
    writer.set("u64", u64::MAX)?;
    writer.set("i64", i64::MIN)?;
    writer.set("f32", 1.5f32)?;
    writer.set("f64", -0.1f64)?;
    writer.set("bool", true)?;
    writer.set("string", "na\u{ef}ve \u{1f980}")?;
    writer.set("empty", "")?;
    writer.set_array("u8s", &[1u8, 2])?;
    writer.set_array("i8s", &[-1i8, 2])?;
    writer.set_array("u16s", &[1u16, 2])?;
    writer.set_array("i16s", &[-1i16, 2])?;
    writer.set_array("u32s", &[1u32, u32::MAX])?;
    writer.set_array("i32s", &[-1i32, 2])?;
    writer.set_array("u64s", &[1u64, 2])?;
    writer.set_array("i64s", &[-1i64, 2])?;
    writer.set_array("f32s", &[0.5f32, f32::NEG_INFINITY])?;
    writer.set_array("f64s", &[0.5f64])?;
    writer.set_array("bools", &[true, false, true])?;
    writer.set_array("strings", &["a", "", "long".repeat(100).as_str()])?;
    writer.set_array::<i32>("none", &[])?;
    writer.set_array::<String>("no strings", &[])
}

#[test]
fn every_value_type_comes_back() {
    let mut writer = Writer::new();
    write_values(&mut writer).unwrap();
    let model = Gguf::from_vec("f", writer.start(Vec::new()).unwrap().finish().unwrap()).unwrap();
    let m = model.metadata();
    assert_eq!(
        (model.version(), m.len(), model.tensors().len()),
        (3, 27, 0)
    );
    assert_eq!(m.get("u8"), Some(Value::U8(255)));
    assert_eq!(m.get("i8"), Some(Value::I8(-128)));
    assert_eq!(m.get("u16"), Some(Value::U16(65_535)));
    assert_eq!(m.get("i16"), Some(Value::I16(-32_768)));
    assert_eq!(m.get("i32"), Some(Value::I32(i32::MIN)));
    assert_eq!(m.get("i64"), Some(Value::I64(i64::MIN)));
    assert_eq!(m.get("f64"), Some(Value::F64(-0.1)));
    assert_eq!(m.u32("u32").unwrap(), u32::MAX);
    assert_eq!(m.u64("u64").unwrap(), u64::MAX);
    assert_eq!(m.f32("f32").unwrap(), 1.5);
    assert!(m.bool("bool").unwrap());
    assert_eq!(m.str("string").unwrap(), "na\u{ef}ve \u{1f980}");
    assert_eq!(m.str("empty").unwrap(), "");
    assert_eq!(m.u32s("u32s").unwrap(), [1, u32::MAX]);
    assert_eq!(m.i32s("i32s").unwrap(), [-1, 2]);
    assert_eq!(m.u32s("u64s").unwrap(), [1, 2]);
    assert_eq!(m.f32s("f32s").unwrap(), [0.5, f32::NEG_INFINITY]);
    assert_eq!(m.f32s("f64s").unwrap(), [0.5]);
    assert_eq!(m.bools("bools").unwrap(), [true, false, true]);
    assert_eq!(m.i32s("none").unwrap(), [] as [i32; 0]);
    assert!(m.strings("no strings").unwrap().is_empty());
    let strings = m.strings("strings").unwrap();
    assert_eq!(
        (strings.len(), strings.get(0), strings.get(1)),
        (3, Some("a"), Some(""))
    );
    assert_eq!(
        (strings.get(2).map(str::len), strings.get(3)),
        (Some(400), None)
    );
    assert_eq!(strings.iter().count(), 3);
    for (key, one) in [
        ("u8s", Value::U8(2)),
        ("i8s", Value::I8(2)),
        ("u16s", Value::U16(2)),
    ] {
        assert_eq!(
            m.get(key).and_then(|v| v.as_array()?.get(1)),
            Some(one),
            "{key}: {ARRAYS}"
        );
    }
    for (key, one) in [("i16s", Value::I16(-1)), ("i64s", Value::I64(-1))] {
        assert_eq!(
            m.get(key).and_then(|v| v.as_array()?.get(0)),
            Some(one),
            "{key}: {ARRAYS}"
        );
    }
}

#[test]
fn getters_name_the_key_and_what_they_found() {
    let mut writer = Writer::new();
    write_values(&mut writer).unwrap();
    let model = Gguf::from_vec("f", writer.start(Vec::new()).unwrap().finish().unwrap()).unwrap();
    let m = model.metadata();
    let text = |e: Error| e.to_string();
    assert_eq!(
        text(m.u32("i8").unwrap_err()),
        "f: metadata key \"i8\" is i8 -128, must be an integer that fits u32"
    );
    assert_eq!(
        text(m.str("gone").unwrap_err()),
        "f: metadata key \"gone\" is missing, must be a string"
    );
    assert_eq!(
        text(m.u32s("i32s").unwrap_err()),
        "f: metadata key \"i32s\" is i32 -1 at index 0, must be an array of unsigned 32-bit integers"
    );
    assert_eq!(
        text(m.strings("u8s").map(|_| ()).unwrap_err()),
        "f: metadata key \"u8s\" is an array of 2 u8, must be an array of strings"
    );
    // Narrow elements are refused: the vector would be larger than the array in the file.
    assert!(matches!(m.i32s("u8s"), Err(Error::WrongType { .. })));
    assert!(matches!(m.opt_u32("gone"), Ok(None)));
    assert!(matches!(m.opt_u32("u64"), Err(Error::WrongType { .. })));
    assert!(matches!(m.opt_f32("f64"), Ok(Some(-0.1))));
}

#[test]
fn tensors_come_back_at_any_alignment_and_from_pieces() {
    for alignment in [1u32, 8, 32, 4096, 1 << 20] {
        let mut writer = Writer::new();
        writer.set("general.alignment", alignment).unwrap();
        let (a, b) = ([3u8; 4 * 7], [5u8; 18 * 2 * 3]);
        assert_eq!(
            writer.tensor("a", &[7], TensorType::F32).unwrap(),
            a.len() as u64
        );
        assert_eq!(
            writer.tensor("b", &[64, 3], TensorType::Q4_0).unwrap(),
            b.len() as u64
        );
        let mut data = writer.start(Vec::new()).unwrap();
        data.tensor("a", &a).unwrap();
        for piece in b.chunks(10) {
            assert_eq!(data.due().unwrap().0, "b");
            data.write(piece).unwrap();
        }
        assert_eq!(data.due(), None);
        let model = Gguf::from_vec("f", data.finish().unwrap()).unwrap();
        assert_eq!(model.alignment(), u64::from(alignment));
        assert_eq!(model.warnings(), &[] as &[String]);
        let t = model.tensor("b").unwrap();
        assert_eq!(
            (t.dims.as_slice(), t.ty, t.bytes),
            (&[64, 3][..], TensorType::Q4_0, 108)
        );
        assert_eq!(
            (model.data(t), t.offset % u64::from(alignment)),
            (&b[..], 0)
        );
        assert_eq!(model.data(model.tensor("a").unwrap()), &a[..]);
        assert!(model.tensor("c").is_none());
    }
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut w = Writer::new();
    let refused = |r: Result<(), Error>, word: &str| {
        let e = r.unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    };
    refused(w.set("", 1u8), "bytes long");
    refused(w.set("general.alignment", 24u32), "power of two");
    refused(w.set("general.alignment", 32u64), "as u32");
    refused(w.set_array("general.alignment", &[32u32]), "an array");
    w.tensor("a", &[32], TensorType::Q8_0).unwrap();
    refused(
        w.tensor("a", &[32], TensorType::Q8_0).map(|_| ()),
        "duplicate",
    );
    refused(
        w.tensor("b", &[33], TensorType::Q8_0).map(|_| ()),
        "multiple of 32",
    );
    refused(
        w.tensor("b", &[], TensorType::F32).map(|_| ()),
        "dimensions",
    );
    refused(
        w.tensor(&"n".repeat(65), &[1], TensorType::F32).map(|_| ()),
        "name's length is 65",
    );
    refused(
        w.tensor("b", &[u64::MAX], TensorType::I8).map(|_| ()),
        "overflow",
    );
    refused(
        w.tensor("b", &[i64::MAX as u64], TensorType::I8)
            .map(|_| ()),
        "overflow",
    );
    refused(w.set("general.alignment", 64u32), "after the first tensor");
    let mut data = w.start(Vec::new()).unwrap();
    refused(data.tensor("b", &[0; 34]), "which is due");
    refused(data.tensor("a", &[0; 33]), "34 bytes");
    refused(data.write(&[0; 35]), "at most the 34 bytes");
    refused(data.finish().map(|_| ()), "short of 34 bytes");
}

/// Writes a copy of `model` as a new file.
fn copy(model: &Gguf) -> Vec<u8> {
    let mut writer = Writer::new();
    for (key, value) in model.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    for t in model.tensors() {
        writer.tensor(&t.name, &t.dims, t.ty).unwrap();
    }
    let mut data = writer.start(Vec::new()).unwrap();
    for t in model.tensors() {
        data.tensor(&t.name, model.data(t)).unwrap();
    }
    data.finish().unwrap()
}

#[test]
fn copies_are_byte_for_byte_the_same() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed");
    for name in [
        "c01_minimal_ok.gguf",
        "c03_align64_ok.gguf",
        "c05_empty_array_ok.gguf",
    ] {
        let path = here.join(name);
        assert_eq!(
            copy(&Gguf::open(&path).unwrap()),
            std::fs::read(&path).unwrap(),
            "{name}"
        );
    }
    // Without tensors, writers differ in whether they pad the header.
    let path = here.join("c10_vocab_ok.gguf");
    let copy = copy(&Gguf::open(&path).unwrap());
    assert!(copy.starts_with(&std::fs::read(&path).unwrap()));
}

/// Every model file below `folder`.
fn models_in(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            models_in(&path, found);
        } else if path.extension().is_some_and(|e| e == "gguf") {
            found.push(path);
        }
    }
}

#[test]
fn files_of_other_writers_open_and_copy() {
    let shared = std::env::var_os("GANNET_SHARED").map(PathBuf::from);
    let shared =
        shared.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
    let mut paths = Vec::new();
    for folder in ["models", "golden", "vocab"] {
        models_in(&shared.join(folder), &mut paths);
    }
    if paths.is_empty() {
        eprintln!("skipped: no models in {}", shared.display());
    }
    for path in paths {
        let started = Instant::now();
        let model = Gguf::open(&path).unwrap();
        let opened = started.elapsed();
        let tokens = model.metadata().strings("tokenizer.ggml.tokens");
        let tokens = tokens.unwrap().len() as u64;
        // A row of the embedding for each token; vocabularies come without one.
        let embedding = model.tensor("token_embd.weight");
        let rows = embedding.map_or(tokens, |t| t.dims[1]);
        assert!(tokens > 256 && tokens == rows, "{}", path.display());
        let original = std::fs::read(&path).unwrap();
        let copy = copy(&model);
        // A file without tensors may lack the padding of its header.
        let same = if model.tensors().is_empty() {
            copy.starts_with(&original)
        } else {
            copy == original
        };
        // Files of version 2 become version 3.
        assert!(same || model.version() == 2, "{}", path.display());
        eprintln!("{}: opened in {opened:?}", path.display());
    }
}

/// Writes three shards of one tensor each beside `base`; `change` may spoil a shard's header.
fn write_shards(base: &Path, change: impl Fn(usize, &mut Writer)) -> PathBuf {
    write_named_shards(base, |no| format!("t{no}"), change)
}

fn write_named_shards(
    base: &Path,
    name: impl Fn(usize) -> String,
    change: impl Fn(usize, &mut Writer),
) -> PathBuf {
    for no in 0..3usize {
        let mut writer = Writer::new();
        if no == 0 {
            writer.set("general.architecture", "llama").unwrap();
        }
        writer.set("split.no", no as u16).unwrap();
        writer.set("split.count", 3u16).unwrap();
        writer.set("split.tensors.count", 3i32).unwrap();
        change(no, &mut writer);
        let name = name(no);
        writer.tensor(&name, &[4], TensorType::I8).unwrap();
        let file = File::create(shard_path(base, no, 3)).unwrap();
        let mut data = writer.start(BufWriter::new(file)).unwrap();
        data.tensor(&name, &[no as u8; 4]).unwrap();
        data.finish().unwrap();
    }
    shard_path(base, 0, 3)
}

#[test]
fn shards_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let first = write_shards(&folder.path().join("m.gguf"), |_, _| {});
    let model = Gguf::open(&first).unwrap();
    assert_eq!((model.num_shards(), model.tensors().len()), (3, 3));
    assert_eq!(
        model.metadata().str("general.architecture").unwrap(),
        "llama"
    );
    for no in 0..3 {
        let t = model.tensor(&format!("t{no}")).unwrap();
        assert_eq!((t.shard, model.data(t)), (no, &[no as u8; 4][..]));
    }
    let sizes = (0..3).map(|no| shard_path(&folder.path().join("m.gguf"), no, 3));
    let sizes = sizes.map(|p| p.metadata().unwrap().len()).sum::<u64>();
    assert_eq!(model.file_bytes(), sizes);
}

#[test]
fn shards_that_do_not_fit_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("m.gguf");
    let refused = |path: &Path, words: &[&str]| {
        let e = Gguf::open(path).unwrap_err().to_string();
        assert!(
            words.iter().all(|w| e.contains(w)) && !e.contains('\n'),
            "{e}"
        );
    };
    let first = write_shards(&base, |_, _| {});
    refused(
        &shard_path(&base, 1, 3),
        &["split", "split.no 1", "through the first shard"],
    );
    let renamed = folder.path().join("renamed.gguf");
    std::fs::copy(&first, &renamed).unwrap();
    refused(&renamed, &["split", "NAME-00001-of-00003.gguf"]);
    let first = write_shards(&base, |no, w| {
        w.set("split.no", (no / 2 * 2) as u8).unwrap()
    });
    refused(&first, &["00002-of-00003", "split.no 0", "must be 1"]);
    let first = write_shards(&base, |no, w| w.set("split.count", 3 + no as u8).unwrap());
    refused(&first, &["00002-of-00003", "split.count 4", "must be 3"]);
    let first = write_shards(&base, |_, w| w.set("split.tensors.count", 4u8).unwrap());
    refused(&first, &["3 tensors in 3 shards", "must be 4"]);
    let first = write_named_shards(&base, |no| format!("t{}", no % 2), |_, _| {});
    refused(&first, &["00003-of-00003", "tensor \"t0\"", "duplicate"]);
    std::fs::remove_file(shard_path(&base, 2, 3)).unwrap();
    refused(&first, &["split", "shard 3 of 3", "00003-of-00003.gguf"]);
    let bytes = std::fs::read(&first).unwrap();
    let e = Gguf::from_vec("m", bytes).unwrap_err().to_string();
    assert!(
        e.contains("split model: the first of 3 shards, in memory"),
        "{e}"
    );
}

/// The first shard's metadata is the model's: what another says beside or against it is refused.
#[test]
fn shards_that_speak_of_another_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("m.gguf");
    type Change = fn(usize, &mut Writer);
    let refused: [(Change, &str); 5] = [
        (
            |no, w| {
                let arch = if no < 2 { "llama" } else { "qwen2" };
                w.set("general.architecture", arch).unwrap();
            },
            "general.architecture",
        ),
        (
            |no, w| {
                w.set("general.architecture", "llama").unwrap();
                if no == 1 {
                    w.set("llama.rope.scaling.factor", 4.0f32).unwrap();
                }
            },
            "llama.rope.scaling.factor",
        ),
        (
            |no, w| {
                w.set("general.architecture", "llama").unwrap();
                w.set("llama.rope.freq_base", 1e4f32 + no as f32).unwrap();
            },
            "llama.rope.freq_base",
        ),
        (
            |no, w| {
                let tokens: &[&str] = if no == 0 { &["a", "b"] } else { &["a", "c"] };
                w.set_array("tokenizer.ggml.tokens", tokens).unwrap();
            },
            "tokenizer.ggml.tokens",
        ),
        (
            |no, w| {
                w.set("general.architecture", "llama").unwrap();
                w.set_array("llama.x", &[no as u32, 1]).unwrap();
            },
            "llama.x",
        ),
    ];
    for (change, key) in refused {
        let first = write_shards(&base, change);
        let line = Gguf::open(&first).unwrap_err().to_string();
        assert!(line.contains("split model") && line.contains(key), "{line}");
        assert!(line.contains("first shard"), "{line}");
    }
    // The same again, and what describes the file, are no contradiction.
    let first = write_shards(&base, |no, w| {
        w.set("general.architecture", "llama").unwrap();
        w.set("general.name", if no == 0 { "a" } else { "b" })
            .unwrap();
        w.set_array("tokenizer.ggml.tokens", &["a", "b"]).unwrap();
        w.set("llamas.x", no as u32).unwrap();
        w.set("quantize.imatrix.entries_count", no as u32).unwrap();
    });
    assert_eq!(Gguf::open(&first).unwrap().num_shards(), 3);
}
