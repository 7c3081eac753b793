//! Products of warpgroups, registers that warpgroups exchange, and clusters.
//!
//! A product's factors come as the bytes of their layout in shared memory (or as fragments), four steps of `k` are
//! multiplied, and every accumulator is compared. How far a tensor core may be from the exact sum is what
//! [`super::fragments`] says, for each of the four steps; of e4m3 factors Hopper keeps fewer bits of a sum, of which
//! 13 after the leading one are taken here (DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.3.2).

use super::inputs::{self, Random, float_bits};
use super::{Case, Rule, blank};
use crate::build::{Builder, BulkCopy, Descriptor, LeftFactor, MatrixLayout, Ptr, Swizzle, Type};
use crate::interp::e4m3;
use crate::ir::{Kernel, Ty};
use crate::op::{Fence, Opcode, Special, Wgmma, WgmmaA, WgmmaType};
use crate::table::row_of;
use crate::target::Target;

const BLOCKS: u32 = 5;
const STEPS: u32 = 4;
const THREADS: u32 = 128;

/// The forms of this file.
pub(super) fn forms() -> Vec<Opcode> {
    let (registers, shared) = (Wgmma::from_registers, Wgmma::from_shared);
    let mut products = Vec::new();
    for ty in [
        WgmmaType::F16,
        WgmmaType::Bf16,
        WgmmaType::E4m3,
        WgmmaType::S8,
    ] {
        products.extend([registers(ty, 64), shared(ty, 64)]);
    }
    let ty = WgmmaType::F16;
    for n in [8, 16, 32, 128, 256] {
        products.extend([registers(ty, n), shared(ty, n)]);
    }
    for ty in [WgmmaType::F16, WgmmaType::Bf16] {
        for n in [64, 128] {
            let transpose_b = true;
            products.push(Wgmma {
                transpose_b,
                ..registers(ty, n)
            });
            for transpose in [false, true] {
                products.push(Wgmma {
                    a: WgmmaA::Shared { transpose },
                    transpose_b,
                    ..shared(ty, n)
                });
            }
        }
    }
    for (negate_a, negate_b) in [(true, false), (false, true)] {
        products.push(Wgmma {
            negate_a,
            negate_b,
            ..registers(WgmmaType::F16, 64)
        });
    }
    let mut ops: Vec<Opcode> = products.into_iter().map(Opcode::Wgmma).collect();
    ops.extend([Opcode::WgmmaFence, Opcode::WgmmaCommit]);
    ops.extend([0, 1].map(|pending| Opcode::WgmmaWait { pending }));
    ops.extend(
        [(40, false), (104, true)].map(|(registers, increase)| Opcode::SetMaxNReg {
            registers,
            increase,
        }),
    );
    ops.extend([
        Opcode::ClusterArrive,
        Opcode::ClusterWait,
        Opcode::Mapa,
        Opcode::MbarrierArriveCluster,
        Opcode::CpAsyncBulkMulticast,
    ]);
    ops
}

/// A product's factors, as bits by row and `k`, and its addend.
struct Numbers {
    a: Vec<u64>,
    b: Vec<u64>,
    c: Vec<u64>,
}

struct Shape {
    m: Wgmma,
    k: u32,
    n: u32,
}

impl Shape {
    fn new(m: Wgmma) -> Shape {
        Shape {
            m,
            k: STEPS * m.k(),
            n: u32::from(m.n),
        }
    }

    /// 128 bytes of `k` a row, or 64 rows a step of `k`.
    fn layout(&self, transposed: bool) -> MatrixLayout {
        let atoms = MatrixLayout::rows(Swizzle::B128);
        if transposed {
            let leading = self.k / 8 * atoms.stride;
            MatrixLayout { leading, ..atoms }
        } else {
            atoms
        }
    }

    /// Bytes from one step of `k` to the next.
    fn step(transposed: bool) -> u32 {
        if transposed { 2048 } else { 32 }
    }

    fn a_transposed(&self) -> bool {
        self.m.a == WgmmaA::Shared { transpose: true }
    }

    fn bytes(&self, rows: u32) -> u32 {
        rows * self.k * self.m.ty.bytes()
    }

