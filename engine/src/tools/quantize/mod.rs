//! Files quantised: every matrix of a GGUF file rounded to the type that its name has in a mix.
//!
//! Rows are dequantised and quantised beside each other, a few megabytes at a time, and written as they
//! come: memory does not grow with the model. What always holds: a row's blocks depend on the row, its
//! type and its importance alone, not on threads; metadata is kept, but for what says how the file is
//! quantised and that it was cut into shards; tensors keep their order.

mod mix;

use std::io::Write;
use std::path::PathBuf;

use gannet_gguf::{
    Gguf, SPLIT_COUNT_KEY, SPLIT_NO_KEY, SPLIT_TENSORS_KEY, TensorInfo, TensorType, Writer,
    shown_path,
};
use gannet_quant::Format;
use rayon::prelude::*;

pub use mix::QuantType;

use super::imatrix::Imatrix;

/// Weights that are rounded between two reports of progress; a row at least.
const PIECE_WEIGHTS: usize = 4 << 20;

/// The largest magnitude of F16.
const F16_MAX: f32 = 65_504.0;

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

/// A tensor on its way.
struct Job<'a> {
    tensor: &'a TensorInfo,
    from: Format,
    to: Format,
    cols: usize,
    rows: usize,
    /// `[matrices, cols]`.
    importance: Option<&'a [f32]>,
}

/// Writes `gguf`, quantised, to `out`; `progress` is told how many bytes of its tensors are done, and of
/// how many.
///
/// # Errors
/// A tensor of a type that cannot be dequantised, weights that are not finite or beyond the type, an
/// importance matrix of another model; those of `out`.
pub fn quantize(
    gguf: &Gguf,
    options: QuantizeOptions<'_>,
    out: impl Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<QuantizeSummary, Error> {
    let formats = mix::formats(gguf, options.to, options.imatrix.is_some());
    let jobs = (gguf.tensors().iter().zip(&formats))
        .map(|(tensor, to)| job(gguf, tensor, *to, options.imatrix))
        .collect::<Result<Vec<_>, Error>>()?;
    let mut writer = header(gguf, options.to)?;
    let mut summary = QuantizeSummary {
        tensors: jobs.len(),
        converted: 0,
        requantized: 0,
        fallbacks: 0,
        bytes: (gguf.tensors().iter().map(|t| t.bytes).sum(), 0),
    };
    for (tensor, job) in gguf.tensors().iter().zip(&jobs) {
        let ty = job.as_ref().map_or(tensor.ty, |job| type_of(job.to));
        summary.bytes.1 += writer.tensor(&tensor.name, &tensor.dims, ty)?;
    }
    for job in jobs.iter().flatten() {
        summary.converted += 1;
        summary.requantized += usize::from(job.from.block_len() > 1);
        let whole = options.to.base().block_len();
        summary.fallbacks += usize::from(!job.cols.is_multiple_of(whole));
    }
    let (mut done, total) = (0, summary.bytes.0);
    progress(done, total);
    let mut data = writer.start(out)?;
    for (tensor, job) in gguf.tensors().iter().zip(&jobs) {
        match job {
            Some(job) => job.run(gguf, |piece, read| {
                data.write(piece)?;
                progress(done + read, total);
                Ok(())
            })?,
            None => {
                for piece in gguf.data(tensor).chunks(4 * PIECE_WEIGHTS) {
                    data.write(piece)?;
                }
            }
        }
        done += tensor.bytes;
        progress(done, total);
    }
    data.finish()?;
    Ok(summary)
}

fn type_of(format: Format) -> TensorType {
    TensorType::from_id(format.ggml_id()).expect("every format is a type of the container")
}

/// The metadata of the new file.
fn header(gguf: &Gguf, to: QuantType) -> Result<Writer, Error> {
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata().iter() {
        match key {
            SPLIT_COUNT_KEY | SPLIT_NO_KEY | SPLIT_TENSORS_KEY => {}
            "general.alignment" => writer.set(key, gguf.alignment() as u32)?,
            key => writer.set(key, value)?,
        }
    }
    writer.set("general.file_type", to.file_type())?;
    writer.set("general.quantization_version", QUANTIZATION_VERSION)?;
    Ok(writer)
}

/// What is to be done to a tensor; `None` for one that stays as it is.
fn job<'a>(
    gguf: &Gguf,
    tensor: &'a TensorInfo,
    to: Option<Format>,
    imatrix: Option<&'a Imatrix>,
) -> Result<Option<Job<'a>>, Error> {
    let Some(to) = to.filter(|to| type_of(*to) != tensor.ty) else {
        return Ok(None);
    };
    let refuse = |why: String| Error::Tensor {
        file: gguf.path().to_owned(),
        tensor: tensor.name.clone(),
        why,
    };
    let Some(from) = Format::from_ggml_id(tensor.ty.id()) else {
        return Err(refuse(format!(
            "{} cannot be dequantised; start from an F32, F16 or BF16 file",
            tensor.ty
        )));
    };
    let too_large = |_| refuse("too large for this machine".to_owned());
    let cols = usize::try_from(tensor.dims[0]).map_err(too_large)?;
    let rows = usize::try_from(tensor.elements() / tensor.dims[0]).map_err(too_large)?;
    let importance = match imatrix.filter(|_| to.block_len() > 1) {
        Some(imatrix) => imatrix.of(tensor).map_err(|why| Error::Imatrix {
            file: imatrix.path().to_owned(),
            why,
        })?,
        None => None,
    };
    Ok(Some(Job {
        tensor,
        from,
        to,
        cols,
        rows,
        importance,
    }))
}

