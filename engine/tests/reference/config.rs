//! What the metadata of a dense model says, read as llama.cpp reads it: the same keys, the same
//! defaults. What llama.cpp passes over though it changes the arithmetic is read as its authors meant
//! it, or is an error; so is every key that nothing reads.

use std::cell::RefCell;
use std::collections::BTreeSet;

use gannet_gguf::{Gguf, Value};

use super::rope::{Factors, Pairing, RopeSpec, Yarn};
use super::silent;

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
    /// `rope.scaling.yarn_ext_factor` and `yarn_log_multiplier`, which other families cannot have.
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
    /// Whether `rope.scaling.type` says so.
    pub(super) is_longrope: bool,
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
        let keys = Keys {
            gguf,
            family,
            read: RefCell::default(),
        };
        let config = keys.config()?;
        keys.all_were_read()?;
        Ok(config)
    }
}

/// Reads keys of one family.
struct Keys<'a> {
    gguf: &'a Gguf,
    family: &'static Family,
    /// Keys that were asked for.
    read: RefCell<BTreeSet<String>>,
}

impl Keys<'_> {
    fn all_were_read(&self) -> Result<(), String> {
        let prefix = self.key("");
        let read = self.read.borrow().clone();
        let unread = self.gguf.metadata().iter().find(|(key, value)| {
            let suffix = key.strip_prefix(&prefix);
            suffix.is_some_and(|s| !read.contains(s) && !self.is_silent(s, value))
        });
        match unread {
            Some((key, value)) => Err(format!("nothing reads {key}, {}", value.describe())),
            None => Ok(()),
        }
    }

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
        let mut temperature = None;
        if self.family.arch == "mistral3" {
            let scale = self.float("attention.temperature_scale")?;
            temperature = scale.filter(|&s| s != 0.0).map(|s| (original, s));
        }
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
            is_longrope: !self.family.is_gpt2
                && self.text("rope.scaling.type")? == Some("longrope"),
            layers: self.layers(num_layers, head_dim)?,
        })
    }

    /// Gemma 2 caps attention scores and logits, and has defaults for both; Gemma 3 does where its
    /// file says so.
    fn softcaps(&self) -> Result<(Option<f64>, Option<f64>), String> {
        let (attention_key, last_key) = ("attn_logit_softcapping", "final_logit_softcapping");
        let (attention, last) = match self.family.arch {
            "gemma2" => (
                Some(self.float(attention_key)?.unwrap_or(50.0)),
                Some(self.float(last_key)?.unwrap_or(30.0)),
            ),
            "gemma3" => (self.float(attention_key)?, self.float(last_key)?),
            _ => (None, None),
        };
        let some = |cap: Option<f64>| cap.filter(|&c| c != 0.0);
        Ok((some(attention), some(last)))
    }

    fn layers(&self, num_layers: usize, head_dim: usize) -> Result<Vec<LayerConfig>, String> {
        let rope = match self.family.is_gpt2 {
            true => RopeSpec::still(self.family.pairing),
            false => self.rope(head_dim)?,
        };
        let sliding_rope = RopeSpec {
            base: match self.family.arch {
                "gemma2" => self.float("rope.freq_base_swa")?.unwrap_or(rope.base),
                "gemma3" => self.float("rope.freq_base_swa")?.unwrap_or(10_000.0),
                _ => rope.base,
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
        let pattern = "attention.sliding_window_pattern";
        let has_pattern = ["gemma2", "gemma3"].contains(&self.family.arch);
        let slides: Vec<bool> = match self.gguf.metadata().get(&self.key(pattern)) {
            Some(Value::Array(list)) if has_pattern => {
                self.read.borrow_mut().insert(pattern.to_owned());
                (list.iter())
                    .map(|v| v.as_bool().ok_or("a sliding_window_pattern of no bools"))
                    .collect::<Result<_, _>>()?
            }
            _ => {
                let period = match has_pattern {
                    true => self.int(pattern)?,
                    false => None,
                };
                let period = period.unwrap_or(default_period);
                let slides = |layer| period == 0 || layer % period < period - 1;
                (0..num_layers).map(slides).collect()
            }
        };
        if slides.len() != num_layers {
            return Err(format!("a pattern of {} layers", slides.len()));
        }
        let window = window.filter(|&w| w > 0);
        Ok(slides.iter().map(|&s| window.filter(|_| s)).collect())
    }

    /// The rope of layers without a window.
    fn rope(&self, head_dim: usize) -> Result<RopeSpec, String> {
        // A factor without a type scales positions.
        let kind = self.text("rope.scaling.type")?.unwrap_or("linear");
        let factor = |key| Ok::<_, String>(self.float(key)?.filter(|&factor| factor != 0.0));
        let factors = (factor("rope.scaling.factor")?, factor("rope.scale_linear")?);
        let scale = match (kind, factors) {
            (_, (Some(new), Some(old))) if new != old => return Err("two factors".to_owned()),
            ("none", _) | (_, (None, None)) => 1.0,
            (_, (Some(factor), _) | (None, Some(factor))) => 1.0 / factor,
        };
        let yarn = match kind {
            "none" | "linear" | "longrope" | "" => None,
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
            dim: self.int("rope.dimension_count")?.unwrap_or(head_dim),
            base: self.float("rope.freq_base")?.unwrap_or(10_000.0),
            scale,
            yarn,
            amplitude: base_amplitude * self.float("rope.scaling.attn_factor")?.unwrap_or(1.0),
            factors: self.factors(kind)?,
        })
    }

    fn yarn(&self) -> Result<Yarn, String> {
        let parameter = |name: &str, default: f64| -> Result<f64, String> {
            if self.family.reads_yarn_keys || name.starts_with("beta_") {
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

    fn is_silent(&self, suffix: &str, value: &Value<'_>) -> bool {
        let scalar = self.value(suffix).ok().flatten();
        silent::is_silent(suffix, &scalar.unwrap_or(*value))
    }

    /// A value, or what a list has for every layer.
    fn value(&self, suffix: &str) -> Result<Option<Value<'_>>, String> {
        self.read.borrow_mut().insert(suffix.to_owned());
        let metadata = self.gguf.metadata();
        let Some(Value::Array(list)) = metadata.get(&self.key(suffix)) else {
            return Ok(metadata.get(&self.key(suffix)));
        };
        let layers = metadata.opt_usize(&self.key("block_count")).ok().flatten();
        let values: Vec<Value<'_>> = list.iter().collect();
        match values.split_first() {
            Some((first, rest)) if Some(values.len()) == layers => {
                let is_uniform = rest.iter().all(|value| value == first);
                is_uniform.then_some(Some(*first)).ok_or(())
            }
            _ => Err(()),
        }
        .map_err(|()| format!("{suffix} is {}", Value::Array(list).describe()))
    }

    fn text(&self, suffix: &str) -> Result<Option<&str>, String> {
        self.read.borrow_mut().insert(suffix.to_owned());
        let text = self.gguf.metadata().opt_str(&self.key(suffix));
        text.map_err(|e| e.to_string())
    }

    fn int(&self, suffix: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.value(suffix)? else {
            return Ok(None);
        };
        let int = value.as_int().and_then(|int| usize::try_from(int).ok());
        int.map(Some)
            .ok_or_else(|| format!("{suffix} is {}", value.describe()))
    }

    fn need_int(&self, suffix: &str) -> Result<usize, String> {
        self.int(suffix)?.ok_or_else(|| format!("no {suffix}"))
    }

    fn float(&self, suffix: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.value(suffix)? else {
            return Ok(None);
        };
        match value.as_float() {
            // Wider numbers are stored for what an f32 holds.
            Some(float) if float.is_finite() => Ok(Some(f64::from(float as f32))),
            _ => Err(format!("{suffix} is {}", value.describe())),
        }
    }
}
