//! A position in a file's bytes that cannot leave them.
//!
//! Every read names what it reads, so that a file that ends early is refused in the terms of the
//! format ("the length of key 3") and not of this code. Numbers are little-endian.

use std::fmt::Arguments;

use crate::Error;

pub(crate) struct Cursor<'a> {
    file: &'a str,
    bytes: &'a [u8],
    // Never beyond `bytes.len()`.
    pos: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(file: &'a str, bytes: &'a [u8]) -> Cursor<'a> {
        Cursor {
            file,
            bytes,
            pos: 0,
        }
    }

    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    pub(crate) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.pos) as u64
    }

    /// The next `n` bytes, where `n` may be any number a file can hold.
    pub(crate) fn take(&mut self, n: u64, what: Arguments<'_>) -> Result<&'a [u8], Error> {
        let end = usize::try_from(n)
            .ok()
            .and_then(|n| self.pos.checked_add(n));
        let Some(taken) = end.and_then(|end| self.bytes.get(self.pos..end)) else {
            return Err(Error::Truncated {
                file: self.file.to_owned(),
                what: what.to_string(),
                offset: self.pos as u64,
                needed: n,
                remaining: self.remaining(),
            });
        };
        self.pos += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: Arguments<'_>) -> Result<[u8; N], Error> {
        let taken = self.take(N as u64, what)?;
        Ok(taken.try_into().expect("take(N) returned N bytes"))
    }

    pub(crate) fn magic(&mut self, what: Arguments<'_>) -> Result<[u8; 4], Error> {
        self.array(what)
    }

    pub(crate) fn u32(&mut self, what: Arguments<'_>) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: Arguments<'_>) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }
}
