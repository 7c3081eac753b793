//! Ollama's options in the engine's words.
//!
//! What is not said has Ollama's defaults. An option that would change what is computed and cannot be followed
//! is refused by its name, and so are those of a load, which `gannet serve` decides.

use gannet_engine::requests::Grammar;
use gannet_engine::{GenerateOptions, Sampling};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::sampling::random_seed;
use crate::server::controls::{MOST_STOPS, OneOrMany, out_of_range, ranged};
use crate::server::error::ApiError;

/// Options of a request.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// 0 takes the most likely token. Default: 0.8.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// Choose among so many of the most likely tokens; 0: all. Default: 40.
    #[schema(minimum = 0)]
    top_k: Option<i64>,
    /// Choose among the most likely tokens that together reach this probability. Default: 0.9.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// Choose among tokens at least so many times as likely as the most likely one.
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f64>,
    /// Makes recent tokens less likely by this factor. Default: 1.1.
    repeat_penalty: Option<f64>,
    /// How many recent tokens penalties look at; 0: none. Default: 64.
    repeat_last_n: Option<i64>,
    /// Subtracted from the logit of every recent token.
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f64>,
    /// Subtracted from the logit of a recent token for each time it occurs.
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f64>,
    /// The same seed gives the same text; without one it is another each time.
    seed: Option<i64>,
    /// Texts that end the reply where they begin.
    stop: Option<OneOrMany<String>>,
    /// Tokens to generate at most; -1 and -2: as many as fit.
    #[schema(minimum = -2)]
    num_predict: Option<i64>,
    /// Positions that the context must have; the server's is as large as it is.
    #[schema(minimum = 1)]
    num_ctx: Option<u64>,
    /// What a context that moves on keeps; contexts never do.
    #[serde(rename = "num_keep")]
    _num_keep: Option<i64>,
    /// Not supported but 1.
    typical_p: Option<f64>,
    /// Not supported but 1.
    tfs_z: Option<f64>,
    /// Not supported but 0.
    mirostat: Option<f64>,
}

/// The window of the engine's penalties at most.
const MOST_WINDOW: i64 = 4096;

impl Options {
    /// Refuses what would change results and is not done.
    fn check(&self, context: usize) -> Result<(), ApiError> {
        for (name, value, none) in [
            ("typical_p", self.typical_p, 1.0),
            ("tfs_z", self.tfs_z, 1.0),
            ("mirostat", self.mirostat, 0.0),
        ] {
            if value.is_some_and(|value| value != none) {
                let why = "this way to choose tokens is not supported; leave it out";
                return Err(ApiError::unsupported(&format!("options.{name}"), why));
            }
        }
        match self.num_ctx {
            Some(wanted) if wanted > context as u64 => {
                let message = format!(
                    "options.num_ctx is {wanted}, and the context of this model is {context} tokens; ask for \
                     no more, or start the server with a larger --ctx"
                );
                Err(ApiError::param("options.num_ctx", message).code("out_of_range"))
            }
            _ => Ok(()),
        }
    }

    /// What the engine is to do, in a context of so many tokens.
    pub(super) fn read(&self, context: usize) -> Result<GenerateOptions, ApiError> {
        self.check(context)?;
        let stop = self.stop.clone().map_or(Vec::new(), OneOrMany::into_vec);
        if stop.len() > MOST_STOPS {
            return Err(out_of_range("options.stop", stop.len(), "at most 16 texts"));
        }
        let max_tokens = match self.num_predict.unwrap_or(-1) {
            -2 | -1 => context,
            n if n >= 0 => usize::try_from(n).unwrap_or(usize::MAX),
            n => return Err(out_of_range("options.num_predict", n, "-2 or more")),
        };
        Ok(GenerateOptions {
            max_tokens,
            sampling: self.sampling()?,
            // As Ollama's, whose clients say that there is none by an empty one.
            stop: stop.into_iter().filter(|text| !text.is_empty()).collect(),
            ..GenerateOptions::default()
        })
    }

