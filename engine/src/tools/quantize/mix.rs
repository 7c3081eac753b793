//! Which type each tensor of a file gets, by its name.
//!
//! The rules are llama.cpp's (`llama-quant.cpp`, 2026), so that a file has the types that people know
//! under its name. Only matrices are made smaller: tensors of two dimensions and more whose names end in
//! `weight`, but no norms, routers, position embeddings and the small ones of [`KEPT`]. Of those:
//!
//! | target | most | head | attn_v, attn_qkv | attn_output | ffn_down |
//! |---|---|---|---|---|---|
//! | `F16`, `BF16` | the type | the type | | | |
//! | `Q8_0` | Q8_0 | Q8_0 | | | |
//! | `Q6_K` | Q6_K | Q6_K | | | |
//! | `Q5_K_M` | Q5_K | Q6_K | Q6_K in *important* layers | | Q6_K in *important* layers |
//! | `Q4_K_M` | Q4_K | Q6_K | Q6_K in *important* layers | | Q6_K in *important* layers |
//! | `Q4_K_S` | Q4_K | Q6_K | Q5_K in the first 4 | | Q5_K in the first eighth |
//! | `Q3_K_M` | Q3_K | Q6_K | Q5_K in the first 2, else Q4_K | Q4_K | Q5_K in the first sixteenth, else Q4_K |
//! | `Q4_0` | Q4_0 | Q6_K | | | Q4_1 in the first eighth, with an importance matrix |
//! | `IQ4_XS` | IQ4_XS | Q6_K | Q5_K from 4 query heads for a kv head | | Q5_K in the first eighth, without one |
//!
//! Of `n` layers, layer `i` is important if `i < n/8`, or `i >= 7n/8`, or `(i - n/8) % 3 == 2`. The head
//! is `output.weight`, or `token_embd.weight` where there is none. Models of 8 experts have Q8_0 for keys
//! and values and Q5_K for `attn_output`; Llama and Qwen2 of 80 layers with shared kv heads have at least
//! Q5_K for values. A row that is no whole number of blocks gets the type of blocks of 32 that has the
//! most of its quality ([`fallback`]), and F16 where that does not fit either.

use std::fmt;
use std::str::FromStr;

use gannet_gguf::{Metadata, Value};
use gannet_quant::Format;

use crate::files::{Source, SourceTensor};

macro_rules! targets {
    ($($(#[$doc:meta])* $variant:ident = $base:ident, $file_type:literal;)*) => {
        /// What a file is quantised to: the names of the field.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "these are the field's names")]
        #[non_exhaustive]
        pub enum QuantType {
            $($(#[$doc])* $variant,)*
        }

        impl QuantType {
            /// Every target.
            pub const ALL: &'static [QuantType] = &[$(QuantType::$variant,)*];

            /// The name, as the field spells it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(QuantType::$variant => stringify!($variant),)* }
            }

            /// The type of most matrices.
            #[must_use]
            pub fn base(self) -> Format {
                match self { $(QuantType::$variant => Format::$base,)* }
            }

            /// `general.file_type`: llama.cpp's number of the mix.
            #[must_use]
            pub fn file_type(self) -> u32 {
                match self { $(QuantType::$variant => $file_type,)* }
            }
        }
    };
}

targets! {
    /// Half precision.
    F16 = F16, 1;
    /// bfloat16.
    BF16 = BF16, 32;
    /// 8 bits.
    Q8_0 = Q8_0, 7;
    /// 6 bits.
    Q6_K = Q6_K, 18;
    /// 5 bits, some 6.
    Q5_K_M = Q5_K, 17;
    /// 4 bits, some 6: what most people run.
    Q4_K_M = Q4_K, 15;
    /// 4 bits, few 5.
    Q4_K_S = Q4_K, 14;
    /// 3 bits, some 4 and 5.
    Q3_K_M = Q3_K, 12;
    /// 4 bits in blocks of 32.
    Q4_0 = Q4_0, 2;
    /// 4 bits into an uneven table.
    IQ4_XS = IQ4_XS, 30;
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for QuantType {
    type Err = String;

    /// Reads a name in any case.
    fn from_str(name: &str) -> Result<QuantType, String> {
        let found = (Self::ALL.iter()).find(|t| t.name().eq_ignore_ascii_case(name));
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|t| t.name()).collect();
            format!(
                "type {name:?} is unknown; expected one of {}",
                names.join(", ")
            )
        })
    }
}

/// Parts of the names of matrices that stay as they are: they are small, or what they hold is no product.
const KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    "position_embd",
    "token_types",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
];

