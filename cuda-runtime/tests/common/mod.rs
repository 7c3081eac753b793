//! What the GPU tests share: finding a device, and a few kernels as PTX text.
//!
//! Always holds: a test without a device says `skipped` and verifies nothing; with
//! `GANNET_REQUIRE_GPU=1` it fails instead.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::sync::Arc;

use gannet_cuda_runtime::*;

/// The first device, or `None` after saying why there is none.
pub fn gpu() -> Option<Device> {
    match Driver::load().and_then(|driver| driver.device(0)) {
        Ok(device) => Some(device),
        Err(why) => {
            let required = std::env::var("GANNET_REQUIRE_GPU").is_ok_and(|value| value == "1");
            assert!(!required, "GANNET_REQUIRE_GPU=1, but: {why}");
            eprintln!("skipped: no CUDA driver ({why})");
            None
        }
    }
}

/// A context and a stream on the first device.
pub fn gpu_stream() -> Option<(Arc<Context>, Stream)> {
    let context = Context::new(gpu()?).unwrap();
    let stream = Stream::new(&context).unwrap();
    Some((context, stream))
}

/// `out[i] = x[i] + y[i]` for `i < n`, all f32.
pub const ADD: &str = r#".version 7.0
.target sm_80
.address_size 64
.visible .entry add(
    .param .u64 px, .param .u64 py, .param .u64 po, .param .u32 pn
)
{
    .reg .pred %p;
    .reg .f32 %f<4>;
    .reg .b32 %r<6>;
    .reg .b64 %d<8>;
    ld.param.u64 %d1, [px];
    ld.param.u64 %d2, [py];
    ld.param.u64 %d3, [po];
    ld.param.u32 %r1, [pn];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r1;
    @%p bra DONE;
    mul.wide.u32 %d4, %r5, 4;
    add.s64 %d5, %d1, %d4;
    add.s64 %d6, %d2, %d4;
    add.s64 %d7, %d3, %d4;
    ld.global.f32 %f1, [%d5];
    ld.global.f32 %f2, [%d6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%d7], %f3;
DONE:
    ret;
}
"#;

/// `p[0] = p[0] * 3 + k`, one thread, ordered by programmatic launch: wrong when two of them
/// overlap in time. Waits before it reads, and lets the next one start at once.
pub const STEP: &str = r#".version 7.8
.target sm_90
.address_size 64
.visible .entry step(.param .u64 p, .param .u32 k)
{
    .reg .b32 %r<4>;
    .reg .b64 %d<2>;
    griddepcontrol.launch_dependents;
    ld.param.u64 %d1, [p];
    ld.param.u32 %r1, [k];
    griddepcontrol.wait;
    ld.volatile.global.u32 %r2, [%d1];
    mad.lo.u32 %r3, %r2, 3, %r1;
    st.volatile.global.u32 [%d1], %r3;
    ret;
}
"#;

/// Stores `v` at `p`, visible to the host; then at `p + 4` after it.
pub const STORE: &str = r#".version 7.0
.target sm_80
.address_size 64
.visible .entry store(.param .u64 p, .param .u32 v)
{
    .reg .b32 %r<2>;
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [p];
    ld.param.u32 %r1, [v];
    st.volatile.global.u32 [%d1], %r1;
    fence.sc.sys;
    st.volatile.global.u32 [%d1+4], %r1;
    ret;
}
"#;

