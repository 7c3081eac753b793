//! Models: a file's metadata and weights bound to the plan of its family.
//!
//! Each family is one file of `families` and one row of its table. A [`Model`] in hand is checked: its
//! hyper-parameters are consistent, its vocabulary is usable, every tensor that the plan names exists
//! with the right shape in a format that can be computed with, and the file has nothing else that
//! could change what the model computes (unless that was to be ignored).

mod bind;
mod blocks;
mod chat;
mod families;
pub mod hf;
mod hparams;
mod key_bias;
mod keys;
mod ledger;
mod neutral;
mod phase;
mod pooling;
mod rope;
mod weights;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gannet_gguf::{Gguf, Metadata};

pub(crate) use bind::{Binder, FactorTensors, Part};
pub use families::{FAMILIES, Family};
pub use hparams::HyperParams;
pub use phase::{Phase, Span};
pub use pooling::Pooling;
pub use rope::RopeParams;

use hf::{HfFolder, Origins};
use hparams::MAX_CONTEXT;
use keys::Keys;
use ledger::Ledger;
use weights::Weights;

use crate::Error;
use crate::files::Source;
use crate::plan::{Plan, WeightInfo};
use crate::text::grammar::{Grammar, GrammarCounts, Grammars, Matcher};
use crate::text::tokenizer::{self, Tokenizer, TokenizerOptions};

/// How a model is opened.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ModelOptions {
    /// How the vocabulary is read.
    pub tokenizer: TokenizerOptions,
    /// Run models whose file has keys or tensors that nothing here uses, with a warning that names
    /// them in place of the error. What such a model computes may be something else than was meant.
    pub ignore_unknown: bool,
}

/// An open model: container, hyper-parameters, vocabulary and plan.
///
/// Opening maps the file and reads metadata; weights are touched only when an executor loads them.
pub struct Model {
    /// The container; of a folder, the header of the file that it would be.
    gguf: Arc<Gguf>,
    files: Vec<PathBuf>,
    weights: Weights,
    hparams: HyperParams,
    tokenizer: Arc<Tokenizer>,
    grammars: Arc<Grammars>,
    plan: Arc<Plan>,
    /// What of the file is ignored.
    warnings: Vec<String>,
    opening: Vec<Span>,
}

