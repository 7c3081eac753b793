//! Methods of Python's strings, lists and mappings that templates call.
//!
//! Positions count characters, white space is Python's. What is not here is `minijinja`'s own
//! collection of such methods.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, State};

use super::environment::invalid;
use super::python;

/// Calls a method of a value.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        state.consume_fuel(text.len() as u64 / 64 + 1)?;
        if let Some(found) = of_text(state, text, name, args)? {
            return Ok(found);
        }
    }
    match (value.kind(), name) {
        (ValueKind::Map | ValueKind::Seq, "copy") => {
            let () = from_args(args)?;
            return Ok(value.clone());
        }
        (ValueKind::Seq, "index") => return index_of(state, value, args),
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn index_of(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (Value,) = from_args(args)?;
    for (i, item) in value.try_iter()?.enumerate() {
        state.consume_fuel(1)?;
        if item == wanted {
            return Ok(Value::from(i));
        }
    }
    Err(invalid(format!("{wanted} is not in list")))
}

/// Whether Python counts a character as white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// A method of a string; none where it is not one of those here.
fn of_text(
    state: &State<'_, '_>,
    text: &str,
    name: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" => Value::from(strip(text, &chars(args)?, true, true)),
        "lstrip" => Value::from(strip(text, &chars(args)?, true, false)),
        "rstrip" => Value::from(strip(text, &chars(args)?, false, true)),
        "split" | "rsplit" => split(text, name == "rsplit", args)?,
        "splitlines" => splitlines(text, args)?,
        "partition" | "rpartition" => partition(text, name == "rpartition", args)?,
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "find" | "rfind" | "index" | "rindex" => find(text, name, args)?,
        "count" => {
            let (part, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let (inner, _) = between(text, start, end);
            Value::from(match part.is_empty() {
                true => inner.chars().count() + 1,
                false => inner.matches(part).count(),
            })
        }
        "startswith" | "endswith" => Value::from(begins_or_ends(text, name, args)?),
        "replace" => replace(state, text, args)?,
        "format" | "format_map" => {
            super::filters::check_format(text)?;
            return Ok(None);
        }
        "join" => {
            check_texts(args)?;
            return Ok(None);
        }
        "center" | "ljust" | "rjust" => pad(state, text, name, args)?,
        "zfill" => zfill(state, text, args)?,
        "expandtabs" => expandtabs(state, text, args)?,
        "swapcase" => Value::from(text.chars().flat_map(swapped).collect::<String>()),
        "casefold" => Value::from(text.to_lowercase().replace('\u{df}', "ss")),
        "isdecimal" => {
            let is_digit = |c: char| {
                use unicode_general_category::{GeneralCategory, get_general_category};
                get_general_category(c) == GeneralCategory::DecimalNumber
            };
            Value::from(!text.is_empty() && text.chars().all(is_digit))
        }
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "isprintable" => Value::from(text.chars().all(python::is_printable)),
        "title" => Value::from(titled(text)),
        "istitle" => Value::from(is_title(text)),
        "isidentifier" => Value::from(is_identifier(text)),
        _ => return Ok(None),
    }))
}

/// The characters that a method is to strip, if it names some.
fn chars(args: &[Value]) -> Result<Option<String>, Error> {
    let (chars,): (Option<Value>,) = from_args(args)?;
    match chars.filter(|value| !value.is_none()) {
        None => Ok(None),
        Some(value) => {
            let text = value.as_str().map(str::to_owned);
            text.map(Some)
                .ok_or_else(|| invalid("strip arg must be None or str"))
        }
    }
}

/// A text without some characters at its ends: white space, where none are named.
pub(super) fn strip<'t>(text: &'t str, chars: &Option<String>, start: bool, end: bool) -> &'t str {
    let goes = |c: char| {
        chars
            .as_ref()
            .map_or_else(|| is_space(c), |chars| chars.contains(c))
    };
    let text = if start {
        text.trim_start_matches(goes)
    } else {
        text
    };
    if end {
        text.trim_end_matches(goes)
    } else {
        text
    }
}

fn list<'t>(parts: impl IntoIterator<Item = &'t str>) -> Value {
    Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
}

