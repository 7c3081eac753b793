//! Matrix times many tokens on tensor cores:
//! `out[t, r] = sum_c w[r, c] * x[t, c] (+ bias[r]) (+ residual[t, r])` for `t < n`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | w | planes of the format, see [`super::WeightFormat`] | `[rows, cols]` |
//! | x | f32 | `[n, cols]` |
//! | out | f32; may be `residual` | `[n, rows]` |
//! | bias | f32, with `spec.bias` | `[rows]` |
//! | residual | f32, with `spec.residual` | `[n, rows]` |
//! | n | u32 | tokens; `n * max(rows, cols)` below 2^32 |
//!
//! Grid `[ceil(rows / tile rows), ceil(n / tile tokens), 1]`. Weights are unpacked in f32 and
//! rounded once to f16, x is rounded to f16 (what exceeds f16 becomes its largest value),
//! sums are f32. A result depends neither on `n` nor on the other tokens: columns are
//! added in the same order for all of them.
//!
//! A block owns a tile of outputs and walks over the columns in steps of 64 (32). Both operands
//! of a step lie in shared memory as f16, twice: while the tensor cores work on one pair, the next
//! step's bytes arrive in registers, are unpacked and stored to the other, one barrier a step.
//! Rows in shared memory are padded by 16 bytes, which spreads the eight rows of an `ldmatrix`
//! over all banks. Tokens are the rows of the product and weights its columns, so that two
//! neighbouring outputs of a token are one thread's.

use super::WeightFormat;
use super::unpack::{Geometry, Lane, Packet, Row};
use crate::build::{Builder, Ptr, Shared, Val, Var};
use crate::ir::Kernel;
use crate::target::Target;

/// A product of one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GemmSpec {
    /// GPU to write for.
    pub target: Target,
    /// Format of the weights.
    pub format: WeightFormat,
    /// Output features.
    pub rows: u32,
    /// Input features, a multiple of 32.
    pub cols: u32,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether a residual is added.
    pub residual: bool,
}

/// Halves that a row in shared memory is longer than a step.
const PAD: u32 = 8;
/// The largest f16.
const F16_MAX: f32 = 65504.0;

/// How a block's outputs are shared among its warps.
#[derive(Clone, Copy)]
struct Tile {
    rows: u32,
    tokens: u32,
    /// Warps along the rows and along the tokens.
    warps: (u32, u32),
}

impl Tile {
    fn threads(self) -> u32 {
        32 * self.warps.0 * self.warps.1
    }

    /// 8-row and 16-token products of a warp.
    fn products(self) -> (u32, u32) {
        (
            self.rows / self.warps.0 / 8,
            self.tokens / self.warps.1 / 16,
        )
    }
}

// On an H200 with Q4_K, TFLOP/s: 8960x1536 and 2048 tokens, large 205, medium 165. 1536x8960 and 512
// tokens, where few blocks exist, medium 90, tiles of the large one's size 60 to 75. 256x1536 and
// 512 tokens: small 20, medium 13.
const LARGE: Tile = Tile {
    rows: 128,
    tokens: 128,
    warps: (4, 2),
};
const MEDIUM: Tile = Tile {
    rows: 128,
    tokens: 64,
    warps: (4, 2),
};
const SMALL: Tile = Tile {
    rows: 64,
    tokens: 32,
    warps: (2, 2),
};

impl GemmSpec {
    /// The tile: smaller for fewer rows, so that a prompt of some hundred tokens occupies a GPU.
    /// It does not depend on the tokens, so that one text serves every prompt.
    fn tile(&self) -> Tile {
        match self.rows {
            0..=512 => SMALL,
            513..4096 => MEDIUM,
            // Two pairs of the large tile do not fit beside each other before Ampere.
            _ if !self.target.has_ampere() => MEDIUM,
            _ => LARGE,
        }
    }

    /// Columns of a step.
    fn step(&self) -> u32 {
        if self.cols.is_multiple_of(64) { 64 } else { 32 }
    }

    /// First row of the last block.
    fn last_block(&self) -> u32 {
        (self.rows - 1) / self.tile().rows * self.tile().rows
    }

