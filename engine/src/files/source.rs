//! One interface over the containers that weights come from.
//!
//! A plan names parts of tensors of a source; whoever reads weights asks the source for bytes, and
//! does not know what kind of file they lie in, nor whether they lie there as they are asked for.

use std::borrow::Cow;
use std::path::Path;

use gannet_gguf::{Gguf, Metadata, TensorType};
use gannet_quant::Format;

/// A tensor of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceTensor<'a> {
    /// Its number in the source.
    pub index: usize,
    /// Its name in GGUF files.
    pub name: &'a str,
    /// Elements of each dimension, the contiguous one first.
    pub dims: &'a [u64],
    /// How its elements are stored.
    pub ty: TensorType,
}

impl SourceTensor<'_> {
    /// Block format; `None` for a type that cannot be computed with.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        Format::from_ggml_id(self.ty.id())
    }

    /// The number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// The bytes of its data.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        // Open containers have shapes that their types can have.
        self.ty.tensor_bytes(self.dims).unwrap_or(0)
    }
}

/// A container of tensors, open and checked: sizes of tensors are those of their shapes.
pub trait Source: Send + Sync {
    /// The file, for messages.
    fn path(&self) -> &Path;

    /// What else it says, in the keys of GGUF files.
    fn metadata(&self) -> &Metadata;

    /// What tensor data of a file made of this is aligned to, in bytes.
    fn alignment(&self) -> u64;

    /// The size of all files together.
    fn file_bytes(&self) -> u64;

    /// How many tensors there are.
    fn num_tensors(&self) -> usize;

    /// The tensor of a number below [`num_tensors`](Self::num_tensors).
    fn tensor(&self, index: usize) -> SourceTensor<'_>;

    /// The tensor of a name.
    fn find(&self, name: &str) -> Option<SourceTensor<'_>>;

    /// The bytes of a tensor, rows one after the other, where they lie so in the file.
    fn in_place(&self, index: usize) -> Option<&[u8]>;

    /// The bytes of a tensor, rows one after the other; a copy where they do not lie so.
    fn bytes(&self, index: usize) -> Cow<'_, [u8]>;
}

impl Source for Gguf {
    fn path(&self) -> &Path {
        Gguf::path(self)
    }

    fn metadata(&self) -> &Metadata {
        Gguf::metadata(self)
    }

    fn alignment(&self) -> u64 {
        Gguf::alignment(self)
    }

    fn file_bytes(&self) -> u64 {
        Gguf::file_bytes(self)
    }

    fn num_tensors(&self) -> usize {
        self.tensors().len()
    }

    fn tensor(&self, index: usize) -> SourceTensor<'_> {
        let tensor = &self.tensors()[index];
        SourceTensor {
            index,
            name: &tensor.name,
            dims: &tensor.dims,
            ty: tensor.ty,
        }
    }

    fn find(&self, name: &str) -> Option<SourceTensor<'_>> {
        let tensor = Gguf::tensor(self, name)?;
        let index = (self.tensors().iter()).position(|t| std::ptr::eq(t, tensor))?;
        Some(Source::tensor(self, index))
    }

    fn in_place(&self, index: usize) -> Option<&[u8]> {
        Some(self.data(&self.tensors()[index]))
    }

    fn bytes(&self, index: usize) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.data(&self.tensors()[index]))
    }
}
