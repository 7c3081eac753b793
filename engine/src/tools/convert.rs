//! Folders as models are published in, written as one GGUF file.
//!
//! Which tensors and keys that file has is [`HfFolder`](crate::internals::model::hf::HfFolder)'s to know; here matrices get
//! their type. Vectors are F32, as in every GGUF file. Opened, the file gives the logits of its folder: of
//! the same bits, where it keeps the types.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use gannet_quant::Format;

use super::quantize::{Error, Job, header, is_matrix, rewrite};
use crate::files::{Source, SourceTensor};

/// What matrices become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ConvertType {
    /// What they are.
    #[default]
    Keep,
    /// Half precision.
    F16,
    /// bfloat16.
    BF16,
    /// Single precision.
    F32,
}

impl ConvertType {
    /// Every type.
    pub const ALL: &'static [ConvertType] = &[
        ConvertType::Keep,
        ConvertType::F16,
        ConvertType::BF16,
        ConvertType::F32,
    ];

    /// The name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ConvertType::Keep => "keep",
            ConvertType::F16 => "f16",
            ConvertType::BF16 => "bf16",
            ConvertType::F32 => "f32",
        }
    }

    fn format(self) -> Option<Format> {
        match self {
            ConvertType::Keep => None,
            ConvertType::F16 => Some(Format::F16),
            ConvertType::BF16 => Some(Format::BF16),
            ConvertType::F32 => Some(Format::F32),
        }
    }
}

impl fmt::Display for ConvertType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ConvertType {
    type Err = String;

    /// Reads a name in any case.
    fn from_str(name: &str) -> Result<ConvertType, String> {
        let found = Self::ALL
            .iter()
            .find(|t| t.name().eq_ignore_ascii_case(name));
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|t| t.name()).collect();
            format!(
                "type {name:?} is unknown; expected one of {}",
                names.join(", ")
            )
        })
    }
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConvertSummary {
    /// Tensors of the file.
    pub tensors: usize,
    /// Those whose type is another now.
    pub converted: usize,
    /// Bytes of all tensors of the file.
    pub bytes: u64,
}

/// `general.file_type` of a file whose matrices are of a type: llama.cpp's number.
fn file_type(format: Format) -> Option<u32> {
    match format {
        Format::F32 => Some(0),
        Format::F16 => Some(1),
        Format::BF16 => Some(32),
        _ => None,
    }
}

/// Writes a model to `out` as a GGUF file; `progress` is told how many bytes of its tensors are done, and
/// of how many.
///
/// # Errors
/// Weights that are not finite or beyond the type; those of `out`.
pub fn convert(
    source: &dyn Source,
    to: ConvertType,
    out: impl Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ConvertSummary, Error> {
    let tensors = || (0..source.num_tensors()).map(|i| source.tensor(i));
    let format = |tensor: &SourceTensor<'_>| to.format().filter(|_| is_matrix(tensor));
    let jobs = tensors()
        .map(|tensor| Job::new(source, tensor, format(&tensor)))
        .collect::<Result<Vec<_>, Error>>()?;
    let mut writer = header(source, &["general.file_type"])?;
    // What the most bytes are of.
    let largest = tensors().max_by_key(SourceTensor::bytes);
    let kept = largest.and_then(|tensor| tensor.format());
    if let Some(number) = to.format().or(kept).and_then(file_type) {
        writer.set("general.file_type", number)?;
    }
    let bytes = rewrite(source, &jobs, writer, out, progress)?;
    Ok(ConvertSummary {
        tensors: jobs.len(),
        converted: jobs.iter().flatten().count(),
        bytes,
    })
}
