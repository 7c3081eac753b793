//! Copies and fills on a stream.
//!
//! Always holds: ranges are checked before the driver is called. A copy from or to ordinary host
//! memory waits until it is done, because a borrow cannot outlive the call; copies that run on
//! their own need pinned memory.

#![allow(unsafe_code)]

use crate::context::Context;
use crate::error::Error;
use crate::memory::Buffer;
use crate::pinned::PinnedBuffer;
use crate::stream::Stream;

impl Stream {
    /// Copies `bytes` to `dst` at `offset`, after earlier work of this stream, and waits for it.
    /// About 9 GB/s; [`crate::Uploader`] is for large data.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], or what the driver returned.
    #[doc(alias = "cuMemcpyHtoDAsync")]
    pub fn copy_to_device(&self, dst: &Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let to = self.place("copy to device", dst, offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.context().counters().copies.add();
        let queued = self.context().call(|api| {
            // SAFETY: the device range was checked; the host range is borrowed until the wait
            // below is over.
            unsafe { api.memcpy_htod_async(to, bytes.as_ptr(), bytes.len(), self.handle()) }
        });
        // Wait even after an error: nothing may read `bytes` once we return.
        let waited = self.synchronize();
        queued.and(waited)
    }

    /// Copies from `src` at `offset` into `bytes`, after earlier work of this stream, and waits.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], or what the driver returned.
    #[doc(alias = "cuMemcpyDtoHAsync")]
    pub fn copy_from_device(
        &self,
        src: &Buffer,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        let from = self.place("copy from device", src, offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.context().counters().copies.add();
        let queued = self.context().call(|api| {
            // SAFETY: as in `copy_to_device`.
            unsafe { api.memcpy_dtoh_async(bytes.as_mut_ptr(), from, bytes.len(), self.handle()) }
        });
        let waited = self.synchronize();
        queued.and(waited)
    }

    /// Queues a copy of `len` bytes from pinned host memory; does not wait. Writing the source
    /// before the stream has passed the copy changes what arrives.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], or what the driver returned.
    #[doc(alias = "cuMemcpyHtoDAsync")]
    pub fn copy_from_pinned(
        &self,
        dst: &Buffer,
        dst_offset: usize,
        src: &PinnedBuffer,
        src_offset: usize,
        len: usize,
    ) -> Result<(), Error> {
        self.context().same(src.context(), "pinned buffer")?;
        let to = self.place("copy to device", dst, dst_offset, len)?;
        let from = src.host_address("copy from pinned memory", src_offset, len)?;
        self.queue(len, |api, stream| {
            // SAFETY: both ranges were checked. Pinned memory is freed only when the device is
            // idle, device memory only after work on it; so both outlive the copy.
            unsafe { api.memcpy_htod_async(to, from, len, stream) }
        })
    }

    /// Queues a copy of `len` bytes into pinned host memory; does not wait. Synchronise before
    /// reading it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], or what the driver returned.
    #[doc(alias = "cuMemcpyDtoHAsync")]
    pub fn copy_to_pinned(
        &self,
        dst: &mut PinnedBuffer,
        dst_offset: usize,
        src: &Buffer,
        src_offset: usize,
        len: usize,
    ) -> Result<(), Error> {
        self.context().same(dst.context(), "pinned buffer")?;
        let from = self.place("copy from device", src, src_offset, len)?;
        let to = dst.host_address("copy to pinned memory", dst_offset, len)?;
        self.queue(len, |api, stream| {
            // SAFETY: as in `copy_from_pinned`.
            unsafe { api.memcpy_dtoh_async(to, from, len, stream) }
        })
    }

    /// Queues a copy of `len` bytes between device buffers; does not wait. The ranges must not
    /// overlap.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Invalid`] when they overlap, or what the driver returned.
    #[doc(alias = "cuMemcpyDtoDAsync")]
    pub fn copy(
        &self,
        dst: &Buffer,
        dst_offset: usize,
        src: &Buffer,
        src_offset: usize,
        len: usize,
    ) -> Result<(), Error> {
        let to = self.place("copy", dst, dst_offset, len)?;
        let from = self.place("copy", src, src_offset, len)?;
        refuse_overlap(to, from, len)?;
        self.queue(len, |api, stream| {
            // SAFETY: both ranges were checked; see `copy_from_pinned` for how long they live.
            unsafe { api.memcpy_dtod_async(to, from, len, stream) }
        })
    }

    /// Queues a fill of the whole buffer with a byte; does not wait.
    ///
    /// # Errors
    /// What the driver returned.
    #[doc(alias = "cuMemsetD8Async")]
    pub fn memset_d8(&self, dst: &Buffer, value: u8) -> Result<(), Error> {
        let to = self.place("fill", dst, 0, dst.len())?;
        self.queue(dst.len(), |api, stream| {
            // SAFETY: the range is the whole buffer; see `copy_from_pinned` for how long it lives.
            unsafe { api.memset_d8_async(to, value, dst.len(), stream) }
        })
    }

    /// Queues a fill of the whole buffer with a 32-bit word; does not wait.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when the buffer is not a whole number of aligned words.
    #[doc(alias = "cuMemsetD32Async")]
    pub fn memset_d32(&self, dst: &Buffer, value: u32) -> Result<(), Error> {
        let to = self.place("fill", dst, 0, dst.len())?;
        check_words(to, dst.len())?;
        self.queue(dst.len(), |api, stream| {
            // SAFETY: as in `memset_d8`, and aligned as just checked.
            unsafe { api.memset_d32_async(to, value, dst.len() / 4, stream) }
        })
    }

    /// The address of a range that this stream may use.
    fn place(
        &self,
        what: &'static str,
        buffer: &Buffer,
        offset: usize,
        len: usize,
    ) -> Result<u64, Error> {
        self.context().same(buffer.context(), "buffer")?;
        buffer.address(what, offset, len)
    }

    /// Queues something that takes `len` bytes; nothing at all for none.
    fn queue(
        &self,
        len: usize,
        body: impl FnOnce(
            &'static crate::ffi::Api,
            crate::ffi::Handle<crate::ffi::sys::CUstream_st>,
        ) -> Result<(), crate::DriverError>,
    ) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        let context: &Context = self.context();
        context.counters().copies.add();
        context.call(|api| body(api, self.handle()))
    }
}

/// Refuses a copy whose ranges share bytes: the driver's result would be undefined.
pub(crate) fn refuse_overlap(to: u64, from: u64, len: usize) -> Result<(), Error> {
    let len = len as u64;
    if len > 0 && to < from.saturating_add(len) && from < to.saturating_add(len) {
        let reason = format!("{to:#x} and {from:#x} overlap within {len} bytes");
        return Err(Error::Invalid {
            what: "copy",
            reason,
        });
    }
    Ok(())
}

/// Refuses a 32-bit fill of something that is not whole, aligned words.
pub(crate) fn check_words(ptr: u64, len: usize) -> Result<(), Error> {
    if ptr.is_multiple_of(4) && len.is_multiple_of(4) {
        return Ok(());
    }
    Err(Error::OutOfRange {
        what: "fill with words",
        offset: (ptr % 4) as usize,
        len,
        size: len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_and_words() {
        assert!(refuse_overlap(100, 110, 10).is_ok());
        assert!(refuse_overlap(110, 100, 10).is_ok());
        assert!(refuse_overlap(100, 109, 10).is_err());
        assert!(refuse_overlap(109, 100, 10).is_err());
        assert!(refuse_overlap(100, 100, 0).is_ok());
        assert!(check_words(8, 12).is_ok());
        assert!(check_words(6, 12).is_err());
        assert!(check_words(8, 13).is_err());
    }
}
