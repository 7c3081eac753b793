//! The forward step as data: typed operations over named, shaped buffers.
//!
//! A [`Plan`] is the only description of a network in the code base. Model families write it
//! (`crate::model`), executors run it (`crate::exec`), lowering turns it into kernel launches, and
//! parity compares two runs of it buffer by buffer. The number of rows in a step (tokens of a
//! prompt chunk, sequences of a decode batch) is a dimension of every buffer, never a reason for a
//! second description.
//!
//! Always true of a finished plan: every buffer is written by exactly one operation, and that
//! operation comes before every reader.

mod builder;
mod column;
mod dump;
mod op;
mod partition;
mod rope;
mod storage;
mod weight;

pub use builder::{Linear, PlanBuilder};
pub use column::{Column, StepRow};
pub use gannet_ptx_gen::kernels::{Activation, RopeKind};
pub use op::{ColumnSample, Contract, ErrorClass, Op};
pub use partition::{Collective, Partition, partition};
pub use rope::{RopeFactors, RopeTable, Yarn};
pub use storage::{Storage, assign_storage};
pub use weight::{WeightInfo, WeightView};

use gannet_ptx_gen::kernels::KvType;

/// A buffer of the plan: an index into [`Plan::buffers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Buf(pub u32);

/// A weight of the plan: an index into [`Plan::weights`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(pub u32);

/// A cache of the plan: an index into [`Plan::caches`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheId(pub u32);

/// A rope table of the plan: an index into [`Plan::ropes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rope(pub u32);

/// How many rows a buffer has in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One row for each token of the step.
    Tokens,
    /// One row for each token whose logits are wanted.
    Outputs,
}

/// What an element of a buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 32-bit unsigned integer (token ids).
    U32,
}

/// Name and shape of a buffer: `[rows, cols]`, row-major, 4 bytes an element.
#[derive(Debug, Clone, PartialEq)]
pub struct BufferInfo {
    /// Unique name, made from the weight or operation that produced it (`blk.3.attn_q`).
    pub name: String,
    /// Row dimension.
    pub rows: Rows,
    /// Elements in a row.
    pub cols: usize,
    /// Element type.
    pub element: Element,
}

/// Attention of one layer: grouped heads over a causal key/value cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on the dot product, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// `cap * tanh(score / cap)` before the softmax.
    pub softcap: Option<f32>,
    /// A token sees itself and the `window - 1` tokens before it.
    pub window: Option<u32>,
}

/// Keys and values of one layer, or of several that share them.
///
/// A block of [`crate::kv::BLOCK_TOKENS`] positions has the same place in the pools of all caches.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheInfo {
    /// Unique name (`blk.3.cache`).
    pub name: String,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The largest magnitude in the bias of its keys, 0 of keys without one.
    pub key_bias: f32,
}

/// The largest biases of keys that bytes and bf16 hold the rest of a key beside. The bytes of a key share
/// one scale, its largest element over 127; elements of bf16 have 8 bits each. Beside a bias of 50 to 200
/// in a few channels, as the files of Qwen 2 have it, a step of that is as large as what tells keys apart.
/// (The bias turns with the position, so it cannot just be left out.) The score of a query whose elements
/// are of order one has about the error of an element, and that is the relative error of a weight.
///
/// Divergences of logits grow with the square of the bias. Two layers of random weights and heads of 16 and
/// 64 have, in nats, with bytes 4e-5 without a bias, 2e-4 beside one of 8, 3e-3 of 32 and 1e-1 of 200; with
/// bf16 5e-6, 2e-5, 3e-4 and 1e-2; with f16 1e-7, 2e-7, 2e-6 and 9e-5.
const LARGEST_BIAS_OF_BYTES: f32 = 8.0;
const LARGEST_BIAS_OF_BF16: f32 = 32.0;
/// The largest bias that leaves room in f16 for the rest of a key.
const LARGEST_BIAS_OF_F16: f32 = 16384.0;

