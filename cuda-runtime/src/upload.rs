//! The uploader: large host data to the device at the speed of the bus.
//!
//! Ordinary memory reaches the device at about 9 GB/s, pinned memory at 55. So a few threads fill
//! pinned staging buffers, each its own, while the buffers filled before are in flight. What fills
//! them may make the bytes on the way (repacking weights from a mapped file): each byte is then read
//! once and written once on the host.
//!
//! Always holds: a staging buffer is filled again only after the copies out of it are done; when
//! [`Uploader::parts`] or [`Uploader::upload_all`] returns, the sources are no longer needed.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::context::Context;
use crate::error::Error;
use crate::memory::{Buffer, check_range};
use crate::pinned::PinnedBuffer;
use crate::stream::{DeviceEvent, Stream};

/// How many threads fill how much pinned memory. The default is a thread for each core, up to 16,
/// with two buffers of 1 MiB: locking pages costs time, and small buffers stay in a cache between
/// the thread that fills them and the device that reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploaderConfig {
    /// Threads that fill buffers; at least 1.
    pub threads: usize,
    /// Staging buffers of each thread, in turn; at least 1. With two, one flies while the other is
    /// filled.
    pub buffers: usize,
    /// Bytes of each buffer; at least 1.
    pub buffer_bytes: usize,
}

impl Default for UploaderConfig {
    fn default() -> UploaderConfig {
        // One core packs about 5 GB/s and copies 8 to 12; with few cores, several threads still
        // let filling and flying overlap.
        let cores = thread::available_parallelism().map_or(4, NonZeroUsize::get);
        UploaderConfig {
            threads: cores.clamp(2, 16),
            buffers: 2,
            buffer_bytes: 1 << 20,
        }
    }
}

/// One range to fill from memory (or from a mapped file).
#[derive(Debug, Clone)]
pub struct Upload<'a> {
    /// Where to.
    pub dst: Buffer,
    /// First byte in `dst`.
    pub offset: usize,
    /// Where from.
    pub bytes: &'a [u8],
}

/// A staging buffer in the hands of who fills it, and the copies out of it that were asked for.
#[derive(Debug)]
pub struct Staging<'a> {
    bytes: &'a mut [u8],
    context: &'a Context,
    copies: Vec<StagedCopy>,
}

/// A copy from a staging buffer to the device.
#[derive(Debug)]
struct StagedCopy {
    from: Range<usize>,
    dst: Buffer,
    offset: usize,
}

impl Staging<'_> {
    /// The staging buffer. It holds leftovers of earlier parts.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// Asks for a copy of the bytes `from`, as they are when the part is filled, to `dst` at
    /// `offset`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when a range is not inside its buffer; [`Error::Foreign`] for a buffer
    /// of another context.
    pub fn copy(&mut self, from: Range<usize>, dst: &Buffer, offset: usize) -> Result<(), Error> {
        let what = "staged copy";
        check_range(what, from.start, from.len(), self.bytes.len())?;
        self.context.same(dst.context(), "buffer")?;
        dst.address(what, offset, from.len())?;
        self.copies.push(StagedCopy {
            from,
            dst: dst.clone(),
            offset,
        });
        Ok(())
    }
}

/// The staging buffers of one thread: slices of one piece of pinned memory, since making and freeing
/// a piece costs more than its pages.
#[derive(Debug)]
struct Lane {
    memory: PinnedBuffer,
    /// For each buffer, what tells that it is free.
    free: Vec<DeviceEvent>,
    /// The buffer to fill next.
    next: usize,
}

impl Lane {
    fn new(context: &Arc<Context>, buffers: usize, bytes: usize) -> Result<Lane, Error> {
        Ok(Lane {
            memory: PinnedBuffer::new(context, buffers.saturating_mul(bytes))?,
            free: (0..buffers)
                .map(|_| DeviceEvent::new(context, false))
                .collect::<Result<_, Error>>()?,
            next: 0,
        })
    }
}

/// Streams host data to the device through pinned staging buffers, on a stream of its own.
#[derive(Debug)]
pub struct Uploader {
    stream: Stream,
    config: UploaderConfig,
    /// One for each thread, made by that thread when it first has something to do: locking the
    /// pages of one buffer then overlaps with filling another.
    lanes: Vec<Mutex<Option<Lane>>>,
    /// From the first allocation of a lane to the end of the last one.
    allocating: Mutex<Option<(Instant, Instant)>>,
    done: DeviceEvent,
}

