//! `config.json`, each value checked as it is read.
//!
//! Every read is noted: what nothing has read and what is not known to change nothing
//! ([`neutral`](super::neutral)) is refused by name, as keys of GGUF files are.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::neutral;
use crate::Error;

/// The longest text of a value that a message repeats, in characters.
const SHOWN: usize = 60;

/// An object of a configuration: the whole, or one inside.
#[derive(Clone)]
pub(super) struct Config {
    file: PathBuf,
    /// What stands before its keys in messages: `rope_scaling.`
    prefix: String,
    map: Map<String, Value>,
    /// Keys with their prefix, of the whole file.
    read: Rc<RefCell<BTreeSet<String>>>,
}

impl Config {
    pub(super) fn new(file: &Path, map: Map<String, Value>) -> Config {
        Config {
            file: file.to_owned(),
            prefix: String::new(),
            map,
            read: Rc::default(),
        }
    }

    /// The file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// A key as messages name it.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A value; none where it is missing or `null`.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.read.borrow_mut().insert(self.key(key));
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the file says something under a key, be it `null`; that is no reading.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The first of some keys that the file has.
    pub(super) fn first_of<'k>(&self, keys: &[&'k str]) -> &'k str {
        let found = keys.iter().find(|key| self.has(key));
        found.copied().unwrap_or(keys[0])
    }

    /// An object inside.
    pub(super) fn object(&self, key: &str) -> Result<Option<Config>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Config {
                file: self.file.clone(),
                prefix: format!("{}{key}.", self.prefix),
                map: map.clone(),
                read: Rc::clone(&self.read),
            })),
            Some(other) => Err(self.bad(key, other, "must be an object")),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn opt_int(&self, key: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        // Whole numbers are sometimes written as 4096.0.
        let whole = |f: f64| (f.fract() == 0.0 && (0.0..9e15).contains(&f)).then_some(f as u64);
        match value.as_u64().or_else(|| value.as_f64().and_then(whole)) {
            Some(int) if u32::try_from(int).is_ok() => Ok(Some(int)),
            _ => Err(self.bad(key, value, "must be a whole number below 2^32")),
        }
    }

    /// As [`Config::opt_int`], with what a key that is missing or `null` means.
    pub(super) fn int(&self, key: &str, default: Option<u64>) -> Result<u64, Error> {
        self.or_missing(key, self.opt_int(key)?.or(default), "a whole number")
    }

    /// A finite number.
    pub(super) fn opt_number(&self, key: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if (number as f32).is_finite() => Ok(Some(number)),
            _ => Err(self.bad(key, value, "must be a number")),
        }
    }

    /// As [`Config::opt_number`], with what a key that is missing or `null` means.
    pub(super) fn number(&self, key: &str, default: Option<f64>) -> Result<f64, Error> {
        self.or_missing(key, self.opt_number(key)?.or(default), "a number")
    }

    /// A flag.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.bad(key, other, "must be true or false")),
        }
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.bad(key, other, "must be a text")),
        }
    }

    /// A list of numbers.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = value.as_array().and_then(|list| {
            let number = |v: &Value| v.as_f64().map(|f| f as f32);
            list.iter().map(number).collect::<Option<Vec<f32>>>()
        });
        match list {
            Some(list) => Ok(Some(list)),
            None => Err(self.bad(key, value, "must be a list of numbers")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = value.as_array();
        match list.and_then(|list| list.iter().map(Value::as_str).collect()) {
            Some(list) => Ok(Some(list)),
            None => Err(self.bad(key, value, "must be a list of texts")),
        }
    }

    /// One id or a list of them.
    pub(super) fn ids(&self, key: &str) -> Result<Vec<u32>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        match ids_of(value) {
            Some(ids) => Ok(ids),
            None => Err(self.bad(key, value, "must be a token id or a list of them")),
        }
    }

    /// Refuses any value but those that a family is computed with.
    pub(super) fn require(&self, key: &str, allowed: &[&str], default: &str) -> Result<(), Error> {
        let found = self.text(key)?.unwrap_or(default);
        if allowed.contains(&found) {
            return Ok(());
        }
        let expected = format!("models of this family have {} here", allowed.join(" or "));
        Err(self.bad(key, &Value::from(found), &expected))
    }

    /// The error of a value that cannot be used.
    pub(super) fn bad(&self, key: &str, found: &Value, expected: &str) -> Error {
        Error::HyperParameter {
            file: self.file.clone(),
            key: self.key(key),
            found: shown(found),
            expected: expected.to_owned(),
        }
    }

    fn or_missing<T>(&self, key: &str, value: Option<T>, what: &str) -> Result<T, Error> {
        value.ok_or_else(|| Error::HyperParameter {
            file: self.file.clone(),
            key: self.key(key),
            found: "missing".to_owned(),
            expected: format!("must be {what}"),
        })
    }

    /// Keys that nothing has read and that are not known to change nothing, with their values.
    pub(super) fn unread(&self) -> Vec<String> {
        let mut items = Vec::new();
        self.unread_of(&self.map, &self.prefix, &mut items);
        items
    }

    fn unread_of(&self, map: &Map<String, Value>, prefix: &str, items: &mut Vec<String>) {
        let read = self.read.borrow();
        for (key, value) in map {
            let whole = format!("{prefix}{key}");
            let inside = format!("{whole}.");
            let is_object_read = read.iter().any(|key| key.starts_with(&inside));
            match value {
                // What of an object was read says that the rest was meant, too.
                Value::Object(inner) if is_object_read => {
                    self.unread_of(inner, &inside, items);
                }
                _ if read.contains(&whole) || value.is_null() => {}
                _ if neutral::reason(key, value).is_some() => {}
                _ => items.push(format!("key {} ({})", whole.escape_debug(), shown(value))),
            }
        }
    }
}

/// One id or a list of them.
pub(super) fn ids_of(value: &Value) -> Option<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    }
}

/// A value as a message shows it: on one short line.
pub(super) fn shown(value: &Value) -> String {
    let text = match value {
        Value::Object(map) => format!("an object of {} keys", map.len()),
        Value::Array(list) if list.len() > 4 => format!("a list of {}", list.len()),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
