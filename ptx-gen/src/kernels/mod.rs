//! The kernel library: every kernel a plan is lowered to.
//!
//! A family is a folder, a kernel one of its files: a `Spec` struct with every number that the text
//! depends on, and its methods `kernel()` (the PTX), `params()` (its parameters, from the spec alone),
//! `grid(..)` (the launch) and `bytes(..)` (what it moves). Activations are f32 and row-major,
//! `[rows, dim]`.
//!
//! | family | what it holds |
//! |---|---|
//! | `attention` | attention over a paged cache, and the merge of its parts |
//! | `cache` | keys and values of a step on their way to the cache |
//! | `elementwise` | sums, norms, gates, rotations, look-ups |
//! | `product` | weights times activations |
//! | `weights` | formats of weights, and how lanes read them |
//! | `sample` | from logits to the next token and the next step |
//!
//! Parameters have the same names in every kernel, and a launch may be put together by them:
//!
//! | name | what it is |
//! |---|---|
//! | `x`, `out` | rows that go in and come out |
//! | `w` (`w_gate`, `w_up`), `bias` | weights |
//! | `residual` | rows that are added |
//! | `gate`, `up` | rows of a gated unit |
//! | `q`, `k`, `v` | queries, keys and values of the step |
//! | `keys`, `values`, `table` | the cache's pools, and the blocks of each slot in them |
//! | `tokens`, `lengths`, `slots`, `positions`, `indices` | the step's rows: token, position plus one, slot, position; rows picked |
//! | `angles` | cosines and sines of every position |
//! | `partials`, `counters`, `best_values`, `best_indices` | scratch; counters are zero before and after |
//! | `logits`, `settings`, `history`, `found` | what a sampler looks at, and what its first kernel leaves |
//! | `next`, `steps`, `ring` | what the end of a step writes down |
//! | `n` | rows, or elements of kernels without rows |

mod attention;
mod cache;
mod elementwise;
mod product;
mod sample;
mod split;
mod stream_read;
#[cfg(test)]
mod tests;
mod weights;

use crate::ir::Kernel;
use crate::target::Target;

pub use attention::{
    AttentionDecodeSpec, AttentionFlashSpec, AttentionMergeSpec, AttentionShape, AttentionSpec,
};
pub use cache::{KvType, KvWriteSpec};
pub use elementwise::{
    Activation, AddSpec, EmbedSpec, GatherRowsSpec, GluSpec, LayerNormSpec, Map, MapSpec,
    NormAddNormSpec, RmsNormSpec, RopeKind, RopeSpec,
};
pub use product::{
    Arithmetic, Epilogue, GemmBatchSpec, GemmSpec, GemvGluSpec, GemvSpec, GemvVariant,
    ParseVariantError,
};
pub use sample::math as sample_math;
pub use sample::{AdvanceSpec, ArgmaxSpec, FeedSpec, NO_TOKEN, SampleParams, SampleSpec};
pub use stream_read::StreamReadSpec;
pub use weights::{WeightFormat, WeightPlane, planes};

macro_rules! representatives {
    ($($family:ident$(::$module:ident)?: $($kernel:ident($params:ident)),+;)*) => {
        /// Representative kernels of every family for a target, in a fixed order with unique names:
        /// what golden files, ptxas and the listing on the command line go through.
        pub fn library(target: Target) -> Vec<Kernel> {
            let mut kernels = Vec::new();
            $(for spec in $family$(::$module)?::representative(target) {
                kernels.extend([$(spec.$kernel()),+]);
            })*
            kernels
        }

        /// The parameters that their specs declare, without the kernels.
        #[cfg(test)]
        fn declared(target: Target) -> Vec<Vec<crate::ir::Param>> {
            let mut declared = Vec::new();
            $(for spec in $family$(::$module)?::representative(target) {
                declared.extend([$(spec.$params()),+]);
            })*
            declared
        }
    };
}

// A line for each kernel: where it is, and its methods.
representatives! {
    elementwise::add: kernel(params);
    elementwise::rms_norm: kernel(params);
    elementwise::layer_norm: kernel(params);
    sample::advance: kernel(params);
    sample::argmax: kernel(params);
    sample::feed: kernel(params);
    elementwise::gather_rows: kernel(params);
    elementwise::glu: kernel(params);
    elementwise::map: kernel(params);
    elementwise::norm_add_norm: kernel(params);
    cache::kv_write: kernel(params);
    elementwise::rope: kernel(params);
    elementwise::embed: kernel(params);
    product::gemv: kernel(params);
    product::gemv_glu: kernel(params);
    product::gemm: kernel(params);
    product::gemm_batch: kernel(params);
    stream_read: kernel(params);
    sample::sampler: filter_kernel(filter_params), draw_kernel(draw_params);
    attention::plain: kernel(params);
    attention::decode: kernel(params);
    attention::merge: kernel(params);
    attention::flash: kernel(params);
}
