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
use crate::formats::{
    BlockIq1M, BlockIq1S, BlockIq2S, BlockIq2Xs, BlockIq2Xxs, BlockIq3S, BlockIq3Xxs, BlockNvfp4,
    BlockTq1, BlockTq2, Coded, MXFP4_VALUES, blocks, e2m1_doubled, half_scale,
};

/// What the common form of a format looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Weights that share a scale: 16 or 32.
    pub(super) group: usize,
    /// What to subtract from an unpacked byte.
    pub(super) offset: i32,
    /// Whether groups carry a minimum as well.
    pub(super) mins: bool,
}

impl Shape {
    /// The common form of `format`, or `None` for the float formats, which have none.
    #[inline]
    pub(super) fn of(format: Format) -> Option<Shape> {
        let (group, offset, mins) = match format {
            Format::Q4_0 => (32, 8, false),
            Format::Q4_1 => (32, 0, true),
            Format::Q5_0 => (32, 16, false),
            Format::Q5_1 => (32, 0, true),
            Format::Q8_0 | Format::Q8_1 | Format::IQ4_NL => (32, 128, false),
            Format::Q2_K => (16, 0, true),
            Format::Q3_K => (16, 4, false),
            Format::Q4_K | Format::Q5_K => (32, 0, true),
            Format::Q6_K => (16, 32, false),
            Format::MXFP4 => (32, 12, false),
            Format::Q8_K | Format::IQ4_XS => (32, 128, false),
            Format::NVFP4 => coded_shape::<BlockNvfp4, 64, 4>(),
            Format::IQ1_S => coded_shape::<BlockIq1S, 256, 8>(),
            Format::IQ1_M => coded_shape::<BlockIq1M, 256, 16>(),
            Format::IQ2_XXS => coded_shape::<BlockIq2Xxs, 256, 8>(),
            Format::IQ2_XS => coded_shape::<BlockIq2Xs, 256, 16>(),
            Format::IQ2_S => coded_shape::<BlockIq2S, 256, 16>(),
            Format::IQ3_XXS => coded_shape::<BlockIq3Xxs, 256, 8>(),
            Format::IQ3_S => coded_shape::<BlockIq3S, 256, 8>(),
            Format::TQ1_0 => coded_shape::<BlockTq1, 256, 8>(),
            Format::TQ2_0 => coded_shape::<BlockTq2, 256, 8>(),
            Format::F32 | Format::F16 | Format::BF16 => return None,
        };
        Some(Shape {
            group,
            offset,
            mins,
        })
    }
}

/// Group, offset and minimums of blocks that are codes and scales by their own account.
///
/// The offset is no larger than it needs to be: see the kernel for AVX2, whose sums of 16 bits hold
/// products of bytes up to 129.
#[inline]
fn coded_shape<B: Coded<LEN, GROUPS>, const LEN: usize, const GROUPS: usize>() -> (usize, i32, bool)
{
    const { assert!(B::LARGEST <= 64) };
    (LEN / GROUPS, i32::from(B::LARGEST), false)
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

/// What stands for zero in [`MXFP4_BYTES`].
const MXFP4_ZERO: u8 = 12;

/// The values that the codes of MXFP4 stand for, plus 12.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "for a kernel of AVX-512")
)]
pub(super) const MXFP4_BYTES: [u8; 16] = {
    let mut bytes = [0; 16];
    let mut code = 0;
    while code < 16 {
        bytes[code] = (MXFP4_VALUES[code] as u8).wrapping_add(MXFP4_ZERO);
        code += 1;
    }
    bytes
};

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

/// Where the scales and minimums of one block go.
struct Groups<'a> {
    scales: &'a mut [f32],
    mins: &'a mut [f32],
    stride: usize,
    first: usize,
}

impl Groups<'_> {
    #[inline(always)]
    fn scale(&mut self, group: usize, value: f32) {
        self.scales[(self.first + group) * self.stride] = value;
    }

    #[inline(always)]
    fn min(&mut self, group: usize, value: f32) {
        self.mins[(self.first + group) * self.stride] = value;
    }
}

