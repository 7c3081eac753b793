//! How a model's rope is stretched: every spelling of `rope.scaling` that the field uses.
//!
//! | type | what the table gets |
//! |---|---|
//! | none given, `linear` | positions divided by `factor` |
//! | `yarn` | some pairs divided, all grown ([`Yarn`]); the keys `yarn_*` are of other families |
//! | `longrope` | as `linear`, beside its factors |
//! | `none` | nothing |
//!
//! Factors by pair are tensors, whatever the type: `rope_freqs.weight` (Llama 3), or
//! `rope_factors_short.weight` and `rope_factors_long.weight` (Phi 3). `attn_factor` grows what is
//! rotated, whatever the type.

use super::keys::Keys;
use crate::Error;
use crate::plan::Yarn;

/// Base and scaling of a rope, without what tensors hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeParams {
    /// Rotated elements of a head; even.
    pub dim: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// `1 / rope.scaling.factor`.
    pub scale: f32,
    /// YaRN, where the type says so.
    pub yarn: Option<Yarn>,
    /// `rope.scaling.attn_factor`.
    pub magnitude: f32,
    /// Positions that the model was first trained for.
    pub original_context: usize,
}

impl RopeParams {
    /// Reads the keys of a rope of `dim` elements; the model was trained for `context` positions.
    pub(super) fn read(keys: &Keys<'_>, dim: usize, context: usize) -> Result<RopeParams, Error> {
        let base = keys.opt_positive("rope.freq_base")?.unwrap_or(10_000.0);
        let factor = match keys.opt_finite("rope.scaling.factor")? {
            None => keys.opt_positive("rope.scale_linear")?,
            // Files say 0 for none.
            Some(0.0) => None,
            Some(_) => keys.opt_positive("rope.scaling.factor")?,
        };
        let attn_factor = keys.opt_positive("rope.scaling.attn_factor")?;
        let original = keys.opt_int(
            "rope.scaling.original_context_length",
            1,
            super::MAX_CONTEXT,
        )?;
        let plain = RopeParams {
            dim,
            base,
            scale: 1.0,
            yarn: None,
            magnitude: attn_factor.unwrap_or(1.0),
            original_context: original.unwrap_or(context),
        };
        let scaled = RopeParams {
            scale: factor.map_or(1.0, |f| 1.0 / f),
            ..plain
        };
        let key = "rope.scaling.type";
        match keys.opt_str(key)? {
            Some("none") => Ok(plain),
            None | Some("" | "linear" | "longrope") => Ok(scaled),
            Some("yarn") => Ok(RopeParams {
                yarn: Some(Yarn::of(plain.original_context)),
                ..scaled
            }),
            Some(other) => {
                let expected = "supported: none, linear, yarn, longrope".to_owned();
                Err(keys.bad(key, format!("{other:?}"), expected))
            }
        }
    }
}