    /// Whether the kernel covers the shape.
    ///
    /// # Errors
    ///
    /// What is wrong with it: the columns are no whole steps.
    pub fn check(&self) -> Result<(), String> {
        self.format.check(self.rows, self.cols)?;
        if !self.cols.is_multiple_of(32) {
            return Err(format!(
                "a product over {} columns; tensor cores take multiples of 32",
                self.cols
            ));
        }
        Ok(())
    }

    /// Blocks for `tokens` tokens.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        let tile = self.tile();
        [
            self.rows.div_ceil(tile.rows),
            tokens.div_ceil(tile.tokens),
            1,
        ]
    }

    /// Bytes moved for `tokens` tokens, each operand counted once.
    pub fn bytes(&self, tokens: u64) -> u64 {
        let (rows, cols) = (u64::from(self.rows), u64::from(self.cols));
        let outputs = rows * tokens * (1 + u64::from(self.residual));
        let bias = if self.bias { rows } else { 0 };
        self.format.bytes(self.rows, self.cols) + 4 * (cols * tokens + outputs + bias)
    }

    /// Operations on `tokens` tokens.
    pub fn flops(&self, tokens: u64) -> u64 {
        2 * tokens * u64::from(self.rows) * u64::from(self.cols)
    }

    /// The kernel, named after its format and shape.
    pub fn kernel(&self) -> Kernel {
        let GemmSpec { rows, cols, .. } = *self;
        let format = self.format.name();
        let mut name = format!("gemm_{format}_{rows}x{cols}");
        let mut formula = "out[t, r] = sum_c w[r, c] * x[t, c]".to_owned();
        if self.bias {
            name += "_bias";
            formula += " + bias[r]";
        }
        if self.residual {
            name += "_residual";
            formula += " + residual[t, r]";
        }
        let tile = self.tile();
        Kernel::new(name, self.target, |k| {
            k.doc(format!(
                "{formula}, t < n; w is {format} [{rows}, {cols}].\n\
                 Grid [ceil({rows} / {}), ceil(n / {}), 1].",
                tile.rows, tile.tokens
            ));
            k.block_size(tile.threads());
            let (w, x) = (k.input::<u8>("w"), k.input::<f32>("x"));
            let out = k.output::<f32>("out");
            let bias = self.bias.then(|| k.input::<f32>("bias").read_only());
            let residual = self.residual.then(|| k.input::<f32>("residual"));
            let n = k.scalar::<u32>("n");
            let sums = self.accumulate(k, w, x, n);
            self.finish(k, &sums, out, bias, residual, n);
        })
    }

    /// Walks over the columns; gives the warp's sums by token product and row product.
    fn accumulate<'k>(
        &self,
        k: &'k Builder,
        w: Ptr<'k, u8>,
        x: Ptr<'k, f32>,
        n: Val<'k, u32>,
    ) -> Vec<Vec<[Var<'k, f32>; 4]>> {
        let (tile, step) = (self.tile(), self.step());
        let stride = step + PAD;
        let pair = (tile.rows + tile.tokens) * stride;
        // Halves in pairs: two buffers, each the weights' rows and then the tokens'.
        let buffers = k.dynamic_shared::<u32>("tiles", pair);
        let weights = WeightTile::new(self, k, w);
        let tokens = TokenTile::new(self, k, x, n);
        let (row_products, token_products) = tile.products();
        let sums: Vec<Vec<[Var<'k, f32>; 4]>> = (0..token_products)
            .map(|_| {
                (0..row_products)
                    .map(|_| std::array::from_fn(|_| k.var(0f32)))
                    .collect()
            })
            .collect();

        let lane = k.lane();
        let warp_rows = (k.warp() % tile.warps.0) * (row_products * 8);
        let warp_tokens = (k.warp() / tile.warps.0) * (token_products * 16);
        // Rows that the lane addresses for ldmatrix, in words: matrices of tokens go down first,
        // those of weights along the columns first.
        let b_lane =
            (warp_rows + (lane % 8 + (lane / 16) * 8)) * (stride / 2) + ((lane / 8) % 2) * 4;
        let a_lane =
            (warp_tokens + lane % 16) * (stride / 2) + (lane / 16) * 4 + tile.rows * (stride / 2);
        let multiply = |buffer: Val<'k, u32>| {
            for inner in 0..step / 16 {
                let column = inner * 8;
                let a: Vec<[Val<'k, u32>; 4]> = (0..token_products)
                    .map(|i| buffers.ldmatrix(buffer + a_lane + (i * 8 * stride + column)))
                    .collect();
                for j in 0..row_products / 2 {
                    let b: [Val<'k, u32>; 4] =
                        buffers.ldmatrix(buffer + b_lane + (j * 8 * stride + column));
                    for (i, a) in a.iter().enumerate() {
                        for half in 0..2 {
                            let sum = &sums[i][(2 * j) as usize + half];
                            let now = std::array::from_fn(|e| sum[e].get());
                            let b = [b[2 * half], b[2 * half + 1]];
                            let next = k.mma_f16_any(*a, b, now);
                            sum.iter().zip(next).for_each(|(sum, v)| sum.set(v));
                        }
                    }
                }
            }
        };

        let zero = k.constant(0u32);
        let (first_w, first_x) = (weights.load(None), tokens.load(zero));
        weights.store(&first_w, buffers, zero);
        tokens.store(&first_x, buffers, zero);
        k.barrier();
        let steps = self.cols / step;
        let current = k.var(0u32);
        k.for_each(0u32, steps - 1, 1u32, |i| {
            let next = i + 1u32;
            let (next_w, next_x) = (weights.load(Some(next)), tokens.load(next));
            let from = current.get();
            multiply(from);
            // The other of 0 and `pair / 2`.
            let to = k.constant(pair / 2) - from;
            weights.store(&next_w, buffers, to);
            tokens.store(&next_x, buffers, to);
            current.set(to);
            k.barrier();
        });
        multiply(current.get());
        sums
    }

    /// Adds bias and residual and stores the outputs that exist.
    fn finish<'k>(
        &self,
        k: &'k Builder,
        sums: &[Vec<[Var<'k, f32>; 4]>],
        out: Ptr<'k, f32>,
        bias: Option<Ptr<'k, f32>>,
        residual: Option<Ptr<'k, f32>>,
        n: Val<'k, u32>,
    ) {
        let (tile, rows) = (self.tile(), self.rows);
        let (row_products, token_products) = tile.products();
        let lane = k.lane();
        let row = k.block_x() * tile.rows
            + (k.warp() % tile.warps.0) * (row_products * 8)
            + (lane % 4) * 2;
        let token = k.block_y() * tile.tokens
            + (k.warp() / tile.warps.0) * (token_products * 16)
            + lane / 4;
        // First row of the last warp of the last block: rows that exist there exist in every warp,
        // and only the others are compared.
        let last_warp = self.last_block() + (tile.warps.0 - 1) * row_products * 8;
        for (i, sums) in sums.iter().enumerate() {
            for half in 0..2usize {
                let t = token + (16 * i + 8 * half) as u32;
                k.if_(t.lt(n), || {
                    let line = t * rows + row;
                    for (j, sum) in (0u32..).zip(sums) {
                        let (r, at) = (row + 8 * j, line + 8 * j);
                        let sum = [sum[2 * half].get(), sum[2 * half + 1].get()];
                        if rows.is_multiple_of(2) {
                            let store = || {
                                let mut sum = sum;
                                if let Some(bias) = bias {
                                    let b = bias.load_vec::<2>(r);
                                    sum = [sum[0] + b[0], sum[1] + b[1]];
                                }
                                if let Some(residual) = residual {
                                    let v = residual.load_vec::<2>(at);
                                    sum = [sum[0] + v[0], sum[1] + v[1]];
                                }
                                out.store_vec(at, sum);
                            };
                            if last_warp + 8 * j + 8 <= rows {
                                store();
                            } else {
                                k.if_(r.lt(rows), store);
                            }
                            continue;
                        }
                        // Odd rows: pairs are not aligned.
                        for (e, mut v) in (0u32..).zip(sum) {
                            let mut store = || {
                                if let Some(bias) = bias {
                                    v = v + bias.load(r + e);
                                }
                                if let Some(residual) = residual {
                                    v = v + residual.load(at + e);
                                }
                                out.store(at + e, v);
                            };
                            if last_warp + 8 * j + 7 + e <= rows {
                                store();
                            } else {
                                k.if_((r + e).lt(rows), store);
                            }
                        }
                    }
                });
            }
        }
    }
}

/// A thread's part in bringing weights to shared memory: some groups of a step, each of
/// another row.
struct WeightTile<'k> {
    k: &'k Builder,
    geometry: Geometry,
    rows: Vec<Row<'k>>,
    /// The thread's group among those of a row and step, and how many those are.
    part: Val<'k, u32>,
    parts: u32,
    /// Words from the buffer's start to the thread's first row, and from one row to the next.
    first: Val<'k, u32>,
    stride: u32,
    /// Present where there are fewer groups than threads: how many.
    few: Option<u32>,
}

impl<'k> WeightTile<'k> {
    fn new(spec: &GemmSpec, k: &'k Builder, w: Ptr<'k, u8>) -> WeightTile<'k> {
        let tile = spec.tile();
        let mut geometry = Geometry {
            format: spec.format,
            rows: spec.rows,
            cols: spec.cols,
            lanes: 8,
            width: Geometry::widest(spec.format, spec.cols),
        };
        // Lanes are addressed by their group in the row: one step is the whole row.
        geometry.lanes = (spec.cols / geometry.group()).next_multiple_of(8);
        let parts = spec.step() / geometry.group();
        let groups = tile.rows * parts;
        let threads = tile.threads();
        let few = (groups < threads).then_some(groups);
        let slot = match few {
            Some(groups) => k.thread_x() % groups,
            None => k.thread_x(),
        };
        let row_step = threads / parts;
        let row = |i: u32| {
            let row = k.block_x() * tile.rows + slot / parts + i * row_step;
            // The thread rows of the last block end here.
            let end = spec.last_block() + ((i + 1) * row_step).min(tile.rows);
            let row = if end <= spec.rows {
                row
            } else {
                row.min(spec.rows - 1)
            };
            Row::new(k, geometry, w, row)
        };
        let words = (spec.step() + PAD) / 2;
        WeightTile {
            k,
            geometry,
            rows: (0..(groups / threads).max(1)).map(row).collect(),
            part: slot % parts,
            parts,
            first: (slot / parts) * words,
            stride: row_step * words,
            few,
        }
    }

    /// Requests the groups of a step; without one, of the first.
    fn load(&self, step: Option<Val<'k, u32>>) -> (Lane<'k>, Vec<Packet<'k>>) {
        let (index, below) = match step {
            None => (self.part, self.parts),
            Some(step) => (step * self.parts + self.part, self.geometry.lanes),
        };
        let lane = Lane::new(self.k, &self.geometry, index, below);
        let zero = self.k.constant(0u32);
        let packets = self.rows.iter().map(|r| r.load(&lane, zero, false));
        let packets = packets.collect();
        (lane, packets)
    }

    /// Unpacks and stores what was loaded to the buffer that starts at word `to`.
    fn store(
        &self,
        (lane, packets): &(Lane<'k>, Vec<Packet<'k>>),
        buffers: Shared<'k, u32>,
        to: Val<'k, u32>,
    ) {
        let write = || {
            for (i, (row, packet)) in self.rows.iter().zip(packets).enumerate() {
                let start = to + self.first + i as u32 * self.stride;
                let runs = self.geometry.runs();
                for (run, &(_, units)) in runs.iter().enumerate() {
                    // Two runs of 16 columns go to the two halves of the step.
                    let own = self.part * (units * 2);
                    let at = start + own + run as u32 * 16;
                    let words = self.unpack(row, lane, packet, run);
                    if let [a, b] = words[..] {
                        buffers.store_vec(at, [a, b]);
                        continue;
                    }
                    for (j, four) in (0u32..).zip(words.chunks_exact(4)) {
                        buffers.store_vec(at + 4 * j, [four[0], four[1], four[2], four[3]]);
                    }
                }
            }
        };
        match self.few {
            Some(groups) => self.k.if_(self.k.thread_x().lt(groups), write),
            None => write(),
        }
    }

    /// A run's weights as pairs of f16.
    fn unpack(
        &self,
        row: &Row<'k>,
        lane: &Lane<'k>,
        packet: &Packet<'k>,
        run: usize,
    ) -> Vec<Val<'k, u32>> {
        let format = self.geometry.format;
        if format == WeightFormat::F16 {
            return packet.words.clone();
        }
        let wide = matches!(format, WeightFormat::F32 | WeightFormat::BF16);
        let run = row.run(lane, packet, run);
        let weight = |code: Val<'k, f32>| match (run.scale, run.offset) {
            (Some(scale), Some(offset)) => code.fma(scale, offset),
            (Some(scale), None) => code * scale,
            _ => code,
        };
        let pairs = run.units.iter().flat_map(|unit| {
            let [a, b, c, d] = unit.map(weight);
            [(a, b), (c, d)]
        });
        pairs
            .map(|(a, b)| {
                if wide {
                    pack_clamped(self.k, a, b)
                } else {
                    self.k.pack_f16(a, b).bitcast()
                }
            })
            .collect()
    }
}

