//! On a GPU: one launch three ways (eager, graph, capture), ordering, updates, and what is refused
//! before the driver is called.

mod common;

use std::thread;

use common::*;
use gannet_cuda_runtime::*;

const N: usize = 1000;

#[test]
fn eager() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let add = addition(&context, &stream, N);
    assert!(
        read_f32(&stream, &add.out).iter().all(|v| v.is_nan()),
        "poisoned first"
    );
    let before = context.statistics();
    stream.launch(&add.launch).unwrap();
    let during = context.statistics() - before;
    assert_eq!((during.launches, during.synchronizations), (1, 0));
    assert_eq!(read_f32(&stream, &add.out), add.expected);
    assert!(stream.query().unwrap());
}

#[test]
fn graph() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let add = addition(&context, &stream, N);
    let copy = DeviceBuffer::new(&context, N * 4).unwrap();
    let mut builder = GraphBuilder::new(&context).unwrap();
    let poison = builder.add_memset(&add.out, 0x7FC0_0000, &[]).unwrap();
    let node = builder.add_kernel(&add.launch, &[poison]).unwrap();
    builder.add_memcpy(&copy, &add.out, &[node]).unwrap();
    assert_eq!(builder.node_count(), 3);
    let graph = builder.instantiate().unwrap();
    assert_eq!(graph.node_count(), 3);
    graph.upload(&stream).unwrap();

    let before = context.statistics();
    for _ in 0..10 {
        graph.launch(&stream).unwrap();
    }
    let during = context.statistics() - before;
    assert_eq!(
        (
            during.graph_launches,
            during.launches,
            during.synchronizations
        ),
        (10, 0, 0)
    );
    assert_eq!(read_f32(&stream, &copy), add.expected);
}

#[test]
fn graph_owns_what_it_names() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let add = addition(&context, &stream, N);
    let mut builder = GraphBuilder::new(&context).unwrap();
    builder.chain(&[add.launch]).unwrap();
    let graph = builder.instantiate().unwrap();
    let out = add.out.clone();
    // The arena, the module, the kernel and the inputs have no other owner left; what is allocated
    // now must not land on them.
    drop((add.x, add.out));
    let other = DeviceBuffer::new(&context, 1 << 20).unwrap();
    stream.memset_d8(&other, 0xFF).unwrap();
    graph.launch(&stream).unwrap();
    assert_eq!(read_f32(&stream, &out), add.expected);
}

#[test]
fn capture() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let add = addition(&context, &stream, N);
    let mut capture = stream.begin_capture().unwrap();
    capture.launch(&add.launch).unwrap();
    capture.launch(&add.launch).unwrap();
    // Whatever happens beside a capture does not disturb it.
    let beside = DeviceBuffer::new(&context, 64).unwrap();
    stream.memset_d32(&beside, 7).unwrap();
    assert_eq!(read_u32(&stream, &beside), 7);
    let before = read_f32(&stream, &add.out);
    assert!(before.iter().all(|v| v.is_nan()), "recording runs nothing");
    let graph = capture.finish().unwrap();
    assert_eq!(graph.node_count(), 2);
    graph.launch(&stream).unwrap();
    assert_eq!(read_f32(&stream, &add.out), add.expected);
}

#[test]
fn abandoned_capture_ends() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let add = addition(&context, &stream, N);
    let mut capture = stream.begin_capture().unwrap();
    capture.launch(&add.launch).unwrap();
    drop(capture);
    stream.launch(&add.launch).unwrap();
    assert_eq!(read_f32(&stream, &add.out), add.expected);
}

#[test]
fn update_kernel() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let add = addition(&context, &stream, N);
    let mut builder = GraphBuilder::new(&context).unwrap();
    let node = builder.chain(std::slice::from_ref(&add.launch)).unwrap()[0];
    let graph = builder.instantiate().unwrap();
    let to = DeviceBuffer::new(&context, N * 4).unwrap();
    let kernel = &add.launch.kernel;
    let args = Args::for_kernel(kernel)
        .ptr(&add.x)
        .ptr(&add.x)
        .ptr(&to)
        .u32(N as u32);
    let doubled = Launch::new(kernel, add.launch.grid, args.finish().unwrap());
    graph.update_kernel(node, &doubled).unwrap();
    graph.launch(&stream).unwrap();
    let expected: Vec<f32> = (0..N).map(|i| i as f32).collect();
    assert_eq!(read_f32(&stream, &to), expected);
    assert!(
        read_f32(&stream, &add.out).iter().all(|v| v.is_nan()),
        "no longer written"
    );

    let mut other = GraphBuilder::new(&context).unwrap();
    let foreign = other.add_memset(&to, 0, &[]).unwrap();
    assert!(matches!(
        graph.update_kernel(foreign, &doubled),
        Err(Error::Foreign { .. })
    ));
    assert!(matches!(
        other.add_kernel(&doubled, &[node]),
        Err(Error::Foreign { .. })
    ));
    let other = other.instantiate().unwrap();
    assert!(matches!(
        other.update_kernel(foreign, &doubled),
        Err(Error::Invalid { .. })
    ));
}

