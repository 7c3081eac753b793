//! Result layer, second half: launches, graphs, capture.
//!
//! Always holds: argument bytes reach the driver through one function, [`with_packed`], whether
//! the launch is eager, captured, added to a graph or replaced in one.

#![allow(unsafe_code)]

use core::ffi::c_void;
use core::ptr;

use super::raw::{Api, Handle, sys};
use super::result::call;
use crate::error::DriverError;

type R<T> = Result<T, DriverError>;

/// What the driver needs to know of one launch: the result layer's view of it.
pub(crate) struct RawLaunch<'a> {
    pub(crate) function: Handle<sys::CUfunc_st>,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared: u32,
    pub(crate) args: &'a [u8],
    pub(crate) cluster: Option<[u32; 3]>,
    pub(crate) programmatic: bool,
}

/// A fill of a graph: `words` 32-bit words from the address `dst`.
pub(crate) struct RawFill {
    pub(crate) dst: u64,
    pub(crate) word: u32,
    pub(crate) words: usize,
}

/// A copy of a graph, between addresses of the device or of pinned memory.
pub(crate) struct RawCopy {
    pub(crate) dst: u64,
    pub(crate) src: u64,
    pub(crate) bytes: usize,
}

/// Runs `body` with the `extra` array that describes `args` as one packed parameter buffer.
fn with_packed<T>(args: &[u8], body: impl FnOnce(*mut *mut c_void) -> T) -> T {
    let mut size = args.len();
    // The driver reads the bytes and copies them before it returns; it never writes them.
    let mut extra: [*mut c_void; 5] = [
        sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize as *mut c_void,
        args.as_ptr().cast_mut().cast(),
        sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize as *mut c_void,
        (&raw mut size).cast(),
        sys::CU_LAUNCH_PARAM_END_AS_INT as usize as *mut c_void,
    ];
    // A kernel without parameters must not be given an empty buffer.
    body(if args.is_empty() {
        ptr::null_mut()
    } else {
        extra.as_mut_ptr()
    })
}

fn cluster_value([x, y, z]: [u32; 3]) -> sys::CUlaunchAttributeValue {
    // Zero first: the driver compares whole unions when it updates a graph.
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z };
    value
}

fn ignored_attribute() -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_IGNORE,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { pad: [0; 64] },
    }
}

fn flag_value() -> sys::CUlaunchAttributeValue {
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.programmaticStreamSerializationAllowed = 1;
    value
}

fn node_params(launch: &RawLaunch<'_>, extra: *mut *mut c_void) -> sys::CUDA_KERNEL_NODE_PARAMS_v2 {
    sys::CUDA_KERNEL_NODE_PARAMS_v2 {
        func: launch.function.0,
        gridDimX: launch.grid[0],
        gridDimY: launch.grid[1],
        gridDimZ: launch.grid[2],
        blockDimX: launch.block[0],
        blockDimY: launch.block[1],
        blockDimZ: launch.block[2],
        sharedMemBytes: launch.dynamic_shared,
        kernelParams: ptr::null_mut(),
        extra,
        // Null: take the context of the function.
        kern: ptr::null_mut(),
        ctx: ptr::null_mut(),
    }
}

