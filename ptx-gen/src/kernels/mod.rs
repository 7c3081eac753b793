//! The kernel library: every kernel a plan is lowered to.
//!
//! A family is a folder, a kernel one of its files: a `Spec` struct with every number that the text
//! depends on, and its methods `kernel()` (the PTX), `grid(..)` (the launch) and `bytes(..)` (what
//! it moves). Activations are f32 and row-major, `[rows, dim]`.
//!
//! | family | what it holds |
//! |---|---|
//! | `attention` | attention over a paged cache, and the merge of its parts |
//! | `cache` | keys and values of a step on their way to the cache |
//! | `elementwise` | sums, norms, gates, rotations, look-ups |
//! | `product` | weights times activations |
//! | `weights` | formats of weights, and how lanes read them |
//! | `sample` | from logits to the next token and the next step |

mod attention;
mod cache;
mod elementwise;
mod product;
mod sample;
mod stream_read;
mod weights;

use crate::ir::Kernel;
use crate::target::Target;

pub use attention::{AttentionDecodeSpec, AttentionFlashSpec, AttentionMergeSpec, AttentionSpec};
pub use cache::{KvType, KvWriteSpec};
pub use elementwise::{
    Activation, AddSpec, EmbedSpec, GatherRowsSpec, GluSpec, RmsNormSpec, RopeKind, RopeSpec,
};
pub use product::{
    Arithmetic, GemmBatchSpec, GemmSpec, GemvGluSpec, GemvSpec, GemvVariant, ParseVariantError,
};
pub use sample::math as sample_math;
pub use sample::{AdvanceSpec, ArgmaxSpec, SampleParams, SampleSpec};
pub use stream_read::StreamReadSpec;
pub use weights::{Plane, WeightFormat, planes};

/// Representative kernels of every family for a target, in a fixed order with unique names:
/// what golden files, ptxas and the listing on the command line go through.
pub fn library(target: Target) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    macro_rules! add {
        ($($family:ident$(::$module:ident)?: $($kernel:ident),+;)*) => {
            $(for spec in $family$(::$module)?::representative(target) {
                kernels.extend([$(spec.$kernel()),+]);
            })*
        };
    }
    add! {
        elementwise::add: kernel;
        elementwise::rms_norm: kernel;
        sample::advance: kernel;
        sample::argmax: kernel;
        elementwise::gather_rows: kernel;
        elementwise::glu: kernel;
        cache::kv_write: kernel;
        elementwise::rope: kernel;
        elementwise::embed: kernel;
        product::gemv: kernel;
        product::gemv_glu: kernel;
        product::gemm: kernel;
        product::gemm_batch: kernel;
        stream_read: kernel;
        sample::sampler: filter_kernel, draw_kernel;
        attention::plain: kernel;
        attention::decode: kernel;
        attention::merge: kernel;
        attention::flash: kernel;
    }
    kernels
}
