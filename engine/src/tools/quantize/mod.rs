//! Files quantised: every matrix of a GGUF file rounded to the type that its name has in a mix.
//!
//! Rows are dequantised and quantised beside each other, a few megabytes at a time, and written while the
//! next ones are computed (`rewrite.rs`): memory does not grow with the model. What always holds: a row's blocks depend on the row, its
//! type and its importance alone, not on threads; metadata is kept, but for what says how the file is
//! quantised and that it was cut into shards; tensors keep their order.

mod mix;
mod rewrite;

use std::io::Write;
use std::path::PathBuf;

use gannet_gguf::shown_path;
use gannet_quant::Format;

pub use mix::QuantType;
pub(in crate::tools) use mix::is_matrix;
pub(in crate::tools) use rewrite::{Job, header, rewrite};

use super::imatrix::Imatrix;
use crate::files::{Source, SourceTensor};

/// ggml's version of its block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// What to make of a file.
#[derive(Clone, Copy)]
pub struct QuantizeOptions<'a> {
    /// The mix of types.
    pub to: QuantType,
    /// What the errors of columns count.
    pub imatrix: Option<&'a Imatrix>,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuantizeSummary {
    /// Tensors of the file.
    pub tensors: usize,
    /// Those that have another type now.
    pub converted: usize,
    /// Of those, the ones that were quantised before and lost a second time.
    pub requantized: usize,
    /// Those whose rows are no whole blocks of the type that the mix has for them.
    pub fallbacks: usize,
    /// Bytes of all tensors, before and now.
    pub bytes: (u64, u64),
}

/// Why no file was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read or written.
    #[error(transparent)]
    Gguf(#[from] gannet_gguf::Error),
    /// A tensor cannot be converted.
    #[error("{}: tensor {tensor}: {why}", shown_path(file))]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The importance matrix is not of this model.
    #[error("{}: {why}", shown_path(file))]
    Imatrix {
        /// The file of the matrix.
        file: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// Writes a model, quantised, to `out`; `progress` is told how many bytes of its tensors are done, and of
/// how many.
///
/// # Errors
/// A tensor of a type that cannot be dequantised, weights that are not finite or beyond the type, an
/// importance matrix of another model; those of `out`.
pub fn quantize(
    source: &dyn Source,
    options: QuantizeOptions<'_>,
    out: impl Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<QuantizeSummary, Error> {
    let formats = mix::formats(source, options.to, options.imatrix.is_some());
    let tensors: Vec<SourceTensor<'_>> = (0..source.num_tensors())
        .map(|i| source.tensor(i))
        .collect();
    let jobs = (tensors.iter().zip(formats))
        .map(|(tensor, to)| job(source, *tensor, to, options.imatrix))
        .collect::<Result<Vec<_>, Error>>()?;
    let mut writer = header(source, &[])?;
    writer.set("general.file_type", options.to.file_type())?;
    writer.set("general.quantization_version", QUANTIZATION_VERSION)?;
    let mut summary = QuantizeSummary {
        tensors: jobs.len(),
        converted: 0,
        requantized: 0,
        fallbacks: 0,
        bytes: (tensors.iter().map(SourceTensor::bytes).sum(), 0),
    };
    for job in jobs.iter().flatten() {
        summary.converted += 1;
        summary.requantized += usize::from(job.from.block_len() > 1);
        let whole = options.to.base().block_len();
        summary.fallbacks += usize::from(!job.cols.is_multiple_of(whole));
    }
    summary.bytes.1 = rewrite(source, &jobs, writer, out, progress)?;
    Ok(summary)
}

/// What is to be done to a tensor; `None` for one that stays as it is.
fn job<'a>(
    source: &'a dyn Source,
    tensor: SourceTensor<'a>,
    to: Option<Format>,
    imatrix: Option<&'a Imatrix>,
) -> Result<Option<Job<'a>>, Error> {
    let Some(mut job) = Job::new(source, tensor, to)? else {
        return Ok(None);
    };
    if let Some(imatrix) = imatrix.filter(|_| job.to.block_len() > 1) {
        job.importance = imatrix.of(&tensor).map_err(|why| Error::Imatrix {
            file: imatrix.path().to_owned(),
            why,
        })?;
    }
    Ok(Some(job))
}
