//! The list of formats: one enum, one table, one row per format.
//!
//! Everything that treats formats alike (readers, products, layouts, tests) goes through
//! [`Format`]; the table says what each one is. `Format::ALL` and the table are in the same order,
//! and a test compares the two.
//!
//! # Adding a format
//!
//! 1. A module under `src/formats/` with the block's struct and its [`Block`] implementation
//!    (dequantise, quantise, random), named in `src/formats/mod.rs`.
//! 2. Here: a variant of [`Format`], its place in [`Format::ALL`], a row in the table.
//! 3. `src/repack/`: what it becomes on the GPU (`gpu_format` in `convert.rs`): itself, with its
//!    planes (`planes_of` in `mod.rs`); another format that holds it exactly (an arm of
//!    `convert_rows`); or F16, which needs nothing more. One that stays itself also has tiles for tensor
//!    cores in `src/tile/`: its parts (`layout.rs`), codes and scales (`codes.rs`), their words
//!    (`words.rs`) and what a kernel makes of them (`kernel.rs`).
//! 4. `src/cpu/unpack.rs`: its shape and how the int8 products read its codes and scales; nothing but a
//!    line for one that says so itself (`formats::Coded`).
//! 5. `tests/data/dequant/`: known blocks and their values, and a row in the manifest there; a
//!    round-trip bound in `tests/registry.rs`.
//!
//! The compiler and the test of the registry lead through these. Outside this crate:
//! `gguf/src/tensor.rs` has a row for the type if the container does not know it yet,
//! `engine/src/tools/synth/mix.rs` one to offer made-up models of it; a kernel that unpacks the
//! format on the GPU is needed only if it is not converted.

use crate::formats::{self, Block};
use crate::random::Words;
use crate::{Error, formats::*};
use rayon::prelude::*;

/// A format of weights, named as ggml names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "these are the field's names")]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 4 bits, one scale per 32 weights.
    Q4_0,
    /// 4 bits, scale and minimum per 32 weights.
    Q4_1,
    /// 5 bits, one scale per 32 weights.
    Q5_0,
    /// 5 bits, scale and minimum per 32 weights.
    Q5_1,
    /// 8 bits, one scale per 32 weights.
    Q8_0,
    /// 8 bits, scale and scaled sum per 32 values; made for activations.
    Q8_1,
    /// 2 bits, 4-bit scales and minima per 16 weights of a super-block of 256.
    Q2_K,
    /// 3 bits, 6-bit scales per 16 weights of a super-block of 256.
    Q3_K,
    /// 4 bits, 6-bit scales and minima per 32 weights of a super-block of 256.
    Q4_K,
    /// 5 bits, 6-bit scales and minima per 32 weights of a super-block of 256.
    Q5_K,
    /// 6 bits, 8-bit scales per 16 weights of a super-block of 256.
    Q6_K,
    /// 8 bits, one f32 scale per 256 values and sums per 16; made for activations.
    Q8_K,
    /// 4 bits into a table of 16 uneven steps, one scale per 32 weights.
    IQ4_NL,
    /// The same table, 6-bit scales per 32 weights of a super-block of 256.
    IQ4_XS,
    /// 4-bit floats, one power of two per 32 weights.
    MXFP4,
    /// 4-bit floats, one 8-bit float per 16 weights.
    NVFP4,
    /// Eight ternary values an index of 11 bits, shifted by an eighth; 3-bit scales per 32 weights.
    IQ1_S,
    /// The same, with a shift per 8 weights and scales per 16.
    IQ1_M,
    /// Eight magnitudes an index of 8 bits, even signs; 4-bit scales per 32 weights.
    IQ2_XXS,
    /// Eight magnitudes an index of 9 bits, even signs; 4-bit scales per 16 weights.
    IQ2_XS,
    /// Eight magnitudes an index of 10 bits; 4-bit scales per 16 weights.
    IQ2_S,
    /// Four magnitudes an index of 8 bits, even signs; 4-bit scales per 32 weights.
    IQ3_XXS,
    /// Four magnitudes an index of 9 bits; 4-bit scales per 32 weights.
    IQ3_S,
    /// -1, 0 and 1, five a byte, one scale per 256 weights.
    TQ1_0,
    /// -1, 0 and 1, four a byte, one scale per 256 weights.
    TQ2_0,
}

/// One row of the registry: what a format is and does.
#[derive(Debug, Clone, Copy)]
pub struct FormatSpec {
    /// The format.
    pub format: Format,
    /// ggml's name of it.
    pub name: &'static str,
    /// ggml's number of it, as in a GGUF file.
    pub ggml_id: u32,
    /// Weights in a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    dequantize: fn(&[u8], &mut [f32]),
    quantize: fn(&[f32], Option<&[f32]>, &mut [u8]),
    random: fn(u64, u64, f32, &mut [u8]),
}

const fn row<B: Block>(format: Format, name: &'static str, ggml_id: u32) -> FormatSpec {
    FormatSpec {
        format,
        name,
        ggml_id,
        block_len: B::LEN,
        block_bytes: size_of::<B>(),
        dequantize: dequantize::<B>,
        quantize: quantize::<B>,
        random: random::<B>,
    }
}

