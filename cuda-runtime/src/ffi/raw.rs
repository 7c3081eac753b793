//! Raw layer: the driver's functions as a table of pointers, looked up one by one.
//!
//! The struct types and the library search come from `cudarc::driver::sys`; its functions do not,
//! because they panic when a symbol is missing and return a Rust enum for the code.
//!
//! Always holds: an [`Api`] exists only when libcuda was loaded and has every required function;
//! the library is never unloaded, so the pointers live as long as the process.

#![allow(unsafe_code)]

use core::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

pub(crate) use cudarc::driver::sys;
use sys::{
    CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY3D_v2, CUDA_MEMSET_NODE_PARAMS_v1, CUcontext,
    CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphEdgeData, CUgraphExec, CUgraphNode,
    CUlaunchAttributeValue, CUlaunchConfig, CUlinkState, CUmodule, CUstream, CUuuid,
};

use crate::error::Error;

/// A driver handle (`CUstream`, `CUmodule`, ...) that may cross threads.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Handle<T>(pub(crate) *mut T);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}

// SAFETY: a handle is a token that only the driver dereferences. The driver API may be called from
// any thread; the objects it does not synchronise itself (graphs, executable graphs) are guarded by
// `&mut` or a mutex where they are owned.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above; sharing a token gives no access to what it stands for.
unsafe impl<T> Sync for Handle<T> {}

/// The names under which drivers install the library.
const LIBRARIES: &[&str] = if cfg!(windows) {
    &["nvcuda.dll"]
} else {
    &["libcuda.so.1", "libcuda.so"]
};

/// What is wrong with a library whose loading would end the process.
fn cut_short() -> Option<String> {
    #[cfg(target_os = "linux")]
    return super::library::cut_short(&["libcuda.so", "libcuda.so.1"]);
    #[cfg(not(target_os = "linux"))]
    None
}

/// Why no library was loaded: there is none, or what is there does not load.
fn not_loaded() -> Error {
    let said = |name: &&str| {
        // SAFETY: as where libcuda is loaded; what loads after all is closed again.
        let failed = unsafe { libloading::Library::new(*name) }.err()?;
        let said = std::error::Error::source(&failed).map_or(failed.to_string(), |e| e.to_string());
        (!is_absent(&said, name)).then_some(said)
    };
    match LIBRARIES.iter().find_map(said) {
        Some(why) => Error::LibraryBroken { why },
        None => Error::LibraryMissing,
    }
}

/// Whether a loader's message says that the file itself is not there, and not one that it needs.
fn is_absent(said: &str, name: &str) -> bool {
    let nowhere = ["No such file", "not found", "could not be found"];
    cfg!(windows) || (said.contains(name) && nowhere.iter().any(|n| said.contains(n)))
}

/// The error of a library that lacks a function: every driver there ever was has `cuInit`.
fn without(symbol: &'static str) -> Error {
    match symbol {
        "cuInit" => Error::LibraryBroken {
            why: format!("libcuda has no {symbol}"),
        },
        _ => Error::SymbolMissing { symbol },
    }
}

/// Declares the function table: its fields, and the loader that fills them.
macro_rules! functions {
    (
        required { $($name:ident($($arg:ty),* $(,)?);)* }
        optional { $($opt:ident($($oarg:ty),* $(,)?);)* }
    ) => {
        /// Every driver function this crate calls. `Option` marks those younger than CUDA 12.0.
        #[allow(non_snake_case)]
        pub(crate) struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($arg),*) -> u32,)*
            $(pub(crate) $opt: Option<unsafe extern "C" fn($($oarg),*) -> u32>,)*
        }

        impl Api {
            /// Loads libcuda and looks up every function.
            pub(crate) fn load() -> Result<Api, Error> {
                if let Some(why) = cut_short() {
                    return Err(Error::LibraryBroken { why });
                }
                // SAFETY: loading libcuda runs its initialisers, which are made to be run by any
                // process; nothing else is loaded.
                if !unsafe { sys::is_culib_present() } {
                    return Err(not_loaded());
                }
                // SAFETY: as above; present, so it does not panic. The library is kept for ever.
                let lib = unsafe { sys::culib() };
                Ok(Api {
                    $($name: {
                        let symbol = concat!(stringify!($name), "\0").as_bytes();
                        // SAFETY: the signature is that of the function in cuda.h of CUDA 12.0,
                        // with `CUresult` and enum arguments as the 32-bit integers that C passes.
                        match unsafe { lib.get::<unsafe extern "C" fn($($arg),*) -> u32>(symbol) } {
                            Ok(function) => *function,
                            Err(_) => {
                                return Err(without(stringify!($name)));
                            }
                        }
                    },)*
                    $($opt: {
                        let symbol = concat!(stringify!($opt), "\0").as_bytes();
                        // SAFETY: as above, with the cuda.h of the release that added it.
                        unsafe { lib.get::<unsafe extern "C" fn($($oarg),*) -> u32>(symbol) }
                            .ok()
                            .map(|function| *function)
                    },)*
                })
            }
        }
    };
}

