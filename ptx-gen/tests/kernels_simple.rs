//! Kernels that move or map rows, in the interpreter, against their plain meaning.

mod common;

use common::{Random, nmse, run};
use gannet_ptx_gen::target::Target;
use gannet_ptx_gen::interp::{Arg, Memory};
use gannet_ptx_gen::kernels::{
    Activation, AddSpec, AdvanceSpec, ArgmaxSpec, GatherRowsSpec, GluSpec, KvType, KvWriteSpec,
    RmsNormSpec, RopeKind, RopeSpec,
};

const TARGET: Target = Target::Sm80;

#[test]
fn rms_norm_of_rows_and_heads() {
    for (rows, dim) in [(1, 64), (3, 99), (5, 256), (2, 1536), (1, 4096), (7, 1)] {
        let mut random = Random::new(u64::from(dim));
        let (x, w) = (
            random.gaussians((rows * dim) as usize),
            random.gaussians(dim as usize),
        );
        let eps = 1e-5;
        let spec = RmsNormSpec {
            target: TARGET,
            dim,
            eps,
        };
        let mut memory = Memory::new();
        let (px, pw) = (memory.alloc_from(&x), memory.alloc_from(&w));
        let out = memory.alloc_poisoned(u64::from(rows * dim) * 4);
        let args = [Arg::U64(px), Arg::U64(pw), Arg::U64(out)];
        run(&spec.kernel(), spec.grid(rows), &args, &memory);
        let expected: Vec<f64> = x
            .chunks_exact(dim as usize)
            .flat_map(|row| {
                let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / f64::from(dim);
                let scale = 1.0 / (mean + f64::from(eps)).sqrt();
                let w = &w;
                (0..row.len()).map(move |i| f64::from(row[i]) * scale * f64::from(w[i]))
            })
            .collect();
        let found = memory.read::<f32>(out, x.len()).unwrap();
        assert!(nmse(&found, &expected) < 1e-12, "{rows} x {dim}");
    }
}

#[test]
fn add_and_glu_of_any_length() {
    for n in [1u32, 3, 4, 1023, 1024, 1025, 5000] {
        let mut random = Random::new(u64::from(n));
        let (a, b) = (random.gaussians(n as usize), random.gaussians(n as usize));
        let mut memory = Memory::new();
        let (pa, pb) = (memory.alloc_from(&a), memory.alloc_from(&b));
        let out = memory.alloc_poisoned(u64::from(n) * 4);
        let args = [Arg::U64(pa), Arg::U64(pb), Arg::U64(out), Arg::U32(n)];
        let add = AddSpec { target: TARGET };
        run(&add.kernel(), add.grid(n), &args, &memory);
        let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(memory.read::<f32>(out, a.len()).unwrap(), sum);
        for activation in [Activation::Silu, Activation::Gelu] {
            let glu = GluSpec {
                target: TARGET,
                activation,
            };
            run(&glu.kernel(), glu.grid(n), &args, &memory);
            let expected: Vec<f64> = a
                .iter()
                .zip(&b)
                .map(|(&g, &u)| plain(activation, g.into()) * f64::from(u))
                .collect();
            let found = memory.read::<f32>(out, a.len()).unwrap();
            assert!(nmse(&found, &expected) < 1e-12, "{activation:?} of {n}");
        }
    }
}

fn plain(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            x / 2.0 * (1.0 + (c * (x + 0.044_715 * x.powi(3))).tanh())
        }
    }
}

#[test]
fn activations_saturate_without_nan() {
    let gate = [-1e30f32, -200.0, -90.0, 90.0, 200.0, 1e30, 0.0, -0.0];
    for activation in [Activation::Silu, Activation::Gelu] {
        let glu = GluSpec {
            target: TARGET,
            activation,
        };
        let mut memory = Memory::new();
        let (g, u) = (memory.alloc_from(&gate), memory.alloc_from(&[1f32; 8]));
        let out = memory.alloc_poisoned(32);
        let args = [Arg::U64(g), Arg::U64(u), Arg::U64(out), Arg::U32(8)];
        run(&glu.kernel(), glu.grid(8), &args, &memory);
        let found = memory.read::<f32>(out, 8).unwrap();
        assert!(found[..3].iter().all(|v| v.abs() < 1e-30), "{found:?}");
        assert_eq!(found[3..6], gate[3..6], "{activation:?}");
        assert_eq!(found[6], 0.0);
    }
}