/// Unpacks one row into the common form. Float formats have none and leave `out` alone.
#[inline(always)]
pub(super) fn unpack_row(format: Format, row: &[u8], out: Unpacked<'_>) {
    match format {
        Format::Q4_0 => each_block(row, out, 1, q4_0),
        Format::Q4_1 => each_block(row, out, 1, q4_1),
        Format::Q5_0 => each_block(row, out, 1, q5_0),
        Format::Q5_1 => each_block(row, out, 1, q5_1),
        Format::Q8_0 => each_block(row, out, 1, q8_0),
        Format::Q8_1 => each_block(row, out, 1, q8_1),
        Format::IQ4_NL => each_block(row, out, 1, iq4_nl),
        Format::IQ4_XS => each_block(row, out, 8, iq4_xs),
        Format::MXFP4 => each_block(row, out, 1, mxfp4),
        Format::Q8_K => each_block(row, out, 8, q8_k),
        Format::Q2_K => each_block(row, out, 16, q2_k),
        Format::Q3_K => each_block(row, out, 16, q3_k),
        Format::Q4_K => each_block(row, out, 8, q4_k),
        Format::Q5_K => each_block(row, out, 8, q5_k),
        Format::Q6_K => each_block(row, out, 16, q6_k),
        Format::NVFP4 => coded::<BlockNvfp4, 64, 4>(row, out),
        Format::IQ1_S => coded::<BlockIq1S, 256, 8>(row, out),
        Format::IQ1_M => coded::<BlockIq1M, 256, 16>(row, out),
        Format::IQ2_XXS => coded::<BlockIq2Xxs, 256, 8>(row, out),
        Format::IQ2_XS => coded::<BlockIq2Xs, 256, 16>(row, out),
        Format::IQ2_S => coded::<BlockIq2S, 256, 16>(row, out),
        Format::IQ3_XXS => coded::<BlockIq3Xxs, 256, 8>(row, out),
        Format::IQ3_S => coded::<BlockIq3S, 256, 8>(row, out),
        Format::TQ1_0 => coded::<BlockTq1, 256, 8>(row, out),
        Format::TQ2_0 => coded::<BlockTq2, 256, 8>(row, out),
        Format::F32 | Format::F16 | Format::BF16 => {}
    }
}

