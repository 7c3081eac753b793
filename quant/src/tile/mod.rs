//! The layout that tensor cores read: tiles of 64 rows x 256 columns in the order of their fragments.
//!
//! Where [`repack`](crate::repack) keeps rows apart, a tile holds the weights as the threads of a
//! warpgroup want them: one 16-byte load brings a thread its weights of 64 columns, few integer
//! instructions make f16 pairs of them, and those *are* the registers of the A operand of
//! `wgmma.m64nNk16` (each warp's quarter that of `mma.m16n8k16`), whatever the number of tokens. One
//! copy of the weights serves prompts, batches and single tokens. [`TilePacker`] makes tiles, [`unpack`]
//! takes them apart again, [`kernel`] says in plain Rust what a kernel computes of one, and
//! [`ActivationTiles`] places the other operand. Formats without tiles of their own are converted first,
//! as [`gpu_format`](crate::repack::gpu_format) says; F32 has none.
//!
//! # The packed matrix
//!
//! Tiles in the order `[rows / 64][cols / 256]`, so that a tile is one contiguous copy and the tiles of a
//! row block follow each other; then one f32 a row, [*2^e*](#the-exponent-of-a-row), rows padded to 64.
//! Numbers are little-endian. Every part of a tile begins at a multiple of 16 bytes. Rows and columns that
//! the matrix lacks are zero bytes, which every format unpacks to weights of zero (their factor is 1). Each
//! expert of a mixture is a matrix of its own. Matrices of one format whose rows are multiples of 64 can be
//! stacked by packing their row blocks one after the other ([`TilePacker::pack_row_block`]).
//!
//! A thread of the warpgroup is `T` = 0..128: warp `w = T / 32`, `g = T % 32 / 4`, `t = T % 4`. Its *quad*
//! `p = T / 4 = 8 w + g`.
//!
//! **Rows.** Quad `p` owns rows `2p` and `2p + 1` of the tile, called *even* and *odd* below. In terms of
//! the instruction, row `16 w + g` of A is row `2p` and row `16 w + g + 8` is row `2p + 1`: a thread's sums
//! are of two neighbouring rows. With [interleaved](RowOrder::Interleaved) matrices the even rows are the
//! first one's (gate) and the odd ones the second's (up).
//!
//! **Columns.** In each group of 64 columns, position `2i` of the instruction is column `i` and position
//! `2i + 1` column `32 + i` (`i` = 0..32), in weights and activations alike. So the halves of a register
//! belong to two blocks of 32 columns, and one pair of scales serves a row for all 64.
//!
//! **Registers.** A thread's weights of a group of 64 columns are 16 registers, `a0` to `a3` of four steps
//! `s` of 16 positions. Low half and high half are columns `i` and `32 + i` with
//!
//! | register | row | `i` |
//! |---|---|---|
//! | `a0` | even | `8 s + t` |
//! | `a1` | odd | `8 s + t` |
//! | `a2` | even | `8 s + 4 + t` |
//! | `a3` | odd | `8 s + 4 + t` |
//!
//! # A tile of a block format
//!
//! Codes are unsigned. Offsets are in bytes; `j` = 0..4 is the group of 64 columns.
//!
//! | format | bytes | words `[j][T]` 16 B | more words | scales `[j][p]` 8 B | base `[p]` |
//! |---|---|---|---|---|---|
//! | Q4_K | 9,472 | 0 | | 8,192 | 9,216, 8 B |
//! | Q5_K | 11,520 | 0 | 8,192 `[j][T]` 4 B: x4 | 10,240 | 11,264, 8 B |
//! | Q6_K | 13,440 | 0 | 8,192 `[j][T]` 8 B: x4, x5 | 12,288 | 13,312, 4 B |
//! | Q4_0 | 9,216 | 0 | | 8,192 | |
//! | Q8_0 | 17,408 | 0 `[j][2][T]` 16 B: x0 to x3, x4 to x7 | | 16,384 | |
//!
//! Scales are 4 bytes of the even row, then 4 of the odd one; so is the base (half of it each).
//!
//! | format | scales of a row and 64 columns | base of a row | code |
//! |---|---|---|---|
//! | Q4_K, Q5_K | bytes `sc[2j] sc[2j+1] m[2j] m[2j+1]` | f16 `d * 2^(24-e)`, f16 `-dmin * 2^(24-e)` | as stored |
//! | Q6_K | bytes `sc + 128` of groups `4j, 4j+2, 4j+1, 4j+3` of 16 columns | f16 `d * 2^(24-e)` | `q + 32` |
//! | Q4_0 | f16 `d * 2^(24-e)` of blocks `2j`, `2j+1` | | as stored |
//! | Q8_0 | the same | | `q + 128` |
//!
//! **Words.** A register's two codes lie at the same bits of the two halves of a word: bits are given for the
//! low half. `sN.aM` is register `aM` of step `N`.
//!
//! - Q4_K, Q4_0: word `xs` is step `s`: bits 0-3 `a0`, 4-7 `a2`, 8-11 `a1`, 12-15 `a3`.
//! - Q5_K: words `x0` to `x3` are steps: bits 0-4 `a0`, 5-9 `a2`, 10-14 `a1`; word `x4`: bits 0-4 `s0.a3`,
//!   5-9 `s1.a3`, 10-14 `s2.a3`. Bit 15 of word `xn` is bit `n` of `s3.a3`.
//! - Q6_K: bits 0-5 of `x0` to `x5`: `s0.a0 s0.a1 s1.a0 s1.a1 s2.a0 s3.a0`; bits 10-15: `s0.a2 s0.a3 s1.a2
//!   s1.a3 s2.a2 s3.a2`. Bits 6-9 of `x0` to `x3` are the upper four bits of `s2.a1 s2.a3 s3.a1 s3.a3`, whose
//!   lower two are bits 6-7 of `x4`, 8-9 of `x4`, 6-7 of `x5`, 8-9 of `x5`.
//! - Q8_0: word `x(2s)` is `a0` in bits 0-7 and `a1` in 8-15 of step `s`, word `x(2s+1)` `a2` and `a3`.
//!
//! # Unpacking
//!
//! An integer `c < 1024` in the mantissa of an f16 is the subnormal number `c * 2^-24`, so a masked code is
//! a number already, and one fused multiply-add with the row's scale makes the weight. With `S` a pair of
//! scales times `2^(24-e)`, a code at bit `b` of its half wants `S * 2^-b`; codes may lie at any bit as long
//! as they stay below bit 10. Everything is f16x2, rounded to nearest, subnormals kept (no `.ftz`):
//!
//! - Q4_K, Q5_K: `S = (prmt(scales, 0x64646464, 0x4140) - 1024) * (d, d)`. Minima need no bias, as bytes are
//!   subnormal numbers too: `M = prmt(scales, 0, 0x4342) * (n, n)`, where `n` is the base's second half.
//!   A weight is `fma(code, S * 2^-b, M)`.
//!   - Q4_K: `x & 0x000f000f` (b = 0) `a0`, `x & 0x00f000f0` (b = 4) `a2`, and of `x >> 8` `a1`, `a3`.
//!   - Q5_K: `xn & 0x001f001f` (b = 0) and `xn & 0x03e003e0` (b = 5); `yn = xn >> (10 - n)`, of which
//!     `yn & (0x001f001f << n)` (b = n) is the third code, and bits `5 + n` of all five `y` together are
//!     `s3.a3` (b = 5): one `and`, four `(y & mask) | sum`. No shift but these five.
//! - Q6_K: `S` as above with 1152 for 1024, selector 0x4140 for steps 0 and 1, 0x4342 for steps 2 and 3;
//!   `O = S * -2^-19`; a weight is `fma(code, S * 2^-b, O)`. `x & 0x003f003f` and `(x >> 10) & 0x003f003f`
//!   (b = 0); `(x & 0x03c003c0) | ((x4 or x5 >> 2 or 4) & 0x00300030)` (b = 4).
//! - Q4_0: `S` is the stored pair, `O = S * -2^-21`; codes as Q4_K; `fma(code, S * 2^-b, O)`.
//! - Q8_0: `S` is the stored pair, `O = S * -2^-17`; `x & 0x00ff00ff` is the even row's register,
//!   `prmt(x, 0, 0x4341)` the odd one's; `fma(code, S, O)`.
//!
//! Instructions of a thread for 64 columns (32 weights), beside 16 `fma` and the loads:
//!
//! | format | integer, codes | integer, scales | f16x2, scales |
//! |---|---|---|---|
//! | Q4_K | 20 | 4 | 8 |
//! | Q5_K | 25 | 4 | 12 |
//! | Q6_K | 30 | 4 | 13 |
//! | Q4_0 | 20 | 0 | 4 |
//! | Q8_0 | 16 | 0 | 2 |
//!
//! The constant 0x64646464 is best kept in a register that the assembler cannot see through: as an immediate
//! it displaces the selector of `prmt`, which then costs a move each time.
//!
//! **Few tokens.** Masked codes can be the A operand themselves, without any `fma`, when a token takes two
//! columns of B: one with its even positions and zeros, one with its odd positions and zeros. Their sums are
//! those of one block each and are scaled in f32, by `2^24` too; offsets and minima need the sums of
//! activations. What lies at bit 4 counts 16 times: in Q4_K and Q4_0 these are positions 8 to 15 of every step,
//! whose activations are divided by 16; in Q6_K all of the odd row's steps 2 and 3. Q5_K has no such rule.
//!
//! # The exponent of a row
//!
//! Weights are unpacked times `2^-e`; the epilogue multiplies a row's sums by the stored `2^e`, which is
//! exact. `e` is the least integer for which every `d`, `dmin` and scale times `d` of the row, times
//! `2^(24-e)`, is at most 65,504. As long as those are at most 65,504 themselves, `e <= 24`: the stored
//! halves are exact multiples and nothing is lost ([`Fit::Exact`]). What a kernel sees differs from the
//! exact weight by at most
//!
//! ```text
//! 1.01 * (2^-11 * parts + 2^(e-24)),   parts = |scale * code| + |min| + |weight|   Q4_K, Q5_K
//!                                              2 * |weight|                        Q6_K
//!                                              |weight|                            Q4_0, Q8_0
//!                                              0                                   F16, BF16
//! ```
//!
//! The first term is f16 rounding. The second is about 2^-16 of the row's largest scale: nothing, unless a
//! scale stands far above all weights of its row. [`TilePacker`] refuses such rows
//! ([`Error::Imprecise`](crate::Error::Imprecise)): where the second term may add more than 2^-22 to the
//! normalised squared error of a row, what a kernel would see is computed, and must be within
//! [`NMSE_LIMIT`]; [`TilePacker::fit`] tells without packing. Scales that are no numbers stay so, and so do
//! the products.
//!
//! # A tile of F16 or BF16
//!
//! 32,768 bytes: for each group `j` of 64 columns 8,192 bytes that `wgmma` reads from shared memory as A,
//! K-major with the 128-byte swizzle: 64 rows of 128 bytes in the order of the *instruction* (row
//! `16 w + g` is row `2p`, row `16 w + g + 8` row `2p + 1`), columns in the order of positions, the 16-byte
//! chunk `c` of row `r` at chunk `c ^ (r % 8)`. F16 is stored as it is, `e = 0`. BF16 becomes f16 times
//! `2^-e`, with the least `e >= -126` that keeps the row within 65,504: exact down to 2^-32 of the row's
//! largest weight, and below that to 2^-40 of it ([`Fit::Rounded`]).

mod activations;
mod codes;
mod dense;
mod exponent;
mod half2;
pub mod kernel;
mod layout;
mod pack;
mod row_block;
mod unpack;
mod words;

pub use activations::ActivationTiles;
pub use exponent::{Fit, NMSE_LIMIT};
pub use layout::{RowOrder, TILE_COLS, TILE_ROWS, TileLayout, TileParts};
pub use pack::{TilePacker, pack};
pub use unpack::unpack;
