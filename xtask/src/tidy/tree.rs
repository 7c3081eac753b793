//! Rules about the tree as a whole and about any text file.

use super::Finding;
use super::source::Tree;
use crate::workspace::CRATES;

/// Files that the top level may hold besides crates and hidden entries.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "clippy.toml",
];
/// Files that must be there and say something.
const REQUIRED: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    ".ci/run",
];
const MAX_FILE_BYTES: u64 = 10 << 20;
const MAX_TREE_BYTES: u64 = 46 << 20;
/// First folders of absolute paths that mean something on one machine only: where checkouts and
/// build servers' homes lie. `/home` is not among them, since tests invent users.
const MACHINE_FOLDERS: &[&str] = &["root", "work", "workspace", "builds"];

/// All findings about the tree and its texts.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let paths: Vec<String> = tree.files.iter().map(|file| file.path.clone()).collect();
    let mut findings = layout(&paths);
    for file in &tree.files {
        findings.extend(size(&file.path, file.bytes));
        let text = file
            .text
            .iter()
            .flat_map(|text| self::text(&file.path, text));
        findings.extend(text);
    }
    findings.extend(total(tree.files.iter().map(|file| file.bytes).sum()));
    findings
}

/// The top level holds what the layout says, and everything that must be there.
fn layout(files: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut tops: Vec<&str> = files
        .iter()
        .map(|path| path.split_once('/').map_or(path.as_str(), |(t, _)| t))
        .collect();
    tops.dedup();
    for top in tops {
        let is_crate = CRATES.iter().any(|(folder, _, _)| *folder == top);
        if !is_crate && !top.starts_with('.') && !TOP_LEVEL.contains(&top) {
            findings.push(Finding::new(
                top,
                0,
                "the layout has no such top-level entry",
            ));
        }
    }
    for required in REQUIRED {
        if !files.iter().any(|path| path == required) {
            findings.push(Finding::new(required, 0, "is missing"));
        }
    }
    findings
}

/// A file is not too big, and a required one not empty.
fn size(path: &str, bytes: u64) -> Option<Finding> {
    if bytes > MAX_FILE_BYTES {
        let what = format!("{} MiB, {} at most", bytes >> 20, MAX_FILE_BYTES >> 20);
        return Some(Finding::new(path, 0, what));
    }
    (bytes == 0 && REQUIRED.contains(&path)).then(|| Finding::new(path, 0, "is empty"))
}

/// All files together are small enough to clone without a thought.
fn total(bytes: u64) -> Option<Finding> {
    let what = || {
        format!(
            "{} MiB in all, {} at most",
            bytes >> 20,
            MAX_TREE_BYTES >> 20
        )
    };
    (bytes > MAX_TREE_BYTES).then(|| Finding::new(".", 0, what()))
}

/// Whether text that is valid UTF-8 is data all the same.
pub(super) fn is_binary(text: &str) -> bool {
    text.bytes().take(8192).any(|b| b == 0)
}

/// Rules about any text file: no trailing blanks, no paths of one machine.
///
/// Test data is left as it is: its bytes are the point.
fn text(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if path.contains("/tests/data/") || path.ends_with(".snap") {
        return findings;
    }
    for (index, line) in text.lines().enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(Finding::new(
                path,
                index + 1,
                "blanks at the end of the line",
            ));
        }
        if let Some(folder) = machine_folder(line) {
            let what = format!("'/{folder}/' is a path of one machine");
            findings.push(Finding::new(path, index + 1, what));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(Finding::new(
            path,
            text.lines().count(),
            "no line break at the end",
        ));
    }
    findings
}

/// The folder of an absolute path of one machine in `line`.
fn machine_folder(line: &str) -> Option<&'static str> {
    MACHINE_FOLDERS.iter().copied().find(|folder| {
        line.match_indices(&format!("/{folder}/")).any(|(at, _)| {
            // After a name, a dot, a `~` or a `}` it goes on with another path.
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || "._-~}])/".contains(c))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = list.iter().chain(REQUIRED).map(|s| s.to_string()).collect();
        all.sort();
        all
    }

    #[test]
    fn the_top_level_is_closed() {
        assert_eq!(
            layout(&names(&["gguf/src/lib.rs", ".gitignore", "Cargo.toml"])),
            []
        );
        let findings = layout(&names(&["notes.txt", "tools/a.py", "tools/b.py"]));
        let paths: Vec<&str> = findings.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["notes.txt", "tools"]);
    }

    #[test]
    fn missing_and_empty_documents_are_found() {
        let findings = layout(&["Cargo.toml".to_string()]);
        assert_eq!(findings.len(), REQUIRED.len());
        assert_eq!(
            size("README.md", 0),
            Some(Finding::new("README.md", 0, "is empty"))
        );
        assert_eq!(size("gguf/tests/data/empty.gguf", 0), None);
    }

    #[test]
    fn sizes_have_limits() {
        assert_eq!(size("a.bin", 10 << 20), None);
        assert!(size("a.bin", (10 << 20) + 1).is_some());
        assert_eq!(total(46 << 20), None);
        assert!(total((46 << 20) + 1).is_some());
    }

    #[test]
    fn trailing_blanks_and_missing_ends_are_found() {
        let lines: Vec<usize> = text("a.md", "a \nb\nc\t\r\nd")
            .iter()
            .map(|f| f.line)
            .collect();
        assert_eq!(lines, [1, 3, 4]);
        assert_eq!(text("gguf/tests/data/a.txt", "a \nb"), []);
        assert_eq!(text("a.md", "a\n\nb\n"), []);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let planted = format!("see {}{}{}", "/ro", "ot/", "notes");
        assert_eq!(machine_folder(&planted), Some("root"));
        assert_eq!(
            machine_folder("target/work/x and ~/work/x and /usr/lib"),
            None
        );
        assert_eq!(text("a.md", &format!("{planted}\n")).len(), 1);
    }

    #[test]
    fn data_is_not_text() {
        assert!(is_binary("GGUF\0\0"));
        assert!(!is_binary("text\n"));
    }
}
