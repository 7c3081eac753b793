//! Rotary embedding of whole heads in f32, each step rounded: what kernels that rotate must give to
//! the bit.

use gannet_ptx_gen::kernels::RopeKind;

use super::Random;

/// Angles of so many positions for heads of `dim`: (cos, sin) of a random angle for each pair.
pub fn angles(random: &mut Random, positions: u32, dim: u32) -> Vec<f32> {
    let pairs = 0..positions * dim / 2;
    pairs
        .flat_map(|_| {
            let angle = random.gauss() * 3.0;
            [angle.cos(), angle.sin()]
        })
        .collect()
}

/// Turns every head of rows of heads by the angles of the row's position; dead rows stay.
pub fn rotate(kind: RopeKind, dim: u32, rows: &mut [f32], lengths: &[u32], angles: &[f32]) {
    let dim = dim as usize;
    let row = rows.len() / lengths.len();
    for (row, &length) in rows.chunks_mut(row).zip(lengths) {
        let Some(position) = length.checked_sub(1) else {
            continue;
        };
        let angles = &angles[position as usize * dim..][..dim];
        for head in row.chunks_mut(dim) {
            for (i, angle) in angles.chunks(2).enumerate() {
                let (first, second) = match kind {
                    RopeKind::Interleaved => (2 * i, 2 * i + 1),
                    RopeKind::Neox => (i, i + dim / 2),
                };
                let (a, b) = (head[first], head[second]);
                let (cos, sin) = (angle[0], angle[1]);
                head[first] = a * cos - b * sin;
                head[second] = a * sin + b * cos;
            }
        }
    }
}
