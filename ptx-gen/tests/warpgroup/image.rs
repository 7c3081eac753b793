//! Matrices as bytes: values that every type holds, and where a swizzled layout puts them.

use gannet_ptx_gen::build::{MatrixLayout, Swizzle};
use gannet_ptx_gen::op::WgmmaType;
use half::{bf16, f16};

/// Small numbers that all four types hold exactly, so that every sum is exact too.
pub(crate) fn value(seed: u32, row: u32, k: u32) -> f64 {
    let x = (row * 31 + k * 17 + seed * 7 + row * k) % 15;
    f64::from(x) - 7.0
}

/// An element's bytes.
pub(crate) fn bytes(ty: WgmmaType, x: f64) -> Vec<u8> {
    match ty {
        WgmmaType::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
        WgmmaType::Bf16 => bf16::from_f64(x).to_le_bytes().to_vec(),
        WgmmaType::S8 => vec![x as i8 as u8],
        WgmmaType::E4m3 => vec![e4m3(x)],
    }
}

/// A whole number up to 8 as e4m3: bias 7, three bits of mantissa.
fn e4m3(x: f64) -> u8 {
    let sign = if x < 0.0 { 0x80 } else { 0 };
    let m = x.abs();
    if m == 0.0 {
        return sign;
    }
    let exponent = m.log2().floor();
    let mantissa = (m / exponent.exp2() - 1.0) * 8.0;
    sign | ((exponent as u8 + 7) << 3) | mantissa as u8
}

/// Where element (row, k) of a matrix lies in bytes from its start, an atom's start.
pub(crate) fn place(layout: MatrixLayout, transposed: bool, size: u32, row: u32, k: u32) -> u32 {
    let wide = layout.swizzle.row_bytes();
    let (across, down) = if transposed { (row, k) } else { (k, row) };
    // `across` is contiguous; eight of `down` make an atom.
    let (bytes, group) = (across * size, down / 8);
    let plain = match (layout.swizzle, transposed) {
        (Swizzle::None, false) => {
            bytes / 16 * layout.leading + group * layout.stride + down % 8 * 16 + bytes % 16
        }
        (Swizzle::None, true) => {
            bytes / 16 * layout.stride + group * layout.leading + down % 8 * 16 + bytes % 16
        }
        _ => bytes / wide * layout.leading + group * layout.stride + down % 8 * wide + bytes % wide,
    };
    match layout.swizzle {
        Swizzle::None => plain,
        Swizzle::B32 => plain ^ (plain >> 3 & 0x10),
        Swizzle::B64 => plain ^ (plain >> 3 & 0x30),
        Swizzle::B128 => plain ^ (plain >> 3 & 0x70),
    }
}

/// A matrix of `rows` x `k` in bytes.
pub(crate) struct Image {
    pub(crate) ty: WgmmaType,
    pub(crate) layout: MatrixLayout,
    pub(crate) transposed: bool,
    pub(crate) rows: u32,
    pub(crate) k: u32,
    pub(crate) seed: u32,
}

impl Image {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let size = self.ty.bytes();
        let mut out = vec![0; (self.rows * self.k * size) as usize];
        for row in 0..self.rows {
            for k in 0..self.k {
                let at = place(self.layout, self.transposed, size, row, k) as usize;
                let element = bytes(self.ty, value(self.seed, row, k));
                out[at..at + element.len()].copy_from_slice(&element);
            }
        }
        out
    }
}
