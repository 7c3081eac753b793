//! Unpacking as a kernel does it: the integer and half-precision instructions of the recipe at the head of
//! [`tile`](super), one by one, on the words of a packed tile.
//!
//! This is the reference for kernels (their registers are these, bit for bit) and for [`TilePacker`]
//! (what it refuses is judged by these). It is written to be read beside a kernel, not to be fast.
//!
//! [`TilePacker`]: super::TilePacker

use super::dense::tile_row;
use super::half2::{add, both, fma, mul, prmt, value};
use super::layout::{TILE_COLS, TILE_ROWS, TileLayout, TileParts};
use super::words::MOST_WORDS;
use crate::{Error, Format};

/// The 16 registers, A operands of four steps of `wgmma.m64nNk16`, that thread `thread` (0 to 127) of a
/// warpgroup makes of columns `64 * group` to `64 * group + 63` of a tile: `[4 * step + register]`, each a
/// pair of f16, low half first. For F16 and BF16 they are what the tensor core reads from shared memory.
///
/// Panics when `thread` or `group` (0 to 3) does not exist, as indexing does.
///
/// # Errors
/// [`Error::NoLayout`] for a format without tiles, [`Error::Size`] when `tile` is not one.
pub fn registers(
    format: Format,
    tile: &[u8],
    group: usize,
    thread: usize,
) -> Result<[u32; 16], Error> {
    let name = format.name();
    let parts = TileParts::of(format).ok_or(Error::NoLayout { format: name })?;
    if tile.len() != parts.bytes() {
        return Err(Error::Size {
            format: name,
            what: "bytes of a tile",
            expected: parts.bytes(),
            found: tile.len(),
        });
    }
    assert!(thread < 128 && group < 4, "thread {thread}, group {group}");
    let operand = Operand {
        tile,
        parts,
        group,
        thread,
    };
    Ok(match format {
        Format::Q4_K => operand.q4_k(),
        Format::Q5_K => operand.q5_k(),
        Format::Q6_K => operand.q6_k(),
        Format::Q4_0 => operand.q4_0(),
        Format::Q8_0 => operand.q8_0(),
        _ => operand.dense(),
    })
}

/// The weights of row `row` of a packed matrix (in its own order) as tensor cores see them, times the row's
/// factor: what products are made with.
///
/// # Errors
/// [`Error::Size`] when `packed` does not belong to `layout` or has no such row.
pub fn row(layout: &TileLayout, packed: &[u8], row: usize) -> Result<Vec<f32>, Error> {
    layout.check_packed(packed.len())?;
    if row >= layout.rows() {
        return Err(Error::Size {
            format: layout.format().name(),
            what: "a row number (and rows in tiles)",
            expected: layout.rows(),
            found: row,
        });
    }
    let block = row / TILE_ROWS;
    let tiles = &packed[layout.tile_offset(block, 0)..][..layout.row_block_bytes()];
    let (factors, _) = packed[layout.factors_offset()..].as_chunks::<4>();
    let mut seen = row_of_block(
        layout.format(),
        tiles,
        row % TILE_ROWS,
        f32::from_le_bytes(factors[row]),
    )?;
    seen.truncate(layout.cols());
    Ok(seen)
}

/// [`row`] of the tiles of one row block, padding included.
pub(super) fn row_of_block(
    format: Format,
    tiles: &[u8],
    row: usize,
    factor: f32,
) -> Result<Vec<f32>, Error> {
    let tile_bytes = TileParts::of(format).map_or(1, |parts| parts.bytes());
    let mut seen = Vec::with_capacity(tiles.len() / tile_bytes * TILE_COLS);
    for tile in tiles.chunks_exact(tile_bytes) {
        for group in 0..4 {
            let mut weights = [0.0; 64];
            for t in 0..4 {
                let registers = registers(format, tile, group, row / 2 * 4 + t)?;
                for (r, &pair) in registers
                    .iter()
                    .enumerate()
                    .filter(|(r, _)| r % 2 == row % 2)
                {
                    let i = 8 * (r / 4) + 4 * (r % 4 / 2) + t;
                    weights[i] = value(pair as u16) as f32 * factor;
                    weights[32 + i] = value((pair >> 16) as u16) as f32 * factor;
                }
            }
            seen.extend_from_slice(&weights);
        }
    }
    Ok(seen)
}

/// What a thread reads of a tile.
struct Operand<'a> {
    tile: &'a [u8],
    parts: TileParts,
    group: usize,
    thread: usize,
}

/// The scale of one row, and what is added: half2 of the blocks of the two halves of a register.
#[derive(Clone, Copy)]
struct Line {
    scale: u32,
    add: u32,
}

impl Line {
    /// A register from codes that lie at bit `bit` of their halves.
    fn weights(self, codes: u32, bit: u32) -> u32 {
        let scale = match bit {
            0 => self.scale,
            // 2^-bit, a normal f16.
            _ => mul(self.scale, both(((15 - bit) << 10) as u16)),
        };
        fma(codes, scale, self.add)
    }
}

