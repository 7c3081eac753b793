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
    let format = naive(format);
    strtime::format(&format, &zoned).map_err(|e| format!("strftime_now({format:?}): {e}"))
}

/// A format in which what depends on a locale is that of C, and the zone, which Python's `datetime.now()`
/// does not know, is empty.
fn naive(format: &str) -> String {
    let mut out = String::with_capacity(format.len());
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let directive = rest[at + 1..].chars().next();
        let width = directive.map_or(0, char::len_utf8);
        match directive {
            Some('c') => out.push_str("%a %b %e %H:%M:%S %Y"),
            Some('x') => out.push_str("%m/%d/%y"),
            Some('X') => out.push_str("%H:%M:%S"),
            Some('Z' | 'z') => {}
            _ => out.push_str(&rest[at..at + 1 + width]),
        }
        rest = &rest[at + 1 + width..];
    }
    out + rest
}
