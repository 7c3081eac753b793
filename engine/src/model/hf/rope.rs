//! How a configuration stretches its rope, in every spelling of the field.
//!
//! `rope_theta` and `rope_scaling` stand beside the other keys, or together in `rope_parameters`; the type
//! is `rope_type`, or `type` of older files.
//!
//! | type | what the header gets |
//! |---|---|
//! | `default` | nothing |
//! | `linear` | type and factor |
//! | `dynamic` | nothing: up to the positions of training it changes nothing, and these are the context |
//! | `yarn` | type, factor, original context, betas, and what of the attention's factor is not YaRN's own |
//! | `llama3` | `rope_freqs.weight`, a divisor for each pair |
//! | `longrope`, `su` | type, original context, the attention's factor, both tensors of divisors |
//!
//! Formulas are those of `modeling_rope_utils.py` of transformers.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::config::Config;
use super::family::Shape;
use super::head::Head;
use crate::Error;

/// The keys of a rope in the header.
struct Rope<'a> {
    /// What stretches it, where anything does.
    scaling: Option<Config>,
    /// The object of its base and the key in it.
    base: (Config, &'a str),
}

/// The frequencies before anything stretches them.
#[derive(Clone, Copy)]
struct Frequencies {
    base: f64,
    /// Elements of a head that turn.
    dim: u64,
}

/// Writes the rope of a model; its base is `theta` where the files do not say.
pub(super) fn write(
    c: &Config,
    head: &mut Head,
    shape: &mut Shape,
    theta: f64,
) -> Result<(), Error> {
    let rope = find(c, None)?;
    let base = rope.base.0.number(rope.base.1, Some(theta))?;
    same_base(c, "rope_theta", base)?;
    head.set("rope.freq_base", base as f32, &rope.base.0, rope.base.1)?;
    let dim = rotated(c, rope.scaling.as_ref(), shape)?;
    head.set(
        "rope.dimension_count",
        dim as u32,
        c,
        "partial_rotary_factor",
    )?;
    if let Some(scaling) = &rope.scaling {
        stretch(c, scaling, head, shape, Frequencies { base, dim })?;
    }
    Ok(())
}

/// Writes the base of the layers with a window, whose rope nothing stretches.
pub(super) fn write_local(c: &Config, head: &mut Head, key: &str, theta: f64) -> Result<(), Error> {
    let rope = find(c, Some("sliding_attention"))?;
    let nested = rope.base.0.key("") != c.key("");
    let (at, key) = if nested {
        (&rope.base.0, rope.base.1)
    } else {
        (c, key)
    };
    let base = at.number(key, Some(theta))?;
    same_base(c, "rope_local_base_freq", base)?;
    if let Some(scaling) = rope.scaling.filter(|_| nested) {
        let ty = scaling_type(&scaling)?;
        if ty != "default" {
            let expected = "layers with a window have ropes that nothing stretches here";
            return Err(scaling.bad("rope_type", &Value::from(ty), expected));
        }
    }
    head.set("rope.freq_base_swa", base as f32, at, key)
}

/// Refuses a base that is given twice and differs.
fn same_base(c: &Config, key: &str, base: f64) -> Result<(), Error> {
    match c.opt_number(key)? {
        Some(other) if other != base => {
            let expected = format!("must equal the base of rope_parameters, {base}");
            Err(c.bad(key, &json!(other), &expected))
        }
        _ => Ok(()),
    }
}

/// Where a rope is described: `rope_parameters`, by the kind of layer or for all, or the older keys.
fn find(c: &Config, kind: Option<&str>) -> Result<Rope<'static>, Error> {
    if let Some(all) = c.object("rope_parameters")? {
        let kind = kind.unwrap_or("full_attention");
        let own = if all.has(kind) {
            all.object(kind)?
        } else {
            None
        };
        let parameters = own.unwrap_or(all);
        return Ok(Rope {
            scaling: Some(parameters.clone()),
            base: (parameters, "rope_theta"),
        });
    }
    Ok(Rope {
        scaling: c.object("rope_scaling")?,
        base: (c.clone(), "rope_theta"),
    })
}

