//! Two vectors added on a GPU, from PTX text to the result. `cargo run --example add`

use gannet_cuda_runtime::{
    Args, Context, CubinCache, DeviceBuffer, Driver, Error, KernelSignature, Launch, Module,
    ModuleSource, ParamSpec, Stream,
};

/// `x[i] += y[i]` for 256 numbers.
const PTX: &str = ".version 7.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 px, .param .u64 py)
{
    .reg .f32 %f<3>;
    .reg .b32 %r<2>;
    .reg .b64 %d<5>;
    ld.param.u64 %d1, [px];
    ld.param.u64 %d2, [py];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %d3, %r1, 4;
    add.s64 %d1, %d1, %d3;
    add.s64 %d2, %d2, %d3;
    ld.global.f32 %f1, [%d1];
    ld.global.f32 %f2, [%d2];
    add.f32 %f1, %f1, %f2;
    st.global.f32 [%d1], %f1;
    ret;
}
";

fn main() -> Result<(), Error> {
    let driver = match Driver::load() {
        Ok(driver) => driver,
        Err(why) => {
            println!("no GPU: {why}");
            return Ok(());
        }
    };
    let context = Context::new(driver.device(0)?)?;
    let stream = Stream::new(&context)?;
    let source = ModuleSource {
        name: "add",
        ptx: PTX,
        target: "sm_80",
    };
    let module = Module::load(&context, source, &CubinCache::disabled())?;
    let kernel = module.kernel(&KernelSignature {
        name: "add".into(),
        params: vec![ParamSpec::pointer("px"), ParamSpec::pointer("py")],
        block: [256, 1, 1],
        dynamic_shared: 0,
    })?;
    let (x, y) = (
        DeviceBuffer::new(&context, 1024)?,
        DeviceBuffer::new(&context, 1024)?,
    );
    stream.memset_d32(&x, 1.5f32.to_bits())?;
    stream.memset_d32(&y, 2f32.to_bits())?;
    let args = Args::for_kernel(&kernel).ptr(&x).ptr(&y).finish()?;
    stream.launch(&Launch::new(&kernel, [1, 1, 1], args))?;
    let mut out = [0; 1024];
    stream.copy_from_device(&x, 0, &mut out)?;
    assert_eq!(out[1020..], 3.5f32.to_le_bytes());
    println!("1.5 + 2 = 3.5");
    Ok(())
}
