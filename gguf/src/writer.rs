//! Writes GGUF version 3: metadata and the tensor table first, then tensor data as it comes.
//!
//! [`Writer`] collects what the header needs (names, shapes, types) and refuses what the reader
//! would refuse. [`Writer::start`] writes the header and turns it into a [`DataWriter`], which takes
//! the data of each tensor in order and in pieces of any size, so that a model larger than memory
//! can be written to any [`io::Write`](std::io::Write). What [`DataWriter::finish`] accepts, the
//! reader opens.

use std::collections::HashSet;
use std::io::{self, Write};

use crate::Error;
use crate::error::quoted;
use crate::parse::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_KEY_BYTES, MAX_KEYS, MAX_TENSORS, is_alignment,
};
use crate::tensor::{MAX_NAME_BYTES, TensorType};
use crate::value::{Value, ValueType};

const VERSION: u32 = 3;
/// What messages call the file being written; its path is the caller's business.
const OUTPUT: &str = "output";

/// The header of a file to be written.
pub struct Writer {
    alignment: u64,
    entries: Vec<EncodedEntry>,
    tensors: Vec<PlannedTensor>,
    names: HashSet<String>,
    /// The end of the last tensor's data, padded, from the start of the data.
    data_end: u64,
}

struct EncodedEntry {
    key: String,
    ty: ValueType,
    bytes: Vec<u8>,
}

struct PlannedTensor {
    name: String,
    dims: Vec<u64>,
    ty: TensorType,
    offset: u64,
    bytes: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Writer::new()
    }
}

impl Writer {
    /// A file without metadata or tensors, whose data is aligned to 32 bytes.
    pub fn new() -> Writer {
        Writer {
            alignment: DEFAULT_ALIGNMENT,
            entries: Vec::new(),
            tensors: Vec::new(),
            names: HashSet::new(),
            data_end: 0,
        }
    }

