//! What the metadata of a dense model says, read as llama.cpp reads it: the same keys, the same
//! defaults, the same keys left unread.

use gannet_gguf::{Gguf, Value};

use super::rope::{Factors, Pairing, RopeSpec, Yarn};

/// What distinguishes a family beyond the numbers in its files.
pub(super) struct Family {
    /// The value of `general.architecture`.
    pub(super) arch: &'static str,
    pub(super) pairing: Pairing,
    pub(super) activation: Activation,
    /// Gemma: embeddings are multiplied by the root of their width.
    pub(super) scales_embedding: bool,
    /// An RMS norm on every head of Q and K before they turn.
    pub(super) has_head_norms: bool,
    /// A norm on what attention and the feed-forward layer add.
    pub(super) has_post_norms: bool,
    /// Layers for which attention's scale is one over the root of `hidden / heads`, not of the head
    /// size: Gemma 2 and 3 of 27 billion weights, which llama.cpp knows by their depth.
    pub(super) layers_of_wide_scale: Option<usize>,
    /// The tensor of frequency factors, if the family reads one.
    pub(super) factors: FactorTensors,
    /// The keys `rope.scaling.yarn_*`; other families take the defaults whatever a file says.
    pub(super) reads_yarn_keys: bool,
    /// GPT-2: rows of a table are added by position, nothing turns, norms take the mean away, and the
    /// feed-forward layer has no gate.
    pub(super) is_gpt2: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Silu,
    /// The tanh form.
    Gelu,
}

/// Where frequency factors come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FactorTensors {
    None,
    /// `rope_freqs.weight`, or the pair of a long rope where `rope.scaling.type` is `longrope`.
    ByScalingType,
    /// Always the pair of a long rope.
    Long,
}

const LLAMA: Family = Family {
    arch: "llama",
    pairing: Pairing::Interleaved,
    activation: Activation::Silu,
    scales_embedding: false,
    has_head_norms: false,
    has_post_norms: false,
    layers_of_wide_scale: None,
    factors: FactorTensors::ByScalingType,
    reads_yarn_keys: false,
    is_gpt2: false,
};

const QWEN2: Family = Family {
    arch: "qwen2",
    pairing: Pairing::Neox,
    ..LLAMA
};

const GEMMA2: Family = Family {
    arch: "gemma2",
    pairing: Pairing::Neox,
    activation: Activation::Gelu,
    scales_embedding: true,
    has_post_norms: true,
    layers_of_wide_scale: Some(46),
    factors: FactorTensors::None,
    ..LLAMA
};

/// Every family. `mistral3` is no family of the engine: its files are the only ones with a truth
/// from elsewhere that hold YaRN in a dense decoder.
pub(super) const FAMILIES: &[Family] = &[
    LLAMA,
    QWEN2,
    Family {
        arch: "qwen3",
        has_head_norms: true,
        ..QWEN2
    },
    GEMMA2,
    Family {
        arch: "gemma3",
        has_head_norms: true,
        layers_of_wide_scale: Some(62),
        ..GEMMA2
    },
    Family {
        arch: "phi3",
        factors: FactorTensors::Long,
        ..QWEN2
    },
    Family {
        arch: "mistral3",
        reads_yarn_keys: true,
        ..LLAMA
    },
    Family {
        arch: "gpt2",
        activation: Activation::Gelu,
        factors: FactorTensors::None,
        is_gpt2: true,
        ..LLAMA
    },
];

/// A model's dimensions and constants.
pub(super) struct Config {
    pub(super) family: &'static Family,
    pub(super) hidden_size: usize,
    pub(super) ffn_size: usize,
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) eps: f64,
    /// Positions that the model was trained for.
    pub(super) context_length: usize,
    pub(super) attention_scale: f64,
    pub(super) attention_softcap: Option<f64>,
    pub(super) final_softcap: Option<f64>,
    /// Positions of the original context, and how much queries grow from one such stretch to the
    /// next: `1 + scale * ln(1 + floor(position / context))`.
    pub(super) temperature: Option<(usize, f64)>,
    pub(super) layers: Vec<LayerConfig>,
}

/// What may differ from layer to layer.
pub(super) struct LayerConfig {
    /// Positions that a query sees, itself included; all of them without it.
    pub(super) window: Option<usize>,
    pub(super) rope: RopeSpec,
}

