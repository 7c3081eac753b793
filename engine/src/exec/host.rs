//! Memory of the executors on the host: whether a model, its cache and its steps fit, found before
//! anything is allocated.
//!
//! The system hands out more memory than it has and ends whoever uses it; so what is asked for is
//! held against what is free, and a size that cannot be had is an error of one line.

use super::Limits;
use super::cpu::step_sizes;
use super::packed::all_block_bytes;
use crate::Error;
use crate::kv::{BLOCK_TOKENS, KvType};
use crate::plan::{Plan, Rows};
use crate::settings::Buffers;

/// What an executor on the host takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// Element type of its cache.
    pub(crate) kv_type: KvType,
    /// Whether the buffers of a step share memory.
    pub(crate) buffers: Buffers,
    /// How many times it keeps everything.
    pub(crate) copies: u64,
    /// Whether it copies the weights, too.
    pub(crate) copies_weights: bool,
}

/// Bytes that a system makes room for however full it says it is.
const ALWAYS: u64 = 64 << 20;

/// Refuses a model whose cache and steps do not fit the free memory. Where the system does not say what
/// is free, everything fits.
pub(crate) fn check(plan: &Plan, limits: Limits, taken: Taken) -> Result<(), Error> {
    match available() {
        Some(free) => fits(plan, limits, taken, free.max(ALWAYS)),
        None => Ok(()),
    }
}

fn fits(plan: &Plan, limits: Limits, taken: Taken, free: u64) -> Result<(), Error> {
    let copied = |bytes: u64| bytes.saturating_mul(taken.copies);
    let cache = copied(cache_bytes(plan, limits, taken.kv_type));
    let mut steps = copied(step_bytes(plan, limits, taken.buffers));
    if taken.copies_weights {
        let weights = plan.weights.iter().map(|w| w.bytes() as u64);
        steps = steps.saturating_add(copied(weights.fold(0, u64::saturating_add)));
    }
    let needed = cache.saturating_add(steps);
    if needed <= free {
        return Ok(());
    }
    Err(Error::Memory {
        context: limits.context,
        slots: limits.num_slots,
        cache_mib: cache >> 20,
        rows: limits.max_rows,
        steps_mib: steps >> 20,
        free_mib: free >> 20,
    })
}

fn product(factors: &[usize]) -> u64 {
    let factors = factors.iter().map(|&f| f as u64);
    factors.fold(1, u64::saturating_mul)
}

/// Bytes of what grows with the context: keys and values, the block table, angles of positions.
fn cache_bytes(plan: &Plan, limits: Limits, kv_type: KvType) -> u64 {
    let pools = product(&[
        limits.cache_blocks.saturating_add(limits.saved_blocks),
        all_block_bytes(plan, kv_type),
    ]);
    let row = limits.context.div_ceil(BLOCK_TOKENS);
    let table = product(&[limits.num_slots, row, size_of::<u32>()]);
    let angles = (plan.ropes.iter())
        .map(|rope| product(&[limits.context, rope.rot_dim, size_of::<f32>()]))
        .fold(0, u64::saturating_add);
    pools.saturating_add(table).saturating_add(angles)
}

/// Bytes of what the largest step is computed in: activations and logits, the rows that a product
/// converts before it multiplies them, norms and biases as f32.
fn step_bytes(plan: &Plan, limits: Limits, buffers: Buffers) -> u64 {
    let rows = |rows: Rows| match rows {
        Rows::Tokens => limits.max_rows,
        Rows::Outputs => limits.max_outputs,
    };
    let sizes = step_sizes(plan, buffers);
    let bytes = |&(of, cols): &(Rows, usize)| product(&[rows(of), cols, size_of::<f32>()]);
    let converted = sizes.iter().map(bytes).max().unwrap_or(0);
    let vectors = (plan.weights.iter().filter(|w| w.rows == 1))
        .map(|w| product(&[w.cols, size_of::<f32>()]))
        .fold(0, u64::saturating_add);
    let activations = sizes.iter().map(bytes).fold(0, u64::saturating_add);
    activations
        .saturating_add(converted)
        .saturating_add(vectors)
}

/// Bytes of memory that the system can still give, where it says so.
fn available() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// `MemAvailable` of Linux's `/proc/meminfo`, in bytes.
fn parse(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read() {
        let text = "MemTotal:  100 kB\nMemFree:   5 kB\nMemAvailable:   64 kB\n";
        assert_eq!(parse(text), Some(65_536));
        assert_eq!(parse("MemTotal: 100 kB\n"), None);
        assert_eq!(parse("MemAvailable: much\n"), None);
    }

    /// Activations grow with the rows of a step, logits with those that are asked for.
    #[test]
    fn a_step_is_held_against_what_is_free() {
        let part = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
        );
        let model = crate::Model::open(part).unwrap();
        let plan = model.plan();
        let bytes = |max_rows, max_outputs| {
            let limits = Limits {
                max_rows,
                max_outputs,
                ..Limits::new(1, 64)
            };
            step_bytes(plan, limits, Buffers::Shared)
        };
        let logits = (plan.vocab_size * 4) as u64;
        // One row of logits and one more that is converted.
        assert!(bytes(64, 64) >= bytes(64, 1) + 63 * logits);
        let widest = plan.buffers.iter().filter(|b| b.rows == Rows::Tokens);
        let widest = widest.map(|b| b.cols as u64 * 4).max().unwrap();
        assert!(bytes(128, 1) >= bytes(64, 1) + 64 * widest);
        let limits = Limits::new(1, 64);
        let distinct = step_bytes(plan, limits, Buffers::Distinct);
        assert!(distinct > 5 * step_bytes(plan, limits, Buffers::Shared));
    }

    #[test]
    fn a_cache_is_held_against_what_is_free() {
        let part = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
        );
        let model = crate::Model::open(part).unwrap();
        let plan = model.plan();
        let limits = Limits::new(2, 64);
        let cells = 2 * 64 * plan.caches.iter().map(|c| c.width()).sum::<usize>();
        let angles: usize = plan.ropes.iter().map(|r| 64 * r.rot_dim * 4).sum();
        let cache = (2 * cells * 4 + 2 * 2 * 4 + angles) as u64;
        assert_eq!(cache_bytes(plan, limits, KvType::F32), cache);
        let once = Taken {
            kv_type: KvType::F32,
            buffers: Buffers::Shared,
            copies: 1,
            copies_weights: false,
        };
        let expected = cache + step_bytes(plan, limits, Buffers::Shared);
        assert!(fits(plan, limits, once, expected).is_ok());
        assert!(fits(plan, limits, once, expected - 1).is_err());
        let twice = Taken { copies: 2, ..once };
        assert!(fits(plan, limits, twice, expected).is_err());
        let weights = plan.weights.iter().map(|w| w.bytes() as u64).sum::<u64>();
        let with_weights = Taken {
            copies_weights: true,
            ..once
        };
        assert!(fits(plan, limits, with_weights, expected + weights).is_ok());
        assert!(fits(plan, limits, with_weights, expected + weights - 1).is_err());
        // Nothing wraps on the way.
        let endless = Limits {
            context: usize::MAX,
            cache_blocks: usize::MAX,
            ..limits
        };
        assert!(fits(plan, endless, once, u64::MAX - 1).is_err());
    }
}
