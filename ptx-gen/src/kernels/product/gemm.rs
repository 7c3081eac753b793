//! Matrix times many tokens on tensor cores:
//! `out[t, r] = sum_c w[r, c] * x[t, c] (+ bias[r]) (+ residual[t, r])` for `t < n`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | w | planes of the format, see [`crate::kernels::WeightFormat`] | `[rows, cols]` |
//! | x | f32 | `[n, cols]` |
//! | out | f32; may be `residual` | `[n, rows]` |
//! | bias | f32, with `spec.bias` | `[rows]` |
//! | residual | f32, with `spec.residual` | `[n, rows]` |
//! | n | u32 | tokens; `n * max(rows, cols)` below 2^32 |
//!
//! Grid `[ceil(rows / tile rows), ceil(n / tile tokens), 1]`. Weights are unpacked in f32 and
//! rounded once to f16, x is rounded to f16, sums are f32; where either exceeds f16, its sums are
//! computed again in f32 ([`super::recompute`]). Of weights of f32 neither is rounded so: both are sums of two terms of 16 bits
//! ([`crate::kernels::split`]) and three products of those are added, which leaves an NMSE of 2e-11
//! where rounding once leaves 1e-7. A result depends neither on `n` nor on the other tokens:
//! columns are added in the same order for all of them.
//!
//! A block owns a tile of outputs and walks over the columns in steps of 64 (32). Both operands
//! of a step lie in shared memory in 16 bits, twice: while the tensor cores work on one pair, the next
//! step's bytes arrive in registers, are unpacked and stored to the other, one barrier a step.
//! Rows in shared memory are padded by 16 bytes, which spreads the eight rows of an `ldmatrix`
//! over all banks. Tokens are the rows of the product and weights its columns, so that two
//! neighbouring outputs of a token are one thread's.

use super::epilogue::{Epilogue, Outputs};
use super::gemm_tiles::{TokenTile, WeightTile};
use super::recompute::{Operands, Recompute};
use crate::build::{Builder, Shared, Val, Var};
use crate::ir::{Kernel, Param};
use crate::kernels::WeightFormat;
use crate::kernels::split::{multiply, products};
use crate::kernels::weights::WeightShape;
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
    /// What is added to the sums.
    pub epilogue: Epilogue,
}

/// Halves that a row in shared memory is longer than a step.
pub(super) const PAD: u32 = 8;

/// How a block's outputs are shared among its warps.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) rows: u32,
    pub(super) tokens: u32,
    /// Warps along the rows and along the tokens.
    warps: (u32, u32),
}

impl Tile {
    pub(super) fn threads(self) -> u32 {
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
    pub(super) fn tile(&self) -> Tile {
        match self.rows {
            0..=512 => SMALL,
            513..4096 => MEDIUM,
            // Two pairs of the large tile do not fit beside each other before Ampere.
            _ if !self.target.has_ampere() => MEDIUM,
            _ => LARGE,
        }
    }

    /// Columns of a step: of numbers of two terms half as many.
    pub(super) fn step(&self) -> u32 {
        if self.cols.is_multiple_of(64) && self.terms() == 1 {
            64
        } else {
            32
        }
    }

    /// Terms of 16 bits that a number is, which lie one behind the other in a row of a step.
    pub(super) fn terms(&self) -> u32 {
        self.format.terms()
    }

    /// Halves from one row to the next in shared memory.
    pub(super) fn stride(&self) -> u32 {
        self.step() * self.terms() + PAD
    }

    /// Whether two blocks share a multiprocessor only if told so: the terms of a step, or the unpacking of
    /// bf16, take a few registers more than that leaves, which cost no spills but on sm_100.
    fn fits_twice(&self) -> bool {
        let tile = self.tile();
        let shared = 4 * (tile.rows + tile.tokens) * self.stride();
        let needs_more = self.terms() > 1 || self.format == WeightFormat::BF16;
        needs_more && 2 * shared <= self.target.max_shared() && self.target.capability() < 100
    }

    /// First row of the last block.
    pub(super) fn last_block(&self) -> u32 {
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
        let weights = self.format.bytes(self.rows, self.cols);
        weights + 4 * cols * tokens + self.epilogue.bytes(rows, tokens)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::input::<u8>("w"), Param::input::<f32>("x")];
        params.extend(self.epilogue.params());
        params.push(Param::scalar::<u32>("n"));
        params
    }

    /// The kernel, named after its format and shape.
    pub fn kernel(&self) -> Kernel {
        let GemmSpec { rows, cols, .. } = *self;
        let format = self.format.name();
        let name = format!("gemm_{format}_{rows}x{cols}{}", self.epilogue.suffix());
        let extra = self.epilogue.formula();
        let tile = self.tile();
        Kernel::new(name, self.target, |k| {
            k.doc(format!(
                "out[t, r] = sum_c w[r, c] * x[t, c]{extra}, t < n; w is {format} [{rows}, {cols}].\n\
                 Grid [ceil({rows} / {}), ceil(n / {}), 1].",
                tile.rows, tile.tokens
            ));
            k.block_size(tile.threads());
            if self.fits_twice() {
                k.min_blocks(2);
            }
            k.declare(self.params());
            let (w, x) = (k.bind::<u8>("w"), k.bind::<f32>("x"));
            let outputs = Outputs::bind(k).sharing_bias();
            let n = k.bind_value::<u32>("n");
            // Halves in pairs: two buffers, each the weights' rows and then the tokens'.
            let pair = (tile.rows + tile.tokens) * self.stride();
            let buffers = k.dynamic_shared::<u32>("tiles", pair);
            let sums = self.accumulate(k, buffers, Operands { w, x, n });
            // Nobody reads a tile any more.
            k.barrier();
            self.mend(k, &sums, buffers.cast(), Operands { w, x, n });
            self.finish(k, &sums, &outputs, n);
        })
    }

