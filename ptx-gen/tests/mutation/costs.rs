//! What launches and mutants cost, and the order of launches that follows from it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use gannet_ptx_gen::interp::{Options, Prepared};
use rayon::prelude::*;

use crate::common::trial::Trial;

/// Warp instructions that take as long as starting a launch, roughly.
const START: u64 = 300;

/// Options for a launch on one thread whose blocks hang after so many warp instructions.
fn serial(max_steps: u64) -> Options {
    Options {
        serial: true,
        max_steps,
        ..Options::default()
    }
}

/// What is known of a launch: what it costs and how often mutants failed it.
pub(crate) struct Launched {
    steps: u64,
    tried: AtomicU32,
    failed: AtomicU32,
}

impl Launched {
    /// The chance that a mutant fails, per cost.
    fn worth(&self) -> f64 {
        let count = |n: &AtomicU32| f64::from(n.load(Relaxed));
        let chance = (count(&self.failed) + 1.0) / (count(&self.tried) + 2.0);
        chance / (self.steps + START) as f64
    }
}

/// What the launches of a trial cost. Panics where the kernel fails one.
pub(crate) fn launched(trial: &Trial) -> Vec<Launched> {
    let name = &trial.kernel.name;
    let kernel = Prepared::new(&trial.kernel).unwrap_or_else(|why| panic!("{name}: {why}"));
    let launches = trial.launches.par_iter().map(|launch| {
        let stats = launch.check(&kernel, &serial(1 << 30));
        let stats = stats.unwrap_or_else(|why| panic!("{name} is wrong as it is: {why}"));
        Launched {
            steps: stats.warp_instructions,
            tried: AtomicU32::new(0),
            failed: AtomicU32::new(0),
        }
    });
    launches.collect()
}

/// Whether a mutant fails a launch: first those in which the most mutants of this kernel failed
/// for what they cost. What takes twice as long as the original does not end.
pub(crate) fn fails(trial: &Trial, launched: &[Launched], mutant: &Prepared) -> bool {
    let mut order: Vec<(f64, usize)> = (launched.iter().map(Launched::worth))
        .zip(0..launched.len())
        .collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    order.into_iter().any(|(_, i)| {
        let launch = &launched[i];
        let outcome = trial.launches[i].check(mutant, &serial(2 * launch.steps + 1000));
        launch.tried.fetch_add(1, Relaxed);
        launch
            .failed
            .fetch_add(u32::from(outcome.is_err()), Relaxed);
        outcome.is_err()
    })
}

/// Seconds of processor time that this thread has had; zero where the system does not tell.
fn seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    nanoseconds.unwrap_or(0.0) * 1e-9
}

/// A result and the seconds of processor time that it took.
pub(crate) fn timed<T>(compute: impl FnOnce() -> T) -> (T, f64) {
    let start = seconds();
    (compute(), seconds() - start)
}

/// Prints what the mutants of each trial cost, from trials and seconds of all mutants, and for
/// each launch its warp instructions and how many mutants failed of those that were tried.
pub(crate) fn print(
    trials: &[Trial],
    launched: &[Vec<Launched>],
    tried: impl Iterator<Item = (usize, f64)>,
) {
    let mut sums = vec![(0, 0.0); trials.len()];
    for (trial, time) in tried {
        let (mutants, seconds) = &mut sums[trial];
        *mutants += 1;
        *seconds += time;
    }
    let total: f64 = sums.iter().map(|(_, seconds)| seconds).sum();
    println!("{total:9.2} seconds of processor time for all mutants:");
    for ((trial, launched), (mutants, seconds)) in trials.iter().zip(launched).zip(sums) {
        let each = 1e3 * seconds / f64::from(mutants.max(1));
        let name = &trial.kernel.name;
        println!("{seconds:9.2} s, {each:7.2} ms each of {mutants:5}: {name}");
        let launches = launched.iter().map(|l| {
            let (tried, failed) = (l.tried.load(Relaxed), l.failed.load(Relaxed));
            format!("{} ({failed} of {tried})", l.steps)
        });
        println!("            {}", launches.collect::<Vec<_>>().join(", "));
    }
}
