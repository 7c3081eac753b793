//! One warpgroup multiplies what lies in shared memory, in every layout, type and sign.

use gannet_ptx_gen::build::{LeftFactor, MatrixLayout, Swizzle, Val};
use gannet_ptx_gen::interp::{LaunchArg, Memory, Options, launch};
use gannet_ptx_gen::ir::{Kernel, Ty};
use gannet_ptx_gen::op::{Fence, Wgmma, WgmmaA, WgmmaType};
use gannet_ptx_gen::target::Target;

use crate::image::{Image, value};

const TYPES: [WgmmaType; 4] = [
    WgmmaType::F16,
    WgmmaType::Bf16,
    WgmmaType::E4m3,
    WgmmaType::S8,
];

/// Two steps of k of a product, and where its factors lie.
struct Trial {
    m: Wgmma,
    a: MatrixLayout,
    b: MatrixLayout,
    /// Bytes from one step of k to the next, of A and B.
    steps: [u32; 2],
}

impl Trial {
    fn k(&self) -> u32 {
        2 * self.m.k()
    }

    fn images(&self) -> [Image; 2] {
        let transposed = self.m.a == WgmmaA::Shared { transpose: true };
        let image = |layout, transposed, rows, seed| Image {
            ty: self.m.ty,
            layout,
            transposed,
            rows,
            k: self.k(),
            seed,
        };
        [
            image(self.a, transposed, 64, 1),
            image(self.b, self.m.transpose_b, u32::from(self.m.n), 2),
        ]
    }

    /// d = a b, as 128 threads' registers.
    fn kernel(&self) -> Kernel {
        let m = self.m;
        let [a_bytes, b_bytes] = self.images().map(|i| i.rows * i.k * i.ty.bytes());
        Kernel::new("product", Target::Sm90a, |k| {
            k.block_size(128);
            let (a, b, out) = (
                k.input::<u32>("a"),
                k.input::<u32>("b"),
                k.output::<u32>("out"),
            );
            let a_tile = k.shared_aligned::<u32>("a_tile", a_bytes / 4, 1024);
            let b_tile = k.shared_aligned::<u32>("b_tile", b_bytes / 4, 1024);
            for (from, to, bytes) in [(a, a_tile, a_bytes), (b, b_tile, b_bytes)] {
                k.for_each(k.thread_x() * 4, bytes / 4, 512, |i| {
                    to.store_vec(i, from.load_vec::<4>(i));
                });
            }
            k.fence(Fence::ProxyAsync);
            k.barrier();
            let (a_at, b_at) = (a_tile.descriptor(0, self.a), b_tile.descriptor(0, self.b));
            let fragments: Vec<[Val<u32>; 4]> = (0..2)
                .map(|step| {
                    // Of k-contiguous rows without swizzling: 32 bytes a step.
                    let (g, t) = (k.lane() / 4, k.lane() % 4);
                    let row = k.warp() * 16 + g;
                    std::array::from_fn(|r| {
                        let row = row + 8 * (r as u32 & 1);
                        let word = t + 4 * (r as u32 >> 1) + 8 * step;
                        a.load(row * (self.k() * m.ty.bytes() / 4) + word)
                    })
                })
                .collect();
            if m.accumulator() == Ty::F32 {
                let d = k.accumulators::<f32>(m.accumulators());
                self.multiply(k, &d, (a_at, b_at), &fragments);
                for i in 0..d.len() {
                    let at = k.thread_x() * m.accumulators() as u32 + i as u32;
                    out.store(at, d.get(i).bitcast::<u32>());
                }
            } else {
                let d = k.accumulators::<i32>(m.accumulators());
                self.multiply(k, &d, (a_at, b_at), &fragments);
                for i in 0..d.len() {
                    let at = k.thread_x() * m.accumulators() as u32 + i as u32;
                    out.store(at, d.get(i).bitcast::<u32>());
                }
            }
        })
    }

