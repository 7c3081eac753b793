//! Where a file's bytes live: a memory map, a buffer, or the program itself.
//!
//! The rest of the crate sees `&[u8]` and a name for messages. The map is the only use of `unsafe`
//! here; what becomes of one that is cut short stands in [`fault`](crate::fault).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::{Error, shown, shown_path};
use crate::fault::Watch;

/// One file's bytes, immutable for as long as they are borrowed.
pub(crate) struct Source {
    name: String,
    bytes: Bytes,
}

enum Bytes {
    /// Its place in the table of maps, which it leaves before it is unmapped: fields drop in order.
    Map {
        _watch: Watch,
        map: memmap2::Mmap,
    },
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

impl Source {
    /// Maps the file at `path`, or reads it where the file system cannot map it.
    pub(crate) fn open(path: &Path) -> Result<Source, Error> {
        let name = shown_path(path);
        let io = |action| {
            let file = name.clone();
            move |source| Error::Io {
                file,
                action,
                source,
            }
        };
        // Asked before opening, because opening a pipe waits for its other end. A pipe or device has
        // no size to compare counts with, and may never end.
        let meta = std::fs::metadata(path).map_err(io("open the file"))?;
        if !meta.is_file() {
            return Err(Error::Header {
                file: name,
                field: "the path",
                found: "not a regular file".into(),
                expected: "a file on disk".into(),
            });
        }
        let mut file = File::open(path).map_err(io("open the file"))?;
        let bytes = match map(&file) {
            Ok(map) => Bytes::Map {
                _watch: Watch::new(&name, &map),
                map,
            },
            Err(_) => Bytes::Owned(read(&mut file, meta.len()).map_err(io("read the file"))?),
        };
        Ok(Source { name, bytes })
    }

    pub(crate) fn from_vec(name: &str, bytes: Vec<u8>) -> Source {
        Source {
            name: shown(name),
            bytes: Bytes::Owned(bytes),
        }
    }

    pub(crate) fn from_static(name: &str, bytes: &'static [u8]) -> Source {
        Source {
            name: shown(name),
            bytes: Bytes::Static(bytes),
        }
    }

    /// What messages call this file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Map { map, .. } => map,
            Bytes::Owned(bytes) => bytes,
            Bytes::Static(bytes) => bytes,
        }
    }
}

/// A file of another format, mapped as model files are: read where the file system cannot map it, and a
/// signal told of where it is cut short ([`exit_on_fault`](crate::exit_on_fault)).
pub struct MappedFile(Source);

impl MappedFile {
    /// Maps the file at `path`, which must not be rewritten or shortened while this lives.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Header`] for what is no regular file.
    pub fn open(path: &Path) -> Result<MappedFile, Error> {
        Source::open(path).map(MappedFile)
    }

    /// All of its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The first `len` bytes of `file`: one that grows meanwhile must not outgrow the reservation.
fn read(file: &mut File, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reserve = usize::try_from(len).unwrap_or(usize::MAX);
    bytes.try_reserve_exact(reserve).map_err(io::Error::other)?;
    file.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the map is private and read-only, so this program cannot write through it. What
    // memmap2 cannot promise is that no other program rewrites the file meanwhile; `Gguf::open`
    // documents that as its one requirement. Nothing here relies on bytes staying as they were
    // validated: every later read is bounds-checked again and strings are re-checked as UTF-8, so
    // a rewritten file gives wrong numbers, and a shortened one a bus error that ends the program
    // (with a line, where it called `exit_on_fault`).
    unsafe { memmap2::Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn reading_and_mapping_give_the_same_bytes() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"twelve bytes").unwrap();
        let mapped = Source::open(file.path()).unwrap();
        assert!(matches!(mapped.bytes, Bytes::Map { .. }));
        let mut again = File::open(file.path()).unwrap();
        assert_eq!(mapped.bytes(), read(&mut again, 12).unwrap());
        let mut again = File::open(file.path()).unwrap();
        assert_eq!(read(&mut again, 6).unwrap(), b"twelve");
    }
}
