//! Licences of what the binary is made of: their texts, as the packages have them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::{TARGET, at};
use crate::workspace;

/// A dependency that is linked.
struct Package {
    name: String,
    licence: String,
    texts: Vec<String>,
}

/// All of them, packages of equal texts together.
pub(super) fn texts() -> Result<String, String> {
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages()? {
        let of = format!("{} ({})", package.name, package.licence);
        for text in package.texts {
            by_text.entry(text).or_default().push(of.clone());
        }
    }
    let mut all = String::from("Licences of the packages that the binary is made of.\n");
    for (text, packages) in by_text {
        let line = "-".repeat(78);
        all.push_str(&format!(
            "\n{line}\n{}\n\n{}\n",
            packages.join("\n"),
            text.trim()
        ));
    }
    Ok(all)
}

fn packages() -> Result<Vec<Package>, String> {
    let mut cargo = workspace::cargo();
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    let metadata = super::output(cargo.arg(format!("--filter-platform={TARGET}")))?;
    let metadata: Value =
        serde_json::from_slice(&metadata).map_err(|e| format!("cargo metadata: {e}"))?;
    let linked = linked(&metadata);
    let mut packages = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let is_ours = package["source"].is_null();
        let id = package["id"].as_str().unwrap_or_default();
        if is_ours || !linked.contains(id) {
            continue;
        }
        packages.push(read(package)?);
    }
    Ok(packages)
}

/// Ids of the packages that the command line links: what it needs to be built, and no tests.
fn linked(metadata: &Value) -> BTreeSet<&str> {
    let nodes = metadata["resolve"]["nodes"].as_array();
    let nodes: BTreeMap<&str, &Value> = (nodes.into_iter().flatten())
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let is_ours = |id: &&str| id.contains("gannet-cli");
    let mut left: Vec<&str> = nodes.keys().copied().filter(is_ours).collect();
    let mut linked = BTreeSet::new();
    while let Some(id) = left.pop() {
        if !linked.insert(id) {
            continue;
        }
        let needed = nodes.get(id).and_then(|node| node["deps"].as_array());
        for need in needed.into_iter().flatten() {
            let kinds = need["dep_kinds"].as_array();
            let is_normal = kinds
                .into_iter()
                .flatten()
                .any(|kind| kind["kind"].is_null());
            left.extend(need["pkg"].as_str().filter(|_| is_normal));
        }
    }
    linked
}

fn read(package: &Value) -> Result<Package, String> {
    let word = |key: &str| package[key].as_str().unwrap_or("unknown").to_owned();
    let manifest = word("manifest_path");
    let folder = Path::new(&manifest).parent().unwrap_or(Path::new("."));
    let mut texts = Vec::new();
    for path in workspace::entries(folder)? {
        let name = super::file_name(&path).to_ascii_uppercase();
        let is_licence = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"]
            .iter()
            .any(|start| name.starts_with(start));
        if is_licence && path.is_file() {
            let text = std::fs::read(&path).map_err(|e| at(&path, &e))?;
            texts.push(String::from_utf8_lossy(&text).replace("\r\n", "\n"));
        }
    }
    if texts.is_empty() {
        texts.push("The package has no text of its licence.".to_owned());
    }
    Ok(Package {
        name: format!("{} {}", word("name"), word("version")),
        licence: word("license"),
        texts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_need_is_not_linked() {
        let metadata = serde_json::json!({"resolve": {"nodes": [
            {"id": "path+file:///x/cli#gannet-cli@0.1.0", "deps": [
                {"pkg": "a", "dep_kinds": [{"kind": null}]},
                {"pkg": "b", "dep_kinds": [{"kind": "dev"}]},
            ]},
            {"id": "a", "deps": [
                {"pkg": "c", "dep_kinds": [{"kind": "build"}, {"kind": null}]},
                {"pkg": "d", "dep_kinds": [{"kind": "build"}]},
            ]},
            {"id": "b", "deps": []}, {"id": "c", "deps": []}, {"id": "d", "deps": []},
        ]}});
        let linked: Vec<&str> = linked(&metadata).into_iter().collect();
        assert_eq!(linked, ["a", "c", "path+file:///x/cli#gannet-cli@0.1.0"]);
    }
}
