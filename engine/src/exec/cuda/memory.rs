//! How much memory an executor takes, and taking it.

use bytemuck::cast_slice;
use gannet_cuda_runtime::{Buffer, Stream};

use super::open::Gpu;
use super::prepare::Memory;
use super::weights;
use crate::Error;
use crate::exec::packed::{all_block_bytes, block_bytes, place};
use crate::exec::{Limits, limits};
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::{COUNTERS, Lowered};
use crate::model::Model;
use crate::settings::{DEFAULT_CONTEXT, SessionOptions};

/// Rows of a prompt chunk where nobody said otherwise.
const DEFAULT_ROWS: usize = 512;

/// Memory left for the driver and for what is allocated late.
const RESERVE: usize = 256 << 20;

/// The limits that fit on the device: an automatic context shrinks, one that was asked for is
/// refused with the largest that fits.
pub(super) fn fit(gpu: &Gpu, model: &Model, session: &SessionOptions) -> Result<Limits, Error> {
    let plan = model.plan();
    let mut limits = limits(model, session, DEFAULT_ROWS)?;
    let (free, _) = gpu.context.free_memory()?;
    let widest = plan.buffers.iter().map(|b| b.cols).max().unwrap_or(0);
    // A step keeps a handful of rows of its widest buffer alive at once.
    let workspace =
        8 * limits.max_rows * widest.min(64 << 10) * 4 + limits.max_outputs * plan.vocab_size * 4;
    let weights = weights::total_bytes(plan)?;
    let block = all_block_bytes(plan, limits.kv_type);
    let left = free.saturating_sub(weights + workspace + RESERVE);
    let blocks = left / block.max(1);
    if limits.cache_blocks <= blocks {
        return Ok(limits);
    }
    let largest = blocks / limits.num_slots * BLOCK_TOKENS;
    let estimate = format!(
        "weights {} MiB, cache {} MiB for {} positions, workspace {} MiB, free {} MiB",
        weights >> 20,
        (block * limits.cache_blocks) >> 20,
        limits.cache_blocks * BLOCK_TOKENS,
        workspace >> 20,
        free >> 20
    );
    if largest < BLOCK_TOKENS || session.context.is_some() {
        let advice = if largest < BLOCK_TOKENS {
            "the model does not fit on this GPU".to_owned()
        } else {
            format!("the largest context that fits is {largest}")
        };
        return Err(Error::Cuda(format!("{estimate}; {advice}")));
    }
    limits.context = largest.min(DEFAULT_CONTEXT);
    limits.max_rows = limits.max_rows.min(limits.context);
    limits.cache_blocks = BlockTable::blocks_for(limits.num_slots, limits.context);
    Ok(limits)
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
