//! `matmul_exact`: weights expanded to f32, products and sums in f32.
//!
//! Always holds: the value of one (row, token) pair is computed by the same instructions in the
//! same order whatever `n`, the tile it falls into, or the number of threads.

#![allow(unsafe_code)]

use std::ops::Range;

use super::Product;
use super::expand;
use super::isa::Isa;
use super::parallel::{self, Output};
use super::portable;
use super::unpack::{Shape, Unpacked};
use crate::{Format, Matrix};

/// Rows that are expanded together and share loads of the activations.
pub(super) const TILE_ROWS: usize = 4;

/// One product, spread over threads.
pub(super) fn matmul(isa: Isa, w: &Matrix<'_>, x: &[f32], n: usize, out: &mut [f32]) {
    matmul_each(isa, &mut [Product { w: *w, out }], x, n);
}

/// Products of one `x`, spread over threads together.
pub(super) fn matmul_each(isa: Isa, products: &mut [Product<'_>], x: &[f32], n: usize) {
    if n == 0 {
        return;
    }
    let jobs: Vec<Job<'_>> = (products.iter_mut())
        .map(|Product { w, out }| Job {
            isa,
            w,
            x,
            n,
            out: Output::new(out, w.rows),
        })
        .collect();
    let rows: Vec<usize> = jobs.iter().map(|job| job.w.rows).collect();
    let ns = jobs.iter().map(Job::ns).sum();
    parallel::for_rows_of_each(&rows, ns, |i, rows| jobs[i].multiply_rows(rows));
}

/// Bytes of expanded rows that pass all tokens together: what fits the second-level cache.
const PANEL_BYTES: usize = 384 << 10;

/// Bytes of activations that rows are multiplied with before the next ones: what fits the
/// third-level cache.
const RESIDENT_BYTES: usize = 8 << 20;

/// Columns of a tile that are multiplied before those of the next one: its activations stay in the
/// first-level cache.
#[cfg(target_arch = "x86_64")]
const TILE_COLS: usize = 512;

/// The most tokens any instruction set puts in a tile.
pub(super) const MAX_TILE_TOKENS: usize = 6;

/// Chains of a tile's rows and tokens.
#[cfg(target_arch = "x86_64")]
pub(super) type Sums = [[[f32; 16]; MAX_TILE_TOKENS]; TILE_ROWS];

/// What the threads of one product share.
struct Job<'a> {
    isa: Isa,
    w: &'a Matrix<'a>,
    x: &'a [f32],
    n: usize,
    out: Output<'a>,
}

