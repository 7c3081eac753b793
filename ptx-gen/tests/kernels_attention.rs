//! Attention in the interpreter, against f64 softmaxes over the same rounded keys and values.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Random, nmse, run};
use gannet_ptx_gen::interp::{Arg, Memory, Options, launch};
use gannet_ptx_gen::kernels::{AttentionFlashSpec, AttentionMergeSpec, AttentionSpec, KvType};
use gannet_ptx_gen::target::Target;
use half::f16;

const BLOCK: u32 = 32;

fn spec(heads: u32, kv_heads: u32, dim: u32) -> AttentionSpec {
    AttentionSpec {
        target: Target::Sm80,
        num_heads: heads,
        num_kv_heads: kv_heads,
        head_dim: dim,
        block_tokens: BLOCK,
        max_blocks: 8,
        kv_type: KvType::F16,
        scale: 1.0 / (dim as f32).sqrt(),
        softcap: None,
        window: None,
        splits: 1,
    }
}

/// The same attention on tensor cores.
fn flash(spec: &AttentionSpec) -> AttentionFlashSpec {
    AttentionFlashSpec {
        target: spec.target,
        num_heads: spec.num_heads,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        block_tokens: spec.block_tokens,
        max_blocks: spec.max_blocks,
        scale: spec.scale,
        softcap: spec.softcap,
        window: spec.window,
    }
}