impl CacheInfo {
    /// The element type that the cache has where one was asked for: a more exact one in place of bytes and
    /// of bf16 that its keys do not fit.
    #[must_use]
    pub fn kv_type(&self, asked: KvType) -> KvType {
        let fits = match asked {
            KvType::F16 | KvType::F32 => true,
            KvType::BF16 => self.key_bias <= LARGEST_BIAS_OF_BF16,
            KvType::Int8 => self.key_bias <= LARGEST_BIAS_OF_BYTES,
        };
        match fits {
            true => asked,
            false if self.key_bias <= LARGEST_BIAS_OF_F16 => KvType::F16,
            false => KvType::F32,
        }
    }

    /// Elements of a token's keys (or values).
    #[must_use]
    pub fn width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }
}

/// A forward step of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Every buffer, indexed by [`Buf`].
    pub buffers: Vec<BufferInfo>,
    /// Every weight, indexed by [`Weight`].
    pub weights: Vec<WeightInfo>,
    /// Every rope table, indexed by [`Rope`].
    pub ropes: Vec<RopeTable>,
    /// The operations in order.
    pub ops: Vec<Op>,
    /// Every cache, indexed by [`CacheId`].
    pub caches: Vec<CacheInfo>,
    /// `[outputs, vocab_size]`.
    pub logits: Buf,
    /// `[outputs, 1]`: the most likely next token.
    pub next: Buf,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
}

impl Plan {
    /// Name and shape of a buffer.
    #[must_use]
    pub fn buffer(&self, b: Buf) -> &BufferInfo {
        &self.buffers[b.0 as usize]
    }

    /// Name, format and shape of a weight.
    #[must_use]
    pub fn weight(&self, w: Weight) -> &WeightInfo {
        &self.weights[w.0 as usize]
    }

    /// Geometry of a cache.
    #[must_use]
    pub fn cache(&self, c: CacheId) -> &CacheInfo {
        &self.caches[c.0 as usize]
    }

    /// A rope table.
    #[must_use]
    pub fn rope(&self, r: Rope) -> &RopeTable {
        &self.ropes[r.0 as usize]
    }

    /// The operation that writes a buffer, by its index.
    #[must_use]
    pub fn writer(&self, b: Buf) -> Option<usize> {
        self.ops.iter().position(|op| op.writes().contains(&b))
    }

    /// The buffer of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Buf> {
        self.buffers
            .iter()
            .position(|b| b.name == name)
            .map(|i| Buf(i as u32))
    }

    /// Positions for which every table that is looked up by them has a row; `None`: for any.
    #[must_use]
    pub fn max_positions(&self) -> Option<usize> {
        let tables = self.ops.iter().filter_map(|op| match *op {
            Op::Embed {
                table,
                by: Column::Position,
                ..
            } => Some(self.weight(table).rows),
            _ => None,
        });
        tables.min()
    }

    /// Bytes of weights that a step of one token reads: every matrix once, one embedding row.
    #[must_use]
    pub fn weight_bytes_per_token(&self) -> u64 {
        let bytes = |w: Weight| self.weight(w).bytes() as u64;
        let row = |w: Weight| bytes(w) / self.weight(w).rows as u64;
        let of_op = |op: &Op| -> u64 {
            let whole: u64 = op.weights().into_iter().map(bytes).sum();
            whole + op.looks_up().into_iter().map(row).sum::<u64>()
        };
        self.ops.iter().map(of_op).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_has_a_type_that_holds_its_keys() {
        let (f16, bf16, f32, int8) = (KvType::F16, KvType::BF16, KvType::F32, KvType::Int8);
        for (key_bias, of_bytes, of_bf16) in [
            (0.0, int8, bf16),
            (8.0, int8, bf16),
            (8.1, f16, bf16),
            (33.0, f16, f16),
            (200.0, f16, f16),
            (2e4, f32, f32),
            (f32::INFINITY, f32, f32),
        ] {
            let cache = CacheInfo {
                name: "cache".to_owned(),
                num_kv_heads: 1,
                head_dim: 8,
                key_bias,
            };
            let found = [int8, bf16, f16, f32].map(|asked| cache.kv_type(asked));
            assert_eq!(found, [of_bytes, of_bf16, f16, f32], "{key_bias}");
        }
    }
}
