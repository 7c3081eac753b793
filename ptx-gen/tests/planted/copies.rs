//! Asynchronous copies whose data is used, or overwritten, too early.

use gannet_ptx_gen::build::BulkCopy;
use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::target::Target;

use crate::{SHARED, finding, numbers, quiet, thread};

const FILE: &str = "planted/copies.rs";

/// out = W x for 32 columns a tile, tiles of W copied ahead into two stages; a thread a row. Planted: the wait leaves
/// the tile that is about to be read in flight.
fn gemv(planted: bool) -> (Kernel, u32) {
    let (tiles, mut line) = (4u32, 0);
    let kernel = Kernel::new("gemv", Target::Sm80, |k| {
        k.block_size(32);
        let (w, x, out) = (
            k.input::<f32>("w"),
            k.input::<f32>("x"),
            k.output::<f32>("out"),
        );
        let stages = k.shared::<f32>("stages", 2 * 32 * 4);
        let copy = |tile: u32| {
            if tile < tiles {
                let to = (k.thread_x() + tile % 2 * 32) * 4;
                k.cp_async(16, stages, to, w, (k.thread_x() * tiles + tile) * 4);
            }
            k.cp_async_commit();
        };
        copy(0);
        let sum = k.var(0f32);
        for tile in 0..tiles {
            copy(tile + 1);
            k.cp_async_wait(if planted { 2 } else { 1 });
            line = line!() + 1;
            let a = stages.load_vec::<4>((k.thread_x() + tile % 2 * 32) * 4);
            for (i, a) in a.iter().enumerate() {
                sum.set(a.fma(x.load(tile * 4 + i as u32), sum.get()));
            }
        }
        out.store(k.thread_x(), sum.get());
    });
    (kernel, line)
}

#[test]
fn a_tile_read_before_it_was_waited_for() {
    let mut memory = Memory::new();
    let (w, x) = (
        memory.alloc_from(&numbers(512)),
        memory.alloc_from(&numbers(16)),
    );
    let out = memory.alloc(128);
    let args = [LaunchArg::U64(w), LaunchArg::U64(x), LaunchArg::U64(out)];
    let (kernel, line) = gemv(true);
    let place = thread((FILE, line), 0);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    assert!(
        matches!(&kind, FaultKind::Race { address: SHARED, what } if what.contains("copy still in flight")),
        "{kind}"
    );
    quiet(&gemv(false).0, [1, 1, 1], &args, &memory);
    let (w, x) = (numbers(512), numbers(16));
    let dot = |row: &[f32]| row.iter().zip(&x).map(|(a, b)| a * b).sum();
    let expected: Vec<f32> = w.chunks(16).map(dot).collect();
    assert_eq!(memory.read::<f32>(out, 32).unwrap(), expected);
}

/// A ring of two stages: thread 0 of warp 0 fills it by bulk copies, warp 1 adds up what arrives. Planted: a stage is
/// filled again without waiting until it is empty.
fn ring(planted: bool) -> (Kernel, u32) {
    let (rounds, mut line) = (6u32, 0);
    let kernel = Kernel::new("ring", Target::Sm90a, |k| {
        k.block_size(64);
        let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
        let data = k.shared::<f32>("data", 2 * 32);
        let (full, empty) = (k.shared::<u64>("full", 2), k.shared::<u64>("empty", 2));
        k.if_(k.thread_x().eq(0), || {
            for stage in 0..2u32 {
                full.mbarrier_init(stage, 1);
                empty.mbarrier_init(stage, 32);
            }
        });
        k.barrier();
        let fill = || {
            for round in 0..rounds {
                let stage = round % 2;
                if round >= 2 && !planted {
                    empty.mbarrier_wait(stage, (round / 2 % 2) ^ 1);
                }
                let (to, from) = (k.constant(stage * 32), k.constant(round * 32));
                line = line!() + 1;
                full.mbarrier_expect(stage, 128);
                full.bulk_copy(
                    stage,
                    BulkCopy {
                        dst: data,
                        to,
                        src: x,
                        from,
                        bytes: 128,
                    },
                );
            }
        };
        let drain = || {
            let sum = k.var(0f32);
            for round in 0..rounds {
                let stage = round % 2;
                full.mbarrier_wait(stage, round / 2 % 2);
                sum.set(sum.get() + data.load(k.lane() + stage * 32));
                empty.mbarrier_arrive(stage);
            }
            out.store(k.lane(), sum.get());
        };
        k.if_else(k.thread_x().lt(32), || k.if_(k.lane().eq(0), fill), drain);
    });
    (kernel, line)
}

#[test]
fn a_stage_filled_again_before_it_is_empty() {
    let mut memory = Memory::new();
    let (x, out) = (memory.alloc_from(&numbers(192)), memory.alloc(128));
    let args = [LaunchArg::U64(x), LaunchArg::U64(out)];
    let (kernel, line) = ring(true);
    let place = thread((FILE, line), 0);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    assert!(
        matches!(&kind, FaultKind::Protocol(what) if what.contains("more arrivals than")),
        "{kind}"
    );
    quiet(&ring(false).0, [1, 1, 1], &args, &memory);
    let x = numbers(192);
    let expected: Vec<f32> = (0..32)
        .map(|l| (0..6).map(|r| x[r * 32 + l]).sum())
        .collect();
    assert_eq!(memory.read::<f32>(out, 32).unwrap(), expected);
}
