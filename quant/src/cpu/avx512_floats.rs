//! Products of f32, f16 and bf16 rows for AVX-512, converted as they are read.
//!
//! A vector of sums for each row and token: 16 chains of multiply-adds over the columns, which are
//! added up at the end. Every function needs the features of
//! [`Isa::Avx512`](super::isa::Isa::Avx512), which its caller has checked by holding that value.
//!
//! Always holds: the chains are the same whatever the tile, the type of the weights or the blocks
//! of columns that a product is cut into.

#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "registers are named by their index"
)]

use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

use super::avx512::load;
use super::exact::{MAX_TILE_TOKENS, Sums, TILE_ROWS};
use crate::Format;

/// Bytes ahead of its reads for which a kernel asks, behind the end of a row those of the rows that a
/// thread mostly reads next: rows are as many streams of addresses, of a page or two each, and the
/// machine's own prefetcher begins anew with each.
const AHEAD: usize = 2048;

/// A type of weights.
trait Element {
    /// 16 of them.
    type Line: Copy;

    /// As f32.
    ///
    /// # Safety
    /// The machine has the features of this module.
    unsafe fn expand(line: Self::Line) -> __m512;
}

struct Single;

impl Element for Single {
    type Line = [f32; 16];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn expand(line: [f32; 16]) -> __m512 {
        load(&line)
    }
}

struct Half;

impl Element for Half {
    type Line = [u8; 32];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn expand(line: [u8; 32]) -> __m512 {
        // SAFETY: a vector is 32 bytes, and every pattern of bits is one.
        _mm512_cvtph_ps(unsafe { transmute::<[u8; 32], __m256i>(line) })
    }
}

struct Brain;

impl Element for Brain {
    type Line = [u8; 32];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn expand(line: [u8; 32]) -> __m512 {
        // SAFETY: as above.
        let words = _mm512_cvtepu16_epi32(unsafe { transmute::<[u8; 32], __m256i>(line) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
    }
}

/// Rows of weights and of activations, each `cols` long.
#[derive(Clone, Copy)]
struct Rows<'a> {
    w: &'a [u8],
    x: &'a [f32],
    cols: usize,
}

/// `values[r * MAX_TILE_TOKENS + t]` = row `r` of `w`, floats of `format`, times row `t` of `x`.
///
/// # Safety
/// `w` holds up to four rows, `rows`, and `x` up to six, `tokens`, of `cols` values.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn tile(
    format: Format,
    w: &[u8],
    x: &[f32],
    cols: usize,
    rows: usize,
    tokens: usize,
    values: &mut [f32; TILE_ROWS * MAX_TILE_TOKENS],
) {
    let all = Rows { w, x, cols };
    // SAFETY: the caller's promise.
    unsafe {
        match format {
            Format::F16 => by_rows::<Half>(all, rows, tokens, values),
            Format::BF16 => by_rows::<Brain>(all, rows, tokens, values),
            _ => by_rows::<Single>(all, rows, tokens, values),
        }
    }
}

/// # Safety
/// `all` holds so many rows.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn by_rows<E: Element>(
    all: Rows<'_>,
    rows: usize,
    tokens: usize,
    values: &mut [f32; TILE_ROWS * MAX_TILE_TOKENS],
) {
    let row_bytes = all.cols * size_of::<E::Line>() / 16;
    let mut r = 0;
    while r < rows {
        let out = &mut values[r * MAX_TILE_TOKENS..];
        let w = &all.w[r * row_bytes..];
        // SAFETY: `r + R <= rows` and `T <= tokens`, so the caller's promise covers the reads.
        unsafe {
            if rows - r == TILE_ROWS {
                by_tokens::<E, TILE_ROWS>(Rows { w, ..all }, tokens, out);
                r += TILE_ROWS;
            } else {
                by_tokens::<E, 1>(Rows { w, ..all }, tokens, out);
                r += 1;
            }
        }
    }
}

/// # Safety
/// `all` holds `R` rows of weights and `tokens` of activations.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn by_tokens<E: Element, const R: usize>(all: Rows<'_>, tokens: usize, out: &mut [f32]) {
    // SAFETY: each arm reads as many rows of `x` as there are tokens.
    unsafe {
        match tokens {
            6 => sub_tile::<E, R, 6>(all, out),
            5 => sub_tile::<E, R, 5>(all, out),
            4 => sub_tile::<E, R, 4>(all, out),
            3 => sub_tile::<E, R, 3>(all, out),
            2 => sub_tile::<E, R, 2>(all, out),
            _ => sub_tile::<E, R, 1>(all, out),
        }
    }
}

