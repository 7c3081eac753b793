//! `gannet quantize` and `gannet imatrix`: what is written, what is refused, what is left behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gannet_gguf::{Gguf, TensorType, Writer};

use crate::support::{folder_with_a_model, gannet, names, run, split};

/// A folder with a made-up F16 model in it.
fn folder_with_f16() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf").to_str().unwrap().to_owned();
    run(&["synth", "--shape", "tiny", "--type", "f16", "-o", &file]).ok();
    (folder, file)
}

fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

fn type_of(file: &str, tensor: &str) -> TensorType {
    Gguf::open(file).unwrap().tensor(tensor).unwrap().ty
}

#[test]
fn a_file_is_quantised_and_says_so() {
    let (folder, file) = folder_with_f16();
    let out = path(&folder, "q.gguf");
    let done = run(&["quantize", &file, &out, "--type", "q4_K_m", "--json"]).ok();
    let said = done.json();
    assert_eq!(said["type"], "Q4_K_M");
    assert_eq!(said["requantized"], 0);
    assert!(said["bytes"].as_u64().unwrap() * 3 < said["bytes_before"].as_u64().unwrap());
    assert_eq!(type_of(&out, "blk.1.attn_q.weight"), TensorType::Q4_K);
    let gguf = Gguf::open(&out).unwrap();
    assert_eq!(gguf.metadata().u32("general.file_type").unwrap(), 15);
    assert_eq!(names(folder.path()), ["m.gguf", "q.gguf"]);
    // It runs, and a second time it is told what that costs.
    run(&["run", "-m", &out, "-p", "a", "-n", "2", "--device", "cpu"]).ok();
    let again = path(&folder, "again.gguf");
    let done = run(&["quantize", &out, &again, "--type", "Q8_0"]).ok();
    assert!(
        done.stderr.contains("lost a second time"),
        "{}",
        done.stderr
    );
    // The other tensors are copied: a file of the same type comes out as it went in.
    let same = path(&folder, "same.gguf");
    let done = run(&["quantize", &again, &same, "--type", "q8_0"]).ok();
    assert!(!done.stderr.contains("warning"), "{}", done.stderr);
    assert_eq!(fs::read(&again).unwrap(), fs::read(&same).unwrap());
}

#[test]
fn shards_become_one_file() {
    let (folder, file) = folder_with_f16();
    let [first, second] = split(&file, folder.path());
    let (one, whole) = (path(&folder, "one.gguf"), path(&folder, "whole.gguf"));
    run(&["quantize", first.to_str().unwrap(), &one, "--type", "q6_k"]).ok();
    run(&["quantize", &file, &whole, "--type", "q6_k"]).ok();
    let (one, whole) = (Gguf::open(one).unwrap(), Gguf::open(whole).unwrap());
    assert_eq!(one.num_shards(), 1);
    assert!(one.metadata().get("split.count").is_none());
    assert_eq!(one.metadata().len(), whole.metadata().len());
    for t in whole.tensors() {
        let same = one.tensor(&t.name).unwrap();
        assert_eq!(
            (same.ty, one.data(same)),
            (t.ty, whole.data(t)),
            "{}",
            t.name
        );
    }
    // A shard is an input, too.
    for shard in [&first, &second] {
        let (first, shard) = (first.to_str().unwrap(), shard.to_str().unwrap());
        let line = run(&["quantize", first, shard, "--type", "q6_k", "--force"]);
        assert!(line.error().contains("write to another file"));
    }
}

#[test]
fn nothing_is_overwritten_and_no_input_is_an_output() {
    let (folder, file) = folder_with_a_model();
    let before = fs::read(&file).unwrap();
    let out = path(&folder, "kept");
    fs::write(&out, "kept").unwrap();
    let line = run(&["quantize", &file, &out, "--type", "q8_0"]);
    assert!(line.error().contains("--force"), "{}", line.error());
    assert_eq!(fs::read_to_string(&out).unwrap(), "kept");
    std::os::unix::fs::symlink(&file, path(&folder, "link")).unwrap();
    for out in [
        file.clone(),
        path(&folder, "link"),
        path(&folder, "./m.gguf"),
    ] {
        let line = run(&["quantize", &file, &out, "--type", "q8_0", "--force"]);
        assert!(
            line.error().contains("write to another file"),
            "{}",
            line.error()
        );
    }
    assert_eq!(fs::read(&file).unwrap(), before);
    run(&["quantize", &file, &out, "--type", "q8_0", "--force"]).ok();
    assert_eq!(type_of(&out, "blk.0.attn_q.weight"), TensorType::Q8_0);
    assert_eq!(names(folder.path()), ["kept", "link", "m.gguf"]);
}

