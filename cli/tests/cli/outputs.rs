//! Files that commands write: what is never destroyed, what stays whole, what is left behind.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gannet_gguf::Gguf;

use crate::support::{Done, folder_with_a_model, gannet, names, run, split};

fn logits(model: &str, out: &str) -> Vec<String> {
    let args = ["logits", "-m", model, "--tokens", "1,2", "--out", out];
    let args = args.iter().chain(&["--device", "cpu"]);
    args.map(|&arg| arg.to_owned()).collect()
}

fn run_owned(args: &[String]) -> Done {
    run(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let (folder, file) = folder_with_a_model();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::os::unix::fs::symlink(&file, path("link")).unwrap();
    fs::hard_link(&file, path("twin")).unwrap();
    let before = fs::read(&file).unwrap();
    for out in [file.clone(), path("link"), path("twin"), path("./m.gguf")] {
        let line = run_owned(&logits(&file, &out));
        assert!(
            line.error().contains("read by this command") || line.error().contains("the same file")
        );
        assert!(
            line.error().contains("write to another file"),
            "{}",
            line.error()
        );
        // The model by another name.
        run_owned(&logits(&path("link"), &out)).error();
    }
    let synth = [
        "synth",
        "--shape",
        "tiny",
        "--vocab-from",
        &file,
        "-o",
        &path("link"),
    ];
    assert!(run(&synth).error().contains("write to another file"));
    fs::write(path("ids.json"), "[1, 2]").unwrap();
    let ids = format!("@{}", path("ids.json"));
    let args = [
        "logits",
        "--tokens",
        &ids,
        "--out",
        &path("ids.json"),
        "--device",
        "cpu",
    ];
    assert!(run(&args).error().contains("write to another file"));
    let bench = [
        "bench",
        "-m",
        &file,
        "--device",
        "cpu",
        "--trace",
        &path("twin"),
    ];
    assert!(run(&bench).error().contains("write to another file"));
    let [first, second] = split(&file, folder.path());
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    for out in [first, second] {
        let line = run_owned(&logits(first, out));
        assert!(
            line.error().contains("write to another file"),
            "{}",
            line.error()
        );
    }
    fs::remove_file(first).unwrap();
    fs::remove_file(second).unwrap();
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(names(folder.path()), ["ids.json", "link", "m.gguf", "twin"]);
}

#[test]
fn an_output_goes_through_links_and_devices_and_stays_whole_where_the_work_fails() {
    let (folder, file) = folder_with_a_model();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // A link is followed, and the file behind it replaced.
    fs::write(path("old"), "old").unwrap();
    std::os::unix::fs::symlink("old", path("link")).unwrap();
    run_owned(&logits(&file, &path("link"))).ok();
    assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
    assert_eq!(fs::metadata(path("old")).unwrap().len(), 2 * 8192 * 4);
    let synth = |out: &str| run(&["synth", "--shape", "tiny", "-o", out]);
    synth(&path("link")).ok();
    assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
    assert!(Gguf::open(path("old")).is_ok());
    // Devices stay what they are.
    run_owned(&logits(&file, "/dev/null")).ok();
    synth("/dev/null").ok();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    // Standard output, by both its names.
    for out in ["-", "/dev/stdout"] {
        let output = gannet(&["logits", "--tokens", "1,2", "--out", out, "--device", "cpu"]);
        let output = { output }.output().unwrap();
        assert_eq!(output.stdout.len(), 2 * 8192 * 4, "{out}");
    }
    // What cannot be written is refused before anything is computed.
    assert!(
        synth(folder.path().to_str().unwrap())
            .error()
            .contains("a folder")
    );
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
    assert!(
        synth(&path("dangling"))
            .error()
            .contains("a link to nothing")
    );
    assert!(
        synth("/no/such/folder/x")
            .error()
            .contains("/no/such/folder/x: cannot create")
    );
    // A failure leaves the old file and nothing beside it.
    fs::write(path("kept"), "kept").unwrap();
    let args = [
        "logits",
        "-m",
        &file,
        "--tokens",
        "99999",
        "--out",
        &path("kept"),
    ];
    run(&args).error();
    let synth = [
        "synth",
        "--shape",
        "tiny",
        "--vocab-from",
        "/no/such.gguf",
        "-o",
        &path("kept"),
    ];
    assert!(
        run(&synth)
            .error()
            .starts_with("/no/such.gguf: cannot open")
    );
    assert_eq!(fs::read_to_string(path("kept")).unwrap(), "kept");
    assert_eq!(
        names(folder.path()),
        ["dangling", "kept", "link", "m.gguf", "old"]
    );
}

/// Waits until something is so, or for too long.
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_interrupted_command_leaves_nothing() {
    for signal in ["INT", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("big.gguf");
        let args = [
            "synth",
            "--shape",
            "llama3.1-8b",
            "-o",
            out.to_str().unwrap(),
        ];
        let mut child = gannet(&args).stderr(Stdio::null()).spawn().unwrap();
        wait_until(|| {
            names(folder.path())
                .iter()
                .any(|name| name.ends_with(".part"))
        });
        let id = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &id])
                .status()
                .unwrap()
                .success()
        );
        let status = child.wait().unwrap();
        assert!(!status.success());
        assert!(
            names(folder.path()).is_empty(),
            "{:?}",
            names(folder.path())
        );
    }
}