impl Api {
    /// The function's module and the stream are live, the bytes match the kernel's parameters, and
    /// the memory they name stays valid until the stream has passed the kernel.
    pub(crate) unsafe fn launch_kernel_ex(
        &self,
        launch: &RawLaunch<'_>,
        stream: Handle<sys::CUstream_st>,
    ) -> R<()> {
        // On the stack: this runs once a kernel, and an allocation would show.
        let mut attributes = [ignored_attribute(); 2];
        let mut count = 0;
        if let Some(cluster) = launch.cluster {
            attributes[count].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attributes[count].value = cluster_value(cluster);
            count += 1;
        }
        if launch.programmatic {
            attributes[count].id =
                sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes[count].value = flag_value();
            count += 1;
        }
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.block[0],
            blockDimY: launch.block[1],
            blockDimZ: launch.block[2],
            sharedMemBytes: launch.dynamic_shared,
            hStream: stream.0,
            attrs: attributes.as_mut_ptr(),
            numAttrs: count as u32,
        };
        with_packed(launch.args, |extra| {
            call!(self.cuLaunchKernelEx(&config, launch.function.0, ptr::null_mut(), extra))
        })
    }

    pub(crate) fn graph_create(&self) -> R<Handle<sys::CUgraph_st>> {
        let mut graph = ptr::null_mut();
        call!(self.cuGraphCreate(&mut graph, 0))?;
        Ok(Handle(graph))
    }

    /// The graph is live and not used again.
    pub(crate) unsafe fn graph_destroy(&self, graph: Handle<sys::CUgraph_st>) -> R<()> {
        call!(self.cuGraphDestroy(graph.0))
    }

    /// The graph is live and nobody else changes it meanwhile.
    pub(crate) unsafe fn graph_node_count(&self, graph: Handle<sys::CUgraph_st>) -> R<usize> {
        let mut count = 0;
        call!(self.cuGraphGetNodes(graph.0, ptr::null_mut(), &mut count))?;
        Ok(count)
    }

    /// The graph and the dependencies are live and belong together; the function's module is live.
    pub(crate) unsafe fn graph_add_kernel_node(
        &self,
        graph: Handle<sys::CUgraph_st>,
        dependencies: &[sys::CUgraphNode],
        launch: &RawLaunch<'_>,
    ) -> R<Handle<sys::CUgraphNode_st>> {
        let mut node = ptr::null_mut();
        with_packed(launch.args, |extra| {
            let params = node_params(launch, extra);
            call!(self.cuGraphAddKernelNode_v2(
                &mut node,
                graph.0,
                dependencies.as_ptr(),
                dependencies.len(),
                &params,
            ))
        })?;
        Ok(Handle(node))
    }

    /// The node is a live kernel node.
    pub(crate) unsafe fn graph_kernel_node_set_cluster(
        &self,
        node: Handle<sys::CUgraphNode_st>,
        cluster: [u32; 3],
    ) -> R<()> {
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION as u32;
        let value = cluster_value(cluster);
        call!(self.cuGraphKernelNodeSetAttribute(node.0, id, &value))
    }

    /// Whether this driver has graph edges that carry data (CUDA 12.3).
    pub(crate) fn has_edge_data(&self) -> bool {
        self.cuGraphAddDependencies_v2.is_some()
    }

    /// Adds programmatic edges from kernel nodes to a kernel node; false when this driver has none.
    /// The graph and its nodes are live and belong together.
    pub(crate) unsafe fn graph_add_programmatic_edges(
        &self,
        graph: Handle<sys::CUgraph_st>,
        from: &[sys::CUgraphNode],
        to: Handle<sys::CUgraphNode_st>,
    ) -> R<bool> {
        let Some(add) = self.cuGraphAddDependencies_v2 else {
            return Ok(false);
        };
        let to = vec![to.0; from.len()];
        let edge = sys::CUgraphEdgeData {
            from_port: sys::CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC as u8,
            to_port: 0,
            type_: sys::CUgraphDependencyType::CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC as u8,
            reserved: [0; 5],
        };
        let edges = vec![edge; from.len()];
        // SAFETY: the caller vouches for graph and nodes; the three arrays have `from.len()` items.
        let code = unsafe {
            add(
                graph.0,
                from.as_ptr(),
                to.as_ptr(),
                edges.as_ptr(),
                from.len(),
            )
        };
        self.check("cuGraphAddDependencies_v2", code)?;
        Ok(true)
    }

    /// Graph, dependencies and context are live and belong together; the range is device memory.
    /// Writes `count` elements of `element_size` (1 or 4) bytes.
    pub(crate) unsafe fn graph_add_memset_node(
        &self,
        graph: Handle<sys::CUgraph_st>,
        dependencies: &[sys::CUgraphNode],
        fill: RawFill,
        context: Handle<sys::CUctx_st>,
    ) -> R<Handle<sys::CUgraphNode_st>> {
        let params = sys::CUDA_MEMSET_NODE_PARAMS_v1 {
            dst: fill.dst,
            pitch: 0,
            value: fill.word,
            elementSize: 4,
            width: fill.words,
            height: 1,
        };
        let mut node = ptr::null_mut();
        call!(self.cuGraphAddMemsetNode(
            &mut node,
            graph.0,
            dependencies.as_ptr(),
            dependencies.len(),
            &params,
            context.0,
        ))?;
        Ok(Handle(node))
    }

    /// Graph, dependencies and context are live and belong together; both ranges are valid device
    /// or mapped memory for as long as the graph may run.
    pub(crate) unsafe fn graph_add_memcpy_node(
        &self,
        graph: Handle<sys::CUgraph_st>,
        dependencies: &[sys::CUgraphNode],
        copy: RawCopy,
        context: Handle<sys::CUctx_st>,
    ) -> R<Handle<sys::CUgraphNode_st>> {
        // Unified: the address says whether it is device or mapped host memory.
        let kind = sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED;
        let params = sys::CUDA_MEMCPY3D_v2 {
            srcXInBytes: 0,
            srcY: 0,
            srcZ: 0,
            srcLOD: 0,
            srcMemoryType: kind,
            srcHost: ptr::null(),
            srcDevice: copy.src,
            srcArray: ptr::null_mut(),
            reserved0: ptr::null_mut(),
            srcPitch: copy.bytes,
            srcHeight: 1,
            dstXInBytes: 0,
            dstY: 0,
            dstZ: 0,
            dstLOD: 0,
            dstMemoryType: kind,
            dstHost: ptr::null_mut(),
            dstDevice: copy.dst,
            dstArray: ptr::null_mut(),
            reserved1: ptr::null_mut(),
            dstPitch: copy.bytes,
            dstHeight: 1,
            WidthInBytes: copy.bytes,
            Height: 1,
            Depth: 1,
        };
        let mut node = ptr::null_mut();
        call!(self.cuGraphAddMemcpyNode(
            &mut node,
            graph.0,
            dependencies.as_ptr(),
            dependencies.len(),
            &params,
            context.0,
        ))?;
        Ok(Handle(node))
    }

    /// The graph is live and nobody else changes it meanwhile.
    pub(crate) unsafe fn graph_instantiate(
        &self,
        graph: Handle<sys::CUgraph_st>,
    ) -> R<Handle<sys::CUgraphExec_st>> {
        let mut exec = ptr::null_mut();
        call!(self.cuGraphInstantiateWithFlags(&mut exec, graph.0, 0))?;
        Ok(Handle(exec))
    }

    /// Both are live; nobody else uses the executable graph meanwhile.
    pub(crate) unsafe fn graph_upload(
        &self,
        exec: Handle<sys::CUgraphExec_st>,
        stream: Handle<sys::CUstream_st>,
    ) -> R<()> {
        call!(self.cuGraphUpload(exec.0, stream.0))
    }

    /// Both are live; nobody else uses the executable graph meanwhile; what its nodes name is live.
    pub(crate) unsafe fn graph_launch(
        &self,
        exec: Handle<sys::CUgraphExec_st>,
        stream: Handle<sys::CUstream_st>,
    ) -> R<()> {
        call!(self.cuGraphLaunch(exec.0, stream.0))
    }

    /// The node belongs to the graph that `exec` was made from; nobody else uses `exec` meanwhile.
    pub(crate) unsafe fn graph_exec_kernel_node_set_params(
        &self,
        exec: Handle<sys::CUgraphExec_st>,
        node: Handle<sys::CUgraphNode_st>,
        launch: &RawLaunch<'_>,
    ) -> R<()> {
        with_packed(launch.args, |extra| {
            let params = node_params(launch, extra);
            call!(self.cuGraphExecKernelNodeSetParams_v2(exec.0, node.0, &params))
        })
    }

    /// The executable graph is live and not used again.
    pub(crate) unsafe fn graph_exec_destroy(&self, exec: Handle<sys::CUgraphExec_st>) -> R<()> {
        call!(self.cuGraphExecDestroy(exec.0))
    }

    /// The stream is live, idle in this respect, and private to the capture.
    pub(crate) unsafe fn stream_begin_capture(&self, stream: Handle<sys::CUstream_st>) -> R<()> {
        // Relaxed: other threads (and this one) may allocate and load while we record, because
        // the capturing stream is private and nothing but launches can reach it.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED as u32;
        call!(self.cuStreamBeginCapture_v2(stream.0, mode))
    }

    /// The stream is live and capturing.
    pub(crate) unsafe fn stream_end_capture(
        &self,
        stream: Handle<sys::CUstream_st>,
    ) -> R<Option<Handle<sys::CUgraph_st>>> {
        let mut graph = ptr::null_mut();
        call!(self.cuStreamEndCapture(stream.0, &mut graph))?;
        Ok((!graph.is_null()).then_some(Handle(graph)))
    }
}