impl Operand<'_> {
    fn word(&self, at: usize) -> u32 {
        let bytes = &self.tile[at..][..4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// The thread's code words.
    fn words(&self) -> [u32; MOST_WORDS] {
        let Operand {
            parts,
            group,
            thread,
            ..
        } = self;
        let more = parts.more_words.len() / (4 * 128);
        let wide = parts.words.len() / (4 * 128 * 16);
        std::array::from_fn(|n| match n {
            _ if n < 4 * wide => {
                let plane = (group * wide + n / 4) * 2048;
                self.word(parts.words.start + plane + thread * 16 + n % 4 * 4)
            }
            _ if n - 4 * wide < more / 4 => self
                .word(parts.more_words.start + (group * 128 + thread) * more + (n - 4 * wide) * 4),
            _ => 0,
        })
    }

    /// The scales of the thread's even and odd row.
    fn scales(&self) -> [u32; 2] {
        let at = self.parts.scales.start + (self.group * 32 + self.thread / 4) * 8;
        [self.word(at), self.word(at + 4)]
    }

    /// Half `n` of the base of row `row` (0 even, 1 odd), twice.
    fn base(&self, row: usize, n: usize) -> u32 {
        let bytes = self.parts.base.len() / 32;
        let at = self.parts.base.start + self.thread / 4 * bytes + row * bytes / 2 + 2 * n;
        both(u16::from_le_bytes([self.tile[at], self.tile[at + 1]]))
    }

    /// Scale and minimum of Q4_K and Q5_K.
    fn affine(&self) -> [Line; 2] {
        let scales = self.scales();
        [0, 1].map(|row| {
            let biased = prmt(scales[row], 0x6464_6464, 0x4140);
            Line {
                // 0xe400 is -1024.
                scale: mul(add(biased, both(0xe400)), self.base(row, 0)),
                add: mul(prmt(scales[row], 0, 0x4342), self.base(row, 1)),
            }
        })
    }

    /// Scales that are pairs of halves; `offset` is minus the code of zero, as a subnormal f16.
    fn pairs(&self, offset: u16) -> [Line; 2] {
        self.scales().map(|scale| Line {
            scale,
            add: mul(scale, both(offset)),
        })
    }

    fn nibbles(&self, line: [Line; 2]) -> [u32; 16] {
        let words = self.words();
        std::array::from_fn(|r| {
            let (x, shifted) = (words[r / 4], words[r / 4] >> 8);
            match r % 4 {
                0 => line[0].weights(x & 0x000f_000f, 0),
                1 => line[1].weights(shifted & 0x000f_000f, 0),
                2 => line[0].weights(x & 0x00f0_00f0, 4),
                _ => line[1].weights(shifted & 0x00f0_00f0, 4),
            }
        })
    }

    fn q4_k(&self) -> [u32; 16] {
        self.nibbles(self.affine())
    }

    fn q4_0(&self) -> [u32; 16] {
        // -8 * 2^-24.
        self.nibbles(self.pairs(0x8008))
    }

    fn q5_k(&self) -> [u32; 16] {
        let [even, odd] = self.affine();
        let x = self.words();
        let y: [u32; 5] = std::array::from_fn(|n| x[n] >> (10 - n));
        let low = |n: usize| x[n] & 0x001f_001f;
        let high = |n: usize| x[n] & 0x03e0_03e0;
        let third = |n: usize| y[n] & (0x001f_001f << n);
        let mut registers = [0; 16];
        for s in 0..4 {
            registers[4 * s] = even.weights(low(s), 0);
            registers[4 * s + 1] = odd.weights(third(s), s as u32);
            registers[4 * s + 2] = even.weights(high(s), 5);
        }
        registers[3] = odd.weights(low(4), 0);
        registers[7] = odd.weights(high(4), 5);
        registers[11] = odd.weights(third(4), 4);
        let spread = (0..5).fold(0, |sum, n| (y[n] & (0x0020_0020 << n)) | sum);
        registers[15] = odd.weights(spread, 5);
        registers
    }

    fn q6_k(&self) -> [u32; 16] {
        let scales = self.scales();
        // Of the even and the odd row: steps 0 and 1, steps 2 and 3.
        let lines = [0, 1].map(|row| {
            [0x4140, 0x4342].map(|selector| {
                let biased = prmt(scales[row], 0x6464_6464, selector);
                // 0xe480 is -1152.
                let scale = mul(add(biased, both(0xe480)), self.base(row, 0));
                // -32 * 2^-24.
                let add = mul(scale, both(0x8020));
                Line { scale, add }
            })
        });
        let x = self.words();
        let mut registers = [0; 16];
        for (n, first) in [0, 1, 4, 5, 8, 12].into_iter().enumerate() {
            let line = lines[first % 2][first / 8];
            registers[first] = line.weights(x[n] & 0x003f_003f, 0);
            registers[first + 2] = line.weights((x[n] >> 10) & 0x003f_003f, 0);
        }
        for (n, register) in [9, 11, 13, 15].into_iter().enumerate() {
            let low = (x[4 + n / 2] >> (2 + 2 * (n % 2))) & 0x0030_0030;
            registers[register] = lines[1][1].weights((x[n] & 0x03c0_03c0) | low, 4);
        }
        registers
    }

    fn q8_0(&self) -> [u32; 16] {
        // -128 * 2^-24.
        let [even, odd] = self.pairs(0x8080);
        let x = self.words();
        std::array::from_fn(|r| match r % 2 {
            0 => even.weights(x[r / 2] & 0x00ff_00ff, 0),
            _ => odd.weights(prmt(x[r / 2], 0, 0x4341), 0),
        })
    }

    fn dense(&self) -> [u32; 16] {
        let quad = self.thread / 4;
        let rows = [0, 1].map(|odd| tile_row(self.tile, 2 * quad + odd));
        std::array::from_fn(|r| {
            let i = 64 * self.group + 8 * (r / 4) + 4 * (r % 4 / 2) + self.thread % 4;
            let row = &rows[r % 2];
            u32::from(row[i]) | u32::from(row[32 + i]) << 16
        })
    }
}