impl Job<'_> {
    /// Hands on the new rows, piece by piece, with the bytes of the old ones that they came from.
    fn run(
        &self,
        gguf: &Gguf,
        mut sink: impl FnMut(&[u8], u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let data = gguf.data(self.tensor);
        let row_bytes = |format: Format| format.row_bytes(self.cols).unwrap_or(0);
        let (old_bytes, new_bytes) = (row_bytes(self.from), row_bytes(self.to));
        let per_piece = (PIECE_WEIGHTS / self.cols).clamp(1, self.rows);
        let mut piece = vec![0; per_piece * new_bytes];
        for first in (0..self.rows).step_by(per_piece) {
            let rows = per_piece.min(self.rows - first);
            let new = &mut piece[..rows * new_bytes];
            // Rows are what threads share; a few of them are enough work for a task.
            (new.par_chunks_mut(new_bytes).enumerate()).try_for_each_init(
                || vec![0.0; self.cols],
                |scratch, (i, new)| {
                    let old = &data[(first + i) * old_bytes..][..old_bytes];
                    self.row(gguf, first + i, old, scratch, new)
                },
            )?;
            sink(new, ((first + rows) * old_bytes) as u64)?;
        }
        Ok(())
    }

    /// Converts a row.
    fn row(
        &self,
        gguf: &Gguf,
        row: usize,
        old: &[u8],
        scratch: &mut [f32],
        new: &mut [u8],
    ) -> Result<(), Error> {
        let refuse = |why: String| Error::Tensor {
            file: gguf.path().to_owned(),
            tensor: self.tensor.name.clone(),
            why,
        };
        let done = self.from.dequantize(old, scratch);
        done.map_err(|e| refuse(e.to_string()))?;
        let most = if self.to == Format::F16 {
            F16_MAX
        } else {
            f32::MAX
        };
        let beyond = |v: &f32| v.is_nan() || v.abs() > most;
        if let Some(col) = scratch.iter().position(beyond) {
            let v = scratch[col];
            return Err(refuse(match v.is_finite() {
                true => format!("column {col} of row {row} is {v}, beyond F16; take BF16"),
                false => format!("column {col} of row {row} is {v}; such a model computes nothing"),
            }));
        }
        let rows = self.tensor.dims.get(1).map_or(1, |&rows| rows as usize);
        let done = match self.importance {
            Some(all) => {
                let of_row = &all[row / rows * self.cols..][..self.cols];
                self.to.quantize_weighted(scratch, of_row, new)
            }
            None => self.to.quantize(scratch, new),
        };
        done.map_err(|e| refuse(format!("row {row}: {e}")))
    }
}