    fn numbers(&self, block: u32, random: &mut Random) -> Numbers {
        let ty = self.m.ty;
        let factors = |rows: u32, random: &mut Random| {
            let one = |_| factor(ty, block, random);
            (0..rows * self.k).map(one).collect()
        };
        let addend = |_| match ty {
            WgmmaType::S8 => random.next() & 0xffff_ffff,
            _ => float_bits(Ty::F32, random.moderate(8)),
        };
        let c = (0..64 * self.n).map(addend).collect();
        Numbers {
            a: factors(64, random),
            b: factors(self.n, random),
            c,
        }
    }

    fn image(&self, values: &[u64], transposed: bool) -> Vec<u8> {
        let size = self.m.ty.bytes();
        let layout = self.layout(transposed);
        let mut out = vec![0; values.len() * size as usize];
        for (i, bits) in (0..).zip(values) {
            let at = layout.place(transposed, size, i / self.k, i % self.k) as usize;
            out[at..at + size as usize].copy_from_slice(&bits.to_le_bytes()[..size as usize]);
        }
        out
    }

    /// A as each thread's registers, step by step.
    fn fragments(&self, a: &[u64]) -> Vec<u8> {
        let per = 4 / self.m.ty.bytes();
        let mut out = Vec::new();
        for thread in 0..THREADS {
            let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
            for step in 0..STEPS {
                for r in 0..4 {
                    let row = 16 * warp + g + 8 * (r % 2);
                    let k = step * self.m.k() + per * t + 4 * per * (r / 2);
                    let element = |j: u32| a[(row * self.k + k + j) as usize] << (32 / per * j);
                    let word = (0..per).fold(0, |word, j| word | element(j));
                    out.extend((word as u32).to_le_bytes());
                }
            }
        }
        out
    }

    /// The row and column of a thread's accumulator.
    fn place(thread: u32, i: u32) -> (u32, u32) {
        let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
        (16 * warp + g + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * t + i % 2)
    }

    fn accumulators(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let each = self.n / 2;
        (0..THREADS).flat_map(move |thread| (0..each).map(move |i| Shape::place(thread, i)))
    }

    fn bounds(&self, numbers: &Numbers) -> Vec<f64> {
        let ty = self.m.ty;
        let unit = f64::exp2(if ty == WgmmaType::E4m3 { -13.0 } else { -23.0 });
        let line = |values: &[u64], row: u32| -> Vec<f64> {
            let from = (row * self.k) as usize;
            let line = &values[from..from + self.k as usize];
            line.iter().map(|bits| number(ty, *bits).abs()).collect()
        };
        let rows: Vec<_> = (0..64).map(|row| line(&numbers.a, row)).collect();
        let columns: Vec<_> = (0..self.n).map(|n| line(&numbers.b, n)).collect();
        let bound = |(row, column): (u32, u32)| {
            let (x, y) = (&rows[row as usize], &columns[column as usize]);
            let products: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
            let addend = numbers.c[(row * self.n + column) as usize];
            let sum = products + f64::from(f32::from_bits(addend as u32)).abs();
            f64::from(self.k + STEPS) * unit * sum + f64::exp2(-149.0)
        };
        self.accumulators().map(bound).collect()
    }

    fn kernel(&self, target: Target) -> Kernel {
        Kernel::new("conformance", target, |k| {
            k.block_size(THREADS);
            if self.m.accumulator() == Ty::F32 {
                self.body::<f32>(k);
            } else {
                self.body::<i32>(k);
            }
        })
    }

    fn body<T: Type>(&self, k: &Builder) {
        let (a, b) = (k.input::<u32>("a"), k.input::<u32>("b"));
        let (c, out) = (k.input::<T>("c"), k.output::<T>("out"));
        let b_at = self.filled(k, b, "b_tile", self.n, self.m.transpose_b);
        let a_bytes = self.bytes(64);
        let in_registers = self.m.a == WgmmaA::Registers;
        let a_at = (!in_registers).then(|| self.filled(k, a, "a_tile", 64, self.a_transposed()));
        let thread = k.block_x() * THREADS + k.thread_x();
        let d = k.accumulators::<T>(self.m.accumulators());
        let each = d.len() as u32;
        (0..each).for_each(|i| d.set(i as usize, c.load(thread * each + i)));
        let left = |step: u32| match a_at {
            Some(at) => LeftFactor::Shared(at.advance(step * Shape::step(self.a_transposed()))),
            None => {
                let at = k.block_x() * (a_bytes / 4) + k.thread_x() * (4 * STEPS);
                LeftFactor::Values(a.load_vec::<4>(at + step * 4))
            }
        };
        let lefts: Vec<LeftFactor<'_, '_>> = (0..STEPS).map(left).collect();
        k.wgmma_fence();
        for (step, left) in (0..).zip(lefts) {
            let right = b_at.advance(step * Shape::step(self.m.transpose_b));
            k.wgmma(self.m, &d, left, right, true);
            k.wgmma_commit();
            if step == 1 {
                k.wgmma_wait(1);
            }
        }
        k.wgmma_wait(0);
        // A slot has eight bytes.
        (0..each).for_each(|i| out.store((thread * each + i) * 2, d.get(i as usize)));
    }

