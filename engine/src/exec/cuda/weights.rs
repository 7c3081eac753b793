//! Weights on the device, in the layouts that kernels read: packed on the way from the mapped file.

use std::sync::Arc;

use gannet_cuda_runtime::{Arena, Buffer, Context, Uploader, UploaderConfig};

use super::bands::{Stored, batches, failed, least_buffer};
use crate::Error;
use crate::exec::packed::{ALIGN, weight_bytes};
use crate::model::Model;
use crate::plan::{Plan, Weight};

/// Bytes of all weights on the device, alignment included.
pub(super) fn total_bytes(plan: &Plan) -> Result<usize, Error> {
    (0..plan.weights.len() as u32)
        .map(|i| Ok(weight_bytes(plan, Weight(i))?.next_multiple_of(ALIGN)))
        .sum()
}

/// Packs and uploads every weight; the buffers are indexed by weight. When it returns they have
/// arrived.
pub(super) fn upload(context: &Arc<Context>, model: &Model) -> Result<Vec<Buffer>, Error> {
    let plan = model.plan();
    let arena = Arena::new(context, total_bytes(plan)?)?;
    let weights = || (0..plan.weights.len() as u32).map(Weight);
    let buffers = weights()
        .map(|w| Ok(arena.alloc(weight_bytes(plan, w)?, ALIGN)?))
        .collect::<Result<Vec<Buffer>, Error>>()?;
    let stored = weights()
        .map(|w| Stored::new(model, w))
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
                .map_err(|e| failed(&plan.weights[band.weight].name, &e))?;
            for piece in weight.pieces(&band.rows) {
                let from = start + piece.from;
                staging.copy(from..from + piece.len, &buffers[band.weight], piece.to)?;
            }
        }
        Ok(())
    })?;
    uploader.finish()?;
    Ok(buffers)
}
