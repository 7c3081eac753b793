//! Attention over a paged cache, against f64 softmaxes over the same rounded keys and values.

use gannet_ptx_gen::interp::LaunchArg;
use gannet_ptx_gen::kernels::{
    AttentionDecodeSpec, AttentionFlashSpec, AttentionMergeSpec, AttentionShape, AttentionSpec,
    KvType, RopeKind,
};
use gannet_ptx_gen::target::Target;
use half::f16;

use super::trial::{End, Launch, Trial};
use super::{Random, kv, rotation};

/// Positions of a cache block.
pub const BLOCK: u32 = 32;

/// Attention of a target in some splits, as its kernels are made of.
#[derive(Clone, Copy)]
pub struct Attention {
    pub target: Target,
    pub num_heads: u32,
    pub num_kv_heads: u32,
    pub head_dim: u32,
    pub max_blocks: u32,
    pub kv_type: KvType,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub window: Option<u32>,
    pub splits: u32,
    pub split_queries: bool,
}

pub fn spec(heads: u32, kv_heads: u32, dim: u32) -> Attention {
    Attention {
        target: Target::Sm80,
        num_heads: heads,
        num_kv_heads: kv_heads,
        head_dim: dim,
        max_blocks: 8,
        kv_type: KvType::F16,
        scale: 1.0 / (dim as f32).sqrt(),
        softcap: None,
        window: None,
        splits: 1,
        split_queries: false,
    }
}

impl Attention {
    fn shape(&self) -> AttentionShape {
        AttentionShape {
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            block_tokens: BLOCK,
            max_blocks: self.max_blocks,
            kv_type: self.kv_type,
            scale: self.scale,
            softcap: self.softcap,
            window: self.window,
        }
    }

    /// In f32, of few queries.
    pub fn plain(&self) -> AttentionSpec {
        AttentionSpec {
            target: self.target,
            shape: self.shape(),
            splits: self.splits,
        }
    }

    /// On tensor cores, of few queries.
    pub fn packed(&self) -> AttentionDecodeSpec {
        AttentionDecodeSpec {
            target: self.target,
            shape: self.shape(),
            splits: self.splits,
            rope: None,
            overlaps: true,
        }
    }

    /// On tensor cores, of a prompt.
    pub fn flash(&self) -> AttentionFlashSpec {
        AttentionFlashSpec {
            target: self.target,
            shape: self.shape(),
            split_queries: self.split_queries,
        }
    }

    /// The merge of its partials.
    pub fn merge(&self) -> AttentionMergeSpec {
        AttentionMergeSpec {
            target: self.target,
            shape: self.shape(),
            splits: self.splits,
        }
    }
}

/// Queries over a cache whose blocks lie in a random order. What no row may see is NaN.
pub struct Case {
    pub spec: Attention,
    /// Row t sees `lengths[t]` keys of slot `slots[t]`.
    lengths: Vec<u32>,
    slots: Vec<u32>,
    table: Vec<u32>,
    q: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// How many times as large as those of other cases queries are.
    times: f32,
    /// Queries before their rotation, how they are rotated, and by what.
    raw: Option<(Vec<f32>, RopeKind, Vec<f32>)>,
}

/// A softmax over some keys: weighted sum of values, maximum and denominator in base 2.
struct Partial {
    out: Vec<f64>,
    max: f64,
    sum: f64,
}

impl Case {
    /// Over keys and values that the cache holds exactly.
    pub fn new(spec: Attention, lengths: &[u32], slots: &[u32]) -> Case {
        let mut case = Case::unrounded(spec, lengths, slots);
        let dim = case.spec.head_dim as usize;
        for pool in [&mut case.keys, &mut case.values] {
            let rows = pool.chunks_mut(dim).filter(|row| !row[0].is_nan());
            rows.for_each(|row| kv::rounded(case.spec.kv_type, row));
        }
        case
    }

