//! Page-locked host memory that the device can read and write: for fast copies, and for values the
//! host polls while the device works.
//!
//! Always holds: the memory is zeroed when it is made, is mapped into the device's address space,
//! and is freed only after the device has finished; if that can't be known, it is leaked.

#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::context::{Context, wait_for_device};
use crate::error::Error;
use crate::ffi::sys;
use crate::memory::{Buffer, Owner, check_range, out_of_memory};

/// One `cuMemHostAlloc`.
#[derive(Debug)]
pub(crate) struct PinnedAllocation {
    context: Arc<Context>,
    host: *mut u8,
    device: u64,
    bytes: usize,
}

// SAFETY: the pointer is to memory this object owns; it is not tied to a thread.
unsafe impl Send for PinnedAllocation {}
// SAFETY: through a shared reference the memory is only handed to the device; the host side is
// reached through the single `PinnedBuffer`, whose borrows order reads and writes.
unsafe impl Sync for PinnedAllocation {}

impl PinnedAllocation {
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

impl Drop for PinnedAllocation {
    fn drop(&mut self) {
        self.context.release(|api| {
            // A copy or kernel may still be writing here. When the device cannot be waited for
            // (it is dead, or there is a capture in progress), leaking is the safe choice.
            wait_for_device(api)?;
            // SAFETY: made in `new`, freed once, and the device is idle.
            unsafe { api.mem_free_host(self.host) }
        });
    }
}

/// Page-locked host memory with a device address.
///
/// The host writes through `&mut` and reads through `&`, so host threads cannot race. The device
/// is not bound by borrows: bytes it is writing while the host reads them are either old or new.
#[derive(Debug)]
pub struct PinnedBuffer {
    memory: Arc<PinnedAllocation>,
}

impl PinnedBuffer {
    /// Allocates `bytes` of zeroed host memory, page-locked, portable and mapped.
    ///
    /// # Errors
    /// What the driver returned.
    #[doc(alias = "cuMemHostAlloc")]
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<PinnedBuffer, Error> {
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        let host = context.call(|api| api.mem_host_alloc(bytes.max(1), flags));
        let host = host.map_err(|error| out_of_memory(context, bytes, error))?;
        // SAFETY: the driver gave us `max(bytes, 1)` bytes; nobody else knows them yet.
        unsafe { host.write_bytes(0, bytes) };
        let mut memory = PinnedAllocation {
            context: Arc::clone(context),
            host,
            device: 0,
            bytes,
        };
        // SAFETY: from `mem_host_alloc` with the mapped flag.
        memory.device = context.call(|api| unsafe { api.mem_host_get_device_pointer(host) })?;
        context.counters().allocations.add();
        Ok(PinnedBuffer {
            memory: Arc::new(memory),
        })
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.bytes
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory as a buffer that kernels, copies and graphs can name.
    #[must_use]
    #[doc(alias = "cuMemHostGetDevicePointer")]
    pub fn as_buffer(&self) -> Buffer {
        let owner = Owner::Pinned(Arc::clone(&self.memory));
        Buffer::from_parts(owner, self.memory.device, self.len())
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.memory.context
    }

    /// The host address of `offset`, after checking that `len` bytes from there are inside.
    pub(crate) fn host_address(
        &self,
        what: &'static str,
        offset: usize,
        len: usize,
    ) -> Result<*mut u8, Error> {
        check_range(what, offset, len, self.len())?;
        // SAFETY: `offset` is inside the allocation, as just checked.
        Ok(unsafe { self.memory.host.add(offset) })
    }

    /// Copies `bytes` in at `offset`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let to = self.host_address("write to pinned memory", offset, bytes.len())?;
        // SAFETY: the range is inside; `&mut` excludes every other host access, and `bytes` cannot
        // overlap it because no slice of this memory is ever lent beyond a `&mut` of its own.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies bytes out from `offset`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), Error> {
        let from = self.host_address("read of pinned memory", offset, bytes.len())?;
        // SAFETY: the range is inside and initialised; `&self` excludes host writes; see `write`
        // for overlap.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// The `index`th little-endian `u32` as it is now, for polling: each call reads memory again,
    /// and what the device wrote before it (with a system-scope fence between) is visible after.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn read_u32(&self, index: usize) -> Result<u32, Error> {
        let word = self.word("read of pinned memory", index)?;
        // SAFETY: inside, 4-byte aligned (the allocation is page-aligned), and every other host
        // access during this borrow is a read. An atomic load, unlike a plain one, is re-done on
        // each poll and orders the reads after it.
        Ok(unsafe { AtomicU32::from_ptr(word) }.load(Ordering::Acquire))
    }

    /// Stores the `index`th `u32` so that a polling kernel sees it after everything written before.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn write_u32(&mut self, index: usize, value: u32) -> Result<(), Error> {
        let word = self.word("write to pinned memory", index)?;
        // SAFETY: as in `read_u32`, and `&mut` excludes every other host access.
        unsafe { AtomicU32::from_ptr(word) }.store(value, Ordering::Release);
        Ok(())
    }

    fn word(&self, what: &'static str, index: usize) -> Result<*mut u32, Error> {
        let offset = index.saturating_mul(4);
        Ok(self.host_address(what, offset, 4)?.cast())
    }

    /// `len` bytes from `offset`, for filling in place. The device must not be using them; it may
    /// use the rest.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub(crate) fn slice_mut(&mut self, offset: usize, len: usize) -> Result<&mut [u8], Error> {
        let start = self.host_address("slice of pinned memory", offset, len)?;
        // SAFETY: the range is inside initialised bytes that this object owns; `&mut` excludes
        // every other host access while the slice lives.
        Ok(unsafe { core::slice::from_raw_parts_mut(start, len) })
    }
}