    /// Sets `key` to a number, a bool, text, or a [`Value`] from another file; replaces the value
    /// that it had. `general.alignment` (as `u32`) sets what the data is aligned to.
    ///
    /// # Errors
    /// [`Error::Metadata`] for an empty or overlong key, and for an alignment that is not a power
    /// of two up to 1 MiB or comes after the first tensor.
    pub fn set<'a>(&mut self, key: &str, value: impl Into<Value<'a>>) -> Result<(), Error> {
        let value = value.into();
        if key == ALIGNMENT_KEY {
            self.set_alignment(&value)?;
        }
        let mut bytes = Vec::new();
        encode(&value, &mut bytes);
        self.insert(key, value.ty(), bytes)
    }

    /// Sets `key` to an array of numbers, bools or strings; replaces the value that it had.
    ///
    /// # Errors
    /// As [`Writer::set`].
    pub fn set_array<T>(&mut self, key: &str, values: &[T]) -> Result<(), Error>
    where
        T: ArrayElement,
    {
        if key == ALIGNMENT_KEY {
            return Err(metadata_error(
                key,
                "an array".into(),
                "a power of two, as u32".into(),
            ));
        }
        let mut bytes = Vec::new();
        bytes.extend(T::TYPE.id().to_le_bytes());
        bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            encode(&value.value(), &mut bytes);
        }
        self.insert(key, ValueType::Array, bytes)
    }

    fn insert(&mut self, key: &str, ty: ValueType, bytes: Vec<u8>) -> Result<(), Error> {
        if key.is_empty() || key.len() as u64 > MAX_KEY_BYTES {
            let found = format!("{} bytes long", key.len());
            return Err(metadata_error(
                key,
                found,
                format!("1 to {MAX_KEY_BYTES} bytes long"),
            ));
        }
        let entry = EncodedEntry {
            key: key.to_owned(),
            ty,
            bytes,
        };
        if let Some(old) = self.entries.iter_mut().find(|e| e.key == key) {
            *old = entry;
            return Ok(());
        }
        if self.entries.len() as u64 >= MAX_KEYS {
            let found = format!("key {} of the file", self.entries.len() + 1);
            return Err(metadata_error(
                key,
                found,
                format!("one of at most {MAX_KEYS}"),
            ));
        }
        self.entries.push(entry);
        Ok(())
    }

    fn set_alignment(&mut self, value: &Value<'_>) -> Result<(), Error> {
        match value {
            Value::U32(n) if is_alignment((*n).into()) => {
                if !self.tensors.is_empty() && u64::from(*n) != self.alignment {
                    let found = "changed after the first tensor".into();
                    return Err(metadata_error(ALIGNMENT_KEY, found, "set before it".into()));
                }
                self.alignment = (*n).into();
                Ok(())
            }
            other => {
                let expected = "a power of two up to 1 MiB, as u32".into();
                Err(metadata_error(ALIGNMENT_KEY, other.describe(), expected))
            }
        }
    }

    /// Adds a tensor; its data is due when all before it have theirs. `dims[0]` is the contiguous
    /// dimension. Returns the bytes its data will take.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a name that is empty, overlong or taken, and for a shape that the
    /// type cannot have.
    pub fn tensor(&mut self, name: &str, dims: &[u64], ty: TensorType) -> Result<u64, Error> {
        let error = |field, found, expected| Error::Tensor {
            file: OUTPUT.into(),
            tensor: quoted(name),
            field,
            found,
            expected,
        };
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            let expected = format!("1 to {MAX_NAME_BYTES} bytes");
            return Err(error("its name's length", name.len().to_string(), expected));
        }
        if self.tensors.len() as u64 >= MAX_TENSORS {
            let found = format!("{} of the file", self.tensors.len() + 1);
            return Err(error("its number", found, format!("at most {MAX_TENSORS}")));
        }
        let bytes = ty.tensor_bytes(dims).map_err(|e| {
            let (field, found, expected) = e.parts(dims, ty);
            error(field, found, expected)
        })?;
        let end = self.data_end.checked_add(bytes);
        let end = end.and_then(|end| end.checked_next_multiple_of(self.alignment));
        let Some(end) = end.filter(|end| *end <= i64::MAX as u64) else {
            let found = format!("{bytes} bytes at offset {}, an overflow", self.data_end);
            return Err(error("its data", found, "within 2^63-1 bytes".into()));
        };
        if !self.names.insert(name.to_owned()) {
            return Err(error("its name", "a duplicate".into(), "unique".into()));
        }
        let (name, dims, offset) = (name.to_owned(), dims.to_vec(), self.data_end);
        self.tensors.push(PlannedTensor {
            name,
            dims,
            ty,
            offset,
            bytes,
        });
        self.data_end = end;
        Ok(bytes)
    }

    /// Writes the header to `out` and goes on to the data. `out` sees many small writes: a file
    /// wants a [`BufWriter`](std::io::BufWriter) around it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn start<W: Write>(self, mut out: W) -> Result<DataWriter<W>, Error> {
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            encode_str(&entry.key, &mut header);
            header.extend(entry.ty.id().to_le_bytes());
            header.extend(&entry.bytes);
        }
        for tensor in &self.tensors {
            encode_str(&tensor.name, &mut header);
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            header.extend(tensor.dims.iter().flat_map(|d| d.to_le_bytes()));
            header.extend(tensor.ty.id().to_le_bytes());
            header.extend(tensor.offset.to_le_bytes());
        }
        header.resize(header.len().next_multiple_of(self.alignment as usize), 0);
        out.write_all(&header).map_err(write_error)?;
        let (alignment, tensors) = (self.alignment, self.tensors);
        Ok(DataWriter {
            out,
            alignment,
            tensors,
            current: 0,
            written: 0,
        })
    }
}

/// Takes the data of the tensors, one after the other.
pub struct DataWriter<W> {
    out: W,
    alignment: u64,
    tensors: Vec<PlannedTensor>,
    /// The tensor whose data is due.
    current: usize,
    /// How many bytes of it are written; fewer than it has.
    written: u64,
}

impl<W: Write> DataWriter<W> {
    /// The tensor whose data is due, and how many bytes of it are; `None` when all are written.
    pub fn due(&self) -> Option<(&str, u64)> {
        let tensor = self.tensors.get(self.current)?;
        Some((&tensor.name, tensor.bytes - self.written))
    }

