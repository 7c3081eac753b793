//! Exit codes, the one line of an error, bad usage, settings.

use crate::support::{finish, gannet, has_gpu, model, run};

#[test]
fn help_and_version_go_to_standard_output() {
    let help = run(&["--help"]).ok();
    let commands = [
        "run",
        "inspect",
        "tokenize",
        "detokenize",
        "logits",
        "perplexity",
        "parity",
        "bench",
        "ptx",
        "doctor",
        "synth",
    ];
    for command in commands {
        assert!(
            help.stdout.contains(&format!("  {command} ")),
            "{command} is not in the help"
        );
        assert!(
            run(&[command, "--help"])
                .ok()
                .stdout
                .contains("Usage: gannet")
        );
    }
    assert_eq!(
        run(&["--version"]).ok().stdout,
        concat!("gannet ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn flags_without_effect_are_refused() {
    for args in [
        &["run", "x", "--exact", "--gemv", "f32-l32-w16-r2-b4"][..],
        &[
            "parity",
            "--right",
            "interp",
            "--exact",
            "--gemv",
            "f32-l32-w16-r2-b4",
        ],
        &["tune", "--device", "cuda", "--exact"],
        &["tune", "--device", "cuda", "--gemv-rows", "4"],
    ] {
        run(args).usage();
    }
}

#[test]
fn logits_that_are_no_numbers_are_an_error_that_names_the_operation() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../engine/tests/data/cases/turn2"
    );
    let file = |name: &str| format!("{folder}/{name}");
    let (nan, text, tokens) = (
        file("weights-with-a-nan.gguf"),
        file("text.txt"),
        format!("@{}", file("tokens-32.json")),
    );
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("o.f32").display().to_string();
    for args in [
        &["run", "-q", "Hello", "-n", "8", "--ignore-eos"][..],
        &[
            "run",
            "-q",
            "Hello",
            "-n",
            "8",
            "--ignore-eos",
            "--temp",
            "0.8",
        ],
        &["run", "-q", "Hello", "-n", "8", "--ignore-eos", "--json"],
        &["run", "-q", "Hello", "-n", "8", "--exact"],
        &["perplexity", "-c", "64", "--file", &text],
        &["bench", "-p", "16", "-n", "4", "-r", "1"],
        &["logits", "--tokens", &tokens, "--out", &out],
    ] {
        let args = [args, &["-m", &nan, "--device", "cpu"]].concat();
        let line = run(&args).error().to_owned();
        for part in [
            "not finite",
            "NaN in matmul blk.0.ffn_down",
            "layer 0",
            "position 0",
        ] {
            assert!(line.contains(part), "{args:?}: {line}");
        }
    }
}

#[test]
fn bad_usage_exits_with_2() {
    run(&[]).usage();
    run(&["fly"]).usage();
    run(&["run", "x", "--no-such-flag"]).usage();
    run(&["run", "x", "-n", "many"]).usage();
    run(&["run", "x", "--temp", "-1"]).usage();
    run(&["run", "x", "--top-p", "1.5", "--temp", "1"]).usage();
    run(&["run", "x", "--ctx", "0"]).usage();
    run(&["inspect"]).usage();
    run(&["tokenize"]).usage();
    run(&["tokenize", "--text", "a", "--file", "b"]).usage();
    run(&["logits", "--tokens", "1,b", "--out", "x"]).usage();
    run(&["bench", "-b", "many"]).usage();
    run(&["bench", "-r", "0"]).usage();
    run(&["synth", "--shape", "tiny"]).usage();
    run(&["synth", "--shape", "huge", "-o", "x"]).usage();
}

/// One line, at once, with nothing allocated: sizes that no machine has, and those that overflow.
#[test]
fn sizes_out_of_range_are_one_line_of_bad_usage() {
    let most = usize::MAX.to_string();
    let cpu = ["--device", "cpu"];
    let cases: [(&[&str], &str); 18] = [
        (&["run", "x", "--ctx", "999999999999"], "--ctx"),
        (&["run", "x", "--ctx", &most], "--ctx"),
        (&["perplexity", "--file", "x", "-c", &most], "-c"),
        (&["bench", "-d", "99999999999999"], "-d"),
        (&["bench", "-b", "100000000"], "-b"),
        (&["bench", "-b", "1,1025"], "-b"),
        (&["bench", "-p", &most], "-p"),
        (&["bench", "-p", "16,16777217"], "-p"),
        (&["bench", "-n", &most], "-n"),
        (&["parity", "--right", "cpu", "-n", "99999999999999"], "-n"),
        (&["parity", "--right", "cpu", "-n", "65537"], "-n"),
        (&["parity", "--right", "cpu", "-n", &most], "-n"),
        (
            &["parity", "--right", "cpu", "--batch", "99999999"],
            "--batch",
        ),
        (&["parity", "--right", "cpu", "--batch", "65"], "--batch"),
        (&["parity", "--right", "cpu", "--batch", &most], "--batch"),
        (&["ptx", "-m", "x", "--ctx", "99999999999999999"], "--ctx"),
        (&["ptx", "--ctx", &most], "--ctx"),
        (
            &["run", "x", "--ctx", "99999999999", "--sampler-on", "cpu"],
            "--ctx",
        ),
    ];
    for (args, flag) in cases {
        let takes_device = !["parity", "ptx"].contains(&args[0]);
        let device = match (takes_device, args.contains(&"--sampler-on")) {
            (false, _) => &[][..],
            (true, true) => &["--device", "interp"],
            (true, false) => &cpu,
        };
        let done = run(&[args, device].concat());
        let line = done.one_line_of_usage();
        assert!(line.starts_with(&format!("{flag} ")), "{args:?}: {line}");
        assert!(line.contains("too large; at most"), "{args:?}: {line}");
    }
}

