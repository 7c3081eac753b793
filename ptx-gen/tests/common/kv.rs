//! Keys and values in a cache's element types, as Rust computes them.

use gannet_ptx_gen::kernels::KvType;
use half::{bf16, f16};

use super::trial::Bytes;

/// Bytes and scale of a head's row.
fn quantised(row: &[f32]) -> (Vec<i8>, f32) {
    let most = row.iter().fold(0f32, |m, v| m.max(v.abs()));
    let scale = (most * (1.0 / 127.0)).max(KvType::LEAST_SCALE);
    let inverse = 1.0 / scale;
    let byte = |v: &f32| (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    (row.iter().map(byte).collect(), scale)
}

/// What a head's row becomes in the cache.
pub fn rounded(kv_type: KvType, row: &mut [f32]) {
    match kv_type {
        KvType::F32 => {}
        KvType::F16 => row.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
        KvType::BF16 => row
            .iter_mut()
            .for_each(|v| *v = bf16::from_f32(*v).to_f32()),
        KvType::Int8 => {
            let (bytes, scale) = quantised(row);
            row.iter_mut()
                .zip(bytes)
                .for_each(|(v, b)| *v = f32::from(b) * scale);
        }
    }
}

/// A pool of rows of `dim` elements, `tokens` of them a head's part of a block. A row of NaN has a
/// scale of NaN; one of zeros, which nobody wrote, of zero.
pub fn pool(kv_type: KvType, values: &[f32], dim: usize, tokens: usize) -> Vec<u8> {
    match kv_type {
        KvType::F32 => values.bytes(),
        KvType::F16 => {
            let bits = values.iter().map(|v| f16::from_f32(*v).to_bits());
            bits.collect::<Vec<u16>>().bytes()
        }
        KvType::BF16 => {
            let bits = values.iter().map(|v| bf16::from_f32(*v).to_bits());
            bits.collect::<Vec<u16>>().bytes()
        }
        KvType::Int8 => values
            .chunks(dim * tokens)
            .flat_map(|block| {
                let rows: Vec<_> = block.chunks(dim).map(quantised).collect();
                let bytes = rows
                    .iter()
                    .flat_map(|(bytes, _)| bytes.iter().map(|b| *b as u8));
                let scale = |(row, (_, scale)): (&[f32], &(Vec<i8>, f32))| {
                    if row.iter().all(|v| *v == 0.0) {
                        0.0
                    } else if row[0].is_nan() {
                        f32::NAN
                    } else {
                        *scale
                    }
                };
                let scales: Vec<f32> = block.chunks(dim).zip(&rows).map(scale).collect();
                bytes.chain(scales.bytes()).collect::<Vec<u8>>()
            })
            .collect(),
    }
}
