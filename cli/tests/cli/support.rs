//! Runs the binary and looks at what it left.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// `gannet` with an environment of its own: no settings of whoever runs the tests.
pub(crate) fn gannet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet"));
    for variable in gannet_engine::settings::TABLE {
        command.env_remove(variable.name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// What a finished command left.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    args: String,
}

/// Runs `gannet` to its end.
pub(crate) fn run(args: &[&str]) -> Done {
    finish(&mut gannet(args), args)
}

/// Runs a prepared command to its end.
pub(crate) fn finish(command: &mut Command, args: &[&str]) -> Done {
    done(command.output().unwrap(), args)
}

fn done(output: Output, args: &[&str]) -> Done {
    Done {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        args: args.join(" "),
    }
}

impl Done {
    /// The work was done.
    pub(crate) fn ok(self) -> Done {
        assert_eq!(self.code, Some(0), "gannet {}\n{}", self.args, self.stderr);
        self
    }

    /// The work failed with one line, which is returned without `error: `.
    pub(crate) fn error(&self) -> &str {
        let what = format!("gannet {}: {:?}\n{}", self.args, self.code, self.stderr);
        assert_eq!(self.code, Some(1), "{what}");
        assert_eq!(self.stderr.lines().count(), 1, "{what}");
        assert!(self.stderr.ends_with('\n'), "{what}");
        self.stderr.trim_end().strip_prefix("error: ").expect(&what)
    }

    /// The arguments made no sense; standard output stayed empty.
    pub(crate) fn usage(&self) -> &str {
        assert_eq!(self.code, Some(2), "gannet {}\n{}", self.args, self.stderr);
        assert_eq!(self.stdout, "", "gannet {}", self.args);
        &self.stderr
    }

    /// As [`Done::usage`], said in one line, which is returned without `error: `.
    pub(crate) fn one_line_of_usage(&self) -> &str {
        let what = format!("gannet {}\n{}", self.args, self.usage());
        assert_eq!(self.stderr.lines().count(), 1, "{what}");
        self.stderr.trim_end().strip_prefix("error: ").expect(&what)
    }

    /// Standard output as one JSON value on one line.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(
            self.stdout.lines().count(),
            1,
            "gannet {}\n{}",
            self.args,
            self.stdout
        );
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// A path under this crate's folder, as text.
pub(crate) fn here(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(path)
        .to_str()
        .unwrap()
        .to_owned()
}

/// The embedded model's file.
pub(crate) fn model() -> String {
    here("models/rustdoc-tiny-Q4_K_M.gguf")
}

/// A file of the reference data beside the repository, or `None` with a word about it.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("GANNET_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let file = folder.join(path);
    if file.exists() {
        return Some(file);
    }
    eprintln!("skipped: no reference data at {}", file.display());
    None
}

/// Whether there is a GPU; tests of what happens without one are skipped then.
pub(crate) fn has_gpu() -> bool {
    gannet_cuda_runtime::Driver::load().is_ok()
}
