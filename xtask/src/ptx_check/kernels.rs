//! The kernels to check: the whole library of ptx-gen, for every target it knows.
//!
//! An example of ptx-gen prints them. It is built with the features that the tests build with, so
//! that this program needs none of the crates that it checks, and nothing is compiled twice.

use std::env::consts::EXE_SUFFIX;
use std::process::{Command, Stdio};

use super::assemble::Source;
use crate::workspace;

/// The example that prints the library.
const EXAMPLE: &str = "library";

/// The text of every kernel for every target it exists on; `Err` when our own verifier refuses one.
pub(super) fn all() -> Result<Vec<Source>, String> {
    let build = [
        "build",
        "--workspace",
        "--all-features",
        "--example",
        EXAMPLE,
    ];
    let status = workspace::cargo().args(build).status();
    let status = status.map_err(|e| format!("can't start cargo: {e}"))?;
    if !status.success() {
        return Err(format!("cargo {}: {status}", build.join(" ")));
    }
    let program = format!("debug/examples/{EXAMPLE}{EXE_SUFFIX}");
    let program = workspace::target_dir().join(program);
    let output = Command::new(&program)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    if !output.status.success() {
        return Err(format!("{}: {}", program.display(), output.status));
    }
    let printed = String::from_utf8(output.stdout).map_err(|e| format!("{EXAMPLE}: {e}"))?;
    read(&printed)
}

/// The kernels in what the example prints: a line about each, and then its text.
fn read(printed: &str) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    let mut lines = printed.lines();
    while let Some(line) = lines.next() {
        let wrong = || format!("{EXAMPLE} printed '{line}', not: name, target, bytes, lines");
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, target, shared, count] = fields[..] else {
            return Err(wrong());
        };
        let count: usize = count.parse().map_err(|_| wrong())?;
        let text: Vec<&str> = lines.by_ref().take(count).collect();
        if text.len() < count {
            return Err(format!("{EXAMPLE} stopped within {name} for {target}"));
        }
        sources.push(Source {
            name: name.into(),
            target: target.into(),
            ptx: text.join("\n") + "\n",
            dynamic_shared: shared.parse().map_err(|_| wrong())?,
        });
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_under_their_lines() {
        let found = read("a sm_80 0 2\n.version 7.0\nret;\nb sm_90a 4096 1\nret;\n").unwrap();
        let shown: Vec<(&str, &str, u32, &str)> = found
            .iter()
            .map(|s| (&s.name[..], &s.target[..], s.dynamic_shared, &s.ptx[..]))
            .collect();
        let expected = [
            ("a", "sm_80", 0, ".version 7.0\nret;\n"),
            ("b", "sm_90a", 4096, "ret;\n"),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_stops_short_or_is_no_line_about_a_kernel_is_refused() {
        assert!(
            read("a sm_80 0 2\nret;\n")
                .unwrap_err()
                .contains("stopped within a")
        );
        for line in ["a sm_80 0", "a sm_80 0 x", "a sm_80 x 0", "a  sm_80 0 0"] {
            assert!(read(line).unwrap_err().contains("not: name"), "{line}");
        }
    }
}
