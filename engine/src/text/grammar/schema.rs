//! Schemas, before they are compiled.
//!
//! What cannot be followed token by token is refused with its place; annotations are dropped; and what the
//! compiler would take otherwise than JSON Schema means it is said in its terms: formats (`formats.rs`),
//! pointers with escapes, bounds that are no floating-point numbers, a dot in a pattern.

use serde_json::{Map, Number, Value, json};

use super::formats::pattern_of;
use super::keywords::{ANNOTATIONS, DRAFTS, OF_LIST, OF_MAP, OF_ONE, UNSUPPORTED, kind_of};
use super::{GrammarError, refused};

/// The longest schema, in bytes.
const LONGEST: usize = 1 << 20;
/// The most parts of a schema.
const MOST_PARTS: usize = 20_000;
/// The most properties of an object.
const MOST_PROPERTIES: usize = 2_000;
/// Integers up to here are floating-point numbers.
const EXACT: u64 = 1 << 53;

/// A schema's text as a value.
pub(super) fn read(text: &str) -> Result<Value, GrammarError> {
    if text.len() > LONGEST {
        let len = text.len();
        return refused(format!(
            "the schema has {len} bytes; at most {LONGEST} are compiled"
        ));
    }
    serde_json::from_str(text).or_else(|e| refused(format!("the schema is no JSON: {e}")))
}

