//! Matrix instructions on a warp: `mma`, `ldmatrix`, `stmatrix`, `movmatrix`. The layouts are [`super::mma`]'s.

use super::memory::{Cursor, addresses};
use super::mma::{self, Factor, Fragment};
use super::warpwide::whole;
use super::{Context, Exec};
use crate::interp::decode::Inst;
use crate::interp::races::Kind;
use crate::interp::warp::{Lanes, Warp};
use crate::op::{Mma, Space};

/// Mma.sync. Float shapes add in f64 and round once to f32, which hardware does not promise: compare by tolerance.
pub(super) fn mma(shape: Mma, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    whole(m)?;
    let (a_regs, b_regs, c_regs) = shape.fragments();
    let sources: [Lanes; 10] = std::array::from_fn(|n| {
        if n < a_regs + b_regs + c_regs {
            *w.word(i.src[n])
        } else {
            [0; 32]
        }
    });
    let (a, rest) = sources.split_at(a_regs);
    let (b, rest) = rest.split_at(b_regs);
    let c = &rest[..c_regs];
    let factor = match shape {
        Mma::M16n8k16F16 | Mma::M16n8k8F16 => Factor::F16,
        Mma::M16n8k16Bf16 => Factor::Bf16,
        Mma::M16n8k8Tf32 => Factor::Tf32,
        Mma::M16n8k32Int8 { a_signed, b_signed } | Mma::M8n8k16Int8 { a_signed, b_signed } => {
            let sign = |signed| if signed { Factor::S8 } else { Factor::U8 };
            let [a, b] = [(a_signed, a), (b_signed, b)].map(|(signed, registers)| Fragment {
                factor: sign(signed),
                registers,
            });
            let d = mma::integer(a, b, c, false);
            for (r, lanes) in d.iter().enumerate().take(c_regs) {
                w.put(i.dst[r], lanes, m);
            }
            return Ok(());
        }
    };
    let [a, b] = [a, b].map(|registers| Fragment { factor, registers });
    let d = mma::float(a, b, |r, lane| f64::from(f32::from_bits(c[r][lane])));
    for (r, lanes) in d.iter().enumerate().take(c_regs) {
        w.put(i.dst[r], &lanes.map(|x| (x as f32).to_bits()), m);
    }
    Ok(())
}

/// The lanes that supply the rows of `num` matrices.
fn rows(num: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(num.clamp(1, 4)))
}

/// Ldmatrix: lane 8j + r supplies the 16-byte aligned address of row r of matrix j.
pub(super) fn load(num: u8, trans: bool, i: &Inst, m: u32, w: &mut Warp, cx: &mut Context) -> Exec {
    whole(m)?;
    let at = addresses(Space::Shared, i, 0, 0, w);
    cx.touch(Kind::Read, &at, rows(num), 16, w)?;
    let mut cursor = Cursor::new(cx, Space::Shared, 16);
    for j in 0..usize::from(num) {
        let mut tile = [[0; 8]; 8];
        for (r, row) in tile.iter_mut().enumerate() {
            let lane = 8 * j + r;
            let (region, offset) = cursor.read(lane, at[lane])?;
            for (col, half) in row.iter_mut().enumerate() {
                *half = region.load(offset + 2 * col as u64, 2) as u16;
            }
        }
        let out = std::array::from_fn(|lane| mma::tile_register(&tile, lane, trans));
        w.put(i.dst[j], &out, m);
    }
    Ok(())
}

/// Stmatrix: the inverse of [`load`].
pub(super) fn store(
    num: u8,
    trans: bool,
    i: &Inst,
    m: u32,
    w: &mut Warp,
    cx: &mut Context,
) -> Exec {
    whole(m)?;
    let at = addresses(Space::Shared, i, 0, 0, w);
    cx.touch(Kind::Write, &at, rows(num), 16, w)?;
    let mut cursor = Cursor::new(cx, Space::Shared, 16);
    for j in 0..usize::from(num) {
        let tile = mma::tile_matrix(w.word(i.src[1 + j]), trans);
        for (r, row) in tile.iter().enumerate() {
            let lane = 8 * j + r;
            let (region, offset) = cursor.write(lane, at[lane])?;
            for (col, half) in row.iter().enumerate() {
                region.store(offset + 2 * col as u64, 2, u32::from(*half));
            }
        }
    }
    Ok(())
}

/// Movmatrix with its only qualifier, `.trans`.
pub(super) fn transpose(i: &Inst, m: u32, w: &mut Warp) -> Exec {
    whole(m)?;
    let tile = mma::tile_matrix(w.word(i.src[0]), false);
    w.put(
        i.dst[0],
        &std::array::from_fn(|lane| mma::tile_register(&tile, lane, true)),
        m,
    );
    Ok(())
}
