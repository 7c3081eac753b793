//! Metadata of a model under its architecture's prefix, each value checked as it is read.

use std::fmt::Display;

use gannet_gguf::{Gguf, Value};

use crate::Error;

/// The keys of one model: `ARCH.SUFFIX`.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    gguf: &'a Gguf,
    /// `general.architecture`.
    pub(crate) arch: &'a str,
}

impl<'a> Keys<'a> {
    /// The keys of an open model.
    ///
    /// # Errors
    /// It names no architecture.
    pub(crate) fn new(gguf: &'a Gguf) -> Result<Keys<'a>, Error> {
        Ok(Keys {
            gguf,
            arch: gguf.metadata().str("general.architecture")?,
        })
    }

    /// The whole key.
    pub(crate) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    /// A whole number within bounds.
    pub(crate) fn int(&self, suffix: &str, min: u64, max: u64) -> Result<usize, Error> {
        let value = self.gguf.metadata().u64(&self.key(suffix))?;
        self.in_range(suffix, value, min, max)
    }

    /// As [`Keys::int`], where the file has it.
    pub(crate) fn opt_int(&self, suffix: &str, min: u64, max: u64) -> Result<Option<usize>, Error> {
        match self.gguf.metadata().opt_u64(&self.key(suffix))? {
            Some(value) => self.in_range(suffix, value, min, max).map(Some),
            None => Ok(None),
        }
    }

    /// A finite number of at least 0.
    pub(crate) fn non_negative(&self, suffix: &str) -> Result<f32, Error> {
        let value = self.gguf.metadata().f32(&self.key(suffix))?;
        if value.is_finite() && value >= 0.0 {
            Ok(value)
        } else {
            Err(self.bad(
                suffix,
                value,
                "must be a finite number of at least 0".to_owned(),
            ))
        }
    }

    /// A finite number above 0, where the file has it.
    pub(crate) fn opt_positive(&self, suffix: &str) -> Result<Option<f32>, Error> {
        let Some(value) = self.gguf.metadata().opt_f32(&self.key(suffix))? else {
            return Ok(None);
        };
        if value.is_finite() && value > 0.0 {
            Ok(Some(value))
        } else {
            Err(self.bad(suffix, value, "must be a finite number above 0".to_owned()))
        }
    }

    /// A finite number, where the file has it.
    pub(crate) fn opt_finite(&self, suffix: &str) -> Result<Option<f32>, Error> {
        match self.gguf.metadata().opt_f32(&self.key(suffix))? {
            Some(value) if !value.is_finite() => {
                Err(self.bad(suffix, value, "must be a finite number".to_owned()))
            }
            value => Ok(value),
        }
    }

    /// Text, where the file has it.
    pub(crate) fn opt_str(&self, suffix: &str) -> Result<Option<&'a str>, Error> {
        Ok(self.gguf.metadata().opt_str(&self.key(suffix))?)
    }

    /// A flag for each of `len` layers, where the file has them as a list.
    pub(crate) fn opt_flags(&self, suffix: &str, len: usize) -> Result<Option<Vec<bool>>, Error> {
        let key = self.key(suffix);
        let Some(Value::Array(list)) = self.gguf.metadata().get(&key) else {
            return Ok(None);
        };
        let flags: Option<Vec<bool>> = list.iter().map(|value| value.as_bool()).collect();
        match flags {
            Some(flags) if flags.len() == len => Ok(Some(flags)),
            _ => {
                let found = format!("a list of {} {}", list.len(), list.ty().name());
                Err(self.bad(suffix, found, format!("must be a number or {len} bool")))
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
