//! Result layer, first half: devices, contexts, memory, streams, events, modules.
//!
//! Always holds: one function per driver call, named after it; a non-zero code is an `Err` that
//! carries the call's name. They are `unsafe` where a handle or an address must be valid; the safe
//! layer owns those and says why they are.

#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

use super::raw::{Api, Handle, sys};
use crate::error::DriverError;

/// Calls one driver function of the table and turns its code into a `Result`.
macro_rules! call {
    ($api:ident.$name:ident($($arg:expr),* $(,)?)) => {{
        // SAFETY: the pointer has this signature (see `raw`); out-parameters are locals of the
        // enclosing function, and the caller of that function vouches for handles and addresses.
        let code = unsafe { ($api.$name)($($arg),*) };
        $api.check(stringify!($name), code)
    }};
}
pub(super) use call;

type R<T> = Result<T, DriverError>;

impl Api {
    /// `Ok` for code 0, otherwise the error with its name and text.
    pub(super) fn check(&self, call: &'static str, code: u32) -> R<()> {
        if code == 0 {
            return Ok(());
        }
        Err(DriverError {
            code,
            name: self.describe(self.cuGetErrorName, code, "unknown code"),
            text: self.describe(self.cuGetErrorString, code, "no description"),
            call,
        })
    }

    fn describe(
        &self,
        function: unsafe extern "C" fn(u32, *mut *const c_char) -> u32,
        code: u32,
        otherwise: &str,
    ) -> String {
        let mut text: *const c_char = ptr::null();
        // SAFETY: both lookups take any code and set the pointer to null for one they don't know.
        unsafe { function(code, &mut text) };
        if text.is_null() {
            return otherwise.to_owned();
        }
        // SAFETY: non-null, so it points at a NUL-terminated string inside libcuda.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    }

    pub(crate) fn init(&self) -> R<()> {
        call!(self.cuInit(0))
    }

    pub(crate) fn driver_get_version(&self) -> R<i32> {
        let mut version = 0;
        call!(self.cuDriverGetVersion(&mut version))?;
        Ok(version)
    }

    pub(crate) fn device_get_count(&self) -> R<i32> {
        let mut count = 0;
        call!(self.cuDeviceGetCount(&mut count))?;
        Ok(count)
    }

    pub(crate) fn device_get(&self, index: i32) -> R<c_int> {
        let mut device = 0;
        call!(self.cuDeviceGet(&mut device, index))?;
        Ok(device)
    }

    pub(crate) fn device_get_name(&self, device: c_int) -> R<String> {
        let mut text = [0_u8; 256];
        call!(self.cuDeviceGetName(text.as_mut_ptr().cast(), text.len() as c_int, device))?;
        Ok(until_nul(&text))
    }

    pub(crate) fn device_total_mem(&self, device: c_int) -> R<usize> {
        let mut bytes = 0;
        call!(self.cuDeviceTotalMem_v2(&mut bytes, device))?;
        Ok(bytes)
    }

    pub(crate) fn device_get_attribute(&self, attribute: u32, device: c_int) -> R<i32> {
        let mut value = 0;
        call!(self.cuDeviceGetAttribute(&mut value, attribute, device))?;
        Ok(value)
    }

    pub(crate) fn device_get_uuid(&self, device: c_int) -> R<[u8; 16]> {
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        call!(self.cuDeviceGetUuid_v2(&mut uuid, device))?;
        Ok(uuid.bytes.map(|byte| byte as u8))
    }

    pub(crate) fn device_get_pci_bus_id(&self, device: c_int) -> R<String> {
        let mut text = [0_u8; 32];
        call!(self.cuDeviceGetPCIBusId(text.as_mut_ptr().cast(), text.len() as c_int, device))?;
        Ok(until_nul(&text))
    }

    pub(crate) fn primary_ctx_retain(&self, device: c_int) -> R<Handle<sys::CUctx_st>> {
        let mut context = ptr::null_mut();
        call!(self.cuDevicePrimaryCtxRetain(&mut context, device))?;
        Ok(Handle(context))
    }

    /// The caller holds one retain of this device's primary context and gives it up.
    pub(crate) unsafe fn primary_ctx_release(&self, device: c_int) -> R<()> {
        call!(self.cuDevicePrimaryCtxRelease_v2(device))
    }

    /// The context is live.
    pub(crate) unsafe fn ctx_set_current(&self, context: Handle<sys::CUctx_st>) -> R<()> {
        call!(self.cuCtxSetCurrent(context.0))
    }

    pub(crate) fn ctx_synchronize(&self) -> R<()> {
        call!(self.cuCtxSynchronize())
    }

    pub(crate) fn mem_get_info(&self) -> R<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        call!(self.cuMemGetInfo_v2(&mut free, &mut total))?;
        Ok((free, total))
    }

