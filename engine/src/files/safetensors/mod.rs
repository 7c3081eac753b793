//! The safetensors container: a reader that trusts nothing.
//!
//! [`SafeTensors::open`] reads the header of one file, or of every file that a
//! `model.safetensors.index.json` names, checks all that it claims, and keeps a list of
//! [`SafeTensorInfo`]. Tensor data is read when [`SafeTensors::data`] asks for it, one tensor at a time.
//!
//! ```no_run
//! use gannet_engine::internals::files::safetensors::SafeTensors;
//!
//! let model = SafeTensors::open("model.safetensors".as_ref())?;
//! for tensor in model.tensors() {
//!     println!("{} {} {:?}", tensor.name, tensor.dtype, tensor.shape);
//! }
//! let bytes = model.data("lm_head.weight")?;
//! # Ok::<(), gannet_engine::internals::files::safetensors::Error>(())
//! ```
//!
//! What always holds of an open file: tensors have distinct names and known types; each one's bytes
//! are what its shape needs; together they fill the file without gaps or overlaps; shards lie in the
//! folder of their index. Opening keeps less memory than the size of the files plus 16 MiB.

mod dtype;
mod error;
mod json;
mod layout;
mod mapped;
mod shards;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use dtype::Dtype;
pub use error::Error;
pub use mapped::{MappedTensors, weights_of};

use error::quoted;
use json::{Header, Text};

/// The longest header, as the format defines it.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The bytes of the header's length, which come first.
const LENGTH_BYTES: u64 = 8;
/// How the name of a file ends.
const EXTENSION: &str = ".safetensors";
/// How the name of an index ends.
const INDEX_EXTENSION: &str = ".safetensors.index.json";

/// A tensor: what it is and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafeTensorInfo {
    /// The name.
    pub name: String,
    /// How an element is stored.
    pub dtype: Dtype,
    /// Row-major; the last dimension is the contiguous one. Empty for a scalar.
    pub shape: Vec<u64>,
    /// Which of [`SafeTensors::files`] holds it.
    pub file: usize,
    /// Its bytes, from the start of that file.
    pub bytes: Range<u64>,
}

/// An open model: one file, or all files of an index.
#[derive(Debug)]
pub struct SafeTensors {
    path: PathBuf,
    files: Vec<PathBuf>,
    metadata: Vec<(String, String)>,
    /// In the order of the files, and of the data in them.
    tensors: Vec<SafeTensorInfo>,
    /// Indices of `tensors` in the order of their names.
    by_name: Vec<u32>,
}

impl SafeTensors {
    /// Opens a `.safetensors` file, or all files that a `.safetensors.index.json` names.
    ///
    /// # Errors
    /// A file that cannot be read; a header that is malformed or describes other data than the file
    /// holds; an index that names files outside its folder or tensors that are not where it says.
    pub fn open(path: &Path) -> Result<SafeTensors, Error> {
        if has_ending(path, INDEX_EXTENSION) {
            return shards::open(path);
        }
        let mut model = SafeTensors::new(path);
        model.add_file(path)?;
        model.sort_names();
        Ok(model)
    }

    fn new(path: &Path) -> SafeTensors {
        SafeTensors {
            path: path.to_owned(),
            files: Vec::new(),
            metadata: Vec::new(),
            tensors: Vec::new(),
            by_name: Vec::new(),
        }
    }

