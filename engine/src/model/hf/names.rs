//! The names of tensors: what folders call them and what GGUF files do, and what becomes of each.

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing; vectors become F32.
    Same,
    /// A norm that multiplies with one more than is stored.
    PlusOne,
    /// Rows of queries in the order of ropes whose pairs are neighbours.
    Queries,
    /// The same of keys.
    Keys,
    /// Stored with inputs as rows.
    Transposed,
}

use Change::{Keys, PlusOne, Queries, Same, Transposed};

/// A module of a folder, its name in GGUF files, and its change.
type Row = (&'static str, &'static str, Change);

/// Outside of layers, in the order of GGUF files: before the layers.
const BEFORE: &[Row] = &[
    ("embed_tokens", "token_embd", Same),
    ("wte", "token_embd", Same),
    ("wpe", "position_embd", Same),
];

/// After the layers.
const AFTER: &[Row] = &[
    ("norm", "output_norm", Same),
    ("ln_f", "output_norm", Same),
    ("lm_head", "output", Same),
];

const LLAMA: &[Row] = &[
    ("input_layernorm", "attn_norm", Same),
    ("self_attn.q_proj", "attn_q", Queries),
    ("self_attn.k_proj", "attn_k", Keys),
    ("self_attn.v_proj", "attn_v", Same),
    ("self_attn.o_proj", "attn_output", Same),
    ("post_attention_layernorm", "ffn_norm", Same),
    ("mlp.gate_proj", "ffn_gate", Same),
    ("mlp.up_proj", "ffn_up", Same),
    ("mlp.down_proj", "ffn_down", Same),
];

const QWEN: &[Row] = &[
    ("input_layernorm", "attn_norm", Same),
    ("self_attn.q_proj", "attn_q", Same),
    ("self_attn.k_proj", "attn_k", Same),
    ("self_attn.v_proj", "attn_v", Same),
    ("self_attn.q_norm", "attn_q_norm", Same),
    ("self_attn.k_norm", "attn_k_norm", Same),
    ("self_attn.o_proj", "attn_output", Same),
    ("post_attention_layernorm", "ffn_norm", Same),
    ("mlp.gate_proj", "ffn_gate", Same),
    ("mlp.up_proj", "ffn_up", Same),
    ("mlp.down_proj", "ffn_down", Same),
];

const GEMMA: &[Row] = &[
    ("input_layernorm", "attn_norm", PlusOne),
    ("self_attn.q_proj", "attn_q", Same),
    ("self_attn.k_proj", "attn_k", Same),
    ("self_attn.v_proj", "attn_v", Same),
    ("self_attn.q_norm", "attn_q_norm", PlusOne),
    ("self_attn.k_norm", "attn_k_norm", PlusOne),
    ("self_attn.o_proj", "attn_output", Same),
    ("post_attention_layernorm", "post_attention_norm", PlusOne),
    ("pre_feedforward_layernorm", "ffn_norm", PlusOne),
    ("mlp.gate_proj", "ffn_gate", Same),
    ("mlp.up_proj", "ffn_up", Same),
    ("mlp.down_proj", "ffn_down", Same),
    ("post_feedforward_layernorm", "post_ffw_norm", PlusOne),
];

const PHI3: &[Row] = &[
    ("input_layernorm", "attn_norm", Same),
    ("self_attn.qkv_proj", "attn_qkv", Same),
    ("self_attn.o_proj", "attn_output", Same),
    ("post_attention_layernorm", "ffn_norm", Same),
    ("mlp.gate_up_proj", "ffn_up", Same),
    ("mlp.down_proj", "ffn_down", Same),
];

const GPT2: &[Row] = &[
    ("ln_1", "attn_norm", Same),
    ("attn.c_attn", "attn_qkv", Transposed),
    ("attn.c_proj", "attn_output", Transposed),
    ("ln_2", "ffn_norm", Same),
    ("mlp.c_fc", "ffn_up", Transposed),
    ("mlp.c_proj", "ffn_down", Transposed),
];

/// The modules of a layer, by architecture.
fn layer_of(arch: &str) -> &'static [Row] {
    match arch {
        "llama" => LLAMA,
        "qwen2" | "qwen3" => QWEN,
        "gemma2" | "gemma3" => GEMMA,
        "phi3" => PHI3,
        _ => GPT2,
    }
}

/// What a tensor of a folder is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A tensor of the network.
    Tensor(Place),
    /// Nothing that a text needs: why.
    Left(&'static str),
    /// Unknown here.
    Unknown,
}

/// A tensor's name in GGUF files, its change, and where it stands among the others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) change: Change,
    /// Part of the file, layer, row of the table, weight before bias.
    pub(super) order: (u8, u32, usize, bool),
}

