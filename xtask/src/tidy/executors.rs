//! The executors know nothing of what compares, times or chooses among them.
//!
//! The table of rooms keeps the tools' types out of `exec`; this rule keeps their ideas out too. A
//! file of `exec`, or a word of its code, that is named for one of them belongs in `tools`.

use super::Finding;
use super::source::Tree;

const FOLDER: &str = "engine/src/exec/";
/// Words that no name may contain.
const TOOLS: &[&str] = &["parity", "tune", "bench"];
/// Named as a module only: a network has gates of its own.
const GATE: &str = "gate";

/// All findings about words of tools in the executors.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, code) in tree.rust(|path| path.starts_with(FOLDER)) {
        let parts = file[FOLDER.len()..].trim_end_matches(".rs").split('/');
        let named = parts.filter(|part| *part == GATE || tool(part).is_some());
        findings.extend(named.map(|part| {
            let what = format!("'{part}' is the name of a tool: it belongs in tools, above exec");
            Finding::new(file, 0, what)
        }));
        let tokens = code.shipped();
        for (at, token) in tokens.iter().enumerate() {
            let text = |at: Option<usize>| at.and_then(|at| tokens.get(at)).map_or("", |t| t.text);
            let (before, after) = (text(at.checked_sub(1)), text(Some(at + 1)));
            let is_module = before == "mod" || before == "::" || after == "::";
            let found = match token.text {
                GATE if is_module => Some(GATE),
                word => tool(word),
            };
            if let Some(tool) = found {
                let what = format!("exec knows no {tool}, and names '{}'", token.text);
                findings.push(Finding::new(file, token.line, what));
            }
        }
    }
    findings
}

/// The tool that a part of `name` is called for: `tune` in `tune`, `TuneOptions` and `for_tune`.
fn tool(name: &str) -> Option<&'static str> {
    let mut spread = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            spread.push('_');
        }
        spread.extend(c.to_lowercase());
    }
    let parts: Vec<&str> = spread.split('_').collect();
    TOOLS.iter().copied().find(|tool| parts.contains(tool))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(path: &str, code: &str) -> Vec<String> {
        let findings = check(&Tree::of(&[(path, code)]));
        findings.iter().map(|f| f.to_string()).collect()
    }

    #[test]
    fn words_of_tools_are_found() {
        let planted = [
            ("use a::gate::Reference;", "gate"),
            ("gate::at_first_use(x);", "gate"),
            ("mod gate;", "gate"),
            ("fn tune() {}", "tune"),
            ("let x = TuneOptions::new();", "tune"),
            ("struct GroupBench;", "bench"),
            ("let parity_rows = 1;", "parity"),
        ];
        for (code, tool) in planted {
            let said = says("engine/src/exec/cuda/a.rs", &format!("//! x\n{code}"));
            let start = format!("engine/src/exec/cuda/a.rs:2: exec knows no {tool}, ");
            assert!(
                said.len() == 1 && said[0].starts_with(&start),
                "{code}: {said:?}"
            );
        }
        assert_eq!(says("engine/src/exec/cuda/tune.rs", "").len(), 1);
        assert_eq!(says("engine/src/exec/gate/a.rs", "").len(), 1);
    }

    #[test]
    fn gates_of_networks_comments_and_other_rooms_are_quiet() {
        let quiet = [
            "fn glu(gate: &[f32]) { f(self.gate, Op::Gate); }",
            "//! The gate runs it; tune::choose measures it.\n// bench",
            "const A: &str = \"gannet bench\";",
            "#[cfg(test)] mod tests { use crate::tools::parity; }",
            "fn benchmark(fortune: Tuner) {}",
        ];
        for code in quiet {
            assert_eq!(says("engine/src/exec/cpu/a.rs", code), [""; 0], "{code}");
        }
        assert_eq!(
            says("engine/src/tools/tune.rs", "use crate::gate::A;"),
            [""; 0]
        );
    }
}
