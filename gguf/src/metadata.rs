//! The metadata of a file: keys in file order, looked up by name, read with a type.
//!
//! Only the places of keys and values are kept; the text stays in the file. Getters convert between
//! integer widths where the value fits and name the key, the value and the wanted type where it
//! does not, so that callers can pass their errors on as they are.

use std::ops::Range;
use std::sync::Arc;

use crate::Error;
use crate::source::Source;
use crate::value::{Array, StringArray, Value, ValueType};

/// Where one key and its value lie in the file.
pub(crate) struct Entry {
    pub(crate) key: Range<usize>,
    pub(crate) ty: ValueType,
    /// The value's first byte.
    pub(crate) value: usize,
}

/// The key-value pairs of a model file.
pub struct Metadata {
    source: Arc<Source>,
    entries: Vec<Entry>,
    /// Indices of `entries`, sorted by key.
    by_key: Vec<u32>,
}

impl Metadata {
    /// Indexes `entries`; the error is the first key (in file order) that occurs twice.
    pub(crate) fn new(source: Arc<Source>, entries: Vec<Entry>) -> Result<Metadata, String> {
        let bytes = source.bytes();
        let key = |i: &u32| {
            bytes
                .get(entries[*i as usize].key.clone())
                .unwrap_or_default()
        };
        let mut by_key: Vec<u32> = (0..).take(entries.len()).collect();
        by_key.sort_by(|a, b| key(a).cmp(key(b)));
        let twice = by_key
            .windows(2)
            .filter(|w| key(&w[0]) == key(&w[1]))
            .map(|w| w[0])
            .min();
        if let Some(twice) = twice {
            return Err(String::from_utf8_lossy(key(&twice)).into_owned());
        }
        Ok(Metadata {
            source,
            entries,
            by_key,
        })
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of `key`, whatever its type.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let at = self
            .by_key
            .binary_search_by(|&i| self.key(&self.entries[i as usize]).cmp(key));
        self.value(&self.entries[self.by_key[at.ok()?] as usize])
    }

    /// Every key with its value, in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries
            .iter()
            .filter_map(|entry| Some((self.key(entry), self.value(entry)?)))
    }

    fn key(&self, entry: &Entry) -> &str {
        let bytes = self
            .source
            .bytes()
            .get(entry.key.clone())
            .unwrap_or_default();
        // UTF-8 was checked at opening; only a file rewritten under its map gets the default.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    fn value(&self, entry: &Entry) -> Option<Value<'_>> {
        let bytes = self.source.bytes().get(entry.value..)?;
        Value::split_from(entry.ty, bytes).map(|(value, _)| value)
    }

    fn wrong(&self, key: &str, found: String, expected: &'static str) -> Error {
        Error::WrongType {
            file: self.source.name().to_owned(),
            key: key.to_owned(),
            found,
            expected,
        }
    }

    fn missing(&self, key: &str, expected: &'static str) -> Error {
        Error::MissingKey {
            file: self.source.name().to_owned(),
            key: key.to_owned(),
            expected,
        }
    }

    /// Reads `key` with `read`, if present.
    fn optional<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.wrong(key, value.describe(), expected)),
        }
    }

    /// Reads every element of the array `key` with `read`, if present.
    fn elements<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        is_type: impl FnOnce(ValueType) -> bool,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        let is_type = |array: &Array<'_>| is_type(array.ty());
        let Some(array) = self.optional(key, expected, |v| v.as_array().filter(is_type))? else {
            return Ok(None);
        };
        let read = |(i, v): (usize, Value<'a>)| {
            read(v)
                .ok_or_else(|| self.wrong(key, format!("{} at index {i}", v.describe()), expected))
        };
        array
            .iter()
            .enumerate()
            .map(read)
            .collect::<Result<Vec<T>, Error>>()
            .map(Some)
    }
}

const STRINGS: &str = "an array of strings";

/// Elements this wide or wider keep a decoded vector no larger than its array in the file.
fn is_wide_int(ty: ValueType) -> bool {
    matches!(
        ty,
        ValueType::U32 | ValueType::I32 | ValueType::U64 | ValueType::I64
    )
}

