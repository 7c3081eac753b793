//! How lanes read keys and values of a paged cache as f32, for [`super::AttentionSpec`].
//!
//! A lane has [`WIDTH`] neighbouring elements of a key, loaded in words of 16 bytes (of bytes, 8), and
//! loads the scale of the key with them where elements are bytes.

use super::AttentionSpec;
use super::plain::WIDTH;
use crate::build::{Builder, Ptr, Val};
use crate::kernels::KvType;

/// Bytes of a pool at which a lane's part of a key and the key's scale lie.
pub(super) struct Place<'k> {
    elements: Val<'k, u64>,
    scale: Option<Val<'k, u64>>,
}

/// Where keys and values lie.
pub(super) struct Pools<'k, 's> {
    pub(super) spec: &'s AttentionSpec,
    pub(super) k: &'k Builder,
    pub(super) keys: Ptr<'k, u8>,
    pub(super) values: Ptr<'k, u8>,
    /// The slot's row of the block table.
    pub(super) table: Ptr<'k, u32>,
}

impl<'k> Pools<'k, '_> {
    /// Where elements `part * WIDTH ..` of a key start.
    pub(super) fn place(&self, key: Val<'k, u32>, part: Val<'k, u32>) -> Place<'k> {
        let spec = self.spec;
        let block = self.table.load(key / spec.shape.block_tokens);
        let head = block * spec.shape.num_kv_heads + self.k.block_y();
        let tokens = spec.shape.block_tokens;
        if spec.shape.kv_type == KvType::Int8 {
            let bytes = spec.shape.kv_type.block_bytes(tokens, spec.shape.head_dim);
            let head = head.cast::<u64>() * u64::from(bytes);
            let token = key % tokens;
            return Place {
                elements: head + (token * spec.shape.head_dim + part * WIDTH).cast::<u64>(),
                scale: Some(head + (token * 4 + tokens * spec.shape.head_dim).cast::<u64>()),
            };
        }
        let row = head * tokens + key % tokens;
        let bytes = u64::from(WIDTH * spec.shape.kv_type.bytes());
        Place {
            elements: (row * (spec.shape.head_dim / WIDTH) + part).cast::<u64>() * bytes,
            scale: None,
        }
    }

    /// A lane's part of a key as it lies in memory, and its scale if it has one.
    pub(super) fn load(&self, pool: Ptr<'k, u8>, place: &Place<'k>) -> Vec<Val<'k, u32>> {
        let words = pool.offset(place.elements).cast::<u32>();
        if let Some(scale) = place.scale {
            let mut found = words.load_vec::<2>(0).to_vec();
            found.push(pool.offset(scale).cast::<u32>().load(0));
            return found;
        }
        (0..self.spec.shape.kv_type.bytes() / 2)
            .flat_map(|i| words.load_vec4(4 * i))
            .collect()
    }

    pub(super) fn floats(&self, words: &[Val<'k, u32>]) -> Vec<Val<'k, f32>> {
        match self.spec.shape.kv_type {
            KvType::F32 => words.iter().map(|w| w.bitcast::<f32>()).collect(),
            KvType::F16 => words
                .iter()
                .flat_map(|w| w.unpack_f16())
                .map(|v| v.cast::<f32>())
                .collect(),
            KvType::BF16 => words
                .iter()
                .flat_map(|w| w.unpack_bf16())
                .map(|v| v.cast::<f32>())
                .collect(),
            KvType::Int8 => {
                let scale = words[2].bitcast::<f32>();
                (0..WIDTH)
                    .map(|i| words[i as usize / 4].signed_byte(i % 4).cast::<f32>() * scale)
                    .collect()
            }
        }
    }
}
