//! A kernel of one's own, run through the interpreter and, where there is one, on a GPU: both give the same.
//! `cargo run --example own_kernel --features interp`

use gannet_cuda_runtime::{
    Args, Context, CubinCache, DeviceBuffer, Driver, KernelSignature, Launch, Module, ModuleSource,
    ParamSpec, Stream,
};
use gannet_ptx_gen::interp::{LaunchArg, Memory, Options, launch};
use gannet_ptx_gen::{ir::Kernel, target::Target};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const N: u32 = 1000;

/// `y[i] = a * x[i] + y[i]`, an element a thread.
fn saxpy(target: Target) -> Kernel {
    Kernel::new("saxpy", target, |k| {
        k.block_size(256);
        let (x, y) = (k.input::<f32>("x"), k.in_out::<f32>("y"));
        let (a, n) = (k.scalar::<f32>("a"), k.scalar::<u32>("n"));
        let i = k.block_x() * 256 + k.thread_x();
        k.if_(i.lt(n), || y.store(i, a.fma(x.load(i), y.load(i))));
    })
}

/// Every access is checked; a fault names the line above that is wrong.
fn interpreted(x: &[f32], y: &[f32]) -> Outcome<Vec<f32>> {
    let mut memory = Memory::new();
    let (x, y) = (memory.alloc_from(x), memory.alloc_from(y));
    let args = [
        LaunchArg::U64(x),
        LaunchArg::U64(y),
        LaunchArg::F32(2.0),
        LaunchArg::U32(N),
    ];
    let kernel = saxpy(Target::Sm80);
    launch(
        &kernel,
        [N.div_ceil(256), 1, 1],
        &args,
        &memory,
        &Options::default(),
    )?;
    Ok(memory.read::<f32>(y, N as usize)?)
}

fn on_gpu(driver: Driver, x: &[f32], y: &[f32]) -> Outcome<Vec<f32>> {
    let device = driver.device(0)?;
    let (major, minor) = device.properties()?.compute_capability;
    let target = Target::for_device(major, minor).ok_or("a GPU older than sm_75")?;
    let (context, kernel) = (Context::new(device)?, saxpy(target));
    let source = ModuleSource {
        name: &kernel.name,
        ptx: &kernel.ptx()?,
        target: &target.to_string(),
    };
    let module = Module::load(&context, source, &CubinCache::disabled())?;
    let params = kernel.params.iter();
    let signature = KernelSignature {
        name: kernel.name.clone(),
        params: params
            .map(|p| ParamSpec::scalar(p.name.clone(), p.bytes() as usize))
            .collect(),
        block: kernel.block_size,
        dynamic_shared: kernel.dynamic_shared,
    };
    let compiled = module.kernel(&signature)?;
    let stream = Stream::new(&context)?;
    let (dx, dy) = (
        DeviceBuffer::new(&context, x.len() * 4)?,
        DeviceBuffer::new(&context, y.len() * 4)?,
    );
    let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    stream.copy_to_device(&dx, 0, &bytes(x))?;
    stream.copy_to_device(&dy, 0, &bytes(y))?;
    let args = Args::for_kernel(&compiled)
        .ptr(&dx)
        .ptr(&dy)
        .f32(2.0)
        .u32(N);
    stream.launch(&Launch::new(
        &compiled,
        [N.div_ceil(256), 1, 1],
        args.finish()?,
    ))?;
    let mut out = vec![0; y.len() * 4];
    stream.copy_from_device(&dy, 0, &mut out)?;
    let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    Ok(out.chunks_exact(4).map(number).collect())
}

fn main() -> Outcome<()> {
    let x: Vec<f32> = (0..N).map(|i| i as f32).collect();
    let y = vec![1.0; N as usize];
    let expected = interpreted(&x, &y)?;
    println!("interpreted: y[999] = {}", expected[999]);
    match Driver::load() {
        Ok(driver) => {
            assert_eq!(on_gpu(driver, &x, &y)?, expected);
            println!("on the GPU: the same");
        }
        Err(why) => println!("no GPU: {why}"),
    }
    Ok(())
}
