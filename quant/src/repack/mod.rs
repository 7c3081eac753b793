//! The layouts that the GPU reads: a matrix taken apart into planes.
//!
//! A block as stored in a file mixes scales and codes, at sizes that no wide load likes (18, 34,
//! 210 bytes). On the GPU each part has a plane of its own, row-major `[rows, bytes_per_row]`
//! without padding between rows, so that threads of a warp read consecutive words. The bytes of a
//! part stay as they are in the block: packing is a pure gather, [`pack_into`] and [`unpack`] are
//! inverses, and nothing is lost.
//!
//! A plane starts at a multiple of [`PLANE_ALIGN`] bytes; the gaps hold zeros.
//!
//! | format | planes, in order; bytes of each per block of 32 (Q8_0, Q4_0) or 256 weights |
//! |---|---|
//! | F32, F16, BF16 | `w` the weights |
//! | Q8_0 | `q` 32, `d` 2 |
//! | Q4_0 | `q` 16, `d` 2 |
//! | Q4_K | `q` 128, `s` 16: `d`, `dmin` and the packed scales and minima |
//! | Q5_K | `q` 128, `h` 32, `s` 16 |
//! | Q6_K | `l` 128, `h` 64, `s` 16, `d` 2 |
//!
//! Every other format is converted while it is packed, see [`gpu_format`]: to one that holds the same
//! numbers, or to F16. [`tile`](crate::tile) is the other layout, for tensor cores.

mod band;
mod convert;

pub use band::{BandPacker, Piece};
pub(crate) use convert::convert_rows;
pub use convert::{convert, gpu_format, is_exact_on_gpu};

use crate::matrix::matrix_bytes;
use crate::{Error, Format, Matrix};
use rayon::prelude::*;

/// Every plane starts at a multiple of this many bytes.
pub const PLANE_ALIGN: usize = 256;

/// Bytes of source rows that one task packs or unpacks: large against the cost of a task.
const TASK_BYTES: usize = 256 << 10;

/// One plane of a packed matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    /// The plane's name: `w`, `q`, `l`, `h`, `s` or `d`.
    pub name: &'static str,
    /// First byte, from the start of the packed matrix; a multiple of [`PLANE_ALIGN`].
    pub offset: usize,
    /// Bytes from one row to the next.
    pub bytes_per_row: usize,
}

/// Where the planes of a `[rows, cols]` matrix lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaneLayout {
    /// The format, one of those with a layout of their own.
    pub format: Format,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The planes, by offset.
    pub planes: Vec<Plane>,
    /// Bytes of the packed matrix, up to the end of the last plane.
    pub bytes: usize,
}

impl PlaneLayout {
    /// The plane called `name`.
    pub fn plane(&self, name: &str) -> Option<&Plane> {
        self.planes.iter().find(|plane| plane.name == name)
    }

    /// Blocks in a row.
    fn blocks_per_row(&self) -> usize {
        self.cols / self.format.block_len()
    }

    /// The bytes of each plane, borrowed from a packed matrix.
    fn split<'a>(&self, packed: &'a [u8]) -> Vec<&'a [u8]> {
        self.planes
            .iter()
            .map(|p| &packed[p.offset..][..self.rows * p.bytes_per_row])
            .collect()
    }

    fn check_packed(&self, found: usize) -> Result<(), Error> {
        if found == self.bytes {
            return Ok(());
        }
        let format = self.format.name();
        Err(Error::Size {
            format,
            what: "packed bytes",
            expected: self.bytes,
            found,
        })
    }
}

/// A part of a block that becomes a plane.
#[derive(Debug, Clone, Copy)]
struct Part {
    name: &'static str,
    /// First byte in the block.
    start: usize,
    /// Bytes of it in a block.
    len: usize,
}

const fn part(name: &'static str, start: usize, len: usize) -> Part {
    Part { name, start, len }
}

/// The parts of a block, in the order of the planes; empty for a format that is converted.
///
/// Together they cover every byte of the block once, which is why packing loses nothing.
fn planes_of(format: Format) -> &'static [Part] {
    const F32: &[Part] = &[part("w", 0, 4)];
    const HALF: &[Part] = &[part("w", 0, 2)];
    const Q8_0: &[Part] = &[part("q", 2, 32), part("d", 0, 2)];
    const Q4_0: &[Part] = &[part("q", 2, 16), part("d", 0, 2)];
    const Q4_K: &[Part] = &[part("q", 16, 128), part("s", 0, 16)];
    const Q5_K: &[Part] = &[part("q", 48, 128), part("h", 16, 32), part("s", 0, 16)];
    const Q6_K: &[Part] = &[
        part("l", 0, 128),
        part("h", 128, 64),
        part("s", 192, 16),
        part("d", 208, 2),
    ];
    match format {
        Format::F32 => F32,
        Format::F16 | Format::BF16 => HALF,
        Format::Q8_0 => Q8_0,
        Format::Q4_0 => Q4_0,
        Format::Q4_K => Q4_K,
        Format::Q5_K => Q5_K,
        Format::Q6_K => Q6_K,
        _ => &[],
    }
}

