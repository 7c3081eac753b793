//! Binds tensors of a source to weights of a plan: by name, with shape and type checked.

use std::ops::Range;

use gannet_gguf::TensorType;
use gannet_quant::Format;

use super::hparams::{HyperParams, MAX_LAYERS};
use super::keys::Keys;
use super::rope::RopeParams;
use crate::Error;
use crate::files::{Source, SourceTensor};
use crate::plan::{
    Linear, PlanBuilder, Rope, RopeFactors, RopeKind, RopeTable, Weight, WeightInfo, WeightView,
};

/// Hands a family its weights while it writes its plan.
pub(crate) struct Binder<'a> {
    source: &'a dyn Source,
    /// The model's metadata, for what only some families have.
    pub(crate) keys: Keys<'a>,
    /// The checked hyper-parameters.
    pub(crate) hparams: &'a HyperParams,
    /// Entries of the vocabulary.
    pub(crate) vocab_size: usize,
}

/// Some output features of a tensor that holds several matrices, one below the other.
#[derive(Debug, Clone)]
pub(crate) struct Part<'a> {
    /// The tensor's name without `.weight` and `.bias`.
    pub(crate) tensor: &'a str,
    /// Rows of the whole tensor.
    pub(crate) of: usize,
    /// The part's.
    pub(crate) rows: Range<usize>,
}

/// Which tensors of frequency factors a family reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FactorTensors {
    None,
    /// Those of short and long contexts where `rope.scaling.type` is `longrope`, else
    /// `rope_freqs.weight`, where the file has it.
    ByType,
    /// Those of short and long contexts, where the file has them or says `longrope`.
    Long,
}

/// The smallest divisor of a frequency: a smaller one would turn a pair more often than its base says.
const LEAST_FACTOR: f32 = 1e-3;

impl<'a> Binder<'a> {
    pub(crate) fn new(
        source: &'a dyn Source,
        keys: Keys<'a>,
        hparams: &'a HyperParams,
        vocab_size: usize,
    ) -> Self {
        Binder {
            source,
            keys,
            hparams,
            vocab_size,
        }
    }

    /// The rope of queries and keys.
    ///
    /// # Errors
    /// The family is one that does not rotate: a mistake of this crate's.
    pub(crate) fn rope_params(&self) -> Result<RopeParams, Error> {
        let rope = self.hparams.rope;
        rope.ok_or_else(|| Error::internal(format!("{} reads no rope", self.hparams.arch)))
    }

