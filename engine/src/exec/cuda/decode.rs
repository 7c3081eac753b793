//! Decoding without the host in the loop.
//!
//! Each step ends with a kernel that feeds the chosen tokens back into the step state and appends
//! them to a ring in host memory. The host only queues steps, a few ahead, and reads the ring as it
//! fills: no copy and no synchronisation between tokens. A sequence that ends gets length 0 by a
//! fill queued between two steps; what it computed meanwhile is not given out.

use std::ops::ControlFlow;
use std::sync::Arc;

use gannet_cuda_runtime::{Args, Buffer, Launch, PinnedBuffer, Stream};
use gannet_ptx_gen::kernels::AdvanceSpec;
use gannet_ptx_gen::target::Target;

use super::executor::CudaExecutor;
use super::prepare::{Prepared, launch_of};
use super::record::Issue;
use super::state::StepState;
use crate::Error;
use crate::lower::{Advance, KernelSpec};

/// Steps that the ring holds.
const RING: u32 = 256;

/// Steps queued ahead of the token that the host waits for. Enough to hide the host, few enough
/// that a stop wastes little.
const AHEAD: usize = 8;

/// Polls between checks that the device still lives.
const POLLS: u32 = 1 << 14;

/// The end of a step of `rows` rows.
pub(super) fn advance(target: Target, rows: usize, context: usize) -> Advance {
    Advance(AdvanceSpec {
        target,
        num_slots: rows as u32,
        ring_len: RING,
        context: context as u32,
    })
}

/// A launch of a step, and what it is for.
pub(super) struct Listed {
    /// The unit of the plan, or what follows it.
    pub(super) unit: String,
    pub(super) launch: Launch,
    spec: KernelSpec,
    /// Bytes that it must move, where keys do not count.
    bytes: u64,
}

impl Listed {
    /// A launch of `rows` rows that is no unit of the plan.
    pub(super) fn after(
        unit: &str,
        spec: impl Into<KernelSpec>,
        rows: usize,
        launch: Launch,
    ) -> Listed {
        let spec = spec.into();
        Listed {
            unit: unit.to_owned(),
            bytes: spec.bytes(rows as u32),
            spec,
            launch,
        }
    }

    fn of_plan(prepared: &Prepared) -> Vec<Listed> {
        let lowered = &prepared.lowered;
        let planned = lowered.launches.iter().zip(&prepared.launches);
        planned
            .map(|(planned, launch)| Listed {
                unit: lowered.units[planned.unit].name.clone(),
                launch: launch.clone(),
                spec: lowered.kernels[planned.kernel].clone(),
                bytes: planned.bytes,
            })
            .collect()
    }

    /// Bytes that it must move where rows see that many keys.
    pub(super) fn bytes_at(&self, lengths: &[u32]) -> u64 {
        self.spec.bytes_at(lengths).unwrap_or(self.bytes)
    }
}

/// A step that advances itself, and its ring.
pub(super) struct Replay {
    step: Issue,
    list: Vec<Listed>,
    rows: usize,
    counter: Buffer,
    /// `u32[RING * rows + 1]`: the tokens of each step, then how many steps were written.
    ring: PinnedBuffer,
}

impl Replay {
    /// Appends the advancing kernel to the launches of one step of `rows` sequences, and before it,
    /// with `draws`, those that draw tokens where a slot's settings say so.
    pub(super) fn new(
        executor: &mut CudaExecutor,
        prepared: &Arc<Prepared>,
        rows: usize,
        draws: bool,
    ) -> Result<Replay, Error> {
        let next = executor.next_buffer(prepared)?;
        let mut list = Listed::of_plan(prepared);
        if draws {
            list.extend(executor.draw(prepared, rows)?);
        }
        let (gpu, state, limits, kernels, recorder) = executor.parts();
        let spec = advance(gpu.target, rows, limits.context);
        kernels.compile(gpu, &[spec.clone().into()])?;
        let kernel = kernels.get(&spec.clone().into())?;
        let counter = Buffer::new(&gpu.context, 4)?;
        let ring = PinnedBuffer::new(&gpu.context, (RING as usize * rows + 1) * 4)?;
        let args = Args::for_kernel(kernel)
            .ptr(&next)
            .ptr(&state.tokens)
            .ptr(&state.lengths)
            .ptr(&counter)
            .ptr(&ring.as_buffer())
            .finish()?;
        let launch = launch_of(gpu, kernel, spec.0.grid(), args);
        list.push(Listed::after("advance", spec, rows, launch));
        let mut at = 0..;
        list.retain(|_| !at.next().is_some_and(|i| recorder.omits(i)));
        let launches = list.iter().map(|l| l.launch.clone()).collect();
        Ok(Replay {
            step: recorder.record(&gpu.context, launches)?,
            list,
            rows,
            counter,
            ring,
        })
    }

    /// The launches of a step, in order.
    pub(super) fn list(&self) -> &[Listed] {
        &self.list
    }

    /// Whether it stands in for a graph that could not be built.
    pub(super) fn is_fallback(&self) -> bool {
        self.step.is_fallback()
    }

    /// Queues one step.
    pub(super) fn issue(&self, stream: &Stream) -> Result<(), Error> {
        self.step.issue(stream)
    }

    /// Runs up to `steps` steps of the first `sequences` rows, until `on_token` has ended them all,
    /// and returns how many were issued. Everything issued is done when it returns.
    pub(super) fn run(
        &mut self,
        stream: &Stream,
        state: &StepState,
        (sequences, steps): (usize, usize),
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<u64, Error> {
        stream.memset_d32(&self.counter, 0)?;
        let count = RING as usize * self.rows;
        self.ring.write_u32(count, 0)?;
        let mut live: Vec<usize> = (0..sequences).collect();
        let (mut queued, mut read) = (0, 0);
        while read < steps && !live.is_empty() {
            while queued < steps && queued - read < AHEAD {
                self.issue(stream)?;
                queued += 1;
            }
            let written = self.wait(stream, read)?;
            while read < written && !live.is_empty() {
                let start = read % RING as usize * self.rows;
                let mut ended = Vec::new();
                for &i in &live {
                    if on_token(i, self.ring.read_u32(start + i)?).is_break() {
                        ended.push(i);
                    }
                }
                read += 1;
                live.retain(|i| !ended.contains(i));
                if !live.is_empty() && read < steps {
                    for i in ended {
                        stream.memset_d32(&state.lengths.slice(4 * i..4 * i + 4)?, 0)?;
                    }
                }
            }
        }
        // Steps still queued only write positions that nobody reads, but must not outlive this.
        stream.synchronize()?;
        Ok(queued as u64)
    }

    /// Polls until more than `read` steps are in the ring; returns how many.
    fn wait(&self, stream: &Stream, read: usize) -> Result<usize, Error> {
        let count = RING as usize * self.rows;
        let mut polls = 0;
        loop {
            let written = self.ring.read_u32(count)? as usize;
            if written > read {
                return Ok(written);
            }
            polls += 1;
            if polls == POLLS {
                polls = 0;
                let idle = stream.query()?;
                if idle && self.ring.read_u32(count)? as usize <= read {
                    let why = "the device finished its steps without writing a token";
                    return Err(Error::internal(why));
                }
            }
            std::hint::spin_loop();
        }
    }
}
