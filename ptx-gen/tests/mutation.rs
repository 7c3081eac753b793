//! Do the kernel tests notice when a kernel is wrong? Spoils one statement at a time and runs the
//! launches of the kernel tests on what results.
//!
//! A mutant is *noticed* when the verifier refuses it, the interpreter faults, or a result leaves
//! its tolerance. At least 95 of 100 must be, and the others are listed with the reason why they do
//! no harm in `tests/mutation/survivors/`, a table for each source file; a survivor that is not
//! listed fails the test, and so does a listed one that no longer survives. `GANNET_BLESS=1`
//! rewrites the lists but for the reasons, which are yours to find.
//!
//! Every statement of every kernel is spoilt in every way that [`mutate`] knows. Of copies (what a
//! loop of the builder writes out: the same instruction of the same source line with the same
//! constants) the first one stands for all. `GANNET_MUTATE=rope` mutates only the kernels with that
//! in their names, and leaves the lists alone.
//!
//! Survivors that [`equivalent`] proves to be the same program are no mutants. `GANNET_PROVE=1` asks
//! it about all of them, to see that it never calls one the same that the launches notice.

#![allow(clippy::unwrap_used)]

mod common;
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
use equivalent::Prover;
use gannet_ptx_gen::interp::{Options, Prepared};
use gannet_ptx_gen::ir::Loc;
use mutate::{Change, mutant, sites};
use rayon::prelude::*;
use survivors::{Key, Row};

/// Of a hundred mutants so many must be noticed.
const LEAST: usize = 95;

/// A kernel to spoil.
struct Mutant {
    trial: usize,
    statement: usize,
    change: Change,
    what: String,
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
            let text = std::fs::read_to_string(root.join(loc.file))
                .unwrap_or_else(|e| panic!("can't read {}: {e}", loc.file));
            text.lines().map(|l| l.trim().to_owned()).collect()
        });
        &lines[loc.line as usize - 1]
    }

    fn key(&mut self, mutant: &Mutant) -> Key {
        let file = Path::new(mutant.loc.file).file_stem().unwrap_or_default();
        Key {
            file: file.to_string_lossy().into_owned(),
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
                    loc: site.loc,
                });
            }
        }
    }
    mutants
}

fn try_out(trial: &Trial, mutant_: &Mutant, options: &Options) -> Outcome {
    let kernel = mutant(&trial.kernel, mutant_.statement, mutant_.change);
    match Prepared::new(&kernel) {
        Err(_) => Outcome::Refused,
        Ok(kernel) if trial.check_prepared(&kernel, options).is_err() => Outcome::Failed,
        Ok(_) => Outcome::Survived,
    }
}

/// Finds the survivors that are no mistakes.
fn sorted_out(trials: &[Trial], mutants: &[Mutant], mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let all = std::env::var_os("GANNET_PROVE").is_some_and(|v| v == "1");
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

#[test]
fn mutants_are_noticed() {
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
    let mutants: Vec<Mutant> = (trials.iter().enumerate())
        .flat_map(|(i, trial)| mutants(i, trial))
        .collect();
    let outcomes: Vec<Outcome> = mutants
        .par_iter()
        .map(|mutant| {
            // What takes twice as long as the whole original does not end.
            let options = Options {
                max_steps: 2 * steps[mutant.trial] + 1000,
                ..serial.clone()
            };
            try_out(&trials[mutant.trial], mutant, &options)
        })
        .collect();

    let outcomes = sorted_out(&trials, &mutants, outcomes);
    let number = |outcome| outcomes.iter().filter(|o| **o == outcome).count();
    let survived = number(Outcome::Survived);
    let same = number(Outcome::Same);
    let mistakes = mutants.len() - same;
    let noticed = mistakes - survived;
    println!(
        "{} kernels, {same} changes that change nothing, {mistakes} mutants: {} refused, {} failed, \
         {survived} survived: {:.2}% noticed",
        trials.len(),
        number(Outcome::Refused),
        number(Outcome::Failed),
        100.0 * noticed as f64 / mistakes as f64
    );
    let mut sources = Sources::default();
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    for (mutant, outcome) in mutants.iter().zip(&outcomes) {
        let key = sources.key(mutant);
        let row = rows.entry(key).or_default();
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
    if only.is_empty() {
        let bless = std::env::var_os("GANNET_BLESS").is_some_and(|v| v == "1");
        let complaints = survivors::compare(&rows, bless);
        assert!(
            100 * noticed >= LEAST * mistakes,
            "only {noticed} of {mistakes} mutants are noticed"
        );
        assert!(mistakes >= 10_000, "only {mistakes} mutants");
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }
}