/// Calls `unpack` for every block of a row: `BYTES` bytes, `LEN` weights, `groups` groups.
#[inline(always)]
fn each_block<const BYTES: usize, const LEN: usize>(
    row: &[u8],
    out: Unpacked<'_>,
    groups: usize,
    unpack: impl Fn(&[u8; BYTES], &mut [u8; LEN], &mut Groups<'_>),
) {
    let mut to = Groups {
        scales: out.scales,
        mins: out.mins,
        stride: out.stride,
        first: 0,
    };
    for (block, q) in row.as_chunks().0.iter().zip(out.q.as_chunks_mut().0) {
        unpack(block, q, &mut to);
        to.first += groups;
    }
}

/// The blocks that are codes and scales by their own account.
#[inline(always)]
fn coded<B: Coded<LEN, GROUPS>, const LEN: usize, const GROUPS: usize>(
    row: &[u8],
    out: Unpacked<'_>,
) {
    let all = blocks::<B>(row).iter().zip(out.q.as_chunks_mut::<LEN>().0);
    for (i, (block, q)) in all.enumerate() {
        let codes = block.codes();
        for (q, code) in q.iter_mut().zip(codes) {
            *q = code.wrapping_add(B::LARGEST) as u8;
        }
        for (g, scale) in block.scales().into_iter().enumerate() {
            out.scales[(i * GROUPS + g) * out.stride] = scale;
        }
    }
}

// Functions, not closures, and loops over local arrays, not `map`: only what is inlined for certain
// is compiled with the vector instructions of the caller, and only arrays that cannot overlap are
// vectorised.

/// A block of Q4_0.
#[inline(always)]
fn q4_0(b: &[u8; 18], q: &mut [u8; 32], g: &mut Groups<'_>) {
    g.scale(0, half_at(b, 0));
    nibbles::<16>(part(b, 2), q);
}

/// A block of Q4_1.
#[inline(always)]
fn q4_1(b: &[u8; 20], q: &mut [u8; 32], g: &mut Groups<'_>) {
    g.scale(0, half_at(b, 0));
    g.min(0, -half_at(b, 2));
    nibbles::<16>(part(b, 4), q);
}

/// A block of Q5_0.
#[inline(always)]
fn q5_0(b: &[u8; 22], q: &mut [u8; 32], g: &mut Groups<'_>) {
    g.scale(0, half_at(b, 0));
    nibbles::<16>(part(b, 6), q);
    fifth_bits(part(b, 2), q);
}

/// A block of Q5_1.
#[inline(always)]
fn q5_1(b: &[u8; 24], q: &mut [u8; 32], g: &mut Groups<'_>) {
    g.scale(0, half_at(b, 0));
    g.min(0, -half_at(b, 2));
    nibbles::<16>(part(b, 8), q);
    fifth_bits(part(b, 4), q);
}

/// A block of Q8_0.
#[inline(always)]
fn q8_0(b: &[u8; 34], q: &mut [u8; 32], g: &mut Groups<'_>) {
    g.scale(0, half_at(b, 0));
    signed(part(b, 2), q);
}

/// A block of Q8_1.
#[inline(always)]
fn q8_1(b: &[u8; 36], q: &mut [u8; 32], g: &mut Groups<'_>) {
    g.scale(0, half_at(b, 0));
    signed(part(b, 4), q);
}

/// A block of IQ4_NL.
#[inline(always)]
fn iq4_nl(b: &[u8; 18], q: &mut [u8; 32], g: &mut Groups<'_>) {
    g.scale(0, half_at(b, 0));
    nibbles::<16>(part(b, 2), q);
    look_up(&IQ4_BYTES, q);
}

/// A block of IQ4_XS.
#[inline(always)]
fn iq4_xs(b: &[u8; 136], q: &mut [u8; 256], g: &mut Groups<'_>) {
    let (d, high) = (half_at(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for (i, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
        let low = (b[4 + i / 2] >> (4 * (i % 2))) & 15;
        let scale = i32::from(low) | (i32::from((high >> (2 * i)) & 3) << 4);
        g.scale(i, d * (scale - 32) as f32);
        nibbles::<16>(part(b, 8 + 16 * i), q);
        look_up(&IQ4_BYTES, q);
    }
}

/// A block of MXFP4.
#[inline(always)]
fn mxfp4(b: &[u8; 17], q: &mut [u8; 32], g: &mut Groups<'_>) {
    g.scale(0, half_scale(b[0]));
    nibbles::<16>(part(b, 1), q);
    for q in q {
        *q = MXFP4_ZERO.wrapping_add(e2m1_doubled(*q) as u8);
    }
}

/// A block of Q8_K.
#[inline(always)]
fn q8_k(b: &[u8; 292], q: &mut [u8; 256], g: &mut Groups<'_>) {
    let d = f32::from_le_bytes(*part(b, 0));
    for i in 0..8 {
        g.scale(i, d);
    }
    signed(part(b, 4), q);
}

/// A block of Q2_K.
#[inline(always)]
fn q2_k(b: &[u8; 84], q: &mut [u8; 256], g: &mut Groups<'_>) {
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (i, scales) in b[..16].iter().enumerate() {
        g.scale(i, d * f32::from(scales & 15));
        g.min(i, dmin * f32::from(scales >> 4));
    }
    two_bits(part(b, 16), q);
}

/// A block of Q3_K.
#[inline(always)]
fn q3_k(b: &[u8; 110], q: &mut [u8; 256], g: &mut Groups<'_>) {
    let (d, packed) = (half_at(b, 108), part::<110, 12>(b, 96));
    for i in 0..16 {
        let low = (packed[i % 8] >> (4 * (i / 8))) & 15;
        let high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
        g.scale(i, d * f32::from((low | (high << 4)) as i8 - 32));
    }
    two_bits(part(b, 32), q);
    or_bits(part(b, 0), 2, q);
}

/// A block of Q4_K.
#[inline(always)]
fn q4_k(b: &[u8; 144], q: &mut [u8; 256], g: &mut Groups<'_>) {
    k4(b, g);
    nibble_runs(part(b, 16), q);
}

/// A block of Q5_K.
#[inline(always)]
fn q5_k(b: &[u8; 176], q: &mut [u8; 256], g: &mut Groups<'_>) {
    k4(b, g);
    nibble_runs(part(b, 48), q);
    or_bits(part(b, 16), 4, q);
}

/// A block of Q6_K.
#[inline(always)]
fn q6_k(b: &[u8; 210], q: &mut [u8; 256], g: &mut Groups<'_>) {
    let d = half_at(b, 208);
    for i in 0..16 {
        g.scale(i, d * f32::from(b[192 + i] as i8));
    }
    six_bits(part(b, 0), part(b, 128), q);
}

/// The `LEN` bytes of a block from byte `at` on.
#[inline(always)]
fn part<const BYTES: usize, const LEN: usize>(block: &[u8; BYTES], at: usize) -> &[u8; LEN] {
    block[at..]
        .first_chunk()
        .expect("fields lie within their block")
}

/// `LEN` bytes to their low nibbles, then their high ones, in `dst`.
#[inline(always)]
fn nibbles<const LEN: usize>(src: &[u8; LEN], dst: &mut [u8]) {
    let (src, mut low, mut high) = (*src, [0; LEN], [0; LEN]);
    for j in 0..LEN {
        low[j] = src[j] & 15;
        high[j] = src[j] >> 4;
    }
    dst[..LEN].copy_from_slice(&low);
    dst[LEN..2 * LEN].copy_from_slice(&high);
}

/// Codes to the values of a table.
#[inline(always)]
fn look_up(table: &[u8; 16], q: &mut [u8; 32]) {
    for q in q {
        *q = table[usize::from(*q & 15)];
    }
}

/// Two's complement bytes to bytes with offset 128.
#[inline(always)]
fn signed<const LEN: usize>(src: &[u8; LEN], dst: &mut [u8; LEN]) {
    for (q, b) in dst.iter_mut().zip(src) {
        *q = b ^ 0x80;
    }
}

/// 128 bytes to eight runs of 32 nibbles: low and high ones of 32 bytes each.
#[inline(always)]
fn nibble_runs(src: &[u8; 128], dst: &mut [u8; 256]) {
    for (src, dst) in src.as_chunks::<32>().0.iter().zip(dst.chunks_exact_mut(64)) {
        nibbles(src, dst);
    }
}

/// Adds bit `j` of 32 to weight `j`, as its bit 4.
#[inline(always)]
fn fifth_bits(bits: &[u8; 4], q: &mut [u8; 32]) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    for (&bits, q) in bits.iter().zip(q.as_chunks_mut::<8>().0) {
        // Byte `j` keeps bit `j`; adding 0x7f moves "not zero" to bit 7.
        let kept = (u64::from(bits) * ONES) & 0x8040_2010_0804_0201;
        let fifth = ((kept + 0x7f * ONES) >> 3) & (0x10 * ONES);
        *q = (u64::from_le_bytes(*q) | fifth).to_le_bytes();
    }
}

/// Adds bit `i` of byte `l` to weight `l` of run `i` (of 32), as its bit `to`.
#[inline(always)]
fn or_bits(bits: &[u8; 32], to: u32, q: &mut [u8; 256]) {
    for (i, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let mut sum = *q;
        for l in 0..32 {
            sum[l] |= ((bits[l] >> i) & 1) << to;
        }
        *q = sum;
    }
}

/// The scales and minimums of Q4_K and Q5_K.
#[inline(always)]
fn k4(block: &[u8], to: &mut Groups<'_>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, mins) = scales_k4(&block[4..16]);
    for i in 0..8 {
        to.scale(i, d * f32::from(scales[i]));
        to.min(i, dmin * f32::from(mins[i]));
    }
}

/// The weights of Q6_K: four bits in `low`, two in `high`.
#[inline(always)]
fn six_bits(low: &[u8; 128], high: &[u8; 64], q: &mut [u8; 256]) {
    let low = low.as_chunks::<64>().0.iter().zip(high.as_chunks::<32>().0);
    for ((low, high), q) in low.zip(q.as_chunks_mut::<128>().0) {
        let (low, high, mut runs) = (*low, *high, [[0u8; 32]; 4]);
        for l in 0..32 {
            runs[0][l] = (low[l] & 15) | ((high[l] & 3) << 4);
            runs[1][l] = (low[l + 32] & 15) | (((high[l] >> 2) & 3) << 4);
            runs[2][l] = (low[l] >> 4) | (((high[l] >> 4) & 3) << 4);
            runs[3][l] = (low[l + 32] >> 4) | ((high[l] >> 6) << 4);
        }
        q.copy_from_slice(runs.as_flattened());
    }
}

/// The 2-bit planes of Q2_K and Q3_K: each 32 bytes hold four runs of 32 weights.
#[inline(always)]
fn two_bits(src: &[u8; 64], dst: &mut [u8; 256]) {
    for (src, dst) in src
        .as_chunks::<32>()
        .0
        .iter()
        .zip(dst.as_chunks_mut::<128>().0)
    {
        for (i, dst) in dst.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let mut two = *src;
            for b in &mut two {
                *b = (*b >> (2 * i)) & 3;
            }
            *dst = two;
        }
    }
}
