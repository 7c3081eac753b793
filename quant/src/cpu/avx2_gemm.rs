//! The prompt kernel for AVX2: a panel of 16 rows, in two halves, against up to four tokens.
//!
//! See [`super::panel`] for the layout. Always holds: reads stay inside the panel and the
//! activations, whose lengths are asserted once per tile.

#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "registers are named by their index"
)]

use std::arch::x86_64::*;

use super::panel::{PANEL_ROWS, Panel, Tile, TileValues};

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn interleave(panel: &mut Panel) {
    panel.interleave();
}

/// The products of the panel's rows with `tokens` tokens, `tokens` one of 4, 2, 1.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(panel: &Panel, tile: Tile<'_>, tokens: usize, out: &mut TileValues) {
    match tokens {
        4 => by_shape::<4>(panel, tile, out),
        2 => by_shape::<2>(panel, tile, out),
        _ => by_shape::<1>(panel, tile, out),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn by_shape<const T: usize>(panel: &Panel, tile: Tile<'_>, out: &mut TileValues) {
    for half in 0..2 {
        match (panel.shape.group, panel.shape.mins, panel.shape.offset) {
            (32, false, 128) => kernel::<T, 8, false, true>(panel, tile, half, out),
            (32, false, _) => kernel::<T, 8, false, false>(panel, tile, half, out),
            (32, true, _) => kernel::<T, 8, true, false>(panel, tile, half, out),
            (_, false, _) => kernel::<T, 4, false, false>(panel, tile, half, out),
            (_, true, _) => kernel::<T, 4, true, false>(panel, tile, half, out),
        }
    }
}

/// `T` tokens; groups of `S` steps of four columns; `BYTES` where weights use all eight bits.
///
/// `vpmaddubsw` adds two products in 16 bits: 2 * 129 * 127 fits, 2 * 255 * 127 does not. Weights
/// of eight bits are therefore taken as signed, their sign moved to the activations: 2 * 128 * 127
/// fits.
#[target_feature(enable = "avx2,fma,f16c")]
fn kernel<const T: usize, const S: usize, const MINS: bool, const BYTES: bool>(
    panel: &Panel,
    tile: Tile<'_>,
    half: usize,
    out: &mut TileValues,
) {
    let (cols, groups) = (panel.cols, tile.terms.groups);
    let (q0, g0) = (tile.first * cols, tile.first * groups);
    assert!(
        groups * S * 4 == cols && panel.lines.len() == cols / 4,
        "groups cover the columns"
    );
    assert!(panel.scales.len() == groups * PANEL_ROWS && panel.mins.len() == groups * PANEL_ROWS);
    assert!(half < 2, "a panel has two halves");
    let xq = tile.x.q[q0..q0 + T * cols].as_ptr();
    let x_scales = tile.terms.scales[g0..g0 + T * groups].as_ptr();
    let x_starts = tile.terms.starts[g0..g0 + T * groups].as_ptr();
    let x_sums = tile.terms.sums[g0..g0 + T * groups].as_ptr();
    let (w, scales, mins) = (
        panel.lines.as_ptr(),
        panel.scales.as_ptr(),
        panel.mins.as_ptr(),
    );
    let (ones, sign) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));

    let mut acc = [_mm256_setzero_ps(); T];
    for g in 0..groups {
        // SAFETY: `g < groups`, token `t < T`, step `s < S` and the eight rows of the half stay
        // inside the slices whose lengths are checked above.
        unsafe {
            let mut dot = [_mm256_setzero_si256(); T];
            if !BYTES {
                for t in 0..T {
                    dot[t] = _mm256_set1_epi32(*x_starts.add(t * groups + g));
                }
            }
            for s in 0..S {
                let k = g * S + s;
                let mut w = _mm256_load_si256(w.add(k).cast::<__m256i>().add(half));
                let signed = _mm256_xor_si256(w, sign);
                if BYTES {
                    w = _mm256_abs_epi8(signed);
                }
                for t in 0..T {
                    let x = xq.add(t * cols + 4 * k).cast::<i32>().read_unaligned();
                    let mut x = _mm256_set1_epi32(x);
                    if BYTES {
                        x = _mm256_sign_epi8(x, signed);
                    }
                    let sums = _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones);
                    dot[t] = _mm256_add_epi32(dot[t], sums);
                }
            }
            let scale = _mm256_loadu_ps(scales.add(g * PANEL_ROWS + 8 * half));
            for t in 0..T {
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(*x_scales.add(t * groups + g)));
                acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t]), scale, acc[t]);
            }
            if MINS {
                let min = _mm256_loadu_ps(mins.add(g * PANEL_ROWS + 8 * half));
                for t in 0..T {
                    let sum = _mm256_set1_ps(*x_sums.add(t * groups + g));
                    acc[t] = _mm256_fnmadd_ps(min, sum, acc[t]);
                }
            }
        }
    }
    for t in 0..T {
        // SAFETY: each row of `out` holds 16 values, eight for each half.
        unsafe { _mm256_storeu_ps(out[t].as_mut_ptr().add(8 * half), acc[t]) };
    }
}
