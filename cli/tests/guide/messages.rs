//! What the guide quotes stands in the sources, and what the sources say stands in the guide.

use std::path::Path;

use super::{folder, pages};

/// A part of a message that is too short to be looked for.
const SHORT: usize = 8;

/// All Rust sources of the crates, with the line breaks inside their strings taken out.
fn sources(folders: &[&str]) -> String {
    let mut text = String::new();
    for name in folders {
        collect(&folder(name), &mut text);
    }
    joined(&text)
}

fn collect(path: &Path, text: &mut String) {
    if path.is_file() {
        if path.extension().is_some_and(|e| e == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
        return;
    }
    let mut entries: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries {
        collect(&entry, text);
    }
}

/// Strings that go on in the next line, in one.
fn joined(source: &str) -> String {
    let mut text = String::new();
    let mut lines = source.lines();
    let mut goes_on = false;
    for line in &mut lines {
        let line = if goes_on { line.trim_start() } else { line };
        goes_on = line.ends_with('\\');
        match line.strip_suffix('\\') {
            Some(line) => text.push_str(line),
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

fn troubleshooting() -> String {
    let pages = pages();
    let page = pages
        .into_iter()
        .find(|(name, _)| name == "troubleshooting.md");
    page.unwrap().1
}

/// Texts between backticks of the first column of the page's tables, and of its list of messages.
fn quoted(page: &str) -> Vec<String> {
    let mut quoted = Vec::new();
    for line in page.lines() {
        let shown = match line.strip_prefix("| ") {
            Some(row) => row.split(" |").next().unwrap_or(row),
            None if line.starts_with('`') => line,
            None => continue,
        };
        quoted.extend(shown.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    quoted
}

#[test]
fn quoted_messages_are_those_of_the_sources() {
    let sources = sources(&["src", "../engine/src", "../gguf/src", "../cuda-runtime/src"]);
    let quoted = quoted(&troubleshooting());
    assert!(quoted.len() > 50, "{}", quoted.len());
    for message in quoted.iter().filter(|m| m.contains(' ')) {
        for part in message.split("...").map(str::trim) {
            let part = part.trim_end_matches(')');
            let is_known = part.len() < SHORT || sources.contains(part);
            assert!(is_known, "`{message}`: no source says {part:?}");
        }
    }
}

/// Messages of error types: by some of their parts that are no names or numbers.
#[test]
fn every_error_is_in_the_guide() {
    let page = troubleshooting();
    let files = [
        "../engine/src/error.rs",
        "../engine/src/text",
        "../engine/src/files",
        "../gguf/src/error.rs",
        "../cuda-runtime/src/error.rs",
    ];
    let sources = sources(&files);
    let (mut seen, mut missing) = (0, Vec::new());
    for attribute in sources.split("#[error(").skip(1) {
        let Some((_, text)) = attribute
            .split_once('"')
            .filter(|(before, _)| before.trim().is_empty())
        else {
            continue;
        };
        let end = text.find('"').unwrap();
        let parts = text[..end].split(['{', '}']).step_by(2).map(str::trim);
        let mut parts = parts.filter(|part| part.len() >= SHORT).peekable();
        seen += 1;
        // What a message says at length may be quoted by its beginning.
        let beginning = |part: &str| part.chars().take(24).collect::<String>();
        let is_told = |part: &str| page.contains(beginning(part).trim_end());
        if parts.peek().is_some() && !parts.any(is_told) {
            missing.push(text[..end].to_owned());
        }
    }
    assert!(
        missing.is_empty(),
        "troubleshooting.md does not have {missing:#?}"
    );
    assert!(seen > 40, "{seen}");
}

#[test]
fn every_code_of_the_server_is_in_the_guide() {
    let page = troubleshooting();
    let sources = sources(&["src/server"]);
    let of = |before: &str| -> Vec<String> {
        let rest = sources.split(before).skip(1);
        let codes = rest.map(|rest| rest.split('"').next().unwrap_or(rest).to_owned());
        codes.collect()
    };
    let codes = [
        of(".code(\""),
        of("unavailable(\""),
        of("unavailable(\n        \""),
    ]
    .concat();
    assert!(codes.len() > 10, "{codes:?}");
    for code in codes {
        assert!(
            page.contains(&format!("`{code}`")),
            "troubleshooting.md does not have {code}"
        );
    }
}

#[test]
fn the_guide_has_the_routes_of_the_server_and_no_others() {
    let pages = pages();
    let (_, page) = pages.iter().find(|(name, _)| name == "server.md").unwrap();
    let sources = sources(&["src/server"]);
    let rest = sources.split(".route(\"").skip(1);
    let mut routes: Vec<&str> = rest.filter_map(|rest| rest.split('"').next()).collect();
    assert!(routes.len() > 10, "{routes:?}");
    let (_, table) = page.split_once("| path | whose |\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let mut told: Vec<&str> = (table.split('`').skip(1).step_by(2))
        .filter(|path| path.starts_with('/'))
        .collect();
    // The page is told of above the table.
    assert!(page.contains("model at `/`"));
    routes.retain(|route| *route != "/");
    routes.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, routes);
}
