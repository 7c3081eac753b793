//! One common form for every integer format: a row as bytes, scales and minimums.
//!
//! The block formats differ in where their bits lie, not in what they mean: each weight is
//! `scale * (q - offset) - min` with an unsigned byte `q`, a format-wide `offset`, and one
//! `scale` and `min` for each group of 16 or 32 weights. Unpacking to that form once lets a
//! single dot product serve them all. The byte layouts are ggml's (`ggml-common.h`).
//!
//! Always holds: the common form is exact. `q` and `offset` are integers, `scale` and `min`
//! are single-rounded f32 products of the numbers in the block.

use crate::Format;

/// What the common form of a format looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Weights that share a scale: 16 or 32.
    pub(super) group: usize,
    /// What to subtract from an unpacked byte.
    pub(super) offset: i32,
    /// Whether groups carry a minimum as well.
    pub(super) mins: bool,
    /// Activations that share a scale: 32, or 256 for the super-block formats.
    pub(super) act_block: usize,
}

impl Shape {
    /// The common form of `format`, or `None` for the float formats, which have none.
    #[inline]
    pub(super) fn of(format: Format) -> Option<Shape> {
        let (group, offset, mins, act_block) = match format {
            Format::Q4_0 => (32, 8, false, 32),
            Format::Q4_1 => (32, 0, true, 32),
            Format::Q5_0 => (32, 16, false, 32),
            Format::Q5_1 => (32, 0, true, 32),
            Format::Q8_0 | Format::Q8_1 | Format::IQ4_NL => (32, 128, false, 32),
            Format::Q2_K => (16, 0, true, 256),
            Format::Q3_K => (16, 4, false, 256),
            Format::Q4_K | Format::Q5_K => (32, 0, true, 256),
            Format::Q6_K => (16, 32, false, 256),
            Format::Q8_K | Format::IQ4_XS => (32, 128, false, 256),
            Format::F32 | Format::F16 | Format::BF16 => return None,
        };
        Some(Shape {
            group,
            offset,
            mins,
            act_block,
        })
    }
}

/// Where an unpacked row goes: `q` is contiguous, the scale of group `g` lies at `g * stride`
/// (so that rows can be interleaved into a panel).
pub(super) struct Unpacked<'a> {
    pub(super) q: &'a mut [u8],
    pub(super) scales: &'a mut [f32],
    pub(super) mins: &'a mut [f32],
    pub(super) stride: usize,
}

/// The values that the 4-bit codes of IQ4_NL and IQ4_XS stand for, plus 128.
pub(super) const IQ4_BYTES: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];

/// f16 bits to f32, exact, by selection instead of branches, so that loops can be vectorised.
///
/// Subnormal numbers go through an integer conversion: arithmetic on subnormal f32 would cost a
/// hundred cycles on many processors, and small scales are common.
#[inline(always)]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff);
    let normal = (magnitude << 13) + (112 << 23);
    // 2^-24, the unit of subnormal halves.
    let subnormal = (magnitude as i32 as f32 * f32::from_bits(0x3380_0000)).to_bits();
    let special = (magnitude << 13) | 0x7f80_0000;
    let finite = if magnitude < 0x400 { subnormal } else { normal };
    let unsigned = if magnitude >= 0x7c00 { special } else { finite };
    f32::from_bits(unsigned | (u32::from(bits & 0x8000) << 16))
}

/// The f16 at byte `at` of `block`.
#[inline(always)]
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The eight 6-bit scales and minimums that Q4_K and Q5_K pack into 12 bytes.
#[inline(always)]
pub(super) fn scales_k4(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let word =
        |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    // Bytes 0..4 and 4..8 hold the first four scales and minimums in their low six bits; their
    // top two bits complete the nibbles of bytes 8..12.
    let (a, b, c) = (word(0), word(4), word(8));
    let scales = [
        a & 0x3f3f_3f3f,
        (c & 0x0f0f_0f0f) | ((a >> 2) & 0x3030_3030),
    ];
    let mins = [
        b & 0x3f3f_3f3f,
        ((c >> 4) & 0x0f0f_0f0f) | ((b >> 2) & 0x3030_3030),
    ];
    let join = |w: [u32; 2]| (u64::from(w[0]) | (u64::from(w[1]) << 32)).to_le_bytes();
    (join(scales), join(mins))
}

