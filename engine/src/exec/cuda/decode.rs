//! Greedy decoding without the host in the loop.
//!
//! Each step ends with a kernel that feeds the chosen token back into the step state and appends it
//! to a ring in host memory. The host only queues steps, a few ahead, and reads the ring as it
//! fills: no copy and no synchronisation between tokens.

use std::ops::ControlFlow;
use std::sync::Arc;

use gannet_cuda_runtime::{Args, Buffer, GraphBuilder, GraphExec, Launch, PinnedBuffer, Stream};
use gannet_ptx_gen::kernels::AdvanceSpec;

use super::executor::CudaExecutor;
use super::prepare::{Prepared, compile};
use crate::Error;

/// Tokens that the ring holds.
const RING: u32 = 256;

/// Steps queued ahead of the token that the host waits for. Enough to hide the host, few enough
/// that a stop wastes little.
const AHEAD: usize = 8;

/// Polls between checks that the device still lives.
const POLLS: u32 = 1 << 14;

/// A step that advances itself, and its ring.
pub(super) struct Replay {
    step: Issue,
    counter: Buffer,
    /// `u32[RING + 1]`: tokens, then how many were written.
    ring: PinnedBuffer,
}

enum Issue {
    Graph(GraphExec),
    Launches(Vec<Launch>),
}

impl Replay {
    /// Appends the advancing kernel to the launches of one token.
    pub(super) fn new(
        executor: &mut CudaExecutor,
        prepared: &Arc<Prepared>,
        graph: bool,
    ) -> Result<Replay, Error> {
        let next = executor.next_buffer(prepared)?;
        let (gpu, state, limits) = executor.parts();
        let spec = AdvanceSpec {
            target: gpu.target,
            num_slots: 1,
            ring_len: RING,
            context: limits.context as u32,
        };
        let kernel = compile(gpu, &spec.kernel())?;
        let counter = Buffer::new(&gpu.context, 4)?;
        let ring = PinnedBuffer::new(&gpu.context, (RING as usize + 1) * 4)?;
        let args = Args::for_kernel(&kernel)
            .ptr(&next)
            .ptr(&state.tokens)
            .ptr(&state.lengths)
            .ptr(&counter)
            .ptr(&ring.as_buffer())
            .finish()?;
        let mut launches = prepared.launches.clone();
        launches.push(Launch::new(&kernel, spec.grid(), args));
        let step = if graph {
            let mut builder = GraphBuilder::new(&gpu.context)?;
            builder.chain(&launches)?;
            Issue::Graph(builder.instantiate()?)
        } else {
            Issue::Launches(launches)
        };
        Ok(Replay {
            step,
            counter,
            ring,
        })
    }

    /// Runs `steps` steps, or until `on_token` breaks, and returns how many were issued.
    pub(super) fn run(
        &mut self,
        stream: &Stream,
        steps: usize,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<u64, Error> {
        stream.memset_d32(&self.counter, 0)?;
        self.ring.write_u32(RING as usize, 0)?;
        let (mut queued, mut read) = (0, 0);
        while read < steps {
            while queued < steps && queued - read < AHEAD {
                self.issue(stream)?;
                queued += 1;
            }
            let written = self.wait(stream, read)?;
            while read < written {
                let token = self.ring.read_u32(read % RING as usize)?;
                read += 1;
                if on_token(token).is_break() {
                    // Steps already queued only write positions that nobody reads.
                    stream.synchronize()?;
                    return Ok(queued as u64);
                }
            }
        }
        Ok(queued as u64)
    }

    fn issue(&self, stream: &Stream) -> Result<(), Error> {
        match &self.step {
            Issue::Graph(graph) => graph.launch(stream)?,
            Issue::Launches(launches) => {
                for launch in launches {
                    stream.launch(launch)?;
                }
            }
        }
        Ok(())
    }

    /// Polls until more than `read` tokens are in the ring; returns how many.
    fn wait(&self, stream: &Stream, read: usize) -> Result<usize, Error> {
        let mut polls = 0;
        loop {
            let written = self.ring.read_u32(RING as usize)? as usize;
            if written > read {
                return Ok(written);
            }
            polls += 1;
            if polls == POLLS {
                polls = 0;
                let idle = stream.query()?;
                if idle && self.ring.read_u32(RING as usize)? as usize <= read {
                    let why = "the device finished its steps without writing a token";
                    return Err(Error::Cuda(why.to_owned()));
                }
            }
            std::hint::spin_loop();
        }
    }
}
