//! How much memory an executor takes, and taking it.

use bytemuck::cast_slice;
use gannet_cuda_runtime::{Buffer, Stream};

use super::open::Gpu;
use super::prepare::Memory;
use super::weights;
use crate::error::{CudaError, DoesNotFit, Error};
use crate::exec::packed::{all_block_bytes, block_bytes, place};
use crate::exec::{Limits, limits};
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::{COUNTERS, Lowered};
use crate::model::Model;
use crate::plan::Plan;
use crate::settings::{DEFAULT_CONTEXT, Settings};

/// Rows of a prompt chunk where nobody said otherwise.
const DEFAULT_ROWS: usize = 512;

/// Memory left for the driver and for what is allocated late.
const RESERVE: usize = 256 << 20;

/// What an executor takes on a device, in bytes, before anything is allocated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Estimate {
    weights: usize,
    workspace: usize,
    /// One block of the cache: keys and values of all layers.
    block: usize,
}

impl Estimate {
    fn new(plan: &Plan, limits: Limits) -> Result<Estimate, Error> {
        let widest = plan.buffers.iter().map(|b| b.cols).max().unwrap_or(0);
        // A step keeps a handful of rows of its widest buffer alive at once.
        let rows = 8 * limits.max_rows * widest.min(64 << 10) * 4;
        Ok(Estimate {
            weights: weights::total_bytes(plan)?,
            workspace: rows + limits.max_outputs * plan.vocab_size * 4,
            block: (all_block_bytes(plan, limits.kv_type)).max(1),
        })
    }

    /// The limits that fit in `free` bytes: a context that `may_shrink` does, another is refused
    /// with the largest that fits.
    fn fit(self, mut limits: Limits, may_shrink: bool, free: usize) -> Result<Limits, DoesNotFit> {
        let left = free.saturating_sub(self.weights + self.workspace + RESERVE);
        let blocks = left / self.block;
        if limits.cache_blocks <= blocks {
            return Ok(limits);
        }
        let largest = blocks / limits.num_slots * BLOCK_TOKENS;
        if largest < BLOCK_TOKENS || !may_shrink {
            let largest = (largest >= BLOCK_TOKENS).then_some(largest);
            return Err(self.refused(limits, free, largest));
        }
        limits.context = largest.min(DEFAULT_CONTEXT);
        limits.max_rows = limits.max_rows.min(limits.context);
        limits.cache_blocks = BlockTable::blocks_for(limits.num_slots, limits.context);
        limits.saved_blocks = 0;
        Ok(limits)
    }

    fn refused(self, limits: Limits, free: usize, largest_context: Option<usize>) -> DoesNotFit {
        let mib = |bytes: usize| bytes as u64 >> 20;
        DoesNotFit {
            weights_mib: mib(self.weights),
            cache_mib: mib(self.block * limits.cache_blocks),
            positions: limits.cache_blocks * BLOCK_TOKENS,
            workspace_mib: mib(self.workspace),
            free_mib: mib(free),
            largest_context,
        }
    }

    /// The error of a load: memory that ran out after all means that the model does not fit, since
    /// this is an estimate and other processes may have taken some meanwhile.
    pub(super) fn explain(self, error: Error, limits: Limits) -> Error {
        match error {
            Error::Driver {
                source: CudaError::OutOfMemory { free, .. },
            } => self.refused(limits, free, None).into(),
            other => other,
        }
    }
}

/// The limits that fit on the device, and what they take.
///
/// # Errors
/// [`Error::DoesNotFit`] where the context was asked for, or not even a block of one fits.
pub(super) fn fit(
    gpu: &Gpu,
    model: &Model,
    session: &Settings,
) -> Result<(Limits, Estimate), Error> {
    let limits = limits(model, session, DEFAULT_ROWS)?;
    let estimate = Estimate::new(model.plan(), limits)?;
    let (free, _) = gpu.context.free_memory()?;
    let limits = estimate.fit(limits, session.context.is_none(), free)?;
    Ok((limits, estimate))
}

