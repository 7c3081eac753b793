//! The tensors of a folder as GGUF files have them: by their names, in their order of rows, vectors in F32.
//!
//! What lies in a file as it is asked for is handed out in place; the rest is made anew each time, a
//! tensor at a time, and belongs to who asked for it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gannet_gguf::TensorType;
use gannet_quant::Format;
use rayon::prelude::*;

use super::family::Shape;
use super::head::Head;
use super::names::{Change, Meaning, Place, meaning};
use crate::Error;
use crate::files::SourceTensor;
use crate::files::safetensors::{Dtype, MappedTensors, SafeTensorInfo};

/// The tensors of a folder.
pub(super) struct Weights {
    files: MappedTensors,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

/// A tensor as GGUF files have it.
struct Tensor {
    name: String,
    dims: Vec<u64>,
    ty: TensorType,
    data: Data,
}

/// Where a tensor's bytes come from.
enum Data {
    /// A tensor of the files, by its number.
    Stored {
        index: usize,
        from: Format,
        change: How,
    },
    /// No file: little-endian F32.
    Made(Vec<u8>),
}

/// What is done to a tensor of the files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    AsItIs,
    /// A vector: F32, and one more.
    PlusOne,
    /// Rows of each of so many heads: from pairs that are half a head apart to neighbours.
    Neighbours(usize),
    Transposed,
}

/// What is collected while names are read.
struct Found {
    place: Place,
    index: usize,
}

impl Weights {
    /// Names the tensors of some files, and adds those that follow from the configuration.
    ///
    /// # Errors
    /// A type or shape that no tensor of the network has; two tensors of one name; a head or biases
    /// that are missing, or there against the configuration.
    pub(super) fn new(
        files: MappedTensors,
        head: &mut Head,
        shape: &Shape,
    ) -> Result<(Weights, Vec<String>), Error> {
        let (found, unread) = find(&files, head, shape.is_tied);
        let mut weights = Weights {
            files,
            tensors: Vec::new(),
            by_name: HashMap::new(),
        };
        let mut made = std::mem::take(&mut head.made);
        for Found { place, index } in found {
            // Divisors of a rope stand in front of the layers.
            if place.order.0 > 0 {
                weights.add_made(&mut made)?;
            }
            weights.add(place, index, shape)?;
        }
        weights.add_made(&mut made)?;
        weights.check(head.arch, shape)?;
        Ok((weights, unread))
    }

