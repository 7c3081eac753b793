//! What a block of [`super::AttentionDecodeSpec`] does: some query heads over the keys of a split.
//!
//! Lane `4g + t` of a warp holds columns `2t` and `2t + 1` of rows g and `g + 8` of every product: its
//! own scores, weights and sums. Rows g are head g; rows `g + 8` are the rounded rests of the same
//! head, or with more than 8 heads another one.

use super::AttentionDecodeSpec;
use super::common::{LOWEST, capped};
use super::decode_tiles::{Cache, Half, KEYS, OWN_KEYS, key_pieces, steps, value_pieces};
use crate::build::{Builder, Ptr, Shared, Val, Var};
use crate::kernels::KvType;

/// Warps of a block.
pub(super) const WARPS: u32 = 4;
/// Floats that a row in shared memory is longer than a head: rows then start in different banks.
const PAD: u32 = 8;
/// Exponent of the largest weight.
const P_EXPONENT: i32 = 10;

impl AttentionDecodeSpec {
    /// Query heads that a lane has scores of: head `lane / 4`, and 8 further on.
    pub(super) fn own_heads(&self) -> u32 {
        if self.wide() { 2 } else { 1 }
    }

    /// Whether the next tile is loaded while one is multiplied. Longer heads leave no registers.
    pub(super) fn ahead(&self) -> bool {
        self.shape.head_dim <= 128
    }

    /// Words of shared memory that the queries take: a left operand for every step and lane.
    fn query_words(&self) -> u32 {
        steps(self).len() as u32 * self.own_heads() * 32 * 4
    }

    /// Floats of shared memory in which warps leave their sums.
    fn sum_words(&self) -> u32 {
        WARPS * self.heads() * (self.shape.head_dim + PAD)
    }

    /// Words of dynamic shared memory.
    pub(super) fn area_words(&self) -> u32 {
        self.query_words() + self.sum_words()
    }
}

/// A block of the grid: some query heads and the keys of a split.
pub(super) struct Block<'k, 's> {
    pub(super) spec: &'s AttentionDecodeSpec,
    pub(super) k: &'k Builder,
    pub(super) cache: Cache<'k, 's>,
    /// The block's first query head within the group.
    pub(super) first_head: Val<'k, u32>,
    pub(super) out: Ptr<'k, f32>,
}

/// What a warp has added up.
struct Sums<'k> {
    /// Maximum and the lane's share of the denominator, for each of its heads.
    softmax: Vec<[Var<'k, f32>; 2]>,
    /// Accumulators of the products with values.
    out: Vec<[Var<'k, f32>; 4]>,
}

/// The tile that a warp is about to multiply.
struct Loaded<'k> {
    keys: Half<'k>,
    values: Half<'k>,
    /// Cache block of the tile after it.
    next: Var<'k, u32>,
}

