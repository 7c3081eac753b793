//! The library kernels of a step, as one type: those that lowering uses, and those that follow a
//! step where the device itself chooses its tokens.
//!
//! Two launches share a compiled kernel exactly when their specs are equal.

use gannet_ptx_gen::ir::{Kernel, Param};
use gannet_ptx_gen::kernels::{
    AddSpec, AdvanceSpec, ArgmaxSpec, AttentionDecodeSpec, AttentionFlashSpec, AttentionMergeSpec,
    AttentionSpec, EmbedSpec, FeedSpec, GatherRowsSpec, GemmBatchSpec, GemmSpec, GemvGluSpec,
    GemvSpec, GluSpec, KvWriteSpec, LayerNormSpec, MapSpec, NormAddNormSpec, RmsNormSpec, RopeSpec,
    SampleSpec,
};

use super::Activations;
use super::schedule::Overlap;

macro_rules! kernel_specs {
    ($($name:ident($spec:ty): $bytes_at:path, $activations:path, $overlap:path;)*) => {
        /// A kernel of the library with its constants.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "each variant wraps the spec that documents it")]
        pub enum KernelSpec {
            $($name($spec),)*
        }

        impl KernelSpec {
            /// The name of its variant: what messages call it, without its constants.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(KernelSpec::$name(_) => stringify!($name),)*
                }
            }

            /// Writes the kernel.
            #[must_use]
            pub fn kernel(&self) -> Kernel {
                match self {
                    $(KernelSpec::$name(spec) => spec.kernel(),)*
                }
            }

            /// Its parameters in order.
            #[must_use]
            pub fn params(&self) -> Vec<Param> {
                match self {
                    $(KernelSpec::$name(spec) => spec.params(),)*
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

            /// Bytes moved in a step whose rows see that many keys, for kernels of which that
            /// depends on it; 0 marks a row that does nothing.
            #[must_use]
            pub fn bytes_at(&self, lengths: &[u32]) -> Option<u64> {
                match self {
                    $(KernelSpec::$name(spec) => $bytes_at(spec, lengths),)*
                }
            }

            /// What it rounds the activations of matrix products to; of a kernel that multiplies no
            /// matrices as if it rounded nothing.
            #[must_use]
            pub fn activations(&self) -> Activations {
                match self {
                    $(KernelSpec::$name(spec) => $activations(spec),)*
                }
            }

            /// Has it overlap with the launches beside it, as far as it knows to.
            pub(super) fn overlap(&mut self, overlap: Overlap) {
                match self {
                    $(KernelSpec::$name(spec) => $overlap(spec, overlap),)*
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

// A line for each kernel: its bytes by what rows see, what it rounds activations to, how it overlaps.
kernel_specs! {
    Add(AddSpec): by_rows, rounds_nothing, alone;
    Advance(Advance): by_rows, rounds_nothing, alone;
    Argmax(ArgmaxSpec): by_rows, rounds_nothing, alone;
    Attention(AttentionSpec): seen_by_each, rounds_nothing, alone;
    AttentionDecode(AttentionDecodeSpec): seen_by_each_decode, rounds_nothing, loads_ahead;
    AttentionFlash(AttentionFlashSpec): seen_by_all, rounds_nothing, alone;
    AttentionMerge(AttentionMergeSpec): by_rows, rounds_nothing, alone;
    Embed(EmbedSpec): by_rows, rounds_nothing, alone;
    Feed(FeedSpec): by_rows, rounds_nothing, alone;
    GatherRows(GatherRowsSpec): by_rows, rounds_nothing, alone;
    Gemm(GemmSpec): by_rows, of_gemm, alone;
    GemmBatch(GemmBatchSpec): by_rows, of_gemm_batch, alone;
    Gemv(GemvSpec): by_rows, of_gemv, hands_over;
    GemvGlu(GemvGluSpec): by_rows, of_gemv_glu, alone;
    Glu(GluSpec): by_rows, rounds_nothing, alone;
    KvWrite(KvWriteSpec): appended, rounds_nothing, alone;
    LayerNorm(LayerNormSpec): by_rows, rounds_nothing, alone;
    Map(MapSpec): by_rows, rounds_nothing, alone;
    NormAddNorm(NormAddNormSpec): by_rows, rounds_nothing, alone;
    RmsNorm(RmsNormSpec): by_rows, rounds_nothing, alone;
    Rope(RopeSpec): by_rows, rounds_nothing, alone;
    SampleDraw(SampleDraw): by_rows, rounds_nothing, alone;
    SampleFilter(SampleFilter): by_rows, rounds_nothing, alone;
}

fn by_rows<T>(_: &T, _: &[u32]) -> Option<u64> {
    None
}

fn live(lengths: &[u32]) -> u64 {
    lengths.iter().filter(|&&l| l > 0).count() as u64
}

/// Keys that all rows together see.
fn seen(lengths: &[u32], window: Option<u32>) -> u64 {
    let keys = lengths.iter().map(|&l| window.map_or(l, |w| l.min(w)));
    keys.map(u64::from).sum()
}

fn seen_by_each(spec: &AttentionSpec, lengths: &[u32]) -> Option<u64> {
    Some(spec.bytes_at(live(lengths), seen(lengths, spec.shape.window)))
}

fn seen_by_each_decode(spec: &AttentionDecodeSpec, lengths: &[u32]) -> Option<u64> {
    Some(spec.bytes_at(live(lengths), seen(lengths, spec.shape.window)))
}

/// Rows of one sequence: what the last one sees, and behind a window what the first one does.
fn seen_by_all(spec: &AttentionFlashSpec, lengths: &[u32]) -> Option<u64> {
    let live = live(lengths);
    let last = u64::from(lengths.last().copied().unwrap_or(0));
    let window = spec
        .shape
        .window
        .map_or(last, |w| (u64::from(w) + live).saturating_sub(1));
    Some(spec.bytes_at(live, last.min(window)))
}

fn appended(spec: &KvWriteSpec, lengths: &[u32]) -> Option<u64> {
    Some(spec.bytes(live(lengths)))
}

fn rounds_nothing<T>(_: &T) -> Activations {
    Activations::Float
}

// A product without a variant has the default one.
fn of_gemv(spec: &GemvSpec) -> Activations {
    Activations::of(spec.variant.unwrap_or(spec.default_variant()))
}

fn of_gemv_glu(spec: &GemvGluSpec) -> Activations {
    Activations::of(spec.variant.unwrap_or(spec.default_variant()))
}

fn of_gemm(spec: &GemmSpec) -> Activations {
    Activations::on_tensor_cores(spec.format)
}

fn of_gemm_batch(spec: &GemmBatchSpec) -> Activations {
    Activations::on_tensor_cores(spec.format)
}

fn alone<T>(_: &mut T, _: Overlap) {}

fn hands_over(spec: &mut GemvSpec, overlap: Overlap) {
    spec.hands_over = overlap.hands_over;
}

fn loads_ahead(spec: &mut AttentionDecodeSpec, overlap: Overlap) {
    spec.overlaps = overlap.loads_ahead;
}

/// [`AdvanceSpec`], whose rows are its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Advance(pub AdvanceSpec);

impl Advance {
    fn kernel(&self) -> Kernel {
        self.0.kernel()
    }

    fn params(&self) -> Vec<Param> {
        self.0.params()
    }

    fn grid(&self, _: u32) -> [u32; 3] {
        self.0.grid()
    }

    fn bytes(&self, _: u64) -> u64 {
        self.0.bytes()
    }
}

/// The kernel of a [`SampleSpec`] that draws.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleDraw(pub SampleSpec);

impl SampleDraw {
    fn kernel(&self) -> Kernel {
        self.0.draw_kernel()
    }

    fn params(&self) -> Vec<Param> {
        self.0.draw_params()
    }

    fn grid(&self, rows: u32) -> [u32; 3] {
        self.0.draw_grid(rows)
    }

    fn bytes(&self, rows: u64) -> u64 {
        // Both read every logit.
        self.0.bytes(rows) / 2
    }
}

/// The kernel of a [`SampleSpec`] that penalises and filters.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleFilter(pub SampleSpec);

impl SampleFilter {
    fn kernel(&self) -> Kernel {
        self.0.filter_kernel()
    }

    fn params(&self) -> Vec<Param> {
        self.0.filter_params()
    }

    fn grid(&self, rows: u32) -> [u32; 3] {
        self.0.filter_grid(rows)
    }

    fn bytes(&self, rows: u64) -> u64 {
        self.0.bytes(rows) / 2
    }
}

#[cfg(test)]
mod tests {
    use gannet_ptx_gen::kernels::{AttentionShape, KvType};
    use gannet_ptx_gen::target::Target;

    use super::*;

    fn few(window: Option<u32>) -> AttentionSpec {
        AttentionSpec {
            target: Target::Sm80,
            shape: AttentionShape {
                num_heads: 8,
                num_kv_heads: 2,
                head_dim: 64,
                block_tokens: 32,
                max_blocks: 128,
                kv_type: KvType::F16,
                scale: 0.125,
                softcap: None,
                window,
            },
            splits: 4,
        }
    }

    /// What attention reads of a cache grows with the keys that rows see, not with the table.
    #[test]
    fn attention_moves_what_its_rows_see() {
        let spec = KernelSpec::from(few(None));
        let at = |lengths: &[u32]| spec.bytes_at(lengths).unwrap();
        // A key and a value of two heads of 64 halves.
        let key = 2 * 2 * 64 * 2;
        assert_eq!(at(&[11]) - at(&[10]), key);
        assert_eq!(at(&[100, 30, 0, 0]), at(&[65, 65]));
        assert_eq!(at(&[4096, 4096]), spec.bytes(2));
        assert!(at(&[10]) < spec.bytes(1) / 50);
        let near = KernelSpec::from(few(Some(32)));
        assert_eq!(near.bytes_at(&[1000]), near.bytes_at(&[32]));
        assert_eq!(near.bytes_at(&[1000]), Some(near.bytes(1)));
    }

    #[test]
    fn a_prompt_reads_its_cache_once() {
        let flash = |window| {
            let AttentionSpec { target, shape, .. } = few(window);
            KernelSpec::from(AttentionFlashSpec {
                target,
                shape,
                split_queries: false,
            })
        };
        let lengths = |from: u32| (from + 1..=from + 100).collect::<Vec<_>>();
        let whole = flash(None);
        assert_eq!(whole.bytes_at(&lengths(0)), Some(whole.bytes(100)));
        let key = 2 * 2 * 64 * 2;
        let behind = whole.bytes_at(&lengths(50));
        assert_eq!(behind, Some(whole.bytes(100) + 50 * key));
        assert_eq!(flash(Some(51)).bytes_at(&lengths(900)), behind);
    }

    #[test]
    fn dead_rows_write_no_keys() {
        let spec = KvWriteSpec {
            target: Target::Sm80,
            num_kv_heads: 2,
            head_dim: 64,
            block_tokens: 32,
            max_blocks: 4,
            kv_type: KvType::Int8,
            rope: None,
        };
        let bytes = spec.bytes(2);
        let spec = KernelSpec::from(spec);
        assert_eq!(spec.bytes_at(&[3, 0, 7, 0]), Some(bytes));
        assert_eq!(
            KernelSpec::from(AddSpec {
                target: Target::Sm80
            })
            .bytes_at(&[1]),
            None
        );
    }
}
