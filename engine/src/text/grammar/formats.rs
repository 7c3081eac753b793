//! Formats of strings as patterns: each matches only what the format's definition allows, some of them
//! less (no leap seconds, no quoted local parts, no addresses in brackets).

/// A format and the pattern of its strings.
const FORMATS: &[(&str, &str)] = &[
    ("date", DATE),
    ("time", TIME),
    ("duration", DURATION),
    ("email", EMAIL),
    ("hostname", HOSTNAME),
    ("ipv4", IPV4),
    ("ipv6", IPV6),
    ("uuid", UUID),
    ("uri", URI),
];

/// RFC 3339, `full-date`; the 29th of February in leap years of the Gregorian calendar.
const DATE: &str = "([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])\
    |(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))\
    |([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)";
/// RFC 3339, `full-time`.
const TIME: &str = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?\
    (Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
/// RFC 3339, appendix A.
const DURATION: &str = "P([0-9]{1,9}W|([0-9]{1,9}Y([0-9]{1,9}M([0-9]{1,9}D)?)?|[0-9]{1,9}M([0-9]{1,9}D)?|[0-9]{1,9}D)\
    (T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))?\
    |T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))";
/// RFC 5321, `Mailbox`.
const EMAIL: &str = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,16}(\\.[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,16}){0,2}\
    @[a-zA-Z0-9]([a-zA-Z0-9]{0,20}[a-zA-Z0-9])?(\\.[a-zA-Z0-9]([a-zA-Z0-9]{0,20}[a-zA-Z0-9])?){0,3}\\.[a-zA-Z]{2,10}";
/// RFC 1123; no label has a hyphen in its third and fourth place, as those that begin so are encoded.
const HOSTNAME: &str =
    "[a-zA-Z0-9]([a-zA-Z0-9]{0,30}[a-zA-Z0-9])?(\\.[a-zA-Z]([a-zA-Z0-9]{0,30}[a-zA-Z0-9])?){0,4}";
/// RFC 2673, `dotted-quad`.
const IPV4: &str = "((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}\
    (25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
/// RFC 4291, section 2.2.
const IPV6: &str = "(([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}\
    |([0-9a-fA-F]{1,4}:){1,6}(:[0-9a-fA-F]{1,4})|([0-9a-fA-F]{1,4}:){1,5}(:[0-9a-fA-F]{1,4}){1,2}\
    |([0-9a-fA-F]{1,4}:){1,4}(:[0-9a-fA-F]{1,4}){1,3}|([0-9a-fA-F]{1,4}:){1,3}(:[0-9a-fA-F]{1,4}){1,4}\
    |([0-9a-fA-F]{1,4}:){1,2}(:[0-9a-fA-F]{1,4}){1,5}|[0-9a-fA-F]{1,4}:(:[0-9a-fA-F]{1,4}){1,6}\
    |:(:[0-9a-fA-F]{1,4}){1,7}|::)";
/// RFC 4122.
const UUID: &str = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}";
/// RFC 3986: with a host, or without one and a path.
const URI: &str = "[a-zA-Z][a-zA-Z0-9+.-]{0,10}:(//[a-zA-Z0-9]([a-zA-Z0-9.-]{0,60}[a-zA-Z0-9])?(:[1-9][0-9]{0,3})?(/([a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2}){0,60}){0,8}\
    |([a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2}){1,60})\
    (\\?([a-zA-Z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-fA-F]{2}){0,100})?(#([a-zA-Z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-fA-F]{2}){0,60})?";

/// The pattern of a format's strings, as a schema writes it.
pub(super) fn pattern_of(format: &str) -> Option<String> {
    if format == "date-time" {
        return Some(format!("^{DATE}T{TIME}$"));
    }
    let found = FORMATS.iter().find(|(name, _)| *name == format);
    found.map(|(_, pattern)| format!("^({pattern})$"))
}

/// The names of the formats.
pub(super) fn names() -> String {
    let names = FORMATS.iter().map(|(name, _)| *name);
    let names: Vec<&str> = ["date-time"].into_iter().chain(names).collect();
    names.join(", ")
}
