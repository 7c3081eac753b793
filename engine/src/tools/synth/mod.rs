//! Models of random weights in real shapes, for measuring speed and for tests.
//!
//! How fast a model runs depends on its shape and its types, not on what it has learned. [`write()`]
//! makes a GGUF file of a known shape without a download; it streams, so that a model of many
//! gigabytes takes tens of megabytes of memory.
//!
//! ```
//! use gannet_engine::tools::synth::{self, ShapeName, SynthOptions, TypeMix};
//!
//! let options = SynthOptions {
//!     shape: ShapeName::Tiny,
//!     mix: TypeMix::Q4_K_M,
//!     seed: 1,
//!     vocab_from: None,
//! };
//! let mut file = Vec::new();
//! let summary = synth::write(&options, &mut file, &mut |_done, _total| {})?;
//! assert_eq!(summary.file_bytes, file.len() as u64);
//! # Ok::<(), gannet_engine::tools::synth::Error>(())
//! ```
//!
//! What always holds: the same options give the same bytes on any machine. Weights are scaled as
//! for training, so that numbers stay of order one from the first layer to the last: a matrix has a
//! standard deviation of `1 / sqrt(cols)`, the two that write to the residual stream are smaller by
//! `sqrt(2 * layers)`, weights of norms are near 1, and logits have a deviation of about 2.
//!
//! Greedy text should vary, or comparing two runs of it would show little. So the embedding carries
//! about as much of the residual stream as all layers together; and the last norm's weights have
//! random signs, for a tied head would recognise the token that it has just read. With tied
//! embeddings these weights are small, because the embedding table is large for a head.

mod mix;
mod shape;
mod vocab;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;

use gannet_gguf::{DataWriter, Gguf, TensorType, Writer};
use gannet_quant::Format;

pub use mix::TypeMix;
pub use shape::ShapeName;

use shape::{Role, Shape, Tensor};

/// What to make.
#[derive(Clone, Debug)]
pub struct SynthOptions {
    /// The model's dimensions.
    pub shape: ShapeName,
    /// The types of its tensors.
    pub mix: TypeMix,
    /// Another seed, other weights.
    pub seed: u64,
    /// A GGUF file whose vocabulary is copied; otherwise one is made up. It is padded to the size
    /// that the shape has; the tiny shape takes its size.
    pub vocab_from: Option<PathBuf>,
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Tensors of the file.
    pub tensors: usize,
    /// Weights in all tensors.
    pub weights: u64,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Why no model was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The vocabulary could not be read, or the file not written.
    #[error(transparent)]
    Gguf(#[from] gannet_gguf::Error),
    /// The vocabulary to copy does not fit the shape.
    #[error(
        "{}: {found} tokens; shape {shape} has at most {expected}, choose another file or shape",
        gannet_gguf::shown_path(file)
    )]
    VocabTooLarge {
        /// The file of the vocabulary.
        file: PathBuf,
        /// Its tokens.
        found: usize,
        /// The shape.
        shape: ShapeName,
        /// The tokens of the shape.
        expected: usize,
    },
    /// A name that is in no list.
    #[error("{what} {found:?} is unknown; expected one of {expected}")]
    Unknown {
        /// What was to be named.
        what: &'static str,
        /// The name given.
        found: String,
        /// The names there are.
        expected: String,
    },
}

impl Error {
    fn unknown(
        what: &'static str,
        found: &str,
        known: impl Iterator<Item = impl Display>,
    ) -> Error {
        let names: Vec<String> = known.map(|k| k.to_string()).collect();
        Error::Unknown {
            what,
            found: found.to_owned(),
            expected: names.join(", "),
        }
    }
}

/// Bytes that are made and written at a time.
const PIECE_BYTES: usize = 8 << 20;

/// Standard deviation of the logits, for a last hidden state of norm `sqrt(hidden_size)`.
const LOGIT_STD: f64 = 2.0;

/// Standard deviation of an embedding table that is the head, too.
const TIED_EMBEDDING_STD: f64 = 0.5;

/// Standard deviation of norm weights around 1.
const NORM_STD: f32 = 0.05;

/// Standard deviation of biases: felt, and small against the products that they join.
const BIAS_STD: f32 = 0.1;

