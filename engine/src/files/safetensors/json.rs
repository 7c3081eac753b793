//! JSON from strangers, in bounded memory: headers and indices of safetensors.
//!
//! The text is read twice and never held. A first pass over the bytes refuses what would make the
//! second one costly or its messages unclear: text that is not UTF-8, deep nesting, strings that
//! only an attack needs. The second pass is serde's, into types that cap what they collect. What
//! both keep is below the text's own size plus a few MiB. Neither recurses on the input: serde_json
//! stops at a depth of 128 by itself, and the types here nest to three.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};

use super::Error;
use super::dtype::Dtype;
use super::error::{one_line, quoted};

/// The deepest nesting of a header; one of a well-formed file has 3.
const MAX_DEPTH: u32 = 128;
/// The longest string: room for a training log in the metadata, not for filling the memory.
const MAX_STRING_BYTES: u64 = 4 << 20;
/// Most tensors of one file.
const MAX_TENSORS: usize = 1 << 15;
/// Most entries of `__metadata__`.
const MAX_METADATA: usize = 1 << 14;
/// Most tensors of an index.
const MAX_INDEXED: usize = 200_000;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;

/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// A header as written, before anything in it is compared with anything else.
#[derive(Default)]
pub(super) struct Header {
    pub(super) metadata: Vec<(String, String)>,
    pub(super) tensors: Vec<Entry>,
}

/// One tensor of a header.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// An index as written: pairs of a tensor and the file that holds it.
pub(super) struct Index(pub(super) Vec<(String, String)>);

/// The `len` bytes of a file from `start`.
pub(super) struct Text<'a> {
    pub(super) path: &'a Path,
    pub(super) file: &'a File,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Text<'_> {
    /// Parses the text as a [`Header`] or an [`Index`].
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.scan()?;
        let mut json = serde_json::Deserializer::from_reader(BufReader::new(self.reader()?));
        let parsed = T::deserialize(&mut json).and_then(|value| json.end().map(|()| value));
        parsed.map_err(|e| Error::Json {
            file: self.path.to_owned(),
            problem: one_line(&e.to_string()),
        })
    }

    /// The first pass: encoding, depth, length of strings.
    fn scan(&self) -> Result<(), Error> {
        let mut reader = self.reader()?;
        let mut chunk = vec![0; CHUNK];
        let mut limits = Limits::default();
        // `kept` bytes of a character that the last chunk cut are at the front of this one.
        let (mut kept, mut at) = (0, 0);
        loop {
            let read = reader.read(&mut chunk[kept..]).map_err(|e| self.io(e))?;
            let filled = &chunk[..kept + read];
            let whole = match std::str::from_utf8(filled) {
                Ok(_) => filled.len(),
                Err(e) if e.error_len().is_none() && read > 0 => e.valid_up_to(),
                Err(e) => {
                    let found = format!("is not UTF-8 at its byte {}", at + e.valid_up_to());
                    return Err(self.refuse(found, "JSON in UTF-8"));
                }
            };
            for &byte in &filled[..whole] {
                limits
                    .take(byte)
                    .map_err(|(found, expected)| self.refuse(found, expected))?;
            }
            if read == 0 {
                return Ok(());
            }
            let len = filled.len();
            chunk.copy_within(whole..len, 0);
            (kept, at) = (len - whole, at + whole);
        }
    }

    fn reader(&self) -> Result<io::Take<&File>, Error> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(self.start))
            .map_err(|e| self.io(e))?;
        Ok(file.take(self.len))
    }

    fn io(&self, source: io::Error) -> Error {
        Error::Io {
            file: self.path.to_owned(),
            action: "read",
            source,
        }
    }

    fn refuse(&self, found: String, expected: &str) -> Error {
        Error::Header {
            file: self.path.to_owned(),
            found,
            expected: expected.to_owned(),
        }
    }
}

/// What the first pass counts. It need not understand JSON: where the text is malformed its counts
/// mean nothing, and the parser refuses the text anyway.
#[derive(Default)]
struct Limits {
    depth: u32,
    in_string: bool,
    escaped: bool,
    string_bytes: u64,
}