/// The layout of a `[rows, cols]` matrix in `format`.
///
/// # Errors
/// [`Error::NoLayout`] for a format that is converted first (ask with [`gpu_format`]),
/// [`Error::PartialBlock`] when `cols` is not a multiple of the block length, [`Error::TooLarge`]
/// when the size overflows.
pub fn planes(format: Format, rows: usize, cols: usize) -> Result<PlaneLayout, Error> {
    let parts = planes_of(format);
    if parts.is_empty() {
        return Err(Error::NoLayout {
            format: format.name(),
        });
    }
    // No plane is larger than the matrix, so only the sums below can overflow.
    matrix_bytes(format, rows, cols)?;
    let too_large = || Error::TooLarge {
        format: format.name(),
        rows,
        cols,
    };
    let blocks = cols / format.block_len();
    let mut planes = Vec::with_capacity(parts.len());
    let mut bytes = 0usize;
    for part in parts {
        let offset = bytes
            .checked_next_multiple_of(PLANE_ALIGN)
            .ok_or_else(too_large)?;
        let bytes_per_row = blocks * part.len;
        bytes = offset
            .checked_add(rows * bytes_per_row)
            .ok_or_else(too_large)?;
        planes.push(Plane {
            name: part.name,
            offset,
            bytes_per_row,
        });
    }
    Ok(PlaneLayout {
        format,
        rows,
        cols,
        planes,
        bytes,
    })
}

/// Packs `m` into `out`, which has the `bytes` of the layout
/// `planes(gpu_format(m.format), m.rows, m.cols)`; converts where the format asks for it.
///
/// Runs on all threads of the current rayon pool. Every byte of `out` is written.
///
/// # Errors
/// [`Error::Size`] when `m.data` or `out` has another size, [`Error::OutOfRange`] when a weight does
/// not fit the format converted to; `out` then holds a mixture.
pub fn pack_into(m: &Matrix, out: &mut [u8]) -> Result<(), Error> {
    let m = Matrix::new(m.format, m.rows, m.cols, m.data)?;
    let layout = planes(gpu_format(m.format), m.rows, m.cols)?;
    layout.check_packed(out.len())?;
    bands(&layout, out)
        .into_par_iter()
        .try_for_each(|mut band| band.pack(&m, &layout))
}

/// [`pack_into`] a new buffer.
///
/// # Errors
/// As [`pack_into`].
pub fn pack(m: &Matrix) -> Result<(PlaneLayout, Vec<u8>), Error> {
    let layout = planes(gpu_format(m.format), m.rows, m.cols)?;
    let mut out = vec![0; layout.bytes];
    pack_into(m, &mut out)?;
    Ok((layout, out))
}

/// The blocks of a packed matrix, as they lie in a file: the inverse of [`pack_into`] for formats
/// that are not converted.
///
/// # Errors
/// [`Error::Size`] when `packed` does not have `layout.bytes`; those of [`planes`] when `layout` is
/// not one that it made.
pub fn unpack(layout: &PlaneLayout, packed: &[u8]) -> Result<Vec<u8>, Error> {
    let PlaneLayout {
        format, rows, cols, ..
    } = *layout;
    // A layout is plain data that a caller can alter: take the one of its shape.
    let layout = planes(format, rows, cols)?;
    layout.check_packed(packed.len())?;
    let planes = layout.split(packed);
    let row_bytes = layout.blocks_per_row() * format.block_bytes();
    let mut out = vec![0; rows * row_bytes];
    if out.is_empty() {
        return Ok(out);
    }
    let rows_per_task = rows_per_task(row_bytes);
    out.par_chunks_mut(rows_per_task * row_bytes)
        .enumerate()
        .for_each(|(task, blocks)| {
            for ((part, plane), bytes) in planes_of(format).iter().zip(&layout.planes).zip(&planes)
            {
                let start = task * rows_per_task * plane.bytes_per_row;
                scatter(*part, format.block_bytes(), &bytes[start..], blocks);
            }
        });
    Ok(out)
}

