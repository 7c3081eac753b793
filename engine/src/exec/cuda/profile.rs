//! What launches take, by events on the device.

use std::sync::Arc;

use gannet_cuda_runtime::{Context, Event, Stream};

use super::prepare::Prepared;
use super::record::Issue;
use crate::Error;
use crate::exec::LaunchTime;

/// Whole steps queued before a profiled one, so that the device never waits for the host within it.
const AHEAD: usize = 4;

/// Pairs of events around nothing, whose time is taken off every launch.
const EMPTY: usize = 32;

/// Seconds of one of `count` issues, back to back, after one that is not timed.
pub(super) fn time(
    context: &Arc<Context>,
    stream: &Stream,
    count: usize,
    issue: impl Fn() -> Result<(), Error>,
) -> Result<f64, Error> {
    let (start, end) = (Event::new(context, true)?, Event::new(context, true)?);
    issue()?;
    start.record(stream)?;
    for _ in 0..count.max(1) {
        issue()?;
    }
    end.record(stream)?;
    end.synchronize()?;
    Ok(f64::from(Event::elapsed_ms(&start, &end)?) / 1e3 / count.max(1) as f64)
}

/// What each launch of a step takes, `repeats` times; what an empty pair of events takes is off.
pub(super) fn launches(
    context: &Arc<Context>,
    stream: &Stream,
    prepared: &Prepared,
    ahead: Option<&Issue>,
    repeats: usize,
) -> Result<Vec<LaunchTime>, Error> {
    let event = |_| Event::new(context, true);
    let count = prepared.launches.len();
    let events: Vec<Event> = (0..=count + EMPTY).map(event).collect::<Result<_, _>>()?;
    let mut times: Vec<LaunchTime> = (prepared.lowered.launches.iter())
        .zip(&prepared.launches)
        .map(|(planned, launch)| LaunchTime {
            unit: prepared.lowered.units[planned.unit].name.clone(),
            kernel: launch.kernel.name().to_owned(),
            grid: launch.grid,
            bytes: planned.bytes,
            seconds: Vec::with_capacity(repeats),
        })
        .collect();
    for _ in 0..repeats {
        for _ in 0..AHEAD {
            match ahead {
                Some(issue) => issue.issue(stream)?,
                None => {
                    for launch in &prepared.launches {
                        stream.launch(launch)?;
                    }
                }
            }
        }
        for empty in &events[..EMPTY] {
            empty.record(stream)?;
        }
        events[EMPTY].record(stream)?;
        for (launch, after) in prepared.launches.iter().zip(&events[EMPTY + 1..]) {
            stream.launch(launch)?;
            after.record(stream)?;
        }
        stream.synchronize()?;
        let between = |i: usize| -> Result<f64, Error> {
            Ok(f64::from(Event::elapsed_ms(&events[i], &events[i + 1])?) / 1e3)
        };
        let mut nothing = (0..EMPTY).map(between).collect::<Result<Vec<_>, _>>()?;
        nothing.sort_by(f64::total_cmp);
        let nothing = nothing[EMPTY / 2];
        for (i, time) in times.iter_mut().enumerate() {
            time.seconds.push((between(EMPTY + i)? - nothing).max(0.0));
        }
    }
    Ok(times)
}
