//! Files that commands read: what never ends, what is cut short, what does not fit, what is odd by name.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use gannet_gguf::{Gguf, TensorType, Writer};

use crate::support::{folder_with_a_model, gannet, model, run, split};

/// Cuts a file while a command that has written something waits to write more, lets it go on, and
/// gives the last line that it leaves.
fn cut_while_it_runs(mut command: Command, file: &Path) -> String {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Once something is out, weights are being read from the map.
    let mut first = [0; 1];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    let cut = fs::File::options().write(true).open(file).unwrap();
    cut.set_len(4096).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    stderr.lines().last().unwrap_or_default().to_owned()
}

/// A bus error becomes a line that names the file.
#[test]
fn a_model_that_is_cut_short_while_it_runs_ends_with_a_line() {
    let check = |command: Command, file: &Path| {
        let line = cut_while_it_runs(command, file);
        let name = format!("error: {}: ", file.display());
        assert!(
            line.starts_with(&name) && line.contains("cut short"),
            "{line}"
        );
    };
    let run = |file: &str| {
        let args = ["run", "x", "-m", file, "-n", "90000", "--ctx", "100000"];
        gannet(&[&args[..], &["--ignore-eos", "--device", "cpu"]].concat())
    };
    let (_folder, file) = folder_with_a_model();
    check(run(&file), file.as_ref());
    let (_folder, file) = folder_with_a_model();
    let ids = vec!["46"; 1000].join(",");
    let args = [
        "logits", "-m", &file, "--tokens", &ids, "--out", "-", "--device", "cpu",
    ];
    check(gannet(&args), file.as_ref());
    let (folder, file) = folder_with_a_model();
    let [first, second] = split(&file, folder.path());
    check(run(first.to_str().unwrap()), &second);
    let [first, _] = split(&file, folder.path());
    let args = [
        "perplexity",
        "--file",
        "/dev/stdin",
        "-c",
        "64",
        "-m",
        first.to_str().unwrap(),
    ];
    // Whole again, it runs.
    let text = folder.path().join("text");
    fs::write(&text, "fn main() {} ".repeat(40)).unwrap();
    let mut whole = gannet(&args);
    whole
        .args(["--device", "cpu"])
        .stdin(fs::File::open(&text).unwrap());
    assert!(whole.output().unwrap().status.success());
}

#[test]
fn what_never_ends_is_not_read_for_ever() {
    let commands: [&[&str]; 4] = [
        &["tokenize", "--file", "/dev/zero"],
        &["perplexity", "--file", "/dev/zero", "--device", "cpu"],
        &["run", "--prompts", "/dev/zero", "--device", "cpu"],
        &["detokenize", "--file", "/dev/zero"],
    ];
    for command in commands {
        let done = run(command);
        assert!(
            done.error().starts_with("/dev/zero: more than 256 MiB"),
            "{}",
            done.error()
        );
    }
    let done = run(&["logits", "--tokens", "@/dev/zero", "--out", "/dev/null"]);
    assert!(
        done.error().starts_with("/dev/zero: more than 256 MiB"),
        "{}",
        done.error()
    );
    let zero = || Stdio::from(fs::File::open("/dev/zero").unwrap());
    for args in [&["run", "-"][..], &["detokenize", "--file", "-"]] {
        let output = gannet(args).stdin(zero()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("more than 256 MiB"), "{stderr}");
        assert_eq!(output.status.code(), Some(1));
    }
    // A file that is too long is not read at all.
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 40).unwrap();
    let done = run(&["tokenize", "--file", file.path().to_str().unwrap()]);
    assert!(
        done.error().contains("more than 256 MiB"),
        "{}",
        done.error()
    );
}

/// Memory of this machine, in GiB.
fn memory_gib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|l| l.starts_with("MemTotal:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib >> 20
}

