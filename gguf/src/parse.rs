//! One file's header, metadata and tensor table, validated.
//!
//! Everything a file claims is compared with the bytes it has before anything is reserved or
//! believed. Memory is bounded by [`MAX_KEYS`] and [`MAX_TENSORS`], whose tables stay below 16 MiB
//! (`tests/memory.rs` measures them). There is no recursion: arrays of arrays, the only
//! nesting the format allows, are refused.

use std::sync::Arc;

use crate::Error;
use crate::cursor::Cursor;
use crate::error::quoted;
use crate::metadata::{Entry, Metadata};
use crate::source::Source;
use crate::tensor::{MAX_DIMS, MAX_NAME_BYTES, TensorInfo, TensorType};
use crate::value::{STRING_LEN_BYTES, Value, ValueType};

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
pub(crate) const MAX_KEY_BYTES: u64 = 65_535;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// Real files have fewer than 100 keys.
pub(crate) const MAX_KEYS: u64 = 16_384;
/// Over all shards. Real models have at most a few thousand.
pub(crate) const MAX_TENSORS: u64 = 32_768;

/// A key takes at least its length. More is needed for a sound one, but an only key that runs past
/// the end is better refused by name than by count.
const MIN_KEY_BYTES: u64 = 8;
/// The least bytes a tensor's description takes: length, one character, dimension count, one
/// dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// One file, understood.
pub(crate) struct Parsed {
    pub(crate) version: u32,
    pub(crate) alignment: u64,
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) warnings: Vec<String>,
}

/// Reads and validates everything in `source` but the tensors' data.
pub(crate) fn parse(source: &Arc<Source>, shard: usize) -> Result<Parsed, Error> {
    let mut parser = Parser {
        file: source.name(),
        cursor: Cursor::new(source.name(), source.bytes()),
        file_bytes: source.bytes().len() as u64,
    };
    let (version, num_tensors, num_keys) = parser.header()?;
    let mut entries = Vec::with_capacity(num_keys);
    for i in 0..num_keys {
        entries.push(parser.entry(i, num_keys)?);
    }
    let metadata = Metadata::new(Arc::clone(source), entries)
        .map_err(|key| parser.metadata_error(&quoted(&key), "a duplicate", "present only once"))?;
    let alignment = parser.alignment(&metadata)?;
    let mut tensors = Vec::with_capacity(num_tensors);
    for i in 0..num_tensors {
        tensors.push(parser.tensor(i, num_tensors, shard)?);
    }
    let mut warnings = Vec::new();
    parser.layout(&mut tensors, alignment, &mut warnings)?;
    Ok(Parsed {
        version,
        alignment,
        metadata,
        tensors,
        warnings,
    })
}

struct Parser<'a> {
    file: &'a str,
    cursor: Cursor<'a>,
    file_bytes: u64,
}