    /// Walks over the columns; gives the warp's sums by token product and row product.
    fn accumulate<'k>(
        &self,
        k: &'k Builder,
        buffers: Shared<'k, u32>,
        of: Operands<'k>,
    ) -> Vec<Vec<[Var<'k, f32>; 4]>> {
        let Operands { w, x, n } = of;
        let (tile, step) = (self.tile(), self.step());
        let (terms, stride) = (self.terms(), self.stride());
        let pair = (tile.rows + tile.tokens) * stride;
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
        let walk = |buffer: Val<'k, u32>| {
            for inner in 0..step / 16 {
                let column = inner * 8;
                // By term, then by product.
                let load = |lane: Val<'k, u32>, products: u32| -> Vec<[Val<'k, u32>; 4]> {
                    let at =
                        |term| buffer + lane + (products * 8 * stride + column + term * (step / 2));
                    (0..terms).map(|term| buffers.ldmatrix(at(term))).collect()
                };
                let a: Vec<_> = (0..token_products).map(|i| load(a_lane, i)).collect();
                for j in 0..row_products / 2 {
                    let b = load(b_lane, j);
                    for &(of_a, of_b) in products(terms) {
                        for (i, a) in a.iter().enumerate() {
                            for half in 0..2 {
                                let sum = &sums[i][(2 * j) as usize + half];
                                let now = std::array::from_fn(|e| sum[e].get());
                                let b = [b[of_b][2 * half], b[of_b][2 * half + 1]];
                                let next = multiply(k, terms, a[of_a], b, now);
                                sum.iter().zip(next).for_each(|(sum, v)| sum.set(v));
                            }
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
            walk(from);
            // The other of 0 and `pair / 2`.
            let to = k.constant(pair / 2) - from;
            weights.store(&next_w, buffers, to);
            tokens.store(&next_x, buffers, to);
            current.set(to);
            k.barrier();
        });
        walk(current.get());
        sums
    }

    /// Computes again what is not finite.
    fn mend<'k>(
        &self,
        k: &'k Builder,
        sums: &[Vec<[Var<'k, f32>; 4]>],
        scratch: Shared<'k, f32>,
        of: Operands<'k>,
    ) {
        let tile = self.tile();
        let (row_products, token_products) = tile.products();
        let place = |nth: Val<'k, u32>, lane: Val<'k, u32>| {
            let (product, e) = (nth / 4, nth % 4);
            let row = (lane % 4) * 2 + (product % row_products) * 8 + e % 2;
            let token = lane / 4 + (product / row_products) * 16 + (e / 2) * 8;
            let warp_row = (k.warp() % tile.warps.0) * (row_products * 8);
            let warp_token = (k.warp() / tile.warps.0) * (token_products * 16);
            (
                row + warp_row + k.block_x() * tile.rows,
                token + warp_token + k.block_y() * tile.tokens,
            )
        };
        let all: Vec<&Var<'k, f32>> = sums.iter().flatten().flatten().collect();
        let matrix = WeightShape {
            format: self.format,
            rows: self.rows,
            cols: self.cols,
        };
        Recompute::new(k, matrix, of).mend(&all, Some(scratch), place);
    }

    /// Adds bias and residual and stores the outputs that exist.
    fn finish<'k>(
        &self,
        k: &'k Builder,
        sums: &[Vec<[Var<'k, f32>; 4]>],
        outputs: &Outputs<'k>,
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
                            let store = || outputs.store_pair(r, at, sum);
                            if last_warp + 8 * j + 8 <= rows {
                                store();
                            } else {
                                k.if_(r.lt(rows), store);
                            }
                            continue;
                        }
                        // Odd rows: pairs are not aligned.
                        for (e, v) in (0u32..).zip(sum) {
                            let store = || outputs.store(r + e, at + e, v);
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

pub(in crate::kernels) fn representative(target: Target) -> Vec<GemmSpec> {
    let spec = |format, rows, cols| GemmSpec {
        target,
        format,
        rows,
        cols,
        epilogue: Epilogue::default(),
    };
    // The large tile needs the most registers, in every format its own number.
    let mut specs: Vec<GemmSpec> = WeightFormat::ALL
        .map(|format| spec(format, 8960, 1536))
        .to_vec();
    let medium = [WeightFormat::F16, WeightFormat::Q4K, WeightFormat::Q6K];
    specs.extend(medium.map(|format| spec(format, 1536, 8960)));
    specs.push(GemmSpec {
        epilogue: Epilogue {
            bias: true,
            residual: true,
        },
        ..spec(WeightFormat::Q4K, 256, 512)
    });
    // Ragged rows and short steps.
    specs.push(spec(WeightFormat::Q8_0, 65, 96));
    specs
}
