//! `cargo xtask dist`: the archive of a release for Linux on x86-64, in `target/dist`.
//!
//! Binary, completions, manual, guide, licences (those of dependencies too) and a checksum of each file; beside the
//! archive its own checksum. Equal sources, toolchain and C library give equal bytes, wherever the checkout is: paths
//! are mapped away, and times are the commit's. Needs tar, gzip and sha256sum.

mod licences;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, no_arguments, workspace};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Stripped release code, in a folder of its own so that `target/release` stays as it is.
const PROFILE: &[&str] = &[
    "--profile=packed",
    "--config=profile.packed.inherits='release'",
    "--config=profile.packed.strip='symbols'",
    "--config=profile.packed.debug=false",
];
/// Shells, and the files that they look for.
const SHELLS: &[(&str, &str)] = &[
    ("bash", "gannet.bash"),
    ("elvish", "gannet.elv"),
    ("fish", "gannet.fish"),
    ("powershell", "_gannet.ps1"),
    ("zsh", "_gannet"),
];
/// Files of the repository, and what they are called in the archive.
const FILES: &[(&str, &str)] = &[
    ("README.md", "README.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("cli/models/MODEL_CARD.md", "MODEL_CARD.md"),
];

pub(crate) fn run(arguments: &[String]) -> Outcome {
    no_arguments(arguments)?;
    if !(cfg!(target_os = "linux") && cfg!(target_arch = "x86_64")) {
        return Err(format!("makes the archive of {TARGET}, on such a machine"));
    }
    let name = format!("gannet-{}-{TARGET}", workspace::version()?);
    let dist = workspace::target_dir().join("dist");
    let folder = dist.join(&name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|e| at(&folder, &e))?;
    }
    std::fs::create_dir_all(&folder).map_err(|e| at(&folder, &e))?;
    let binary = build()?;
    fill(&folder, &binary)?;
    let archive = pack(&dist, &name, commit_time())?;
    let sums = sums(&dist, &[file_name(&archive)])?;
    let sum_file = dist.join(format!("{name}.tar.gz.sha256"));
    std::fs::write(&sum_file, &sums).map_err(|e| at(&sum_file, &e))?;
    print!("{sums}");
    println!("{}", archive.display());
    Ok(())
}

/// Builds the binary.
fn build() -> Result<PathBuf, String> {
    let mut flags = vec![remapped(&workspace::root(), "gannet")];
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    flags.extend(home.map(|home| remapped(&home, "cargo")));
    let mut cargo = workspace::cargo();
    cargo
        .args(["build", "-p", "gannet-cli", "--locked"])
        .args(PROFILE);
    // Flags with spaces in them are flags, too.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let status = cargo
        .status()
        .map_err(|e| format!("can't start cargo: {e}"))?;
    match status.success() {
        true => Ok(workspace::target_dir().join("packed/gannet")),
        false => Err("cargo build failed".to_owned()),
    }
}

fn remapped(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}=/{to}", from.display())
}

/// Puts everything into the folder that is packed.
fn fill(folder: &Path, binary: &Path) -> Outcome {
    let root = workspace::root();
    copy(binary, &folder.join("gannet"))?;
    for (from, to) in FILES {
        copy(&root.join(from), &folder.join(to))?;
    }
    let docs = root.join("cli/docs");
    for page in workspace::files_of_folder(&docs)? {
        copy(&docs.join(&page), &folder.join("docs").join(&page))?;
    }
    for (shell, file) in SHELLS {
        let script = output(Command::new(binary).args(["completions", shell]))?;
        write(&folder.join("completions").join(file), &script)?;
    }
    output(Command::new(binary).arg("man").arg(folder.join("man/man1")))?;
    write(
        &folder.join("LICENSES-OF-DEPENDENCIES.txt"),
        licences::texts()?.as_bytes(),
    )?;
    let mut names = workspace::files_of_folder(folder)?;
    names.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    write(&folder.join("SHA256SUMS"), sums(folder, &names)?.as_bytes())
}

/// Packs the folder `name` of `dist` as of a time; equal files give equal bytes.
fn pack(dist: &Path, name: &str, time: u64) -> Result<PathBuf, String> {
    let tar = dist.join(format!("{name}.tar"));
    let mut command = Command::new("tar");
    command.arg("-cf").arg(&tar).arg("-C").arg(dist).args([
        "--sort=name",
        "--format=gnu",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=u+rwX,go+rX,go-w",
    ]);
    output(command.arg(format!("--mtime=@{time}")).arg(name))?;
    output(
        Command::new("gzip")
            .args(["--no-name", "--force", "-9"])
            .arg(&tar),
    )?;
    Ok(dist.join(format!("{name}.tar.gz")))
}

/// Checksums of files in a folder, as `sha256sum -c` reads them.
fn sums(folder: &Path, names: &[&str]) -> Result<String, String> {
    let listed = output(Command::new("sha256sum").args(names).current_dir(folder))?;
    String::from_utf8(listed).map_err(|e| format!("sha256sum: {e}"))
}

/// When the commit was made that is packed, in seconds since 1970; 0 where there is none.
fn commit_time() -> u64 {
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"])
        .current_dir(workspace::root());
    let said = output(&mut git)
        .ok()
        .and_then(|said| String::from_utf8(said).ok());
    said.and_then(|said| said.trim().parse().ok()).unwrap_or(0)
}

/// What a program prints, if it ends well.
fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|e| format!("{program}: {e}"))?;
    match done.status.success() {
        true => Ok(done.stdout),
        false => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        )),
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn copy(from: &Path, to: &Path) -> Outcome {
    parent(to)?;
    std::fs::copy(from, to).map(drop).map_err(|e| at(from, &e))
}

fn write(to: &Path, bytes: &[u8]) -> Outcome {
    parent(to)?;
    std::fs::write(to, bytes).map_err(|e| at(to, &e))
}

fn parent(path: &Path) -> Outcome {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    std::fs::create_dir_all(folder).map_err(|e| at(folder, &e))
}

fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn equal_files_give_equal_archives() {
        let archives: Vec<Vec<u8>> = (0..2)
            .map(|i| {
                let dist = tempfile::tempdir().unwrap();
                // Made in another order, at another time.
                let mut names = ["b/c", "a"];
                names.rotate_left(i);
                for name in names {
                    write(&dist.path().join("x").join(name), name.as_bytes()).unwrap();
                }
                let file = std::fs::File::open(dist.path().join("x/a")).unwrap();
                let time =
                    std::time::SystemTime::now() - std::time::Duration::from_secs(i as u64 * 900);
                file.set_modified(time).unwrap();
                std::fs::read(pack(dist.path(), "x", 1_700_000_000).unwrap()).unwrap()
            })
            .collect();
        assert_eq!(archives[0], archives[1]);
        assert!(!archives[0].is_empty());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn checksums_are_those_that_sha256sum_reads() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("a"), b"abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n";
        assert_eq!(sums(folder.path(), &["a"]).unwrap(), abc);
    }

    #[test]
    fn every_file_of_the_archive_is_there() {
        for (from, _) in FILES {
            assert!(workspace::root().join(from).is_file(), "{from}");
        }
    }
}
