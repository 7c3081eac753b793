//! From a list of launches to something that issues them: one by one, or as a graph.
//!
//! The list is the same for every way, and recording is the only place that chooses, so that a
//! launch cannot run eagerly and be missing from a graph.
//!
//! From sm_90 on launches overlap, in graphs and one by one alike: each may start once the one in
//! front of it has waited for its own predecessor (programmatic launches), so that everything older
//! than the launch in front is complete. A kernel then loads above its wait what no launch of the step
//! writes; the verifier refuses writes and exits there, the interpreter loads of what the launch in
//! front wrote. Prefetches to L2 by the kernel in front cost more than they save: a launch is complete
//! only when its prefetches are.

use std::sync::Arc;

use gannet_cuda_runtime::{Context, GraphBuilder, GraphExec, Launch, Stream};

use crate::Error;
use crate::exec::ExecutorKind;
use crate::settings::ExecutorChoice;
use crate::settings::Faults;

/// Launches, ready to issue as often as wanted.
pub(super) enum Issue {
    /// One graph.
    Graph(GraphExec),
    /// One after the other; `fallback` where a graph was wanted.
    Launches {
        launches: Vec<Launch>,
        fallback: bool,
    },
}

impl Issue {
    /// Queues all launches.
    pub(super) fn issue(&self, stream: &Stream) -> Result<(), Error> {
        match self {
            Issue::Graph(graph) => graph.launch(stream)?,
            Issue::Launches { launches, .. } => {
                for launch in launches {
                    stream.launch(launch)?;
                }
            }
        }
        Ok(())
    }

    /// Whether it stands in for a graph.
    pub(super) fn is_fallback(&self) -> bool {
        matches!(self, Issue::Launches { fallback: true, .. })
    }
}

/// Makes graphs the way that was asked for.
pub(super) struct Recorder {
    choice: ExecutorChoice,
    faults: Faults,
    /// Why graphs can't be built here; once one could not, no other is tried.
    broken: Option<String>,
    /// Graphs that were built.
    built: u64,
}

impl Recorder {
    pub(super) fn new(choice: ExecutorChoice, faults: Faults) -> Recorder {
        Recorder {
            choice,
            faults,
            broken: None,
            built: 0,
        }
    }

    /// What an executor is that issues its steps this way.
    pub(super) fn kind(&self) -> ExecutorKind {
        match (self.choice, &self.broken) {
            (ExecutorChoice::Eager, _) | (ExecutorChoice::Auto, Some(_)) => ExecutorKind::CudaEager,
            (ExecutorChoice::Capture, _) => ExecutorKind::CudaCapture,
            (ExecutorChoice::Graph | ExecutorChoice::Auto, _) => ExecutorKind::CudaGraph,
        }
    }

    /// Whether steps that repeat are replayed.
    pub(super) fn replays(&self) -> bool {
        self.choice != ExecutorChoice::Eager
    }

    /// Graphs that were built.
    pub(super) fn built(&self) -> u64 {
        self.built
    }

    /// Why graphs could not be built.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Whether a launch of a list is left out: a planted fault.
    pub(super) fn omits(&self, launch: usize) -> bool {
        self.faults.omit_launch == Some(launch)
    }

    /// The launches of a list that are issued: all, but for a planted fault.
    pub(super) fn listed(&self, launches: &[Launch]) -> Vec<Launch> {
        let kept = |(i, _): &(usize, &Launch)| !self.omits(*i);
        let launches = launches.iter().enumerate().filter(kept);
        launches.map(|(_, launch)| launch.clone()).collect()
    }

    /// Records a list that will be issued often.
    pub(super) fn record(
        &mut self,
        context: &Arc<Context>,
        launches: Vec<Launch>,
    ) -> Result<Issue, Error> {
        let eagerly = |launches, fallback| Ok(Issue::Launches { launches, fallback });
        if !self.replays() {
            return eagerly(launches, false);
        }
        if self.broken.is_some() {
            return eagerly(launches, true);
        }
        match self.graph(context, &launches) {
            Ok(graph) => {
                self.built += 1;
                Ok(Issue::Graph(graph))
            }
            Err(why) if self.choice == ExecutorChoice::Auto => {
                self.broken = Some(why.to_string());
                eagerly(launches, true)
            }
            Err(why) => Err(why),
        }
    }

    fn graph(&self, context: &Arc<Context>, launches: &[Launch]) -> Result<GraphExec, Error> {
        if self.faults.refuse_graphs {
            return Err(Error::internal("graphs are refused: a planted fault"));
        }
        let graph = if self.choice == ExecutorChoice::Capture {
            let mut capture = Stream::new(context)?.begin_capture()?;
            for launch in launches {
                capture.launch(launch)?;
            }
            capture.finish()?
        } else {
            let mut builder = GraphBuilder::new(context)?;
            builder.chain(launches)?;
            builder.instantiate()?
        };
        if graph.node_count() != launches.len() {
            return Err(Error::internal(format!(
                "a graph of {} launches has {} nodes",
                launches.len(),
                graph.node_count()
            )));
        }
        Ok(graph)
    }
}