/// A small file whose heads are so wide that a step takes more memory than there is.
#[test]
fn a_model_whose_steps_do_not_fit_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wide.gguf");
    let (heads, width) = (memory_gib() + 1, 1u64 << 20);
    let vocabulary = Gguf::open(model()).unwrap();
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama").unwrap();
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 1024),
        ("embedding_length", 1),
        ("feed_forward_length", 1),
        ("attention.head_count", heads as u32),
        ("attention.head_count_kv", 1),
        ("attention.key_length", width as u32),
        ("attention.value_length", width as u32),
    ] {
        writer.set(&format!("llama.{key}"), value).unwrap();
    }
    writer
        .set("llama.attention.layer_norm_rms_epsilon", 1e-5f32)
        .unwrap();
    let keys = vocabulary.metadata().iter();
    for (key, value) in keys.filter(|(key, _)| key.starts_with("tokenizer.")) {
        writer.set(key, value).unwrap();
    }
    let tensors: [(&str, &[u64]); 11] = [
        ("token_embd.weight", &[1, 8192]),
        ("output_norm.weight", &[1]),
        ("blk.0.attn_norm.weight", &[1]),
        ("blk.0.ffn_norm.weight", &[1]),
        ("blk.0.attn_q.weight", &[1, heads * width]),
        ("blk.0.attn_k.weight", &[1, width]),
        ("blk.0.attn_v.weight", &[1, width]),
        ("blk.0.attn_output.weight", &[heads * width, 1]),
        ("blk.0.ffn_gate.weight", &[1, 1]),
        ("blk.0.ffn_up.weight", &[1, 1]),
        ("blk.0.ffn_down.weight", &[1, 1]),
    ];
    let mut bytes = 0;
    for (name, dims) in tensors {
        bytes += writer
            .tensor(name, dims, TensorType::F16)
            .unwrap()
            .next_multiple_of(32);
    }
    // Zeros that the disk need not hold.
    let mut header = Vec::new();
    let data = writer.start(&mut header).unwrap();
    drop(data);
    fs::write(&file, &header).unwrap();
    let end = (header.len() as u64).next_multiple_of(32) + bytes;
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(end)
        .unwrap();

    let file = file.to_str().unwrap();
    let text = folder.path().join("text");
    fs::write(&text, "word ".repeat(2000)).unwrap();
    let text = text.to_str().unwrap();
    let commands: [&[&str]; 3] = [
        &["perplexity", "-m", file, "--file", text, "-c", "512"],
        &["run", "x", "-m", file, "-n", "1", "--ctx", "256"],
        &["bench", "-m", file, "-p", "256", "-n", "1"],
    ];
    for command in commands {
        let done = run(&[command, &["--device", "cpu"]].concat());
        let line = done.error();
        assert!(
            line.contains("MiB are free") && line.contains("steps of 256 rows"),
            "{line}"
        );
    }
}

#[test]
fn control_characters_of_names_are_not_printed() {
    let (folder, file) = folder_with_a_model();
    let odd = folder.path().join("a\u{1b}[2J\nb\u{202e}.gguf");
    fs::rename(&file, &odd).unwrap();
    let odd = odd.to_str().unwrap();
    let missing = format!("{odd}x");
    let is_plain = |text: &str| !text.contains(['\u{1b}', '\u{202e}', '\r']);
    let done = run(&["inspect", odd]).ok();
    assert!(is_plain(&done.stdout) && done.stdout.contains(r"a\u{1b}[2J\nb\u{202e}.gguf"));
    let commands: [&[&str]; 6] = [
        &["inspect", &missing],
        &["run", "x", "-m", &missing],
        &["tokenize", "--text", "x", "-m", &missing],
        &["tokenize", "--file", &missing],
        &[
            "synth",
            "--shape",
            "tiny",
            "--vocab-from",
            &missing,
            "-o",
            "/dev/null",
        ],
        &["logits", "-m", odd, "--tokens", "1", "--out", odd],
    ];
    for command in commands {
        let done = run(command);
        let line = done.error();
        assert!(
            is_plain(line) && line.contains(r"a\u{1b}[2J\nb\u{202e}.gguf"),
            "{line}"
        );
    }
}

/// Each path stands once in a line.
#[test]
fn errors_name_the_file_once() {
    let (_folder, file) = folder_with_a_model();
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let vocabulary = format!(
        "{}/../gguf/tests/data/malformed",
        env!("CARGO_MANIFEST_DIR")
    );
    let tokens = format!("{vocabulary}/v02_tokens_i32.gguf");
    let files = [file, tokens, "/no/such.gguf".to_owned()];
    for file in files {
        for command in [
            &["inspect", &file][..],
            &["tokenize", "--text", "x", "-m", &file],
        ] {
            let done = run(command);
            let all = format!("{}{}", done.stdout, done.stderr);
            assert_eq!(all.matches(file.as_str()).count(), 1, "{command:?}: {all}");
        }
    }
}