/// Queries over a cache whose blocks lie in a random order. What no row may see is NaN.
struct Case {
    spec: AttentionSpec,
    /// Row t sees `lengths[t]` keys of slot `slots[t]`.
    lengths: Vec<u32>,
    slots: Vec<u32>,
    table: Vec<u32>,
    q: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Case {
    fn new(spec: AttentionSpec, lengths: &[u32], slots: &[u32]) -> Case {
        let mut random = Random::new(u64::from(spec.num_heads * 1000 + spec.head_dim));
        let rows = lengths.len();
        let num_slots = slots.iter().max().unwrap() + 1;
        let blocks = num_slots * spec.max_blocks;
        let mut table: Vec<u32> = (0..blocks).collect();
        for i in (1..blocks).rev() {
            table.swap(i as usize, random.below(i + 1) as usize);
        }
        let pool = (blocks * spec.num_kv_heads * BLOCK * spec.head_dim) as usize;
        let mut case = Case {
            q: random.gaussians(rows * (spec.num_heads * spec.head_dim) as usize),
            keys: vec![f32::NAN; pool],
            values: vec![f32::NAN; pool],
            lengths: lengths.to_vec(),
            slots: slots.to_vec(),
            table,
            spec,
        };
        for slot in 0..num_slots {
            let own = lengths.iter().zip(slots).filter(|(_, s)| **s == slot);
            for key in 0..own.map(|(l, _)| *l).max().unwrap_or(0) {
                for head in 0..case.spec.num_kv_heads {
                    let at = case.at(slot, head, key);
                    for i in at..at + case.spec.head_dim as usize {
                        case.keys[i] = f16::from_f32(random.gauss()).to_f32();
                        case.values[i] = f16::from_f32(random.gauss()).to_f32();
                    }
                }
            }
        }
        case
    }

    /// First element of a key in its pool.
    fn at(&self, slot: u32, head: u32, key: u32) -> usize {
        let block = self.table[(slot * self.spec.max_blocks + key / BLOCK) as usize];
        let row = (block * self.spec.num_kv_heads + head) * BLOCK + key % BLOCK;
        (row * self.spec.head_dim) as usize
    }

    fn expected(&self) -> Vec<f64> {
        let spec = &self.spec;
        let dim = spec.head_dim as usize;
        let mut out = vec![0f64; self.q.len()];
        for (t, (&length, &slot)) in self.lengths.iter().zip(&self.slots).enumerate() {
            for head in 0..spec.num_heads {
                let at = (t * spec.num_heads as usize + head as usize) * dim;
                let low = spec.window.map_or(0, |w| length.saturating_sub(w));
                let kv_head = head / (spec.num_heads / spec.num_kv_heads);
                let q = &self.q[at..at + dim];
                let weights: Vec<f64> = (low..length)
                    .map(|key| {
                        let k = &self.keys[self.at(slot, kv_head, key)..][..dim];
                        let dot: f64 = q
                            .iter()
                            .zip(k)
                            .map(|(q, k)| f64::from(*q) * f64::from(*k))
                            .sum();
                        let score = dot * f64::from(spec.scale);
                        let cap = spec.softcap.map(f64::from);
                        cap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                for (key, p) in (low..length).zip(&weights) {
                    let v = &self.values[self.at(slot, kv_head, key)..][..dim];
                    for (o, v) in out[at..].iter_mut().zip(v) {
                        *o += p / sum * f64::from(*v);
                    }
                }
            }
        }
        out
    }

    /// Everything up to the cache in memory, as arguments.
    fn arguments(&self, memory: &mut Memory) -> Vec<Arg> {
        let halves = |x: &[f32]| {
            x.iter()
                .map(|v| f16::from_f32(*v).to_bits())
                .collect::<Vec<_>>()
        };
        let pools = [&self.keys, &self.values].map(|pool| match self.spec.kv_type {
            KvType::F32 => memory.alloc_from(pool),
            KvType::F16 => memory.alloc_from(&halves(pool)),
        });
        let [k, v] = pools;
        [
            memory.alloc_from(&self.q),
            memory.alloc_from(&self.lengths),
            memory.alloc_from(&self.slots),
            memory.alloc_from(&self.table),
            k,
            v,
        ]
        .map(Arg::U64)
        .to_vec()
    }

    fn run(&self) -> Vec<f32> {
        let spec = &self.spec;
        spec.check().unwrap();
        let rows = self.lengths.len() as u32;
        let mut memory = Memory::new();
        let mut args = self.arguments(&mut memory);
        let out = memory.alloc_poisoned(4 * self.q.len() as u64);
        if spec.splits == 1 {
            args.push(Arg::U64(out));
            run(&spec.kernel(), spec.grid(rows), &args, &memory);
        } else {
            let each = u64::from(spec.num_heads * spec.splits * (spec.head_dim + 2));
            let partial = memory.alloc_poisoned(4 * u64::from(rows) * each);
            let lengths = args[1];
            args.push(Arg::U64(partial));
            run(&spec.kernel(), spec.grid(rows), &args, &memory);
            let merge = AttentionMergeSpec {
                target: spec.target,
                num_heads: spec.num_heads,
                head_dim: spec.head_dim,
                splits: spec.splits,
            };
            let args = [Arg::U64(partial), lengths, Arg::U64(out)];
            run(&merge.kernel(), merge.grid(rows), &args, &memory);
        }
        memory.read(out, self.q.len()).unwrap()
    }

    fn run_flash(&self) -> Vec<f32> {
        let spec = flash(&self.spec);
        spec.check().unwrap();
        let rows = self.lengths.len() as u32;
        let mut memory = Memory::new();
        let mut args = self.arguments(&mut memory);
        let out = memory.alloc_poisoned(4 * self.q.len() as u64);
        args.extend([Arg::U64(out), Arg::U32(rows)]);
        let kernel = spec.kernel();
        kernel
            .ptx()
            .unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
        let options = Options {
            track_shared: true,
            ..Options::default()
        };
        if let Err(fault) = launch(&kernel, spec.grid(rows), &args, &memory, &options) {
            panic!("{}: {fault}", kernel.name);
        }
        memory.read(out, self.q.len()).unwrap()
    }

    fn check_flash(&self) {
        let error = nmse(&self.run_flash(), &self.expected());
        let lengths = (self.lengths.first(), self.lengths.last());
        assert!(
            error <= 1e-6,
            "{:?}, {lengths:?}: NMSE {error:e}",
            flash(&self.spec)
        );
    }

    fn check(&self, most: f64) {
        let error = nmse(&self.run(), &self.expected());
        assert!(
            error <= most,
            "{:?}, {:?}: NMSE {error:e}",
            self.spec,
            self.lengths
        );
    }
}

#[test]
fn heads_in_groups_of_every_dimension() {
    for (group, dim) in [
        (1, 16),
        (2, 32),
        (4, 64),
        (6, 128),
        (8, 64),
        (3, 80),
        (5, 256),
        (9, 16),
        (48, 32),
    ] {
        let kv_heads = if group < 5 { 2 } else { 1 };
        let spec = spec(group * kv_heads, kv_heads, dim);
        Case::new(spec, &[101], &[0]).check(1e-10);
    }
}

#[test]
fn lengths_around_blocks_and_dead_rows() {
    for splits in [1, 2, 8] {
        for dim in [16, 64] {
            let spec = AttentionSpec {
                splits,
                ..spec(4, 2, dim)
            };
            let lengths = [0, 1, 31, 32, 33, 100, 256, 0];
            Case::new(spec, &lengths, &[0, 1, 2, 1, 3, 0, 4, 2]).check(1e-10);
        }
    }
}

#[test]
fn splits_windows_and_caps_together() {
    for kv_type in [KvType::F16, KvType::F32] {
        for splits in [1, 2, 8] {
            for (window, softcap) in [
                (Some(40), None),
                (None, Some(5.0)),
                (Some(33), Some(2.0)),
                (Some(1), None),
            ] {
                let spec = AttentionSpec {
                    kv_type,
                    splits,
                    window,
                    softcap,
                    ..spec(4, 1, 32)
                };
                Case::new(spec, &[150, 40, 7], &[0, 1, 2]).check(1e-10);
            }
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    for splits in [1, 3] {
        let spec = AttentionSpec {
            scale: 30.0,
            splits,
            ..spec(2, 1, 64)
        };
        let case = Case::new(spec, &[90], &[0]);
        assert!(case.run().iter().all(|v| v.is_finite()));
        // Scores of hundreds in f32 leave an error of their rounding.
        case.check(1e-7);
    }
}

#[test]
fn a_partial_without_keys_says_so() {
    let spec = AttentionSpec {
        splits: 8,
        ..spec(2, 1, 16)
    };
    let case = Case::new(spec, &[40, 0], &[0, 0]);
    let mut memory = Memory::new();
    let mut args = case.arguments(&mut memory);
    let partial = memory.alloc_poisoned(4 * 2 * 2 * 8 * 18);
    args.push(Arg::U64(partial));
    run(&spec.kernel(), spec.grid(2), &args, &memory);
    let found = memory.read::<f32>(partial, 2 * 2 * 8 * 18).unwrap();
    for (i, part) in found.chunks(18).enumerate() {
        // Row 0 has keys in its first two splits.
        let full = i < 16 && i % 8 < 2;
        assert_eq!(part[17] > 0.0, full, "{i}");
        assert_eq!(part[16] == f32::NEG_INFINITY, !full, "{i}");
        assert!(full || part[..16].iter().all(|v| *v == 0.0), "{i}");
    }
}

/// Rows of one prompt from a position on.
fn prompt(spec: AttentionSpec, start: u32, rows: u32) -> Case {
    let lengths: Vec<u32> = (start + 1..=start + rows).collect();
    Case::new(spec, &lengths, &vec![0; rows as usize])
}

#[test]
fn prompts_of_every_dimension_and_group() {
    for (group, dim) in [
        (1, 16),
        (2, 32),
        (4, 64),
        (6, 128),
        (8, 64),
        (3, 48),
        (1, 80),
        (1, 112),
    ] {
        let kv_heads = if group < 3 { 2 } else { 1 };
        prompt(spec(group * kv_heads, kv_heads, dim), 0, 70).check_flash();
    }
}

#[test]
fn prompts_in_chunks_on_old_and_new_targets() {
    for target in [Target::Sm75, Target::Sm80, Target::Sm86, Target::Sm90a] {
        for (start, rows) in [(0, 1), (0, 64), (31, 33), (100, 9), (150, 100)] {
            for dim in [64, 128] {
                let spec = AttentionSpec {
                    target,
                    ..spec(2, 1, dim)
                };
                prompt(spec, start, rows).check_flash();
            }
        }
    }
}

#[test]
fn prompts_of_long_heads() {
    for (target, dim) in [
        (Target::Sm75, 192),
        (Target::Sm80, 144),
        (Target::Sm86, 256),
        (Target::Sm90a, 256),
    ] {
        let spec = AttentionSpec {
            target,
            ..spec(2, 1, dim)
        };
        prompt(spec, 10, 70).check_flash();
    }
}

#[test]
fn prompts_with_windows_and_caps() {
    for target in [Target::Sm75, Target::Sm80] {
        for (window, softcap) in [
            (Some(40), None),
            (None, Some(5.0)),
            (Some(1), Some(2.0)),
            (Some(64), None),
            (Some(1000), None),
        ] {
            let spec = AttentionSpec {
                target,
                window,
                softcap,
                ..spec(2, 1, 32)
            };
            prompt(spec, 0, 130).check_flash();
            prompt(spec, 101, 70).check_flash();
        }
    }
}

#[test]
fn dead_rows_of_a_prompt_are_zeros() {
    for window in [None, Some(20)] {
        let spec = AttentionSpec {
            window,
            ..spec(2, 1, 64)
        };
        let mut lengths: Vec<u32> = (1..=70).collect();
        lengths[3] = 0;
        lengths[64..].fill(0);
        let case = Case::new(spec, &lengths, &[0; 70]);
        case.check_flash();
        let out = case.run_flash();
        assert!(out[64 * 128..].iter().all(|v| *v == 0.0));
    }
}

#[test]
fn unsupported_shapes_are_refused() {
    for (heads, kv_heads, dim) in [
        (3, 2, 64),
        (4, 0, 64),
        (4, 2, 40),
        (4, 2, 0),
        (4, 2, 272),
        (128, 1, 64),
    ] {
        assert!(spec(heads, kv_heads, dim).check().is_err());
    }
    assert!(flash(&spec(4, 2, 72)).check().is_err());
    // Two tiles and the queries exceed what a block may have.
    let turing = AttentionSpec {
        target: Target::Sm75,
        ..spec(4, 2, 256)
    };
    assert!(flash(&turing).check().is_err());
}