fn int<T: TryFrom<i128>>(value: Value<'_>) -> Option<T> {
    T::try_from(value.as_int()?).ok()
}

macro_rules! getters {
    ($($what:literal, $get:ident, $opt:ident -> $ty:ty, $read:expr;)*) => { $(
        #[doc = concat!("The value of `key` as ", $what, ".")]
        ///
        /// # Errors
        /// [`Error::MissingKey`], or [`Error::WrongType`] when the value is something else.
        pub fn $get(&self, key: &str) -> Result<$ty, Error> {
            self.$opt(key)?.ok_or_else(|| self.missing(key, $what))
        }

        #[doc = concat!("The value of `key` as ", $what, ", or `None` without that key.")]
        ///
        /// # Errors
        /// [`Error::WrongType`] when the value is something else.
        pub fn $opt(&self, key: &str) -> Result<Option<$ty>, Error> {
            self.optional(key, $what, $read)
        }
    )* };
}

macro_rules! array_getters {
    ($($what:literal, $get:ident, $opt:ident -> $ty:ty, $is_type:expr, $read:expr;)*) => { $(
        #[doc = concat!("The elements of `key`, ", $what, ".")]
        ///
        /// # Errors
        /// [`Error::MissingKey`], or [`Error::WrongType`] when the value is something else.
        pub fn $get(&self, key: &str) -> Result<Vec<$ty>, Error> {
            self.$opt(key)?.ok_or_else(|| self.missing(key, $what))
        }

        #[doc = concat!("The elements of `key`, ", $what, ", or `None` without that key.")]
        ///
        /// # Errors
        /// [`Error::WrongType`] when the value is something else.
        pub fn $opt(&self, key: &str) -> Result<Option<Vec<$ty>>, Error> {
            self.elements(key, $what, $is_type, $read)
        }
    )* };
}

/// Typed getters. Integers of any width are accepted where the value fits the type asked for;
/// `f64` is rounded where `f32` is asked for.
impl Metadata {
    getters! {
        "an integer that fits u32", u32, opt_u32 -> u32, int;
        "an integer that fits i32", i32, opt_i32 -> i32, int;
        "an integer that fits u64", u64, opt_u64 -> u64, int;
        "an integer that fits usize", usize, opt_usize -> usize, int;
        "a floating-point number", f32, opt_f32 -> f32, |v| v.as_float().map(|v| v as f32);
        "a bool", bool, opt_bool -> bool, |v| v.as_bool();
    }

    array_getters! {
        "an array of 32-bit integers", i32s, opt_i32s -> i32, is_wide_int, int;
        "an array of unsigned 32-bit integers", u32s, opt_u32s -> u32, is_wide_int, int;
        "an array of floating-point numbers", f32s, opt_f32s -> f32,
            |ty| matches!(ty, ValueType::F32 | ValueType::F64), |v| v.as_float().map(|v| v as f32);
        "an array of bools", bools, opt_bools -> bool,
            |ty| ty == ValueType::Bool, |v| v.as_bool();
    }

    /// The text of `key`, borrowed from the file.
    ///
    /// # Errors
    /// [`Error::MissingKey`], or [`Error::WrongType`] when the value is something else.
    pub fn str(&self, key: &str) -> Result<&str, Error> {
        self.opt_str(key)?
            .ok_or_else(|| self.missing(key, "a string"))
    }

    /// The text of `key`, borrowed from the file, or `None` without that key.
    ///
    /// # Errors
    /// [`Error::WrongType`] when the value is something else.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.optional(key, "a string", |v| v.as_str())
    }

    /// The strings of `key`, read from the file as they are iterated over.
    ///
    /// # Errors
    /// [`Error::MissingKey`], or [`Error::WrongType`] when the value is something else.
    pub fn strings(&self, key: &str) -> Result<StringArray<'_>, Error> {
        self.opt_strings(key)?
            .ok_or_else(|| self.missing(key, STRINGS))
    }

    /// The strings of `key`, or `None` without that key.
    ///
    /// # Errors
    /// [`Error::WrongType`] when the value is something else.
    pub fn opt_strings(&self, key: &str) -> Result<Option<StringArray<'_>>, Error> {
        self.optional(key, STRINGS, |v| v.as_array()?.strings())
    }
}