functions! {
    required {
        cuInit(c_uint);
        cuDriverGetVersion(*mut c_int);
        cuGetErrorName(u32, *mut *const c_char);
        cuGetErrorString(u32, *mut *const c_char);
        cuDeviceGetCount(*mut c_int);
        cuDeviceGet(*mut c_int, c_int);
        cuDeviceGetName(*mut c_char, c_int, c_int);
        cuDeviceTotalMem_v2(*mut usize, c_int);
        cuDeviceGetAttribute(*mut c_int, u32, c_int);
        cuDeviceGetUuid_v2(*mut CUuuid, c_int);
        cuDeviceGetPCIBusId(*mut c_char, c_int, c_int);
        cuDevicePrimaryCtxRetain(*mut CUcontext, c_int);
        cuDevicePrimaryCtxRelease_v2(c_int);
        cuCtxSetCurrent(CUcontext);
        cuCtxSynchronize();
        cuMemGetInfo_v2(*mut usize, *mut usize);
        cuMemAlloc_v2(*mut CUdeviceptr, usize);
        cuMemFree_v2(CUdeviceptr);
        cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
        cuMemFreeHost(*mut c_void);
        cuMemHostGetDevicePointer_v2(*mut CUdeviceptr, *mut c_void, c_uint);
        cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
        cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
        cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
        cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream);
        cuMemsetD32Async(CUdeviceptr, c_uint, usize, CUstream);
        cuStreamCreate(*mut CUstream, c_uint);
        cuStreamDestroy_v2(CUstream);
        cuStreamSynchronize(CUstream);
        cuStreamQuery(CUstream);
        cuStreamWaitEvent(CUstream, CUevent, c_uint);
        cuStreamBeginCapture_v2(CUstream, u32);
        cuStreamEndCapture(CUstream, *mut CUgraph);
        cuEventCreate(*mut CUevent, c_uint);
        cuEventDestroy_v2(CUevent);
        cuEventRecord(CUevent, CUstream);
        cuEventQuery(CUevent);
        cuEventSynchronize(CUevent);
        cuModuleLoadDataEx(*mut CUmodule, *const c_void, c_uint, *mut u32, *mut *mut c_void);
        cuModuleUnload(CUmodule);
        cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
        cuLinkCreate_v2(c_uint, *mut u32, *mut *mut c_void, *mut CUlinkState);
        cuLinkAddData_v2(
            CUlinkState, u32, *mut c_void, usize, *const c_char, c_uint, *mut u32, *mut *mut c_void,
        );
        cuLinkComplete(CUlinkState, *mut *mut c_void, *mut usize);
        cuLinkDestroy(CUlinkState);
        cuFuncGetAttribute(*mut c_int, u32, CUfunction);
        cuFuncSetAttribute(CUfunction, u32, c_int);
        cuOccupancyMaxActiveBlocksPerMultiprocessor(*mut c_int, CUfunction, c_int, usize);
        cuLaunchKernelEx(*const CUlaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void);
        cuGraphCreate(*mut CUgraph, c_uint);
        cuGraphDestroy(CUgraph);
        cuGraphGetNodes(CUgraph, *mut CUgraphNode, *mut usize);
        cuGraphAddKernelNode_v2(
            *mut CUgraphNode, CUgraph, *const CUgraphNode, usize, *const CUDA_KERNEL_NODE_PARAMS_v2,
        );
        cuGraphKernelNodeSetAttribute(CUgraphNode, u32, *const CUlaunchAttributeValue);
        cuGraphAddMemsetNode(
            *mut CUgraphNode, CUgraph, *const CUgraphNode, usize,
            *const CUDA_MEMSET_NODE_PARAMS_v1, CUcontext,
        );
        cuGraphAddMemcpyNode(
            *mut CUgraphNode, CUgraph, *const CUgraphNode, usize, *const CUDA_MEMCPY3D_v2, CUcontext,
        );
        cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong);
        cuGraphUpload(CUgraphExec, CUstream);
        cuGraphLaunch(CUgraphExec, CUstream);
        cuGraphExecKernelNodeSetParams_v2(
            CUgraphExec, CUgraphNode, *const CUDA_KERNEL_NODE_PARAMS_v2,
        );
        cuGraphExecDestroy(CUgraphExec);
    }
    optional {
        // 12.3. Without it a graph's programmatic edges become plain ones.
        cuGraphAddDependencies_v2(
            CUgraph, *const CUgraphNode, *const CUgraphNode, *const CUgraphEdgeData, usize,
        );
        // 12.4. Without it a kernel's parameter list is believed, not compared.
        cuFuncGetParamInfo(CUfunction, usize, *mut usize, *mut usize);
        // 12.8 renamed it; either serves.
        cuEventElapsedTime_v2(*mut f32, CUevent, CUevent);
        cuEventElapsedTime(*mut f32, CUevent, CUevent);
    }
}