static TABLE: [FormatSpec; Format::ALL.len()] = [
    row::<BlockF32>(Format::F32, "F32", 0),
    row::<BlockF16>(Format::F16, "F16", 1),
    row::<BlockBF16>(Format::BF16, "BF16", 30),
    row::<BlockQ4_0>(Format::Q4_0, "Q4_0", 2),
    row::<BlockQ4_1>(Format::Q4_1, "Q4_1", 3),
    row::<BlockQ5_0>(Format::Q5_0, "Q5_0", 6),
    row::<BlockQ5_1>(Format::Q5_1, "Q5_1", 7),
    row::<BlockQ8_0>(Format::Q8_0, "Q8_0", 8),
    row::<BlockQ8_1>(Format::Q8_1, "Q8_1", 9),
    row::<BlockQ2K>(Format::Q2_K, "Q2_K", 10),
    row::<BlockQ3K>(Format::Q3_K, "Q3_K", 11),
    row::<BlockQ4K>(Format::Q4_K, "Q4_K", 12),
    row::<BlockQ5K>(Format::Q5_K, "Q5_K", 13),
    row::<BlockQ6K>(Format::Q6_K, "Q6_K", 14),
    row::<BlockQ8K>(Format::Q8_K, "Q8_K", 15),
    row::<BlockIq4Nl>(Format::IQ4_NL, "IQ4_NL", 20),
    row::<BlockIq4Xs>(Format::IQ4_XS, "IQ4_XS", 23),
    row::<BlockMxfp4>(Format::MXFP4, "MXFP4", 39),
    row::<BlockNvfp4>(Format::NVFP4, "NVFP4", 40),
    row::<BlockIq1S>(Format::IQ1_S, "IQ1_S", 19),
    row::<BlockIq1M>(Format::IQ1_M, "IQ1_M", 29),
    row::<BlockIq2Xxs>(Format::IQ2_XXS, "IQ2_XXS", 16),
    row::<BlockIq2Xs>(Format::IQ2_XS, "IQ2_XS", 17),
    row::<BlockIq2S>(Format::IQ2_S, "IQ2_S", 22),
    row::<BlockIq3Xxs>(Format::IQ3_XXS, "IQ3_XXS", 18),
    row::<BlockIq3S>(Format::IQ3_S, "IQ3_S", 21),
    row::<BlockTq1>(Format::TQ1_0, "TQ1_0", 34),
    row::<BlockTq2>(Format::TQ2_0, "TQ2_0", 35),
];

/// Blocks that one task of [`Format::random`] makes: large against the cost of a task.
const RANDOM_TASK_BYTES: usize = 256 << 10;

