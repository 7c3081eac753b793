//! What every kernel cost when somebody last looked: `xtask/ptx-baseline.tsv`.
//!
//! The file makes a change of cost a line in a review. It holds one line a kernel and target, in
//! order of the text, and belongs to one release of ptxas, which its first line names: another
//! release allots other registers, and its figures say nothing about a change of ours.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::workspace;

/// Where the file is, for messages.
pub(super) const NAME: &str = "xtask/ptx-baseline.tsv";

const COLUMNS: [&str; 6] = [
    "kernel",
    "target",
    "registers",
    "spills",
    "shared",
    "instructions",
];

/// What a kernel costs on a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    /// Registers a thread.
    pub(super) registers: u32,
    /// Bytes of spill stores plus spill loads a thread.
    pub(super) spills: u32,
    /// Bytes of shared memory a block, static and dynamic.
    pub(super) shared: u32,
    /// Machine instructions, with the padding at the end.
    pub(super) instructions: u32,
}

/// Costs by (kernel, target).
pub(super) type Costs = BTreeMap<(String, String), Cost>;

/// The file's content.
#[derive(Debug, PartialEq)]
pub(super) struct Baseline {
    /// The release of ptxas that the figures are of: `13.0.88`.
    pub(super) version: String,
    pub(super) costs: Costs,
}

/// What of two costs is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Compare {
    /// Every figure.
    All,
    /// Spills, which no release of ptxas should need.
    Spills,
}

impl Baseline {
    pub(super) fn read() -> Result<Baseline, String> {
        let text =
            std::fs::read_to_string(path()).map_err(|e| format!("{NAME}: {e}; {}", hint()))?;
        Baseline::parse(&text).map_err(|line| format!("{NAME}:{line}: not as written; {}", hint()))
    }

    pub(super) fn write(&self) -> Result<(), String> {
        std::fs::write(path(), self.text()).map_err(|e| format!("{NAME}: {e}"))
    }

    fn text(&self) -> String {
        let mut text = format!("# ptxas {}\n{}\n", self.version, COLUMNS.join("\t"));
        for (key, cost) in &self.costs {
            text.push_str(&fields(key, cost).join("\t"));
            text.push('\n');
        }
        text
    }

    /// `Err` holds the number of the first line that this module would not have written.
    fn parse(text: &str) -> Result<Baseline, usize> {
        let mut lines = text.lines();
        let version = lines.next().and_then(|l| l.strip_prefix("# ptxas "));
        let version = version.ok_or(1_usize)?.to_string();
        if lines.next() != Some(&COLUMNS.join("\t")) {
            return Err(2);
        }
        let mut costs = Costs::new();
        for (index, line) in lines.enumerate() {
            let (key, cost) = parse_row(line).ok_or(index + 3)?;
            if costs.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(index + 3);
            }
            costs.insert(key, cost);
        }
        Ok(Baseline { version, costs })
    }
}

fn parse_row(line: &str) -> Option<((String, String), Cost)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [kernel, target, registers, spills, shared, instructions] = fields[..] else {
        return None;
    };
    let cost = Cost {
        registers: registers.parse().ok()?,
        spills: spills.parse().ok()?,
        shared: shared.parse().ok()?,
        instructions: instructions.parse().ok()?,
    };
    Some(((kernel.to_string(), target.to_string()), cost))
}

fn path() -> PathBuf {
    workspace::root().join(NAME)
}

/// What to do about a difference that is meant.
pub(super) fn hint() -> &'static str {
    "`cargo xtask bless` writes the file anew"
}

/// All costs, aligned, a row a kernel and target.
pub(super) fn table(costs: &Costs) -> String {
    let rows: Vec<_> = costs.iter().map(|(k, c)| (' ', k, c)).collect();
    aligned(&rows)
}