impl Parser<'_> {
    /// Version, number of tensors, number of keys.
    fn header(&mut self) -> Result<(u32, usize, usize), Error> {
        let magic = self.cursor.magic(format_args!("the magic"))?;
        if magic != MAGIC {
            let found = quoted(&String::from_utf8_lossy(&magic));
            return Err(self.header_error("the magic", found, "\"GGUF\"".into()));
        }
        let version = self.cursor.u32(format_args!("the version"))?;
        match version {
            2 | 3 => {}
            _ if matches!(version.swap_bytes(), 1..=3) => {
                let found = "byte-swapped (a big-endian file)".into();
                return Err(self.header_error("the version", found, "little-endian".into()));
            }
            _ => {
                return Err(self.header_error("the version", version.to_string(), "2 or 3".into()));
            }
        }
        let tensors = self.cursor.u64(format_args!("tensor_count"))?;
        let keys = self.cursor.u64(format_args!("metadata_kv_count"))?;
        let keys = self.count("metadata_kv_count", keys, MIN_KEY_BYTES, MAX_KEYS)?;
        let tensors = self.count("tensor_count", tensors, MIN_TENSOR_BYTES, MAX_TENSORS)?;
        Ok((version, tensors, keys))
    }

    /// A count of things of at least `least` bytes each, which must fit what remains.
    fn count(&self, field: &'static str, n: u64, least: u64, max: u64) -> Result<usize, Error> {
        let fit = self.cursor.remaining() / least;
        if n > fit {
            let expected = format!("at most {fit}, which is what the rest of the file can hold");
            return Err(self.header_error(field, n.to_string(), expected));
        }
        if n > max {
            return Err(self.header_error(field, n.to_string(), format!("at most {max}")));
        }
        Ok(n as usize)
    }

    /// One key with its value, walked over and checked.
    fn entry(&mut self, index: usize, count: usize) -> Result<Entry, Error> {
        let nth = index + 1;
        let len = self
            .cursor
            .u64(format_args!("the length of key {nth} of {count}"))?;
        let bytes = self
            .cursor
            .take(len, format_args!("key {nth} of {count}"))?;
        let place = format!("{nth} of {count}");
        if len == 0 || len > MAX_KEY_BYTES {
            let expected = format!("1 to {MAX_KEY_BYTES} bytes long");
            return Err(self.metadata_error(&place, &format!("{len} bytes long"), &expected));
        }
        let Ok(key) = std::str::from_utf8(bytes) else {
            let found = quoted(&String::from_utf8_lossy(bytes));
            return Err(self.metadata_error(&place, &found, "UTF-8"));
        };
        let end = self.cursor.pos();
        let ty = self
            .cursor
            .u32(format_args!("the value type of key {}", quoted(key)))?;
        let Some(ty) = ValueType::from_id(ty) else {
            let found = format!("value type {ty}");
            return Err(self.metadata_error(&quoted(key), &found, "a value type from 0 to 12"));
        };
        let value = self.cursor.pos();
        self.value(key, ty)?;
        Ok(Entry {
            key: end - bytes.len()..end,
            ty,
            value,
        })
    }

    fn value(&mut self, key: &str, ty: ValueType) -> Result<(), Error> {
        match ty {
            ValueType::Array => self.array(key),
            ValueType::String => self.string(key, None),
            _ => {
                let size = ty.fixed_bytes().unwrap_or(0) as u64;
                let what =
                    format_args!("the {} value of key {}", ty.name(), quoted(key)).to_string();
                let bytes = self.cursor.take(size, format_args!("{what}"))?;
                if ty == ValueType::Bool {
                    self.bools(key, bytes)
                } else {
                    Ok(())
                }
            }
        }
    }

    fn bools(&self, key: &str, bytes: &[u8]) -> Result<(), Error> {
        match bytes.iter().find(|&&b| b > 1) {
            Some(b) => Err(self.metadata_error(&quoted(key), &format!("bool {b}"), "0 or 1")),
            None => Ok(()),
        }
    }

    /// One string: a value, or an element of an array.
    fn string(&mut self, key: &str, element: Option<u64>) -> Result<(), Error> {
        // Named only where something is wrong: this runs for every token of a vocabulary.
        struct Place<'a>(&'a str, Option<u64>);
        impl std::fmt::Display for Place<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.1 {
                    Some(i) => write!(f, "string {i} in the array of key {}", quoted(self.0)),
                    None => write!(f, "the string value of key {}", quoted(self.0)),
                }
            }
        }
        let place = Place(key, element);
        let len = self.cursor.u64(format_args!("the length of {place}"))?;
        let bytes = self.cursor.take(len, format_args!("{place}"))?;
        if std::str::from_utf8(bytes).is_err() {
            let index = element
                .map(|i| format!(" at index {i}"))
                .unwrap_or_default();
            let shown = quoted(&String::from_utf8_lossy(&bytes[..bytes.len().min(256)]));
            let found = format!("string {shown}{index}");
            return Err(self.metadata_error(&quoted(key), &found, "UTF-8"));
        }
        Ok(())
    }

    fn array(&mut self, key: &str) -> Result<(), Error> {
        let what = quoted(key);
        let ty = self
            .cursor
            .u32(format_args!("the array element type of key {what}"))?;
        let len = self
            .cursor
            .u64(format_args!("the array length of key {what}"))?;
        let ty = match ValueType::from_id(ty) {
            Some(ValueType::Array) => {
                let found = "an array nested in an array";
                return Err(self.metadata_error(&what, found, "an array of scalars or strings"));
            }
            Some(ty) => ty,
            None => {
                let found = format!("an array of element type {ty}");
                return Err(self.metadata_error(&what, &found, "an element type from 0 to 12"));
            }
        };
        let least = ty.fixed_bytes().unwrap_or(STRING_LEN_BYTES) as u64;
        let fit = self.cursor.remaining() / least;
        if len > fit {
            let found = format!("an array of {len} {}", ty.name());
            let expected =
                format!("at most {fit} long, which is what the rest of the file can hold");
            return Err(self.metadata_error(&what, &found, &expected));
        }
        if ty == ValueType::String {
            return (0..len).try_for_each(|i| self.string(key, Some(i)));
        }
        // `len <= remaining / least`, so that the product cannot wrap.
        let bytes = self
            .cursor
            .take(len * least, format_args!("the array of key {what}"))?;
        if ty == ValueType::Bool {
            self.bools(key, bytes)
        } else {
            Ok(())
        }
    }

    fn alignment(&self, metadata: &Metadata) -> Result<u64, Error> {
        let found = match metadata.get(ALIGNMENT_KEY) {
            None => return Ok(DEFAULT_ALIGNMENT),
            Some(Value::U32(n)) if is_alignment(n.into()) => return Ok(n.into()),
            Some(other) => other.describe(),
        };
        let expected = format!("a power of two from 1 to {MAX_ALIGNMENT}, as u32");
        Err(self.metadata_error(&quoted(ALIGNMENT_KEY), &found, &expected))
    }

    /// One row of the tensor table; its offset still counts from the start of the data.
    fn tensor(&mut self, index: usize, count: usize, shard: usize) -> Result<TensorInfo, Error> {
        let place = format!("{} of {count}", index + 1);
        let len = self
            .cursor
            .u64(format_args!("the name's length of tensor {place}"))?;
        let bytes = self
            .cursor
            .take(len, format_args!("the name of tensor {place}"))?;
        if bytes.is_empty() || bytes.len() > MAX_NAME_BYTES {
            let expected = format!("1 to {MAX_NAME_BYTES} bytes");
            return Err(self.tensor_error(place, "its name's length", len.to_string(), expected));
        }
        let Ok(name) = std::str::from_utf8(bytes) else {
            let found = quoted(&String::from_utf8_lossy(bytes));
            return Err(self.tensor_error(place, "its name", found, "UTF-8".into()));
        };
        let shown = quoted(name);
        let n = self
            .cursor
            .u32(format_args!("the number of dimensions of tensor {shown}"))?;
        if n == 0 || n as usize > MAX_DIMS {
            let expected = format!("1 to {MAX_DIMS}");
            let field = "the number of dimensions";
            return Err(self.tensor_error(shown, field, n.to_string(), expected));
        }
        let mut dims = Vec::with_capacity(n as usize);
        for _ in 0..n {
            dims.push(
                self.cursor
                    .u64(format_args!("the dimensions of tensor {shown}"))?,
            );
        }
        let id = self
            .cursor
            .u32(format_args!("the type of tensor {shown}"))?;
        let offset = self
            .cursor
            .u64(format_args!("the offset of tensor {shown}"))?;
        let Some(ty) = TensorType::from_id(id) else {
            let found = match TensorType::removed_name(id) {
                Some(name) => format!("{id} ({name}, which was removed from the format)"),
                None => format!("{id}, which is unknown"),
            };
            return Err(self.tensor_error(
                shown,
                "its type",
                found,
                "one of ggml's types in use, 0 to 39".into(),
            ));
        };
        let bytes = ty.tensor_bytes(&dims).map_err(|e| {
            let (field, found, expected) = e.parts(&dims, ty);
            self.tensor_error(quoted(name), field, found, expected)
        })?;
        Ok(TensorInfo {
            name: name.to_owned(),
            dims,
            ty,
            shard,
            offset,
            bytes,
        })
    }

    /// Checks that the tensors lie one after the other, each at the next aligned place, and inside
    /// the file; makes their offsets count from the start of the file.
    fn layout(
        &self,
        tensors: &mut [TensorInfo],
        alignment: u64,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        let overflow = |t: &TensorInfo| {
            let found = format!("{} bytes at offset {}, an overflow", t.bytes, t.offset);
            self.tensor_error(
                quoted(&t.name),
                "its data",
                found,
                "within 2^63-1 bytes".into(),
            )
        };
        let mut next = 0u64;
        for i in 0..tensors.len() {
            let t = &tensors[i];
            if t.offset != next {
                return Err(self.offset_error(&tensors[..=i], next, alignment));
            }
            next = t
                .offset
                .checked_add(t.bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .filter(|end| *end <= i64::MAX as u64)
                .ok_or_else(|| overflow(t))?;
        }
        let header_end = self.cursor.pos() as u64;
        // Cannot wrap: positions in a file and alignments are far below 2^63.
        let start = header_end.next_multiple_of(alignment);
        for t in tensors.iter_mut() {
            let end = start
                .checked_add(t.offset)
                .and_then(|at| at.checked_add(t.bytes));
            let end = end.ok_or_else(|| overflow(t))?;
            if end > self.file_bytes {
                let found = format!("bytes {} to {end}", start + t.offset);
                let expected = format!(
                    "inside the file's {} bytes (is the file complete?)",
                    self.file_bytes
                );
                return Err(self.tensor_error(quoted(&t.name), "its data", found, expected));
            }
            t.offset += start;
        }
        let data_end = if tensors.is_empty() {
            start
        } else {
            start.saturating_add(next)
        };
        if self.file_bytes > data_end {
            let extra = self.file_bytes - data_end;
            warnings.push(format!(
                "{}: {extra} bytes after the last tensor are ignored",
                self.file
            ));
        }
        Ok(())
    }

    /// Why the last of `tensors` cannot be at its offset.
    fn offset_error(&self, tensors: &[TensorInfo], next: u64, alignment: u64) -> Error {
        let (t, before) = tensors
            .split_last()
            .expect("the caller passes the tensor in question");
        let found = match before.last() {
            _ if !t.offset.is_multiple_of(alignment) => format!("{}, which is unaligned", t.offset),
            Some(last) if t.offset < next => {
                format!(
                    "{}, an overlap with tensor {}",
                    t.offset,
                    quoted(&last.name)
                )
            }
            _ => format!("{}, which leaves a gap", t.offset),
        };
        let expected = format!("{next}, the next multiple of {alignment}");
        self.tensor_error(quoted(&t.name), "its offset", found, expected)
    }

    fn header_error(&self, field: &'static str, found: String, expected: String) -> Error {
        Error::Header {
            file: self.file.to_owned(),
            field,
            found,
            expected,
        }
    }

    fn metadata_error(&self, key: &str, found: &str, expected: &str) -> Error {
        Error::Metadata {
            file: self.file.to_owned(),
            key: key.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        }
    }

    fn tensor_error(
        &self,
        tensor: String,
        field: &'static str,
        found: String,
        expected: String,
    ) -> Error {
        Error::Tensor {
            file: self.file.to_owned(),
            tensor,
            field,
            found,
            expected,
        }
    }
}

/// Whether tensor data may be aligned to `n` bytes.
pub(crate) fn is_alignment(n: u64) -> bool {
    n.is_power_of_two() && n <= MAX_ALIGNMENT
}