    fn add_made(&mut self, made: &mut Vec<(&'static str, Vec<f32>)>) -> Result<(), Error> {
        for (name, values) in std::mem::take(made) {
            self.push(Tensor {
                name: name.to_owned(),
                dims: vec![values.len() as u64],
                ty: TensorType::F32,
                data: Data::Made(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            })?;
        }
        Ok(())
    }

    fn add(&mut self, place: Place, index: usize, shape: &Shape) -> Result<(), Error> {
        let info = &self.files.tensors()[index];
        let refuse = |problem: String| bad(self.files.file_of(index), &info.name, problem);
        let from = match info.dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::BF16,
            other => return Err(refuse(format!("type {other}; expected BF16, F16 or F32"))),
        };
        let (dims, change) = arrange(info, &place, shape).map_err(refuse)?;
        let is_vector = dims.len() == 1;
        let ty = match (is_vector, from) {
            (true, _) | (_, Format::F32) => TensorType::F32,
            (_, Format::F16) => TensorType::F16,
            _ => TensorType::BF16,
        };
        let tensor = Tensor {
            name: place.name,
            dims,
            ty,
            data: Data::Stored {
                index,
                from,
                change,
            },
        };
        self.push(tensor)
    }

    fn push(&mut self, tensor: Tensor) -> Result<(), Error> {
        let at = self.tensors.len();
        if let Some(first) = self.by_name.insert(tensor.name.clone(), at) {
            let (first, second) = (
                self.stored_name(&self.tensors[first]),
                self.stored_name(&tensor),
            );
            let problem = format!(
                "is the same as {}, under another name",
                first.escape_debug()
            );
            return Err(bad(self.files.path(), second, problem));
        }
        self.tensors.push(tensor);
        Ok(())
    }

    fn stored_name<'a>(&'a self, tensor: &'a Tensor) -> &'a str {
        match tensor.data {
            Data::Stored { index, .. } => &self.files.tensors()[index].name,
            Data::Made(_) => &tensor.name,
        }
    }

    /// Holds the head and the biases against what the configuration says of them.
    fn check(&self, arch: &str, shape: &Shape) -> Result<(), Error> {
        let missing = |name: &str, why: String| Err(bad(self.files.path(), name, why));
        if !shape.is_tied && !self.by_name.contains_key("output.weight") {
            let why = "missing, and tie_word_embeddings is false".to_owned();
            return missing("lm_head.weight", why);
        }
        for &(key, says, parts) in &shape.biases {
            for tensor in &self.tensors {
                let Some((layer, kind)) = tensor.name.rsplit_once('.') else {
                    continue;
                };
                let part = layer.rsplit('.').next().unwrap_or_default();
                if !parts.contains(&part) {
                    continue;
                }
                let bias = format!("{layer}.bias");
                if says && kind == "weight" && !self.by_name.contains_key(&bias) {
                    let why = format!("has no bias; {arch} models with {key} as here have one");
                    return missing(self.stored_name(tensor), why);
                }
                if !says && kind == "bias" {
                    let why = format!("a bias, where {key} says that there is none");
                    return missing(self.stored_name(tensor), why);
                }
            }
        }
        Ok(())
    }

    /// Rows of the embedding: the entries of the vocabulary.
    pub(super) fn vocab_size(&self) -> Option<u64> {
        let at = *self.by_name.get("token_embd.weight")?;
        self.tensors[at].dims.get(1).copied()
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        self.files.files()
    }

    pub(super) fn len(&self) -> usize {
        self.tensors.len()
    }

    pub(super) fn tensor(&self, index: usize) -> SourceTensor<'_> {
        let tensor = &self.tensors[index];
        SourceTensor {
            index,
            name: &tensor.name,
            dims: &tensor.dims,
            ty: tensor.ty,
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn in_place(&self, index: usize) -> Option<&[u8]> {
        let tensor = &self.tensors[index];
        match &tensor.data {
            Data::Made(bytes) => Some(bytes),
            Data::Stored {
                index,
                from,
                change: How::AsItIs,
            } if from.ggml_id() == tensor.ty.id() => Some(self.files.bytes(*index)),
            Data::Stored { .. } => None,
        }
    }

    pub(super) fn bytes(&self, index: usize) -> Cow<'_, [u8]> {
        if let Some(bytes) = self.in_place(index) {
            return Cow::Borrowed(bytes);
        }
        let tensor = &self.tensors[index];
        match &tensor.data {
            Data::Made(bytes) => Cow::Borrowed(bytes),
            Data::Stored {
                index,
                from,
                change,
            } => {
                let stored = self.files.bytes(*index);
                let element = from.block_bytes();
                let cols = tensor.dims[0] as usize;
                Cow::Owned(match (tensor.dims.len(), *change) {
                    (1, change) => vector(stored, *from, cols, change),
                    (_, How::Transposed) => transposed(stored, cols, element),
                    (_, How::Neighbours(heads)) => neighbours(stored, heads, cols * element),
                    (_, How::AsItIs | How::PlusOne) => stored.to_vec(),
                })
            }
        }
    }
}

/// The tensors of the network in the order of GGUF files, and the names that nothing knows.
fn find(files: &MappedTensors, head: &mut Head, is_tied: bool) -> (Vec<Found>, Vec<String>) {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for (index, info) in files.tensors().iter().enumerate() {
        match meaning(head.arch, &info.name) {
            // Where both are tied the library takes the embedding, whatever else there is.
            Meaning::Tensor(place) if is_tied && place.name == "output.weight" => {}
            Meaning::Tensor(place) => found.push(Found { place, index }),
            Meaning::Left(_) => {}
            Meaning::Unknown => unread.push(format!("tensor {}", info.name.escape_debug())),
        }
    }
    found.sort_by_key(|found| found.place.order);
    (found, unread)
}

/// The dimensions of a tensor, the contiguous one first, and what is done to it.
fn arrange(info: &SafeTensorInfo, place: &Place, shape: &Shape) -> Result<(Vec<u64>, How), String> {
    let is_vector = place.name.ends_with("_norm.weight") || place.name.ends_with(".bias");
    let expected = if is_vector { 1 } else { 2 };
    if info.shape.len() != expected || info.shape.contains(&0) {
        let found = &info.shape;
        return Err(format!(
            "shape {found:?}; expected {expected} dimensions of at least 1"
        ));
    }
    let mut dims = info.shape.clone();
    if place.change != Change::Transposed {
        dims.reverse();
    }
    let rows = info.shape[0];
    let heads = match place.change {
        Change::Queries => shape.num_heads,
        Change::Keys => shape.num_kv_heads,
        Change::PlusOne => return Ok((dims, How::PlusOne)),
        Change::Transposed if !is_vector => return Ok((dims, How::Transposed)),
        Change::Same | Change::Transposed => return Ok((dims, How::AsItIs)),
    };
    // Two halves a head.
    if !rows.is_multiple_of(2 * heads) {
        let found = &info.shape;
        return Err(format!(
            "shape {found:?}; expected rows of {heads} heads, each of an even number"
        ));
    }
    Ok((dims, How::Neighbours(heads as usize)))
}

/// The row of the file that row `row` is, in heads of `dim` rows each: pairs are half a head apart there.
fn source_row(row: usize, dim: usize) -> usize {
    let (head, within) = (row / dim, row % dim);
    head * dim + (within % 2) * (dim / 2) + within / 2
}

/// Rows in the order of ropes whose pairs are neighbours.
fn neighbours(stored: &[u8], heads: usize, row_bytes: usize) -> Vec<u8> {
    let dim = stored.len() / row_bytes / heads;
    let mut out = vec![0; stored.len()];
    (out.par_chunks_mut(row_bytes).enumerate()).for_each(|(row, out)| {
        out.copy_from_slice(&stored[source_row(row, dim) * row_bytes..][..row_bytes]);
    });
    out
}

/// Rows of `cols` elements, from columns of as many.
fn transposed(stored: &[u8], cols: usize, element: usize) -> Vec<u8> {
    let rows = stored.len() / element / cols;
    let mut out = vec![0; stored.len()];
    (out.par_chunks_mut(cols * element).enumerate()).for_each(|(row, out)| {
        for (col, out) in out.chunks_exact_mut(element).enumerate() {
            out.copy_from_slice(&stored[(col * rows + row) * element..][..element]);
        }
    });
    out
}

/// A vector in F32.
fn vector(stored: &[u8], from: Format, len: usize, change: How) -> Vec<u8> {
    let mut values = vec![0.0; len];
    from.dequantize(stored, &mut values)
        .expect("the file's sizes are those of its shapes");
    let value = |i: usize| match change {
        How::PlusOne => values[i] + 1.0,
        How::Neighbours(heads) => values[source_row(i, len / heads)],
        How::AsItIs | How::Transposed => values[i],
    };
    (0..len).flat_map(|i| value(i).to_le_bytes()).collect()
}

fn bad(file: &Path, tensor: &str, problem: String) -> Error {
    Error::Tensor {
        file: file.to_owned(),
        tensor: tensor.escape_debug().to_string(),
        problem,
    }
}
