//! On a GPU: buffers, the arena and its debug form, pinned memory, copies and the uploader.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::*;
use gannet_cuda_runtime::*;

/// Bytes that differ from their neighbours and from the same place of other seeds.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn read(stream: &Stream, buffer: &Buffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    stream.copy_from_device(buffer, 0, &mut bytes).unwrap();
    bytes
}

#[test]
fn properties() {
    let Some(device) = gpu() else { return };
    let properties = device.properties().unwrap();
    eprintln!("{properties:#?}\n{}", properties.uuid_text());
    assert!(properties.multiprocessors > 0 && properties.total_memory > 1 << 30);
    assert!(properties.max_shared_per_block_optin >= 48 << 10);
    assert!(!properties.name.is_empty() && properties.pci.contains(':'));
    let count = device.driver().device_count().unwrap();
    assert!(matches!(
        device.driver().device(count),
        Err(Error::NoSuchDevice { .. })
    ));
    let context = Context::new(device).unwrap();
    let (free, total) = context.free_memory().unwrap();
    assert!(free > 0 && free <= total);
}

#[test]
fn copies_and_ranges() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let arena = Arena::new(&context, 1 << 20).unwrap();
    let (a, b) = (
        arena.alloc(1000, 256).unwrap(),
        arena.alloc(1000, 256).unwrap(),
    );
    assert_eq!((a.ptr() % 256, b.ptr() % 256), (0, 0));
    assert!(b.ptr() >= a.ptr() + 1000);
    let bytes = pattern(1000, 1);
    stream.copy_to_device(&a, 0, &bytes).unwrap();
    stream.memset_d8(&b, 0xAB).unwrap();
    stream.copy(&b, 100, &a, 0, 900).unwrap();
    let got = read(&stream, &b);
    assert_eq!(
        (&got[..100], &got[100..]),
        (&[0xAB; 100][..], &bytes[..900])
    );
    let middle = b.slice(100..200).unwrap();
    assert_eq!(read(&stream, &middle), &bytes[..100]);

    assert!(matches!(
        stream.copy_to_device(&a, 1, &bytes),
        Err(Error::OutOfRange { .. })
    ));
    assert!(matches!(
        stream.copy(&a, 0, &b, 200, 900),
        Err(Error::OutOfRange { .. })
    ));
    assert!(matches!(
        stream.copy(&a, 0, &a, 1, 100),
        Err(Error::Invalid { .. })
    ));
    assert!(a.slice(500..1001).is_err() && middle.slice(101..).is_err());
    assert!(matches!(
        arena.alloc(1 << 20, 1),
        Err(Error::ArenaFull { .. })
    ));
    assert!(matches!(arena.alloc(1, 3), Err(Error::Invalid { .. })));
    stream.copy_to_device(&a, 1000, &[]).unwrap();
    let empty = DeviceBuffer::new(&context, 0).unwrap();
    stream.memset_d32(&empty, 1).unwrap();
}

#[test]
fn out_of_memory_says_what_is_free() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let error = DeviceBuffer::new(&context, 1 << 46).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { requested, .. } if requested == 1 << 46));
    assert!(!error.is_fatal());
    stream.synchronize().unwrap();
}

#[test]
fn debug_arena() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let arena = Arena::debug(&context, 1 << 20).unwrap();
    assert!(arena.is_debug());
    let first = arena.alloc(400, 1024).unwrap();
    let second = arena.alloc(400, 16).unwrap();
    assert_eq!(first.ptr() % 1024, 0);
    assert!(read_f32(&stream, &first).iter().all(|value| value.is_nan()));
    arena.check().unwrap();

    let module = load(&context, "store", STORE, "sm_80");
    let kernel = module.kernel(&pointer_and_word("store")).unwrap();
    let inside = Args::for_kernel(&kernel)
        .ptr(&second)
        .u32(5)
        .finish()
        .unwrap();
    stream
        .launch(&Launch::new(&kernel, [1, 1, 1], inside))
        .unwrap();
    arena.check().unwrap();
    // The kernel stores two words: the second one is past the end.
    let last = second.slice(396..).unwrap();
    let outside = Args::for_kernel(&kernel)
        .ptr(&last)
        .u32(5)
        .finish()
        .unwrap();
    stream
        .launch(&Launch::new(&kernel, [1, 1, 1], outside))
        .unwrap();
    let error = arena.check().unwrap_err();
    let Error::Canary {
        index,
        ptr,
        side,
        bytes,
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!((index, ptr, side, bytes), (1, second.ptr(), "after", 4));
}

#[test]
fn pinned_memory() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let mut pinned = PinnedBuffer::new(&context, 4096).unwrap();
    let mut bytes = vec![1; 4096];
    pinned.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0), "zeroed");
    let data = pattern(4096, 2);
    pinned.write(0, &data).unwrap();
    let buffer = DeviceBuffer::new(&context, 4096).unwrap();
    stream
        .copy_from_pinned(&buffer, 0, &pinned, 0, 4096)
        .unwrap();
    assert_eq!(read(&stream, &buffer), data);
    stream
        .copy_to_pinned(&mut pinned, 0, &buffer, 2048, 2048)
        .unwrap();
    stream.synchronize().unwrap();
    pinned.read(0, &mut bytes).unwrap();
    assert_eq!(bytes[..2048], data[2048..]);
    assert!(pinned.write(4090, &[0; 7]).is_err() && pinned.read_u32(1024).is_err());
    assert!(pinned.read_u32(usize::MAX).is_err());
}