/// Refuses to join what is not text, as Python does.
fn check_texts(args: &[Value]) -> Result<(), Error> {
    let (items,): (&Value,) = from_args(args)?;
    for (i, item) in items.try_iter()?.enumerate() {
        if item.as_str().is_none() {
            let kind = item.kind();
            return Err(invalid(format!(
                "sequence item {i}: expected str instance, {kind} found"
            )));
        }
    }
    Ok(())
}

fn split(text: &str, from_end: bool, args: &[Value]) -> Result<Value, Error> {
    let (sep, most, options): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let sep = sep.map_or_else(|| options.get::<Option<Value>>("sep"), |sep| Ok(Some(sep)))?;
    let most = most.map_or_else(
        || options.get::<Option<i64>>("maxsplit"),
        |most| Ok(Some(most)),
    )?;
    options.assert_all_used()?;
    let most = most.and_then(|most| usize::try_from(most).ok());
    let Some(sep) = sep.filter(|sep| !sep.is_none()) else {
        return Ok(list(words(text, from_end, most.unwrap_or(usize::MAX))));
    };
    let sep = sep.as_str().ok_or_else(|| invalid("must be str or None"))?;
    if sep.is_empty() {
        return Err(invalid("empty separator"));
    }
    let pieces = most.map_or(usize::MAX, |most| most.saturating_add(1));
    if !from_end {
        return Ok(list(text.splitn(pieces, sep)));
    }
    let mut parts: Vec<&str> = text.rsplitn(pieces, sep).collect();
    parts.reverse();
    Ok(list(parts))
}

/// The words of a text, of which so many are split off.
fn words(text: &str, from_end: bool, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, &None, !from_end, from_end);
    while !rest.is_empty() {
        let at = match from_end {
            false => rest.find(is_space),
            true => rest
                .char_indices()
                .rev()
                .find(|&(_, c)| is_space(c))
                .map(|(at, c)| at + c.len_utf8()),
        };
        let at = at.filter(|_| parts.len() < most);
        let (word, left) = match (at, from_end) {
            (None, false) => (rest, ""),
            (None, true) => (strip(rest, &None, true, false), ""),
            (Some(at), false) => (&rest[..at], strip(&rest[at..], &None, true, false)),
            (Some(at), true) => (&rest[at..], strip(&rest[..at], &None, false, true)),
        };
        // The last piece keeps the white space at the far end only where splits ran out.
        if !word.is_empty() {
            parts.push(word);
        }
        rest = left;
    }
    if from_end {
        parts.reverse();
    }
    parts
}

fn splitlines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = keep.map_or_else(
        || options.get::<Option<bool>>("keepends"),
        |keep| Ok(Some(keep)),
    )?;
    options.assert_all_used()?;
    Ok(list(lines(text, keep.unwrap_or(false))))
}

