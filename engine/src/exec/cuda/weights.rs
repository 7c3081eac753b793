//! Weights on the device, in the layouts that kernels read: one thread packs while another uploads.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use gannet_cuda_runtime::{Arena, Buffer, Context, Uploader, UploaderConfig};

use crate::Error;
use crate::exec::packed::{ALIGN, pack_weight, weight_bytes};
use crate::model::Model;
use crate::plan::{Plan, Weight};

/// Matrices packed ahead of the upload.
const PACKED_AHEAD: usize = 2;

/// Bytes of all weights on the device, alignment included.
pub(super) fn total_bytes(plan: &Plan) -> Result<usize, Error> {
    (0..plan.weights.len() as u32)
        .map(|i| Ok(weight_bytes(plan, Weight(i))?.next_multiple_of(ALIGN)))
        .sum()
}

/// Packs and uploads every weight; the buffers are indexed by weight.
pub(super) fn upload(context: &Arc<Context>, model: &Model) -> Result<Vec<Buffer>, Error> {
    let plan = model.plan();
    let arena = Arena::new(context, total_bytes(plan)?)?;
    let mut uploader = Uploader::new(context, UploaderConfig::default())?;
    let weights: Vec<Weight> = (0..plan.weights.len() as u32).map(Weight).collect();
    let mut buffers = Vec::with_capacity(weights.len());
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(PACKED_AHEAD);
        let weights = &weights;
        scope.spawn(move || {
            for &w in weights {
                // A closed channel means that the upload failed and reports it.
                if sender.send(pack_weight(model, w)).is_err() {
                    break;
                }
            }
        });
        for bytes in receiver {
            let bytes = bytes?;
            let buffer = arena.alloc(bytes.len(), ALIGN)?;
            uploader.upload(&buffer, 0, &bytes)?;
            buffers.push(buffer);
        }
        uploader.finish()?;
        Ok(buffers)
    })
}