/// # Safety
/// `all` holds `R` rows of weights and `T` of activations.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn sub_tile<E: Element, const R: usize, const T: usize>(all: Rows<'_>, out: &mut [f32]) {
    let (line, cols) = (size_of::<E::Line>(), all.cols);
    let (row_bytes, count, rest) = (cols * line / 16, cols / 16, cols % 16);
    let mut acc = [[_mm512_setzero_ps(); T]; R];
    let mut w_rows = [all.w.as_ptr(); R];
    for r in 0..R {
        w_rows[r] = w_rows[r].wrapping_add(r * row_bytes);
    }
    let mut x_lines: [&[[f32; 16]]; T] = [&[]; T];
    for t in 0..T {
        x_lines[t] = &all.x[t * cols..].as_chunks().0[..count];
    }
    for k in 0..count {
        let mut ws = [_mm512_setzero_ps(); R];
        let mut ahead = k * line + AHEAD.min(row_bytes);
        if ahead >= row_bytes {
            ahead += (R - 1) * row_bytes;
        }
        for r in 0..R {
            let at = w_rows[r].wrapping_add(k * line);
            if line == 64 || k % 2 == 0 {
                // Never faults.
                _mm_prefetch::<_MM_HINT_T0>(w_rows[r].wrapping_add(ahead).cast());
            }
            // SAFETY: `k < count`, so the line lies in the row.
            ws[r] = unsafe { E::expand(line_at::<E>(at)) };
        }
        for t in 0..T {
            let x = load(&x_lines[t][k]);
            for r in 0..R {
                acc[r][t] = _mm512_fmadd_ps(ws[r], x, acc[r][t]);
            }
        }
    }
    if rest > 0 {
        let mask = (1u16 << rest) - 1;
        for r in 0..R {
            let tail = &all.w[r * row_bytes + count * line..][..rest * line / 16];
            let mut bytes = [0u8; 64];
            bytes[..tail.len()].copy_from_slice(tail);
            // SAFETY: a line is at most 64 bytes.
            let w = unsafe { E::expand(line_at::<E>(bytes.as_ptr())) };
            for t in 0..T {
                let x = &all.x[t * cols + 16 * count..][..rest];
                // SAFETY: the mask keeps the load within the slice.
                let x = unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr()) };
                acc[r][t] = _mm512_fmadd_ps(w, x, acc[r][t]);
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            out[r * MAX_TILE_TOKENS + t] = _mm512_reduce_add_ps(acc[r][t]);
        }
    }
}

/// The line at `p`, however that is aligned. Not `read_unaligned`, which is tested in builds with
/// assertions.
///
/// # Safety
/// A line at `p` can be read.
#[inline(always)]
unsafe fn line_at<E: Element>(p: *const u8) -> E::Line {
    #[repr(C, packed)]
    struct Packed<L>(L);
    // SAFETY: the caller's; every pattern of bits is a line.
    unsafe { (*p.cast::<Packed<E::Line>>()).0 }
}

/// Adds the products of columns `range` of four f32 rows and up to six tokens to their sums.
///
/// # Safety
/// `w` holds four rows, `x` holds `tokens` rows of `cols` values, and `range` is one of `columns`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn add_columns(
    w: &[f32],
    x: &[f32],
    cols: usize,
    range: Range<usize>,
    tokens: usize,
    sums: &mut Sums,
) {
    // SAFETY: each arm reads as many rows of `x` as there are tokens.
    unsafe {
        match tokens {
            6 => resume::<6>(w, x, cols, range, sums),
            5 => resume::<5>(w, x, cols, range, sums),
            4 => resume::<4>(w, x, cols, range, sums),
            3 => resume::<3>(w, x, cols, range, sums),
            2 => resume::<2>(w, x, cols, range, sums),
            _ => resume::<1>(w, x, cols, range, sums),
        }
    }
}

/// # Safety
/// `all` holds four rows of weights and `T` of activations.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn resume<const T: usize>(
    w: &[f32],
    x: &[f32],
    cols: usize,
    range: Range<usize>,
    sums: &mut Sums,
) {
    let mut acc = [[_mm512_setzero_ps(); T]; TILE_ROWS];
    for r in 0..TILE_ROWS {
        for t in 0..T {
            acc[r][t] = load(&sums[r][t]);
        }
    }
    let count = range.len() / 16;
    let mut w_lines: [&[[f32; 16]]; TILE_ROWS] = [&[]; TILE_ROWS];
    for r in 0..TILE_ROWS {
        w_lines[r] = &w[r * cols..][range.clone()].as_chunks().0[..count];
    }
    let mut x_lines: [&[[f32; 16]]; T] = [&[]; T];
    for t in 0..T {
        x_lines[t] = &x[t * cols..][range.clone()].as_chunks().0[..count];
    }
    for k in 0..count {
        let mut ws = [_mm512_setzero_ps(); TILE_ROWS];
        for r in 0..TILE_ROWS {
            ws[r] = load(&w_lines[r][k]);
        }
        for t in 0..T {
            let x = load(&x_lines[t][k]);
            for r in 0..TILE_ROWS {
                acc[r][t] = _mm512_fmadd_ps(ws[r], x, acc[r][t]);
            }
        }
    }
    let rest = range.len() % 16;
    if rest > 0 {
        let (mask, at) = ((1u16 << rest) - 1, range.end - rest);
        for r in 0..TILE_ROWS {
            for t in 0..T {
                let (w, x) = (&w[r * cols + at..][..rest], &x[t * cols + at..][..rest]);
                // SAFETY: the mask keeps the loads within the slices.
                unsafe {
                    let w = _mm512_maskz_loadu_ps(mask, w.as_ptr());
                    let x = _mm512_maskz_loadu_ps(mask, x.as_ptr());
                    acc[r][t] = _mm512_fmadd_ps(w, x, acc[r][t]);
                }
            }
        }
    }
    for r in 0..TILE_ROWS {
        for t in 0..T {
            // SAFETY: a vector is 16 f32.
            sums[r][t] = unsafe { transmute::<__m512, [f32; 16]>(acc[r][t]) };
        }
    }
}

/// The sum of 16 chains.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn total(chains: &[f32; 16]) -> f32 {
    _mm512_reduce_add_ps(load(chains))
}
