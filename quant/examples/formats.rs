//! What rounding to each format costs: bits a weight, and the error of random weights and of a product.
//! `cargo run --example formats`

use gannet_quant::{Error, Format, Matrix, cpu};

const COLS: usize = 256;

fn main() -> Result<(), Error> {
    let weights: Vec<f32> = (0..COLS).map(|i| (i as f32 * 0.37).sin()).collect();
    let x: Vec<f32> = (0..COLS).map(|i| (i as f32 * 0.11).cos()).collect();
    let exact: f32 = weights.iter().zip(&x).map(|(w, x)| w * x).sum();
    for format in [
        Format::Q8_0,
        Format::Q6_K,
        Format::Q5_K,
        Format::Q4_K,
        Format::Q4_0,
    ] {
        let bytes = format.row_bytes(COLS).unwrap_or(0);
        let (mut blocks, mut rounded) = (vec![0; bytes], vec![0.0; COLS]);
        format.quantize(&weights, &mut blocks)?;
        format.dequantize(&blocks, &mut rounded)?;
        let worst = weights.iter().zip(&rounded).map(|(a, b)| (a - b).abs());
        let worst = worst.fold(0.0, f32::max);
        let mut product = [0.0];
        cpu::matmul_fast(&Matrix::new(format, 1, COLS, &blocks)?, &x, 1, &mut product);
        let off = product[0] - exact;
        let bits = bytes as f64 * 8.0 / COLS as f64;
        println!("{format:?}: {bits} bits, off by at most {worst:.4}, a product by {off:.4}");
    }
    Ok(())
}
