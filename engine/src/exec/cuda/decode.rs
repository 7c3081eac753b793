//! Decoding without the host in the loop.
//!
//! Each step ends with a kernel that feeds the chosen tokens back into the step state and appends
//! them to a ring in host memory. The host only queues steps, a few ahead, and reads the ring as it
//! fills: no copy and no synchronisation between tokens. A sequence that ends gets length 0 by a
//! fill queued between two steps; what it computed meanwhile is not given out.

use std::ops::ControlFlow;
use std::sync::Arc;

use gannet_cuda_runtime::{Buffer, Launch, Stream};
use gannet_ptx_gen::kernels::AdvanceSpec;
use gannet_ptx_gen::target::Target;

use super::prepare::{Prepared, args_by_name, launch_of};
use super::rank::Rank;
use super::record::Issue;
use super::replays::DecodeParts;
use super::ring::{RING, Ring};
use super::sampler::Rows;
use crate::Error;
use crate::exec::DecodeStart;
use crate::exec::addresses::Inputs;
use crate::lower::{Advance, KernelSpec, Named};
use crate::plan::{Buf, Column, Plan};

/// Steps queued ahead of the token that the host waits for. Enough to hide the host, few enough
/// that a stop wastes little.
const AHEAD: usize = 8;

/// What decoding steps are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DecodeShape {
    /// Rows of a step: a power of two, the spare ones dead.
    pub(super) rows: usize,
    /// Whether some tokens are drawn rather than the most likely.
    pub(super) draws: bool,
}

impl DecodeShape {
    pub(super) fn of(sequences: &[DecodeStart<'_>]) -> DecodeShape {
        DecodeShape {
            rows: sequences.len().next_power_of_two(),
            draws: !sequences.iter().all(|s| s.sampling.is_greedy()),
        }
    }
}

/// The end of a step of `rows` rows, which also counts positions where the plan looks them up.
pub(super) fn advance(target: Target, rows: usize, context: usize, positions: bool) -> Advance {
    Advance(AdvanceSpec {
        target,
        num_slots: rows as u32,
        ring_len: RING,
        context: context as u32,
        positions,
        gathers: false,
    })
}

/// What the kernel that ends a step writes to, and the tokens that it finds.
pub(super) struct End<'a, B> {
    pub(super) next: &'a B,
    pub(super) latest: &'a B,
    pub(super) counter: &'a B,
    pub(super) ring: &'a B,
}

