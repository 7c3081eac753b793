//! Memory of the executors on the host: whether a cache fits, found before anything is allocated.
//!
//! The system hands out more memory than it has and ends whoever uses it; so what is asked for is
//! held against what is free, and a size that cannot be had is an error of one line.

use super::Limits;
use super::packed::all_block_bytes;
use crate::Error;
use crate::kv::{BLOCK_TOKENS, KvType};
use crate::plan::Plan;

/// Refuses a cache of elements of `kv_type` that does not fit the free memory; `copies` is how many
/// times the executor keeps it. Where the system does not say what is free, everything fits.
pub(crate) fn check(
    plan: &Plan,
    limits: Limits,
    kv_type: KvType,
    copies: u64,
) -> Result<(), Error> {
    match available() {
        Some(free) => fits(plan, limits, kv_type, copies, free),
        None => Ok(()),
    }
}

fn fits(plan: &Plan, limits: Limits, kv_type: KvType, copies: u64, free: u64) -> Result<(), Error> {
    let needed = bytes(plan, limits, kv_type).saturating_mul(copies);
    if needed <= free {
        return Ok(());
    }
    Err(Error::Memory {
        context: limits.context,
        slots: limits.num_slots,
        needed_mib: needed >> 20,
        free_mib: free >> 20,
    })
}

/// Bytes of what grows with the context: keys and values, the block table, angles of positions.
fn bytes(plan: &Plan, limits: Limits, kv_type: KvType) -> u64 {
    let product = |factors: &[usize]| {
        let factors = factors.iter().map(|&f| f as u64);
        factors.fold(1, u64::saturating_mul)
    };
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
        let expected = (2 * cells * 4 + 2 * 2 * 4 + angles) as u64;
        assert_eq!(bytes(plan, limits, KvType::F32), expected);
        assert!(fits(plan, limits, KvType::F32, 1, expected).is_ok());
        assert!(fits(plan, limits, KvType::F32, 2, expected).is_err());
        // Nothing wraps on the way.
        let endless = Limits {
            context: usize::MAX,
            cache_blocks: usize::MAX,
            ..limits
        };
        assert!(fits(plan, endless, KvType::F32, 1, u64::MAX - 1).is_err());
    }
}
