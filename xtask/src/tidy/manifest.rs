//! Rules about `Cargo.toml` and `Cargo.lock`: dependency direction, reasons, sources.
//!
//! Reads the few shapes that manifests of this workspace have, a section header or `name = ...`
//! on a line, not TOML in general.

use super::Finding;
use super::source::Tree;
use crate::workspace::CRATES;

/// Where every package of the lock file comes from.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// All findings in manifests and in the lock file.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let texts = tree.files.iter();
    let texts = texts.filter_map(|file| Some((file.path.as_str(), file.text.as_deref()?)));
    let found = texts.map(|(path, text)| match path {
        "Cargo.lock" => lock(path, text),
        _ if path.ends_with("Cargo.toml") => manifest(path, text),
        _ => Vec::new(),
    });
    found.flatten().collect()
}

/// All findings in the manifest at `path`.
fn manifest(path: &str, text: &str) -> Vec<Finding> {
    match path.strip_suffix("/Cargo.toml") {
        None => reasons(path, text),
        Some(folder) => {
            let found = CRATES.iter().find(|(name, _, _)| *name == folder);
            found.map_or_else(Vec::new, |(_, own, allowed)| {
                direction(path, text, own, allowed)
            })
        }
    }
}

/// A line of a manifest that names a dependency: its section, its 1-based number and its name.
struct Dependency<'a> {
    section: &'a str,
    line: usize,
    name: &'a str,
    is_path: bool,
}

fn dependencies(text: &str) -> Vec<Dependency<'_>> {
    let mut section = "";
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
        } else if section.ends_with("dependencies")
            && !line.starts_with('#')
            && let Some((key, value)) = line.split_once('=')
        {
            let name = key
                .trim()
                .split('.')
                .next()
                .unwrap_or(key)
                .trim_matches('"');
            let is_path = value.contains("path");
            found.push(Dependency {
                section,
                line: index + 1,
                name,
                is_path,
            });
        }
    }
    found
}

/// Each dependency of the workspace has its reason above it; a family (`serde`, `serde_json`) may
/// share one.
fn reasons(path: &str, text: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let is_comment = |line: usize| lines.get(line - 1).is_some_and(|l| l.starts_with('#'));
    let mut findings = Vec::new();
    let mut reasoned: Option<Dependency<'_>> = None;
    for dependency in dependencies(text) {
        if dependency.section != "workspace.dependencies" || dependency.is_path {
            continue;
        }
        let in_family = reasoned.as_ref().is_some_and(|above| {
            above.line + 1 == dependency.line && dependency.name.starts_with(above.name)
        });
        if in_family {
            continue;
        }
        if dependency.line > 1 && is_comment(dependency.line - 1) {
            reasoned = Some(dependency);
        } else {
            let what = format!("say above '{}' why the workspace needs it", dependency.name);
            findings.push(Finding::new(path, dependency.line, what));
        }
    }
    findings
}

/// A crate depends on no crate of the workspace but those below it.
fn direction(path: &str, text: &str, own: &str, allowed: &[&str]) -> Vec<Finding> {
    let is_ours = |name: &str| CRATES.iter().any(|(_, package, _)| *package == name);
    dependencies(text)
        .iter()
        .filter(|d| is_ours(d.name) && !d.section.ends_with("dev-dependencies"))
        .filter(|d| d.name != own && !allowed.contains(&d.name))
        .map(|d| {
            let what = format!("{own} must not depend on {}: it is not below it", d.name);
            Finding::new(path, d.line, what)
        })
        .collect()
}

/// Every package of the lock file comes from the public registry.
fn lock(path: &str, text: &str) -> Vec<Finding> {
    text.lines()
        .enumerate()
        .filter_map(|(index, line)| Some((index + 1, line.strip_prefix("source = ")?)))
        .filter(|(_, source)| source.trim_matches('"') != SOURCE)
        .map(|(line, source)| Finding::new(path, line, format!("unexpected source {source}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_need_reasons() {
        let good = "[workspace.dependencies]\n\
                    gannet-gguf = { path = \"gguf\" }\n\n\
                    # JSON.\nserde = \"1\"\nserde_json = \"1\"\n\
                    # Maps files.\nmemmap2 = \"0.9\"\n[profile.dev]\nopt-level = 2\n";
        assert_eq!(manifest("Cargo.toml", good), []);
        let bad = "[workspace.dependencies]\n# JSON.\nserde = \"1\"\nrand = \"1\"\n\nlog = \"1\"\n";
        let lines: Vec<usize> = manifest("Cargo.toml", bad).iter().map(|f| f.line).collect();
        assert_eq!(lines, [4, 6]);
    }

    #[test]
    fn leaf_crates_know_no_other_crate() {
        let text = "[dependencies]\ngannet-gguf.workspace = true\nhalf.workspace = true\n\
                    [dev-dependencies]\ngannet-engine.workspace = true\n";
        let findings = manifest("quant/Cargo.toml", text);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 2);
        assert_eq!(manifest("engine/Cargo.toml", text), []);
    }

    #[test]
    fn direction_is_upwards_only() {
        let text = "[build-dependencies]\ngannet-cli = { path = \"../cli\" }\n";
        assert_eq!(manifest("engine/Cargo.toml", text).len(), 1);
    }

    #[test]
    fn the_lock_file_names_one_registry() {
        let good = format!("[[package]]\nname = \"a\"\nsource = \"{SOURCE}\"\n");
        assert_eq!(lock("Cargo.lock", &good), []);
        let bad = "[[package]]\nsource = \"registry+https://mirror.example/index\"\n";
        assert_eq!(lock("Cargo.lock", bad).len(), 1);
    }
}
