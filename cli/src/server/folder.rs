//! Where models come from: files and folders, and what they are called.

use std::path::{Path, PathBuf};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Embedded,
    File(PathBuf),
}

/// The names and files of a folder's models, by name.
pub(crate) fn of_folder(folder: &Path) -> std::io::Result<Vec<(String, Source)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_model = match path.is_dir() {
            true => path.join("config.json").is_file(),
            false => path
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case("gguf")),
        };
        if is_model && !is_later_shard(&path) {
            found.push((name_of(&path), Source::File(path)));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Whether a file is a shard other than the first: `name-00002-of-00003.gguf`.
fn is_later_shard(path: &Path) -> bool {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
    let stem = stem.unwrap_or_default();
    let Some((before, of)) = stem.rsplit_once("-of-") else {
        return false;
    };
    let number = before.rsplit('-').next().unwrap_or("");
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    is_number(of) && is_number(number) && number != "00001"
}

/// What a model of a file is called: its name without the extension.
pub(crate) fn name_of(path: &Path) -> String {
    let name = match path.is_dir() {
        true => path.file_name(),
        false => path.file_stem(),
    };
    let name = name.map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "model".to_owned());
    match name.rsplit_once("-00001-of-") {
        Some((before, of)) if of.len() == 5 => before.to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_named_after_their_files() {
        for (file, name) in [
            ("/m/a.gguf", "a"),
            ("b-Q4_K_M.gguf", "b-Q4_K_M"),
            ("c-00001-of-00003.gguf", "c"),
            ("d-1-of-3.gguf", "d-1-of-3"),
        ] {
            assert_eq!(name_of(Path::new(file)), name);
        }
    }

    #[test]
    fn later_shards_are_no_models() {
        assert!(is_later_shard(Path::new("c-00002-of-00003.gguf")));
        for file in ["c-00001-of-00003.gguf", "c.gguf", "one-of-two.gguf"] {
            assert!(!is_later_shard(Path::new(file)), "{file}");
        }
    }
}
