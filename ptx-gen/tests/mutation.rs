//! Do the kernel tests notice when a kernel is wrong? Spoils one statement at a time and runs the
//! launches of the kernel tests on what results.
//!
//! A mutant is *noticed* when the verifier refuses it, the interpreter faults, or a result leaves
//! its tolerance. At least 95 of 100 must be, and the others are listed with the reason why they do
//! no harm in `tests/mutation/survivors.md`; a survivor that is not listed fails the test, and so
//! does a listed one that no longer survives. `GANNET_BLESS=1` rewrites the list but for the
//! reasons, which are yours to find.
//!
//! Every kernel contributes the same number of mutants, drawn by a hash of the kernel, the source
//! line, the instruction and the change: editing a line redraws what stands on it and little else.
//! `GANNET_MUTANTS=500` draws 500 a kernel, prints the survivors and leaves the list alone.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "mutation/families.rs"]
mod families;
#[path = "mutation/mutate.rs"]
mod mutate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::trial::Trial;
use gannet_ptx_gen::interp::{Options, Prepared};
use mutate::{Change, mutant, sites};
use rayon::prelude::*;

/// Mutants of a kernel.
const DRAWN: usize = 16;
/// Of a hundred mutants so many must be noticed.
const LEAST: usize = 95;

/// A mutant that has been drawn.
struct Drawn {
    trial: usize,
    statement: usize,
    change: Change,
    what: String,
    /// File and line, and the line's text.
    at: String,
    text: String,
}

/// How a mutant came out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Refused,
    Failed,
    Survived,
}

/// FNV-1a.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|p| p.bytes().chain([0]));
    bytes.fold(0xCBF2_9CE4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// The crate's sources by line, read once.
#[derive(Default)]
struct Sources(BTreeMap<&'static str, Vec<String>>);

impl Sources {
    fn line(&mut self, file: &'static str, line: u32) -> String {
        let lines = self.0.entry(file).or_insert_with(|| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let text = std::fs::read_to_string(root.join(file))
                .unwrap_or_else(|e| panic!("can't read {file}: {e}"));
            text.lines().map(|l| l.trim().to_owned()).collect()
        });
        lines[line as usize - 1].clone()
    }
}

/// The mutants of a kernel: of each instruction form, line and change one, and of those `count`.
fn draw(trial: usize, kernel: &Trial, count: usize, sources: &mut Sources) -> Vec<Drawn> {
    let kernel = &kernel.kernel;
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    // The lowest hash of each kind.
    let mut kinds: BTreeMap<(String, String, Change), (u64, Drawn)> = BTreeMap::new();
    for site in sites(kernel) {
        let text = sources.line(site.loc.file, site.loc.line);
        let nth = seen.entry((site.what.clone(), text.clone())).or_default();
        *nth += 1;
        for change in site.changes {
            let change_text = change.describe();
            let name = format!("{}, {}", kernel.name, kernel.target);
            let own = hash(&[&name, &site.what, &text, &change_text, &nth.to_string()]);
            let drawn = Drawn {
                trial,
                statement: site.statement,
                change,
                what: site.what.clone(),
                at: site.loc.to_string(),
                text: text.clone(),
            };
            let key = (site.what.clone(), text.clone(), change);
            match kinds.get(&key) {
                Some((other, _)) if *other <= own => {}
                _ => drop(kinds.insert(key, (own, drawn))),
            }
        }
    }
    let mut drawn: Vec<(u64, Drawn)> = kinds.into_values().collect();
    drawn.sort_by_key(|(hash, _)| *hash);
    drawn.into_iter().take(count).map(|(_, d)| d).collect()
}

/// One row of the list of survivors, without its reason.
fn row(trial: &Trial, mutant: &Drawn) -> String {
    // The line's text is what a row is known by; line numbers change with every edit.
    let text = mutant.text.replace('|', "\\|");
    let file = mutant.at.split(':').next().unwrap_or_default();
    let file = file.rsplit('/').next().unwrap_or_default();
    format!(
        "| {}, {} | `{}` | {} | {file}: `{text}` |",
        trial.kernel.name,
        trial.kernel.target,
        mutant.what,
        mutant.change.describe()
    )
}

fn list() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutation/survivors.md")
}

const HEAD: &str = "\
# Mutants that the kernel tests let live

