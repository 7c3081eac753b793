//! Importance matrices: for each matrix of a model, the mean square of each of its inputs over a text.
//!
//! What always holds of one that is open: every value is finite and not negative.
//!
//! The file is llama.cpp's: GGUF with `general.type` `imatrix` and two f32 tensors for each matrix,
//! `NAME.in_sum2` (`[cols, matrices]`, sums of squares) and `NAME.counts` (`[1, matrices]`, how many inputs
//! were summed); a stack of experts has a row and a count for each. The older binary form is read, too
//! (`legacy.rs`).

mod collect;
mod legacy;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use gannet_gguf::{Gguf, TensorInfo, TensorType, Writer, shown, shown_path};

use crate::files::SourceTensor;

pub use collect::{CollectOptions, collect};

/// The suffixes of the tensors of a matrix.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// The prefix of matrices that an importance matrix is of: those of layers, not embedding and head.
pub(crate) const LAYERS: &str = "blk.";

/// How much each column of each matrix matters.
#[derive(Debug, Clone, PartialEq)]
pub struct Imatrix {
    path: PathBuf,
    entries: BTreeMap<String, Vec<f32>>,
}

/// Why an importance matrix cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The container is unsound.
    #[error(transparent)]
    Gguf(#[from] gannet_gguf::Error),
    /// It holds something else than an importance matrix does.
    #[error("{}: {why}", shown_path(file))]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong, where, and what to do.
        why: String,
    },
}

impl Imatrix {
    /// Reads a file of either form.
    ///
    /// # Errors
    /// A file that cannot be read or is neither; sums without counts, counts that do not divide them,
    /// values that are negative or not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Imatrix, Error> {
        let path = path.as_ref();
        let refuse = |why| Error::Content {
            file: path.to_owned(),
            why,
        };
        let entries = match legacy::read(path).map_err(refuse)? {
            Some(entries) => entries,
            None => of_gguf(&Gguf::open(path)?).map_err(refuse)?,
        };
        if entries.is_empty() {
            return Err(refuse("no importance of any matrix is in it".to_owned()));
        }
        let path = path.to_owned();
        Ok(Imatrix { path, entries })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its matrices, and the mean square of each input, `[matrices, cols]`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[f32])> {
        let entries = self.entries.iter();
        entries.map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    /// The importance of a tensor's columns, for each of its matrices; `None` for one outside the layers
    /// that the file does not have.
    pub(crate) fn of(&self, tensor: &SourceTensor<'_>) -> Result<Option<&[f32]>, String> {
        let again = "make one of this model with gannet imatrix";
        let Some(values) = self.entries.get(tensor.name) else {
            return match tensor.name.starts_with(LAYERS) {
                true => Err(format!("no importance of {}; {again}", tensor.name)),
                false => Ok(None),
            };
        };
        let matrices: u64 = tensor.dims.iter().skip(2).product();
        let expected = tensor.dims[0].saturating_mul(matrices);
        match values.len() as u64 == expected {
            true => Ok(Some(values)),
            false => Err(format!(
                "{} has {} values, not {expected}; {again}",
                tensor.name,
                values.len()
            )),
        }
    }
}

/// The entries of a GGUF file.
fn of_gguf(gguf: &Gguf) -> Result<BTreeMap<String, Vec<f32>>, String> {
    let mut entries = BTreeMap::new();
    for tensor in gguf.tensors() {
        let Some(name) = tensor.name.strip_suffix(SUMS) else {
            continue;
        };
        let sums = floats(gguf, tensor)?;
        let counts = format!("{name}{COUNTS}");
        let counts = gguf.tensor(&counts).ok_or(format!(
            "{} has no {}; make it anew with gannet imatrix",
            shown(&tensor.name),
            shown(&counts)
        ))?;
        let counts = floats(gguf, counts)?;
        if !sums.len().is_multiple_of(counts.len()) {
            return Err(format!(
                "{} has {} values, no multiple of its {} counts",
                shown(&tensor.name),
                sums.len(),
                counts.len()
            ));
        }
        let cols = sums.len() / counts.len();
        let means = sums
            .chunks_exact(cols)
            .zip(&counts)
            .flat_map(|(sums, &count)| {
                // Where nothing came in, all is alike.
                let mean = move |&sum| if count > 0.0 { sum / count } else { 1.0 };
                sums.iter().map(mean)
            });
        entries.insert(name.to_owned(), checked(name, means.collect())?);
    }
    match entries.is_empty() {
        true => Err(format!("no tensor NAME{SUMS}: not an importance matrix")),
        false => Ok(entries),
    }
}

/// The numbers of a tensor.
fn floats(gguf: &Gguf, tensor: &TensorInfo) -> Result<Vec<f32>, String> {
    if tensor.ty != TensorType::F32 {
        let (name, ty) = (shown(&tensor.name), tensor.ty);
        return Err(format!("{name} is {ty}, not F32"));
    }
    let values = gguf.data(tensor).as_chunks().0;
    let values = values.iter().map(|&bytes| f32::from_le_bytes(bytes));
    checked(&tensor.name, values.collect())
}

/// Refuses numbers that are no mean squares.
fn checked(name: &str, values: Vec<f32>) -> Result<Vec<f32>, String> {
    match values.iter().position(|v| !v.is_finite() || *v < 0.0) {
        None => Ok(values),
        Some(at) => Err(format!(
            "value {at} of {} is {}, not a finite number from 0 up",
            shown(name),
            values[at]
        )),
    }
}

/// Sums of squares that are being collected.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// By the names of matrices: the sum of the squares of each input, and how many were summed.
    pub sums: BTreeMap<String, (Vec<f64>, u64)>,
    /// Windows of the text.
    pub chunks: usize,
    /// Tokens of a window.
    pub context: usize,
}

impl Collected {
    /// Writes the file; `text` is what the numbers come from.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, text: &str, out: impl Write) -> Result<(), gannet_gguf::Error> {
        let mut writer = Writer::new();
        writer.set("general.type", "imatrix")?;
        writer.set_array("imatrix.datasets", &[text])?;
        writer.set("imatrix.chunk_count", self.chunks as u32)?;
        writer.set("imatrix.chunk_size", self.context as u32)?;
        for (name, (sums, _)) in &self.sums {
            let dims = [sums.len() as u64, 1];
            writer.tensor(&format!("{name}{SUMS}"), &dims, TensorType::F32)?;
            writer.tensor(&format!("{name}{COUNTS}"), &[1, 1], TensorType::F32)?;
        }
        let mut data = writer.start(out)?;
        for (sums, count) in self.sums.values() {
            let bytes = sums.iter().flat_map(|&v| (v as f32).to_le_bytes());
            data.write(&bytes.collect::<Vec<u8>>())?;
            data.write(&(*count as f32).to_le_bytes())?;
        }
        data.finish()?;
        Ok(())
    }
}