    pub(crate) fn mem_alloc(&self, bytes: usize) -> R<u64> {
        let mut address = 0;
        call!(self.cuMemAlloc_v2(&mut address, bytes))?;
        Ok(address)
    }

    /// The address came from `mem_alloc` and is freed once.
    pub(crate) unsafe fn mem_free(&self, address: u64) -> R<()> {
        call!(self.cuMemFree_v2(address))
    }

    pub(crate) fn mem_host_alloc(&self, bytes: usize, flags: u32) -> R<*mut u8> {
        let mut address = ptr::null_mut();
        call!(self.cuMemHostAlloc(&mut address, bytes, flags))?;
        Ok(address.cast())
    }

    /// The address came from `mem_host_alloc`, is freed once, and nothing reads or writes it.
    pub(crate) unsafe fn mem_free_host(&self, address: *mut u8) -> R<()> {
        call!(self.cuMemFreeHost(address.cast()))
    }

    /// The address came from `mem_host_alloc` with the mapped flag.
    pub(crate) unsafe fn mem_host_get_device_pointer(&self, address: *mut u8) -> R<u64> {
        let mut device = 0;
        call!(self.cuMemHostGetDevicePointer_v2(&mut device, address.cast(), 0))?;
        Ok(device)
    }

    /// Both ranges are valid and stay so until the stream has passed the copy.
    pub(crate) unsafe fn memcpy_htod_async(
        &self,
        dst: u64,
        src: *const u8,
        bytes: usize,
        stream: Handle<sys::CUstream_st>,
    ) -> R<()> {
        call!(self.cuMemcpyHtoDAsync_v2(dst, src.cast(), bytes, stream.0))
    }

    /// Both ranges are valid and stay so until the stream has passed the copy.
    pub(crate) unsafe fn memcpy_dtoh_async(
        &self,
        dst: *mut u8,
        src: u64,
        bytes: usize,
        stream: Handle<sys::CUstream_st>,
    ) -> R<()> {
        call!(self.cuMemcpyDtoHAsync_v2(dst.cast(), src, bytes, stream.0))
    }

    /// Both ranges are valid device memory.
    pub(crate) unsafe fn memcpy_dtod_async(
        &self,
        dst: u64,
        src: u64,
        bytes: usize,
        stream: Handle<sys::CUstream_st>,
    ) -> R<()> {
        call!(self.cuMemcpyDtoDAsync_v2(dst, src, bytes, stream.0))
    }

    /// The range is valid device memory.
    pub(crate) unsafe fn memset_d8_async(
        &self,
        dst: u64,
        value: u8,
        count: usize,
        stream: Handle<sys::CUstream_st>,
    ) -> R<()> {
        call!(self.cuMemsetD8Async(dst, value, count, stream.0))
    }

    /// The range is valid device memory, 4-byte aligned.
    pub(crate) unsafe fn memset_d32_async(
        &self,
        dst: u64,
        value: u32,
        count: usize,
        stream: Handle<sys::CUstream_st>,
    ) -> R<()> {
        call!(self.cuMemsetD32Async(dst, value, count, stream.0))
    }

    pub(crate) fn stream_create(&self, flags: u32) -> R<Handle<sys::CUstream_st>> {
        let mut stream = ptr::null_mut();
        call!(self.cuStreamCreate(&mut stream, flags))?;
        Ok(Handle(stream))
    }

