//! Where the time of a generation goes, token by token.
//!
//! Always holds: nothing waits for the device that would not without the measuring. What the host
//! sees is what is measured: a GPU works on while the host handles a token, and its own time is
//! that of `gannet bench`.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// Durations of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// How many there were.
    pub count: u64,
    /// All together.
    pub total: Duration,
    /// The longest.
    pub max: Duration,
}

impl Times {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.count += 1;
        self.total += time;
        self.max = self.max.max(time);
    }

    /// The mean; zero of none.
    #[must_use]
    pub fn mean(&self) -> Duration {
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        self.total.checked_div(count).unwrap_or_default()
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Seconds {
            count: u64,
            total_seconds: f64,
            mean_seconds: f64,
            max_seconds: f64,
        }
        Seconds {
            count: self.count,
            total_seconds: self.total.as_secs_f64(),
            mean_seconds: self.mean().as_secs_f64(),
            max_seconds: self.max.as_secs_f64(),
        }
        .serialize(serializer)
    }
}

/// The phases of one generation on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct GenerationTimes {
    /// The steps of the prompt, what follows it included.
    #[serde(rename = "prompt_seconds", serialize_with = "seconds")]
    pub prompt: Duration,
    /// From the end of the prompt to the token after it, where that was not there with it.
    #[serde(rename = "first_choice_seconds", serialize_with = "seconds")]
    pub first_choice: Duration,
    /// For each token after the first: until the executor gave it, from when the one before was
    /// handled. On the CPU that is the computation; on a GPU the wait for it, next to nothing where
    /// the token was there already; the first one includes what is done once, such as recording a
    /// graph.
    pub wait: Times,
    /// For each token: its text, and the search for stop strings.
    pub text: Times,
    /// For each token: in the caller's callback, which prints it.
    pub callback: Times,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_mean_and_a_maximum() {
        let mut times = Times::default();
        assert_eq!(times.mean(), Duration::ZERO);
        for ms in [1, 5, 3] {
            times.add(Duration::from_millis(ms));
        }
        let ms = Duration::from_millis;
        assert_eq!((times.count, times.mean(), times.max), (3, ms(3), ms(5)));
    }
}