    /// Over keys and values that the cache rounds, and the expected results do not.
    pub fn unrounded(spec: Attention, lengths: &[u32], slots: &[u32]) -> Case {
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
            times: 1.0,
            raw: None,
        };
        for slot in 0..num_slots {
            let own = lengths.iter().zip(slots).filter(|(_, s)| **s == slot);
            let keys = own.map(|(l, _)| *l).max().unwrap_or(0);
            for key in 0..keys {
                for head in 0..case.spec.num_kv_heads {
                    let at = case.at(slot, head, key);
                    for i in at..at + case.spec.head_dim as usize {
                        case.keys[i] = random.gauss();
                        case.values[i] = random.gauss();
                    }
                }
            }
            // Blocks that hold no key are not there.
            let row = slot * case.spec.max_blocks;
            let own = row + keys.div_ceil(BLOCK)..row + case.spec.max_blocks;
            own.for_each(|i| case.table[i as usize] = u32::MAX / 2);
        }
        case
    }

    /// Rows of the prompt of slot 1 from a position on.
    pub fn prompt(spec: Attention, start: u32, rows: u32) -> Case {
        let lengths: Vec<u32> = (start + 1..=start + rows).collect();
        Case::new(spec, &lengths, &vec![1; rows as usize])
    }

    /// Every fifth element of a query so large that it exceeds f16 once scaled. Keys are so small that it
    /// matters how large that is.
    pub fn with_outliers(self) -> Case {
        self.with_outliers_of(1.0)
    }

    /// As [`Case::with_outliers`], so many times as large.
    pub fn with_outliers_of(mut self, times: f32) -> Case {
        let dim = self.spec.head_dim as usize;
        let log2_e = std::f32::consts::LOG2_E;
        let factor = self.spec.softcap.map_or(log2_e, |c| 2.0 * log2_e / c);
        let largest = 65_536.0 * times / (self.spec.scale * factor);
        for (i, q) in self.q.iter_mut().enumerate() {
            if (i % dim + i / dim).is_multiple_of(5) {
                *q = largest.copysign(*q);
            }
        }
        for k in &mut self.keys {
            *k = f16::from_f32(*k / (32_768.0 * times)).to_f32();
        }
        self
    }

    /// Queries that the kernel rotates.
    pub fn rotated(mut self, kind: RopeKind) -> Case {
        let dim = self.spec.head_dim;
        let positions = self.lengths.iter().max().unwrap();
        let angles = rotation::angles(&mut Random::new(8), *positions, dim);
        let raw = self.q.clone();
        rotation::rotate(kind, dim, &mut self.q, &self.lengths, &angles);
        self.raw = Some((raw, kind, angles));
        self
    }

    /// Queries so many times as large: with many, scores overflow unless their maximum is
    /// subtracted.
    pub fn with_queries_times(mut self, factor: f32) -> Case {
        self.q.iter_mut().for_each(|q| *q *= factor);
        self.times *= factor;
        self
    }

    /// Queries of all signs and sizes, by turns: positive, negative, with a first element a
    /// million times as large as the others, and from the least normal f32 upwards.
    pub fn with_queries_of_all_sizes(mut self) -> Case {
        let dim = self.spec.head_dim as usize;
        for (n, q) in self.q.chunks_mut(dim).enumerate() {
            let size = 2f32.powi(-126 + (n / 4 % 16) as i32);
            for (i, q) in q.iter_mut().enumerate() {
                *q = match n % 4 {
                    0 => q.abs(),
                    1 => -q.abs(),
                    2 if i > 0 => *q * 1e-6,
                    2 => (q.abs() + 1.0) * [1.0, -1.0][n / 4 % 2],
                    _ => *q * size,
                };
            }
        }
        self
    }

    /// Values of every 16th position so many times as large.
    pub fn with_values_times(mut self, factor: f32) -> Case {
        let rows = self.values.chunks_mut(self.spec.head_dim as usize);
        rows.step_by(16).flatten().for_each(|v| *v *= factor);
        self
    }

    /// One row that sees one key, whose score is near the lowest f32.
    pub fn of_lowest_score(spec: Attention) -> Case {
        let mut case = Case::new(spec, &[1], &[0]);
        let dim = spec.head_dim as usize;
        for head in 0..spec.num_heads {
            let at = case.at(0, head / (spec.num_heads / spec.num_kv_heads), 0);
            let key = &case.keys[at..at + dim];
            let square: f32 = key.iter().map(|k| k * k).sum();
            let times = -2.5e38 / (square * spec.scale * std::f32::consts::LOG2_E);
            let q = &mut case.q[head as usize * dim..][..dim];
            q.iter_mut().zip(key).for_each(|(q, k)| *q = k * times);
        }
        case
    }

    /// The queries as the kernel gets them.
    fn queries(&self) -> Vec<f32> {
        let q = self.raw.as_ref().map_or(&self.q, |(raw, _, _)| raw);
        q.clone()
    }

    /// First element of a key in its pool.
    fn at(&self, slot: u32, head: u32, key: u32) -> usize {
        let block = self.table[(slot * self.spec.max_blocks + key / BLOCK) as usize];
        let row = (block * self.spec.num_kv_heads + head) * BLOCK + key % BLOCK;
        (row * self.spec.head_dim) as usize
    }

    /// The softmax of row `t`'s query head over the keys of one split.
    fn partial(&self, t: usize, head: u32, split: u32) -> Partial {
        let spec = &self.spec;
        let dim = spec.head_dim as usize;
        let (length, slot) = (self.lengths[t], self.slots[t]);
        let low = spec.window.map_or(0, |w| length.saturating_sub(w));
        let first = low / BLOCK;
        let each = (length.div_ceil(BLOCK) - first)
            .div_ceil(spec.splits)
            .max(2)
            * BLOCK;
        let start = first * BLOCK + each * split;
        let keys = low.max(start)..length.min(start + each);
        let at = (t * spec.num_heads as usize + head as usize) * dim;
        let kv_head = head / (spec.num_heads / spec.num_kv_heads);
        let q = &self.q[at..at + dim];
        let score = |key: u32| {
            let k = &self.keys[self.at(slot, kv_head, key)..][..dim];
            let products = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k));
            let score = products.sum::<f64>() * f64::from(spec.scale);
            let cap = spec.softcap.map(f64::from);
            let capped = cap.map_or(score, |cap| cap * (score / cap).tanh());
            capped * std::f64::consts::LOG2_E
        };
        let scores: Vec<f64> = keys.clone().map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut partial = Partial {
            out: vec![0.0; dim],
            max,
            sum: 0.0,
        };
        for (key, score) in keys.zip(scores) {
            let weight = (score - max).exp2();
            partial.sum += weight;
            let v = &self.values[self.at(slot, kv_head, key)..][..dim];
            for (o, v) in partial.out.iter_mut().zip(v) {
                *o += weight * f64::from(*v);
            }
        }
        partial
    }

    /// The partials of every row, head and split, in this order.
    fn partials(&self) -> Vec<Partial> {
        let (heads, splits) = (self.spec.num_heads, self.spec.splits);
        let of_row = |t| {
            let of_head = move |h| (0..splits).map(move |z| (t, h, z));
            (0..heads).flat_map(of_head)
        };
        let all = (0..self.lengths.len()).flat_map(of_row);
        all.map(|(t, h, z)| self.partial(t, h, z)).collect()
    }

    /// What the partials add up to.
    fn expected(&self) -> Vec<f64> {
        let partials = self.partials();
        let merged = partials
            .chunks(self.spec.splits as usize)
            .flat_map(|parts| {
                let max = parts.iter().map(|p| p.max).fold(-1e300, f64::max);
                let weight = move |p: &Partial| (p.max - max).exp2();
                let sum: f64 = parts.iter().map(|p| weight(p) * p.sum).sum();
                let element = move |i: usize| -> f64 {
                    let out: f64 = parts.iter().map(|p| weight(p) * p.out[i]).sum();
                    if sum > 0.0 { out / sum } else { 0.0 }
                };
                (0..self.spec.head_dim as usize).map(element)
            });
        merged.collect()
    }

    /// Partials as they lie in memory: sums, maximum, denominator. Of splits without keys only the
    /// first is anything.
    fn flattened(&self) -> Vec<Option<f64>> {
        let splits = self.spec.splits as usize;
        let flat = |(n, p): (usize, Partial)| {
            let written = n % splits == 0 || p.max > f64::NEG_INFINITY;
            let words = p.out.into_iter().chain([p.max, p.sum]);
            words.map(move |v| written.then_some(v))
        };
        self.partials()
            .into_iter()
            .enumerate()
            .flat_map(flat)
            .collect()
    }

    /// Slots, where those of `together` dead rows are none.
    fn slots(&self, together: usize) -> Vec<u32> {
        let mut slots = self.slots.clone();
        let rows = slots
            .chunks_mut(together)
            .zip(self.lengths.chunks(together));
        for (slots, _) in rows.filter(|(_, lengths)| lengths.iter().all(|l| *l == 0)) {
            slots.fill(u32::MAX / 2);
        }
        slots
    }

    /// Everything up to the cache as arguments. What lies in a slot before the tile of so many keys
    /// that holds the first key of its rows is NaN, and its blocks are not there.
    fn launch(&self, grid: [u32; 3], together: usize, tile: u32) -> Launch {
        let (mut table, mut pools) = (
            self.table.clone(),
            [&self.keys, &self.values].map(Vec::clone),
        );
        for slot in 0..table.len() as u32 / self.spec.max_blocks {
            let rows = self.lengths.iter().zip(&self.slots);
            let rows = rows.filter(|(l, s)| **s == slot && (**l > 0 || together > 1));
            let low = |length: &u32| self.spec.window.map_or(0, |w| length.saturating_sub(w));
            let first = rows.map(|(l, _)| low(l)).min().unwrap_or(0) / tile * tile;
            for head in 0..self.spec.num_kv_heads {
                for key in 0..first {
                    let at = self.at(slot, head, key);
                    let unseen = at..at + self.spec.head_dim as usize;
                    pools
                        .iter_mut()
                        .for_each(|pool| pool[unseen.clone()].fill(f32::NAN));
                }
            }
            let row = slot * self.spec.max_blocks;
            (row..row + first / BLOCK).for_each(|i| table[i as usize] = u32::MAX / 2);
        }
        let launch = Launch::new(grid)
            .input(&self.queries())
            .input(&self.lengths)
            .input(&self.slots(together))
            .input(&table);
        let launch = pools.iter().fold(launch, |launch, pool| {
            let dim = self.spec.head_dim as usize;
            let bytes = kv::pool(self.spec.kv_type, pool, dim, BLOCK as usize);
            launch.input(&bytes)
        });
        let angles = self.raw.iter().map(|(_, _, angles)| angles);
        angles.fold(launch, |launch, angles| launch.input(angles))
    }

    fn rows(&self) -> u32 {
        self.lengths.len() as u32
    }

    /// The attention of few queries: the outputs, or with several splits the partials.
    pub fn decode_launch(&self, nmse: f64) -> Launch {
        let spec = self.spec.plain();
        spec.check().unwrap();
        self.few(spec.grid(self.rows()), nmse)
    }

    /// The same on tensor cores.
    pub fn packed_launch(&self, nmse: f64) -> Launch {
        let spec = self.packed();
        spec.check().unwrap();
        self.few(spec.grid(self.rows()), nmse)
    }

    /// Its kernel.
    pub fn packed(&self) -> AttentionDecodeSpec {
        AttentionDecodeSpec {
            rope: self.raw.as_ref().map(|(_, kind, _)| *kind),
            ..self.spec.packed()
        }
    }

    fn few(&self, grid: [u32; 3], nmse: f64) -> Launch {
        let launch = self.launch(grid, 1, 1);
        if self.spec.splits == 1 {
            return launch.floats(self.expected(), nmse);
        }
        let flattened = self.flattened();
        let written = (0..flattened.len()).filter(|i| flattened[*i].is_some());
        let sampled = End::Sampled {
            at: written.collect(),
            values: flattened.iter().copied().flatten().collect(),
            nmse,
        };
        launch.output(4 * flattened.len(), sampled)
    }

    /// The merge of the partials.
    pub fn merge_launch(&self, nmse: f64) -> Launch {
        // What no split has written is not read.
        let partial = self.flattened().into_iter();
        let partial: Vec<f32> = partial.map(|v| v.map_or(f32::NAN, |v| v as f32)).collect();
        Launch::new(self.spec.merge().grid(self.rows()))
            .input(&self.lengths)
            .input(&partial)
            .floats(self.expected(), nmse)
    }

    /// The attention of a prompt, in `more` blocks more than it takes.
    pub fn flash_launch(&self, more: u32) -> Launch {
        let spec = self.spec.flash();
        // Queries and weights are rounded to the type; a byte times its scale once more.
        let nmse = match (self.spec.kv_type, self.spec.split_queries) {
            (KvType::BF16, _) => 1e-5,
            // One key outweighs the others, whose weights' rounding is then nothing.
            (KvType::F16, true) if self.times >= 30.0 => 2e-9,
            (KvType::F16, true) => 5e-8,
            _ => 1e-6,
        };
        spec.check().unwrap();
        let [x, y, z] = spec.grid(self.rows());
        self.launch([x + more, y, z], 64, 64)
            .floats(self.expected(), nmse)
            .scalar(LaunchArg::U32(self.rows()))
    }

    /// Attention and, with several splits, their merge pass.
    pub fn pass(&self, nmse: f64) {
        decode(std::slice::from_ref(self), nmse).pass();
        if self.spec.splits > 1 {
            merge(std::slice::from_ref(self), nmse).pass();
        }
    }

    /// Every kernel of the case gives NaN.
    pub fn gives_nan(&self) {
        let own = std::slice::from_ref(self);
        let all = f64::INFINITY;
        let mut found = vec![prompts(own).results(6)[0].clone()];
        for partial in [decode(own, all), packed_decode(own, all)] {
            let partial = partial.results(6)[0].clone();
            if self.spec.splits == 1 {
                found.push(partial);
                continue;
            }
            let merged = Launch::new(self.spec.merge().grid(self.rows()))
                .input(&self.lengths)
                .input(&partial)
                .floats(self.expected(), all);
            let trial = Trial {
                kernel: self.spec.merge().kernel(),
                launches: vec![merged],
            };
            found.push(trial.results(2)[0].clone());
        }
        for found in found {
            assert!(found.iter().all(|v| v.is_nan()), "{found:?}");
        }
    }

    pub fn pass_flash(&self) {
        prompts(std::slice::from_ref(self)).pass();
    }
}

