//! Device memory: buffers that own what they name.
//!
//! Always holds: a [`Buffer`] is an address range plus an `Arc` of the allocation behind it, so an
//! address never outlives its memory and never moves; slices share the allocation and free nothing
//! of their own.

#![allow(unsafe_code)]

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::context::Context;
use crate::error::{DriverError, Error};
use crate::pinned::PinnedAllocation;

/// One `cuMemAlloc`, freed when the last buffer in it goes.
#[derive(Debug)]
pub(crate) struct Allocation {
    context: Arc<Context>,
    ptr: u64,
}

impl Allocation {
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Arc<Allocation>, Error> {
        // The driver refuses an allocation of 0 bytes; an empty buffer still needs an address.
        let ptr = context.call(|api| api.mem_alloc(bytes.max(1)));
        let ptr = ptr.map_err(|error| out_of_memory(context, bytes, error))?;
        context.counters().allocations.add();
        Ok(Arc::new(Allocation {
            context: Arc::clone(context),
            ptr,
        }))
    }

    pub(crate) fn ptr(&self) -> u64 {
        self.ptr
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed once. Work still queued on it: the driver waits for it
        // before it frees (`cuMemFree` synchronises), so no other owner's memory is written.
        self.context
            .release(|api| unsafe { api.mem_free(self.ptr) });
    }
}

/// Adds what is free to the driver's bare "out of memory".
pub(crate) fn out_of_memory(context: &Context, requested: usize, error: Error) -> Error {
    let code = error.driver_error().map(|e| e.code);
    match (code, context.free_memory()) {
        (Some(DriverError::OUT_OF_MEMORY), Ok((free, total))) => Error::OutOfMemory {
            requested,
            free,
            total,
        },
        _ => error,
    }
}

/// What a buffer keeps alive.
#[derive(Debug, Clone)]
pub(crate) enum Owner {
    Device(Arc<Allocation>),
    Pinned(Arc<PinnedAllocation>),
}

impl Owner {
    pub(crate) fn context(&self) -> &Arc<Context> {
        match self {
            Owner::Device(allocation) => &allocation.context,
            Owner::Pinned(allocation) => allocation.context(),
        }
    }
}

/// A range of device memory (or of host memory mapped into the device's address space).
///
/// Cloning is cheap and shares the memory. A buffer says nothing about what is in the memory:
/// kernels and copies write through any clone of it.
#[derive(Debug, Clone)]
pub struct Buffer {
    owner: Owner,
    ptr: u64,
    len: usize,
}

/// A buffer with an allocation of its own: `DeviceBuffer::new(&context, bytes)`. The type is the
/// same as that of an arena's slices, because nothing that uses memory cares where it came from.
pub type DeviceBuffer = Buffer;

impl Buffer {
    /// Allocates `bytes` of device memory, aligned to 256, contents undefined.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or what else the driver returned.
    #[doc(alias = "cuMemAlloc")]
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Buffer, Error> {
        let allocation = Allocation::new(context, bytes)?;
        Ok(Buffer {
            ptr: allocation.ptr(),
            len: bytes,
            owner: Owner::Device(allocation),
        })
    }

    /// The part of `owner` that starts at `ptr`; the caller has checked that it is inside.
    pub(crate) fn from_parts(owner: Owner, ptr: u64, len: usize) -> Buffer {
        Buffer { owner, ptr, len }
    }

    /// The device address of the first byte.
    #[must_use]
    pub fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The context the memory is in.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        self.owner.context()
    }

    /// The bytes of `range` as a buffer of its own, sharing the memory.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when the range is not inside.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Buffer, Error> {
        let (offset, len) = offset_and_len(range, self.len);
        let ptr = self.address("slice", offset, len)?;
        Ok(Buffer {
            owner: self.owner.clone(),
            ptr,
            len,
        })
    }

    /// The address of `offset`, after checking that `len` bytes from there are inside.
    pub(crate) fn address(
        &self,
        what: &'static str,
        offset: usize,
        len: usize,
    ) -> Result<u64, Error> {
        check_range(what, offset, len, self.len)?;
        Ok(self.ptr + offset as u64)
    }
}

/// Checks that `offset..offset + len` lies inside `size` bytes, without overflowing.
pub(crate) fn check_range(
    what: &'static str,
    offset: usize,
    len: usize,
    size: usize,
) -> Result<(), Error> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::OutOfRange {
            what,
            offset,
            len,
            size,
        }),
    }
}

/// A range as offset and length; one that runs backwards gets a length no buffer has.
fn offset_and_len(range: impl RangeBounds<usize>, size: usize) -> (usize, usize) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => size.max(start),
    };
    (start, end.checked_sub(start).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(offset_and_len(.., 10), (0, 10));
        assert_eq!(offset_and_len(3.., 10), (3, 7));
        assert_eq!(offset_and_len(..=3, 10), (0, 4));
        assert_eq!(offset_and_len(2..5, 10), (2, 3));
        let (start, end) = (5, 2);
        assert_eq!(offset_and_len(start..end, 10).1, usize::MAX);
        assert!(check_range("x", 10, 0, 10).is_ok());
        assert!(check_range("x", 10, 1, 10).is_err());
        assert!(check_range("x", usize::MAX, 2, 10).is_err());
        assert!(check_range("x", 5, usize::MAX, 10).is_err());
    }
}
