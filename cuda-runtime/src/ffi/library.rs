//! Whether the file that the system's loader would map as libcuda is whole.
//!
//! A loader maps the segments that a file's header names without asking whether the file is as long: one
//! that was cut short ends the process with a signal, where nothing can be said. So its header is read
//! first, of the file that the loader comes to first: in the folders of `LD_LIBRARY_PATH`, by the
//! loader's own list, in the system's folders.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Where the loader looks at last.
const FOLDERS: &[&str] = &[
    "/lib64",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib",
    "/usr/lib",
];

/// The environment that the process began with: what the loader has read, whatever became of it.
const BEGINNING: &str = "/proc/self/environ";

/// The loader's list of libraries: their paths, each ended by a zero byte, among other things.
const LIST: &str = "/etc/ld.so.cache";

/// What is wrong with a library that may be loaded by one of some names: that the file is shorter than
/// what is to be mapped of it.
pub(super) fn cut_short(names: &[&str]) -> Option<String> {
    let folders = folders(&std::fs::read(BEGINNING).unwrap_or_default());
    let list = std::fs::read(LIST).unwrap_or_default();
    let found = |name: &&str| {
        let mut all = candidates(name, &folders, &list);
        all.find_map(|path| Some((Size::of(&path).ok().flatten()?, path)))
    };
    let mut found = names.iter().filter_map(found);
    let (size, path) = found.find(|(size, _)| size.is < size.must_be)?;
    let (path, is, must_be) = (path.display(), size.is, size.must_be);
    Some(format!(
        "{path} is cut short: {is} bytes of at least {must_be}"
    ))
}

/// The folders that an environment names to the loader, with colons or semicolons between; an empty one is
/// the current folder.
fn folders(environment: &[u8]) -> Vec<PathBuf> {
    let mut variables = environment.split(|&byte| byte == 0);
    let list = variables.find_map(|text| text.strip_prefix(b"LD_LIBRARY_PATH="));
    let list = String::from_utf8_lossy(list.unwrap_or_default());
    let folder = |part: &str| PathBuf::from(if part.is_empty() { "." } else { part });
    match list.is_empty() {
        true => Vec::new(),
        false => list.split([':', ';']).map(folder).collect(),
    }
}

/// Where a library of some name may be, in the loader's order.
fn candidates(name: &str, folders: &[PathBuf], list: &[u8]) -> impl Iterator<Item = PathBuf> {
    let end = format!("/{name}");
    let is_it = |text: &&[u8]| text.starts_with(b"/") && text.ends_with(end.as_bytes());
    let listed = list.split(|&byte| byte == 0).filter(is_it);
    let listed = listed.map(|path| PathBuf::from(String::from_utf8_lossy(path).into_owned()));
    let given = folders.iter().map(|folder| folder.join(name));
    let default = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
    let all: Vec<PathBuf> = given.chain(listed).chain(default).collect();
    all.into_iter()
}

/// The bytes of a file, and those that its segments need.
struct Size {
    is: u64,
    must_be: u64,
}

impl Size {
    /// Of a 64-bit ELF file with the lowest byte first; `None` for what the loader passes by. What is no
    /// ELF file needs nothing: the loader itself says what is wrong with it.
    fn of(path: &Path) -> io::Result<Option<Size>> {
        let mut file = File::open(path)?;
        let is = file.metadata()?.len();
        let mut header = [0; 64];
        if file.read_exact(&mut header).is_err() || !header.starts_with(b"\x7fELF") {
            return Ok(Some(Size { is, must_be: 0 }));
        }
        if header[4..6] != [2, 1] {
            return Ok(None);
        }
        let table = number(&header[32..40]);
        let (entry, count) = (number(&header[54..56]), number(&header[56..58]));
        let must_be = table.saturating_add(entry * count);
        if entry < 56 || must_be > is {
            return Ok(Some(Size { is, must_be }));
        }
        let mut entries = vec![0; (entry * count) as usize];
        file.seek(SeekFrom::Start(table))?;
        file.read_exact(&mut entries)?;
        let is_mapped = |segment: &&[u8]| number(&segment[..4]) == 1;
        let end = |segment: &[u8]| number(&segment[8..16]).saturating_add(number(&segment[32..40]));
        let segments = entries.chunks_exact(entry as usize).filter(is_mapped);
        let must_be = segments.map(end).max().unwrap_or(0);
        Ok(Some(Size { is, must_be }))
    }
}

/// A number of at most eight bytes, the lowest first.
fn number(bytes: &[u8]) -> u64 {
    let add = |all: u64, &byte: &u8| all << 8 | u64::from(byte);
    bytes.iter().rev().fold(0, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a header, and segments of some kinds, starts and lengths.
    fn elf(segments: &[(u32, u64, u64)], len: usize) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = segments.len() as u8;
        for &(kind, start, size) in segments {
            let mut entry = [0; 56];
            entry[..4].copy_from_slice(&kind.to_le_bytes());
            entry[8..16].copy_from_slice(&start.to_le_bytes());
            entry[32..40].copy_from_slice(&size.to_le_bytes());
            bytes.extend(entry);
        }
        bytes.resize(len, 0);
        bytes
    }

    fn is_whole(bytes: &[u8]) -> Option<bool> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let size = Size::of(file.path()).unwrap()?;
        Some(size.is >= size.must_be)
    }

    #[test]
    fn a_file_is_as_long_as_what_is_mapped_of_it() {
        let segments = [(1, 0, 600), (2, 0, 9000), (1, 4096, 1000)];
        assert_eq!(is_whole(&elf(&segments, 5096)), Some(true));
        for len in [5095, 4096, 300, 120, 64] {
            assert_eq!(is_whole(&elf(&segments, len)), Some(false), "{len}");
        }
        assert_eq!(is_whole(&elf(&[(1, u64::MAX, 5)], 500)), Some(false));
        // What is none is the loader's to judge, and what is another machine's it passes by.
        assert_eq!(is_whole(b"x"), Some(true));
        assert_eq!(is_whole(&[b'x'; 4096]), Some(true));
        let mut small = elf(&segments, 500);
        small[4] = 1;
        assert_eq!(is_whole(&small), None);
    }

    #[test]
    fn the_loaders_order() {
        let none: [PathBuf; 0] = [];
        for environment in [&b""[..], b"A=LD_LIBRARY_PATH=/x\0", b"LD_LIBRARY_PATH=\0"] {
            assert_eq!(folders(environment), none);
        }
        let folders = folders(b"HOME=/\0LD_LIBRARY_PATH=/a::/b\0X=1\0");
        assert_eq!(folders, ["/a", ".", "/b"].map(PathBuf::from));
        let list = b"junk\0libx.so\0/opt/libx.so\0/opt/notlibx.so\0/opt/libx.so.1\0";
        let found: Vec<PathBuf> = candidates("libx.so", &folders, list).take(5).collect();
        let expected = [
            "/a/libx.so",
            "./libx.so",
            "/b/libx.so",
            "/opt/libx.so",
            "/lib64/libx.so",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
