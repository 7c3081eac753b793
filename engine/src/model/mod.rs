//! Models: a file's metadata and weights bound to the plan of its family.
//!
//! Each family is one file of this folder and one row of [`FAMILIES`]. A [`Model`] in hand is
//! checked: its hyper-parameters are consistent, its vocabulary is usable, and every tensor that
//! the plan names exists with the right shape in a format that can be computed with.

mod bind;
mod hparams;
mod llama;
mod phase;
mod qwen2;
mod qwen3;

use std::path::Path;

use gannet_gguf::Gguf;

pub(crate) use bind::Binder;
pub use hparams::HyperParams;
pub use phase::{Phase, Span};

use crate::Error;
use crate::plan::{Plan, PlanBuilder, Weight};
use crate::text::tokenizer::{self, Tokenizer, TokenizerOptions};

/// A model family: its name in `general.architecture` and the function that writes its plan.
pub struct Family {
    /// The value of `general.architecture`.
    pub arch: &'static str,
    /// Models it runs, for people.
    pub models: &'static str,
    build: fn(&mut PlanBuilder, &mut Binder<'_>) -> Result<Plan, Error>,
}

/// Every supported family.
pub const FAMILIES: &[Family] = &[llama::FAMILY, qwen2::FAMILY, qwen3::FAMILY];

/// How a model is opened.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ModelOptions {
    /// How the vocabulary is read.
    pub tokenizer: TokenizerOptions,
}

/// An open model: container, hyper-parameters, vocabulary and plan.
///
/// Opening maps the file and reads metadata; weights are touched only when an executor loads them.
pub struct Model {
    gguf: Gguf,
    hparams: HyperParams,
    tokenizer: Tokenizer,
    plan: Plan,
    /// For each weight of the plan, its tensor's index.
    sources: Vec<usize>,
    opening: Vec<Span>,
}

impl Model {
    /// Opens a GGUF file, or the first of its shards.
    ///
    /// # Errors
    /// The file cannot be read, is not a valid container, is of an unsupported family, or lacks
    /// something that its family needs.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, Error> {
        Model::open_with(path, &ModelOptions::default())
    }

    /// As [`Model::open`], with options.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Model, Error> {
        let path = path.as_ref();
        crate::files::safetensors::refuse_as_model(path)?;
        let (gguf, span) = Span::time(Phase::File, || Gguf::open(path));
        let mut model = Model::from_gguf(gguf?, options)?;
        model.opening.insert(0, span);
        Ok(model)
    }

    /// Builds the model of an open container, such as one embedded in the program.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_gguf(gguf: Gguf, options: &ModelOptions) -> Result<Model, Error> {
        let arch = hparams::architecture(&gguf)?;
        let family = FAMILIES.iter().find(|f| f.arch == arch).ok_or_else(|| {
            let names: Vec<_> = FAMILIES.iter().map(|f| f.arch).collect();
            Error::UnsupportedFamily {
                file: gguf.path().to_owned(),
                arch: arch.to_owned(),
                supported: names.join(", "),
            }
        })?;
        let (tokenizer, vocabulary_span) = Span::time(Phase::Vocabulary, || {
            Tokenizer::from_gguf(gguf.metadata(), &options.tokenizer)
        });
        let tokenizer = tokenizer.map_err(|source| match source {
            // It names the file itself.
            tokenizer::Error::Metadata(e) => Error::Gguf(e),
            source => Error::Tokenizer {
                file: gguf.path().to_owned(),
                source: Box::new(source),
            },
        })?;
        let (bound, plan_span) = Span::time(Phase::Plan, || -> Result<_, Error> {
            let hparams = HyperParams::read(&gguf)?;
            let mut binder = Binder::new(&gguf, &hparams, tokenizer.vocab_size());
            let plan = (family.build)(&mut PlanBuilder::new(), &mut binder)?;
            let sources = binder.sources;
            Ok((hparams, plan, sources))
        });
        let (hparams, plan, sources) = bound?;
        Ok(Model {
            gguf,
            hparams,
            tokenizer,
            plan,
            sources,
            opening: vec![vocabulary_span, plan_span],
        })
    }

    /// What it took to open it.
    #[must_use]
    pub fn opening(&self) -> &[Span] {
        &self.opening
    }

    /// The container.
    #[must_use]
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The hyper-parameters.
    #[must_use]
    pub fn hparams(&self) -> &HyperParams {
        &self.hparams
    }

    /// The vocabulary.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The forward step.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The stored bytes of a weight of the plan.
    #[must_use]
    pub fn weight_bytes(&self, w: Weight) -> &[u8] {
        let tensor = &self.gguf.tensors()[self.sources[w.0 as usize]];
        self.gguf.data(tensor)
    }

    /// A weight of the plan as f32, `[rows, cols]`.
    #[must_use]
    pub fn weight_f32(&self, w: Weight) -> Vec<f32> {
        let info = self.plan.weight(w);
        let mut out = vec![0.0; info.rows * info.cols];
        info.format
            .dequantize(self.weight_bytes(w), &mut out)
            .expect("the tensor's size was checked when it was bound");
        out
    }

    /// Bytes of all weights of the plan.
    #[must_use]
    pub fn weight_total(&self) -> u64 {
        self.plan.weights.iter().map(|w| w.bytes() as u64).sum()
    }

    /// Refuses token ids that the vocabulary lacks.
    ///
    /// # Errors
    /// The first id out of range.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), Error> {
        let vocab_size = self.plan.vocab_size;
        match tokens.iter().find(|&&t| t as usize >= vocab_size) {
            Some(&token) => Err(Error::TokenOutOfRange { token, vocab_size }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_file_has_its_row() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .filter(|name| !["mod", "bind", "hparams", "phase"].contains(&name.as_str()))
            .collect();
        files.sort();
        let mut rows: Vec<&str> = FAMILIES.iter().map(|f| f.arch).collect();
        rows.sort_unstable();
        assert_eq!(files, rows);
    }
}