impl<'a, B> End<'a, B> {
    /// What it takes, by the names of its parameters.
    pub(super) fn given(&self, inputs: &'a Inputs<B>, positions: bool) -> Named<&'a B> {
        let positions = positions.then(|| ("positions", inputs.column(Column::Position)));
        let given = [
            ("next", self.next),
            ("tokens", inputs.column(Column::Token)),
            ("lengths", inputs.column(Column::Length)),
            ("limits", inputs.column(Column::Limit)),
            ("slots", inputs.column(Column::Slot)),
            ("latest", self.latest),
            ("steps", self.counter),
            ("ring", self.ring),
        ];
        Named::new(given.into_iter().chain(positions))
    }
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
                bytes: lowered.launch_bytes(planned),
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
    ring: Ring,
}

impl Replay {
    /// Appends the advancing kernel to the launches of one prepared step, and before it, where tokens
    /// are drawn, those that do so where a slot's settings say so.
    pub(super) fn new(
        parts: DecodeParts<'_>,
        plan: &Plan,
        prepared: &Arc<Prepared>,
        shape: DecodeShape,
    ) -> Result<Replay, Error> {
        let DecodeParts {
            gpu,
            stream,
            state,
            limits,
            kernels,
            recorder,
            samplers,
        } = parts;
        let rows = shape.rows;
        let next = made(prepared, plan.next)?;
        let mut list = Listed::of_plan(prepared);
        if let Some(samplers) = samplers.filter(|_| shape.draws) {
            let logits = made(prepared, plan.logits)?;
            list.extend(samplers.launches(gpu, &logits, state, &next, Rows::all(rows))?);
        }
        let positions = plan.max_positions().is_some();
        let advance = advance(gpu.target, rows, limits.context, positions);
        let spec = KernelSpec::from(advance);
        kernels.compile(gpu, std::slice::from_ref(&spec))?;
        let kernel = kernels.get(&spec)?;
        let ring = Ring::new(&gpu.context, stream, rows)?;
        let memory = ring.memory();
        let end = End {
            next: &next,
            latest: &state.latest,
            counter: ring.counter(),
            ring: &memory,
        };
        let given = end.given(&state.inputs, positions);
        let args = args_by_name(&spec, kernel, &given, None)?;
        let launch = launch_of(gpu, kernel, spec.grid(rows as u32), args);
        list.push(Listed::after("advance", spec, rows, launch));
        let mut at = 0..;
        list.retain(|_| !at.next().is_some_and(|i| recorder.omits(i)));
        let launches = list.iter().map(|l| l.launch.clone()).collect();
        Ok(Replay {
            step: recorder.record(&gpu.context, launches)?,
            list,
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

    /// Queues one step, and returns its number.
    pub(super) fn issue(&self, stream: &Stream) -> Result<u32, Error> {
        self.step.issue(stream)?;
        Ok(self.ring.count())
    }

    /// Where its tokens go.
    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }
}

/// Memory of a buffer that the step makes.
fn made(prepared: &Prepared, b: Buf) -> Result<Buffer, Error> {
    let buffer = prepared.buffers[b.0 as usize].clone();
    buffer.ok_or_else(|| Error::internal("the step chooses no token"))
}

/// Runs the decode that all ranks have started, `steps` of each sequence, until `on_token` has ended all
/// of them or their steps are over, and returns how many steps were issued. Tokens are those of the
/// first rank. Steps that are still queued when it returns only write positions that nobody reads, in
/// front of whatever is queued behind them.
pub(super) fn run(
    ranks: &mut [Rank],
    shape: DecodeShape,
    steps: &[usize],
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<u64, Error> {
    let first = ranks[0].replay(shape).ring().issued();
    let most = steps.iter().copied().max().unwrap_or(0);
    let mut live: Vec<usize> = (0..steps.len()).filter(|&i| steps[i] > 0).collect();
    let (mut queued, mut read) = (0, 0);
    while read < most && !live.is_empty() {
        while queued < most && queued - read < AHEAD {
            for rank in ranks.iter_mut() {
                rank.issue(shape)?;
            }
            queued += 1;
        }
        let ring = ranks[0].replay(shape).ring();
        let written = ring.wait(ranks[0].stream(), first, read, None)?;
        while read < written && !live.is_empty() {
            let mut ended = Vec::new();
            for &i in &live {
                let ring = ranks[0].replay(shape).ring();
                let token = ring.token(first.wrapping_add(read as u32), i)?;
                if on_token(i, token).is_break() {
                    ended.push(i);
                }
            }
            read += 1;
            // Those whose limit is reached end by themselves.
            live.retain(|&i| !ended.contains(&i) && read < steps[i]);
            if !live.is_empty() && read < most {
                for i in ended {
                    ranks.iter().try_for_each(|rank| rank.end_row(i))?;
                }
            }
        }
    }
    Ok(queued as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_step_takes_what_it_is_given() {
        let inputs = Inputs {
            columns: (0..Column::COUNT).collect(),
            block_table: 99,
        };
        let (tokens, lengths) = (Column::Token as usize, Column::Length as usize);
        let (limits, places) = (Column::Limit as usize, Column::Position as usize);
        let slots = Column::Slot as usize;
        let end = End {
            next: &10,
            latest: &13,
            counter: &11,
            ring: &12,
        };
        let all = [
            &10, &tokens, &lengths, &limits, &slots, &13, &11, &12, &places,
        ];
        for (positions, expected) in [(false, &all[..8]), (true, &all[..])] {
            let spec = KernelSpec::from(advance(Target::Sm80, 2, 64, positions));
            let args = end.given(&inputs, positions).bind(&spec).unwrap();
            assert_eq!(args, expected);
        }
    }
}
