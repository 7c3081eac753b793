//! Hyper-parameters of a model, read from GGUF metadata and checked before anything is sized by
//! them.
//!
//! A `HyperParams` in hand is consistent: heads divide, dimensions are even where they must be,
//! numbers are finite.

use std::fmt::Display;

use gannet_gguf::Gguf;

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
    /// Rotated elements of a head.
    pub rope_dim: usize,
    /// Base of the rope frequencies.
    pub rope_base: f32,
    /// Linear position scaling, `1 / factor`.
    pub rope_scale: f32,
    /// Epsilon of the norms.
    pub rms_eps: f32,
}

/// The limits that keep a hostile file from sizing anything absurd.
const MAX_LAYERS: u64 = 1024;
const MAX_WIDTH: u64 = 1 << 20;
const MAX_HEADS: u64 = 1 << 14;
const MAX_CONTEXT: u64 = 1 << 24;

impl HyperParams {
    /// Reads and checks the metadata of an open model.
    ///
    /// # Errors
    /// A key that is missing, has the wrong type or is out of range.
    pub fn read(gguf: &Gguf) -> Result<HyperParams, Error> {
        let reader = Reader {
            gguf,
            arch: architecture(gguf)?,
        };
        reader.read()
    }
}

/// `general.architecture`.
pub(super) fn architecture(gguf: &Gguf) -> Result<&str, Error> {
    Ok(gguf.metadata().str("general.architecture")?)
}

struct Reader<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
}

impl Reader<'_> {
    fn read(&self) -> Result<HyperParams, Error> {
        let num_layers = self.int("block_count", 1, MAX_LAYERS)?;
        let hidden_size = self.int("embedding_length", 1, MAX_WIDTH)?;
        let ffn_size = self.int("feed_forward_length", 1, MAX_WIDTH)?;
        let context_length = match self.opt_int("context_length", 0, MAX_CONTEXT)? {
            Some(0) | None => 2048,
            Some(n) => n,
        };
        let num_heads = self.int("attention.head_count", 1, MAX_HEADS)?;
        let kv_key = "attention.head_count_kv";
        let num_kv_heads = self.opt_int(kv_key, 1, MAX_HEADS)?.unwrap_or(num_heads);
        if num_heads % num_kv_heads != 0 {
            let expected = format!("must divide attention.head_count, which is {num_heads}");
            return Err(self.bad(kv_key, num_kv_heads, expected));
        }
        let head_dim = self.head_dim(hidden_size, num_heads)?;
        let rope_key = "rope.dimension_count";
        let rope_dim = self.opt_int(rope_key, 1, MAX_WIDTH)?.unwrap_or(head_dim);
        if rope_dim % 2 != 0 || rope_dim > head_dim {
            let expected = format!("must be even and at most the head's {head_dim}");
            return Err(self.bad(rope_key, rope_dim, expected));
        }
        self.check_experts()?;
        Ok(HyperParams {
            arch: self.arch.to_owned(),
            num_layers,
            context_length,
            hidden_size,
            ffn_size,
            num_heads,
            num_kv_heads,
            head_dim,
            rope_dim,
            rope_base: self.rope_base()?,
            rope_scale: self.rope_scale()?,
            rms_eps: self.rms_eps()?,
        })
    }

    fn head_dim(&self, hidden_size: usize, num_heads: usize) -> Result<usize, Error> {
        let key_length = self.opt_int("attention.key_length", 1, MAX_WIDTH)?;
        let value_length = self.opt_int("attention.value_length", 1, MAX_WIDTH)?;
        let head_dim = match key_length {
            Some(n) => n,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                let expected = format!("must be a multiple of attention.head_count, {num_heads}");
                return Err(self.bad("embedding_length", hidden_size, expected));
            }
        };
        match value_length {
            Some(v) if v != head_dim => {
                let expected = format!("must equal the key length, {head_dim}");
                Err(self.bad("attention.value_length", v, expected))
            }
            _ => Ok(head_dim),
        }
    }

    fn rms_eps(&self) -> Result<f32, Error> {
        let key = "attention.layer_norm_rms_epsilon";
        let eps = self.gguf.metadata().f32(&self.key(key))?;
        if eps.is_finite() && eps >= 0.0 {
            Ok(eps)
        } else {
            Err(self.bad(key, eps, "must be a finite number of at least 0".to_owned()))
        }
    }

    fn rope_base(&self) -> Result<f32, Error> {
        let key = "rope.freq_base";
        let base = self
            .gguf
            .metadata()
            .opt_f32(&self.key(key))?
            .unwrap_or(10_000.0);
        if base.is_finite() && base > 0.0 {
            Ok(base)
        } else {
            Err(self.bad(key, base, "must be a finite number above 0".to_owned()))
        }
    }

    fn rope_scale(&self) -> Result<f32, Error> {
        let metadata = self.gguf.metadata();
        match metadata.opt_str(&self.key("rope.scaling.type"))? {
            None | Some("none" | "") => Ok(1.0),
            Some("linear") => {
                let key = "rope.scaling.factor";
                let factor = metadata.f32(&self.key(key))?;
                if factor.is_finite() && factor > 0.0 {
                    Ok(1.0 / factor)
                } else {
                    Err(self.bad(key, factor, "must be a finite number above 0".to_owned()))
                }
            }
            Some(other) => {
                let expected = "supported: none, linear (and rope_freqs.weight)".to_owned();
                Err(self.bad("rope.scaling.type", format!("{other:?}"), expected))
            }
        }
    }

    /// Mixtures of experts are not in the dense families; say so by the key that announces them.
    fn check_experts(&self) -> Result<(), Error> {
        let count = self.opt_int("expert_count", 0, MAX_WIDTH)?.unwrap_or(0);
        let used = self
            .opt_int("expert_used_count", 0, MAX_WIDTH)?
            .unwrap_or(0);
        if used > count {
            let expected = format!("must be at most expert_count, which is {count}");
            return Err(self.bad("expert_used_count", used, expected));
        }
        if count > 0 {
            let expected = "mixtures of experts are not supported by this family".to_owned();
            return Err(self.bad("expert_count", count, expected));
        }
        Ok(())
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    fn int(&self, suffix: &str, min: u64, max: u64) -> Result<usize, Error> {
        let value = self.gguf.metadata().u64(&self.key(suffix))?;
        self.in_range(suffix, value, min, max)
    }

    fn opt_int(&self, suffix: &str, min: u64, max: u64) -> Result<Option<usize>, Error> {
        match self.gguf.metadata().opt_u64(&self.key(suffix))? {
            Some(value) => self.in_range(suffix, value, min, max).map(Some),
            None => Ok(None),
        }
    }

    fn in_range(&self, suffix: &str, value: u64, min: u64, max: u64) -> Result<usize, Error> {
        if (min..=max).contains(&value) {
            Ok(value as usize)
        } else {
            Err(self.bad(suffix, value, format!("must be from {min} to {max}")))
        }
    }

    fn bad(&self, suffix: &str, found: impl Display, expected: String) -> Error {
        Error::HyperParameter {
            file: self.gguf.path().to_owned(),
            key: self.key(suffix),
            found: found.to_string(),
            expected,
        }
    }
}
