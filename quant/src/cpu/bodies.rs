//! The portable bodies, compiled again for an instruction set.
//!
//! A function compiled for a feature may use its vectors wherever the compiler finds a use for
//! them; only what it does not find is written with intrinsics, in the module of the set.

/// Defines the functions that every instruction set has from the portable bodies. The module that
/// invokes it brings `Format`, `Shape`, `Unpacked`, `unpack` and its own `expand` and
/// `expand_halves`.
macro_rules! portable_bodies {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        pub(super) fn quantize(x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [[i32; 2]]) {
            crate::cpu::activations::quantize_blocks(x, q, d, s);
        }

        #[target_feature(enable = $features)]
        pub(super) fn squares(row: &[f32], scales: &[f32]) -> crate::cpu::outliers::Squares {
            crate::cpu::outliers::squares(row, scales)
        }

        #[target_feature(enable = $features)]
        pub(super) fn softmax(x: &mut [f32]) {
            crate::cpu::floats::softmax_body::<crate::cpu::floats::Fused>(x);
        }

        #[target_feature(enable = $features)]
        pub(super) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
            crate::cpu::floats::silu_mul_body::<crate::cpu::floats::Fused>(gate, up, out);
        }

        #[target_feature(enable = $features)]
        pub(super) fn gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
            crate::cpu::floats::gelu_mul_body::<crate::cpu::floats::Fused>(gate, up, out);
        }

        #[target_feature(enable = $features)]
        pub(super) fn sum_squares(x: &[f32]) -> f64 {
            crate::cpu::floats::sum_squares_body(x)
        }

        #[target_feature(enable = $features)]
        pub(super) fn unpack_row(format: Format, row: &[u8], out: Unpacked<'_>) {
            unpack::unpack_row(format, row, out);
        }

        #[target_feature(enable = $features)]
        pub(super) fn expand_row(format: Format, row: &[u8], parts: Unpacked<'_>, out: &mut [f32]) {
            match Shape::of(format) {
                Some(shape) => {
                    let Unpacked {
                        q,
                        scales,
                        mins,
                        stride,
                    } = parts;
                    unpack::unpack_row(
                        format,
                        row,
                        Unpacked {
                            q,
                            scales,
                            mins,
                            stride,
                        },
                    );
                    expand(
                        shape,
                        Unpacked {
                            q,
                            scales,
                            mins,
                            stride,
                        },
                        out,
                    );
                }
                None if format == Format::F16 => expand_halves(row, out),
                None => crate::cpu::expand::expand_floats(format, row, out),
            }
        }
    };
}

pub(super) use portable_bodies;