/// The host sees what a kernel stores to mapped memory while no one synchronises.
#[test]
fn polling() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let pinned = PinnedBuffer::new(&context, 8).unwrap();
    let module = load(&context, "store", STORE, "sm_80");
    let kernel = module.kernel(&pointer_and_word("store")).unwrap();
    let before = context.statistics();
    for value in 1..=100 {
        let args = Args::for_kernel(&kernel)
            .ptr(&pinned.as_buffer())
            .u32(value);
        stream
            .launch(&Launch::new(&kernel, [1, 1, 1], args.finish().unwrap()))
            .unwrap();
        let start = Instant::now();
        while pinned.read_u32(1).unwrap() != value {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "never saw {value}"
            );
            std::hint::spin_loop();
        }
        assert_eq!(pinned.read_u32(0).unwrap(), value);
    }
    assert_eq!((context.statistics() - before).synchronizations, 0);
}

#[test]
fn uploader_round_trip() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    let config = UploaderConfig {
        threads: 3,
        buffers: 2,
        buffer_bytes: 1 << 18,
    };
    let mut uploader = Uploader::new(&context, config).unwrap();
    assert_eq!(uploader.allocating(), None);
    let data = pattern((7 << 20) + 12_345, 3);
    let dst = DeviceBuffer::new(&context, data.len() + 100).unwrap();
    stream.memset_d8(&dst, 0x11).unwrap();
    stream.synchronize().unwrap();
    uploader.upload(&dst, 50, &data).unwrap();
    assert!(
        uploader
            .allocating()
            .is_some_and(|(start, end)| start < end)
    );
    uploader.order_before(&stream).unwrap();
    let got = read(&stream, &dst);
    assert!(got[50..50 + data.len()] == data[..]);
    assert!(
        got[..50]
            .iter()
            .chain(&got[50 + data.len()..])
            .all(|&byte| byte == 0x11)
    );

    stream.memset_d8(&dst, 0).unwrap();
    stream.synchronize().unwrap();
    let none = &data[..0];
    let uploads = [(0, &data[..5 << 20]), (5 << 20, &data[..1000]), (0, none)];
    let uploads = uploads.map(|(offset, bytes)| Upload {
        dst: dst.clone(),
        offset,
        bytes,
    });
    uploader.upload_all(&uploads).unwrap();
    uploader.finish().unwrap();
    let got = read(&stream, &dst);
    assert!(got[..5 << 20] == data[..5 << 20]);
    assert!(got[5 << 20..][..1000] == data[..1000]);
    let past = uploader.upload(&dst, dst.len() - 5, &[0; 6]);
    assert!(matches!(past, Err(Error::OutOfRange { .. })));
}

/// Parts that are made on the way, each with several copies out of its staging buffer.
#[test]
fn uploader_parts() {
    let Some((context, stream)) = gpu_stream() else {
        return;
    };
    const HALF: usize = 3000;
    const PARTS: usize = 100;
    let config = UploaderConfig {
        threads: 4,
        buffers: 2,
        buffer_bytes: 2 * HALF,
    };
    let mut uploader = Uploader::new(&context, config).unwrap();
    let data = pattern(2 * HALF * PARTS, 5);
    let dst = DeviceBuffer::new(&context, data.len()).unwrap();
    // Even halves of parts go to the front of the buffer, odd ones to its back.
    uploader
        .parts(PARTS, |part, staging| -> Result<(), Error> {
            let source = &data[2 * HALF * part..][..2 * HALF];
            staging.bytes()[..2 * HALF].copy_from_slice(source);
            staging.copy(0..HALF, &dst, HALF * part)?;
            staging.copy(HALF..2 * HALF, &dst, HALF * (PARTS + part))
        })
        .unwrap();
    uploader.order_before(&stream).unwrap();
    let got = read(&stream, &dst);
    for (index, half) in data.chunks(HALF).enumerate() {
        let at = HALF * (index / 2 + PARTS * (index % 2));
        assert!(got[at..at + HALF] == *half, "half {index}");
    }
    let past = uploader.parts(1, |_, staging| staging.copy(0..2, &dst, dst.len() - 1));
    assert!(matches!(past, Err(Error::OutOfRange { .. })));
    let outside = uploader.parts(1, |_, staging| staging.copy(0..2 * HALF + 1, &dst, 0));
    assert!(matches!(outside, Err(Error::OutOfRange { .. })));
    let own = uploader.parts(9, |part, _| match part {
        4 => Err(Error::Invalid {
            what: "part",
            reason: "refused".to_owned(),
        }),
        _ => Ok(()),
    });
    assert!(matches!(own, Err(Error::Invalid { what: "part", .. })));
}

/// Not a bound, because machines differ: it prints what the uploader reaches here.
#[test]
fn uploader_speed() {
    let Some((context, _)) = gpu_stream() else {
        return;
    };
    let mut uploader = Uploader::new(&context, UploaderConfig::default()).unwrap();
    let data = pattern(1 << 30, 4);
    let dst = DeviceBuffer::new(&context, data.len()).unwrap();
    for round in 0..3 {
        let start = Instant::now();
        uploader.upload(&dst, 0, &data).unwrap();
        uploader.finish().unwrap();
        let rate = data.len() as f64 / start.elapsed().as_secs_f64() / 1e9;
        eprintln!("uploader, 1 GiB, round {round}: {rate:.1} GB/s");
    }
}
