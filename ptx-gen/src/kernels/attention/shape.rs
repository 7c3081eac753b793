//! What attention of a layer is: its heads, its cache and its scores, whichever kernel computes it.

use crate::kernels::KvType;

/// Attention of a layer over a paged cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub num_heads: u32,
    /// Key/value heads, a divisor of the query heads.
    pub num_kv_heads: u32,
    /// Elements of a head: a multiple of 8 up to 256.
    pub head_dim: u32,
    /// Positions of a cache block.
    pub block_tokens: u32,
    /// Entries in a row of the block table.
    pub max_blocks: u32,
    /// Element type of the cache.
    pub kv_type: KvType,
    /// Factor of the scores.
    pub scale: f32,
    /// Cap of the scores: they become `softcap * tanh(score / softcap)`.
    pub softcap: Option<f32>,
    /// Keys that a row sees at most, its own included.
    pub window: Option<u32>,
}

impl AttentionShape {
    /// Query heads of a key/value head.
    pub(super) fn group(&self) -> u32 {
        self.num_heads / self.num_kv_heads
    }

    /// Whether heads divide into groups and have a supported dimension, and there is a cache.
    pub(super) fn check(&self) -> Result<(), String> {
        let (heads, kv_heads, dim) = (self.num_heads, self.num_kv_heads, self.head_dim);
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "{heads} query heads over {kv_heads} key/value heads"
            ));
        }
        if dim == 0 || dim > 256 || !dim.is_multiple_of(8) {
            return Err(format!(
                "heads of {dim} elements; attention takes multiples of 8 up to 256"
            ));
        }
        if self.block_tokens == 0 || self.max_blocks == 0 {
            return Err("attention over a cache without blocks".into());
        }
        if self.kv_type == KvType::Int8 && !self.block_tokens.is_multiple_of(2) {
            return Err("bytes in blocks of an odd number of positions".into());
        }
        Ok(())
    }

    /// The shape in a kernel's name, but for what [`AttentionShape::variant`] has.
    pub(super) fn name(&self) -> String {
        let AttentionShape {
            num_heads,
            num_kv_heads,
            head_dim,
            block_tokens,
            max_blocks,
            ..
        } = *self;
        format!("{num_heads}x{num_kv_heads}x{head_dim}_b{block_tokens}x{max_blocks}")
    }

    /// What in a kernel's name tells apart attention of the same heads and cache.
    pub(super) fn variant(&self) -> String {
        let mut name = String::new();
        if self.scale.to_bits() != (1.0 / (self.head_dim as f32).sqrt()).to_bits() {
            name += &format!("_scale{:08x}", self.scale.to_bits());
        }
        if let Some(cap) = self.softcap {
            name += &format!("_cap{:08x}", cap.to_bits());
        }
        if let Some(window) = self.window {
            name += &format!("_w{window}");
        }
        name
    }

    /// What a query is multiplied with, so that its products are what [`super::common::capped`]
    /// takes: the scale, and what turns e^x (with a cap the e^2x of tanh) into 2^x.
    pub(super) fn factor(&self) -> f32 {
        let log2_e = std::f32::consts::LOG2_E;
        match self.softcap {
            Some(cap) => self.scale * 2.0 * log2_e / cap,
            None => self.scale * log2_e,
        }
    }

    /// Bytes of the keys and values of a position.
    fn position_bytes(&self) -> u64 {
        let key = self.kv_type.block_bytes(1, self.head_dim);
        2 * u64::from(self.num_kv_heads * key)
    }

    /// Keys of a full table, or of a window.
    fn most_keys(&self) -> u64 {
        let context = self.max_blocks * self.block_tokens;
        u64::from(self.window.map_or(context, |w| w.min(context)))
    }

    /// Bytes moved for `tokens` rows that read `keys` keys all together, each its own, queries
    /// included and results in `splits` parts.
    pub(super) fn bytes_at(&self, tokens: u64, keys: u64, splits: u32) -> u64 {
        let dim = u64::from(self.head_dim);
        let written = match splits {
            1 => dim,
            n => u64::from(n) * (dim + 2),
        };
        keys * self.position_bytes() + 4 * tokens * u64::from(self.num_heads) * (dim + written)
    }

    /// The same for rows that all see a full table (or window) of keys.
    pub(super) fn bytes(&self, tokens: u64, splits: u32) -> u64 {
        self.bytes_at(tokens, tokens * self.most_keys(), splits)
    }
}

/// Representative attention: a cache of f16 in blocks of 32, plain scores.
pub(super) fn representative(num_heads: u32, num_kv_heads: u32, head_dim: u32) -> AttentionShape {
    AttentionShape {
        num_heads,
        num_kv_heads,
        head_dim,
        block_tokens: 32,
        max_blocks: 128,
        kv_type: KvType::F16,
        scale: 1.0 / (head_dim as f32).sqrt(),
        softcap: None,
        window: None,
    }
}
