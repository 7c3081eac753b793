//! A context: the process's use of one device, shared by everything made in it.
//!
//! Always holds: every driver call of the safe layer goes through [`Context::call`], which makes
//! the context current on the calling thread first and remembers an error that ends it, so that
//! nothing is tried again in a context that is dead.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::driver::{Device, DeviceProperties};
use crate::error::{DriverError, Error};
use crate::ffi::{Api, Handle, sys};
use crate::stats::{Counters, Statistics};

/// How many captures are in progress, in any context of the process. Waiting for a whole context
/// is forbidden meanwhile and could spoil them, so both go through this lock.
static CAPTURES: Mutex<usize> = Mutex::new(0);

thread_local! {
    /// The context that this thread last made current. Numbers, not handles: the driver reuses the
    /// handle of a primary context that was released.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// A retained primary context. Every object made in it keeps it alive.
///
/// Other libraries in the process that use the same device share it; if one of them changes the
/// current context of a thread that also calls this crate, it has to change it back.
pub struct Context {
    device: Device,
    properties: DeviceProperties,
    handle: Handle<sys::CUctx_st>,
    id: u64,
    dead: OnceLock<DriverError>,
    counters: Counters,
}

impl Context {
    /// Retains the primary context of `device`, creating it if this is its first user.
    ///
    /// # Errors
    /// What the driver returned.
    #[doc(alias = "cuDevicePrimaryCtxRetain")]
    pub fn new(device: Device) -> Result<Arc<Context>, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let properties = device.properties()?;
        let handle = device.driver().api().primary_ctx_retain(device.raw())?;
        let context = Arc::new(Context {
            device,
            properties,
            handle,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            dead: OnceLock::new(),
            counters: Counters::default(),
        });
        context.enter()?;
        Ok(context)
    }

    /// The device it is on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// The figures of its device, asked for once.
    #[must_use]
    pub fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    /// Device memory in bytes: free and total.
    ///
    /// # Errors
    /// What the driver returned, or [`Error::ContextDead`].
    #[doc(alias = "cuMemGetInfo")]
    pub fn free_memory(&self) -> Result<(usize, usize), Error> {
        self.call(|api| api.mem_get_info())
    }

    /// Waits until everything queued in this context is done.
    ///
    /// # Errors
    /// The first error of any work since the last wait, or [`Error::ContextDead`]; the driver's
    /// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED` while a capture is in progress.
    #[doc(alias = "cuCtxSynchronize")]
    pub fn synchronize(&self) -> Result<(), Error> {
        self.counters.synchronizations.add();
        self.call(wait_for_device)
    }

    /// The error that ended this context, if one did.
    #[must_use]
    pub fn dead(&self) -> Option<&DriverError> {
        self.dead.get()
    }

    /// What this context was asked to do so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.counters.snapshot()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn handle(&self) -> Handle<sys::CUctx_st> {
        self.handle
    }

    pub(crate) fn api(&self) -> &'static Api {
        self.device.driver().api()
    }

    /// Runs one or more driver calls with this context current.
    pub(crate) fn call<T>(
        &self,
        body: impl FnOnce(&'static Api) -> Result<T, DriverError>,
    ) -> Result<T, Error> {
        self.enter()?;
        body(self.api()).map_err(|error| self.note(error))
    }

    /// Refuses when the context is dead; otherwise makes it current on this thread.
    fn enter(&self) -> Result<(), Error> {
        if let Some(error) = self.dead.get() {
            return Err(Error::ContextDead(error.clone()));
        }
        self.make_current().map_err(|error| self.note(error))
    }

    fn make_current(&self) -> Result<(), DriverError> {
        // A thread whose locals are being destroyed has forgotten; it just sets it again.
        if CURRENT.try_with(Cell::get) == Ok(self.id) {
            return Ok(());
        }
        // SAFETY: this object holds a retain of the context, so it is live.
        unsafe { self.api().ctx_set_current(self.handle) }?;
        let _ = CURRENT.try_with(|current| current.set(self.id));
        Ok(())
    }

    /// Remembers an error that ends the context, and wraps it either way.
    pub(crate) fn note(&self, error: DriverError) -> Error {
        if error.is_sticky() {
            let _ = self.dead.set(error.clone());
        }
        Error::Driver(error)
    }

    /// For `Drop`: makes the context current even when it is dead, and swallows every error.
    /// The body must be a release: there is nobody left to tell that it failed.
    pub(crate) fn release(&self, body: impl FnOnce(&'static Api) -> Result<(), DriverError>) {
        if self.make_current().is_ok()
            && let Err(error) = body(self.api())
        {
            self.note(error);
        }
    }

    /// Checks that an object made in `other` is used in this context.
    pub(crate) fn same(&self, other: &Context, what: &'static str) -> Result<(), Error> {
        if self.id == other.id {
            Ok(())
        } else {
            Err(Error::Foreign {
                what,
                owner: "context",
            })
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: this object took one retain in `new` and gives it up once, here. Everything made
        // in the context holds an `Arc` of it, so nothing is left that could use it.
        let _ = unsafe { self.api().primary_ctx_release(self.device.raw()) };
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("device", &self.device.index())
            .field("dead", &self.dead.get())
            .finish_non_exhaustive()
    }
}

/// Waits for the current context, unless a capture is in progress: then it refuses as the driver
/// would, without disturbing the capture.
pub(crate) fn wait_for_device(api: &Api) -> Result<(), DriverError> {
    let captures = CAPTURES.lock().unwrap_or_else(PoisonError::into_inner);
    if *captures > 0 {
        return Err(DriverError {
            code: 900,
            name: "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED".to_owned(),
            text: "a stream capture is in progress".to_owned(),
            call: "cuCtxSynchronize",
        });
    }
    api.ctx_synchronize()
}

/// Counts a capture for as long as it lives.
#[derive(Debug)]
pub(crate) struct Capturing(());

impl Capturing {
    pub(crate) fn begin() -> Capturing {
        *CAPTURES.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Capturing(())
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        let mut captures = CAPTURES.lock().unwrap_or_else(PoisonError::into_inner);
        *captures = captures.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_counted() {
        let count = || *CAPTURES.lock().unwrap();
        let (one, two) = (Capturing::begin(), Capturing::begin());
        assert_eq!(count(), 2);
        drop((one, two));
        assert_eq!(count(), 0);
    }
}
