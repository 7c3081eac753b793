//! Blocks of `console`: commands, and what they print.

/// A command of a page and the lines below it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) expected: Vec<String>,
}

/// The commands of a page, in order.
pub(crate) fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_console = false;
    for (index, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            is_console = !is_console && line == "```console";
            continue;
        }
        if !is_console {
            continue;
        }
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step {
                line: index + 1,
                command: command.to_owned(),
                expected: Vec::new(),
            }),
            (None, Some(step)) => step.expected.push(line.to_owned()),
            (None, None) => panic!("line {}: output of no command", index + 1),
        }
    }
    steps
}

/// Whether lines are what was expected: `...` alone is any number of lines, and inside a line any text.
pub(crate) fn fits(expected: &[String], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((any, after)), _) if any == "..." => {
            (0..=lines.len()).any(|skipped| fits(after, &lines[skipped..]))
        }
        (Some(_), None) => false,
        (Some((first, after)), Some((line, rest))) => fits_line(first, line) && fits(after, rest),
    }
}

fn fits_line(expected: &str, line: &str) -> bool {
    let mut parts = expected.split("...");
    let Some(mut rest) = parts.next().and_then(|start| line.strip_prefix(start)) else {
        return false;
    };
    let mut is_open = false;
    for part in parts {
        is_open = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    is_open || rest.is_empty()
}

#[test]
fn blocks_are_read() {
    let page = "text\n```sh\n$ not this\n```\n```console\n$ a b\nout\n$ c\n```\n";
    let step = |line, command: &str, expected: &[&str]| Step {
        line,
        command: command.to_owned(),
        expected: expected.iter().map(|&e| e.to_owned()).collect(),
    };
    assert_eq!(steps(page), [step(6, "a b", &["out"]), step(8, "c", &[])]);
}

#[test]
fn outputs_fit_or_do_not() {
    let fits = |expected: &[&str], lines: &[&str]| {
        let expected: Vec<String> = expected.iter().map(|&e| e.to_owned()).collect();
        fits(&expected, lines)
    };
    assert!(fits(&["a", "...", "b"], &["a", "x", "y", "b"]));
    assert!(fits(&["..."], &[]));
    assert!(fits(&["{...\"b\"..."], &["{\"a\", \"b\"}"]));
    assert!(fits(&["a...c"], &["abc"]));
    for (expected, lines) in [
        (&["a"][..], &["a", "b"][..]),
        (&["a"], &[]),
        (&[], &["a"]),
        (&["a...c"], &["abd"]),
        (&["a...c"], &["abcd"]),
        (&["b..."], &["ab"]),
    ] {
        assert!(!fits(expected, lines), "{expected:?} {lines:?}");
    }
}
