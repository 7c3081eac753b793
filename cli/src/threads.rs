//! How many threads compute, said once before anything runs.
//!
//! The pool that computes on the CPU makes itself when it is first used, with as many threads as its
//! variable asks for, and ends the program where they cannot be had. Made here, that is an error of a
//! line.

use gannet_engine::settings::{MAX_THREADS, pool_threads};
use rayon::ThreadPoolBuilder;

use crate::failure::Failure;

/// Makes the pool of a process.
pub(crate) fn start(asked: Option<usize>) -> Result<(), Failure> {
    let threads = match asked {
        Some(threads) => threads,
        None => pool_threads()?.unwrap_or_else(all),
    };
    let pool = ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().map_err(|e| {
        let (what, advice) = match threads {
            1 => ("a thread that computes".to_owned(), ""),
            n => (
                format!("{n} threads that compute"),
                "ask for fewer with --threads, or ",
            ),
        };
        Failure::Work(format!(
            "cannot start {what}: {e}; {advice}allow more (ulimit -u)"
        ))
    })
}

/// As many as the machine runs at once.
fn all() -> usize {
    std::thread::available_parallelism().map_or(1, |n| usize::from(n).min(MAX_THREADS))
}