#[test]
fn rope_of_both_kinds_in_place_and_partial() {
    let shapes = [(4, 64, 64), (2, 16, 16), (12, 128, 128), (3, 20, 8)];
    for kind in [RopeKind::Interleaved, RopeKind::Neox] {
        for (num_heads, head_dim, rot_dim) in shapes {
            let spec = RopeSpec {
                target: TARGET,
                num_heads,
                head_dim,
                rot_dim,
                kind,
            };
            let lengths = [1u32, 6, 0, 3];
            let mut random = Random::new(9);
            let x = random.gaussians(lengths.len() * (num_heads * head_dim) as usize);
            let table = random.gaussians(8 * rot_dim as usize);
            let expected = rotated(&spec, &x, &lengths, &table);
            let mut memory = Memory::new();
            let (px, pl) = (memory.alloc_from(&x), memory.alloc_from(&lengths));
            let pt = memory.alloc_from(&table);
            let args = [Arg::U64(px), Arg::U64(pl), Arg::U64(pt), Arg::U64(px)];
            run(&spec.kernel(), spec.grid(4), &args, &memory);
            let found = memory.read::<f32>(px, x.len()).unwrap();
            assert!(nmse(&found, &expected) < 1e-12, "{spec:?}");
        }
    }
}

fn rotated(spec: &RopeSpec, x: &[f32], lengths: &[u32], table: &[f32]) -> Vec<f64> {
    let (dim, rot) = (spec.head_dim as usize, spec.rot_dim as usize);
    let mut out: Vec<f64> = x.iter().map(|&v| v.into()).collect();
    let row = spec.num_heads as usize * dim;
    for (t, row) in out.chunks_exact_mut(row).enumerate() {
        let position = lengths[t].max(1) as usize - 1;
        for head in row.chunks_exact_mut(dim) {
            for i in 0..rot / 2 {
                let (a, b) = match spec.kind {
                    RopeKind::Interleaved => (2 * i, 2 * i + 1),
                    RopeKind::Neox => (i, i + rot / 2),
                };
                let angle = &table[position * rot + 2 * i..];
                let (cos, sin) = (f64::from(angle[0]), f64::from(angle[1]));
                let (x, y) = (head[a], head[b]);
                head[a] = x * cos - y * sin;
                head[b] = x * sin + y * cos;
            }
        }
    }
    out
}

#[test]
fn kv_write_goes_through_the_block_table() {
    for (kv_type, num_kv_heads, head_dim) in [
        (KvType::F16, 2u32, 64u32),
        (KvType::F32, 3, 16),
        (KvType::F16, 8, 128),
    ] {
        let (block_tokens, max_blocks) = (32, 3);
        let spec = KvWriteSpec {
            target: TARGET,
            num_kv_heads,
            head_dim,
            block_tokens,
            max_blocks,
            kv_type,
        };
        let (lengths, slots) = ([33u32, 1, 0, 96], [1u32, 0, 0, 1]);
        let table = [4u32, 1, 0, 2, 5, 3];
        let row = (num_kv_heads * head_dim) as usize;
        let mut random = Random::new(4);
        let (k, v) = (random.gaussians(4 * row), random.gaussians(4 * row));
        let len = 6 * row * block_tokens as usize;
        let mut memory = Memory::new();
        let (pk, pv) = (memory.alloc_from(&k), memory.alloc_from(&v));
        let (pl, ps) = (memory.alloc_from(&lengths), memory.alloc_from(&slots));
        let pt = memory.alloc_from(&table);
        let pool_bytes = len as u64 * u64::from(kv_type.bytes());
        let (kp, vp) = (
            memory.alloc_zeroed(pool_bytes),
            memory.alloc_zeroed(pool_bytes),
        );
        let args = [pk, pv, pl, ps, pt, kp, vp].map(Arg::U64);
        run(&spec.kernel(), spec.grid(4), &args, &memory);
        for (source, pool) in [(&k, kp), (&v, vp)] {
            let mut expected = vec![0f32; len];
            for t in [0usize, 1, 3] {
                let position = lengths[t] as usize - 1;
                let block = table[(slots[t] * max_blocks) as usize + position / 32] as usize;
                for h in 0..num_kv_heads as usize {
                    for i in 0..head_dim as usize {
                        let at = ((block * num_kv_heads as usize + h) * 32 + position % 32)
                            * head_dim as usize
                            + i;
                        expected[at] = source[t * row + h * head_dim as usize + i];
                    }
                }
            }
            let found: Vec<f32> = match kv_type {
                KvType::F32 => memory.read::<f32>(pool, len).unwrap(),
                KvType::F16 => {
                    expected
                        .iter_mut()
                        .for_each(|v| *v = half::f16::from_f32(*v).to_f32());
                    let bits = memory.read::<u16>(pool, len).unwrap();
                    bits.into_iter()
                        .map(|b| half::f16::from_bits(b).to_f32())
                        .collect()
                }
            };
            assert_eq!(found, expected, "{spec:?}");
        }
    }
}

