//! The arithmetic of a warpgroup's product, one warp's sixteen rows of it.
//!
//! Floats are summed in f64 and rounded once, which hardware does not promise: compare by tolerance. Integers wrap.

use half::{bf16, f16};

use crate::interp::memory::Region;
use crate::interp::warp::Lanes;
use crate::op::{Wgmma, WgmmaA, WgmmaType};

/// The largest K of a shape: 32 bytes of bytes.
const MAX_K: usize = 32;

/// A row of A, or a column of B.
type Line = [f64; MAX_K];

/// An element by its bits; every type's values are exact in f64, integers included.
fn number(ty: WgmmaType, bits: u32) -> f64 {
    match ty {
        WgmmaType::F16 => f64::from(f16::from_bits(bits as u16).to_f32()),
        WgmmaType::Bf16 => f64::from(bf16::from_bits(bits as u16).to_f32()),
        WgmmaType::E4m3 => e4m3(bits as u8),
        WgmmaType::S8 => f64::from(bits as u8 as i8),
    }
}

/// A byte with 4 bits of exponent and 3 of mantissa (OCP 8-bit floating point, 2023): bias 7, no infinity, one NaN.
pub(crate) fn e4m3(bits: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa * f64::exp2(-9.0),
        _ => (8.0 + mantissa) * f64::exp2(f64::from(exponent - 10)),
    };
    if bits >> 7 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

/// The lines of a matrix in shared memory; see [`super::matrix::chunks`] for the order of chunks.
fn lines(ty: WgmmaType, chunks: &[u32], transposed: bool, shared: &Region) -> Vec<Line> {
    let bytes = ty.bytes();
    let per = 16 / bytes as usize;
    let element = |chunk: u32, e: usize| {
        let at = u64::from(chunk) + e as u64 * u64::from(bytes);
        number(ty, shared.load(at, bytes))
    };
    if transposed {
        let mut lines = vec![[0.0; MAX_K]; chunks.len() / 16 * 8];
        for (n, chunk) in chunks.iter().enumerate() {
            for e in 0..8 {
                lines[n / 16 * 8 + e][n % 16] = element(*chunk, e);
            }
        }
        return lines;
    }
    let mut lines = vec![[0.0; MAX_K]; chunks.len() / 2];
    for (n, chunk) in chunks.iter().enumerate() {
        for e in 0..per {
            lines[n / 2][n % 2 * per + e] = element(*chunk, e);
        }
    }
    lines
}

/// A warp's rows of A from its registers.
fn from_registers(ty: WgmmaType, a: &[Lanes; 4]) -> Vec<Line> {
    let per = 4 / ty.bytes() as usize;
    let mut lines = vec![[0.0; MAX_K]; 16];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for (r, register) in a.iter().enumerate() {
            for j in 0..per {
                let bits = register[lane] >> (32 / per * j);
                let (row, k) = (g + 8 * (r & 1), per * t + j + 4 * per * (r >> 1));
                lines[row][k] = number(ty, bits);
            }
        }
    }
    lines
}

/// A * B + `before`, register by register.
pub(super) fn product(
    m: Wgmma,
    a: &[Lanes; 4],
    chunks: &[Vec<u32>; 2],
    before: &[Lanes],
    shared: &Region,
) -> Vec<Lanes> {
    let rows = match m.a {
        WgmmaA::Registers => from_registers(m.ty, a),
        WgmmaA::Shared { transpose } => lines(m.ty, &chunks[0], transpose, shared),
    };
    let columns = lines(m.ty, &chunks[1], m.transpose_b, shared);
    let k = m.k() as usize;
    let sign = if m.negate_a == m.negate_b { 1.0 } else { -1.0 };
    let mut out = before.to_vec();
    for (i, lanes) in out.iter_mut().enumerate() {
        for (lane, word) in lanes.iter_mut().enumerate() {
            let (g, t) = (lane / 4, lane % 4);
            let row = &rows[g + 8 * (i >> 1 & 1)];
            let column = &columns[8 * (i >> 2) + 2 * t + (i & 1)];
            let sum: f64 = row[..k].iter().zip(column).map(|(x, y)| x * y).sum();
            *word = if m.ty == WgmmaType::S8 {
                // At most 32 products of bytes: exact.
                (sum as i32).wrapping_add(*word as i32) as u32
            } else {
                ((f64::from(f32::from_bits(*word)) + sign * sum) as f32).to_bits()
            };
        }
    }
    out
}
