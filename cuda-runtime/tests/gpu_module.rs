//! On a GPU: compiling PTX, what a failure says, the cubin cache, and specifications that disagree
//! with what was compiled.

mod common;

use std::fs;
use std::thread;

use common::*;
use gannet_cuda_runtime::*;

#[test]
fn jit_error_has_the_line() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let bad = ADD.replace("add.f32 %f3", "add.f33 %f3");
    let line = bad
        .lines()
        .position(|line| line.contains("add.f33"))
        .unwrap()
        + 1;
    let source = ModuleSource {
        name: "vector_add",
        ptx: &bad,
        target: "sm_80",
    };
    let error = Module::load(&context, source, &CubinCache::disabled()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("vector_add") && text.contains("sm_80"),
        "{text}"
    );
    assert!(
        text.contains(&format!("{line} |")) && text.contains("add.f33"),
        "{text}"
    );
    let Error::Jit(jit) = &error else {
        panic!("{error:?}")
    };
    assert!(!jit.log.is_empty());
    assert!(!error.is_fatal());

    let newer = ADD.replace(".version 7.0", ".version 99.9");
    let source = ModuleSource {
        name: "newer",
        ptx: &newer,
        target: "sm_80",
    };
    let error = Module::load(&context, source, &CubinCache::disabled()).unwrap_err();
    eprintln!("too new a version: {error}");
    assert!(matches!(error, Error::Jit(_)));

    let nul = ModuleSource {
        name: "nul",
        ptx: "\0",
        target: "sm_80",
    };
    assert!(matches!(
        Module::load(&context, nul, &CubinCache::disabled()),
        Err(Error::Invalid { .. })
    ));
    // The context is as good as before.
    let add = addition(&context, &stream, 100);
    stream.launch(&add.launch).unwrap();
    assert_eq!(read_f32(&stream, &add.out), add.expected);
}

#[test]
fn second_load_comes_from_the_cache() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let cache = CubinCache::new(folder.path());
    let load = |ptx: &str| {
        let source = ModuleSource {
            name: "add",
            ptx,
            target: "sm_80",
        };
        Module::load(&context, source, &cache).unwrap()
    };
    let before = context.statistics();
    assert!(!load(ADD).from_cache());
    let cached = load(ADD);
    assert!(cached.from_cache());
    let during = context.statistics() - before;
    assert_eq!((during.modules, during.compilations), (2, 1));
    let entries = || {
        fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().path())
    };
    assert_eq!(entries().count(), 1);

    // What comes from the cache is the same kernel.
    let add = addition(&context, &stream, 1000);
    let kernel = cached.kernel(&add_spec()).unwrap();
    stream
        .launch(&Launch {
            kernel,
            ..add.launch
        })
        .unwrap();
    assert_eq!(read_f32(&stream, &add.out), add.expected);

    // A damaged entry is compiled anew and replaced; another text is another entry.
    let path = entries().next().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&path, bytes).unwrap();
    assert!(!load(ADD).from_cache());
    assert!(load(ADD).from_cache());
    assert!(!load(&ADD.replace("DONE", "OVER")).from_cache());
    assert_eq!(entries().count(), 2);
}

