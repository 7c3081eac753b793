//! The uploader: large host data to the device at the speed of the bus.
//!
//! Ordinary memory reaches the device at about 9 GB/s, pinned memory at 55. So a few threads fill
//! pinned staging buffers, each its own, while the buffers filled before are in flight.
//!
//! Always holds: a staging buffer is filled again only after the copy out of it is done; when
//! [`Uploader::upload`] returns, the source is no longer needed.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::context::Context;
use crate::error::Error;
use crate::memory::Buffer;
use crate::pinned::PinnedBuffer;
use crate::stream::{Event, Stream};

/// How many staging buffers of what size. The default is 4 to 8 of 8 MiB, by the cores there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploaderConfig {
    /// Staging buffers, and threads that fill them; at least 1.
    pub buffers: usize,
    /// Bytes of each; at least 1.
    pub buffer_bytes: usize,
}

impl Default for UploaderConfig {
    fn default() -> UploaderConfig {
        // One core copies 8 to 12 GB/s, so 55 GB/s want several; with few cores, four buffers
        // still let filling and flying overlap.
        let cores = thread::available_parallelism().map_or(4, NonZeroUsize::get);
        UploaderConfig {
            buffers: cores.clamp(4, 8),
            buffer_bytes: 8 << 20,
        }
    }
}

/// Where the bytes of an [`Upload`] come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Bytes in memory (or in a mapped file).
    Bytes(&'a [u8]),
    /// Bytes made on the way, for weights that are repacked: `fill(offset, out)` writes the bytes
    /// at `offset..offset + out.len()`. Called from several threads, in any order; `out` holds
    /// leftovers of earlier uploads. Lengths are multiples of `granule` except for the last.
    Fill {
        /// Bytes in all.
        len: usize,
        /// Offsets passed are multiples of this; at least 1, at most a staging buffer.
        granule: usize,
        /// Writes one part.
        fill: &'a (dyn Fn(usize, &mut [u8]) + Sync),
    },
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Source::Bytes(bytes) => bytes.len(),
            Source::Fill { len, .. } => *len,
        }
    }

    fn granule(&self) -> usize {
        match self {
            Source::Bytes(_) => 1,
            Source::Fill { granule, .. } => *granule,
        }
    }

    fn write(&self, offset: usize, out: &mut [u8]) {
        match self {
            Source::Bytes(bytes) => out.copy_from_slice(&bytes[offset..offset + out.len()]),
            Source::Fill { fill, .. } => fill(offset, out),
        }
    }
}

/// One range to fill.
#[derive(Clone)]
pub struct Upload<'a> {
    /// Where to.
    pub dst: Buffer,
    /// First byte in `dst`.
    pub offset: usize,
    /// Where from.
    pub source: Source<'a>,
}

/// One staging buffer and what tells that it is free.
#[derive(Debug)]
struct Slot {
    staging: PinnedBuffer,
    free: Event,
}

/// Streams host data to the device through pinned staging buffers, on a stream of its own.
#[derive(Debug)]
pub struct Uploader {
    stream: Stream,
    slots: Vec<Mutex<Slot>>,
    buffer_bytes: usize,
    done: Event,
}

/// A part of an upload that fits one staging buffer.
struct Chunk {
    upload: usize,
    offset: usize,
    len: usize,
}

impl Uploader {
    /// Allocates the staging buffers.
    ///
    /// # Errors
    /// What the driver returned.
    pub fn new(context: &Arc<Context>, config: UploaderConfig) -> Result<Uploader, Error> {
        let buffer_bytes = config.buffer_bytes.max(1);
        let slot = || {
            let staging = PinnedBuffer::new(context, buffer_bytes)?;
            Ok(Mutex::new(Slot {
                staging,
                free: Event::new(context, false)?,
            }))
        };
        Ok(Uploader {
            stream: Stream::new(context)?,
            slots: (0..config.buffers.max(1))
                .map(|_| slot())
                .collect::<Result<_, Error>>()?,
            buffer_bytes,
            done: Event::new(context, false)?,
        })
    }

    /// Uploads `bytes` to `dst` at `offset`. On return they have been read, and are on their way.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], or what the driver returned.
    pub fn upload(&mut self, dst: &Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        self.upload_all(&[Upload {
            dst: dst.clone(),
            offset,
            source: Source::Bytes(bytes),
        }])
    }

