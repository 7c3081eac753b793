//! f32 products of few rows, as attention makes them: queries times keys, weights times values.
//!
//! Always holds: an element of the result is one chain of multiply-adds over `n`, in order, on
//! every path; how rows and columns are tiled never changes it.

#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "registers are named by their index"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
use super::avx512::load;
#[cfg(target_arch = "x86_64")]
use super::floats::Fused;
use super::floats::{MulAdd, Separate, StridedRows, StridedRowsMut};
use super::isa::Isa;

/// `c += a * b`.
pub(super) fn accumulate(
    isa: Isa,
    a: StridedRows<'_>,
    b: StridedRows<'_>,
    n: usize,
    c: StridedRowsMut<'_>,
) {
    if c.rows == 0 || c.cols == 0 || n == 0 {
        return;
    }
    assert!(
        holds(a.values, a.stride, c.rows, n)
            && holds(b.values, b.stride, n, c.cols)
            && holds(c.values, c.stride, c.rows, c.cols),
        "[{}, {n}] times [{n}, {}] lies within the slices",
        c.rows,
        c.cols
    );
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the features of its `Isa`; the shapes are checked above.
        Isa::Avx512 => unsafe { avx512(a, b, n, c) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2(a, b, n, c) },
        Isa::Portable => by_lines::<Separate>(a, b, n, c, 0),
    }
}

/// Whether `rows` rows of `cols` values lie within `values`.
fn holds(values: &[f32], stride: usize, rows: usize, cols: usize) -> bool {
    let last = (rows - 1).checked_mul(stride);
    last.and_then(|start| start.checked_add(cols))
        .is_some_and(|end| end <= values.len())
}

/// Columns from `first` on, in plain Rust: 16 at a time, then one by one.
#[inline(always)]
fn by_lines<M: MulAdd>(
    a: StridedRows<'_>,
    b: StridedRows<'_>,
    n: usize,
    c: StridedRowsMut<'_>,
    first: usize,
) {
    const LINE: usize = 16;
    for r in 0..c.rows {
        let a = &a.values[r * a.stride..][..n];
        let c = &mut c.values[r * c.stride..][first..c.cols];
        let (lines, tail) = c.as_chunks_mut::<LINE>();
        let tail_at = first + lines.len() * LINE;
        for (i, c) in lines.iter_mut().enumerate() {
            let mut acc = *c;
            for (k, &a) in a.iter().enumerate() {
                let b = &b.values[k * b.stride + first + i * LINE..][..LINE];
                for l in 0..LINE {
                    acc[l] = M::mul_add(a, b[l], acc[l]);
                }
            }
            *c = acc;
        }
        for (i, c) in tail.iter_mut().enumerate() {
            for (k, &a) in a.iter().enumerate() {
                *c = M::mul_add(a, b.values[k * b.stride + tail_at + i], *c);
            }
        }
    }
}

/// The body again with AVX2's vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(a: StridedRows<'_>, b: StridedRows<'_>, n: usize, c: StridedRowsMut<'_>) {
    by_lines::<Fused>(a, b, n, c, 0);
}

/// Tiles of up to four rows by four vectors, or eight by two, which share each other's loads.
///
/// # Safety
/// The rows lie within their slices.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn avx512(a: StridedRows<'_>, b: StridedRows<'_>, n: usize, c: StridedRowsMut<'_>) {
    let whole = c.cols - c.cols % 16;
    let mut r = 0;
    let most = if whole == 32 { 8 } else { 4 };
    while r < c.rows {
        let rows = 1 << (c.rows - r).min(most).ilog2();
        let mut col = 0;
        while col < whole {
            let vectors = 1 << ((whole - col) / 16).min(4).ilog2();
            let tile = Tile {
                a: a.values[r * a.stride..].as_ptr(),
                a_stride: a.stride,
                b: b.values[col..].as_ptr(),
                b_stride: b.stride,
                n,
                c: c.values[r * c.stride + col..].as_mut_ptr(),
                c_stride: c.stride,
            };
            // SAFETY: `r + rows <= c.rows` and `col + 16 * vectors <= c.cols`; the rest is the
            // caller's promise.
            unsafe {
                match (rows, vectors) {
                    (8, _) => tile.accumulate::<8, 2>(),
                    (4, 4) => tile.accumulate::<4, 4>(),
                    (4, 2) => tile.accumulate::<4, 2>(),
                    (4, _) => tile.accumulate::<4, 1>(),
                    (2, 4) => tile.accumulate::<2, 4>(),
                    (2, 2) => tile.accumulate::<2, 2>(),
                    (2, _) => tile.accumulate::<2, 1>(),
                    (_, 4) => tile.accumulate::<1, 4>(),
                    (_, 2) => tile.accumulate::<1, 2>(),
                    _ => tile.accumulate::<1, 1>(),
                }
            }
            col += 16 * vectors;
        }
        r += rows;
    }
    if whole < c.cols {
        by_lines::<Fused>(a, b, n, c, whole);
    }
}