/// Some consecutive rows of every plane.
struct Band<'a> {
    first_row: usize,
    rows: usize,
    /// One piece per plane, `rows * bytes_per_row` bytes each.
    planes: Vec<&'a mut [u8]>,
}

impl Band<'_> {
    fn pack(&mut self, m: &Matrix, layout: &PlaneLayout) -> Result<(), Error> {
        let source = &m.data[self.first_row * m.row_bytes()..][..self.rows * m.row_bytes()];
        if m.format == layout.format {
            self.gather(layout.format, source);
            return Ok(());
        }
        let rows = Matrix::new(m.format, self.rows, m.cols, source)?;
        let mut converted = vec![0; matrix_bytes(layout.format, self.rows, m.cols)?];
        convert::convert_rows(&rows, self.first_row, layout.format, &mut converted)?;
        self.gather(layout.format, &converted);
        Ok(())
    }

    fn gather(&mut self, format: Format, blocks: &[u8]) {
        for (part, plane) in planes_of(format).iter().zip(&mut self.planes) {
            gather(*part, format.block_bytes(), blocks, plane);
        }
    }
}

/// Cuts the planes of `out` into bands of rows, and clears the gaps between planes.
fn bands<'a>(layout: &PlaneLayout, out: &'a mut [u8]) -> Vec<Band<'a>> {
    let row_bytes = layout.blocks_per_row() * layout.format.block_bytes();
    if row_bytes == 0 || layout.rows == 0 {
        out.fill(0);
        return Vec::new();
    }
    let per_band = rows_per_task(row_bytes);
    let mut bands: Vec<Band> = (0..layout.rows)
        .step_by(per_band)
        .map(|first_row| {
            let rows = per_band.min(layout.rows - first_row);
            Band {
                first_row,
                rows,
                planes: Vec::with_capacity(layout.planes.len()),
            }
        })
        .collect();
    let (mut rest, mut position) = (out, 0);
    for plane in &layout.planes {
        let (gap, from_plane) = rest.split_at_mut(plane.offset - position);
        gap.fill(0);
        let plane_bytes = layout.rows * plane.bytes_per_row;
        let (bytes, after) = from_plane.split_at_mut(plane_bytes);
        for (band, piece) in bands
            .iter_mut()
            .zip(bytes.chunks_mut(per_band * plane.bytes_per_row))
        {
            band.planes.push(piece);
        }
        position = plane.offset + plane_bytes;
        rest = after;
    }
    bands
}

fn rows_per_task(row_bytes: usize) -> usize {
    (TASK_BYTES / row_bytes).max(1)
}

/// Copies `part` of every block to consecutive places in `plane`.
fn gather(part: Part, block_bytes: usize, blocks: &[u8], plane: &mut [u8]) {
    if part.len == block_bytes {
        return plane.copy_from_slice(blocks);
    }
    // A known length turns each copy into a few moves.
    match part.len {
        2 => gather_sized::<2>(part, block_bytes, blocks, plane),
        16 => gather_sized::<16>(part, block_bytes, blocks, plane),
        32 => gather_sized::<32>(part, block_bytes, blocks, plane),
        64 => gather_sized::<64>(part, block_bytes, blocks, plane),
        128 => gather_sized::<128>(part, block_bytes, blocks, plane),
        len => {
            let pieces = plane.chunks_exact_mut(len);
            for (piece, block) in pieces.zip(blocks.chunks_exact(block_bytes)) {
                piece.copy_from_slice(&block[part.start..][..len]);
            }
        }
    }
}

fn gather_sized<const N: usize>(part: Part, block_bytes: usize, blocks: &[u8], plane: &mut [u8]) {
    let (pieces, _) = plane.as_chunks_mut::<N>();
    for (piece, block) in pieces.iter_mut().zip(blocks.chunks_exact(block_bytes)) {
        piece.copy_from_slice(&block[part.start..][..N]);
    }
}

/// The inverse of [`gather`]; writes only the bytes of `part`.
fn scatter(part: Part, block_bytes: usize, plane: &[u8], blocks: &mut [u8]) {
    let pieces = plane.chunks_exact(part.len);
    for (piece, block) in pieces.zip(blocks.chunks_exact_mut(block_bytes)) {
        block[part.start..][..part.len].copy_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_byte_of_a_block_once() {
        for &format in Format::ALL {
            let parts = planes_of(format);
            let mut covered = vec![0; format.block_bytes()];
            for part in parts {
                covered[part.start..][..part.len]
                    .iter_mut()
                    .for_each(|times| *times += 1);
            }
            let expected = usize::from(!parts.is_empty());
            assert!(covered.iter().all(|&times| times == expected), "{format}");
        }
    }
}