    /// Reads the header of one file and adds its tensors.
    fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let (file, file_len) = open_file(path)?;
        let header_len = read_header_len(path, &file, file_len)?;
        let text = Text {
            path,
            file: &file,
            start: LENGTH_BYTES,
            len: header_len,
        };
        let header: Header = text.parse()?;
        let names = header.tensors.iter().map(|entry| entry.name.as_str());
        let keys = header.metadata.iter().map(|(key, _)| key.as_str());
        if let Some(key) = duplicate(names).or_else(|| duplicate(keys)) {
            let problem = format!("duplicate key {}", quoted(key));
            return Err(Error::Json {
                file: path.to_owned(),
                problem,
            });
        }
        let data_start = LENGTH_BYTES + header_len;
        let entries = layout::check(path, header.tensors, file_len - data_start)?;
        let index = self.files.len();
        self.files.push(path.to_owned());
        self.metadata.extend(header.metadata);
        self.tensors
            .extend(entries.into_iter().map(|entry| SafeTensorInfo {
                name: entry.name,
                dtype: entry.dtype,
                shape: entry.shape,
                file: index,
                // Both are within the file, whose length is a u64.
                bytes: data_start + entry.begin..data_start + entry.end,
            }));
        Ok(())
    }

    /// Sorts names, once all files are added.
    fn sort_names(&mut self) {
        let name = |i: u32| self.tensors[i as usize].name.as_str();
        let mut by_name: Vec<u32> = (0..self.tensors.len() as u32).collect();
        by_name.sort_unstable_by(|&a, &b| name(a).cmp(name(b)));
        self.by_name = by_name;
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors: one, or those that the index names.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// `__metadata__`, in the order of the file; of all shards in turn.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Every tensor, in the order of the data.
    #[must_use]
    pub fn tensors(&self) -> &[SafeTensorInfo] {
        &self.tensors
    }

    /// The tensor of a name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&SafeTensorInfo> {
        let by_name = |&i: &u32| self.tensors[i as usize].name.as_str().cmp(name);
        let found = self.by_name.binary_search_by(by_name).ok()?;
        Some(&self.tensors[self.by_name[found] as usize])
    }

    /// Reads the bytes of a tensor, little-endian and row-major.
    ///
    /// # Errors
    /// No tensor has the name, or its file can no longer be read.
    pub fn data(&self, name: &str) -> Result<Vec<u8>, Error> {
        let missing = || Error::Missing {
            file: self.path.clone(),
            tensor: quoted(name),
        };
        let tensor = self.tensor(name).ok_or_else(missing)?;
        let path = &self.files[tensor.file];
        let len = tensor.bytes.end - tensor.bytes.start;
        let (mut file, file_len) = open_file(path)?;
        if tensor.bytes.end > file_len {
            return Err(Error::Tensor {
                file: path.clone(),
                tensor: quoted(name),
                field: "data_offsets",
                found: format!("end at byte {} of the file", tensor.bytes.end),
                expected: format!("at most {file_len}: the file has shrunk since it was opened"),
            });
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(tensor.bytes.start))
            .and_then(|_| file.take(len).read_to_end(&mut bytes))
            .map_err(|source| Error::Io {
                file: path.clone(),
                action: "read",
                source,
            })?;
        if bytes.len() as u64 != len {
            let source = std::io::ErrorKind::UnexpectedEof.into();
            return Err(Error::Io {
                file: path.clone(),
                action: "read",
                source,
            });
        }
        Ok(bytes)
    }
}

/// Refuses a safetensors file or index that is given as a model: with what is wrong with it, or,
/// if it is sound, by saying that it cannot be run. Any other file passes.
///
/// # Errors
/// Always for a safetensors file.
pub fn refuse_as_model(path: &Path) -> Result<(), Error> {
    if !has_ending(path, EXTENSION) && !has_ending(path, INDEX_EXTENSION) && !looks_like_one(path) {
        return Ok(());
    }
    SafeTensors::open(path)?;
    Err(Error::NotRunnable {
        file: path.to_owned(),
    })
}

/// Whether a file starts as a safetensors file does: a length that fits, then an object.
fn looks_like_one(path: &Path) -> bool {
    // What cannot be read is not for this reader to complain about.
    let Ok((file, file_len)) = open_file(path) else {
        return false;
    };
    read_header_len(path, &file, file_len).is_ok()
}

fn has_ending(path: &Path, ending: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.to_ascii_lowercase().ends_with(ending)
}

/// The first name, in the order of names, that occurs twice.
fn duplicate<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names
        .windows(2)
        .find(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
}

/// Opens a regular file and tells its length. A pipe would wait for its writer for ever.
fn open_file(path: &Path) -> Result<(File, u64), Error> {
    let io = |source| Error::Io {
        file: path.to_owned(),
        action: "open",
        source,
    };
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(io(std::io::Error::other("not a regular file")));
    }
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    Ok((file, len))
}

/// Reads and checks the length of the header, and its first byte.
fn read_header_len(path: &Path, mut file: &File, file_len: u64) -> Result<u64, Error> {
    let refuse = |found: String, expected: String| {
        Err(Error::Header {
            file: path.to_owned(),
            found,
            expected,
        })
    };
    let fits = "its 8-byte length and a JSON object".to_owned();
    if file_len < LENGTH_BYTES {
        return refuse(format!("is cut off: the file has {file_len} bytes"), fits);
    }
    let mut start = [0; LENGTH_BYTES as usize + 1];
    let wanted = file_len.min(start.len() as u64) as usize;
    file.read_exact(&mut start[..wanted])
        .map_err(|source| Error::Io {
            file: path.to_owned(),
            action: "read",
            source,
        })?;
    let [length @ .., first] = start;
    let len = u64::from_le_bytes(length);
    if len > MAX_HEADER_BYTES {
        return refuse(
            format!("length is {len}"),
            format!("at most {MAX_HEADER_BYTES}"),
        );
    }
    if len > file_len - LENGTH_BYTES {
        let rest = file_len - LENGTH_BYTES;
        return refuse(
            format!("length is {len}"),
            format!("at most the {rest} bytes that follow"),
        );
    }
    if len == 0 {
        return refuse("is empty".to_owned(), fits);
    }
    if first != b'{' {
        return refuse(
            format!("starts with byte {first:#04x}"),
            "'{', 0x7b".to_owned(),
        );
    }
    Ok(len)
}
