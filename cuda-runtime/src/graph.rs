//! Graphs: launches, fills and copies as explicit nodes, replayed with one call.
//!
//! Always holds: a graph owns (through `Arc`) every buffer and module its nodes name, so a replay
//! can't meet a stale address; an executable graph is used by one thread at a time, which a lock
//! sees to.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::context::Context;
use crate::copy::{check_words, refuse_overlap};
use crate::error::Error;
use crate::ffi::{Handle, RawCopy, RawFill, sys};
use crate::launch::Launch;
use crate::memory::Buffer;
use crate::stream::Stream;

/// A node of one [`GraphBuilder`], for naming dependencies and for updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GraphNode {
    graph: u64,
    index: usize,
}

/// What a node does, with everything it needs kept alive.
#[derive(Debug)]
enum Work {
    LoadedKernel(Box<Launch>),
    Memory { _buffers: Vec<Buffer> },
}

/// The driver's graph object, destroyed with its last owner.
#[derive(Debug)]
pub(crate) struct RawGraph {
    context: Arc<Context>,
    handle: Handle<sys::CUgraph_st>,
}

impl RawGraph {
    /// Takes over `handle`, which is a live graph of `context` that nobody else owns.
    pub(crate) fn own(context: &Arc<Context>, handle: Handle<sys::CUgraph_st>) -> RawGraph {
        RawGraph {
            context: Arc::clone(context),
            handle,
        }
    }
}

impl Drop for RawGraph {
    fn drop(&mut self) {
        // SAFETY: owned by this object, destroyed once.
        self.context
            .release(|api| unsafe { api.graph_destroy(self.handle) });
    }
}

/// Builds a graph node by node.
#[derive(Debug)]
pub struct GraphBuilder {
    id: u64,
    graph: RawGraph,
    nodes: Vec<(Handle<sys::CUgraphNode_st>, Work)>,
}

