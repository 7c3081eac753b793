//! Every row of the instruction table on a GPU and in the interpreter, on the same inputs: no disagreement beyond
//! what the PTX ISA allows. Writes the table of results to the path in `GANNET_CONFORMANCE_OUT`.

mod common;

use std::collections::BTreeMap;

use common::gpu;
use gannet_cuda_runtime::{
    Args, Buffer, Error, KernelSignature, Launch, LoadedKernel, Module, ModuleSource, ParamSpec,
    Stream,
};
use gannet_engine::internals::exec::cuda::Gpu;
use gannet_engine::settings::DiskCache;
use gannet_ptx_gen::conformance::{Case, Outcome, Rule, cases, compare, report};
use gannet_ptx_gen::interp::LaunchArg;
use rayon::prelude::*;

fn compile(gpu: &Gpu, case: &Case) -> LoadedKernel {
    let kernel = &case.kernel;
    let ptx = kernel
        .ptx()
        .unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let source = ModuleSource {
        name: kernel.name.as_str(),
        ptx: &ptx,
        target: gpu.target.name(),
    };
    let spec = KernelSignature {
        name: kernel.name.clone(),
        params: kernel
            .params
            .iter()
            .map(|p| ParamSpec::scalar(p.name.clone(), p.bytes() as usize))
            .collect(),
        block: kernel.block_size,
        dynamic_shared: kernel.dynamic_shared,
    };
    Module::load(&gpu.context, source, &gpu.cache)
        .and_then(|module| module.kernel(&spec))
        .unwrap_or_else(|e| panic!("{}: {e}\n{ptx}", case.name))
}

/// Runs the case on the GPU and gives the output buffer.
fn execute(
    gpu: &Gpu,
    stream: &Stream,
    case: &Case,
    kernel: &LoadedKernel,
) -> Result<Vec<u8>, Error> {
    let mut args = Args::for_kernel(kernel);
    let mut buffers = Vec::new();
    for bytes in case.inputs.iter().chain([&case.output]) {
        let buffer = Buffer::new(&gpu.context, bytes.len())?;
        stream.copy_to_device(&buffer, 0, bytes)?;
        args = args.ptr(&buffer);
        buffers.push(buffer);
    }
    for scalar in &case.scalars {
        args = match *scalar {
            LaunchArg::U32(x) => args.u32(x),
            LaunchArg::I32(x) => args.i32(x),
            LaunchArg::U64(x) => args.u64(x),
            LaunchArg::I64(x) => args.i64(x),
            LaunchArg::F32(x) => args.f32(x),
            LaunchArg::F64(x) => args.f64(x),
            other => panic!("{}: {other:?} is not passed here", case.name),
        };
    }
    stream.launch(&Launch::new(kernel, case.grid, args.finish()?))?;
    let mut output = vec![0; case.output.len()];
    let last = buffers.last().expect("the output buffer");
    stream.copy_from_device(last, 0, &mut output)?;
    Ok(output)
}

fn compared(gpu: &Gpu, stream: &Stream, case: &Case, kernel: &LoadedKernel) -> Outcome {
    let interpreted = case.interpret();
    let found = execute(gpu, stream, case, kernel);
    if case.rule == Rule::Traps {
        interpreted.expect_err("a trap");
        let error = found.expect_err("a trap");
        assert!(error.is_fatal(), "{}: {error}", case.name);
        return compare(case, &case.output, &case.output);
    }
    let interpreted = interpreted.unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let found = found.unwrap_or_else(|e| panic!("{}: {e}", case.name));
    compare(case, &interpreted, &found)
}

#[test]
fn gpu_agrees_with_the_interpreter_form_by_form() {
    if !gpu("conformance of the interpreter") {
        return;
    }
    let gpu = Gpu::open(0, &DiskCache::default()).expect("a GPU");
    let stream = Stream::new(&gpu.context).expect("a stream");
    let cases = cases(gpu.target);
    let kernels: Vec<LoadedKernel> = cases.par_iter().map(|case| compile(&gpu, case)).collect();
    // A trap ends the context: such forms come last.
    let mut order: Vec<usize> = (0..cases.len()).collect();
    order.sort_by_key(|i| cases[*i].rule == Rule::Traps);
    let mut results = BTreeMap::new();
    let mut failures = Vec::new();
    for i in order {
        let case = &cases[i];
        let outcome = compared(&gpu, &stream, case, &kernels[i]);
        let result = report::result(case, &outcome);
        println!(
            "{} | {} values | {} | {result} | worst {:.3}, {} ulp",
            case.name, outcome.values, case.rule, outcome.worst, outcome.max_ulp
        );
        if !outcome.passes() {
            let first = outcome.first.unwrap_or_default();
            failures.push(format!("{}: {result}; {first}", case.name));
        }
        results.insert(case.name.clone(), result);
    }
    if let Some(path) = std::env::var_os("GANNET_CONFORMANCE_OUT") {
        let (major, minor) = gpu.properties.compute_capability;
        let device = format!(
            "{}, compute capability {major}.{minor}",
            gpu.properties.name
        );
        let document = report::render(&cases, &device, &results);
        std::fs::write(&path, document).expect("the table is written");
    }
    println!("{} forms, {} disagree", cases.len(), failures.len());
    assert!(
        failures.is_empty(),
        "disagreements:\n{}",
        failures.join("\n")
    );
}