impl Job<'_> {
    /// Estimated time on one thread.
    fn ns(&self) -> usize {
        // About 8 multiply-adds a nanosecond; expanding a weight costs as much as four.
        self.w.rows * self.w.cols * (self.n + 4) / 8
    }

    /// Rows `rows` of the product.
    fn multiply_rows(&self, rows: Range<usize>) {
        if self.n > tile_tokens(self.isa) {
            return self.multiply_panels(rows);
        }
        let is_float = Shape::of(self.w.format).is_none() && cfg!(target_endian = "little");
        let mut scratch = match is_float {
            true => Scratch::empty(),
            false => Scratch::new(self.w, TILE_ROWS),
        };
        for first in rows.clone().step_by(TILE_ROWS) {
            let count = TILE_ROWS.min(rows.end - first);
            let (format, tile) = match is_float {
                true => (self.w.format, bytes_of(self.w, first, count)),
                false => {
                    let tile = scratch.expand(self.isa, self.w, first, count);
                    (Format::F32, bytemuck::cast_slice(tile))
                }
            };
            self.multiply_tile(format, tile, first..first + count, 0..self.n);
        }
    }

    /// Rows `rows` of a product of many tokens: some are expanded, then pass all tokens.
    fn multiply_panels(&self, rows: Range<usize>) {
        let row_bytes = self.w.cols * size_of::<f32>();
        let at_once = (PANEL_BYTES / row_bytes / TILE_ROWS * TILE_ROWS).clamp(TILE_ROWS, 64);
        let resident = RESIDENT_BYTES / row_bytes / MAX_TILE_TOKENS * MAX_TILE_TOKENS;
        let resident = resident.max(MAX_TILE_TOKENS);
        let mut scratch = Scratch::new(self.w, at_once.min(rows.len().next_multiple_of(TILE_ROWS)));
        for begin in (0..self.n).step_by(resident) {
            let tokens = begin..self.n.min(begin + resident);
            for first in rows.clone().step_by(at_once) {
                let rows = first..rows.end.min(first + at_once);
                let panel = scratch.expand(self.isa, self.w, first, rows.len());
                self.multiply_panel(panel, rows, tokens.clone());
            }
        }
    }

    /// Expanded rows `rows`, behind which `panel` has as many values as fill the last tile, times
    /// `tokens`.
    fn multiply_panel(&self, panel: &[f32], rows: Range<usize>, tokens: Range<usize>) {
        let at_once = tile_tokens(self.isa);
        for t in tokens.clone().step_by(at_once) {
            let tokens = t..tokens.end.min(t + at_once);
            #[cfg(target_arch = "x86_64")]
            if self.isa == Isa::Avx512 {
                self.multiply_chains(panel, rows.clone(), tokens);
                continue;
            }
            for first in rows.clone().step_by(TILE_ROWS) {
                let tile = &panel[(first - rows.start) * self.w.cols..];
                let rows = first..rows.end.min(first + TILE_ROWS);
                self.multiply_tile(
                    Format::F32,
                    bytemuck::cast_slice(tile),
                    rows,
                    tokens.clone(),
                );
            }
        }
    }

    /// The same for the tokens of one tile, some columns of all rows before the next columns.
    #[cfg(target_arch = "x86_64")]
    fn multiply_chains(&self, panel: &[f32], rows: Range<usize>, tokens: Range<usize>) {
        let cols = self.w.cols;
        let x = &self.x[tokens.start * cols..tokens.end * cols];
        let tiles = rows.len().div_ceil(TILE_ROWS);
        let mut sums = [[[[0.0f32; 16]; MAX_TILE_TOKENS]; TILE_ROWS]; 16];
        let sums: &mut [Sums] = &mut sums[..tiles];
        for col in (0..cols).step_by(TILE_COLS) {
            let range = col..cols.min(col + TILE_COLS);
            for (sums, w) in sums.iter_mut().zip(panel.chunks_exact(TILE_ROWS * cols)) {
                let tokens = tokens.len();
                // SAFETY: the machine has the features of its `Isa`; slices hold what they say.
                unsafe {
                    super::avx512_floats::add_columns(w, x, cols, range.clone(), tokens, sums);
                }
            }
        }
        for (i, row) in rows.enumerate() {
            let chains = &sums[i / TILE_ROWS][i % TILE_ROWS];
            for (t, chains) in tokens.clone().zip(chains) {
                // SAFETY: as above; rows of this range belong to this call alone.
                unsafe { self.out.set(row, t, super::avx512_floats::total(chains)) }
            }
        }
    }

    /// Rows `rows`, which lie at `w` as floats of `format`, times `tokens`: a tile.
    fn multiply_tile(&self, format: Format, w: &[u8], rows: Range<usize>, tokens: Range<usize>) {
        let mut values = [0.0f32; TILE_ROWS * MAX_TILE_TOKENS];
        let cols = self.w.cols;
        let x = &self.x[tokens.start * cols..tokens.end * cols];
        let (isa, r, t) = (self.isa, rows.len(), tokens.len());
        tile_product(isa, format, w, x, cols, r, t, &mut values);
        for (row, values) in rows.zip(values.chunks_exact(MAX_TILE_TOKENS)) {
            for (t, &value) in tokens.clone().zip(values) {
                // SAFETY: rows of this range belong to this call alone.
                unsafe { self.out.set(row, t, value) }
            }
        }
    }
}

