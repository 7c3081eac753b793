//! A file written anew with other types: rows converted beside each other, and written meanwhile.
//!
//! A thread makes pieces of a few megabytes, with the rows of each shared among all threads, and the
//! caller's writes them; at most [`WAITING`] pieces wait for it. So reading, rounding and writing go on at
//! once, and memory holds some pieces and, of a tensor that lies otherwise in its file, its copy.

use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};

use gannet_gguf::{SPLIT_COUNT_KEY, SPLIT_NO_KEY, SPLIT_TENSORS_KEY, TensorType, Writer};
use gannet_quant::Format;
use rayon::prelude::*;

use super::Error;
use crate::files::{Source, SourceTensor};

/// Weights that are rounded between two reports of progress; a row at least.
const PIECE_WEIGHTS: usize = 4 << 20;

/// Pieces that wait to be written.
const WAITING: usize = 2;

/// The largest magnitude of F16.
const F16_MAX: f32 = 65_504.0;

/// A tensor on its way.
pub(in crate::tools) struct Job<'a> {
    source: &'a dyn Source,
    tensor: SourceTensor<'a>,
    pub(in crate::tools) from: Format,
    pub(in crate::tools) to: Format,
    pub(in crate::tools) cols: usize,
    rows: usize,
    /// `[matrices, cols]`.
    pub(in crate::tools) importance: Option<&'a [f32]>,
}

/// Some of a tensor's new rows, and the bytes of the old ones that are done with them.
struct Piece {
    new: Vec<u8>,
    old: u64,
}

/// The metadata of a new file: that of the old one, but for what says that it was cut into shards, and
/// `without`.
pub(in crate::tools) fn header(source: &dyn Source, without: &[&str]) -> Result<Writer, Error> {
    let mut writer = Writer::new();
    for (key, value) in source.metadata().iter() {
        match key {
            SPLIT_COUNT_KEY | SPLIT_NO_KEY | SPLIT_TENSORS_KEY => {}
            "general.alignment" => writer.set(key, source.alignment() as u32)?,
            key if without.contains(&key) => {}
            key => writer.set(key, value)?,
        }
    }
    Ok(writer)
}

/// Writes the tensors of `source` behind a header, those with jobs converted; gives back their bytes.
/// `progress` is told how many bytes of the old ones are done, and of how many.
pub(in crate::tools) fn rewrite(
    source: &dyn Source,
    jobs: &[Option<Job<'_>>],
    mut writer: Writer,
    out: impl Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, Error> {
    let (mut bytes, mut total) = (0, 0);
    for (index, job) in jobs.iter().enumerate() {
        let tensor = source.tensor(index);
        let ty = job.as_ref().map_or(tensor.ty, |job| type_of(job.to));
        bytes += writer.tensor(tensor.name, tensor.dims, ty)?;
        total += tensor.bytes();
    }
    progress(0, total);
    let mut data = writer.start(out)?;
    let (send, receive) = sync_channel::<Result<Piece, Error>>(WAITING);
    std::thread::scope(|scope| -> Result<(), Error> {
        scope.spawn(move || {
            // The other side has gone where it had an error of its own, which is then told.
            let _ = make(source, jobs, &send);
        });
        let mut done = 0;
        for piece in receive {
            let piece = piece?;
            data.write(&piece.new)?;
            done += piece.old;
            progress(done, total);
        }
        Ok(())
    })?;
    data.finish()?;
    Ok(bytes)
}

/// Nobody takes pieces any more.
struct Gone;

/// Makes all pieces, in order, up to the first error.
fn make(
    source: &dyn Source,
    jobs: &[Option<Job<'_>>],
    send: &SyncSender<Result<Piece, Error>>,
) -> Result<(), Gone> {
    for (index, job) in jobs.iter().enumerate() {
        let made = match job {
            Some(job) => job.make(send)?,
            None => {
                let bytes = source.bytes(index);
                for piece in bytes.chunks(4 * PIECE_WEIGHTS) {
                    let (new, old) = (piece.to_vec(), piece.len() as u64);
                    send.send(Ok(Piece { new, old })).map_err(|_| Gone)?;
                }
                Ok(())
            }
        };
        if let Err(error) = made {
            send.send(Err(error)).map_err(|_| Gone)?;
            return Err(Gone);
        }
    }
    Ok(())
}

fn type_of(format: Format) -> TensorType {
    TensorType::from_id(format.ggml_id()).expect("every format is a type of the container")
}

impl<'a> Job<'a> {
    /// What is to be done to a tensor; `None` for one that stays as it is.
    pub(in crate::tools) fn new(
        source: &'a dyn Source,
        tensor: SourceTensor<'a>,
        to: Option<Format>,
    ) -> Result<Option<Job<'a>>, Error> {
        let Some(to) = to.filter(|to| type_of(*to) != tensor.ty) else {
            return Ok(None);
        };
        let refuse = |why: String| Error::Tensor {
            file: source.path().to_owned(),
            tensor: tensor.name.to_owned(),
            why,
        };
        let Some(from) = tensor.format() else {
            return Err(refuse(format!(
                "{} cannot be dequantised; start from an F32, F16 or BF16 file",
                tensor.ty
            )));
        };
        let too_large = |_| refuse("too large for this machine".to_owned());
        let cols = usize::try_from(tensor.dims[0]).map_err(too_large)?;
        let rows = usize::try_from(tensor.elements() / tensor.dims[0]).map_err(too_large)?;
        Ok(Some(Job {
            source,
            tensor,
            from,
            to,
            cols,
            rows,
            importance: None,
        }))
    }

    /// Hands on the new rows, piece by piece.
    fn make(&self, send: &SyncSender<Result<Piece, Error>>) -> Result<Result<(), Error>, Gone> {
        let data = self.source.bytes(self.tensor.index);
        let per_piece = (PIECE_WEIGHTS / self.cols).clamp(1, self.rows);
        for first in (0..self.rows).step_by(per_piece) {
            let rows = first..self.rows.min(first + per_piece);
            match self.piece(&data, rows) {
                Ok(piece) => send.send(Ok(piece)).map_err(|_| Gone)?,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    /// Converts some rows, each on some thread.
    fn piece(&self, data: &[u8], rows: std::ops::Range<usize>) -> Result<Piece, Error> {
        let row_bytes = |format: Format| format.row_bytes(self.cols).unwrap_or(0);
        let (old_bytes, new_bytes) = (row_bytes(self.from), row_bytes(self.to));
        let mut new = vec![0; rows.len() * new_bytes];
        (new.par_chunks_mut(new_bytes).enumerate()).try_for_each_init(
            || vec![0.0; self.cols],
            |scratch, (i, new)| {
                let row = rows.start + i;
                let old = &data[row * old_bytes..][..old_bytes];
                self.row(row, old, scratch, new)
            },
        )?;
        let old = (rows.len() * old_bytes) as u64;
        Ok(Piece { new, old })
    }

    /// Converts a row.
    fn row(
        &self,
        row: usize,
        old: &[u8],
        scratch: &mut [f32],
        new: &mut [u8],
    ) -> Result<(), Error> {
        let refuse = |why: String| Error::Tensor {
            file: self.source.path().to_owned(),
            tensor: self.tensor.name.to_owned(),
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