    fn multiply<'k, T: gannet_ptx_gen::build::Type>(
        &self,
        k: &'k gannet_ptx_gen::build::Builder,
        d: &gannet_ptx_gen::build::Accumulators<'k, T>,
        (a, b): (
            gannet_ptx_gen::build::Descriptor<'k>,
            gannet_ptx_gen::build::Descriptor<'k>,
        ),
        fragments: &[[Val<'k, u32>; 4]],
    ) {
        k.wgmma_fence();
        for step in 0..2 {
            let left = match self.m.a {
                WgmmaA::Registers => LeftFactor::Values(fragments[step as usize]),
                WgmmaA::Shared { .. } => LeftFactor::Shared(a.advance(step * self.steps[0])),
            };
            let right = b.advance(step * self.steps[1]);
            k.wgmma(self.m, d, left, right, step > 0);
            k.wgmma_commit();
        }
        // Both groups add to the same registers.
        k.wgmma_wait(1);
        k.wgmma_wait(0);
    }

    fn check(&self) {
        let kernel = self.kernel();
        let mut memory = Memory::new();
        let [a, mut b] = self.images();
        b.seed = 2;
        let mut bytes = [a.bytes(), b.bytes()];
        if self.m.a == WgmmaA::Registers {
            // Registers are loaded from plain rows.
            let plain = Image {
                layout: MatrixLayout {
                    swizzle: Swizzle::None,
                    leading: 16,
                    stride: 8 * self.k() * self.m.ty.bytes(),
                },
                ..a
            };
            bytes[0] = rows(&plain);
        }
        let a = memory.alloc_from(&bytes[0]);
        let b = memory.alloc_from(&bytes[1]);
        let n = u32::from(self.m.n);
        let out = memory.alloc(u64::from(64 * n * 4));
        let args = [a, b, out].map(LaunchArg::U64);
        for shuffle in [None, Some(3)] {
            let options = Options {
                shuffle,
                ..Options::default()
            };
            if let Err(fault) = launch(&kernel, [1; 3], &args, &memory, &options) {
                panic!("{:?} {:?} {:?}: {fault}", self.m, self.a, self.b);
            }
            let found = memory.read::<u32>(out, (64 * n) as usize).unwrap();
            for (at, word) in found.iter().enumerate() {
                self.compare(at as u32, *word);
            }
        }
    }

    fn compare(&self, at: u32, word: u32) {
        let each = self.m.accumulators() as u32;
        let (thread, i) = (at / each, at % each);
        let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
        let row = 16 * warp + g + 8 * (i / 2 % 2);
        let column = 8 * (i / 4) + 2 * t + i % 2;
        let sum: f64 = (0..self.k())
            .map(|k| value(1, row, k) * value(2, column, k))
            .sum();
        let sign = if self.m.negate_a == self.m.negate_b {
            1.0
        } else {
            -1.0
        };
        let found = match self.m.accumulator() {
            Ty::F32 => f64::from(f32::from_bits(word)),
            _ => f64::from(word as i32),
        };
        assert_eq!(
            found,
            sign * sum,
            "row {row}, column {column} of {:?}",
            self.m
        );
    }
}

/// Plain rows, one after another.
fn rows(image: &Image) -> Vec<u8> {
    let rows = 0..image.rows;
    rows.flat_map(|row| {
        (0..image.k).flat_map(move |k| crate::image::bytes(image.ty, value(image.seed, row, k)))
    })
    .collect()
}

/// Two steps of k, contiguous, in every mode of swizzling.
fn k_layouts(rows: u32) -> Vec<(MatrixLayout, u32)> {
    // Rows as wide as the atom: 32 and 64 bytes hold one and two steps, 128 four; here two are used.
    let row = |swizzle: Swizzle| MatrixLayout::rows(swizzle);
    vec![
        // Chunks of k one after another, each for all rows.
        (
            MatrixLayout {
                swizzle: Swizzle::None,
                leading: rows * 16,
                stride: 128,
            },
            2 * rows * 16,
        ),
        (row(Swizzle::B64), 32),
        (
            MatrixLayout {
                leading: rows * 32,
                ..row(Swizzle::B32)
            },
            rows * 32,
        ),
    ]
}

/// The same with the rows contiguous, sixteen k a step.
fn row_layouts(rows: u32) -> Vec<(MatrixLayout, u32)> {
    let layout = |swizzle: Swizzle| {
        // All k of some rows, then the next ones.
        let atom = swizzle.atom_bytes();
        MatrixLayout {
            swizzle,
            leading: 4 * atom,
            stride: atom,
        }
    };
    let mut out = vec![(
        MatrixLayout {
            swizzle: Swizzle::None,
            leading: 128,
            stride: 4 * 128,
        },
        256,
    )];
    for swizzle in [Swizzle::B32, Swizzle::B64, Swizzle::B128] {
        if rows * 2 >= swizzle.row_bytes() {
            out.push((layout(swizzle), 2 * swizzle.atom_bytes()));
        }
    }
    out
}

#[test]
fn factors_in_registers_and_in_shared_memory() {
    for ty in TYPES {
        for n in [8, 16, 64] {
            for (b, step) in k_layouts(u32::from(n)) {
                for m in [Wgmma::from_registers(ty, n), Wgmma::from_shared(ty, n)] {
                    let (a, a_step) = k_layouts(64)[1];
                    let steps = [a_step, step];
                    Trial { m, a, b, steps }.check();
                }
            }
        }
    }
}

#[test]
fn transposed_factors() {
    for ty in [WgmmaType::F16, WgmmaType::Bf16] {
        for n in [64, 128] {
            for (b, step) in row_layouts(u32::from(n)) {
                let m = Wgmma {
                    transpose_b: true,
                    ..Wgmma::from_registers(ty, n)
                };
                let (a, a_step) = k_layouts(64)[1];
                let steps = [a_step, step];
                Trial { m, a, b, steps }.check();
            }
        }
        for (a, step) in row_layouts(64) {
            let m = Wgmma {
                a: WgmmaA::Shared { transpose: true },
                ..Wgmma::from_shared(ty, 16)
            };
            let (b, b_step) = k_layouts(16)[1];
            let steps = [step, b_step];
            Trial { m, a, b, steps }.check();
        }
    }
}

#[test]
fn negated_factors() {
    for (negate_a, negate_b) in [(true, false), (false, true), (true, true)] {
        let m = Wgmma {
            negate_a,
            negate_b,
            ..Wgmma::from_shared(WgmmaType::F16, 24)
        };
        let ((a, a_step), (b, b_step)) = (k_layouts(64)[1], k_layouts(24)[1]);
        let steps = [a_step, b_step];
        Trial { m, a, b, steps }.check();
    }
}