/// Within the range, but not within memory.
#[test]
fn a_cache_that_does_not_fit_is_one_line() {
    for device in ["cpu", "interp"] {
        let args = ["run", "--prompts", "Cargo.toml", "--slots", "1024"];
        let done = run(&[&args[..], &["--ctx", "16777216", "--device", device]].concat());
        assert!(done.error().contains("lower --ctx"), "{}", done.error());
    }
    let args = ["-b", "1024", "-d", "16000000", "-n", "1", "--device", "cpu"];
    let done = run(&[&["bench"], &args[..]].concat());
    assert!(done.error().contains("lower --ctx"), "{}", done.error());
}

/// A flag that would be ignored is bad usage, said in one line.
#[test]
fn flags_that_mean_nothing_are_refused() {
    let gemv = ["--gemv", "f32-l32-w16-r2-b4"];
    let flags: [(&[&str], bool); 6] = [
        (&["--executor", "graph"], false),
        (&gemv, true),
        (&["--gemv-rows", "4"], true),
        (&["--no-gate"], false),
        (&["--kv-type", "int8"], true),
        (&["--sampler-on", "cpu"], true),
    ];
    for (flag, interpreted) in flags {
        for device in ["cpu", "interp"] {
            let done = run(&[&["run", "fn", "-n", "1", "--device", device], flag].concat());
            if device == "interp" && interpreted {
                done.ok();
                continue;
            }
            let line = done.one_line_of_usage();
            assert!(line.starts_with(flag[0]) && line.contains(device), "{line}");
        }
        // A variable may be meant for other devices.
        let args = ["run", "fn", "-n", "1", "--device", "cpu"];
        finish(gannet(&args).env("GANNET_EXECUTOR", "graph"), &args).ok();
    }
    let parity: [&[&str]; 4] = [
        &["--kv-type", "int8"],
        &["--gpu", "1"],
        &["--alone", "--left", "cpu"],
        &["--alone", "--left", "interp", "--kv-type", "int8"],
    ];
    for flags in parity {
        let done = run(&[&["parity", "--right", "cpu"], flags].concat());
        assert!(done.one_line_of_usage().contains("means nothing"));
    }
    for flag in [
        "--executor",
        "--sampler-on",
        "--kv-type",
        "--gemv",
        "--no-gate",
    ] {
        run(&["tune", flag, "f16"]).usage();
    }
}

