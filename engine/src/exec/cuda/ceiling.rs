//! The ceiling that speeds are reported against: how fast this device reads its memory, measured.

use gannet_cuda_runtime::{Args, Buffer, DeviceEvent, Launch, Stream};
use gannet_ptx_gen::kernels::StreamReadSpec;

use super::open::Gpu;
use super::prepare::compile;
use crate::Error;
use crate::settings::DiskCache;

/// Bytes read by one pass: many times any cache.
const BYTES: usize = 8 << 30;

/// Passes; the fastest counts, since anything else on the device can only slow one down.
const PASSES: usize = 8;

/// Blocks a multiprocessor.
const BLOCKS: u32 = 2;

/// Bytes a second that a plain read of device memory reaches.
///
/// # Errors
/// No GPU can be used, or it failed.
pub fn measure_read_ceiling(index: usize, disk_cache: &DiskCache) -> Result<f64, Error> {
    let gpu = Gpu::open(index, disk_cache)?;
    let (free, _) = gpu.context.free_memory()?;
    let bytes = BYTES.min(free / 2) / 4096 * 4096;
    let spec = StreamReadSpec { target: gpu.target };
    let kernel = compile(&gpu, &spec.kernel())?;
    let stream = Stream::new(&gpu.context)?;
    let (data, sink) = (
        Buffer::new(&gpu.context, bytes)?,
        Buffer::new(&gpu.context, 256)?,
    );
    // Not zeros: memory may be faster on them.
    stream.memset_d32(&data, 0x5bd1_e995)?;
    let args = Args::for_kernel(&kernel)
        .ptr(&data)
        .ptr(&sink)
        .u64(bytes as u64 / 16)
        .finish()?;
    let grid = [gpu.properties.multiprocessors * BLOCKS, 1, 1];
    let launch = Launch::new(&kernel, grid, args);
    let (start, end) = (
        DeviceEvent::new(&gpu.context, true)?,
        DeviceEvent::new(&gpu.context, true)?,
    );
    let mut best = f32::INFINITY;
    for _ in 0..PASSES {
        start.record(&stream)?;
        stream.launch(&launch)?;
        end.record(&stream)?;
        end.synchronize()?;
        best = best.min(DeviceEvent::elapsed_ms(&start, &end)?);
    }
    Ok(bytes as f64 / (f64::from(best) / 1e3))
}
