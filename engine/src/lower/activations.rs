//! To what the products of a unit round their activations, and what that may cost.
//!
//! It is known before anything runs: on a GPU from the variants of a unit's launches and from what its
//! weights are converted to, on the CPU from the weights' format. Whoever holds a unit against another takes its limit from here.

use gannet_ptx_gen::kernels::{Arithmetic, GemvVariant, WeightFormat};
use gannet_quant::{Format, repack};

use crate::settings::Precision;

/// What matrix products round activations to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Activations {
    /// Nothing, or sums of two terms of 16 bits, which come to nearly the same.
    #[default]
    Float,
    /// Numbers of f16.
    Half,
    /// Bytes, with a scale for each few columns.
    Int8,
}

impl Activations {
    /// Largest NMSE of a product against that of the same weights and unrounded activations.
    #[must_use]
    pub const fn limit(self) -> f64 {
        match self {
            Activations::Float => Arithmetic::F32.limit(),
            Activations::Half => Arithmetic::F16x2.limit(),
            Activations::Int8 => Arithmetic::Dp4a.limit(),
        }
    }

    /// Those of a variant of products.
    pub(super) fn of(variant: GemvVariant) -> Activations {
        match variant.arithmetic {
            Arithmetic::F32 => Activations::Float,
            Arithmetic::F16x2 => Activations::Half,
            Arithmetic::Dp4a => Activations::Int8,
        }
    }

    /// Those of a product on tensor cores.
    pub(super) fn on_tensor_cores(weights: WeightFormat) -> Activations {
        match weights {
            WeightFormat::F32 => Activations::Float,
            _ => Activations::Half,
        }
    }

    /// Those of a product on a GPU of weights that are converted for it: where they are rounded to f16, it
    /// costs what rounding activations to f16 does.
    pub(super) fn of_converted(weights: Format) -> Activations {
        match repack::is_exact_on_gpu(weights) {
            true => Activations::Float,
            false => Activations::Half,
        }
    }

    /// Those of a product on the CPU.
    pub(crate) fn on_cpu(precision: Precision, weights: Format) -> Activations {
        match (precision, weights.block_len()) {
            // Weights that are plain floats are multiplied as such.
            (Precision::Exact, _) | (Precision::Fast, 1) => Activations::Float,
            (Precision::Fast, _) => Activations::Int8,
        }
    }
}

#[cfg(test)]
mod tests {
    use gannet_ptx_gen::kernels::{Activation, AddSpec, Epilogue, GemmSpec, GemvGluSpec, GemvSpec};
    use gannet_ptx_gen::target::Target;

    use super::*;
    use crate::lower::KernelSpec;

    #[test]
    fn a_kernel_says_what_it_rounds_to_and_its_variant_the_limit() {
        let product = |variant| GemvSpec {
            target: Target::Sm80,
            format: WeightFormat::Q4K,
            rows: 256,
            cols: 512,
            tokens_per_block: 1,
            epilogue: Epilogue {
                bias: false,
                residual: true,
            },
            hands_over: false,
            variant,
        };
        let gated = |variant| GemvGluSpec {
            target: Target::Sm80,
            gate: WeightFormat::Q4K,
            up: WeightFormat::Q6K,
            rows: 256,
            cols: 512,
            tokens_per_block: 1,
            activation: Activation::Silu,
            variant,
        };
        let mut seen = Vec::new();
        for variant in product(None).variants() {
            let found = KernelSpec::from(product(Some(variant))).activations();
            assert_eq!(found, KernelSpec::from(gated(Some(variant))).activations());
            assert_eq!(found.limit(), variant.limit(), "{variant}");
            seen.push(found);
        }
        let each = [Activations::Float, Activations::Half, Activations::Int8];
        assert!(each.iter().all(|one| seen.contains(one)));
        let gemm = |format| GemmSpec {
            target: Target::Sm80,
            format,
            rows: 256,
            cols: 512,
            epilogue: Epilogue::default(),
        };
        for (format, rounded) in [
            (WeightFormat::F32, Activations::Float),
            (WeightFormat::F16, Activations::Half),
            (WeightFormat::Q8_0, Activations::Half),
        ] {
            assert_eq!(KernelSpec::from(gemm(format)).activations(), rounded);
        }
        let target = Target::Sm80;
        for other in [
            KernelSpec::from(product(None)),
            KernelSpec::from(gated(None)),
            KernelSpec::from(AddSpec { target }),
        ] {
            assert_eq!(other.activations(), Activations::Float);
        }
    }

    #[test]
    fn the_cpu_rounds_to_bytes_where_it_is_fast_and_weights_are_blocks() {
        let (exact, fast) = (Precision::Exact, Precision::Fast);
        assert_eq!(Activations::on_cpu(exact, Format::Q4_K), Activations::Float);
        assert_eq!(Activations::on_cpu(fast, Format::F16), Activations::Float);
        assert_eq!(Activations::on_cpu(fast, Format::Q4_K), Activations::Int8);
    }
}