impl GraphBuilder {
    /// An empty graph.
    ///
    /// # Errors
    /// What the driver returned.
    #[doc(alias = "cuGraphCreate")]
    pub fn new(context: &Arc<Context>) -> Result<GraphBuilder, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let handle = context.call(|api| api.graph_create())?;
        let graph = RawGraph::own(context, handle);
        Ok(GraphBuilder {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            graph,
            nodes: Vec::new(),
        })
    }

    /// Adds a launch that starts after `deps`. When it is programmatic, its edges from kernel nodes
    /// are (where the driver has such edges, CUDA 12.3); others are plain.
    ///
    /// # Errors
    /// As [`Stream::launch`]; [`Error::Foreign`] for a node of another graph.
    #[doc(alias = "cuGraphAddKernelNode")]
    #[doc(alias = "cuGraphAddDependencies")]
    pub fn add_kernel(&mut self, launch: &Launch, deps: &[GraphNode]) -> Result<GraphNode, Error> {
        let context = Arc::clone(&self.graph.context);
        context.same(launch.kernel.context(), "kernel")?;
        launch.check()?;
        let early = launch.programmatic && context.api().has_edge_data();
        let (mut plain, mut programmatic) = (Vec::new(), Vec::new());
        for &dep in deps {
            let (handle, work) = self.node(dep)?;
            let list = match work {
                Work::LoadedKernel(_) if early => &mut programmatic,
                _ => &mut plain,
            };
            list.push(handle.0);
        }
        let raw = launch.raw();
        let node = context.call(|api| {
            // SAFETY: graph and nodes are live and ours (`node` checked); the launch was checked
            // and is kept below, with its module and buffers.
            let node = unsafe { api.graph_add_kernel_node(self.graph.handle, &plain, &raw) }?;
            if let Some(cluster) = launch.cluster {
                // SAFETY: the node was just made.
                unsafe { api.graph_kernel_node_set_cluster(node, cluster) }?;
            }
            if !programmatic.is_empty() {
                // SAFETY: as above; all of them are kernel nodes.
                unsafe {
                    api.graph_add_programmatic_edges(self.graph.handle, &programmatic, node)
                }?;
            }
            Ok(node)
        })?;
        Ok(self.push(node, Work::LoadedKernel(Box::new(launch.clone()))))
    }

    /// Adds a fill of the whole buffer with a 32-bit word.
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::OutOfRange`] when the buffer is empty or not a whole number of
    /// aligned words, or what the driver returned.
    #[doc(alias = "cuGraphAddMemsetNode")]
    pub fn add_memset(
        &mut self,
        dst: &Buffer,
        value: u32,
        deps: &[GraphNode],
    ) -> Result<GraphNode, Error> {
        check_words(dst.ptr(), dst.len())?;
        self.usable(dst)?;
        let deps = self.handles(deps)?;
        let context = Arc::clone(&self.graph.context);
        let fill = RawFill {
            dst: dst.ptr(),
            word: value,
            words: dst.len() / 4,
        };
        let node = context.call(|api| {
            // SAFETY: graph, nodes and context are live and belong together; the range is the
            // whole buffer, kept below.
            unsafe { api.graph_add_memset_node(self.graph.handle, &deps, fill, context.handle()) }
        })?;
        Ok(self.push(
            node,
            Work::Memory {
                _buffers: vec![dst.clone()],
            },
        ))
    }

    /// Adds a copy of the whole of `src` to the start of `dst`; either may be the buffer of pinned
    /// memory.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when `dst` is shorter or `src` is empty, [`Error::Invalid`] when they
    /// overlap, [`Error::Foreign`], or what the driver returned.
    #[doc(alias = "cuGraphAddMemcpyNode")]
    pub fn add_memcpy(
        &mut self,
        dst: &Buffer,
        src: &Buffer,
        deps: &[GraphNode],
    ) -> Result<GraphNode, Error> {
        self.usable(dst)?;
        self.usable(src)?;
        let copy = RawCopy {
            dst: dst.address("graph copy", 0, src.len())?,
            src: src.ptr(),
            bytes: src.len(),
        };
        refuse_overlap(copy.dst, copy.src, copy.bytes)?;
        let deps = self.handles(deps)?;
        let context = Arc::clone(&self.graph.context);
        let node = context.call(|api| {
            // SAFETY: graph, nodes and context are live and belong together; the ranges were
            // checked, and both buffers are kept below.
            unsafe { api.graph_add_memcpy_node(self.graph.handle, &deps, copy, context.handle()) }
        })?;
        Ok(self.push(
            node,
            Work::Memory {
                _buffers: vec![dst.clone(), src.clone()],
            },
        ))
    }

    /// Adds launches one after the other, the first after the last node added so far, and returns
    /// their nodes.
    ///
    /// # Errors
    /// As [`GraphBuilder::add_kernel`].
    pub fn chain(&mut self, launches: &[Launch]) -> Result<Vec<GraphNode>, Error> {
        let last = self.nodes.len().checked_sub(1);
        let mut last = last.map(|index| GraphNode {
            graph: self.id,
            index,
        });
        launches
            .iter()
            .map(|launch| {
                let node = self.add_kernel(launch, last.as_slice())?;
                last = Some(node);
                Ok(node)
            })
            .collect()
    }

    /// Nodes added so far.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Makes it executable.
    ///
    /// # Errors
    /// What the driver returned.
    #[doc(alias = "cuGraphInstantiate")]
    pub fn instantiate(self) -> Result<GraphExec, Error> {
        let GraphBuilder { id, graph, nodes } = self;
        GraphExec::new(id, graph, nodes)
    }

    fn push(&mut self, handle: Handle<sys::CUgraphNode_st>, work: Work) -> GraphNode {
        self.nodes.push((handle, work));
        GraphNode {
            graph: self.id,
            index: self.nodes.len() - 1,
        }
    }

    fn node(&self, node: GraphNode) -> Result<&(Handle<sys::CUgraphNode_st>, Work), Error> {
        let mine = (node.graph == self.id)
            .then(|| self.nodes.get(node.index))
            .flatten();
        mine.ok_or(Error::Foreign {
            what: "node",
            owner: "graph",
        })
    }

    fn handles(&self, nodes: &[GraphNode]) -> Result<Vec<sys::CUgraphNode>, Error> {
        nodes.iter().map(|&node| Ok(self.node(node)?.0.0)).collect()
    }

    /// Refuses buffers of other contexts, and empty ones, for which the driver has no node.
    fn usable(&self, buffer: &Buffer) -> Result<(), Error> {
        self.graph.context.same(buffer.context(), "buffer")?;
        match buffer.is_empty() {
            true => Err(Error::OutOfRange {
                what: "graph node",
                offset: 0,
                len: 1,
                size: 0,
            }),
            false => Ok(()),
        }
    }
}

/// An executable graph. It owns what its nodes name.
#[derive(Debug)]
pub struct GraphExec {
    id: u64,
    node_count: usize,
    // Declared before `graph`: the executable goes first, then the graph, then what they name.
    exec: Exec,
    graph: RawGraph,
    nodes: Mutex<Vec<(Handle<sys::CUgraphNode_st>, Work)>>,
}

/// The driver's executable graph, destroyed with its owner.
#[derive(Debug)]
struct Exec {
    context: Arc<Context>,
    handle: Handle<sys::CUgraphExec_st>,
}

impl Drop for Exec {
    fn drop(&mut self) {
        // SAFETY: owned by this object, destroyed once; the driver lets a running replay finish.
        self.context
            .release(|api| unsafe { api.graph_exec_destroy(self.handle) });
    }
}

impl GraphExec {
    fn new(
        id: u64,
        graph: RawGraph,
        nodes: Vec<(Handle<sys::CUgraphNode_st>, Work)>,
    ) -> Result<GraphExec, Error> {
        let context = Arc::clone(&graph.context);
        // SAFETY: the graph is live and this function owns it.
        let node_count = context.call(|api| unsafe { api.graph_node_count(graph.handle) })?;
        // SAFETY: as above.
        let handle = context.call(|api| unsafe { api.graph_instantiate(graph.handle) })?;
        let exec = Exec { context, handle };
        Ok(GraphExec {
            id,
            node_count,
            exec,
            graph,
            nodes: Mutex::new(nodes),
        })
    }

    /// An executable of a captured graph; `launches` are kept alive.
    pub(crate) fn captured(graph: RawGraph, launches: Vec<Launch>) -> Result<GraphExec, Error> {
        // Captured nodes have no `GraphNode`, so no builder's number is needed; their handles are null
        // because nothing but the launches' lifetimes is used of them.
        let keep = |launch| {
            (
                Handle(core::ptr::null_mut()),
                Work::LoadedKernel(Box::new(launch)),
            )
        };
        GraphExec::new(u64::MAX, graph, launches.into_iter().map(keep).collect())
    }

    /// The context it runs in.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.graph.context
    }

    /// Nodes of the graph, as the driver counts them.
    #[must_use]
    #[doc(alias = "cuGraphGetNodes")]
    pub fn node_count(&self) -> usize {
        self.node_count
    }

    /// Queues a replay; does not wait.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a stream of another context; otherwise what the driver returned.
    #[doc(alias = "cuGraphLaunch")]
    pub fn launch(&self, stream: &Stream) -> Result<(), Error> {
        let context = self.context();
        context.same(stream.context(), "stream")?;
        let _alone = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both are live; the lock keeps others away; `nodes` keeps what is named.
        context.call(|api| unsafe { api.graph_launch(self.exec.handle, stream.handle()) })?;
        context.counters().graph_launches.add();
        Ok(())
    }

    /// Moves the graph to the device ahead of its first launch.
    ///
    /// # Errors
    /// As [`GraphExec::launch`].
    #[doc(alias = "cuGraphUpload")]
    pub fn upload(&self, stream: &Stream) -> Result<(), Error> {
        let context = self.context();
        context.same(stream.context(), "stream")?;
        let _alone = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both are live; the lock keeps others away.
        context.call(|api| unsafe { api.graph_upload(self.exec.handle, stream.handle()) })
    }

    /// Replaces what a kernel node launches, from the next replay on. Cluster shape and edges stay
    /// as they were built.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a node of another graph; [`Error::Invalid`] when it is no kernel node
    /// or the cluster shape differs; otherwise as [`Stream::launch`].
    #[doc(alias = "cuGraphExecKernelNodeSetParams")]
    pub fn update_kernel(&self, node: GraphNode, launch: &Launch) -> Result<(), Error> {
        let context = self.context();
        context.same(launch.kernel.context(), "kernel")?;
        launch.check()?;
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let found = (node.graph == self.id)
            .then(|| nodes.get_mut(node.index))
            .flatten();
        let (handle, work) = found.ok_or(Error::Foreign {
            what: "node",
            owner: "graph",
        })?;
        let invalid = |reason: &str| Error::Invalid {
            what: "graph update",
            reason: reason.into(),
        };
        let Work::LoadedKernel(before) = work else {
            return Err(invalid("not a kernel node"));
        };
        if before.cluster != launch.cluster {
            return Err(invalid("the cluster shape can't change"));
        }
        let raw = launch.raw();
        context.call(|api| {
            // SAFETY: the node is of this graph, and the lock keeps others away. The old launch is
            // dropped only after the driver took the new one, and freeing memory waits for replays
            // that are under way.
            unsafe { api.graph_exec_kernel_node_set_params(self.exec.handle, *handle, &raw) }
        })?;
        **before = launch.clone();
        Ok(())
    }
}
