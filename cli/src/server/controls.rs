//! How tokens are chosen and how far a text goes: the parameters that all OpenAI routes share.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use gannet_engine::{GenerateOptions, Model, Sampling};
use serde::Deserialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::sampling::random_seed;

/// Stop strings that a request may have.
pub(crate) const MOST_STOPS: usize = 16;

/// Choices that a request may ask for.
const MOST_CHOICES: u64 = 128;

/// Most likely tokens that a request may ask for with each token.
pub(crate) const MOST_TOP: u64 = 20;

/// One value, or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// How tokens are chosen and how far a text goes.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Controls {
    /// Most tokens to generate.
    max_tokens: Option<u64>,
    /// The newer name of `max_tokens`.
    max_completion_tokens: Option<u64>,
    /// 0 takes the most likely token; at most 2. Default: 1.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// Choose among the most likely tokens that together reach this probability.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// Choose among so many of the most likely tokens; 0 or -1: all.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    /// Choose among tokens at least so many times as likely as the most likely one.
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f64>,
    /// Subtracted from the logit of every recent token.
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f64>,
    /// Subtracted from the logit of a recent token for each time it occurs.
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f64>,
    /// Makes recent tokens less likely by this factor; 1: not.
    #[schema(exclusive_minimum = 0)]
    repetition_penalty: Option<f64>,
    /// The same seed gives the same text; without one it is another each time.
    seed: Option<i64>,
    /// Texts that end the answer where they begin.
    stop: Option<OneOrMany<String>>,
    /// Tokens that end the answer.
    stop_token_ids: Option<Vec<u32>>,
    /// Added to the logits of tokens, by their ids as text.
    logit_bias: Option<BTreeMap<String, f64>>,
    /// How many answers.
    #[schema(minimum = 1, maximum = 128)]
    n: Option<u64>,
    /// Go on where the model ends its text.
    ignore_eos: Option<bool>,
    /// Fewest tokens before the model may end its text.
    min_tokens: Option<u64>,
    /// Class of urgency; 0 is the most urgent.
    priority: Option<u8>,
    /// Whoever asks; nothing is done with it.
    #[expect(dead_code, reason = "nothing is done with it")]
    user: Option<String>,
}

impl Controls {
    /// The names of its parameters.
    pub(crate) const NAMES: &[&str] = &[
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "stop_token_ids",
        "logit_bias",
        "n",
        "ignore_eos",
        "min_tokens",
        "priority",
        "user",
    ];

    /// Choices asked for.
    pub(crate) fn choices(&self) -> Result<usize, ApiError> {
        match self.n.unwrap_or(1) {
            n @ 1..=MOST_CHOICES => Ok(n as usize),
            n => Err(out_of_range("n", n, "1 to 128")),
        }
    }

    /// Fewest tokens.
    pub(crate) fn min_tokens(&self) -> usize {
        usize::try_from(self.min_tokens.unwrap_or(0)).unwrap_or(usize::MAX)
    }

    /// Class of urgency.
    pub(crate) fn priority(&self) -> u8 {
        self.priority.unwrap_or(0)
    }

    /// Added to logits.
    pub(crate) fn logit_bias(&self, model: &Model) -> Result<Vec<(u32, f32)>, ApiError> {
        let Some(biases) = &self.logit_bias else {
            return Ok(Vec::new());
        };
        let mut found = Vec::with_capacity(biases.len());
        for (token, &bias) in biases {
            let param = format!("logit_bias.{token}");
            let id = token.parse::<u32>().ok();
            let id = id.filter(|id| (*id as usize) < model.tokenizer().vocab_size());
            let Some(id) = id else {
                let most = model.tokenizer().vocab_size() - 1;
                let why = format!("{param} is no token id; there are 0 to {most}");
                return Err(ApiError::param(param, why));
            };
            found.push((id, ranged(&param, Some(bias), 0.0, -100.0..=100.0)?));
        }
        Ok(found)
    }