    /// The stream is live and not used again.
    pub(crate) unsafe fn stream_destroy(&self, stream: Handle<sys::CUstream_st>) -> R<()> {
        call!(self.cuStreamDestroy_v2(stream.0))
    }

    /// The stream is live.
    pub(crate) unsafe fn stream_synchronize(&self, stream: Handle<sys::CUstream_st>) -> R<()> {
        call!(self.cuStreamSynchronize(stream.0))
    }

    /// The stream is live.
    pub(crate) unsafe fn stream_query(&self, stream: Handle<sys::CUstream_st>) -> R<()> {
        call!(self.cuStreamQuery(stream.0))
    }

    /// Both are live.
    pub(crate) unsafe fn stream_wait_event(
        &self,
        stream: Handle<sys::CUstream_st>,
        event: Handle<sys::CUevent_st>,
    ) -> R<()> {
        call!(self.cuStreamWaitEvent(stream.0, event.0, 0))
    }

    pub(crate) fn event_create(&self, flags: u32) -> R<Handle<sys::CUevent_st>> {
        let mut event = ptr::null_mut();
        call!(self.cuEventCreate(&mut event, flags))?;
        Ok(Handle(event))
    }

    /// The event is live and not used again.
    pub(crate) unsafe fn event_destroy(&self, event: Handle<sys::CUevent_st>) -> R<()> {
        call!(self.cuEventDestroy_v2(event.0))
    }

    /// Both are live.
    pub(crate) unsafe fn event_record(
        &self,
        event: Handle<sys::CUevent_st>,
        stream: Handle<sys::CUstream_st>,
    ) -> R<()> {
        call!(self.cuEventRecord(event.0, stream.0))
    }

    /// The event is live.
    pub(crate) unsafe fn event_query(&self, event: Handle<sys::CUevent_st>) -> R<()> {
        call!(self.cuEventQuery(event.0))
    }

    /// The event is live.
    pub(crate) unsafe fn event_synchronize(&self, event: Handle<sys::CUevent_st>) -> R<()> {
        call!(self.cuEventSynchronize(event.0))
    }

    /// Both are live.
    pub(crate) unsafe fn event_elapsed_time(
        &self,
        start: Handle<sys::CUevent_st>,
        end: Handle<sys::CUevent_st>,
    ) -> R<f32> {
        const CALL: &str = "cuEventElapsedTime";
        // Every known driver exports one of the two names.
        let Some(function) = self.cuEventElapsedTime_v2.or(self.cuEventElapsedTime) else {
            return Err(not_found(CALL));
        };
        let mut milliseconds = 0.0;
        // SAFETY: the caller vouches for both events; the out-parameter is a local.
        let code = unsafe { function(&mut milliseconds, start.0, end.0) };
        self.check(CALL, code)?;
        Ok(milliseconds)
    }

    /// `image` is a complete cubin or NUL-terminated PTX; option values match their options.
    pub(crate) unsafe fn module_load_data_ex(
        &self,
        image: *const u8,
        options: &mut [u32],
        values: &mut [*mut c_void],
    ) -> R<Handle<sys::CUmod_st>> {
        debug_assert_eq!(options.len(), values.len());
        let mut module = ptr::null_mut();
        call!(self.cuModuleLoadDataEx(
            &mut module,
            image.cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        ))?;
        Ok(Handle(module))
    }

    /// The module is live, none of its functions runs, and none is used again.
    pub(crate) unsafe fn module_unload(&self, module: Handle<sys::CUmod_st>) -> R<()> {
        call!(self.cuModuleUnload(module.0))
    }

    /// The module is live.
    pub(crate) unsafe fn module_get_function(
        &self,
        module: Handle<sys::CUmod_st>,
        name: &CStr,
    ) -> R<Handle<sys::CUfunc_st>> {
        let mut function = ptr::null_mut();
        call!(self.cuModuleGetFunction(&mut function, module.0, name.as_ptr()))?;
        Ok(Handle(function))
    }

