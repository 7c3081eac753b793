//! Lark grammars of callers, before they are compiled.
//!
//! Schemas in them are read as schemas by themselves are; attributes that would be ignored are refused.

use serde_json::Value;

use super::{GrammarError, refused, schema};

/// The longest grammar, in bytes.
const LONGEST: usize = 256 << 10;
/// The deepest nesting of brackets.
const DEEPEST: usize = 200;

/// A grammar as it is compiled.
pub(super) fn checked(text: &str) -> Result<String, GrammarError> {
    if text.len() > LONGEST {
        let len = text.len();
        return refused(format!(
            "the Lark grammar has {len} bytes; at most {LONGEST} are compiled"
        ));
    }
    let mut checked = String::with_capacity(text.len());
    let (mut rest, mut depth) = (text, 0usize);
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("%json") {
            let (schema, after) = embedded(&rest[5..], text.len() - rest.len(), text)?;
            checked.push_str("%json ");
            checked.push_str(&schema);
            rest = after;
            continue;
        }
        let line = || 1 + text[..text.len() - rest.len()].matches('\n').count();
        if rest.starts_with("temperature") {
            return refused(format!(
                "line {}: temperature is not supported in rules; set it for the whole request",
                line()
            ));
        }
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return refused(format!(
                "line {}: brackets nest more than {DEEPEST} deep",
                line()
            ));
        }
        let len = literal(c, rest);
        checked.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    Ok(checked)
}

/// Bytes of what begins here: a string, a regular expression, a comment, or a character.
fn literal(c: char, rest: &str) -> usize {
    if rest.starts_with("//") || c == '#' {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if c != '"' && c != '/' {
        return c.len_utf8();
    }
    let mut escaped = false;
    for (at, d) in rest.char_indices().skip(1) {
        match d {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if d == c => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The schema behind `%json` as it is compiled, and what follows it.
fn embedded<'a>(rest: &'a str, at: usize, text: &str) -> Result<(String, &'a str), GrammarError> {
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
    let line = 1 + text[..at].matches('\n').count();
    let here = |why: String| GrammarError(format!("line {line}: {why}"));
    match values.next() {
        Some(Ok(value)) => {
            let prepared = schema::prepare(&value).map_err(|e| here(e.0))?;
            Ok((prepared.to_string(), &rest[values.byte_offset()..]))
        }
        Some(Err(e)) => Err(here(format!("what follows %json is no JSON: {e}"))),
        None => Err(here("%json has no schema".to_owned())),
    }
}