#[test]
fn what_makes_no_sense_is_answered() {
    let (folder, file) = folder_with_a_model();
    let out = path(&folder, "out.gguf");
    for name in ["q4_k", "Q9_0", ""] {
        let done = run(&["quantize", &file, &out, "--type", name]);
        for known in ["Q4_K_M", "IQ4_XS", "BF16"] {
            assert!(done.usage().contains(known), "{name}: {}", done.stderr);
        }
    }
    run(&["quantize", &file, &out]).usage();
    run(&["quantize", &file, "-", "--type", "q8_0", "--json"]).usage();
    run(&["quantize", "-", &out, "--type", "q8_0"]).usage();
    let done = run(&["quantize", "/no/such.gguf", &out, "--type", "q8_0"]);
    assert!(done.error().starts_with("/no/such.gguf: cannot open"));
    let text = path(&folder, "short.txt");
    fs::write(&text, "too short").unwrap();
    let short = ["imatrix", "-m", &file, "--file", &text, "-o", &out];
    assert!(run(&short).error().contains("no window of 512"));
    assert!(
        run(&["quantise", "a", "b"])
            .one_line_of_usage()
            .contains("gannet quantize")
    );
    assert_eq!(names(folder.path()), ["m.gguf", "short.txt"]);
}

#[test]
fn an_importance_matrix_is_made_and_used() {
    let (folder, file) = folder_with_f16();
    let (text, matrix) = (path(&folder, "t.txt"), path(&folder, "i.gguf"));
    fs::write(&text, "Ownership moves; borrows end. ".repeat(40)).unwrap();
    let args = [
        "imatrix", "-m", &file, "--file", &text, "-o", &matrix, "-c", "64", "--json",
    ];
    let said = run(&args).ok().json();
    assert!(said["chunks"].as_u64().unwrap() >= 2, "{said}");
    assert!(run(&args).error().contains("--force"));
    let (plain, weighted) = (path(&folder, "p.gguf"), path(&folder, "w.gguf"));
    run(&["quantize", &file, &plain, "--type", "q4_k_s"]).ok();
    let args = [
        "quantize",
        &file,
        &weighted,
        "--type",
        "q4_k_s",
        "--imatrix",
        &matrix,
    ];
    run(&args).ok();
    let (plain, weighted) = (Gguf::open(plain).unwrap(), Gguf::open(weighted).unwrap());
    let name = "blk.3.attn_q.weight";
    let data = |gguf: &Gguf| gguf.data(gguf.tensor(name).unwrap()).to_vec();
    assert_ne!(data(&plain), data(&weighted));
    // What is read is not written.
    let into = [
        "quantize",
        &file,
        &matrix,
        "--type",
        "q4_0",
        "--imatrix",
        &matrix,
        "--force",
    ];
    assert!(run(&into).error().contains("write to another file"));
}

/// Writes an importance matrix with one bad thing in it.
fn matrix(file: &Path, tensors: &[(&str, &[u64], TensorType, Vec<u8>)]) {
    let mut writer = Writer::new();
    writer.set("general.type", "imatrix").unwrap();
    for (name, dims, ty, _) in tensors {
        writer.tensor(name, dims, *ty).unwrap();
    }
    let mut data = writer.start(fs::File::create(file).unwrap()).unwrap();
    for (name, _, _, bytes) in tensors {
        data.tensor(name, bytes).unwrap();
    }
    data.finish().unwrap();
}

