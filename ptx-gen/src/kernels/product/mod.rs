//! Products of a weight matrix with rows of activations.
//!
//! | kernel | rows of activations | products |
//! |---|---|---|
//! | [`GemvSpec`], [`GemvGluSpec`] | up to 8 | f32, or what a [`GemvVariant`] says |
//! | [`GemmBatchSpec`] | up to 64 | tensor cores, weights unpacked in registers |
//! | [`GemmSpec`] | many | tensor cores, weights unpacked to shared memory |
//!
//! Tensor cores multiply numbers of 16 bits: one in place of a weight or an activation, or the terms
//! of [`crate::kernels::split`] where weights are f32.

mod dot;
mod dot_packed;
mod epilogue;
pub(super) mod gemm;
pub(super) mod gemm_batch;
mod gemm_batch_block;
pub(super) mod gemm_batch_stage;
mod gemm_tiles;
pub(super) mod gemv;
pub(super) mod gemv_glu;
mod recompute;
pub(super) mod variant;

pub use epilogue::Epilogue;
pub use gemm::GemmSpec;
pub use gemm_batch::GemmBatchSpec;
pub use gemv::GemvSpec;
pub use gemv_glu::GemvGluSpec;
pub use variant::{Arithmetic, GemvVariant, ParseVariantError};
