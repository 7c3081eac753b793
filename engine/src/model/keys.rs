//! Metadata of a model under its architecture's prefix, each value checked as it is read.
//!
//! Every read is entered in the [`Ledger`]. A list that holds the same number for every layer counts
//! as that number; one that does not is an error, since no family here differs so from layer to layer.

use std::fmt::Display;
use std::ops::RangeInclusive;

use gannet_gguf::{Array, Gguf, Value};

use super::ledger::Ledger;
use crate::Error;

/// The keys of one model: `ARCH.SUFFIX`.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    gguf: &'a Gguf,
    /// What was read.
    pub(super) ledger: &'a Ledger,
    /// `general.architecture`.
    pub(crate) arch: &'a str,
}

/// The key that says how many layers there are.
const LAYERS: &str = "block_count";

/// What a list has for each of `layers` layers, where that is the same.
pub(super) fn uniform(list: Array<'_>, layers: usize) -> Option<Value<'_>> {
    let first = list.iter().next()?;
    let is_uniform = list.len() == layers && list.iter().all(|value| value == first);
    is_uniform.then_some(first)
}

impl<'a> Keys<'a> {
    /// The keys of an open model.
    ///
    /// # Errors
    /// It names no architecture.
    pub(crate) fn new(gguf: &'a Gguf, ledger: &'a Ledger) -> Result<Keys<'a>, Error> {
        Ok(Keys {
            gguf,
            ledger,
            arch: gguf.metadata().str("general.architecture")?,
        })
    }

    /// The whole key.
    pub(crate) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    /// Refuses quantised weights whose blocks are laid out by other rules than those known here: the
    /// second version of them is the only one that GGUF files have had.
    pub(crate) fn check_quantization(&self) -> Result<(), Error> {
        let key = "general.quantization_version";
        match self.gguf.metadata().opt_u64(key)? {
            None | Some(2) => Ok(()),
            Some(found) => Err(Error::HyperParameter {
                file: self.gguf.path().to_owned(),
                key: key.to_owned(),
                found: found.to_string(),
                expected: "must be 2, by which blocks are read here".to_owned(),
            }),
        }
    }

    /// A whole number within bounds.
    pub(crate) fn int(&self, suffix: &str, min: u64, max: u64) -> Result<usize, Error> {
        match self.opt_int(suffix, min, max)? {
            Some(value) => Ok(value),
            // Missing: the container's own error.
            None => Ok(self.gguf.metadata().usize(&self.key(suffix))?),
        }
    }

    /// As [`Keys::int`], where the file has it.
    pub(crate) fn opt_int(&self, suffix: &str, min: u64, max: u64) -> Result<Option<usize>, Error> {
        let Some(value) = self.scalar(suffix)? else {
            return Ok(None);
        };
        match value.as_int().and_then(|int| u64::try_from(int).ok()) {
            Some(value) => self.in_range(suffix, value, min, max).map(Some),
            None => Err(self.bad(
                suffix,
                value.describe(),
                format!("must be an integer from {min} to {max}"),
            )),
        }
    }

    /// A number within bounds.
    pub(crate) fn number(&self, suffix: &str, range: RangeInclusive<f32>) -> Result<f32, Error> {
        match self.opt_number(suffix, range)? {
            Some(value) => Ok(value),
            None => Ok(self.gguf.metadata().f32(&self.key(suffix))?),
        }
    }

    /// As [`Keys::number`], where the file has it.
    pub(crate) fn opt_number(
        &self,
        suffix: &str,
        range: RangeInclusive<f32>,
    ) -> Result<Option<f32>, Error> {
        let Some(value) = self.scalar(suffix)? else {
            return Ok(None);
        };
        match value.as_float().map(|float| float as f32) {
            Some(float) if range.contains(&float) => Ok(Some(float)),
            _ => {
                let (min, max) = (range.start(), range.end());
                let expected = format!("must be a floating-point number from {min} to {max}");
                Err(self.bad(suffix, value.describe(), expected))
            }
        }
    }

    /// Text, where the file has it.
    pub(crate) fn opt_str(&self, suffix: &str) -> Result<Option<&'a str>, Error> {
        self.ledger.read_key(suffix);
        Ok(self.gguf.metadata().opt_str(&self.key(suffix))?)
    }

    /// A flag for each of `len` layers, where the file has them as a list.
    pub(crate) fn opt_flags(&self, suffix: &str, len: usize) -> Result<Option<Vec<bool>>, Error> {
        self.ledger.read_key(suffix);
        let key = self.key(suffix);
        let Some(Value::Array(list)) = self.gguf.metadata().get(&key) else {
            return Ok(None);
        };
        let flags: Option<Vec<bool>> = list.iter().map(|value| value.as_bool()).collect();
        match flags {
            Some(flags) if flags.len() == len => Ok(Some(flags)),
            _ => {
                let found = format!("a list of {} {}", list.len(), list.ty().name());
                let expected = format!("must be a number, or {len} bool as {LAYERS} says");
                Err(self.bad(suffix, found, expected))
            }
        }
    }

    /// The value of a key, or what a list holds for every layer alike.
    fn scalar(&self, suffix: &str) -> Result<Option<Value<'a>>, Error> {
        self.ledger.read_key(suffix);
        let value = self.gguf.metadata().get(&self.key(suffix));
        let Some(Value::Array(list)) = value else {
            return Ok(value);
        };
        // Layers are not counted by a list of them.
        let layers = self.gguf.metadata().get(&self.key(LAYERS));
        let layers = layers.and_then(|v| usize::try_from(v.as_int()?).ok());
        match layers.and_then(|layers| uniform(list, layers)) {
            Some(value) => Ok(Some(value)),
            None => {
                let found = format!("a list of {} {}", list.len(), list.ty().name());
                let expected = format!(
                    "must be one number, or the same one for each of {LAYERS} layers: {} models here \
                     do not differ so from layer to layer",
                    self.arch
                );
                Err(self.bad(suffix, found, expected))
            }
        }
    }

    fn in_range(&self, suffix: &str, value: u64, min: u64, max: u64) -> Result<usize, Error> {
        if (min..=max).contains(&value) {
            Ok(value as usize)
        } else {
            Err(self.bad(suffix, value, format!("must be from {min} to {max}")))
        }
    }

    /// The error of a value that cannot be used.
    pub(crate) fn bad(&self, suffix: &str, found: impl Display, expected: String) -> Error {
        Error::HyperParameter {
            file: self.gguf.path().to_owned(),
            key: self.key(suffix),
            found: found.to_string(),
            expected,
        }
    }
}