/// Unpacks one row into the common form. Float formats have none and leave `out` alone.
#[inline(always)]
pub(super) fn unpack_row(format: Format, row: &[u8], out: Unpacked<'_>) {
    let Unpacked {
        q,
        scales,
        mins,
        stride,
    } = out;
    let (len, bytes) = (format.block_len(), format.block_bytes());
    let Some(shape) = Shape::of(format) else {
        return;
    };
    let groups = len / shape.group;
    for (i, (block, q)) in row
        .chunks_exact(bytes)
        .zip(q.chunks_exact_mut(len))
        .enumerate()
    {
        let at = |g: usize| (i * groups + g) * stride;
        match format {
            Format::Q4_0 | Format::Q4_1 => {
                scales[at(0)] = half_at(block, 0);
                if format == Format::Q4_1 {
                    mins[at(0)] = -half_at(block, 2);
                }
                nibbles(&block[bytes - 16..], q);
            }
            Format::Q5_0 | Format::Q5_1 => {
                scales[at(0)] = half_at(block, 0);
                if format == Format::Q5_1 {
                    mins[at(0)] = -half_at(block, 2);
                }
                nibbles(&block[bytes - 16..], q);
                let h = &block[bytes - 20..bytes - 16];
                for (j, q) in q.iter_mut().enumerate() {
                    *q |= ((h[j / 8] >> (j % 8)) & 1) << 4;
                }
            }
            Format::Q8_0 | Format::Q8_1 => {
                scales[at(0)] = half_at(block, 0);
                signed(&block[bytes - 32..], q);
            }
            Format::IQ4_NL => {
                scales[at(0)] = half_at(block, 0);
                iq4(&block[2..18], q);
            }
            Format::IQ4_XS => {
                let d = half_at(block, 0);
                let high = u16::from_le_bytes([block[2], block[3]]);
                for g in 0..8 {
                    let low = (block[4 + g / 2] >> (4 * (g % 2))) & 15;
                    let scale = i32::from(low) | (i32::from((high >> (2 * g)) & 3) << 4);
                    scales[at(g)] = d * (scale - 32) as f32;
                    iq4(&block[8 + 16 * g..24 + 16 * g], &mut q[32 * g..32 * g + 32]);
                }
            }
            Format::Q8_K => {
                let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                (0..8).for_each(|g| scales[at(g)] = d);
                signed(&block[4..260], q);
            }
            Format::Q2_K => {
                let (d, dmin) = (half_at(block, 80), half_at(block, 82));
                for g in 0..16 {
                    scales[at(g)] = d * f32::from(block[g] & 15);
                    mins[at(g)] = dmin * f32::from(block[g] >> 4);
                }
                two_bits(&block[16..80], q);
            }
            Format::Q3_K => {
                let d = half_at(block, 108);
                let packed = &block[96..108];
                for g in 0..16 {
                    let low = (packed[g % 8] >> (4 * (g / 8))) & 15;
                    let high = (packed[8 + g % 4] >> (2 * (g / 4))) & 3;
                    scales[at(g)] = d * f32::from((low | (high << 4)) as i8 - 32);
                }
                two_bits(&block[32..96], q);
                for (j, q) in q.chunks_exact_mut(32).enumerate() {
                    for (q, h) in q.iter_mut().zip(&block[..32]) {
                        *q |= ((h >> j) & 1) << 2;
                    }
                }
            }
            Format::Q4_K | Format::Q5_K => {
                let (d, dmin) = (half_at(block, 0), half_at(block, 2));
                let (sc, mn) = scales_k4(&block[4..16]);
                for g in 0..8 {
                    scales[at(g)] = d * f32::from(sc[g]);
                    mins[at(g)] = dmin * f32::from(mn[g]);
                }
                for (src, dst) in block[bytes - 128..]
                    .chunks_exact(32)
                    .zip(q.chunks_exact_mut(64))
                {
                    for l in 0..32 {
                        dst[l] = src[l] & 15;
                        dst[l + 32] = src[l] >> 4;
                    }
                }
                if format == Format::Q5_K {
                    for (j, q) in q.chunks_exact_mut(32).enumerate() {
                        for (q, h) in q.iter_mut().zip(&block[16..48]) {
                            *q |= ((h >> j) & 1) << 4;
                        }
                    }
                }
            }
            Format::Q6_K => {
                let d = half_at(block, 208);
                for g in 0..16 {
                    scales[at(g)] = d * f32::from(block[192 + g] as i8);
                }
                for half in 0..2 {
                    let low = &block[64 * half..64 * half + 64];
                    let high = &block[128 + 32 * half..160 + 32 * half];
                    let q = &mut q[128 * half..128 * half + 128];
                    for l in 0..32 {
                        q[l] = (low[l] & 15) | ((high[l] & 3) << 4);
                        q[l + 32] = (low[l + 32] & 15) | (((high[l] >> 2) & 3) << 4);
                        q[l + 64] = (low[l] >> 4) | (((high[l] >> 4) & 3) << 4);
                        q[l + 96] = (low[l + 32] >> 4) | ((high[l] >> 6) << 4);
                    }
                }
            }
            Format::F32 | Format::F16 | Format::BF16 => {}
        }
    }
}