impl Format {
    /// Every format, in the order of the registry.
    pub const ALL: &'static [Format] = &[
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q8_1,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::Q8_K,
        Format::IQ4_NL,
        Format::IQ4_XS,
        Format::MXFP4,
        Format::NVFP4,
        Format::IQ1_S,
        Format::IQ1_M,
        Format::IQ2_XXS,
        Format::IQ2_XS,
        Format::IQ2_S,
        Format::IQ3_XXS,
        Format::IQ3_S,
        Format::TQ1_0,
        Format::TQ2_0,
    ];

    /// The format's row of the registry.
    #[inline]
    pub fn spec(self) -> &'static FormatSpec {
        &TABLE[self as usize]
    }

    /// ggml's name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// ggml's type number, as stored in a GGUF file.
    pub fn ggml_id(self) -> u32 {
        self.spec().ggml_id
    }

    /// The format with ggml's type number `id`.
    pub fn from_ggml_id(id: u32) -> Option<Format> {
        TABLE
            .iter()
            .find(|spec| spec.ggml_id == id)
            .map(|spec| spec.format)
    }

    /// The format of this name, in any case.
    pub fn from_name(name: &str) -> Option<Format> {
        TABLE
            .iter()
            .find(|spec| spec.name.eq_ignore_ascii_case(name))
            .map(|spec| spec.format)
    }

    /// Weights in a block; 1 for the plain floating-point formats.
    #[inline]
    pub fn block_len(self) -> usize {
        self.spec().block_len
    }

    /// Bytes of a block.
    #[inline]
    pub fn block_bytes(self) -> usize {
        self.spec().block_bytes
    }

    /// Bytes of a row of `cols` weights; `None` when that is no whole number of blocks, or too many
    /// bytes to count.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let spec = self.spec();
        if !cols.is_multiple_of(spec.block_len) {
            return None;
        }
        (cols / spec.block_len).checked_mul(spec.block_bytes)
    }

    /// Expands `bytes` into `out`, bit for bit as ggml's reference does: products in its order, each
    /// rounded to f32, nothing fused.
    ///
    /// Runs on the calling thread; a caller with many rows spreads them.
    ///
    /// # Errors
    /// [`Error::PartialBlock`] and [`Error::Size`] when the lengths do not belong together.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
        self.check_lengths(out.len(), bytes.len())?;
        (self.spec().dequantize)(bytes, out);
        Ok(())
    }

    /// Rounds `x` into blocks, choosing scales that keep the squared error small.
    ///
    /// Runs on the calling thread; a caller with many rows spreads them.
    ///
    /// # Errors
    /// [`Error::PartialBlock`] and [`Error::Size`] when the lengths do not belong together,
    /// [`Error::NotFinite`] when a block format meets a NaN or an infinity.
    pub fn quantize(self, x: &[f32], out: &mut [u8]) -> Result<(), Error> {
        self.check_lengths(x.len(), out.len())?;
        self.check_finite(x)?;
        (self.spec().quantize)(x, None, out);
        Ok(())
    }

    /// [`quantize`](Self::quantize) rows of a matrix whose inputs matter differently: the square of an
    /// error in column `i` counts by `importance[i]`, at best the mean square of the input that the
    /// column is multiplied with. `x` holds whole rows. Formats of a fixed rule (Q8_0 and those with a
    /// minimum a block, MXFP4, floats) take no notice.
    ///
    /// # Errors
    /// As [`quantize`](Self::quantize); [`Error::Size`] when `x` is no whole number of rows,
    /// [`Error::Importance`] when an importance is negative or not finite.
    pub fn quantize_weighted(
        self,
        x: &[f32],
        importance: &[f32],
        out: &mut [u8],
    ) -> Result<(), Error> {
        self.check_lengths(x.len(), out.len())?;
        let cols = importance.len();
        let row_bytes = self.row_bytes(cols).filter(|&bytes| bytes > 0);
        let Some(row_bytes) = row_bytes.filter(|_| x.len().is_multiple_of(cols)) else {
            return Err(Error::Size {
                format: self.name(),
                what: "the importance of columns",
                expected: x.len(),
                found: cols,
            });
        };
        let bad = |v: &f32| !(v.is_finite() && *v >= 0.0);
        if let Some(index) = importance.iter().position(bad) {
            let value = importance[index].to_string();
            return Err(Error::Importance { index, value });
        }
        self.check_finite(x)?;
        for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(row_bytes)) {
            (self.spec().quantize)(x, Some(importance), out);
        }
        Ok(())
    }

    /// Refuses what a block format cannot hold.
    fn check_finite(self, x: &[f32]) -> Result<(), Error> {
        if self.block_len() > 1
            && let Some(index) = x.iter().position(|v| !v.is_finite())
        {
            return Err(Error::NotFinite {
                format: self.name(),
                index,
            });
        }
        Ok(())
    }

    /// Fills `out` with blocks of random weights of mean 0 and roughly the standard deviation `std`.
    ///
    /// Block `i` depends on `seed`, `std` and `i` only, so the result is the same for any number of
    /// threads. Bytes after the last whole block are set to zero.
    pub fn random(self, seed: u64, std: f32, out: &mut [u8]) {
        self.random_from(seed, 0, std, out);
    }

    /// [`random`](Self::random) for a part of a larger tensor: the first block written is number
    /// `first_block`. Lets a writer stream a tensor that it never holds as a whole.
    pub fn random_from(self, seed: u64, first_block: u64, std: f32, out: &mut [u8]) {
        let spec = self.spec();
        let whole = out.len() - out.len() % spec.block_bytes;
        let (blocks, rest) = out.split_at_mut(whole);
        rest.fill(0);
        let per_task = (RANDOM_TASK_BYTES / spec.block_bytes).max(1);
        blocks
            .par_chunks_mut(per_task * spec.block_bytes)
            .enumerate()
            .for_each(|(task, part)| {
                let first = first_block.wrapping_add((task * per_task) as u64);
                (spec.random)(seed, first, std, part);
            });
    }

    fn check_lengths(self, weights: usize, bytes: usize) -> Result<(), Error> {
        let expected = self.row_bytes(weights).ok_or(Error::PartialBlock {
            format: self.name(),
            weights,
            block_len: self.block_len(),
        })?;
        if bytes == expected {
            return Ok(());
        }
        Err(Error::Size {
            format: self.name(),
            what: "blocks in bytes",
            expected,
            found: bytes,
        })
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

fn dequantize<B: Block>(bytes: &[u8], out: &mut [f32]) {
    for (block, y) in formats::blocks::<B>(bytes)
        .iter()
        .zip(out.chunks_exact_mut(B::LEN))
    {
        block.dequantize(y);
    }
}

fn quantize<B: Block>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let blocks = formats::blocks_mut::<B>(out).iter_mut();
    for (i, (block, x)) in blocks.zip(x.chunks_exact(B::LEN)).enumerate() {
        let importance = importance.map(|importance| &importance[i * B::LEN..][..B::LEN]);
        *block = B::quantize(x, importance);
    }
}

fn random<B: Block>(seed: u64, first: u64, std: f32, out: &mut [u8]) {
    for (i, block) in formats::blocks_mut::<B>(out).iter_mut().enumerate() {
        *block = B::random(
            &mut Words::for_block(seed, first.wrapping_add(i as u64)),
            std,
        );
    }
}
