//! Tokens that steps leave in host memory: the host reads them while the device goes on.
//!
//! The kernel that ends a step writes its tokens into a row of the ring and then how many steps have
//! been written; steps are known by their number. Nothing is reset: what an abandoned step writes late
//! is an old number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gannet_cuda_runtime::{Buffer, Context, PinnedBuffer, Stream};

use crate::Error;

/// Steps that a ring holds.
pub(super) const RING: u32 = 256;

/// Polls between checks that the device still lives.
const POLLS: u32 = 1 << 14;

/// A ring of steps that choose up to `width` tokens each.
pub(super) struct Ring {
    width: usize,
    /// Steps queued since it was made.
    issued: AtomicU32,
    /// `u32[1]`: steps done, on the device.
    counter: Buffer,
    /// `u32[RING * width + 1]`: the tokens of each step, then how many were written since it was made.
    memory: PinnedBuffer,
}

impl Ring {
    pub(super) fn new(
        context: &Arc<Context>,
        stream: &Stream,
        width: usize,
    ) -> Result<Ring, Error> {
        let counter = Buffer::new(context, 4)?;
        stream.memset_d32(&counter, 0)?;
        Ok(Ring {
            width,
            issued: AtomicU32::new(0),
            counter,
            memory: PinnedBuffer::new(context, (RING as usize * width + 1) * 4)?,
        })
    }

    /// What counts steps on the device.
    pub(super) fn counter(&self) -> &Buffer {
        &self.counter
    }

    /// The ring as kernels see it.
    pub(super) fn memory(&self) -> Buffer {
        self.memory.as_buffer()
    }

    /// The number of the step that is queued next.
    pub(super) fn issued(&self) -> u32 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Counts a step that was queued, and returns its number.
    pub(super) fn count(&self) -> u32 {
        self.issued.fetch_add(1, Ordering::Relaxed)
    }

    /// A token of a step that the ring still holds.
    pub(super) fn token(&self, step: u32, output: usize) -> Result<u32, Error> {
        let row = (step % RING) as usize * self.width;
        Ok(self.memory.read_u32(row + output)?)
    }

    /// Polls until more than `read` steps from `first` on are there, or for `patience`; returns how
    /// many are.
    pub(super) fn wait(
        &self,
        stream: &Stream,
        first: u32,
        read: usize,
        patience: Option<Duration>,
    ) -> Result<usize, Error> {
        let mut since = None;
        let mut polls = 0;
        loop {
            let written = self.written(first)?;
            if written > read {
                return Ok(written);
            }
            polls += 1;
            let is_over = patience.is_some_and(|patience| {
                let since = *since.get_or_insert_with(Instant::now);
                since.elapsed() >= patience
            });
            if is_over || polls == POLLS {
                polls = 0;
                self.check_alive(stream, first, read)?;
            }
            if is_over {
                return self.written(first);
            }
            std::hint::spin_loop();
        }
    }

    /// Refuses to wait for a device that has nothing to do, or that failed.
    fn check_alive(&self, stream: &Stream, first: u32, read: usize) -> Result<(), Error> {
        let idle = stream.query()?;
        if idle && self.written(first)? <= read {
            self.resume()?;
            let why = "the device finished its steps without writing a token";
            return Err(Error::internal(why));
        }
        Ok(())
    }

    /// Goes on behind what was written; nothing may be queued.
    pub(super) fn resume(&self) -> Result<(), Error> {
        let written = self.memory.read_u32(RING as usize * self.width)?;
        self.issued.store(written, Ordering::Relaxed);
        Ok(())
    }

    /// Steps from `first` on that are there; those of before count as none.
    fn written(&self, first: u32) -> Result<usize, Error> {
        let written = self.memory.read_u32(RING as usize * self.width)?;
        Ok((written.wrapping_sub(first) as i32).max(0) as usize)
    }
}
