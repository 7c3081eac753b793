//! Which type each tensor of a model gets.
//!
//! A mix is named after the files that people download. Plain ones use one type for all matrices;
//! the others follow llama.cpp's quantiser without an importance matrix, so that a made-up model
//! has the bytes of a real one. In every mix norms, biases and rope factors are F32.
//!
//! | mix | most matrices | head | attn_v | attn_output | ffn_down |
//! |---|---|---|---|---|---|
//! | `f32`, `f16`, `bf16`, `q8_0`, `q6_k` | the type | the type | | | |
//! | `q4_0`, `q4_1`, `q5_0`, `q5_1` | the type | Q6_K | | | |
//! | `q4_k_m` | Q4_K | Q6_K | Q6_K in *important* layers | | Q6_K in *important* layers |
//! | `q5_k_m` | Q5_K | Q6_K | Q6_K in *important* layers | | Q6_K in *important* layers |
//! | `q3_k_m` | Q3_K | Q6_K | Q5_K in the first two layers, else Q4_K | Q4_K | Q5_K in the first sixteenth, else Q4_K |
//! | `q2_k` | Q2_K | Q6_K | Q4_K (Q3_K with fewer than 4 query heads for a kv head) | Q3_K | Q3_K |
//! | `mxfp4` | the type | Q8_0 | | | |
//! | `iq4_nl`, `iq4_xs` | the type | Q6_K | Q5_K (from 4 query heads for a kv head) | | Q5_K in the first eighth |
//! | `nvfp4` | the type | Q8_0 | | | |
//! | `iq1_s`, `iq1_m` | the type | Q5_K | Q4_K (from 4 query heads for a kv head), else Q2_K | IQ2_XXS | Q2_K in the first eighth |
//! | `iq2_xxs`, `iq2_xs` | the type | Q5_K | as above | | Q2_K in the first eighth |
//! | `iq2_m` | IQ2_S | Q5_K | Q4_K (from 4 query heads for a kv head), else IQ3_S | IQ3_S | IQ3_S in the first eighth |
//! | `iq3_xxs` | the type | Q5_K | Q4_K (from 4 query heads for a kv head) | IQ3_S | |
//! | `iq3_s` | the type | Q6_K | Q4_K (from 4 query heads for a kv head) | | |
//! | `tq1_0`, `tq2_0` | the type | Q6_K | | | |
//!
//! Real files give MXFP4 to experts alone, and Q8_0 to all else; `mxfp4` gives it to every matrix. Those of
//! IQ1 to IQ3 are made with an importance matrix; `iq3_xxs` files have IQ2_S for `attn_q` and `attn_k`, which
//! have the type here. A table of embeddings that is not the head has Q2_K in `iq1_s` to `iq2_xs`, IQ3_S in
//! `iq2_m` and `iq3_xxs`, Q4_K in `tq1_0` and `tq2_0`.
//!
//! Where Q, K and V are one tensor it is Q4_K in `q3_k_m`, Q5_K in `q4_k_m` and Q6_K in `q5_k_m`.
//!
//! The head is `output.weight`, or `token_embd.weight` where the two are tied. Of `n` layers, layer
//! `i` is important if `i < n/8`, or `i >= 7n/8`, or `(i - n/8) % 3 == 2`.

use std::fmt;
use std::str::FromStr;

use gannet_quant::Format;

use super::Error;
use super::shape::{Role, Shape};

macro_rules! mixes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $base:ident, $file_type:literal;)*) => {
        /// The types of a model's tensors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "these are the field's names")]
        #[non_exhaustive]
        pub enum TypeMix {
            $($(#[$doc])* $variant,)*
        }

        impl TypeMix {
            /// Every mix.
            pub const ALL: &'static [TypeMix] = &[$(TypeMix::$variant,)*];

            /// The name on a command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(TypeMix::$variant => $name,)* }
            }

            /// The type of most matrices.
            fn base(self) -> Format {
                match self { $(TypeMix::$variant => Format::$base,)* }
            }

            /// `general.file_type`: llama.cpp's number of the mix.
            pub(super) fn file_type(self) -> u32 {
                match self { $(TypeMix::$variant => $file_type,)* }
            }
        }
    };
}