#[test]
fn many_modules_at_once() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let cache = CubinCache::new(folder.path());
    let kernels: Vec<LoadedKernel> = thread::scope(|scope| {
        let handles: Vec<_> = (0..16)
            .map(|i| {
                let (context, cache) = (&context, &cache);
                scope.spawn(move || {
                    let name = format!("add_{}", i % 8);
                    let ptx = ADD.replace("entry add(", &format!("entry {name}("));
                    let source = ModuleSource {
                        name: &name,
                        ptx: &ptx,
                        target: "sm_80",
                    };
                    let module = Module::load(context, source, cache).unwrap();
                    module
                        .kernel(&KernelSignature { name, ..add_spec() })
                        .unwrap()
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap())
            .collect()
    });
    let add = addition(&context, &stream, 1000);
    for kernel in kernels {
        stream.memset_d8(&add.out, 0xFF).unwrap();
        stream
            .launch(&Launch {
                kernel,
                ..add.launch.clone()
            })
            .unwrap();
        assert_eq!(read_f32(&stream, &add.out), add.expected);
    }
}

#[test]
fn architecture_specific_target() {
    let Some((context, _)) = gpu_stream() else {
        return;
    };
    if context.device().properties().unwrap().compute_capability != (9, 0) {
        eprintln!("skipped: sm_90a code runs on compute capability 9.0 alone");
        return;
    }
    // setmaxnreg exists for sm_90a alone.
    let ptx = r#".version 8.0
.target sm_90a
.address_size 64
.visible .entry k() .reqntid 128 .minnctapersm 1
{
    setmaxnreg.dec.sync.aligned.u32 24;
    ret;
}
"#;
    let folder = tempfile::tempdir().unwrap();
    let cache = CubinCache::new(folder.path());
    for again in [false, true] {
        let source = ModuleSource {
            name: "k",
            ptx,
            target: "sm_90a",
        };
        let module = Module::load(&context, source, &cache).unwrap();
        assert_eq!(module.from_cache(), again);
        module.kernel(&spec("k", vec![], 128)).unwrap();
    }
}

#[test]
fn attributes_and_occupancy() {
    let Some((context, _)) = gpu_stream() else {
        return;
    };
    let module = load(&context, "add", ADD, "sm_80");
    eprintln!("log: {}", module.log());
    let kernel = module.kernel(&add_spec()).unwrap();
    let attributes = kernel.attributes();
    assert!(
        attributes.registers > 0 && attributes.registers < 64,
        "{attributes:?}"
    );
    assert_eq!((attributes.local_bytes, attributes.static_shared), (0, 0));
    assert!(attributes.max_threads >= 128);
    assert!(kernel.blocks_per_multiprocessor().unwrap() >= 8);
}

#[test]
fn more_shared_memory_than_48_kib() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let spec = KernelSignature {
        dynamic_shared: 64 << 10,
        ..spec("reverse", vec![ParamSpec::pointer("p")], 1024)
    };
    let module = load(&context, "reverse", REVERSE, "sm_80");
    let kernel = module.kernel(&spec).unwrap();
    let data = DeviceBuffer::new(&context, 64 << 10).unwrap();
    let words: Vec<u8> = (0..16_384_u32).flat_map(u32::to_le_bytes).collect();
    stream.copy_to_device(&data, 0, &words).unwrap();
    let args = Args::for_kernel(&kernel).ptr(&data).finish().unwrap();
    stream
        .launch(&Launch::new(&kernel, [1, 1, 1], args))
        .unwrap();
    let mut out = vec![0; 64 << 10];
    stream.copy_from_device(&data, 0, &mut out).unwrap();
    let expected: Vec<u8> = (0..16_384_u32).rev().flat_map(u32::to_le_bytes).collect();
    assert!(out == expected);

    let huge = KernelSignature {
        dynamic_shared: 10 << 20,
        ..spec
    };
    assert!(matches!(module.kernel(&huge), Err(Error::Spec { .. })));
}

#[test]
fn specifications_are_compared() {
    let Some((context, _)) = gpu_stream() else {
        return;
    };
    let module = load(&context, "add", ADD, "sm_80");
    let missing = module.kernel(&KernelSignature {
        name: "sub".into(),
        ..add_spec()
    });
    assert!(
        matches!(missing, Err(Error::KernelMissing { .. })),
        "{missing:?}"
    );
    let wide = module.kernel(&KernelSignature {
        block: [2048, 1, 1],
        ..add_spec()
    });
    assert!(matches!(wide, Err(Error::Spec { .. })), "{wide:?}");

    if context.device().driver().version().unwrap() < (12, 4) {
        eprintln!("skipped: parameters are compared from CUDA 12.4 on");
        return;
    }
    let mut few = add_spec();
    few.params.pop();
    let mut many = add_spec();
    many.params.push(ParamSpec::scalar("more", 4));
    let mut wrong = add_spec();
    wrong.params[3].size = 8;
    wrong.params[3].align = 8;
    for spec in [few, many, wrong] {
        let result = module.kernel(&spec);
        assert!(matches!(result, Err(Error::Spec { .. })), "{result:?}");
    }
}