impl<'k> Block<'k, '_> {
    /// Query head `head` of the block within the layer; heads past the last count as the last.
    pub(super) fn head(&self, head: Val<'k, u32>) -> Val<'k, u32> {
        let group = self.spec.shape.group();
        (self.first_head + head).min(group - 1) + self.cache.kv_head * group
    }

    /// Waits for the launch in front, and ends blocks whose split has no keys.
    pub(super) fn begin(&self) {
        let (k, cache) = (self.k, &self.cache);
        k.wait_for_predecessor();
        let empty = cache.start.ge(cache.end);
        // The merge reads what splits with keys have written, and the first.
        let speaks = match self.spec.splits {
            1 => empty,
            _ => empty & k.block_z().eq(0),
        };
        k.if_(speaks, || self.store_nothing());
        k.exit_if(empty);
    }

    /// Attention over the split's keys, of which there are some unless the block has yet to
    /// [begin](Block::begin).
    pub(super) fn run(&self, q: Ptr<'k, f32>, angles: Option<Ptr<'k, f32>>, area: Shared<'k, f32>) {
        let (spec, k, cache) = (self.spec, self.k, &self.cache);
        let queries = area.cast::<u32>();
        let first = cache.start + k.warp() * KEYS;
        let step = WARPS * KEYS;

        let loaded = Loaded {
            keys: Half::new(cache, &key_pieces(spec), 2),
            values: Half::new(cache, &value_pieces(spec), 4),
            next: k.var(0u32),
        };
        let staged = || angles.map(|angles| self.stage_angles(angles));
        let load_first = || {
            let block = cache.block(first);
            loaded.next.set(cache.block(first + step));
            cache.load_keys(&loaded.keys, first, block);
            cache.load_values(&loaded.values, first, block);
        };
        let units: Vec<_> = if spec.overlaps() {
            // All but the tile with the step's own key.
            let (exists, settled) = (first.lt(cache.end), (first + KEYS).lt(cache.length));
            k.if_(exists & settled, load_first);
            let angles = staged();
            self.begin();
            k.if_(exists & !settled, load_first);
            self.stage(&self.queries(q, angles), queries)
        } else {
            // The queries are on their way before anything waits for the row's length.
            let found = self.queries(q, staged());
            if spec.ahead() {
                k.if_(first.lt(cache.end), load_first);
            } else {
                loaded.next.set(cache.block(first));
            }
            self.stage(&found, queries)
        };
        k.barrier();

        let sums = Sums {
            softmax: units.iter().map(|_| [k.var(LOWEST), k.var(0f32)]).collect(),
            out: (0..spec.shape.head_dim / 8)
                .map(|_| std::array::from_fn(|_| k.var(0f32)))
                .collect(),
        };
        k.for_each(first, cache.end, step, |now| {
            let next = now + step;
            if !spec.ahead() {
                cache.load_keys(&loaded.keys, now, loaded.next.get());
            }
            let scores = self.scores(&loaded, queries, &units, now);
            if spec.ahead() {
                k.if_(next.lt(cache.end), || {
                    cache.load_keys(&loaded.keys, next, loaded.next.get());
                });
            } else {
                cache.load_values(&loaded.values, now, loaded.next.get());
            }
            self.add(&sums, scores, &loaded);
            k.if_(next.lt(cache.end), || {
                if spec.ahead() {
                    let block = loaded.next.get();
                    cache.load_values(&loaded.values, next, block);
                    loaded.next.set(cache.block(next + step));
                } else {
                    loaded.next.set(cache.block(next));
                }
            });
        });
        self.finish(&sums, area.at(spec.query_words()));
    }

    /// A product of operands of the cache's width.
    fn multiply(
        &self,
        a: [Val<'k, u32>; 4],
        b: [Val<'k, u32>; 2],
        c: [Val<'k, f32>; 4],
    ) -> [Val<'k, f32>; 4] {
        match self.spec.shape.kv_type {
            KvType::BF16 => self.k.mma_bf16(a, b, c),
            _ => self.k.mma_f16(a, b, c),
        }
    }

    /// The lane's scores of a tile, for each of its heads, in base 2.
    fn scores(
        &self,
        loaded: &Loaded<'k>,
        queries: Shared<'k, u32>,
        units: &[Val<'k, f32>],
        now: Val<'k, u32>,
    ) -> Vec<[Val<'k, f32>; 4]> {
        let (spec, k, cache) = (self.spec, self.k, &self.cache);
        let (steps, products) = (steps(spec).len() as u32, spec.own_heads());
        // Two sums for each 8 keys, so that products wait less for each other.
        let mut sums = [[[k.constant(0f32); 4]; 2]; 2];
        let keys = loaded.keys.key_operands(&key_pieces(spec));
        for step in 0..steps {
            for i in 0..products {
                let at = k.lane() + (step * products + i) * 32;
                let q = queries.load_vec::<4>(at * 4);
                for (sum, key) in sums[(step % 2) as usize].iter_mut().zip(&keys) {
                    *sum = self.multiply(q, key[step as usize], *sum);
                }
            }
        }
        let [even, odd] = sums;
        let sums: [[_; 4]; 2] = std::array::from_fn(|half| {
            let (a, b) = (even[half], odd[half]);
            std::array::from_fn(|e| if steps > 1 { a[e] + b[e] } else { a[e] })
        });
        let keys = OWN_KEYS.map(|key| now + k.lane() % 4 * 2 + key);
        let seen = keys.map(|key| match spec.shape.window {
            Some(_) => key.lt(cache.end) & key.ge(cache.low),
            None => key.lt(cache.end),
        });
        (0..)
            .zip(units)
            .map(|(row, unit)| {
                std::array::from_fn(|i| {
                    let (half, e) = (i / 2, i % 2);
                    let dot = if spec.wide() {
                        sums[half][2 * row + e]
                    } else {
                        sums[half][e] + sums[half][e + 2]
                    };
                    let unit = loaded.keys.scale(i).map_or(*unit, |scale| *unit * scale);
                    let score = capped(k, dot * unit, spec.shape.softcap);
                    k.select(seen[i], score, f32::NEG_INFINITY)
                })
            })
            .collect()
    }

    /// Adds the values of a tile with the weights of its scores.
    fn add(&self, sums: &Sums<'k>, scores: Vec<[Val<'k, f32>; 4]>, loaded: &Loaded<'k>) {
        let (spec, k) = (self.spec, self.k);
        // Scales of values belong to their weights, but not to the denominator. What is not visible
        // may have any.
        let scale = |i: usize| {
            let seen = scores[0][i].gt(f32::NEG_INFINITY);
            loaded.values.scale(i).map(|v| k.select(seen, v, 0f32))
        };
        let scales: [_; 4] = std::array::from_fn(scale);
        let mut shrinks = Vec::new();
        let mut weights = Vec::new();
        for (scores, [max, sum]) in scores.iter().zip(&sums.softmax) {
            let before = max.get();
            let levels = scores.iter().zip(&scales);
            let levels = levels.map(|(s, scale)| scale.map_or(*s, |scale| *s + scale.lg2()));
            let most = levels.fold(before, |m, s| m.max(s));
            let most = k.lanes_reduce(most, 4, |a, b| a.max(b));
            let shrink = (before - most).ex2();
            let mut p = scores.map(|s| (s - most + P_EXPONENT as f32).ex2());
            max.set(most);
            sum.update(|l| p.iter().fold(l * shrink, |l, p| l + *p));
            shrinks.push(shrink);
            for (p, scale) in p.iter_mut().zip(&scales) {
                *p = scale.map_or(*p, |scale| *p * scale);
            }
            weights.push([self.two(p[0], p[1]), self.two(p[2], p[3])]);
        }
        let weights = operands(&weights);
        let values = loaded.values.value_operands(&value_pieces(spec));
        for (out, v) in sums.out.iter().zip(values) {
            let mut acc: [_; 4] = std::array::from_fn(|e| {
                let shrink = shrinks[if spec.wide() { e / 2 } else { 0 }];
                out[e].get() * shrink
            });
            for p in &weights {
                acc = self.multiply(*p, v, acc);
            }
            out.iter().zip(acc).for_each(|(o, v)| o.set(v));
        }
    }

    /// Combines the warps and writes the block's rows.
    fn finish(&self, sums: &Sums<'k>, area: Shared<'k, f32>) {
        let (spec, k) = (self.spec, self.k);
        let (heads, dim) = (spec.heads(), spec.shape.head_dim);
        let (lane, warp) = (k.lane(), k.warp());
        let stride = dim + PAD;
        let maxima = k.shared::<f32>("maxima", WARPS * heads);
        let denominators = k.shared::<f32>("denominators", WARPS * heads);
        for (half, [max, sum]) in (0u32..).zip(&sums.softmax) {
            let sum = k.lanes_reduce(sum.get(), 4, |a, b| a + b);
            let head = lane / 4 + 8 * half;
            let at = warp * heads + head;
            k.if_(head.lt(heads), || {
                k.if_((lane % 4).eq(0), || {
                    maxima.store(at, max.get());
                    denominators.store(at, sum);
                });
                let mut columns = sums.out.iter();
                for piece in value_pieces(spec) {
                    let own: Vec<_> = columns.by_ref().take(piece.width as usize).collect();
                    // Two columns of a product are two lanes' elements of the values.
                    for e in 0..2 {
                        let row: Vec<_> = own
                            .iter()
                            .map(|c| match spec.wide() {
                                true => c[2 * half as usize + e].get(),
                                false => c[e].get() + c[e + 2].get(),
                            })
                            .collect();
                        let to = (lane % 4 * 2 + e as u32) * piece.width + piece.offset;
                        let to = at * stride + to;
                        for (i, four) in (0..).step_by(4).zip(row.chunks(4)) {
                            match *four {
                                [a, b, c, d] => area.store_vec(to + i, [a, b, c, d]),
                                [a, b] => area.store_vec(to + i, [a, b]),
                                _ => area.store(to + i, four[0]),
                            }
                        }
                    }
                }
            });
        }
        k.barrier();
        let parts = dim / 4;
        k.for_each(k.thread_x(), heads * parts, k.threads(), |i| {
            let (head, e) = (i / parts, i % parts * 4);
            let at: Vec<_> = (0..WARPS).map(|w| head + w * heads).collect();
            let found: Vec<_> = at.iter().map(|at| maxima.load(*at)).collect();
            let max = found.iter().skip(1).fold(found[0], |m, v| m.max(*v));
            let mut sum = k.constant(0f32);
            let mut row = [sum; 4];
            for (at, own) in at.iter().zip(&found) {
                let shrink = (*own - max).ex2();
                sum = denominators.load(*at).fma(shrink, sum);
                let part = area.load_vec::<4>(*at * stride + e);
                row = std::array::from_fn(|i| part[i].fma(shrink, row[i]));
            }
            k.if_((self.first_head + head).lt(spec.shape.group()), || {
                let to = k.block_x() * spec.shape.num_heads + self.head(head);
                if spec.splits == 1 {
                    let inverse = sum.rcp();
                    return self.out.store_vec(to * dim + e, row.map(|v| v * inverse));
                }
                let to = (to * spec.splits + k.block_z()) * (dim + 2);
                let down = 0.5f32.powi(P_EXPONENT);
                let [a, b, c, d] = row.map(|v| v * down);
                self.out.store_vec(to + e, [a, b]);
                self.out.store_vec(to + e + 2, [c, d]);
                k.if_(e.eq(0), || self.out.store_vec(to + dim, [max, sum * down]));
            });
        });
    }

    /// Writes the rows of a block without keys.
    pub(super) fn store_nothing(&self) {
        let (spec, k) = (self.spec, self.k);
        let zero = k.constant(0f32);
        let width = match spec.splits {
            1 => spec.shape.head_dim / 2,
            _ => spec.shape.head_dim / 2 + 1,
        };
        k.for_each(k.thread_x(), spec.heads() * width, k.threads(), |i| {
            let (head, pair) = (i / width, i % width);
            k.if_((self.first_head + head).lt(spec.shape.group()), || {
                let to = k.block_x() * spec.shape.num_heads + self.head(head);
                let to = (to * spec.splits + k.block_z()) * width + pair;
                let last = pair.eq(spec.shape.head_dim / 2);
                let first = k.select(last, f32::NEG_INFINITY, 0f32);
                self.out.store_vec(to * 2, [first, zero]);
            });
        });
    }
}

/// Left operands of products: from each of a lane's rows two pairs of columns, each in two parts.
/// One row: its second parts are the row 8 further on. Two rows: second parts are an operand more.
pub(super) fn operands<'k>(rows: &[[[Val<'k, u32>; 2]; 2]]) -> Vec<[Val<'k, u32>; 4]> {
    match *rows {
        [[near, far]] => vec![[near[0], near[1], far[0], far[1]]],
        [[near, far], [near8, far8]] => [0, 1]
            .map(|part| [near[part], near8[part], far[part], far8[part]])
            .to_vec(),
        _ => unreachable!("a lane has one row or two"),
    }
}
