//! `cargo xtask package`: what would be published, crate by crate.
//!
//! Packs every crate that ships, without building it (`--verify` builds each from its package), and looks into the
//! packages: sources, examples, pages and licences are there, tests and their data are not, and none is larger than
//! crates.io takes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Outcome, workspace};

/// What crates.io takes.
const MAX_BYTES: u64 = 10 << 20;
/// What every package has.
const EVERYWHERE: &[&str] = &["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];
/// Folders of which a package has all that the repository has.
const WHOLE: &[&str] = &["src", "examples", "docs", "models"];
/// The crate that does not ship.
const PRIVATE: &str = "xtask";

pub(crate) fn run(arguments: &[String]) -> Outcome {
    let verify = match arguments {
        [] => false,
        [only] if only == "--verify" => true,
        [other, ..] => return Err(format!("takes --verify or nothing, got '{other}'")),
    };
    pack(verify)?;
    let files = workspace::files(&workspace::root())?;
    let mut complaints = Vec::new();
    for (folder, package, _) in shipped() {
        let archive = archive(package)?;
        let bytes =
            std::fs::metadata(&archive).map_err(|e| format!("{}: {e}", archive.display()))?;
        let packed = packed(&archive)?;
        println!(
            "{package}: {} files, {} kB",
            packed.len(),
            bytes.len() / 1000
        );
        let found = missing(folder, &files, &packed).into_iter();
        let found = found.chain(unwanted(&packed)).chain(too_large(bytes.len()));
        complaints.extend(found.map(|what| format!("{package}: {what}")));
    }
    match complaints.is_empty() {
        true => Ok(()),
        false => Err(complaints.join("; ")),
    }
}

/// The crates that ship, bottom first.
fn shipped() -> impl Iterator<Item = &'static (&'static str, &'static str, &'static [&'static str])>
{
    let all = workspace::CRATES.iter();
    all.filter(|(_, package, _)| *package != PRIVATE)
}

fn pack(verify: bool) -> Outcome {
    let mut cargo = workspace::cargo();
    // What is not committed is packed, too: it is to be known before.
    let arguments = [
        "package",
        "--workspace",
        "--exclude",
        PRIVATE,
        "--allow-dirty",
        "--quiet",
    ];
    cargo.args(arguments);
    if !verify {
        // The lock file has all that is asked for.
        cargo.args(["--no-verify", "--offline"]);
    }
    // That tests stay here is said for each of them; errors say the rest.
    let output = cargo.stdout(Stdio::null()).output();
    let output = output.map_err(|e| format!("can't start cargo: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let is_warning = |line: &&str| line.starts_with("warning: ignoring ");
    for line in said.lines().filter(|line| !is_warning(line)) {
        eprintln!("{line}");
    }
    Err("cargo package failed".to_owned())
}

/// The packed file of a package.
fn archive(package: &str) -> Result<PathBuf, String> {
    let folder = workspace::target_dir().join("package");
    let name = format!("{package}-{}.crate", workspace::version()?);
    Ok(folder.join(name))
}

/// Files of a package, relative to its folder.
fn packed(archive: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("tar").arg("-tzf").arg(archive).output();
    let output = output.map_err(|e| format!("tar, which lists packages: {e}"))?;
    if !output.status.success() {
        return Err(format!("{}: tar cannot list it", archive.display()));
    }
    let listed = String::from_utf8_lossy(&output.stdout);
    let inside = |line: &str| Some(line.split_once('/')?.1.to_owned());
    Ok(listed.lines().filter_map(inside).collect())
}

/// What a package lacks of the repository's `files` in its folder.
fn missing(folder: &str, files: &[String], packed: &[String]) -> Vec<String> {
    let has = |name: &str| packed.iter().any(|file| file == name);
    let own = files
        .iter()
        .filter_map(|file| file.strip_prefix(folder)?.strip_prefix('/'));
    let is_wanted = |file: &&str| {
        let top = file.split_once('/').map(|(top, _)| top);
        top.is_some_and(|top| WHOLE.contains(&top))
    };
    let wanted = EVERYWHERE.iter().copied().chain(own.filter(is_wanted));
    wanted
        .filter(|name| !has(name))
        .map(|name| format!("{name} is missing"))
        .collect()
}

/// What a package should not have.
fn unwanted(packed: &[String]) -> Vec<String> {
    let is_test = |file: &&String| file.starts_with("tests/") || file.ends_with(".snap");
    let tests = packed.iter().filter(is_test);
    tests.map(|file| format!("{file} is of a test")).collect()
}

fn too_large(bytes: u64) -> Option<String> {
    (bytes > MAX_BYTES).then(|| format!("{bytes} bytes, {MAX_BYTES} at most"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_package_is_found() {
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let files = names(&[
            "a/src/lib.rs",
            "a/examples/b.rs",
            "a/tests/c.rs",
            "b/src/lib.rs",
        ]);
        let mut packed = names(EVERYWHERE);
        packed.push("src/lib.rs".to_owned());
        assert_eq!(missing("a", &files, &packed), ["examples/b.rs is missing"]);
        packed.push("examples/b.rs".to_owned());
        assert_eq!(missing("a", &files, &packed), [""; 0]);
        assert_eq!(unwanted(&packed), [""; 0]);
        assert_eq!(
            unwanted(&names(&["tests/c.rs"])),
            ["tests/c.rs is of a test"]
        );
        assert_eq!(too_large(MAX_BYTES), None);
        assert!(too_large(MAX_BYTES + 1).is_some());
    }

    /// Whoever finds a crate sees what it is, by which licence, and where its documentation is.
    #[test]
    fn every_crate_that_ships_says_what_it_is() {
        for (folder, package, _) in shipped() {
            let manifest = workspace::root().join(folder).join("Cargo.toml");
            let text = std::fs::read_to_string(manifest).unwrap();
            for key in [
                "description",
                "documentation",
                "readme",
                "keywords",
                "categories",
                "include",
            ] {
                assert!(
                    text.contains(&format!("\n{key} = ")),
                    "{package} has no {key}"
                );
            }
            assert!(text.contains("[package.metadata.docs.rs]"), "{package}");
            assert!(!text.contains("\npublish"), "{package}");
        }
        let private = workspace::root().join(PRIVATE).join("Cargo.toml");
        let private = std::fs::read_to_string(private).unwrap();
        assert!(private.contains("\npublish = false\n"));
    }
}