mixes! {
    /// Single precision.
    F32 = "f32", F32, 0;
    /// Half precision.
    F16 = "f16", F16, 1;
    /// bfloat16.
    BF16 = "bf16", BF16, 32;
    /// 8 bits.
    Q8_0 = "q8_0", Q8_0, 7;
    /// 4 bits.
    Q4_0 = "q4_0", Q4_0, 2;
    /// 4 bits with minima.
    Q4_1 = "q4_1", Q4_1, 3;
    /// 5 bits.
    Q5_0 = "q5_0", Q5_0, 8;
    /// 5 bits with minima.
    Q5_1 = "q5_1", Q5_1, 9;
    /// 6 bits.
    Q6_K = "q6_k", Q6_K, 18;
    /// 5 bits, some 6.
    Q5_K_M = "q5_k_m", Q5_K, 17;
    /// 4 bits, some 6: what most people run.
    Q4_K_M = "q4_k_m", Q4_K, 15;
    /// 3 bits, some 4 and 5.
    Q3_K_M = "q3_k_m", Q3_K, 12;
    /// 2 bits, some 3 and 4.
    Q2_K = "q2_k", Q2_K, 10;
    /// 4 bits into an uneven table.
    IQ4_NL = "iq4_nl", IQ4_NL, 25;
    /// The same in super-blocks.
    IQ4_XS = "iq4_xs", IQ4_XS, 30;
    /// 4-bit floats.
    MXFP4 = "mxfp4", MXFP4, 38;
    /// 4-bit floats with finer scales.
    NVFP4 = "nvfp4", NVFP4, 39;
    /// Codebook, 1.6 bits.
    IQ1_S = "iq1_s", IQ1_S, 24;
    /// Codebook, 1.8 bits.
    IQ1_M = "iq1_m", IQ1_M, 31;
    /// Codebook, 2.1 bits.
    IQ2_XXS = "iq2_xxs", IQ2_XXS, 19;
    /// Codebook, 2.3 bits.
    IQ2_XS = "iq2_xs", IQ2_XS, 20;
    /// Codebook, 2.6 bits, some 3.4.
    IQ2_M = "iq2_m", IQ2_S, 29;
    /// Codebook, 3.1 bits.
    IQ3_XXS = "iq3_xxs", IQ3_XXS, 23;
    /// Codebook, 3.4 bits.
    IQ3_S = "iq3_s", IQ3_S, 26;
    /// Ternary, 1.7 bits.
    TQ1_0 = "tq1_0", TQ1_0, 36;
    /// Ternary, 2.1 bits.
    TQ2_0 = "tq2_0", TQ2_0, 37;
}

impl fmt::Display for TypeMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TypeMix {
    type Err = Error;

    fn from_str(name: &str) -> Result<TypeMix, Error> {
        let known = Self::ALL.iter().copied();
        known
            .clone()
            .find(|m| m.name() == name)
            .ok_or_else(|| Error::unknown("type", name, known))
    }
}

impl TypeMix {
    /// The type of a tensor.
    pub(super) fn format(self, role: Role, shape: &Shape) -> Format {
        match role {
            Role::Norm | Role::OutputNorm | Role::Bias | Role::RopeFactors => Format::F32,
            Role::Output | Role::Embedding { is_tied: true } => self.head(),
            Role::Matrix => self.base(),
            Role::Embedding { is_tied: false } => self.embedding(),
            Role::FusedQkv => self.fused_qkv(),
            Role::Value { layer } => self.value(layer, shape),
            Role::AttentionOutput => self.attention_output(),
            Role::Down { layer } => self.down(layer, shape),
        }
    }

    fn head(self) -> Format {
        match self.base() {
            base @ (Format::F32 | Format::F16 | Format::BF16 | Format::Q8_0) => base,
            Format::MXFP4 | Format::NVFP4 => Format::Q8_0,
            Format::IQ1_S | Format::IQ1_M => Format::Q5_K,
            Format::IQ2_XXS | Format::IQ2_XS | Format::IQ2_S | Format::IQ3_XXS => Format::Q5_K,
            _ => Format::Q6_K,
        }
    }

    /// Of a table that is not the head as well.
    fn embedding(self) -> Format {
        match self {
            TypeMix::IQ1_S | TypeMix::IQ1_M | TypeMix::IQ2_XXS | TypeMix::IQ2_XS => Format::Q2_K,
            TypeMix::IQ2_M | TypeMix::IQ3_XXS => Format::IQ3_S,
            TypeMix::TQ1_0 | TypeMix::TQ2_0 => Format::Q4_K,
            _ => self.base(),
        }
    }

