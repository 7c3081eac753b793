//! The element types of the key/value cache, and what a block of it takes.

use std::str::FromStr;

/// Element type of the key/value cache.
///
/// A pool is `[blocks, num_kv_heads]` of what a head has of a cache block: `[block_tokens, head_dim]`
/// elements and, for bytes, behind them `[block_tokens]` scales.
///
/// What rounding keys and values costs, as the normalised mean square error of attention over
/// Gaussian ones against the same attention over the unrounded ones in f64 (held by
/// `tests/kernels_attention_decode.rs`): f32 1e-12, f16 2e-7, bf16 1e-5, bytes 2e-4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvType {
    /// 16-bit float.
    #[default]
    F16,
    /// 16-bit float with the range of f32; sm_80 and later.
    BF16,
    /// 32-bit float.
    F32,
    /// Signed byte times the scale of its token and head, an f32: the head's largest magnitude over
    /// 127, at least [`KvType::LEAST_SCALE`].
    Int8,
}

impl KvType {
    /// The least scale of bytes, 2^-32: its logarithm bounds how far weights of values can lie
    /// from weights of scores.
    pub const LEAST_SCALE: f32 = 1.0 / (1u64 << 32) as f32;

    /// What [`KvType::from_str`] takes: the names.
    pub const NAMES: &str = "f16, bf16, f32 or int8";

    /// Lower-case name, as in kernel names.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::BF16 => "bf16",
            KvType::F32 => "f32",
            KvType::Int8 => "int8",
        }
    }

    /// Bytes of an element, without its share in a scale.
    pub fn bytes(self) -> u32 {
        match self {
            KvType::F16 | KvType::BF16 => 2,
            KvType::F32 => 4,
            KvType::Int8 => 1,
        }
    }

    /// Bytes of what a head has of a cache block.
    pub fn block_bytes(self, block_tokens: u32, head_dim: u32) -> u32 {
        let scale = if self == KvType::Int8 { 4 } else { 0 };
        block_tokens * (head_dim * self.bytes() + scale)
    }
}

impl FromStr for KvType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let all = [KvType::F16, KvType::BF16, KvType::F32, KvType::Int8];
        let found = all.into_iter().find(|kv_type| kv_type.name() == s);
        found.ok_or_else(|| {
            format!(
                "{s:?} is no element type of a cache; expected {}",
                Self::NAMES
            )
        })
    }
}
