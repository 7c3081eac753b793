//! Other kernels in a step: the launches of a prepared step with kernels in the place of those that
//! it has, run one by one on any input, and timed.
//!
//! What serves never sees them: a trial names the step's own memory and shares nothing else with it.

use std::sync::Arc;

use gannet_cuda_runtime::{Buffer, DeviceEvent, GraphBuilder, GraphExec, Launch, LoadedKernel};

use super::prepare::{Prepared, compile, launch_of};
use super::rank::Rank;
use crate::Error;
use crate::lower::{KernelSpec, Lowered};
use crate::model::Model;
use crate::plan::Buf;

/// Bytes that are filled between two timings: more than any cache.
const FLUSH: usize = 256 << 20;

/// A step in which kernels can be replaced.
pub(crate) struct Trials<'r> {
    rank: &'r Rank,
    prepared: Arc<Prepared>,
    flush: Buffer,
}

/// Launches of the step with other kernels.
pub(crate) struct Trial {
    launches: Vec<Launch>,
    local_bytes: u32,
    /// Made when it is first timed.
    graph: Option<GraphExec>,
}

impl Trial {
    /// The most local memory that a thread of its kernels takes.
    pub(crate) fn local_bytes(&self) -> u32 {
        self.local_bytes
    }
}

impl<'r> Trials<'r> {
    /// `prepared` is a step of `rank` that has as many outputs as rows.
    pub(super) fn new(rank: &'r Rank, prepared: Arc<Prepared>) -> Result<Trials<'r>, Error> {
        Ok(Trials {
            flush: Buffer::new(&rank.gpu().context, FLUSH)?,
            rank,
            prepared,
        })
    }

    /// The step.
    pub(crate) fn lowered(&self) -> &Lowered {
        &self.prepared.lowered
    }

    /// The model whose weights the step reads.
    pub(crate) fn model(&self) -> &Arc<Model> {
        self.rank.model()
    }

    /// Launches of the step, by index, each with another kernel of the same parameters.
    ///
    /// # Errors
    /// A kernel that cannot be written or compiled.
    pub(crate) fn compile(&self, members: &[(usize, KernelSpec)]) -> Result<Trial, Error> {
        let gpu = self.rank.gpu();
        let mut kernels: Vec<(&KernelSpec, LoadedKernel)> = Vec::new();
        let mut launches = Vec::with_capacity(members.len());
        for (index, spec) in members {
            let kernel = match kernels.iter().find(|(known, _)| *known == spec) {
                Some((_, kernel)) => kernel.clone(),
                None => {
                    let kernel = compile(gpu, &spec.kernel())?;
                    kernels.push((spec, kernel.clone()));
                    kernel
                }
            };
            let grid = spec.grid(self.lowered().shape.rows as u32);
            let args = self.prepared.launches[*index].args.clone();
            launches.push(launch_of(gpu, &kernel, grid, args));
        }
        let local = kernels.iter().map(|(_, k)| k.attributes().local_bytes);
        Ok(Trial {
            launches,
            local_bytes: local.max().unwrap_or(0),
            graph: None,
        })
    }

    /// Elements of a buffer's memory; `None` where fusion never makes it.
    pub(crate) fn len(&self, b: Buf) -> Option<usize> {
        self.memory(b).map(|memory| memory.len() / 4)
    }

    /// A buffer's contents; `None` where fusion never makes it.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn read(&self, b: Buf) -> Result<Option<Vec<f32>>, Error> {
        let Some(memory) = self.memory(b) else {
            return Ok(None);
        };
        let mut values = vec![0f32; memory.len() / 4];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.rank.stream().copy_from_device(memory, 0, bytes)?;
        Ok(Some(values))
    }

    /// Overwrites a buffer, if the step makes it.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn write(&self, b: Buf, values: &[f32]) -> Result<(), Error> {
        if let Some(memory) = self.memory(b) {
            let bytes = bytemuck::cast_slice(values);
            self.rank.stream().copy_to_device(memory, 0, bytes)?;
        }
        Ok(())
    }

    /// Queues one launch of a trial.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn launch(&self, trial: &Trial, member: usize) -> Result<(), Error> {
        Ok(self.rank.stream().launch(&trial.launches[member])?)
    }

    /// Seconds of one launch, the median of repeats of all of a trial's, one after the other in a
    /// graph; what they read has left every cache.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn seconds(&self, trial: &mut Trial, repeats: usize) -> Result<f64, Error> {
        let (stream, context) = (self.rank.stream(), &self.rank.gpu().context);
        let graph = match trial.graph.take() {
            Some(graph) => graph,
            None => {
                let mut builder = GraphBuilder::new(context)?;
                builder.chain(&trial.launches)?;
                builder.instantiate()?
            }
        };
        let graph = trial.graph.insert(graph);
        let event = || DeviceEvent::new(context, true);
        let (start, end) = (event()?, event()?);
        let mut seconds = Vec::with_capacity(repeats);
        for _ in 0..=repeats {
            stream.memset_d8(&self.flush, 0)?;
            start.record(stream)?;
            graph.launch(stream)?;
            end.record(stream)?;
            end.synchronize()?;
            seconds.push(f64::from(DeviceEvent::elapsed_ms(&start, &end)?) / 1e3);
        }
        // The first warms up.
        seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2] / trial.launches.len() as f64)
    }

    fn memory(&self, b: Buf) -> Option<&Buffer> {
        self.prepared.buffers[b.0 as usize].as_ref()
    }
}