impl Uploader {
    /// Makes the stream; staging buffers are allocated at their first use.
    ///
    /// # Errors
    /// What the driver returned.
    pub fn new(context: &Arc<Context>, config: UploaderConfig) -> Result<Uploader, Error> {
        let config = UploaderConfig {
            threads: config.threads.max(1),
            buffers: config.buffers.max(1),
            buffer_bytes: config.buffer_bytes.max(1),
        };
        Ok(Uploader {
            stream: Stream::new(context)?,
            config,
            lanes: (0..config.threads).map(|_| Mutex::new(None)).collect(),
            allocating: Mutex::new(None),
            done: DeviceEvent::new(context, false)?,
        })
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> UploaderConfig {
        self.config
    }

    /// When the first staging buffer began to be allocated, and when the last one was there; `None`
    /// before the first upload. Filling and flying overlap with it.
    #[must_use]
    pub fn allocating(&self) -> Option<(Instant, Instant)> {
        *self
            .allocating
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Uploads `bytes` to `dst` at `offset`. On return they have been read, and are on their way.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], or what the driver returned.
    pub fn upload(&mut self, dst: &Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        self.upload_all(&[Upload {
            dst: dst.clone(),
            offset,
            bytes,
        }])
    }

    /// Uploads many ranges, which must not overlap. On return the sources have been read, and the
    /// data is on its way.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] before anything is copied; otherwise what the driver returned.
    pub fn upload_all(&mut self, uploads: &[Upload<'_>]) -> Result<(), Error> {
        for upload in uploads {
            self.stream.context().same(upload.dst.context(), "buffer")?;
            upload
                .dst
                .address("upload", upload.offset, upload.bytes.len())?;
        }
        let chunks: Vec<(&Upload<'_>, Range<usize>)> = uploads
            .iter()
            .flat_map(|upload| {
                cut(upload.bytes.len(), self.config.buffer_bytes).map(move |range| (upload, range))
            })
            .collect();
        self.parts(chunks.len(), |index, staging| {
            let (upload, range) = &chunks[index];
            staging.bytes()[..range.len()].copy_from_slice(&upload.bytes[range.clone()]);
            staging.copy(0..range.len(), &upload.dst, upload.offset + range.start)
        })
    }

    /// Uploads what `fill` makes: it is called once for each of `0..count`, from several threads, in
    /// about this order, with a staging buffer to write and to copy from. On return everything has
    /// been made, and is on its way. Copies of different parts must not overlap.
    ///
    /// # Errors
    /// The first error of `fill`, or what the driver returned; parts may then be missing.
    pub fn parts<E>(
        &mut self,
        count: usize,
        fill: impl Fn(usize, &mut Staging<'_>) -> Result<(), E> + Sync,
    ) -> Result<(), E>
    where
        E: From<Error> + Send,
    {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let first_error = Mutex::new(None);
        let uploader = &*self;
        let work = |lane: &Mutex<Option<Lane>>| {
            let mut lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
            while !failed.load(Ordering::Relaxed) {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= count {
                    return;
                }
                if let Err(error) = uploader.part(&mut lane, |staging| fill(part, staging)) {
                    failed.store(true, Ordering::Relaxed);
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                }
            }
        };
        let threads = self.lanes.len().min(count);
        if let Some((mine, others)) = self.lanes[..threads].split_first() {
            thread::scope(|scope| {
                let work = &work;
                for lane in others {
                    scope.spawn(move || work(lane));
                }
                work(mine);
            });
        }
        match first_error
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Some(error) => Err(error),
            None => Ok(self.done.record(&self.stream)?),
        }
    }

    /// Fills a staging buffer of `lane` and sends it off.
    fn part<E: From<Error>>(
        &self,
        lane: &mut Option<Lane>,
        fill: impl FnOnce(&mut Staging<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let lane = match lane {
            Some(lane) => lane,
            None => lane.insert(self.lane()?),
        };
        let (index, bytes) = (lane.next, self.config.buffer_bytes);
        lane.next = (index + 1) % lane.free.len();
        lane.free[index].synchronize()?;
        let start = index * bytes;
        let mut staging = Staging {
            bytes: lane.memory.slice_mut(start, bytes)?,
            context: self.stream.context(),
            copies: Vec::new(),
        };
        fill(&mut staging)?;
        let sent = staging.copies.into_iter().try_for_each(|copy| {
            let (from, len) = (start + copy.from.start, copy.from.len());
            self.stream
                .copy_from_pinned(&copy.dst, copy.offset, &lane.memory, from, len)
        });
        // Even after an error: copies queued before it still read the buffer.
        let recorded = lane.free[index].record(&self.stream);
        Ok(sent.and(recorded)?)
    }

    fn lane(&self) -> Result<Lane, Error> {
        let start = Instant::now();
        let (buffers, bytes) = (self.config.buffers, self.config.buffer_bytes);
        let lane = Lane::new(self.stream.context(), buffers, bytes)?;
        let mut allocating = self
            .allocating
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (first, last) = allocating.unwrap_or((start, start));
        *allocating = Some((first.min(start), last.max(Instant::now())));
        Ok(lane)
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

/// Ranges of at most `most` bytes that make up `len`.
fn cut(len: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let most = most.max(1);
    (0..len)
        .step_by(most)
        .map(move |start| start..len.min(start.saturating_add(most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_cover_everything_once() {
        for (len, most) in [
            (0, 16),
            (1, 16),
            (16, 16),
            (17, 16),
            (100, 7),
            (5, usize::MAX),
        ] {
            let mut end = 0;
            for range in cut(len, most) {
                assert_eq!(range.start, end);
                assert!((1..=most).contains(&range.len()));
                end = range.end;
            }
            assert_eq!(end, len);
        }
    }

    #[test]
    fn the_default_keeps_few_pages_locked() {
        let config = UploaderConfig::default();
        let bytes = config.threads * config.buffers * config.buffer_bytes;
        assert!(config.threads >= 2 && bytes <= 32 << 20, "{config:?}");
    }
}