/// The rows that differ, `-` for the baseline's and `+` for today's; empty when none do.
///
/// A kernel that only one side has differs, under either `compare`.
pub(super) fn differences(baseline: &Costs, today: &Costs, compare: Compare) -> String {
    let same = |a: &Cost, b: &Cost| match compare {
        Compare::All => a == b,
        Compare::Spills => a.spills == b.spills,
    };
    let mut keys: Vec<_> = baseline.keys().chain(today.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut rows = Vec::new();
    for key in keys {
        let (before, after) = (baseline.get(key), today.get(key));
        if let (Some(before), Some(after)) = (before, after)
            && same(before, after)
        {
            continue;
        }
        rows.extend(before.map(|cost| ('-', key, cost)));
        rows.extend(after.map(|cost| ('+', key, cost)));
    }
    aligned(&rows)
}

/// Rows under a heading, each behind its mark; nothing for no rows.
fn aligned(rows: &[(char, &(String, String), &Cost)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let width = rows.iter().map(|(_, (kernel, _), _)| kernel.len()).max();
    let width = width.unwrap_or(0).max(COLUMNS[0].len());
    let heading = COLUMNS.map(str::to_string);
    let lines = rows.iter().map(|(mark, k, c)| (*mark, fields(k, c)));
    let mut text = String::new();
    for (mark, [kernel, target, registers, spills, shared, instructions]) in
        std::iter::once((' ', heading)).chain(lines)
    {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{mark} {kernel:<width$}  {target:<6} {registers:>9} {spills:>7} {shared:>7} \
             {instructions:>12}"
        );
    }
    text
}

/// The columns of the row of a kernel on a target.
fn fields(key: &(String, String), cost: &Cost) -> [String; 6] {
    let (kernel, target) = key;
    [
        kernel.clone(),
        target.clone(),
        cost.registers.to_string(),
        cost.spills.to_string(),
        cost.shared.to_string(),
        cost.instructions.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Costs from `kernel target registers spills shared instructions` rows.
    fn costs(rows: &[&str]) -> Costs {
        let row = |row: &&str| parse_row(&row.replace(' ', "\t")).unwrap();
        rows.iter().map(row).collect()
    }

    #[test]
    fn the_committed_file_is_as_written() {
        let text = std::fs::read_to_string(path()).unwrap();
        assert_eq!(Baseline::parse(&text).unwrap().text(), text);
    }

    #[test]
    fn lines_that_nobody_wrote_are_named() {
        let head = "# ptxas 13.0.88\nkernel\ttarget\tregisters\tspills\tshared\tinstructions\n";
        let row = "add\tsm_75\t10\t0\t0\t24\n";
        assert!(Baseline::parse(&format!("{head}{row}")).is_ok());
        assert_eq!(Baseline::parse(&format!("{head}{row}{row}")), Err(4));
        assert_eq!(Baseline::parse(&format!("{head}add\tsm_75\t1\n")), Err(3));
        let negative = row.replace("10", "-1");
        assert_eq!(Baseline::parse(&format!("{head}{negative}")), Err(3));
        assert_eq!(Baseline::parse(row), Err(1));
        assert_eq!(Baseline::parse(""), Err(1));
    }

    #[test]
    fn changed_missing_and_stale_rows_are_listed() {
        let before = costs(&[
            "add sm_75 10 0 0 24",
            "gemm sm_80 80 0 4096 900",
            "old sm_80 9 0 0 8",
        ]);
        let after = costs(&[
            "add sm_75 10 0 0 24",
            "gemm sm_80 82 0 4096 896",
            "new sm_80 9 0 0 8",
        ]);
        let expected = "\
\x20 kernel  target registers  spills  shared instructions
- gemm    sm_80         80       0    4096          900
+ gemm    sm_80         82       0    4096          896
+ new     sm_80          9       0       0            8
- old     sm_80          9       0       0            8
";
        assert_eq!(differences(&before, &after, Compare::All), expected);
        assert_eq!(differences(&before, &before, Compare::All), "");
    }

    #[test]
    fn another_release_is_held_to_spills_alone() {
        let before = costs(&["a sm_75 10 0 0 24", "b sm_75 10 0 0 24"]);
        let after = costs(&["a sm_75 12 0 0 32", "b sm_75 10 8 0 24"]);
        let expected = "\
\x20 kernel  target registers  spills  shared instructions
- b       sm_75         10       0       0           24
+ b       sm_75         10       8       0           24
";
        assert_eq!(differences(&before, &after, Compare::Spills), expected);
    }
}
