//! `/set`: how tokens are chosen, changed between messages.

use std::str::FromStr;

use gannet_engine::GenerateOptions;

/// What holds in a conversation besides its messages.
#[derive(Debug, Clone)]
pub(crate) struct Controls {
    pub(crate) options: GenerateOptions,
    /// Whether the model is to think, where it can; `None`: as its template likes.
    pub(crate) thinking: Option<bool>,
}

impl Controls {
    /// Sets one of them, or says in one line why not; then all stays as it was.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let mut changed = self.clone();
        let sampling = &mut changed.options.sampling;
        match name {
            "temp" | "temperature" => sampling.temperature = number(name, value)?,
            "top-k" => sampling.top_k = number(name, value)?,
            "top-p" => sampling.top_p = number(name, value)?,
            "min-p" => sampling.min_p = number(name, value)?,
            "repeat-penalty" => sampling.repetition_penalty = number(name, value)?,
            "presence-penalty" => sampling.presence_penalty = number(name, value)?,
            "frequency-penalty" => sampling.frequency_penalty = number(name, value)?,
            "seed" => sampling.seed = number(name, value)?,
            "max-tokens" => {
                changed.options.max_tokens = match value {
                    "-1" => usize::MAX,
                    _ => number(name, value)?,
                }
            }
            "thinking" => {
                changed.thinking = match value {
                    "on" => Some(true),
                    "off" => Some(false),
                    "auto" => None,
                    _ => return Err(format!("thinking is on, off or auto, not {value:?}")),
                }
            }
            _ => {
                return Err(format!(
                    "there is no {name:?} to set; /set shows what there is"
                ));
            }
        }
        changed.options.sampling.check()?;
        *self = changed;
        Ok(())
    }

    /// All of them, a line each.
    pub(crate) fn list(&self) -> String {
        let sampling = &self.options.sampling;
        let most = match self.options.max_tokens {
            usize::MAX => "-1".to_owned(),
            most => most.to_string(),
        };
        let thinking = match self.thinking {
            Some(true) => "on",
            Some(false) => "off",
            None => "auto",
        };
        let rows = [
            ("temp", sampling.temperature.to_string()),
            ("top-k", sampling.top_k.to_string()),
            ("top-p", sampling.top_p.to_string()),
            ("min-p", sampling.min_p.to_string()),
            ("repeat-penalty", sampling.repetition_penalty.to_string()),
            ("presence-penalty", sampling.presence_penalty.to_string()),
            ("frequency-penalty", sampling.frequency_penalty.to_string()),
            ("seed", sampling.seed.to_string()),
            ("max-tokens", most),
            ("thinking", thinking.to_owned()),
        ];
        let lines = rows.map(|(name, value)| format!("{name:18} {value}"));
        lines.join("\n")
    }
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    let wrong = |_| format!("{name} is a number, not {value:?}; such as /set temp 0.7");
    value.parse().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls() -> Controls {
        Controls {
            options: GenerateOptions::default(),
            thinking: None,
        }
    }

    #[test]
    fn whatever_is_listed_can_be_set() {
        let mut all = controls();
        for line in controls().list().lines() {
            let (name, value) = line.split_once(' ').unwrap();
            all.set(name, value.trim()).unwrap();
        }
        assert_eq!(all.list(), controls().list());
        all.set("temp", "0.5").unwrap();
        all.set("max-tokens", "-1").unwrap();
        all.set("thinking", "off").unwrap();
        assert!(all.list().contains("temp               0.5\n"));
        assert_eq!(
            (all.options.max_tokens, all.thinking),
            (usize::MAX, Some(false))
        );
    }

    #[test]
    fn what_makes_no_sense_changes_nothing() {
        let mut all = controls();
        for (name, value) in [
            ("temp", "warm"),
            ("temp", "-1"),
            ("temp", "NaN"),
            ("top-p", "2"),
            ("top-k", "-1"),
            ("seed", "1.5"),
            ("max-tokens", "-2"),
            ("thinking", "maybe"),
            ("speed", "1"),
        ] {
            let why = all.set(name, value).unwrap_err();
            assert!(!why.contains('\n') && !why.is_empty(), "{why}");
        }
        assert_eq!(all.list(), controls().list());
    }
}
