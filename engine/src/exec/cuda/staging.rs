//! Small host data on its way to the device, without a wait.
//!
//! A copy from ordinary memory has to wait until the stream has passed it. Here bytes go through
//! pinned memory in parts that are used in turn: a part is written again only once the stream has
//! passed the copies out of it, which an event tells. The host waits only where it is all parts ahead
//! of the device.

use std::sync::Arc;

use gannet_cuda_runtime::{Buffer, Context, DeviceEvent, PinnedBuffer, Stream};

use crate::Error;

/// Parts: more than steps are queued ahead, of which each takes a fraction of one.
const PARTS: usize = 16;

/// Bytes of a part where nothing larger was copied.
const PART: usize = 64 << 10;

/// Alignment of what is copied.
const ALIGN: usize = 64;

/// Pinned memory, written in turn.
pub(super) struct Staging {
    context: Arc<Context>,
    parts: Vec<Part>,
    /// The part that is being filled.
    current: usize,
}

/// One part.
struct Part {
    memory: PinnedBuffer,
    used: usize,
    /// Behind the copies out of it, once it is left.
    passed: DeviceEvent,
}

impl Staging {
    pub(super) fn new(context: &Arc<Context>) -> Result<Staging, Error> {
        let part = |_| -> Result<Part, Error> {
            Ok(Part {
                memory: PinnedBuffer::new(context, PART)?,
                used: 0,
                passed: DeviceEvent::new(context, false)?,
            })
        };
        Ok(Staging {
            context: Arc::clone(context),
            parts: (0..PARTS).map(part).collect::<Result<_, _>>()?,
            current: 0,
        })
    }

    /// Queues a copy to `to` at `offset`. The bytes are read before it returns.
    pub(super) fn copy(
        &mut self,
        stream: &Stream,
        to: &Buffer,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let part = &self.parts[self.current];
        if part.used + bytes.len() > part.memory.len() {
            self.turn(stream, bytes.len())?;
        }
        let part = &mut self.parts[self.current];
        let at = part.used;
        part.memory.write(at, bytes)?;
        stream.copy_from_pinned(to, offset, &part.memory, at, bytes.len())?;
        part.used = (at + bytes.len()).next_multiple_of(ALIGN);
        Ok(())
    }

    /// Goes on with the next part, which has room for that many bytes then.
    fn turn(&mut self, stream: &Stream, bytes: usize) -> Result<(), Error> {
        self.parts[self.current].passed.record(stream)?;
        self.current = (self.current + 1) % PARTS;
        let part = &mut self.parts[self.current];
        if !part.passed.query()? {
            part.passed.synchronize()?;
        }
        if part.memory.len() < bytes {
            part.memory = PinnedBuffer::new(&self.context, bytes.next_power_of_two())?;
        }
        part.used = 0;
        Ok(())
    }
}
