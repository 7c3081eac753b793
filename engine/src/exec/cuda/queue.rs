//! Steps that queue on a GPU, in the order in which they were given.
//!
//! | step | what is queued |
//! |---|---|
//! | goes on with the rows of the decode in front of it | its launches: nothing comes from the host but blocks that are new in the table |
//! | another decode | its inputs, tokens that steps in front chose, its launches |
//! | any other | the same; its launches one by one, and an end that gathers its outputs |
//!
//! Every step ends with a kernel that keeps what was chosen for each slot on the device and tells the
//! host ([`Ring`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use gannet_cuda_runtime::{Context, DeviceEvent, Launch, Stream};
use gannet_ptx_gen::kernels::{AdvanceSpec, FeedSpec};
use gannet_ptx_gen::target::Target;

use super::decode::{DecodeShape, End};
use super::prepare::{args_by_name, launch_of};
use super::rank::{Rank, batch_shape};
use super::ring::{RING, Ring};
use super::sampler::Rows;
use crate::Error;
use crate::exec::{Limits, SlotChoice, Step, StepRows, StepTimes};
use crate::lower::{Advance, GEMV_MAX_ROWS, KernelSpec, Named, Shape, StepKind};
use crate::plan::{Column, StepRow};

/// What is under way.
#[derive(Default)]
pub(super) struct Queue {
    in_flight: VecDeque<InFlight>,
    /// The decode that the latest step was, if it was one, and the rows that it left in the step state.
    follows: Option<(DecodeShape, StepRows)>,
    /// Slots whose tokens are drawn.
    draws: Vec<bool>,
    /// Where steps leave their tokens that are no decodes.
    gathered: Option<Ring>,
    /// Ends of steps: by class, outputs and whether some are drawn.
    ends: HashMap<(Shape, usize, bool), Vec<Launch>>,
    /// Where steps are timed.
    clock: Option<Clock>,
    timed: StepTimes,
}

impl Queue {
    /// A queue of nothing.
    pub(super) fn new(
        context: &Arc<Context>,
        stream: &Stream,
        limits: Limits,
    ) -> Result<Queue, Error> {
        Ok(Queue {
            gathered: Some(Ring::new(context, stream, width(limits))?),
            ..Queue::default()
        })
    }

    /// What timed steps took.
    pub(super) fn timed(&self) -> StepTimes {
        self.timed
    }

    /// Times steps from now on, or does not.
    pub(super) fn time(&mut self, on: bool) {
        self.clock = on.then(|| Clock {
            spare: Vec::new(),
            latest: None,
        });
    }

    /// What comes next comes after a pause.
    pub(super) fn pause(&mut self) {
        if let Some(clock) = &mut self.clock {
            clock.latest = None;
        }
    }

    /// The step state holds other rows than the latest decode left.
    pub(super) fn forget_rows(&mut self) {
        self.follows = None;
    }
}

/// A step whose tokens were not taken.
struct InFlight {
    /// Whose ring; `None`: of those that gather.
    decode: Option<DecodeShape>,
    number: u32,
    outputs: usize,
    /// In front of it and behind it, where it is timed.
    events: Option<[DeviceEvent; 2]>,
}

/// The events of steps.
struct Clock {
    /// Events that no step in flight has.
    spare: Vec<DeviceEvent>,
    /// Behind the latest step that was taken, unless there was a pause since.
    latest: Option<DeviceEvent>,
}

impl Clock {
    /// An event of a point that the stream has reached.
    fn record(&mut self, stream: &Stream) -> Result<DeviceEvent, Error> {
        let event = match self.spare.pop() {
            Some(event) => event,
            None => DeviceEvent::new(stream.context(), true)?,
        };
        event.record(stream)?;
        Ok(event)
    }

