//! Conversions at load time, for formats that no GPU kernel reads.
//!
//! Where another format holds the same numbers the conversion is exact: scales are carried over
//! bit by bit and codes are renumbered, so that dequantising before and after gives the same bits.
//! Elsewhere the weights are rounded to f16.

use crate::formats::{
    BlockBF16, BlockF16, BlockIq3S, BlockIq4Nl, BlockMxfp4, BlockQ3K, BlockQ4_0, BlockQ5_0,
    BlockQ6K, BlockQ8_0, BlockQ8_1, BlockTq1, BlockTq2, Coded, blocks, blocks_mut,
};
use crate::matrix::matrix_bytes;
use crate::scalar::{LeBf16, LeF16};
use crate::{Error, Format, Matrix};
use half::{f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;

/// The format that a matrix in `format` has on the GPU: the same one, or what it is converted to.
pub const fn gpu_format(format: Format) -> Format {
    match format {
        Format::F32 => Format::F32,
        Format::F16 => Format::F16,
        Format::BF16 | Format::MXFP4 => Format::BF16,
        Format::Q4_0 | Format::TQ1_0 | Format::TQ2_0 => Format::Q4_0,
        Format::Q4_K => Format::Q4_K,
        Format::Q5_K => Format::Q5_K,
        Format::Q6_K | Format::Q3_K | Format::IQ3_S => Format::Q6_K,
        Format::Q8_0 | Format::Q5_0 | Format::Q8_1 | Format::IQ4_NL => Format::Q8_0,
        Format::Q4_1 | Format::Q5_1 | Format::Q2_K | Format::IQ4_XS | Format::Q8_K => Format::F16,
        // Exact: six bits of mantissa, and every scale within the range of f16.
        Format::NVFP4 => Format::F16,
        // Their scales have more bits than f16, and an eighth of it may be subnormal: no integer format
        // holds them.
        Format::IQ1_S | Format::IQ1_M => Format::F16,
        Format::IQ2_XXS | Format::IQ2_XS | Format::IQ2_S | Format::IQ3_XXS => Format::F16,
    }
}

/// Whether the [`gpu_format`] of a format holds every one of its weights, bit for bit; else they are
/// rounded to f16.
pub const fn is_exact_on_gpu(format: Format) -> bool {
    match gpu_format(format) {
        Format::F16 => matches!(format, Format::F16 | Format::NVFP4),
        _ => true,
    }
}

/// Converts `m` to its [`gpu_format`]; a copy when that is its own. The result is in the order of a
/// file; [`pack_into`](super::pack_into) converts by itself.
///
/// # Errors
/// [`Error::Size`] and its kin when `m` is not consistent; [`Error::OutOfRange`] when a weight
/// exceeds the range of f16.
pub fn convert(m: &Matrix) -> Result<(Format, Vec<u8>), Error> {
    let m = Matrix::new(m.format, m.rows, m.cols, m.data)?;
    let to = gpu_format(m.format);
    let mut out = vec![0; matrix_bytes(to, m.rows, m.cols)?];
    if out.is_empty() {
        return Ok((to, out));
    }
    let row_bytes = out.len() / m.rows;
    out.par_chunks_mut(row_bytes)
        .enumerate()
        .try_for_each(|(row, out)| {
            let source = Matrix::new(m.format, 1, m.cols, m.row(row))?;
            convert_rows(&source, row, to, out)
        })?;
    Ok((to, out))
}

/// Converts rows on the calling thread; `first_row` is the number of `m`'s first row, for errors.
pub(crate) fn convert_rows(
    m: &Matrix,
    first_row: usize,
    to: Format,
    out: &mut [u8],
) -> Result<(), Error> {
    if m.format == to {
        out.copy_from_slice(m.data);
        return Ok(());
    }
    match (m.format, to) {
        (Format::Q5_0, Format::Q8_0) => {
            each(m.data, out, |b: &BlockQ5_0| BlockQ8_0 {
                d: b.d,
                qs: b.codes(),
            });
        }
        (Format::Q8_1, Format::Q8_0) => {
            each(m.data, out, |b: &BlockQ8_1| BlockQ8_0 { d: b.d, qs: b.qs });
        }
        (Format::IQ4_NL, Format::Q8_0) => {
            each(m.data, out, |b: &BlockIq4Nl| BlockQ8_0 {
                d: b.d,
                qs: b.codes(),
            });
        }
        (Format::Q3_K, Format::Q6_K) => each(m.data, out, |b: &BlockQ3K| {
            BlockQ6K::from_parts(b.d, b.group_scales(), &b.codes())
        }),
        (Format::IQ3_S, Format::Q6_K) => each(m.data, out, |b: &BlockIq3S| {
            let scales = b.group_scales();
            BlockQ6K::from_parts(b.d, std::array::from_fn(|g| scales[g / 2]), &b.codes())
        }),
        (Format::TQ1_0, Format::Q4_0) => ternary::<BlockTq1>(m.data, out, |b| b.d),
        (Format::TQ2_0, Format::Q4_0) => ternary::<BlockTq2>(m.data, out, |b| b.d),
        (Format::MXFP4, Format::BF16) => {
            // Two bits of mantissa and the exponents of f32: rounding changes nothing.
            let weights = blocks::<BlockMxfp4>(m.data)
                .iter()
                .flat_map(BlockMxfp4::weights);
            for (weight, out) in weights.zip(blocks_mut(out)) {
                *out = BlockBF16(LeBf16::new(weight));
            }
        }
        (_, Format::F16) => return round_to_f16(m, first_row, out),
        (from, _) => {
            return Err(Error::NoLayout {
                format: from.name(),
            });
        }
    }
    Ok(())
}

fn each<A: crate::formats::Block, B: crate::formats::Block>(
    from: &[u8],
    to: &mut [u8],
    convert: impl Fn(&A) -> B,
) {
    for (from, to) in blocks(from).iter().zip(blocks_mut(to)) {
        *to = convert(from);
    }
}

/// Each 256 ternary weights to eight blocks of the same scale.
fn ternary<A: Coded<256, 8>>(from: &[u8], to: &mut [u8], d: impl Fn(&A) -> LeF16) {
    let blocks_of = blocks_mut::<BlockQ4_0>(to).as_chunks_mut::<8>().0;
    for (from, to) in blocks::<A>(from).iter().zip(blocks_of) {
        let codes = from.codes();
        for (to, codes) in to.iter_mut().zip(codes.as_chunks::<32>().0) {
            let code = |j: usize| (codes[j] + 8) as u8;
            *to = BlockQ4_0 {
                d: d(from),
                qs: std::array::from_fn(|j| code(j) | code(j + 16) << 4),
            };
        }
    }
}

fn round_to_f16(m: &Matrix, first_row: usize, out: &mut [u8]) -> Result<(), Error> {
    if m.cols == 0 {
        return Ok(());
    }
    let mut exact = vec![0.0; m.cols];
    let mut rounded = vec![f16::ZERO; m.cols];
    for (r, out) in out.chunks_exact_mut(2 * m.cols).enumerate() {
        m.format.dequantize(m.row(r), &mut exact)?;
        // A slice at a time uses the processor's own conversion where there is one.
        rounded.convert_from_f32_slice(&exact);
        if let Some(index) = first_overflow(&exact, &rounded) {
            let (from, to) = (m.format.name(), Format::F16.name());
            return Err(Error::OutOfRange {
                from,
                to,
                row: first_row + r,
                index,
            });
        }
        for (block, half) in blocks_mut(out).iter_mut().zip(&rounded) {
            *block = BlockF16(LeF16::from_bits(half.to_bits()));
        }
    }
    Ok(())
}

/// The first finite weight that rounds to an infinity. (One that is infinite or NaN already is what
/// the file says, and stays.)
fn first_overflow(exact: &[f32], rounded: &[f16]) -> Option<usize> {
    let overflows = |(e, r): (&f32, &f16)| e.is_finite() & !r.is_finite();
    // Without an early exit the usual case, none at all, is a plain reduction.
    if !exact
        .iter()
        .zip(rounded)
        .fold(false, |any, pair| any | overflows(pair))
    {
        return None;
    }
    exact.iter().zip(rounded).position(overflows)
}
