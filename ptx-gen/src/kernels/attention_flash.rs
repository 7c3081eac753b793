//! Attention of a prompt on tensor cores.

use super::attention::{check_heads, variant};
use crate::ir::Kernel;
use crate::target::Target;

/// Attention of one shape over many consecutive queries of one slot; f16 cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionFlashSpec {
    /// GPU to write for.
    pub target: Target,
    /// Query heads.
    pub num_heads: u32,
    /// Key/value heads, a divisor of the query heads.
    pub num_kv_heads: u32,
    /// Elements of a head: a multiple of 16 up to 128.
    pub head_dim: u32,
    /// Positions of a cache block.
    pub block_tokens: u32,
    /// Entries in a row of the block table.
    pub max_blocks: u32,
    /// Factor of the scores.
    pub scale: f32,
    /// Cap of the scores.
    pub softcap: Option<f32>,
    /// Keys that a row sees at most, its own included.
    pub window: Option<u32>,
}

impl AttentionFlashSpec {
    /// Whether the kernel covers the shape.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        check_heads(self.num_heads, self.num_kv_heads, self.head_dim, 128)?;
        Err("attention of prompts on tensor cores".into())
    }

    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [tokens.div_ceil(64), self.num_heads, 1]
    }

    /// Bytes moved for `tokens` rows.
    pub fn bytes(&self, tokens: u64) -> u64 {
        tokens
    }

    /// The kernel, named after its shape.
    pub fn kernel(&self) -> Kernel {
        let name = variant(self.head_dim, self.scale, self.softcap, self.window);
        Kernel::new(format!("attention_flash{name}"), self.target, |_| {})
    }
}