/// Programmatic edges let kernels overlap; the wait inside them must still order what they do.
#[test]
fn programmatic_order() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    if !is_hopper(&context) {
        return;
    }
    let kernel = load(&context, "step", STEP, "sm_90")
        .kernel(&pointer_and_word("step"))
        .unwrap();
    let value = DeviceBuffer::new(&context, 4).unwrap();
    let launches: Vec<Launch> = (0..50)
        .map(|k| {
            let args = Args::for_kernel(&kernel)
                .ptr(&value)
                .u32(k)
                .finish()
                .unwrap();
            Launch::new(&kernel, [1, 1, 1], args).programmatic()
        })
        .collect();
    let expected = (0..50).fold(1_u32, |v, k| v.wrapping_mul(3).wrapping_add(k));

    stream.memset_d32(&value, 1).unwrap();
    launches
        .iter()
        .for_each(|launch| stream.launch(launch).unwrap());
    assert_eq!(read_u32(&stream, &value), expected, "eager");

    let mut builder = GraphBuilder::new(&context).unwrap();
    builder.add_memset(&value, 1, &[]).unwrap();
    builder.chain(&launches).unwrap();
    let graph = builder.instantiate().unwrap();
    for _ in 0..20 {
        graph.launch(&stream).unwrap();
    }
    assert_eq!(read_u32(&stream, &value), expected, "graph");

    let mut capture = stream.begin_capture().unwrap();
    launches
        .iter()
        .for_each(|launch| capture.launch(launch).unwrap());
    let graph = capture.finish().unwrap();
    stream.memset_d32(&value, 1).unwrap();
    graph.launch(&stream).unwrap();
    assert_eq!(read_u32(&stream, &value), expected, "capture");
}

#[test]
fn clusters() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    if !is_hopper(&context) {
        return;
    }
    let add = addition(&context, &stream, 1024);
    let ptx = ADD.replace("7.0", "7.8").replace("sm_80", "sm_90");
    let kernel = load(&context, "add", &ptx, "sm_90")
        .kernel(&add_spec())
        .unwrap();
    let launch = Launch {
        kernel,
        ..add.launch.clone()
    }
    .cluster([4, 1, 1]);
    stream.launch(&launch).unwrap();
    assert_eq!(read_f32(&stream, &add.out), add.expected);
    stream.memset_d8(&add.out, 0xFF).unwrap();
    let mut builder = GraphBuilder::new(&context).unwrap();
    builder.chain(&[launch]).unwrap();
    builder.instantiate().unwrap().launch(&stream).unwrap();
    assert_eq!(read_f32(&stream, &add.out), add.expected);
}

#[test]
fn refused_before_the_driver() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let add = addition(&context, &stream, N);
    let kernel = &add.launch.kernel;
    let few = Args::for_kernel(kernel).ptr(&add.x).u32(1).finish();
    assert!(matches!(few, Err(Error::Args { .. })), "{few:?}");
    let short = Args::for_kernel(kernel)
        .ptr(&add.x)
        .ptr(&add.x)
        .ptr(&add.x)
        .u64(1)
        .finish();
    assert!(matches!(short, Err(Error::Args { .. })), "{short:?}");

    let other = Args::for_spec(&pointer_and_word("step"))
        .unwrap()
        .ptr(&add.x)
        .u32(0);
    let mixed = Launch::new(kernel, [1, 1, 1], other.finish().unwrap());
    assert!(matches!(stream.launch(&mixed), Err(Error::Args { .. })));
    let empty = Launch {
        grid: [0, 1, 1],
        ..add.launch.clone()
    };
    assert!(matches!(
        stream.launch(&empty),
        Err(Error::LaunchConfig { .. })
    ));
    let odd = add.launch.clone().cluster([3, 1, 1]);
    assert!(matches!(
        stream.launch(&odd),
        Err(Error::LaunchConfig { .. })
    ));
    // None of it harmed the context.
    stream.launch(&add.launch).unwrap();
    assert_eq!(read_f32(&stream, &add.out), add.expected);
}

#[test]
fn from_many_threads() {
    let Some((context, _)) = gpu_stream() else {
        return;
    };
    thread::scope(|scope| {
        for n in [100, 500, 1000, 5000] {
            let context = &context;
            scope.spawn(move || {
                let stream = Stream::new(context).unwrap();
                let add = addition(context, &stream, n);
                for _ in 0..100 {
                    stream.launch(&add.launch).unwrap();
                }
                assert_eq!(read_f32(&stream, &add.out), add.expected);
            });
        }
    });
}

#[test]
fn event_timing() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let (start, end) = (
        DeviceEvent::new(&context, true).unwrap(),
        DeviceEvent::new(&context, true).unwrap(),
    );
    let big = DeviceBuffer::new(&context, 256 << 20).unwrap();
    stream.memset_d32(&big, 0).unwrap();
    start.record(&stream).unwrap();
    stream.memset_d32(&big, 1).unwrap();
    end.record(&stream).unwrap();
    end.synchronize().unwrap();
    assert!(end.query().unwrap());
    let ms = DeviceEvent::elapsed_ms(&start, &end).unwrap();
    assert!(ms > 0.005 && ms < 1000.0, "{ms} ms for 256 MiB");

    let untimed = DeviceEvent::new(&context, false).unwrap();
    untimed.record(&stream).unwrap();
    assert!(matches!(
        DeviceEvent::elapsed_ms(&start, &untimed),
        Err(Error::Invalid { .. })
    ));
    let second = Stream::new(&context).unwrap();
    second.wait_event(&untimed).unwrap();
    second.synchronize().unwrap();
}