/// The schemas that are parts of one, and the step to each.
pub(super) fn parts(schema: &Value) -> Vec<(String, &Value)> {
    let mut parts = Vec::new();
    for (key, value) in schema.as_object().into_iter().flatten() {
        match value {
            Value::Array(list) if OF_LIST.contains(&key.as_str()) => {
                parts.extend((0..).zip(list).map(|(i, v)| (format!("/{key}/{i}"), v)));
            }
            Value::Object(map) if OF_MAP.contains(&key.as_str()) => {
                let step = |name: &str| format!("/{key}/{}", escaped(name));
                parts.extend(map.iter().map(|(name, v)| (step(name), v)));
            }
            value if OF_ONE.contains(&key.as_str()) => parts.push((format!("/{key}"), value)),
            _ => {}
        }
    }
    parts
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The schema as it is compiled.
pub(super) fn prepare(schema: &Value) -> Result<Value, GrammarError> {
    let mut walk = Walk {
        root: schema,
        left: MOST_PARTS,
        moved: Map::new(),
        to_move: Vec::new(),
        names: Vec::new(),
    };
    let mut prepared = walk.part(schema, "#")?;
    while let Some((name, place, part)) = walk.to_move.pop() {
        let part = walk.part(part, &place)?;
        walk.moved.insert(name, part);
    }
    if !prepared.is_object() {
        prepared = json!({"allOf": [prepared]});
    }
    if let Value::Object(root) = &mut prepared {
        if !walk.moved.is_empty() {
            root.insert(MOVED.to_owned(), Value::Object(walk.moved));
        }
        // White space is bounded, or a text might go on with it for ever. Without \u escapes a name has
        // one spelling, so that none is had twice.
        let options = json!({
            "json_allowed_escapes": "nrbtf\\\"",
            "whitespace_pattern": " |\\n( {0,40}|\\t{0,10})",
        });
        root.insert("x-guidance".to_owned(), options);
    }
    Ok(prepared)
}

/// Where parts stand that are referred to by pointers with escapes.
const MOVED: &str = "gannet-moved";

/// A schema being prepared.
struct Walk<'a> {
    root: &'a Value,
    /// Parts that it may still have.
    left: usize,
    moved: Map<String, Value>,
    to_move: Vec<(String, String, &'a Value)>,
    /// Pointers that were moved, by the number in their name.
    names: Vec<String>,
}

impl<'a> Walk<'a> {
    fn part(&mut self, schema: &'a Value, place: &str) -> Result<Value, GrammarError> {
        let Some(left) = self.left.checked_sub(1) else {
            return refused(format!(
                "the schema has more than {MOST_PARTS} parts; split it"
            ));
        };
        self.left = left;
        let at = |why: String| GrammarError(format!("schema at {place}: {why}"));
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            other => return Err(at(format!("{} is no schema", short(other)))),
        };
        let mut prepared = Map::new();
        for (key, value) in map {
            let inner = format!("{place}/{}", escaped(key));
            match self.keyword(map, key, value, &inner)? {
                Kept::As(value) => drop(prepared.insert(key.clone(), value)),
                Kept::Format(pattern) => {
                    let all = prepared.entry("allOf").or_insert_with(|| json!([]));
                    if let Value::Array(all) = all {
                        all.push(json!({"type": "string", "pattern": pattern}));
                    }
                }
                Kept::AllOf(parts) => {
                    let all = prepared.entry("allOf").or_insert_with(|| json!([]));
                    if let Value::Array(all) = all {
                        all.extend(parts);
                    }
                }
                Kept::No => {}
            }
        }
        counted(map).map_err(at)?;
        Ok(Value::Object(prepared))
    }

    fn keyword(
        &mut self,
        map: &'a Map<String, Value>,
        key: &str,
        value: &'a Value,
        place: &str,
    ) -> Result<Kept, GrammarError> {
        let at = |why: String| refused(format!("schema at {place}: {why}"));
        let is_root = std::ptr::eq(self.root.as_object().map_or(std::ptr::null(), |m| m), map);
        if ANNOTATIONS.contains(&key) {
            return Ok(Kept::No);
        }
        if let Some(expected) = kind_of(key).filter(|kind| !kind.holds(value)) {
            let found = short(value);
            return at(format!("{found} is not {}", expected.name()));
        }
        match (key, value) {
            ("uniqueItems", Value::Bool(false)) | ("nullable", Value::Bool(false)) => Ok(Kept::No),
            ("uniqueItems", _) if map.get("maxItems").is_some_and(|n| *n == 0 || *n == 1) => {
                Ok(Kept::No)
            }
            ("nullable", _) => at("nullable is no keyword of JSON Schema; add \"null\" to type".to_owned()),
            ("x-guidance", _) => at("this keyword is not taken from callers".to_owned()),
            ("$schema", Value::String(draft)) => {
                let draft = draft.trim_end_matches('#').replace("https://json-schema.org/draft-", "http://json-schema.org/draft-");
                match DRAFTS.contains(&draft.as_str()) {
                    true if is_root => Ok(Kept::As(draft.into())),
                    true => Ok(Kept::No),
                    false => at(format!("{draft} is not supported; leave it out, or use draft 4 to 2020-12")),
                }
            }
            ("$id" | "id", Value::String(_)) => match is_root || !refers(&Value::Object(map.clone())) {
                true => Ok(Kept::No),
                false => at("references inside of a part with an id of its own are not supported; leave the id out".to_owned()),
            },
            ("$ref", Value::String(pointer)) => {
                self.reference(pointer, place).map(|p| Kept::As(p.into()))
            }
            ("format", Value::String(format)) => match pattern_of(format) {
                _ if !may_be_text(map) => Ok(Kept::No),
                Some(pattern) => Ok(Kept::Format(pattern)),
                None => at(format!("format {format:?} is not supported; known are {}", super::formats::names())),
            },
            ("pattern", Value::String(pattern)) => Ok(Kept::As(without_line_ends(pattern).into())),
            ("const", value) => exact(value).map(|()| Kept::As(value.clone())).or_else(at),
            ("enum", Value::Array(values)) => {
                if values.is_empty() {
                    return at("enum has no values".to_owned());
                }
                let all: Result<(), String> = values.iter().try_for_each(exact);
                all.map(|()| Kept::As(value.clone())).or_else(at)
            }
            ("minimum" | "exclusiveMinimum", Value::Number(bound)) => {
                Ok(Kept::As(inward(bound, true).into()))
            }
            ("maximum" | "exclusiveMaximum", Value::Number(bound)) => {
                Ok(Kept::As(inward(bound, false).into()))
            }
            ("multipleOf", Value::Number(n)) if n.as_f64().is_none_or(|n| n <= 0.0) => {
                at("multipleOf is above 0".to_owned())
            }
            (key, _) if UNSUPPORTED.contains(&key) || key == "uniqueItems" => at(format!(
                "{key} is not supported: it cannot be followed token by token; leave it out, and check the result"
            )),
            _ => self.nested(key, value, place),
        }
    }

    /// A keyword that may hold schemas.
    fn nested(&mut self, key: &str, value: &'a Value, place: &str) -> Result<Kept, GrammarError> {
        match value {
            Value::Array(list) if OF_LIST.contains(&key) => {
                let parts = list.iter().enumerate();
                let parts = parts.map(|(i, part)| self.part(part, &format!("{place}/{i}")));
                let parts = parts.collect::<Result<Vec<Value>, _>>()?;
                Ok(match key {
                    // A format may have come before.
                    "allOf" => Kept::AllOf(parts),
                    _ => Kept::As(Value::Array(parts)),
                })
            }
            Value::Object(map) if OF_MAP.contains(&key) => {
                if map.len() > MOST_PROPERTIES {
                    return refused(format!(
                        "schema at {place}: {} names; at most {MOST_PROPERTIES} are compiled",
                        map.len()
                    ));
                }
                let named = map.iter().map(|(name, part)| {
                    let place = format!("{place}/{}", escaped(name));
                    Ok((name.clone(), self.part(part, &place)?))
                });
                let named = named.collect::<Result<Map<String, Value>, GrammarError>>()?;
                Ok(Kept::As(Value::Object(named)))
            }
            value if OF_ONE.contains(&key) => Ok(Kept::As(self.part(value, place)?)),
            value => Ok(Kept::As(value.clone())),
        }
    }

    /// What a reference is compiled as: pointers are followed as they are written, without escapes.
    fn reference(&mut self, reference: &str, place: &str) -> Result<String, GrammarError> {
        if reference == "#" {
            return Ok(reference.to_owned());
        }
        let pointer = reference.strip_prefix('#').and_then(unescaped);
        let found = pointer.as_deref().filter(|p| p.starts_with('/'));
        let Some(found) = found.and_then(|pointer| self.root.pointer(pointer)) else {
            return refused(format!(
                "schema at {place}: {reference:?} refers to nothing here; references are #/... \
                 within the schema"
            ));
        };
        // Parts of the schema that are prepared where they stand keep their place.
        let is_plain = !reference.contains(['~', '%']) && self.is_prepared(reference);
        if is_plain {
            return Ok(reference.to_owned());
        }
        let known = self.names.iter().position(|name| name == reference);
        let number = known.unwrap_or_else(|| {
            self.names.push(reference.to_owned());
            let number = self.names.len() - 1;
            self.to_move
                .push((number.to_string(), reference.to_owned(), found));
            number
        });
        Ok(format!("#/{MOVED}/{number}"))
    }

    /// Whether a pointer leads through keywords that hold schemas only.
    fn is_prepared(&self, reference: &str) -> bool {
        let mut steps = reference.split('/').skip(1);
        let mut at = self.root;
        while let Some(key) = steps.next() {
            let Some(value) = at.get(key) else {
                return false;
            };
            // Formats are put in front of others.
            let is_list = value.is_array() && OF_LIST.contains(&key) && key != "allOf";
            let next = match (is_list || OF_MAP.contains(&key), steps.next()) {
                (true, Some(step)) => match value {
                    Value::Array(list) => step.parse().ok().and_then(|i: usize| list.get(i)),
                    value => value.get(step),
                },
                (true, None) => None,
                (false, Some(_)) | (false, None) if !OF_ONE.contains(&key) => None,
                (false, Some(_)) => return false,
                (false, None) => Some(value),
            };
            match next {
                Some(next) => at = next,
                None => return false,
            }
        }
        true
    }
}