/// 16 bytes to 32 nibbles: low ones first, then high ones.
#[inline(always)]
fn nibbles(src: &[u8], dst: &mut [u8]) {
    for j in 0..16 {
        dst[j] = src[j] & 15;
        dst[j + 16] = src[j] >> 4;
    }
}

/// As [`nibbles`], each looked up in the IQ4 table.
#[inline(always)]
fn iq4(src: &[u8], dst: &mut [u8]) {
    for j in 0..16 {
        dst[j] = IQ4_BYTES[usize::from(src[j] & 15)];
        dst[j + 16] = IQ4_BYTES[usize::from(src[j] >> 4)];
    }
}

/// Two's complement bytes to bytes with offset 128.
#[inline(always)]
fn signed(src: &[u8], dst: &mut [u8]) {
    for (q, b) in dst.iter_mut().zip(src) {
        *q = b ^ 0x80;
    }
}

/// The 2-bit planes of Q2_K and Q3_K: each 32 bytes hold four runs of 32 weights.
#[inline(always)]
fn two_bits(src: &[u8], dst: &mut [u8]) {
    for (src, dst) in src.chunks_exact(32).zip(dst.chunks_exact_mut(128)) {
        for (shift, dst) in dst.chunks_exact_mut(32).enumerate() {
            for (q, b) in dst.iter_mut().zip(src) {
                *q = (b >> (2 * shift)) & 3;
            }
        }
    }
}

/// Expands one row to f32, bit for bit as [`Format::dequantize`] does; `parts` is scratch space.
#[inline(always)]
pub(super) fn expand_row(format: Format, row: &[u8], parts: Unpacked<'_>, out: &mut [f32]) {
    let bits = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    let Some(shape) = Shape::of(format) else {
        match format {
            Format::F16 => {
                for (y, b) in out.iter_mut().zip(row.chunks_exact(2)) {
                    *y = f16_to_f32(bits(b));
                }
            }
            Format::BF16 => {
                for (y, b) in out.iter_mut().zip(row.chunks_exact(2)) {
                    *y = f32::from_bits(u32::from(bits(b)) << 16);
                }
            }
            _ => {
                for (y, b) in out.iter_mut().zip(row.chunks_exact(4)) {
                    *y = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
        }
        return;
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
