//! The lists of survivors: a table for each source file of kernels, with the reason why each spoilt
//! statement does no harm.
//!
//! A row stands for the changes of one instruction on one source line. Rows are known by the text
//! of the line, since its number changes with every edit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Stands before a reason under whose row something new survives, until someone has looked.
const STALE: &str = "?? ";

/// What a row is known by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// The file's path below the sources (of kernels, below theirs), without its extension.
    pub(crate) file: String,
    /// The source line, trimmed.
    pub(crate) text: String,
    /// The instruction without its operands.
    pub(crate) what: String,
}

/// What a run looks at.
pub(crate) struct Scope {
    /// Only kernels and lists with this in their names, where a list's folder is part of its name.
    pub(crate) only: String,
    /// All mutants run, not only the share: the lists can be found too long.
    pub(crate) whole: bool,
    /// The lists are rewritten, if the run is whole.
    pub(crate) bless: bool,
}

/// What survives of a row's mutants.
#[derive(Default)]
pub(crate) struct Row {
    /// The lowest line with this text: where the row stands in the table.
    pub(crate) line: u32,
    /// The changes that some kernel survives.
    pub(crate) changes: BTreeSet<String>,
    /// The kernels that survive one of them.
    pub(crate) kernels: BTreeSet<usize>,
    /// The kernels in which this instruction was spoilt.
    pub(crate) of: BTreeSet<usize>,
}

/// A row as it is written in a list.
#[derive(PartialEq, Eq)]
struct Listed {
    changes: BTreeSet<String>,
    kernels: String,
    reason: String,
}

fn head(file: &str) -> String {
    format!(
        "\
# Mutants of `{file}.rs` that the kernel tests let live

Written by `tests/mutation.rs` under `GANNET_BLESS=1 GANNET_MUTANTS=all`, but for the reasons: why
the spoilt kernel is right all the same, or what this test cannot see.

| source line | instruction | changes | kernels | reason |
|---|---|---|---|---|
"
    )
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutation/survivors")
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The cells of a line of a table; `None` for other lines.
fn cells(line: &str) -> Option<[String; 5]> {
    let line = line.strip_prefix('|')?.strip_suffix('|')?;
    let plain = line.replace("\\|", "\u{1}");
    let cells = plain.split('|').map(|c| c.trim().replace('\u{1}', "|"));
    cells.collect::<Vec<_>>().try_into().ok()
}

/// The rows of all committed lists.
fn listed() -> BTreeMap<Key, Listed> {
    let mut rows = BTreeMap::new();
    for path in files(&folder()) {
        let file = name(&path);
        let text = std::fs::read_to_string(&path).unwrap();
        for [text, what, changes, kernels, reason] in text.lines().filter_map(cells) {
            let (Some(text), Some(what)) = (code(&text), code(&what)) else {
                continue;
            };
            let file = file.clone();
            let changes = changes.split("; ").map(str::to_owned).collect();
            let row = Listed {
                changes,
                kernels,
                reason,
            };
            rows.insert(Key { file, text, what }, row);
        }
    }
    rows
}

/// What stands between backticks.
fn code(cell: &str) -> Option<String> {
    Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned())
}

/// Every list below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false if path.extension().is_some_and(|e| e == "md") => found.push(path),
            false => {}
        }
    }
    found
}

/// What a list's keys have for [`Key::file`].
fn name(list: &Path) -> String {
    let below = list.strip_prefix(folder()).unwrap().with_extension("");
    below.to_string_lossy().replace('\\', "/")
}

impl Scope {
    /// Whether a source file is looked at; folders count as the start of its name.
    fn covers(&self, file: &str) -> bool {
        file.replace('/', "_").contains(&self.only)
    }
}

/// Complains where the lists do not say what survives, after having rewritten them if so asked.
pub(crate) fn compare(survivors: &BTreeMap<Key, Row>, scope: &Scope) -> Vec<String> {
    let in_scope = |key: &Key| scope.covers(&key.file);
    let survivors: BTreeMap<&Key, &Row> = survivors.iter().filter(|(k, _)| in_scope(k)).collect();
    let mut listed = listed();
    listed.retain(|key, _| in_scope(key));
    if scope.bless && scope.whole {
        let mut known = std::mem::take(&mut listed);
        for (key, row) in &survivors {
            let old = known.remove(key);
            let reason = old.map_or(String::new(), |old| {
                let new = !row.changes.is_subset(&old.changes) && !old.reason.is_empty();
                let stale = new && !old.reason.starts_with(STALE);
                (if stale { STALE } else { "" }).to_owned() + &old.reason
            });
            listed.insert((*key).clone(), written(row, reason));
        }
        write(&survivors, &listed, scope);
    }
    let mut complaints = Vec::new();
    for (key, row) in &survivors {
        let at = format!("{}.rs, `{}`: {}", key.file, key.text, key.what);
        // A share of a row's mutants tells only some of its changes and kernels.
        let same = |old: &Listed| match scope.whole {
            true => *old == written(row, old.reason.clone()),
            false => row.changes.is_subset(&old.changes),
        };
        match listed.get(key) {
            None => complaints.push(format!("survives, but is not listed: {at}")),
            Some(old) if old.reason.is_empty() => {
                complaints.push(format!("survives without a reason: {at}"));
            }
            Some(old) if old.reason.starts_with(STALE) => complaints.push(format!(
                "more survives; is the reason still the right one? {at}"
            )),
            Some(old) if !same(old) => {
                complaints.push(format!("survives otherwise than listed: {at}"));
            }
            Some(_) => {}
        }
    }
    let gone = |key: &&Key| scope.whole && !survivors.contains_key(key);
    complaints.extend(listed.keys().filter(gone).map(|key| {
        let Key { file, text, what } = key;
        format!("listed, but does not survive: {file}.rs, `{text}`: {what}")
    }));
    complaints
}

fn written(row: &Row, reason: String) -> Listed {
    Listed {
        changes: row.changes.clone(),
        kernels: format!("{} of {}", row.kernels.len(), row.of.len()),
        reason,
    }
}

fn write(survivors: &BTreeMap<&Key, &Row>, listed: &BTreeMap<Key, Listed>, scope: &Scope) {
    let mut tables: BTreeMap<&str, Vec<(u32, &Key)>> = BTreeMap::new();
    for (key, row) in survivors {
        tables.entry(&key.file).or_default().push((row.line, key));
    }
    let old = files(&folder()).into_iter();
    old.filter(|path| scope.covers(&name(path)))
        .for_each(|path| std::fs::remove_file(path).unwrap());
    for (file, mut keys) in tables {
        keys.sort();
        let mut text = head(file);
        for (_, key) in keys {
            let row = &listed[key];
            let changes: Vec<&str> = row.changes.iter().map(String::as_str).collect();
            text += &format!(
                "| `{}` | `{}` | {} | {} | {} |\n",
                escaped(&key.text),
                key.what,
                changes.join("; "),
                row.kernels,
                escaped(&row.reason)
            );
        }
        let path = folder().join(format!("{file}.md"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}
