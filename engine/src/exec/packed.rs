//! Weights as kernels read them, and where a lowered step's buffers lie: what the executors of
//! kernels share, on a device or interpreted.

use gannet_quant::repack;

use crate::Error;
use crate::kv::{BLOCK_TOKENS, KvType};
use crate::lower::Lowered;
#[cfg(any(test, feature = "interp"))]
use crate::model::Model;
use crate::plan::{CacheInfo, Plan, Weight};

/// Alignment of every buffer: what the widest loads and bulk copies want.
pub(crate) const ALIGN: usize = 256;

/// Bytes of one cache block's keys (or values) in one cache, where that type was asked for.
pub(crate) fn block_bytes(cache: &CacheInfo, kv_type: KvType) -> usize {
    let of_head = (cache.kv_type(kv_type)).block_bytes(BLOCK_TOKENS as u32, cache.head_dim as u32);
    cache.num_kv_heads * of_head as usize
}

/// Bytes of one cache block, keys and values of all caches.
pub(crate) fn all_block_bytes(plan: &Plan, kv_type: KvType) -> usize {
    let bytes = |cache| 2 * block_bytes(cache, kv_type);
    plan.caches.iter().map(bytes).sum()
}

/// Bytes of a weight in the layout of kernels.
pub(crate) fn weight_bytes(plan: &Plan, w: Weight) -> Result<usize, Error> {
    let info = plan.weight(w);
    if info.rows == 1 {
        return Ok(info.cols * 4);
    }
    let format = repack::gpu_format(info.format);
    let layout = repack::planes(format, info.rows, info.cols).map_err(|e| failed(plan, w, &e))?;
    Ok(layout.bytes)
}

/// A weight in the layout of kernels: planes of a matrix, f32 of a vector. A GPU gets the same bytes
/// a band at a time.
#[cfg(any(test, feature = "interp"))]
pub(crate) fn pack_weight(model: &Model, plan: &Plan, w: Weight) -> Result<Vec<u8>, Error> {
    let info = plan.weight(w);
    if info.rows == 1 {
        return Ok(bytemuck::cast_slice(&model.weight_f32(info)).to_vec());
    }
    let pack = || {
        let bytes = model.weight_bytes(info);
        let stored = gannet_quant::Matrix::new(info.format, info.rows, info.cols, &bytes)?;
        Ok(repack::pack(&stored)?.1)
    };
    pack().map_err(|e: gannet_quant::Error| failed(plan, w, &e))
}

/// The error of a weight that cannot be packed.
pub(crate) fn failed(plan: &Plan, w: Weight, e: &gannet_quant::Error) -> Error {
    Error::Unsupported {
        what: plan.weight(w).name.clone(),
        why: e.to_string(),
    }
}

/// Offset and bytes of every buffer of a lowered step in one piece of memory, and its size. `None`
/// where fusion never makes the buffer.
pub(crate) fn place(plan: &Plan, lowered: &Lowered) -> (Vec<Option<(usize, usize)>>, usize) {
    let rows_of = |rows| lowered.shape.rows_of(rows);
    let mut starts = Vec::with_capacity(lowered.storage.sizes.len());
    let mut total = 0;
    for &(rows, cols) in &lowered.storage.sizes {
        starts.push(total);
        total += (rows_of(rows) * cols * 4).next_multiple_of(ALIGN);
    }
    let buffers = plan
        .buffers
        .iter()
        .zip(&lowered.storage.slot)
        .map(|(info, slot)| slot.map(|s| (starts[s], rows_of(info.rows) * info.cols * 4)))
        .collect();
    (buffers, total)
}
