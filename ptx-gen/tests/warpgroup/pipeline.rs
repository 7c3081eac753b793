//! A whole pipeline: a producing warp fills rings of bulk copies, a consuming warpgroup multiplies what arrives, with
//! A from registers or from shared memory, against sums in f64. K is ragged: whoever lays out the factors fills its
//! last stage with zeros.

use std::io::Write;
use std::process::{Command, Stdio};

use gannet_ptx_gen::build::{
    Accumulators, Builder, BulkCopy, Condition, LeftFactor, MatrixLayout, Ptr, Shared, Swizzle,
    Val, Var,
};
use gannet_ptx_gen::interp::{LaunchArg, Memory, Options, Prepared};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::op::{Fence, Wgmma, WgmmaType};
use gannet_ptx_gen::target::Target;
use half::f16;

/// D's rows and columns, and elements of K in a stage.
const ROWS: u32 = 64;
const COLUMNS: u32 = 64;
const STAGE_K: u32 = 64;
const STAGES: u32 = 3;
/// Bytes of a stage of A or B.
const STAGE: u32 = ROWS * STAGE_K * 2;

/// How the consumers multiply.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// A from registers; every stage's products are waited for.
    Registers,
    /// A from shared memory, likewise.
    Shared,
    /// A from registers, which are loaded for the next stage while this one's products run.
    Ahead,
}

/// What the consumers have.
struct Consumer<'k> {
    k: &'k Builder,
    ring: Shared<'k, u8>,
    full: Shared<'k, u64>,
    empty: Shared<'k, u64>,
    stages: Val<'k, u32>,
    d: Accumulators<'k, f32>,
}

/// A stage's A in registers: four steps of four.
type Fragments<'k> = [[Var<'k, u32>; 4]; 4];

/// D[64 x 64] = A[64 x K] B[K x 64], f16 to f32; `stages` stages of K, an even number. A lies as fragments of 16 bytes
/// a thread and step, or, as B does, in swizzled rows.
fn kernel(kind: Kind) -> Kernel {
    let name = format!("pipeline_{kind:?}").to_lowercase();
    Kernel::new(name, Target::Sm90a, |k| {
        k.block_size(256);
        k.min_blocks(1);
        let (a, b) = (k.input::<u8>("a"), k.input::<u8>("b"));
        let (out, stages) = (k.output::<f32>("out"), k.scalar::<u32>("stages"));
        let ring = k.dynamic_shared_aligned::<u8>("ring", 2 * STAGES * STAGE, 1024);
        let full = k.shared::<u64>("full", STAGES);
        let empty = k.shared::<u64>("empty", STAGES);
        k.if_(k.thread_x().eq(0), || {
            for stage in 0..STAGES {
                full.mbarrier_init(stage, 1);
                empty.mbarrier_init(stage, 4);
            }
            k.fence(Fence::MbarrierInit);
        });
        k.barrier();
        let produce = || {
            k.fewer_registers(40);
            k.if_(k.thread_x().eq(128), || {
                k.for_each(0, stages, 1, |i| {
                    let (stage, turn) = (i % STAGES, i / STAGES);
                    k.if_(turn.gt(0), || empty.mbarrier_wait(stage, (turn - 1) % 2));
                    full.mbarrier_expect(stage, 2 * STAGE);
                    let copy = |to: Val<'_, u32>, src: Ptr<'_, u8>| {
                        let (dst, from, bytes) = (ring, i * STAGE, STAGE);
                        let what = BulkCopy {
                            dst,
                            to,
                            src,
                            from,
                            bytes,
                        };
                        full.bulk_copy(stage, what);
                    };
                    copy(stage * (2 * STAGE), a);
                    copy(stage * (2 * STAGE) + STAGE, b);
                });
            });
        };
        let consume = || {
            k.more_registers(232);
            let consumer = Consumer {
                k,
                ring,
                full,
                empty,
                stages,
                d: k.accumulators(COLUMNS as usize / 2),
            };
            match kind {
                Kind::Ahead => consumer.ahead(),
                kind => consumer.in_turn(kind),
            }
            let (g, t) = (k.lane() / 4, k.lane() % 4);
            for i in 0..COLUMNS / 2 {
                let row = k.warp() * 16 + g + 8 * (i / 2 % 2);
                let column = t * 2 + 8 * (i / 4) + i % 2;
                out.store(row * COLUMNS + column, consumer.d.get(i as usize));
            }
        };
        k.if_else(k.thread_x().lt(128), consume, produce);
    })
}

