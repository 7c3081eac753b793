//! Streams and events: order, waiting, time.
//!
//! Always holds: a stream is non-blocking (it does not wait for the legacy default stream), and
//! both objects outlive their uses because the driver defers their destruction past queued work.

#![allow(unsafe_code)]

use std::sync::Arc;

use crate::context::Context;
use crate::error::{DriverError, Error};
use crate::ffi::{Handle, sys};

/// A queue of work: what is put into one stream runs in that order.
#[derive(Debug)]
pub struct Stream {
    context: Arc<Context>,
    handle: Handle<sys::CUstream_st>,
}

impl Stream {
    /// Makes a stream in `context`.
    ///
    /// # Errors
    /// What the driver returned, or [`Error::ContextDead`].
    #[doc(alias = "cuStreamCreate")]
    pub fn new(context: &Arc<Context>) -> Result<Stream, Error> {
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        let handle = context.call(|api| api.stream_create(flags))?;
        Ok(Stream {
            context: Arc::clone(context),
            handle,
        })
    }

    /// The context it is in.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn handle(&self) -> Handle<sys::CUstream_st> {
        self.handle
    }

    /// Waits on the host until everything queued so far is done.
    ///
    /// # Errors
    /// The error of whatever failed in it; [`Error::is_fatal`] tells whether the context is dead.
    #[doc(alias = "cuStreamSynchronize")]
    pub fn synchronize(&self) -> Result<(), Error> {
        self.context.counters().synchronizations.add();
        // SAFETY: the stream is live while `self` is.
        self.context
            .call(|api| unsafe { api.stream_synchronize(self.handle) })
    }

    /// Whether everything queued so far is done, without waiting.
    ///
    /// # Errors
    /// The error of whatever failed in it.
    #[doc(alias = "cuStreamQuery")]
    pub fn query(&self) -> Result<bool, Error> {
        // SAFETY: the stream is live while `self` is.
        self.context
            .call(|api| ready(unsafe { api.stream_query(self.handle) }))
    }

    /// Makes later work of this stream wait, on the device, for what `event` recorded.
    ///
    /// # Errors
    /// [`Error::Foreign`] for an event of another context; otherwise what the driver returned.
    #[doc(alias = "cuStreamWaitEvent")]
    pub fn wait_event(&self, event: &DeviceEvent) -> Result<(), Error> {
        self.context.same(&event.context, "event")?;
        // SAFETY: both are live while borrowed.
        self.context
            .call(|api| unsafe { api.stream_wait_event(self.handle, event.handle) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made in `new` and destroyed once; the driver finishes queued work first.
        self.context
            .release(|api| unsafe { api.stream_destroy(self.handle) });
    }
}

/// A point in a stream that others can wait for, or take the time at.
#[derive(Debug)]
pub struct DeviceEvent {
    context: Arc<Context>,
    handle: Handle<sys::CUevent_st>,
    timing: bool,
}

impl DeviceEvent {
    /// Makes an event; one with `timing` can be given to [`DeviceEvent::elapsed_ms`] and costs more.
    ///
    /// # Errors
    /// What the driver returned, or [`Error::ContextDead`].
    #[doc(alias = "cuEventCreate")]
    pub fn new(context: &Arc<Context>, timing: bool) -> Result<DeviceEvent, Error> {
        let flags = match timing {
            true => sys::CUevent_flags::CU_EVENT_DEFAULT,
            false => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
        } as u32;
        let handle = context.call(|api| api.event_create(flags))?;
        Ok(DeviceEvent {
            context: Arc::clone(context),
            handle,
            timing,
        })
    }

    /// Marks the point that `stream` has reached; a second call moves the mark.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a stream of another context; otherwise what the driver returned.
    #[doc(alias = "cuEventRecord")]
    pub fn record(&self, stream: &Stream) -> Result<(), Error> {
        self.context.same(&stream.context, "stream")?;
        // SAFETY: both are live while borrowed.
        self.context
            .call(|api| unsafe { api.event_record(self.handle, stream.handle) })
    }

    /// Whether the marked point was passed; true when nothing was marked.
    ///
    /// # Errors
    /// The error of whatever failed before it.
    #[doc(alias = "cuEventQuery")]
    pub fn query(&self) -> Result<bool, Error> {
        // SAFETY: the event is live while `self` is.
        self.context
            .call(|api| ready(unsafe { api.event_query(self.handle) }))
    }

    /// Waits on the host until the marked point was passed.
    ///
    /// # Errors
    /// The error of whatever failed before it.
    #[doc(alias = "cuEventSynchronize")]
    pub fn synchronize(&self) -> Result<(), Error> {
        self.context.counters().synchronizations.add();
        // SAFETY: the event is live while `self` is.
        self.context
            .call(|api| unsafe { api.event_synchronize(self.handle) })
    }

    /// Milliseconds between two recorded points, resolution about half a microsecond.
    ///
    /// # Errors
    /// [`Error::Invalid`] when one was made without timing; the driver's error when one was not
    /// recorded or not passed yet.
    #[doc(alias = "cuEventElapsedTime")]
    pub fn elapsed_ms(start: &DeviceEvent, end: &DeviceEvent) -> Result<f32, Error> {
        start.context.same(&end.context, "event")?;
        if !(start.timing && end.timing) {
            let reason = "an event was made without timing".to_owned();
            return Err(Error::Invalid {
                what: "elapsed time",
                reason,
            });
        }
        // SAFETY: both are live while borrowed.
        start
            .context
            .call(|api| unsafe { api.event_elapsed_time(start.handle, end.handle) })
    }
}

impl Drop for DeviceEvent {
    fn drop(&mut self) {
        // SAFETY: made in `new` and destroyed once; the driver defers it past pending work.
        self.context
            .release(|api| unsafe { api.event_destroy(self.handle) });
    }
}

/// Turns "not ready", which is an answer, into a value.
fn ready(result: Result<(), DriverError>) -> Result<bool, DriverError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.code == DriverError::NOT_READY => Ok(false),
        Err(error) => Err(error),
    }
}
