//! The older binary form of an importance matrix, as llama.cpp wrote it: an i32 count of entries; for
//! each an i32 length and a name, an i32 of calls, an i32 of values and so many f32, which are means
//! times calls; then what nothing here needs. All little-endian.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use gannet_gguf::shown;

use super::checked;

/// The longest file that is read: far above one of the largest models.
const MOST_BYTES: u64 = 1 << 30;

/// The longest name of a matrix.
const MOST_NAME_BYTES: usize = 256;

/// The entries of a file; `None` for one that is GGUF.
pub(super) fn read(path: &Path) -> Result<Option<BTreeMap<String, Vec<f32>>>, String> {
    let fail = |e: std::io::Error| format!("cannot read: {e}");
    let mut file = std::fs::File::open(path).map_err(|e| format!("cannot open: {e}"))?;
    if file.metadata().map_err(fail)?.is_dir() {
        return Err("a folder; name a file".to_owned());
    }
    let mut bytes = Vec::new();
    (&mut file).take(4).read_to_end(&mut bytes).map_err(fail)?;
    if bytes == *b"GGUF" {
        return Ok(None);
    }
    file.take(MOST_BYTES)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    parse(&bytes).map(Some)
}

fn parse(mut bytes: &[u8]) -> Result<BTreeMap<String, Vec<f32>>, String> {
    let no_matrix = || "neither GGUF nor an importance matrix of the older form".to_owned();
    let count = number(&mut bytes)
        .filter(|&n| n > 0)
        .ok_or_else(no_matrix)?;
    let mut entries = BTreeMap::new();
    for entry in 0..count {
        let len = number(&mut bytes).filter(|n| (1..=MOST_NAME_BYTES).contains(n));
        let name = len
            .and_then(|len| take(&mut bytes, len))
            .ok_or_else(no_matrix)?;
        let name = std::str::from_utf8(name).map_err(|_| no_matrix())?;
        let cut = || format!("entry {entry} ({}) is cut short", shown(name));
        let calls = number(&mut bytes).ok_or_else(cut)?;
        let len = number(&mut bytes).filter(|&n| n > 0).ok_or_else(cut)?;
        let values = len.checked_mul(4).and_then(|len| take(&mut bytes, len));
        let values = values.ok_or_else(cut)?.as_chunks().0.iter();
        let mean = |&bytes| f32::from_le_bytes(bytes) / calls.max(1) as f32;
        let values = checked(name, values.map(mean).collect())?;
        if entries.insert(name.to_owned(), values).is_some() {
            return Err(format!("{} is in it twice", shown(name)));
        }
    }
    Ok(entries)
}

/// The next number, where there is one and it is not negative.
fn number(bytes: &mut &[u8]) -> Option<usize> {
    let four = take(bytes, 4)?.first_chunk()?;
    usize::try_from(i32::from_le_bytes(*four)).ok()
}

fn take<'b>(bytes: &mut &'b [u8], len: usize) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}