/// What becomes of a keyword.
enum Kept {
    As(Value),
    /// A pattern that strings match besides others.
    Format(String),
    AllOf(Vec<Value>),
    No,
}

/// Whether a schema's type lets strings be.
fn may_be_text(map: &Map<String, Value>) -> bool {
    match map.get("type") {
        Some(Value::String(kind)) => kind == "string",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
        _ => true,
    }
}

/// Whether a schema, or a part of it, refers to another.
fn refers(schema: &Value) -> bool {
    let own = schema.get("$ref").is_some();
    own || parts(schema).iter().any(|(_, part)| refers(part))
}

/// Refuses a least number of properties that names had twice would reach.
fn counted(map: &Map<String, Value>) -> Result<(), String> {
    let least = map
        .get("minProperties")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let required = map
        .get("required")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let is_closed = map.get("additionalProperties") == Some(&Value::Bool(false));
    let is_open = !is_closed || map.contains_key("patternProperties");
    match least > required as u64 + 1 && is_open {
        true => Err(format!(
            "minProperties is {least}, of which {required} are required; properties whose names \
             are open cannot be told apart: require more of them"
        )),
        false => Ok(()),
    }
}

/// Refuses constants that would be changed: integers that are no floating-point numbers, and control
/// characters that have no escape of their own.
fn exact(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(n) => {
            let size = n.as_i64().map(i64::unsigned_abs).or(n.as_u64());
            match size.is_some_and(|size| size > EXACT) {
                true => Err(format!("{n} is beyond 2^53, where integers are not exact")),
                false => Ok(()),
            }
        }
        Value::String(text) => {
            let is_odd = |c: char| c.is_ascii_control() && !"\n\r\t\u{8}\u{c}".contains(c);
            match text.chars().any(is_odd) {
                true => Err(format!(
                    "{value} holds a control character, which is not written"
                )),
                false => Ok(()),
            }
        }
        Value::Array(values) => values.iter().try_for_each(exact),
        Value::Object(map) => map.values().try_for_each(exact),
        Value::Null | Value::Bool(_) => Ok(()),
    }
}

