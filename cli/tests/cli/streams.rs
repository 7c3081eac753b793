//! What goes where while a command runs: figures, quiet, threads, an interruption.

use std::process::{Command, Stdio};

use crate::support::{finish, gannet, run};

/// Figures begin a line of their own, also where both streams are one, and the text is not touched.
#[test]
fn figures_do_not_run_into_the_text() {
    let shell = r#""$0" run "fn main" -n 7 --device cpu 2>&1"#;
    let both = Command::new("sh")
        .args(["-c", shell, env!("CARGO_BIN_EXE_gannet")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let both = String::from_utf8(both.stdout).unwrap();
    let alone = run(&["run", "fn main", "-n", "7", "--device", "cpu"]).ok();
    assert!(!alone.stdout.ends_with('\n'), "{:?}", alone.stdout);
    let expected = format!("{}\n[prompt 3 tokens, ", alone.stdout);
    assert!(both.contains(&expected), "{both}");
    // Nothing to end where nothing was printed.
    let none = run(&["run", "fn main", "-n", "0", "--device", "cpu"]).ok();
    assert_eq!(none.stderr.lines().count(), 2, "{}", none.stderr);
}

#[test]
fn quiet_leaves_results_and_errors() {
    let loud = run(&["run", "fn main", "-n", "4"]).ok();
    for args in [
        &["run", "fn main", "-n", "4", "-q"][..],
        &["-q", "run", "fn main", "-n", "4"],
    ] {
        let quiet = run(args).ok();
        assert_eq!(
            (quiet.stdout.as_str(), quiet.stderr.as_str()),
            (loud.stdout.as_str(), "")
        );
    }
    run(&["run", "x", "-m", "/no/such.gguf", "-q"]).error();
    let told = run(&["run", "fn main", "-n", "2", "--device", "cpu", "-v"]).ok();
    assert!(told.stderr.contains("first token"), "{}", told.stderr);
}

#[test]
fn threads_are_as_many_as_asked_for_or_an_error() {
    let args = ["run", "fn main", "-n", "4", "--device", "cpu", "--json"];
    let tokens = |threads: &[&str]| {
        let done = run(&[&args[..], threads].concat()).ok();
        done.json()["tokens"].clone()
    };
    assert_eq!(tokens(&["-t", "1"]), tokens(&["--threads", "3"]));
    for wrong in ["0", "1025", "many"] {
        run(&[&args[..], &["-t", wrong]].concat()).usage();
    }
    for value in ["100000", "many", "-1"] {
        for args in [
            &args[..],
            &["inspect", "Cargo.toml"],
            &["tokenize", "--text", "x"],
        ] {
            let done = finish(gannet(args).env("RAYON_NUM_THREADS", value), args);
            let line = done.error();
            assert!(
                line.contains("RAYON_NUM_THREADS") && line.contains(value),
                "{line}"
            );
        }
    }
    for value in ["", "0", "2"] {
        finish(gannet(&args).env("RAYON_NUM_THREADS", value), &args).ok();
    }
}

/// Threads that the system does not give are one line. A limit counts only for whoever is not root.
#[cfg(target_os = "linux")]
#[test]
fn threads_that_cannot_be_had_are_one_line() {
    let limited = [
        "--reuid=65534",
        "--clear-groups",
        "prlimit",
        "--nproc=1",
        env!("CARGO_BIN_EXE_gannet"),
        "run",
        "x",
        "-n",
        "1",
        "--device",
        "cpu",
    ];
    let done = Command::new("setpriv")
        .args(limited)
        .stdin(Stdio::null())
        .output();
    let Some(done) = done.ok().filter(|d| matches!(d.status.code(), Some(0 | 1))) else {
        eprintln!("skipped: needs root, setpriv and prlimit");
        return;
    };
    let stderr = String::from_utf8(done.stderr).unwrap();
    if !stderr.starts_with("error: cannot start") {
        eprintln!("skipped: the limit was not set: {stderr}");
        return;
    }
    assert_eq!(
        (done.status.code(), stderr.lines().count()),
        (Some(1), 1),
        "{stderr}"
    );
    assert!(stderr.contains("ulimit -u"), "{stderr}");
}

/// What was generated is kept, and its figures are told.
#[cfg(unix)]
#[test]
fn an_interruption_keeps_the_text_and_the_figures() {
    use std::io::Read;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.txt");
    std::fs::write(&file, "fn main() {\nOwnership is\nA vector\n").unwrap();
    let file = file.to_str().unwrap();
    let endless = ["-n", "-1", "-c", "60000", "--ignore-eos", "--device", "cpu"];
    for (args, is_json) in [
        (&["run", "fn main"][..], false),
        (&["run", "fn main", "--json"], true),
        (&["run", "--prompts", file, "--slots", "2"], false),
    ] {
        let mut child = gannet(&[args, &endless[..]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        let mut out = child.stdout.take().unwrap();
        // Once it generates; where nothing comes before the end, after a while.
        if args.len() == 2 {
            let mut first = [0; 8];
            out.read_exact(&mut first).unwrap();
            text.push_str(&String::from_utf8_lossy(&first));
        } else {
            std::thread::sleep(std::time::Duration::from_secs(3));
        }
        // Twice, as `timeout -s INT` does: to the process and to its group.
        let kill = format!(
            "kill -INT {0}; sleep 0.02; kill -INT {0} || true",
            child.id()
        );
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        let mut rest = Vec::new();
        out.read_to_end(&mut rest).unwrap();
        text.push_str(&String::from_utf8_lossy(&rest));
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{args:?}: {stderr}");
        assert!(
            !text.is_empty() && !stderr.contains("error"),
            "{args:?}: {stderr}"
        );
        if is_json {
            let object: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(&object["finish"], "cancelled");
            assert!(!object["tokens"].as_array().unwrap().is_empty());
        } else {
            assert!(
                stderr.contains("generated ") && stderr.contains("interrupted"),
                "{stderr}"
            );
        }
    }
}

/// What measures tells how far it came.
#[cfg(unix)]
#[test]
fn an_interruption_keeps_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text");
    std::fs::write(&file, "Ownership is a set of rules. ".repeat(100_000)).unwrap();
    let scored = ["perplexity", "--file", file.to_str().unwrap(), "-c", "32"];
    let benched = [
        "bench",
        "-p",
        "16",
        "-n",
        "64",
        "-d",
        "0,8,16,24,32,40,48,56",
        "-r",
        "100",
    ];
    for (args, is_json) in [
        (&scored[..], false),
        (&scored, true),
        (&benched, false),
        (&benched, true),
    ] {
        let json = is_json.then_some("--json");
        let args: Vec<&str> = args
            .iter()
            .copied()
            .chain(["--device", "cpu"])
            .chain(json)
            .collect();
        let mut command = gannet(&args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_secs(5));
        assert!(child.try_wait().unwrap().is_none(), "{args:?} was too fast");
        let kill = ["-INT", &child.id().to_string()];
        assert!(Command::new("kill").args(kill).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("[interrupted"), "{args:?}: {stderr}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        if is_json {
            let object: serde_json::Value = serde_json::from_str(&stdout).unwrap();
            assert_eq!(object["finish"], "cancelled", "{object}");
            let is_there = object["perplexity"]
                .as_f64()
                .is_some_and(|value| value > 1.0)
                || object["rows"][0]["tokens_per_second"].as_f64().is_some();
            assert!(is_there, "{object}");
        } else if args[0] == "bench" {
            assert!(stdout.contains("ttft32"), "{stdout}");
        } else {
            assert!(stdout.trim().parse::<f64>().unwrap() > 1.0, "{stdout}");
        }
    }
}

#[test]
fn where_the_time_of_lines_went() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.txt");
    std::fs::write(&file, "fn main() {\nOwnership is\n").unwrap();
    let args = [
        "run",
        "--prompts",
        file.to_str().unwrap(),
        "-n",
        "3",
        "--device",
        "cpu",
    ];
    let told = run(&[&args[..], &["--timing"]].concat()).ok();
    for row in [
        "vocabulary ",
        "plan ",
        "first token ",
        "each line ",
        "first token after ",
        "tokens after it ",
    ] {
        assert!(
            told.stderr.lines().any(|l| l.starts_with(row)),
            "{}",
            told.stderr
        );
    }
    assert_eq!(run(&args).ok().stdout, told.stdout);
}

/// A library that is there and does not load is no missing GPU.
#[cfg(target_os = "linux")]
#[test]
fn a_broken_driver_is_called_broken() {
    if crate::support::has_gpu() {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libcuda.so.1");
    let elf = std::fs::read(env!("CARGO_BIN_EXE_gannet")).unwrap();
    let half = &elf[..elf.len() / 2];
    let few = &elf[..100_000];
    for bytes in [
        &b"x"[..],
        &[b'x'; 4096],
        &elf[..64],
        &[],
        &elf[..5000],
        few,
        half,
        &elf,
    ] {
        std::fs::write(&library, bytes).unwrap();
        let with = |args: &[&str]| {
            let mut command = gannet(args);
            finish(command.env("LD_LIBRARY_PATH", folder.path()), args)
        };
        let auto = with(&["run", "x", "-n", "1"]).ok().stderr;
        assert!(
            auto.contains("broken CUDA driver") && auto.contains("running on the CPU"),
            "{auto}"
        );
        assert!(!auto.contains("no GPU"), "{auto}");
        let named = with(&["run", "x", "-n", "1", "--device", "cuda"]);
        assert!(
            named.error().starts_with("broken CUDA driver: "),
            "{}",
            named.error()
        );
        assert!(with(&["doctor"]).ok().stdout.contains("broken CUDA driver"));
    }
}

/// What a terminal gets of `gannet`, with its control sequences.
#[cfg(target_os = "linux")]
fn on_a_terminal(args: &[&str]) -> Option<String> {
    let quoted: Vec<String> = std::iter::once(env!("CARGO_BIN_EXE_gannet"))
        .chain(args.iter().copied())
        .map(|arg| format!("'{arg}'"))
        .collect();
    let mut script = Command::new("script");
    script.args(["-qec", &quoted.join(" "), "/dev/null"]);
    let done = script.stdin(Stdio::null()).output().ok();
    let Some(done) = done else {
        eprintln!("skipped: no program script, which makes a terminal");
        return None;
    };
    Some(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Something is seen before the first part of anything is done, and nothing of it is left over.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_sees_progress_from_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, text: String| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let text = at("text", "Ownership is a set of rules. ".repeat(60));
    let lines = at("lines", "fn main() {\n".repeat(6));
    let long = at("long", "word ".repeat(700));
    let cpu = ["--device", "cpu"];
    let cases: [(&[&str], &[&str]); 4] = [
        (
            &["perplexity", "--file", &text, "-c", "64"],
            &["scoring", " 0/"],
        ),
        (&["run", "--prompts", &lines, "-n", "3"], &["lines", " 0/6"]),
        (&["run", "-f", &long, "-n", "3"], &["reading", "256/702"]),
        (
            &["bench", "-p", "16", "-n", "2", "-r", "1"],
            &["loading", "done"],
        ),
    ];
    for (args, seen) in cases {
        let Some(screen) = on_a_terminal(&[args, &cpu].concat()) else {
            return;
        };
        for what in seen {
            assert!(screen.contains(what), "{args:?}: no {what:?} in {screen:?}");
        }
        // A notice begins where a bar was taken away, and figures where the text ended.
        for (start, _) in screen
            .match_indices("[model: ")
            .chain(screen.match_indices("[prompt "))
        {
            let before = &screen[..start];
            let is_clear =
                before.is_empty() || before.ends_with('\n') || before.ends_with("\u{1b}[2K");
            assert!(is_clear, "{args:?}: {screen:?}");
        }
        let quiet = on_a_terminal(&[args, &cpu, &["-q"]].concat()).unwrap();
        assert!(
            !quiet.contains('\u{1b}') && !quiet.contains("[model"),
            "{quiet:?}"
        );
    }
}