    /// Writes all data of `name`, which must be the tensor that is due.
    ///
    /// # Errors
    /// [`Error::Tensor`] when another tensor is due or the size is wrong; those of the output.
    pub fn tensor(&mut self, name: &str, data: &[u8]) -> Result<(), Error> {
        match self.due() {
            Some((due, bytes)) if due == name && bytes == data.len() as u64 => self.write(data),
            Some((due, bytes)) => {
                let expected = format!("{bytes} bytes of {}, which is due", quoted(due));
                Err(data_error(name, format!("{} bytes", data.len()), expected))
            }
            None => Err(data_error(
                name,
                "more data".into(),
                "nothing after the last".into(),
            )),
        }
    }

    /// Writes the next piece of the tensor that is due; a piece does not reach into the next one.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the piece is longer than what is due; those of the output.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        let Some(tensor) = self.tensors.get(self.current) else {
            return Err(data_error(
                "none",
                "more data".into(),
                "nothing after the last".into(),
            ));
        };
        let due = tensor.bytes - self.written;
        if piece.len() as u64 > due {
            let expected = format!("at most the {due} bytes that are due");
            return Err(data_error(
                &tensor.name,
                format!("{} bytes", piece.len()),
                expected,
            ));
        }
        self.out.write_all(piece).map_err(write_error)?;
        self.written += piece.len() as u64;
        if self.written == tensor.bytes {
            // Both sums fit: the tensors' layout was checked with its padding.
            let padding = tensor.bytes.next_multiple_of(self.alignment) - tensor.bytes;
            // At most 1 MiB, the largest alignment.
            self.out
                .write_all(&vec![0; padding as usize])
                .map_err(write_error)?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Flushes and returns the output, once every tensor has its data.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming the tensor whose data is missing; those of the output.
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some((name, bytes)) = self.due() {
            let found = format!("short of {bytes} bytes");
            return Err(data_error(name, found, "complete before the end".into()));
        }
        self.out.flush().map_err(write_error)?;
        Ok(self.out)
    }
}

/// An element of a metadata array: any number, bool or text. Implemented for those types only.
pub trait ArrayElement: sealed::Sealed {
    /// The type of such elements in the file.
    const TYPE: ValueType;
    /// The element as a value.
    fn value(&self) -> Value<'_>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($ty:ty => $variant:ident;)*) => { $(
        impl sealed::Sealed for $ty {}

        impl ArrayElement for $ty {
            const TYPE: ValueType = ValueType::$variant;

            fn value(&self) -> Value<'_> {
                Value::$variant(*self)
            }
        }

        impl From<$ty> for Value<'_> {
            fn from(value: $ty) -> Self {
                Value::$variant(value)
            }
        }
    )* };
}

elements! {
    u8 => U8;
    i8 => I8;
    u16 => U16;
    i16 => I16;
    u32 => U32;
    i32 => I32;
    u64 => U64;
    i64 => I64;
    f32 => F32;
    f64 => F64;
    bool => Bool;
}

impl sealed::Sealed for &str {}

impl ArrayElement for &str {
    const TYPE: ValueType = ValueType::String;

    fn value(&self) -> Value<'_> {
        Value::String(self)
    }
}

impl sealed::Sealed for String {}

impl ArrayElement for String {
    const TYPE: ValueType = ValueType::String;

    fn value(&self) -> Value<'_> {
        Value::String(self)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Value::String(value)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Self {
        Value::String(value)
    }
}

fn encode_str(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn encode(value: &Value<'_>, out: &mut Vec<u8>) {
    match *value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(v.into()),
        Value::String(v) => encode_str(v, out),
        Value::Array(v) => {
            out.extend(v.ty().id().to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            out.extend(v.encoded());
        }
    }
}

fn write_error(source: io::Error) -> Error {
    Error::Io {
        file: OUTPUT.into(),
        action: "write",
        source,
    }
}

fn metadata_error(key: &str, found: String, expected: String) -> Error {
    Error::Metadata {
        file: OUTPUT.into(),
        key: quoted(key),
        found,
        expected,
    }
}

fn data_error(name: &str, found: String, expected: String) -> Error {
    Error::Tensor {
        file: OUTPUT.into(),
        tensor: quoted(name),
        field: "its data",
        found,
        expected,
    }
}
