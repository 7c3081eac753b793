//! Models in several files: `model.safetensors.index.json`.
//!
//! The index maps each tensor to a file. Its paths come from strangers: only names inside the
//! index's own folder are followed. (A link there is its owner's doing, and how model caches store
//! their files.)

use std::collections::BTreeMap;
use std::path::{Component, Path};

use super::error::quoted;
use super::json::{Index, Text};
use super::{EXTENSION, Error, MAX_HEADER_BYTES, SafeTensors, duplicate, has_ending, open_file};

/// Most files of one model.
const MAX_FILES: usize = 4096;

/// Opens every file that an index names.
pub(super) fn open(path: &Path) -> Result<SafeTensors, Error> {
    let (file, len) = open_file(path)?;
    if len > MAX_HEADER_BYTES {
        return Err(Error::Header {
            file: path.to_owned(),
            found: format!("is {len} bytes long"),
            expected: format!("an index of at most {MAX_HEADER_BYTES}"),
        });
    }
    let Index(weight_map) = Text {
        path,
        file: &file,
        start: 0,
        len,
    }
    .parse()?;
    let names = file_names(path, &weight_map)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut model = SafeTensors::new(path);
    for name in names.keys() {
        model.add_file(&folder.join(name))?;
    }
    if let Some(name) = duplicate(model.tensors.iter().map(|tensor| tensor.name.as_str())) {
        let name = quoted(name);
        return Err(problem(
            path,
            format!("tensor {name} is a duplicate: two files hold it"),
        ));
    }
    model.sort_names();
    check_places(&model, path, &weight_map, &names)?;
    Ok(model)
}

/// The files that an index names, each with its place in their order; all inside the folder.
fn file_names<'a>(
    path: &Path,
    weight_map: &'a [(String, String)],
) -> Result<BTreeMap<&'a str, usize>, Error> {
    let mut names = BTreeMap::new();
    for (tensor, name) in weight_map {
        if names.contains_key(name.as_str()) {
            continue;
        }
        let refuse = |what: &str| {
            let (tensor, name) = (quoted(tensor), quoted(name));
            Err(problem(
                path,
                format!("tensor {tensor} is in the path {name}; expected {what}"),
            ))
        };
        if !stays_inside(name) {
            return refuse("a file inside the index's folder");
        }
        if !has_ending(Path::new(name), EXTENSION) {
            return refuse("a .safetensors file");
        }
        if names.len() == MAX_FILES {
            return refuse(&format!("one of at most {MAX_FILES} files"));
        }
        names.insert(name.as_str(), 0);
    }
    for (place, slot) in names.values_mut().enumerate() {
        *slot = place;
    }
    Ok(names)
}

/// Whether a path can only lead into the folder that it starts from, on any system.
fn stays_inside(name: &str) -> bool {
    let is_plain = !name.is_empty() && !name.contains(['\\', ':', '\0']);
    is_plain
        && Path::new(name)
            .components()
            .all(|c| matches!(c, Component::Normal(_)))
}

/// Checks that each tensor of the index is in the file that it names, once.
fn check_places(
    model: &SafeTensors,
    path: &Path,
    weight_map: &[(String, String)],
    names: &BTreeMap<&str, usize>,
) -> Result<(), Error> {
    for (tensor, name) in weight_map {
        let place = model.tensor(tensor).map(|info| info.file);
        if place.is_none() || place != names.get(name.as_str()).copied() {
            let (tensor, name) = (quoted(tensor), quoted(name));
            return Err(problem(
                path,
                format!("tensor {tensor} is missing from {name}"),
            ));
        }
    }
    match duplicate(weight_map.iter().map(|(tensor, _)| tensor.as_str())) {
        Some(name) => Err(problem(path, format!("duplicate key {}", quoted(name)))),
        None => Ok(()),
    }
}

fn problem(path: &Path, problem: String) -> Error {
    Error::Index {
        file: path.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_the_folder_are_followed() {
        for name in [
            "model-00001-of-00002.safetensors",
            "shards/a.safetensors",
            "a..b",
        ] {
            assert!(stays_inside(name), "{name}");
        }
        let outside = [
            "",
            "..",
            "../a",
            "a/../../b",
            "/etc/passwd",
            "./a",
            "..\\a",
            "C:\\a",
            "C:a",
            "a\0b",
        ];
        for name in outside {
            assert!(!stays_inside(name), "{name}");
        }
    }
}