#[test]
fn a_named_executor_is_not_replaced_by_the_cpu() {
    if has_gpu() {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    for args in [
        &["run", "x", "-n", "1", "--executor", "graph"][..],
        &["bench", "--executor", "eager", "--device", "auto"],
    ] {
        let done = run(args);
        assert!(done.error().contains("needs a GPU"), "{}", done.error());
        assert_eq!(done.stdout, "");
    }
}

#[test]
fn a_value_that_does_not_exist_is_answered_with_those_that_do() {
    assert!(
        run(&["run", "x", "--device", "abacus"])
            .usage()
            .contains("auto, cpu, cuda")
    );
    let usage = run(&["run", "x", "--executor", "persistent"]);
    assert!(usage.usage().contains("eager, graph or capture"));
    let usage = run(&["parity", "--right", "abacus"]);
    assert!(usage.usage().contains("cuda-graph or cuda-capture"));
    assert!(run(&["ptx", "--target", "sm_1"]).usage().contains("sm_90a"));
    assert!(
        run(&["synth", "--shape", "x", "-o", "x"])
            .usage()
            .contains("qwen2.5-1.5b")
    );
}

#[test]
fn failed_work_is_one_line() {
    let line = run(&["run", "x", "-m", "/no/such/model.gguf"]);
    assert!(
        line.error().contains("/no/such/model.gguf"),
        "{}",
        line.error()
    );
    let folder = env!("CARGO_MANIFEST_DIR");
    assert!(run(&["run", "x", "-m", folder]).error().contains(folder));
    assert!(
        run(&["inspect", "/no/such/model.gguf"])
            .error()
            .contains("/no/such")
    );
    assert!(
        run(&["tokenize", "--file", "/no/such.txt"])
            .error()
            .contains("/no/such.txt")
    );
    assert!(
        run(&["logits", "--tokens", "@/no/such", "--out", "x"])
            .error()
            .contains("/no/such")
    );
    run(&[
        "logits",
        "--tokens",
        "1",
        "--out",
        "/no/such/folder/x",
        "--device",
        "cpu",
    ])
    .error();
    assert!(
        run(&["ptx", "no_such_kernel"])
            .error()
            .contains("no_such_kernel")
    );
    run(&["synth", "--shape", "tiny", "-o", "/no/such/folder/x.gguf"]).error();
}

/// What a person reads, word for word: what, where, what to do.
#[test]
fn the_words_of_errors() {
    let long = "word ".repeat(300);
    let commands: [&[&str]; 7] = [
        &["run", "x", "-m", "/no/such.gguf"],
        &["run", "x", "-m", "Cargo.toml"],
        &["run", &long, "--ctx", "100", "--device", "cpu"],
        &["inspect", "/no/such.safetensors"],
        &["logits", "--tokens", "@/no/such.json", "--out", "x"],
        &["ptx", "no_such_kernel", "--target", "sm_80"],
        &["bench", "-p", "0", "-n", "0", "--device", "cpu"],
    ];
    let lines = commands.map(|args| run(args).error().to_owned()).join("\n");
    insta::assert_snapshot!(lines, @r#"
    /no/such.gguf: cannot open the file: No such file or directory (os error 2)
    Cargo.toml: the magic is "[pac", must be "GGUF"
    302 tokens do not fit the context of 100; shorten the prompt or raise --ctx
    /no/such.safetensors: cannot open: No such file or directory (os error 2)
    /no/such.json: cannot read: No such file or directory (os error 2)
    no kernel "no_such_kernel" for sm_80; `gannet ptx` lists them
    nothing to measure: give prompt lengths, or tokens to generate
    "#);
}

#[test]
fn a_prompt_that_does_not_fit_names_both_counts() {
    let long = "word ".repeat(300);
    let done = run(&["run", &long, "--ctx", "100", "--device", "cpu"]);
    assert!(done.error().contains("context of 100"), "{}", done.error());
    assert_eq!(done.stdout, "");
}

#[test]
fn a_token_that_the_vocabulary_lacks_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let out = file.path().to_str().unwrap();
    let done = run(&[
        "logits", "--tokens", "1,99999", "--out", out, "--device", "cpu",
    ]);
    assert!(done.error().contains("99999"), "{}", done.error());
}

#[test]
fn cuda_without_a_driver_fails_in_one_line() {
    if has_gpu() {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    for device in ["cuda", "cuda:1"] {
        let done = run(&["run", "x", "-n", "1", "--device", device]);
        assert!(done.error().contains("driver"), "{}", done.error());
        assert_eq!(done.stdout, "", "--device cuda never computes on the CPU");
    }
    run(&["parity", "--left", "cpu", "--right", "cuda-eager"]).error();
    run(&["bench", "--device", "cuda"]).error();
}

#[test]
fn settings_come_from_the_environment_and_flags_win() {
    let with = |variable: &str, value: &str, args: &[&str]| {
        finish(gannet(args).env(variable, value), args)
    };
    let done = with("GANNET_DEVICE", "toaster", &["run", "x", "-n", "1"]);
    assert!(
        done.error().contains("GANNET_DEVICE=\"toaster\""),
        "{}",
        done.error()
    );
    assert!(done.error().ends_with("or interp"), "{}", done.error());
    // Whoever names the device hears of it, too; and it is not shown as what is in force.
    let named = ["run", "x", "-n", "1", "--device", "cpu"];
    with("GANNET_DEVICE", "banana", &named).error();
    let doctor = with("GANNET_DEVICE", "banana", &["doctor"]).ok().stdout;
    assert!(
        doctor.contains("GANNET_DEVICE=\"banana\" is not valid"),
        "{doctor}"
    );
    let shown = with("GANNET_DEVICE", "cuda", &["doctor", "--json"]).ok();
    assert_eq!(shown.json()["configuration"]["GANNET_DEVICE"], "cuda:0");
    let done = with("GANNET_CUBIN_CACHE", "maybe", &["run", "x", "-n", "1"]);
    assert!(
        done.error().contains("GANNET_CUBIN_CACHE"),
        "{}",
        done.error()
    );
    with(
        "GANNET_DEVICE",
        "cuda:9",
        &["run", "x", "-n", "1", "--device", "cpu"],
    )
    .ok();
    if !has_gpu() {
        with("GANNET_DEVICE", "cuda", &["run", "x", "-n", "1"]).error();
    }
}

#[test]
fn the_model_flag_is_read_from_a_file() {
    let done = run(&[
        "run",
        "fn main",
        "-m",
        &model(),
        "-n",
        "2",
        "--device",
        "cpu",
    ])
    .ok();
    assert!(!done.stdout.is_empty());
}