    /// A block's matrix in shared memory, handed to the async proxy.
    fn filled<'k>(
        &self,
        k: &'k Builder,
        from: Ptr<'k, u32>,
        name: &str,
        rows: u32,
        transposed: bool,
    ) -> Descriptor<'k> {
        let words = self.bytes(rows) / 4;
        let tile = k.shared_aligned::<u32>(name, words, 1024);
        k.for_each(k.thread_x() * 4, words, 4 * THREADS, |i| {
            tile.store_vec(i, from.load_vec::<4>(k.block_x() * words + i));
        });
        k.fence(Fence::ProxyAsync);
        k.barrier();
        tile.descriptor(0, self.layout(transposed))
    }
}

/// Factors by kind of block: even, wide and tiny magnitudes, whole numbers, NaN and infinities.
fn factor(ty: WgmmaType, block: u32, random: &mut Random) -> u64 {
    let half = match ty {
        WgmmaType::F16 => Ty::F16,
        WgmmaType::Bf16 => Ty::Bf16,
        WgmmaType::S8 => return random.next() & 0xff,
        WgmmaType::E4m3 => {
            let byte = random.next() & 0xff;
            // NaN in one block only.
            let nan = byte & 0x7f == 0x7f && (block % 5 != 4 || random.below(4) > 0);
            return if nan { byte ^ 1 } else { byte };
        }
    };
    let x = match block % 5 {
        0 => random.unit(),
        1 => random.moderate(if half == Ty::F16 { 12 } else { 40 }),
        2 => random.unit() * f64::exp2(if half == Ty::F16 { -18.0 } else { -60.0 }),
        3 => random.below(33) as f64 - 16.0,
        _ => match random.below(2000) {
            0 => f64::INFINITY,
            1 => f64::NEG_INFINITY,
            2 => f64::NAN,
            _ => random.unit(),
        },
    };
    float_bits(half, x)
}

fn number(ty: WgmmaType, bits: u64) -> f64 {
    match ty {
        WgmmaType::F16 => f64::from(half::f16::from_bits(bits as u16).to_f32()),
        WgmmaType::Bf16 => f64::from(half::bf16::from_bits(bits as u16).to_f32()),
        WgmmaType::E4m3 => e4m3(bits as u8),
        WgmmaType::S8 => f64::from(bits as u8 as i8),
    }
}

/// A product of four steps, in every block with numbers of another kind.
pub(super) fn product(m: Wgmma, op: Opcode, target: Target) -> Case {
    let shape = Shape::new(m);
    let mut case = blank(op, target, shape.kernel(target));
    let mut random = Random::new(&format!("{op:?}"));
    let mut bounds = Vec::new();
    let mut inputs = vec![Vec::new(); 3];
    for block in 0..BLOCKS {
        let numbers = shape.numbers(block, &mut random);
        inputs[0].extend(match m.a {
            WgmmaA::Registers => shape.fragments(&numbers.a),
            WgmmaA::Shared { transpose } => shape.image(&numbers.a, transpose),
        });
        inputs[1].extend(shape.image(&numbers.b, m.transpose_b));
        for (row, column) in shape.accumulators() {
            let c = numbers.c[(row * shape.n + column) as usize];
            inputs[2].extend((c as u32).to_le_bytes());
        }
        bounds.extend(shape.bounds(&numbers));
    }
    case.grid = [BLOCKS, 1, 1];
    case.output = vec![0; 8 * (BLOCKS * 64 * shape.n) as usize];
    case.inputs = inputs;
    case.results = vec![m.accumulator()];
    let bytes = m.ty == WgmmaType::S8;
    case.coverage = format!(
        "{BLOCKS} tiles of 64 x {} x {}: {}",
        shape.n,
        shape.k,
        if bytes {
            "any bytes"
        } else {
            "even, wide and tiny magnitudes, whole numbers, NaN"
        }
    );
    if !bytes {
        let what = match m.ty {
            WgmmaType::E4m3 => "(K + 4) 2^-13 (sum abs(a b) + abs(c))",
            _ => "(K + 4) 2^-23 (sum abs(a b) + abs(c))",
        };
        case.rule = Rule::Bounded { bounds, what };
    }
    case
}