#[test]
fn argmax_takes_the_lowest_of_equals_and_never_nan() {
    for vocab_size in [1u32, 7, 331, 8192, 40_000] {
        let spec = ArgmaxSpec {
            target: TARGET,
            vocab_size,
        };
        let n = vocab_size as usize;
        let mut random = Random::new(u64::from(vocab_size));
        // Few distinct values, so that the largest occurs often.
        let mut logits: Vec<f32> = (0..5 * n).map(|_| random.below(50) as f32 - 25.0).collect();
        logits[..n].fill(f32::NEG_INFINITY);
        logits[n..2 * n].fill(f32::NAN);
        for i in (0..5 * n).step_by(3) {
            logits[i] = if i < 2 * n { logits[i] } else { f32::NAN };
        }
        let mut memory = Memory::new();
        let (pl, out) = (memory.alloc_from(&logits), memory.alloc_poisoned(20));
        run(
            &spec.kernel(),
            spec.grid(5),
            &[Arg::U64(pl), Arg::U64(out)],
            &memory,
        );
        let expected: Vec<u32> = logits
            .chunks_exact(n)
            .map(|row| {
                let mut best = (f32::NEG_INFINITY, 0);
                for (i, &v) in row.iter().enumerate() {
                    if v > best.0 {
                        best = (v, i as u32);
                    }
                }
                best.1
            })
            .collect();
        assert_eq!(
            memory.read::<u32>(out, 5).unwrap(),
            expected,
            "{vocab_size}"
        );
    }
}

#[test]
fn gather_copies_the_rows_named() {
    for dim in [1u32, 33, 256, 1536] {
        let spec = GatherRowsSpec {
            target: TARGET,
            dim,
        };
        let x = Random::new(1).gaussians(6 * dim as usize);
        let indices = [5u32, 0, 5];
        let mut memory = Memory::new();
        let (px, pi) = (memory.alloc_from(&x), memory.alloc_from(&indices));
        let out = memory.alloc_poisoned(u64::from(3 * dim) * 4);
        let args = [px, pi, out].map(Arg::U64);
        run(&spec.kernel(), spec.grid(3), &args, &memory);
        let expected: Vec<f32> = indices
            .iter()
            .flat_map(|&i| x[(i * dim) as usize..][..dim as usize].to_vec())
            .collect();
        assert_eq!(memory.read::<f32>(out, expected.len()).unwrap(), expected);
    }
}

#[test]
fn advance_feeds_tokens_back_and_fills_the_ring() {
    let spec = AdvanceSpec {
        target: TARGET,
        num_slots: 3,
        ring_len: 4,
        context: 10,
    };
    let kernel = spec.kernel();
    let mut memory = Memory::new();
    let next = memory.alloc_from(&[7u32, 8, 9]);
    let tokens = memory.alloc_from(&[1u32, 2, 3]);
    let lengths = memory.alloc_from(&[5u32, 0, 9]);
    let counter = memory.alloc_from(&[3u32]);
    let ring = memory.alloc_from(&[0u32; 13]);
    let args = [next, tokens, lengths, counter, ring].map(Arg::U64);
    run(&kernel, spec.grid(), &args, &memory);
    run(&kernel, spec.grid(), &args, &memory);
    assert_eq!(memory.read::<u32>(tokens, 3).unwrap(), [7, 2, 9]);
    assert_eq!(memory.read::<u32>(lengths, 3).unwrap(), [7, 0, 10]);
    assert_eq!(memory.read::<u32>(counter, 1).unwrap(), [5]);
    let ring = memory.read::<u32>(ring, 13).unwrap();
    assert_eq!(ring, [7, 0, 9, 0, 0, 0, 0, 0, 0, 7, 0, 9, 5]);
}
