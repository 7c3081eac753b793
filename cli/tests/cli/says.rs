//! What a model's file says is used or refused, and said to whoever runs it.

use gannet_gguf::{Gguf, Value, Writer};

use crate::support::{model, run, shared};

/// The embedded model with other keys: those of `keys` are set, where a value is given.
fn with_keys(keys: &[(&str, Value<'_>)]) -> tempfile::NamedTempFile {
    let gguf = Gguf::open(model()).unwrap();
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    for (key, value) in keys {
        writer.set(key, *value).unwrap();
    }
    for t in gguf.tensors() {
        writer.tensor(&t.name, &t.dims, t.ty).unwrap();
    }
    let mut data = writer.start(Vec::new()).unwrap();
    for t in gguf.tensors() {
        data.tensor(&t.name, gguf.data(t)).unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), data.finish().unwrap()).unwrap();
    file
}

#[test]
fn keys_that_nothing_uses_are_refused_by_every_command_that_opens_a_model() {
    let file = with_keys(&[("llama.logit_scale", Value::F32(0.5))]);
    let file = file.path().to_str().unwrap();
    let commands: [&[&str]; 7] = [
        &["run", "fn", "-m", file, "-n", "1", "--device", "cpu"],
        &[
            "logits",
            "-m",
            file,
            "--tokens",
            "1",
            "--out",
            "/dev/null",
            "--device",
            "cpu",
        ],
        &[
            "perplexity",
            "-m",
            file,
            "--file",
            "Cargo.toml",
            "-c",
            "64",
            "--device",
            "cpu",
        ],
        &[
            "bench", "-m", file, "-p", "8", "-n", "1", "-r", "1", "--device", "cpu",
        ],
        &[
            "parity", "-m", file, "--right", "cpu", "-n", "1", "--tokens", "1,2",
        ],
        &["ptx", "-m", file, "--steps"],
        &["inspect", "-m", file],
    ];
    for command in commands {
        let refused = run(command);
        let line = format!("{}{}", refused.stdout, refused.stderr);
        assert!(
            line.contains("key llama.logit_scale (f32 0.5)"),
            "{command:?}: {line}"
        );
        assert!(line.contains("--ignore-unknown"), "{line}");
        if command[0] != "inspect" {
            refused.error();
        }
        let ran = run(&[command, &["--ignore-unknown"]].concat()).ok();
        let warned =
            (ran.stderr.lines()).any(|l| l.contains("warning") && l.contains("llama.logit_scale"));
        assert!(warned, "{command:?}: {}", ran.stderr);
    }
    let vocabulary = ["tokenize", "-m", file, "--text", "x"];
    run(&vocabulary).ok();
    run(&[&vocabulary[..], &["--ignore-unknown"]].concat()).usage();
}

#[test]
fn inspect_takes_its_file_either_way() {
    let named = run(&["inspect", &model()]).ok();
    assert_eq!(run(&["inspect", "-m", &model()]).ok().stdout, named.stdout);
    assert_eq!(
        run(&["inspect", "--model", &model()]).ok().stdout,
        named.stdout
    );
    run(&["inspect", &model(), "-m", &model()]).usage();
}

#[test]
fn tensors_that_no_plan_reads_are_named() {
    let Some(file) = shared("cases/turn2/unread-tensors-qk-norm.gguf") else {
        return;
    };
    let file = file.to_str().unwrap();
    let line = run(&["run", "Hello", "-m", file, "-n", "4", "--device", "cpu"]);
    for name in ["blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"] {
        assert!(line.error().contains(name), "{}", line.error());
    }
    let seen = run(&["inspect", file]).ok();
    assert!(
        seen.stdout
            .contains("runs: no: not used by qwen2 models here: tensor blk.0.attn_q_norm")
    );
}

/// Positions that the model was not trained for are told, whatever asks for them.
#[test]
fn a_context_beyond_the_trained_one_is_told() {
    let text = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(text.path(), "Ownership is a set of rules. ".repeat(400)).unwrap();
    let text = text.path().to_str().unwrap();
    let prompts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(prompts.path(), "fn\nlet\n").unwrap();
    let prompts = prompts.path().to_str().unwrap();
    let ids = vec!["46"; 1025].join(",");
    let told = [
        &["run", "x", "-n", "2", "--ctx", "4000"][..],
        &["run", "x", "-n", "2", "--ctx", "1025", "--json"],
        &["run", "--prompts", prompts, "-n", "2", "--ctx", "2000"],
        &["perplexity", "--file", text, "-c", "2048"],
        &[
            "logits",
            "--tokens",
            &ids,
            "--last",
            "1",
            "--out",
            "/dev/null",
        ],
        &["bench", "-p", "1100", "-n", "1", "-r", "1"],
    ];
    for command in told {
        let done = run(&[command, &["--device", "cpu"]].concat()).ok();
        let notices = done.stderr.matches("trained for 1024 positions").count();
        assert_eq!(notices, 1, "{command:?}: {}", done.stderr);
    }
    let ids = vec!["46"; 1024].join(",");
    let not_told = [
        &["run", "x", "-n", "2"][..],
        &["run", "x", "-n", "2", "--ctx", "1024"],
        &["perplexity", "--file", text, "-c", "1024"],
        &[
            "logits",
            "--tokens",
            &ids,
            "--last",
            "1",
            "--out",
            "/dev/null",
        ],
        &["bench", "-p", "16", "-n", "1", "-r", "1"],
    ];
    for command in not_told {
        let done = run(&[command, &["--device", "cpu"]].concat()).ok();
        assert!(
            !done.stderr.contains("trained for"),
            "{command:?}: {}",
            done.stderr
        );
    }
    // What the file says is the trained length, not what is usual.
    let file = with_keys(&[("llama.context_length", Value::U32(100))]);
    let done = run(&[
        "run",
        "x",
        "-m",
        file.path().to_str().unwrap(),
        "-n",
        "2",
        "--ctx",
        "101",
        "--device",
        "cpu",
    ]);
    assert!(done.ok().stderr.contains("trained for 100 positions"));
}
