//! Runs the binary and looks at what it left.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gannet_gguf::{Gguf, Writer};

/// `gannet` with an environment of its own: no settings of whoever runs the tests.
pub(crate) fn gannet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet"));
    command.env_remove("RUST_LOG");
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

    /// The work failed with one line behind notices, which is returned without `error: `.
    pub(crate) fn error_behind_notes(&self) -> &str {
        let what = format!("gannet {}: {:?}\n{}", self.args, self.code, self.stderr);
        assert_eq!(self.code, Some(1), "{what}");
        let errors = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{what}");
        let last = self.stderr.lines().last().expect(&what);
        last.strip_prefix("error: ").expect(&what)
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

/// A file of the reference data beside the repository, else of the share of it that the repository
/// ships, or `None` with a word about it.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("GANNET_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let file = folder.join(path);
    let shipped = match path.strip_prefix("models/") {
        Some(model) => here(&format!("models/{model}")),
        None => here(&format!("../engine/tests/data/{path}")),
    };
    let found = [file.clone(), PathBuf::from(shipped)];
    if let Some(found) = found.into_iter().find(|file| file.exists()) {
        return Some(found);
    }
    eprintln!("skipped: no reference data at {}", file.display());
    None
}

/// Whether there is a GPU; tests of what happens without one are skipped then.
pub(crate) fn has_gpu() -> bool {
    gannet_cuda_runtime::Driver::load().is_ok()
}

/// A folder with a copy of the embedded model in it.
pub(crate) fn folder_with_a_model() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    std::fs::copy(model(), &file).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (folder, file)
}

/// Names of what is in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Two shards with half of a model's tensors each; the first one's path, and the second one's.
pub(crate) fn split(file: &str, folder: &Path) -> [PathBuf; 2] {
    let gguf = Gguf::open(file).unwrap();
    let half = gguf.tensors().len() / 2;
    [0, 1].map(|no| {
        let tensors = match no {
            0 => &gguf.tensors()[..half],
            _ => &gguf.tensors()[half..],
        };
        let mut writer = Writer::new();
        for (key, value) in gguf.metadata().iter().filter(|_| no == 0) {
            writer.set(key, value).unwrap();
        }
        writer.set("split.no", no as u32).unwrap();
        writer.set("split.count", 2u32).unwrap();
        for t in tensors {
            writer.tensor(&t.name, &t.dims, t.ty).unwrap();
        }
        let path = gannet_gguf::shard_path(&folder.join("s.gguf"), no, 2);
        let mut data = writer.start(std::fs::File::create(&path).unwrap()).unwrap();
        for t in tensors {
            data.tensor(&t.name, gguf.data(t)).unwrap();
        }
        data.finish().unwrap();
        path
    })
}
