//! The kernel library: every kernel a plan is lowered to.
//!
//! A family is one file: a `Spec` struct with every number that the text depends on, and its
//! methods `kernel()` (the PTX), `grid(..)` (the launch), `bytes(..)` and `flops(..)` (what it
//! moves and computes). Activations are f32 and row-major, `[rows, dim]`.

mod activation;
mod add;
mod advance;
mod argmax;
mod attention;
mod attention_common;
mod attention_decode;
mod attention_decode_block;
mod attention_decode_tiles;
mod attention_flash;
mod attention_merge;
mod attention_tiles;
mod codes;
mod dot;
mod dot_packed;
mod embed;
mod gather_rows;
mod gemm;
mod gemm_batch;
mod gemm_batch_block;
mod gemm_batch_stage;
mod gemm_batch_unpack;
mod gemv;
mod gemv_glu;
mod glu;
mod kv_write;
mod rms_norm;
mod rope;
mod sample;
mod sample_draw;
mod sample_filter;
pub mod sample_math;
mod sample_penalties;
mod sample_row;
mod stream_read;
mod unpack;
mod variant;
mod weights;

use crate::ir::Kernel;
use crate::target::Target;

pub use activation::{Activation, KvType};
pub use add::AddSpec;
pub use advance::AdvanceSpec;
pub use argmax::ArgmaxSpec;
pub use attention::AttentionSpec;
pub use attention_decode::AttentionDecodeSpec;
pub use attention_flash::AttentionFlashSpec;
pub use attention_merge::AttentionMergeSpec;
pub use embed::EmbedSpec;
pub use gather_rows::GatherRowsSpec;
pub use gemm::GemmSpec;
pub use gemm_batch::GemmBatchSpec;
pub use gemv::GemvSpec;
pub use gemv_glu::GemvGluSpec;
pub use glu::GluSpec;
pub use kv_write::KvWriteSpec;
pub use rms_norm::RmsNormSpec;
pub use rope::{RopeKind, RopeSpec};
pub use sample::{SampleParams, SampleSpec};
pub use stream_read::StreamReadSpec;
pub use variant::{Arithmetic, GemvVariant, ParseVariantError};
pub use weights::{Plane, WeightFormat, planes};

/// Representative kernels of every family for a target, in a fixed order with unique names:
/// what golden files, ptxas and the listing on the command line go through.
pub fn library(target: Target) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    kernels.extend(add::representative(target).iter().map(AddSpec::kernel));
    kernels.extend(
        rms_norm::representative(target)
            .iter()
            .map(RmsNormSpec::kernel),
    );
    kernels.extend(
        advance::representative(target)
            .iter()
            .map(AdvanceSpec::kernel),
    );
    kernels.extend(
        argmax::representative(target)
            .iter()
            .map(ArgmaxSpec::kernel),
    );
    kernels.extend(
        gather_rows::representative(target)
            .iter()
            .map(GatherRowsSpec::kernel),
    );
    kernels.extend(glu::representative(target).iter().map(GluSpec::kernel));
    kernels.extend(
        kv_write::representative(target)
            .iter()
            .map(KvWriteSpec::kernel),
    );
    kernels.extend(rope::representative(target).iter().map(RopeSpec::kernel));
    kernels.extend(embed::representative(target).iter().map(EmbedSpec::kernel));
    kernels.extend(gemv::representative(target).iter().map(GemvSpec::kernel));
    kernels.extend(
        gemv_glu::representative(target)
            .iter()
            .map(GemvGluSpec::kernel),
    );
    kernels.extend(gemm::representative(target).iter().map(GemmSpec::kernel));
    let batches = gemm_batch::representative(target);
    kernels.extend(batches.iter().map(GemmBatchSpec::kernel));
    kernels.extend(
        stream_read::representative(target)
            .iter()
            .map(StreamReadSpec::kernel),
    );
    for sampler in sample::representative(target) {
        kernels.extend([sampler.filter_kernel(), sampler.draw_kernel()]);
    }
    let attention = attention::representative(target);
    kernels.extend(attention.iter().map(AttentionSpec::kernel));
    let decodes = attention_decode::representative(target);
    kernels.extend(decodes.iter().map(AttentionDecodeSpec::kernel));
    let merges = attention_merge::representative(target);
    kernels.extend(merges.iter().map(AttentionMergeSpec::kernel));
    let flashes = attention_flash::representative(target);
    kernels.extend(flashes.iter().map(AttentionFlashSpec::kernel));
    kernels
}
