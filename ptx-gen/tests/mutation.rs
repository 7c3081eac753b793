//! Do the kernel tests notice when a kernel is wrong? Spoils one statement at a time and runs the
//! launches of the kernel tests on what results.
//!
//! A mutant is *noticed* when the verifier refuses it, the interpreter faults, or a result leaves
//! its tolerance. At least 95 of 100 must be, and the others are listed with the reason why they do
//! no harm in `tests/mutation/survivors/`, a table for each source file, in folders as the sources. A survivor that is not
//! listed fails the test.
//!
//! Every statement of every kernel is spoilt in every way that [`mutate`] knows. Of copies (what a
//! loop of the builder writes out: the same instruction of the same source line with the same
//! constants) the first one stands for all. Of these mutants, a run takes one in [`SHARE`]: those
//! whose identity (kernel, source line, instruction, constants, change) hashes to a multiple of it.
//! Nothing else decides, least of all whether they are noticed, so that the share is a fair sample,
//! and the same one until a kernel's text changes.
//!
//! In the environment:
//!
//! - `GANNET_MUTANTS=all` takes all mutants. Then a listed survivor that no longer survives fails
//!   the test, too.
//! - `GANNET_BLESS=1` with it rewrites the lists but for the reasons, which are yours to find.
//! - `GANNET_MUTATE=rope` mutates only the kernels with that in their names, and looks only at the
//!   lists of source files with that in theirs (`attention_flash` is in that of `attention/flash.rs`).
//! - `GANNET_TIMES=1` prints what each kernel's mutants cost.
//! - `GANNET_PROVE=1` asks the prover about all mutants: survivors that [`equivalent`] proves to be
//!   the same program are no mutants, and it must never call one the same that the launches notice.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "mutation/costs.rs"]
mod costs;
#[path = "mutation/equivalent.rs"]
mod equivalent;
#[path = "mutation/families.rs"]
mod families;
#[path = "mutation/mutate.rs"]
mod mutate;
#[path = "mutation/rules.rs"]
mod rules;
#[path = "mutation/siblings.rs"]
mod siblings;
#[path = "mutation/survivors.rs"]
mod survivors;
#[path = "mutation/values.rs"]
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::trial::Trial;
use costs::Launched;
use equivalent::Prover;
use gannet_ptx_gen::interp::Prepared;
use gannet_ptx_gen::ir::Loc;
use mutate::{Change, mutant, sites};
use rayon::prelude::*;
use survivors::{Key, Row, Scope};

/// Of a hundred mutants so many must be noticed.
const LEAST: usize = 95;
/// One mutant in so many runs by default.
const SHARE: u64 = 6;

/// A kernel to spoil.
struct Mutant {
    trial: usize,
    statement: usize,
    change: Change,
    what: String,
    constants: Vec<(usize, u64)>,
    loc: Loc,
}

/// How a mutant came out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Refused,
    Failed,
    Survived,
    /// It does provably the same: no mistake, and not counted.
    Same,
}

/// The crate's sources by line, read once.
#[derive(Default)]
struct Sources(BTreeMap<&'static str, Vec<String>>);

impl Sources {
    fn line(&mut self, loc: Loc) -> &str {
        let lines = self.0.entry(loc.file).or_insert_with(|| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let text = std::fs::read_to_string(root.join(loc.file)).unwrap_or_else(|e| {
                panic!(
                    "a line of {}? Builders want closures for iterators, not methods: {e}",
                    loc.file
                )
            });
            text.lines().map(|l| l.trim().to_owned()).collect()
        });
        &lines[loc.line as usize - 1]
    }

    fn key(&mut self, mutant: &Mutant) -> Key {
        let path = mutant.loc.file.replace('\\', "/");
        let below = path.split_once("src/").map_or(&*path, |(_, below)| below);
        let file = below.trim_start_matches("kernels/").trim_end_matches(".rs");
        Key {
            file: file.to_owned(),
            text: self.line(mutant.loc).to_owned(),
            what: mutant.what.clone(),
        }
    }
}

/// The mutants of a kernel, one of each kind.
fn mutants(trial: usize, kernel: &Trial) -> Vec<Mutant> {
    let mut seen = BTreeSet::new();
    let mut mutants = Vec::new();
    for site in sites(&kernel.kernel) {
        for &change in &site.changes {
            let what = site.what.clone();
            let line = (site.loc.file, site.loc.line);
            if seen.insert((line, what.clone(), site.constants.clone(), change)) {
                mutants.push(Mutant {
                    trial,
                    statement: site.statement,
                    change,
                    what,
                    constants: site.constants.clone(),
                    loc: site.loc,
                });
            }
        }
    }
    mutants
}

/// Whether a mutant belongs to the share that runs by default.
fn is_drawn(kernel: &str, text: &str, mutant: &Mutant) -> bool {
    let Mutant {
        what,
        constants,
        change,
        ..
    } = mutant;
    let identity = format!("{kernel}: {text}: {what} {constants:?}: {change:?}");
    // FNV-1a, whose high bits are the better mixed ones.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = identity.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    (hash >> 32).is_multiple_of(SHARE)
}

