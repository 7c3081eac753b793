//! What launches take, by events on the device.

use std::sync::Arc;

use gannet_cuda_runtime::{Context, DeviceEvent, Stream};

use super::decode::Replay;
use crate::Error;
use crate::exec::LaunchTime;

/// Whole steps queued before a profiled one, so that the device never waits for the host within it.
pub(super) const AHEAD: usize = 4;

/// Pairs of events around nothing, whose time is taken off every launch.
const EMPTY: usize = 32;

/// Seconds of one of `count` issues, back to back, after one that is not timed.
pub(super) fn time(
    context: &Arc<Context>,
    stream: &Stream,
    count: usize,
    issue: impl Fn() -> Result<(), Error>,
) -> Result<f64, Error> {
    let (start, end) = (
        DeviceEvent::new(context, true)?,
        DeviceEvent::new(context, true)?,
    );
    issue()?;
    start.record(stream)?;
    for _ in 0..count.max(1) {
        issue()?;
    }
    end.record(stream)?;
    end.synchronize()?;
    Ok(f64::from(DeviceEvent::elapsed_ms(&start, &end)?) / 1e3 / count.max(1) as f64)
}

/// What each launch of a replayed step takes; what an empty pair of events takes is off.
pub(super) struct Profiler {
    events: Vec<DeviceEvent>,
    times: Vec<LaunchTime>,
}

impl Profiler {
    /// A profiler of a step whose rows see that many keys.
    pub(super) fn new(
        context: &Arc<Context>,
        replay: &Replay,
        lengths: &[u32],
    ) -> Result<Profiler, Error> {
        let event = |_| DeviceEvent::new(context, true);
        let events = 0..=replay.list().len() + EMPTY;
        Ok(Profiler {
            events: events.map(event).collect::<Result<_, _>>()?,
            times: (replay.list().iter())
                .map(|listed| LaunchTime {
                    unit: listed.unit.clone(),
                    kernel: listed.launch.kernel.name().to_owned(),
                    grid: listed.launch.grid,
                    bytes: listed.bytes_at(lengths),
                    seconds: Vec::new(),
                })
                .collect(),
        })
    }

    /// Runs [`AHEAD`] steps and times the launches of the one after them.
    pub(super) fn repeat(&mut self, stream: &Stream, replay: &Replay) -> Result<(), Error> {
        for _ in 0..AHEAD {
            replay.issue(stream)?;
        }
        let events = &self.events;
        for empty in &events[..=EMPTY] {
            empty.record(stream)?;
        }
        for (listed, after) in replay.list().iter().zip(&events[EMPTY + 1..]) {
            stream.launch(&listed.launch)?;
            after.record(stream)?;
        }
        replay.ring().count();
        stream.synchronize()?;
        let between = |i: usize| -> Result<f64, Error> {
            Ok(f64::from(DeviceEvent::elapsed_ms(&events[i], &events[i + 1])?) / 1e3)
        };
        let mut nothing = (0..EMPTY).map(between).collect::<Result<Vec<_>, _>>()?;
        nothing.sort_by(f64::total_cmp);
        let nothing = nothing[EMPTY / 2];
        for (i, time) in self.times.iter_mut().enumerate() {
            time.seconds.push((between(EMPTY + i)? - nothing).max(0.0));
        }
        Ok(())
    }

    pub(super) fn into_times(self) -> Vec<LaunchTime> {
        self.times
    }
}
