//! Stream capture: record launches by issuing them.
//!
//! Recording is a mode of the launch function, so what runs eagerly and what is recorded can't
//! differ. It happens on a stream of its own that nobody else can reach, and the type in hand has
//! no method that allocates, loads, copies or waits, so nothing can spoil a capture.
//!
//! Always holds: a capture that was begun is ended, by `finish` or by `Drop`.

#![allow(unsafe_code)]

use std::mem;

use crate::context::Capturing;
use crate::error::Error;
use crate::graph::{GraphExec, RawGraph};
use crate::launch::Launch;
use crate::stream::Stream;

/// A recording in progress.
#[derive(Debug)]
#[must_use = "a capture does nothing until `finish`"]
pub struct Capture {
    stream: Stream,
    launches: Vec<Launch>,
    /// Present until the recording has ended.
    open: Option<Capturing>,
}

impl Stream {
    /// Starts recording launches into a graph. This stream stays usable: the recording happens
    /// beside it, and the graph can be launched on any stream of the context.
    ///
    /// # Errors
    /// What the driver returned.
    #[doc(alias = "cuStreamBeginCapture")]
    pub fn begin_capture(&self) -> Result<Capture, Error> {
        let stream = Stream::new(self.context())?;
        let open = Capturing::begin();
        stream.context().call(|api| {
            // SAFETY: the stream was just made and is reachable through the capture alone.
            unsafe { api.stream_begin_capture(stream.handle()) }
        })?;
        Ok(Capture {
            stream,
            launches: Vec::new(),
            open: Some(open),
        })
    }
}

impl Capture {
    /// Records one launch after those before it.
    ///
    /// # Errors
    /// As [`Stream::launch`].
    #[doc(alias = "cuLaunchKernelEx")]
    pub fn launch(&mut self, launch: &Launch) -> Result<(), Error> {
        launch.issue(&self.stream)?;
        self.launches.push(launch.clone());
        Ok(())
    }

    /// Ends the recording and makes it executable.
    ///
    /// # Errors
    /// What the driver returned, also when a launch in between had failed.
    #[doc(alias = "cuStreamEndCapture")]
    pub fn finish(mut self) -> Result<GraphExec, Error> {
        let nothing = || Error::Invalid {
            what: "capture",
            reason: "it yields no graph".into(),
        };
        let graph = self.end()?.ok_or_else(nothing)?;
        GraphExec::captured(graph, mem::take(&mut self.launches))
    }

    fn end(&mut self) -> Result<Option<RawGraph>, Error> {
        // Counted until this function returns.
        let _open = self.open.take();
        let context = self.stream.context();
        // SAFETY: the stream is live and capturing: `open` was there until now.
        let graph = context.call(|api| unsafe { api.stream_end_capture(self.stream.handle()) })?;
        Ok(graph.map(|handle| RawGraph::own(context, handle)))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.open.is_some() {
            // An abandoned recording: the graph, if there is one, goes with the result.
            let _ = self.end();
        }
    }
}