/// What stands before the names of the language model, the longest first.
const PREFIXES: &[&str] = &[
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.",
    "transformer.",
];

/// Beginnings of the names of tensors that read images.
const OF_IMAGES: &[&str] = &[
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
];

/// What a name means in a family.
pub(super) fn meaning(arch: &str, name: &str) -> Meaning {
    if arch == "gemma3" && OF_IMAGES.iter().any(|prefix| name.starts_with(prefix)) {
        return Meaning::Left("it reads images");
    }
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    let rest = rest.unwrap_or(name);
    if rest.ends_with(".rotary_emb.inv_freq") || rest == "rotary_emb.inv_freq" {
        return Meaning::Left("the rope's frequencies follow from config.json");
    }
    if arch == "gpt2" && (rest.ends_with(".attn.bias") || rest.ends_with(".attn.masked_bias")) {
        return Meaning::Left("the causal mask");
    }
    place(arch, rest).map_or(Meaning::Unknown, Meaning::Tensor)
}

fn place(arch: &str, rest: &str) -> Option<Place> {
    let (module, kind) = rest.rsplit_once('.')?;
    let is_bias = match kind {
        "weight" => false,
        "bias" => true,
        _ => return None,
    };
    for (part, table) in [(0, BEFORE), (2, AFTER)] {
        let found = table.iter().position(|row| row.0 == module);
        if let Some(at) = found {
            let (_, name, change) = table[at];
            let is_gemma = arch.starts_with("gemma") && name == "output_norm";
            return Some(Place {
                name: format!("{name}.{kind}"),
                change: if is_gemma { PlusOne } else { change },
                order: (part, 0, at, is_bias),
            });
        }
    }
    let layers = if arch == "gpt2" { "h." } else { "layers." };
    let (layer, module) = module.strip_prefix(layers)?.split_once('.')?;
    // One spelling a layer, or two tensors would have one name.
    let is_plain = layer == "0" || !layer.starts_with(['0', '+']);
    let layer: u32 = layer.parse().ok().filter(|_| is_plain)?;
    let table = layer_of(arch);
    let at = table.iter().position(|row| row.0 == module)?;
    let (_, name, change) = table[at];
    Some(Place {
        name: format!("blk.{layer}.{name}.{kind}"),
        change,
        order: (1, layer, at, is_bias),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(arch: &str, name: &str) -> Option<(String, Change)> {
        match meaning(arch, name) {
            Meaning::Tensor(place) => Some((place.name, place.change)),
            _ => None,
        }
    }

    #[test]
    fn names_are_those_of_gguf_files() {
        let is = |arch, from, to: &str, change| {
            assert_eq!(name(arch, from), Some((to.to_owned(), change)), "{from}");
        };
        is(
            "llama",
            "model.layers.7.self_attn.q_proj.weight",
            "blk.7.attn_q.weight",
            Queries,
        );
        is("llama", "lm_head.weight", "output.weight", Same);
        is("llama", "norm.weight", "output_norm.weight", Same);
        is(
            "qwen2",
            "model.layers.0.self_attn.k_proj.bias",
            "blk.0.attn_k.bias",
            Same,
        );
        is("gemma2", "model.norm.weight", "output_norm.weight", PlusOne);
        is(
            "gemma3",
            "model.language_model.layers.1.post_attention_layernorm.weight",
            "blk.1.post_attention_norm.weight",
            PlusOne,
        );
        is(
            "gemma3",
            "language_model.model.embed_tokens.weight",
            "token_embd.weight",
            Same,
        );
        is(
            "gpt2",
            "h.3.attn.c_attn.weight",
            "blk.3.attn_qkv.weight",
            Transposed,
        );
        is(
            "gpt2",
            "transformer.wpe.weight",
            "position_embd.weight",
            Same,
        );
    }

    #[test]
    fn what_is_no_part_of_the_network_is_told_from_what_is_unknown() {
        let left = |arch, name| matches!(meaning(arch, name), Meaning::Left(_));
        assert!(left(
            "llama",
            "model.layers.0.self_attn.rotary_emb.inv_freq"
        ));
        assert!(left("gpt2", "h.0.attn.bias"));
        assert!(left(
            "gemma3",
            "vision_tower.vision_model.embeddings.patch_embedding.weight"
        ));
        for (arch, name) in [
            ("llama", "vision_tower.x.weight"),
            ("llama", "model.layers.0.self_attn.q_proj.lora_A"),
            ("llama", "model.layers.01.self_attn.q_proj.weight"),
            ("llama", "model.layers.0.self_attn.q_norm.weight"),
            ("qwen3", "h.0.attn.bias"),
            ("llama", "x"),
        ] {
            assert_eq!(meaning(arch, name), Meaning::Unknown, "{name}");
        }
    }
}