    fn value(self, layer: usize, shape: &Shape) -> Format {
        let shares_kv = shape.num_heads / shape.num_kv_heads >= 4;
        match self {
            TypeMix::Q4_K_M | TypeMix::Q5_K_M => self.important(layer, shape),
            TypeMix::Q3_K_M if layer < 2 => Format::Q5_K,
            TypeMix::Q3_K_M => Format::Q4_K,
            TypeMix::Q2_K if shares_kv => Format::Q4_K,
            TypeMix::Q2_K => Format::Q3_K,
            TypeMix::IQ4_NL | TypeMix::IQ4_XS if shares_kv => Format::Q5_K,
            TypeMix::IQ1_S | TypeMix::IQ1_M | TypeMix::IQ2_XXS | TypeMix::IQ2_XS => {
                if shares_kv {
                    Format::Q4_K
                } else {
                    Format::Q2_K
                }
            }
            TypeMix::IQ2_M | TypeMix::IQ3_XXS | TypeMix::IQ3_S if shares_kv => Format::Q4_K,
            TypeMix::IQ2_M => Format::IQ3_S,
            _ => self.base(),
        }
    }

    fn fused_qkv(self) -> Format {
        match self {
            TypeMix::Q3_K_M => Format::Q4_K,
            TypeMix::Q4_K_M => Format::Q5_K,
            TypeMix::Q5_K_M => Format::Q6_K,
            _ => self.base(),
        }
    }

    fn attention_output(self) -> Format {
        match self {
            TypeMix::Q3_K_M => Format::Q4_K,
            TypeMix::Q2_K => Format::Q3_K,
            TypeMix::IQ1_S | TypeMix::IQ1_M => Format::IQ2_XXS,
            TypeMix::IQ2_M | TypeMix::IQ3_XXS => Format::IQ3_S,
            _ => self.base(),
        }
    }

    fn down(self, layer: usize, shape: &Shape) -> Format {
        match self {
            TypeMix::Q4_K_M | TypeMix::Q5_K_M => self.important(layer, shape),
            TypeMix::Q3_K_M if layer < shape.num_layers / 16 => Format::Q5_K,
            TypeMix::Q3_K_M => Format::Q4_K,
            TypeMix::Q2_K => Format::Q3_K,
            _ if layer >= shape.num_layers / 8 => self.base(),
            TypeMix::IQ4_NL | TypeMix::IQ4_XS => Format::Q5_K,
            TypeMix::IQ1_S | TypeMix::IQ1_M | TypeMix::IQ2_XXS | TypeMix::IQ2_XS => Format::Q2_K,
            TypeMix::IQ2_M => Format::IQ3_S,
            _ => self.base(),
        }
    }

    /// Q6_K in important layers, the base type in others.
    fn important(self, layer: usize, shape: &Shape) -> Format {
        let (n, eighth) = (shape.num_layers, shape.num_layers / 8);
        if layer < eighth || layer >= 7 * n / 8 || (layer - eighth) % 3 == 2 {
            Format::Q6_K
        } else {
            self.base()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::synth::ShapeName;

    /// Bytes of all tensors.
    fn bytes(name: ShapeName, mix: TypeMix) -> usize {
        let shape = name.shape();
        let bytes = |t: &super::super::shape::Tensor| {
            t.rows * mix.format(t.role, &shape).row_bytes(t.cols).unwrap()
        };
        shape.tensors().iter().map(bytes).sum()
    }

    #[test]
    fn models_weigh_what_real_files_weigh() {
        // Tensor bytes of published files, in MB; their vocabularies are the rest of the file.
        let cases = [
            (ShapeName::Llama31_8B, TypeMix::Q4_K_M, 4912.9),
            (ShapeName::Llama31_8B, TypeMix::Q8_0, 8532.9),
            (ShapeName::Qwen25_1_5B, TypeMix::Q4_K_M, 980.1),
            (ShapeName::Llama32_1B, TypeMix::Q4_K_M, 799.9),
        ];
        for (name, mix, expected) in cases {
            let found = bytes(name, mix) as f64 / 1e6;
            eprintln!("{name} {mix}: {found} MB");
            assert!(
                (found / expected - 1.0).abs() < 2e-3,
                "{name} {mix}: {found} MB"
            );
        }
    }

    #[test]
    fn names_are_read_back() {
        for &mix in TypeMix::ALL {
            assert_eq!(mix.name().parse::<TypeMix>().unwrap(), mix);
        }
        assert!(
            "q4_k"
                .parse::<TypeMix>()
                .unwrap_err()
                .to_string()
                .contains("q4_k_m")
        );
    }
}