    /// Adds the times of a step that has ended.
    fn add(&mut self, events: [DeviceEvent; 2], to: &mut StepTimes) -> Result<(), Error> {
        let between = |from: &DeviceEvent, to: &DeviceEvent| -> Result<Duration, Error> {
            let milliseconds = DeviceEvent::elapsed_ms(from, to)?;
            Ok(Duration::from_secs_f64(
                f64::from(milliseconds.max(0.0)) / 1e3,
            ))
        };
        let [start, end] = events;
        // It told the host before the event behind it.
        end.synchronize()?;
        to.busy += between(&start, &end)?;
        if let Some(latest) = self.latest.take() {
            to.idle += between(&latest, &start)?;
            self.spare.push(latest);
        }
        self.spare.push(start);
        self.latest = Some(end);
        Ok(())
    }
}

/// The kernels that steps need which queue, besides those of their shapes.
pub(super) fn kernels(target: Target, limits: Limits, positions: bool) -> [KernelSpec; 2] {
    let end = AdvanceSpec {
        target,
        num_slots: width(limits) as u32,
        ring_len: RING,
        context: limits.context as u32,
        positions,
        gathers: true,
    };
    [FeedSpec { target }.into(), Advance(end).into()]
}

/// Most outputs of a step that queues.
fn width(limits: Limits) -> usize {
    limits.num_slots.next_power_of_two()
}

/// Whether every row of a step is an output, as few as one replay has.
fn decode_rows(step: &Step<'_>, limits: Limits) -> Option<usize> {
    let rows = step.rows();
    let all = (0..rows as u32).eq(step.outputs().iter().copied());
    let shape = step.shape();
    let is_decode = all && (rows == 1 || shape.kind == StepKind::Batch);
    (is_decode && rows.is_power_of_two() && rows <= width(limits)).then_some(rows)
}

/// The rows that a decode leaves behind.
fn advanced(rows: &StepRows, context: usize) -> StepRows {
    let left = (0..rows.rows()).map(|i| {
        let row = StepRow::of(|column| rows.column(column)[i]);
        let is_over = row.limit > 0 && row.length >= row.limit;
        match row.length {
            0 => row,
            _ if is_over => StepRow { length: 0, ..row },
            length => StepRow {
                token: StepRow::CHOSEN,
                length: (length + 1).min(context as u32),
                ..row
            },
        }
    });
    StepRows::batch(left)
}

impl Rank {
    /// Sets how a slot's tokens are chosen in the steps behind.
    pub(super) fn set_slot(&mut self, choice: &SlotChoice<'_>) -> Result<(), Error> {
        let slot = choice.slot as usize;
        let draws = !choice.sampling.is_greedy();
        self.queue.draws.resize(self.limits().num_slots, false);
        match self.queue.draws.get_mut(slot) {
            Some(place) => *place = draws,
            None => return Err(Error::internal(format!("there is no slot {slot}"))),
        }
        // Without any that draws, nothing reads the settings.
        if draws || self.has_samplers() {
            self.set_sampler(choice)?;
        }
        Ok(())
    }

    /// Queues a step.
    pub(super) fn queue(&mut self, step: &Step<'_>) -> Result<(), Error> {
        let limits = self.limits();
        step.check_queued(limits, self.plan())?;
        if step.outputs().len() > width(limits) {
            let (found, most) = (step.outputs().len(), width(limits));
            return Err(Error::internal(format!(
                "a step of {found} outputs is queued where there are {most} at most"
            )));
        }
        let slots = step.column(Column::OutputSlot).iter();
        let draws = slots.clone().any(|&slot| {
            let known = self.queue.draws.get(slot as usize);
            known.copied().unwrap_or(false)
        });
        let start = self.mark()?;
        let in_flight = match decode_rows(step, limits) {
            Some(rows) => self.queue_decode(step, DecodeShape { rows, draws })?,
            None => self.queue_gathered(step, draws)?,
        };
        let events = start.zip(self.mark()?).map(|(start, end)| [start, end]);
        self.queue.in_flight.push_back(InFlight {
            events,
            ..in_flight
        });
        Ok(())
    }

