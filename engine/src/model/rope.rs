//! How a model's rope is stretched: every spelling of `rope.scaling` that the field uses.
//!
//! | type | what the table gets |
//! |---|---|
//! | none given, `linear` | positions divided by `factor`, or by `rope.scale_linear` of old files |
//! | `yarn` | some pairs divided, all grown ([`Yarn`]); `yarn_beta_fast` and `yarn_beta_slow` say which |
//! | `longrope` | as `linear`, beside its factors |
//! | `none` | nothing |
//!
//! Factors by pair are tensors: `rope_freqs.weight` (Llama 3), or `rope_factors_short.weight` and
//! `rope_factors_long.weight` (long rope). `attn_factor` grows what is rotated, whatever the type.
//! The other keys of YaRN are read differently by different programs, so that they are refused unless
//! they say what holds without them.

use std::ops::RangeInclusive;

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
    /// Whether the type is `longrope`, whose factors are tensors.
    pub is_long: bool,
    /// `rope.scaling.attn_factor`.
    pub magnitude: f32,
    /// Positions that the model was first trained for.
    pub original_context: usize,
}

/// Bases of frequencies that turn at all and in the order of their pairs.
pub(super) const BASES: RangeInclusive<f32> = 1.01..=1e15;
/// By how much positions may be divided.
const FACTORS: RangeInclusive<f32> = 1e-3..=1e6;
/// By how much rotated elements may be grown.
const MAGNITUDES: RangeInclusive<f32> = 1e-3..=1e3;
/// Turns within the original context.
const TURNS: RangeInclusive<f32> = 1e-3..=1e6;

impl RopeParams {
    /// Reads the keys of a rope of `dim` elements; the model was trained for `context` positions.
    pub(super) fn read(keys: &Keys<'_>, dim: usize, context: usize) -> Result<RopeParams, Error> {
        let base = keys.opt_number("rope.freq_base", BASES)?;
        let factor = factor(keys)?;
        let magnitude = keys.opt_number("rope.scaling.attn_factor", MAGNITUDES)?;
        let original = "rope.scaling.original_context_length";
        let original = keys.opt_int(original, 1, super::MAX_CONTEXT)?;
        let plain = RopeParams {
            dim,
            base: base.unwrap_or(10_000.0),
            scale: 1.0,
            yarn: None,
            is_long: false,
            magnitude: magnitude.unwrap_or(1.0),
            original_context: original.unwrap_or(context),
        };
        let scaled = RopeParams {
            scale: factor.map_or(1.0, |f| 1.0 / f),
            ..plain
        };
        let key = "rope.scaling.type";
        match keys.opt_str(key)? {
            Some("none") => Ok(plain),
            None | Some("" | "linear") => Ok(scaled),
            Some("longrope") => Ok(RopeParams {
                is_long: true,
                ..scaled
            }),
            Some("yarn") => Ok(RopeParams {
                yarn: Some(yarn(keys, plain.original_context)?),
                ..scaled
            }),
            Some(other) => {
                let expected = "supported: none, linear, yarn, longrope".to_owned();
                Err(keys.bad(key, format!("{other:?}"), expected))
            }
        }
    }
}

/// What positions are divided by, in its new spelling and the old one.
fn factor(keys: &Keys<'_>) -> Result<Option<f32>, Error> {
    let (new, old) = ("rope.scaling.factor", "rope.scale_linear");
    let read = |key| match keys.opt_number(key, 0.0..=f32::INFINITY) {
        // Files say 0 for none.
        Ok(Some(0.0)) => Ok(None),
        _ => keys.opt_number(key, FACTORS),
    };
    match (read(new)?, read(old)?) {
        (Some(factor), Some(other)) if factor != other => {
            let expected = format!("must equal {new}, which is {factor}");
            Err(keys.bad(old, other, expected))
        }
        (factor, other) => Ok(factor.or(other)),
    }
}

fn yarn(keys: &Keys<'_>, original_context: usize) -> Result<Yarn, Error> {
    let paper = Yarn::of(original_context);
    let (fast, slow) = ("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow");
    let yarn = Yarn {
        beta_fast: keys.opt_number(fast, TURNS)?.unwrap_or(paper.beta_fast),
        beta_slow: keys.opt_number(slow, TURNS)?.unwrap_or(paper.beta_slow),
        ..paper
    };
    if yarn.beta_fast < yarn.beta_slow {
        let expected = format!("must be at least {slow}, which is {}", yarn.beta_slow);
        return Err(keys.bad(fast, yarn.beta_fast, expected));
    }
    Ok(yarn)
}