/// Whether a tensor is made smaller at all.
pub(in crate::tools) fn is_matrix(t: &SourceTensor<'_>) -> bool {
    let dims = t
        .dims
        .iter()
        .rposition(|&d| d > 1)
        .map_or(1, |last| last + 1);
    dims >= 2 && t.name.ends_with("weight") && !KEPT.iter().any(|part| t.name.contains(part))
}

/// The types that a file's tensors get, in its order; `None` for what stays as it is.
pub(super) fn formats(
    source: &dyn Source,
    to: QuantType,
    has_imatrix: bool,
) -> Vec<Option<Format>> {
    let mut rules = Rules::new(source, to, has_imatrix);
    let mut order: Vec<usize> = (0..source.num_tensors()).collect();
    // Layers count in their order, whatever that of the file.
    order.sort_by_key(|&i| {
        let name = source.tensor(i).name;
        (layer_of(name).map_or(0, |layer| layer + 1), name)
    });
    let mut formats = vec![None; order.len()];
    for i in order {
        let tensor = source.tensor(i);
        formats[i] = is_matrix(&tensor).then(|| rules.format(&tensor));
    }
    formats
}

/// `7` of `blk.7.ffn_down.weight`.
fn layer_of(name: &str) -> Option<usize> {
    let (layer, _) = name.strip_prefix("blk.")?.split_once('.')?;
    layer.parse().ok()
}

/// What is known of a file, and how far its layers are counted.
struct Rules {
    to: QuantType,
    has_imatrix: bool,
    is_falcon: bool,
    is_70b: bool,
    is_tied: bool,
    num_layers: usize,
    num_experts: usize,
    /// Query heads for a kv head.
    sharing: usize,
    /// Values of all layers, and those seen.
    values: (usize, usize),
    /// Down projections seen.
    downs: usize,
}

/// The first of numbers, or the only one.
fn first_number(metadata: &Metadata, key: &str) -> Option<usize> {
    let number = |v: Value<'_>| usize::try_from(v.as_int()?).ok();
    match metadata.get(key)? {
        Value::Array(array) => array.iter().next().and_then(number),
        value => number(value),
    }
}

fn is_value(name: &str) -> bool {
    ["attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"]
        .iter()
        .any(|part| name.contains(part))
}

impl Rules {
    fn new(source: &dyn Source, to: QuantType, has_imatrix: bool) -> Rules {
        let metadata = source.metadata();
        let arch = metadata.opt_str("general.architecture").ok().flatten();
        let arch = arch.unwrap_or_default();
        let number = |suffix: &str| first_number(metadata, &format!("{arch}.{suffix}"));
        let num_heads = number("attention.head_count").unwrap_or(1).max(1);
        let num_kv_heads = number("attention.head_count_kv")
            .unwrap_or(num_heads)
            .max(1);
        let num_layers = number("block_count").unwrap_or(0);
        let sharing = num_heads / num_kv_heads;
        Rules {
            to,
            has_imatrix,
            is_falcon: arch == "falcon",
            is_70b: ["llama", "qwen2"].contains(&arch) && num_layers == 80 && sharing > 1,
            is_tied: source.find("output.weight").is_none(),
            num_layers,
            num_experts: number("expert_count").unwrap_or(0),
            sharing,
            values: (
                (0..source.num_tensors())
                    .filter(|&i| is_value(source.tensor(i).name))
                    .count(),
                0,
            ),
            downs: 0,
        }
    }

