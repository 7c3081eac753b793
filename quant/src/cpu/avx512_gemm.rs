//! The prompt kernel for AVX-512 with VNNI: a panel of 16 rows against up to eight tokens.
//!
//! See [`super::panel`] for the layout. Always holds: reads stay inside the panel and the
//! activations, whose lengths are asserted once per tile.

#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "registers are named by their index"
)]

use std::arch::x86_64::*;

use super::panel::{Line, PANEL_ROWS, Panel, Tile, TileValues};

/// Fills `panel.lines` from `panel.rows`, 16 rows by 64 columns at a time.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn interleave(panel: &mut Panel) {
    let (cols, whole) = (panel.cols, panel.cols / 64 * 64);
    assert!(
        panel.rows.len() == PANEL_ROWS * cols && panel.lines.len() == cols / 4,
        "panel sizes"
    );
    for col in (0..whole).step_by(64) {
        let mut v = [_mm512_setzero_si512(); PANEL_ROWS];
        for (r, v) in v.iter_mut().enumerate() {
            // SAFETY: `col + 64 <= cols` and `rows` holds 16 rows of `cols` bytes.
            *v = unsafe { _mm512_loadu_si512(panel.rows.as_ptr().add(r * cols + col).cast()) };
        }
        let out: *mut Line = panel.lines[col / 4..col / 4 + 16].as_mut_ptr();
        for (i, v) in transpose(v).into_iter().enumerate() {
            // SAFETY: 16 lines of 64 bytes follow `out`; lines are aligned to 64.
            unsafe { _mm512_store_si512(out.add(i).cast(), v) };
        }
    }
    for (r, row) in panel.rows.chunks_exact(cols).enumerate() {
        let tail = row[whole..].chunks_exact(4);
        for (line, four) in panel.lines[whole / 4..].iter_mut().zip(tail) {
            line.0[r].copy_from_slice(four);
        }
    }
}

/// Transposes a 16 x 16 matrix of 32-bit elements.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn transpose(v: [__m512i; 16]) -> [__m512i; 16] {
    // Within each 128-bit quarter: pairs of rows, then fours.
    let mut pairs = v;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    // fours[4 * a + j]: column 4 * quarter + j of rows 4a..4a + 4.
    let mut fours = v;
    for a in (0..16).step_by(4) {
        fours[a] = _mm512_unpacklo_epi64(pairs[a], pairs[a + 2]);
        fours[a + 1] = _mm512_unpackhi_epi64(pairs[a], pairs[a + 2]);
        fours[a + 2] = _mm512_unpacklo_epi64(pairs[a + 1], pairs[a + 3]);
        fours[a + 3] = _mm512_unpackhi_epi64(pairs[a + 1], pairs[a + 3]);
    }
    // Quarters of four vectors: a 4 x 4 transpose of 128-bit elements for each j.
    let mut out = v;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let (ab_low, ab_high) = (
            _mm512_shuffle_i32x4::<0x44>(a, b),
            _mm512_shuffle_i32x4::<0xee>(a, b),
        );
        let (cd_low, cd_high) = (
            _mm512_shuffle_i32x4::<0x44>(c, d),
            _mm512_shuffle_i32x4::<0xee>(c, d),
        );
        out[j] = _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low);
        out[4 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low);
        out[8 + j] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high);
    }
    out
}

/// The products of the panel's rows with `tokens` tokens, `tokens` one of 8, 4, 2, 1.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn multiply(panel: &Panel, tile: Tile<'_>, tokens: usize, out: &mut TileValues) {
    match tokens {
        8 => by_shape::<8>(panel, tile, out),
        4 => by_shape::<4>(panel, tile, out),
        2 => by_shape::<2>(panel, tile, out),
        _ => by_shape::<1>(panel, tile, out),
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn by_shape<const T: usize>(panel: &Panel, tile: Tile<'_>, out: &mut TileValues) {
    match (panel.shape.group, panel.shape.mins) {
        (32, false) => kernel::<T, 8, false>(panel, tile, out),
        (32, true) => kernel::<T, 8, true>(panel, tile, out),
        (_, false) => kernel::<T, 4, false>(panel, tile, out),
        (_, true) => kernel::<T, 4, true>(panel, tile, out),
    }
}

/// `T` tokens; groups of `S` steps of four columns.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn kernel<const T: usize, const S: usize, const MINS: bool>(
    panel: &Panel,
    tile: Tile<'_>,
    out: &mut TileValues,
) {
    let (cols, groups) = (panel.cols, tile.terms.groups);
    let (q0, g0) = (tile.first * cols, tile.first * groups);
    assert!(
        groups * S * 4 == cols && panel.lines.len() == cols / 4,
        "groups cover the columns"
    );
    assert!(panel.scales.len() == groups * PANEL_ROWS && panel.mins.len() == groups * PANEL_ROWS);
    let xq = tile.x.q[q0..q0 + T * cols].as_ptr();
    let x_scales = tile.terms.scales[g0..g0 + T * groups].as_ptr();
    let x_starts = tile.terms.starts[g0..g0 + T * groups].as_ptr();
    let x_sums = tile.terms.sums[g0..g0 + T * groups].as_ptr();
    let (w, scales, mins) = (
        panel.lines.as_ptr(),
        panel.scales.as_ptr(),
        panel.mins.as_ptr(),
    );

    let mut acc = [_mm512_setzero_ps(); T];
    for g in 0..groups {
        // SAFETY: `g < groups`, token `t < T` and step `s < S` stay inside the slices whose
        // lengths are checked above; lines are aligned to 64 bytes.
        unsafe {
            let mut dot = [_mm512_setzero_si512(); T];
            for t in 0..T {
                dot[t] = _mm512_set1_epi32(*x_starts.add(t * groups + g));
            }
            for s in 0..S {
                let k = g * S + s;
                let w = _mm512_load_si512(w.add(k).cast());
                for t in 0..T {
                    // By value, as `load`: `read_unaligned` is tested in builds with assertions.
                    let x: [i8; 4] = *xq.add(t * cols + 4 * k).cast();
                    let x = _mm512_set1_epi32(bytemuck::cast(x));
                    dot[t] = _mm512_dpbusd_epi32(dot[t], w, x);
                }
            }
            let scale = _mm512_loadu_ps(scales.add(g * PANEL_ROWS));
            for t in 0..T {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*x_scales.add(t * groups + g)));
                acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[t]), scale, acc[t]);
            }
            if MINS {
                let min = _mm512_loadu_ps(mins.add(g * PANEL_ROWS));
                for t in 0..T {
                    let sum = _mm512_set1_ps(*x_sums.add(t * groups + g));
                    acc[t] = _mm512_fnmadd_ps(min, sum, acc[t]);
                }
            }
        }
    }
    for t in 0..T {
        // SAFETY: each row of `out` holds 16 values.
        unsafe { _mm512_storeu_ps(out[t].as_mut_ptr(), acc[t]) };
    }
}