/// Writes a model of random weights to `out` as GGUF; `progress` is told how many bytes of tensors
/// are written, and of how many.
///
/// # Errors
/// A vocabulary that cannot be read or does not fit the shape; those of `out`.
pub fn write(
    options: &SynthOptions,
    out: impl Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Summary, Error> {
    let mut shape = options.shape.shape();
    let mut writer = Writer::new();
    writer.set("general.architecture", shape.arch)?;
    let name = format!(
        "{} {} random weights, seed {}",
        options.shape, options.mix, options.seed
    );
    writer.set("general.name", &name)?;
    writer.set("general.file_type", options.mix.file_type())?;
    writer.set("general.quantization_version", 2u32)?;
    let vocab_file = options.vocab_from.as_ref().map(Gguf::open).transpose()?;
    if let Some(file) = &vocab_file {
        shape.vocab_size = fit_vocab(options.shape, shape.vocab_size, file)?;
    }
    shape.describe(&mut writer)?;
    match &vocab_file {
        Some(file) => vocab::copy(file.metadata(), shape.vocab_size, &mut writer)?,
        None => vocab::make(&shape, &mut writer)?,
    }

    let tensors = shape.tensors();
    let (mut weights, mut weight_bytes) = (0, 0);
    for tensor in &tensors {
        let format = options.mix.format(tensor.role, &shape);
        weight_bytes += writer.tensor(&tensor.name, &tensor.dims(), tensor_type(format))?;
        weights += (tensor.rows * tensor.cols) as u64;
    }
    let mut data = writer.start(Counted { out, bytes: 0 })?;
    let mut maker = Maker {
        shape: &shape,
        mix: options.mix,
        done: 0,
        total: weight_bytes,
        progress,
    };
    for (index, tensor) in tensors.iter().enumerate() {
        // Each tensor has a stream of its own; the generator tells neighbouring seeds apart.
        maker.make(
            tensor,
            options.seed.wrapping_add((index as u64) << 32),
            &mut data,
        )?;
    }
    let file_bytes = data.finish()?.bytes;
    Ok(Summary {
        tensors: tensors.len(),
        weights,
        weight_bytes,
        file_bytes,
    })
}

/// The tokens that the model gets when it takes a file's vocabulary.
fn fit_vocab(name: ShapeName, vocab_size: usize, file: &Gguf) -> Result<usize, Error> {
    let found = vocab::len(file)?;
    match name {
        ShapeName::Tiny => Ok(found),
        _ if found <= vocab_size => Ok(vocab_size),
        _ => Err(Error::VocabTooLarge {
            file: file.path().to_owned(),
            found,
            shape: name,
            expected: vocab_size,
        }),
    }
}

fn tensor_type(format: Format) -> TensorType {
    TensorType::from_id(format.ggml_id())
        .expect("every format of a weight is a type of the container")
}

/// Makes and writes one tensor after the other.
struct Maker<'a> {
    shape: &'a Shape,
    mix: TypeMix,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Maker<'_> {
    fn make<W: Write>(
        &mut self,
        tensor: &Tensor,
        seed: u64,
        data: &mut DataWriter<W>,
    ) -> Result<(), Error> {
        match tensor.role {
            Role::Norm => {
                let noise = random_vector(seed, tensor.cols, NORM_STD);
                self.vector(noise.map(|v| 1.0 + v), data)
            }
            Role::OutputNorm => {
                let gain = self.output_gain() as f32;
                let noise = random_vector(seed, tensor.cols, NORM_STD);
                self.vector(noise.map(|v| gain * (1.0 + v.abs()).copysign(v)), data)
            }
            Role::Bias => self.vector(random_vector(seed, tensor.cols, BIAS_STD), data),
            Role::RopeFactors => self.vector(self.shape.rope_factors().into_iter(), data),
            Role::Embedding { .. }
            | Role::Output
            | Role::Matrix
            | Role::FusedQkv
            | Role::Value { .. }
            | Role::AttentionOutput
            | Role::Down { .. } => self.matrix(tensor, seed, data),
        }
    }

    fn vector<W: Write>(
        &mut self,
        values: impl Iterator<Item = f32>,
        data: &mut DataWriter<W>,
    ) -> Result<(), Error> {
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        self.write(&bytes, data)
    }

    fn matrix<W: Write>(
        &mut self,
        tensor: &Tensor,
        seed: u64,
        data: &mut DataWriter<W>,
    ) -> Result<(), Error> {
        let format = self.mix.format(tensor.role, self.shape);
        let std = self.deviation(tensor) as f32;
        let (block_len, block_bytes) = (format.block_len(), format.block_bytes());
        // Every shape's columns are whole blocks of every format.
        let blocks = tensor.rows * tensor.cols / block_len;
        let per_piece = PIECE_BYTES / block_bytes;
        let mut piece = vec![0; per_piece.min(blocks) * block_bytes];
        let mut first = 0;
        while first < blocks {
            let count = per_piece.min(blocks - first);
            let piece = &mut piece[..count * block_bytes];
            format.random_from(seed, first as u64, std, piece);
            self.write(piece, data)?;
            first += count;
        }
        Ok(())
    }

    /// What the last norm multiplies with, so that the head's logits have their deviation.
    fn output_gain(&self) -> f64 {
        if self.shape.is_tied {
            LOGIT_STD / (TIED_EMBEDDING_STD * (self.shape.hidden_size as f64).sqrt())
        } else {
            1.0
        }
    }

    /// The standard deviation of a matrix's weights.
    fn deviation(&self, tensor: &Tensor) -> f64 {
        let plain = 1.0 / (tensor.cols as f64).sqrt();
        match tensor.role {
            Role::Output => LOGIT_STD * plain,
            Role::Embedding { is_tied: true } => TIED_EMBEDDING_STD,
            Role::Embedding { is_tied: false } => 1.0,
            Role::AttentionOutput | Role::Down { .. } => {
                plain / (2.0 * self.shape.num_layers as f64).sqrt()
            }
            _ => plain,
        }
    }

    fn write<W: Write>(&mut self, bytes: &[u8], data: &mut DataWriter<W>) -> Result<(), Error> {
        data.write(bytes)?;
        self.done += bytes.len() as u64;
        (self.progress)(self.done, self.total);
        Ok(())
    }
}

/// Random numbers around zero.
fn random_vector(seed: u64, len: usize, std: f32) -> impl Iterator<Item = f32> {
    let mut bytes = vec![0; len * size_of::<f32>()];
    Format::F32.random(seed, std, &mut bytes);
    let values: Vec<f32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b))
        .collect();
    values.into_iter()
}

/// Counts what is written.
struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
