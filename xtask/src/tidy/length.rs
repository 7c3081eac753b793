//! How long files may be.
//!
//! A file of logic is read in one sitting, its tests included. A table may be longer, where the
//! list here says why; a file that is short again leaves the list.

use super::Finding;
use super::source::Tree;

/// Longest file of logic.
const MAX_LINES: usize = 500;
/// Longest file under `tests/`, where cases pile up.
const MAX_TEST_LINES: usize = 600;
/// Files that may be longer, and why.
const TABLES: &[(&str, &str)] = &[(
    "ptx-gen/src/table.rs",
    "one row an instruction form, and nothing else",
)];
/// Pages that stay short enough to be read, with their longest length.
const PAGES: &[(&str, usize)] = &[("ARCHITECTURE.md", 150)];

/// All findings about lengths.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter() {
        let (path, Some(text)) = (&file.path, &file.text) else {
            continue;
        };
        let lines = text.lines().count();
        let Some(most) = most(path) else { continue };
        let is_table = TABLES.iter().any(|(table, _)| table == path);
        if lines > most && !is_table {
            let what = format!("{lines} lines, {most} at most");
            findings.push(Finding::new(path, 0, what));
        }
        if lines <= most && is_table {
            let what =
                format!("{lines} lines: take it out of the list in xtask/src/tidy/length.rs");
            findings.push(Finding::new(path, 0, what));
        }
    }
    findings
}

/// The most lines that the file at `path` may have.
fn most(path: &str) -> Option<usize> {
    let page = PAGES.iter().find(|(page, _)| *page == path);
    let of_code = || match path.split('/').any(|part| part == "tests") {
        true => MAX_TEST_LINES,
        false => MAX_LINES,
    };
    let is_code = path.ends_with(".rs");
    page.map(|(_, most)| *most)
        .or_else(|| is_code.then(of_code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(path: &str, lines: usize) -> Vec<String> {
        let text = "x\n".repeat(lines);
        let findings = check(&Tree::of(&[(path, &text)]));
        findings.iter().map(|f| f.to_string()).collect()
    }

    #[test]
    fn a_line_too_many_is_found() {
        let limits = [
            ("engine/src/a.rs", 500),
            ("engine/src/tests.rs", 500),
            ("ptx-gen/tests/common/a.rs", 600),
            ("ARCHITECTURE.md", 150),
        ];
        for (path, most) in limits {
            assert_eq!(says(path, most), [""; 0]);
            let expected = format!("{path}: {} lines, {most} at most", most + 1);
            assert_eq!(says(path, most + 1), [expected]);
        }
        assert_eq!(says("README.md", 700), [""; 0]);
    }

    #[test]
    fn tables_may_be_long_and_only_they_are_listed() {
        let (table, _) = TABLES[0];
        assert_eq!(says(table, 800), [""; 0]);
        assert!(says(table, 500)[0].contains("take it out of the list"));
    }
}