#[test]
fn hostile_importance_matrices_are_errors_of_one_line() {
    let (folder, model) = folder_with_f16();
    let (out, bad) = (path(&folder, "out.gguf"), folder.path().join("bad"));
    let sums = |value: f32, len: usize| value.to_le_bytes().repeat(len);
    let refused = |word: &str| {
        let bad = bad.to_str().unwrap();
        let done = run(&[
            "quantize",
            &model,
            &out,
            "--type",
            "q4_k_m",
            "--imatrix",
            bad,
        ]);
        assert!(done.error().contains(word), "{word}: {}", done.error());
        assert!(done.error().starts_with(bad), "{}", done.error());
    };
    let (name, counts) = ("blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts");
    let f32s = TensorType::F32;
    let one = (counts, &[1u64, 1][..], f32s, sums(1.0, 1));
    matrix(
        &bad,
        &[(name, &[100, 1], f32s, sums(1.0, 100)), one.clone()],
    );
    refused("has 100 values");
    matrix(
        &bad,
        &[(name, &[256, 1], f32s, sums(f32::NAN, 256)), one.clone()],
    );
    refused("NaN");
    matrix(
        &bad,
        &[(name, &[256, 1], f32s, sums(-1.0, 256)), one.clone()],
    );
    refused("-1");
    matrix(
        &bad,
        &[
            (name, &[256, 1], f32s, sums(f32::INFINITY, 256)),
            one.clone(),
        ],
    );
    refused("inf");
    matrix(&bad, &[(name, &[256, 1], f32s, sums(1.0, 256))]);
    refused("has no blk.0.attn_q.weight.counts");
    matrix(
        &bad,
        &[
            (name, &[256, 1], TensorType::F16, vec![0; 512]),
            one.clone(),
        ],
    );
    refused("is F16");
    let three = (counts, &[1u64, 3][..], f32s, sums(1.0, 3));
    matrix(&bad, &[(name, &[256, 1], f32s, sums(1.0, 256)), three]);
    refused("no multiple of its 3 counts");
    matrix(&bad, &[(name, &[256, 1], f32s, sums(1.0, 256)), one]);
    refused("no importance of blk.");
    fs::copy(&model, &bad).unwrap();
    refused("not an importance matrix");
    // The older form: a count, then names and values; cut short, senseless, wrong, negative.
    let entry = |name: &str, calls: i32, len: i32, values: Vec<u8>| {
        let head = [1, name.len() as i32].map(i32::to_le_bytes).concat();
        let sizes = [calls, len].map(i32::to_le_bytes).concat();
        [head, name.as_bytes().to_vec(), sizes, values].concat()
    };
    let name = "blk.0.attn_q.weight";
    for (bytes, word) in [
        (b"not a matrix at all".to_vec(), "neither GGUF nor"),
        (vec![], "neither GGUF nor"),
        (i32::MAX.to_le_bytes().to_vec(), "neither GGUF nor"),
        (entry(name, 1, i32::MAX, vec![]), "cut short"),
        (entry(name, 1, 256, sums(1.0, 255)), "cut short"),
        (entry(name, 2, 256, sums(f32::NAN, 256)), "NaN"),
        (entry(name, -1, 256, sums(1.0, 256)), "cut short"),
        (entry(name, 1, 7, sums(1.0, 7)), "has 7 values"),
        (entry(name, 1, 256, sums(1.0, 256)), "no importance of blk."),
    ] {
        fs::write(&bad, bytes).unwrap();
        refused(word);
    }
    assert_eq!(names(folder.path()), ["bad", "m.gguf"]);
}

#[test]
fn an_interruption_leaves_no_part() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (path(&folder, "m.gguf"), path(&folder, "q.gguf"));
    let shape = ["--shape", "llama3.2-1b", "--type", "q8_0"];
    run(&[&["synth", "-o", &model][..], &shape].concat()).ok();
    let args = ["quantize", &model, &out, "--type", "iq4_xs", "-t", "1"];
    let mut child = gannet(&args).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while names(folder.path()).len() < 2 {
        assert!(start.elapsed() < Duration::from_secs(60), "waited too long");
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", "INT", &id])
            .status()
            .unwrap()
            .success()
    );
    assert!(!child.wait().unwrap().success());
    assert_eq!(names(folder.path()), ["m.gguf"]);
}
