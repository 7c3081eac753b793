//! The library kernels that lowering uses, as one type.
//!
//! Two launches share a compiled kernel exactly when their specs are equal.

use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::kernels::{
    AddSpec, AdvanceSpec, ArgmaxSpec, AttentionFlashSpec, AttentionMergeSpec, AttentionSpec,
    EmbedSpec, GatherRowsSpec, GemmSpec, GemvGluSpec, GemvSpec, GluSpec, KvWriteSpec, RmsNormSpec,
    RopeSpec,
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
    Advance(AdvanceSpec),
    Argmax(ArgmaxSpec),
    Attention(AttentionSpec),
    AttentionFlash(AttentionFlashSpec),
    AttentionMerge(AttentionMergeSpec),
    Embed(EmbedSpec),
    GatherRows(GatherRowsSpec),
    Gemm(GemmSpec),
    Gemv(GemvSpec),
    GemvGlu(GemvGluSpec),
    Glu(GluSpec),
    KvWrite(KvWriteSpec),
    RmsNorm(RmsNormSpec),
    Rope(RopeSpec),
}
