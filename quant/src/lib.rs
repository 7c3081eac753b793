//! Block formats of quantised weights: what they mean, how to make them, how to multiply with them
//! on a CPU, and how to lay them out for a GPU.
//!
//! A [`Format`] names one of ggml's block formats and answers everything about it: sizes, exact
//! dequantisation, quantisation, random test weights. A [`Matrix`] borrows rows of blocks, which
//! [`cpu`] multiplies with, [`repack`] takes apart into the planes that GPU kernels read, and [`tile`]
//! lays out in the order of a tensor core's fragments. The crate does no file I/O and knows no GPU.
//!
//! ```
//! use gannet_quant::{Format, Matrix, repack, tile};
//!
//! // 2 rows of 256 weights, rounded to 4 bits each.
//! let weights: Vec<f32> = (0..512).map(|i| (i as f32 * 0.37).sin()).collect();
//! let mut blocks = vec![0; 2 * Format::Q4_K.row_bytes(256).unwrap()];
//! Format::Q4_K.quantize(&weights, &mut blocks)?;
//! assert_eq!(blocks.len(), 2 * 144);
//!
//! // What the blocks stand for.
//! let mut rounded = vec![0.0; 512];
//! Format::Q4_K.dequantize(&blocks, &mut rounded)?;
//! assert!((weights[300] - rounded[300]).abs() < 0.08);
//!
//! // What a GPU reads: the codes in one plane, the scales in another.
//! let (layout, packed) = repack::pack(&Matrix::new(Format::Q4_K, 2, 256, &blocks)?)?;
//! assert_eq!(layout.plane("q").unwrap().bytes_per_row, 128);
//! assert_eq!(repack::unpack(&layout, &packed)?, blocks);
//!
//! // What its tensor cores read: tiles of 64 rows and 256 columns.
//! let (layout, packed) = tile::pack(&Matrix::new(Format::Q4_K, 2, 256, &blocks)?)?;
//! assert_eq!(layout.tile_bytes(), 9472);
//! assert_eq!(tile::unpack(&layout, &packed)?, [blocks]);
//! # Ok::<(), gannet_quant::Error>(())
//! ```

pub mod cpu;
mod error;
pub mod formats;
mod matrix;
pub mod random;
mod registry;
pub mod repack;
pub mod scalar;
pub mod tile;

pub use error::Error;
pub use matrix::Matrix;
pub use registry::{Format, FormatSpec};