    /// An event here, where steps are timed.
    fn mark(&mut self) -> Result<Option<DeviceEvent>, Error> {
        let Some(mut clock) = self.queue.clock.take() else {
            return Ok(None);
        };
        let event = clock.record(self.stream());
        self.queue.clock = Some(clock);
        event.map(Some)
    }

    /// Lowers every class of steps that can be queued, loads their kernels and builds their graphs.
    pub(super) fn warm_up(&mut self) -> Result<(), Error> {
        let limits = self.limits();
        let up_to = |most: usize| {
            let powers = std::iter::successors(Some(1), |n| Some(2 * n));
            powers.take_while(move |n| *n < most).chain([most])
        };
        // Few rows are classes of their own.
        let rows = (1..=GEMV_MAX_ROWS).chain(up_to(limits.max_rows));
        let rows: Vec<usize> = rows.filter(|&n| n <= limits.max_rows).collect();
        for &rows in &rows {
            for outputs in [0]
                .into_iter()
                .chain(1..=GEMV_MAX_ROWS)
                .chain(up_to(width(limits)))
            {
                let shape = |kind| Shape {
                    rows,
                    outputs,
                    kind,
                };
                if outputs <= 1 {
                    self.prepared(shape(StepKind::Prompt))?;
                }
                if rows > 1 && outputs <= rows.min(width(limits)) {
                    self.prepared(shape(StepKind::Batch))?;
                }
            }
        }
        for rows in up_to(width(limits)) {
            for draws in [false, true] {
                self.make_replay(DecodeShape { rows, draws })?;
            }
        }
        Ok(())
    }

    fn queue_decode(&mut self, step: &Step<'_>, shape: DecodeShape) -> Result<InFlight, Error> {
        self.make_replay(shape)?;
        let follows = self.queue.follows.take();
        let goes_on =
            follows.is_some_and(|(of, rows)| of.rows == shape.rows && rows == *step.inputs);
        if goes_on {
            self.upload_table(step.table)?;
        } else {
            self.upload(step)?;
            self.feed(step)?;
        }
        self.set_current(batch_shape(shape.rows))?;
        let number = self.issue(shape)?;
        self.queue.follows = Some((shape, advanced(step.inputs, self.limits().context)));
        Ok(InFlight {
            decode: Some(shape),
            number,
            outputs: shape.rows,
            events: None,
        })
    }

    fn queue_gathered(&mut self, step: &Step<'_>, draws: bool) -> Result<InFlight, Error> {
        self.upload(step)?;
        self.feed(step)?;
        let prepared = self.set_current(step.shape())?;
        self.launch_where(&prepared, step.shape(), |_| true)?;
        let (shape, outputs) = (step.shape(), step.outputs().len());
        let key = (self.class(shape), outputs, draws);
        if !self.queue.ends.contains_key(&key) {
            let end = self.end(key.0, outputs, draws)?;
            self.queue.ends.insert(key, end);
        }
        for launch in &self.queue.ends[&key] {
            self.stream().launch(launch)?;
        }
        let number = self.gathered()?.count();
        Ok(InFlight {
            decode: None,
            number,
            outputs,
            events: None,
        })
    }

    /// Puts tokens that steps in front chose into the step state.
    fn feed(&mut self, step: &Step<'_>) -> Result<(), Error> {
        if !step.tokens().contains(&StepRow::CHOSEN) {
            return Ok(());
        }
        let spec = KernelSpec::from(FeedSpec {
            target: self.gpu().target,
        });
        let kernel = self.kernel(&spec)?;
        let inputs = &self.state().inputs;
        let given = Named::new([
            ("tokens", inputs.column(Column::Token)),
            ("slots", inputs.column(Column::Slot)),
            ("latest", &self.state().latest),
        ]);
        let rows = step.rows() as u32;
        let args = args_by_name(&spec, &kernel, &given, Some(rows))?;
        let launch = launch_of(self.gpu(), &kernel, spec.grid(rows), args);
        Ok(self.stream().launch(&launch)?)
    }

