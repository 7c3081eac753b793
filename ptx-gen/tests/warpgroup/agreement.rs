//! Random programs of products, fences, groups and waits: on straight code the verifier and the interpreter must say
//! the same of each, since what the one proves is what the other sees.

use gannet_ptx_gen::build::{LeftFactor, MatrixLayout, Swizzle};
use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory, Options, Prepared};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::op::{Fence, Wgmma, WgmmaType};
use gannet_ptx_gen::target::Target;
use gannet_ptx_gen::verify::Error;
use half::f16;

/// Numbers from a seed (SplitMix64; Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % n
    }
}

/// A program of a dozen steps over two sets of accumulators and two factors. Most follow the rules most of the time, so
/// that there are right ones among them.
fn program(seed: u64) -> Kernel {
    let mut random = Random(seed);
    Kernel::new("random", Target::Sm90a, |k| {
        k.block_size(128);
        let (x, out) = (k.input::<u32>("x"), k.output::<f32>("out"));
        let tile = k.shared_aligned::<u32>("tile", 64, 1024);
        k.if_(k.thread_x().lt(64), || {
            tile.store(k.thread_x(), x.load(k.thread_x()));
        });
        k.fence(Fence::ProxyAsync);
        k.barrier();
        let b = tile.descriptor(0, MatrixLayout::rows(Swizzle::B32));
        let sums = [k.accumulators::<f32>(4), k.accumulators::<f32>(4)];
        let factors = [0, 1].map(|_| std::array::from_fn::<_, 4, _>(|_| k.var(0x3c00_3c00u32)));
        let m = Wgmma::from_registers(WgmmaType::F16, 8);
        if random.below(8) > 0 {
            k.wgmma_fence();
        }
        for _ in 0..12 {
            let (d, a) = (random.below(2) as usize, random.below(2) as usize);
            match random.below(12) {
                0..4 => {
                    k.wgmma(m, &sums[d], LeftFactor::Variables(&factors[a]), b, true);
                    if random.below(6) > 0 {
                        k.wgmma_commit();
                    }
                }
                4..7 => k.wgmma_wait(random.below(3) as u8),
                7 => sums[d].set(1, 2.0),
                8 => factors[a][3].set(x.load(5)),
                9 => out.store(k.thread_x(), sums[d].get(2)),
                _ => k.wgmma_fence(),
            }
        }
        if random.below(6) > 0 {
            k.wgmma_commit();
            k.wgmma_wait(0);
        }
    })
}

#[test]
fn verifier_and_interpreter_agree() {
    let mut memory = Memory::new();
    let x = memory.alloc_from(&[f16::from_f32(1.0); 128]);
    let args = [x, memory.alloc(128 * 4)].map(LaunchArg::U64);
    let (mut right, mut in_flight, mut unfenced) = (0, 0, 0);
    for seed in 0..600 {
        let kernel = program(seed);
        let prepared = Prepared::unverified(&kernel).unwrap();
        let options = Options {
            serial: true,
            shuffle: (seed % 2 == 1).then_some(seed),
            ..Options::default()
        };
        let ran = prepared.launch([1; 3], &args, &memory, &options);
        let ran = ran.map_err(|fault| *fault.kind);
        match (kernel.verify(), ran) {
            (Ok(()), Ok(_)) => right += 1,
            (
                Err(Error::InFlight { .. } | Error::NeverWaited { .. }),
                Err(FaultKind::InFlight(_)),
            ) => in_flight += 1,
            (Err(Error::Unfenced { .. }), Err(FaultKind::Unfenced(_))) => unfenced += 1,
            other => panic!("program {seed}: {other:?}"),
        }
    }
    let least = right.min(in_flight).min(unfenced);
    assert!(
        least >= 50,
        "{right} right, {in_flight} in flight, {unfenced} unfenced"
    );
}