fn try_out(trial: &Trial, launched: &[Launched], mutant_: &Mutant) -> Outcome {
    let kernel = mutant(&trial.kernel, mutant_.statement, mutant_.change);
    match Prepared::new(&kernel) {
        Err(_) => Outcome::Refused,
        Ok(kernel) if costs::fails(trial, launched, &kernel) => Outcome::Failed,
        Ok(_) => Outcome::Survived,
    }
}

/// Finds the survivors that are no mistakes.
fn sorted_out(trials: &[Trial], mutants: &[Mutant], mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let all = is_set("GANNET_PROVE", "1");
    let mut of_trial = vec![Vec::new(); trials.len()];
    for (i, mutant) in mutants.iter().enumerate() {
        if all || outcomes[i] == Outcome::Survived {
            of_trial[mutant.trial].push(i);
        }
    }
    let same: Vec<usize> = of_trial
        .into_par_iter()
        .enumerate()
        .filter(|(_, numbers)| !numbers.is_empty())
        .flat_map_iter(|(trial, numbers)| {
            let kernel = &trials[trial].kernel;
            let mut prover = Prover::new(kernel);
            numbers.into_iter().filter(move |i| {
                let Mutant {
                    statement, change, ..
                } = mutants[*i];
                prover.is_same(&mutant(kernel, statement, change))
            })
        })
        .collect();
    for i in same {
        let found = std::mem::replace(&mut outcomes[i], Outcome::Same);
        let Mutant { loc, change, .. } = mutants[i];
        assert!(
            found == Outcome::Survived,
            "the prover is wrong about {loc}: {}",
            change.describe()
        );
    }
    outcomes
}

fn is_set(variable: &str, wanted: &str) -> bool {
    std::env::var_os(variable).is_some_and(|v| v == wanted)
}

/// What survives, by the rows of the lists.
fn rows(
    trials: &[Trial],
    mutants: &[Mutant],
    outcomes: &[Outcome],
    sources: &mut Sources,
) -> BTreeMap<Key, Row> {
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    for (mutant, outcome) in mutants.iter().zip(outcomes) {
        let row = rows.entry(sources.key(mutant)).or_default();
        row.of.insert(mutant.trial);
        if *outcome == Outcome::Survived {
            let kernel = &trials[mutant.trial].kernel;
            let (name, change) = (&kernel.name, mutant.change.describe());
            let text = sources.line(mutant.loc);
            println!(
                "survived at {}: {name}: {}: {change}: {text}",
                mutant.loc, mutant.what
            );
            row.changes.insert(change);
            row.kernels.insert(mutant.trial);
            let line = mutant.loc.line;
            row.line = if row.line == 0 {
                line
            } else {
                row.line.min(line)
            };
        }
    }
    rows.retain(|_, row| !row.kernels.is_empty());
    rows
}

#[test]
fn mutants_are_noticed() {
    let scope = Scope {
        only: std::env::var("GANNET_MUTATE").unwrap_or_default(),
        whole: is_set("GANNET_MUTANTS", "all"),
        bless: is_set("GANNET_BLESS", "1"),
    };
    let mut trials = families::all();
    trials.retain(|trial| trial.kernel.name.contains(&scope.only));
    let launched: Vec<Vec<Launched>> = trials.par_iter().map(costs::launched).collect();
    let mut mutants: Vec<Mutant> = (trials.iter().enumerate())
        .flat_map(|(i, trial)| mutants(i, trial))
        .collect();
    let mut sources = Sources::default();
    let all = mutants.len();
    if !scope.whole {
        mutants.retain(|mutant| {
            let text = sources.line(mutant.loc);
            is_drawn(&trials[mutant.trial].kernel.name, text, mutant)
        });
    }
    let (outcomes, times): (Vec<Outcome>, Vec<f64>) = mutants
        .par_iter()
        .map(|mutant| {
            let (trial, launched) = (&trials[mutant.trial], &launched[mutant.trial]);
            costs::timed(|| try_out(trial, launched, mutant))
        })
        .unzip();
    if is_set("GANNET_TIMES", "1") {
        let tried = mutants.iter().map(|m| m.trial).zip(times);
        costs::print(&trials, &launched, tried);
    }

    let outcomes = sorted_out(&trials, &mutants, outcomes);
    let number = |outcome| outcomes.iter().filter(|o| **o == outcome).count();
    let survived = number(Outcome::Survived);
    let same = number(Outcome::Same);
    let mistakes = mutants.len() - same;
    let noticed = mistakes - survived;
    println!(
        "{} kernels, {} of {all} changes; {same} change nothing, {mistakes} mutants: {} refused, \
         {} failed, {survived} survived: {:.2}% noticed",
        trials.len(),
        mutants.len(),
        number(Outcome::Refused),
        number(Outcome::Failed),
        100.0 * noticed as f64 / mistakes as f64
    );
    let rows = rows(&trials, &mutants, &outcomes, &mut sources);
    let complaints = survivors::compare(&rows, &scope);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(
        100 * noticed >= LEAST * mistakes,
        "only {noticed} of {mistakes} mutants are noticed"
    );
    if scope.only.is_empty() {
        assert!(all >= 10_000, "only {all} mutants");
        let share = if scope.whole { 1 } else { SHARE as usize };
        let fair = all / share;
        assert!(
            mutants.len().abs_diff(fair) <= fair / 10,
            "{} of {all} mutants are no fair share",
            mutants.len()
        );
    }
}
