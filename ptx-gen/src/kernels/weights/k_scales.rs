//! The scales and minima of Q4_K and Q5_K: 16 bytes of a block of 256 weights.
//!
//! Two f16, `d` and `dmin`, and 12 bytes of packed numbers of 6 bits, a scale and a minimum for each
//! of 8 sub-blocks of 32. Sub-blocks 0..=3 have them in bytes 0..=3 (scales) and 4..=7 (minima); 4..=7
//! have their low four bits in the nibbles of bytes 8..=11 and the upper two above the others' six.

use half::f16;

use super::codes::{HALF_1024, less};
use super::fragments::{BYTES_0_1, BYTES_2_3, FragmentRun, Half, Loaded, Matrix};
use super::unpack::{AND_OR, Group, PICK, TWO_23};
use crate::build::{F16x2, Val};

/// `d * scale` and `-dmin * min` of run `run` of a lane's group, from the 16 bytes of its block.
pub(super) fn of_run<'k>(
    group: &Group<'_, 'k>,
    words: &[Val<'k, u32>],
    run: usize,
) -> (Val<'k, f32>, Val<'k, f32>) {
    let (k, lane) = (group.k, group.lane);
    let (scales, minima) = if lane.none_upper() {
        (words[1] & 0x3F3F_3F3F, words[2] & 0x3F3F_3F3F)
    } else {
        let upper = lane.upper();
        let shift = k.select(upper, 2u32, 0u32);
        let own = k.select(upper, 0x3030_3030u32, 0x3F3F_3F3Fu32);
        let shared = k.select(upper, 0x0F0F_0F0Fu32, 0u32);
        (
            words[3].lop3(shared, (words[1] >> shift) & own, AND_OR),
            (words[3] >> 4u32).lop3(shared, (words[2] >> shift) & own, AND_OR),
        )
    };
    let pick = lane.part(2, 2) * 2 + (PICK + run as u32);
    let integer = |w: Val<'k, u32>| w.prmt(TWO_23, pick).bitcast::<f32>() + -8_388_608.0;
    let [d, dmin] = words[0].unpack_f16();
    let offset = integer(minima) * -dmin.cast::<f32>();
    (integer(scales) * d.cast::<f32>(), offset)
}

/// `d * scale` and `-dmin * min` (over what sums count) of the two runs of a lane's group. The four
/// numbers are brought together as the bytes of one word.
pub(super) fn of_runs<'k>(
    group: &Group<'_, 'k>,
    words: &[Val<'k, u32>],
    sums: Option<f32>,
) -> [(Val<'k, f32>, Val<'k, f32>); 2] {
    let (k, lane) = (group.k, group.lane);
    let pick = lane.part(2, 2) * 0x2222 + 0x5410;
    let six = words[1].prmt(words[2], pick);
    let four = words[3].prmt(words[3] >> 4u32, pick);
    let upper = lane.upper();
    let shift = k.select(upper, 2u32, 0u32);
    let own = k.select(upper, 0x3030_3030u32, 0x3F3F_3F3Fu32);
    let shared = k.select(upper, 0x0F0F_0F0Fu32, 0u32);
    let all = four.lop3(shared, (six >> shift) & own, AND_OR);
    let integer = |i: u32| all.prmt(TWO_23, PICK + i).bitcast::<f32>() + -8_388_608.0;
    let [d, dmin] = words[0].unpack_f16();
    let (d, dmin) = (d.cast::<f32>(), dmin.cast::<f32>());
    let minus_dmin = dmin * (-1.0 / sums.unwrap_or(1.0));
    [0, 1].map(|run| (integer(run) * d, integer(2 + run) * minus_dmin))
}

/// Both runs of a half, from what [`kept`] keeps.
pub(super) fn fragment_runs<'k>(matrix: &Matrix<'k>, of: &Half<'k, '_>) -> Vec<FragmentRun<'k>> {
    let (scales, offsets) = scales_and_offsets(of.half, &of.common.words);
    let runs = scales.into_iter().zip(offsets);
    runs.map(|(s, o)| FragmentRun {
        scale: Some(matrix.twice(s)),
        offset: Some(matrix.twice(o)),
    })
    .collect()
}

/// `d * scale` and `-dmin * min` of both runs of a half, each rounded to f16.
fn scales_and_offsets<'k>(
    half: u32,
    kept: &[Val<'k, u32>],
) -> ([Val<'k, f16>; 2], [Val<'k, f16>; 2]) {
    let d = kept[0].prmt(0u32, 0x1010u32).bitcast::<F16x2>();
    let minus_dmin = (kept[0].prmt(0u32, 0x3232u32) ^ 0x8000_8000).bitcast::<F16x2>();
    let own = kept[1 + half as usize];
    let integers = |pick: u32| less(own.prmt(HALF_1024, pick), 1024.0);
    let (scales, minima) = (integers(BYTES_0_1), integers(BYTES_2_3));
    ((scales * d).unpack(), (minima * minus_dmin).unpack())
}

/// What is kept during a block of what the halves share: `d` and `dmin`, and of each half one word:
/// the lane's two scales and two minima.
pub(super) fn kept<'k>(matrix: &Matrix<'k>, common: Loaded<'k>) -> Loaded<'k> {
    // A word a lane is loaded, since what is on its way occupies registers.
    let w = [0, 1, 2, 3].map(|i| matrix.of_four(common.words[0], i));
    let pick = (matrix.t / 2) * (2 * 0x1111) + 0x5410;
    let six = |w: Val<'k, u32>| w & 0x3F3F_3F3F;
    let low = |w: Val<'k, u32>, upper: Val<'k, u32>| {
        w.lop3(0x0F0F_0F0Fu32, (upper >> 2u32) & 0x3030_3030, AND_OR)
    };
    let first = six(w[1]).prmt(six(w[2]), pick);
    let second = low(w[3], w[1]).prmt(low(w[3] >> 4u32, w[2]), pick);
    let mut words = vec![w[0], first, second];
    words.extend(&common.words[1..]);
    Loaded {
        words,
        halves: common.halves,
    }
}
