//! Matrix times the tokens of a batch on tensor cores:
//! `out[t, r] = sum_c w[r, c] * x[t, c] (+ bias[r]) (+ residual[t, r])` for `t < n`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | w | planes of the format, see [`crate::kernels::WeightFormat`] | `[rows, cols]` |
//! | x | f32 | `[n, cols]` |
//! | out | f32; may be `residual` | `[n, rows]` |
//! | bias | f32, with `spec.bias` | `[rows]` |
//! | residual | f32, with `spec.residual` | `[n, rows]` |
//! | partials | f32, with `spec.splits > 1` | [`GemmBatchSpec::scratch_bytes`], any content |
//! | counters | u32, with `spec.splits > 1` | [`GemmBatchSpec::counters`], zero before and after |
//! | n | u32 | tokens, at least 1; `n * max(rows, cols)` below 2^32 |
//!
//! Grid `[ceil(rows / 128), ceil(n / tokens), splits]`. x is rounded to f16, sums are f32; where x or a
//! weight exceeds f16, its sums are computed again in f32 ([`super::recompute`]). A weight is rounded to f16 once, from `code * scale`
//! or `code * scale + offset`, in which scale and offset have themselves been rounded to f16: that
//! is exact but for BF16, Q6_K (`d * scale`) and Q4_K, Q5_K (`d * scale`, `-dmin * min`). Of weights
//! of F32 neither they nor x are rounded so: both are sums of two terms of 16 bits
//! ([`crate::kernels::split`]) and three products of those are added, which leaves an NMSE of 2e-11.
//! A result depends neither on `n` nor on the other tokens, nor on `tokens`.
//!
//! [`super::GemmSpec`] unpacks weights to shared memory, which pays where many tokens share them.
//! Here the bytes of the weights are what takes time. Each is read once, to the registers of the
//! lane that multiplies it; only the activations go through shared memory. A block owns 128 rows
//! and a part of the columns, and what it reads of x is then no more than what it reads of w. Of
//! its 8 warps, those that read narrow formats have 32 rows each, and two of them share rows and
//! divide columns: they read half as many fragments of x. Parts of the columns are added by the
//! block that is the last of a tile to finish, always in the same order.

use super::epilogue::{Epilogue, Outputs};
use super::gemm_batch_block::{Block, Parts};
use crate::ir::{Kernel, Param};
use crate::kernels::WeightFormat;
use crate::kernels::weights::fragments::half_columns;
use crate::target::Target;

/// A product of one shape with up to a number of tokens a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GemmBatchSpec {
    /// GPU to write for: sm_80 or later.
    pub target: Target,
    /// Format of the weights.
    pub format: WeightFormat,
    /// Output features.
    pub rows: u32,
    /// Input features, a multiple of 32.
    pub cols: u32,
    /// Tokens of a block: 8, 16, 32 or 64.
    pub tokens: u32,
    /// Parts into which the columns are divided among blocks; see [`GemmBatchSpec::splits_for`].
    pub splits: u32,
    /// What is added to the sums.
    pub epilogue: Epilogue,
}

/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Its warps.
pub(super) const WARPS: u32 = THREADS / 32;
/// Rows of a block: 16 for each warp.
pub(super) const TILE_ROWS: u32 = 16 * WARPS;
/// Parts of the columns at most: one thread adds them.
const MAX_SPLITS: u32 = 16;

impl GemmBatchSpec {
    /// Warps that share rows and divide columns. So many times 16 rows are a warp's.
    pub(super) fn groups(&self) -> u32 {
        match self.format {
            WeightFormat::Q4_0 | WeightFormat::Q8_0 | WeightFormat::Q4K => 2,
            _ => 1,
        }
    }

    /// Columns of a turn of a block's loop.
    pub(super) fn turn(&self) -> u32 {
        2 * half_columns(self.format) * self.groups()
    }

    pub(super) fn turns(&self) -> u32 {
        self.cols.div_ceil(self.turn())
    }

    /// Turns of a block; the last part of the columns may have fewer.
    pub(super) fn turns_per_split(&self) -> u32 {
        self.turns().div_ceil(self.splits)
    }

    /// The same product divided into as many parts as give about `blocks` blocks a tile of tokens.
    #[must_use]
    pub fn splits_for(mut self, blocks: u32) -> GemmBatchSpec {
        let wanted = blocks / self.row_tiles();
        let most = self.turns().clamp(1, MAX_SPLITS);
        self.splits = wanted.clamp(1, most);
        self.splits = self.turns().div_ceil(self.turns_per_split());
        self
    }

