//! Runs the commands of every page, each page in a folder of its own that has a `model.gguf`.

use std::path::Path;
use std::process::{Command, Stdio};

use super::blocks::{Step, fits, steps};
use super::server::Server;
use super::{folder, pages};

/// The port that the guide serves at; tests take whichever is free.
const PORT: &str = "--port 8080";
const ADDRESS: &str = "localhost:8080";

/// A page under test.
struct Page<'a> {
    name: &'a str,
    folder: &'a Path,
    server: Option<Server>,
}

#[test]
fn commands_do_what_the_guide_says() {
    let mut run = 0;
    std::thread::scope(|threads| {
        let pages = pages();
        let mut started = Vec::new();
        for (name, text) in pages {
            let steps = steps(&text);
            run += steps.len();
            started.push(threads.spawn(move || page(&name, &steps)));
        }
        for thread in started {
            if let Err(why) = thread.join() {
                std::panic::resume_unwind(why);
            }
        }
    });
    assert!(run > 40, "{run} commands");
}

fn page(name: &str, steps: &[Step]) {
    let place = tempfile::tempdir().unwrap();
    let model = folder("models/rustdoc-tiny-Q4_K_M.gguf");
    std::fs::copy(model, place.path().join("model.gguf")).unwrap();
    let mut page = Page {
        name,
        folder: place.path(),
        server: None,
    };
    for step in steps {
        page.step(step);
    }
}

/// A command with the built `gannet` first on its path, no settings of whoever runs the tests, and a cache of its
/// own.
fn prepared(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    let built = Path::new(env!("CARGO_BIN_EXE_gannet")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(built.to_owned()).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(all).unwrap());
    command.env_remove("RUST_LOG");
    for variable in gannet_engine::settings::TABLE {
        command.env_remove(variable.name);
    }
    command.env("GANNET_CACHE", folder.join("cache"));
    command.env("GANNET_DEVICE", "cpu");
    command.current_dir(folder).stdin(Stdio::null());
    command
}

impl Page<'_> {
    fn step(&mut self, step: &Step) {
        if let Some(command) = step.command.strip_suffix(" &") {
            assert!(command.contains(PORT), "{} {}", self.name, step.line);
            // The one before it ends.
            self.server = None;
            let command = command.replace(PORT, "--port 0");
            let mut shell = prepared("sh", self.folder);
            shell.args(["-c", &format!("exec {command}")]);
            self.server = Some(Server::start(shell));
            return;
        }
        let mut command = step.command.clone();
        if command.starts_with("curl ") {
            if !has_curl() {
                eprintln!("skipped: {} {}: no curl", self.name, step.line);
                return;
            }
            let server = self.server.as_ref().expect("a server was started");
            command = command.replace(ADDRESS, &server.address);
        }
        let expects_an_error = step.expected.iter().any(|line| line.starts_with("error: "));
        let done = prepared("sh", self.folder)
            .args(["-c", &command])
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        let what = format!("{} {}: {command}\n{out}{err}", self.name, step.line);
        let said = match expects_an_error {
            true => {
                assert!(matches!(done.status.code(), Some(1 | 2)), "{what}");
                &err
            }
            false => {
                assert!(done.status.success(), "{what}");
                &out
            }
        };
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            fits(&step.expected, &lines),
            "{what}\nexpected: {:#?}",
            step.expected
        );
    }
}

fn has_curl() -> bool {
    let version = Command::new("curl")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}
