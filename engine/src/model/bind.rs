//! Binds tensors of a file to weights of a plan: by name, with shape and type checked.

use gannet_gguf::{Gguf, TensorInfo};
use gannet_quant::Format;

use crate::Error;
use crate::model::HyperParams;
use crate::plan::{Linear, PlanBuilder, Rope, Weight};
use crate::plan::{RopeKind, RopeSpec};

/// Hands a family its weights while it writes its plan.
pub(crate) struct Binder<'a> {
    /// The open file.
    gguf: &'a Gguf,
    /// The checked hyper-parameters.
    pub(crate) hparams: &'a HyperParams,
    /// Entries of the vocabulary.
    pub(crate) vocab_size: usize,
    /// For each weight of the plan, the index of its tensor in the file.
    pub(crate) sources: Vec<usize>,
}

impl<'a> Binder<'a> {
    pub(crate) fn new(gguf: &'a Gguf, hparams: &'a HyperParams, vocab_size: usize) -> Self {
        Binder {
            gguf,
            hparams,
            vocab_size,
            sources: Vec::new(),
        }
    }

    /// A matrix `[rows, cols]`.
    pub(crate) fn matrix(
        &mut self,
        p: &mut PlanBuilder,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Weight, Error> {
        let tensor = self.require(name)?;
        self.check_shape(tensor, &[cols as u64, rows as u64])?;
        self.declare(p, tensor, rows, cols)
    }

    /// A matrix with a bias where the file has one: `NAME.weight` and `NAME.bias`.
    pub(crate) fn linear(
        &mut self,
        p: &mut PlanBuilder,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Linear, Error> {
        let weight = self.matrix(p, &format!("{name}.weight"), rows, cols)?;
        let bias_name = format!("{name}.bias");
        let bias = match self.gguf.tensor(&bias_name) {
            Some(_) => Some(self.vector(p, &bias_name, rows)?),
            None => None,
        };
        Ok(Linear { weight, bias })
    }

    /// A vector of `len` elements in a float format.
    pub(crate) fn vector(
        &mut self,
        p: &mut PlanBuilder,
        name: &str,
        len: usize,
    ) -> Result<Weight, Error> {
        let tensor = self.require(name)?;
        self.check_shape(tensor, &[len as u64])?;
        let weight = self.declare(p, tensor, 1, len)?;
        match Format::from_ggml_id(tensor.ty.id()) {
            Some(Format::F32 | Format::F16 | Format::BF16) => Ok(weight),
            _ => Err(self.bad(
                name,
                format!("type {}; expected F32, F16 or BF16", tensor.ty.name()),
            )),
        }
    }

    /// The head: `output.weight` and bias, or the embedding table where the two are tied.
    pub(crate) fn head(&mut self, p: &mut PlanBuilder, embedding: Weight) -> Result<Linear, Error> {
        let (rows, cols) = (self.vocab_size, self.hparams.hidden_size);
        if self.gguf.tensor("output.weight").is_some() {
            self.linear(p, "output", rows, cols)
        } else {
            Ok(Linear {
                weight: embedding,
                bias: None,
            })
        }
    }

    /// The rope of the hyper-parameters, with the factors of `rope_freqs.weight` if present.
    pub(crate) fn rope(&mut self, p: &mut PlanBuilder, kind: RopeKind) -> Result<Rope, Error> {
        let h = self.hparams;
        let factors = self.rope_factors()?;
        Ok(p.rope_table(RopeSpec {
            kind,
            rot_dim: h.rope_dim,
            base: h.rope_base,
            scale: h.rope_scale,
            factors,
        }))
    }

    fn rope_factors(&self) -> Result<Vec<f32>, Error> {
        let name = "rope_freqs.weight";
        let Some(tensor) = self.gguf.tensor(name) else {
            return Ok(Vec::new());
        };
        let pairs = self.hparams.rope_dim / 2;
        self.check_shape(tensor, &[pairs as u64])?;
        if Format::from_ggml_id(tensor.ty.id()) != Some(Format::F32) {
            return Err(self.bad(name, format!("type {}; expected F32", tensor.ty.name())));
        }
        let mut factors = vec![0.0; pairs];
        Format::F32
            .dequantize(self.gguf.data(tensor), &mut factors)
            .map_err(|e| self.bad(name, e.to_string()))?;
        match factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
            Some(f) => Err(self.bad(name, format!("factor {f}; expected finite numbers above 0"))),
            None => Ok(factors),
        }
    }

    fn declare(
        &mut self,
        p: &mut PlanBuilder,
        tensor: &TensorInfo,
        rows: usize,
        cols: usize,
    ) -> Result<Weight, Error> {
        let format = Format::from_ggml_id(tensor.ty.id()).ok_or_else(|| {
            let names: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
            let problem = format!("type {} cannot be computed with", tensor.ty.name());
            self.bad(
                &tensor.name,
                format!("{problem}; supported: {}", names.join(", ")),
            )
        })?;
        let index = self
            .gguf
            .tensors()
            .iter()
            .position(|t| std::ptr::eq(t, tensor))
            .expect("the tensor comes from this file");
        self.sources.push(index);
        Ok(p.weight(&tensor.name, format, rows, cols))
    }

    fn require(&self, name: &str) -> Result<&'a TensorInfo, Error> {
        self.gguf
            .tensor(name)
            .ok_or_else(|| self.bad(name, format!("missing; {} needs it", self.hparams.arch)))
    }

    /// Trailing dimensions of 1 are ignored, as the container does.
    fn check_shape(&self, tensor: &TensorInfo, expected: &[u64]) -> Result<(), Error> {
        let mut found = tensor.dims.as_slice();
        while found.len() > expected.len() && found.last() == Some(&1) {
            found = &found[..found.len() - 1];
        }
        if found == expected {
            Ok(())
        } else {
            Err(self.bad(
                &tensor.name,
                format!("shape {:?}; expected {expected:?}", tensor.dims),
            ))
        }
    }

    fn bad(&self, tensor: &str, problem: String) -> Error {
        Error::Tensor {
            file: self.gguf.path().to_owned(),
            tensor: tensor.to_owned(),
            problem,
        }
    }
}