/// The lines of a text, by all that Python takes for their ends; with those ends, if they are kept.
pub(super) fn lines(text: &str, keeps_ends: bool) -> Vec<&str> {
    let breaks = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(breaks) {
        let width = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        let end = if keeps_ends { at + width } else { at };
        lines.push(&rest[..end]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn partition(text: &str, from_end: bool, args: &[Value]) -> Result<Value, Error> {
    let (sep,): (&str,) = from_args(args)?;
    if sep.is_empty() {
        return Err(invalid("empty separator"));
    }
    let parts = match (from_end, text.split_once(sep), text.rsplit_once(sep)) {
        (false, Some((before, after)), _) | (true, _, Some((before, after))) => {
            [before, sep, after]
        }
        (false, ..) => [text, "", ""],
        (true, ..) => ["", "", text],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// What lies between two positions as slices have them, and the position where it begins.
fn between(text: &str, start: Option<i64>, end: Option<i64>) -> (&str, usize) {
    if start.is_none() && end.is_none() {
        return (text, 0);
    }
    let count = text.chars().count() as i64;
    let at = |position: i64| match position < 0 {
        true => (count + position).max(0) as usize,
        false => position.min(count) as usize,
    };
    let (start, end) = (at(start.unwrap_or(0)), at(end.unwrap_or(count)));
    let byte = |position: usize| {
        text.char_indices()
            .nth(position)
            .map_or(text.len(), |(at, _)| at)
    };
    (text.get(byte(start)..byte(end)).unwrap_or(""), start)
}

fn find(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (part, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let (inner, before) = between(text, start, end);
    let found = if name.starts_with('r') {
        inner.rfind(part)
    } else {
        inner.find(part)
    };
    match found {
        Some(at) => Ok(Value::from(before + inner[..at].chars().count())),
        None if name.ends_with("index") => Err(invalid("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

fn begins_or_ends(text: &str, name: &str, args: &[Value]) -> Result<bool, Error> {
    let (part, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
    let (inner, _) = between(text, start, end);
    let fits = |part: &Value| match part.as_str() {
        Some(part) if name == "startswith" => Ok(inner.starts_with(part)),
        Some(part) => Ok(inner.ends_with(part)),
        None => Err(invalid(format!(
            "{name} first arg must be str or a tuple of str, not {}",
            part.kind()
        ))),
    };
    if !part.is_tuple() && part.kind() != ValueKind::Seq {
        return fits(&part);
    }
    for part in part.try_iter()? {
        if fits(&part)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Pays for text before it is made.
pub(super) fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64)
}

fn replace(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, most, options): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
    let most = most.map_or_else(
        || options.get::<Option<i64>>("count"),
        |most| Ok(Some(most)),
    )?;
    options.assert_all_used()?;
    let most = most
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(usize::MAX);
    let found = text.matches(old).take(most).count();
    pay(
        state,
        text.len().saturating_add(found.saturating_mul(new.len())),
    )?;
    Ok(Value::from(text.replacen(old, new, most)))
}

/// The most columns that a text is padded to.
const MOST_COLUMNS: i64 = 1 << 20;

fn columns(state: &State<'_, '_>, width: i64) -> Result<usize, Error> {
    if width > MOST_COLUMNS {
        return Err(invalid(format!(
            "a width of {width} is more than {MOST_COLUMNS}"
        )));
    }
    let width = width.max(0) as usize;
    pay(state, width * 4)?;
    Ok(width)
}

fn pad(state: &State<'_, '_>, text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(invalid(
            "The fill character must be exactly one character long",
        ));
    }
    Ok(Value::from(padded(
        text,
        columns(state, width)?,
        fill,
        name,
    )))
}

/// A text with a filling at its sides up to a width.
fn padded(text: &str, width: usize, fill: &str, name: &str) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // As CPython does: the odd one goes left where the width is odd, too.
        _ => missing / 2 + (missing & width & 1),
    };
    format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))
}

fn zfill(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (width,): (i64,) = from_args(args)?;
    let width = columns(state, width)?;
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sign = &text[..text.len() - digits.len()];
    let zeros = width.saturating_sub(text.chars().count());
    Ok(Value::from(format!("{sign}{}{digits}", "0".repeat(zeros))))
}

fn expandtabs(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (size, options): (Option<i64>, Kwargs) = from_args(args)?;
    let size = size.map_or_else(
        || options.get::<Option<i64>>("tabsize"),
        |size| Ok(Some(size)),
    )?;
    options.assert_all_used()?;
    let size = columns(state, size.unwrap_or(8))?;
    pay(state, text.matches('\t').count().saturating_mul(size))?;
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        if c == '\t' {
            let spaces = if size == 0 { 0 } else { size - column % size };
            out.extend(std::iter::repeat_n(' ', spaces));
            column += spaces;
            continue;
        }
        column = if matches!(c, '\n' | '\r') {
            0
        } else {
            column + 1
        };
        out.push(c);
    }
    Ok(Value::from(out))
}

fn swapped(c: char) -> Vec<char> {
    match c.is_uppercase() {
        true => c.to_lowercase().collect(),
        false if c.is_lowercase() => c.to_uppercase().collect(),
        false => vec![c],
    }
}

/// Words with capitals: a word begins behind whatever is no letter.
fn titled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        match in_word {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        in_word = c.is_alphabetic();
    }
    out
}

/// Whether every word begins with a capital and has no other.
fn is_title(text: &str) -> bool {
    let mut in_word = false;
    let mut any = false;
    for c in text.chars() {
        let fits = match (c.is_uppercase(), c.is_lowercase()) {
            (true, _) => !in_word,
            (_, true) => in_word,
            _ => true,
        };
        if !fits {
            return false;
        }
        in_word = c.is_uppercase() || c.is_lowercase();
        any |= in_word;
    }
    any
}

fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    let first = chars.next();
    let begins = first.is_some_and(|c| c.is_alphabetic() || c == '_');
    begins && chars.all(|c| c.is_alphanumeric() || c == '_')
}
