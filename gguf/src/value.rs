//! Metadata values, read where they lie in the file.
//!
//! A [`Value`] is a number or a borrow. Arrays keep their bytes and decode an element when asked,
//! so that a vocabulary of 150,000 strings costs nothing until somebody iterates over it. What a
//! value borrows was walked once when the file was opened: lengths fit, bools are 0 or 1, strings
//! are UTF-8, and no array holds arrays.

use crate::error::quoted;

/// The type of a metadata value, with the format's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ValueType {
    /// Unsigned 8-bit integer.
    U8 = 0,
    /// Signed 8-bit integer.
    I8 = 1,
    /// Unsigned 16-bit integer.
    U16 = 2,
    /// Signed 16-bit integer.
    I16 = 3,
    /// Unsigned 32-bit integer.
    U32 = 4,
    /// Signed 32-bit integer.
    I32 = 5,
    /// Single-precision number.
    F32 = 6,
    /// One byte, 0 or 1.
    Bool = 7,
    /// UTF-8 text with a 64-bit length before it.
    String = 8,
    /// Elements of one of the other types.
    Array = 9,
    /// Unsigned 64-bit integer.
    U64 = 10,
    /// Signed 64-bit integer.
    I64 = 11,
    /// Double-precision number.
    F64 = 12,
}

impl ValueType {
    /// Every type, by its number.
    pub const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// The format's number of the type.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The type with the format's number `id`.
    pub fn from_id(id: u32) -> Option<ValueType> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// The name of the type in messages, such as `u32`.
    pub fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::String => "string",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }

    /// The bytes a value of this type takes; `None` for strings and arrays, whose size varies.
    pub fn fixed_bytes(self) -> Option<usize> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::String | ValueType::Array => None,
        }
    }
}

/// One metadata value; text and arrays are borrowed from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // the variants are those of `ValueType`, documented there
#[non_exhaustive]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The value's type.
    pub fn ty(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// Any of the integer types, without loss.
    pub fn as_int(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => Some(v.into()),
            Value::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// Either of the floating-point types.
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }

    /// A bool.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// Text.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::String(v) => Some(v),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }

    /// Type and value on one short line, for messages.
    pub fn describe(&self) -> String {
        let ty = self.ty().name();
        match self {
            Value::String(v) => format!("{ty} {}", quoted(v)),
            Value::Array(v) => format!("an array of {} {}", v.len(), v.ty().name()),
            Value::Bool(v) => format!("{ty} {v}"),
            _ => match self.as_int() {
                Some(v) => format!("{ty} {v}"),
                None => format!("{ty} {:?}", self.as_float().unwrap_or(f64::NAN)),
            },
        }
    }

    /// Decodes the value of type `ty` at the start of `bytes`, and the bytes after it.
    /// `None` where `bytes` is too short.
    pub(crate) fn split_from(ty: ValueType, bytes: &'a [u8]) -> Option<(Value<'a>, &'a [u8])> {
        match ty {
            ValueType::String => {
                let (text, rest) = split_string(bytes)?;
                Some((Value::String(text), rest))
            }
            ValueType::Array => {
                let (ty, rest) = bytes.split_first_chunk()?;
                let (len, rest) = rest.split_first_chunk()?;
                let ty = ValueType::from_id(u32::from_le_bytes(*ty))?;
                let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
                Some((
                    Value::Array(Array {
                        ty,
                        len,
                        bytes: rest,
                    }),
                    &[],
                ))
            }
            _ => {
                let (head, rest) = bytes.split_at_checked(ty.fixed_bytes()?)?;
                Some((Value::fixed(ty, head)?, rest))
            }
        }
    }

    fn fixed(ty: ValueType, bytes: &[u8]) -> Option<Value<'a>> {
        Some(match ty {
            ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => Value::Bool(*bytes.first()? != 0),
            ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::String | ValueType::Array => return None,
        })
    }
}

/// The text at the start of `bytes`, and the bytes after it.
fn split_string(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
    let (text, rest) = rest.split_at_checked(len)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

/// An array of metadata values, decoded one element at a time.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    ty: ValueType,
    len: usize,
    // The encoded elements, and possibly bytes after them.
    bytes: &'a [u8],
}

/// By elements, wherever in whichever file they lie.
impl PartialEq for Array<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.ty, self.len) == (other.ty, other.len) && self.encoded() == other.encoded()
    }
}

impl<'a> Array<'a> {
    /// The type of the elements; never `Array`.
    pub fn ty(&self) -> ValueType {
        self.ty
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Element `index`; for strings this walks over those before it.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        if index >= self.len {
            return None;
        }
        let Some(size) = self.ty.fixed_bytes() else {
            return self.iter().nth(index);
        };
        let start = index.checked_mul(size)?;
        Value::split_from(self.ty, self.bytes.get(start..)?).map(|(value, _)| value)
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let ty = self.ty;
        let mut rest = self.bytes;
        (0..self.len).map_while(move |_| {
            let (value, after) = Value::split_from(ty, rest)?;
            rest = after;
            Some(value)
        })
    }

    /// The array as text, when its elements are strings.
    pub fn strings(&self) -> Option<StringArray<'a>> {
        (self.ty == ValueType::String).then_some(StringArray {
            len: self.len,
            bytes: self.bytes,
        })
    }

    /// The encoded elements, exactly.
    pub(crate) fn encoded(&self) -> &'a [u8] {
        let len = match self.ty.fixed_bytes() {
            Some(size) => self.len.saturating_mul(size),
            None => self
                .iter()
                .filter_map(|v| v.as_str())
                .map(|s| s.len() + STRING_LEN_BYTES)
                .sum(),
        };
        self.bytes.get(..len).unwrap_or_default()
    }
}

/// The bytes of the length before each string.
pub(crate) const STRING_LEN_BYTES: usize = 8;

/// An array of strings that is read where it lies in the file; nothing is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringArray<'a> {
    len: usize,
    bytes: &'a [u8],
}

impl<'a> StringArray<'a> {
    /// The number of strings.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// String `index`. Walks over those before it: use [`iter`](Self::iter) for all of them.
    pub fn get(&self, index: usize) -> Option<&'a str> {
        self.iter().nth(index)
    }

    /// The strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = self.bytes;
        (0..self.len).map_while(move |_| {
            let (text, after) = split_string(rest)?;
            rest = after;
            Some(text)
        })
    }
}