/// The nearest floating-point number that lets no more through than a bound does.
fn inward(bound: &Number, is_least: bool) -> Number {
    let size = bound.as_i64().map(i128::from);
    let Some(exact) = size.or(bound.as_u64().map(i128::from)) else {
        return bound.clone();
    };
    if exact.unsigned_abs() <= u128::from(EXACT) {
        return bound.clone();
    }
    let mut near = exact as f64;
    let lets_more = |near: f64| match is_least {
        true => (near as i128) < exact,
        false => (near as i128) > exact,
    };
    if lets_more(near) {
        near = match is_least {
            true => near.next_up(),
            false => near.next_down(),
        };
    }
    let near = near as i128;
    let signed = i64::try_from(near).map(Number::from);
    let number = signed.or_else(|_| u64::try_from(near).map(Number::from));
    number.unwrap_or_else(|_| bound.clone())
}

/// A pattern in which a dot matches no end of a line, as in ECMAScript.
fn without_line_ends(pattern: &str) -> String {
    let (mut written, mut is_escaped, mut in_class) = (String::new(), false, false);
    for c in pattern.chars() {
        match c {
            '.' if !is_escaped && !in_class => {
                written.push_str("[^\\n\\r\\u2028\\u2029]");
                continue;
            }
            '[' if !is_escaped => in_class = true,
            ']' if !is_escaped => in_class = false,
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped;
        written.push(c);
    }
    written
}

/// A pointer of a reference, without the escapes of addresses.
fn unescaped(pointer: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(pointer.len());
    let mut rest = pointer.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