impl Limits {
    fn take(&mut self, byte: u8) -> Result<(), (String, &'static str)> {
        if self.in_string {
            self.string_bytes += 1;
            if self.string_bytes > MAX_STRING_BYTES {
                return Err(("has a string over 4 MiB long".to_owned(), "shorter ones"));
            }
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(());
        }
        match byte {
            b'"' => (self.in_string, self.string_bytes) = (true, 0),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if self.depth > MAX_DEPTH {
            let found = format!("nests to a depth of more than {MAX_DEPTH}");
            return Err((found, "a depth of 3: an object of tensors, each with lists"));
        }
        Ok(())
    }
}

/// An error inside `part`; serde_json finds the position at the end of the message again.
fn within<E: serde::de::Error>(part: impl fmt::Display, e: E) -> E {
    E::custom(format_args!("{part}: {e}"))
}

/// Refuses the element after the last that fits.
fn check_count<E: serde::de::Error>(what: &str, count: usize, max: usize) -> Result<(), E> {
    if count < max {
        return Ok(());
    }
    Err(E::custom(format_args!("more than {max} {what}")))
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Header, D::Error> {
        json.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut has_metadata = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == METADATA {
                if has_metadata {
                    return Err(A::Error::custom("duplicate key \"__metadata__\""));
                }
                has_metadata = true;
                let seed = Strings {
                    what: "entries",
                    max: MAX_METADATA,
                };
                header.metadata = map.next_value_seed(seed).map_err(|e| within(METADATA, e))?;
            } else {
                check_count("tensors", header.tensors.len(), MAX_TENSORS)?;
                let part = format!("tensor {}", quoted(&key));
                let entry = map.next_value_seed(EntrySeed { name: key });
                header.tensors.push(entry.map_err(|e| within(part, e))?);
            }
        }
        Ok(header)
    }
}

/// The key of a header that is no tensor.
const METADATA: &str = "__metadata__";
/// The key of an index that names each tensor's file.
const WEIGHT_MAP: &str = "weight_map";

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Index, D::Error> {
        json.deserialize_map(IndexVisitor)
    }
}

struct IndexVisitor;

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = Index;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
        let mut index = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != WEIGHT_MAP {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if index.is_some() {
                return Err(A::Error::custom("duplicate key \"weight_map\""));
            }
            let seed = Strings {
                what: "tensors",
                max: MAX_INDEXED,
            };
            let files = map
                .next_value_seed(seed)
                .map_err(|e| within(WEIGHT_MAP, e))?;
            index = Some(Index(files));
        }
        index.ok_or_else(|| A::Error::missing_field(WEIGHT_MAP))
    }
}

/// An object whose values are strings, in the order of the text.
struct Strings {
    what: &'static str,
    max: usize,
}

impl<'de> DeserializeSeed<'de> for Strings {
    type Value = Vec<(String, String)>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Strings {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            check_count(self.what, pairs.len(), self.max)?;
            let value = map
                .next_value::<String>()
                .map_err(|e| within(quoted(&key), e))?;
            pairs.push((key, value));
        }
        Ok(pairs)
    }
}

/// The description of the tensor `name`. Keys that the container does not define are ignored.
struct EntrySeed {
    name: String,
}

impl<'de> DeserializeSeed<'de> for EntrySeed {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Entry, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let repeated = match key.as_str() {
                "dtype" => dtype.replace(read_dtype(&mut map)?).is_some(),
                "shape" => shape
                    .replace(numbers("shape", MAX_DIMS, &mut map)?)
                    .is_some(),
                "data_offsets" => {
                    let pair = numbers("data_offsets", 2, &mut map)?;
                    offsets.replace(pair).is_some()
                }
                _ => map.next_value::<IgnoredAny>().map(|_| false)?,
            };
            if repeated {
                return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
            }
        }
        let [begin, end] = offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?[..]
        else {
            return Err(A::Error::custom(
                "data_offsets must be 2 numbers: begin and end",
            ));
        };
        Ok(Entry {
            name: self.name,
            dtype: dtype.ok_or_else(|| A::Error::missing_field("dtype"))?,
            shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
            begin,
            end,
        })
    }
}

fn read_dtype<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Dtype, A::Error> {
    let name = map.next_value::<String>().map_err(|e| within("dtype", e))?;
    Dtype::from_name(&name).ok_or_else(|| {
        let known: Vec<_> = Dtype::ALL.iter().map(|d| d.name()).collect();
        let (found, known) = (quoted(&name), known.join(", "));
        A::Error::custom(format_args!(
            "dtype {found} is unknown; expected one of {known}"
        ))
    })
}

fn numbers<'de, A: MapAccess<'de>>(
    field: &'static str,
    max: usize,
    map: &mut A,
) -> Result<Vec<u64>, A::Error> {
    map.next_value_seed(Numbers { max }).map_err(|e| {
        within(
            format_args!("{field} must be at most {max} whole numbers"),
            e,
        )
    })
}

/// A list of at most `max` whole numbers.
struct Numbers {
    max: usize,
}

impl<'de> DeserializeSeed<'de> for Numbers {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Vec<u64>, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Numbers {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u64>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element::<u64>()? {
            check_count("numbers", numbers.len(), self.max)?;
            numbers.push(number);
        }
        Ok(numbers)
    }
}
