//! The weight formats that kernels read, and where the planes of a matrix lie.
//!
//! A matrix `[rows, cols]` is one buffer of planes, each row-major `[rows, row_bytes]` without
//! padding between rows; a plane starts at a multiple of 256 bytes. A plane holds the bytes of one
//! part of every ggml block, in block order:
//!
//! | format | planes, in order; bytes of each per block of 32 (Q8_0, Q4_0) or 256 weights |
//! |---|---|
//! | F32, F16, BF16 | `w` the weights |
//! | Q8_0 | `q` 32 signed codes, `d` 2: scale f16 |
//! | Q4_0 | `q` 16: byte j holds weight j low, weight j + 16 high; `d` 2: scale f16 |
//! | Q4_K | `q` 128: per 64 weights 32 bytes, first 32 low, next 32 high; `s` 16: d, dmin f16, 12 bytes of packed 6-bit scales and minima |
//! | Q5_K | `q` 128 as Q4_K; `h` 32: bit g of byte l is the fifth bit of weight 32 g + l; `s` 16 as Q4_K |
//! | Q6_K | `l` 128: per 128 weights 64 bytes, first 64 low, next 64 high; `h` 64: per 128 weights 32 bytes, two bits per quarter; `s` 16 signed scales; `d` 2: scale f16 |
//!
//! The offsets are constants of a kernel's text: a matrix is passed as one pointer.
//!
//! A format is a file that answers a trait of this folder (`format.rs`); a new one is that file, a
//! variant of [`WeightFormat`] and its lines in the two tables of its methods.

pub(super) mod codes;
mod float;
mod format;
pub(super) mod fragments;
pub(super) mod geometry;
mod k_scales;
mod q4_0;
mod q4_k;
mod q5_k;
mod q6_k;
mod q8_0;
pub(super) mod unpack;

use float::{BF16, F16, F32};
use format::{Format, Storage};
use q4_0::Q4_0;
use q4_k::Q4K;
use q5_k::Q5K;
use q6_k::Q6K;
use q8_0::Q8_0;

/// Bytes that the start of every plane is a multiple of.
pub(in crate::kernels) const PLANE_ALIGN: u64 = 256;

/// Format of a weight matrix on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightFormat {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Brain float.
    BF16,
    /// `d * (q - 8)`, 4 bits, blocks of 32.
    Q4_0,
    /// `d * q`, 8 bits, blocks of 32.
    Q8_0,
    /// `d * scale * q - dmin * min`, 4 bits, groups of 32 in blocks of 256.
    Q4K,
    /// `d * scale * q - dmin * min`, 5 bits, groups of 32 in blocks of 256.
    Q5K,
    /// `d * scale * (q - 32)`, 6 bits, groups of 16 in blocks of 256.
    Q6K,
}

/// One plane of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WeightPlane {
    /// Name of the part: `w`, `q`, `l`, `h`, `s` or `d`.
    pub name: &'static str,
    /// First byte, from the start of the matrix.
    pub offset: u64,
    /// Bytes from one row to the next.
    pub row_bytes: u32,
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [WeightFormat; 8] = [
        WeightFormat::F32,
        WeightFormat::F16,
        WeightFormat::BF16,
        WeightFormat::Q4_0,
        WeightFormat::Q8_0,
        WeightFormat::Q4K,
        WeightFormat::Q5K,
        WeightFormat::Q6K,
    ];

    /// How it is stored.
    const fn storage(self) -> &'static Storage {
        match self {
            WeightFormat::F32 => &F32::STORAGE,
            WeightFormat::F16 => &F16::STORAGE,
            WeightFormat::BF16 => &BF16::STORAGE,
            WeightFormat::Q4_0 => &Q4_0::STORAGE,
            WeightFormat::Q8_0 => &Q8_0::STORAGE,
            WeightFormat::Q4K => &Q4K::STORAGE,
            WeightFormat::Q5K => &Q5K::STORAGE,
            WeightFormat::Q6K => &Q6K::STORAGE,
        }
    }

    /// How kernels read it.
    pub(in crate::kernels) fn layout(self) -> &'static dyn Format {
        match self {
            WeightFormat::F32 => &F32,
            WeightFormat::F16 => &F16,
            WeightFormat::BF16 => &BF16,
            WeightFormat::Q4_0 => &Q4_0,
            WeightFormat::Q8_0 => &Q8_0,
            WeightFormat::Q4K => &Q4K,
            WeightFormat::Q5K => &Q5K,
            WeightFormat::Q6K => &Q6K,
        }
    }

    /// Terms of 16 bits that tensor cores multiply in place of a number.
    pub(in crate::kernels) fn terms(self) -> u32 {
        self.layout().terms()
    }

    /// Lower-case name, as in kernel names.
    pub const fn name(self) -> &'static str {
        self.storage().name
    }

    /// Weights of a block: columns are a multiple of it.
    pub const fn block_len(self) -> u32 {
        self.storage().block_len
    }

    /// Bytes of a block over all planes.
    pub fn block_bytes(self) -> u32 {
        self.storage().parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Weight bytes of a `[rows, cols]` matrix, without the gaps between planes.
    pub fn bytes(self, rows: u32, cols: u32) -> u64 {
        u64::from(rows) * u64::from(cols / self.block_len()) * u64::from(self.block_bytes())
    }

    /// Whether kernels read rows of `cols` weights: whole blocks, and whole words of 16 bytes of
    /// activations.
    ///
    /// # Errors
    ///
    /// What is wrong with the shape.
    pub fn check(self, rows: u32, cols: u32) -> Result<(), String> {
        let multiple = self.block_len().max(4);
        if rows == 0 || cols == 0 || !cols.is_multiple_of(multiple) {
            return Err(format!(
                "a {} matrix of {rows} rows and {cols} columns; columns must be a multiple of \
                 {multiple}",
                self.name()
            ));
        }
        if u64::from(rows) * u64::from(cols) > 1 << 32 {
            return Err(format!(
                "a matrix of {rows} rows and {cols} columns is too large"
            ));
        }
        Ok(())
    }
}

/// A matrix of weights: what its planes follow from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::kernels) struct WeightShape {
    pub(in crate::kernels) format: WeightFormat,
    pub(in crate::kernels) rows: u32,
    pub(in crate::kernels) cols: u32,
}

/// The planes of a `[rows, cols]` matrix, in the order of the module's table.
pub fn planes(format: WeightFormat, rows: u32, cols: u32) -> Vec<WeightPlane> {
    let mut end = 0u64;
    let blocks = cols / format.block_len();
    let plane = |&(name, bytes): &(&'static str, u32)| {
        let (offset, row_bytes) = (end.next_multiple_of(PLANE_ALIGN), blocks * bytes);
        end = offset + u64::from(rows) * u64::from(row_bytes);
        WeightPlane {
            name,
            offset,
            row_bytes,
        }
    };
    format.storage().parts.iter().map(plane).collect()
}