    /// Whether there is a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.source.find(name).is_some()
    }

    /// Tokens that a layer with a window sees, `default` where the file does not say; `None` where it
    /// says 0, or nobody says any.
    pub(crate) fn window(&self, default: Option<u32>) -> Result<Option<u32>, Error> {
        let key = "attention.sliding_window";
        let window = self.keys.opt_int(key, 0, u64::from(u32::MAX))?;
        let window = window.map_or(default, |w| Some(w as u32));
        Ok(window.filter(|&w| w > 0))
    }

    /// What of the tokens before it each layer sees: of every `period` layers the last one sees all,
    /// unless the file has another pattern.
    pub(crate) fn windows(
        &self,
        window: Option<u32>,
        period: usize,
    ) -> Result<Vec<Option<u32>>, Error> {
        let (key, layers) = ("attention.sliding_window_pattern", self.hparams.num_layers);
        let slides = match self.keys.opt_flags(key, layers)? {
            Some(slides) => slides,
            None => {
                let period = self.keys.opt_int(key, 0, MAX_LAYERS)?.unwrap_or(period);
                let slides = |layer| period == 0 || (layer + 1) % period != 0;
                (0..layers).map(slides).collect()
            }
        };
        Ok((slides.into_iter())
            .map(|slides| window.filter(|_| slides))
            .collect())
    }

    /// A matrix `[rows, cols]`.
    pub(crate) fn matrix(
        &self,
        p: &mut PlanBuilder,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Weight, Error> {
        Ok(p.weight(self.stored_matrix(name, rows, cols)?))
    }

    /// A matrix with a bias where the file has one: `NAME.weight` and `NAME.bias`.
    pub(crate) fn linear(
        &self,
        p: &mut PlanBuilder,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Linear, Error> {
        let part = Part {
            tensor: name,
            of: rows,
            rows: 0..rows,
        };
        self.linear_part(p, name, &part, cols)
    }

    /// A matrix that is a part of a tensor, with its part of the bias where there is one. Reports
    /// call it `name`.
    pub(crate) fn linear_part(
        &self,
        p: &mut PlanBuilder,
        name: &str,
        part: &Part<'_>,
        cols: usize,
    ) -> Result<Linear, Error> {
        let cut = |mut info: WeightInfo, suffix: &str| -> Result<WeightInfo, Error> {
            let stored = std::mem::replace(&mut info.name, format!("{name}.{suffix}"));
            // The whole is no part; one row of it would be taken for a vector.
            match part.rows.len() == part.of {
                true => Ok(info),
                false => info.outputs(part.rows.clone()),
            }
            .map_err(|why| self.bad(&stored, why))
        };
        let stored = format!("{}.weight", part.tensor);
        let weight = p.weight(cut(self.stored_matrix(&stored, part.of, cols)?, "weight")?);
        let stored = format!("{}.bias", part.tensor);
        let bias = match self.has(&stored) {
            true => Some(p.weight(cut(self.stored_vector(&stored, part.of)?, "bias")?)),
            false => None,
        };
        Ok(Linear { weight, bias })
    }

    /// A vector of `len` elements in a float format.
    pub(crate) fn vector(
        &self,
        p: &mut PlanBuilder,
        name: &str,
        len: usize,
    ) -> Result<Weight, Error> {
        Ok(p.weight(self.stored_vector(name, len)?))
    }

    /// The head: `output.weight`, or the embedding table where the two are tied; with the bias of
    /// the file, if it has one.
    pub(crate) fn head(&self, p: &mut PlanBuilder, embedding: Weight) -> Result<Linear, Error> {
        let (rows, cols) = (self.vocab_size, self.hparams.hidden_size);
        if self.has("output.weight") {
            return self.linear(p, "output", rows, cols);
        }
        let bias = match self.has("output.bias") {
            true => Some(self.vector(p, "output.bias", rows)?),
            false => None,
        };
        Ok(Linear {
            weight: embedding,
            bias,
        })
    }

    /// A rope with the factors of the file that its family reads.
    pub(crate) fn rope(
        &self,
        p: &mut PlanBuilder,
        kind: RopeKind,
        params: &RopeParams,
        tensors: FactorTensors,
    ) -> Result<Rope, Error> {
        let (long, short) = ("rope_factors_long.weight", "rope_factors_short.weight");
        let is_long = match tensors {
            FactorTensors::None => false,
            FactorTensors::ByType => params.is_long,
            FactorTensors::Long => params.is_long || self.has(long) || self.has(short),
        };
        let fixed = "rope_freqs.weight";
        let factors = if is_long {
            RopeFactors::ByContext {
                original: params.original_context,
                short: self.rope_factors(short, params.dim)?,
                long: self.rope_factors(long, params.dim)?,
            }
        } else if tensors == FactorTensors::ByType && self.has(fixed) {
            RopeFactors::Fixed(self.rope_factors(fixed, params.dim)?)
        } else {
            RopeFactors::Ones
        };
        Ok(p.rope_table(RopeTable {
            kind,
            rot_dim: params.dim,
            base: params.base,
            scale: params.scale,
            yarn: params.yarn,
            magnitude: params.magnitude,
            factors,
        }))
    }

    fn rope_factors(&self, name: &str, dim: usize) -> Result<Vec<f32>, Error> {
        let tensor = self.require(name)?;
        let pairs = dim / 2;
        self.check_shape(name, tensor, &[pairs as u64])?;
        if tensor.ty != TensorType::F32 {
            return Err(self.bad(name, format!("type {}; expected F32", tensor.ty)));
        }
        let mut factors = vec![0.0; pairs];
        Format::F32
            .dequantize(&self.source.bytes(tensor.index), &mut factors)
            .map_err(|e| self.bad(name, e.to_string()))?;
        let is_factor = |f: &f32| f.is_finite() && *f >= LEAST_FACTOR;
        match factors.iter().find(|f| !is_factor(f)) {
            Some(f) => {
                let expected = format!("expected finite numbers of at least {LEAST_FACTOR}");
                Err(self.bad(name, format!("factor {f}; {expected}")))
            }
            None => Ok(factors),
        }
    }

    fn stored_matrix(&self, name: &str, rows: usize, cols: usize) -> Result<WeightInfo, Error> {
        let tensor = self.require(name)?;
        self.check_shape(name, tensor, &[cols as u64, rows as u64])?;
        self.info(name, tensor, rows, cols)
    }

    fn stored_vector(&self, name: &str, len: usize) -> Result<WeightInfo, Error> {
        let tensor = self.require(name)?;
        self.check_shape(name, tensor, &[len as u64])?;
        match tensor.format() {
            Some(Format::F32 | Format::F16 | Format::BF16) => self.info(name, tensor, 1, len),
            _ => Err(self.bad(
                name,
                format!("type {}; expected F32, F16 or BF16", tensor.ty),
            )),
        }
    }

    fn info(
        &self,
        name: &str,
        tensor: SourceTensor<'_>,
        rows: usize,
        cols: usize,
    ) -> Result<WeightInfo, Error> {
        let format = tensor.format().ok_or_else(|| {
            let names: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
            let problem = format!("type {} cannot be computed with", tensor.ty);
            self.bad(name, format!("{problem}; supported: {}", names.join(", ")))
        })?;
        Ok(WeightInfo {
            name: name.to_owned(),
            format,
            rows,
            cols,
            // A model has one source.
            view: WeightView::whole(0, tensor.index, rows, cols),
        })
    }

    fn require(&self, name: &str) -> Result<SourceTensor<'a>, Error> {
        let Some(tensor) = self.source.find(name) else {
            let why = if name.starts_with("blk.") {
                format!(" with block_count {}", self.hparams.num_layers)
            } else if name.starts_with("rope_factors_") {
                " with rope.scaling.type longrope, or with one of rope_factors_long.weight and \
                 rope_factors_short.weight,"
                    .to_owned()
            } else {
                String::new()
            };
            let problem = format!("missing; {}{why} needs it", self.hparams.arch);
            return Err(self.bad(name, problem));
        };
        self.keys.ledger.read_tensor(tensor.index);
        Ok(tensor)
    }

    /// What a tensor's shape follows from, as the file has it.
    fn sizes(&self, name: &str) -> String {
        let h = self.hparams;
        let hidden = ("embedding_length", h.hidden_size);
        let vocabulary = ("tokenizer.ggml.tokens", self.vocab_size);
        let key_length = ("attention.key_length", h.head_dim);
        let is_norm = name.contains("norm");
        let sizes: Vec<(&str, usize)> = if name.contains("rope_") {
            let dim = h.rope.map_or(0, |rope| rope.dim);
            vec![("rope.dimension_count", dim)]
        } else if name.contains("_q_norm") || name.contains("_k_norm") {
            vec![key_length]
        } else if is_norm {
            vec![hidden]
        } else if name.contains("attn_") {
            let heads = ("attention.head_count", h.num_heads);
            let kv_heads = ("attention.head_count_kv", h.num_kv_heads);
            vec![hidden, heads, kv_heads, key_length]
        } else if name.contains("ffn_") {
            vec![hidden, ("feed_forward_length", h.ffn_size)]
        } else if name.starts_with("position_embd") {
            vec![hidden, ("context_length", h.context_length)]
        } else {
            vec![hidden, vocabulary]
        };
        let sizes = sizes.iter().map(|(key, value)| format!("{key} {value}"));
        sizes.collect::<Vec<_>>().join(", ")
    }

    /// Trailing dimensions of 1 are ignored, as the container does.
    fn check_shape(
        &self,
        name: &str,
        tensor: SourceTensor<'_>,
        expected: &[u64],
    ) -> Result<(), Error> {
        if without_ones(tensor.dims) == without_ones(expected) {
            Ok(())
        } else {
            let (found, sizes) = (tensor.dims, self.sizes(name));
            let problem = format!("shape {found:?}; expected {expected:?} by {sizes}");
            Err(self.bad(name, problem))
        }
    }

    fn bad(&self, tensor: &str, problem: String) -> Error {
        Error::Tensor {
            file: self.source.path().to_owned(),
            tensor: tensor.to_owned(),
            problem,
        }
    }
}

/// Dimensions without those of 1 at the end, which are none.
fn without_ones(mut dims: &[u64]) -> &[u64] {
    while let [rest @ .., 1] = dims {
        dims = rest;
    }
    dims
}
