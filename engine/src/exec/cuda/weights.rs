//! Weights on the device, in the layouts that kernels read: packed on the way from the mapped file.
//!
//! Quantised weights are not kept a second time as f16 for single tokens: such a step is bound by the
//! bytes that it reads, and f16 takes 16 bits a weight where Q4_K takes 4.5. Who wants f16 loads a file
//! of f16 weights; the same products run on them.

use std::sync::Arc;
use std::time::Instant;

use gannet_cuda_runtime::{Arena, Buffer, Context, Uploader, UploaderConfig};

use super::bands::{Stored, batches, least_buffer};
use crate::Error;
use crate::exec::packed::{ALIGN, failed, weight_bytes};
use crate::model::Model;
use crate::model::{Phase, Span};
use crate::plan::{Plan, Weight};

/// Bytes of all weights on the device, alignment included.
pub(super) fn total_bytes(plan: &Plan) -> Result<usize, Error> {
    (0..plan.weights.len() as u32)
        .map(|i| Ok(weight_bytes(plan, Weight(i))?.next_multiple_of(ALIGN)))
        .sum()
}

/// Packs and uploads every weight; the buffers are indexed by weight. When it returns they have
/// arrived. Also says when that was.
pub(super) fn upload(
    context: &Arc<Context>,
    model: &Model,
) -> Result<(Vec<Buffer>, Vec<Span>), Error> {
    let (buffers, memory) = Span::time(Phase::Memory, || allocate(context, model.plan()));
    let buffers = buffers?;
    let (moved, weights) = Span::time(Phase::Weights, || fill(context, model, &buffers));
    let staging = moved?.map(|(start, end)| Span {
        phase: Phase::Staging,
        start,
        end,
    });
    let spans = [Some(memory), Some(weights), staging];
    Ok((buffers, spans.into_iter().flatten().collect()))
}

/// One piece of memory, cut into a buffer for each weight.
fn allocate(context: &Arc<Context>, plan: &Plan) -> Result<Vec<Buffer>, Error> {
    let arena = Arena::new(context, total_bytes(plan)?)?;
    (0..plan.weights.len() as u32)
        .map(|i| Ok(arena.alloc(weight_bytes(plan, Weight(i))?, ALIGN)?))
        .collect()
}

/// Packs every weight on its way to its buffer; says when staging memory was allocated.
fn fill(
    context: &Arc<Context>,
    model: &Model,
    buffers: &[Buffer],
) -> Result<Option<(Instant, Instant)>, Error> {
    let plan = model.plan();
    let bytes: Vec<_> = plan
        .weights
        .iter()
        .map(|info| model.weight_bytes(info))
        .collect();
    let stored = (0..)
        .zip(&bytes)
        .map(|(i, bytes)| Stored::new(plan, Weight(i), bytes))
        .collect::<Result<Vec<_>, Error>>()?;

    let mut config = UploaderConfig::default();
    config.buffer_bytes = config.buffer_bytes.max(least_buffer(&stored));
    let mut uploader = Uploader::new(context, config)?;
    let batches = batches(&stored, config.buffer_bytes);
    uploader.parts(batches.len(), |index, staging| -> Result<(), Error> {
        for band in &batches[index] {
            let (weight, start) = (&stored[band.weight], band.start);
            let out = &mut staging.bytes()[start..start + band.len];
            weight
                .pack(&band.rows, out)
                .map_err(|e| failed(plan, Weight(band.weight as u32), &e))?;
            for piece in weight.pieces(&band.rows) {
                let from = start + piece.from;
                staging.copy(from..from + piece.len, &buffers[band.weight], piece.to)?;
            }
        }
        Ok(())
    })?;
    uploader.finish()?;
    Ok(uploader.allocating())
}
