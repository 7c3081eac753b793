//! `cargo xtask bundle`: the GPU tests, packed for a machine without Rust.
//!
//! Builds the command line and every test target named `gpu_*`, optimised and stripped, and puts
//! them into the git-ignored folder `bundle/` with the reference data they read (`bundle.manifest`)
//! and a script that runs them (`bundle_run.sh`). Where this machine has no reference data the bundle has
//! what the repository ships of it, and over there the tests that read more are skipped. The tests find
//! the data through `GANNET_SHARED`, since the paths they were compiled with do not exist over there.
//! Links the C library of this machine: build on one that is not newer than the one that runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Outcome, workspace};

const MANIFEST: &str = include_str!("bundle.manifest");
const RUN: &str = include_str!("bundle_run.sh");
/// A bundle is sent over networks.
const MAX_BYTES: u64 = 60 << 20;
/// Weight types of the reference model that go along when the caller names none.
const DEFAULT_MODELS: &str = "Q4_K_M";
/// Stripped release code, in a folder of its own so that `target/release` stays as it is.
const PROFILE: &[&str] = &[
    "--profile=bundle",
    "--config=profile.bundle.inherits='release'",
    "--config=profile.bundle.strip='symbols'",
    "--config=profile.bundle.debug=false",
];

pub(crate) fn run(arguments: &[String]) -> Outcome {
    let models = models(arguments)?;
    let shared = workspace::shared_dir();
    if shared.is_none() {
        println!(
            "no reference data (GANNET_SHARED, or shared beside the repository) but what is shipped: \
             tests that read more are skipped"
        );
    }
    let mut selection = workspace::gpu_test_arguments();
    if selection.is_empty() {
        return Err("the workspace has no test targets named gpu_*".into());
    }
    selection.insert(0, "test".into());
    selection.push("--no-run".into());
    let tests = build(&selection)?;
    let command = build(&["build", "-p", "gannet-cli"].map(String::from))?;

    let bundle = workspace::root().join("bundle");
    if bundle.exists() {
        std::fs::remove_dir_all(&bundle).map_err(|e| at(&bundle, e))?;
    }
    for built in &command {
        copy(&built.executable, &bundle.join(&built.name))?;
    }
    for built in &tests {
        copy(&built.executable, &bundle.join("tests").join(&built.name))?;
    }
    let root = workspace::root();
    copy_data(shared.as_deref(), &root, &bundle.join("shared"), &models)?;
    let programs: Vec<&str> = command.iter().map(|built| built.name.as_str()).collect();
    pack(&bundle, &programs)?;
    let script = bundle.join("run.sh");
    std::fs::write(&script, RUN).map_err(|e| at(&script, e))?;
    make_executable(&script)?;

    let bytes = size(&bundle)?;
    println!(
        "bundle/: {} test executables, {:.1} MiB",
        tests.len(),
        bytes as f64 / 1048576.0
    );
    if bytes > MAX_BYTES {
        return Err(format!(
            "more than {} MiB; take fewer models",
            MAX_BYTES >> 20
        ));
    }
    println!("there: bundle/run.sh");
    Ok(())
}

/// Copies what the manifest names: from the reference data, or, without it, what the repository `root`
/// ships of it. The folder is there in any case, since that is where the tests look.
fn copy_data(shared: Option<&Path>, root: &Path, to: &Path, models: &[String]) -> Outcome {
    std::fs::create_dir_all(to).map_err(|e| at(to, e))?;
    for path in data(MANIFEST, models) {
        let from = match shared {
            Some(shared) => shared.join(&path),
            None => shipped(root, &path),
        };
        if shared.is_some() || from.exists() {
            copy(&from, &to.join(&path))?;
        }
    }
    Ok(())
}

/// Where the repository has a part of the reference data, if it does.
fn shipped(root: &Path, part: &str) -> PathBuf {
    match part.strip_prefix("models/") {
        Some(model) => root.join("cli/models").join(model),
        None => root.join("engine/tests/data").join(part),
    }
}

/// Packs the programs of these names and the tests into `programs.tar.xz`; the script unpacks them. They have
/// most of the engine in common, which a dictionary that spans several of them finds: a fifth of their size.
fn pack(bundle: &Path, programs: &[&str]) -> Result<(), String> {
    let status = Command::new("tar")
        .args(["-cJf", "programs.tar.xz", "tests"])
        .args(programs)
        .env("XZ_OPT", "-T0 --lzma2=preset=2,dict=128MiB")
        .current_dir(bundle)
        .status()
        .map_err(|e| format!("tar, which packs the programs: {e}"))?;
    if !status.success() {
        return Err(format!("tar, which packs the programs: {status}"));
    }
    for program in programs {
        let program = bundle.join(program);
        std::fs::remove_file(&program).map_err(|e| at(&program, e))?;
    }
    let tests = bundle.join("tests");
    std::fs::remove_dir_all(&tests).map_err(|e| at(&tests, e))
}

/// The weight types in `--models A,B`.
fn models(arguments: &[String]) -> Result<Vec<String>, String> {
    let list = match arguments {
        [] => DEFAULT_MODELS,
        [flag, list] if flag == "--models" => list,
        [one] => one
            .strip_prefix("--models=")
            .ok_or("usage: bundle [--models Q4_K_M,Q8_0]")?,
        _ => return Err("usage: bundle [--models Q4_K_M,Q8_0]".into()),
    };
    Ok(list
        .split(',')
        .map(|m| m.trim().to_string())
        .filter(|m| !m.is_empty())
        .collect())
}