    /// Uploads many ranges, filling the staging buffers from several threads at once. On return
    /// the sources have been read, and the data is on its way. The ranges must not overlap.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] before anything is copied; otherwise what the driver returned.
    pub fn upload_all(&mut self, uploads: &[Upload<'_>]) -> Result<(), Error> {
        for upload in uploads {
            self.stream.context().same(upload.dst.context(), "buffer")?;
            upload
                .dst
                .address("upload", upload.offset, upload.source.len())?;
            let granule = upload.source.granule();
            if !(1..=self.buffer_bytes).contains(&granule) {
                let reason = format!(
                    "granule {granule} is outside 1..={} bytes",
                    self.buffer_bytes
                );
                return Err(Error::Invalid {
                    what: "upload",
                    reason,
                });
            }
        }
        let chunks = split(uploads, self.buffer_bytes);
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let first_error = Mutex::new(None);
        let uploader = &*self;
        let work = |slot: &Mutex<Slot>| {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            while !failed.load(Ordering::Relaxed) {
                let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return;
                };
                if let Err(error) = uploader.send(&mut slot, &uploads[chunk.upload], chunk) {
                    failed.store(true, Ordering::Relaxed);
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                }
            }
        };
        let threads = self.slots.len().min(chunks.len());
        if let Some((mine, others)) = self.slots[..threads].split_first() {
            thread::scope(|scope| {
                let work = &work;
                for slot in others {
                    scope.spawn(move || work(slot));
                }
                work(mine);
            });
        }
        match first_error
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Some(error) => Err(error),
            None => self.done.record(&self.stream),
        }
    }

    /// Fills a staging buffer and sends it off.
    fn send(&self, slot: &mut Slot, upload: &Upload<'_>, chunk: &Chunk) -> Result<(), Error> {
        slot.free.synchronize()?;
        upload
            .source
            .write(chunk.offset, &mut slot.staging.as_mut_slice()[..chunk.len]);
        let to = upload.offset + chunk.offset;
        self.stream
            .copy_from_pinned(&upload.dst, to, &slot.staging, 0, chunk.len)?;
        slot.free.record(&self.stream)
    }

    /// Makes `stream` wait, on the device, for everything uploaded so far.
    ///
    /// # Errors
    /// What the driver returned.
    pub fn order_before(&self, stream: &Stream) -> Result<(), Error> {
        stream.wait_event(&self.done)
    }

    /// Waits on the host until everything uploaded so far has arrived.
    ///
    /// # Errors
    /// What the driver returned.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.stream.synchronize()
    }
}

/// Cuts uploads into parts of at most `most` bytes, whole granules each.
fn split(uploads: &[Upload<'_>], most: usize) -> Vec<Chunk> {
    let parts = uploads
        .iter()
        .map(|upload| (upload.source.len(), upload.source.granule()));
    let mut chunks = Vec::new();
    for (upload, (len, granule)) in parts.enumerate() {
        chunks.extend(cut(len, granule, most).map(|(offset, len)| Chunk {
            upload,
            offset,
            len,
        }));
    }
    chunks
}

/// Offsets and lengths of the parts of `len` bytes.
fn cut(len: usize, granule: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let step = most - most % granule;
    (0..len)
        .step_by(step.max(1))
        .map(move |offset| (offset, step.min(len - offset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_cover_everything_once() {
        for (len, granule, most) in [
            (0, 1, 16),
            (1, 1, 16),
            (16, 1, 16),
            (17, 1, 16),
            (100, 6, 16),
            (100, 16, 16),
        ] {
            let mut end = 0;
            for (offset, part) in cut(len, granule, most) {
                assert_eq!(offset, end);
                assert_eq!(offset % granule, 0);
                assert!((1..=most).contains(&part));
                end = offset + part;
            }
            assert_eq!(end, len);
        }
    }

    #[test]
    fn sources() {
        let bytes: Vec<u8> = (0..100).collect();
        let source = Source::Bytes(&bytes);
        let mut out = [0; 5];
        source.write(7, &mut out);
        assert_eq!(out, [7, 8, 9, 10, 11]);
        let fill = |offset: usize, out: &mut [u8]| out.fill(offset as u8);
        let source = Source::Fill {
            len: 9,
            granule: 3,
            fill: &fill,
        };
        source.write(6, &mut out[..3]);
        assert_eq!(out, [6, 6, 6, 10, 11]);
        assert_eq!((source.len(), source.granule()), (9, 3));
    }
}