impl Config {
    pub(super) fn read(gguf: &Gguf) -> Result<Config, String> {
        let arch = gguf.metadata().str("general.architecture");
        let arch = arch.map_err(|e| e.to_string())?;
        let family = FAMILIES.iter().find(|f| f.arch == arch);
        let family = family.ok_or_else(|| format!("no reference for {arch}"))?;
        Keys { gguf, family }.config()
    }
}

/// Reads keys of one family.
struct Keys<'a> {
    gguf: &'a Gguf,
    family: &'static Family,
}

impl Keys<'_> {
    fn config(&self) -> Result<Config, String> {
        let hidden_size = self.need_int("embedding_length")?;
        let num_layers = self.need_int("block_count")?;
        let num_heads = self.need_int("attention.head_count")?;
        let num_kv_heads = self.int("attention.head_count_kv")?.unwrap_or(num_heads);
        let key_length = self.int("attention.key_length")?;
        let head_dim = key_length.unwrap_or(hidden_size / num_heads);
        let value_length = self.int("attention.value_length")?.unwrap_or(head_dim);
        if value_length != head_dim || !num_heads.is_multiple_of(num_kv_heads) {
            return Err(format!("values of {value_length}, {num_kv_heads} KV heads"));
        }
        let scale_dim = if self.family.layers_of_wide_scale == Some(num_layers) {
            hidden_size / num_heads
        } else {
            head_dim
        };
        let original = self.original_context()?;
        let temperature = match self.float("attention.temperature_scale")? {
            Some(scale) if self.family.arch == "mistral3" && scale != 0.0 => {
                Some((original, scale))
            }
            _ => None,
        };
        let (attention_softcap, final_softcap) = self.softcaps()?;
        let eps_key = match self.family.is_gpt2 {
            true => "attention.layer_norm_epsilon",
            false => "attention.layer_norm_rms_epsilon",
        };
        Ok(Config {
            family: self.family,
            hidden_size,
            ffn_size: self.need_int("feed_forward_length")?,
            num_heads,
            num_kv_heads,
            head_dim,
            eps: self
                .float(eps_key)?
                .ok_or_else(|| format!("no {eps_key}"))?,
            context_length: self.need_int("context_length")?,
            attention_scale: 1.0 / (scale_dim as f64).sqrt(),
            attention_softcap,
            final_softcap,
            temperature,
            layers: self.layers(num_layers, head_dim)?,
        })
    }

    /// Gemma 2 caps attention scores and logits, and has defaults for both; Gemma 3 caps logits
    /// where its file says so.
    fn softcaps(&self) -> Result<(Option<f64>, Option<f64>), String> {
        let last = self.float("final_logit_softcapping")?;
        let (attention, last) = match self.family.arch {
            "gemma2" => {
                let attention = self.float("attn_logit_softcapping")?;
                (Some(attention.unwrap_or(50.0)), Some(last.unwrap_or(30.0)))
            }
            "gemma3" => (None, last),
            _ => (None, None),
        };
        let some = |cap: Option<f64>| cap.filter(|&c| c != 0.0);
        Ok((some(attention), some(last)))
    }

    fn layers(&self, num_layers: usize, head_dim: usize) -> Result<Vec<LayerConfig>, String> {
        let rope = self.rope(head_dim)?;
        let sliding_rope = RopeSpec {
            base: match (self.family.arch, self.float("rope.freq_base_swa")?) {
                (_, Some(base)) => base,
                ("gemma3", None) => 10_000.0,
                (_, None) => rope.base,
            },
            // Gemma 3 scales positions in its global layers only.
            scale: if self.family.arch == "gemma3" {
                1.0
            } else {
                rope.scale
            },
            ..rope.clone()
        };
        let windows = self.windows(num_layers)?;
        let layer = |window: Option<usize>| LayerConfig {
            window,
            rope: if window.is_some() {
                sliding_rope.clone()
            } else {
                rope.clone()
            },
        };
        Ok(windows.into_iter().map(layer).collect())
    }

    /// Each layer's window. Of `n` layers in a row, the last sees everything; a window lets a
    /// position see itself and those before it. Phi 3's holds in every layer, as its authors' code
    /// has it (llama.cpp reads the key, warns and sees everything).
    fn windows(&self, num_layers: usize) -> Result<Vec<Option<usize>>, String> {
        let key = "attention.sliding_window";
        let (window, default_period) = match self.family.arch {
            "gemma2" => (Some(self.int(key)?.unwrap_or(4096)), 2),
            "gemma3" => (self.int(key)?, 6),
            "phi3" => (self.int(key)?, 0),
            _ => (None, 1),
        };
        let Some(window) = window.filter(|&w| w > 0) else {
            return Ok(vec![None; num_layers]);
        };
        let pattern = self.key("attention.sliding_window_pattern");
        let slides: Vec<bool> = match self.gguf.metadata().get(&pattern) {
            Some(Value::Array(list)) => (list.iter())
                .map(|v| v.as_bool().ok_or("a sliding_window_pattern of no bools"))
                .collect::<Result<_, _>>()?,
            _ => {
                let period = self.int("attention.sliding_window_pattern")?;
                let period = period.unwrap_or(default_period);
                let slides = |layer| period == 0 || layer % period < period - 1;
                (0..num_layers).map(slides).collect()
            }
        };
        if slides.len() != num_layers {
            return Err(format!("a pattern of {} layers", slides.len()));
        }
        Ok(slides.iter().map(|&s| s.then_some(window)).collect())
    }

    /// The rope of layers without a window.
    fn rope(&self, head_dim: usize) -> Result<RopeSpec, String> {
        let metadata = self.gguf.metadata();
        let kind = metadata.opt_str(&self.key("rope.scaling.type"));
        // A factor without a type scales positions.
        let kind = kind.map_err(|e| e.to_string())?.unwrap_or("linear");
        let factor = match self.float("rope.scaling.factor")? {
            None => self.float("rope.scale_linear")?,
            some => some,
        };
        let scale = match (kind, factor) {
            ("none", _) | (_, None | Some(0.0)) => 1.0,
            (_, Some(factor)) => 1.0 / factor,
        };
        let yarn = match kind {
            "none" | "linear" | "longrope" => None,
            "yarn" => Some(self.yarn()?),
            other => return Err(format!("rope.scaling.type {other:?}")),
        };
        let log_multiplier = if yarn.is_some() && self.family.reads_yarn_keys {
            self.float("rope.scaling.yarn_log_multiplier")?
        } else {
            None
        };
        let base_amplitude = yarn.as_ref().map_or(1.0, |yarn| {
            yarn.amplitude_before_turning(scale, log_multiplier.unwrap_or(0.0))
        });
        Ok(RopeSpec {
            pairing: self.family.pairing,
            dim: match self.family.is_gpt2 {
                true => 0,
                false => self.int("rope.dimension_count")?.unwrap_or(head_dim),
            },
            base: self.float("rope.freq_base")?.unwrap_or(10_000.0),
            scale,
            yarn,
            amplitude: base_amplitude * self.float("rope.scaling.attn_factor")?.unwrap_or(1.0),
            factors: self.factors(kind)?,
        })
    }

    fn yarn(&self) -> Result<Yarn, String> {
        let parameter = |name: &str, default: f64| -> Result<f64, String> {
            if self.family.reads_yarn_keys {
                let found = self.float(&format!("rope.scaling.yarn_{name}"))?;
                return Ok(found.unwrap_or(default));
            }
            Ok(default)
        };
        let yarn = Yarn {
            original_context: self.original_context()?,
            ext_factor: parameter("ext_factor", 1.0)?,
            beta_fast: parameter("beta_fast", 32.0)?,
            beta_slow: parameter("beta_slow", 1.0)?,
        };
        if yarn.ext_factor == 0.0 {
            return Err("YaRN without extrapolation".to_owned());
        }
        Ok(yarn)
    }

    fn factors(&self, kind: &str) -> Result<Factors, String> {
        let is_long = match self.family.factors {
            FactorTensors::None => return Ok(Factors::None),
            FactorTensors::ByScalingType => kind == "longrope",
            FactorTensors::Long => true,
        };
        let original_context = self.original_context()?;
        Ok(match is_long {
            true => Factors::ByContext { original_context },
            false => Factors::Always,
        })
    }

    /// Positions of the training before it was extended.
    fn original_context(&self) -> Result<usize, String> {
        match self.int("rope.scaling.original_context_length")? {
            Some(n) => Ok(n),
            None => self.need_int("context_length"),
        }
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.family.arch)
    }

    fn int(&self, suffix: &str) -> Result<Option<usize>, String> {
        let value = self.gguf.metadata().opt_usize(&self.key(suffix));
        value.map_err(|e| e.to_string())
    }

    fn need_int(&self, suffix: &str) -> Result<usize, String> {
        self.int(suffix)?.ok_or_else(|| format!("no {suffix}"))
    }

    fn float(&self, suffix: &str) -> Result<Option<f64>, String> {
        let value = self.gguf.metadata().opt_f32(&self.key(suffix));
        Ok(value.map_err(|e| e.to_string())?.map(f64::from))
    }
}
