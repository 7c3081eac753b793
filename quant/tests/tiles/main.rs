//! Tiles in fragment order: where every bit lies, that nothing is lost, and what a kernel makes of them.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod activations;
mod fragments;
mod places;
mod precision;
mod round_trip;

use gannet_quant::formats::{
    BlockQ4_0, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0, blocks_mut, pack_scales_mins,
};
use gannet_quant::random::Words;
use gannet_quant::scalar::LeF16;
use gannet_quant::{Format, Matrix};

/// The formats with tiles of their own.
const TILED: [Format; 7] = [
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
    Format::Q8_0,
    Format::Q4_0,
    Format::F16,
    Format::BF16,
];

/// A matrix that owns its blocks.
struct Stored {
    format: Format,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
}

impl Stored {
    fn random(format: Format, rows: usize, cols: usize, seed: u64) -> Stored {
        let mut data = vec![0; rows * format.row_bytes(cols).unwrap()];
        format.random(seed, 0.02, &mut data);
        Stored {
            format,
            rows,
            cols,
            data,
        }
    }

    /// Random codes with scales of 1 and minima of 0: every weight is a small integer.
    fn integers(format: Format, rows: usize, cols: usize, seed: u64) -> Stored {
        let mut stored = Stored::random(format, rows, cols, seed);
        let (one, zero) = (LeF16::new(1.0), LeF16::new(0.0));
        let scales = pack_scales_mins(&[1; 8], &[5; 8]);
        let data = &mut stored.data;
        match format {
            Format::Q4_K => blocks_mut::<BlockQ4K>(data).iter_mut().for_each(|b| {
                (b.d, b.dmin, b.scales) = (one, zero, scales);
            }),
            Format::Q5_K => blocks_mut::<BlockQ5K>(data).iter_mut().for_each(|b| {
                (b.d, b.dmin, b.scales) = (one, zero, scales);
            }),
            Format::Q6_K => blocks_mut::<BlockQ6K>(data).iter_mut().for_each(|b| {
                (b.d, b.scales) = (one, [1; 16]);
            }),
            Format::Q8_0 => blocks_mut::<BlockQ8_0>(data)
                .iter_mut()
                .for_each(|b| b.d = one),
            Format::Q4_0 => blocks_mut::<BlockQ4_0>(data)
                .iter_mut()
                .for_each(|b| b.d = one),
            _ => {
                let integers: Vec<f32> = (0..rows * cols)
                    .map(|i| (Words::for_block(seed, i as u64).word() % 255) as f32 - 127.0)
                    .collect();
                format.quantize(&integers, data).unwrap();
            }
        }
        stored
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.format, self.rows, self.cols, &self.data).unwrap()
    }

    /// The exact weights, row-major.
    fn weights(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.rows * self.cols];
        self.format.dequantize(&self.data, &mut weights).unwrap();
        weights
    }
}

/// Gives every block of `stored` the scales `scale(block)`: `d` and, where there is one, `dmin`.
fn set_scales(stored: &mut Stored, mut scale: impl FnMut(usize) -> [f32; 2]) {
    let data = &mut stored.data;
    let mut halves = |i: usize| scale(i).map(LeF16::new);
    match stored.format {
        Format::Q4_K => blocks_mut::<BlockQ4K>(data)
            .iter_mut()
            .enumerate()
            .for_each(|(i, b)| {
                [b.d, b.dmin] = halves(i);
            }),
        Format::Q5_K => blocks_mut::<BlockQ5K>(data)
            .iter_mut()
            .enumerate()
            .for_each(|(i, b)| {
                [b.d, b.dmin] = halves(i);
            }),
        Format::Q6_K => blocks_mut::<BlockQ6K>(data)
            .iter_mut()
            .enumerate()
            .for_each(|(i, b)| b.d = halves(i)[0]),
        Format::Q8_0 => blocks_mut::<BlockQ8_0>(data)
            .iter_mut()
            .enumerate()
            .for_each(|(i, b)| b.d = halves(i)[0]),
        Format::Q4_0 => blocks_mut::<BlockQ4_0>(data)
            .iter_mut()
            .enumerate()
            .for_each(|(i, b)| b.d = halves(i)[0]),
        _ => unreachable!("no scales"),
    }
}