    /// What the engine is to do. `max_tokens` is what holds where nobody said how many.
    pub(crate) fn options(&self, max_tokens: usize) -> Result<GenerateOptions, ApiError> {
        let max_tokens = match (self.max_tokens, self.max_completion_tokens) {
            (Some(a), Some(b)) if a != b => {
                let why = "max_tokens and max_completion_tokens say different numbers; give one";
                return Err(ApiError::param("max_completion_tokens", why));
            }
            (Some(0), _) => return Err(out_of_range("max_tokens", 0, "at least 1")),
            (_, Some(0)) => return Err(out_of_range("max_completion_tokens", 0, "at least 1")),
            (Some(most), _) | (_, Some(most)) => usize::try_from(most).unwrap_or(usize::MAX),
            (None, None) => max_tokens,
        };
        let stop = self.stop.clone().map_or(Vec::new(), OneOrMany::into_vec);
        if stop.len() > MOST_STOPS {
            return Err(out_of_range("stop", stop.len(), "at most 16 texts"));
        }
        if stop.iter().any(String::is_empty) {
            return Err(ApiError::param("stop", "stop: a text to stop at is empty"));
        }
        Ok(GenerateOptions {
            max_tokens,
            sampling: self.sampling()?,
            ignore_eog: self.ignore_eos.unwrap_or(false),
            parse_special: true,
            stop,
            stop_tokens: self.stop_token_ids.clone().unwrap_or_default(),
            ..GenerateOptions::default()
        })
    }

    fn sampling(&self) -> Result<Sampling, ApiError> {
        let none = Sampling::default();
        let top_p = ranged("top_p", self.top_p, 1.0, 0.0..=1.0)?;
        let top_k = match self.top_k.unwrap_or(0) {
            -1 => 0,
            k if k >= 0 => usize::try_from(k).unwrap_or(usize::MAX),
            k => return Err(out_of_range("top_k", k, "-1 or more")),
        };
        let penalty = self.repetition_penalty.unwrap_or(1.0);
        if !(penalty > 0.0 && penalty <= 100.0) {
            return Err(out_of_range(
                "repetition_penalty",
                penalty,
                "above 0, at most 100",
            ));
        }
        Ok(Sampling {
            temperature: ranged("temperature", self.temperature, 1.0, 0.0..=2.0)?,
            // No probability at all leaves the most likely token.
            top_k: if top_p == 0.0 { 1 } else { top_k },
            top_p: if top_p == 0.0 { 1.0 } else { top_p },
            min_p: ranged("min_p", self.min_p, 0.0, 0.0..=1.0)?,
            presence_penalty: ranged("presence_penalty", self.presence_penalty, 0.0, -2.0..=2.0)?,
            frequency_penalty: ranged(
                "frequency_penalty",
                self.frequency_penalty,
                0.0,
                -2.0..=2.0,
            )?,
            repetition_penalty: penalty as f32,
            seed: self.seed.map_or_else(random_seed, |seed| seed as u64),
            ..none
        })
    }
}

/// A number in a range.
pub(crate) fn ranged(
    param: &str,
    value: Option<f64>,
    default: f64,
    range: RangeInclusive<f64>,
) -> Result<f32, ApiError> {
    match value.unwrap_or(default) {
        value if range.contains(&value) => Ok(value as f32),
        value => {
            let expected = format!("{} to {}", range.start(), range.end());
            Err(out_of_range(param, value, &expected))
        }
    }
}

/// A value that is out of range.
pub(crate) fn out_of_range(param: &str, value: impl std::fmt::Display, range: &str) -> ApiError {
    let message = format!("{param} is {value}; expected {range}");
    ApiError::param(param, message).code("out_of_range")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::body::read;
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        for (name, value) in [
            ("temperature", json!(2.5)),
            ("temperature", json!(-0.1)),
            ("top_p", json!(1.01)),
            ("top_k", json!(-2)),
            ("min_p", json!(2)),
            ("presence_penalty", json!(-3)),
            ("frequency_penalty", json!(3)),
            ("repetition_penalty", json!(0)),
            ("max_tokens", json!(0)),
            ("stop", json!([""])),
            ("stop", json!(vec!["x"; 17])),
        ] {
            let controls: Controls = read(json!({ name: value })).unwrap();
            let error = controls.options(16).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name), "{value}");
        }
        let many: Controls = read(json!({"n": 0})).unwrap();
        assert_eq!(many.choices().unwrap_err().param.as_deref(), Some("n"));
        let ok: Controls = read(json!({"top_p": 0, "stop": "x", "seed": -1})).unwrap();
        let options = ok.options(16).unwrap();
        assert_eq!((options.sampling.top_k, options.max_tokens), (1, 16));
        assert_eq!(options.sampling.seed, u64::MAX);
    }

    #[test]
    fn its_names_are_those_of_its_fields() {
        for name in Controls::NAMES {
            let error = read::<Controls>(json!({ *name: {"no": ["such", "value"]} })).unwrap_err();
            let param = error.param.unwrap_or_default();
            assert!(param.starts_with(name), "{name}: {param}");
            assert_ne!(error.code, Some("unknown_parameter"), "{name}");
        }
    }
}
