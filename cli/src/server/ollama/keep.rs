//! `keep_alive`: how long a model stays when nobody uses it.

use std::time::Duration;

use serde::Deserialize;
use utoipa::ToSchema;

use crate::server::error::ApiError;

/// Seconds, or text such as `5m`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum KeepAlive {
    /// Seconds.
    Seconds(f64),
    /// A number and a unit, several of them: ns, us, ms, s, m, h.
    Text(String),
}

/// For ever.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

impl KeepAlive {
    /// How long; what is negative is for ever.
    pub(super) fn read(&self) -> Result<Duration, ApiError> {
        let seconds = match self {
            KeepAlive::Seconds(seconds) => Some(*seconds),
            KeepAlive::Text(text) => seconds_of(text.trim()),
        };
        match seconds {
            Some(seconds) if seconds < 0.0 => Ok(FOR_EVER),
            Some(seconds) => {
                Ok(Duration::try_from_secs_f64(seconds).map_or(FOR_EVER, |d| d.min(FOR_EVER)))
            }
            None => {
                let why = "keep_alive: expected seconds, or a duration such as \"5m\"";
                Err(ApiError::param("keep_alive", why))
            }
        }
    }
}

/// The seconds of a duration as Go writes it: `1h30m`, `-1s`; a number alone is seconds.
fn seconds_of(text: &str) -> Option<f64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c))?);
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    Some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let text = |text: &str| KeepAlive::Text(text.to_owned()).read();
        assert_eq!(text("5m").unwrap(), Duration::from_secs(300));
        assert_eq!(text("1h30m5.5s").unwrap(), Duration::from_millis(5_405_500));
        assert_eq!(text("0").unwrap(), Duration::ZERO);
        assert_eq!(text("-1").unwrap(), FOR_EVER);
        assert_eq!(text("-1m").unwrap(), FOR_EVER);
        assert_eq!(
            KeepAlive::Seconds(2.0).read().unwrap(),
            Duration::from_secs(2)
        );
        assert_eq!(KeepAlive::Seconds(1e300).read().unwrap(), FOR_EVER);
        for wrong in ["", "m", "5 minutes", "5x", "nan", "inf", "-", "5m3"] {
            assert_eq!(
                text(wrong).unwrap_err().param.as_deref(),
                Some("keep_alive"),
                "{wrong}"
            );
        }
    }
}
