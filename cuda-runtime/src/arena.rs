//! The arena: one allocation that never moves, handed out in aligned slices.
//!
//! A graph bakes device addresses into its nodes; memory that could move or be freed under it is
//! the bug this type rules out. The debug arena gives every buffer an allocation of its own with
//! guard bytes around it and NaN inside, to catch writes past the end and reads of what was never
//! written.
//!
//! Always holds: slices do not overlap, nothing is given back before the whole arena is dropped,
//! and dropping the arena leaves the memory to the buffers that still name it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::context::Context;
use crate::error::Error;
use crate::memory::{Allocation, Buffer, Owner};
use crate::stream::Stream;

/// Guard bytes on each side of a debug buffer, and what they hold.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xC5;
/// Fills a fresh debug buffer: NaN as f32, f16 and bf16, -1 as any integer.
const POISON: u8 = 0xFF;

/// Device memory for many buffers that live equally long.
#[derive(Debug)]
pub struct Arena {
    context: Arc<Context>,
    capacity: usize,
    used: Mutex<usize>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Block(Arc<Allocation>),
    /// The stream on which buffers are poisoned, and every buffer with its guards.
    Debug(Stream, Mutex<Vec<Guarded>>),
}

#[derive(Debug)]
struct Guarded {
    whole: Buffer,
    /// Bytes before the buffer, at least [`GUARD`].
    front: usize,
    len: usize,
}

impl Arena {
    /// Allocates `bytes` of device memory in one piece.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or what else the driver returned.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Arena, Error> {
        let block = Allocation::new(context, bytes)?;
        Ok(Arena {
            context: Arc::clone(context),
            capacity: bytes,
            used: Mutex::new(0),
            kind: Kind::Block(block),
        })
    }

    /// An arena that gives each buffer an allocation with guards and poison. It counts `bytes` the
    /// same way, so that what fits here fits the real one.
    ///
    /// # Errors
    /// What the driver returned.
    pub fn debug(context: &Arc<Context>, bytes: usize) -> Result<Arena, Error> {
        Ok(Arena {
            context: Arc::clone(context),
            capacity: bytes,
            used: Mutex::new(0),
            kind: Kind::Debug(Stream::new(context)?, Mutex::new(Vec::new())),
        })
    }

    /// The next `bytes`, starting at a multiple of `align` (a power of two).
    ///
    /// # Errors
    /// [`Error::ArenaFull`]; [`Error::Invalid`] for an alignment that is no power of two; from a
    /// debug arena also what the driver returned.
    pub fn alloc(&self, bytes: usize, align: usize) -> Result<Buffer, Error> {
        if !align.is_power_of_two() {
            let reason = format!("alignment {align} is not a power of two");
            return Err(Error::Invalid {
                what: "arena",
                reason,
            });
        }
        let offset = self.reserve(bytes, align)?;
        match &self.kind {
            Kind::Block(block) => {
                let ptr = block.ptr() + offset as u64;
                Ok(Buffer::from_parts(
                    Owner::Device(Arc::clone(block)),
                    ptr,
                    bytes,
                ))
            }
            Kind::Debug(stream, guarded) => {
                let (buffer, record) = guard(&self.context, stream, bytes, align)?;
                guarded
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(record);
                Ok(buffer)
            }
        }
    }

    /// Moves the cursor; returns where the new buffer starts.
    fn reserve(&self, bytes: usize, align: usize) -> Result<usize, Error> {
        let base = match &self.kind {
            Kind::Block(block) => block.ptr() as usize,
            Kind::Debug(..) => 0,
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let place = bump(base, *used, self.capacity, bytes, align);
        let (start, end) = place.ok_or(Error::ArenaFull {
            requested: bytes,
            align,
            used: *used,
            capacity: self.capacity,
        })?;
        *used = end;
        Ok(start)
    }

    /// Bytes handed out, padding included.
    #[must_use]
    pub fn used(&self) -> usize {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether this is a debug arena.
    #[must_use]
    pub fn is_debug(&self) -> bool {
        matches!(self.kind, Kind::Debug(..))
    }

    /// Reads every guard of a debug arena after all queued work is done; an ordinary arena has
    /// none and passes.
    ///
    /// # Errors
    /// [`Error::Canary`] for the first buffer somebody wrote outside of, or the driver's error.
    pub fn check(&self) -> Result<(), Error> {
        let Kind::Debug(stream, guarded) = &self.kind else {
            return Ok(());
        };
        self.context.synchronize()?;
        let guarded = guarded.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, record) in guarded.iter().enumerate() {
            let ptr = record.whole.ptr() + record.front as u64;
            let behind = record.front + record.len;
            for (side, from, to) in [
                ("before", 0, record.front),
                ("after", behind, record.whole.len()),
            ] {
                let mut bytes = vec![0; to - from];
                stream.copy_from_device(&record.whole, from, &mut bytes)?;
                let bytes = bytes.iter().filter(|&&byte| byte != GUARD_BYTE).count();
                if bytes > 0 {
                    return Err(Error::Canary {
                        index,
                        ptr,
                        side,
                        bytes,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Where a buffer of `bytes` goes: offsets of its start and end from `base`, the start's address
/// aligned. `None` when it does not fit.
fn bump(
    base: usize,
    used: usize,
    capacity: usize,
    bytes: usize,
    align: usize,
) -> Option<(usize, usize)> {
    let start = base.checked_add(used)?.checked_next_multiple_of(align)? - base;
    let end = start.checked_add(bytes)?;
    (end <= capacity).then_some((start, end))
}

/// A buffer in an allocation of its own: guards, poison, guards.
fn guard(
    context: &Arc<Context>,
    stream: &Stream,
    bytes: usize,
    align: usize,
) -> Result<(Buffer, Guarded), Error> {
    let full = Error::ArenaFull {
        requested: bytes,
        align,
        used: 0,
        capacity: usize::MAX,
    };
    // Room for guards and for moving the start up to the alignment.
    let total = bytes
        .checked_add(2 * GUARD)
        .and_then(|n| n.checked_add(align))
        .ok_or(full)?;
    let whole = Buffer::new(context, total)?;
    let base = whole.ptr() as usize;
    let front = (base + GUARD).next_multiple_of(align) - base;
    stream.memset_d8(&whole, GUARD_BYTE)?;
    let buffer = whole.slice(front..front + bytes)?;
    stream.memset_d8(&buffer, POISON)?;
    stream.synchronize()?;
    Ok((
        buffer,
        Guarded {
            whole,
            front,
            len: bytes,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bump_aligns_addresses() {
        assert_eq!(bump(0x1000, 0, 100, 10, 16), Some((0, 10)));
        assert_eq!(bump(0x1000, 10, 100, 10, 16), Some((16, 26)));
        // The base itself is not aligned: what counts is the address.
        assert_eq!(bump(0x1008, 0, 100, 10, 16), Some((8, 18)));
        assert_eq!(bump(0x1000, 90, 100, 10, 1), Some((90, 100)));
        assert_eq!(bump(0x1000, 91, 100, 10, 1), None);
        assert_eq!(bump(0x1000, 0, 100, usize::MAX, 1), None);
        assert_eq!(bump(usize::MAX - 3, 0, 100, 1, 256), None);
    }
}