/// Allocates the cache and what all steps share; the weights are for others to add.
pub(super) fn allocate(
    gpu: &Gpu,
    model: &Model,
    limits: Limits,
    shapes: &[Lowered],
    stream: &Stream,
) -> Result<Memory, Error> {
    let plan = model.plan();
    let pool = || -> Result<Vec<Buffer>, Error> {
        plan.caches
            .iter()
            .map(|cache| {
                let bytes = limits.cache_blocks * block_bytes(cache, limits.kv_type);
                let buffer = Buffer::new(&gpu.context, bytes)?;
                // Blocks are read in whole tiles, past the last position too: those values are
                // masked out, but must not be NaN.
                stream.memset_d8(&buffer, 0)?;
                Ok(buffer)
            })
            .collect()
    };
    let ropes = plan
        .ropes
        .iter()
        .map(|rope| {
            let table = rope.table(limits.context);
            let buffer = Buffer::new(&gpu.context, table.len() * 4)?;
            stream.copy_to_device(&buffer, 0, cast_slice(&table))?;
            Ok(buffer)
        })
        .collect::<Result<_, Error>>()?;
    let workspace = shapes.iter().map(|l| place(plan, l).1).max().unwrap_or(0);
    let scratch = shapes.iter().map(|l| l.scratch_bytes).max().unwrap_or(0);
    let counters = Buffer::new(&gpu.context, 4 * COUNTERS)?;
    stream.memset_d8(&counters, 0)?;
    Ok(Memory {
        weights: Vec::new(),
        ropes,
        keys: pool()?,
        values: pool()?,
        workspace: Buffer::new(&gpu.context, workspace.max(256))?,
        scratch: Buffer::new(&gpu.context, scratch.max(256))?,
        counters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    const ESTIMATE: Estimate = Estimate {
        weights: 900 * MIB,
        workspace: 100 * MIB,
        block: MIB,
    };

    fn limits(slots: usize, context: usize) -> Limits {
        Limits::new(slots, context)
    }

    #[test]
    fn a_context_shrinks_unless_it_was_asked_for() {
        let asked = limits(2, 4096);
        let all = 1000 * MIB + RESERVE + asked.cache_blocks * MIB;
        assert_eq!(ESTIMATE.fit(asked, false, all).unwrap(), asked);

        let refused = ESTIMATE.fit(asked, false, all - MIB).unwrap_err();
        let largest = (asked.cache_blocks - 1) / 2 * BLOCK_TOKENS;
        let expected = DoesNotFit {
            weights_mib: 900,
            cache_mib: asked.cache_blocks as u64,
            positions: asked.cache_blocks * BLOCK_TOKENS,
            workspace_mib: 100,
            free_mib: (all - MIB) as u64 >> 20,
            largest_context: Some(largest),
        };
        assert_eq!(refused, expected);
        let line = refused.to_string();
        let end = format!("; the largest context that fits is {largest}");
        assert!(line.ends_with(&end) && !line.contains('\n'), "{line}");

        let shrunk = ESTIMATE.fit(asked, true, all - MIB).unwrap();
        assert_eq!(shrunk.context, largest);
        assert_eq!(shrunk.cache_blocks, BlockTable::blocks_for(2, largest));
    }

    #[test]
    fn a_model_without_room_for_a_block_is_refused_whatever_was_asked_for() {
        for may_shrink in [false, true] {
            let free = 1000 * MIB + RESERVE;
            let refused = ESTIMATE.fit(limits(1, 64), may_shrink, free).unwrap_err();
            assert_eq!(refused.largest_context, None);
            let line = refused.to_string();
            assert!(line.ends_with("does not fit on this GPU"), "{line}");
        }
    }

    #[test]
    fn memory_that_runs_out_in_a_load_means_that_the_model_does_not_fit() {
        let limits = limits(1, 64);
        let source = CudaError::OutOfMemory {
            requested: 8 * MIB,
            free: 5 * MIB,
            total: 80 * MIB,
        };
        match ESTIMATE.explain(source.into(), limits) {
            Error::DoesNotFit(found) => assert_eq!((found.free_mib, found.weights_mib), (5, 900)),
            other => panic!("{other}"),
        }
        let other = ESTIMATE.explain(CudaError::NoDevice.into(), limits);
        assert!(matches!(other, Error::Driver { .. }), "{other}");
    }
}