/// Where a tile of the product lies.
#[cfg(target_arch = "x86_64")]
struct Tile {
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    b_stride: usize,
    n: usize,
    c: *mut f32,
    c_stride: usize,
}

#[cfg(target_arch = "x86_64")]
impl Tile {
    /// `R` rows by `V` vectors of 16 columns.
    ///
    /// # Safety
    /// `a` points to `R` rows of `n` values, `b` to `n` and `c` to `R` rows of `16 * V` values.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn accumulate<const R: usize, const V: usize>(&self) {
        let mut acc = [[_mm512_setzero_ps(); V]; R];
        // SAFETY: the caller's promise covers every read and write.
        unsafe {
            for r in 0..R {
                for v in 0..V {
                    acc[r][v] = _mm512_loadu_ps(self.c.add(r * self.c_stride + 16 * v));
                }
            }
            // Sums of addresses wrap in the loop: a build with assertions tests each of the others.
            let mut a_rows = [self.a; R];
            for r in 0..R {
                a_rows[r] = self.a.add(r * self.a_stride);
            }
            let mut b_row = self.b;
            for k in 0..self.n {
                let mut b = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    b[v] = load(&*b_row.wrapping_add(16 * v).cast());
                }
                for r in 0..R {
                    let a = _mm512_set1_ps(*a_rows[r].wrapping_add(k));
                    for v in 0..V {
                        acc[r][v] = _mm512_fmadd_ps(a, b[v], acc[r][v]);
                    }
                }
                b_row = b_row.wrapping_add(self.b_stride);
            }
            for r in 0..R {
                for v in 0..V {
                    _mm512_storeu_ps(self.c.add(r * self.c_stride + 16 * v), acc[r][v]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_sums_in_order_on_every_instruction_set() {
        let values = |len: usize, step: f32| -> Vec<f32> {
            (0..len).map(|i| (i as f32 * step).sin()).collect()
        };
        for (rows, n, cols) in [
            (1, 1, 1),
            (2, 3, 32),
            (7, 64, 32),
            (27, 17, 32),
            (9, 4, 39),
            (4, 9, 80),
            (3, 5, 121),
        ] {
            let (a_stride, b_stride, c_stride) = (n + 2, cols + 3, cols + 1);
            let a = values(rows * a_stride, 0.7);
            let b = values(n * b_stride, 1.1);
            let start = values(rows * c_stride, 0.3);
            for isa in Isa::available() {
                let run = |row: usize, rows: usize| {
                    let mut c = start[row * c_stride..].to_vec();
                    // A sum cut in two is the same sum.
                    for (from, to) in [(0, n / 2), (n / 2, n)] {
                        accumulate(
                            isa,
                            StridedRows {
                                values: &a[row * a_stride + from..],
                                stride: a_stride,
                            },
                            StridedRows {
                                values: &b[from * b_stride..],
                                stride: b_stride,
                            },
                            to - from,
                            StridedRowsMut {
                                values: &mut c,
                                stride: c_stride,
                                rows,
                                cols,
                            },
                        );
                    }
                    c
                };
                let all = run(0, rows);
                for r in 0..rows {
                    for i in 0..cols {
                        let chain = (0..n).fold(start[r * c_stride + i], |c, k| {
                            let (a, b) = (a[r * a_stride + k], b[k * b_stride + i]);
                            if isa == Isa::Portable {
                                a * b + c
                            } else {
                                a.mul_add(b, c)
                            }
                        });
                        assert_eq!(all[r * c_stride + i], chain, "{isa:?} {rows} {n} {cols}");
                    }
                    assert_eq!(run(r, 1)[..cols], all[r * c_stride..][..cols], "alone");
                    assert_eq!(all[r * c_stride + cols], start[r * c_stride + cols], "gap");
                }
            }
        }
    }
}
