//! The library kernels that lowering uses, as one type.
//!
//! Two launches share a compiled kernel exactly when their specs are equal.

use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::kernels::{
    AddSpec, ArgmaxSpec, AttentionDecodeSpec, AttentionFlashSpec, AttentionMergeSpec,
    AttentionSpec, EmbedSpec, GatherRowsSpec, GemmBatchSpec, GemmSpec, GemvGluSpec, GemvSpec,
    GluSpec, KvWriteSpec, RmsNormSpec, RopeSpec,
};

macro_rules! kernel_specs {
    ($($(#[$doc:meta])* $name:ident($spec:ty),)*) => {
        /// A kernel of the library with its constants.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "each variant wraps the spec that documents it")]
        pub enum KernelSpec {
            $($name($spec),)*
        }

        impl KernelSpec {
            /// Writes the kernel.
            #[must_use]
            pub fn kernel(&self) -> Kernel {
                match self {
                    $(KernelSpec::$name(spec) => spec.kernel(),)*
                }
            }

            /// Blocks for `n` rows (elements, for kernels without rows).
            #[must_use]
            pub fn grid(&self, n: u32) -> [u32; 3] {
                match self {
                    $(KernelSpec::$name(spec) => spec.grid(n),)*
                }
            }

            /// Bytes moved for `n` rows (elements, for kernels without rows).
            #[must_use]
            pub fn bytes(&self, n: u32) -> u64 {
                match self {
                    $(KernelSpec::$name(spec) => spec.bytes(u64::from(n)),)*
                }
            }
        }

        $(impl From<$spec> for KernelSpec {
            fn from(spec: $spec) -> Self {
                KernelSpec::$name(spec)
            }
        })*
    };
}

kernel_specs! {
    Add(AddSpec),
    Argmax(ArgmaxSpec),
    Attention(AttentionSpec),
    AttentionDecode(AttentionDecodeSpec),
    AttentionFlash(AttentionFlashSpec),
    AttentionMerge(AttentionMergeSpec),
    Embed(EmbedSpec),
    GatherRows(GatherRowsSpec),
    Gemm(GemmSpec),
    GemmBatch(GemmBatchSpec),
    Gemv(GemvSpec),
    GemvGlu(GemvGluSpec),
    Glu(GluSpec),
    KvWrite(KvWriteSpec),
    RmsNorm(RmsNormSpec),
    Rope(RopeSpec),
}