    pub(super) fn row_tiles(&self) -> u32 {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Whether the kernel covers the shape.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.format.check(self.rows, self.cols)?;
        if !self.target.has_ampere() {
            return Err("products of a batch need tensor cores of sm_80 or later".to_owned());
        }
        if !self.cols.is_multiple_of(32) {
            return Err(format!(
                "a product over {} columns; tensor cores take multiples of 32",
                self.cols
            ));
        }
        if !matches!(self.tokens, 8 | 16 | 32 | 64) {
            return Err(format!(
                "{} tokens a block; 8, 16, 32 and 64 are supported",
                self.tokens
            ));
        }
        let fits = (1..=MAX_SPLITS).contains(&self.splits)
            && self.turns().div_ceil(self.turns_per_split()) == self.splits;
        if !fits {
            return Err(format!(
                "{} columns in {} parts; each must have some, and {MAX_SPLITS} are the most",
                self.cols, self.splits
            ));
        }
        Ok(())
    }

    /// Blocks for `tokens` tokens.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [self.row_tiles(), tokens.div_ceil(self.tokens), self.splits]
    }

    /// Bytes of partial sums for `tokens` tokens.
    pub fn scratch_bytes(&self, tokens: u32) -> usize {
        if self.splits == 1 {
            return 0;
        }
        let sums = self.grid(tokens).iter().product::<u32>() * TILE_ROWS * self.tokens;
        4 * sums as usize
    }

    /// Counters for `tokens` tokens: one a tile.
    pub fn counters(&self, tokens: u32) -> usize {
        let [x, y, z] = self.grid(tokens);
        if z == 1 { 0 } else { (x * y) as usize }
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
        if self.splits > 1 {
            params.push(Param::in_out::<f32>("partials"));
            params.push(Param::in_out::<u32>("counters"));
        }
        params.push(Param::scalar::<u32>("n"));
        params
    }

    /// The kernel, named after all that its text depends on.
    pub fn kernel(&self) -> Kernel {
        let GemmBatchSpec { rows, cols, .. } = *self;
        let format = self.format.name();
        let name = format!(
            "gemm_batch_{format}_{rows}x{cols}_t{}_s{}{}",
            self.tokens,
            self.splits,
            self.epilogue.suffix()
        );
        let extra = self.epilogue.formula();
        Kernel::new(name, self.target, |k| {
            k.doc(format!(
                "out[t, r] = sum_c w[r, c] * x[t, c]{extra}, t < n; w is {format} [{rows}, {cols}].\n\
                 Grid [ceil({rows} / {TILE_ROWS}), ceil(n / {}), {}].",
                self.tokens, self.splits
            ));
            k.block_size(THREADS);
            k.declare(self.params());
            // So many sums do not leave registers for two.
            k.min_blocks(if self.tokens * self.groups() >= 64 {
                1
            } else {
                2
            });
            let (w, x) = (k.bind::<u8>("w"), k.bind::<f32>("x"));
            let outputs = Outputs::bind(k).sharing_bias();
            let parts = (self.splits > 1).then(|| Parts {
                partials: k.bind("partials"),
                counters: k.bind("counters"),
            });
            let n = k.bind_value::<u32>("n");
            Block::new(k, *self, w, x, n).run(&outputs, parts.as_ref());
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<GemmBatchSpec> {
    let spec = |format, rows, cols, tokens| {
        GemmBatchSpec {
            target,
            format,
            rows,
            cols,
            tokens,
            splits: 1,
            epilogue: Epilogue::default(),
        }
        .splits_for(264)
    };
    let mut specs: Vec<GemmBatchSpec> = WeightFormat::ALL
        .map(|format| spec(format, 4096, 14336, 32))
        .to_vec();
    specs.extend([8, 16, 64].map(|tokens| spec(WeightFormat::Q4K, 4096, 4096, tokens)));
    specs.push(spec(WeightFormat::Q4K, 1536, 8960, 32));
    specs.push(spec(WeightFormat::Q6K, 1536, 8960, 64));
    specs.push(GemmBatchSpec {
        epilogue: Epilogue {
            bias: true,
            residual: true,
        },
        ..spec(WeightFormat::Q4K, 1000, 1280, 16)
    });
    specs.retain(|spec| spec.check().is_ok());
    specs
}