/// The paths a manifest names, with `{model}` filled in.
fn data(manifest: &str, models: &[String]) -> Vec<String> {
    let lines = manifest
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    let mut paths = Vec::new();
    for line in lines {
        if line.contains("{model}") {
            paths.extend(models.iter().map(|model| line.replace("{model}", model)));
        } else {
            paths.push(line.to_string());
        }
    }
    paths
}

/// An executable that cargo made, under the name it gets in the bundle.
#[derive(Debug, PartialEq)]
struct Built {
    name: String,
    executable: PathBuf,
}

fn build(arguments: &[String]) -> Result<Vec<Built>, String> {
    let output = workspace::cargo()
        .args(arguments)
        .args(PROFILE)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("can't start cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo {} failed", arguments.join(" ")));
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The executables in cargo's JSON messages. A test's name gets its crate's folder in front.
fn executables(messages: &str) -> Vec<Built> {
    let messages: Vec<Value> = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let is_test = |message: &Value| message["profile"]["test"].as_bool().unwrap_or(false);
    let tests = messages
        .iter()
        .any(|m| is_test(m) && m["executable"].is_string());
    let mut found: Vec<Built> = Vec::new();
    for message in &messages {
        let Some(executable) = message["executable"].as_str() else {
            continue;
        };
        let target = message["target"]["name"].as_str().unwrap_or("unnamed");
        let is_test = is_test(message);
        let folder = message["manifest_path"]
            .as_str()
            .and_then(|path| Path::new(path).parent()?.file_name())
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        // `cargo test` builds the command line too, for tests that start it.
        let is_side_product = !is_test && tests;
        if !is_side_product {
            let name = if is_test {
                format!("{folder}-{target}")
            } else {
                target.to_string()
            };
            found.push(Built {
                name,
                executable: executable.into(),
            });
        }
    }
    found
}

fn at(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Copies a file or a whole folder, making the folders above it.
fn copy(from: &Path, to: &Path) -> Outcome {
    if from.is_dir() {
        for entry in workspace::entries(from)? {
            let name = entry.file_name().unwrap_or_default();
            copy(&entry, &to.join(name))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).map_err(|e| at(folder, e))?;
    }
    std::fs::copy(from, to).map_err(|e| at(from, e))?;
    Ok(())
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).map_err(|e| at(path, e))
}

#[cfg(not(unix))]
fn make_executable(_path: &Path) -> Outcome {
    Ok(())
}

/// Bytes of all files under `path`.
fn size(path: &Path) -> Result<u64, String> {
    if path.is_dir() {
        return workspace::entries(path)?
            .iter()
            .map(|entry| size(entry))
            .sum();
    }
    Ok(std::fs::metadata(path).map_err(|e| at(path, e))?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_a_list() {
        assert_eq!(models(&[]), Ok(vec!["Q4_K_M".to_string()]));
        let two = Ok(vec!["Q4_K_M".to_string(), "Q8_0".to_string()]);
        assert_eq!(models(&["--models".into(), "Q4_K_M,Q8_0".into()]), two);
        assert_eq!(models(&["--models=Q4_K_M,Q8_0".into()]), two);
        assert!(models(&["--all".into()]).is_err());
    }

    #[test]
    fn a_manifest_line_stands_once_for_each_model() {
        let models = ["A".to_string(), "B".to_string()];
        let paths = data("# note\n\nx/y\nm-{model}.gguf\n", &models);
        assert_eq!(paths, ["x/y", "m-A.gguf", "m-B.gguf"]);
    }

    #[test]
    fn executables_are_read_from_messages() {
        let messages = r#"
{"reason":"compiler-artifact","manifest_path":"/r/engine/Cargo.toml","target":{"name":"gannet_engine"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/r/cli/Cargo.toml","target":{"name":"gannet"},"profile":{"test":false},"executable":"/t/gannet"}
{"reason":"compiler-artifact","manifest_path":"/r/engine/Cargo.toml","target":{"name":"gpu_parity"},"profile":{"test":true},"executable":"/t/gpu_parity-1f"}
not json
"#;
        let expected = Built {
            name: "engine-gpu_parity".into(),
            executable: "/t/gpu_parity-1f".into(),
        };
        assert_eq!(executables(messages), [expected]);
        let command = messages.lines().nth(2).unwrap();
        assert_eq!(executables(command)[0].name, "gannet");
    }

    /// A fresh clone has no data, and makes a bundle all the same; data that lacks a file does not.
    #[test]
    fn data_is_copied_where_there_is_any() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let (empty, model) = (folder.path(), ["Q4_K_M".to_string()]);
        copy_data(None, empty, &to, &model).unwrap();
        assert!(to.is_dir() && std::fs::read_dir(&to).unwrap().next().is_none());
        copy_data(None, &workspace::root(), &to, &model).unwrap();
        assert!(to.join("models/rustdoc-tiny-Q4_K_M.gguf").is_file());
        std::fs::create_dir(&from).unwrap();
        assert!(copy_data(Some(&from), empty, &to, &model).is_err());
        for path in data(MANIFEST, &model) {
            std::fs::create_dir_all(from.join(&path)).unwrap();
            std::fs::write(from.join(&path).join("x"), "1").unwrap();
        }
        let to = folder.path().join("whole");
        copy_data(Some(&from), empty, &to, &model).unwrap();
        assert!(to.join("golden/arch/x").is_file());
    }

    #[test]
    fn folders_are_copied_and_measured() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/c"), "12345").unwrap();
        copy(&folder.path().join("a"), &folder.path().join("z/a")).unwrap();
        assert_eq!(size(&folder.path().join("z")), Ok(5));
        assert!(copy(&folder.path().join("absent"), &folder.path().join("x")).is_err());
    }
}
