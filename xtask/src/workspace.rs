//! Where things are: the repository's root, its crates, its files, reference data, cargo itself.
//!
//! Commands ask here and nowhere else, so that a layout change is one edit. Paths handed out for
//! display are relative to the root and use `/`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's crates by folder, bottom first: (folder, package, crates it may depend on).
///
/// The third column is the dependency direction that ARCHITECTURE.md promises; `tidy` holds the
/// manifests to it.
pub(crate) const CRATES: &[(&str, &str, &[&str])] = &[
    ("gguf", "gannet-gguf", &[]),
    ("quant", "gannet-quant", &[]),
    ("ptx-gen", "gannet-ptx-gen", &[]),
    ("cuda-runtime", "gannet-cuda-runtime", &[]),
    (
        "engine",
        "gannet-engine",
        &[
            "gannet-gguf",
            "gannet-quant",
            "gannet-ptx-gen",
            "gannet-cuda-runtime",
        ],
    ),
    (
        "cli",
        "gannet-cli",
        &[
            "gannet-gguf",
            "gannet-quant",
            "gannet-ptx-gen",
            "gannet-cuda-runtime",
            "gannet-engine",
        ],
    ),
    ("xtask", "xtask", &[]),
];

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// `cargo`, the one that runs this program, in the repository's root.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Where cargo builds.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The folder of reference data that the bigger tests read, where this machine has it:
/// `$GANNET_SHARED`, or `shared` beside the repository.
pub(crate) fn shared_dir() -> Option<PathBuf> {
    let dir = match std::env::var_os("GANNET_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => root().join("../shared"),
    };
    dir.is_dir().then_some(dir)
}

/// The version of all crates.
pub(crate) fn version() -> Result<String, String> {
    let manifest = root().join("Cargo.toml");
    let text =
        std::fs::read_to_string(&manifest).map_err(|e| format!("{}: {e}", manifest.display()))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("version = "));
    let version = line.map(|version| version.trim_matches('"').to_owned());
    version.ok_or_else(|| format!("{}: no version", manifest.display()))
}

/// Every file in a folder, relative to it.
pub(crate) fn files_of_folder(folder: &Path) -> Result<Vec<String>, String> {
    let mut files = Vec::new();
    walk(folder, folder, &mut files)?;
    Ok(files)
}

/// Every file of the repository at `root`, relative to it, sorted: what git tracks, or, in a copy
/// without git, what lies in the folder outside build output.
pub(crate) fn files(root: &Path) -> Result<Vec<String>, String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output();
    let mut files: Vec<String> = match listed {
        Ok(out) if out.status.success() && !out.stdout.is_empty() => out
            .stdout
            .split(|&b| b == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            // Deleted but not yet committed.
            .filter(|name| root.join(name).exists())
            .collect(),
        _ => {
            let mut files = Vec::new();
            walk(root, root, &mut files)?;
            files
        }
    };
    files.sort();
    Ok(files)
}

fn walk(root: &Path, dir: &Path, files: &mut Vec<String>) -> Result<(), String> {
    for path in entries(dir)? {
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .to_string_lossy()
            .replace('\\', "/");
        let skip = ["target", "bundle", ".git", "shared"].contains(&name.as_str());
        if path.is_dir() && !path.is_symlink() {
            if !skip {
                walk(root, &path, files)?;
            }
        } else if !name.ends_with(".snap.new") {
            files.push(name);
        }
    }
    Ok(())
}

/// The entries of a folder, sorted.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let read = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Test targets of a crate whose name begins with `prefix`: files and folders in its `tests`.
pub(crate) fn test_targets(folder: &str, prefix: &str) -> Vec<String> {
    let paths = entries(&root().join(folder).join("tests")).unwrap_or_default();
    let is_target =
        |path: &Path| path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").is_file();
    paths
        .iter()
        .filter(|path| is_target(path))
        .filter_map(|path| {
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
        })
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Arguments that select every GPU test target of the workspace: `-p` and `--test` pairs.
///
/// Empty when there are none. Targets are named one by one, since cargo refuses a pattern that
/// matches nothing.
pub(crate) fn gpu_test_arguments() -> Vec<String> {
    let mut arguments = Vec::new();
    for &(folder, package, _) in CRATES {
        let targets = test_targets(folder, "gpu_");
        if !targets.is_empty() {
            arguments.extend(["-p".into(), package.into()]);
        }
        for target in targets {
            arguments.extend(["--test".into(), target]);
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_holds_every_crate() {
        for (folder, package, _) in CRATES {
            let manifest = root().join(folder).join("Cargo.toml");
            let text = std::fs::read_to_string(&manifest).unwrap();
            assert!(text.contains(&format!("name = \"{package}\"")), "{folder}");
        }
    }

    #[test]
    fn files_without_git_leave_build_output_out() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "target/x.rs",
            "bundle/run.sh",
            "src/lib.rs",
            "a.snap.new",
            "Cargo.toml",
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut found = Vec::new();
        walk(dir.path(), dir.path(), &mut found).unwrap();
        assert_eq!(found, ["Cargo.toml", "src/lib.rs"]);
    }
}