/// What orders products, between them.
pub(super) fn ordered(op: Opcode, target: Target) -> Case {
    let m = Wgmma::from_shared(WgmmaType::F16, 8);
    Case {
        op,
        section: row_of(op, target).section,
        ..product(m, Opcode::Wgmma(m), target)
    }
}

/// The block's place in its cluster.
pub(super) fn place(which: Special, op: Opcode, target: Target) -> Case {
    let kernel = Kernel::new("conformance", target, |k| {
        k.block_size(64);
        k.cluster(2);
        let (x, out) = (k.input::<u32>("x"), k.output::<u32>("out"));
        let i = (k.block_x() * 64 + k.thread_x()) * 2;
        out.store(i, k.special(which) + x.load(i));
    });
    let mut case = passed(op, target, kernel, "8 clusters: added to a value");
    case.results = vec![Ty::U32];
    case
}

/// Data passed through a block, 8 bytes a thread.
fn passed(op: Opcode, target: Target, kernel: Kernel, coverage: &str) -> Case {
    let mut case = blank(op, target, kernel);
    let n = (16 * case.kernel.threads()) as usize;
    let mut random = Random::new(&format!("{op:?}"));
    case.grid = [16, 1, 1];
    case.inputs = vec![inputs::bytes(n * 8, &mut random)];
    case.output = vec![0; n * 8];
    case.coverage = coverage.to_owned();
    case
}

/// Values held while registers are given up and taken back.
pub(super) fn registers(op: Opcode, target: Target) -> Case {
    let kernel = Kernel::new("conformance", target, |k| {
        k.block_size(THREADS);
        k.min_blocks(1);
        let (x, out) = (k.input::<u64>("x"), k.output::<u64>("out"));
        let i = k.block_x() * THREADS + k.thread_x();
        let value = x.load(i);
        k.fewer_registers(40);
        k.more_registers(104);
        out.store(i, value);
    });
    passed(op, target, kernel, "2048 threads: values stay")
}

/// Two blocks arrive at each other's mbarrier before they go on.
pub(super) fn cluster(op: Opcode, target: Target) -> Case {
    let kernel = Kernel::new("conformance", target, |k| {
        k.block_size(64);
        k.cluster(2);
        let (x, out) = (k.input::<u64>("x"), k.output::<u64>("out"));
        let full = k.shared::<u64>("full", 1);
        let first = k.thread_x().eq(0);
        k.if_(first, || {
            full.mbarrier_init(0, 1);
            k.fence(Fence::MbarrierInit);
        });
        k.cluster_barrier();
        let i = k.block_x() * 64 + k.thread_x();
        let value = x.load(i);
        k.if_(first, || full.mbarrier_arrive_in(k.cluster_rank() ^ 1, 0));
        full.mbarrier_wait(0, 0);
        out.store(i, value);
        k.cluster_barrier();
    });
    passed(op, target, kernel, "8 clusters: both blocks pass")
}

/// The first block of a cluster copies to both, the second one what it has itself to none.
pub(super) fn multicast(op: Opcode, target: Target) -> Case {
    let kernel = Kernel::new("conformance", target, |k| {
        k.block_size(64);
        k.cluster(2);
        let (x, out) = (k.input::<u64>("x"), k.output::<u64>("out"));
        let data = k.shared::<u64>("data", 64);
        let full = k.shared::<u64>("full", 1);
        let first = k.thread_x().eq(0);
        k.if_(first, || {
            full.mbarrier_init(0, 1);
            k.fence(Fence::MbarrierInit);
            full.mbarrier_expect(0, 512);
        });
        k.cluster_barrier();
        k.if_(first & k.cluster_rank().eq(0), || {
            let copy = BulkCopy {
                dst: data,
                to: k.constant(0),
                src: x,
                from: k.block_x() * 64,
                bytes: 512,
            };
            full.bulk_copy_multicast(0, copy, 3u16);
        });
        full.mbarrier_wait(0, 0);
        let i = k.block_x() * 64 + k.thread_x();
        out.store(i, data.load(k.thread_x()));
        k.cluster_barrier();
    });
    passed(
        op,
        target,
        kernel,
        "8 clusters: 512 bytes copied to both blocks",
    )
}