impl Model {
    /// Opens a GGUF file, the first of its shards, or a folder as models are published in: `config.json`,
    /// `tokenizer.json` and weights in safetensors ([`hf`]).
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
        let (container, span) = Span::time(Phase::File, || Container::open(path, options));
        let mut model = Model::of(container?, options)?;
        model.opening.insert(0, span);
        Ok(model)
    }

    /// A model that is in memory, such as one embedded in the program; `name` stands for its path in
    /// messages. Bytes that start at a multiple of 64 are read in place.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(
        name: &str,
        bytes: &'static [u8],
        options: &ModelOptions,
    ) -> Result<Model, Error> {
        Model::of(Gguf::from_static(name, bytes)?.into(), options)
    }

    fn of(container: Container, options: &ModelOptions) -> Result<Model, Error> {
        let origins = Arc::clone(&container.origins);
        Model::assemble(container, options).map_err(|error| origins.name(error))
    }

    fn assemble(container: Container, options: &ModelOptions) -> Result<Model, Error> {
        let Container {
            gguf,
            source,
            files,
            mut warnings,
            origins: _,
        } = container;
        let ledger = Ledger::default();
        let keys = Keys::new(&gguf, &ledger)?;
        keys.check_quantization()?;
        let arch = keys.arch;
        let family = FAMILIES.iter().find(|f| f.arch == arch).ok_or_else(|| {
            let names: Vec<_> = FAMILIES.iter().map(|f| f.arch).collect();
            Error::UnsupportedFamily {
                file: gguf.path().to_owned(),
                arch: arch.to_owned(),
                supported: names.join(", "),
            }
        })?;
        let (tokenizer, vocabulary_span) = Span::time(Phase::Vocabulary, || {
            tokenizer::from_metadata(gguf.metadata(), &options.tokenizer)
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
            let hparams = HyperParams::read(&keys, family)?;
            let binder = Binder::new(source.as_ref(), keys, &hparams, tokenizer.vocab_size());
            let plan = family.plan(&binder)?;
            Ok((hparams, plan))
        });
        let (hparams, mut plan) = bound?;
        let unread = ledger.check(source.as_ref(), &hparams.arch, hparams.num_layers);
        warnings.extend(ledger::pass(unread, options.ignore_unknown)?);
        let weights = Weights {
            sources: vec![source],
        };
        key_bias::enter(&mut plan, &weights);
        let tokenizer = Arc::new(tokenizer);
        Ok(Model {
            weights,
            gguf,
            files,
            hparams,
            grammars: Arc::new(Grammars::new(&tokenizer)),
            tokenizer,
            plan: Arc::new(plan),
            warnings,
            opening: vec![vocabulary_span, plan_span],
        })
    }

    /// The same model as one of several ranks sees it: with `plan`, its share, in the place of the
    /// whole ([`crate::plan::partition`]).
    #[must_use]
    pub fn of_rank(&self, plan: Arc<Plan>) -> Model {
        Model {
            gguf: Arc::clone(&self.gguf),
            files: self.files.clone(),
            weights: self.weights.clone(),
            hparams: self.hparams.clone(),
            tokenizer: Arc::clone(&self.tokenizer),
            grammars: Arc::clone(&self.grammars),
            plan,
            warnings: self.warnings.clone(),
            opening: self.opening.clone(),
        }
    }

    /// What it took to open it.
    #[must_use]
    pub(crate) fn opening(&self) -> &[Span] {
        &self.opening
    }

    /// The file, or what stands for it in messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.gguf.path()
    }

    /// The files that it was read from; none for one in memory.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What is odd about the file or its vocabulary and does not stop it from running, a line each.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        let (file, vocabulary) = (self.gguf.warnings(), self.tokenizer.warnings());
        let all = file.iter().chain(vocabulary).chain(&self.warnings);
        all.map(String::as_str)
    }

    /// The container; of a folder, the header of the file that it would be, without tensors.
    #[must_use]
    pub(crate) fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// What the model says of itself, in the keys of GGUF files.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        self.gguf().metadata()
    }

    /// Where the weights of the plan come from.
    #[must_use]
    pub(crate) fn source(&self) -> &dyn Source {
        self.weights.sources[0].as_ref()
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

    /// Checks that a grammar can be followed with its vocabulary. What takes time the first time is then
    /// done.
    ///
    /// # Errors
    /// The grammar is none, allows nothing, uses what is not supported or is too large.
    pub fn check_grammar(&self, grammar: &Grammar) -> Result<(), Error> {
        self.matcher(grammar).map(|_| ())
    }

    /// A grammar at the start of a text.
    ///
    /// # Errors
    /// As [`Model::check_grammar`].
    pub(crate) fn matcher(&self, grammar: &Grammar) -> Result<Matcher, Error> {
        Ok(self.grammars.compile(grammar)?)
    }

    /// How often a grammar was known already, and how often it had to be compiled.
    #[must_use]
    pub(crate) fn grammar_counts(&self) -> GrammarCounts {
        self.grammars.counts()
    }

    /// The forward step.
    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The stored bytes of a weight of a plan of this model, row after row; a copy where they do not
    /// lie so in the file.
    #[must_use]
    pub(crate) fn weight_bytes(&self, info: &WeightInfo) -> Cow<'_, [u8]> {
        self.weights.bytes(info)
    }

    /// The same, where no copy is needed.
    #[must_use]
    pub(crate) fn weight_in_place(&self, info: &WeightInfo) -> Option<&[u8]> {
        self.weights.in_place(info)
    }

    /// A weight of a plan of this model as f32, `[rows, cols]`.
    #[must_use]
    pub(crate) fn weight_f32(&self, info: &WeightInfo) -> Vec<f32> {
        self.weights.f32(info)
    }

    /// Bytes of all weights of the plan, as they are stored.
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

/// The model of an open container.
///
/// # Errors
/// As [`Model::open`].
pub fn of_container(gguf: Gguf, options: &ModelOptions) -> Result<Model, Error> {
    Model::of(gguf.into(), options)
}

/// What a model is made of, whatever it was read from.
struct Container {
    /// Metadata, in the keys of GGUF files.
    gguf: Arc<Gguf>,
    source: Arc<dyn Source>,
    files: Vec<PathBuf>,
    warnings: Vec<String>,
    /// What the files themselves call the keys of the metadata.
    origins: Arc<Origins>,
}

impl Container {
    fn open(path: &Path, options: &ModelOptions) -> Result<Container, Error> {
        if path.is_dir() {
            return HfFolder::open(path, options.ignore_unknown).map(Container::from);
        }
        crate::files::safetensors::refuse_as_model(path)?;
        Ok(Gguf::open(path)?.into())
    }
}

impl From<Gguf> for Container {
    fn from(gguf: Gguf) -> Container {
        let gguf = Arc::new(gguf);
        Container {
            source: Arc::clone(&gguf) as Arc<dyn Source>,
            files: gguf.files().to_vec(),
            warnings: Vec::new(),
            origins: Arc::default(),
            gguf,
        }
    }
}

impl From<HfFolder> for Container {
    fn from(folder: HfFolder) -> Container {
        Container {
            gguf: Arc::clone(folder.header()),
            files: folder.files().to_vec(),
            warnings: folder.warnings().to_vec(),
            origins: Arc::clone(folder.origins()),
            source: Arc::new(folder),
        }
    }
}