Spoilt kernels that pass all launches of the kernel tests, and why that is no gap in them. Written
by `tests/mutation.rs` under `GANNET_BLESS=1`; the reasons are written by hand.

| kernel | instruction | change | source line | reason |
|---|---|---|---|---|
";

/// Rows of the committed list with their reasons.
fn listed() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(list()).unwrap_or_default();
    let rows = text
        .lines()
        .filter(|l| l.starts_with("| ") && !l.starts_with("| kernel"));
    let split = |row: &str| {
        let end = row.trim_end_matches(" |").rfind(" | ").map(|at| at + 2);
        end.map(|at| {
            (
                row[..at].to_owned(),
                row[at..].trim_end_matches('|').trim().to_owned(),
            )
        })
    };
    rows.filter_map(split).collect()
}

/// Complains where the list does not say what survives, or rewrites it.
fn compare(survivors: &BTreeSet<String>) -> Vec<String> {
    let listed = listed();
    let bless = std::env::var_os("GANNET_BLESS").is_some_and(|v| v == "1");
    let reason = |row: &String| listed.get(row).map_or("", String::as_str);
    if bless {
        let rows = survivors
            .iter()
            .map(|row| format!("{row} {} |\n", reason(row)));
        std::fs::write(list(), HEAD.to_owned() + &rows.collect::<String>()).unwrap();
    }
    let unexplained = survivors.iter().filter(|row| reason(row).is_empty());
    let mut complaints: Vec<String> = unexplained
        .map(|row| format!("no reason why this survives: {row}"))
        .collect();
    let gone = listed
        .keys()
        .filter(|row| !survivors.contains(*row) && !bless);
    complaints.extend(gone.map(|row| format!("no longer survives or no longer drawn: {row}")));
    complaints
}

#[test]
fn mutants_are_noticed() {
    let wanted = std::env::var("GANNET_MUTANTS").ok();
    let count = wanted.as_ref().map_or(DRAWN, |n| n.parse().unwrap());
    let only = std::env::var("GANNET_MUTATE").unwrap_or_default();
    let mut trials = families::all();
    trials.retain(|trial| trial.kernel.name.contains(&only));
    let serial = Options {
        serial: true,
        ..Options::default()
    };
    let steps: Vec<u64> = trials
        .par_iter()
        .map(|trial| {
            let steps = trial.check(&trial.kernel, &serial);
            steps.unwrap_or_else(|why| panic!("{} is wrong as it is: {why}", trial.kernel.name))
        })
        .collect();
    let mut sources = Sources::default();
    let drawn: Vec<Drawn> = (trials.iter().enumerate())
        .flat_map(|(i, trial)| draw(i, trial, count, &mut sources))
        .collect();
    let outcomes: Vec<Outcome> = drawn
        .par_iter()
        .map(|drawn| {
            let trial = &trials[drawn.trial];
            let kernel = mutant(&trial.kernel, drawn.statement, drawn.change);
            // What takes twice as long as the whole original does not end.
            let options = Options {
                max_steps: 2 * steps[drawn.trial] + 1000,
                ..serial.clone()
            };
            if Prepared::new(&kernel).is_err() {
                Outcome::Refused
            } else if trial.check(&kernel, &options).is_err() {
                Outcome::Failed
            } else {
                Outcome::Survived
            }
        })
        .collect();

    let number = |outcome| outcomes.iter().filter(|o| **o == outcome).count();
    let survived = number(Outcome::Survived);
    println!(
        "{} kernels, {} mutants: {} refused, {} failed, {survived} survived",
        trials.len(),
        drawn.len(),
        number(Outcome::Refused),
        number(Outcome::Failed),
    );
    let mut survivors = BTreeSet::new();
    for (drawn, _) in drawn
        .iter()
        .zip(&outcomes)
        .filter(|(_, o)| **o == Outcome::Survived)
    {
        println!(
            "survived at {}: {}",
            drawn.at,
            row(&trials[drawn.trial], drawn)
        );
        survivors.insert(row(&trials[drawn.trial], drawn));
    }
    let noticed = drawn.len() - survived;
    assert!(
        100 * noticed >= LEAST * drawn.len(),
        "only {noticed} of {} mutants are noticed",
        drawn.len()
    );
    if wanted.is_none() && only.is_empty() {
        assert!(drawn.len() >= 200, "only {} mutants", drawn.len());
        let complaints = compare(&survivors);
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }
}
