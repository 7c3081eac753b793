//! Rows as f32: the common form of [`unpack`](super::unpack) multiplied out, floats read.

use super::unpack::{Shape, Unpacked, f16_to_f32, unpack_row};
use crate::Format;

/// Expands one row to f32, bit for bit as [`Format::dequantize`] does; `parts` is scratch space.
#[inline(always)]
pub(super) fn expand_row(format: Format, row: &[u8], parts: Unpacked<'_>, out: &mut [f32]) {
    let Some(shape) = Shape::of(format) else {
        return expand_floats(format, row, out);
    };
    let Unpacked {
        q,
        scales,
        mins,
        stride,
    } = parts;
    unpack_row(
        format,
        row,
        Unpacked {
            q,
            scales,
            mins,
            stride,
        },
    );
    let groups = q
        .chunks_exact(shape.group)
        .zip(out.chunks_exact_mut(shape.group));
    for (g, (q, y)) in groups.enumerate() {
        let (scale, min) = (scales[g * stride], mins[g * stride]);
        for (y, &q) in y.iter_mut().zip(q) {
            *y = scale * (i32::from(q) - shape.offset) as f32;
        }
        if shape.mins {
            y.iter_mut().for_each(|y| *y -= min);
        }
    }
}

/// [`expand_row`] for the formats that have no common form.
#[inline(always)]
pub(super) fn expand_floats(format: Format, row: &[u8], out: &mut [f32]) {
    match format {
        Format::F16 => {
            for (y, b) in out.iter_mut().zip(row.as_chunks().0) {
                *y = f16_to_f32(u16::from_le_bytes(*b));
            }
        }
        Format::BF16 => {
            for (y, b) in out.iter_mut().zip(row.as_chunks().0) {
                *y = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }
        _ => {
            for (y, b) in out.iter_mut().zip(row.as_chunks().0) {
                *y = f32::from_le_bytes(*b);
            }
        }
    }
}