/// The attention of cases of one shape.
pub fn decode(cases: &[Case], nmse: f64) -> Trial {
    Trial {
        kernel: cases[0].spec.plain().kernel(),
        launches: cases.iter().map(|c| c.decode_launch(nmse)).collect(),
    }
}

/// The attention of cases of one shape on tensor cores.
pub fn packed_decode(cases: &[Case], nmse: f64) -> Trial {
    Trial {
        kernel: cases[0].packed().kernel(),
        launches: cases.iter().map(|c| c.packed_launch(nmse)).collect(),
    }
}

/// Attention on tensor cores and, with several splits, the merge of what it wrote.
pub fn packed_merged(case: &Case, nmse: f64) {
    if case.spec.splits == 1 {
        return packed_decode(std::slice::from_ref(case), nmse).pass();
    }
    let out = 6 + usize::from(case.raw.is_some());
    let partial = packed_decode(std::slice::from_ref(case), f64::INFINITY).results(out);
    let merged = Launch::new(case.spec.merge().grid(case.rows()))
        .input(&case.lengths)
        .input(&partial[0])
        .floats(case.expected(), nmse);
    let trial = Trial {
        kernel: case.spec.merge().kernel(),
        launches: vec![merged],
    };
    trial.pass();
}

/// The merge of cases of one shape.
pub fn merge(cases: &[Case], nmse: f64) -> Trial {
    Trial {
        kernel: cases[0].spec.merge().kernel(),
        launches: cases.iter().map(|c| c.merge_launch(nmse)).collect(),
    }
}

/// The attention of prompts of one shape, on tensor cores; one of them, if possible without a
/// ragged block, once more in too large a grid.
pub fn prompts(cases: &[Case]) -> Trial {
    let whole = cases.iter().find(|c| c.rows().is_multiple_of(64));
    let surplus = whole.unwrap_or(&cases[0]).flash_launch(1);
    let launches = cases.iter().map(|c| c.flash_launch(0));
    Trial {
        kernel: cases[0].spec.flash().kernel(),
        launches: launches.chain([surplus]).collect(),
    }
}