/// The stored bytes of rows `first..first + count`.
fn bytes_of<'a>(w: &Matrix<'a>, first: usize, count: usize) -> &'a [u8] {
    let bytes = w.row_bytes();
    &w.data[first * bytes..(first + count) * bytes]
}

fn tile_tokens(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => 6,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => 2,
        Isa::Portable => 1,
    }
}

/// `values[r * MAX_TILE_TOKENS + t]` = row `r` of `w`, floats of `format`, times row `t` of `x`,
/// both `[_, cols]`.
fn tile_product(
    isa: Isa,
    format: Format,
    w: &[u8],
    x: &[f32],
    cols: usize,
    rows: usize,
    tokens: usize,
    values: &mut [f32; TILE_ROWS * MAX_TILE_TOKENS],
) {
    let row_bytes = cols * format.block_bytes();
    assert!(
        w.len() >= rows * row_bytes && x.len() >= tokens * cols,
        "tile covers rows and tokens"
    );
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the features of its `Isa`; the lengths are checked above.
        Isa::Avx512 => unsafe {
            super::avx512_floats::tile(format, w, x, cols, rows, tokens, values);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2_floats::tile(format, w, x, cols, rows, tokens, values) },
        Isa::Portable => {
            let mut expanded = vec![0.0; cols];
            for r in 0..rows {
                expand::expand_floats(format, &w[r * row_bytes..][..row_bytes], &mut expanded);
                for t in 0..tokens {
                    let x = &x[t * cols..(t + 1) * cols];
                    values[r * MAX_TILE_TOKENS + t] = portable::dot_f32(&expanded, x);
                }
            }
        }
    }
}

/// Buffers for expanded rows, reused from tile to tile.
struct Scratch {
    f32s: Vec<f32>,
    q: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Scratch {
    /// Of rows that are read where they lie.
    fn empty() -> Scratch {
        Scratch {
            f32s: Vec::new(),
            q: Vec::new(),
            scales: Vec::new(),
            mins: Vec::new(),
        }
    }

    /// Of `rows` rows of `w`, a multiple of [`TILE_ROWS`].
    fn new(w: &Matrix<'_>, rows: usize) -> Scratch {
        let (q, groups) = Shape::of(w.format).map_or((0, 0), |s| (w.cols, w.cols / s.group));
        Scratch {
            f32s: vec![0.0; rows * w.cols],
            q: vec![0; q],
            scales: vec![0.0; groups],
            mins: vec![0.0; groups],
        }
    }

    /// Rows `first..first + count` of `w` as f32, exactly as [`Format::dequantize`] gives them, and
    /// stale ones up to the next multiple of [`TILE_ROWS`].
    fn expand<'s>(&'s mut self, isa: Isa, w: &Matrix<'s>, first: usize, count: usize) -> &'s [f32] {
        let bytes = w.row_bytes();
        let rows = bytes_of(w, first, count);
        if w.format == Format::F32
            && count.is_multiple_of(TILE_ROWS)
            && cfg!(target_endian = "little")
            && let Ok(f32s) = bytemuck::try_cast_slice(rows)
        {
            return f32s;
        }
        for (r, out) in self.f32s.chunks_exact_mut(w.cols).take(count).enumerate() {
            let row = &rows[r * bytes..(r + 1) * bytes];
            let parts = Unpacked {
                q: &mut self.q,
                scales: &mut self.scales,
                mins: &mut self.mins,
                stride: 1,
            };
            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the machine has the features of its `Isa`.
                Isa::Avx512 => unsafe { super::avx512::expand_row(w.format, row, parts, out) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Isa::Avx2 => unsafe { super::avx2::expand_row(w.format, row, parts, out) },
                Isa::Portable => expand::expand_row(w.format, row, parts, out),
            }
        }
        &self.f32s
    }
}