impl<'k> Consumer<'k> {
    fn fragments(&self) -> Fragments<'k> {
        std::array::from_fn(|_| std::array::from_fn(|_| self.k.var(0u32)))
    }

    fn wait(&self, i: Val<'k, u32>) {
        self.full.mbarrier_wait(i % STAGES, i / STAGES % 2);
    }

    fn stage(&self, i: Val<'k, u32>) -> Shared<'k, u8> {
        self.ring.at(i % STAGES * (2 * STAGE))
    }

    fn load(&self, i: Val<'k, u32>, to: &Fragments<'k>) {
        for (step, fragment) in (0..).zip(to) {
            let from = self.k.thread_x() * 16 + step * 2048;
            let words = self.stage(i).at(from).cast::<u32>().load_vec::<4>(0);
            fragment.iter().zip(words).for_each(|(v, word)| v.set(word));
        }
    }

    /// Starts the products of a stage.
    fn multiply<'v>(&self, i: Val<'k, u32>, a: Option<&'v Fragments<'k>>)
    where
        'k: 'v,
    {
        let k = self.k;
        let rows = MatrixLayout::rows(Swizzle::B128);
        let a_at = self.stage(i).descriptor(0, rows);
        let b_at = self.stage(i).byte_offset(STAGE).descriptor(0, rows);
        let (ty, n) = (WgmmaType::F16, COLUMNS as u16);
        let later = i.gt(0);
        k.wgmma_fence();
        for step in 0..4 {
            let at = 32 * step as u32;
            let (m, left) = match a {
                Some(a) => (
                    Wgmma::from_registers(ty, n),
                    LeftFactor::Variables(&a[step]),
                ),
                None => (
                    Wgmma::from_shared(ty, n),
                    LeftFactor::Shared(a_at.advance(at)),
                ),
            };
            let add = if step == 0 {
                later.into()
            } else {
                Condition::Known(true)
            };
            k.wgmma(m, &self.d, left, b_at.advance(at), add);
        }
        k.wgmma_commit();
    }

    fn free(&self, i: Val<'k, u32>) {
        self.empty.mbarrier_arrive(i % STAGES);
    }

    fn in_turn(&self, kind: Kind) {
        let k = self.k;
        let fragments = self.fragments();
        k.for_each(0, self.stages, 1, |i| {
            self.wait(i);
            if kind == Kind::Registers {
                self.load(i, &fragments);
            }
            self.multiply(i, (kind == Kind::Registers).then_some(&fragments));
            k.wgmma_wait(0);
            k.warp_barrier();
            k.if_(k.lane().eq(0), || self.free(i));
        });
    }

    fn ahead(&self) {
        let k = self.k;
        let fragments = [self.fragments(), self.fragments()];
        let first = k.constant(0u32);
        self.wait(first);
        self.load(first, &fragments[0]);
        let step = |i: Val<'k, u32>, parity: usize, more: bool| {
            self.multiply(i, Some(&fragments[parity]));
            // The stage before has been multiplied.
            k.wgmma_wait(1);
            k.warp_barrier();
            k.if_(k.lane().eq(0) & i.gt(0), || self.free(i - 1));
            if more {
                self.wait(i + 1);
                self.load(i + 1, &fragments[1 - parity]);
            }
        };
        let last = self.stages - 2;
        k.for_each(0, last, 2, |i| {
            step(i, 0, true);
            step(i + 1, 1, true);
        });
        step(last, 0, true);
        step(last + 1, 1, false);
        k.wgmma_wait(0);
    }
}

/// A number between -1 and 1, an f16.
fn number(seed: u32, row: u32, k: u32) -> f16 {
    let mut x = seed.wrapping_mul(0x9e37_79b9) ^ row.wrapping_mul(0x85eb_ca77) ^ k;
    x = (x ^ x >> 15).wrapping_mul(0x2c1b_3c6d);
    x = (x ^ x >> 12).wrapping_mul(0x297a_2d39);
    f16::from_f64(f64::from(x >> 8) / f64::from(1 << 23) - 1.0)
}

