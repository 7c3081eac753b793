//! On a GPU: an error that ends the context is reported once as itself and then by everything.
//!
//! One test in a program of its own: the error ends CUDA for the whole process.

mod common;

use common::*;
use gannet_cuda_runtime::*;

#[test]
fn illegal_address_ends_the_context() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let add = addition(&context, &stream, 1000);
    // A count far beyond the buffers: the first read of memory that nobody has faults.
    let kernel = &add.launch.kernel;
    let args = Args::for_kernel(kernel)
        .ptr(&add.x)
        .ptr(&add.x)
        .ptr(&add.x)
        .u32(u32::MAX);
    let bad = Launch::new(kernel, [1 << 24, 1, 1], args.finish().unwrap());
    stream.launch(&bad).unwrap();
    let error = stream.synchronize().unwrap_err();
    assert!(error.is_fatal(), "{error}");
    let driver = error.driver_error().unwrap();
    assert_eq!(
        (driver.code, driver.name.as_str()),
        (700, "CUDA_ERROR_ILLEGAL_ADDRESS")
    );

    assert_eq!(context.dead().map(|e| e.code), Some(700));
    for later in [
        stream.launch(&add.launch).unwrap_err(),
        stream.synchronize().unwrap_err(),
        DeviceBuffer::new(&context, 4).unwrap_err(),
        context.free_memory().unwrap_err(),
        Stream::new(&context).unwrap_err(),
    ] {
        assert!(
            matches!(&later, Error::ContextDead(e) if e.code == 700),
            "{later}"
        );
        assert!(later.is_fatal() && !later.to_string().contains('\n'));
    }
    // Everything is dropped here, in a dead context, without a panic.
}