/// Reverses 16,384 words through 64 KiB of dynamic shared memory, one block of 1,024.
pub const REVERSE: &str = r#".version 7.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 buf[];
.visible .entry reverse(.param .u64 p)
{
    .reg .pred %p;
    .reg .b32 %r<9>;
    .reg .b64 %d<4>;
    ld.param.u64 %d1, [p];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, buf;
    mov.u32 %r3, %r1;
READ:
    mul.wide.u32 %d2, %r3, 4;
    add.s64 %d3, %d1, %d2;
    ld.global.u32 %r4, [%d3];
    shl.b32 %r5, %r3, 2;
    add.u32 %r6, %r2, %r5;
    st.shared.u32 [%r6], %r4;
    add.u32 %r3, %r3, 1024;
    setp.lt.u32 %p, %r3, 16384;
    @%p bra READ;
    bar.sync 0;
    mov.u32 %r3, %r1;
WRITE:
    sub.u32 %r7, 16383, %r3;
    shl.b32 %r5, %r7, 2;
    add.u32 %r6, %r2, %r5;
    ld.shared.u32 %r4, [%r6];
    mul.wide.u32 %d2, %r3, 4;
    add.s64 %d3, %d1, %d2;
    st.global.u32 [%d3], %r4;
    add.u32 %r3, %r3, 1024;
    setp.lt.u32 %p, %r3, 16384;
    @%p bra WRITE;
    ret;
}
"#;

pub fn spec(name: &str, params: Vec<ParamSpec>, threads: u32) -> KernelSignature {
    KernelSignature {
        name: name.into(),
        params,
        block: [threads, 1, 1],
        dynamic_shared: 0,
    }
}

pub fn add_spec() -> KernelSignature {
    let pointers = ["x", "y", "out"].map(ParamSpec::pointer);
    spec(
        "add",
        pointers
            .into_iter()
            .chain([ParamSpec::scalar("n", 4)])
            .collect(),
        128,
    )
}

pub fn pointer_and_word(name: &str) -> KernelSignature {
    spec(
        name,
        vec![ParamSpec::pointer("p"), ParamSpec::scalar("k", 4)],
        1,
    )
}

pub fn load(context: &Arc<Context>, name: &str, ptx: &str, target: &str) -> Module {
    Module::load(
        context,
        ModuleSource { name, ptx, target },
        &CubinCache::disabled(),
    )
    .unwrap()
}

/// Whether the device has compute capability 9.0 or newer; says so when it has not.
pub fn is_hopper(context: &Context) -> bool {
    let capability = context.device().properties().unwrap().compute_capability;
    if capability < (9, 0) {
        eprintln!("skipped: needs compute capability 9.0, this is {capability:?}");
    }
    capability >= (9, 0)
}

pub fn to_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub fn read_f32(stream: &Stream, buffer: &Buffer) -> Vec<f32> {
    let mut bytes = vec![0; buffer.len()];
    stream.copy_from_device(buffer, 0, &mut bytes).unwrap();
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

pub fn read_u32(stream: &Stream, buffer: &Buffer) -> u32 {
    let mut bytes = [0; 4];
    stream.copy_from_device(buffer, 0, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

/// A vector addition ready to launch: the launch, its output and the right answer.
pub struct Addition {
    pub x: Buffer,
    pub out: Buffer,
    pub launch: Launch,
    pub expected: Vec<f32>,
}

pub fn addition(context: &Arc<Context>, stream: &Stream, n: usize) -> Addition {
    let kernel = load(context, "add", ADD, "sm_80")
        .kernel(&add_spec())
        .unwrap();
    let arena = Arena::new(context, 3 * n * 4 + 1024).unwrap();
    let [x, y, out] = [(); 3].map(|()| arena.alloc(n * 4, 256).unwrap());
    let a: Vec<f32> = (0..n).map(|i| i as f32 * 0.5).collect();
    let b: Vec<f32> = (0..n).map(|i| 1000.0 - i as f32).collect();
    stream.copy_to_device(&x, 0, &to_bytes(&a)).unwrap();
    stream.copy_to_device(&y, 0, &to_bytes(&b)).unwrap();
    stream.memset_d8(&out, 0xFF).unwrap();
    let args = Args::for_kernel(&kernel)
        .ptr(&x)
        .ptr(&y)
        .ptr(&out)
        .u32(n as u32)
        .finish()
        .unwrap();
    let launch = Launch::new(&kernel, [n.div_ceil(128) as u32, 1, 1], args);
    let expected = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    Addition {
        x,
        out,
        launch,
        expected,
    }
}