/// Elements of a head that turn.
fn rotated(c: &Config, scaling: Option<&Config>, shape: &Shape) -> Result<u64, Error> {
    let key = "partial_rotary_factor";
    let inner = scaling.map_or(Ok(None), |s| s.opt_number(key))?;
    let share = match (c.opt_number(key)?, inner) {
        (Some(outer), Some(inner)) if outer != inner => {
            return Err(c.bad(
                key,
                &json!(outer),
                &format!("must equal that of the rope, {inner}"),
            ));
        }
        (outer, inner) => outer.or(inner).unwrap_or(1.0),
    };
    if share != 1.0 && !shape.turns_partly {
        let expected = "models of this family turn whole heads";
        return Err(c.bad(key, &json!(share), expected));
    }
    if !(share > 0.0 && share <= 1.0) {
        return Err(c.bad(key, &json!(share), "must be above 0 and at most 1"));
    }
    Ok((shape.head_dim as f64 * share) as u64)
}

fn scaling_type(s: &Config) -> Result<&str, Error> {
    let (new, old) = (s.text("rope_type")?, s.text("type")?);
    match (new, old) {
        (Some(new), Some(old)) if new != old && (new, old) != ("longrope", "su") => {
            let expected = format!("must equal rope_type, which is {new:?}");
            Err(s.bad("type", &Value::from(old), &expected))
        }
        (new, old) => Ok(new.or(old).unwrap_or("default")),
    }
}

fn stretch(
    c: &Config,
    s: &Config,
    head: &mut Head,
    shape: &mut Shape,
    of: Frequencies,
) -> Result<(), Error> {
    let key = s.first_of(&["rope_type", "type"]);
    match scaling_type(s)? {
        "default" => Ok(()),
        "linear" => {
            head.set("rope.scaling.type", "linear", s, key)?;
            let factor = s.number("factor", None)?;
            head.set("rope.scaling.factor", factor as f32, s, "factor")
        }
        "dynamic" => {
            s.number("factor", None)?;
            head.warnings.push(format!(
                "config.json: {} dynamic: contexts end at max_position_embeddings, {}, from where on it \
                 would stretch",
                s.key(key),
                shape.context
            ));
            Ok(())
        }
        "llama3" => {
            let factors = llama3(s, of)?;
            head.made.push(("rope_freqs.weight", factors));
            Ok(())
        }
        "yarn" => yarn(c, s, head, shape),
        "longrope" | "su" => long(c, s, head, shape),
        other => {
            let expected = "supported: default, linear, dynamic, llama3, yarn, longrope";
            Err(s.bad(key, &Value::from(other), expected))
        }
    }
}

/// Positions of the first training: beside the type, beside the other keys, or all there are.
fn original(c: &Config, s: &Config, head: &mut Head, shape: &Shape) -> Result<f64, Error> {
    let key = "original_max_position_embeddings";
    let (at, found) = match s.opt_int(key)? {
        Some(found) => (s, Some(found)),
        None => (c, c.opt_int(key)?),
    };
    let found = found.unwrap_or(shape.context);
    if found < 2 {
        return Err(at.bad(key, &Value::from(found), "must be at least 2"));
    }
    let suffix = "rope.scaling.original_context_length";
    head.set(suffix, found as u32, at, key)?;
    Ok(found as f64)
}

