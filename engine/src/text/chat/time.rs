//! The moment that `strftime_now` writes.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// A moment, in seconds since the epoch (the clock's without one), as a format of `strftime` writes it
/// in the zone of the machine.
pub(super) fn format(now: Option<i64>, format: &str) -> Result<String, String> {
    let zoned = match now {
        Some(seconds) => {
            let moment = Timestamp::from_second(seconds);
            moment
                .map_err(|e| e.to_string())?
                .to_zoned(TimeZone::system())
        }
        None => Zoned::now(),
    };
    strtime::format(format, &zoned).map_err(|e| format!("strftime_now({format:?}): {e}"))
}