    fn format(&mut self, t: &SourceTensor<'_>) -> Format {
        let base = self.to.base();
        if base.block_len() == 1 {
            return base;
        }
        let cols = usize::try_from(t.dims[0]).unwrap_or(usize::MAX);
        let name = t.name;
        let is_embedding = ["token_embd.weight", "per_layer_token_embd.weight"].contains(&name);
        let wanted = if name == "output.weight" || self.is_tied && is_embedding {
            self.head(cols)
        } else if is_embedding {
            base
        } else if is_value(name) {
            self.values.1 += 1;
            self.value(self.values.1 - 1)
        } else if name.contains("attn_k.weight") && self.num_experts == 8 {
            Format::Q8_0
        } else if name.contains("attn_output.weight") {
            self.attention_output()
        } else if name.contains("ffn_down") {
            self.downs += 1;
            // Experts of a layer are one tensor or many: their names tell.
            let counted = self.downs - 1;
            self.down(match self.num_experts > 1 {
                true => layer_of(name).unwrap_or(counted),
                false => counted,
            })
        } else {
            base
        };
        fallback(wanted, cols)
    }

    fn head(&self, cols: usize) -> Format {
        let base = self.to.base();
        if self.is_falcon || !cols.is_multiple_of(base.block_len()) || base == Format::Q8_0 {
            return Format::Q8_0;
        }
        Format::Q6_K
    }

    fn value(&self, layer: usize) -> Format {
        let base = self.to.base();
        let of_mix = match self.to {
            QuantType::Q3_K_M if layer < 2 => Format::Q5_K,
            QuantType::Q3_K_M => Format::Q4_K,
            QuantType::IQ4_XS if self.sharing >= 4 => Format::Q5_K,
            QuantType::Q4_K_M | QuantType::Q5_K_M if is_important(layer, self.values.0) => {
                Format::Q6_K
            }
            QuantType::Q4_K_S if layer < 4 => Format::Q5_K,
            _ => base,
        };
        match of_mix {
            _ if self.num_experts == 8 => Format::Q8_0,
            Format::Q3_K | Format::Q4_K if self.is_70b => Format::Q5_K,
            of_mix => of_mix,
        }
    }

    fn attention_output(&self) -> Format {
        match self.to {
            _ if self.is_falcon => self.to.base(),
            QuantType::Q3_K_M | QuantType::Q4_K_S | QuantType::Q4_K_M | QuantType::IQ4_XS
                if self.num_experts == 8 =>
            {
                Format::Q5_K
            }
            QuantType::Q3_K_M => Format::Q4_K,
            _ => self.to.base(),
        }
    }

    fn down(&self, layer: usize) -> Format {
        let (n, base) = (self.num_layers, self.to.base());
        let is_important = is_important(layer, n);
        match self.to {
            QuantType::Q3_K_M if layer < n / 16 => Format::Q5_K,
            QuantType::Q3_K_M if !self.is_falcon || is_important => Format::Q4_K,
            QuantType::Q4_K_M if self.is_falcon && layer >= n / 16 && is_important => Format::Q5_K,
            QuantType::Q4_K_M if self.is_falcon && layer >= n / 16 => base,
            QuantType::Q4_K_M if self.is_falcon => Format::Q6_K,
            QuantType::Q4_K_M | QuantType::Q5_K_M if is_important => Format::Q6_K,
            QuantType::Q4_K_S if !self.is_falcon && layer < n / 8 => Format::Q5_K,
            QuantType::IQ4_XS if !self.has_imatrix && layer < n / 8 => Format::Q5_K,
            QuantType::Q4_0 if self.has_imatrix && layer < n / 8 => Format::Q4_1,
            _ => base,
        }
    }
}

fn is_important(layer: usize, n: usize) -> bool {
    layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2
}

/// The type of a row of `cols` that was to be `wanted`.
fn fallback(wanted: Format, cols: usize) -> Format {
    if cols.is_multiple_of(wanted.block_len()) {
        return wanted;
    }
    let smaller = match wanted {
        Format::Q3_K => Format::Q4_0,
        Format::IQ4_XS => Format::IQ4_NL,
        Format::Q4_K => Format::Q5_0,
        Format::Q5_K => Format::Q5_1,
        Format::Q6_K => Format::Q8_0,
        _ => Format::F16,
    };
    match cols.is_multiple_of(smaller.block_len()) {
        true => smaller,
        false => Format::F16,
    }
}