/// Llama 3.1: frequencies of more than `high_freq_factor` turns in the original context stay, those of
/// fewer than `low_freq_factor` are divided by the factor, those between are blended.
fn llama3(s: &Config, of: Frequencies) -> Result<Vec<f32>, Error> {
    let Frequencies { base, dim } = of;
    let positive = |key: &str| {
        let found = s.number(key, None)?;
        match found > 0.0 {
            true => Ok(found),
            false => Err(s.bad(key, &json!(found), "must be above 0")),
        }
    };
    let factor = positive("factor")?;
    let (low, high) = (positive("low_freq_factor")?, positive("high_freq_factor")?);
    let context = positive("original_max_position_embeddings")?;
    if low >= high {
        let expected = format!("must be above low_freq_factor, {low}");
        return Err(s.bad("high_freq_factor", &json!(high), &expected));
    }
    let divisor = |pair: u64| {
        let wavelength = TAU * base.powf(2.0 * pair as f64 / dim as f64);
        let turns = context / wavelength;
        if turns > high {
            1.0
        } else if turns < low {
            factor
        } else {
            let kept = (turns - low) / (high - low);
            1.0 / ((1.0 - kept) / factor + kept)
        }
    };
    Ok((0..dim / 2).map(|pair| divisor(pair) as f32).collect())
}

/// What attention is scaled with, `0.1 mscale ln(factor) + 1`.
fn growth(factor: f64, mscale: f64) -> f64 {
    1.0 + 0.1 * mscale * factor.max(1.0).ln()
}

fn yarn(c: &Config, s: &Config, head: &mut Head, shape: &mut Shape) -> Result<(), Error> {
    let original = original(c, s, head, shape)?;
    let factor = match s.opt_number("factor")? {
        Some(factor) => factor,
        None => shape.context as f64 / original,
    };
    let key = s.first_of(&["rope_type", "type"]);
    head.set("rope.scaling.type", "yarn", s, key)?;
    head.set("rope.scaling.factor", factor as f32, s, "factor")?;
    for (key, suffix) in [
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ] {
        if let Some(beta) = s.opt_number(key)? {
            head.set(suffix, beta as f32, s, key)?;
        }
    }
    if !s.flag("truncate", true)? {
        let expected = "the pairs between which YaRN blends are whole ones here";
        return Err(s.bad("truncate", &Value::from(false), expected));
    }
    let scales = (s.opt_number("mscale")?, s.opt_number("mscale_all_dim")?);
    let (key, attention) = match (s.opt_number("attention_factor")?, scales) {
        (Some(attention), _) => ("attention_factor", attention),
        (None, (Some(one), Some(all))) if one != 0.0 && all != 0.0 => {
            ("mscale", growth(factor, one) / growth(factor, all))
        }
        (None, _) => ("attention_factor", growth(factor, 1.0)),
    };
    // YaRN's own growth is not said.
    let rest = (attention / growth(factor, 1.0)) as f32;
    if rest != 1.0 {
        head.set("rope.scaling.attn_factor", rest, s, key)?;
    }
    // Files often give the positions of training where the factor is an offer to go on.
    shape.context = shape.context.max((original * factor) as u64);
    Ok(())
}

fn long(c: &Config, s: &Config, head: &mut Head, shape: &Shape) -> Result<(), Error> {
    let has_original =
        c.has("original_max_position_embeddings") || s.has("original_max_position_embeddings");
    let original = original(c, s, head, shape)?;
    let given = s.opt_number("factor")?;
    let factor = match given {
        Some(factor) if !has_original => factor,
        _ => shape.context as f64 / original,
    };
    let key = s.first_of(&["rope_type", "type"]);
    head.set("rope.scaling.type", "longrope", s, key)?;
    let attention = match s.opt_number("attention_factor")? {
        Some(attention) => attention,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / original.ln()).sqrt(),
    };
    head.set(
        "rope.scaling.attn_factor",
        attention as f32,
        s,
        "attention_factor",
    )?;
    for (key, name) in [
        ("long_factor", "rope_factors_long.weight"),
        ("short_factor", "rope_factors_short.weight"),
    ] {
        match s.numbers(key)? {
            Some(factors) if !factors.is_empty() => head.made.push((name, factors)),
            _ => return Err(s.bad(key, &Value::Null, "must be a list of numbers for longrope")),
        }
    }
    Ok(())
}