/// Rows of a stage in atoms of 128 bytes, stage by stage; zeros from `len` on.
fn swizzled(seed: u32, len: u32) -> Vec<u8> {
    let mut out = vec![0u8; (stages(len) * STAGE) as usize];
    for row in 0..64 {
        for k in 0..len {
            let within = (row * 128 + k % STAGE_K * 2) ^ ((row % 8) << 4);
            let at = (k / STAGE_K * STAGE + within) as usize;
            out[at..at + 2].copy_from_slice(&number(seed, row, k).to_le_bytes());
        }
    }
    out
}

/// The same as fragments: stage, step, thread, register, element.
fn fragments(seed: u32, len: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for step in 0..stages(len) * 4 {
        for thread in 0..128 {
            let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
            for i in 0..8 {
                let row = 16 * warp + g + 8 * (i / 2 % 2);
                let k = step * 16 + 2 * t + i % 2 + 8 * (i / 4);
                let x = if k < len {
                    number(seed, row, k)
                } else {
                    f16::ZERO
                };
                out.extend(x.to_le_bytes());
            }
        }
    }
    out
}

const KINDS: [Kind; 3] = [Kind::Registers, Kind::Shared, Kind::Ahead];

/// Stages for so many elements of K: an even number.
fn stages(len: u32) -> u32 {
    len.div_ceil(STAGE_K).next_multiple_of(2)
}

#[test]
fn rings_feed_products() {
    for kind in KINDS {
        let prepared = Prepared::new(&kernel(kind)).unwrap_or_else(|e| panic!("{e}"));
        for len in [1, 64, 200, 511] {
            let a = match kind {
                Kind::Shared => swizzled(1, len),
                _ => fragments(1, len),
            };
            let mut memory = Memory::new();
            let (a, b) = (memory.alloc_from(&a), memory.alloc_from(&swizzled(2, len)));
            let out = memory.alloc(u64::from(ROWS * COLUMNS * 4));
            let stages = LaunchArg::U32(stages(len));
            let args = [
                LaunchArg::U64(a),
                LaunchArg::U64(b),
                LaunchArg::U64(out),
                stages,
            ];
            for shuffle in [None, Some(1), Some(2), Some(3)] {
                let options = Options {
                    shuffle,
                    ..Options::default()
                };
                if let Err(fault) = prepared.launch([1; 3], &args, &memory, &options) {
                    panic!("{kind:?}, K = {len}, {shuffle:?}: {fault}");
                }
                let found = memory.read::<f32>(out, 64 * 64).unwrap();
                compare(&found, len);
            }
        }
    }
}

fn compare(found: &[f32], len: u32) {
    for (at, found) in (0..).zip(found) {
        let (row, column) = (at / COLUMNS, at % COLUMNS);
        let terms = (0..len).map(|k| number(1, row, k).to_f64() * number(2, column, k).to_f64());
        let (sum, size) = terms.fold((0.0, 0.0), |(s, a), x| (s + x, a + x.abs()));
        // One rounding of f32 for each sixteen terms.
        let bound = size * 2f64.powi(-23) * f64::from(len.div_ceil(16) + 1);
        let apart = (f64::from(*found) - sum).abs();
        assert!(
            apart <= bound,
            "row {row}, column {column}: {found}, not {sum}"
        );
    }
}

#[test]
fn ptxas_takes_the_pipeline_without_a_word() {
    let ptxas = std::env::var("PTXAS").unwrap_or_else(|_| "ptxas".into());
    if Command::new(&ptxas).arg("--version").output().is_err() {
        eprintln!("skipped: no ptxas (set PTXAS to its path)");
        return;
    }
    for kind in KINDS {
        let text = kernel(kind).ptx().unwrap();
        let mut child = Command::new(&ptxas)
            .args(["-arch", "sm_90a", "-warn-spills", "-o", "/dev/null", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{kind:?}: {said}"
        );
    }
}
