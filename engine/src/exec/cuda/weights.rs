//! Weights on the device, in the layouts that kernels read.
//!
//! Matrices are packed into planes (`gannet_quant::repack`) on the way; a format without kernels
//! of its own is converted first. One thread packs while another uploads.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytemuck::cast_slice;
use gannet_cuda_runtime::{Arena, Buffer, Context, Uploader, UploaderConfig};
use gannet_quant::{Matrix, repack};

use crate::Error;
use crate::model::Model;
use crate::plan::{Plan, Weight};

/// Matrices packed ahead of the upload.
const PACKED_AHEAD: usize = 2;

/// Alignment of every buffer: what the widest loads and bulk copies want.
const ALIGN: usize = 256;

/// Bytes of a weight on the device.
fn device_bytes(plan: &Plan, w: Weight) -> Result<usize, Error> {
    let info = plan.weight(w);
    if info.rows == 1 {
        return Ok(info.cols * 4);
    }
    let format = repack::gpu_format(info.format);
    let layout = repack::planes(format, info.rows, info.cols).map_err(|e| failed(plan, w, &e))?;
    Ok(layout.bytes)
}

/// Bytes of all weights on the device, alignment included.
pub(super) fn total_bytes(plan: &Plan) -> Result<usize, Error> {
    (0..plan.weights.len() as u32)
        .map(|i| Ok(device_bytes(plan, Weight(i))?.next_multiple_of(ALIGN)))
        .sum()
}

/// Packs and uploads every weight; the buffers are indexed by weight.
pub(super) fn upload(
    context: &Arc<Context>,
    model: &Model,
) -> Result<Vec<Buffer>, Error> {
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
                if sender.send(packed(model, w)).is_err() {
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

/// A weight's bytes as kernels read them.
fn packed(model: &Model, w: Weight) -> Result<Vec<u8>, Error> {
    let plan = model.plan();
    let info = plan.weight(w);
    if info.rows == 1 {
        return Ok(cast_slice(&model.weight_f32(w)).to_vec());
    }
    let pack = || {
        let stored = Matrix::new(info.format, info.rows, info.cols, model.weight_bytes(w))?;
        if repack::gpu_format(info.format) == info.format {
            return Ok(repack::pack(&stored)?.1);
        }
        let (format, bytes) = repack::convert(&stored)?;
        Ok(repack::pack(&Matrix::new(format, info.rows, info.cols, &bytes)?)?.1)
    };
    pack().map_err(|e: gannet_quant::Error| failed(plan, w, &e))
}

fn failed(plan: &Plan, w: Weight, e: &gannet_quant::Error) -> Error {
    Error::Cuda(format!("{}: {e}", plan.weight(w).name))
}
