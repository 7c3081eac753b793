//! Appends the keys and values of a step to the cache of a layer.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | k, v | f32 | `[tokens, num_kv_heads * head_dim]` |
//! | lengths | u32 | `[tokens]`, position plus one; 0 writes nothing |
//! | slots | u32 | `[tokens]`, row of the block table |
//! | block_table | u32 | `[slots, max_blocks]` |
//! | k_pool, v_pool | f16 or f32 | `[blocks, num_kv_heads, block_tokens, head_dim]` |
//!
//! Grid `[tokens, 1, 1]`, four elements a thread. Reads `8` bytes and writes twice an element for
//! each of `tokens * num_kv_heads * head_dim`.

use half::f16;

use super::KvType;
use crate::build::{Builder, Ptr, Val};
use crate::ir::Kernel;
use crate::target::Target;

/// The cache of a layer and how it is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvWriteSpec {
    /// GPU to write for.
    pub target: Target,
    /// Key/value heads.
    pub num_kv_heads: u32,
    /// Elements of a head; a multiple of 4.
    pub head_dim: u32,
    /// Positions of a cache block.
    pub block_tokens: u32,
    /// Entries in a row of the block table.
    pub max_blocks: u32,
    /// Element type of the cache.
    pub kv_type: KvType,
}

const WIDTH: u32 = 4;

impl KvWriteSpec {
    fn row(&self) -> u32 {
        self.num_kv_heads * self.head_dim
    }

    fn threads(&self) -> u32 {
        (self.row() / WIDTH).next_multiple_of(32).clamp(32, 256)
    }

    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [tokens, 1, 1]
    }

    /// Bytes moved for `tokens` rows.
    pub fn bytes(&self, tokens: u64) -> u64 {
        tokens * u64::from(self.row()) * (8 + 2 * u64::from(self.kv_type.bytes()))
    }

    /// The kernel.
    pub fn kernel(&self) -> Kernel {
        let KvWriteSpec {
            target,
            num_kv_heads,
            head_dim,
            block_tokens,
            max_blocks,
            kv_type,
        } = *self;
        let name = format!(
            "kv_write_{}_{num_kv_heads}x{head_dim}_b{block_tokens}x{max_blocks}",
            kv_type.name()
        );
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "Writes [tokens, {num_kv_heads}, {head_dim}] keys and values to position \
                 lengths[t] - 1 of slot slots[t];\npools are [blocks, {num_kv_heads}, \
                 {block_tokens}, {head_dim}]. Grid [tokens, 1, 1]."
            ));
            k.block_size(self.threads());
            let (keys, values) = (k.input::<f32>("k"), k.input::<f32>("v"));
            let (lengths, slots) = (k.input::<u32>("lengths"), k.input::<u32>("slots"));
            let table = k.input::<u32>("block_table");
            let t = k.block_x();
            let length = lengths.load(t);
            let (k_pool, v_pool) = (k.output::<u8>("k_pool"), k.output::<u8>("v_pool"));
            k.exit_if(length.eq(0));
            let position = length - 1;
            let block = table.load(slots.load(t) * max_blocks + position / block_tokens);
            let token = position % block_tokens;
            let row = t * self.row();
            k.for_each(k.thread_x() * WIDTH, self.row(), k.threads() * WIDTH, |e| {
                let (head, i) = (e / head_dim, e % head_dim);
                let at = ((block * num_kv_heads + head) * block_tokens + token) * head_dim + i;
                store(k, kv_type, k_pool, at, keys.load_vec4(row + e));
                store(k, kv_type, v_pool, at, values.load_vec4(row + e));
            });
        })
    }
}

/// Stores four elements in the cache's type.
fn store<'k>(
    k: &'k Builder,
    kv_type: KvType,
    pool: Ptr<'k, u8>,
    at: Val<'k, u32>,
    values: [Val<'k, f32>; 4],
) {
    let at = at.cast::<u64>();
    match kv_type {
        KvType::F32 => pool.cast::<f32>().store_vec(at, values),
        KvType::F16 => {
            let [a, b, c, d] = values;
            let pairs = [k.pack_f16(a, b), k.pack_f16(c, d)].map(|p| p.bitcast::<u32>());
            pool.cast::<f16>()
                .offset(at)
                .cast::<u32>()
                .store_vec(0, pairs);
        }
    }
}

pub(super) fn representative(target: Target) -> Vec<KvWriteSpec> {
    let spec = |num_kv_heads, head_dim, kv_type| KvWriteSpec {
        target,
        num_kv_heads,
        head_dim,
        block_tokens: 32,
        max_blocks: 128,
        kv_type,
    };
    vec![
        spec(2, 64, KvType::F16),
        spec(8, 128, KvType::F16),
        spec(2, 16, KvType::F32),
    ]
}
