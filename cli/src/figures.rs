//! Numbers for people: sizes, rates, times, shares.

/// A size in binary units with three significant digits: `7.56 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// A rate or a count: enough digits to compare, no more.
pub(crate) fn rate(value: f64) -> String {
    three_digits(value)
}

/// A time with its unit: `1.25 s`, `340 ms`.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if v >= 1.0 => format!("{} s", three_digits(v)),
        v if v >= 1e-3 => format!("{} ms", three_digits(v * 1e3)),
        v => format!("{} us", three_digits(v * 1e6)),
    }
}

/// A share: `87.5%`.
pub(crate) fn percent(value: f64) -> String {
    format!("{:.1}%", value * 100.0)
}

/// A number of things: `1 token`, `2 tokens`, `12,000 tokens`.
pub(crate) fn counted(n: usize, thing: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(n as u64))
}

/// A whole number with separators: `11,932,928`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(7_926_624), "7.56 MiB");
        assert_eq!(bytes(5 << 30), "5.00 GiB");
        assert_eq!(seconds(0.34), "340 ms");
        assert_eq!(seconds(1.25), "1.25 s");
        assert_eq!(count(11_932_928), "11,932,928");
        assert_eq!(count(123), "123");
        assert_eq!(counted(1, "token"), "1 token");
        assert_eq!(counted(0, "token"), "0 tokens");
        assert_eq!(counted(1234, "token"), "1,234 tokens");
        assert_eq!(percent(0.8754), "87.5%");
        assert_eq!(
            (rate(5234.4), rate(41.26)),
            ("5234".to_owned(), "41.3".to_owned())
        );
    }
}