    fn sampling(&self) -> Result<Sampling, ApiError> {
        let top_p = ranged("options.top_p", self.top_p, 0.9, 0.0..=1.0)?;
        let top_k = match self.top_k.unwrap_or(40) {
            k if k >= 0 => usize::try_from(k).unwrap_or(usize::MAX),
            k => return Err(out_of_range("options.top_k", k, "0 or more")),
        };
        let penalty = self.repeat_penalty.unwrap_or(1.1);
        if !(penalty > 0.0 && penalty <= 100.0) {
            let range = "above 0, at most 100";
            return Err(out_of_range("options.repeat_penalty", penalty, range));
        }
        let window = match self.repeat_last_n.unwrap_or(64) {
            n @ 0..=MOST_WINDOW => n as usize,
            n => return Err(out_of_range("options.repeat_last_n", n, "0 to 4096")),
        };
        let penalised = |name, value| ranged(name, value, 0.0, -2.0..=2.0);
        let none = Sampling::default();
        let sampling = Sampling {
            temperature: ranged("options.temperature", self.temperature, 0.8, 0.0..=2.0)?,
            // No probability at all leaves the most likely token.
            top_k: if top_p == 0.0 { 1 } else { top_k },
            top_p: if top_p == 0.0 { 1.0 } else { top_p },
            min_p: ranged("options.min_p", self.min_p, 0.0, 0.0..=1.0)?,
            repetition_penalty: penalty as f32,
            presence_penalty: penalised("options.presence_penalty", self.presence_penalty)?,
            frequency_penalty: penalised("options.frequency_penalty", self.frequency_penalty)?,
            // Any negative seed is another one each time.
            seed: match self.seed {
                Some(seed) if seed >= 0 => seed as u64,
                _ => random_seed(),
            },
            repetition_window: window.max(1),
        };
        Ok(match window {
            0 => Sampling {
                repetition_penalty: 1.0,
                presence_penalty: 0.0,
                frequency_penalty: 0.0,
                repetition_window: none.repetition_window,
                ..sampling
            },
            _ => sampling,
        })
    }
}

/// `format`: JSON, or JSON of a schema.
pub(super) fn format(given: Option<&Value>) -> Result<Option<Grammar>, ApiError> {
    match given {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) if word.is_empty() => Ok(None),
        Some(Value::String(word)) if word == "json" => Ok(Some(Grammar::JsonObject)),
        Some(schema @ Value::Object(_)) => Ok(Some(Grammar::JsonSchema(schema.to_string()))),
        Some(_) => Err(ApiError::param(
            "format",
            "format: expected \"json\" or a JSON schema",
        )),
    }
}

/// `think`: whether a model is to think, or how much.
pub(super) fn think(given: Option<&Value>) -> Result<Option<bool>, ApiError> {
    match given {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(think)) => Ok(Some(*think)),
        Some(Value::String(word)) if matches!(word.as_str(), "low" | "medium" | "high") => {
            Ok(Some(true))
        }
        Some(_) => Err(ApiError::param(
            "think",
            "think: expected true, false, low, medium or high",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::body::read_at;

    fn options(given: Value) -> Result<GenerateOptions, ApiError> {
        read_at::<Options>(given, "options")?.read(100)
    }

    #[test]
    fn what_is_not_said_is_as_ollamas() {
        let none = options(json!({})).unwrap();
        let sampling = &none.sampling;
        assert_eq!(
            (sampling.temperature, sampling.top_k, sampling.top_p),
            (0.8, 40, 0.9)
        );
        assert_eq!(
            (sampling.repetition_penalty, sampling.repetition_window),
            (1.1, 64)
        );
        assert_eq!(none.max_tokens, 100);
        let some = options(
            json!({"seed": 4, "num_predict": 0, "stop": ["a", ""], "repeat_last_n": 0,
                                  "num_ctx": 100, "num_keep": 4, "mirostat": 0, "typical_p": 1.0}),
        );
        let some = some.unwrap();
        assert_eq!(
            (some.sampling.seed, some.max_tokens, some.stop),
            (4, 0, vec!["a".to_owned()])
        );
        assert_eq!(some.sampling.repetition_penalty, 1.0);
    }

    #[test]
    fn options_are_refused_by_name() {
        for (name, value) in [
            ("temperature", json!(-1)),
            ("top_k", json!(-1)),
            ("top_p", json!(2)),
            ("min_p", json!(2)),
            ("repeat_penalty", json!(0)),
            ("repeat_last_n", json!(-2)),
            ("presence_penalty", json!(3)),
            ("frequency_penalty", json!("x")),
            ("num_predict", json!(-3)),
            ("num_ctx", json!(101)),
            ("mirostat", json!(2)),
            ("tfs_z", json!(0.5)),
            ("typical_p", json!(0.5)),
            ("stop", json!(vec!["x"; 17])),
            ("num_gpu", json!(1)),
            ("num_thread", json!(4)),
            ("penalize_newline", json!(true)),
        ] {
            let error = options(json!({ name: value })).unwrap_err();
            assert_eq!(
                error.param,
                Some(format!("options.{name}")),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn formats_and_thoughts_are_read() {
        assert!(format(Some(&json!(""))).unwrap().is_none());
        assert!(matches!(
            format(Some(&json!("json"))).unwrap(),
            Some(Grammar::JsonObject)
        ));
        assert!(matches!(
            format(Some(&json!({"type": "object"}))).unwrap(),
            Some(Grammar::JsonSchema(_))
        ));
        assert_eq!(
            format(Some(&json!("xml"))).unwrap_err().param.as_deref(),
            Some("format")
        );
        assert_eq!(think(Some(&json!("low"))).unwrap(), Some(true));
        assert_eq!(think(Some(&json!(false))).unwrap(), Some(false));
        assert_eq!(
            think(Some(&json!("max"))).unwrap_err().param.as_deref(),
            Some("think")
        );
    }
}
