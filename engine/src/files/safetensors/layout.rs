//! Whether tensors are what and where their header says.
//!
//! The rules are the format's: every tensor takes exactly the bytes of its shape, and in the order
//! of their offsets tensors follow one another from the first byte of the data to the last.

use std::path::Path;

use super::Error;
use super::error::quoted;
use super::json::Entry;

/// Checks tensors against each other and against the `data_len` bytes after the header; returns
/// them in the order of their data.
pub(super) fn check(
    path: &Path,
    mut entries: Vec<Entry>,
    data_len: u64,
) -> Result<Vec<Entry>, Error> {
    for entry in &entries {
        check_size(path, entry)?;
    }
    // Sorting is stable, so that errors name the same tensor every time.
    entries.sort_by_key(|entry| (entry.begin, entry.end));
    let mut end = 0;
    for (i, entry) in entries.iter().enumerate() {
        let problem = if entry.begin < end {
            let other = quoted(&entries[i - 1].name);
            Some((
                format!("begin at {}, an overlap with tensor {other}", entry.begin),
                end,
            ))
        } else if entry.begin > end {
            Some((format!("begin at {}, after a hole", entry.begin), end))
        } else {
            None
        };
        if let Some((found, end)) = problem {
            return Err(bad(path, entry, "data_offsets", found, end.to_string()));
        }
        end = entry.end;
        if end > data_len {
            let found = format!("end at {end}");
            let expected = format!("at most {data_len}, the bytes after the header");
            return Err(bad(path, entry, "data_offsets", found, expected));
        }
    }
    match data_len - end {
        0 => Ok(entries),
        bytes => Err(Error::Trailing {
            file: path.to_owned(),
            bytes,
            end,
        }),
    }
}

/// Checks that the offsets span the bytes that type and shape need.
fn check_size(path: &Path, entry: &Entry) -> Result<(), Error> {
    let Some(span) = entry.end.checked_sub(entry.begin) else {
        let found = format!("are {}, {}", entry.begin, entry.end);
        return Err(bad(
            path,
            entry,
            "data_offsets",
            found,
            "begin before end".to_owned(),
        ));
    };
    let shape = format!("{:?} of {}", entry.shape, entry.dtype);
    let bits = entry
        .shape
        .iter()
        .try_fold(entry.dtype.bits(), |n, &d| n.checked_mul(d));
    let Some(bits) = bits else {
        let found = format!("{shape} is an overflow");
        return Err(bad(
            path,
            entry,
            "shape",
            found,
            "fewer than 2^64 bits".to_owned(),
        ));
    };
    if bits % 8 != 0 {
        let found = format!("{shape} has {bits} bits");
        return Err(bad(path, entry, "shape", found, "whole bytes".to_owned()));
    }
    if bits / 8 != span {
        let found = format!("{shape} needs {} bytes", bits / 8);
        return Err(bad(
            path,
            entry,
            "shape",
            found,
            format!("the {span} of data_offsets"),
        ));
    }
    Ok(())
}

fn bad(path: &Path, entry: &Entry, field: &'static str, found: String, expected: String) -> Error {
    let tensor = quoted(&entry.name);
    Error::Tensor {
        file: path.to_owned(),
        tensor,
        field,
        found,
        expected,
    }
}