    /// Option values match their options; buffers they name outlive the link state.
    pub(crate) unsafe fn link_create(
        &self,
        options: &mut [u32],
        values: &mut [*mut c_void],
    ) -> R<Handle<sys::CUlinkState_st>> {
        debug_assert_eq!(options.len(), values.len());
        let mut state = ptr::null_mut();
        call!(self.cuLinkCreate_v2(
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
            &mut state,
        ))?;
        Ok(Handle(state))
    }

    /// The state is live and `ptx` ends in NUL.
    pub(crate) unsafe fn link_add_ptx(
        &self,
        state: Handle<sys::CUlinkState_st>,
        ptx: &CStr,
        name: &CStr,
    ) -> R<()> {
        let bytes = ptx.to_bytes_with_nul();
        call!(self.cuLinkAddData_v2(
            state.0,
            sys::CUjitInputType::CU_JIT_INPUT_PTX as u32,
            bytes.as_ptr().cast_mut().cast(),
            bytes.len(),
            name.as_ptr(),
            0,
            ptr::null_mut(),
            ptr::null_mut(),
        ))
    }

    /// The state is live. The cubin is copied, because the state owns the original.
    pub(crate) unsafe fn link_complete(&self, state: Handle<sys::CUlinkState_st>) -> R<Vec<u8>> {
        let (mut cubin, mut bytes) = (ptr::null_mut::<c_void>(), 0);
        call!(self.cuLinkComplete(state.0, &mut cubin, &mut bytes))?;
        if cubin.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: on success the driver set a pointer to `bytes` bytes that live until the state
        // is destroyed, which only its owner, our caller, does.
        Ok(unsafe { core::slice::from_raw_parts(cubin.cast::<u8>(), bytes) }.to_vec())
    }

    /// The state is live and not used again.
    pub(crate) unsafe fn link_destroy(&self, state: Handle<sys::CUlinkState_st>) -> R<()> {
        call!(self.cuLinkDestroy(state.0))
    }

    /// The function's module is live.
    pub(crate) unsafe fn func_get_attribute(
        &self,
        attribute: u32,
        function: Handle<sys::CUfunc_st>,
    ) -> R<i32> {
        let mut value = 0;
        call!(self.cuFuncGetAttribute(&mut value, attribute, function.0))?;
        Ok(value)
    }

    /// The function's module is live.
    pub(crate) unsafe fn func_set_attribute(
        &self,
        function: Handle<sys::CUfunc_st>,
        attribute: u32,
        value: i32,
    ) -> R<()> {
        call!(self.cuFuncSetAttribute(function.0, attribute, value))
    }

    /// Whether this driver can list a kernel's parameters (CUDA 12.4).
    pub(crate) fn can_list_params(&self) -> bool {
        self.cuFuncGetParamInfo.is_some()
    }

    /// Offset and size of parameter `index`; `None` past the last one or when the driver is too
    /// old to say. The function's module is live.
    pub(crate) unsafe fn func_get_param_info(
        &self,
        function: Handle<sys::CUfunc_st>,
        index: usize,
    ) -> Option<(usize, usize)> {
        let get = self.cuFuncGetParamInfo?;
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the caller vouches for the function; out-parameters are locals. An index past
        // the end is answered with an error.
        let code = unsafe { get(function.0, index, &mut offset, &mut size) };
        (code == 0).then_some((offset, size))
    }

    /// The function's module is live.
    pub(crate) unsafe fn occupancy_max_active_blocks(
        &self,
        function: Handle<sys::CUfunc_st>,
        threads: u32,
        dynamic_shared: u32,
    ) -> R<i32> {
        let mut blocks = 0;
        call!(self.cuOccupancyMaxActiveBlocksPerMultiprocessor(
            &mut blocks,
            function.0,
            threads as c_int,
            dynamic_shared as usize,
        ))?;
        Ok(blocks)
    }
}

fn not_found(call: &'static str) -> DriverError {
    DriverError {
        code: 500,
        name: "CUDA_ERROR_NOT_FOUND".to_owned(),
        text: "the driver does not export this function".to_owned(),
        call,
    }
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
