//! What commands read besides models: bounded, since a device or a pipe may never end. `-` is standard
//! input, for every command.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use gannet_gguf::shown_path;

use crate::failure::Failure;

/// The most bytes of a text or a list of tokens: far more than any context, far less than a memory.
pub(crate) const MOST_BYTES: u64 = 256 << 20;

/// Whether a path stands for a standard stream.
pub(crate) fn is_dash(path: &Path) -> bool {
    path == Path::new("-")
}

/// What messages call it.
const STANDARD_INPUT: &str = "standard input";

/// What messages call a file, or standard input where it is named `-`.
pub(crate) fn name_of(path: &Path) -> String {
    match is_dash(path) {
        true => STANDARD_INPUT.to_owned(),
        false => shown_path(path),
    }
}

/// The text of a file, or of standard input where it is named `-`; as [`text`].
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    text(bytes_of(path)?, &name_of(path))
}

/// The bytes of a file, or of standard input where it is named `-`.
pub(crate) fn bytes_of(path: &Path) -> Result<Vec<u8>, Failure> {
    if is_dash(path) {
        return bytes_of_stdin();
    }
    let fail = |e: io::Error| Failure::file(path, "read", &e);
    let file = File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    let name = shown_path(path);
    if meta.is_file() && meta.len() > MOST_BYTES {
        return Err(too_long(&name));
    }
    within(file, MOST_BYTES, &name)?.map_err(fail)
}

/// The bytes of standard input.
fn bytes_of_stdin() -> Result<Vec<u8>, Failure> {
    let name = STANDARD_INPUT;
    let bytes = within(io::stdin().lock(), MOST_BYTES, name)?;
    bytes.map_err(|e| Failure::Work(format!("{name}: cannot read: {e}")))
}

/// Text of bytes that `name` had, without the byte order mark that some programs begin it with.
pub(crate) fn text(bytes: Vec<u8>, name: &str) -> Result<String, Failure> {
    let is_wide = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let what = if is_wide { " but UTF-16" } else { "" };
        Failure::Work(format!(
            "{name}: not UTF-8 text{what} at byte {at}; convert it first"
        ))
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// Everything that a reader has, up to `most` bytes.
fn within(reader: impl Read, most: u64, name: &str) -> Result<io::Result<Vec<u8>>, Failure> {
    let mut bytes = Vec::new();
    if let Err(e) = reader.take(most + 1).read_to_end(&mut bytes) {
        return Ok(Err(e));
    }
    match bytes.len() as u64 > most {
        true => Err(too_long(name)),
        false => Ok(Ok(bytes)),
    }
}

fn too_long(name: &str) -> Failure {
    let most = MOST_BYTES >> 20;
    Failure::Work(format!("{name}: more than {most} MiB; give a shorter text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_an_error() {
        assert!(matches!(
            within(io::repeat(0), 1 << 20, "x"),
            Err(Failure::Work(_))
        ));
        assert_eq!(within(&b"abc"[..], 3, "x").unwrap().unwrap(), b"abc");
        assert!(within(&b"abcd"[..], 3, "x").is_err());
    }

    #[test]
    fn bytes_that_are_no_text_are_named_by_their_place() {
        let Err(Failure::Work(line)) = text(vec![b'a', 0xff], "x") else {
            panic!("0xff is no text");
        };
        assert_eq!(line, "x: not UTF-8 text at byte 1; convert it first");
    }
}