/// Columns of x that a thread converts at once: 16 bytes of f16.
const CHUNK: u32 = 8;

/// A thread's part in bringing x to shared memory: the same eight columns of some tokens.
struct TokenTile<'k> {
    k: &'k Builder,
    /// x at the thread's columns of step 0, by token.
    x: Vec<Ptr<'k, f32>>,
    format: WeightFormat,
    step: u32,
    /// Words from the buffer's start to the thread's first token, and from one to the next.
    first: Val<'k, u32>,
    stride: u32,
}

impl<'k> TokenTile<'k> {
    fn new(spec: &GemmSpec, k: &'k Builder, x: Ptr<'k, f32>, n: Val<'k, u32>) -> TokenTile<'k> {
        let (tile, step) = (spec.tile(), spec.step());
        let chunks = step / CHUNK;
        let (chunk, token) = (k.thread_x() % chunks, k.thread_x() / chunks);
        let token_step = tile.threads() / chunks;
        // The second half of a step of Q6_K is 64 columns from the first: its weights share
        // bytes with those.
        let column = match spec.format {
            WeightFormat::Q6K => chunk * CHUNK + (chunk / 4) * 32,
            _ => chunk * CHUNK,
        };
        let words = (step + PAD) / 2;
        let start = |i: u32| {
            // Tokens past the end are the last one again; nothing stores what becomes of them.
            let t = k.block_y() * tile.tokens + token + i * token_step;
            x.offset(t.min(n - 1u32) * spec.cols + column)
        };
        TokenTile {
            k,
            x: (0..tile.tokens / token_step).map(start).collect(),
            format: spec.format,
            step,
            first: (token + tile.rows) * words + chunk * (CHUNK / 2),
            stride: token_step * words,
        }
    }

    fn load(&self, step: Val<'k, u32>) -> Vec<[Val<'k, f32>; 4]> {
        let column = match self.format {
            WeightFormat::Q6K => (step / 2) * 128 + (step % 2) * 32,
            _ => step * self.step,
        };
        let halves = |x: &Ptr<'k, f32>| [x.load_vec4(column), x.load_vec4(column + 4)];
        self.x.iter().flat_map(halves).collect()
    }

    fn store(&self, loaded: &[[Val<'k, f32>; 4]], buffers: Shared<'k, u32>, to: Val<'k, u32>) {
        for (i, halves) in (0u32..).zip(loaded.chunks_exact(2)) {
            let pair = |h: usize, e: usize| pack_clamped(self.k, halves[h][e], halves[h][e + 1]);
            let words = [pair(0, 0), pair(0, 2), pair(1, 0), pair(1, 2)];
            buffers.store_vec(to + self.first + i * self.stride, words);
        }
    }
}

/// Two f32 rounded to f16, with the largest f16 in place of infinity; the first in the low half.
fn pack_clamped<'k>(k: &'k Builder, low: Val<'k, f32>, high: Val<'k, f32>) -> Val<'k, u32> {
    let clamp = |v: Val<'k, f32>| v.min(F16_MAX).max(-F16_MAX);
    k.pack_f16(clamp(low), clamp(high)).bitcast()
}

pub(super) fn representative(target: Target) -> Vec<GemmSpec> {
    let spec = |format, rows, cols| GemmSpec {
        target,
        format,
        rows,
        cols,
        bias: false,
        residual: false,
    };
    // The large tile needs the most registers, in every format its own number.
    let mut specs: Vec<GemmSpec> = WeightFormat::ALL
        .map(|format| spec(format, 8960, 1536))
        .to_vec();
    let medium = [WeightFormat::F16, WeightFormat::Q4K, WeightFormat::Q6K];
    specs.extend(medium.map(|format| spec(format, 1536, 8960)));
    specs.push(GemmSpec {
        bias: true,
        residual: true,
        ..spec(WeightFormat::Q4K, 256, 512)
    });
    // Ragged rows and short steps.
    specs.push(spec(WeightFormat::Q8_0, 65, 96));
    specs
}