    /// What follows the launches of a step that is no decode.
    fn end(&mut self, class: Shape, outputs: usize, draws: bool) -> Result<Vec<Launch>, Error> {
        let limits = self.limits();
        let positions = self.plan().max_positions().is_some();
        let prepared = self.prepared(class)?;
        let [_, end] = kernels(self.gpu().target, limits, positions);
        let kernel = self.kernel(&end)?;
        self.gathered()?;
        let next = prepared.buffers[self.plan().next.0 as usize].clone();
        let mut launches = Vec::new();
        if draws && let Some(next) = &next {
            let logits = prepared.buffers[self.plan().logits.0 as usize].clone();
            let logits = logits.ok_or_else(|| Error::internal("the step makes no logits"))?;
            let listed = self.sampling(&logits, next, Rows::outputs(outputs))?;
            launches.extend(listed.into_iter().map(|listed| listed.launch));
        }
        let state = self.state();
        let ring = self.gathered()?;
        let memory = ring.memory();
        let writes = End {
            // A step without outputs chooses nothing.
            next: next.as_ref().unwrap_or(&state.latest),
            latest: &state.latest,
            counter: ring.counter(),
            ring: &memory,
        };
        let given = writes.given(&state.inputs, positions);
        let given = given.with("indices", state.inputs.column(Column::Output));
        let args = args_by_name(&end, &kernel, &given, Some(outputs as u32))?;
        launches.push(launch_of(
            self.gpu(),
            &kernel,
            end.grid(outputs as u32),
            args,
        ));
        Ok(launches)
    }

    /// The ring of steps that gather their outputs.
    fn gathered(&self) -> Result<&Ring, Error> {
        let ring = self.queue.gathered.as_ref();
        ring.ok_or_else(|| Error::internal("steps queue where tokens are chosen on the CPU"))
    }

    /// The tokens of the oldest step that were not taken, once they are there.
    pub(super) fn take(&mut self, patience: Duration) -> Result<Option<Vec<u32>>, Error> {
        let Some(step) = self.queue.in_flight.front() else {
            return Ok(None);
        };
        let ring = match step.decode {
            Some(shape) => self.replay(shape).ring(),
            None => self.gathered()?,
        };
        if ring.wait(self.stream(), step.number, 0, Some(patience))? == 0 {
            return Ok(None);
        }
        let tokens = (0..step.outputs).map(|output| ring.token(step.number, output));
        let tokens = tokens.collect::<Result<_, _>>()?;
        let taken = self.queue.in_flight.pop_front();
        let Queue { clock, timed, .. } = &mut self.queue;
        if let (Some(clock), Some(events)) = (clock, taken.and_then(|step| step.events)) {
            clock.add(events, timed)?;
        }
        Ok(Some(tokens))
    }

    /// Waits for what is queued and forgets it.
    pub(super) fn abandon(&mut self) -> Result<(), Error> {
        self.queue.in_flight.clear();
        self.queue.follows = None;
        self.synchronize()?;
        for ring in self.rings().chain(&self.queue.gathered) {
            ring.resume()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decode_leaves_the_rows_of_the_next() {
        let row = |token, length, slot, limit| StepRow {
            limit,
            ..StepRow::new(token, length, slot)
        };
        let rows = StepRows::batch([
            row(7, 3, 1, 0),
            row(StepRow::CHOSEN, 4, 0, 5),
            row(9, 5, 2, 5),
            StepRow::default(),
        ]);
        let left = advanced(&rows, 8);
        assert_eq!(left.column(Column::Length), [4, 5, 0, 0]);
        assert_eq!(left.column(Column::Token)[..2], [StepRow::CHOSEN; 2]);
        assert_eq!(left.column(Column::Slot), [1, 0, 2, 0]);
        let full = StepRows::batch([row(1, 8, 0, 0)]);
        assert_eq!(advanced(&full, 8).column(Column::Length), [8]);
    }
}
