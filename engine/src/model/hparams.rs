//! Hyper-parameters of a model, read from GGUF metadata and checked before anything is sized by
//! them.
//!
//! A `HyperParams` in hand is consistent: heads divide, dimensions are even where they must be,
//! numbers are finite.

use super::families::{Family, Norms};
use super::keys::Keys;
use super::pooling::Pooling;
use super::rope::RopeParams;
use crate::Error;

/// What every family needs to know about a model.
#[derive(Debug, Clone, PartialEq)]
pub struct HyperParams {
    /// The family's name in `general.architecture`.
    pub arch: String,
    /// Transformer layers.
    pub num_layers: usize,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub ffn_size: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The rope of queries and keys, where they are rotated.
    pub rope: Option<RopeParams>,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// How a text's vectors become one.
    pub pooling: Pooling,
}

/// The limits that keep a hostile file from sizing anything absurd.
pub(super) const MAX_LAYERS: u64 = 1024;
const MAX_WIDTH: u64 = 1 << 20;
const MAX_HEADS: u64 = 1 << 14;
pub(super) const MAX_CONTEXT: u64 = 1 << 24;

impl HyperParams {
    /// Reads and checks the metadata of an open model.
    ///
    /// # Errors
    /// A key that is missing, has the wrong type or is out of range.
    pub(super) fn read(keys: &Keys<'_>, family: &Family) -> Result<HyperParams, Error> {
        let num_layers = keys.int("block_count", 1, MAX_LAYERS)?;
        let hidden_size = keys.int("embedding_length", 1, MAX_WIDTH)?;
        let ffn_size = keys.int("feed_forward_length", 1, MAX_WIDTH)?;
        let context_length = keys.int("context_length", 1, MAX_CONTEXT)?;
        let num_heads = keys.int("attention.head_count", 1, MAX_HEADS)?;
        let kv_key = "attention.head_count_kv";
        let num_kv_heads = keys.opt_int(kv_key, 1, MAX_HEADS)?.unwrap_or(num_heads);
        if num_heads % num_kv_heads != 0 {
            let expected = format!("must divide attention.head_count, which is {num_heads}");
            return Err(keys.bad(kv_key, num_kv_heads, expected));
        }
        let head_dim = head_dim(keys, hidden_size, num_heads)?;
        let rope = match family.rotates {
            true => Some(rope(keys, head_dim, context_length)?),
            false => None,
        };
        check_experts(keys)?;
        Ok(HyperParams {
            arch: keys.arch.to_owned(),
            num_layers,
            context_length,
            hidden_size,
            ffn_size,
            num_heads,
            num_kv_heads,
            head_dim,
            rope,
            norm_eps: keys.number(epsilon(family), 0.0..=1.0)?,
            pooling: Pooling::read(keys)?,
        })
    }
}

/// The key of the norms' epsilon.
fn epsilon(family: &Family) -> &'static str {
    match family.norms {
        Norms::RootMeanSquare => "attention.layer_norm_rms_epsilon",
        Norms::Layer => "attention.layer_norm_epsilon",
    }
}

fn rope(keys: &Keys<'_>, head_dim: usize, context: usize) -> Result<RopeParams, Error> {
    let key = "rope.dimension_count";
    let dim = keys.opt_int(key, 1, MAX_WIDTH)?.unwrap_or(head_dim);
    if dim % 2 != 0 || dim > head_dim {
        let expected = format!("must be even and at most attention.key_length, {head_dim}");
        return Err(keys.bad(key, dim, expected));
    }
    RopeParams::read(keys, dim, context)
}

fn head_dim(keys: &Keys<'_>, hidden_size: usize, num_heads: usize) -> Result<usize, Error> {
    let key_length = keys.opt_int("attention.key_length", 1, MAX_WIDTH)?;
    let value_length = keys.opt_int("attention.value_length", 1, MAX_WIDTH)?;
    let head_dim = match key_length {
        Some(n) => n,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let expected = format!(
                "must be a multiple of attention.head_count, {num_heads}, without attention.key_length"
            );
            return Err(keys.bad("embedding_length", hidden_size, expected));
        }
    };
    match value_length {
        Some(v) if v != head_dim => {
            let expected = format!("must equal attention.key_length, {head_dim}");
            Err(keys.bad("attention.value_length", v, expected))
        }
        _ => Ok(head_dim),
    }
}

/// Mixtures of experts are not in the dense families; say so by the key that announces them.
fn check_experts(keys: &Keys<'_>) -> Result<(), Error> {
    let count = keys.opt_int("expert_count", 0, MAX_WIDTH)?.unwrap_or(0);
    let used = keys
        .opt_int("expert_used_count", 0, MAX_WIDTH)?
        .unwrap_or(0);
    if used > count {
        let expected = format!("must be at most expert_count, which is {count}");
        return Err(keys.bad("expert_used_count", used, expected));
    }
    if count > 0 {
        let expected = "mixtures of experts are not supported by this family".to_owned();
        return Err(keys.bad("expert_count", count, expected));
    }
    Ok(())
}
